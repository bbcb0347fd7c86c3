//! `mischief`: a behaviour that fails in every way there is, for tests.
//!
//! Owns: image byte 0, a mark that only good turns leave.  Not: anything a node deploys.
//! F1  every turn has written before it fails, so that an undo that is left out shows.

use bytes::Bytes;
use heronry_engine::limits::EFFECT_COUNT_MAX;
use heronry_engine::{AgentKey, Behaviour, Fault, Turn};

/// What a panic on purpose says; a test's panic hook keeps it quiet.
pub const ON_PURPOSE: &str = "mischief on purpose";

/// The behaviour of `mischief` agents.
#[derive(Debug)]
pub struct Mischief;

impl Behaviour for Mischief {
    fn name(&self) -> &str {
        "mischief"
    }

    fn summary(&self) -> &str {
        "mark BYTE, panic, fail, huge, spray, boast KEY"
    }

    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        let text = String::from_utf8_lossy(message);
        let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let mut before = [0];
        turn.read(0, &mut before);
        // Whatever comes of the turn, it had begun to write.
        turn.write(0, &[before[0].wrapping_add(101)])?;
        turn.write(9_000, b"half done")?;
        turn.reply("half done");
        match verb {
            "mark" => {
                turn.resize(1)?;
                turn.write(0, rest.as_bytes().get(..1).unwrap_or(b"?"))?;
                turn.reply(before.to_vec());
                Ok(())
            }
            "panic" => panic!("{ON_PURPOSE}"),
            "huge" => {
                turn.reply(vec![0; 1 << 20]);
                Ok(())
            }
            "spray" => {
                for _ in 0..=EFFECT_COUNT_MAX {
                    turn.send(key(rest)?, "1");
                }
                Ok(())
            }
            "boast" => {
                turn.send(key(rest)?, "1");
                turn.call(key(rest)?, "1");
                Err(Fault::refused("boasted, and failed"))
            }
            _ => Err(Fault::refused("failed")),
        }
    }
}

fn key(text: &str) -> Result<AgentKey, Fault> {
    text.parse().map_err(|bad| Fault::refused(format!("{bad}")))
}

/// The templates of a node under test: those that every node has, and this one.
pub fn templates() -> Vec<heronry_engine::Native> {
    let mut templates = heronry_engine::template::built_in();
    templates.push(&Mischief);
    templates
}
