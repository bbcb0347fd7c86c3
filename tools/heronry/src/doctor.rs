//! `heronry doctor`: what this host offers a node, what each lack costs, how to mend it.
//!
//! Owns: how findings look on a terminal, and the exit status.  Not: the probes, which change
//! nothing on the machine (`heronry_numa::doctor`).
//! D1  exit status 1 when something of Heronry does not work here, 0 when it works at a cost.

use crate::dispatch::AnswerIsNo;
use crate::output::{Output, table};
use anyhow::Result;
use heronry_numa::doctor::{self, Finding, Status};
use serde_json::json;

/// Runs all probes and prints what they found.
pub fn run(output: Output) -> Result<()> {
    let findings = doctor::run();
    let worst = doctor::worst(&findings);
    if output.json {
        output.json(&json!({"status": worst, "findings": findings}))?;
    } else {
        output.text(&text(&findings))?;
    }
    if worst == Status::Bad { Err(AnswerIsNo.into()) } else { Ok(()) }
}

/// A table of all findings, then what to do about those that are not good.
fn text(findings: &[Finding]) -> String {
    let head = ["", "what", "found"].map(str::to_owned);
    let row = |finding: &Finding| {
        vec![finding.status.name().to_owned(), finding.name.to_owned(), finding.found.clone()]
    };
    let mut text = table(&head, &findings.iter().map(row).collect::<Vec<_>>());
    for finding in findings.iter().filter(|finding| finding.status != Status::Good) {
        let Finding { name, cost, fix, .. } = finding;
        text.push_str(&format!(
            "\n{} {name}\n  costs: {cost}\n  to do: {fix}\n",
            finding.status.name()
        ));
    }
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    text.push_str(&format!(
        "\n{} good, {} at a cost, {} not working\n",
        count(Status::Good),
        count(Status::Warn),
        count(Status::Bad)
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_good_comes_with_its_cost_and_its_remedy() {
        let finding = |name, status, cost: &str| Finding {
            name,
            status,
            found: "8 MiB".into(),
            cost: cost.into(),
            fix: "ulimit -l unlimited".into(),
        };
        let text = text(&[
            finding("kernel", Status::Good, ""),
            finding("memlock", Status::Warn, "fewer registered buffers"),
        ]);
        assert!(text.contains("warn memlock\n  costs: fewer registered buffers\n  to do: ulimit"));
        assert!(text.ends_with("1 good, 1 at a cost, 0 not working\n"), "{text}");
    }
}
