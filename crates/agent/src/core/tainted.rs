//! What authorities have signed whose keys were stolen, or are taken for stolen: it is replaced now, spread over a time
//! that the authority has named, so that it can keep up with a whole trust domain that renews. The pool is thrown away.
//!
//! Which keys these are stands beside the trust bundle, so it is stored with it, and an agent that was away learns it with
//! its next bundle.

use std::{collections::BTreeSet, time::Duration};

use bonafide_identity::{
    InstanceId,
    bundle::{TaintedKey, TrustBundle},
    time::UnixTime,
};
use bonafide_wire::node::{Renewals, agent_message};

use super::{Core, Effect, RENEWAL_GAP};
use crate::credential::Credential;

/// The agent's own SVID is renewed in the first part of the time, of so many.
const PARTS: u32 = 32;

/// Tainted keys, and what is in use that they have signed.
#[derive(Debug, Default)]
pub(super) struct Tainted {
    keys: Vec<TaintedKey>,
    /// Of the log, when they were named.
    revision: u64,
    instances: BTreeSet<InstanceId>,
    node: bool,
    /// What the authority was told on this stream.
    told: Option<(u64, u32)>,
}

impl Tainted {
    fn remaining(&self) -> u32 {
        u32::try_from(self.instances.len()).unwrap_or(u32::MAX).saturating_add(self.node.into())
    }

    pub(super) fn forget(&mut self, id: InstanceId) {
        self.instances.remove(&id);
    }

    pub(super) fn disconnected(&mut self) {
        self.told = None;
    }
}

impl Core {
    /// Whether a token that this key has signed is given out no longer.
    pub(crate) fn is_tainted_jwt(&self, key_id: &str) -> bool {
        self.tainted.keys.iter().any(|key| key.is_jwt && *key.key_id == *key_id.as_bytes())
    }

    #[cfg(test)]
    pub(super) fn tainted_keys(&self) -> usize {
        self.tainted.keys.len()
    }

    /// Reads the bundle again, because it is another one.
    pub(super) fn look_for_tainted(&mut self, now: UnixTime) {
        let bundle = TrustBundle::parse(&self.trust_domain, self.view.bundle());
        let keys = bundle.map(|bundle| bundle.tainted().to_vec()).unwrap_or_default();
        if keys == self.tainted.keys {
            return;
        }
        self.tainted.keys = keys;
        self.tainted.revision = self.view.revision();
        self.tainted.instances.clear();
        let held: Vec<InstanceId> = self.instances.keys().copied().collect();
        for id in held {
            self.replace_if_tainted(id, now);
        }
        self.node_is_tainted(now);
    }

    /// Authorities were tainted: an instance that one of them is above.
    fn replace_if_tainted(&mut self, id: InstanceId, now: UnixTime) {
        let Some(instance) = self.instances.get(&id) else { return };
        let Some(within) = self.tainted_by(&instance.credential) else {
            return self.tainted.forget(id);
        };
        let bound = instance.binding.is_some();
        let subject = instance.claim.subject.clone();
        let at = now.saturating_add(self.share_of(within));
        if !bound {
            let bin = self.bin_of.get(&subject).copied();
            self.drop_from_bin(bin, id);
            self.retire(id, now);
            if let Some(bin) = bin {
                self.draw_later(bin, at, now);
            }
            return;
        }
        self.tainted.instances.insert(id);
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.renew_after = instance.renew_after.min(at);
            instance.renewal.not_before = None;
        }
        self.want_renewal(id, now);
    }

    /// Authorities were tainted: the agent's own SVID. It goes first, for without it nothing else is renewed.
    fn node_is_tainted(&mut self, now: UnixTime) {
        let within = self.node.as_ref().and_then(|node| self.tainted_by(&node.credential));
        self.tainted.node = within.is_some();
        if let Some(within) = within {
            let at = now.saturating_add(self.share_of(within) / PARTS);
            self.renew_node_by(at, now);
        }
    }

    /// Tells the authority what is left, when there is something to tell.
    pub(super) fn tell_renewals(&mut self) {
        let news = (self.tainted.revision, self.tainted.remaining());
        if self.tainted.keys.is_empty() {
            return;
        }
        // The first count, and the last.
        let is_new = match self.tainted.told {
            Some((revision, remaining)) => revision != news.0 || remaining != 0 && news.1 == 0,
            None => true,
        };
        if is_new {
            self.tainted.told = Some(news);
            let (revision, remaining) = news;
            self.effects.push(Effect::Send(agent_message::Kind::Renewals(Renewals { revision, remaining })));
        }
    }

    /// Over how many seconds to spread the renewal; none if all authorities above are well.
    fn tainted_by(&self, credential: &Credential) -> Option<u32> {
        if self.tainted.keys.iter().all(|key| key.is_jwt) {
            return None;
        }
        let issuers = self.reader.issuers(credential.chain());
        let above = self
            .tainted
            .keys
            .iter()
            .filter(|key| !key.is_jwt && issuers.iter().any(|issuer| **issuer == *key.key_id));
        above.map(|key| key.renew_within).min()
    }

    /// This one's moment within so many seconds.
    fn share_of(&self, within: u32) -> Duration {
        let share = f64::from(u32::from_le_bytes(self.random.array::<4>())) / f64::from(u32::MAX);
        Duration::from_secs(u64::from(within)).mul_f64(share)
    }

    /// An instance has a new credential. A server that has not heard of it yet may sign with a tainted key; it is not asked
    /// again at once.
    pub(super) fn tainted_again(&mut self, id: InstanceId, now: UnixTime) {
        let Some(instance) = self.instances.get(&id) else { return };
        if self.tainted_by(&instance.credential).is_none() {
            return self.tainted.forget(id);
        }
        self.tainted.instances.insert(id);
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.renew_after = now.saturating_add(RENEWAL_GAP);
        }
    }

    /// As [`Core::tainted_again`], for the agent's own SVID.
    pub(super) fn node_tainted_again(&mut self, now: UnixTime) {
        self.tainted.node =
            self.node.as_ref().is_some_and(|node| self.tainted_by(&node.credential).is_some());
        if self.tainted.node {
            self.renew_node_by(now.saturating_add(RENEWAL_GAP), now);
        }
    }
}
