//! README's table of promises, filled from what `heronry bench promises --json` printed.
//!
//! Owns: the text between the two markers of README.  Not: the figures and their limits.
//! P1  nothing outside the markers changes; with a marker missing, nothing is written.

use crate::tree::Tree;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::Path;

const BEGIN: &str = "<!-- promises -->";
const END: &str = "<!-- /promises -->";

/// Reads the report in `file` and rewrites the table in README.
pub fn fill(tree: &Tree, file: &Path) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file:?}"))?;
    let report: Value = serde_json::from_str(&text).with_context(|| format!("{file:?}"))?;
    let readme = replace(&tree.read("README.md")?, &table(&report)?)?;
    fs::write(tree.root.join("README.md"), readme)?;
    eprintln!("== promises: README.md has the table of {}", file.display());
    Ok(())
}

/// `readme` with `table` between the markers (P1).
fn replace(readme: &str, table: &str) -> Result<String> {
    let Some((before, rest)) = readme.split_once(BEGIN) else {
        bail!("README.md has no line {BEGIN}");
    };
    let Some((_, after)) = rest.split_once(END) else { bail!("README.md has no line {END}") };
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

fn table(report: &Value) -> Result<String> {
    let rows = report["promises"].as_array().context("the report has no promises")?;
    let mut out = format!(
        "Measured on {} at commit {} with `heronry bench promises`.\n\n\
         | promise | measured | limit | holds |\n|---|---:|---:|---|\n",
        machine(&report["machine"]),
        words(&report["commit"])
    );
    for row in rows {
        let name = row["name"].as_str().context("a promise has no name")?;
        let unit = row["unit"].as_str().unwrap_or_default();
        let holds = if row["holds"].as_bool() == Some(true) { "yes" } else { "no" };
        let bound = if row["bound"] == "least" { "at least" } else { "at most" };
        let (value, limit) = (figure(&row["value"]), figure(&row["limit"]));
        out.push_str(&format!("| {name} | {value} {unit} | {bound} {limit} {unit} | {holds} |\n"));
    }
    for row in report["skipped"].as_array().into_iter().flatten() {
        out.push_str(&format!("\nSkipped: {}: {}\n", words(&row["name"]), words(&row["why"])));
    }
    Ok(out)
}

/// The machine in words: a text as it is, or the fields that bench reports.
fn machine(value: &Value) -> String {
    if value.is_string() {
        return words(value);
    }
    let memory_gib = value["memory_bytes"].as_f64().unwrap_or_default() / (1u64 << 30) as f64;
    format!(
        "{} CPUs of {}, {memory_gib:.0} GiB, Linux {}",
        value["cpu_count"],
        words(&value["cpu"]),
        words(&value["kernel"])
    )
}

/// A text without its quotes.
fn words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A number with two decimals, three below a tenth, and thousands told apart.
fn figure(value: &Value) -> String {
    let Some(number) = value.as_f64() else { return words(value) };
    if number != 0.0 && number.abs() < 0.1 {
        return format!("{number:.3}");
    }
    if number.abs() < 100.0 && number.fract() != 0.0 {
        return format!("{number:.2}");
    }
    let digits = format!("{:.0}", number.abs());
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if number < 0.0 { format!("-{out}") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_only_the_text_between_the_markers_changes() {
        let readme = format!("top\n{BEGIN}\nold\n{END}\nend\n");
        let new = replace(&readme, "new\n").expect("both markers are there");
        assert_eq!(new, format!("top\n{BEGIN}\nnew\n{END}\nend\n"));
        assert!(replace("no markers", "new").is_err());
        assert!(replace(BEGIN, "new").is_err());
    }

    #[test]
    fn figures_are_readable() {
        let shown = |number: f64| figure(&Value::from(number));
        assert_eq!(shown(1234567.4), "1,234,567");
        assert_eq!(shown(0.1234), "0.12");
        assert_eq!(shown(12.0), "12");
    }

    #[test]
    fn a_row_shows_measured_and_limit() {
        let report = serde_json::json!({
            "machine": {"cpu": "EPYC", "cpu_count": 2, "memory_bytes": 8u64 << 30, "kernel": "6"},
            "commit": "abc",
            "promises": [
                {"name": "seal p50", "value": 0.5, "unit": "us", "limit": 1, "bound": "most",
                 "holds": true}
            ],
            "skipped": [{"name": "peers", "why": "no Redis here"}]
        });
        let table = table(&report).expect("a good report");
        assert!(table.starts_with("Measured on 2 CPUs of EPYC, 8 GiB, Linux 6 at commit abc"));
        assert!(table.contains("| seal p50 | 0.50 us | at most 1 us | yes |\n"), "{table}");
        assert!(table.ends_with("\nSkipped: peers: no Redis here\n"), "{table}");
    }
}
