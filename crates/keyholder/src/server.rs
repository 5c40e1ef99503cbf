//! The server: TLS, files, ledger, and the way between keyholders. What it decides is nothing; see the share's process.

mod boot;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bonafide_crypto::erased::Erased;
use bonafide_identity::SpiffeId;
use bonafide_keyring::{Dispatch, KeyringError};
use bonafide_ledger::{Bindings, Ledger};
use bonafide_net::drain::Shutdown;
use bonafide_tls::{IdentitySlot, Trust};
use bonafide_wire::keyholder::{DeliverRequest, Documents, KeyholderStatus};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::config::SvidFiles;
use crate::disk::Disk;
use crate::error::Refusal;
use crate::generated::worker::{self, Reply, Step, request::Ask, step};
use crate::peers::Peers;
use crate::service::refused;
use crate::svid;

/// How often the SVID's files are looked at, and checkpoints of the ledger are published.
const OFTEN: Duration = Duration::from_secs(2);

/// A keyholder.
#[derive(Debug)]
pub struct Keyholder;

/// A keyholder that runs. Dropping it does not end it: [`Running::stop`] does.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    worker: Option<u32>,
    engine: Arc<Engine>,
    tasks: TaskTracker,
    failure: oneshot::Receiver<Refusal>,
}

/// What all parts of the server share.
pub(crate) struct Engine {
    dispatch: Dispatch,
    disk: Disk,
    ledger: Ledger,
    /// One change at a time: from the question to the last file.
    changes: tokio::sync::Mutex<()>,
    known: watch::Sender<Arc<Known>>,
    trust: Trust,
    slot: Arc<IdentitySlot>,
    peers: Arc<Peers>,
    /// Enough others have told what they know since the start: no revocation that counts can be missing.
    is_current: AtomicBool,
    heard: Mutex<BTreeSet<SpiffeId>>,
    ceremony_time: Duration,
    missing: Vec<String>,
    failed: Mutex<Option<oneshot::Sender<Refusal>>>,
    shutdown: Shutdown,
    tasks: TaskTracker,
}

/// What everybody may know.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) documents: Documents,
    status: KeyholderStatus,
    /// Servers of the rosters that count, without this one.
    pub(crate) peers: BTreeSet<SpiffeId>,
    session: Bytes,
}

impl Engine {
    pub(crate) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.borrow())
    }

    pub(crate) fn status(&self) -> KeyholderStatus {
        let mut status = self.known().status.clone();
        status.missing.clone_from(&self.missing);
        if status.serving && !self.is_current.load(Ordering::Acquire) {
            status.serving = false;
            "it waits for other keyholders to tell what was revoked".clone_into(&mut status.why);
        }
        status
    }

    /// Asks the share's process.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Reply, Refusal> {
        let request = Erased::new(worker::Request { ask: Some(ask) }.encode_to_vec());
        let (tell, told) = oneshot::channel();
        self.dispatch.submit(request, move |answer| drop(tell.send(answer)));
        let gone = || KeyringError::WorkerGone("the server is ending".to_owned());
        let answer = told.await.unwrap_or_else(|_| Err(gone()))?;
        Reply::decode(answer.as_slice()).map_err(|_| {
            Refusal::new(
                "keyholder.worker",
                "an answer that can't be read",
                "both processes must be of one program",
            )
        })
    }

    /// A question: judged and answered there, written down here, and only then told.
    pub(crate) async fn evaluate(&self, asked: worker::Evaluate) -> Result<Bytes, Refusal> {
        if !self.is_current.load(Ordering::Acquire) {
            return Err(Refusal::not_ready("it waits for other keyholders to tell what was revoked"));
        }
        let reply = self.ask(Ask::Evaluate(asked)).await?;
        if !reply.audit.is_empty() {
            self.ledger.append(reply.audit.to_vec()).await.map_err(|error| {
                let hint = "see the log of the keyholder: nothing is answered that can't be written down";
                Refusal::new("keyholder.audit", format!("the ledger takes nothing: {error}"), hint)
            })?;
        }
        refused(reply).map(|reply| reply.body)
    }

    /// A change of the share's process, with everything that it has to be done for it. Goes on when nobody waits for it any more.
    pub(crate) async fn change(self: &Arc<Self>, ask: Ask) -> Result<Bytes, Refusal> {
        let this = Arc::clone(self);
        let done = self.tasks.spawn(async move {
            let _one = this.changes.lock().await;
            let reply = refused(this.ask(ask).await?)?;
            this.carry_out(reply).await
        });
        done.await.unwrap_or_else(|_| Err(Refusal::not_ready("the keyholder is ending")))
    }

    /// Does what a reply says, and confirms it, until nothing is left to do.
    pub(super) async fn carry_out(self: &Arc<Self>, first: Reply) -> Result<Bytes, Refusal> {
        let body = first.body.clone();
        let mut reply = first;
        loop {
            let steps = std::mem::take(&mut reply.steps);
            let disk = self.disk.clone();
            let done = tokio::task::spawn_blocking(move || steps_on(&disk, steps)).await;
            let done = done.unwrap_or_else(|_| Err(Refusal::not_ready("the keyholder is ending")));
            let told = match done {
                Ok(told) => told,
                Err(refusal) => {
                    // The share's process is ahead of the disk now. A start anew brings both together.
                    self.fail(refusal.clone());
                    return Err(refusal);
                }
            };
            if let Some(view) = reply.view.take() {
                self.publish(&view)?;
            }
            let peers: Vec<SpiffeId> = self.known().peers.iter().cloned().collect();
            for step in told {
                match step {
                    step::Step::Broadcast(worker::Deliver { plan, message }) => {
                        self.peers.broadcast(&peers, &Arc::new(DeliverRequest { plan, message }));
                    }
                    step::Step::Notice(notice) => tracing::info!("{notice}"),
                    step::Step::Put(_) | step::Step::Erase(_) => {}
                }
            }
            if reply.confirm == 0 {
                return Ok(body);
            }
            let confirmed = Ask::Durable(worker::Durable { number: reply.confirm });
            reply = match self.ask(confirmed).await.and_then(refused) {
                Ok(reply) => reply,
                Err(refusal) => {
                    self.fail(refusal.clone());
                    return Err(refusal);
                }
            };
        }
    }

    fn publish(self: &Arc<Self>, view: &worker::View) -> Result<(), Refusal> {
        let unreadable = |_| Refusal::new("keyholder.worker", "a view that can't be read", "");
        let own = self.slot.current().map(|svid| svid.id().clone());
        let peers = view.peers.iter().filter_map(|id| SpiffeId::parse(id).ok());
        let known = Known {
            documents: Documents::decode(view.documents.clone()).map_err(unreadable)?,
            status: KeyholderStatus::decode(view.status.clone()).map_err(unreadable)?,
            peers: peers.filter(|id| Some(id) != own.as_ref()).collect(),
            session: view.session.clone(),
        };
        self.trust.store(Arc::new(crate::trust::bundles(view.anchors.iter().map(AsRef::as_ref))?));
        let before = self.known.send_replace(Arc::new(known));
        if !view.session.is_empty() && before.session != view.session {
            let (this, session) = (Arc::clone(self), view.session.clone());
            self.tasks.spawn(async move {
                let time = tokio::time::sleep(this.ceremony_time);
                if this.shutdown.unless_triggered(time).await.is_some() {
                    let _done = this.change(Ask::TimeOut(worker::TimeOut { session })).await;
                }
            });
        }
        Ok(())
    }

    /// Takes what the others have, from time to time; at first until enough have spoken.
    async fn exchange(self: Arc<Self>, every: Duration) {
        let mut pause = Duration::from_millis(100);
        loop {
            let known = self.known();
            let own_peers = known.peers.clone();
            for id in own_peers {
                let Some(asked) = self.shutdown.unless_triggered(self.peers.documents(&id)).await else {
                    return;
                };
                let documents = match asked {
                    Ok(documents) => documents.encode_to_vec().into(),
                    Err(refusal) => {
                        tracing::debug!(peer = %id, "a keyholder does not tell what it has: {refusal}");
                        continue;
                    }
                };
                let taken = self.change(Ask::Install(worker::Install { documents, is_local: false })).await;
                if let Err(refusal) = taken {
                    tracing::warn!(peer = %id, code = refusal.code(), "what a keyholder has is refused: {refusal}");
                }
                self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            }
            let _ripened = self.change(Ask::Ripen(worker::Ripen {})).await;
            self.count_heard();
            let current = self.is_current.load(Ordering::Acquire);
            let sleep = tokio::time::sleep(if current { every } else { pause });
            let mut changed = self.known.subscribe();
            tokio::select! {
                () = self.shutdown.triggered() => return,
                () = sleep => {}
                // Whoever gets its first roster begins at once.
                _ = changed.wait_for(|now| now.peers != known.peers) => {}
            }
            pause = (pause * 2).min(every);
        }
    }

    /// A revocation counts once n−t+1 keyholders have it; so any t of them, this one among them, know of it.
    fn count_heard(&self) {
        let status = &self.known().status;
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = heard.iter().filter(|id| self.known().peers.contains(*id)).count();
        if status.threshold > 0 && heard + 1 >= usize::try_from(status.threshold).unwrap_or(usize::MAX) {
            self.is_current.store(true, Ordering::Release);
        }
    }

    /// Reads the SVID again when it has changed, and publishes checkpoints.
    async fn tend(self: Arc<Self>, files: SvidFiles) {
        let mut published = 0;
        loop {
            let goes_on = self.shutdown.unless_triggered(tokio::time::sleep(OFTEN)).await.is_some();
            if self.ledger.size() != published {
                match self.ledger.checkpoint(&bindings()).await {
                    Ok(_) => published = self.ledger.size(),
                    Err(error) => {
                        tracing::error!(code = error.code(), "no checkpoint of the ledger: {error}")
                    }
                }
            }
            if !goes_on {
                return;
            }
            let files = files.clone();
            let read = tokio::task::spawn_blocking(move || svid::read(&files)).await;
            match read {
                Ok(Ok(svid)) => {
                    let same = self.slot.current().is_some_and(|own| own.leaf().der() == svid.leaf().der());
                    if !same {
                        self.slot.set(&svid);
                    }
                }
                Ok(Err(refusal)) => tracing::debug!(code = refusal.code(), "{refusal}"),
                Err(_) => {}
            }
        }
    }

    fn fail(&self, refusal: Refusal) {
        if let Some(failed) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _nobody_waits = failed.send(refusal);
        }
        self.shutdown.trigger();
    }
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The share's process, if it has one.
    #[must_use]
    pub fn worker(&self) -> Option<u32> {
        self.worker
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// Why.
    pub async fn ended(&mut self) -> Result<(), Refusal> {
        match (&mut self.failure).await {
            Ok(refusal) => Err(refusal),
            Err(_) => Ok(()),
        }
    }

    /// Lets open requests finish, and ends it.
    pub async fn stop(self) {
        self.engine.shutdown.trigger();
        self.tasks.close();
        self.tasks.wait().await;
        let _ended = tokio::task::spawn_blocking(move || drop(self.engine)).await;
    }
}

/// Writes and erases, in order, and gives back what is to be told.
fn steps_on(disk: &Disk, steps: Vec<Step>) -> Result<Vec<step::Step>, Refusal> {
    let mut told = Vec::new();
    for step in steps.into_iter().filter_map(|step| step.step) {
        match step {
            step::Step::Put(put) => disk.put(&put.name, &put.content)?,
            step::Step::Erase(name) => disk.erase(&name)?,
            step => told.push(step),
        }
    }
    Ok(told)
}

/// A keyholder has no store that its ledger could vouch for.
fn bindings() -> Bindings {
    Bindings { incarnation: [0; 16], revision: 0, set_digest: [0; 32], life: 1 }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("known", &self.known()).finish_non_exhaustive()
    }
}
