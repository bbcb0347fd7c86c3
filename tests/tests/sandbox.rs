//! Agents in Python and JavaScript over the wire: what a user sees of sandboxes on a whole node.
//!
//! Owns: the commands, restarts, neighbours, HTTP.  Not: rules of forks and faults in every case
//! (`shards/tests/sandbox_*.rs`), the example agents (`example_agents.rs`).
//! Skips where no interpreters were built.

use heronry_engine::Ack;
use heronry_engine::verb::Language;
use heronry_net::client::{Client, Deployment, ForkOptions, SendOptions};
use heronry_tests::guests::{
    cache_dir, deploy, deploy_example, example, exec, exec_refused, has_guests, say,
};
use heronry_tests::node::{Node, have, send_signal, wait_until};
use heronry_tests::rows::{shard_column, shard_pids};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::thread::JoinHandle;

const BINARY: &str = env!("CARGO_BIN_EXE_test-node");

/// Keeps what it is told, and whom it asked.
const KEEPER: &str = "
kept = []
async def on_message(ctx, message):
    if message == 'kept':
        return ' '.join(kept)
    kept.append(message)
    return len(kept)
";

/// `WAY KEY COUNT`: tells KEY the numbers to COUNT, by calls or by sends.
const TELLER: &str = "
async def on_message(ctx, message):
    way, key, count = message.split()
    for n in range(int(count)):
        if way == 'send':
            ctx.send(key, str(n))
        else:
            assert await ctx.call(key, str(n)) == str(n + 1)
    return 'told'
";

/// Sleeps, and tells the log how that ended.
const SLEEPER: &str = "
async def on_message(ctx, message):
    how = 'woke'
    try:
        await ctx.sleep(5)
    except Exception as error:
        how = type(error).__name__
    ctx.send('notebook/log', f'append {ctx.key} {how};')
    return how
";

fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {out}{err}", output.status);
    out.trim().to_owned()
}

#[test]
fn redis_cli_runs_code_rolls_it_back_and_talks_to_deployed_agents() {
    if !has_guests() || !have("redis-cli") {
        return;
    }
    let node = Node::start(BINARY, &[]);
    let cli = |args: &[&str]| text(&node.with_port("redis-cli", args));
    assert_eq!(cli(&["AGENT.EXEC", "python/a", "x = 1"]), "");
    cli(&["AGENT.CHECKPOINT", "python/a"]);
    assert_eq!(cli(&["AGENT.EXEC", "python/a", "x = 2"]), "");
    cli(&["AGENT.ROLLBACK", "python/a"]);
    assert_eq!(cli(&["AGENT.EXEC", "python/a", "print(x)"]), "1");
    assert_eq!(cli(&["AGENT.EXEC", "javascript/a", "globalThis.x = 1; x + 1"]), "2");
    for file in ["counter.py", "counter.js"] {
        let path = example(file).into_os_string().into_string().expect("a path in UTF-8");
        let name = file.replace('.', "-");
        assert_eq!(text(&node.cli(&["template", "deploy", &name, &path])), "1");
        let (agent, branch) = (format!("{name}/a"), format!("{name}/a~1"));
        assert_eq!(cli(&["AGENT.SEND", &agent, "hi"]), format!("hi is message 1 of {agent}"));
        assert_eq!(cli(&["AGENT.FORK", &agent]), branch);
        for key in [&branch, &agent] {
            assert_eq!(cli(&["AGENT.SEND", key, "ho"]), format!("ho is message 2 of {key}"));
        }
        assert!(cli(&["TEMPLATE.LIST"]).contains(&name));
    }
}

#[test]
fn the_command_line_prints_values_and_tracebacks() {
    if !has_guests() {
        return;
    }
    let node = Node::start(BINARY, &[]);
    let run = |code: &str| node.cli(&["agent", "exec", "python/a", code]);
    assert_eq!(text(&run("print('one'); 1 + 1")), "one\n2");
    let raised = run("y = 1\n1 / 0");
    assert_eq!(raised.status.code(), Some(1));
    let said = String::from_utf8_lossy(&raised.stderr).into_owned();
    assert!(said.starts_with("Traceback") && said.contains("ZeroDivisionError"), "{said}");
    assert_eq!(text(&run("y")), "1", "what ran before the exception stays, as in any REPL");
    let wrong = node.cli(&["template", "deploy", "wrong", "/nowhere/agent.py"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("/nowhere/agent.py"));
}

#[test]
fn bad_code_is_named_and_undone_and_its_neighbours_stay() {
    if !has_guests() {
        return;
    }
    let node = Node::start(BINARY, &["--set", "sandbox.turn_ms_max=300"]);
    let mut client = node.client();
    exec(&mut client, "python/good", "x = 1");
    for (code, names) in [
        ("1 +", "SyntaxError"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("bytearray(1 << 30)", "MemoryError"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("import os; os._exit(3)", "exited with code 3"),
        ("while True: pass", "of CPU"),
        ("import time; time.sleep(1)", "ctx.sleep"),
        ("import asyncio; await asyncio.Future()", "cannot come"),
        ("open('/etc/passwd')", "FileNotFoundError"),
        ("open('/new', 'w')", "Error"),
        ("import socket; socket.socket()", "no sockets"),
        ("import threading; threading.Thread(target=print).start()", "no threads"),
        ("import subprocess; subprocess.run(['ls'])", "not support processes"),
        ("await ctx.rollback('never')", "NOVERSION"),
        ("await ctx.call('nothing/a')", "NOTEMPLATE"),
        ("await ctx.http('GET', 'http://127.0.0.1:9/')", "http.allow"),
    ] {
        let (was, said) = exec_refused(&mut client, "python/bad", code);
        assert!(said.contains(names), "{code}: {was} {said}");
    }
    assert_eq!(exec(&mut client, "python/bad", "1 + 1"), "2\n");
    assert_eq!(exec(&mut client, "python/good", "x"), "1\n");
    let (code, said) = exec_refused(&mut client, "counter/a", "1");
    assert!(said.contains("no interpreter"), "{code} {said}");
    for (name, source, names) in [
        ("counter", "x = 1", "built in"),
        ("two words", "x = 1", "a-z"),
        ("bad", "def f(:", "SyntaxError"),
        ("bad", "raise ValueError('at deploy')", "at deploy"),
    ] {
        let (language, source) = (Language::Python, source.as_bytes());
        let wanted = Deployment { name, language, source, warm: None, activate: true };
        let error = client.deploy(wanted).expect_err("it cannot be deployed").to_string();
        assert!(error.contains(names), "{name}: {error}");
    }
}

#[test]
fn a_sleep_that_is_forked_wakes_in_the_parent_and_where_timers_are_kept() {
    if !has_guests() {
        return;
    }
    let node = Node::start(BINARY, &[]);
    let (mut client, mut waiting) = (node.client(), node.client());
    deploy(&mut client, "sleeper", Language::Python, SLEEPER);
    let slept = std::thread::spawn(move || say(&mut waiting, "sleeper/a", "go"));
    wait_until("it sleeps", || {
        let info = client.info("sleeper/a").ok()?;
        (info.turn_count > 0).then_some(())
    });
    client.fork("sleeper/a", ForkOptions::default()).expect("a branch");
    let kept = ForkOptions { suffix: Some("kept"), keep_timers: true, ..ForkOptions::default() };
    client.fork("sleeper/a", kept).expect("a branch");
    assert_eq!(slept.join().expect("no panic"), "woke");
    let lines = wait_until("all three have told", || {
        let log = say(&mut client, "notebook/log", "read");
        (log.matches(';').count() >= 3).then_some(log)
    });
    let mut lines: Vec<&str> = lines.trim_end_matches(';').split(';').collect();
    lines.sort_unstable();
    assert_eq!(lines, ["sleeper/a woke", "sleeper/a~1 Forked", "sleeper/a~kept woke"]);
}

#[test]
fn agents_tell_each_other_across_shards_in_order_and_exactly_once() {
    if !has_guests() {
        return;
    }
    let node = Node::start(BINARY, &[]);
    let mut client = node.client();
    deploy(&mut client, "keeper", Language::Python, KEEPER);
    deploy(&mut client, "teller", Language::Python, TELLER);
    let expected = (0..30).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    let mut crossed = 0;
    for n in 0..8 {
        for way in ["call", "send"] {
            let (teller, keeper) = (format!("teller/{way}{n}"), format!("keeper/{way}{n}"));
            assert_eq!(say(&mut client, &teller, &format!("{way} {keeper} 30")), "told");
            let kept = wait_until("all has arrived", || {
                let kept = say(&mut client, &keeper, "kept");
                (kept.split(' ').count() >= 30).then_some(kept)
            });
            assert_eq!(kept, expected, "{way} {n}");
            let shard_of =
                |client: &mut Client, key: &str| client.info(key).expect("it lives").shard;
            crossed +=
                usize::from(shard_of(&mut client, &teller) != shard_of(&mut client, &keeper));
        }
    }
    assert!(crossed > 0, "some pair must be on two shards");
}

#[test]
fn an_endless_turn_does_not_stop_the_agents_beside_it() {
    if !has_guests() {
        return;
    }
    let node = Node::start(BINARY, &["--shards", "1", "--set", "sandbox.turn_ms_max=3600000"]);
    let mut client = node.client();
    exec(&mut client, "python/quick", "n = 0");
    let mut endless = TcpStream::connect(("127.0.0.1", node.port)).expect("connected");
    let request = b"*3\r\n$10\r\nAGENT.EXEC\r\n$11\r\npython/busy\r\n$16\r\nwhile True: pass\r\n";
    endless.write_all(request).expect("written");
    let busy = |client: &mut Client| shard_column(client, "busy_ns")[0].parse::<u64>().expect("ns");
    let before = busy(&mut client);
    // Nothing else runs, so only the loop can keep the shard busy for this long.
    wait_until("the loop runs", || (busy(&mut client) > before + 300_000_000).then_some(()));
    for n in 1..=20 {
        assert_eq!(exec(&mut client, "python/quick", "n += 1; n"), format!("{n}\n"));
    }
    endless.set_nonblocking(true).expect("a socket");
    let unanswered = endless.read(&mut [0; 64]).expect_err("the loop has no end");
    assert_eq!(unanswered.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_restarted_shard_knows_the_templates_and_their_agents() {
    if !has_guests() {
        return;
    }
    let mut node = Node::start(BINARY, &["--set", "log.ack=durable"]);
    let mut client = node.client();
    deploy_example(&mut client, "counter-py", "counter.py");
    let keys: Vec<String> = (0..12).map(|n| format!("counter-py/{n}")).collect();
    for key in &keys {
        assert_eq!(say(&mut client, key, "a"), format!("a is message 1 of {key}"));
    }
    let branch = &client.fork(&keys[0], ForkOptions::default()).expect("forked")[0].to_string();
    for pid in shard_pids(&mut client) {
        send_signal(pid, Signal::KILL);
    }
    node.await_logs(&["shard 0 is up after", "shard 1 is up after"]);
    let mut client = node.client();
    for key in keys.iter().chain([branch]) {
        assert_eq!(say(&mut client, key, "b"), format!("b is message 2 of {key}"));
    }
}

/// A request that waits for a sleep is answered once, although its shard dies in between: the retry
/// under its id gets the answer of the turn that had begun.
#[test]
fn an_agent_in_the_middle_of_a_sleep_outlives_its_shard() {
    if !has_guests() {
        return;
    }
    let source = "
naps = 0
async def on_message(ctx, message):
    global naps
    if message == 'nap':
        await ctx.sleep(2)
        naps += 1
    return str(naps)
";
    let mut node = Node::start(BINARY, &["--set", "log.ack=durable"]);
    let mut client = node.client();
    deploy(&mut client, "napper", Language::Python, source);
    assert_eq!(say(&mut client, "napper/a", "look"), "0");
    let mut sleeping = TcpStream::connect(("127.0.0.1", node.port)).expect("connected");
    let nap = "AGENT.SEND napper/a nap ID nap-1\r\n";
    sleeping.write_all(nap.as_bytes()).expect("asked");
    // What is asked after it, and is durable, says that the nap has begun and is on disk.
    wait_until("a nap that has begun", || {
        let busy = client.info("napper/a").expect("it lives").turn_count >= 2;
        busy.then_some(())
    });
    assert_eq!(say(&mut client, "napper/a", "look"), "0");
    for pid in shard_pids(&mut client) {
        send_signal(pid, Signal::KILL);
    }
    node.await_logs(&["shard 0 is up after", "shard 1 is up after"]);
    let mut client = node.client();
    let options = SendOptions { request_id: Some(b"nap-1"), ..SendOptions::default() };
    let reply = client.send_with("napper/a", b"nap", options).expect("answered");
    assert_eq!(reply, Some("1".into()));
    assert_eq!(say(&mut client, "napper/a", "look"), "1");
}

/// More agents sleep than memory has room for: those that had to go to disk come back, each wakes
/// once, and whoever waits for its answer gets it.
#[test]
fn sleepers_that_memory_has_no_room_for_wake_once_and_answer() {
    if !has_guests() {
        return;
    }
    const COUNT: usize = 200;
    // No two of them are the same.
    let source = "
import secrets
ballast = None
naps = 0
async def on_message(ctx, message):
    global ballast, naps
    if message == 'naps':
        return str(naps)
    ballast = secrets.token_bytes(128 << 10)
    await ctx.sleep(5)
    naps += 1
    return 'woke'
";
    let node = Node::start(BINARY, &["--set", "shards.arena_bytes=16MiB"]);
    let mut client = node.client();
    deploy(&mut client, "sleeper", Language::Python, source);
    let mut asking = TcpStream::connect(("127.0.0.1", node.port)).expect("connected");
    for number in 0..COUNT {
        writeln!(asking, "AGENT.SEND sleeper/{number} go\r").expect("asked");
    }
    let mut answers = BufReader::new(asking).lines();
    for number in 0..COUNT {
        let length = answers.next().expect("an answer").expect("text");
        assert_eq!(length, "$4", "sleeper/{number}");
        assert_eq!(answers.next().expect("an answer").expect("text"), "woke", "sleeper/{number}");
    }
    for number in 0..COUNT {
        let key = format!("sleeper/{number}");
        assert_eq!(say(&mut client, &key, "naps"), "1", "{key}");
    }
    for counter in ["evictions", "wakes"] {
        let counts = shard_column(&mut client, counter);
        assert!(counts.iter().any(|count| count != "0"), "{counter}: {counts:?}");
    }
}

#[test]
fn a_turn_of_many_slices_ends_in_the_place_of_idle_agents() {
    if !has_guests() {
        return;
    }
    // What a message asks for no other agent has, and takes a turn of several slices; two agents
    // of 6 MB fit.
    let source = "
import os
turns = 0
ballast = b''
async def on_message(ctx, message):
    global turns, ballast
    turns += 1
    sum(n * n for n in range(300_000))
    ballast = os.urandom(int(message))
    ctx.send('counter/log', '1')
    return f\"{turns} {await ctx.call('echo/back', 'said')}\"
";
    let node =
        Node::start(BINARY, &["--set", "shards.count=1", "--set", "shards.arena_bytes=16MiB"]);
    let mut client = node.client();
    deploy(&mut client, "heavy", Language::Python, source);
    let durable = SendOptions { ack: Ack::Durable, request_id: None, timeout_ms: None };
    for (key, turns) in [("heavy/a", 1), ("heavy/b", 1), ("heavy/c", 1), ("heavy/a", 2)] {
        let said = client.send_with(key, b"6000000", durable).expect("there is room");
        assert_eq!(said.as_deref(), Some(format!("{turns} said").as_bytes()), "{key}");
    }
    // One that is too large for the arena leaves nothing, and the agent as it was.
    let error = client.send_with("heavy/a", b"20000000", durable).expect_err("no room").to_string();
    assert!(error.contains("FULL"), "{error}");
    // Each turn has had its effects once, the failed one none.
    assert_eq!(say(&mut client, "counter/log", "0"), "4");
    for (key, turns) in [("heavy/a", 2), ("heavy/b", 1), ("heavy/c", 1)] {
        let said = exec(&mut client, key, "turns, len(ballast)");
        assert_eq!(said, format!("({turns}, 6000000)\n"), "{key}");
    }
}

#[test]
fn activate_leaves_agents_on_the_number_they_were_made_from() {
    if !has_guests() {
        return;
    }
    let node = Node::start(BINARY, &[]);
    let mut client = node.client();
    let version = |number: u32| format!("def on_message(ctx, message): return {number}");
    assert_eq!(deploy(&mut client, "v", Language::Python, &version(1)), 1);
    assert_eq!(say(&mut client, "v/old", ""), "1");
    let source = version(2);
    let (name, language, source) = ("v", Language::Python, source.as_bytes());
    let second = Deployment { name, language, source, warm: None, activate: false };
    assert_eq!(client.deploy(second).expect("deployed"), 2);
    assert_eq!(say(&mut client, "v/waits", ""), "1");
    client.activate("v", 2).expect("activated");
    assert_eq!(say(&mut client, "v/new", ""), "2");
    client.fork("v/old", ForkOptions::default()).expect("a branch");
    for key in ["v/old", "v/waits", "v/old~1"] {
        assert_eq!(say(&mut client, key, ""), "1", "{key}");
    }
    client.activate("v", 1).expect("back");
    assert_eq!(say(&mut client, "v/third", ""), "1");
    let error = client.activate("v", 3).expect_err("no such number").to_string();
    assert!(error.contains("1, 2"), "{error}");
}

/// A node whose data and compiled modules are in folders that outlive it.
fn start_at(folder: &Path) -> Node {
    let data = folder.join("data").into_os_string().into_string().expect("UTF-8");
    let cache = format!("sandbox.cache_dir={}", folder.join("modules").display());
    Node::start(BINARY, &["--data", &data, "--set", &cache])
}

fn stop(mut node: Node) {
    node.signal(Signal::TERM);
    assert!(node.wait().success());
}

/// Turns one byte of a file over.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_restarted_node_knows_its_templates_and_refuses_what_was_tampered_with() {
    if !has_guests() {
        return;
    }
    // Makes sure that the interpreters are compiled once for all tests.
    stop(Node::start(BINARY, &[]));
    let folder = tempfile::tempdir().expect("a folder");
    let modules = folder.path().join("modules");
    fs::create_dir(&modules).expect("a folder");
    fs::set_permissions(&modules, fs::Permissions::from_mode(0o700)).expect("ours");
    for entry in fs::read_dir(cache_dir().join("modules")).expect("the cache") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), modules.join(entry.file_name())).expect("copied");
    }
    let node = start_at(folder.path());
    let mut client = node.client();
    for (name, number) in [("a", 1), ("a", 2), ("b", 1)] {
        let source = format!("def on_message(ctx, message): return '{name}{number}'");
        assert_eq!(deploy(&mut client, name, Language::Python, &source), number);
    }
    client.activate("a", 1).expect("activated");
    stop(node);

    let node = start_at(folder.path());
    let mut client = node.client();
    assert_eq!([say(&mut client, "a/x", ""), say(&mut client, "b/x", "")], ["a1", "b1"]);
    exec(&mut client, "a/kept", "kept = [str(n) for n in range(1000)]");
    let built = folder.path().join("data/templates/a/1/template.heron");
    let template = fs::read(&built).expect("a template");
    stop(node);

    damage(&folder.path().join("data/templates/b/1/template.heron"));
    let mut node = start_at(folder.path());
    let said = node.await_log("template \"b\", number 1, is left out");
    assert!(said.contains("deploy it again"), "{said}");
    let mut client = node.client();
    assert_eq!(say(&mut client, "a/x", ""), "a1");
    assert_eq!(client.send("b/x", b"").expect_err("it is gone").code(), Some("NOTEMPLATE"));
    stop(node);

    for entry in fs::read_dir(&modules).expect("the cache") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "cwasm") {
            damage(&path);
        }
    }
    let mut node = start_at(folder.path());
    let said = node.await_log("is not what was signed for this module");
    assert!(said.contains("\"a\"") && said.contains("is compiled again"), "{said}");
    let mut client = node.client();
    // What was tampered with did not run; the module was compiled again.
    assert_eq!(say(&mut client, "a/x", ""), "a1");
    stop(node);

    // The same when the cache was emptied.
    fs::remove_dir_all(&modules).expect("emptied");
    let node = start_at(folder.path());
    let mut client = node.client();
    assert_eq!(say(&mut client, "a/x", ""), "a1");
    // What agents have on disk rests on the memory of their template: that is not built again.
    assert!(fs::read(&built).expect("a template") == template);
    assert_eq!(exec(&mut client, "a/kept", "len(kept), kept[-1]"), "(1000, '999')\n");
    // A module that is deployed again is compiled again, and signed.
    let source = "def on_message(ctx, message): return 'again'";
    deploy(&mut client, "again", Language::Python, source);
    assert_eq!(say(&mut client, "again/x", ""), "again");
}

const SECRET: &str = "9f86d081884c7d65";

/// Answers one request with its own text, which it returns as well.
fn echo_once(listener: TcpListener) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a request");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a whole head");
            request.push(byte[0]);
        }
        let length = request.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("answered");
        stream.write_all(&request).expect("answered");
        String::from_utf8(request).expect("text")
    })
}

#[test]
fn http_goes_to_allowed_hosts_only_and_secrets_never_reach_the_agent() {
    if !has_guests() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let secrets = folder.path().join("secrets.toml");
    fs::write(&secrets, format!("token = \"{SECRET}\"\n")).expect("written");
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).expect("ours");
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let server = echo_once(listener);
    let allow = format!("http.allow=127.0.0.1:{port}");
    let file = format!("http.secrets_file={}", secrets.display());
    let node = Node::start(BINARY, &["--set", &allow, "--set", &file]);
    let mut client = node.client();
    let (code, said) =
        exec_refused(&mut client, "python/a", "await ctx.http('GET', 'http://127.0.0.1:1/')");
    assert!(said.contains("http.allow"), "{code} {said}");
    let asked = format!(
        "r = await ctx.http('GET', 'http://127.0.0.1:{port}/path',
            headers={{'authorization': 'Bearer {{{{secret:token}}}}'}}, secrets=['token'])
print(r.status, r.text)"
    );
    let answer = exec(&mut client, "python/a", &asked);
    let request = server.join().expect("one request");
    assert!(request.starts_with("GET /path "), "{request}");
    assert!(request.contains(&format!("Bearer {SECRET}")), "{request}");
    assert!(request.contains("idempotency-key: "), "{request}");
    assert!(answer.starts_with("200 GET /path"), "{answer}");
    assert!(answer.contains("Bearer {{secret:token}}"), "{answer}");
    let mut image = Vec::new();
    loop {
        let part = client.read("python/a", image.len() as u64, 1 << 20).expect("readable");
        if part.is_empty() {
            break;
        }
        image.extend_from_slice(&part);
    }
    let has = |needle: &str| image.windows(needle.len()).any(|part| part == needle.as_bytes());
    assert!(has("secret:token"), "the image holds the response");
    assert!(!has(SECRET), "the image holds no secret");
}
