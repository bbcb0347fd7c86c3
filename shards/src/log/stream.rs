//! A segment read from its start on, some pieces ahead of who looks at it.
//!
//! Owns: reads at a start, their order, the bytes between reading and looking.  Not: batches
//! (`scan.rs`), reads of a running shard (`read.rs`).
//! P1  pieces come into the stream in their order; it is not looked at after an error.
//! P2  a stream is closed once nothing of it is on its way: pieces are known by their numbers only.

use super::{LogFiles, adopt};
use crate::connection::Mark;
use crate::driver::{Completion, Done, Driver, Handle, Op};
use heronry_engine::Nanos;
use std::collections::VecDeque;
use std::io;

/// Bytes of one read: what the cache of a core holds well.
const PIECE_BYTES: u64 = 256 << 10;
/// Pieces that are read ahead: few, so that they stay in that cache.
const AHEAD_MAX: usize = 3;
/// How long to wait for a completion before looking at the clock.
const PARK: Nanos = Nanos::from_ms(50);

/// The stream.
pub(super) struct Stream {
    file: Handle,
    len_bytes: u64,
    /// The first byte that was not asked for.
    asked: u64,
    /// Pieces from where it stands on: those that are here, then those on their way.
    pieces: VecDeque<Piece>,
    /// The number of the first of them.
    first: u32,
    /// Where in the first of them it stands.
    begins: usize,
    /// Where in the segment that is.
    at: u64,
    /// Bytes of several pieces, when they are wanted as one.
    joined: Vec<u8>,
    failed: bool,
}

enum Piece {
    OnItsWay { len_bytes: u32 },
    Here(Vec<u8>),
}

impl Stream {
    /// Stands at the start of a segment.
    pub(super) fn open<D: Driver>(
        files: &mut dyn LogFiles,
        segment: u32,
        driver: &mut D,
    ) -> io::Result<Stream> {
        let len_bytes = files.written_bytes(segment)?;
        let file = adopt(files.open(segment)?, driver);
        let (pieces, joined) = (VecDeque::with_capacity(AHEAD_MAX), Vec::new());
        let (asked, first, begins, at, failed) = (0, 0, 0, 0, false);
        Ok(Stream { file, len_bytes, asked, pieces, first, begins, at, joined, failed })
    }

    /// Where it stands.
    pub(super) fn at(&self) -> u32 {
        self.at as u32
    }

    /// The next `wanted` bytes and perhaps more, or all that are left.
    pub(super) async fn peek<D: Driver>(
        &mut self,
        wanted: usize,
        driver: &mut D,
    ) -> io::Result<&[u8]> {
        assert!(!self.failed, "P1: a stream was looked at after an error");
        while self.here_bytes() < wanted {
            self.ask(wanted, driver);
            if self.pieces.iter().all(|piece| matches!(piece, Piece::Here(_))) {
                break;
            }
            self.wait(driver).await?;
        }
        let first = match self.pieces.front() {
            Some(Piece::Here(bytes)) => &bytes[self.begins..],
            _ => &[],
        };
        if first.len() >= wanted || first.len() == self.here_bytes() {
            return Ok(first);
        }
        self.joined.clear();
        self.joined.extend_from_slice(first);
        for piece in self.pieces.iter().skip(1) {
            let Piece::Here(bytes) = piece else { break };
            let more = (wanted - self.joined.len()).min(bytes.len());
            self.joined.extend_from_slice(&bytes[..more]);
        }
        Ok(&self.joined)
    }

    /// Goes on by so many bytes, or to the end of what is here.
    pub(super) fn skip(&mut self, len_bytes: usize) {
        let len_bytes = len_bytes.min(self.here_bytes());
        self.at += len_bytes as u64;
        self.begins += len_bytes;
        while let Some(Piece::Here(bytes)) = self.pieces.front()
            && bytes.len() <= self.begins
        {
            self.begins -= bytes.len();
            self.pieces.pop_front();
            self.first += 1;
        }
    }

    /// Bytes from where it stands to the first piece on its way.
    fn here_bytes(&self) -> usize {
        let here = self.pieces.iter().map_while(|piece| match piece {
            Piece::Here(bytes) => Some(bytes.len()),
            _ => None,
        });
        here.sum::<usize>() - self.begins
    }

    /// Closes the file (P2).
    pub(super) async fn close<D: Driver>(mut self, driver: &mut D) {
        while self.pieces.iter().any(|piece| matches!(piece, Piece::OnItsWay { .. })) {
            // What it was read for is known, and whether it failed then.
            let _ = self.wait(driver).await;
        }
        driver.submit(Mark::LogWrite.token(), Op::Close(self.file));
    }

    /// Asks for the pieces of the next `wanted` bytes, and for some ahead.
    fn ask<D: Driver>(&mut self, wanted: usize, driver: &mut D) {
        let until = self.len_bytes.min(self.at + wanted as u64);
        while self.asked < until || (self.asked < self.len_bytes && self.pieces.len() < AHEAD_MAX) {
            let number = self.first + self.pieces.len() as u32;
            let (file, offset) = (self.file, self.asked);
            let len_bytes = PIECE_BYTES.min(self.len_bytes - offset) as u32;
            driver.submit(Mark::LogScan(number).token(), Op::Read { file, offset, len_bytes });
            self.asked += u64::from(len_bytes);
            self.pieces.push_back(Piece::OnItsWay { len_bytes });
        }
    }

    /// Takes what has come, or waits a while for it.
    async fn wait<D: Driver>(&mut self, driver: &mut D) -> io::Result<()> {
        let (mut came, mut failed) = (false, None);
        driver.poll(&mut |completion: Completion<'_>| {
            let Mark::LogScan(number) = Mark::of(completion.token) else { return };
            let at = number.checked_sub(self.first).map(|at| at as usize);
            let piece = at.and_then(|at| self.pieces.get_mut(at));
            let piece = piece.expect("P2: a read of this stream, and not looked at");
            let Piece::OnItsWay { len_bytes } = *piece else {
                panic!("P2: piece {number} came twice");
            };
            let mut bytes = bytes_of(completion.done).unwrap_or_else(|error| {
                failed = Some(error);
                Vec::new()
            });
            // A file that has become shorter: what is behind keeps its place.
            bytes.resize(len_bytes as usize, 0);
            *piece = Piece::Here(bytes);
            came = true;
        });
        if !came {
            let soon = driver.now().after(PARK);
            driver.park(soon).await;
        }
        self.failed |= failed.is_some();
        failed.map_or(Ok(()), Err)
    }
}

/// Bytes of a segment, as many of them as there are.
pub(super) async fn read<D: Driver>(
    files: &mut dyn LogFiles,
    segment: u32,
    offset: u64,
    len_bytes: usize,
    driver: &mut D,
) -> io::Result<Vec<u8>> {
    let len_bytes = files.written_bytes(segment)?.saturating_sub(offset).min(len_bytes as u64);
    if len_bytes == 0 {
        return Ok(Vec::new());
    }
    let file = adopt(files.open(segment)?, driver);
    let len_bytes = len_bytes as u32;
    let read = perform(Op::Read { file, offset, len_bytes }, driver).await;
    driver.submit(Mark::LogWrite.token(), Op::Close(file));
    read
}

/// A read or a write, to its end, while no stream is open (P2); its bytes.
pub(super) async fn perform<D: Driver>(op: Op, driver: &mut D) -> io::Result<Vec<u8>> {
    let token = Mark::LogScan(0).token();
    driver.submit(token, op);
    loop {
        let mut ended = None;
        driver.poll(&mut |completion: Completion<'_>| {
            if completion.token == token {
                ended = Some(bytes_of(completion.done));
            }
        });
        if let Some(ended) = ended {
            return ended;
        }
        let soon = driver.now().after(PARK);
        driver.park(soon).await;
    }
}

fn bytes_of(done: Done<'_>) -> io::Result<Vec<u8>> {
    match done {
        Done::Read(bytes) | Done::Written(bytes) => Ok(bytes),
        Done::Failed { errno } => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(io::Error::other("it was cancelled")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{ShardFuture, World, WorldConfig};
    use heronry_engine::ShardId;
    use std::cell::Cell;

    const BLOCK: usize = 4096;
    const PIECE: usize = PIECE_BYTES as usize;

    async fn write<D: Driver>(files: &mut dyn LogFiles, whole: &[u8], driver: &mut D) {
        let file = adopt(files.create(0, whole.len() as u64).expect("made"), driver);
        let op = Op::WriteDurable { file, offset: 0, bytes: whole.to_vec() };
        perform(op, driver).await.expect("written");
    }

    /// Looks at a segment of random bytes in steps of random lengths, and leaves off anywhere.
    async fn look(world: &World, whole: &[u8]) {
        let (mut driver, mut files) = (world.driver(ShardId(0)), world.log_files(ShardId(0)));
        write(&mut files, whole, &mut driver).await;
        for _ in 0..2 {
            let mut stream = Stream::open(&mut files, 0, &mut driver).expect("opened");
            let mut at = 0;
            while world.random(40) > 0 {
                let longest = [BLOCK, PIECE, 5 * PIECE][world.random(3) as usize];
                let wanted = world.random(longest as u64) as usize + 1;
                let bytes = stream.peek(wanted, &mut driver).await.expect("read");
                let end = whole.len().min(at + bytes.len());
                assert!(bytes == &whole[at..end], "at {at}");
                assert!(bytes.len() >= wanted || at + bytes.len() == whole.len(), "at {at}");
                let skipped = wanted.min(bytes.len());
                stream.skip(skipped);
                at += skipped;
                assert_eq!(stream.at() as usize, at);
            }
            stream.close(&mut driver).await;
            let from = world.random(whole.len() as u64 + 2 * BLOCK as u64) as usize;
            let len = world.random(2 * PIECE as u64) as usize;
            let bytes = read(&mut files, 0, from as u64, len, &mut driver).await.expect("read");
            let (from, end) = (from.min(whole.len()), whole.len().min(from + len));
            assert!(bytes == whole[from..end.max(from)], "{len} bytes at {from}");
        }
    }

    #[test]
    fn p1_p2_a_stream_is_the_segment_whatever_the_order_of_reads() {
        for seed in 0..60 {
            let world = World::with(WorldConfig::calm(seed), 1);
            let blocks = world.random(6 * PIECE as u64 / BLOCK as u64) + 1;
            let whole: Vec<u8> =
                (0..blocks * BLOCK as u64).map(|_| world.random(256) as u8).collect();
            let over = Cell::new(false);
            let life = async {
                look(&world, &whole).await;
                over.set(true);
            };
            let mut shards: Vec<ShardFuture<'_>> = vec![Some(Box::pin(life))];
            assert!(world.run_until(&mut shards, 1_000_000, || over.get()), "seed {seed}");
        }
    }
}
