//! This server's next intermediate, made in the commit that ends the last one: no agent ever asks a server that may not
//! sign.

use bonafide_ca::rotation::Effect;
use bonafide_identity::time::UnixTime;

use super::change::{published, restated};
use super::set::{in_force, is_under};
use super::{KeysError, Rotation};
use crate::entry::entry::Kind as EntryKind;
use crate::records::{RecordChange, SigningKey, signing_key};
use crate::state::State;

/// A new intermediate and the one whose place it takes.
#[derive(Clone, Debug)]
pub(super) struct Successor {
    record: SigningKey,
    replaces: String,
}

impl Rotation {
    /// What takes the place of this server's intermediate once an effect is committed; none if that stays, or if there
    /// is no root that could sign another: then the plan makes one.
    ///
    /// # Errors
    /// If it can't be signed or logged.
    pub(super) async fn successor(
        &self,
        state: &State,
        effect: &Effect,
    ) -> Result<Option<Successor>, KeysError> {
        let now = self.clock.now();
        let Some(own) = in_force(state, signing_key::Use::Intermediate, &self.server, now) else {
            return Ok(None);
        };
        let root = match effect {
            Effect::Activate { id, .. } => state.signing_key(id),
            Effect::Taint { id } | Effect::Revoke { id } if own.id == *id || is_under(own, id) => {
                in_force(state, signing_key::Use::Root, "", now).filter(|root| root.id != *id)
            }
            _ => None,
        };
        let Some(root) = root.filter(|root| root.r#use() == signing_key::Use::Root) else {
            return Ok(None);
        };
        let replaces = own.id.clone();
        let fresh = self.vault.intermediate(&self.trust_domain, root, &self.server, &self.lifetimes, now)?;
        if let Some(entry) = fresh.entry {
            self.journal.append(now, vec![EntryKind::SigningCertificate(entry)]).await?;
        }
        let mut record = fresh.record;
        record.set_state(signing_key::State::Active);
        record.state_since = now.as_secs();
        Ok(Some(Successor { record, replaces }))
    }
}

impl Successor {
    /// What to commit behind the effect. Nothing if another intermediate is in force by now.
    pub(super) fn changes(
        &self,
        state: &State,
        server: &str,
        effect: &Effect,
        now: UnixTime,
    ) -> Vec<RecordChange> {
        let own = in_force(state, signing_key::Use::Intermediate, server, now);
        if own.is_none_or(|own| own.id != self.replaces) {
            return Vec::new();
        }
        let ended = match effect {
            Effect::Taint { id } | Effect::Revoke { id } if *id == self.replaces => None,
            _ => restated(state, &self.replaces, signing_key::State::Old, now),
        };
        [published(&self.record, state)].into_iter().chain(ended).collect()
    }
}
