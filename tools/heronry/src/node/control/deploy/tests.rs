//! Templates brought to shards that are made up: threads that answer steps.
//!
//! Owns: D1 to D3.  Not: real builds and shards; a script writes the template's file.
//! Everything else is real: files, locks, links.

use super::super::build::tests::builder;
use super::super::link::{Inbound, Peer};
use super::*;
use heronry_engine::ShardId;
use heronry_shards::errand::{ControlToShard, Frames, ShardToControl, encode};
use heronry_shards::sandbox::template::TemplateHeader;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use tokio::task::{LocalSet, spawn_local};

/// A folder with a good template file in it, and the templates of a node that lives there.
struct Bed {
    folder: tempfile::TempDir,
}

impl Bed {
    fn new() -> Bed {
        let folder = tempfile::tempdir().unwrap();
        let header = TemplateHeader {
            language: Language::Python,
            module: [0; 32],
            globals: Vec::new(),
            tree: None,
            args: Vec::new(),
            env: Vec::new(),
            state: Vec::new(),
            summary: "greets".into(),
        };
        TemplateFile::write(&folder.path().join("good"), &header, &[7; 65_536]).unwrap();
        Bed { folder }
    }

    /// A node, whose builds copy the good file, or fail when their source says so. Its modules are
    /// others than those that templates were built from.
    fn node(&self) -> Templates {
        self.node_that_compiles(OTHER_MODULE)
    }

    /// The same, where compiling a module again fails with these words.
    fn node_that_compiles(&self, words: &str) -> Templates {
        let folder = self.folder.path();
        let only = format!("[ -n \"$ONLY\" ] && {{ echo it {words} >&2; exit 1; }}");
        let source =
            "grep -qs fail \"$(dirname \"$OUT\")\"/source.* && { echo oh no >&2; exit 1; }";
        let script = format!("{only}\n{source}\ncp {}/good \"$OUT\"", folder.display());
        let natives = vec!["echo".to_owned()];
        Templates::new(natives, folder.join("templates"), builder(folder, &script))
    }

    fn folders(&self, name: &str) -> usize {
        let entries = std::fs::read_dir(self.folder.path().join("templates").join(name));
        entries.map_or(0, |entries| {
            entries.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir()).count()
        })
    }
}

fn order(name: &str, source: &'static str) -> Order {
    let source = Some(Bytes::from_static(source.as_bytes()));
    Order { name: name.into(), language: Language::Python, source, warm: None, activate: true }
}

/// A shard that does every step, but loads no template called `heavy` if it is `weak`.
fn shard(mut socket: UnixStream, weak: bool) -> Receiver<String> {
    let (told, steps) = channel();
    std::thread::spawn(move || {
        let (mut frames, mut chunk) = (Frames::default(), [0; 4096]);
        loop {
            while let Some(message) = frames.take::<ControlToShard>().unwrap() {
                let ControlToShard::Step { token, step } = message else {
                    told.send("known".to_owned()).unwrap();
                    continue;
                };
                let (text, heavy) = match step {
                    Step::Load(template) => {
                        assert!(template.base.open().is_ok(), "the base can be had");
                        let TemplateRef { name, number, .. } = *template;
                        (format!("load {name} {number}"), name == "heavy")
                    }
                    Step::Deploy { name, number, activate } => {
                        (format!("deploy {name} {number} {activate}"), false)
                    }
                    Step::Withdraw { name, number } => (format!("withdraw {name} {number}"), false),
                    Step::Snapshot(step) => (format!("{step:?}"), false),
                    Step::Activate { name, number } => (format!("activate {name} {number}"), false),
                };
                told.send(text).unwrap();
                let error = (weak && heavy).then(|| "too heavy".to_owned());
                let mut bytes = Vec::new();
                encode(&ShardToControl::Stepped { token, error }, &mut bytes).unwrap();
                // The node may have ended.
                let _ = socket.write_all(&bytes);
            }
            match socket.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(count) => frames.push(&chunk[..count]),
            }
        }
    });
    steps
}

/// A shard's link, whose answers are taken in by a task.
fn link(number: u16, weak: bool) -> (Rc<Peer>, Receiver<String>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let (peer, inbound) = Peer::open(ShardId(number), ours).unwrap();
    let peer = Rc::new(peer);
    spawn_local(take_in(Rc::clone(&peer), inbound));
    (peer, shard(theirs, weak))
}

async fn take_in(peer: Rc<Peer>, mut inbound: Inbound) {
    while let Ok(Some(ShardToControl::Stepped { token, error })) = inbound.next().await {
        peer.stepped(token, error);
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// The next steps of a shard, while the node's tasks go on.
async fn next(steps: &Receiver<String>, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(steps.try_recv());
        tokio::task::yield_now().await;
    }
    all
}

#[test]
fn d1_a_template_is_on_every_shard_before_the_client_hears_of_it() {
    let bed = Bed::new();
    run(async {
        let node = bed.node();
        node.begin().await.unwrap();
        let (first, second) = (link(0, false), link(1, false));
        for (peer, steps) in [&first, &second] {
            assert!(node.welcome(peer).await.is_empty());
            assert_eq!(next(steps, 1).await, ["known"]);
        }
        assert_eq!(node.deploy(order("a", "x")).await, Ok(1));
        let quiet = Order { activate: false, ..order("a", "y") };
        assert_eq!(node.deploy(quiet).await, Ok(2));
        for (_, steps) in [&first, &second] {
            assert_eq!(
                next(steps, 4).await,
                ["load a 1", "deploy a 1 true", "load a 2", "deploy a 2 false"]
            );
        }
        assert_eq!(node.activate("a", 2).await, Ok(()));
        assert_eq!(next(&first.1, 1).await, ["activate a 2"]);
        // D2: one that starts now is told all of it; one that has ended is not waited for.
        node.leave(&first.0);
        let third = link(0, false);
        assert!(node.welcome(&third.0).await.is_empty());
        let told = ["load a 1", "deploy a 1 false", "load a 2", "deploy a 2 true", "known"];
        assert_eq!(next(&third.1, 5).await, told);
        second.0.close();
        assert_eq!(node.deploy(order("b", "x")).await, Ok(1));
        assert_eq!(next(&third.1, 2).await, ["load b 1", "deploy b 1 true"]);
    });
    // It is all there after a restart.
    run(async {
        let node = bed.node();
        node.begin().await.unwrap();
        let (peer, steps) = link(0, false);
        assert!(node.welcome(&peer).await.is_empty());
        let told = [
            "load a 1",
            "deploy a 1 false",
            "load a 2",
            "deploy a 2 true",
            "load b 1",
            "deploy b 1 true",
            "known",
        ];
        assert_eq!(next(&steps, 7).await, told);
    });
}

#[test]
fn d1_a_template_that_one_shard_cannot_load_is_used_on_none() {
    let bed = Bed::new();
    run(async {
        let node = bed.node();
        node.begin().await.unwrap();
        let (strong, weak) = (link(0, false), link(1, true));
        for (peer, steps) in [&strong, &weak] {
            assert!(node.welcome(peer).await.is_empty());
            next(steps, 1).await;
        }
        let refusal = node.deploy(order("heavy", "x")).await.unwrap_err();
        assert_eq!(refusal.to_string(), "template \"heavy\": shard 1: too heavy");
        for (_, steps) in [&strong, &weak] {
            assert_eq!(next(steps, 2).await, ["load heavy 1", "withdraw heavy 1"]);
        }
        assert_eq!(bed.folders("heavy"), 0);
        assert_eq!(node.activate("heavy", 1).await.unwrap_err().code(), "NOTEMPLATE");
    });
}

#[test]
fn d1_a_build_that_fails_leaves_nothing() {
    let bed = Bed::new();
    run(async {
        let node = bed.node();
        node.begin().await.unwrap();
        let refusal = node.deploy(order("a", "please fail")).await.unwrap_err();
        assert_eq!(refusal, Refusal::BadTemplate { name: "a".into(), reason: "oh no".into() });
        assert_eq!(bed.folders("a"), 0);
        assert_eq!(node.deploy(order("a", "x")).await, Ok(1));
        assert_eq!(bed.folders("a"), 1);
    });
}

#[test]
fn names_and_numbers_are_checked() {
    let bed = Bed::new();
    run(async {
        let node = bed.node();
        node.begin().await.unwrap();
        let long = "a".repeat(64);
        for (name, code) in [
            ("echo", "BADTEMPLATE"),
            ("..", "BADVALUE"),
            ("a/b", "BADVALUE"),
            ("", "BADVALUE"),
            (long.as_str(), "BADVALUE"),
        ] {
            assert_eq!(node.deploy(order(name, "x")).await.unwrap_err().code(), code, "{name}");
        }
        assert_eq!(node.deploy(order("a", "x")).await, Ok(1));
        let refusal = node.activate("a", 2).await.unwrap_err();
        assert_eq!(refusal.to_string(), "number is 2; allowed: 1");
        assert_eq!(node.activate("echo", 1).await.unwrap_err().code(), "BADTEMPLATE");
    });
}

#[test]
fn d3_a_template_is_built_again_for_another_module_only() {
    let bed = Bed::new();
    run(async {
        let node = bed.node();
        node.begin().await.unwrap();
        node.deploy(order("a", "x")).await.unwrap();
        let file = bed.folder.path().join("templates/a/1/template.heron");
        let built = std::fs::metadata(&file).unwrap().modified().unwrap();
        let told = |node: Templates| async move {
            node.begin().await.unwrap();
            let (peer, steps) = link(0, false);
            assert!(node.welcome(&peer).await.is_empty());
            next(&steps, 1).await
        };
        assert_eq!(told(bed.node_that_compiles("ran out of memory")).await, ["known"]);
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), built);
        assert_eq!(told(bed.node()).await, ["load a 1"]);
        assert!(std::fs::metadata(&file).unwrap().modified().unwrap() > built);
    });
}

#[test]
fn d3_a_damaged_template_is_left_out() {
    let bed = Bed::new();
    run(async {
        let node = bed.node();
        node.begin().await.unwrap();
        for source in ["x", "y"] {
            node.deploy(order("a", source)).await.unwrap();
        }
        std::fs::write(bed.folder.path().join("templates/a/2/template.heron"), "HERON").unwrap();
        std::fs::create_dir_all(bed.folder.path().join("templates/echo/1")).unwrap();
        let node = bed.node();
        node.begin().await.unwrap();
        let (peer, steps) = link(0, false);
        assert!(node.welcome(&peer).await.is_empty());
        // The active one is the broken one, so the newest of the others takes its place.
        let told = ["load a 1", "deploy a 1 true", "known"];
        assert_eq!(next(&steps, 3).await, told);
        assert_eq!(node.deploy(order("a", "z")).await, Ok(3));
    });
}
