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
    process::{Credentials, Evidence, Process},
    refusal::Refusal,
};

pub mod unix;

/// How long a caller waits for its turn to be attested.
const PATIENCE: Duration = Duration::from_secs(5);
/// Attestations of one user at a time: a user whose files hang must not hold up the others.
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
}

impl Attestation {
    /// Attests with these, at most `concurrency` processes at a time.
    pub fn new(attestors: Vec<Box<dyn Attestor>>, concurrency: usize) -> Self {
        Self { attestors, turns: Turns::new(concurrency) }
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
        peer.check_unchanged()?;
        let attested = self.look_at(process.clone(), credentials).await?;
        peer.check_unchanged()?;
        Ok(attested)
    }

    /// Attests a process that is looked at on behalf of another one.
    ///
    /// # Errors
    ///
    /// When it ends or turns into another program meanwhile.
    pub async fn attest_other(&self, process: &Process) -> Result<Attested, Refusal> {
        let before = process.image()?;
        let credentials = process.credentials()?;
        let attested = self.look_at(process.clone(), credentials).await?;
        if process.image()? != before {
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
                Err(_) => failures.push(format!("`{}` took too long", attestor.name())),
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
