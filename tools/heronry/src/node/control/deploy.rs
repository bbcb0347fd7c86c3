//! Templates of the node: how they are made, brought to every shard, and found again.
//!
//! Owns: which templates and numbers there are, which is active, their bases in sealed memory.
//! Not: building (`build.rs`), files (`shelf.rs`), what shards do with them.
//! D1  a template is known once every living shard uses it; when one cannot load it, none uses it
//!     and its folder is gone.
//! D2  what shards are told about templates is told to all in one order; one that starts is told
//!     what is known, and then takes part.
//! D3  a stored template that cannot be read is reported and left out; the node serves without it.

use super::build::{Builder, Site};
use super::link::{Peer, Stepped};
use super::report;
use super::shelf::{Shelf, Staged, Stored};
use anyhow::{Context, Result};
use bytes::Bytes;
use heronry_engine::Refusal;
use heronry_engine::limits::TEMPLATE_BYTES_MAX;
use heronry_engine::verb::Language;
use heronry_shards::errand::{BaseRef, Step, TemplateRef};
use heronry_shards::sandbox::build::{Needs, OTHER_MODULE};
use heronry_shards::sandbox::slot::BaseImage;
use heronry_shards::sandbox::template::TemplateFile;
use std::cell::{Cell, RefCell};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;
use tokio::sync::{Mutex, Semaphore};

/// Most numbers of all templates; each holds a descriptor and its base in memory.
const TEMPLATES_MAX: usize = 1_024;
/// Builds that run at a time; the others wait.
const BUILDS_MAX: usize = 2;
/// Builds that run or wait.
const WAITING_MAX: usize = 64;
/// The templates that every node has once the interpreters are there: these alone.
const DEFAULTS: [(&str, Language); 2] =
    [("python", Language::Python), ("javascript", Language::JavaScript)];

/// What a client asks to be made.
pub(super) struct Order {
    pub(super) name: String,
    pub(super) language: Language,
    /// None for the interpreter alone.
    pub(super) source: Option<Bytes>,
    pub(super) warm: Option<Bytes>,
    pub(super) activate: bool,
}

/// A template that the shards use.
struct Known {
    template: TemplateRef,
    /// Keeps the base's memory, which `template` names.
    _base: BaseImage,
    active: bool,
}

/// All of them.
pub(super) struct Templates {
    natives: Vec<String>,
    shelf: Shelf,
    builder: Builder,
    known: RefCell<Vec<Known>>,
    pub(super) peers: RefCell<Vec<Rc<Peer>>>,
    /// D2: held while shards are told.
    pub(super) telling: Mutex<()>,
    builds: Semaphore,
    waiting: Cell<usize>,
}

impl Templates {
    /// None known yet. `natives` are names that are taken.
    pub(super) fn new(natives: Vec<String>, folder: PathBuf, builder: Builder) -> Templates {
        Templates {
            natives,
            shelf: Shelf::new(folder),
            builder,
            known: RefCell::default(),
            peers: RefCell::default(),
            telling: Mutex::new(()),
            builds: Semaphore::new(BUILDS_MAX),
            waiting: Cell::new(0),
        }
    }

    /// Finds what the data folder has (D3), and makes what every node has.
    pub(super) async fn begin(&self) -> Result<()> {
        for stored in self.shelf.stored().context("the templates")? {
            let opened = self.open_stored(&stored).await;
            let Stored { name, number, .. } = stored;
            match opened {
                Ok((template, base)) => {
                    let active = self.shelf.active(&name) == Some(number);
                    self.known.borrow_mut().push(Known { template, _base: base, active });
                }
                Err(error) => {
                    report(format_args!("template {name:?}, number {number}, is left out: {error}"))
                }
            }
        }
        self.builder.seen().save();
        self.choose_active();
        self.make_defaults().await;
        Ok(())
    }

    /// Whether every template that a node has is stored, or cannot be made here.
    pub(super) fn is_complete(&self) -> Result<bool> {
        let stored = self.shelf.stored().context("the templates")?;
        let has = |name: &str| stored.iter().any(|stored| stored.name == name);
        Ok(DEFAULTS.iter().all(|(name, _)| has(name) || !self.has_guest(name)))
    }

    fn has_guest(&self, name: &str) -> bool {
        self.builder.guests_dir().join(format!("{name}.wasm")).is_file()
    }

    /// Opens a stored template (D3). With an emptied cache its module is compiled again; where that
    /// is another today, as after an upgrade, the template is built again.
    async fn open_stored(&self, stored: &Stored) -> Result<(TemplateRef, BaseImage), String> {
        let Stored { name, number, file, .. } = stored;
        self.check_name(name).map_err(|refusal| refusal.to_string())?;
        let mut opened =
            TemplateFile::open(file, self.builder.seen()).map_err(|error| error.to_string())?;
        let needs = match self.builder.check(&opened.header) {
            Ok(needs) => Some(needs),
            Err(why) => {
                report(format_args!(
                    "the module of template {name:?}, number {number}, is compiled again: {why}"
                ));
                self.mend(stored, &mut opened).await?
            }
        };
        offer(name, *number, opened, needs)
    }

    /// Has the module of a stored template compiled again, or, where it is another today, the
    /// template built again.
    async fn mend(
        &self,
        stored: &Stored,
        opened: &mut TemplateFile,
    ) -> Result<Option<Needs>, String> {
        let Stored { name, number, file, source, warm } = stored;
        let site = Site {
            language: opened.header.language,
            source: source.as_deref(),
            warm: warm.as_deref(),
            out: file,
        };
        let compiled = self.builder.compile(&site, opened.header.module).await;
        match compiled.and_then(|()| self.builder.check(&opened.header)) {
            Ok(needs) => Ok(Some(needs)),
            // Another build may have another memory, on which no agent's records rest.
            Err(why) if !why.contains(OTHER_MODULE) => Err(why),
            Err(why) => {
                report(format_args!("template {name:?}, number {number}, is built again: {why}"));
                self.builder.build(&site).await?;
                *opened = TemplateFile::open(file, self.builder.seen())
                    .map_err(|error| error.to_string())?;
                Ok(None)
            }
        }
    }

    /// Gives every name an active number: the newest where none is chosen, or the chosen is broken.
    fn choose_active(&self) {
        let mut known = self.known.borrow_mut();
        for idx in 0..known.len() {
            let name = known[idx].template.name.clone();
            let last = known[idx + 1..].iter().all(|other| other.template.name != name);
            let chosen = known.iter().any(|other| other.template.name == name && other.active);
            known[idx].active |= last && !chosen;
        }
    }

    async fn make_defaults(&self) {
        let missing: Vec<(&str, Language)> = DEFAULTS
            .into_iter()
            .filter(|(name, _)| self.known.borrow().iter().all(|k| k.template.name != *name))
            .collect();
        let (ready, absent): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|(name, _)| self.has_guest(name));
        if !absent.is_empty() {
            let names: Vec<&str> = absent.iter().map(|(name, _)| *name).collect();
            report(format_args!(
                "no {} agents: {} has no such interpreter; tools/guests/build makes both in some \
                 minutes",
                names.join(" or "),
                self.builder.guests_dir().display()
            ));
        }
        let mut ready = ready.into_iter();
        tokio::join!(self.make_default(ready.next()), self.make_default(ready.next()));
    }

    async fn make_default(&self, wanted: Option<(&str, Language)>) {
        let Some((name, language)) = wanted else { return };
        report(format_args!("making the template {name}; this takes some seconds, once"));
        let began = Instant::now();
        let (source, warm) = (None, None);
        let order = Order { name: name.to_owned(), language, source, warm, activate: true };
        match self.deploy(order).await {
            Ok(_) => {
                let ms = began.elapsed().as_millis();
                report(format_args!("the template {name} was made in {ms} ms"));
            }
            Err(refusal) => report(format_args!("no template {name}: {refusal}")),
        }
    }

    /// Makes a template; its number. On a refusal nothing changed (D1).
    pub(super) async fn deploy(&self, order: Order) -> Result<u32, Refusal> {
        self.check_name(&order.name)?;
        let count = self.known.borrow().len();
        if count >= TEMPLATES_MAX {
            return Err(Refusal::Limit {
                what: "the number of templates and their numbers".into(),
                value: count as u64 + 1,
                limit: TEMPLATES_MAX as u64,
                remedy: "stop the node and remove folders under `templates` in its data folder"
                    .into(),
            });
        }
        let bad = |reason: String| Refusal::BadTemplate { name: order.name.clone(), reason };
        let (source, warm) = (order.source.as_deref(), order.warm.as_deref());
        let staged = self.shelf.stage(&order.name, order.language, source, warm);
        let staged = staged.map_err(|error| bad(format!("it cannot be stored: {error}")))?;
        let made = match self.build(&order, &staged).await {
            Ok(()) => self.take_up(&order, &staged).await.map_err(bad),
            Err(refusal) => Err(refusal),
        };
        if made.is_err() {
            self.shelf.discard(&staged);
        }
        made.map(|()| staged.number)
    }

    async fn build(&self, order: &Order, staged: &Staged) -> Result<(), Refusal> {
        let count = self.waiting.get();
        if count >= WAITING_MAX {
            let (what, count_max) = ("the list of builds".into(), WAITING_MAX as u64);
            return Err(Refusal::Busy { what, count: count as u64, count_max });
        }
        let _waiting = Waiting::new(&self.waiting);
        let _turn = self.builds.acquire().await.expect("D1: the semaphore is never closed");
        let (source, warm) = (staged.source.as_deref(), staged.warm.as_deref());
        let site = Site { language: order.language, source, warm, out: &staged.out };
        let built = self.builder.build(&site).await;
        built.map_err(|reason| Refusal::BadTemplate { name: order.name.clone(), reason })
    }

    /// Brings a built template to all shards (D1, D2).
    async fn take_up(&self, order: &Order, staged: &Staged) -> Result<(), String> {
        let (name, number) = (&order.name, staged.number);
        let unstored = |error| format!("it cannot be stored: {error}");
        let file = self.shelf.keep(staged).map_err(unstored)?;
        let opened =
            TemplateFile::open(&file, self.builder.seen()).map_err(|error| error.to_string())?;
        let (template, base) = offer(name, number, opened, None)?;
        let _telling = self.telling.lock().await;
        let load = Step::Load(Box::new(template.clone()));
        if let Err(error) = self.tell_all(&load).await {
            let withdraw = Step::Withdraw { name: name.clone(), number };
            // A shard that cannot forget it has none to forget.
            let _ = self.tell_all(&withdraw).await;
            return Err(error);
        }
        let first = self.known.borrow().iter().all(|known| known.template.name != *name);
        let active = order.activate || first;
        let step = Step::Deploy { name: name.clone(), number, activate: active };
        self.tell_all(&step).await?;
        if active {
            self.note_active(name, number);
        }
        self.known.borrow_mut().push(Known { template, _base: base, active });
        Ok(())
    }

    /// Makes new agents of `name` come from `number`.
    pub(super) async fn activate(&self, name: &str, number: u32) -> Result<(), Refusal> {
        let _telling = self.telling.lock().await;
        self.check_number(name, number)?;
        let step = Step::Activate { name: name.to_owned(), number };
        let told = self.tell_all(&step).await;
        told.map_err(|reason| Refusal::BadTemplate { name: name.to_owned(), reason })?;
        self.note_active(name, number);
        for known in self.known.borrow_mut().iter_mut().filter(|k| k.template.name == name) {
            known.active = known.template.number == number;
        }
        Ok(())
    }

    /// Tells a shard that starts what is known, and lets it take part (D2). What it could not do.
    pub(super) async fn welcome(&self, peer: &Rc<Peer>) -> Vec<String> {
        let mut pending = Vec::new();
        {
            let _telling = self.telling.lock().await;
            for Known { template, active, .. } in self.known.borrow().iter() {
                let (name, number) = (template.name.clone(), template.number);
                let load = peer.step(Step::Load(Box::new(template.clone())));
                let deploy = Step::Deploy { name: name.clone(), number, activate: *active };
                pending.push((name, number, load, peer.step(deploy)));
            }
            peer.known();
            self.peers.borrow_mut().push(Rc::clone(peer));
        }
        let mut errors = Vec::new();
        for (name, number, load, deploy) in pending {
            // When it was not loaded, the second answer says only that.
            for step in [load, deploy] {
                if let Stepped::Failed(error) = step.outcome().await {
                    errors.push(format!("no template {name:?}, number {number}: {error}"));
                    break;
                }
            }
        }
        errors
    }

    /// A shard has ended.
    pub(super) fn leave(&self, peer: &Rc<Peer>) {
        self.peers.borrow_mut().retain(|other| !Rc::ptr_eq(other, peer));
    }

    /// Asks all living shards for a step and waits for all. Error: the first that did not do it.
    async fn tell_all(&self, step: &Step) -> Result<(), String> {
        let peers = self.peers.borrow().clone();
        let pending: Vec<_> =
            peers.iter().map(|peer| (peer.shard(), peer.step(step.clone()))).collect();
        let mut outcome = Ok(());
        for (shard, step) in pending {
            if let Stepped::Failed(error) = step.outcome().await {
                outcome = outcome.and(Err(format!("shard {}: {error}", shard.0)));
            }
        }
        outcome
    }

    /// The choice outlives the node, if it can be written down.
    fn note_active(&self, name: &str, number: u32) {
        for known in self.known.borrow_mut().iter_mut().filter(|k| k.template.name == name) {
            known.active = false;
        }
        if let Err(error) = self.shelf.set_active(name, number) {
            report(format_args!(
                "template {name:?}: number {number} is active until the node ends only: {error}"
            ));
        }
    }

    fn check_name(&self, name: &str) -> Result<(), Refusal> {
        if self.natives.iter().any(|native| native == name) {
            let reason = "it is built in; choose another name".to_owned();
            return Err(Refusal::BadTemplate { name: name.to_owned(), reason });
        }
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !(1..=TEMPLATE_BYTES_MAX).contains(&name.len()) || !name.bytes().all(letter) {
            return Err(Refusal::BadValue {
                what: "name".into(),
                value: format!("{name:?}"),
                allowed: format!("1 to {TEMPLATE_BYTES_MAX} of a-z, A-Z, 0-9, - and _").into(),
            });
        }
        Ok(())
    }

    fn check_number(&self, name: &str, number: u32) -> Result<(), Refusal> {
        self.check_name(name)?;
        let known = self.known.borrow();
        let of_name = known.iter().filter(|known| known.template.name == name);
        let numbers: Vec<u32> = of_name.map(|known| known.template.number).collect();
        if numbers.contains(&number) {
            return Ok(());
        }
        if numbers.is_empty() {
            let active = known.iter().filter(|known| known.active).count();
            let count = (active + self.natives.len()) as u32;
            return Err(Refusal::NoTemplate { name: name.to_owned(), count });
        }
        let all: Vec<String> = numbers.iter().map(u32::to_string).collect();
        let (what, value) = ("number".into(), number.to_string());
        Err(Refusal::BadValue { what, value, allowed: all.join(", ").into() })
    }
}

/// Counts a build while it waits or runs, also when it is given up.
struct Waiting<'c>(&'c Cell<usize>);

impl<'c> Waiting<'c> {
    fn new(count: &'c Cell<usize>) -> Waiting<'c> {
        count.set(count.get() + 1);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A template as shards are told of it, and its base in sealed memory.
fn offer(
    name: &str,
    number: u32,
    file: TemplateFile,
    needs: Option<Needs>,
) -> Result<(TemplateRef, BaseImage), String> {
    let base = BaseImage::from_bytes(file.memory()).map_err(|error| error.to_string())?;
    let (pid, fd) = (std::process::id(), base.fd().as_raw_fd());
    let place = BaseRef { pid, fd, len_bytes: base.len_bytes() as u64 };
    let (name, header) = (name.to_owned(), file.header);
    Ok((TemplateRef { name, number, header, needs, base: place }, base))
}

#[cfg(test)]
mod tests;
