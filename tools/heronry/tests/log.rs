//! `heronry log ...` on data folders that a node wrote, whole and damaged.
//!
//! Owns: damage, byte by byte, and what each verb and the next start make of it.
//! Not: the log of a node that runs (`tests/`).

// The engine's tests use another part of it.
#[allow(dead_code)]
#[path = "../../../engine/tests/log/writer.rs"]
mod writer;

use heronry_engine::verb::Verb;
use serde_json::Value as Json;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use writer::{Writer, Written};

const BINARY: &str = env!("CARGO_BIN_EXE_heronry");

/// A data folder, and the node that writes it while there is one.
struct Data {
    folder: tempfile::TempDir,
    options: &'static [&'static str],
    node: Option<(Child, String)>,
}

impl Data {
    /// A folder with a node of one shard.
    fn new(options: &'static [&'static str]) -> Data {
        let folder = tempfile::tempdir().expect("a folder");
        let mut data = Data { folder, options, node: None };
        data.start();
        data
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.path().join("log/0000")
    }

    fn up(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["up", "--port", "0", "--shards", "1", "--set", "shards.arena_bytes=64MiB"]);
        command.args(self.options).arg("--data").arg(self.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    fn start(&mut self) {
        let mut child = self.up().spawn().expect("the binary starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("the readiness line");
        assert!(line.starts_with("ready: tcp "), "{line:?}");
        let address = line.split(' ').nth(2).expect("an address").to_owned();
        self.node = Some((child, address));
    }

    /// What a start says that is expected to fail.
    fn refusal(&self) -> String {
        let mut command = self.up();
        let output = command.stderr(Stdio::piped()).output().expect("the binary starts");
        assert_eq!(output.status.code(), Some(1), "it started: {}", text(&output.stdout));
        text(&output.stderr)
    }

    fn stop(&mut self) {
        let (mut child, _) = self.node.take().expect("it runs");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    }

    fn agent(&self, args: &[&str]) -> String {
        let (_, address) = self.node.as_ref().expect("it runs");
        let output = run(&[&["--connect", address, "agent"], args].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout).trim_end().to_owned()
    }

    /// Adds to a counter, on disk when this returns, in a batch of its own.
    fn add(&self, key: &str) -> String {
        self.agent(&["send", key, "1", "--durable"])
    }

    fn exists(&self, key: &str) -> bool {
        self.agent(&["list"]).lines().any(|line| line == key)
    }

    fn verb(&self, verb: &str, options: &[&str]) -> Output {
        let path = self.path().display().to_string();
        run(&[&["log", verb, "--data", &path], options].concat())
    }

    fn verify(&self) -> (i32, Json) {
        let output = self.verb("verify", &["--json"]);
        let json = serde_json::from_slice(&output.stdout).expect("one JSON value");
        (output.status.code().expect("it ended"), json)
    }

    /// Lines of a dump that have this word and value.
    fn dump(&self, word: &str, value: &str) -> Vec<Json> {
        let lines = text(&self.verb("dump", &["--json"]).stdout);
        let lines = lines.lines().map(|line| serde_json::from_str(line).expect("a JSON value"));
        lines.filter(|line: &Json| value.is_empty() || line[word] == value).collect()
    }

    /// Changes a bit.
    fn flip(&self, segment: u64, at: u64) {
        let path = self.log().join(format!("{segment:010}.log"));
        let mut bytes = fs::read(&path).expect("a segment");
        bytes[at as usize] ^= 0x10;
        fs::write(path, bytes).expect("written");
    }

    /// Changes a bit of a record that a dump names.
    fn damage(&self, record: &Json) {
        let number = |word: &str| record[word].as_u64().expect("a number");
        self.flip(number("segment"), number("offset") + number("bytes") - 1);
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if let Some((mut child, _)) = self.node.take() {
            // Only when the test has failed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(args).env_remove("HERONRY_ADDR").env_remove("HERONRY_PASSWORD");
    command.stdin(Stdio::null()).output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push((path.clone(), fs::read(path).expect("a file"))),
        }
    }
    files.sort();
    files
}

fn touched(verdict: &Json) -> Vec<(String, String)> {
    let touched = verdict["shards"][0]["touched"].as_array().expect("a list").iter();
    let word = |agent: &Json, word: &str| agent[word].as_str().unwrap_or("-").to_owned();
    let mut touched: Vec<_> =
        touched.map(|agent| (word(agent, "key"), word(agent, "fate"))).collect();
    touched.sort();
    touched
}

fn pair(key: &str, fate: &str) -> (String, String) {
    (key.to_owned(), fate.to_owned())
}

#[test]
fn damage_is_found_refused_and_repaired_without_a_change_on_a_wrong_base() {
    let mut data = Data::new(&[]);
    for key in ["counter/a", "counter/a", "counter/a", "counter/b", "counter/gone"] {
        data.add(key);
    }
    data.agent(&["fork", "counter/a", "--as", "x"]);
    data.agent(&["send", "counter/a~x", "10", "--durable"]);
    data.add("counter/late");
    data.add("counter/late");
    data.agent(&["terminate", "counter/gone"]);
    data.add("counter/b");
    // Beside a node that runs, everything but a repair.
    let output = data.verb("verify", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("is running"), "L2: {}", text(&output.stderr));
    let output = data.verb("repair", &["--yes"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("running node"), "L1: {}", text(&output.stderr));
    data.stop();

    let (status, verdict) = data.verify();
    assert_eq!((status, &verdict["good"]), (0, &Json::Bool(true)), "{verdict}");
    assert_eq!(text(&data.verb("repair", &[]).stdout).lines().last(), Some("nothing to repair"));
    let changes = data.dump("record", "change");
    data.damage(&changes[1]);
    let before = files(&data.log());

    let (status, verdict) = data.verify();
    assert_eq!((status, &verdict["good"]), (1, &Json::Bool(false)));
    let damage = &verdict["shards"][0]["damage"][0];
    assert_eq!(damage["batch"], changes[1]["batch"], "{damage}");
    assert_eq!(damage["next"]["batch"].as_u64(), damage["batch"].as_u64().map(|n| n + 1));
    let expected = [pair("counter/a", "back"), pair("counter/a~x", "lost")];
    assert_eq!(touched(&verdict), expected, "{verdict}");
    let said = data.refusal();
    assert!(said.contains("damaged") && said.contains("heronry log repair"), "{said}");
    let output = data.verb("repair", &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(said.contains("counter/a~x") && said.contains("nothing was changed"), "{said}");
    assert!(files(&data.log()) == before, "L1: a repair without --yes changed something");

    let output = data.verb("repair", &["--yes", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    let aside = json["shards"][0]["kept_aside"].as_str().expect("a folder");
    let segment = |folder: &Path| fs::read(folder.join("0000000000.log")).expect("kept");
    let old = before.iter().find(|(path, _)| path.ends_with("0000/0000000000.log"));
    assert!(Some(&segment(Path::new(aside))) == old.map(|(_, bytes)| bytes), "R2");
    assert_eq!(data.verify().0, 0);

    data.start();
    // As before the damage; then what its chain says anew; V1: not what rests on what is lost.
    assert_eq!(data.agent(&["send", "counter/a", "get"]), "2");
    assert_eq!(data.agent(&["send", "counter/b", "get"]), "2");
    assert_eq!(data.agent(&["send", "counter/late", "get"]), "2");
    assert!(!data.exists("counter/a~x") && !data.exists("counter/gone"));
    assert_eq!(data.add("counter/a"), "3");
    data.stop();
    assert_eq!(data.verify().0, 0);
}

#[test]
fn a_torn_end_is_no_damage_and_an_old_one_that_was_overwritten_is_none() {
    let mut data = Data::new(&[]);
    for _ in 0..3 {
        data.add("counter/a");
    }
    data.stop();
    data.damage(&data.dump("record", "change")[1]);
    let (status, verdict) = data.verify();
    assert_eq!(status, 0, "W3: {verdict}");
    assert_eq!(verdict["shards"][0]["torn"]["batch"], 2);
    data.start();
    assert_eq!(data.add("counter/a"), "3");
    data.stop();
    let (status, verdict) = data.verify();
    assert_eq!((status, &verdict["shards"][0]["torn"]), (0, &Json::Null), "{verdict}");
}

/// A data folder of one shard with a log that was made here, damaged at a byte of a batch.
struct Made(tempfile::TempDir);

impl Made {
    fn new(log: &Writer, batch: usize, byte: usize) -> Made {
        let made = Made::whole(log);
        let Written { segment, offset, .. } = log.written[batch];
        let path = made.0.path().join(format!("log/0000/{segment:010}.log"));
        let mut bytes = fs::read(&path).expect("a segment");
        bytes[offset + byte] ^= 1;
        fs::write(path, bytes).expect("written");
        made
    }

    fn whole(log: &Writer) -> Made {
        let made = Made(tempfile::tempdir().expect("a folder"));
        let mut log_folder = made.0.path().join("log");
        fs::create_dir_all(&log_folder).expect("made");
        fs::write(log_folder.join("shards"), "1\n").expect("written");
        log_folder.push("0000");
        log.save(&log_folder, 1 << 20);
        made
    }

    fn verb(&self, verb: &str, options: &[&str]) -> (i32, Json) {
        let path = self.0.path().display().to_string();
        let output = run(&[&["log", verb, "--json", "--data", &path], options].concat());
        let json = serde_json::from_slice(&output.stdout).expect("one JSON value");
        (output.status.code().expect("it ended"), json)
    }

    /// Verifies, repairs, verifies, and opens what the repair has left.
    fn repaired(&self, expected: &[(String, String)]) -> Writer {
        let (status, verdict) = self.verb("verify", &[]);
        assert_eq!(status, 1, "{verdict}");
        assert_eq!(touched(&verdict), expected, "{verdict}");
        let (status, json) = self.verb("repair", &["--yes"]);
        assert_eq!((status, &json["repaired"]), (0, &Json::Bool(true)), "{json}");
        let (status, verdict) = self.verb("verify", &[]);
        assert_eq!(status, 0, "{verdict}");
        let mut log = Writer::open(&self.0.path().join("log/0000"));
        log.restart(log.first);
        log
    }
}

/// A counter whose chain lies in a segment that a start does not read, and what came later.
fn indexed() -> Writer {
    let mut log = Writer::new();
    for message in ["1", "1", "1"] {
        log.says("counter/a", message);
        log.flush();
    }
    log.says("counter/b", "7");
    log.index();
    log
}

#[test]
fn a_chain_is_cut_before_its_first_bad_record_wherever_that_lies() {
    for (batch, expected, left) in [(1, "back", "1"), (0, "lost", "NOAGENT")] {
        let made = Made::new(&indexed(), batch, 150);
        let mut log = made.repaired(&[pair("counter/a", expected)]);
        let info = log.ask("counter/a", Verb::Info);
        match left {
            "NOAGENT" => assert_eq!(info.expect_err("lost").code(), left),
            count => assert_eq!(log.says("counter/a", "get"), count),
        }
        assert_eq!(log.says("counter/b", "get"), "7");
    }
}

#[test]
fn an_index_that_is_damaged_leaves_what_older_segments_hold() {
    let mut log = indexed();
    let made = Made::new(&log, 3, 150);
    // Its only other record is of an agent that no other batch has.
    let mut left = made.repaired(&[pair("counter/a", "back"), pair("counter/b", "lost")]);
    assert_eq!(left.says("counter/a", "get"), "3");
    log.says("counter/a", "1");
    log.flush();
    let made = Made::new(&log, 3, 150);
    let mut left = made.repaired(&[pair("counter/a", "back"), pair("counter/b", "lost")]);
    assert_eq!(left.says("counter/a", "get"), "3", "V1: not on a wrong base");
}

#[test]
fn damage_at_the_start_of_the_last_segment_is_found() {
    let mut log = Writer::new();
    log.says("counter/a", "1");
    log.flush();
    log.roll();
    for key in ["counter/a", "counter/b"] {
        log.says(key, "1");
        log.flush();
    }
    let mut left = Made::new(&log, 1, 150).repaired(&[pair("counter/a", "back")]);
    assert_eq!(
        (left.says("counter/a", "get"), left.says("counter/b", "get")),
        ("1".into(), "1".into())
    );
}

#[test]
fn w4_what_an_earlier_life_had_on_its_way_is_not_taken() {
    let mut log = Writer::new();
    for _ in 0..3 {
        log.says("counter/a", "1");
        log.flush();
    }
    let late = log.segments[&0].clone();
    log.lose(1);
    log.restart(0);
    log.roll();
    for message in ["10", "100"] {
        log.says("counter/a", message);
        log.flush();
    }
    // The batch that the second life did not see lands when that has written its own.
    log.segments.insert(0, late);
    let made = Made::whole(&log);
    let (status, verdict) = made.verb("verify", &[]);
    assert_eq!((status, &verdict["shards"][0]["batches"]), (0, &4.into()), "{verdict}");
    let path = made.0.path().display().to_string();
    let lines = text(&run(&["log", "dump", "--json", "--data", &path]).stdout);
    assert_eq!(lines.lines().filter(|line| line.contains("\"epoch\":2")).count(), 2, "{lines}");
}

#[test]
fn v4_a_flush_that_is_not_whole_is_void() {
    for (whole, records) in [(true, 2), (false, 1)] {
        let mut log = Writer::new();
        log.says("counter/a", "1");
        log.flush();
        log.whole = whole;
        log.says("counter/a", "10");
        log.flush();
        let (status, verdict) = Made::whole(&log).verb("verify", &[]);
        assert_eq!((status, &verdict["shards"][0]["records"]), (0, &records.into()), "{verdict}");
    }
}

#[test]
fn v3_a_record_that_lost_a_part_does_not_count() {
    let mut log = Writer::new();
    log.singly = true;
    log.says("counter/a", "1");
    log.flush();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|at| (at.wrapping_mul(at) >> 5) as u8).collect();
    log.says("notebook/n", "append one;");
    log.ask("notebook/n", Verb::Write { offset: 5_000, bytes: bytes.into() }).expect("written");
    log.flush();
    let count = log.written.len();
    log.says("counter/a", "1");
    log.flush();
    // Any of the parts, and the head, which comes last.
    for batch in 1..count {
        let made = Made::new(&log, batch, 150);
        let (_, verdict) = made.verb("verify", &[]);
        assert!(touched(&verdict).contains(&pair("counter/a", "back")), "{verdict}");
        let (status, json) = made.verb("repair", &["--yes"]);
        assert_eq!(status, 0, "{json}");
        let mut left = Writer::open(&made.0.path().join("log/0000"));
        left.restart(left.first);
        assert!(left.ask("notebook/n", Verb::Info).is_err(), "batch {batch}");
        assert_eq!(left.says("counter/a", "get"), "1");
    }
}

#[test]
fn sums_and_lines_agree_with_what_was_written() {
    let mut data = Data::new(&[]);
    data.add("counter/a");
    data.add("counter/a");
    data.agent(&["fork", "counter/a"]);
    data.add("counter/b");
    data.stop();
    let output = data.verb("stats", &["--json"]);
    let stats: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    let stats = &stats[0];
    assert_eq!((&stats["agents"], &stats["segments"]), (&3.into(), &1.into()), "{stats}");
    assert_eq!(stats["records"]["fork"], 1);
    assert_eq!(stats["chain_longest_key"], "counter/a~1");
    let sum = |words: [&str; 2]| words.iter().filter_map(|word| stats[word].as_u64()).sum::<u64>();
    assert_eq!(stats["written_bytes"], sum(["live_bytes", "dead_bytes"]));
    let lines = data.dump("", "");
    let batches = lines.iter().filter(|line| line["record"].is_null()).count() as u64;
    assert_eq!(stats["batches"], batches);
    assert_eq!(data.dump("key", "counter/b").len(), 1);
    let output = data.verb("dump", &["--shard", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--shard 1"), "{}", text(&output.stderr));
    let nowhere = data.folder.path().join("nowhere").display().to_string();
    let output = run(&["log", "repair", "--data", &nowhere]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!Path::new(&nowhere).exists(), "a folder was made");
}
