//! What moves: agents as files, data folders to other numbers of shards, backups.
//!
//! Owns: nothing that outlives a test.  Not: the bytes of logs, which the engine's tests have.

use heronry_engine::Ack;
use heronry_net::client::{Client, ForkOptions, SendOptions};
use heronry_tests::guests::{deploy, exec, has_guests, say};
use heronry_tests::node::{Node, wait_until};
use rustix::process::Signal;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_test-node");

fn start(data: &Path, shards: &str) -> Node {
    let data = ["--shards", shards, "--data", text(data)];
    Node::start(BINARY, &[&data[..], &["--set", "log.ack=durable"]].concat())
}

fn run(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().expect("it runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn with_id(request_id: &[u8]) -> SendOptions<'_> {
    SendOptions { ack: Ack::Durable, request_id: Some(request_id), timeout_ms: None }
}

/// Agents with versions, labels, branches and request ids.
fn fill(client: &mut Client) {
    for n in 0..60 {
        let key = format!("counter/{n}");
        client.send_with(&key, b"5", with_id(b"once")).expect("counted");
        client.checkpoint(&key, Some("five")).expect("sealed");
        client.send(&key, b"2").expect("counted");
    }
    for n in 0..20 {
        let key = format!("notebook/{n}");
        client.create(&key, 64 << 10).expect("made");
        client.write(&key, 40_000, format!("page of {n}").as_bytes()).expect("written");
        let branches = client.fork(&key, ForkOptions::default()).expect("forked");
        client.write(branches[0].as_str(), 8, b"branch").expect("written");
    }
    client.terminate("counter/7").expect("ended");
}

fn check(client: &mut Client, shards: &str) {
    for n in (0..60).filter(|n| *n != 7) {
        let key = format!("counter/{n}");
        assert_eq!(client.send(&key, b"get").expect("it lives"), Some("7".into()), "{key}");
        let again = client.send_with(&key, b"5", with_id(b"once")).expect("a retry");
        assert_eq!(again, Some("5".into()), "{key}: the first reply, with {shards} shards");
        let versions = client.versions(&key).expect("it lives");
        assert!(
            versions.iter().any(|version| version.label.as_deref() == Some(b"five".as_slice())),
            "{key}: {versions:?}"
        );
    }
    for n in 0..20 {
        let (key, branch) = (format!("notebook/{n}"), format!("notebook/{n}~1"));
        let page = format!("page of {n}");
        for key in [&key, &branch] {
            let read = client.read(key, 40_000, page.len() as u32).expect("it lives");
            assert_eq!(read, page.as_bytes(), "{key} with {shards} shards");
        }
        assert_eq!(client.read(&branch, 8, 6).expect("it lives"), "branch");
        assert_eq!(client.read(&key, 8, 6).expect("it lives"), [0; 6][..]);
    }
    let gone = client.info("counter/7").expect_err("it has ended");
    assert_eq!(gone.code(), Some("NOAGENT"), "{gone}");
}

#[test]
fn a_data_folder_opens_with_any_number_of_shards() {
    let scratch = tempfile::tempdir().expect("a folder");
    let data = scratch.path().join("data");
    let mut node = start(&data, "2");
    fill(&mut node.client());
    for shards in ["3", "1", "5", "2"] {
        if shards == "5" {
            drop(node);
        } else {
            node.signal(Signal::INT);
            assert!(node.wait().success());
        }
        node = start(&data, shards);
        node.await_log("agents with");
        check(&mut node.client(), shards);
    }
    // A branch is still one, and its parent knows it.
    let mut client = node.client();
    client.commit("notebook/3~1").expect("committed");
    assert_eq!(client.read("notebook/3", 8, 6).expect("it lives"), "branch");
    assert!(!data.join("log.old").exists() && !data.join("log.new").exists());
    drop(node);
    let verified = run(&["log", "verify", "--data", text(&data)]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

/// A crash at each step of the move leaves either the old logs or the new ones.
#[test]
fn a_move_that_was_interrupted_ends_at_the_next_start() {
    let scratch = tempfile::tempdir().expect("a folder");
    let data = scratch.path().join("data");
    let node = start(&data, "2");
    fill(&mut node.client());
    drop(node);
    // In the middle of the copying.
    std::fs::create_dir_all(data.join("log.new/0000")).expect("made");
    std::fs::write(data.join("log.new/0000/key"), [1; 32]).expect("written");
    drop(start(&data, "2"));
    assert!(!data.join("log.new").exists());
    // Between the two names.
    std::fs::rename(data.join("log"), data.join("log.new")).expect("renamed");
    std::fs::create_dir(data.join("log.old")).expect("made");
    let node = start(&data, "2");
    check(&mut node.client(), "2");
    assert!(!data.join("log.old").exists());
}

/// Logs that are missing would look like agents that never were.
#[test]
fn a_folder_without_all_of_its_logs_is_refused_and_left_as_it_is() {
    let scratch = tempfile::tempdir().expect("a folder");
    let data = scratch.path().join("data");
    let node = start(&data, "2");
    fill(&mut node.client());
    drop(node);
    let (count, second) = (data.join("log/shards"), data.join("log/0001"));
    let away = scratch.path().join("away");
    let write = |text: &str| std::fs::write(&count, text).expect("written");
    let refused = |names: &str| {
        for shards in ["1", "2", "3"] {
            let options = ["--data", text(&data), "--shards", shards];
            let output = Node::fail(BINARY, &options);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{names}: {said}");
            assert!(said.contains("log/shards") && said.contains(names), "{names}: {said}");
        }
        let verified = run(&["log", "verify", "--data", text(&data)]);
        assert!(!verified.status.success(), "{names}");
    };
    for wrong in ["0", "1", "3"] {
        write(wrong);
        refused("0000, 0001");
    }
    std::fs::remove_file(&count).expect("removed");
    refused("shards");
    write("2\n");
    std::fs::rename(&second, &away).expect("renamed");
    refused("0000. ");
    std::fs::rename(&away, &second).expect("renamed");
    check(&mut start(&data, "2").client(), "2");
}

#[test]
fn an_agent_in_the_middle_of_a_sleep_moves_to_another_shard() {
    if !has_guests() {
        return;
    }
    let source = "
naps = 0
async def on_message(ctx, message):
    global naps
    if message == 'nap':
        await ctx.sleep(3)
        naps += 1
    return str(naps)
";
    let scratch = tempfile::tempdir().expect("a folder");
    let data = scratch.path().join("data");
    let node = start(&data, "2");
    let mut client = node.client();
    deploy(&mut client, "napper", heronry_engine::verb::Language::Python, source);
    let keys: Vec<String> = (0..8).map(|n| format!("napper/{n}")).collect();
    // All have the same number of calls behind them, on two shards.
    for key in &keys {
        assert_eq!(say(&mut client, key, "look"), "0");
        let mut sleeping = TcpStream::connect(("127.0.0.1", node.port)).expect("connected");
        let nap = format!("AGENT.SEND {key} nap ID nap\r\n");
        sleeping.write_all(nap.as_bytes()).expect("asked");
        wait_until("a nap that has begun", || {
            (client.info(key).expect("it lives").turn_count >= 2).then_some(())
        });
        assert_eq!(say(&mut client, key, "look"), "0");
    }
    drop(node);
    let node = start(&data, "1");
    let mut client = node.client();
    for key in &keys {
        let reply = client.send_with(key, b"nap", with_id(b"nap")).expect("answered");
        assert_eq!(reply, Some("1".into()), "{key}");
        assert_eq!(say(&mut client, key, "look"), "1");
    }
}

/// Relays on all shards pass numbers on while backups are made. In every backup, restored with
/// another number of shards, no message is missing and none has arrived twice.
#[test]
fn a_backup_of_a_running_node_is_of_one_moment() {
    let scratch = tempfile::tempdir().expect("a folder");
    let data = scratch.path().join("data");
    let mut node = start(&data, "2");
    fill(&mut node.client());
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..4)
        .map(|n| {
            let (mut client, stop) = (node.client(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut sum = 0;
                while !stop.load(Ordering::Relaxed) {
                    sum += 1;
                    assert_eq!(pass_on(&mut client, n, sum), sum);
                }
                sum
            })
        })
        .collect();
    let mut backups = Vec::new();
    for n in 0..5 {
        std::thread::sleep(Duration::from_millis(150));
        let to = scratch.path().join(format!("backup{n}"));
        let made = run(&["backup", text(&to), "--data", text(&data)]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert!(String::from_utf8_lossy(&made.stdout).starts_with("backed up "));
        backups.push(to);
    }
    assert!(!data.join("snapshots/heronry-backup").exists());
    stop.store(true, Ordering::Relaxed);
    let sent: Vec<u64> =
        senders.into_iter().map(|sender| sender.join().expect("it ends")).collect();
    node.signal(Signal::INT);
    assert!(node.wait().success());

    let mut before = [0; 4];
    for backup in &backups {
        let restored = scratch.path().join("restored");
        let made = run(&["restore", text(backup), "--data", text(&restored)]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let node = start(&restored, "3");
        let mut client = node.client();
        check(&mut client, "3");
        for n in 0..4 {
            let key = format!("counter/sum{n}");
            let sum = count(&mut client, &key);
            assert!(sum >= before[n] && sum <= sent[n], "{sum} of {}", sent[n]);
            // What the relay knows as done has arrived, and what it does not know has not; one that
            // was on its way arrives once.
            assert!(sum == 0 || pass_on(&mut client, n, sum) == sum, "{key}");
            assert_eq!(pass_on(&mut client, n, sum + 1), sum + 1, "{key}");
            assert_eq!(count(&mut client, &key), sum + 1, "{key}");
            before[n] = sum;
        }
        drop(node);
        std::fs::remove_dir_all(&restored).expect("removed");
    }
    assert!(before.iter().sum::<u64>() > 0, "something was sent before the last backup");
}

/// Has a relay pass its `number`-th message on to a counter; what the counter was after it.
fn pass_on(client: &mut Client, relay: usize, number: u64) -> u64 {
    let order = format!("counter/sum{relay} 1");
    let id = number.to_string();
    let reply =
        client.send_with(&format!("relay/{relay}"), order.as_bytes(), with_id(id.as_bytes()));
    let reply = reply.expect("passed on").expect("a number");
    String::from_utf8_lossy(&reply).parse().expect("a number")
}

#[test]
fn a_backup_is_refused_where_it_would_write_over_something() {
    let scratch = tempfile::tempdir().expect("a folder");
    let [data, there] = ["data", "there"].map(|name| scratch.path().join(name));
    let refused = run(&["backup", text(&there), "--data", text(&data)]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("holds no log"));
    let node = start(&data, "1");
    node.client().send("counter/a", b"5").expect("counted");
    std::fs::create_dir(&there).expect("made");
    std::fs::write(there.join("mine"), "x").expect("written");
    let refused = run(&["backup", text(&there), "--data", text(&data)]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is there already"));
    let refused = run(&["restore", text(&there), "--data", text(&scratch.path().join("new"))]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is no backup"));
    // A snapshot's name is used once, and is no path.
    let mut client = node.client();
    client.ask(&[b"NODE.SNAPSHOT", b"mine"]).expect("made");
    let again = client.ask(&[b"NODE.SNAPSHOT", b"mine"]).expect_err("it is there");
    assert_eq!(again.code(), Some("BADSNAPSHOT"), "{again}");
    let path = client.ask(&[b"NODE.SNAPSHOT", b"../mine"]).expect_err("no name");
    assert_eq!(path.code(), Some("BADVALUE"), "{path}");
    drop(node);
    // Of a node that does not run; and the snapshot is a data folder itself.
    let to = scratch.path().join("backup");
    let made = run(&["--json", "backup", text(&to), "--data", text(&data)]);
    assert!(String::from_utf8_lossy(&made.stdout).contains("\"agents\":1"), "{made:?}");
    for folder in [to, data.join("snapshots/mine")] {
        let node = start(&folder, "1");
        assert_eq!(count(&mut node.client(), "counter/a"), 5);
    }
}

/// An agent leaves as a file and comes back under another key and on another node: its versions,
/// labels, memory and request ids with it.
#[test]
fn an_agent_moves_as_a_file() {
    let scratch = tempfile::tempdir().expect("a folder");
    let [here, there] = ["here", "there"].map(|name| scratch.path().join(name));
    let node = start(&here, "2");
    let mut client = node.client();
    client.send_with("counter/a", b"5", with_id(b"once")).expect("counted");
    client.checkpoint("counter/a", Some("five")).expect("sealed");
    client.send("counter/a", b"2").expect("counted");
    let file = client.export("counter/a").expect("exported");
    let digest = client.digest("counter/a", Some("@five")).expect("it lives");
    let exists = client.import("counter/a", &file).expect_err("it lives");
    assert_eq!(exists.code(), Some("EXISTS"), "{exists}");
    let other = client.import("notebook/a", &file).expect_err("another template");
    assert_eq!(other.code(), Some("BADVALUE"), "{other}");
    for at in [0, 9, 20, file.len() / 2, file.len() - 1] {
        let mut bad = file.to_vec();
        bad[at] ^= 1;
        for bad in [&bad[..], &file[..at]] {
            let refused = client.import("counter/bad", bad).expect_err("it was changed");
            assert_eq!(refused.code(), Some("BADVALUE"), "{refused}");
        }
    }
    if has_guests() {
        assert_eq!(exec(&mut client, "python/a", "import random; x = [41]"), "");
        client.checkpoint("python/a", Some("start")).expect("sealed");
        assert_eq!(exec(&mut client, "python/a", "x.append(2); sum(x)"), "43\n");
        let to = scratch.path().join("a.agent");
        let to = text(&to);
        let place = format!("127.0.0.1:{}", node.port);
        let export = ["--connect", &place, "agent", "export", "python/a", to];
        let made = run(&export);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let again = run(&export);
        assert!(!again.status.success(), "a file is not written over");
    }
    drop(node);
    // The template's memory is what both agents share.
    let copied = Command::new("cp").arg("-r").arg(&here).arg(&there).status();
    assert!(copied.expect("cp runs").success());
    std::fs::remove_dir_all(there.join("log")).expect("removed");

    let node = start(&there, "1");
    let mut client = node.client();
    client.import("counter/b", &file).expect("imported");
    assert_eq!(count(&mut client, "counter/b"), 7);
    let retry = client.send_with("counter/b", b"5", with_id(b"once")).expect("a retry");
    assert_eq!(retry, Some("5".into()), "the first reply");
    assert_eq!(client.digest("counter/b", Some("@five")).expect("it lives"), digest);
    client.rollback("counter/b", Some("@five")).expect("a version from before");
    assert_eq!(count(&mut client, "counter/b"), 5);
    if has_guests() {
        let from = scratch.path().join("a.agent");
        let place = format!("127.0.0.1:{}", node.port);
        let made = run(&["--connect", &place, "agent", "import", "python/b", text(&from)]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert_eq!(exec(&mut client, "python/b", "x.append(7); sum(x)"), "50\n");
        client.rollback("python/b", Some("@start")).expect("a version from before");
        assert_eq!(exec(&mut client, "python/b", "sum(x)"), "41\n");
    }
    // It is in this node's log as any other.
    drop(node);
    let node = start(&there, "1");
    assert_eq!(count(&mut node.client(), "counter/b"), 5);
}

/// What an agent awaited when it was exported: its sleep goes on, in the file's agent too.
#[test]
fn an_agent_leaves_in_the_middle_of_a_sleep() {
    if !has_guests() {
        return;
    }
    let source = "
log = []
async def on_message(ctx, message):
    if message == 'nap':
        await ctx.sleep(1)
        log.append(ctx.key)
    return str(log)
";
    let scratch = tempfile::tempdir().expect("a folder");
    let node = start(&scratch.path().join("data"), "2");
    let mut client = node.client();
    deploy(&mut client, "napper", heronry_engine::verb::Language::Python, source);
    assert_eq!(say(&mut client, "napper/a", "look"), "[]");
    let mut sleeping = TcpStream::connect(("127.0.0.1", node.port)).expect("connected");
    sleeping.write_all(b"AGENT.SEND napper/a nap\r\n").expect("asked");
    wait_until("a nap that has begun", || {
        (client.info("napper/a").expect("it lives").turn_count >= 2).then_some(())
    });
    let file = client.export("napper/a").expect("exported");
    client.import("napper/b", &file).expect("imported");
    for key in ["napper/a", "napper/b"] {
        wait_until("the end of the nap", || {
            (say(&mut client, key, "look") == format!("['{key}']")).then_some(())
        });
    }
}

fn count(client: &mut Client, key: &str) -> u64 {
    let reply = client.send(key, b"get").expect("it lives").expect("a number");
    String::from_utf8_lossy(&reply).parse().expect("a number")
}
