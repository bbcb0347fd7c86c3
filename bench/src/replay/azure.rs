//! Azure LLM traces: arrivals with token counts drive agents chosen by a Zipf law.
//!
//! Owns: the choice of agents (seeded), the text of a turn.  Not: driving, reading back.
//! Z1  one row is one turn: the agent appends 4 bytes for every context and generated token.
//! Z2  an agent's text is its rows' texts in order, a function of trace and seed alone.

use super::script::{Script, TraceError, Turn};
use crate::wire;

/// Bytes of text for one token, as English text has.
const TOKEN_BYTES: usize = 4;
/// Where a notebook's appended text begins.
const TEXT_START: usize = 64 << 10;
/// Longest text of one turn, well below the largest payload.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// How agents are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Zipf {
    /// Agents per pass.
    pub agent_count: usize,
    /// Exponent: agent n is chosen in proportion to `n^-exponent`.
    pub exponent: f64,
    /// Seed of the choice.
    pub seed: u64,
}

/// Ranks drawn by a Zipf law, the same for the same seed.
#[derive(Debug)]
pub struct Ranks {
    /// Sums of the weights up to each rank.
    weights: Vec<f64>,
    random: fastrand::Rng,
}

impl Ranks {
    /// Draws as `zipf` says.
    pub fn new(zipf: &Zipf) -> Ranks {
        Ranks { weights: cumulative(zipf), random: fastrand::Rng::with_seed(zipf.seed) }
    }

    /// The next rank, from 0.
    pub fn pick(&mut self) -> usize {
        let pick = self.random.f64() * self.weights.last().copied().unwrap_or(1.0);
        self.weights.partition_point(|sum| *sum < pick).min(self.weights.len().saturating_sub(1))
    }
}

/// The trace as appends.
#[derive(Debug)]
pub struct Azure {
    /// Text length of each row of one pass.
    texts_bytes: Vec<usize>,
    /// Per turn over all passes: the agent.
    chosen: Vec<u32>,
    /// Per agent over all passes: its turns.
    rows: Vec<Vec<u32>>,
    /// Agents that got any turn.
    used: Vec<u32>,
    agent_count: usize,
    turns: Vec<Turn>,
}

impl Azure {
    /// Reads `TIMESTAMP,ContextTokens,GeneratedTokens` with its header line.
    pub fn parse(text: &str, repeat_count: usize, zipf: Zipf) -> Result<Azure, TraceError> {
        let mut texts_bytes = Vec::new();
        let mut arrivals_ns = Vec::new();
        for (at, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.is_empty()) {
            let (arrival_ns, tokens) = row(line).map_err(|what| TraceError::Record {
                record: at + 1,
                format: "azure",
                what,
            })?;
            arrivals_ns.push(arrival_ns);
            texts_bytes.push((tokens * TOKEN_BYTES).clamp(1, TEXT_BYTES_MAX));
        }
        let Some(first_ns) = arrivals_ns.first().copied() else { return Err(TraceError::Empty) };
        arrivals_ns.iter_mut().for_each(|at| *at = at.saturating_sub(first_ns));
        let span_ns = arrivals_ns.last().map_or(0, |last| last + 1_000_000);
        let mut ranks = Ranks::new(&zipf);
        let turn_count = texts_bytes.len() * repeat_count;
        let mut chosen = Vec::with_capacity(turn_count);
        let mut rows = vec![Vec::new(); zipf.agent_count * repeat_count];
        let mut turns = Vec::with_capacity(turn_count);
        for turn in 0..turn_count {
            let (pass, row) = (turn / texts_bytes.len(), turn % texts_bytes.len());
            let agent = (pass * zipf.agent_count + ranks.pick()) as u32;
            chosen.push(agent);
            rows[agent as usize].push(turn as u32);
            let arrival_ns = arrivals_ns[row] + pass as u64 * span_ns;
            turns.push(Turn { family: agent, arrival_ns, stage_count: 1 });
        }
        let used = (0..rows.len()).filter(|agent| !rows[*agent].is_empty());
        let used = used.map(|agent| agent as u32).collect();
        Ok(Azure { texts_bytes, chosen, rows, used, agent_count: zipf.agent_count, turns })
    }

    fn key(&self, agent: usize) -> String {
        format!("notebook/az{}-{}", agent / self.agent_count, agent % self.agent_count)
    }

    fn text_bytes(&self, turn: usize) -> usize {
        self.texts_bytes[turn % self.texts_bytes.len()]
    }
}

impl Script for Azure {
    fn turns(&self) -> &[Turn] {
        &self.turns
    }

    fn family_count(&self) -> u32 {
        self.rows.len() as u32
    }

    fn encode(&mut self, turn_idx: usize, _stage: u8, out: &mut Vec<u8>) -> u32 {
        let key = self.key(self.chosen[turn_idx] as usize);
        let len_bytes = self.text_bytes(turn_idx);
        wire::head(out, 3);
        wire::bulk(out, b"AGENT.SEND");
        wire::bulk(out, key.as_bytes());
        wire::bulk_with(out, "append ".len() + len_bytes, |out| {
            out.extend_from_slice(b"append ");
            fill(turn_idx, len_bytes, out);
        });
        1
    }

    fn replied(&mut self, _turn_idx: usize, _stage: u8, _nth: u32, _reply: &[u8]) {}

    fn agent_count(&self) -> usize {
        self.used.len()
    }

    fn fork_count(&self) -> usize {
        0
    }

    fn image(&self, agent_idx: usize, out: &mut Vec<u8>) -> String {
        let agent = self.used[agent_idx] as usize;
        let rows = &self.rows[agent];
        let len: usize = rows.iter().map(|turn| self.text_bytes(*turn as usize)).sum();
        notebook_head(len, out);
        rows.iter().for_each(|turn| fill(*turn as usize, self.text_bytes(*turn as usize), out));
        self.key(agent)
    }
}

/// Appends what a notebook holds before its text: the length, and empty slots.
pub(super) fn notebook_head(text_bytes: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&(text_bytes as u64).to_le_bytes());
    out.resize(start + TEXT_START, 0);
}

/// Appends the text of a turn: its number, repeated as letters.
fn fill(turn: usize, len_bytes: usize, out: &mut Vec<u8>) {
    let mut word = (turn as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let end = out.len() + len_bytes;
    while out.len() < end {
        word = word.wrapping_add(0x2545_f491_4f6c_dd1d);
        let letters = ((word >> 3) & 0x0f0f_0f0f_0f0f_0f0f) | 0x6060_6060_6060_6060;
        let bytes = letters.to_le_bytes();
        let room = (end - out.len()).min(bytes.len());
        out.extend_from_slice(&bytes[..room]);
    }
}

fn cumulative(zipf: &Zipf) -> Vec<f64> {
    let mut sum = 0.0;
    let weight = |rank: usize| {
        sum += (rank as f64).powf(-zipf.exponent);
        sum
    };
    (1..=zipf.agent_count).map(weight).collect()
}

fn row(line: &str) -> Result<(u64, usize), &'static str> {
    let mut fields = line.trim().split(',');
    let at = fields.next().and_then(time_ns).ok_or("TIMESTAMP is no date and time")?;
    let mut tokens = |what| fields.next().and_then(|text| text.parse::<usize>().ok()).ok_or(what);
    let context = tokens("ContextTokens is no number")?;
    let generated = tokens("GeneratedTokens is no number")?;
    Ok((at, context.saturating_add(generated)))
}

/// `2023-11-16 18:17:03.9799600` in nanoseconds since a fixed day.
fn time_ns(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(' ')?;
    let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    // Days since 0000-03-01 in the Gregorian calendar; months count from March.
    let (year, month) =
        if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    // Days before the year 2000 are cut off, so that nanoseconds fit.
    let days = days.checked_sub(730_000)?;
    let mut time = time.split(':');
    let (hour, minute) = (time.next()?.parse::<u64>().ok()?, time.next()?.parse::<u64>().ok()?);
    let second = time.next()?;
    let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second.parse::<u64>().ok()?;
    Some(seconds * 1_000_000_000 + digits.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
        2023-11-16 23:59:59.9000000,100,10\n\
        2023-11-17 00:00:00.1500000,7,0\n\
        2023-11-17 00:00:01.0000000,30,5\n";
    const ZIPF: Zipf = Zipf { agent_count: 3, exponent: 1.0, seed: 1 };

    #[test]
    fn arrivals_count_from_the_first_across_midnight() {
        let script = Azure::parse(SAMPLE, 2, ZIPF).expect("a trace");
        let at: Vec<u64> = script.turns().iter().map(|turn| turn.arrival_ns / 1_000_000).collect();
        assert_eq!(at, [0, 250, 1100, 1101, 1351, 2201]);
    }

    #[test]
    fn z2_images_are_the_appends_in_order_and_the_same_for_the_same_seed() {
        let mut script = Azure::parse(SAMPLE, 50, ZIPF).expect("a trace");
        let mut texts: Vec<Vec<u8>> = vec![Vec::new(); 150];
        for turn in 0..150 {
            let mut out = Vec::new();
            assert_eq!(script.encode(turn, 0, &mut out), 1);
            let parts = wire::elements(&out);
            let text = wire::text(parts[2]).expect("a payload");
            texts[script.chosen[turn] as usize].extend_from_slice(&text["append ".len()..]);
        }
        texts.retain(|text| !text.is_empty());
        assert_eq!(texts.len(), script.agent_count());
        for (agent, text) in texts.iter().enumerate() {
            let mut image = Vec::new();
            script.image(agent, &mut image);
            assert_eq!(&image[TEXT_START..], text);
            assert_eq!(image[..8], (text.len() as u64).to_le_bytes());
        }
        assert_eq!(Azure::parse(SAMPLE, 50, ZIPF).expect("a trace").chosen, script.chosen);
    }

    #[test]
    fn zipf_prefers_low_ranks() {
        let weights = cumulative(&Zipf { agent_count: 100, exponent: 1.0, seed: 0 });
        assert!(weights[0] / weights[99] > 0.19);
    }

    #[test]
    fn a_bad_row_is_named() {
        let bad = "header\n2023-11-16 10:00:00.5,x,1\n";
        let error = Azure::parse(bad, 1, ZIPF).expect_err("no number");
        assert!(error.to_string().contains("ContextTokens"), "{error}");
    }
}
