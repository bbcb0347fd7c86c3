//! Sessions held to their invariants: order, pauses, authentication, closing; and every command.
//!
//! Owns: what a client sees of a gateway, answers coming in any order.
//! Not: sockets, the engine; a fake node answers.

#[path = "fake/node.rs"]
mod node;

use bytes::Bytes;
use heronry_engine::verb::{Errand, Language, Target};
use heronry_engine::{Ack, Nanos, Refusal, Reply, ShardId, Verb, VersionId, VersionRef};
use heronry_net::resp::encode::encode_request;
use heronry_net::resp::{ReplyDecoder, Value};
use heronry_net::{COMMANDS, RespConfig};
use heronry_shards::gateway::{Ask, Gateway};
use node::{Peer, answer_to};
use proptest::prelude::*;

fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_request(&mut bytes, words);
    bytes
}

fn send(payload: &str) -> Vec<u8> {
    request(&[b"AGENT.SEND", b"echo/a", payload.as_bytes()])
}

fn values(bytes: &[u8]) -> Vec<Value> {
    let mut decoder = ReplyDecoder::default();
    decoder.push(bytes);
    let mut values = Vec::new();
    while let Some(value) = decoder.next_reply().expect("well formed") {
        values.push(value);
    }
    assert!(!decoder.unfinished(), "whole replies");
    values
}

fn peer() -> Peer {
    Peer::new(RespConfig::default())
}

proptest! {
    // A failure prints its smallest input, which becomes a test of its own.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// S1: sends, pings and gathers mixed; answers in random order; output is in command order.
    #[test]
    fn s1_replies_leave_in_the_order_of_commands(
        kinds in prop::collection::vec(0u8..4, 1..40),
        seed in any::<u64>(),
        early in any::<bool>(),
    ) {
        let mut peer = peer();
        let mut expected = Vec::new();
        let mut open: Vec<Ask> = Vec::new();
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut output = Vec::new();
        for (n, kind) in kinds.into_iter().enumerate() {
            let text = n.to_string();
            let payload = Value::Bulk(Bytes::from(text.clone()));
            match kind {
                0 => {
                    peer.receive(&request(&[b"ECHO", text.as_bytes()]));
                    expected.push(payload);
                }
                1 => {
                    peer.receive(b"AGENT.HOTTEST COUNT 2\r\n");
                    let row = |key: &'static str, turns| Value::Array(vec![
                        Value::Bulk(Bytes::from_static(key.as_bytes())), Value::Integer(turns),
                    ]);
                    expected.push(Value::Array(vec![row("echo/2-3", 32), row("echo/1-3", 31)]));
                }
                _ => {
                    peer.receive(&send(&text));
                    expected.push(payload);
                }
            }
            open.append(&mut peer.asks);
            if early && !open.is_empty() && n % 3 == 0 {
                let ask = open.swap_remove(rng.usize(..open.len()));
                peer.answer(ask.seq, answer_to(&ask));
                output.append(&mut peer.output());
            }
        }
        while !open.is_empty() {
            let ask = open.swap_remove(rng.usize(..open.len()));
            peer.answer(ask.seq, answer_to(&ask));
            output.append(&mut peer.output());
        }
        output.append(&mut peer.output());
        prop_assert_eq!(values(&output), expected);
    }

    /// N1: however small the bounds and however the bytes are cut, nothing is lost or reordered,
    /// and no more than the bounds is ever unanswered.
    #[test]
    fn n1_a_pause_loses_nothing(
        count in 1usize..60,
        pipeline_max in 1usize..8,
        chunk_bytes in 1usize..300,
        answer_each in 1usize..5,
    ) {
        let config = RespConfig { pipeline_max, output_bytes_max: 400, ..RespConfig::default() };
        let mut peer = Peer::new(config);
        let stream: Vec<u8> = (0..count).flat_map(|n| send(&n.to_string())).collect();
        let mut open: std::collections::VecDeque<Ask> = Default::default();
        let mut output = Vec::new();
        for chunk in stream.chunks(chunk_bytes) {
            peer.receive(chunk);
            open.extend(peer.asks.drain(..));
            prop_assert!(open.len() <= pipeline_max, "N1: {} unanswered", open.len());
            for _ in 0..answer_each {
                let Some(ask) = open.pop_front() else { break };
                peer.answer(ask.seq, answer_to(&ask));
                output.append(&mut peer.output());
                peer.resume();
                open.extend(peer.asks.drain(..));
                prop_assert!(open.len() <= pipeline_max, "N1: {} unanswered", open.len());
            }
        }
        while let Some(ask) = open.pop_back() {
            peer.answer(ask.seq, answer_to(&ask));
            output.append(&mut peer.output());
            peer.resume();
            open.extend(peer.asks.drain(..));
        }
        let expected: Vec<Value> =
            (0..count).map(|n| Value::Bulk(Bytes::from(n.to_string()))).collect();
        prop_assert_eq!(values(&output), expected);
        prop_assert!(!peer.paused());
    }
}

#[test]
fn n1_unsent_output_pauses_and_half_of_it_resumes() {
    let config = RespConfig { output_bytes_max: 1000, ..RespConfig::default() };
    let mut peer = Peer::new(config);
    let stream: Vec<u8> = (0..200).flat_map(|_| request(&[b"ECHO", &[b'x'; 90]])).collect();
    peer.receive(&stream);
    assert!(peer.paused(), "N1");
    let mut output = peer.output();
    assert!((1000..1200).contains(&output.len()), "{}", output.len());
    let mut rounds = 0;
    while !peer.paused() && rounds < 100 {
        peer.resume();
        output.append(&mut peer.output());
        rounds += 1;
    }
    assert_eq!(values(&output).len(), 200);
}

#[test]
fn n1_what_arrives_in_a_pause_waits_for_half() {
    let config = RespConfig { pipeline_max: 8, ..RespConfig::default() };
    let mut peer = Peer::new(config);
    peer.receive(&(0..8).flat_map(|_| send("x")).collect::<Vec<u8>>());
    let asks = std::mem::take(&mut peer.asks);
    assert_eq!((asks.len(), peer.paused()), (8, true));
    for ask in &asks[..3] {
        peer.answer(ask.seq, answer_to(ask));
    }
    peer.receive(&send("y"));
    assert!(peer.asks.is_empty() && peer.paused(), "5 of 8 are more than half");
    peer.answer(asks[3].seq, answer_to(&asks[3]));
    assert!(!peer.paused());
    peer.resume();
    assert_eq!(peer.asks.len(), 1);
}

#[test]
fn n1_reads_count_before_they_are_answered() {
    let config = RespConfig { output_bytes_max: 100_000, ..RespConfig::default() };
    let mut peer = Peer::new(config);
    let stream: Vec<u8> =
        (0..50).flat_map(|_| request(&[b"AGENT.READ", b"echo/a", b"0", b"30000"])).collect();
    peer.receive(&stream);
    assert!(peer.paused());
    assert_eq!(peer.asks.len(), 4, "four answers of 30000 bytes pass the bound");
}

#[test]
fn a_send_becomes_an_ask_with_its_options() {
    let mut peer = peer();
    peer.receive(b"agent.send Echo/a hello id r-1 TIMEOUT 250 ack DURABLE\r\n");
    let ask = peer.asks.pop().expect("one ask");
    let Target::Agent { key, id, tenant } = &ask.target else { panic!("an agent") };
    assert_eq!((key.as_str(), *id), ("Echo/a", key.id(*tenant)));
    let payload = Bytes::from_static(b"hello");
    let request_id = Some(Bytes::from_static(b"r-1"));
    assert_eq!(ask.verb, Verb::Send { payload, request_id });
    assert_eq!(ask.ack, Ack::Durable);
    assert_eq!(ask.deadline, Some(Nanos(1_250_000_000)));
}

#[test]
fn versions_are_numbers_or_labels() {
    let mut peer = peer();
    peer.receive(b"AGENT.DIFF e/a @base 12\r\nAGENT.ROLLBACK e/a TO @base\r\n");
    peer.receive(b"AGENT.FORK e/a COUNT 3 AT 2\r\nAGENT.FORK e/a AS x\r\n");
    let label = || VersionRef::Label(Bytes::from_static(b"base"));
    let number = |n| VersionRef::Id(VersionId(n));
    let verbs: Vec<Verb> = peer.asks.drain(..).map(|ask| ask.verb).collect();
    let suffix = Some(Bytes::from_static(b"x"));
    assert_eq!(
        verbs,
        [
            Verb::Diff { from: label(), to: Some(number(12)) },
            Verb::Rollback { to: Some(label()) },
            Verb::Fork { count: 3, at: Some(number(2)), suffix: None, keep_timers: false },
            Verb::Fork { count: 1, at: None, suffix, keep_timers: false },
        ]
    );
}

#[test]
fn a2_a_list_walks_all_shards_and_ends() {
    let mut peer = peer();
    let mut cursor = "0".to_owned();
    let mut keys = Vec::new();
    for page in 0.. {
        assert!(page < 7, "A2: the walk ends");
        let reply = peer.say(&["AGENT.LIST", "CURSOR", &cursor, "COUNT", "5"]);
        let reply = values(reply.as_bytes()).remove(0);
        let parts = reply.as_slice().expect("cursor and keys").to_vec();
        keys.extend(
            parts[1].as_slice().expect("keys").iter().map(|k| k.as_str().unwrap().to_owned()),
        );
        cursor = parts[0].as_str().expect("a cursor").to_owned();
        if cursor == "0" {
            break;
        }
    }
    let on = |shard: u8| ["0", "5"].map(|cursor| format!("echo/on-{shard}-{cursor}"));
    assert_eq!(keys, [on(0), on(1), on(2)].concat());
    assert!(
        peer.say(&["AGENT.LIST", "CURSOR", "3"]).starts_with("-BADVALUE CURSOR is one of shard 3")
    );
    assert!(peer.say(&["AGENT.LIST", "CURSOR", "-1"]).starts_with("-BADVALUE CURSOR is '-1'"));
}

#[test]
fn a_gather_goes_on_without_shards_that_are_down() {
    let mut peer = peer();
    peer.receive(b"AGENT.HOTTEST COUNT 1\r\nPING\r\n");
    let asks = std::mem::take(&mut peer.asks);
    let down = Refusal::TryAgain { shard: ShardId(2) };
    peer.answer(asks[2].seq, Err(down.clone()));
    peer.answer(asks[1].seq, answer_to(&asks[1]));
    assert!(peer.output().is_empty(), "S1: PING waits for HOTTEST");
    peer.answer(asks[0].seq, answer_to(&asks[0]));
    assert_eq!(peer.output(), b"*1\r\n*2\r\n$8\r\necho/1-3\r\n:31\r\n+PONG\r\n");
    peer.receive(b"AGENT.HOTTEST\r\n");
    for ask in std::mem::take(&mut peer.asks) {
        peer.answer(ask.seq, Err(down.clone()));
    }
    assert!(peer.output().starts_with(b"-TRYAGAIN shard 2"), "none answered");
}

#[test]
fn s2_a_reply_has_the_protocol_of_its_command() {
    let mut peer = peer();
    peer.receive(&[send("a"), b"HELLO 3\r\n".to_vec(), send("b")].concat());
    let asks = std::mem::take(&mut peer.asks);
    peer.answer(asks[1].seq, Ok(Reply::Payload(None)));
    peer.answer(asks[0].seq, Ok(Reply::Payload(None)));
    let output = String::from_utf8(peer.output()).expect("ASCII");
    assert!(output.starts_with("$-1\r\n%7\r\n$6\r\nserver\r\n$7\r\nheronry\r\n"), "{output}");
    assert!(output.ends_with("_\r\n"), "{output}");
}

#[test]
fn client_reply_silences_and_skips() {
    let mut peer = peer();
    assert_eq!(peer.say(&["CLIENT", "REPLY", "SKIP"]), "");
    assert_eq!(peer.say(&["AGENT.SEND", "echo/a", "x"]), "");
    assert_eq!(peer.say(&["PING"]), "+PONG\r\n");
    assert_eq!(peer.say(&["CLIENT", "REPLY", "OFF"]), "");
    for words in [&["PING"][..], &["NOSUCH"], &["AGENT.SEND", "echo/a", "x"], &["ECHO"]] {
        assert_eq!(peer.say(words), "");
    }
    assert_eq!(peer.say(&["CLIENT", "REPLY", "ON"]), "+OK\r\n");
    assert_eq!(peer.say(&["AGENT.SEND", "echo/a", "x"]), "$1\r\nx\r\n");
}

#[test]
fn n2_nothing_runs_before_the_password() {
    let config = RespConfig { password: "secret".into(), ..RespConfig::default() };
    let mut peer = Peer::new(config);
    for words in [&["PING"][..], &["AGENT.SEND", "echo/a", "x"], &["NOSUCH"], &["AGENT.READ"]] {
        assert!(peer.say(words).starts_with("-NOAUTH "), "N2: {words:?}");
    }
    assert!(peer.say(&["HELLO", "3"]).starts_with("-NOAUTH "));
    assert!(peer.say(&["AUTH", "wrong"]).starts_with("-WRONGPASS "));
    assert!(peer.say(&["AUTH", "root", "secret"]).starts_with("-WRONGPASS "));
    assert!(peer.say(&["HELLO", "3", "AUTH", "default", "no"]).starts_with("-WRONGPASS "));
    assert!(peer.say(&["PING"]).starts_with("-NOAUTH "));
    assert_eq!(peer.say(&["AUTH", "secret"]), "+OK\r\n");
    assert_eq!(peer.say(&["PING"]), "+PONG\r\n");
    assert_eq!(peer.say(&["RESET"]), "+RESET\r\n");
    assert!(peer.say(&["PING"]).starts_with("-NOAUTH "));
    let hello = peer.say(&["HELLO", "3", "AUTH", "default", "secret", "SETNAME", "me"]);
    assert!(hello.starts_with("%7\r\n"), "{hello}");
    assert_eq!(peer.say(&["CLIENT", "GETNAME"]), "$2\r\nme\r\n");
    // A stranger cannot make the node hold much.
    let mut stranger = peer.gateway.open();
    let big = b"*2\r\n$4\r\nAUTH\r\n$20000\r\n";
    peer.gateway.receive(&mut stranger, big, &peer.node, &mut peer.asks);
    let output = peer.gateway.output(&mut stranger).clone();
    assert!(output.starts_with(b"-ERR Protocol error: invalid bulk length: 20000"));
    assert!(peer.gateway.closing(&stranger));
}

#[test]
fn without_a_password_auth_says_so() {
    let mut peer = peer();
    assert!(peer.say(&["AUTH", "x"]).starts_with("-ERR AUTH called without any password"));
    assert_eq!(peer.say(&["AUTH", "default", "x"]), "+OK\r\n");
}

#[test]
fn a_protocol_error_closes_after_the_replies_before_it() {
    let mut peer = peer();
    peer.receive(&[send("a"), b"*1\r\n!".to_vec(), send("never")].concat());
    assert_eq!(peer.asks.len(), 1, "nothing after the error is decoded");
    assert!(!peer.closing(), "S1: the first reply is still to come");
    let ask = peer.asks.remove(0);
    peer.answer(ask.seq, answer_to(&ask));
    assert!(peer.closing());
    let output = peer.output();
    assert_eq!(output, b"$1\r\na\r\n-ERR Protocol error: expected '$', got '!' at byte 4\r\n");
    peer.receive(&send("late"));
    assert!(peer.asks.is_empty() && peer.output().is_empty());
}

#[test]
fn quit_closes_after_the_replies_before_it() {
    let mut peer = peer();
    peer.receive(&[send("a"), b"QUIT\r\nPING\r\n".to_vec()].concat());
    assert!(!peer.closing());
    let ask = peer.asks.remove(0);
    peer.answer(ask.seq, answer_to(&ask));
    assert_eq!(peer.output(), b"$1\r\na\r\n+OK\r\n");
    assert!(peer.closing());
}

#[test]
fn a_connection_too_many_is_told_and_closed() {
    let mut peer = peer();
    let mut session = peer.gateway.refuse(10);
    let expected = b"-ERR max number of clients reached (net.connections_max: 10)\r\n";
    assert_eq!(peer.gateway.output(&mut session), expected);
    assert!(peer.gateway.closing(&session));
}

/// Commands with a mistake, and how it is named.
const MISTAKES: &[(&[&str], &str)] = &[
    (
        &["AGENT.SNED", "a/b", "c"],
        "-ERR unknown command 'AGENT.SNED'; did you mean AGENT.SEND? COMMAND LIST names all",
    ),
    (&["frobnicate"], "-ERR unknown command 'frobnicate'; COMMAND LIST names all"),
    (
        &["agent.send", "a/b"],
        "-ERR wrong number of arguments for 'agent.send' (1 given); usage: AGENT.SEND key \
             payload [ID id] [TIMEOUT ms] [ACK sealed|durable]",
    ),
    (
        &["AGENT.SEND", "a/b", "c", "TIMEUT", "1"],
        "-ERR unknown option 'TIMEUT' of AGENT.SEND; did you mean TIMEOUT? usage: AGENT.SEND",
    ),
    (
        &["AGENT.SEND", "a/b", "c", "TIMEOUT"],
        "-ERR option TIMEOUT of AGENT.SEND has no value; usage: ",
    ),
    (
        &["AGENT.SEND", "a/b", "c", "ID", "x", "ID", "y"],
        "-ERR option ID of AGENT.SEND is given twice; usage: ",
    ),
    (
        &["AGENT.FORK", "a/b", "COUNT", "2", "AS", "x"],
        "-ERR option AS of AGENT.FORK excludes COUNT; usage: AGENT.FORK key \
             [COUNT n | AS suffix] [AT version]",
    ),
    (
        &["AGENT.SEND", "a/b", "c", "TIMEOUT", "0"],
        "-BADVALUE TIMEOUT is '0'; allowed: a whole number, 1 to 86400000",
    ),
    (
        &["AGENT.SEND", "a/b", "c", "ACK", "soon"],
        "-BADVALUE ACK is 'soon'; allowed: sealed, durable",
    ),
    (&["AGENT.SEND", "a/b", "c", "ID", ""], "-BADVALUE ID is ''; allowed: 1 to 64 bytes"),
    (&["AGENT.SEND", "nokey", "c"], "-BADKEY bad key \"nokey\": a key is template/name"),
    (
        &["AGENT.READ", "a/b", "x", "1"],
        "-BADVALUE offset is 'x'; allowed: a whole number, 0 to 4294967296",
    ),
    (
        &["AGENT.READ", "a/b", "0", "9999999999"],
        "-BADVALUE length is '9999999999'; allowed: a whole number, 0 to 8388608",
    ),
    (
        &["AGENT.WRITE", "a/b", "4294967295", "ab"],
        "-BADVALUE offset is '4294967295'; allowed: a whole number, 0 to 4294967294",
    ),
    (
        &["AGENT.FORK", "a/b", "COUNT", "10001"],
        "-BADVALUE COUNT is '10001'; allowed: a whole number, 1 to 10000",
    ),
    (&["AGENT.FORK", "a/b", "AS", "x~y"], "-BADVALUE AS is 'x~y'; allowed: a name without ~"),
    (
        &["AGENT.ROLLBACK", "a/b", "TO", "0"],
        "-BADVALUE version is '0'; allowed: a number from 1, or @label of 1 to 63 bytes",
    ),
    (
        &["AGENT.CHECKPOINT", "a/b", "LABEL", "a b"],
        "-BADVALUE LABEL is 'a b'; allowed: 1 to 63 bytes of visible ASCII without spaces",
    ),
    (&["SELECT", "1"], "-BADVALUE index is '1'; allowed: 0, the only database"),
    (&["HELLO", "4"], "-NOPROTO unsupported protocol version '4'; 2 and 3 are"),
    (
        &["HELLO", "3", "SETNME", "x"],
        "-ERR syntax error at 'SETNME'; did you mean SETNAME? usage: HELLO",
    ),
    (
        &["CLIENT", "SETNAM", "x"],
        "-ERR unknown subcommand 'SETNAM' of CLIENT; did you mean SETNAME? it has SETNAME, ",
    ),
    (&["CLIENT"], "-ERR wrong number of arguments for 'client' (0 given); usage: CLIENT"),
    (
        &["CLIENT", "SETNAME"],
        "-ERR wrong number of arguments for 'client|setname' (0 given); usage: CLIENT SETNAME",
    ),
    (&["CLIENT", "SETNAME", "a b"], "-BADVALUE name is 'a b'; allowed: up to 255 bytes"),
    (&["COMMAND", "GETKEYS", "PING"], "-ERR PING has no key arguments"),
];

#[test]
fn mistakes_are_named_with_the_grammar_and_the_nearest_word() {
    let mut peer = peer();
    for (words, expected) in MISTAKES {
        let reply = peer.say(words);
        assert!(reply.starts_with(expected), "{words:?}\n gave {reply} not {expected}");
        assert!(reply.ends_with("\r\n") && reply.matches("\r\n").count() == 1);
    }
    assert!(!peer.closing(), "mistakes do not end the connection");
}

#[test]
fn what_client_libraries_send_on_connect_is_answered() {
    let mut peer = peer();
    for words in [
        &["CLIENT", "SETINFO", "LIB-NAME", "redis-py(x;y)"][..],
        &["CLIENT", "setinfo", "lib-ver", "5.0.1"],
        &["CLIENT", "SETNAME", "worker"],
        &["CLIENT", "NO-EVICT", "on"],
        &["CLIENT", "NO-TOUCH", "OFF"],
        &["SELECT", "0"],
    ] {
        assert_eq!(peer.say(words), "+OK\r\n", "{words:?}");
    }
    assert_eq!(peer.say(&["PING", "x"]), "$1\r\nx\r\n");
    assert_eq!(peer.say(&["CONFIG", "GET", "save"]), "*2\r\n$4\r\nsave\r\n$0\r\n\r\n");
    assert_eq!(
        peer.say(&["CONFIG", "GET", "appendonly"]),
        "*2\r\n$10\r\nappendonly\r\n$2\r\nno\r\n"
    );
    assert_eq!(peer.say(&["CONFIG", "GET", "maxmemory"]), "*0\r\n");
    let line = peer.say(&["CLIENT", "INFO"]);
    let line = values(line.as_bytes()).remove(0);
    let line = line.as_str().expect("text");
    assert!(line.contains("name=worker resp=2") && line.contains("lib-ver=5.0.1"), "{line}");
    assert_eq!(peer.say(&["CLIENT", "ID"]), ":1024\r\n");
    let info = peer.say(&["INFO"]);
    for part in
        ["# Server\r\n", "redis_version:", "config_hash:00ff", "turns:30", "shard2:state=up"]
    {
        assert!(info.contains(part), "{part} in {info}");
    }
    assert!(!peer.say(&["INFO", "clients"]).contains("# Server"));
    assert!(peer.say(&["INFO", "CLIENTS"]).contains("connected_clients:1\r\n"));
}

#[test]
fn command_describes_every_command_to_libraries() {
    let mut peer = peer();
    let count = COMMANDS.len() as i64;
    assert_eq!(peer.say(&["COMMAND", "COUNT"]), format!(":{count}\r\n"));
    peer.say(&["HELLO", "3"]);
    let parse = |text: String| values(text.as_bytes()).remove(0);
    let all = parse(peer.say(&["COMMAND"]));
    assert_eq!(all.as_slice().expect("entries").len() as i64, count);
    let entry = parse(peer.say(&["COMMAND", "INFO", "agent.send", "nosuch"]));
    let entries = entry.as_slice().expect("entries");
    assert_eq!(entries[1], Value::Null);
    let entry = entries[0].as_slice().expect("an entry");
    assert_eq!((entry[0].as_str(), entry[1].as_i64()), (Some("agent.send"), Some(-3)));
    assert_eq!([3, 4, 5].map(|idx| entry[idx].as_i64()), [Some(1), Some(1), Some(1)]);
    let docs = parse(peer.say(&["COMMAND", "DOCS"]));
    let Value::Map(pairs) = &docs else { panic!("a map") };
    assert_eq!(pairs.len() as i64, count);
    let send = docs.field("agent.send").expect("docs of SEND");
    let grammar = "AGENT.SEND key payload [ID id] [TIMEOUT ms] [ACK sealed|durable]";
    assert_eq!(send.field("grammar").and_then(Value::as_str), Some(grammar));
    let args = send.field("arguments").and_then(Value::as_slice).expect("arguments");
    assert_eq!(args[2].field("token").and_then(Value::as_str), Some("ID"));
    let list = parse(peer.say(&["COMMAND", "LIST", "FILTERBY", "PATTERN", "AGENT.*T?"]));
    assert!(list.as_slice().expect("names").iter().all(|n| n.as_str().unwrap().contains('t')));
    let keys = parse(peer.say(&["COMMAND", "GETKEYS", "agent.read", "a/b", "0", "1"]));
    assert_eq!(keys.as_slice().map(|keys| keys[0].as_str()), Some(Some("a/b")));
    assert!(parse(peer.say(&["COMMAND", "HELP"])).as_slice().is_some());
}

#[test]
fn every_agent_command_is_answered_in_both_protocols() {
    let mut peer = peer();
    for hello in ["2", "3"] {
        peer.say(&["HELLO", hello]);
        for command in COMMANDS.iter().filter(|command| command.name.starts_with("AGENT.")) {
            let mut words = vec![command.name];
            let (least, _) = command.arg_counts();
            words.extend(["echo/a", "1", "1"].iter().take(least));
            let reply = peer.say(&words);
            let reply = values(reply.as_bytes());
            assert_eq!(reply.len(), 1, "{words:?}");
            let refused = matches!(&reply[0], Value::Error { code, .. } if code == "NOAGENT");
            assert_eq!(refused, command.name == "AGENT.TERMINATE", "{words:?} {reply:?}");
        }
        for words in [&["TEMPLATE.LIST"][..], &["SHARD.LIST"]] {
            assert_eq!(values(peer.say(words).as_bytes()).len(), 1);
        }
    }
    let versions = values(peer.say(&["AGENT.VERSIONS", "echo/a"]).as_bytes()).remove(0);
    let row = &versions.as_slice().expect("rows")[0];
    assert_eq!(row.field("parent"), Some(&Value::Null));
    assert_eq!(row.field("head"), Some(&Value::Boolean(false)));
}

/// One of each refusal.
fn refusals() -> Vec<Refusal> {
    let key = || "echo/a\r\n".to_owned();
    let shard = ShardId(1);
    vec![
        Refusal::BadKey { key: key(), rule: "x".into() },
        Refusal::BadValue { what: "x".into(), value: "y".into(), allowed: "z".into() },
        Refusal::NoTemplate { name: key(), count: 4 },
        Refusal::NoAgent { key: key() },
        Refusal::Lost { key: key(), shard },
        Refusal::Exists { key: key() },
        Refusal::NoVersion { key: key(), version: "@x".into() },
        Refusal::WrongState { key: key(), state: "suspended".into(), remedy: "resume".into() },
        Refusal::Quarantined { key: key(), failures: 5 },
        Refusal::Busy { what: "mailbox".into(), count: 1, count_max: 1 },
        Refusal::Full { shard, used_bytes: 1, arena_bytes: 1 },
        Refusal::Limit { what: "x".into(), value: 2, limit: 1, remedy: "less".into() },
        Refusal::Timeout { waited_us: 5 },
        Refusal::TryAgain { shard },
        Refusal::Fault { key: key(), version: VersionId(3), reason: "a\nb\r\n+OK".into() },
        Refusal::Dropped { key: key(), why: "rolled back".into() },
        Refusal::NoLog,
    ]
}

#[test]
fn y1_every_refusal_is_one_error_line_with_a_documented_code() {
    for refusal in refusals() {
        let mut peer = peer();
        peer.receive(&send("x"));
        let seq = peer.asks.remove(0).seq;
        peer.answer(seq, Err(refusal.clone()));
        let reply = values(&peer.output());
        let [Value::Error { code, .. }] = &reply[..] else { panic!("{refusal:?}: {reply:?}") };
        assert_eq!(code, refusal.code(), "Y1");
        let known = heronry_net::command::table::CODES.iter().any(|(known, _)| known == code);
        assert!(known, "{code} has no line in the table of codes");
    }
}

#[test]
fn a_flood_of_idle_sessions_is_small() {
    let bytes = size_of::<heronry_net::Session>();
    assert!(bytes <= 512, "an idle connection costs {bytes} bytes");
}

#[test]
fn templates_are_deployed_through_the_shard_of_the_connection() {
    let mut peer = peer();
    let source = b"line 1\r\n\x00\xff";
    peer.receive(&request(&[
        b"template.deploy",
        b"greeter",
        b"source",
        source,
        b"Language",
        b"Python",
        b"warm",
        b"w",
        b"inactive",
    ]));
    let ask = peer.asks.pop().expect("an ask");
    assert_eq!((&ask.target, peer.asks.len()), (&Target::Shard(ShardId(0)), 0));
    let Verb::Errand(Errand::Deploy { name, language, source: sent, warm, activate }) = &ask.verb
    else {
        panic!("{:?}", ask.verb)
    };
    assert_eq!((name.as_str(), *language, *activate), ("greeter", Language::Python, false));
    assert_eq!((&sent[..], warm.as_deref()), (&source[..], Some(&b"w"[..])));
    peer.answer(ask.seq, Ok(Reply::Template { number: 7 }));
    assert_eq!(peer.output(), b":7\r\n");
    assert_eq!(peer.say(&["TEMPLATE.ACTIVATE", "greeter", "3"]), ":3\r\n");
}

#[test]
fn template_commands_name_what_is_wrong() {
    let mut peer = peer();
    let deploy = ["TEMPLATE.DEPLOY", "a", "LANGUAGE", "wasm", "SOURCE", "x"];
    assert_eq!(peer.say(&deploy), ":1\r\n");
    let long = "a".repeat(64);
    for (idx, value, text) in [
        (1, "a/b", "-BADVALUE name is 'a/b'; allowed: 1 to 63"),
        (1, "", "-BADVALUE name is ''"),
        (1, long.as_str(), "-BADVALUE name is"),
        (3, "ruby", "-BADVALUE LANGUAGE is 'ruby'; allowed: python, javascript, wasm"),
        (2, "WARM", "-ERR option LANGUAGE of TEMPLATE.DEPLOY is missing"),
        (4, "WARM", "-ERR option SOURCE of TEMPLATE.DEPLOY is missing"),
        (4, "LANGUAGE", "-ERR option LANGUAGE of TEMPLATE.DEPLOY is given twice"),
        (4, "SOURC", "-ERR unknown option 'SOURC' of TEMPLATE.DEPLOY; did you mean SOURCE?"),
    ] {
        let mut words = deploy;
        words[idx] = value;
        let said = peer.say(&words);
        assert!(said.starts_with(text), "{words:?}: {said}");
    }
    for number in ["0", "-1", "4294967296", "x"] {
        let said = peer.say(&["TEMPLATE.ACTIVATE", "a", number]);
        assert!(said.starts_with("-BADVALUE number is"), "{number}: {said}");
    }
}

#[test]
fn exec_and_keep_timers_reach_the_agent() {
    let mut peer = peer();
    peer.receive(&request(&[b"AGENT.EXEC", b"python/a", b"x = '\xff'", b"TIMEOUT", b"5"]));
    let ask = peer.asks.pop().expect("an ask");
    assert_eq!(ask.verb, Verb::Exec { code: Bytes::from_static(b"x = '\xff'") });
    assert_eq!(ask.deadline, Some(Nanos(1_000_000_000 + 5_000_000)));
    peer.answer(ask.seq, Ok(Reply::Payload(Some(Bytes::from_static(b"1\n")))));
    assert_eq!(peer.output(), b"$2\r\n1\n\r\n");
    for (words, kept) in
        [(&["AGENT.FORK", "a/b"][..], false), (&["AGENT.FORK", "a/b", "keep-timers"], true)]
    {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        peer.receive(&request(&words));
        let ask = peer.asks.pop().expect("an ask");
        assert!(matches!(ask.verb, Verb::Fork { keep_timers, .. } if keep_timers == kept));
        peer.answer(ask.seq, answer_to(&ask));
        peer.output();
    }
}

#[test]
fn y2_a_traceback_is_one_line_and_can_be_read_back() {
    let reason = "Traceback:\n  print(\"a\\n\")\nValueError: \u{e9}\\".to_owned();
    let refusals = [
        Refusal::Raised { key: "a/b".into(), reason: reason.clone() },
        Refusal::BadTemplate { name: "a".into(), reason: reason.clone() },
        Refusal::Fault { key: "a/b".into(), version: VersionId(1), reason },
    ];
    for refusal in refusals {
        let mut peer = peer();
        peer.receive(&request(&[b"AGENT.EXEC", b"a/b", b"x"]));
        let ask = peer.asks.pop().expect("an ask");
        peer.answer(ask.seq, Err(refusal.clone()));
        let mut said = values(&peer.output());
        let Some(Value::Error { code, text }) = said.pop() else { panic!("an error") };
        assert!(!text.contains('\n') && text.contains(r"Traceback:\n  print("), "{text}");
        assert_eq!(heronry_net::reply::whole_text(&code, text), refusal.to_string());
    }
}
