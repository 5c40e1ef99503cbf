//! Whether agents have done their part for a key: those of this server, and of the others, which speak for their own.

use std::sync::Arc;

use bonafide_ca::rotation::Acknowledged;
use bonafide_identity::SpiffeId;

use super::set::of_use;
use super::{Family, KeysError, Rotation};
use crate::presence::AgentPresence;
use crate::records::{Object, RecordChange, SigningKey, signing_key};
use crate::state::State;

impl Rotation {
    /// Tells the other servers that all agents of this one know a prepared key, or have renewed what a tainted one signed.
    pub(super) async fn confirm(&self, family: Family) -> Result<(), KeysError> {
        let state = self.registry.state();
        if self.others(&state).is_empty() {
            return Ok(());
        }
        let keys = state.signing_keys().filter(|key| key.r#use() == family.usage());
        let unsaid = keys.filter(|key| !key.acknowledged_by.contains(&self.server));
        let done = unsaid.filter(|key| match key.state() {
            signing_key::State::Prepared => {
                family != Family::Intermediate && self.unaware(&state, key.published_revision).is_empty()
            }
            signing_key::State::Tainted => self.unrenewed(&state, key.state_revision).is_empty(),
            _ => false,
        });
        let done: Vec<(String, signing_key::State)> = done.map(|key| (key.id.clone(), key.state())).collect();
        drop(state);
        if done.is_empty() {
            return Ok(());
        }
        let server = self.server.clone();
        self.registry
            .write(move |state| {
                let records = done
                    .iter()
                    .filter_map(|(id, then)| state.signing_key(id).filter(|key| key.state() == *then))
                    .filter(|key| !key.acknowledged_by.contains(&server));
                let confirmed = records.map(|key| {
                    let mut key = (**key).clone();
                    key.acknowledged_by.push(server.clone());
                    RecordChange::Put(Object::SigningKey(Arc::new(key)))
                });
                Ok(confirmed.collect())
            })
            .await?;
        Ok(())
    }

    /// Other servers that have not said yet that their agents have done their part for this key.
    pub(super) fn silent<'a>(&self, state: &'a State, key: &SigningKey) -> Vec<&'a str> {
        let mut others = self.others(state);
        others.retain(|other| !key.acknowledged_by.iter().any(|server| server == other));
        others
    }

    /// Other servers of this trust domain that are alive: those whose intermediate is.
    pub(super) fn others<'a>(&self, state: &'a State) -> Vec<&'a str> {
        let now = self.clock.now().as_secs();
        let alive = state.signing_keys().filter(|key| {
            key.r#use() == signing_key::Use::Intermediate
                && key.state() == signing_key::State::Active
                && key.not_after > now
                && key.server != self.server
        });
        alive.map(|key| key.server.as_str()).collect()
    }

    /// Agents of this server that count and have not acknowledged a revision. Those that were here before it started are
    /// remembered, by the ledger. A server alone counts all that were not seen since, until the longest-lived SVID has
    /// expired that they may have; where there are others, each speaks for its own.
    pub(super) fn unaware(&self, state: &State, revision: u64) -> Vec<SpiffeId> {
        self.missing(state, |presence| presence.acknowledged >= revision)
    }

    /// Agents of this server that still use something that a key signed which was tainted at this revision.
    pub(super) fn unrenewed(&self, state: &State, revision: u64) -> Vec<SpiffeId> {
        self.missing(state, |presence| presence.renewed >= revision)
    }

    fn missing(&self, state: &State, done: impl Fn(&AgentPresence) -> bool) -> Vec<SpiffeId> {
        let now = self.clock.now();
        let banned = |id: &SpiffeId| state.agent(id).is_some_and(|agent| agent.ban.is_some());
        let mut missing = self.presence.missing(now, done);
        missing.retain(|id| !banned(id));
        let may_live = now < self.started_at.saturating_add(self.lifetimes.agent.as_duration());
        if may_live && self.others(state).is_empty() {
            let unseen = state.agents().filter(|agent| {
                agent.attested_at < self.started_at
                    && agent.ban.is_none()
                    && self.presence.agent(&agent.id).is_none()
            });
            missing.extend(unseen.map(|agent| agent.id.clone()));
        }
        missing
    }

    /// All that plans and orders ask is whether everybody knows the key that is prepared.
    pub(super) fn acknowledged(&self, state: &State, family: Family) -> Acknowledged {
        let prepared =
            of_use(state, family.usage(), "").filter(|key| key.state() == signing_key::State::Prepared);
        let Some(newest) = prepared.max_by_key(|key| key.published_revision) else {
            return Acknowledged::NobodyConnected;
        };
        let others = self.others(state);
        if !self.unaware(state, newest.published_revision).is_empty() {
            return Acknowledged::Through(0);
        }
        if others.is_empty() && self.presence.connected(|_| true) == 0 {
            return Acknowledged::NobodyConnected;
        }
        let confirmed = self.silent(state, newest).is_empty();
        Acknowledged::Through(if confirmed { newest.published_revision } else { 0 })
    }

    pub(super) fn awaits_acknowledgement(&self) -> bool {
        let state = self.registry.state();
        let shared = !self.others(&state).is_empty();
        state.signing_keys().any(|key| match key.state() {
            signing_key::State::Prepared => {
                matches!(key.r#use(), signing_key::Use::Root | signing_key::Use::Jwt)
            }
            signing_key::State::Tainted => shared && !key.acknowledged_by.contains(&self.server),
            _ => false,
        })
    }
}
