//! The other end of a connection, looked at when it was accepted.
//!
//! What can't be told apart: a process can hand its open connection to another one, or keep it across an
//! `execve` that comes before the agent has accepted it. `SO_PEERCRED` names whoever called `connect`;
//! what it shares with others it vouches for. An `execve` after that is refused here, and so is a
//! connection whose process has ended, however many others still hold it.

use std::sync::Arc;

use bonafide_net::unix::Caller;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use tokio::sync::OnceCell;

use crate::{
    attestor::{Attestation, Attested, Looks},
    process::{Evidence, Glimpse, Image, Process, ProcessError},
    refusal::Refusal,
};

/// Who is behind a connection.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    uid: u32,
    gid: u32,
    process: Result<Pinned, Refusal>,
    looks: Arc<Looks>,
    /// What was attested for this connection.
    attested: OnceCell<Attested>,
}

#[derive(Debug)]
struct Pinned {
    process: Process,
    /// What was seen when the connection was accepted.
    glimpse: Glimpse,
    /// All of that image, as soon as the file system of the executable has answered.
    image: Shared<Look>,
}

type Look = BoxFuture<'static, Result<Image, Refusal>>;

impl Peer {
    /// Looks at the process behind a connection. To be called when the connection is accepted. Does not block: what may
    /// do so goes on by itself, and is waited for by the first request.
    ///
    /// On a kernel that gives no pidfd of a peer, the process that has its number now is pinned.
    pub fn at_accept(caller: &Caller, looks: &Arc<Looks>) -> Self {
        let process = pin(caller, looks).map_err(Refusal::from);
        let (uid, gid, looks) = (caller.uid, caller.gid, Arc::clone(looks));
        Self(Arc::new(Inner { uid, gid, process, looks, attested: OnceCell::new() }))
    }

    /// User when it connected.
    pub fn uid(&self) -> u32 {
        self.0.uid
    }

    /// Group when it connected.
    pub fn gid(&self) -> u32 {
        self.0.gid
    }

    /// The process.
    ///
    /// # Errors
    ///
    /// Why it could not be pinned.
    pub fn process(&self) -> Result<&Process, Refusal> {
        self.pinned().map(|pinned| &pinned.process)
    }

    /// The program that ran when the connection was accepted.
    ///
    /// # Errors
    ///
    /// Why it could not be pinned.
    pub async fn image(&self) -> Result<Image, Refusal> {
        let pinned = self.pinned()?;
        let image = pinned.image.clone().await?;
        // Between the accept and the look at the file, another program may have come.
        if pinned.glimpse.may_be_of(&image) { Ok(image) } else { Err(Refusal::workload_changed()) }
    }

    /// Whether the process still lives and still runs the program that connected.
    ///
    /// # Errors
    ///
    /// `workload.gone` or `workload.changed`; `workload.files-hang` when that can't be seen.
    pub async fn check_unchanged(&self) -> Result<(), Refusal> {
        let image = self.image().await?;
        let now = self.0.looks.image(self.process()?, self.0.uid).await;
        match now {
            Ok(now) if now == image => Ok(()),
            Ok(_) => Err(Refusal::workload_changed()),
            Err(refusal) if refusal.code() == "workload.starting" => Err(Refusal::workload_changed()),
            Err(refusal) => Err(refusal),
        }
    }

    /// What was attested of the process when that was first asked on this connection. For whatever hands out nothing that is
    /// only for the program which connected.
    ///
    /// # Errors
    ///
    /// As [`Attestation::attest`].
    pub(crate) async fn attested(&self, attestation: &Attestation) -> Result<&Attested, Refusal> {
        self.0.attested.get_or_try_init(|| attestation.attest(self)).await
    }

    fn pinned(&self) -> Result<&Pinned, Refusal> {
        self.0.process.as_ref().map_err(Clone::clone)
    }
}

fn pin(caller: &Caller, looks: &Arc<Looks>) -> Result<Pinned, ProcessError> {
    let process = match &caller.pidfd {
        Some(pidfd) => Process::pin(caller.pid, Arc::clone(pidfd), Evidence::Pidfd)?,
        None => Process::open(caller.pid, Evidence::StartTime)?,
    };
    let glimpse = process.glimpse()?;
    let (looks, uid, looked_at) = (Arc::clone(looks), caller.uid, process.clone());
    let look = tokio::spawn(async move { looks.image(&looked_at, uid).await });
    let image = async move { look.await.unwrap_or_else(|_| Err(Refusal::stopping())) };
    Ok(Pinned { process, glimpse, image: image.boxed().shared() })
}
