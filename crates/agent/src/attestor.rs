//! What is known of a workload before it says a word.
//!
//! An [`Attestor`] collects selectors of one kind. [`Attestation`] runs all of them between two looks at
//! the process: what they found is believed only if the same program image ran before and after.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bonafide_attest::{PEER_KEY, Selector, SelectorSet};
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    peer::Peer,
    process::{Credentials, Evidence, Image, Process},
    refusal::Refusal,
};

mod cgroups;
pub mod container;
pub mod systemd;
pub mod unix;

/// How long a caller waits for its turn to be attested.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the file system of an executable may take to say which file that is.
const LOOK_TIME: Duration = Duration::from_secs(3);
/// Executables that are looked at, at a time: each may take a thread for as long as its file system hangs.
const LOOKS: usize = 256;
/// Attestations, and looks, of one user at a time: a user whose files hang must not hold up the others.
const PER_USER: usize = 8;
/// Most selectors that are kept of one process.
const MAX_SELECTORS: usize = bonafide_attest::MAX_SET;

/// Collects facts of one kind about a process.
pub trait Attestor: std::fmt::Debug + Send + Sync {
    /// For messages: `unix`.
    fn name(&self) -> &'static str;

    /// Collects. Work that may block runs off the asynchronous threads.
    ///
    /// What can't be found out is left out and said in [`Findings::failures`]: selectors only ever add
    /// rights, so that a missing one can't give any.
    fn attest(&self, subject: Arc<Subject>) -> BoxFuture<'_, Findings>;
}

/// Whom an attestor looks at.
#[derive(Debug)]
pub struct Subject {
    /// The process.
    pub process: Process,
    /// Whose rights it has.
    pub credentials: Credentials,
    /// Held as long as somebody still works on it, even if nobody waits for the result any more.
    _turn: Turn,
}

/// What an attestor found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Facts.
    pub selectors: Vec<Selector>,
    /// What could not be found out, in words.
    pub failures: Vec<String>,
}

/// What all attestors found.
#[derive(Clone, Debug)]
pub struct Attested {
    /// Facts about the process.
    pub selectors: SelectorSet,
    /// What could not be found out, in words.
    pub failures: Vec<String>,
    /// Effective user.
    pub uid: u32,
}

/// All attestors of an agent, and the bounds on their work.
#[derive(Debug)]
pub struct Attestation {
    attestors: Vec<Box<dyn Attestor>>,
    turns: Turns,
    looks: Arc<Looks>,
}

/// Looks at executables off the asynchronous threads: their file systems may hang, and those who run them then wait for
/// themselves alone.
#[derive(Debug)]
pub struct Looks(Turns);

impl Attestation {
    /// Attests with these, at most `concurrency` processes at a time.
    pub fn new(attestors: Vec<Box<dyn Attestor>>, concurrency: usize) -> Self {
        Self { attestors, turns: Turns::new(concurrency), looks: Arc::new(Looks::default()) }
    }

    /// What looks at executables.
    pub fn looks(&self) -> &Arc<Looks> {
        &self.looks
    }

    /// Attests the process behind a connection, and refuses it if it is no longer the program that
    /// connected, or no longer has the rights that it connected with.
    ///
    /// # Errors
    ///
    /// Says why nothing may be told to this caller.
    pub async fn attest(&self, peer: &Peer) -> Result<Attested, Refusal> {
        let process = peer.process()?;
        let credentials = process.credentials()?;
        if (credentials.uid, credentials.gid) != (peer.uid(), peer.gid()) {
            return Err(Refusal::credentials_changed());
        }
        peer.check_unchanged().await?;
        let attested = self.look_at(process.clone(), credentials).await?;
        peer.check_unchanged().await?;
        Ok(attested)
    }

    /// Attests a process that is looked at on behalf of another one.
    ///
    /// # Errors
    ///
    /// When it ends or turns into another program meanwhile.
    pub async fn attest_other(&self, process: &Process) -> Result<Attested, Refusal> {
        let credentials = process.credentials()?;
        let uid = credentials.uid;
        let before = self.looks.image(process, uid).await?;
        let attested = self.look_at(process.clone(), credentials).await?;
        if self.looks.image(process, uid).await? != before {
            return Err(Refusal::workload_changed());
        }
        Ok(attested)
    }

    async fn look_at(&self, process: Process, credentials: Credentials) -> Result<Attested, Refusal> {
        let uid = credentials.uid;
        let evidence = process.evidence();
        let turn = self.turns.take(uid).await?;
        let subject = Arc::new(Subject { process, credentials, _turn: turn });
        let (mut selectors, mut failures) = (Vec::new(), Vec::new());
        if evidence == Evidence::StartTime {
            selectors.extend(weak_peer());
        }
        for attestor in &self.attestors {
            match tokio::time::timeout(PATIENCE, attestor.attest(Arc::clone(&subject))).await {
                Ok(findings) => {
                    selectors.extend(findings.selectors);
                    failures.extend(findings.failures);
                }
                Err(_) => return Err(Refusal::attestor_slow(attestor.name())),
            }
        }
        if selectors.len() > MAX_SELECTORS {
            failures.push(format!(
                "{} selectors of {} are left out",
                selectors.len() - MAX_SELECTORS,
                selectors.len()
            ));
            selectors.truncate(MAX_SELECTORS);
        }
        let selectors = SelectorSet::collect(selectors).unwrap_or_default();
        Ok(Attested { selectors, failures, uid })
    }
}

impl Looks {
    /// The program image that runs in a process of this user.
    ///
    /// # Errors
    ///
    /// When the process has ended or the kernel does not show it, and `workload.files-hang`.
    pub async fn image(&self, process: &Process, uid: u32) -> Result<Image, Refusal> {
        let process = process.clone();
        self.run(uid, move || process.image()).await?.map_err(Refusal::from)
    }

    async fn run<T: Send + 'static>(
        &self,
        uid: u32,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = self.0.take(uid).await?;
        // Nobody waits for a thread that hangs, but its turn is not given to another.
        let looked = tokio::task::spawn_blocking(move || {
            let seen = look();
            drop(turn);
            seen
        });
        match tokio::time::timeout(LOOK_TIME, looked).await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(_)) => Err(Refusal::stopping()),
            Err(_) => Err(Refusal::files_hang()),
        }
    }
}

impl Default for Looks {
    fn default() -> Self {
        Self(Turns::new(LOOKS))
    }
}

/// What marks every SVID of an agent that only has start times to tell its callers by.
pub fn weak_peer() -> Option<Selector> {
    Selector::new(PEER_KEY, Evidence::StartTime.as_str()).ok()
}

/// Who may attest now.
#[derive(Debug)]
struct Turns {
    all: Arc<Semaphore>,
    by_user: Mutex<HashMap<u32, Arc<Semaphore>>>,
}

#[derive(Debug)]
struct Turn {
    _all: OwnedSemaphorePermit,
    _user: OwnedSemaphorePermit,
}

impl Turns {
    fn new(concurrency: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(concurrency.max(1))), by_user: Mutex::default() }
    }

    async fn take(&self, uid: u32) -> Result<Turn, Refusal> {
        let user = {
            let mut users = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever has all permits of his semaphore back is not at work.
            users.retain(|_, user| Arc::strong_count(user) > 1 || user.available_permits() < PER_USER);
            Arc::clone(users.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(PER_USER))))
        };
        let turn = async {
            let user = user.acquire_owned().await.ok()?;
            let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some(Turn { _all: all, _user: user })
        };
        tokio::time::timeout(PATIENCE, turn).await.ok().flatten().ok_or_else(Refusal::busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whose_files_hang_waits_for_himself_alone() {
        let looks = Looks::default();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let hang = || {
            let held = Arc::clone(&held);
            looks.run(7, move || held.lock().unwrap().recv())
        };
        let mut refused = Vec::new();
        for _ in 0..=PER_USER {
            let time = async { tokio::time::advance(PATIENCE.max(LOOK_TIME) * 2).await };
            let (looked, ()) = tokio::join!(hang(), time);
            refused.push(looked.unwrap_err().code().to_owned());
        }
        assert_eq!(refused.pop().as_deref(), Some("agent.busy"), "no more threads for this user");
        assert!(refused.iter().all(|code| code == "workload.files-hang"), "{refused:?}");
        assert_eq!(looks.run(8, || 1).await.unwrap(), 1);
        drop(release);
    }
}
