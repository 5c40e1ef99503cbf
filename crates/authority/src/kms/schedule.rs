//! What is due by itself: automatic rotation, and destruction at the end of its time of grace.
//!
//! A rotation leaves traces before it is committed (a secret that was drawn, an intent on the ledger), so one server at a time
//! does it: the holder of a lease, whose epoch is checked in the commit. The commit asks once more whether it is due.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bonafide_identity::time::UnixTime;
use bonafide_kms::key::Change;
use bonafide_net::drain::Shutdown;
use bytes::Bytes;
use tokio::time::Instant;

use super::lifecycle::{self, Drawn, Title};
use super::record::KeyRecord;
use super::service::Service;
use crate::lease::{Holder, Term};
use crate::records::{self, KeyVersion, RecordChange};
use crate::refusal::Refusal;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Changes of one look.
const AT_ONCE: usize = 64;
/// After which a device that could not destroy a key is asked again.
const DEVICE_AGAIN: Duration = Duration::from_secs(30);
/// By which the ledger names what a server does by itself.
const ACTOR: &str = "schedule";

/// Does what is due.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) service: Service,
    pub(crate) lease: Holder,
    pub(crate) device: Patience,
}

/// When a device that has failed is asked again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patience(Arc<Mutex<Option<Instant>>>);

impl Patience {
    fn may_be_asked(&self) -> bool {
        let next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        next.is_none_or(|next| next <= Instant::now())
    }

    fn failed(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + DEVICE_AGAIN);
    }
}

impl Schedule {
    /// Looks until the server stops.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        while shutdown.unless_triggered(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            if let Err(refusal) = self.look().await {
                tracing::error!(code = refusal.code(), "what is due of keys can't be done: {refusal}");
            }
        }
    }

    pub(super) async fn look(&self) -> Result<(), Refusal> {
        let parts = self.service.parts();
        let now = parts.clock.now();
        let due: Vec<(Arc<KeyRecord>, Change)> = {
            let state = parts.registry.state();
            let keys = state
                .keys_after("")
                .filter(|record| record.key.next_due().is_some_and(|at| at <= now.as_secs()));
            let due = keys.flat_map(|record| {
                record.key.due(now.as_secs()).into_iter().map(|change| (Arc::clone(record), change))
            });
            due.take(AT_ONCE).collect()
        };
        for (record, change) in due {
            let Ok(term) = self.lease.hold(&parts.registry, &parts.clock).await? else { return Ok(()) };
            if let Err(refusal) = self.carry_out(&record, change, term, now).await
                && !lifecycle::is_changed_meanwhile(&refusal)
            {
                tracing::error!(
                    code = refusal.code(),
                    key = record.name(),
                    "what is due of a key can't be done: {refusal}"
                );
            }
        }
        self.clear_device(now).await
    }

    /// Has the device destroy what no version needs any more, and then forgets what it was called there. Whatever breaks in between,
    /// it is done again, until it is done.
    async fn clear_device(&self, now: UnixTime) -> Result<(), Refusal> {
        let parts = self.service.parts();
        let gone: Vec<(Arc<KeyRecord>, Arc<KeyVersion>)> = {
            let state = parts.registry.state();
            let external = state.keys_after("").filter(|record| record.key.birth.external);
            let versions = external.flat_map(|record| {
                let versions = state.key_versions(record.id());
                let gone = versions.filter(|version| !record.key.has_secret(version.number));
                gone.map(|version| (Arc::clone(record), Arc::clone(version)))
            });
            versions.take(AT_ONCE).collect()
        };
        if gone.is_empty() || !self.device.may_be_asked() {
            return Ok(());
        }
        for (record, version) in gone {
            let Ok(term) = self.lease.hold(&parts.registry, &parts.clock).await? else { return Ok(()) };
            if let Err(refusal) = parts.hands.destroy(&version).await {
                self.device.failed();
                return Err(refusal);
            }
            let (id, number) = (*record.id(), version.number);
            let title = Title {
                actor: lifecycle::actor(ACTOR),
                change: "clear-device",
                key: record.name().to_owned(),
                key_id: Bytes::copy_from_slice(record.id()),
                version: number,
            };
            let lease = self.lease.clone();
            let commit = async {
                let written = parts
                    .registry
                    .write(move |state| {
                        lease.check(state, term, now)?;
                        let there = state.key_version(&id, number).is_some();
                        let removed =
                            there.then(|| RecordChange::Remove(records::key_version_key(&id, number)));
                        Ok(removed.into_iter().collect())
                    })
                    .await?;
                Ok(((), written.revision))
            };
            self.service.recorded(title, commit).await?;
        }
        Ok(())
    }

    async fn carry_out(
        &self,
        record: &KeyRecord,
        change: Change,
        term: Term,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let parts = self.service.parts();
        let (name, version) = lifecycle::title_of(&change);
        let title = Title {
            actor: lifecycle::actor(ACTOR),
            change: name,
            key: record.name().to_owned(),
            key_id: Bytes::copy_from_slice(record.id()),
            version,
        };
        let commit = async {
            let drawn = self.drawn(record, &change).await?;
            let (lease, id, added) = (self.lease.clone(), *record.id(), drawn.clone());
            let written = parts
                .registry
                .write(move |state| {
                    lease.check(state, term, now)?;
                    let still =
                        state.key_of_id(&id).filter(|record| record.key.due(now.as_secs()).contains(&change));
                    match still {
                        Some(record) => lifecycle::change(state, record, &change, added.as_ref(), now),
                        // Somebody was faster.
                        None if added.as_ref().is_some_and(|drawn| drawn.external) => {
                            Err(lifecycle::changed_meanwhile())
                        }
                        None => Ok(Vec::new()),
                    }
                })
                .await;
            match (written, drawn) {
                (Ok(written), _) => Ok(((), written.revision)),
                (Err(refusal), Some(drawn)) => {
                    self.service.undo(&drawn, &refusal).await;
                    Err(refusal)
                }
                (Err(refusal), None) => Err(refusal),
            }
        };
        self.service.recorded(title, commit).await
    }

    async fn drawn(&self, record: &KeyRecord, change: &Change) -> Result<Option<Drawn>, Refusal> {
        if !matches!(change, Change::Rotate { .. }) {
            return Ok(None);
        }
        let (key, flags) = (&record.key, lifecycle::flags_of(&record.key));
        self.service.draw(key.id, key.newest().saturating_add(1), key.key_type, flags, None).await.map(Some)
    }
}
