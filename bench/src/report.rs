//! What a scenario found: figures with their noise, latency curves, machine and commit.
//!
//! Owns: the report, its JSON form and its table.  Not: plotting, comparing.
//! N1  a figure's value is the median of its repeats; lowest and highest stand beside it.
//! N2  a ratio is taken repeat by repeat, each against the peer's neighbouring run, so that a slow
//!     phase of the machine hits both sides.

use crate::machine::{self, Machine};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Version of the JSON form.
pub const REPORT_FORMAT: u32 = 1;
/// Longest latency that is told apart from longer ones.
const LATENCY_NS_MAX: u64 = 100_000_000_000;

/// Percentiles that every curve keeps.
pub const PERCENTILES: [f64; 13] =
    [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99, 99.999, 100.0];

/// Latencies in nanoseconds, three significant digits.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

impl Latency {
    /// Empty.
    pub fn new() -> Latency {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3);
        Latency(histogram.expect("N1: 1 to 100 s at 3 digits is a valid histogram"))
    }

    /// Adds one; longer than 100 s counts as 100 s.
    #[inline]
    pub fn record(&mut self, latency: Duration) {
        self.record_ns(latency.as_nanos().min(u128::from(LATENCY_NS_MAX)) as u64);
    }

    /// Adds one in nanoseconds.
    #[inline]
    pub fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Latency) {
        self.0 += &other.0;
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Nanoseconds at `percentile`; 0 when empty.
    pub fn ns_at(&self, percentile: f64) -> u64 {
        if self.0.is_empty() { 0 } else { self.0.value_at_percentile(percentile) }
    }

    /// Microseconds at `percentile`.
    pub fn us_at(&self, percentile: f64) -> f64 {
        self.ns_at(percentile) as f64 / 1e3
    }

    /// The curve of this histogram.
    pub fn curve(&self, name: impl Into<String>) -> Curve {
        let point =
            |percentile: &f64| Point { percentile: *percentile, ns: self.ns_at(*percentile) };
        let points = PERCENTILES.iter().map(point).collect();
        Curve { name: name.into(), count: self.count(), points }
    }
}

impl Default for Latency {
    fn default() -> Latency {
        Latency::new()
    }
}

/// One point of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// 0 to 100.
    pub percentile: f64,
    /// Latency there.
    pub ns: u64,
}

/// Latency by percentile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// What was timed.
    pub name: String,
    /// How many times.
    pub count: u64,
    /// Ascending percentiles.
    pub points: Vec<Point>,
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Smaller values are better.
    Lower,
    /// Larger values are better.
    Higher,
    /// Neither: a count that describes the run.
    Neither,
}

/// One measured quantity, with its repeats (N1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Path-like name, unique within a report.
    pub name: String,
    /// Unit.
    pub unit: String,
    /// Which way is good.
    pub better: Better,
    /// Median of `repeats`.
    pub value: f64,
    /// Lowest repeat.
    pub min: f64,
    /// Highest repeat.
    pub max: f64,
    /// Every repeat, in order.
    pub repeats: Vec<f64>,
}

impl Figure {
    /// A figure of `repeats`, which is not empty.
    pub fn new(name: &str, unit: &str, better: Better, repeats: Vec<f64>) -> Figure {
        let value = median(&repeats);
        let min = repeats.iter().copied().fold(f64::INFINITY, f64::min);
        let max = repeats.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Figure { name: name.into(), unit: unit.into(), better, value, min, max, repeats }
    }

    /// Half the spread of the repeats against the median: 0.1 is 10 %.
    pub fn noise(&self) -> f64 {
        if self.value == 0.0 { 0.0 } else { (self.max - self.min) / 2.0 / self.value.abs() }
    }
}

/// Middle value; the mean of the two middle ones for an even count; 0 for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (len, mid) if len % 2 == 1 => sorted[mid],
        (_, mid) => f64::midpoint(sorted[mid - 1], sorted[mid]),
    }
}

/// Repeat by repeat, `ours / theirs` (N2).
pub fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(a, b)| if *b == 0.0 { 0.0 } else { a / b }).collect()
}

/// Everything one scenario found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this form.
    pub format: u32,
    /// Scenario name.
    pub scenario: String,
    /// The command that gives it again.
    pub command: String,
    /// The host.
    pub machine: Machine,
    /// The commit.
    pub commit: String,
    /// Measured quantities.
    pub figures: Vec<Figure>,
    /// Latency curves.
    pub curves: Vec<Curve>,
    /// What a reader must know: what was skipped, what was pinned where.
    pub notes: Vec<String>,
}

impl Report {
    /// An empty report about this host.
    pub fn new(scenario: &str) -> Report {
        let command: Vec<String> = std::env::args().skip(1).collect();
        Report {
            format: REPORT_FORMAT,
            scenario: scenario.into(),
            command: format!("heronry {}", command.join(" ")),
            machine: Machine::read(),
            commit: machine::commit(),
            figures: Vec::new(),
            curves: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a figure of several repeats; none are ignored.
    pub fn figure(&mut self, name: &str, unit: &str, better: Better, repeats: Vec<f64>) {
        if !repeats.is_empty() {
            self.figures.push(Figure::new(name, unit, better, repeats));
        }
    }

    /// Adds a figure measured once.
    pub fn single(&mut self, name: &str, unit: &str, better: Better, value: f64) {
        self.figure(name, unit, better, vec![value]);
    }

    /// Adds p50, p99 and p99.9 of one histogram, and its curve.
    pub fn latency(&mut self, name: &str, latency: &Latency) {
        for (label, percentile) in [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)] {
            let us = latency.us_at(percentile);
            self.single(&format!("{name}/{label}"), "us", Better::Lower, us);
        }
        self.curves.push(latency.curve(name));
    }

    /// Adds a remark.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Takes over figures, curves and notes of `other`.
    pub fn absorb(&mut self, other: Report) {
        self.figures.extend(other.figures);
        self.curves.extend(other.curves);
        for note in other.notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }

    /// The value of a figure.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// Machine, commit, table and notes as text.
    pub fn render(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["figure", "median", "low", "high", "unit"]);
        for figure in &self.figures {
            let right = |v: f64| Cell::new(short(v)).set_alignment(CellAlignment::Right);
            let (value, min, max) = (right(figure.value), right(figure.min), right(figure.max));
            table.add_row([Cell::new(&figure.name), value, min, max, Cell::new(&figure.unit)]);
        }
        let mut text =
            format!("{}  commit {}\n{}\n{table}\n", self.scenario, self.commit, self.machine);
        for note in &self.notes {
            text.push_str(note);
            text.push('\n');
        }
        text
    }
}

/// A number with three to four digits, thousands grouped.
pub fn short(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 {
        let digits = format!("{:.0}", size);
        let mut grouped = String::new();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        return if value < 0.0 { format!("-{grouped}") } else { grouped };
    }
    if value == value.trunc() {
        return format!("{value:.0}");
    }
    match size {
        _ if size >= 100.0 => format!("{value:.0}"),
        _ if size >= 10.0 => format!("{value:.1}"),
        _ if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n1_the_value_is_the_median_between_low_and_high() {
        let figure = Figure::new("f", "u", Better::Lower, vec![3.0, 1.0, 2.0]);
        assert_eq!((figure.value, figure.min, figure.max), (2.0, 1.0, 3.0));
        assert_eq!(figure.noise(), 0.5);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn n2_ratios_pair_neighbours() {
        assert_eq!(ratios(&[10.0, 2.0], &[5.0, 1.0]), vec![2.0, 2.0]);
    }

    #[test]
    fn report_survives_its_json_form() {
        let mut report = Report::new("messages");
        let mut latency = Latency::new();
        latency.record(Duration::from_micros(40));
        report.latency("one", &latency);
        report.note("noted");
        let text = serde_json::to_string(&report).expect("serialises");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("reads back"), report);
        assert!(report.render().contains("one/p99"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(1_234_567.8), "1,234,568");
        assert_eq!(short(12.345), "12.3");
        assert_eq!(short(0.9), "0.90");
        assert_eq!(short(0.0), "0");
    }
}
