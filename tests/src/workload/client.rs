//! One simulated client: sends batches, compares every reply with the oracle, looks at everything
//! at the end.
//!
//! Owns: its connection, its oracle, and finding out what is true after a fault.
//! Not: what it asks (`author`), what is right (`oracle`).
//! C1  a reply that can be known is known; what cannot be known (a full queue or arena, a deadline,
//!     the tail of a broken connection) is one of its possible outcomes.
//! C2  replies come; a client that waits for long lets go of what it has suspended, and nothing
//!     else can make it wait.

use super::author::Author;
use super::hub::Hub;
use super::link::{Got, Link};
use crate::op::{At, Command, Op};
use crate::oracle::answer::{Answer, code_of};
use crate::oracle::{Fate, Oracle, family_of, template};
use heronry_engine::{Nanos, ShardId};
use heronry_net::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A client that waits this long lets go of its suspended agents.
const PATIENCE: Nanos = Nanos::from_ms(1_000);
/// Whatever is under way in a node has come to its end after this time.
const QUIET: Nanos = Nanos::from_ms(300);
/// Most outcomes that are followed up after a fault.
const OUTCOMES_MAX: usize = 400;

/// The ticket of a question that is not of the batch.
const ASKED: usize = usize::MAX - 1;

/// Bytes of an image read at once.
const PART: u64 = 30_000;

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
    hub: Rc<Hub>,
    plan: Plan,
    author: Author,
    oracle: Oracle,
    link: Option<Link>,
    /// Deaths per shard that the oracle has heard of.
    heard: Vec<u32>,
    unawaited_max: i64,
    unawaited_min: i64,
}

/// What became of a batch.
struct Batch {
    commands: Vec<Command>,
    replies: Vec<Option<Value>>,
    /// Deaths per shard when it began.
    deaths: Vec<u32>,
}

impl Batch {
    /// A reply that says what happened.
    fn reply(&self, ticket: usize) -> Option<&Value> {
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
        }
        self.hub.close();
        self.play(Vec::new(), false).await;
        self.read_back().await;
        self.check_list().await;
        self.end_all().await;
    }

    /// Relays are there before they are used: whether a refusal came before or after a relay was
    /// made cannot be told.
    async fn make_relays(&mut self) {
        let mut commands = Vec::new();
        for (relay, _) in self.author.relays() {
            commands.push(Command::new(relay, Op::Create { image_bytes: 0 }));
        }
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
    async fn play(&mut self, commands: Vec<Command>, may_cut: bool) {
        self.note_deaths(&BTreeMap::new());
        let deaths = self.heard.clone();
        let cut = may_cut && self.author.rng().u8(..100) < self.plan.cut_percent;
        let cut_at = cut.then(|| self.author.rng().usize(..=commands.len()));
        let mut batch = Batch { replies: vec![None; commands.len()], commands, deaths };
        self.exchange(&mut batch, cut_at).await;
        self.compare(batch).await;
    }

    async fn exchange(&mut self, batch: &mut Batch, cut_at: Option<usize>) {
        let mut link = self.link().await;
        let count = batch.commands.len();
        let split = self.author.rng().usize(..=count);
        link.send(&batch.commands[..split]);
        if self.author.rng().u8(..4) == 0 {
            let pause = Nanos::from_us(self.author.rng().u64(..5_000));
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
    async fn link(&mut self) -> Link {
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
    async fn ask(&mut self, command: &Command) -> Value {
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
            let fate = self.fate(command, reply);
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
        let relays_gone =
            self.author.relays().iter().any(|(relay, _)| self.oracle.agent(relay).is_none());
        if relays_gone {
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

    fn show(&self, batch: &Batch) {
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
    fn fate(&self, command: &Command, reply: &Value) -> Fate {
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

    fn died_since(&self, family: &str, batch: &Batch) -> bool {
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

/// After a fault.
impl Client {
    /// Finds out which of the possible outcomes of `tail` came true for a family. False: that cannot
    /// be told.
    async fn find_out(&mut self, family: &str, batch: &Batch, tail: &[usize]) -> bool {
        if template(family) == "relay" || self.died_since(family, batch) {
            return false;
        }
        let mut outcomes = vec![self.oracle.clone()];
        for ticket in tail {
            let command = own_part(&batch.commands[*ticket], family);
            outcomes = outcomes
                .iter()
                .flat_map(|before| self.outcomes(before, *ticket, &command, batch))
                .collect();
            if outcomes.len() > OUTCOMES_MAX {
                return false;
            }
        }
        // What was answered does not wait.
        let unanswered = |ticket: &usize| batch.reply(*ticket).is_none();
        outcomes.retain(|outcome| outcome.waiting(family).iter().all(unanswered));
        let keys = outcomes.iter().flat_map(|outcome| outcome.family(family).map(|(key, _)| key));
        let mut keys: BTreeSet<String> = keys.map(str::to_owned).collect();
        keys.insert(family.to_owned());
        let mut seen = Vec::new();
        for key in keys {
            // What waits and how many turns failed of late cannot be seen: it is let go, forgotten.
            let mut ops = vec![Op::Resume, Op::Suspend, Op::Resume, Op::Info, Op::Versions];
            let agents = outcomes.iter().filter_map(|outcome| outcome.agent(&key));
            let ids: BTreeSet<u64> = agents.clone().flat_map(|agent| agent.version_ids()).collect();
            ops.extend(ids.into_iter().map(|id| Op::Diff { from: At::Id(id), to: None }));
            let len_max = agents.map(|agent| agent.memory().len() as u64).max().unwrap_or(0);
            let parts = (0..=len_max / PART).map(|part| part * PART);
            ops.extend(parts.map(|offset| Op::Read { offset, len: PART }));
            for op in ops {
                let command = Command::new(key.clone(), op);
                let value = self.ask(&command).await;
                seen.push((command, value));
            }
        }
        if self.died_since(family, batch) {
            return false;
        }
        let fits = |outcome: &mut Oracle| {
            seen.iter().all(|(command, value)| {
                outcome.tell(ASKED, &command.key, &command.op, Fate::Served(None));
                let answers = outcome.answers();
                answers.iter().all(|(ticket, answer)| *ticket != ASKED || answer.is(value))
            })
        };
        let count = outcomes.len();
        outcomes.retain_mut(fits);
        let Some(outcome) = outcomes.first() else {
            self.show(batch);
            panic!(
                "{family} is as none of the {count} outcomes of {tail:?} says: {}",
                short(&seen)
            );
        };
        if !outcomes.iter().all(|other| other.is_alike(outcome, family)) {
            return false;
        }
        self.hub.log(family, || format!("one of {count} outcomes of {tail:?}: {}", short(&seen)));
        self.oracle.adopt(family, outcome);
        true
    }

    /// What may have come of an operation.
    fn outcomes(
        &self,
        before: &Oracle,
        ticket: usize,
        command: &Command,
        batch: &Batch,
    ) -> Vec<Oracle> {
        // A relay that was lost says so itself.
        let relayed = command.key != batch.commands[ticket].key;
        let own = |reply: &&Value| !(relayed && code_of(reply) == Some("LOST"));
        let tell = |fate| {
            let mut after = before.clone();
            after.tell(ticket, &command.key, &command.op, fate);
            let answers = after.answers();
            let fits = |(ticket, answer): &(usize, Answer)| {
                batch.reply(*ticket).filter(own).is_none_or(|reply| answer.is(reply))
            };
            answers.iter().all(fits).then_some(after)
        };
        if let Some(reply) = batch.reply(ticket).filter(own) {
            return tell(self.fate(command, reply)).into_iter().collect();
        }
        let mut outcomes = vec![before.clone()];
        outcomes.extend(tell(Fate::Served(None)));
        if command.op == Op::Commit
            && let Some(parent) = before.agent(&command.key).and_then(|a| a.parent())
        {
            let head = before.agent(parent).map(|parent| parent.head());
            outcomes.extend(tell(Fate::Served(head)));
        }
        if self.hub.full && command.op.runs_turn() {
            outcomes.extend(tell(Fate::Full));
        }
        outcomes
    }

    /// Ends whatever there is of a family, after making sure that what died is said to be lost.
    async fn start_over(&mut self, family: &str, batch: &Batch, tail: &[usize]) {
        self.hub.log(family, || format!("{family} starts over"));
        let mut keys: BTreeSet<String> =
            self.oracle.family(family).map(|(k, _)| k.into()).collect();
        let lived = keys.clone();
        keys.extend(self.oracle.lost().filter(|k| family_of(k) == family).map(str::to_owned));
        keys.insert(family.to_owned());
        let mut steady = self.died_since(family, batch);
        for ticket in tail {
            let command = own_part(&batch.commands[*ticket], family);
            let forks = |op: &Op| matches!(op, Op::Fork { .. });
            steady &= !forks(&command.op)
                && !matches!(command.op, Op::Create { .. } | Op::Terminate | Op::Commit);
            if forks(&command.op) {
                let mut after = self.oracle.clone();
                after.tell(0, &command.key, &command.op, Fate::Served(None));
                keys.extend(after.family(family).map(|(key, _)| key.to_owned()));
                keys.extend((1..60).map(|number| format!("{}~{number}", command.key)));
                keys.extend(["a", "b"].map(|suffix| format!("{}~{suffix}", command.key)));
            }
        }
        for key in keys {
            let read = Command::new(key.clone(), Op::Read { offset: 0, len: 0 });
            let value = self.ask(&read).await;
            let lost = code_of(&value) == Some("LOST");
            if steady && lived.contains(&key) {
                assert!(lost, "{key} died with its shard, and says {value:?}");
            }
            if code_of(&value).is_none() {
                // What waits for an agent that ends would make it anew.
                self.ask(&Command::new(key.clone(), Op::Resume)).await;
                let ended = self.ask(&Command::new(key.clone(), Op::Terminate)).await;
                let died = matches!(code_of(&ended), Some("LOST" | "NOAGENT"));
                assert!(Answer::Done.is(&ended) || died, "{key} cannot be ended: {ended:?}");
            }
            let known = lost || code_of(&value).is_none() || code_of(&value) == Some("NOAGENT");
            assert!(known, "{key} says {value:?}");
            let value = self.ask(&read).await;
            self.oracle.forget(&key, code_of(&value) == Some("LOST"));
        }
    }
}

/// At the end.
impl Client {
    /// Reads every image and every version of every agent.
    async fn read_back(&mut self) {
        let keys: Vec<String> = self.oracle.keys().map(str::to_owned).collect();
        for key in keys {
            let ops = [Op::Resume, Op::Info, Op::Versions];
            self.play(ops.into_iter().map(|op| Command::new(&key, op)).collect(), false).await;
            let Some(agent) = self.oracle.agent(&key) else { continue };
            let ids = agent.version_ids();
            self.read_whole(&key).await;
            for id in ids {
                let to = Some(At::Id(id));
                self.play(vec![Command::new(&key, Op::Rollback { to })], false).await;
                self.read_whole(&key).await;
            }
        }
    }

    async fn read_whole(&mut self, key: &str) {
        let Some(agent) = self.oracle.agent(key) else { return };
        let parts = (0..=agent.memory().len() as u64 / PART).map(|part| part * PART);
        let parts = parts.map(|offset| Command::new(key, Op::Read { offset, len: PART }));
        self.play(parts.collect(), false).await;
    }

    /// Walks AGENT.LIST and finds exactly what lives, and what is lost.
    async fn check_list(&mut self) {
        let unawaited = self.author.unawaited();
        for lost in [false, true] {
            let found = self.walk(lost).await;
            let found: BTreeSet<String> = found.into_iter().filter(|k| *k != unawaited).collect();
            let expected: BTreeSet<String> = match lost {
                false => self.oracle.keys().map(str::to_owned).collect(),
                true => self.oracle.lost().map(str::to_owned).collect(),
            };
            assert_eq!(found, expected, "AGENT.LIST, lost: {lost}");
        }
    }

    async fn walk(&mut self, lost: bool) -> Vec<String> {
        let mut found = Vec::new();
        let mut cursor = "0".to_owned();
        let count = self.author.rng().u32(1..20).to_string();
        let pattern = format!("*/c{}-*", self.plan.me);
        loop {
            let words = ["AGENT.LIST", "CURSOR", &cursor, "MATCH", &pattern, "COUNT", &count];
            let mut words: Vec<Vec<u8>> = words.map(|word| word.as_bytes().to_vec()).into();
            words.extend(lost.then(|| b"LOST".to_vec()));
            let value = self.ask(&Command::new("", Op::Raw { words, refused: None })).await;
            let Some([next, keys]) = value.as_slice() else { panic!("AGENT.LIST: {value:?}") };
            let keys = keys.as_slice().unwrap_or_default();
            found.extend(keys.iter().filter_map(Value::as_str).map(str::to_owned));
            cursor = next.as_str().expect("a cursor").to_owned();
            if cursor == "0" {
                return found;
            }
        }
    }

    /// Ends all agents; then none is listed.
    async fn end_all(&mut self) {
        let keys: Vec<String> = self.oracle.keys().map(str::to_owned).collect();
        for key in keys {
            let terminate = Command::new(key.clone(), Op::Terminate);
            let value = self.ask(&terminate).await;
            // A first try whose connection broke may have ended it.
            let ended = self.hub.faults && code_of(&value) == Some("NOAGENT");
            assert!(Answer::Done.is(&value) || ended, "{key} does not end: {value:?}");
        }
        self.check_unawaited().await;
        let left = self.walk(false).await;
        assert!(left.is_empty(), "all were ended, but not {left:?}");
    }

    async fn check_unawaited(&mut self) {
        self.hub.sleep(QUIET).await;
        let key = self.author.unawaited();
        let read = Command::new(key.clone(), Op::Read { offset: 0, len: 8 });
        let value = self.ask(&read).await;
        let bytes = value.as_bytes().filter(|bytes| bytes.len() == 8);
        let count = bytes.map_or(0, |b| i64::from_le_bytes(b.try_into().expect("8 bytes")));
        let strict = !self.hub.busy && !self.hub.full && !self.hub.faults;
        let least =
            if strict && self.oracle.rules().create_on_send { self.unawaited_min } else { 0 };
        let range = least..=self.unawaited_max;
        assert!(range.contains(&count), "{key} is {count}, sent: {range:?}");
        if code_of(&value).is_none() {
            self.ask(&Command::new(key, Op::Terminate)).await;
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
fn own_part(command: &Command, family: &str) -> Command {
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
fn short(what: &impl std::fmt::Debug) -> String {
    let mut text = format!("{what:?}");
    if text.len() > 1_500 {
        let cut = (0..=1_500).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push_str("...");
    }
    text
}
