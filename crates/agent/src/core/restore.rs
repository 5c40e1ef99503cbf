//! What survives a restart of the agent.

use std::sync::Arc;

use bonafide_attest::SelectorSet;
use bonafide_crypto::key::PrivateKey;
use bonafide_identity::{InstanceId, time::UnixTime};
use bonafide_wire::node::Update;
use bytes::Bytes;
use zeroize::Zeroizing;

use super::{
    Core, LaunchKey, Timer,
    claim::{Binding, Claim, Instance, Renewal, Successor},
    launches::{Launch, Slot},
};
use crate::credential::Credential;

/// An instance as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub(crate) id: InstanceId,
    pub(crate) registration: String,
    /// Revision of the registration that it was drawn under.
    pub(crate) revision: u64,
    pub(crate) selectors: SelectorSet,
    pub(crate) generation: u64,
    pub(crate) chain: Vec<Bytes>,
    pub(crate) key: SavedKey,
    pub(crate) renew_after: UnixTime,
    pub(crate) binding: Option<Binding>,
    pub(crate) successor: Option<(SavedKey, [u8; 16])>,
    /// It is over, and the authority has not been told yet. Then there is no key any more.
    pub(crate) ended_at: Option<UnixTime>,
}

/// PKCS#8. Never printed.
#[derive(Clone)]
pub(crate) struct SavedKey(pub(crate) Zeroizing<Vec<u8>>);

impl std::fmt::Debug for SavedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[key]")
    }
}

impl SavedKey {
    fn of(key: &PrivateKey) -> Self {
        Self(key.to_pkcs8_der())
    }

    fn parse(&self) -> Option<Arc<PrivateKey>> {
        PrivateKey::from_pkcs8_der(&self.0).ok().map(Arc::new)
    }
}

impl Saved {
    pub(super) fn of(instance: &Instance) -> Self {
        Self {
            id: instance.id,
            registration: instance.claim.subject.registration.to_string(),
            revision: instance.claim.revision,
            selectors: instance.claim.subject.selectors.clone(),
            generation: instance.generation,
            chain: instance.credential.chain().to_vec(),
            key: SavedKey::of(instance.credential.key()),
            renew_after: instance.renew_after,
            binding: instance.binding.clone(),
            successor: instance
                .successor
                .as_ref()
                .map(|successor| (SavedKey::of(&successor.key), successor.nonce)),
            ended_at: None,
        }
    }

    pub(super) fn of_ended(instance: &Instance, now: UnixTime) -> Self {
        Self {
            chain: Vec::new(),
            key: SavedKey(Zeroizing::default()),
            successor: None,
            ended_at: Some(now),
            id: instance.id,
            registration: instance.claim.subject.registration.to_string(),
            revision: instance.claim.revision,
            selectors: SelectorSet::new(),
            generation: instance.generation,
            renew_after: instance.renew_after,
            binding: instance.binding.clone(),
        }
    }
}

impl Core {
    /// Takes in what was stored before a restart. `lives` says whether a launch still runs.
    pub(crate) fn restore(
        &mut self,
        view: Option<Update>,
        saved: Vec<Saved>,
        lives: impl Fn(&LaunchKey) -> bool,
        now: UnixTime,
    ) {
        if let Some(view) = view
            && let Ok(Some((_, changes))) = self.view.update(view)
        {
            for id in &changes.registrations {
                if let Some(at) = self.view.get(id).and_then(|registration| registration.expires_at) {
                    self.timers.insert((at, Timer::Registration(id.clone())));
                }
            }
        }
        for saved in saved {
            self.restore_instance(saved, &lives, now);
        }
        for id in self.view.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            let hosted = self.view.get(&id).cloned();
            self.refit_bins(&id, hosted.as_deref(), now);
        }
        // First of all, or a launch would be given what was withheld from it.
        self.apply_revocations(now);
        for launch in self.launches.keys().copied().collect::<Vec<_>>() {
            self.reconcile(launch, now);
        }
        self.look_for_tainted(now);
    }

    fn restore_instance(&mut self, saved: Saved, lives: &impl Fn(&LaunchKey) -> bool, now: UnixTime) {
        let id = saved.id;
        if let Some(at) = saved.ended_at {
            return self.conversation.ended(id, at);
        }
        let Some(instance) = self.revive(&saved).filter(|instance| !instance.is_expired(now)) else {
            return self.conversation.ended(id, now);
        };
        let outdated = instance.claim.revision != saved.revision;
        match &instance.binding {
            None if outdated => {
                self.pooled += 1;
                self.instances.insert(id, instance);
                self.retire(id, now);
            }
            None => self.put_back(instance, now),
            Some(binding) => {
                if !binding.reported {
                    self.conversation.launched(&instance);
                }
                let (launch, selectors) = (binding.launch, binding.selectors.clone());
                let registration = instance.claim.subject.registration.clone();
                let mut instance = instance;
                if outdated {
                    instance.renew_after = now;
                }
                let alive = lives(&launch);
                self.instances.insert(id, instance);
                if !alive {
                    return self.retire(id, now);
                }
                let launch = self
                    .launches
                    .entry(launch)
                    .or_insert_with(|| Launch { selectors, slots: Default::default() });
                if let Some(Slot::Held(other)) = launch.slots.insert(registration, Slot::Held(id)) {
                    self.retire(other, now);
                }
                self.schedule(id, now);
            }
        }
    }

    /// None if its registration is gone or what is stored makes no sense any more.
    fn revive(&self, saved: &Saved) -> Option<Instance> {
        let registration = self.view.get(&saved.registration)?;
        let attested = saved.binding.as_ref().map_or(&saved.selectors, |binding| &binding.selectors);
        let claim = Claim::of(registration, attested, self.habits.weak).ok()?;
        let credential = Credential::new(saved.chain.clone(), saved.key.parse()?, &*self.reader).ok()?;
        let fits =
            credential.spiffe_id() == &claim.subject.spiffe_id && saved.selectors == claim.subject.selectors;
        let successor = match &saved.successor {
            Some((key, nonce)) => Some(Successor { key: key.parse()?, nonce: *nonce }),
            None => None,
        };
        fits.then(|| Instance {
            id: saved.id,
            claim: Arc::new(claim),
            generation: saved.generation,
            credential: Arc::new(credential),
            renew_after: saved.renew_after,
            binding: saved.binding.clone(),
            successor,
            renewal: Renewal::default(),
        })
    }
}
