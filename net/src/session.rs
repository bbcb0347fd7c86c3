//! The RESP gateway of a shard: sessions turn bytes into asks, and answers into bytes.
//!
//! Owns: per connection its protocol, name, authentication, undecoded bytes and reply order.
//! Not: sockets, routing, verbs.  [`order`] keeps replies in order; [`local`] and [`server`]
//! answer what needs no agent.
//! Holds G1 and G2 of `shards::gateway`, S1 to S3 of [`order`].
//! N1  a session with too much unanswered or unsent decodes nothing more until half has gone.
//! N2  with a password set, nothing but HELLO, AUTH, RESET and QUIT runs before it was given.

mod ids;
mod local;
mod order;
mod server;

use crate::command::parse::{Asked, ErrandVerb, parse, parse_errand};
use crate::command::{Action, Command, Lookup};
use crate::reply::{ListPlace, encode_bad_command, encode_protocol_error};
use crate::resp::{Args, Encoder, RequestDecoder, RequestLimits};
use heronry_engine::verb::Target;
use heronry_engine::{Ack, Nanos, Refusal, Reply, ShardId, TenantId, Verb};
use heronry_shards::{Ask, Gateway, NodeView};
use ids::Ids;
use order::{Form, Order, Shape};
use std::cell::Cell;
use std::rc::Rc;

/// Undecoded bytes above this capacity are given back once decoded.
const KEPT_BACKLOG_BYTES_MAX: usize = 16 << 10;
/// Bits of a connection's number that hold the shard.
const ID_SHARD_BITS: u32 = 10;

/// Settings of the gateway. All shards of a node have the same, but for `shard`.
#[derive(Clone, Debug)]
pub struct RespConfig {
    /// The shard that this gateway serves.
    pub shard: ShardId,
    /// What AUTH must say; empty: nothing.
    pub password: String,
    /// Longest payload, and longest single READ.
    pub payload_bytes_max: usize,
    /// Most unanswered commands of one connection, at least 1.
    pub pipeline_max: usize,
    /// Most unsent bytes of one connection before it is paused.
    pub output_bytes_max: usize,
}

impl Default for RespConfig {
    fn default() -> RespConfig {
        RespConfig {
            shard: ShardId(0),
            password: String::new(),
            payload_bytes_max: 8 << 20,
            pipeline_max: 4096,
            output_bytes_max: 16 << 20,
        }
    }
}

/// RESP2 and RESP3 for one shard.
#[derive(Debug)]
pub struct Resp {
    config: RespConfig,
    /// Hash of the password, so that comparing takes the same time whatever is wrong with it.
    password: Option<blake3::Hash>,
    limits: RequestLimits,
    lookup: Lookup,
    ids: Ids,
    opened_count: u64,
    command_count: u64,
    open_count: Rc<Cell<u64>>,
}

/// State of one connection.
#[derive(Debug)]
pub struct Session {
    id: u64,
    form: Form,
    order: Order,
    output: Vec<u8>,
    decoder: RequestDecoder,
    /// Bytes that arrived while paused.
    backlog: Vec<u8>,
    authenticated: bool,
    /// CLIENT REPLY SKIP was said: the next command's reply is dropped.
    skip_next: bool,
    /// N1: stopped at a bound; resumes at half of it.
    held: bool,
    closing: bool,
    about: About,
    _open: Open,
}

/// What a client said of itself.
#[derive(Default, Debug)]
struct About {
    name: Box<str>,
    lib_name: Box<str>,
    lib_version: Box<str>,
}

/// Counts a session while it lives.
#[derive(Debug)]
struct Open(Rc<Cell<u64>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Resp {
    /// The gateway of `config.shard`.
    pub fn new(config: RespConfig) -> Resp {
        assert!(config.pipeline_max > 0, "N1: a pipeline holds at least one command");
        let password = &config.password;
        let password = (!password.is_empty()).then(|| blake3::hash(password.as_bytes()));
        Resp {
            password,
            limits: RequestLimits::for_payload(config.payload_bytes_max),
            config,
            lookup: Lookup::default(),
            ids: Ids::default(),
            opened_count: 0,
            command_count: 0,
            open_count: Rc::default(),
        }
    }

    /// Decodes `input` until it ends, the session is full, or it is to close; returns how much.
    fn drive(
        &mut self,
        session: &mut Session,
        input: &[u8],
        node: &dyn NodeView,
        asks: &mut Vec<Ask>,
    ) -> usize {
        let mut decoder = std::mem::take(&mut session.decoder);
        let mut consumed = 0;
        while consumed < input.len() && !session.closing {
            if self.full(session) {
                session.held = true;
                break;
            }
            let rest = &input[consumed..];
            let limits =
                if session.authenticated { &self.limits } else { &RequestLimits::UNAUTHENTICATED };
            match decoder.decode(rest, limits) {
                Ok(step) => {
                    consumed += step.consumed;
                    if step.ready {
                        self.execute(session, &decoder.args(rest), node, asks);
                    }
                }
                Err(error) => {
                    session.put(|encoder| encode_protocol_error(encoder, &error));
                    session.closing = true;
                }
            }
        }
        session.decoder = decoder;
        session.held |= self.full(session);
        if session.closing { input.len() } else { consumed }
    }

    #[inline]
    fn execute(
        &mut self,
        session: &mut Session,
        args: &Args<'_>,
        node: &dyn NodeView,
        asks: &mut Vec<Ask>,
    ) {
        if args.count() == 0 {
            return;
        }
        self.command_count += 1;
        let skip = std::mem::take(&mut session.skip_next);
        let silent_before = session.form.silent;
        session.form.silent |= skip;
        match self.lookup.resolve(args.count(), |idx| args.get(idx)) {
            Ok(command) => {
                let open = session.authenticated || command.flags.contains(&"no_auth");
                match command.action {
                    _ if !open => session.put(refuse_unauthenticated),
                    Action::Agent(_) => self.execute_agent(session, command, args, node, asks),
                    Action::Errand(verb) => {
                        execute_errand(session, command, verb, args, node, asks);
                    }
                    _ => return self.execute_local(session, command, args, node, silent_before),
                }
            }
            Err(_) if !session.authenticated => session.put(refuse_unauthenticated),
            Err(bad) => session.put(|encoder| encode_bad_command(encoder, &bad)),
        }
        session.form.silent = silent_before;
    }

    #[inline]
    fn execute_agent(
        &mut self,
        session: &mut Session,
        command: &'static Command,
        args: &Args<'_>,
        node: &dyn NodeView,
        asks: &mut Vec<Ask>,
    ) {
        let Action::Agent(agent_verb) = command.action else { return };
        match parse(command, agent_verb, args, self.config.payload_bytes_max) {
            Ok(Asked::Agent { key, verb, ack, timeout_ms }) => {
                let expected_bytes = match &verb {
                    Verb::Send { payload, .. } => payload.len(),
                    Verb::Exec { code } => code.len(),
                    Verb::Read { len_bytes, .. } => *len_bytes as usize,
                    _ => 0,
                };
                let seq = session.order.ask(session.form, Shape::Plain, expected_bytes);
                let deadline = timeout_ms.map(|ms| node.now().after(Nanos::from_ms(ms)));
                let (id, tenant) = (self.ids.of(&key), TenantId::default());
                let target = Target::Agent { id, tenant, key };
                asks.push(Ask { seq, target, verb, ack, deadline });
            }
            Ok(Asked::List { shard, verb }) => list(session, shard, verb, node, asks),
            Ok(Asked::Hottest { count }) => {
                let (_, shard_count) = node.place();
                let first = session.order.gather(session.form, shard_count, count);
                asks.extend((0..shard_count).map(|shard| Ask {
                    seq: first + u64::from(shard),
                    target: Target::Shard(ShardId(shard)),
                    verb: Verb::Hottest,
                    ack: Ack::Sealed,
                    deadline: None,
                }));
            }
            Err(bad) => session.put(|encoder| encode_bad_command(encoder, &bad)),
        }
    }

    /// Whether a bound of N1 is reached.
    #[inline]
    fn full(&self, session: &Session) -> bool {
        session.order.count() >= self.config.pipeline_max
            || session.output_bytes() >= self.config.output_bytes_max
    }
}

/// Asks the shard of this connection for what its control thread does.
fn execute_errand(
    session: &mut Session,
    command: &'static Command,
    verb: ErrandVerb,
    args: &Args<'_>,
    node: &dyn NodeView,
    asks: &mut Vec<Ask>,
) {
    match parse_errand(command, verb, args) {
        Ok(errand) => {
            let seq = session.order.ask(session.form, Shape::Plain, 0);
            let target = Target::Shard(node.place().0);
            let verb = Verb::Errand(errand);
            asks.push(Ask { seq, target, verb, ack: Ack::Sealed, deadline: None });
        }
        Err(bad) => session.put(|encoder| encode_bad_command(encoder, &bad)),
    }
}

/// Asks one shard for a page of its agents.
fn list(session: &mut Session, shard: u16, verb: Verb, node: &dyn NodeView, asks: &mut Vec<Ask>) {
    let (_, shard_count) = node.place();
    if shard >= shard_count {
        let refusal = Refusal::BadValue {
            what: "CURSOR".into(),
            value: format!("one of shard {shard}"),
            allowed: format!("0 to begin, then the last reply's cursor; {shard_count} shards")
                .into(),
        };
        return session.put(|encoder| encode_bad_command(encoder, &refusal.into()));
    }
    let shard = ShardId(shard);
    let place = ListPlace { shard, shard_count };
    let seq = session.order.ask(session.form, Shape::List(place), 0);
    let target = Target::Shard(shard);
    asks.push(Ask { seq, target, verb, ack: Ack::Sealed, deadline: None });
}

fn refuse_unauthenticated(encoder: &mut Encoder<'_>) {
    encoder.error(
        "NOAUTH",
        "Authentication required: AUTH password, or HELLO 3 AUTH default password",
    );
}

impl Session {
    /// A reply that the session gives itself, after those before it.
    #[inline]
    fn put(&mut self, write: impl FnOnce(&mut Encoder<'_>)) {
        if self.form.silent {
            return;
        }
        let protocol = self.form.protocol;
        if self.order.count() == 0 {
            return write(&mut Encoder::new(&mut self.output, protocol));
        }
        let mut bytes = Vec::new();
        write(&mut Encoder::new(&mut bytes, protocol));
        self.order.encoded(bytes);
    }

    /// Bytes unsent or about to be.
    #[inline]
    fn output_bytes(&self) -> usize {
        self.output.len() + self.order.expected_bytes()
    }

    /// The number of this connection among those of its node.
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Gateway for Resp {
    type Session = Session;

    fn open(&mut self) -> Session {
        self.opened_count += 1;
        self.open_count.set(self.open_count.get() + 1);
        Session {
            id: self.opened_count << ID_SHARD_BITS | u64::from(self.config.shard.0),
            form: Form::default(),
            order: Order::default(),
            output: Vec::new(),
            decoder: RequestDecoder::default(),
            backlog: Vec::new(),
            authenticated: self.password.is_none(),
            skip_next: false,
            held: false,
            closing: false,
            about: About::default(),
            _open: Open(self.open_count.clone()),
        }
    }

    fn refuse(&mut self, connections_max: u32) -> Session {
        let mut session = self.open();
        let text =
            format!("max number of clients reached (net.connections_max: {connections_max})");
        session.put(|encoder| encoder.error("ERR", &text));
        session.closing = true;
        session
    }

    fn receive(
        &mut self,
        session: &mut Session,
        bytes: &[u8],
        node: &dyn NodeView,
        asks: &mut Vec<Ask>,
    ) {
        if session.closing {
            return;
        }
        if session.held || !session.backlog.is_empty() {
            session.backlog.extend_from_slice(bytes);
            return self.resume(session, node, asks);
        }
        let consumed = self.drive(session, bytes, node, asks);
        session.backlog.extend_from_slice(&bytes[consumed..]);
    }

    #[inline]
    fn answer(&mut self, session: &mut Session, seq: u64, result: Result<Reply, Refusal>) {
        session.order.answer(seq, result, &mut session.output);
    }

    fn resume(&mut self, session: &mut Session, node: &dyn NodeView, asks: &mut Vec<Ask>) {
        if self.paused(session) {
            return;
        }
        session.held = false;
        if session.backlog.is_empty() {
            return;
        }
        let mut backlog = std::mem::take(&mut session.backlog);
        let consumed = self.drive(session, &backlog, node, asks);
        backlog.drain(..consumed);
        if !backlog.is_empty() || backlog.capacity() <= KEPT_BACKLOG_BYTES_MAX {
            session.backlog = backlog;
        }
    }

    fn output<'s>(&self, session: &'s mut Session) -> &'s mut Vec<u8> {
        &mut session.output
    }

    #[inline]
    fn paused(&self, session: &Session) -> bool {
        session.held
            && (session.order.count() > self.config.pipeline_max / 2
                || session.output_bytes() > self.config.output_bytes_max / 2)
    }

    #[inline]
    fn closing(&self, session: &Session) -> bool {
        session.closing && session.order.count() == 0
    }
}
