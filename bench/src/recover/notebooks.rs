//! Agents of 64 KiB of random bytes, each changed a few times; the same as strings on Redis.
//!
//! Owns: their bytes, in our words and in Redis's.  Not: the timeline of a restart (`recover.rs`).
//! K1  an agent's bytes are a function of its number; random ones, which nothing compresses.
//! K2  the timed read holds the whole last change and bytes around it; after the last restart every
//!     byte is compared, untimed.

use super::{RecoverArgs, Restarts, Server};
use crate::context::{self, Context};
use crate::redis::{self, Redis};
use crate::report::{Better, Report, ratios};
use crate::sweep::{self, Swept};
use crate::wire;
use std::path::{Path, PathBuf};

/// Bytes of one agent.
const IMAGE_BYTES: usize = 64 << 10;
/// Changes of each agent after it was filled.
const CHANGE_COUNT: u32 = 3;
/// Bytes of one change.
const CHANGE_BYTES: usize = 100;
/// Bytes of the timed read.
const READ_BYTES: usize = 256;

/// In whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Redis,
}

impl Side {
    fn name(self) -> &'static str {
        if self == Side::Ours { "heronry" } else { "redis" }
    }

    /// Makes the agent with its first bytes; the number of commands.
    fn fill(self, agent: u32, out: &mut Vec<u8>) -> u32 {
        let (key, bytes) = (self.key(agent), filled(agent));
        if self == Side::Redis {
            wire::command(out, &[b"SET", key.as_bytes(), &bytes]);
            return 1;
        }
        wire::command(out, &[b"AGENT.CREATE", key.as_bytes()]);
        let parts: [&[u8]; 6] = [b"AGENT.WRITE", key.as_bytes(), b"0", &bytes, b"ACK", b"durable"];
        wire::command(out, &parts);
        2
    }

    fn change(self, agent: u32, nth: u32, out: &mut Vec<u8>) -> u32 {
        let (key, (offset, bytes)) = (self.key(agent), change_of(agent, nth));
        let offset = offset.to_string();
        let verb: &[u8] = if self == Side::Ours { b"AGENT.WRITE" } else { b"SETRANGE" };
        let parts: [&[u8]; 6] =
            [verb, key.as_bytes(), offset.as_bytes(), &bytes, b"ACK", b"durable"];
        wire::command(out, if self == Side::Ours { &parts } else { &parts[..4] });
        1
    }

    fn read(self, agent: u32, offset: usize, len_bytes: usize, out: &mut Vec<u8>) -> u32 {
        let [verb, key, first, second] = self.read_parts(agent, offset, len_bytes);
        wire::command(out, &[&verb, &key, &first, &second]);
        1
    }

    fn read_parts(self, agent: u32, offset: usize, len_bytes: usize) -> [Vec<u8>; 4] {
        let (verb, second) = match self {
            Side::Ours => ("AGENT.READ", len_bytes),
            Side::Redis => ("GETRANGE", offset + len_bytes - 1),
        };
        [verb.to_owned(), self.key(agent), offset.to_string(), second.to_string()]
            .map(String::into_bytes)
    }

    fn key(self, agent: u32) -> String {
        if self == Side::Ours { format!("notebook/{agent}") } else { format!("value:{agent}") }
    }

    fn start(
        self,
        context: &Context,
        args: &RecoverArgs,
        folder: &Path,
    ) -> anyhow::Result<Option<Server>> {
        if self == Side::Ours {
            return Server::node(context, args, folder).map(Some);
        }
        std::fs::create_dir_all(folder)?;
        let redis = Redis::start_on(context.cores.server, folder)?;
        Ok(redis.map(|redis| Server::Redis(Box::new(redis))))
    }
}

/// One server's part of the scenario.
struct Contestant {
    side: Side,
    folder: PathBuf,
    restarts: Restarts,
}

/// Fills, kills and restarts our node and Redis.
pub fn run(
    context: &Context,
    args: &RecoverArgs,
    home: &Path,
    report: &mut Report,
) -> anyhow::Result<Vec<String>> {
    let mut contestants = Vec::new();
    for side in [Side::Ours, Side::Redis] {
        let folder = home.join(format!("notebooks-{}", side.name()));
        let Some(server) = side.start(context, args, &folder)? else {
            report.note(redis::ABSENT);
            continue;
        };
        fill(side, server, args.notebooks)?;
        contestants.push(Contestant { side, folder, restarts: Restarts::default() });
    }
    let windows: Vec<Window> = (0..args.notebooks).map(window_of).collect();
    let mut lines = Vec::new();
    for repeat in 0..context.repeat {
        for Contestant { side, folder, restarts } in &mut contestants {
            context::check_interrupt()?;
            let Some(server) = side.start(context, args, folder)? else { continue };
            let probe = side.read_parts(0, windows[0].offset, READ_BYTES);
            restarts.first(&server, &probe.each_ref().map(Vec::as_slice))?;
            let swept = read_windows(*side, &server, &windows, repeat as u64)?;
            restarts.all(&server, &swept);
            let what = format!("{} after kill -9, one read each", side.name());
            lines.push(swept.line(&what));
            if repeat + 1 == context.repeat {
                lines.push(read_all(*side, &server, args.notebooks)?);
            }
            server.kill()?;
        }
    }
    for contestant in &contestants {
        contestant.restarts.tell(&format!("notebooks/{}", contestant.side.name()), report);
    }
    if let [ours, theirs] = &contestants[..] {
        let (ours, theirs) = (&ours.restarts, &theirs.restarts);
        for (what, ours, theirs) in [
            ("first-reply", &ours.first_s, &theirs.first_s),
            ("all-answered", &ours.all_s, &theirs.all_s),
        ] {
            let name = format!("notebooks/heronry:redis/{what}");
            report.figure(&name, "x", Better::Lower, ratios(ours, theirs));
        }
    }
    lines.sort();
    lines.dedup();
    Ok(lines)
}

/// Makes and changes all agents, durably, and kills the server.
fn fill(side: Side, server: Server, count: u32) -> anyhow::Result<()> {
    let (addr, flying) = (server.addr(), sweep::CONNECTIONS);
    sweep::sweep(&addr, count, flying, 1, |agent, out| side.fill(agent, out), |_, _| true)?;
    for nth in 0..CHANGE_COUNT {
        let change = |agent, out: &mut Vec<u8>| side.change(agent, nth, out);
        sweep::sweep(&addr, count, flying, u64::from(nth) + 2, change, |_, _| true)?;
    }
    server.kill()
}

fn read_windows(
    side: Side,
    server: &Server,
    windows: &[Window],
    seed: u64,
) -> anyhow::Result<Swept> {
    let window = |agent: u32| &windows[agent as usize];
    let read =
        |agent: u32, out: &mut Vec<u8>| side.read(agent, window(agent).offset, READ_BYTES, out);
    let is_right = |agent: u32, reply: &[u8]| wire::text(reply) == Some(&window(agent).bytes[..]);
    let (count, flying) = (windows.len() as u32, sweep::CONNECTIONS);
    sweep::sweep(&server.addr(), count, flying, seed, read, is_right)
}

/// Compares every byte of every agent (K2).
fn read_all(side: Side, server: &Server, count: u32) -> anyhow::Result<String> {
    let read = |agent: u32, out: &mut Vec<u8>| side.read(agent, 0, IMAGE_BYTES, out);
    let is_right = |agent: u32, reply: &[u8]| wire::text(reply) == Some(&image_of(agent)[..]);
    let swept = sweep::sweep(&server.addr(), count, sweep::CONNECTIONS, 9, read, is_right)?;
    Ok(swept.line(&format!("{} after kill -9, every byte", side.name())))
}

/// What the timed read of an agent must give.
struct Window {
    offset: usize,
    bytes: [u8; READ_BYTES],
}

fn window_of(agent: u32) -> Window {
    let (changed_at, _) = change_of(agent, CHANGE_COUNT - 1);
    let before = (READ_BYTES - CHANGE_BYTES) / 2;
    let offset = changed_at.saturating_sub(before).min(IMAGE_BYTES - READ_BYTES);
    let mut bytes = [0; READ_BYTES];
    bytes.copy_from_slice(&image_of(agent)[offset..offset + READ_BYTES]);
    Window { offset, bytes }
}

/// An agent's first bytes (K1).
fn filled(agent: u32) -> Vec<u8> {
    let mut bytes = vec![0; IMAGE_BYTES];
    fastrand::Rng::with_seed(u64::from(agent)).fill(&mut bytes);
    bytes
}

/// Where an agent's `nth` change goes, and its bytes.
fn change_of(agent: u32, nth: u32) -> (usize, [u8; CHANGE_BYTES]) {
    let mut random = fastrand::Rng::with_seed(u64::from(agent) << 8 | u64::from(nth + 1) << 48);
    let mut bytes = [0; CHANGE_BYTES];
    random.fill(&mut bytes);
    (random.usize(0..=IMAGE_BYTES - CHANGE_BYTES), bytes)
}

/// An agent's bytes after all changes.
fn image_of(agent: u32) -> Vec<u8> {
    let mut image = filled(agent);
    for nth in 0..CHANGE_COUNT {
        let (offset, bytes) = change_of(agent, nth);
        image[offset..offset + CHANGE_BYTES].copy_from_slice(&bytes);
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k1_images_differ_and_hold_every_change() {
        assert_ne!(image_of(1), image_of(2));
        assert_eq!(image_of(3), image_of(3));
        let (offset, bytes) = change_of(3, CHANGE_COUNT - 1);
        assert_eq!(image_of(3)[offset..offset + CHANGE_BYTES], bytes);
        assert_ne!(image_of(3), filled(3));
    }

    #[test]
    fn k2_a_window_holds_the_last_change() {
        for agent in 0..50 {
            let window = window_of(agent);
            let (offset, bytes) = change_of(agent, CHANGE_COUNT - 1);
            assert!(window.offset + READ_BYTES <= IMAGE_BYTES);
            let at = offset - window.offset;
            assert_eq!(window.bytes[at..at + CHANGE_BYTES], bytes);
        }
    }

    #[test]
    fn both_sides_encode_whole_commands_and_say_how_many() {
        for side in [Side::Ours, Side::Redis] {
            let mut out = Vec::new();
            let mut said = side.fill(4, &mut out);
            said += side.change(4, 0, &mut out);
            said += side.read(4, 10, READ_BYTES, &mut out);
            let (mut at, mut count) = (0, 0);
            while at < out.len() {
                at += wire::extent(&out[at..]).expect("RESP").expect("whole").len_bytes;
                count += 1;
            }
            assert_eq!(count, said);
        }
        assert_eq!(Side::Redis.read_parts(4, 10, 5)[3], b"14");
        assert_eq!(Side::Ours.read_parts(4, 10, 5)[3], b"5");
    }
}
