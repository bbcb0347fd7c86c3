//! The client library against a gateway on real sockets, and the listeners it connects to.
//!
//! Owns: a server of one thread, without an engine.  Not: timing.
//! B2, H1 and H2 have tests of their name.

#[path = "fake/node.rs"]
mod node;

use bytes::Bytes;
use heronry_engine::verb::DiffRange;
use heronry_engine::{Ack, VersionId};
use heronry_net::client::{Client, ClientError, ForkOptions, SendOptions};
use heronry_net::listen::{ListenError, UNIX_PATH_BYTES_MAX, listen_tcp, listen_unix, probe_free};
use heronry_net::resp::Value;
use heronry_net::{Resp, RespConfig};
use heronry_shards::gateway::{Ask, Gateway};
use node::{FakeNode, answer_to, info, key, versions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);

/// Serves one connection as a shard would, answers in reverse order of each batch.
fn serve(mut stream: impl Read + Write, config: RespConfig) {
    let mut gateway = Resp::new(config);
    let mut session = gateway.open();
    let node = FakeNode { shard_count: 3 };
    let mut asks: Vec<Ask> = Vec::new();
    let mut chunk = vec![0; 16 << 10];
    loop {
        while gateway.paused(&session) || !asks.is_empty() {
            for ask in std::mem::take(&mut asks).iter().rev() {
                gateway.answer(&mut session, ask.seq, answer_to(ask));
            }
            let output = std::mem::take(gateway.output(&mut session));
            stream.write_all(&output).expect("the client reads");
            gateway.resume(&mut session, &node, &mut asks);
        }
        let output = std::mem::take(gateway.output(&mut session));
        if stream.write_all(&output).is_err() || gateway.closing(&session) {
            return;
        }
        match stream.read(&mut chunk) {
            Ok(count) if count > 0 => {
                gateway.receive(&mut session, &chunk[..count], &node, &mut asks);
            }
            _ => return,
        }
    }
}

fn tcp_listener() -> (TcpListener, String) {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::from(listen_tcp(address).expect("a free port"));
    listener.set_nonblocking(false).expect("a socket");
    let place = listener.local_addr().expect("bound").to_string();
    (listener, place)
}

fn server(config: RespConfig) -> (Client, JoinHandle<()>) {
    let (listener, place) = tcp_listener();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        serve(stream, config);
    });
    (Client::tcp(&place, WAIT).expect("connected"), thread)
}

#[test]
fn every_helper_reads_its_reply_in_both_protocols() {
    for resp3 in [false, true] {
        let (mut client, thread) = server(RespConfig::default());
        if resp3 {
            let hello = client.hello(None).expect("RESP3");
            assert_eq!(hello.field("proto").and_then(Value::as_i64), Some(3));
        }
        let seven = VersionId(7);
        assert_eq!(client.create("echo/a", 0).expect("created"), seven);
        assert_eq!(client.create("echo/a", 8192).expect("created"), seven);
        assert_eq!(client.send("echo/a", b"hi").expect("sent"), Some(Bytes::from_static(b"hi")));
        let options =
            SendOptions { request_id: Some(b"r"), timeout_ms: Some(5), ack: Ack::Durable };
        let reply = client.send_with("echo/a", b"x", options).expect("sent");
        assert_eq!(reply, Some(Bytes::from_static(b"x")));
        assert_eq!(client.read("echo/a", 0, 3).expect("read"), Bytes::from_static(b"rrr"));
        assert_eq!(client.write("echo/a", 5, b"abc").expect("written"), seven);
        assert_eq!(client.checkpoint("echo/a", Some("l")).expect("sealed"), seven);
        let forks = client.fork("echo/a", ForkOptions { count: 2, ..Default::default() });
        assert_eq!(forks.expect("forked"), [key("echo/a~1"), key("echo/a~2")]);
        let named = ForkOptions { suffix: Some("x"), at: Some("@l"), ..Default::default() };
        assert_eq!(client.fork("echo/a", named).expect("forked"), [key("echo/a~x")]);
        assert_eq!(client.rollback("echo/a", Some("3")).expect("back"), seven);
        assert_eq!(client.rollback("echo/a", None).expect("back"), seven);
        assert_eq!(client.versions("echo/a").expect("listed"), versions());
        let range = DiffRange { start: 3, len_bytes: 9 };
        assert_eq!(client.diff("echo/a", "1", Some("@l")).expect("compared"), [range]);
        assert_eq!(client.commit("echo/a~1").expect("committed"), seven);
        client.suspend("echo/a").expect("suspended");
        client.resume("echo/a").expect("resumed");
        let refused = client.terminate("echo/a").expect_err("the fake refuses");
        assert_eq!(refused.code(), Some("NOAGENT"));
        assert_eq!(client.info("echo/a").expect("described"), info(key("echo/a")));
        let page = client.list("0", 10, Some("*"), true).expect("listed");
        assert_eq!((page.cursor.as_str(), page.keys), ("5120", vec![key("echo/on-0-0")]));
        assert_eq!(client.hottest(1).expect("listed"), [(key("echo/2-3"), 32)]);
        client.ask(&[b"QUIT"]).expect("bye");
        assert!(matches!(
            client.ask(&[b"PING"]),
            Err(ClientError::Closed | ClientError::Broken(_))
        ));
        thread.join().expect("the server ended well");
    }
}

#[test]
fn b2_a_long_pipeline_with_big_replies_ends() {
    let config = RespConfig { pipeline_max: 16, output_bytes_max: 1 << 20, ..Default::default() };
    let (mut client, thread) = server(config);
    let mut pipeline = client.pipeline();
    for n in 0..300 {
        match n % 3 {
            0 => pipeline.add(&[b"AGENT.READ", b"echo/a", b"0", b"300000"]),
            1 => pipeline.add(&[b"AGENT.SEND", b"echo/a", &vec![b'p'; 40_000]]),
            _ => pipeline.add(&[b"NOSUCH"]),
        };
    }
    assert_eq!(pipeline.count(), 300);
    let replies = pipeline.run().expect("all answered");
    for (n, reply) in replies.iter().enumerate() {
        match n % 3 {
            0 => assert_eq!(reply.as_bytes().map(<[u8]>::len), Some(300_000)),
            1 => assert_eq!(reply.as_bytes().map(<[u8]>::len), Some(40_000)),
            _ => assert!(matches!(reply, Value::Error { code, .. } if code == "ERR")),
        }
    }
    drop(client);
    thread.join().expect("the server ended well");
}

#[test]
fn a_password_is_asked_for_and_given() {
    let config = RespConfig { password: "s".into(), ..RespConfig::default() };
    let (mut client, thread) = server(config);
    assert_eq!(client.send("echo/a", b"x").expect_err("refused").code(), Some("NOAUTH"));
    assert_eq!(client.hello(Some("no")).expect_err("refused").code(), Some("WRONGPASS"));
    client.hello(Some("s")).expect("authenticated");
    client.send("echo/a", b"x").expect("sent");
    drop(client);
    thread.join().expect("the server ended well");
}

#[test]
fn what_the_node_says_before_it_closes_is_heard() {
    let (mut client, thread) = server(RespConfig { payload_bytes_max: 1024, ..Default::default() });
    let refused = client.send("echo/a", &[b'x'; 2000]).expect_err("too long");
    assert_eq!(refused.code(), Some("ERR"), "{refused}");
    assert!(refused.to_string().contains("at most 1024 bytes"), "{refused}");
    thread.join().expect("the server ended well");
}

#[test]
fn nobody_there_is_named() {
    let (listener, place) = tcp_listener();
    drop(listener);
    let error = Client::tcp(&place, WAIT).expect_err("nobody");
    assert!(error.to_string().starts_with(&format!("cannot connect to {place}: ")), "{error}");
    let folder = tempfile::tempdir().expect("a folder");
    let error = Client::unix(&folder.path().join("none.sock"), WAIT).expect_err("nobody");
    assert!(error.to_string().contains("none.sock"), "{error}");
}

#[test]
fn a_silent_node_is_not_waited_for_forever() {
    let (listener, place) = tcp_listener();
    let mut client = Client::tcp(&place, Duration::from_millis(30)).expect("connected");
    let error = client.call(&[b"PING"]).expect_err("no reply");
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
    drop(listener);
}

#[test]
fn h1_shards_share_a_port_that_others_cannot_take() {
    let wanted = SocketAddr::from(([127, 0, 0, 1], 0));
    let address = probe_free(wanted).expect("some port is free");
    assert_ne!(address.port(), 0);
    let shards: Vec<OwnedFd> = (0..3).map(|_| listen_tcp(address).expect("H1: shared")).collect();
    let error = probe_free(address).expect_err("H1: taken");
    assert!(matches!(error, ListenError::InUse { .. }));
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("node.port"), "{text}");
    drop(shards);
    probe_free(address).expect("free again");
    // A stranger's listener is found, although ours would share.
    let stranger = TcpListener::bind(address).expect("free");
    assert!(matches!(probe_free(address), Err(ListenError::InUse { .. })));
    assert!(matches!(listen_tcp(address), Err(ListenError::InUse { .. })));
    drop(stranger);
    let nowhere = SocketAddr::from(([203, 0, 113, 1], 0));
    let text = probe_free(nowhere).expect_err("not ours").to_string();
    assert!(text.contains("203.0.113.1") && text.contains("node.bind"), "{text}");
}

#[test]
fn h2_a_stale_socket_file_is_replaced_and_a_living_one_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node.sock");
    let listener = UnixListener::from(listen_unix(&path).expect("bound"));
    assert!(matches!(listen_unix(&path), Err(ListenError::UnixInUse { .. })), "H2: living");
    drop(listener);
    assert!(path.exists(), "the file outlives its listener");
    let listener = UnixListener::from(listen_unix(&path).expect("H2: stale, replaced"));
    listener.set_nonblocking(false).expect("a socket");
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        serve(stream, RespConfig::default());
    });
    let mut client = Client::unix(&path, WAIT).expect("connected");
    assert_eq!(client.ask(&[b"PING"]).expect("pong"), Value::Simple("PONG".into()));
    drop(client);
    thread.join().expect("the server ended well");

    let file = folder.path().join("file");
    std::fs::write(&file, "precious").expect("written");
    assert!(matches!(listen_unix(&file), Err(ListenError::UnixNotSocket { .. })));
    assert_eq!(std::fs::read(&file).expect("still there"), b"precious");
    let long = folder.path().join("x".repeat(UNIX_PATH_BYTES_MAX));
    let text = listen_unix(&long).expect_err("too long").to_string();
    assert!(text.contains("at most 107"), "{text}");
    let text = listen_unix(&folder.path().join("no/such")).expect_err("no folder").to_string();
    assert!(text.contains("make its folder first"), "{text}");
}
