//! The control thread: what a node does beside its shards' turns, on one thread of its supervisor.
//!
//! Owns: its runtime, the links to the shards, which errand is done by whom.  Not: agents; it never
//! touches one.  [`deploy`] makes templates, [`shelf`] keeps them, [`build`] runs a build, [`http`]
//! sends agents' requests, [`snapshot`] has the node's data named twice, [`link`] is one shard's
//! link.
//! C1  every errand that arrives is answered once, as long as its link is there.
//! C2  nothing of an errand outlives the thread: a build's process ends with it.

mod build;
mod deploy;
mod http;
mod link;
mod shelf;
mod snapshot;

use super::templates;
use crate::config;
use anyhow::{Context, Result};
use build::Builder;
use crossbeam_channel::{Receiver, Sender, bounded};
use deploy::Templates;
use heronry_engine::config::Config;
use heronry_engine::verb::Errand;
use heronry_engine::{Refusal, Reply, ShardId};
use heronry_shards::errand::{ERRANDS_MAX, ShardToControl};
use heronry_shards::supervisor::MakeLink;
use http::Http;
use link::Peer;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{LocalSet, spawn_local};

/// The folder of the templates in the data folder.
const TEMPLATES: &str = "templates";

/// The control thread, as the rest of the supervisor holds it. It ends when this is dropped and no
/// link can be made any more.
pub(super) struct Control {
    joins: mpsc::UnboundedSender<Joining>,
    told: Receiver<Result<()>>,
    thread: JoinHandle<()>,
}

/// A shard that is about to start, and our end of its link.
struct Joining {
    shard: ShardId,
    socket: UnixStream,
}

impl Control {
    /// Starts the thread, which finds out about the templates of the data folder.
    pub(super) fn start(config: &Config, data_dir: &Path, shard_count: u16) -> Result<Control> {
        let natives = templates().iter().map(|native| native.name().to_owned()).collect();
        let builder = Builder::new(config);
        let folder = data_dir.join(TEMPLATES);
        let data = std::path::absolute(data_dir)?;
        let limits = http::Limits::of(config);
        let (allow, secrets) = (config.http.allow.clone(), config::secrets_file(config));
        let (joins, joined) = mpsc::unbounded_channel();
        let (ready, told) = bounded(1);
        let work = move || {
            let core = Core {
                templates: Templates::new(natives, folder, builder),
                http: Http::new(&allow, secrets, limits),
                data,
                shard_count,
            };
            run(Rc::new(core), joined, ready)
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(work)?;
        Ok(Control { joins, told, thread })
    }

    /// Waits until no template has to be built any more for the node to start; the first time that
    /// takes seconds, and is said.
    pub(super) fn await_templates(&self) -> Result<()> {
        self.told.recv().context("the control thread ended at its start")?
    }

    /// Makes links for shards that start; for the supervisor.
    pub(super) fn links(&self) -> MakeLink {
        let joins = self.joins.clone();
        Box::new(move |shard| {
            let kind = (AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC);
            let (ours, theirs): (OwnedFd, OwnedFd) = socketpair(kind.0, kind.1, kind.2, None)?;
            let socket = UnixStream::from(ours);
            socket.set_nonblocking(true)?;
            let gone = |_| io::Error::other("the control thread has ended");
            joins.send(Joining { shard, socket }).map_err(gone)?;
            Ok(theirs)
        })
    }

    /// Ends the thread and what it was doing. The links must be gone: they keep it alive.
    pub(super) fn end(self) {
        let Control { joins, thread, .. } = self;
        drop(joins);
        if thread.join().is_err() {
            report(format_args!("the control thread panicked"));
        }
    }
}

/// What the tasks of the thread share.
struct Core {
    templates: Templates,
    http: Http,
    /// The data folder.
    data: PathBuf,
    shard_count: u16,
}

fn run(core: Rc<Core>, mut joined: mpsc::UnboundedReceiver<Joining>, ready: Sender<Result<()>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Nobody waits any more only when the node is ending anyway.
            let _ = ready.send(Err(error.into()));
            return;
        }
    };
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async move {
        // Where nothing has to be built, shards start meanwhile and wait for what they need.
        let early = matches!(core.templates.is_complete(), Ok(true));
        // Nobody waits any more only when the node is ending anyway.
        if early {
            let _ = ready.send(Ok(()));
        }
        let mut waiting = Vec::new();
        let begun = {
            let begin = core.templates.begin();
            tokio::pin!(begin);
            loop {
                tokio::select! {
                    begun = &mut begin => break begun,
                    joining = joined.recv() => match joining {
                        Some(joining) => waiting.push(joining),
                        // The node ends, and a build with it (C2).
                        None => return,
                    },
                }
            }
        };
        let failed = begun.is_err();
        match begun {
            Err(error) if early => report(format_args!("no templates: {error:#}")),
            begun if !early => _ = ready.send(begun),
            _ => {}
        }
        if failed {
            return;
        }
        for joining in waiting {
            spawn_local(serve(Rc::clone(&core), joining));
        }
        while let Some(joining) = joined.recv().await {
            spawn_local(serve(Rc::clone(&core), joining));
        }
    });
}

/// Serves one link until its shard ends.
async fn serve(core: Rc<Core>, Joining { shard, socket }: Joining) {
    let (peer, mut inbound) = match Peer::open(shard, socket) {
        Ok(opened) => opened,
        Err(error) => {
            return report(format_args!("shard {}: no link: {error}", shard.0));
        }
    };
    let peer = Rc::new(peer);
    let greeting = spawn_local(greet(Rc::clone(&core), Rc::clone(&peer)));
    let room = Arc::new(Semaphore::new(ERRANDS_MAX));
    loop {
        match inbound.next().await {
            Ok(Some(ShardToControl::Stepped { token, error })) => peer.stepped(token, error),
            Ok(Some(ShardToControl::Do { token, errand })) => {
                let Ok(place) = Arc::clone(&room).acquire_owned().await else { break };
                let (core, peer) = (Rc::clone(&core), Rc::clone(&peer));
                spawn_local(async move {
                    peer.done(token, core.perform(errand).await);
                    drop(place);
                });
            }
            Ok(None) => break,
            Err(error) => {
                report(format_args!("shard {}: its link is given up: {error}", shard.0));
                break;
            }
        }
    }
    core.templates.leave(&peer);
    peer.close();
    // It may still wait for the shard that has just ended.
    greeting.abort();
}

async fn greet(core: Rc<Core>, peer: Rc<Peer>) {
    for error in core.templates.welcome(&peer).await {
        report(format_args!("shard {}: {error}", peer.shard().0));
    }
}

impl Core {
    async fn perform(&self, errand: Errand) -> Result<Reply, Refusal> {
        match errand {
            Errand::Deploy { name, language, source, warm, activate } => {
                let source = Some(source);
                let order = deploy::Order { name, language, source, warm, activate };
                let number = self.templates.deploy(order).await?;
                Ok(Reply::Template { number: number.into() })
            }
            Errand::Activate { name, number } => {
                self.templates.activate(&name, number).await?;
                Ok(Reply::Template { number: number.into() })
            }
            Errand::Snapshot { name } => {
                let made = self.templates.snapshot(&self.data, self.shard_count, &name).await;
                let path = made.map_err(|reason| Refusal::BadSnapshot { name, reason })?;
                Ok(Reply::Payload(Some(path.into_os_string().into_encoded_bytes().into())))
            }
            Errand::Http { agent: _, request, idempotency } => {
                let reply = self.http.perform(&request, &idempotency).await?;
                Ok(Reply::Payload(Some(reply)))
            }
        }
    }
}

/// One line for the operator.
fn report(line: std::fmt::Arguments<'_>) {
    eprintln!("heronry: {line}");
}
