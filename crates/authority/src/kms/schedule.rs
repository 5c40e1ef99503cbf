//! What is due by itself: automatic rotation, and destruction at the end of its time of grace.
//!
//! A rotation leaves traces before it is committed (a secret that was drawn, an intent on the ledger), so one server at a time
//! does it: the holder of a lease, whose epoch is checked in the commit. The commit asks once more whether it is due.

use std::sync::Arc;
use std::time::Duration;

use bonafide_identity::time::UnixTime;
use bonafide_kms::key::Change;
use bonafide_kms::material::Flags;
use bonafide_net::drain::Shutdown;
use bytes::Bytes;

use super::lifecycle::{self, Drawn, Title};
use super::record::KeyRecord;
use super::service::Service;
use crate::lease::{Holder, Term};
use crate::refusal::Refusal;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Changes of one look.
const AT_ONCE: usize = 64;
/// By which the ledger names what a server does by itself.
const ACTOR: &str = "schedule";

/// Does what is due.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) service: Service,
    pub(crate) lease: Holder,
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
            if let Err(refusal) = self.carry_out(&record, change, term, now).await {
                tracing::error!(
                    code = refusal.code(),
                    key = record.name(),
                    "what is due of a key can't be done: {refusal}"
                );
            }
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
            let (lease, id) = (self.lease.clone(), *record.id());
            let written = parts
                .registry
                .write(move |state| {
                    lease.check(state, term, now)?;
                    let still =
                        state.key_of_id(&id).filter(|record| record.key.due(now.as_secs()).contains(&change));
                    match still {
                        Some(record) => lifecycle::change(state, record, &change, drawn.as_ref(), now),
                        // Somebody was faster.
                        None => Ok(Vec::new()),
                    }
                })
                .await?;
            Ok(((), written.revision))
        };
        self.service.recorded(title, commit).await
    }

    async fn drawn(&self, record: &KeyRecord, change: &Change) -> Result<Option<Drawn>, Refusal> {
        if !matches!(change, Change::Rotate { .. }) {
            return Ok(None);
        }
        let key = &record.key;
        let flags = Flags { exportable: key.birth.exportable, convergent: key.birth.convergent };
        self.service.draw(key.id, key.newest().saturating_add(1), key.key_type, flags, None).await.map(Some)
    }
}
