//! Ledger and store vouch for each other: every checkpoint of the ledger names the store's revision, and the store
//! keeps marks of how far the ledger had come. At start neither may be older than the other one says.
//!
//! What two files can't tell is that both were replaced by older ones of the same moment: agents and other servers, who
//! have witnessed checkpoints, can ([`Witnesses`], [`Peers`]). And a server that was killed
//! has not said everything: up to [`EVERY`] of the store, and up to [`MARK_EVERY`] of the ledger, have no witness yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bonafide_crypto::random::Random;
use bonafide_identity::InstanceId;
use bonafide_identity::time::{Clock, UnixTime};
use bonafide_ledger::{Bindings, Checkpoint, Ledger, LedgerError, SignedCheckpoint};
use bonafide_net::drain::Shutdown;
use bonafide_store::Incarnation;
use bytes::Bytes;
use prost::Message;
use tokio::time::Instant;

use super::replication::Replication;
use super::{Broken, StartError, error};
use crate::config::AuthorityConfig;
use crate::entry::{self, Entry, entry::Kind};
use crate::issuance::lineages::{Lineage, Lineages};
use crate::journal::Journal;
use crate::presence::Presence;
use crate::records::{self, LedgerMark, Object, RecordChange, Server, Succession};
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::state::State;
use crate::stream::feed::Feed;
use crate::witnesses::{self, Behind, Peers, RolledBack, Witnesses};

/// How often a checkpoint is published when there is something new.
const EVERY: Duration = Duration::from_secs(1);
/// How often the store is told how far the ledger has come. Each time is a commit.
const MARK_EVERY: Duration = Duration::from_secs(60);
/// How often agents are asked to witness what is new.
const WITNESS_EVERY: Duration = Duration::from_secs(60);
/// Proofs that this server, or the store, was rolled back. In the data directory.
const PROOFS: &str = "rolled-back";
/// The highest checkpoints of the other servers. In the data directory.
pub(super) const PEERS: &str = "peers";
/// The highest checkpoint that agents have cosigned. In the data directory.
const COSIGNED: &str = "ledger.cosigned";
/// How long a replica may take to say how far it has come, when a server starts.
const REPLICA_TIME: Duration = Duration::from_secs(5);
/// How often a server says that it is still there, in seconds.
const ANNOUNCE_EVERY: i64 = 86_400;

/// Publishes checkpoints, and leaves marks.
#[derive(Clone, Debug)]
pub(super) struct Checkpoints {
    pub(super) feed: Arc<Feed>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) registry: Registry,
    pub(super) server: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    pub(super) witnesses: Arc<Witnesses>,
    pub(super) data_dir: PathBuf,
    /// Which life of the ledger.
    pub(super) life: u64,
    pub(super) replication: Option<Replication>,
    pub(super) peers: Arc<Peers>,
    /// What to do when another server proves that this one is behind.
    pub(super) rolled_back: Arc<RolledBack>,
}

impl Checkpoints {
    pub(super) async fn run(self, shutdown: Shutdown) {
        let mut published = None;
        let mut called = None;
        let (mut marked, mut witnessed) = (Instant::now(), Instant::now());
        // What the others did while this server was away.
        self.mark().await;
        while shutdown.unless_triggered(tokio::time::sleep(EVERY)).await.is_some() {
            if marked.elapsed() >= MARK_EVERY {
                marked = Instant::now();
                self.mark().await;
                if let Err(refusal) = announce(&self.registry, &self.server, self.clock.now()).await {
                    tracing::error!(
                        code = refusal.code(),
                        "the other servers are not told of this one: {refusal}"
                    );
                }
            }
            if let Err((behind, proof)) = self.witnesses.heard(&self.server).await {
                let _told_by_the_server = self.rolled_back.stop(behind, &proof);
                return;
            }
            let next = (self.ledger.size(), self.feed.bindings());
            if published.as_ref() != Some(&next) && self.publish(&next.1).await {
                published = Some(next);
            }
            if witnessed.elapsed() >= WITNESS_EVERY && called != published {
                witnessed = Instant::now();
                called.clone_from(&published);
                self.witnesses.call(&*self.random);
            }
            self.save_cosigned().await;
        }
    }

    /// The last words of a server that stops. Nobody else appends or writes any more.
    pub(super) async fn finish(self, ended_well: bool) {
        // Not from the feed, which has ended before the last change.
        self.publish(&bindings(&self.registry.state())).await;
        if ended_well {
            self.mark().await;
            // The mark is a change, too.
            self.publish(&bindings(&self.registry.state())).await;
        }
        if let (Some(replication), Some(last)) = (&self.replication, self.witnesses.newest()) {
            replication.finish(last).await;
        }
        self.save_cosigned().await;
    }

    /// Publishes one now. Whether that went well.
    async fn publish(&self, bindings: &Bindings) -> bool {
        let bindings = Bindings { life: self.life, ..*bindings };
        match self.ledger.checkpoint(&bindings).await {
            Ok(checkpoint) => {
                if let Some(replication) = &self.replication {
                    replication.published(checkpoint.clone());
                }
                self.witnesses.published(checkpoint);
                true
            }
            Err(error) => {
                tracing::error!(code = error.code(), "no checkpoint of the ledger: {error}");
                false
            }
        }
    }

    async fn save_cosigned(&self) {
        let (witnesses, file) = (Arc::clone(&self.witnesses), self.data_dir.join(COSIGNED));
        let _said_by_itself = tokio::task::spawn_blocking(move || witnesses.save(&file)).await;
    }

    /// Tells the store how far this ledger has come, and the others', in one commit.
    async fn mark(&self) {
        let Some(newest) = self.witnesses.newest() else { return };
        let (peers, registry, now) = (Arc::clone(&self.peers), self.registry.clone(), self.clock.now());
        let looked = tokio::task::spawn_blocking(move || peers.look(&registry.state(), now)).await;
        let seen = looked.unwrap_or_default();
        if let Err(refusal) = mark(&self.ledger, &self.registry, &self.server, newest, seen).await {
            tracing::error!(code = refusal.code(), "the store has no mark of the ledger: {refusal}");
        }
    }
}

/// Tells the other servers that this one is there, and which records it can read.
pub(super) async fn announce(registry: &Registry, server: &str, now: UnixTime) -> Result<(), Refusal> {
    let known = registry.state().server(server).cloned();
    let version = env!("CARGO_PKG_VERSION");
    let is_fresh = |known: Arc<Server>| {
        known.reads == records::VERSION
            && known.version == version
            && now.as_secs().saturating_sub(known.seen_at) < ANNOUNCE_EVERY
    };
    if known.is_some_and(is_fresh) {
        return Ok(());
    }
    let record = Server { reads: records::VERSION, seen_at: now.as_secs(), version: version.to_owned() };
    let (server, record): (Arc<str>, _) = (server.into(), Arc::new(record));
    registry
        .write(move |_| Ok(vec![RecordChange::Put(Object::Server(server.clone(), record.clone()))]))
        .await?;
    Ok(())
}

/// Tells the store how far the ledger has come, unless it knows; and `seen`.
async fn mark(
    ledger: &Arc<Ledger>,
    registry: &Registry,
    server: &str,
    newest: SignedCheckpoint,
    seen: Vec<RecordChange>,
) -> Result<(), Refusal> {
    let (ledger, state, name) = (Arc::clone(ledger), registry.state(), server.to_owned());
    let marked = tokio::task::spawn_blocking(move || witnesses::mark(&state, &ledger, &name, &newest));
    let marked = marked.await.unwrap_or(Err(LedgerError::Closed));
    let marked = marked.map_err(|error| Refusal::unavailable(error.code(), error.to_string()))?;
    let mut changes = seen;
    if let Some(mark) = marked {
        changes.push(RecordChange::Put(Object::LedgerMark(server.into(), Arc::new(mark))));
    }
    if changes.is_empty() {
        return Ok(());
    }
    registry.write(move |_| Ok(changes.clone())).await?;
    Ok(())
}

fn bindings(state: &State) -> Bindings {
    Bindings {
        incarnation: *state.incarnation().as_bytes(),
        revision: state.revision(),
        set_digest: state.digest().bytes(),
        life: 0,
    }
}

/// What an operator accepts, for one start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Accepted {
    /// A ledger that is older than the store says, or another one.
    pub(super) ledger: bool,
    /// A store that is older than the ledger says, or another one. It was given a new incarnation since; this is the one
    /// that it had.
    pub(super) store: Option<Incarnation>,
}

/// Keeps the proof that this server, or the store, is behind. Returns why it has to stop.
pub(super) fn rolled_back(data_dir: &Path, behind: Behind, proof: &SignedCheckpoint) -> Broken {
    if let Err(error) = witnesses::keep(&data_dir.join(PROOFS), proof) {
        tracing::error!(
            "the proof that this server was rolled back can't be kept, so it may start again: {error}"
        );
    }
    let (code, hint) = match &behind {
        Behind::Ledger { .. } => (error::LEDGER_CODE, error::LEDGER_HINT),
        Behind::Store { .. } => (error::STORE_CODE, error::STORE_HINT),
    };
    let why = format!("more was witnessed than there is: {}", StartError::from(behind));
    Broken { code, hint, why }
}

impl From<Behind> for StartError {
    fn from(behind: Behind) -> Self {
        match behind {
            Behind::Ledger { found, seen, what } => Self::LedgerRolledBack { found, seen, what },
            Behind::Store { found, found_incarnation, seen, seen_incarnation } => {
                Self::RolledBack { found, found_incarnation, seen, seen_incarnation }
            }
        }
    }
}

/// What a start begins with.
#[derive(Debug)]
pub(super) struct Beginning {
    /// Which life of the ledger it is.
    pub(super) life: u64,
    /// The checkpoint that it was begun with.
    pub(super) checkpoint: SignedCheckpoint,
}

/// Refuses a store that is older than the ledger's last checkpoint, or another one, and a ledger that is older than
/// the store's mark, or another one; and both, if they are older than what an agent has shown. With `accepted`, and where
/// the store says that another server accepted it, writes what was found into the ledger instead.
pub(super) async fn check_not_rolled_back(
    config: &AuthorityConfig,
    registry: &Registry,
    ledger: &Arc<Ledger>,
    journal: &Journal,
    now: UnixTime,
    accepted: Accepted,
) -> Result<Beginning, StartError> {
    let own = last_checkpoint(config, ledger)?;
    let copied = copied(config, ledger).await;
    let state = registry.state();
    let found = bindings(&state);
    let mut proofs = witnesses::kept(&config.data_dir.join(PROOFS), ledger, &state)
        .map_err(|cause| StartError::io(&format!("`{PROOFS}`"), cause))?;
    proofs.extend(copied.map(|copied| (copied, true)));
    let others = witnesses::held_by_others(&state, ledger, &config.server);
    proofs.extend(others.into_iter().map(|(_, held, _)| (held, true)));
    let held = witnesses::kept(&config.data_dir.join(PEERS), ledger, &state)
        .map_err(|cause| StartError::io(&format!("`{PEERS}`"), cause))?;
    proofs.extend(held);
    let mark = state.ledger_mark(&config.server).cloned();
    let lives = [own.as_ref().map(|own| own.bindings.life), mark.as_ref().map(|mark| mark.life)];
    let mut life = lives.into_iter().flatten().max().unwrap_or_default();
    if accepted.ledger {
        let of_proofs = proofs.iter().filter(|(_, is_own)| *is_own);
        life = of_proofs.map(|(proof, _)| proof.checkpoint().bindings.life).fold(life, u64::max) + 1;
    } else {
        if let Some(mark) = mark {
            check_ledger(ledger, &mark, own.is_some())?;
        }
        for (proof, _) in proofs.iter().filter(|(_, is_own)| *is_own) {
            if let Some(behind) = witnesses::ledger_behind(ledger, life, proof.checkpoint())? {
                return Err(behind.into());
            }
        }
    }
    let mut expected = own.map_or(found, |own| own.bindings);
    let before = Incarnation::from_bytes(expected.incarnation);
    // Another server was told that the store was restored; it said so in the store itself.
    let succeeded = found.incarnation != expected.incarnation && state.succeeds(&before);
    if !succeeded && accepted.store.is_none() {
        check_store(&found, &expected)?;
    }
    let mut after = vec![expected.incarnation];
    for (proof, _) in &proofs {
        let seen = &proof.checkpoint().bindings;
        let Some(behind) = witnesses::store_behind(&state, seen) else { continue };
        if accepted.store.is_none() {
            return Err(behind.into());
        }
        after.push(seen.incarnation);
        if seen.revision > expected.revision {
            expected = *seen;
        }
    }
    drop(state);
    if accepted.ledger || accepted.store.is_some() || succeeded {
        let restore = entry::Restore {
            incarnation: Bytes::copy_from_slice(&found.incarnation),
            revision: found.revision,
            expected_incarnation: Bytes::copy_from_slice(&expected.incarnation),
            expected_revision: expected.revision,
        };
        journal.append(now, vec![Kind::Restore(restore)]).await?;
    }
    if let Some(replaced) = accepted.store {
        after.push(*replaced.as_bytes());
        let succession = Arc::new(Succession {
            after: after.iter().map(|incarnation| Bytes::copy_from_slice(incarnation)).collect(),
            server: config.server.clone(),
            at: now.as_secs(),
        });
        let incarnation: Arc<str> = Incarnation::from_bytes(found.incarnation).to_string().into();
        registry
            .write(move |_| {
                let record = Object::Succession(incarnation.clone(), succession.clone());
                Ok(vec![RecordChange::Put(record)])
            })
            .await?;
    }
    let found = Bindings { life, ..bindings(&registry.state()) };
    // In this order: whoever finds a mark knows that there was a checkpoint.
    let checkpoint = ledger.checkpoint(&found).await?;
    self::mark(ledger, registry, &config.server, checkpoint.clone(), Vec::new()).await?;
    Ok(Beginning { life, checkpoint })
}

/// How far the replica has come, if it tells. Whatever is wrong with it, a mount that hangs for one, is told when it is copied
/// to.
async fn copied(config: &AuthorityConfig, ledger: &Ledger) -> Option<SignedCheckpoint> {
    let (directory, key) = (config.ledger.replica.clone()?, ledger.verifier_key().clone());
    let look = tokio::task::spawn_blocking(move || bonafide_ledger::replicated(directory, &key));
    tokio::time::timeout(REPLICA_TIME, look).await.ok()?.ok()?.ok()?
}

fn last_checkpoint(config: &AuthorityConfig, ledger: &Ledger) -> Result<Option<Checkpoint>, StartError> {
    let path = config.data_dir.join("ledger").join("checkpoint");
    match std::fs::read(&path) {
        Ok(note) => {
            let signed = SignedCheckpoint::parse(&note, ledger.verifier_key())?;
            Ok(Some(signed.checkpoint().clone()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(StartError::io(&format!("`{}`", path.display()), cause)),
    }
}

fn check_store(found: &Bindings, seen: &Bindings) -> Result<(), StartError> {
    let same = found.incarnation == seen.incarnation
        && found.revision >= seen.revision
        && (found.revision > seen.revision || found.set_digest == seen.set_digest);
    if same {
        return Ok(());
    }
    Err(StartError::RolledBack {
        found: found.revision,
        found_incarnation: Incarnation::from_bytes(found.incarnation),
        seen: seen.revision,
        seen_incarnation: Incarnation::from_bytes(seen.incarnation),
    })
}

fn check_ledger(ledger: &Ledger, mark: &LedgerMark, has_checkpoint: bool) -> Result<(), StartError> {
    let found = ledger.size();
    let refused = |what| StartError::LedgerRolledBack { found, seen: mark.size, what };
    if found < mark.size {
        return Err(refused("entries are missing"));
    }
    if mark.root != ledger.root_at(mark.size)?.as_slice() {
        return Err(refused("it does not begin with the entries that the store has seen"));
    }
    if !has_checkpoint {
        return Err(refused("its file `checkpoint` is missing"));
    }
    Ok(())
}

/// Fills lineages and presence with the certificates that are still valid. Reads the ledger backwards, as far as
/// certificates can still be alive: none lives longer than an intermediate may.
pub(super) fn remember(
    ledger: &Ledger,
    lineages: &Lineages,
    presence: &Presence,
    now: UnixTime,
) -> Result<(), StartError> {
    let oldest = now.saturating_sub(crate::scope::MAX_X509_TTL);
    let mut alive = Vec::new();
    for index in (0..ledger.size()).rev() {
        let entry = Entry::decode(&*ledger.read(index)?).map_err(|_| StartError::LedgerEntry(index))?;
        // A margin for a clock that was set back.
        if UnixTime::from_secs(entry.at) < oldest.saturating_sub(Duration::from_secs(3600)) {
            break;
        }
        let kinds = |kind: &Kind| {
            use Kind::{AgentSvid, Arrival, End, Restore, X509Svid};
            matches!(kind, X509Svid(_) | End(_) | Arrival(_) | AgentSvid(_) | Restore(_))
        };
        alive.extend(entry.kind.filter(kinds));
    }
    replay(alive.into_iter().rev(), lineages, presence, now);
    Ok(())
}

/// What became of instances and agents, in the order in which it was written.
pub(crate) fn replay(
    kinds: impl Iterator<Item = Kind>,
    lineages: &Lineages,
    presence: &Presence,
    now: UnixTime,
) {
    let remember_agent = |agent: &str, not_after: i64, renewed| {
        if let Ok(agent) = agent.parse() {
            presence.remember(agent, UnixTime::from_secs(not_after), renewed);
        }
    };
    for kind in kinds {
        match kind {
            Kind::X509Svid(svid) => remember_svid(lineages, &svid, now),
            Kind::End(end) => {
                if let (Ok(instance), Ok(agent)) = (<[u8; 16]>::try_from(&*end.instance), end.agent.parse()) {
                    lineages.end(InstanceId::from_bytes(instance), &agent);
                }
            }
            Kind::Arrival(arrival) => remember_agent(&arrival.agent, arrival.not_after, false),
            Kind::AgentSvid(svid) => {
                let not_after = UnixTime::from_secs(svid.not_after);
                lineages.agents.note((*svid.tbs_sha256).try_into().unwrap_or_default(), not_after, now);
                remember_agent(&svid.spiffe_id, svid.not_after, true);
            }
            Kind::Restore(_) => lineages.agents.restored(now),
            _ => {}
        }
    }
}

fn remember_svid(lineages: &Lineages, svid: &entry::X509Svid, now: UnixTime) {
    let not_after = UnixTime::from_secs(svid.not_after);
    let (Ok(instance), Ok(key_id), Ok(agent)) =
        (<[u8; 16]>::try_from(&*svid.instance), <[u8; 20]>::try_from(&*svid.key_id), svid.agent.parse())
    else {
        return;
    };
    // A certificate that has expired may have a predecessor that has not.
    let lineage = Lineage {
        generation: svid.generation,
        serial: (*svid.serial).try_into().unwrap_or_default(),
        tbs_sha256: (*svid.tbs_sha256).try_into().unwrap_or_default(),
        key_id,
        registration: svid.registration.as_str().into(),
        agent: Arc::new(agent),
        not_after,
        ended: false,
        moved: false,
    };
    // An entry without a released certificate can look like a fork; the newest one counts.
    let _discord = lineages.note(InstanceId::from_bytes(instance), lineage, false, now);
}
