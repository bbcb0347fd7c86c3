//! One simulated client: sends batches, compares every reply with the oracle, looks at everything
//! at the end.
//!
//! Owns: its connection and its oracle.  [`super::recovery`] finds out what is true after a fault,
//! [`super::last_look`] compares everything.
//! Not: what it asks (`author`), what is right (`oracle`).
//! C1  a reply that can be known is known; what cannot be known (a full queue or arena, a deadline,
//!     the tail of a broken connection) is one of its possible outcomes.
//! C2  replies come; a client that waits for long lets go of what it has suspended, and nothing
//!     else can make it wait.

use super::author::Author;
use super::hub::Hub;
use super::link::{Got, Link};
use crate::op::{Command, Op};
use crate::oracle::answer::{Answer, code_of};
use crate::oracle::{Fate, Oracle, family_of, template};
use heronry_engine::{Nanos, ShardId};
use heronry_net::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A client that waits this long lets go of its suspended agents.
const PATIENCE: Nanos = Nanos::from_ms(1_000);
/// Whatever is under way in a node has come to its end after this time.
pub(super) const QUIET: Nanos = Nanos::from_ms(300);

/// The ticket of a question that is not of the batch.
pub(super) const ASKED: usize = usize::MAX - 1;

/// Bytes of an image read at once.
pub(super) const PART: u64 = 30_000;

/// What is known of a client's run.
pub struct Plan {
    /// Its number.
    pub me: usize,
    /// Batches it sends.
    pub batch_count: usize,
    /// Of 100 batches, in how many it goes away before the last reply.
    pub cut_percent: u8,
}

/// One client.
pub struct Client {
    pub(super) hub: Rc<Hub>,
    pub(super) plan: Plan,
    pub(super) author: Author,
    pub(super) oracle: Oracle,
    pub(super) link: Option<Link>,
    /// Deaths per shard that the oracle has heard of.
    heard: Vec<u32>,
    /// Messages that relays may have sent on without waiting, and those that they surely have.
    pub(super) unawaited_max: i64,
    pub(super) unawaited_min: i64,
}

/// What became of a batch.
pub(super) struct Batch {
    pub(super) commands: Vec<Command>,
    replies: Vec<Option<Value>>,
    /// Deaths per shard when it began.
    deaths: Vec<u32>,
}

impl Batch {
    /// A reply that says what happened.
    pub(super) fn reply(&self, ticket: usize) -> Option<&Value> {
        let reply = self.replies.get(ticket)?.as_ref();
        reply.filter(|reply| code_of(reply) != Some("TRYAGAIN"))
    }
}

impl Client {
    /// A client that has not begun.
    pub fn new(hub: Rc<Hub>, plan: Plan, author: Author, oracle: Oracle) -> Client {
        Client {
            heard: vec![0; usize::from(hub.shard_count)],
            hub,
            plan,
            author,
            oracle,
            link: None,
            unawaited_max: 0,
            unawaited_min: 0,
        }
    }

    /// Everything that the client does.
    pub async fn run(mut self) {
        self.make_relays().await;
        for _ in 0..self.plan.batch_count {
            let commands = self.author.batch(&self.oracle);
            self.play(commands, true).await;
            if self.author.rng().u8(..4) == 0 {
                self.send_late().await;
            }
        }
        self.hub.close();
        self.play(Vec::new(), false).await;
        self.read_back().await;
        self.check_list().await;
        if self.author.rng().u8(..8) == 0 {
            self.check_call_timeout().await;
        }
        self.end_all().await;
    }

    /// Relays are there before they are used: whether a refusal came before or after a relay was
    /// made cannot be told.
    async fn make_relays(&mut self) {
        let mut commands = Vec::new();
        for (relay, _) in self.author.relays() {
            commands.push(Command::new(relay, Op::Create { image_bytes: 0 }));
        }
        commands.push(Command::new(self.author.echo(), Op::Create { image_bytes: 0 }));
        if !self.oracle.rules().create_on_send {
            let own = self
                .author
                .pool()
                .into_iter()
                .chain(self.author.relays().into_iter().flat_map(|(_, targets)| targets));
            commands.extend(own.map(|key| Command::new(key, Op::Create { image_bytes: 0 })));
            for key in super::author::shared_keys() {
                // It exists if another client was first.
                self.ask(&Command::new(key, Op::Create { image_bytes: 0 })).await;
            }
        }
        commands.retain(|command| self.oracle.agent(&command.key).is_none());
        while !commands.is_empty() {
            self.play(commands.clone(), false).await;
            commands.retain(|command| self.oracle.agent(&command.key).is_none());
        }
    }

    /// Sends a batch and compares what comes back.
    pub(super) async fn play(&mut self, commands: Vec<Command>, may_cut: bool) {
        self.note_deaths(&BTreeMap::new());
        let deaths = self.heard.clone();
        let cut = may_cut && self.author.rng().u8(..100) < self.plan.cut_percent;
        let cut_at = cut.then(|| self.author.rng().usize(..=commands.len()));
        let mut batch = Batch { replies: vec![None; commands.len()], commands, deaths };
        let split = self.author.rng().usize(..=batch.commands.len());
        let pause = self.author.rng().u64(..5_000) * u64::from(self.author.rng().u8(..4) == 0);
        self.exchange(&mut batch, cut_at, (split, Nanos::from_us(pause))).await;
        self.compare(batch).await;
    }

    /// A message whose deadline passes while its agent is suspended is refused, and does nothing.
    async fn send_late(&mut self) {
        let commands = self.author.late(&self.oracle);
        if commands.is_empty() {
            return;
        }
        self.note_deaths(&BTreeMap::new());
        let (replies, deaths) = (vec![None; commands.len()], self.heard.clone());
        let mut batch = Batch { replies, commands, deaths };
        self.exchange(&mut batch, None, (2, Nanos::from_ms(30))).await;
        if batch.replies[0].as_ref().is_some_and(|reply| Answer::Done.is(reply)) {
            let late = batch.replies[1].as_ref().and_then(code_of);
            let known = matches!(late, None | Some("TIMEOUT" | "TRYAGAIN" | "LOST" | "BUSY"));
            let none = late.is_none() && batch.replies[1].is_some();
            assert!(known && !none, "late, but served: {:?}", batch.replies[1]);
        }
        self.compare(batch).await;
    }

    /// Sends a batch, with a pause after so many commands, and awaits its replies.
    async fn exchange(
        &mut self,
        batch: &mut Batch,
        cut_at: Option<usize>,
        (split, pause): (usize, Nanos),
    ) {
        let mut link = self.link().await;
        let count = batch.commands.len();
        link.send(&batch.commands[..split]);
        if pause > Nanos(0) {
            self.hub.sleep(pause).await;
        }
        link.send(&batch.commands[split..]);
        let mut answered = 0;
        while answered < count {
            if cut_at == Some(answered) {
                link.close();
                return;
            }
            match link.reply(self.hub.world.now().after(PATIENCE)).await {
                Got::Reply(value) => {
                    batch.replies[answered] = Some(value);
                    answered += 1;
                }
                Got::Closed => return,
                Got::Late => self.let_go(batch).await,
            }
        }
        self.link = Some(link);
    }

    /// A connection to some shard that is up.
    pub(super) async fn link(&mut self) -> Link {
        if let Some(link) = self.link.take() {
            return link;
        }
        loop {
            let shard = ShardId(self.author.rng().u16(..self.hub.shard_count));
            let mut link = Link::connect(&self.hub, shard);
            let hello: &[u8] =
                if self.author.rng().bool() { b"HELLO 3\r\n" } else { b"HELLO 2\r\n" };
            link.send_bytes(hello);
            let until = self.hub.world.now().after(PATIENCE);
            if let Got::Reply(_) = link.reply(until).await {
                return link;
            }
            self.hub.sleep(Nanos::from_us(500)).await;
        }
    }

    /// C2: whichever RESUME was refused is said again, beside the connection that waits for it.
    async fn let_go(&mut self, batch: &mut Batch) {
        let suspends = |command: &&Command| command.op == Op::Suspend;
        let held = batch.commands.iter().filter(suspends).map(|command| command.key.clone());
        let mut held: BTreeSet<String> = held.collect();
        let known = self.oracle.keys().filter(|key| {
            self.oracle.agent(key).is_some_and(|a| a.state() != crate::oracle::agent::State::Active)
        });
        held.extend(known.map(str::to_owned));
        for key in held {
            let resume = Command::new(key, Op::Resume);
            let (waiting, value) = (self.link.take(), self.ask(&resume).await);
            if let Some(own) = std::mem::replace(&mut self.link, waiting) {
                own.close();
            }
            batch.commands.push(resume);
            batch.replies.push(Some(value));
        }
    }

    /// Asks until there is an answer of more use than "not now". For what may be asked twice.
    pub(super) async fn ask(&mut self, command: &Command) -> Value {
        loop {
            let mut link = self.link().await;
            link.send(std::slice::from_ref(command));
            let until = self.hub.world.now().after(PATIENCE);
            if let Got::Reply(value) = link.reply(until).await {
                self.link = Some(link);
                if !matches!(code_of(&value), Some("TRYAGAIN" | "BUSY")) {
                    return value;
                }
            }
            self.hub.sleep(Nanos::from_us(300)).await;
        }
    }

    async fn compare(&mut self, batch: Batch) {
        let mut doubt = self.dead_families(&batch);
        let mut tails: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut told = Vec::new();
        let rolled = |key: &str| {
            let rolls = |c: &Command| c.key == key && matches!(c.op, Op::Rollback { .. });
            template(key) == "relay" && batch.commands.iter().any(rolls)
        };
        let mut open = Vec::new();
        for (ticket, command) in batch.commands.iter().enumerate() {
            let reply = batch.replies[ticket].as_ref();
            self.hub.log(&command.key, || format!("{} -> {}", short(command), short(&reply)));
            self.count(reply);
            if command.key.starts_with("counter/shared-") {
                open.extend(self.shared_reply(command, reply).then_some(ticket));
                continue;
            }
            self.note_unawaited(command, reply);
            let families = families_of(command);
            if reply.is_none() || reply.and_then(code_of) == Some("TRYAGAIN") {
                doubt.extend(families.iter().cloned());
            }
            if families.iter().any(|family| doubt.contains(family)) {
                for family in families {
                    doubt.insert(family.clone());
                    tails.entry(family).or_default().push(ticket);
                }
                continue;
            }
            let Some(reply) = reply else { continue };
            let fate = match code_of(reply) {
                Some("DROPPED") if rolled(&command.key) => Fate::Turned("DROPPED"),
                _ => self.fate(command, reply),
            };
            self.oracle.tell(ticket, &command.key, &command.op, fate);
            told.push(ticket);
        }
        self.check_answers(&batch, &told, &doubt);
        for ticket in open {
            self.add_again(&batch.commands[ticket], &batch).await;
        }
        if !doubt.is_empty() {
            self.hub.sleep(QUIET).await;
        }
        let mut started_over = BTreeMap::new();
        for family in doubt {
            let tail = tails.remove(&family).unwrap_or_default();
            if !self.find_out(&family, &batch, &tail).await {
                self.start_over(&family, &batch, &tail).await;
                let deaths = self.hub.deaths(&family);
                started_over.insert(family, deaths);
            }
        }
        self.note_deaths(&started_over);
        let relays = self.author.relays().into_iter().map(|(relay, _)| relay);
        let mut needed = relays.chain([self.author.echo()]);
        if needed.any(|key| self.oracle.agent(&key).is_none()) {
            Box::pin(self.make_relays()).await;
        }
    }

    fn check_answers(&mut self, batch: &Batch, told: &[usize], doubt: &BTreeSet<String>) {
        let mut answers: BTreeMap<usize, Answer> = self.oracle.answers().into_iter().collect();
        for ticket in told {
            let (command, reply) = (&batch.commands[*ticket], &batch.replies[*ticket]);
            let reply = reply.as_ref().expect("only replied ones are told");
            let Some(answer) = answers.remove(ticket) else {
                // Something that nobody was told of let it go: `find_out` looks whether it may.
                let doubtful = families_of(command).iter().any(|family| doubt.contains(family));
                assert!(doubtful, "{command:?} was answered while it should wait: {reply:?}");
                continue;
            };
            if !answer.is(reply) {
                self.show(batch);
                panic!(
                    "client {}, command {ticket}: {}\nreplied:  {}\nexpected: {}",
                    self.plan.me,
                    short(command),
                    short(reply),
                    short(&answer),
                );
            }
        }
        assert!(answers.is_empty(), "answers to nothing: {answers:?}");
    }

    pub(super) fn show(&self, batch: &Batch) {
        for (ticket, (command, reply)) in batch.commands.iter().zip(&batch.replies).enumerate() {
            eprintln!("  {ticket}: {} -> {}", short(command), short(reply));
        }
    }

    fn count(&self, reply: Option<&Value>) {
        if reply.is_some() {
            self.hub.compared_count.set(self.hub.compared_count.get() + 1);
        }
        if let Some(code) = reply.and_then(code_of) {
            *self.hub.refusals.borrow_mut().entry(code.to_owned()).or_default() += 1;
        }
    }

    /// What only the reply can tell (C1).
    pub(super) fn fate(&self, command: &Command, reply: &Value) -> Fate {
        match (code_of(reply), &command.op) {
            (Some("BUSY"), _) if self.hub.busy => Fate::Turned("BUSY"),
            (Some("TRYAGAIN"), Op::Raw { .. }) if self.hub.faults => Fate::Turned("TRYAGAIN"),
            (Some("FULL"), Op::Send { .. } | Op::Write { .. }) if self.hub.full => Fate::Full,
            (Some("TIMEOUT"), Op::Send { timeout_ms: Some(..1_000), .. }) => {
                Fate::Turned("TIMEOUT")
            }
            _ => Fate::Served(reply.as_u64()),
        }
    }

    /// Families that this batch touched and whose shard died meanwhile.
    fn dead_families(&self, batch: &Batch) -> BTreeSet<String> {
        let families = batch.commands.iter().flat_map(families_of);
        families.filter(|family| self.died_since(family, batch)).collect()
    }

    pub(super) fn died_since(&self, family: &str, batch: &Batch) -> bool {
        let home = self.hub.home(family);
        home.is_some_and(|shard| batch.deaths[usize::from(shard.0)] != self.hub.deaths_of(shard))
    }

    /// Families whose shard died since the oracle was told of them are lost.
    fn note_deaths(&mut self, started_over: &BTreeMap<String, u32>) {
        let families: BTreeSet<String> =
            self.oracle.keys().map(|key| family_of(key).to_owned()).collect();
        for family in families {
            let Some(home) = self.hub.home(&family) else { continue };
            let heard = self.heard[usize::from(home.0)];
            let heard = started_over.get(&family).copied().unwrap_or(heard);
            if heard != self.hub.deaths_of(home) {
                self.oracle.lose(&family);
            }
        }
        for (shard, heard) in (0..).zip(&mut self.heard) {
            *heard = self.hub.deaths_of(ShardId(shard));
        }
    }
}

/// Shared counters, and messages that nobody awaits.
impl Client {
    /// Whether the add is to be tried again.
    fn shared_reply(&mut self, command: &Command, reply: Option<&Value>) -> bool {
        let Op::Send { payload, .. } = &command.op else { return false };
        let amount: i64 = text(payload).parse().expect("an amount");
        match reply.map(|reply| (reply.as_i64(), code_of(reply))) {
            Some((Some(value), _)) => self.hub.added(&command.key, amount, value),
            None | Some((_, Some("TRYAGAIN"))) => return true,
            Some((_, Some("BUSY"))) if self.hub.busy => {}
            Some((_, Some("FULL"))) if self.hub.full => {}
            Some((_, Some("LOST"))) if self.hub.deaths(&command.key) > 0 => {}
            Some(_) => panic!("{command:?} replied {reply:?}"),
        }
        false
    }

    /// The same request once more: it must count once.
    async fn add_again(&mut self, command: &Command, batch: &Batch) {
        let Op::Send { payload, .. } = &command.op else { return };
        let amount: i64 = text(payload).parse().expect("an amount");
        if self.oracle.rules().dedupe_max < 64 || self.died_since(&command.key, batch) {
            return self.hub.perhaps_added(&command.key, amount);
        }
        let deaths = self.hub.deaths(&command.key);
        let value = self.ask(command).await;
        if self.hub.deaths(&command.key) != deaths {
            return self.hub.perhaps_added(&command.key, amount);
        }
        match value.as_i64() {
            Some(value) => self.hub.added(&command.key, amount, value),
            // Whether the first try found room is not known: only good replies are remembered.
            None if code_of(&value) == Some("FULL") => {}
            None if code_of(&value) == Some("LOST") && deaths > 0 => {}
            None => panic!("{command:?} replied {value:?}"),
        }
    }

    fn note_unawaited(&mut self, command: &Command, reply: Option<&Value>) {
        let sent = format!("!{} 1", self.author.unawaited()).into_bytes();
        let Op::Send { payload, .. } = &command.op else { return };
        if *payload == sent && template(&command.key) == "relay" {
            self.unawaited_max += 1;
            self.unawaited_min += i64::from(reply.is_some_and(|reply| code_of(reply).is_none()));
        }
    }
}

/// Asks on a connection of its own until there is an answer of more use than "not now".
pub async fn ask_alone(hub: &Rc<Hub>, words: &[&str]) -> Value {
    let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    let command = Command::new("", Op::Raw { words, refused: None });
    loop {
        for shard in 0..hub.shard_count {
            let mut link = Link::connect(hub, ShardId(shard));
            link.send(std::slice::from_ref(&command));
            let until = hub.world.now().after(PATIENCE);
            if let Got::Reply(value) = link.reply(until).await
                && !matches!(code_of(&value), Some("TRYAGAIN" | "BUSY"))
            {
                return value;
            }
            hub.sleep(Nanos::from_us(300)).await;
        }
    }
}

/// The families that a command may change: its own, and those that a relay may call.
fn families_of(command: &Command) -> Vec<String> {
    if command.key.is_empty() || command.key.starts_with("counter/shared-") {
        return Vec::new();
    }
    let mut families = vec![family_of(&command.key).to_owned()];
    let mut part = own_message(command);
    while let Some((to, payload)) = part {
        families.push(family_of(&to).to_owned());
        part = own_message(&Command::new(to, Op::send(payload)));
    }
    families
}

/// Whom a relay calls, with what.
fn own_message(command: &Command) -> Option<(String, Vec<u8>)> {
    let Op::Send { payload, .. } = &command.op else { return None };
    if template(&command.key) != "relay" {
        return None;
    }
    let space = payload.iter().position(|byte| *byte == b' ')?;
    let to = text(&payload[..space]);
    let good = !to.starts_with('!') && to.parse::<heronry_engine::AgentKey>().is_ok();
    good.then(|| (to, payload[space + 1..].to_vec()))
}

/// What a command is to `family`: itself, or the message that a relay passes on to it.
pub(super) fn own_part(command: &Command, family: &str) -> Command {
    let mut part = command.clone();
    while family_of(&part.key) != family || template(&part.key) == "relay" {
        let Some((to, payload)) = own_message(&part) else { break };
        part = Command::new(to, Op::send(payload));
    }
    part
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a person can read of something long.
pub(super) fn short(what: &impl std::fmt::Debug) -> String {
    let mut text = format!("{what:?}");
    if text.len() > 1_500 {
        let cut = (0..=1_500).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push_str("...");
    }
    text
}
