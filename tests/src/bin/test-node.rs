//! `heronry` with two more templates, which behave badly on purpose.
//!
//! Owns: the templates `fragile` and `slow`.  Not: anything of the node, which is the real one,
//! put together by the same library as the `heronry` binary.

use bytes::Bytes;
use heronry_engine::{Behaviour, Fault, Turn};
use heronry_tests::node::NO_URING;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::process::ExitCode;
use std::time::Duration;

/// `panic` writes into its image and panics; `die` ends its whole process; `get` reads.
struct Fragile;

impl Behaviour for Fragile {
    fn name(&self) -> &str {
        "fragile"
    }

    fn summary(&self) -> &str {
        "keeps its last message; `panic` panics after keeping it, `die` aborts the process"
    }

    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        if &message[..] == b"get" {
            let mut kept = vec![0; turn.image_len() as usize];
            turn.read(0, &mut kept);
            turn.reply(kept);
            return Ok(());
        }
        turn.resize(0)?;
        turn.write(0, message)?;
        match &message[..] {
            b"panic" => panic!("asked to"),
            b"die" => std::process::abort(),
            _ => {
                turn.reply("kept");
                Ok(())
            }
        }
    }
}

/// Blocks its shard for as many milliseconds as the message says.
struct Slow;

impl Behaviour for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn summary(&self) -> &str {
        "`N` blocks its shard for N milliseconds"
    }

    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        let ms = std::str::from_utf8(message).ok().and_then(|text| text.parse().ok());
        std::thread::sleep(Duration::from_millis(ms.unwrap_or(0)));
        turn.reply("done");
        Ok(())
    }
}

/// The kernel refuses io_uring from here on, to the shards too, as where it is switched off.
fn give_up_io_uring() -> anyhow::Result<()> {
    let rules = [(libc::SYS_io_uring_setup, vec![])].into_iter().collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64)?;
    Ok(seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?)
}

fn main() -> ExitCode {
    if std::env::var_os(NO_URING).is_some()
        && let Err(error) = give_up_io_uring()
    {
        eprintln!("cannot give up io_uring: {error}");
        return ExitCode::FAILURE;
    }
    heronry::node::add_templates(&[&Fragile, &Slow]);
    heronry::run(std::env::args_os())
}
