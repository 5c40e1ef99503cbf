//! Ledger and store vouch for each other: every checkpoint names the store's revision, and at start the store must
//! not be older than the last one.

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
use crate::registry::Registry;
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
    if not_after <= now {
        return;
    }
    let lineage = Lineage {
        generation: svid.generation,
        key_id,
        registration: svid.registration.as_str().into(),
        agent: Arc::new(agent),
        not_after,
        ended: false,
    };
    // An entry without a released certificate can look like a fork; the newest one counts.
    let _discord = lineages.note(InstanceId::from_bytes(instance), lineage, now);
}
