//! What must hold, computed from the log alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use bonafide_attest::{
    SelectorSet,
    registration::{Kind, Registration},
};
use bonafide_authority::{
    records::{Agent, Object, SigningKey, signing_key},
    simulation,
    state::State,
};
use bonafide_identity::{
    BundleMap, Certificate, InstanceId, SpiffeId, TrustDomain, bundle::TrustBundle, time::UnixTime, x509,
};
use bonafide_store::{Change, Incarnation};
use bytes::Bytes;

use crate::store::Disk;

/// The fold of the log, and what it was at each revision.
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) state: State,
    trust_domain: TrustDomain,
    incarnation: u8,
    /// Of each revision: of each agent, the digest of what its node may host.
    digests: Vec<BTreeMap<SpiffeId, [u8; 32]>>,
    /// Of each revision: the digest of what is revoked.
    revoked: Vec<[u8; 32]>,
    /// Every version of every registration that ever was, in any incarnation.
    versions: BTreeMap<String, Vec<Arc<Registration>>>,
    /// What was written since this was last asked, in words.
    written: Vec<String>,
    verified: HashSet<(InstanceId, u64, [u8; 32])>,
    bundles: BTreeMap<[u8; 32], BundleMap>,
}

/// A key that has begun to sign.
#[derive(Debug)]
pub(crate) struct Activation {
    pub(crate) key: Arc<SigningKey>,
    pub(crate) published: u64,
    /// The key that signed until then would have ended soon.
    pub(crate) was_late: bool,
}

impl Oracle {
    pub(crate) fn new(trust_domain: TrustDomain, disk: &Disk) -> Self {
        let incarnation = disk.incarnation();
        Self {
            state: simulation::nothing(trust_domain.clone(), Incarnation::from_bytes([incarnation; 16])),
            trust_domain,
            incarnation,
            digests: vec![BTreeMap::new()],
            revoked: vec![[0; 32]],
            versions: BTreeMap::new(),
            written: Vec::new(),
            verified: HashSet::new(),
            bundles: BTreeMap::new(),
        }
    }

    /// Reads what has been written since; begins anew after a restore.
    pub(crate) fn follow(&mut self, disk: &Disk, slack: i64) -> Result<Vec<Activation>, String> {
        if disk.incarnation() != self.incarnation {
            let (versions, bundles) = (std::mem::take(&mut self.versions), std::mem::take(&mut self.bundles));
            let verified = std::mem::take(&mut self.verified);
            *self = Self { versions, verified, bundles, ..Self::new(self.trust_domain.clone(), disk) };
            self.follow_on(disk, slack)?;
            return Ok(Vec::new());
        }
        self.follow_on(disk, slack)
    }

    fn follow_on(&mut self, disk: &Disk, slack: i64) -> Result<Vec<Activation>, String> {
        let mut activations = Vec::new();
        for change in disk.changes_after(self.state.revision()) {
            if change.revision.0 != self.state.revision() + 1 {
                return Err(format!("the log goes from {} to {}", self.state.revision(), change.revision));
            }
            activations.extend(self.apply(&change, slack)?);
            self.written.push(self.describe(&change));
            let agents = self.state.agents();
            let digest = |agent: &Arc<Agent>| (agent.id.clone(), self.state.digest_of(agent).bytes());
            self.digests.push(agents.map(digest).collect());
            self.revoked.push(self.state.revocations().digest());
        }
        for usage in [signing_key::Use::Root, signing_key::Use::Jwt] {
            let of_use = self.state.signing_keys().filter(|key| key.r#use() == usage);
            let active = of_use.filter(|key| key.state() == signing_key::State::Active).count();
            if active > 1 {
                return Err(format!(
                    "{active} keys of use {usage:?} are active at {}",
                    self.state.revision()
                ));
            }
        }
        Ok(activations)
    }

    /// What was written since this was last asked, in words.
    pub(crate) fn take_written(&mut self) -> Vec<String> {
        std::mem::take(&mut self.written)
    }

    fn describe(&self, change: &Change) -> String {
        let revision = change.revision;
        let key = change.key.strip_prefix("key/").and_then(|id| self.state.signing_key(id));
        match key {
            Some(key) => format!("{revision} of the log: {:?} key is {:?}", key.r#use(), key.state()),
            None => {
                // What is behind it may be chance.
                let kind = change.key.split('/').next().unwrap_or_default();
                let done = if change.value.is_some() { "written" } else { "removed" };
                format!("{revision} of the log: {kind} {done}")
            }
        }
    }

    fn apply(&mut self, change: &Change, slack: i64) -> Result<Option<Activation>, String> {
        let before: Vec<Arc<SigningKey>> = self.state.signing_keys().cloned().collect();
        simulation::fold(&mut self.state, change).map_err(|error| error.to_string())?;
        if let Some(id) = change.key.strip_prefix("registration/")
            && let Some(version) = self.state.registration(id)
        {
            self.versions.entry(id.to_owned()).or_default().push(version);
        }
        let Some(id) = change.key.strip_prefix("key/") else { return Ok(None) };
        let Some(key) = self.state.signing_key(id) else { return Ok(None) };
        let published = matches!(key.r#use(), signing_key::Use::Root | signing_key::Use::Jwt);
        let was = before.iter().find(|other| other.id == key.id).map(|other| other.state());
        if !published
            || key.state() != signing_key::State::Active
            || was != Some(signing_key::State::Prepared)
        {
            return Ok(None);
        }
        // Of the key that it replaced, which the same commit has demoted before.
        let late = |other: &Arc<SigningKey>| {
            let life = other.not_after - other.not_before;
            key.state_since + slack >= other.not_after - life / 4
        };
        let replaced = before.iter().filter(|other| other.r#use() == key.r#use() && other.id != key.id);
        let was_late = replaced
            .filter(|other| {
                other.state() == signing_key::State::Active || other.state_since == key.state_since
            })
            .all(late);
        Ok(Some(Activation { key: Arc::clone(key), published: key.published_revision, was_late }))
    }

    /// The digest that an agent must have at a revision of the present incarnation.
    pub(crate) fn digest(&self, agent: &SpiffeId, incarnation: &[u8], revision: u64) -> Option<[u8; 32]> {
        if incarnation != [self.incarnation; 16] {
            return None;
        }
        self.digests.get(usize::try_from(revision).ok()?)?.get(agent).copied()
    }

    /// As [`Self::digest`], of what is revoked.
    pub(crate) fn revocations_digest(&self, incarnation: &[u8], revision: u64) -> Option<[u8; 32]> {
        if incarnation != [self.incarnation; 16] {
            return None;
        }
        self.revoked.get(usize::try_from(revision).ok()?).copied()
    }

    /// Whether some version of the registration gave this ID to this agent's node.
    pub(crate) fn was_granted(
        &self,
        agent: &SpiffeId,
        registration: &str,
        id: &SpiffeId,
        facts: &[SelectorSet],
    ) -> bool {
        let site = bonafide_identity::reserved::agent_site(agent).unwrap_or_default();
        self.versions.get(registration).into_iter().flatten().any(|version| {
            version.site == site
                && version.parent.as_ref().is_none_or(|parent| parent == agent)
                && match &version.kind {
                    Kind::Entry(entry) => entry == id,
                    Kind::Rule(_) => {
                        facts.iter().any(|fact| version.spiffe_id(fact).ok().as_ref() == Some(id))
                    }
                }
        })
    }

    /// Forgets that a registration ever was: for the test of [`Self::was_granted`].
    pub(crate) fn forget(&mut self) {
        self.versions.clear();
    }

    /// What a process with these facts must have on this agent's node.
    pub(crate) fn expected(&self, agent: &SpiffeId, facts: &SelectorSet, now: UnixTime) -> BTreeSet<String> {
        let Some(record) = self.state.agent(agent).cloned() else { return BTreeSet::new() };
        let hosted = self.state.registrations_of(&record);
        if self.state.is_quarantined(&record.site) {
            return BTreeSet::new();
        }
        let fits = |registration: &Arc<Registration>| {
            registration.selectors.is_subset_of(facts) && !registration.is_expired(now)
        };
        hosted.filter(fits).map(|registration| registration.id.clone()).collect()
    }

    /// Whether an authority above this SVID was revoked.
    pub(crate) fn is_under_revoked(&self, chain: &[Bytes]) -> bool {
        let Some(above) = chain.get(1).and_then(|der| Certificate::from_der(der).ok()) else { return false };
        let mut keys = self.state.signing_keys();
        keys.any(|key| {
            let own = Certificate::from_der(&key.certificate).ok();
            let own = own.as_ref().and_then(Certificate::subject_key_id);
            key.state() == signing_key::State::Revoked
                && own.is_some()
                && (own == above.authority_key_id() || own == above.subject_key_id())
        })
    }

    /// Whether whoever has this bundle accepts this SVID. Each pair is verified once.
    pub(crate) fn verify(
        &mut self,
        (instance, generation, chain): (InstanceId, u64, &[Bytes]),
        (bundle, hash): (&[u8], [u8; 32]),
        now: UnixTime,
    ) -> Result<(), String> {
        if self.verified.contains(&(instance, generation, hash)) {
            return Ok(());
        }
        if !self.bundles.contains_key(&hash) {
            let parsed = TrustBundle::parse(&self.trust_domain, bundle).map_err(|error| error.to_string())?;
            let mut bundles = BundleMap::new();
            bundles.insert(parsed);
            self.bundles.insert(hash, bundles);
        }
        let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
        let leaf = Certificate::from_der(chain[0]).map_err(|error| error.to_string())?;
        if leaf.not_after() <= now || leaf.not_before() > now {
            return Ok(());
        }
        x509::verify(&chain, &self.bundles[&hash], now).map_err(|error| error.to_string())?;
        self.verified.insert((instance, generation, hash));
        Ok(())
    }

    /// A second root that signs, as no server writes it: for the test of [`Self::follow`].
    pub(crate) fn second_root(&self) -> Option<(String, Option<Vec<u8>>)> {
        let mut keys = self.state.signing_keys();
        let root = keys.find(|key| key.r#use() == signing_key::Use::Root)?;
        let object = Object::SigningKey(Arc::new(SigningKey { id: "second".to_owned(), ..(**root).clone() }));
        Some((object.key(), Some(object.encode())))
    }
}
