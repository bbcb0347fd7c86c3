//! Fuzz targets for the codec: mutated and random streams, on stable Rust.
//!
//! Owns: the targets, the corpus of streams that once mattered, and how long they run.
//! Each target holds what no input may break: no panic, bounds kept, cuts make no difference.
//! A run takes about a second; `HERONRY_FUZZ_MS=600000 cargo test -p heronry-net --test fuzz_codec`
//! runs each target for that long. A failure prints the seed; `HERONRY_FUZZ_SEED=N` runs it again.

#[path = "fake/node.rs"]
mod node;

use heronry_net::RespConfig;
use heronry_net::resp::{ReplyDecoder, ReplyLimits, RequestDecoder, RequestLimits};
use node::Peer;
use std::time::{Duration, Instant};

/// Rounds of each target when no time is given.
const ROUNDS: u64 = 20_000;

const LIMITS: RequestLimits = RequestLimits {
    arg_count_max: 8,
    bulk_bytes_max: 100_000,
    inline_bytes_max: 64,
    request_bytes_max: 150_000,
};

/// Streams to begin from: well formed ones, and some that once were near a bound.
const CORPUS: &[&[u8]] = &[
    b"*3\r\n$10\r\nAGENT.SEND\r\n$9\r\ncounter/a\r\n$1\r\n1\r\n",
    b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*1\r\n$4\r\nPING\r\n",
    b"PING \"a\\x41\\n\" 'b\\'' c\r\n",
    b"*0\r\n*-1\r\n\r\n\n*1\r\n$0\r\n\r\n",
    b"*2\r\n$4\r\nECHO\r\n$40000\r\n",
    b"*1\r\n$99999\r\n",
    b"*8\r\n$-9223372036854775808\r\n",
    b"*9223372036854775807\r\n",
    b"%2\r\n+a\r\n:1\r\n$-1\r\n_\r\n",
    b"|1\r\n+k\r\n#t\r\n>2\r\n=5\r\ntxt:a\r\n,1.5\r\n",
    b"~1\r\n*2\r\n(123\r\n!5\r\nERR x\r\n",
    b"-LOST agent\r\n:-9223372036854775808\r\n,inf\r\n",
    b"*4\r\n$10\r\nAGENT.LIST\r\n$6\r\nCURSOR\r\n$1\r\n1\r\n$4\r\nLOST\r\n",
    b"*1\r\n$13\r\nAGENT.HOTTEST\r\n*1\r\n$4\r\nQUIT\r\n",
    b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$4\r\nSKIP\r\n",
    b"COMMAND DOCS\r\nCOMMAND GETKEYS agent.send a/b c\r\nINFO all\r\nSHARD.LIST\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n",
];

/// Words that make mutants likelier to get somewhere.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"*3\r\n",
    b"$5\r\n",
    b"$0\r\n\r\n",
    b"*1\r\n",
    b"$40000\r\n",
    b"\"",
    b"'",
    b"\\x",
    b"AGENT.FORK",
    b"COUNT",
    b"@x",
    b"~",
    b"-1",
    b"%1\r\n",
    b"|1\r\n",
    b"_\r\n",
    b"4294967297",
];

/// A stream made of the corpus by `seed`.
fn mutant(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(1..4) {
        bytes.extend_from_slice(CORPUS[rng.usize(..CORPUS.len())]);
        if rng.u8(..) < 40 {
            // Often just as long as the corpus announces.
            let exact = [40_000, 99_999, rng.usize(..60_000)][rng.usize(..3)];
            bytes.extend(std::iter::repeat_n(b'x', exact));
            if rng.bool() {
                bytes.extend_from_slice(b"\r\n");
            }
        }
    }
    for _ in 0..rng.usize(..6) {
        let at = rng.usize(..bytes.len());
        match rng.u8(..5) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes[at] ^= 1 << rng.u8(..8),
            2 => bytes.truncate(at.max(1)),
            3 => {
                let word = WORDS[rng.usize(..WORDS.len())];
                bytes.splice(at..at, word.iter().copied());
            }
            _ => {
                let end = (at + rng.usize(1..9)).min(bytes.len());
                bytes.drain(at..end);
                if bytes.is_empty() {
                    bytes.push(b'*');
                }
            }
        }
    }
    bytes
}

/// Chunks of `bytes`, cut by `rng`.
fn cut<'b>(bytes: &'b [u8], rng: &mut fastrand::Rng) -> Vec<&'b [u8]> {
    let mut chunks = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let most = if rng.bool() { 9 } else { 50_000 };
        let (chunk, tail) = rest.split_at(rng.usize(1..=rest.len().min(most)));
        chunks.push(chunk);
        rest = tail;
    }
    chunks
}

/// Runs `target` on mutants until the rounds or the time are up.
fn fuzz(target: impl Fn(&[u8], &mut fastrand::Rng) + std::panic::RefUnwindSafe) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("HERONRY_FUZZ_SEED") {
        let mut rng = fastrand::Rng::with_seed(seed);
        let bytes = mutant(&mut rng);
        return target(&bytes, &mut rng);
    }
    let time = number("HERONRY_FUZZ_MS").map(Duration::from_millis);
    let started = Instant::now();
    let mut seed = 0;
    while time.map_or(seed < ROUNDS, |time| started.elapsed() < time) {
        let run = || {
            let mut rng = fastrand::Rng::with_seed(seed);
            let bytes = mutant(&mut rng);
            target(&bytes, &mut rng);
        };
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!(
                "replay: HERONRY_FUZZ_SEED={seed} cargo test -p heronry-net --test fuzz_codec"
            );
            std::panic::resume_unwind(panic);
        }
        seed += 1;
    }
}

#[test]
fn requests_cut_differently_are_the_same() {
    let run = |chunks: &[&[u8]]| {
        let mut decoder = RequestDecoder::default();
        let mut seen = Vec::new();
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                match decoder.decode(rest, &LIMITS) {
                    Err(error) => return (seen, Some(error)),
                    Ok(step) => {
                        if step.ready {
                            let args = decoder.args(rest);
                            assert!(args.count() <= LIMITS.arg_count_max as usize);
                            seen.push(args.iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
                        }
                        assert!(step.ready || step.consumed == rest.len());
                        rest = &rest[step.consumed..];
                    }
                }
                assert!(decoder.held_bytes() <= 2 * LIMITS.request_bytes_max, "P2");
            }
        }
        (seen, None)
    };
    fuzz(|bytes, rng| assert_eq!(run(&[bytes]), run(&cut(bytes, rng))));
}

#[test]
fn replies_cut_differently_are_the_same() {
    let run = |chunks: &[&[u8]]| {
        let limits = ReplyLimits { depth_max: 4, line_bytes_max: 64, ..ReplyLimits::default() };
        let mut decoder = ReplyDecoder::new(limits);
        let mut seen = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            loop {
                match decoder.next_reply() {
                    // Values print the same where they are the same, NaN included.
                    Ok(Some(value)) => seen.push(format!("{value:?}")),
                    Ok(None) => break,
                    Err(error) => return (seen, Some(error)),
                }
            }
        }
        (seen, None)
    };
    fuzz(|bytes, rng| assert_eq!(run(&[bytes]), run(&cut(bytes, rng))));
}

#[test]
fn a_session_answers_whatever_comes() {
    fuzz(|bytes, rng| {
        let password = if rng.u8(..) < 30 { "secret" } else { "" };
        let config = RespConfig {
            password: password.to_owned(),
            payload_bytes_max: 100_000,
            pipeline_max: rng.usize(1..5),
            output_bytes_max: 1 << rng.u32(8..20),
            ..RespConfig::default()
        };
        let mut peer = Peer::new(config);
        let mut open = Vec::new();
        let mut output = Vec::new();
        for chunk in cut(bytes, rng) {
            peer.receive(chunk);
            open.append(&mut peer.asks);
            while !open.is_empty() && (peer.paused() || rng.bool()) {
                let ask = open.swap_remove(rng.usize(..open.len()));
                peer.answer(ask.seq, node::answer_to(&ask));
                output.append(&mut peer.output());
                peer.resume();
                open.append(&mut peer.asks);
            }
        }
        while let Some(ask) = open.pop() {
            peer.answer(ask.seq, node::answer_to(&ask));
            output.append(&mut peer.output());
            peer.resume();
            open.append(&mut peer.asks);
        }
        output.append(&mut peer.output());
        let mut decoder = ReplyDecoder::new(ReplyLimits::default());
        decoder.push(&output);
        while decoder.next_reply().expect("every reply is well formed").is_some() {}
        assert!(!decoder.unfinished(), "every reply is whole");
    });
}
