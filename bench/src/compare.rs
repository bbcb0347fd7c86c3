//! `compare`: two reports side by side, with what got worse beyond the noise.
//!
//! Owns: the rule of what counts as a regression.  Not: measuring.
//! X1  a figure regressed only if it is worse by more than the margin and the two ranges of repeats
//!     do not overlap.

use crate::report::{Better, Figure, Report, short};
use anyhow::Context as _;
use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Arguments of `compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// The earlier report (written with --out)
    pub before: PathBuf,
    /// The later report
    pub after: PathBuf,
    /// Percent by which a figure must be worse to count
    #[arg(long, default_value_t = 5.0)]
    pub margin: f64,
}

/// What became of one figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Within margin or noise.
    Same,
    /// Better beyond both.
    Better,
    /// Worse beyond both (X1).
    Worse,
}

/// One figure in both reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Earlier median.
    pub before: f64,
    /// Later median.
    pub after: f64,
    /// Later / earlier.
    pub ratio: f64,
    /// What it means.
    pub verdict: Verdict,
}

/// Compares two reports and prints the table or JSON. Error: something regressed.
pub fn run(args: &CompareArgs, json: bool) -> anyhow::Result<()> {
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    let changes = changes(&before, &after, args.margin / 100.0);
    if json {
        println!("{}", serde_json::to_string_pretty(&changes)?);
    } else {
        print!("{}", render(&before, &after, &changes));
    }
    let worse: Vec<&str> = changes
        .iter()
        .filter(|change| change.verdict == Verdict::Worse)
        .map(|change| change.name.as_str())
        .collect();
    anyhow::ensure!(worse.is_empty(), "worse beyond the noise: {}", worse.join(", "));
    Ok(())
}

/// Every figure that both reports have.
pub fn changes(before: &Report, after: &Report, margin: f64) -> Vec<Change> {
    let mut changes = Vec::new();
    for old in &before.figures {
        let Some(new) = after.figures.iter().find(|figure| figure.name == old.name) else {
            continue;
        };
        changes.push(Change {
            name: old.name.clone(),
            unit: old.unit.clone(),
            before: old.value,
            after: new.value,
            ratio: if old.value == 0.0 { 0.0 } else { new.value / old.value },
            verdict: verdict(old, new, margin),
        });
    }
    changes
}

fn verdict(old: &Figure, new: &Figure, margin: f64) -> Verdict {
    let (grew, shrank) = (
        new.value > old.value * (1.0 + margin) && new.min > old.max,
        new.value < old.value * (1.0 - margin) && new.max < old.min,
    );
    match (old.better, grew, shrank) {
        (Better::Lower, true, _) | (Better::Higher, _, true) => Verdict::Worse,
        (Better::Lower, _, true) | (Better::Higher, true, _) => Verdict::Better,
        _ => Verdict::Same,
    }
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let named = || format!("cannot read the report {}", path.display());
    let text = std::fs::read_to_string(path).with_context(named)?;
    let report: Report = serde_json::from_str(&text).with_context(named)?;
    anyhow::ensure!(
        report.format == crate::report::REPORT_FORMAT,
        "{} has format {}, this program reads {}",
        path.display(),
        report.format,
        crate::report::REPORT_FORMAT
    );
    Ok(report)
}

fn render(before: &Report, after: &Report, changes: &[Change]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["figure", "before", "after", "unit", "ratio", ""]);
    for change in changes {
        let verdict = match change.verdict {
            Verdict::Same => "",
            Verdict::Better => "better",
            Verdict::Worse => "WORSE",
        };
        table.add_row([
            change.name.clone(),
            short(change.before),
            short(change.after),
            change.unit.clone(),
            format!("{:.2}", change.ratio),
            verdict.to_owned(),
        ]);
    }
    let mut text = format!("before: {}  after: {}\n", before.commit, after.commit);
    if before.machine != after.machine {
        text.push_str(&format!(
            "different machines, ratios mean little:\n  {}\n  {}\n",
            before.machine, after.machine
        ));
    }
    text.push_str(&format!("{table}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(better: Better, repeats: [f64; 3]) -> Figure {
        Figure::new("f", "u", better, repeats.to_vec())
    }

    #[test]
    fn x1_worse_needs_margin_and_separate_ranges() {
        let old = figure(Better::Lower, [10.0, 10.5, 11.0]);
        let cases = [
            ([20.0, 21.0, 22.0], Verdict::Worse),
            ([10.9, 21.0, 22.0], Verdict::Same),
            ([11.01, 11.02, 11.03], Verdict::Same),
            ([5.0, 5.1, 5.2], Verdict::Better),
        ];
        for (repeats, expected) in cases {
            let new = figure(Better::Lower, repeats);
            assert_eq!(verdict(&old, &new, 0.05), expected, "{repeats:?}");
        }
        let faster = figure(Better::Higher, [20.0, 20.0, 20.0]);
        let slower = figure(Better::Higher, [10.0, 10.0, 10.0]);
        assert_eq!(verdict(&faster, &slower, 0.05), Verdict::Worse);
    }
}
