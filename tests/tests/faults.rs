//! Bad input and faults: each gets a clear answer, no shard dies, no other agent notices.

use heronry_engine::Ack;
use heronry_net::Value;
use heronry_net::client::{Client, SendOptions};
use heronry_tests::node::{Node, PATIENCE, have, send_signal, wait_until};
use heronry_tests::rows::{shard_column, shard_pids};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_test-node");
/// A node whose agents are in memory only.
const NO_LOG: [&str; 2] = ["--set", "log.enabled=false"];

/// What a raw connection is told before it is closed, or within a bound of bytes.
fn said(node: &Node, bytes: &[u8]) -> String {
    let mut raw = TcpStream::connect(("127.0.0.1", node.port)).expect("connected");
    raw.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    raw.write_all(bytes).expect("written");
    let mut told = vec![0; 4096];
    let count = raw.read(&mut told).expect("told something");
    String::from_utf8_lossy(&told[..count]).into_owned()
}

fn refusal(value: Value) -> (String, String) {
    match value {
        Value::Error { code, text } => (code, text),
        other => panic!("an error, not {other:?}"),
    }
}

/// The code and text that a command is refused with.
fn refused(client: &mut Client, args: &[&str]) -> (String, String) {
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    refusal(client.call(&args).expect("the connection lasts"))
}

#[test]
fn malformed_and_oversized_frames_are_named_and_close_their_connection_only() {
    let node = Node::start(BINARY, &["--set", "net.payload_bytes_max=1MiB"]);
    let mut bystander = node.client();
    bystander.create("notebook/b", 0).expect("created");
    for bytes in [
        &b"*1\r\n!3\r\nfoo\r\n"[..],
        b"*x\r\n",
        b"*99999999\r\n",
        b"*1\r\n$99999999999\r\n",
        b"*2\r\n$4\r\nPING\r\n$x\r\n",
        b"*1\r\n$3\r\nfooXX",
    ] {
        let told = said(&node, bytes);
        assert!(told.starts_with("-ERR Protocol error"), "{bytes:?}: {told:?}");
    }
    drop(TcpStream::connect(("127.0.0.1", node.port)).expect("connected"));
    let mut cut = TcpStream::connect(("127.0.0.1", node.port)).expect("connected");
    cut.write_all(b"*3\r\n$10\r\nAGENT.SEND\r\n$1").expect("written");
    drop(cut);
    assert!(bystander.send("notebook/b", b"append still here").is_ok());
}

#[test]
fn a_client_in_the_middle_of_an_oversized_request_reads_why_it_was_refused() {
    for runtime in ["uring", "glommio"] {
        let node = Node::start(BINARY, &["--set", &format!("shards.runtime={runtime}")]);
        let mut request = b"*3\r\n$10\r\nAGENT.SEND\r\n$6\r\necho/e\r\n$9437184\r\n".to_vec();
        request.resize(request.len() + (9 << 20), b'x');
        request.extend_from_slice(b"\r\n");
        let mut raw = TcpStream::connect(("127.0.0.1", node.port)).expect("connected");
        raw.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        raw.write_all(&request).expect("the node takes it in");
        let mut told = String::new();
        raw.read_to_string(&mut told).expect("an end, not a reset");
        assert!(told.starts_with("-ERR Protocol error: invalid bulk length"), "{told:?}");
    }
}

#[test]
fn every_wrong_argument_is_named_with_what_is_allowed() {
    let node = Node::start(BINARY, &NO_LOG);
    let mut client = node.client();
    client.create("notebook/a", 0).expect("created");
    let long = format!("notebook/{}", "x".repeat(300));
    for (args, code, names) in [
        (&["AGENT.SNED", "notebook/a", "x"][..], "ERR", "AGENT.SEND"),
        (&["AGENT.SEND", "notebook/a"], "ERR", "payload"),
        (&["AGENT.SEND", "nokey", "x"], "BADKEY", "nokey"),
        (&["AGENT.SEND", &long, "x"], "BADKEY", "255"),
        (&["AGENT.SEND", "nothing/a", "x"], "NOTEMPLATE", "nothing"),
        (&["AGENT.INFO", "notebook/none"], "NOAGENT", "notebook/none"),
        (&["AGENT.CREATE", "notebook/a"], "EXISTS", "notebook/a"),
        (&["AGENT.ROLLBACK", "notebook/a", "TO", "77"], "NOVERSION", "77"),
        (&["AGENT.ROLLBACK", "notebook/a", "TO", "@gone"], "NOVERSION", "gone"),
        (&["AGENT.FORK", "notebook/a", "COUNT", "0"], "", "10000"),
        (&["AGENT.FORK", "notebook/a", "COUNT", "many"], "", "many"),
        (&["AGENT.COMMIT", "notebook/a"], "WRONGSTATE", "notebook/a"),
        (&["AGENT.SEND", "counter/c", "five"], "FAULT", "five"),
        (&["AGENT.SEND", "notebook/a", "get 0", "ACK", "durable"], "NOLOG", "sealed"),
        (&["AGENT.SEND", "notebook/a", "get 0", "ACK", "perhaps"], "", "perhaps"),
    ] {
        let (was, text) = refused(&mut client, args);
        assert!(code.is_empty() || was == code, "{args:?}: {was} {text}");
        assert!(text.contains(names), "{args:?}: {was} {text}");
    }
    assert_eq!(client.send("notebook/a", b"append ok").expect("lives").as_deref(), Some(&b"2"[..]));
}

#[test]
fn a_panic_is_answered_undone_and_quarantines_when_repeated() {
    let node = Node::start(BINARY, &["--set", "agents.quarantine_failures=3"]);
    let mut client = node.client();
    client.send("fragile/a", b"before").expect("kept");
    client.send("fragile/b", b"neighbour").expect("kept");
    for _ in 0..3 {
        let (code, text) = refused(&mut client, &["AGENT.SEND", "fragile/a", "panic"]);
        assert_eq!(code, "FAULT", "{text}");
        assert!(text.contains("asked to"), "{text}");
    }
    let kept = client.read("fragile/a", 0, 100).expect("the image is readable in quarantine");
    assert_eq!(&kept[..], b"before");
    let (code, text) = refused(&mut client, &["AGENT.SEND", "fragile/a", "get"]);
    assert_eq!(code, "QUARANTINED");
    assert!(text.contains("AGENT.RESUME"), "{text}");
    client.resume("fragile/a").expect("resumed");
    let kept = client.send("fragile/a", b"get").expect("it works again");
    assert_eq!(kept.as_deref(), Some(&b"before"[..]));
    let kept = client.send("fragile/b", b"get").expect("the neighbour never noticed");
    assert_eq!(kept.as_deref(), Some(&b"neighbour"[..]));
}

#[test]
fn a_full_mailbox_refuses_at_once_and_loses_nothing() {
    let node = Node::start(BINARY, &["--set", "agents.mailbox_max=10"]);
    let mut client = node.client();
    client.create("notebook/a", 0).expect("created");
    client.suspend("notebook/a").expect("suspended");
    let mut sender = node.client();
    let replies = std::thread::spawn(move || {
        let mut pipeline = sender.pipeline();
        for n in 0..12 {
            pipeline.add(&[b"AGENT.SEND", b"notebook/a", format!("append {n},").as_bytes()]);
        }
        count_busy(&pipeline.run().expect("all answered"))
    });
    wait_until("ten wait", || {
        let info = client.info("notebook/a").expect("info");
        (info.mailbox_count == 10).then_some(())
    });
    let (code, text) = refused(&mut client, &["AGENT.SEND", "notebook/a", "append x"]);
    assert_eq!(code, "BUSY");
    assert!(text.contains("10 of 10"), "{text}");
    client.resume("notebook/a").expect("resumed");
    let (good, busy) = replies.join().expect("all answered");
    assert_eq!((good, busy), (10, 2));
    let content = client.send("notebook/a", b"read").expect("a reply").expect("text");
    assert_eq!(&content[..], b"0,1,2,3,4,5,6,7,8,9,");
}

#[test]
fn a_full_arena_refuses_undoes_and_recovers() {
    // With a log agents make room for each other by going to disk.
    let sizes = ["--set", "shards.arena_bytes=32MiB", "--set", "net.payload_bytes_max=4MiB"];
    let node = Node::start(BINARY, &[&sizes[..], &NO_LOG].concat());
    let mut client = node.client();
    client.create("notebook/small", 0).expect("created");
    let chunk = vec![7u8; 1 << 20];
    let mut refusals = 0;
    for n in 0..100 {
        let key = format!("notebook/big-{n}");
        match client.write(&key, 0, &chunk) {
            Ok(_) => {}
            Err(error) if error.code() == Some("NOAGENT") => {
                client.create(&key, 0).expect("a new agent takes no page to speak of");
                if let Err(error) = client.write(&key, 0, &chunk) {
                    assert_eq!(error.code(), Some("FULL"), "{error}");
                    assert!(error.to_string().contains("shards.arena_bytes"), "{error}");
                    refusals += 1;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refusals > 0, "64 MiB hold no 100 MiB");
    for n in 0..100 {
        client.terminate(&format!("notebook/big-{n}")).expect("ended");
    }
    client.create("notebook/again", 0).expect("created");
    client.write("notebook/again", 0, &chunk).expect("there is room again");
    client.send("notebook/small", b"append ok").expect("untouched");
}

#[test]
fn a_request_id_runs_once_and_an_overdue_message_not_at_all() {
    let node = Node::start(BINARY, &["--shards", "1"]);
    let mut client = node.client();
    let once = SendOptions { request_id: Some(b"r1"), ..SendOptions::default() };
    for _ in 0..3 {
        let reply = client.send_with("counter/a", b"5", once).expect("a reply");
        assert_eq!(reply.as_deref(), Some(&b"5"[..]));
    }
    // The slow agent holds its shard for longer than the message may wait.
    let mut pipeline = client.pipeline();
    pipeline.add(&[b"AGENT.SEND", b"slow/a", b"60"]);
    pipeline.add(&[b"AGENT.SEND", b"slow/a", b"0", b"TIMEOUT", b"5"]);
    let replies = pipeline.run().expect("both answered");
    assert!(!matches!(replies[0], Value::Error { .. }), "{replies:?}");
    assert_eq!(refusal(replies[1].clone()).0, "TIMEOUT");
}

#[test]
fn a_slow_turn_is_reported_with_its_key() {
    let mut node = Node::start(BINARY, &[]);
    let mut client = node.client();
    client.send("slow/sloth", b"120").expect("done");
    let line = node.await_log("a turn of slow/sloth took");
    assert!(line.contains("shards.stall_ms"), "{line}");
}

#[test]
fn a_killed_shard_comes_back_with_its_agents_and_their_versions() {
    let mut node = Node::start(BINARY, &[]);
    let mut client = node.client();
    let options = SendOptions { ack: Ack::Durable, ..SendOptions::default() };
    for n in 0..40 {
        client.send_with(&format!("counter/{n}"), b"1", options).expect("counted");
        client.send_with(&format!("counter/{n}"), b"2", options).expect("counted");
    }
    for pid in shard_pids(&mut client) {
        send_signal(pid, Signal::KILL);
    }
    node.await_logs(&["shard 0 is up after", "shard 1 is up after"]);
    let mut client = node.client();
    for n in 0..40 {
        let key = format!("counter/{n}");
        assert_eq!(client.send(&key, b"get").expect("it lives"), Some("3".into()), "{key}");
        let back = client.rollback(&key, Some("2")).expect("a version from before");
        assert_eq!(back.0, 2);
        assert_eq!(client.send(&key, b"get").expect("it lives"), Some("1".into()), "{key}");
    }
}

#[test]
fn without_a_log_a_killed_shard_names_what_it_lost_and_nobody_else_notices() {
    let mut node = Node::start(BINARY, &NO_LOG);
    let mut client = node.client();
    for n in 0..40 {
        client.send(&format!("counter/{n}"), b"1").expect("counted");
    }
    let pids = shard_pids(&mut client);
    // The connection may be on either shard; one on the survivor's is found by asking.
    send_signal(pids[1], Signal::KILL);
    node.await_log("shard 1 ended (killed by signal 9)");
    node.await_log("shard 1 is up after");
    let mut client = node.client();
    let (mut alive, mut lost) = (0, Vec::new());
    for n in 0..40 {
        let key = format!("counter/{n}");
        match client.send(&key, b"1") {
            Ok(reply) => {
                assert_eq!(reply.as_deref(), Some(&b"2"[..]), "{key} kept its count");
                alive += 1;
            }
            Err(error) => {
                assert_eq!(error.code(), Some("LOST"), "{error}");
                lost.push(key);
            }
        }
    }
    assert!(alive > 0 && !lost.is_empty(), "{alive} alive, {} lost", lost.len());
    let mut listed = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let page = client.list(&cursor, 100, None, true).expect("a page");
        listed.extend(page.keys.iter().map(|key| key.as_str().to_owned()));
        cursor = page.cursor;
        if cursor == "0" {
            break;
        }
    }
    listed.sort();
    lost.sort();
    assert_eq!(listed, lost);
    client.create(&lost[0], 0).expect("created anew");
    assert_eq!(client.send(&lost[0], b"1").expect("works").as_deref(), Some(&b"1"[..]));
    assert_eq!(shard_column(&mut client, "restart_count"), ["0", "1"]);
    assert_ne!(shard_pids(&mut client)[1], pids[1]);
    assert_eq!(shard_pids(&mut client)[0], pids[0]);
}

#[test]
fn while_a_shard_is_down_its_agents_answer_tryagain() {
    let node = Node::start(BINARY, &[]);
    let mut client = node.client();
    let pids = shard_pids(&mut client);
    let mut probe = connection_on_shard_0(&node, &mut client);
    // Stopped, it neither serves nor ends: what is sent to it waits until it is killed.
    send_signal(pids[1], Signal::STOP);
    let waiting = std::thread::spawn(move || {
        let mut answers = Vec::new();
        for n in 0..16 {
            let key = format!("counter/{n}");
            match probe.call(&[b"AGENT.SEND", key.as_bytes(), b"1"]) {
                Ok(Value::Error { code, .. }) => answers.push(code),
                Ok(_) => answers.push("OK".into()),
                Err(error) => panic!("{error}"),
            }
        }
        answers
    });
    std::thread::sleep(Duration::from_millis(100));
    send_signal(pids[1], Signal::KILL);
    let answers = waiting.join().expect("every request was answered");
    assert!(answers.iter().any(|answer| answer == "TRYAGAIN"), "{answers:?}");
    assert!(answers.iter().all(|answer| ["TRYAGAIN", "OK"].contains(&answer.as_str())));
}

/// A connection that the kernel gave to shard 0; those that it gave to others end.
fn connection_on_shard_0(node: &Node, client: &mut Client) -> Client {
    let mut held = || shard_column(client, "connections");
    let count =
        |column: &[String]| -> u32 { column.iter().filter_map(|n| n.parse::<u32>().ok()).sum() };
    let before = held();
    wait_until("a connection is on shard 0", || {
        let probe = node.client();
        let with_it = wait_until("the connection is counted", || {
            let now = held();
            (count(&now) > count(&before)).then_some(now)
        });
        if with_it[0] != before[0] {
            return Some(probe);
        }
        drop(probe);
        wait_until("the connection is gone", || (held() == before).then_some(()));
        None
    })
}

#[test]
fn killing_the_supervisor_leaves_no_shard_behind() {
    let mut node = Node::start(BINARY, &[]);
    let pids = shard_pids(&mut node.client());
    node.signal(Signal::KILL);
    node.wait();
    for pid in pids {
        wait_until("the shard is gone", || {
            (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        });
    }
}

#[test]
fn ten_thousand_idle_connections_are_held_and_one_past_the_limit_is_told() {
    let files = getrlimit(Resource::Nofile);
    if files.maximum.is_some_and(|most| most < 12_000) {
        println!("skipped: this process may open {files:?} files, the test needs 12,000");
        return;
    }
    let raised = Rlimit { current: files.maximum, maximum: files.maximum };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit");
    let node = Node::start(BINARY, &["--shards", "1", "--set", "net.connections_max=10001"]);
    let connect = || TcpStream::connect(("127.0.0.1", node.port)).expect("connected");
    let mut client = node.client();
    let idle: Vec<TcpStream> = (0..10_000).map(|_| connect()).collect();
    wait_until("all are accepted", || {
        (shard_column(&mut client, "connections") == ["10001"]).then_some(())
    });
    assert!(client.send("counter/a", b"1").is_ok());
    let told = said(&node, b"");
    assert!(told.starts_with("-ERR max number of clients reached"), "{told}");
    drop(idle);
    wait_until("they are gone", || {
        (shard_column(&mut client, "connections") == ["1"]).then_some(())
    });
}

#[test]
fn running_out_of_descriptors_is_survived() {
    if !have("prlimit") {
        return;
    }
    let node = Node::start(BINARY, &["--shards", "1"]);
    let mut client = node.client();
    let pid = shard_pids(&mut client)[0].to_string();
    let limited = std::process::Command::new("prlimit")
        .args(["--pid", &pid, "--nofile=40:40"])
        .status()
        .expect("prlimit runs");
    assert!(limited.success());
    let held: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(("127.0.0.1", node.port)).expect("queued")).collect();
    for _ in 0..20 {
        assert!(client.send("counter/a", b"1").is_ok(), "those that are in are served");
    }
    drop(held);
    wait_until("new connections get in again", || {
        let place = format!("127.0.0.1:{}", node.port);
        let mut late = Client::tcp(&place, Duration::from_millis(500)).ok()?;
        late.call(&[b"PING"]).ok()
    });
}

#[test]
fn a_port_or_folder_in_use_is_refused_at_the_start() {
    let node = Node::start(BINARY, &[]);
    let port = node.port.to_string();
    let taken = Node::fail(BINARY, &["--port", &port]);
    let told = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert_eq!(taken.status.code(), Some(1), "{told}");
    assert!(told.contains(&port), "{told}");
    let data = node.data_dir();
    let taken = Node::fail(BINARY, &["--data", data.to_str().expect("text")]);
    let told = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert_eq!(taken.status.code(), Some(1), "{told}");
    assert!(told.contains(&node.pid().to_string()), "{told}");
    assert!(node.client().send("counter/a", b"1").is_ok(), "the running node is untouched");
}

#[test]
fn without_io_uring_the_start_is_refused_with_the_remedy() {
    for runtime in ["uring", "glommio"] {
        let told = Node::fail_without_io_uring(BINARY, runtime);
        let text = String::from_utf8_lossy(&told.stderr).into_owned();
        assert_eq!(told.status.code(), Some(1), "{text}");
        assert!(text.contains("io_uring"), "{text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn a_wrong_config_is_named_with_its_line_and_range() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node.toml");
    std::fs::write(&path, "[shards]\ncount = 5000\nspin = 3\n").expect("written");
    let told = Node::fail(BINARY, &["--config", path.to_str().expect("text")]);
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(1), "{text}");
    for part in ["node.toml:2", "5000", "1024", "shards.spin_us"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// How many were done, and how many refused as busy.
fn count_busy(replies: &[Value]) -> (usize, usize) {
    let busy = |value: &&Value| matches!(value, Value::Error { code, .. } if code == "BUSY");
    let busy = replies.iter().filter(busy).count();
    (replies.len() - busy, busy)
}

#[test]
fn a_shard_that_keeps_ending_stays_down_and_the_other_serves() {
    let mut node = Node::start(BINARY, &["--set", "shards.restart_max=1"]);
    for round in 0..2 {
        // Through the socket that all shards share: a connection that waits at a shard's own TCP
        // listener is reset with it.
        let pid = wait_until("shard 1 is up", || {
            let mut client = Client::unix(&node.unix_socket(), PATIENCE).ok()?;
            client.hello(None).ok()?;
            let up = shard_column(&mut client, "state") == ["up", "up"];
            up.then(|| shard_pids(&mut client)[1])
        });
        send_signal(pid, Signal::KILL);
        node.await_log(if round == 0 { "shard 1 is up after" } else { "stays down" });
    }
    let mut client = Client::unix(&node.unix_socket(), PATIENCE).expect("connected");
    client.hello(None).expect("HELLO 3 is understood");
    assert_eq!(shard_column(&mut client, "state"), ["up", "down"]);
    let answers: Vec<String> = (0..20)
        .map(|n| match client.send(&format!("counter/{n}"), b"1") {
            Ok(_) => "OK".to_owned(),
            Err(error) => error.code().unwrap_or("?").to_owned(),
        })
        .collect();
    assert!(answers.iter().any(|a| a == "OK") && answers.iter().any(|a| a == "TRYAGAIN"));
}

#[test]
fn a_file_in_the_sockets_place_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mine");
    std::fs::write(&path, "precious").expect("written");
    let told = Node::fail(BINARY, &["--set", &format!("node.unix_socket={}", path.display())]);
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(1), "{text}");
    assert!(text.contains("mine"), "{text}");
    assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
}
