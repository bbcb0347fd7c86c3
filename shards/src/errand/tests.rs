//! Frames held to J1, and a shard's end of the link held to J2 and J3.
//!
//! Owns: what the other side may do wrong.  Not: sockets; completions are made up.
//! The engine is real; the workshop makes echoes.

use super::*;
use crate::connection::Todo;
use crate::driver::{Done, Handle, Op};
use crate::view::NodeFacts;
use bytes::Bytes;
use heronry_engine::behaviour::echo::Echo;
use heronry_engine::verb::Language;
use heronry_engine::{
    Ack, AgentKey, Fault, Origin, PageStore, Partition, PartitionConfig, ShardId, Turn, template,
};
use proptest::prelude::*;

const ME: ShardId = ShardId(3);

fn errand() -> impl Strategy<Value = Errand> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    let language =
        prop::sample::select(vec![Language::Python, Language::JavaScript, Language::Wasm]);
    prop_oneof![
        (".{0,40}", language, bytes(), prop::option::of(bytes()), any::<bool>()).prop_map(
            |(name, language, source, warm, activate)| {
                Errand::Deploy { name, language, source, warm, activate }
            }
        ),
        (".{0,40}", any::<u32>()).prop_map(|(name, number)| Errand::Activate { name, number }),
        (bytes(), ".{0,40}").prop_map(|(request, idempotency)| {
            let agent: AgentKey = "echo/a".parse().expect("a good key");
            Errand::Http { agent, request, idempotency }
        }),
    ]
}

fn to_control() -> impl Strategy<Value = ShardToControl> {
    prop_oneof![
        (any::<u64>(), errand()).prop_map(|(token, errand)| ShardToControl::Do { token, errand }),
        (any::<u64>(), prop::option::of(".{0,90}"))
            .prop_map(|(token, error)| ShardToControl::Stepped { token, error }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// J1: however the stream is cut, the same frames come out.
    #[test]
    fn j1_frames_survive_every_cut(
        messages in prop::collection::vec(to_control(), 1..8),
        chunk_bytes in 1usize..400,
    ) {
        let mut stream = Vec::new();
        for message in &messages {
            encode(message, &mut stream).expect("short");
        }
        let (mut frames, mut taken) = (Frames::default(), Vec::new());
        for chunk in stream.chunks(chunk_bytes) {
            frames.push(chunk);
            while let Some(message) = frames.take::<ShardToControl>().expect("our own bytes") {
                taken.push(message);
            }
        }
        prop_assert_eq!(taken, messages);
        prop_assert!(frames.bytes.is_empty());
    }

    /// J1: damaged bytes are an error or another message, never a panic.
    #[test]
    fn j1_damage_is_no_panic(
        message in to_control(),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut stream = Vec::new();
        encode(&message, &mut stream).expect("short");
        for (at, byte) in noise {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let mut frames = Frames::default();
        frames.push(&stream);
        while let Ok(Some(_)) = frames.take::<ShardToControl>() {}
        let mut frames = Frames::default();
        frames.push(&stream);
        while let Ok(Some(_)) = frames.take::<ControlToShard>() {}
    }
}

#[test]
fn j1_a_cut_at_every_byte_is_not_a_frame_yet() {
    let step = Step::Load(template_ref("a", 1));
    let mut stream = Vec::new();
    encode(&ControlToShard::Step { token: 9, step: step.clone() }, &mut stream).expect("short");
    for cut in 0..stream.len() {
        let mut frames = Frames::default();
        frames.push(&stream[..cut]);
        assert_eq!(frames.take::<ControlToShard>(), Ok(None), "cut at {cut}");
        frames.push(&stream[cut..]);
        let whole = Ok(Some(ControlToShard::Step { token: 9, step: step.clone() }));
        assert_eq!(frames.take::<ControlToShard>(), whole, "cut at {cut}");
    }
    // A length without end, and a frame that is longer than its message.
    let mut frames = Frames::default();
    frames.push(&u32::MAX.to_le_bytes());
    let error = FrameError::TooLong { len_bytes: u32::MAX as usize };
    assert_eq!(frames.take::<ControlToShard>(), Err(error));
    stream.push(0);
    stream[0] += 1;
    let mut frames = Frames::default();
    frames.push(&stream);
    let error = FrameError::Malformed { len_bytes: stream.len() - 4 };
    assert_eq!(frames.take::<ControlToShard>(), Err(error));
}

/// Makes templates that echo; refuses those whose name begins with `bad`.
struct Shop;

struct Named(String, u32);

impl Behaviour for Named {
    fn name(&self) -> &str {
        &self.0
    }
    fn number(&self) -> u32 {
        self.1
    }
    fn summary(&self) -> &str {
        "for tests"
    }
    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        Echo.on_message(turn, message)
    }
}

impl Workshop for Shop {
    fn load(&mut self, template: &TemplateRef) -> Result<Rc<dyn Behaviour>, String> {
        match template.name.as_str() {
            "bad" => Err("x".repeat(20_000)),
            "other" => Ok(Rc::new(Named("another".into(), template.number))),
            name => Ok(Rc::new(Named(name.into(), template.number))),
        }
    }
}

fn template_ref(name: &str, number: u32) -> Box<TemplateRef> {
    let base = BaseRef { pid: 1, fd: 2, len_bytes: 3 };
    let header = TemplateHeader {
        language: Language::Python,
        module: [1; 32],
        globals: Vec::new(),
        tree: None,
        args: Vec::new(),
        env: Vec::new(),
        state: Vec::new(),
        summary: "for tests".into(),
    };
    Box::new(TemplateRef { name: name.into(), number, header, needs: None, base })
}

/// A link, its partition, and what it sends.
struct Bed {
    link: Link,
    partition: Partition,
    facts: NodeFacts,
    sent: Frames,
    token: u64,
}

fn quiet(_: std::fmt::Arguments<'_>) {}

impl Bed {
    fn new(handle: Option<Handle>) -> Bed {
        let config = PartitionConfig { shard: ME, shard_count: 4, ..Default::default() };
        let arena: &'static mut [u8] = Box::leak(vec![0; 64 * 4096].into_boxed_slice());
        Bed {
            link: Link::new(ME, handle, Box::new(Shop), quiet),
            partition: Partition::new(config, PageStore::new(arena), template::built_in()),
            facts: NodeFacts::default(),
            sent: Frames::default(),
            token: 0,
        }
    }

    fn open() -> Bed {
        let mut bed = Bed::new(Some(Handle(7)));
        bed.receive(&ControlToShard::Known);
        assert!(bed.serve().is_empty() && !bed.link.expecting());
        bed
    }

    fn receive(&mut self, message: &ControlToShard) {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).expect("short");
        self.link.received(Done::Received(&bytes));
    }

    fn serve(&mut self) -> Vec<(Origin, Result<Reply, Refusal>)> {
        self.link.serve(&mut self.partition, &mut self.facts)
    }

    /// What leaves; each send completes at once.
    fn settle(&mut self) -> Vec<String> {
        let mut closed = Vec::new();
        loop {
            let mut todo = Todo::default();
            self.link.settle(&mut todo);
            if todo.ops.is_empty() {
                return closed;
            }
            for (_, op) in todo.ops {
                match op {
                    Op::Send(_, bytes) => {
                        self.sent.push(&bytes);
                        self.link.sent(Done::Sent(bytes));
                    }
                    other => closed.push(format!("{other:?}")),
                }
            }
        }
    }

    fn next_sent(&mut self) -> Option<ShardToControl> {
        self.settle();
        self.sent.take().expect("well formed")
    }

    /// Does a step; the error that was sent back.
    fn step(&mut self, step: Step) -> Option<String> {
        self.token += 1;
        let token = self.token;
        self.receive(&ControlToShard::Step { token, step });
        assert!(self.serve().is_empty());
        match self.next_sent() {
            Some(ShardToControl::Stepped { token: told, error }) if told == token => error,
            other => panic!("J3: {other:?}"),
        }
    }

    fn rows(&self) -> Vec<(&str, u32, bool)> {
        self.facts.templates.iter().map(|r| (r.name.as_str(), r.number, r.active)).collect()
    }
}

fn origin(seq: u64) -> Origin {
    Origin::Connection { conn: 1, generation: 2, seq, ack: Ack::Sealed }
}

fn activate(number: u32) -> Errand {
    Errand::Activate { name: "a".into(), number }
}

#[test]
fn j2_without_a_link_errands_are_refused() {
    let mut bed = Bed::new(None);
    assert!(!bed.link.expecting() && !bed.link.unserved());
    let refused = bed.link.ask(origin(1), activate(1));
    assert_eq!(refused, Err((origin(1), Refusal::TryAgain { shard: ME })));
}

#[test]
fn j2_every_errand_is_answered_once() {
    let mut bed = Bed::open();
    let mut tokens = Vec::new();
    for seq in 0..3 {
        bed.link.ask(origin(seq), activate(seq as u32)).expect("taken");
        let Some(ShardToControl::Do { token, errand }) = bed.next_sent() else {
            panic!("J2: it is sent")
        };
        assert_eq!(errand, activate(seq as u32));
        tokens.push(token);
    }
    let done = |token| ControlToShard::Done { token, result: Ok(Reply::Done) };
    bed.receive(&done(tokens[1]));
    bed.receive(&done(tokens[1]));
    bed.receive(&done(999));
    assert_eq!(bed.serve(), [(origin(1), Ok(Reply::Done))]);
    bed.link.received(Done::EndOfStream);
    let again = || Err(Refusal::TryAgain { shard: ME });
    assert_eq!(bed.serve(), [(origin(0), again()), (origin(2), again())]);
    assert_eq!(bed.settle(), [format!("{:?}", Op::Close(Handle(7)))]);
    assert!(!bed.link.unserved() && bed.settle().is_empty());
    assert!(bed.link.ask(origin(4), activate(1)).is_err());
}

#[test]
fn j2_too_many_errands_are_refused() {
    let mut bed = Bed::open();
    for seq in 0..ERRANDS_MAX as u64 {
        bed.link.ask(origin(seq), activate(1)).expect("taken");
    }
    let (_, refusal) = bed.link.ask(origin(5000), activate(1)).expect_err("full");
    assert_eq!(refusal.code(), "BUSY");
}

#[test]
fn j1_a_malformed_frame_breaks_the_link() {
    let mut bed = Bed::open();
    bed.link.ask(origin(1), activate(1)).expect("taken");
    bed.link.received(Done::Received(&[1, 0, 0, 0, 0xff]));
    assert_eq!(bed.serve(), [(origin(1), Err(Refusal::TryAgain { shard: ME }))]);
    assert_eq!(bed.settle().len(), 1, "closed");
    bed.receive(&ControlToShard::Known);
    assert!(!bed.link.unserved());
}

#[test]
fn j3_a_template_is_used_only_after_its_second_step() {
    let mut bed = Bed::open();
    let deploy = |number, activate| Step::Deploy { name: "a".into(), number, activate };
    assert_eq!(bed.step(Step::Load(template_ref("a", 1))), None);
    assert_eq!(bed.rows(), []);
    assert_eq!(bed.step(deploy(2, true)), Some("it was not loaded".into()));
    assert_eq!(bed.step(deploy(1, false)), None);
    assert_eq!(bed.rows(), [("a", 1, true)], "a first number is active in any case");
    assert_eq!(bed.step(Step::Load(template_ref("a", 2))), None);
    assert_eq!(bed.step(Step::Withdraw { name: "a".into(), number: 2 }), None);
    assert!(bed.step(deploy(2, true)).is_some(), "withdrawn");
    assert_eq!(bed.step(Step::Load(template_ref("a", 3))), None);
    assert_eq!(bed.step(deploy(3, false)), None);
    assert_eq!(bed.rows(), [("a", 1, true), ("a", 3, false)]);
    assert_eq!(bed.step(Step::Activate { name: "a".into(), number: 3 }), None);
    assert_eq!(bed.rows(), [("a", 1, false), ("a", 3, true)]);
    assert!(bed.step(Step::Activate { name: "a".into(), number: 4 }).is_some());
    assert_eq!(bed.rows(), [("a", 1, false), ("a", 3, true)]);
}

#[test]
fn j3_a_template_that_cannot_be_loaded_says_why() {
    let mut bed = Bed::open();
    assert!(bed.step(Step::Load(template_ref("bad", 1))).is_some_and(|text| text.len() < 10_000));
    let other = bed.step(Step::Load(template_ref("other", 1)));
    assert_eq!(other, Some("loading it gave \"another\", number 1".into()));
    let base = template_ref("a", 1).base;
    assert!(NoWorkshop.load(&template_ref("a", 1)).is_err());
    assert!(BaseRef { pid: u32::MAX, ..base }.open().is_err());
}

#[test]
fn a_base_is_opened_by_process_and_number() {
    use std::os::fd::AsRawFd;
    let file = tempfile::tempfile().expect("a file");
    file.set_len(4096).expect("a length");
    let here = BaseRef { pid: std::process::id(), fd: file.as_raw_fd(), len_bytes: 4096 };
    assert!(here.open().is_ok());
    assert!(BaseRef { len_bytes: 4095, ..here }.open().is_err());
}
