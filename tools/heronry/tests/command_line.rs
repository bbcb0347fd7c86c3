//! The `heronry` binary as its users run it: exit statuses, texts, JSON, and a node underneath.
//!
//! Owns: one node per test that needs one, on a free port, stopped when the test ends.
//! Not: what agents do (`tests/`); here the question is what the command line makes of it.

use serde_json::Value as Json;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_heronry");

/// A node in a folder of its own.
struct Node {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Node {
    fn start() -> Node {
        let dir = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(BINARY)
            .args(["up", "--port", "0", "--shards", "2", "--set", "shards.arena_bytes=64MiB"])
            .arg("--data")
            .arg(dir.path().join("data"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("the readiness line");
        assert!(line.starts_with("ready: tcp "), "{line:?}");
        let address = line.split(' ').nth(2).expect("an address").to_owned();
        Node { child, address, dir }
    }

    fn run(&self, args: &[&str]) -> Output {
        heronry(&[&["--connect", &self.address], args].concat())
    }

    /// Standard output of a command that must do.
    fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        stdout(&output)
    }

    fn json(&self, args: &[&str]) -> Json {
        let text = self.text(&[args, &["--json"]].concat());
        assert_eq!(text.lines().count(), 1, "O1: one JSON value: {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.interrupt();
        let status = self.child.wait().expect("it can be waited for");
        if !std::thread::panicking() {
            assert_eq!(status.code(), Some(0), "the node ended badly");
            assert!(!self.dir.path().join("data.sock").exists(), "the socket is left over");
        }
    }
}

fn heronry(args: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(args).env_remove("HERONRY_ADDR").env_remove("HERONRY_PASSWORD");
    command.stdin(Stdio::null()).output().expect("the binary starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).expect("written");
    path.display().to_string()
}

#[test]
fn r1_wrong_usage_is_status_2_and_refusals_are_status_1() {
    for args in [
        &["agent", "send", "counter/a"][..],
        &["nonsense"],
        &[],
        &["up", "--port", "x"],
        &["shard"],
    ] {
        assert_eq!(heronry(args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(heronry(&["--help"]).status.code(), Some(0));
    let output = heronry(&["--connect", "127.0.0.1:1", "agent", "info", "counter/a"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("127.0.0.1:1") && said.contains("heronry up"), "K1: {said}");
}

#[test]
fn every_verb_of_an_agent_works_in_text_and_json() {
    let node = Node::start();
    assert_eq!(node.text(&["agent", "create", "notebook/a"]), "1\n");
    node.text(&["agent", "send", "notebook/a", "append one;"]);
    node.text(&["agent", "checkpoint", "notebook/a", "--label", "start"]);
    let branches = node.json(&["agent", "fork", "notebook/a", "--count", "2"]);
    assert_eq!(branches, serde_json::json!(["notebook/a~1", "notebook/a~2"]));
    assert_eq!(
        node.text(&["agent", "fork", "notebook/a", "--as", "x", "--at", "start"]),
        "notebook/a~x\n"
    );
    node.text(&["agent", "send", "notebook/a~1", "append two;"]);
    let ranges = node.json(&["agent", "diff", "notebook/a~1", "1"]);
    assert!(ranges.as_array().is_some_and(|ranges| !ranges.is_empty()), "{ranges}");
    node.text(&["agent", "commit", "notebook/a~1"]);
    assert_eq!(node.text(&["agent", "send", "notebook/a", "read"]), "one;two;\n");
    node.text(&["agent", "rollback", "notebook/a", "--to", "start"]);
    assert_eq!(node.json(&["agent", "send", "notebook/a", "read"]), "one;");
    node.text(&["agent", "write", "notebook/a", "200", "bytes"]);
    let read = ["agent", "read", "notebook/a", "--offset", "200", "--len", "5", "--raw"];
    assert_eq!(node.text(&read), "bytes");
    let versions = node.json(&["agent", "versions", "notebook/a"]);
    let heads: Vec<&Json> = versions.as_array().into_iter().flatten().collect();
    assert_eq!(heads.iter().filter(|version| version["head"] == true).count(), 1, "{versions}");
    assert_eq!(node.json(&["agent", "info", "notebook/a"])["key"], "notebook/a");
    node.text(&["agent", "suspend", "notebook/a"]);
    assert_eq!(node.json(&["agent", "info", "notebook/a"])["state"], "suspended");
    node.text(&["agent", "resume", "notebook/a"]);
    node.text(&["agent", "send", "counter/b", "5", "--id", "once"]);
    assert_eq!(node.text(&["agent", "send", "counter/b", "5", "--id", "once"]), "5\n");
    assert_eq!(node.text(&["agent", "list"]), "counter/b\nnotebook/a\n");
    assert_eq!(
        node.json(&["agent", "list", "--match", "count*"]),
        serde_json::json!(["counter/b"])
    );
    node.text(&["agent", "terminate", "counter/b"]);
    let output = node.run(&["agent", "info", "counter/b"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("NOAGENT "), "{}", stderr(&output));
}

#[test]
fn payloads_come_from_standard_input_as_they_are() {
    let node = Node::start();
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let mut child = Command::new(BINARY)
        .args(["--connect", &node.address, "agent", "send", "echo/a", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    child.stdin.take().expect("piped").write_all(&bytes).expect("written");
    let output = child.wait_with_output().expect("it ends");
    let reply: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(reply["hex"].as_str().map(str::len), Some(200_000));
}

#[test]
fn payloads_may_begin_with_a_hyphen_and_options_stay_options() {
    let node = Node::start();
    assert_eq!(node.text(&["agent", "send", "counter/a", "-5"]), "-5\n");
    assert_eq!(node.json(&["agent", "send", "counter/a", "-1", "--id", "x"]), "-6");
    assert_eq!(node.json(&["agent", "send", "counter/a", "-1", "--id", "x"]), "-6");
    node.text(&["agent", "write", "counter/a", "0", "-x"]);
    assert_eq!(node.text(&["agent", "read", "counter/a", "--len", "2", "--raw"]), "-x");
}

#[test]
fn g1_a_list_is_whole_or_says_what_it_leaves_out() {
    let node = Node::start();
    node.text(&["agent", "create", "echo/a"]);
    node.text(&["agent", "fork", "echo/a", "--count", "1500"]);
    assert_eq!(node.text(&["agent", "list"]).lines().count(), 1501);
    assert_eq!(stderr(&node.run(&["agent", "list", "--limit", "1501"])), "");
    let output = node.run(&["agent", "list", "--limit", "7"]);
    assert_eq!(stdout(&output).lines().count(), 7);
    assert_eq!(stderr(&output), "7 shown, more exist: --limit 0 lists all\n");
}

#[test]
fn d1_errors_are_json_when_json_is_asked_for() {
    let error = |output: Output, status| {
        assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
        assert_eq!(stdout(&output), "");
        let json: Json = serde_json::from_str(&stderr(&output)).expect("O3: JSON");
        json["error"].clone()
    };
    let node = Node::start();
    let refused = error(node.run(&["--json", "agent", "send", "nonsense/a", "1"]), 1);
    assert_eq!(refused["code"], "NOTEMPLATE");
    assert!(refused["text"].as_str().is_some_and(|text| text.contains("nonsense")), "{refused}");
    let unreached = error(heronry(&["--connect", "127.0.0.1:1", "--json", "shard", "list"]), 1);
    assert_eq!(unreached["code"], Json::Null);
    let wrong = error(heronry(&["--json", "agent", "send", "counter/a"]), 2);
    assert!(wrong["text"].as_str().is_some_and(|text| text.contains("PAYLOAD")), "{wrong}");
}

#[test]
fn o2_an_output_that_takes_nothing_is_named() {
    for args in [&["man"][..], &["config", "show"], &["--help"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
        let mut command = Command::new(BINARY);
        let output = command.args(args).stdout(full).output().expect("the binary starts");
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = stderr(&output);
        let expected = "error: cannot write to standard output: No space left on device";
        assert!(said.starts_with(expected), "{args:?}: {said}");
        assert_eq!(said.matches("No space").count(), 1, "{said}");
    }
}

#[test]
fn the_environment_names_the_node_and_is_no_part_of_the_usage() {
    let with = |address: &str, args: &[&str]| {
        let mut command = Command::new(BINARY);
        command.env("HERONRY_ADDR", address).args(args).output().expect("the binary starts")
    };
    let node = Node::start();
    assert_eq!(stdout(&with(&node.address, &["agent", "send", "counter/a", "1"])), "1\n");
    let output = with(&node.address, &["agent", "send", "counter/a"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!stderr(&output).contains("--connect"), "{}", stderr(&output));
    let output = with("nowhere", &["shard", "list"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("HERONRY_ADDR"), "{}", stderr(&output));
}

#[test]
fn the_node_is_shown_in_text_and_json() {
    let node = Node::start();
    for n in 0..20 {
        node.text(&["agent", "send", &format!("counter/{n}"), "1"]);
    }
    for args in [&["shard", "list"][..], &["top", "--once"], &["agent", "hottest"]] {
        assert!(node.text(args).lines().count() >= 2, "{args:?}");
        node.json(args);
    }
    let top = node.json(&["top", "--once"]);
    assert_eq!(top["shards"].as_array().map(Vec::len), Some(2));
    let agents = |n: usize| top["shards"][n]["counters"]["agents"].as_u64().unwrap_or(0);
    assert_eq!(agents(0) + agents(1), 20);
    assert!(node.text(&["template", "list"]).contains("counter"));
    let output = node.run(&["top"]);
    assert_eq!(output.status.code(), Some(1), "no terminal: {}", stdout(&output));
    assert!(stderr(&output).contains("--once"), "{}", stderr(&output));
}

#[test]
fn a_port_or_folder_in_use_is_refused_with_the_remedy() {
    let node = Node::start();
    let port = node.address.rsplit(':').next().expect("a port");
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data").display().to_string();
    let output = heronry(&["up", "--port", port, "--data", &data]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(port), "{}", stderr(&output));
    let data = node.dir.path().join("data").display().to_string();
    let output = heronry(&["up", "--port", "0", "--data", &data]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--data"), "{}", stderr(&output));
    assert_eq!(node.text(&["agent", "send", "echo/a", "still here"]), "still here\n");
}

#[test]
fn the_demo_ends_with_its_table() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data").display().to_string();
    let output = heronry(&["up", "--demo", "--port", "0", "--data", &data, "--shards", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.contains("rollback") && said.contains("verified"), "{said}");
}

#[test]
fn f1_f2_configs_are_checked_compiled_shown_and_compared() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = write(&dir.path().join("a.toml"), "[agents]\nhistory = 9\n");
    let bad = write(&dir.path().join("bad.toml"), "[node]\nport = 99999\nbnid = \"x\"\n");
    let binary = dir.path().join("a.bin").display().to_string();
    let output = heronry(&["config", "check", &bad]);
    assert_eq!(output.status.code(), Some(1));
    let said = stdout(&output);
    assert!(said.contains("bad.toml:2:") && said.contains("bad.toml:3:"), "F1: {said}");
    let refused = heronry(&["config", "compile", &bad, &binary]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(!Path::new(&binary).exists(), "F2: nothing is written for a bad text");
    assert_eq!(heronry(&["config", "compile", &text, &binary]).status.code(), Some(0));
    let shown = heronry(&["config", "show", &binary, "--json"]);
    let rows: Json = serde_json::from_slice(&shown.stdout).expect("JSON");
    let history = |row: &&Json| row["key"] == "agents.history";
    let row = rows.as_array().and_then(|rows| rows.iter().find(history).cloned());
    assert_eq!(row.map(|row| row["value"].clone()), Some("9".into()));
    assert!(stdout(&heronry(&["config", "diff", &text, &binary])).contains("no differences"));
    std::fs::write(&text, "[agents]\nhistory = 8\n").expect("written");
    assert!(stdout(&heronry(&["config", "diff", &text, &binary])).contains("agents.history"));
}

#[test]
fn completions_and_man_pages_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&heronry(&["completions", shell])).contains("rollback"), "{shell}");
    }
    assert!(stdout(&heronry(&["man"])).contains(".TH heronry 1"));
    let dir = tempfile::tempdir().expect("a folder");
    let output = heronry(&["man", &dir.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(dir.path().join("heronry-agent-fork.1").exists());
}
