//! The whole node, spoken to by clients that were not written here, and by our own.

use heronry_net::Value;
use heronry_tests::node::{Node, have, wait_until};
use rustix::process::Signal;
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_test-node");

fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {out}{err}", output.status);
    out.trim().to_owned()
}

#[test]
fn redis_cli_creates_sends_forks_and_rolls_back() {
    if !have("redis-cli") {
        return;
    }
    let node = Node::start(BINARY, &[]);
    let cli = |args: &[&str]| text(&node.with_port("redis-cli", args));
    assert_eq!(cli(&["PING"]), "PONG");
    assert_eq!(cli(&["AGENT.CREATE", "notebook/a"]), "1");
    assert_eq!(cli(&["AGENT.SEND", "notebook/a", "append one"]), "3");
    let version = cli(&["AGENT.CHECKPOINT", "notebook/a", "LABEL", "start"]);
    assert_eq!(cli(&["AGENT.SEND", "notebook/a", "append  two"]), "7");
    assert_eq!(cli(&["AGENT.FORK", "notebook/a", "COUNT", "2"]), "notebook/a~1\nnotebook/a~2");
    assert_eq!(cli(&["AGENT.SEND", "notebook/a~1", "read"]), "one two");
    cli(&["AGENT.ROLLBACK", "notebook/a"]);
    assert_eq!(cli(&["AGENT.SEND", "notebook/a", "read"]), "one");
    assert_eq!(cli(&["AGENT.SEND", "notebook/a~2", "read"]), "one two");
    cli(&["AGENT.FORK", "notebook/a", "AS", "old", "AT", &version]);
    assert_eq!(cli(&["AGENT.SEND", "notebook/a~old", "read"]), "one");
    cli(&["AGENT.COMMIT", "notebook/a~2"]);
    assert_eq!(cli(&["AGENT.SEND", "notebook/a", "read"]), "one two");
    assert!(cli(&["AGENT.INFO", "notebook/a~1"]).contains("NOAGENT"));
    assert_eq!(cli(&["AGENT.TERMINATE", "notebook/a"]), "OK");
    assert!(cli(&["-3", "SHARD.LIST"]).contains("up"));
    assert!(cli(&["TEMPLATE.LIST"]).contains("notebook"));
}

#[test]
fn redis_benchmark_runs_without_an_error() {
    if !have("redis-benchmark") {
        return;
    }
    let node = Node::start(BINARY, &[]);
    let args = ["-P", "16", "-r", "1000", "-n", "100000", "-q", "AGENT.SEND"];
    let output =
        node.with_port("redis-benchmark", &[&args[..], &["counter/__rand_int__", "1"]].concat());
    let said = text(&output);
    assert!(said.contains("requests per second"), "{said}");
    assert!(!said.to_lowercase().contains("error"), "{said}");
    // Every one of them arrived: the counters' sum is the number of requests.
    let mut client = node.client();
    let (mut sum, mut cursor) = (0i64, "0".to_owned());
    loop {
        let page = client.list(&cursor, 1000, Some("counter/*"), false).expect("a page");
        for key in page.keys {
            let value = client.send(key.as_str(), b"get").expect("a counter answers");
            let value = String::from_utf8(value.expect("a number").to_vec()).expect("digits");
            sum += value.parse::<i64>().expect("a number");
        }
        cursor = page.cursor;
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(sum, 100_000);
}

/// redis-py in both protocol versions; the script asserts and prints `ok`.
const REDIS_PY: &str = r#"
import sys, redis
for protocol in (2, 3):
    r = redis.Redis(port=int(sys.argv[1]), protocol=protocol)
    assert r.ping()
    key = f"notebook/py{protocol}"
    assert r.execute_command("AGENT.CREATE", key) == 1
    assert r.execute_command("AGENT.SEND", key, b"append \x00\xff binary") == b"9"
    v = r.execute_command("AGENT.CHECKPOINT", key, "LABEL", "here")
    r.execute_command("AGENT.SEND", key, "append more")
    assert r.execute_command("AGENT.SEND", key, "read") == b"\x00\xff binarymore"
    r.execute_command("AGENT.ROLLBACK", key, "TO", "@here")
    assert r.execute_command("AGENT.SEND", key, "read") == b"\x00\xff binary"
    forks = r.execute_command("AGENT.FORK", key, "COUNT", 3)
    assert [f.decode() for f in forks] == [f"{key}~{n}" for n in (1, 2, 3)]
    with r.pipeline(transaction=False) as pipe:
        for n in range(500):
            pipe.execute_command("AGENT.SEND", f"counter/py{protocol}-{n % 7}", 1)
        replies = pipe.execute()
    assert sum(int(x) == n // 7 + 1 for n, x in enumerate(replies)) == 500
    info = r.execute_command("AGENT.INFO", key)
    info = info if protocol == 3 else dict(zip(info[::2], info[1::2]))
    assert info[b"key"] == key.encode(), info
    try:
        r.execute_command("AGENT.ROLLBACK", key, "TO", "@nowhere")
        raise SystemExit("a version that is not there was found")
    except redis.ResponseError as e:
        assert str(e).startswith("NOVERSION"), e
    shards = r.execute_command("SHARD.LIST")
    assert len(shards) == 2
print("ok")
"#;

#[test]
fn redis_py_speaks_both_protocols() {
    let python = std::env::var("HERONRY_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&python).args(["-c", "import redis"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        println!("skipped: {python} has no package redis; tools/test installs it");
        return;
    }
    let node = Node::start(BINARY, &[]);
    let port = node.port.to_string();
    let output = Command::new(&python).args(["-c", REDIS_PY, &port]).output().expect("it runs");
    assert_eq!(text(&output), "ok");
}

#[test]
fn relay_reaches_agents_on_every_shard_and_brings_their_replies() {
    let node = Node::start(BINARY, &[]);
    let mut client = node.client();
    for n in 0..64 {
        let message = format!("counter/target-{n} {n}");
        let reply = client.send(&format!("relay/r{n}"), message.as_bytes()).expect("a reply");
        assert_eq!(reply.as_deref(), Some(n.to_string().as_bytes()));
    }
    // Both shards have some of both, so some of the calls crossed.
    let rows = client.ask(&[b"SHARD.LIST"]).expect("rows");
    let Value::Array(rows) = rows else { panic!("{rows:?}") };
    assert_eq!(rows.len(), 2);
}

#[test]
fn a_unix_socket_serves_like_tcp_and_the_command_line_finds_it() {
    let node = Node::start(BINARY, &[]);
    let cli = |args: &[&str]| text(&node.cli(args));
    cli(&["agent", "create", "notebook/cli"]);
    assert_eq!(cli(&["agent", "send", "notebook/cli", "append hi"]), "2");
    cli(&["agent", "checkpoint", "notebook/cli"]);
    let info = cli(&["--json", "agent", "info", "notebook/cli"]);
    let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
    assert_eq!(info["key"], "notebook/cli");
    let shards = cli(&["--json", "shard", "list"]);
    let shards: serde_json::Value = serde_json::from_str(&shards).expect("JSON");
    assert_eq!(shards.as_array().map(Vec::len), Some(2));
    let refused = node.cli(&["agent", "info", "notebook/none"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("notebook/none"));
    assert!(cli(&["top", "--once"]).contains("shard"));
}

#[test]
fn ctrl_c_stops_cleanly_and_leaves_nothing() {
    let mut node = Node::start(BINARY, &[]);
    let mut client = node.client();
    client.create("notebook/a", 0).expect("created");
    let rows = heronry_tests::rows::shard_pids(&mut client);
    node.signal(Signal::INT);
    assert!(node.wait().success());
    assert!(!node.unix_socket().exists());
    for pid in rows {
        wait_until("the shard is gone", || {
            (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        });
    }
}

#[test]
fn the_same_node_runs_as_threads_and_on_glommio() {
    for options in [["--set", "shards.isolation=thread"], ["--set", "shards.runtime=glommio"]] {
        let mut node = Node::start(BINARY, &options);
        let mut client = node.client();
        for n in 0..200 {
            client.send(&format!("counter/{}", n % 10), b"1").expect("counted");
        }
        let reply = client.send("counter/3", b"get").expect("a reply");
        assert_eq!(reply.as_deref(), Some(&b"20"[..]), "{options:?}");
        node.signal(Signal::TERM);
        assert!(node.wait().success(), "{options:?}");
    }
}

#[test]
fn a_call_that_nobody_answers_times_out_also_when_the_shard_was_idle() {
    let node = Node::start(BINARY, &["--set", "agents.call_timeout_ms=200"]);
    let mut client = node.client();
    for n in 0..4 {
        let asleep = format!("counter/asleep-{n}");
        client.create(&asleep, 0).expect("created");
        client.suspend(&asleep).expect("suspended");
        let message = format!("{asleep} 1");
        let refused = client.send(&format!("relay/r{n}"), message.as_bytes());
        let error = refused.expect_err("the target is suspended");
        assert_eq!(error.code(), Some("TIMEOUT"), "{error}");
    }
}
