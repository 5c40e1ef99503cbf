//! Ledger and store vouch for each other. Every checkpoint names the store's revision, and at start the store must not
//! be older than the last one. The store says where the ledger has this server's intermediates, and at start it must
//! have them there: so a ledger that was removed, or put back by more than half of an intermediate's life, is seen. What
//! was cut off since then, others see who have kept a later checkpoint.

use std::sync::Arc;
use std::time::Duration;

use bonafide_identity::InstanceId;
use bonafide_identity::time::UnixTime;
use bonafide_ledger::{Bindings, Ledger, SignedCheckpoint};
use bonafide_net::drain::Shutdown;
use bytes::Bytes;
use prost::Message;

use super::StartError;
use crate::config::AuthorityConfig;
use crate::entry::{self, Entry, entry::Kind};
use crate::issuance::lineages::{Lineage, Lineages};
use crate::journal::{Journal, hex};
use crate::records::{Object, RecordChange, SigningKey};
use crate::registry::Registry;
use crate::state::State;
use crate::stream::feed::{Feed, set_digest};

/// How often a checkpoint is published when there is something new.
const EVERY: Duration = Duration::from_secs(1);

/// Publishes checkpoints.
#[derive(Clone, Debug)]
pub(super) struct Checkpoints {
    pub(super) feed: Arc<Feed>,
    pub(super) ledger: Arc<Ledger>,
}

impl Checkpoints {
    pub(super) async fn run(self, shutdown: Shutdown) {
        let mut published = None;
        while shutdown.unless_triggered(tokio::time::sleep(EVERY)).await.is_some() {
            let next = (self.ledger.size(), self.feed.bindings());
            if published.as_ref() != Some(&next) && self.publish().await {
                published = Some(next);
            }
        }
    }

    /// Publishes one now. Whether that went well.
    pub(super) async fn publish(&self) -> bool {
        match self.ledger.checkpoint(&self.feed.bindings()).await {
            Ok(_) => true,
            Err(error) => {
                tracing::error!(code = error.code(), "no checkpoint of the ledger: {error}");
                false
            }
        }
    }
}

/// Refuses a store that is older than the ledger's last checkpoint, or another one, unless the operator accepts it.
pub(super) async fn check_not_rolled_back(
    config: &AuthorityConfig,
    registry: &Registry,
    journal: &Journal,
    now: UnixTime,
) -> Result<(), StartError> {
    check_ledger(config, registry, journal, now).await?;
    let path = config.data_dir.join("ledger").join("checkpoint");
    let note = match std::fs::read(&path) {
        Ok(note) => note,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(StartError::io(&format!("`{}`", path.display()), cause)),
    };
    let checkpoint = SignedCheckpoint::parse(&note, journal.ledger().verifier_key())?;
    let Bindings { incarnation, revision, set_digest: digest } = checkpoint.checkpoint().bindings;
    let (found, found_incarnation, found_digest) = {
        let state = registry.state();
        (state.revision(), *state.incarnation().as_bytes(), set_digest(&state).bytes())
    };
    let same =
        found_incarnation == incarnation && found >= revision && (found > revision || found_digest == digest);
    if same {
        return Ok(());
    }
    if !config.accept_restore {
        return Err(StartError::RolledBack {
            found,
            found_incarnation: hex(&found_incarnation),
            seen: revision,
            seen_incarnation: hex(&incarnation),
        });
    }
    tracing::warn!(found, seen = revision, "a store that is older than the ledger was accepted");
    let restore = entry::Restore {
        incarnation: Bytes::copy_from_slice(&found_incarnation),
        revision: found,
        expected_incarnation: Bytes::copy_from_slice(&incarnation),
        expected_revision: revision,
    };
    journal.append(now, vec![Kind::Restore(restore)]).await?;
    let bindings = Bindings { incarnation: found_incarnation, revision: found, set_digest: found_digest };
    journal.ledger().checkpoint(&bindings).await?;
    Ok(())
}

/// Refuses a ledger that is not the one that this store has seen.
async fn check_ledger(
    config: &AuthorityConfig,
    registry: &Registry,
    journal: &Journal,
    now: UnixTime,
) -> Result<(), StartError> {
    let state = registry.state();
    let lost = state
        .signing_keys()
        .filter(|key| key.server == config.server && key.ledger_entry != 0)
        .find(|key| !has_certificate(journal.ledger(), key.ledger_entry - 1, &key.id))
        .map(|key| format!("entry {}, of an intermediate", key.ledger_entry - 1));
    // The first checkpoint is published before anybody is served.
    let unsigned = !config.data_dir.join("ledger").join("checkpoint").exists()
        && (state.sites().next().is_some() || state.agents().next().is_some());
    let Some(lost) = lost.or_else(|| unsigned.then(|| "its checkpoint".to_owned())) else { return Ok(()) };
    let (revision, incarnation) = (state.revision(), *state.incarnation().as_bytes());
    drop(state);
    if !config.accept_restore {
        return Err(StartError::LedgerLost(lost));
    }
    tracing::warn!(lost, "a ledger that is not the one that the store has seen was accepted");
    let incarnation = Bytes::copy_from_slice(&incarnation);
    let restore = entry::Restore {
        incarnation: incarnation.clone(),
        revision,
        expected_incarnation: incarnation,
        expected_revision: revision,
    };
    journal.append(now, vec![Kind::Restore(restore)]).await?;
    let server = config.server.clone();
    let forget = move |state: &State| {
        let own = state.signing_keys().filter(|key| key.server == server && key.ledger_entry != 0);
        let forgotten = own.map(|key| SigningKey { ledger_entry: 0, ..(**key).clone() });
        Ok(forgotten.map(|key| RecordChange::Put(Object::SigningKey(Arc::new(key)))).collect())
    };
    registry.write(forget).await?;
    Ok(())
}

fn has_certificate(ledger: &Ledger, index: u64, key_id: &str) -> bool {
    let entry = ledger.read(index).ok().and_then(|entry| Entry::decode(&*entry).ok());
    matches!(entry.and_then(|entry| entry.kind), Some(Kind::SigningCertificate(found)) if hex(&found.key_id) == key_id)
}

/// Fills the lineages with the certificates that are still valid. Reads the ledger backwards, as far as certificates
/// can still be alive: none lives longer than an intermediate may.
pub(super) fn remember(ledger: &Ledger, lineages: &Lineages, now: UnixTime) -> Result<(), StartError> {
    let oldest = now.saturating_sub(crate::scope::MAX_X509_TTL);
    let mut alive = Vec::new();
    for index in (0..ledger.size()).rev() {
        let entry = Entry::decode(&*ledger.read(index)?).map_err(|_| StartError::LedgerEntry(index))?;
        // A margin for a clock that was set back.
        if UnixTime::from_secs(entry.at) < oldest.saturating_sub(Duration::from_secs(3600)) {
            break;
        }
        if matches!(entry.kind, Some(Kind::X509Svid(_) | Kind::End(_))) {
            alive.extend(entry.kind);
        }
    }
    for kind in alive.into_iter().rev() {
        match kind {
            Kind::X509Svid(svid) => remember_svid(lineages, &svid, now),
            Kind::End(end) => {
                if let (Ok(instance), Ok(agent)) = (<[u8; 16]>::try_from(&*end.instance), end.agent.parse()) {
                    lineages.end(InstanceId::from_bytes(instance), &agent);
                }
            }
            _ => {}
        }
    }
    Ok(())
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
        key_id,
        registration: svid.registration.as_str().into(),
        agent: Arc::new(agent),
        not_after,
        ended: false,
    };
    // An entry without a released certificate can look like a fork; the newest one counts.
    let _discord = lineages.note(InstanceId::from_bytes(instance), lineage, now);
}
