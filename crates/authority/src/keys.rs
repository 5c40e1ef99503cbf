//! The authority's own keys: roots, this server's intermediate, JWT keys, the ledger key.
//!
//! Private keys lie in the store as PKCS#8 under the keyring, bound to the name of their record. They are opened when
//! the server starts, and when a key is activated; what is open is published as one [`KeySet`].

mod agents;
mod applications;
mod change;
mod orders;
mod rotation;
mod set;
mod successor;
mod upstream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bonafide_ca::{SerialNumber, Validity, self_sign_root, sign_intermediate};
use bonafide_crypto::key::{KeyAlgorithm, Signer};
use bonafide_crypto::random::Random;
use bonafide_identity::time::{Clock, UnixTime};
use bonafide_identity::{Certificate, TrustDomain};
use bonafide_keyring::{KeySpec, KeyringError, LiveKeys, NewKey};
use bonafide_tls::Trust;
use bytes::Bytes;
use tokio::sync::watch;

pub use self::applications::application_keys;
pub(crate) use self::change::state_of;
pub(crate) use self::orders::Ordered;
pub(crate) use self::rotation::{Family, Rotation};
pub(crate) use self::set::KeySet;
pub(crate) use self::upstream::Upstream;
pub use self::upstream::UpstreamError;
use crate::config::{KeysConfig, Lifetimes};
use crate::entry;
use crate::journal::hex;
use crate::records::{self, Object, RecordChange, SigningKey, signing_key};
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::state::State;

/// Opens keys and shows the ones in force.
#[derive(Debug)]
pub(crate) struct Keys {
    vault: Vault,
    server: String,
    current: ArcSwap<KeySet>,
    changes: watch::Sender<u64>,
    /// The bundles that peers are judged by.
    trust: Trust,
}

/// Draws and opens private keys. What it gives out signs; where the key is, only `live` knows.
#[derive(Clone, Debug)]
pub(crate) struct Vault {
    live: Arc<dyn LiveKeys>,
    pub(crate) random: Arc<dyn Random>,
    config: KeysConfig,
    opened: Arc<Mutex<HashMap<String, Arc<dyn Signer>>>>,
}

/// A key that has just been drawn, with the entry that the ledger must have before it is used.
pub(crate) struct Fresh {
    pub(crate) record: SigningKey,
    pub(crate) entry: Option<entry::SigningCertificate>,
}

/// Why keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A certificate of an authority can't be made or used.
    #[error(transparent)]
    Issue(#[from] bonafide_ca::IssueError),
    /// A key can't be drawn or read.
    #[error(transparent)]
    Key(#[from] bonafide_crypto::key::KeyError),
    /// A wrapped key can't be opened.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// No key of this use is in force.
    #[error("there is no active {0} key")]
    Missing(&'static str),
    /// A lifetime does not fit into its issuer's.
    #[error("the lifetime of the {0} key can't be kept")]
    Lifetime(&'static str),
    /// The store or the ledger did not take it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The upstream CA can't be used.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

impl Keys {
    /// Opens the keys in force.
    ///
    /// # Errors
    /// If there is no root or no intermediate of this server, or one can't be opened.
    pub(crate) fn open(
        registry: &Registry,
        vault: Vault,
        server: String,
        trust: Trust,
        now: UnixTime,
    ) -> Result<Self, KeysError> {
        let state = registry.state();
        let current = KeySet::open(&state, &vault, &server, now)?;
        let keys = Self {
            vault,
            server,
            current: ArcSwap::from_pointee(current),
            changes: watch::Sender::new(0),
            trust,
        };
        keys.publish();
        Ok(keys)
    }

    /// The keys in force.
    pub(crate) fn current(&self) -> Arc<KeySet> {
        self.current.load_full()
    }

    /// The keys in force, none of them known to be stolen in a state that may be newer than they are.
    pub(crate) fn current_in(&self, state: &State, now: UnixTime) -> Arc<KeySet> {
        let current = self.current();
        if current.may_issue(state) && current.jwt(state).is_ok() {
            return current;
        }
        // The keys' own task does it as well, in a moment. Whoever was told to renew asks now.
        match self.reload(state, now) {
            Ok(()) => self.current(),
            Err(_) => current,
        }
    }

    /// Looks again, because records have changed.
    ///
    /// # Errors
    /// As [`Self::open`]; what was in force stays so.
    pub(crate) fn reload(&self, state: &State, now: UnixTime) -> Result<(), KeysError> {
        let next = Arc::new(KeySet::open(state, &self.vault, &self.server, now)?);
        let before = self.current.swap(Arc::clone(&next));
        // To publish is to judge every open connection again.
        if !next.is_same(&before) {
            self.publish();
        }
        Ok(())
    }

    /// Wakes when other keys may be in force.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn publish(&self) {
        self.trust.store(Arc::clone(self.current.load().bundles()));
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Vault {
    pub(crate) fn new(live: Arc<dyn LiveKeys>, config: KeysConfig, random: Arc<dyn Random>) -> Self {
        Self { live, random, config, opened: Arc::default() }
    }

    /// The private key of a record. Opened once.
    pub(crate) fn open(&self, record: &SigningKey) -> Result<Arc<dyn Signer>, KeysError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = opened.get(&record.id) {
            return Ok(Arc::clone(key));
        }
        let context = records::signing_key_key(&record.id);
        let key = self.live.open(&context, &record.wrapped_key)?;
        opened.insert(record.id.clone(), Arc::clone(&key));
        Ok(key)
    }

    /// Forgets opened keys that have no record any more, or only one without the key.
    fn retain(&self, state: &State) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|id, _| state.signing_key(id).is_some_and(|record| !record.wrapped_key.is_empty()));
    }

    /// In the device, if there is one.
    fn generate(&self, algorithm: KeyAlgorithm) -> Result<NewKey, KeysError> {
        let spec = KeySpec { algorithm, in_device: self.config.in_device() };
        Ok(self.live.generate(spec, &records::signing_key_key(""))?)
    }

    /// A new root.
    pub(crate) fn root(
        &self,
        trust_domain: &TrustDomain,
        lifetimes: &Lifetimes,
        now: UnixTime,
    ) -> Result<Fresh, KeysError> {
        let key = self.generate(self.config.ca)?;
        let validity = validity(now, lifetimes.root, lifetimes).ok_or(KeysError::Lifetime("root"))?;
        let serial = SerialNumber::random(&*self.random);
        let certificate = self_sign_root(trust_domain, &*key.signer, validity, serial)?;
        let entry = signing_certificate(&certificate);
        let record = self.record(&key, signing_key::Use::Root, "", Some(&certificate), validity);
        Ok(Fresh { record, entry: Some(entry) })
    }

    /// The CA that the files of `upstream` name, which must be a new one.
    pub(crate) fn upstream(
        &self,
        upstream: &Upstream,
        state: &State,
        now: UnixTime,
    ) -> Result<Fresh, KeysError> {
        let offer = upstream.look(now)?;
        if state.signing_key(&offer.id).is_some() {
            return Err(upstream.unchanged(&offer).into());
        }
        let key = self.live.import(&records::signing_key_key(&offer.id), &upstream.key()?)?;
        let certificate = &offer.certificate;
        if key.signer.public_key() != certificate.public_key() {
            return Err(upstream.mismatch().into());
        }
        let validity = Validity::new(certificate.not_before(), certificate.not_after())
            .ok_or(KeysError::Lifetime("upstream"))?;
        let mut record = self.record(&key, signing_key::Use::Root, "", Some(certificate), validity);
        record.id.clone_from(&offer.id);
        record.above = offer.above.iter().map(|above| Bytes::copy_from_slice(above.der())).collect();
        Ok(Fresh { record, entry: Some(signing_certificate(certificate)) })
    }

    /// A new intermediate of `server` under `root`.
    pub(crate) fn intermediate(
        &self,
        trust_domain: &TrustDomain,
        root: &SigningKey,
        server: &str,
        lifetimes: &Lifetimes,
        now: UnixTime,
    ) -> Result<Fresh, KeysError> {
        let key = self.generate(self.config.ca)?;
        let root_key = self.open(root)?;
        let root = Certificate::from_der(&root.certificate).map_err(bonafide_ca::IssueError::from)?;
        let validity = validity(now, lifetimes.intermediate, lifetimes)
            .and_then(|validity| validity.within(&root))
            .ok_or(KeysError::Lifetime("intermediate"))?;
        let serial = SerialNumber::random(&*self.random);
        let public = key.signer.public_key();
        let certificate = sign_intermediate(trust_domain, &root, &*root_key, public, validity, serial)?;
        let entry = signing_certificate(&certificate);
        let record = self.record(&key, signing_key::Use::Intermediate, server, Some(&certificate), validity);
        Ok(Fresh { record, entry: Some(entry) })
    }

    /// A new key that signs JWT-SVIDs.
    pub(crate) fn jwt(&self, lifetimes: &Lifetimes, now: UnixTime) -> Result<Fresh, KeysError> {
        let key = self.generate(self.config.jwt)?;
        let validity = validity(now, lifetimes.jwt_key, lifetimes).ok_or(KeysError::Lifetime("JWT"))?;
        Ok(Fresh { record: self.record(&key, signing_key::Use::Jwt, "", None, validity), entry: None })
    }

    /// The key that signs this server's checkpoints; drawn when it is missing. It has no end: a ledger is verified
    /// with one key.
    pub(crate) async fn ledger_key(
        &self,
        registry: &Registry,
        server: &str,
        clock: &dyn Clock,
    ) -> Result<Arc<dyn Signer>, KeysError> {
        let is_ours = |key: &&Arc<SigningKey>, server: &str| {
            key.r#use() == signing_key::Use::Ledger && key.server == server
        };
        let existing = registry.state().signing_keys().find(|key| is_ours(key, server)).cloned();
        if let Some(record) = existing {
            return self.open(&record);
        }
        // Not in a device: most have no Ed25519, and it vouches for nobody.
        let spec = KeySpec { algorithm: KeyAlgorithm::Ed25519, in_device: false };
        let key = self.live.generate(spec, &records::signing_key_key(""))?;
        let now = clock.now();
        let validity =
            Validity::new(now, UnixTime::from_secs(253_402_300_799)).ok_or(KeysError::Lifetime("ledger"))?;
        let mut record = self.record(&key, signing_key::Use::Ledger, server, None, validity);
        record.set_state(signing_key::State::Active);
        record.state_since = now.as_secs();
        let (server, record) = (server.to_owned(), Arc::new(record));
        let (_, record) = registry
            .write_with(move |state| match state.signing_keys().find(|key| is_ours(key, &server)) {
                Some(existing) => Ok((vec![], Arc::clone(existing))),
                None => Ok((
                    vec![RecordChange::Put(Object::SigningKey(Arc::clone(&record)))],
                    Arc::clone(&record),
                )),
            })
            .await?;
        self.open(&record)
    }

    fn record(
        &self,
        key: &NewKey,
        usage: signing_key::Use,
        server: &str,
        certificate: Option<&Certificate>,
        validity: Validity,
    ) -> SigningKey {
        let public = key.signer.public_key();
        let id = hex(&public.key_id());
        SigningKey {
            wrapped_key: Bytes::copy_from_slice(&key.wrapped),
            public_key: Bytes::copy_from_slice(public.spki_der()),
            certificate: certificate
                .map(|certificate| Bytes::copy_from_slice(certificate.der()))
                .unwrap_or_default(),
            server: server.to_owned(),
            not_before: validity.not_before().as_secs(),
            not_after: validity.not_after().as_secs(),
            r#use: usage.into(),
            id,
            ..SigningKey::default()
        }
    }
}

impl KeysError {
    /// Stable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Issue(error) => error.code(),
            Self::Key(error) => error.code(),
            Self::Keyring(error) => error.code(),
            Self::Missing(_) => "keys.missing",
            Self::Lifetime(_) => "keys.lifetime",
            Self::Refused(refusal) => refusal.code(),
            Self::Upstream(error) => error.code(),
        }
    }

    /// What to do.
    pub fn hint(&self) -> &str {
        match self {
            Self::Keyring(error) => error.hint(),
            Self::Lifetime(_) => {
                "look at `[lifetimes]` in the configuration, and at the clock of this machine"
            }
            Self::Refused(refusal) => refusal.hint_text(),
            Self::Upstream(error) => error.hint(),
            _ => "restore the store from a backup",
        }
    }
}

fn validity(now: UnixTime, lifetime: crate::config::Ttl, lifetimes: &Lifetimes) -> Option<Validity> {
    let lifetime = lifetime.as_duration();
    let backdate = lifetimes.backdate.as_duration().min(lifetime);
    Validity::new(now.saturating_sub(backdate), now.saturating_add(lifetime))
}

fn signing_certificate(certificate: &Certificate) -> entry::SigningCertificate {
    let copy = |bytes: Option<&[u8]>| Bytes::copy_from_slice(bytes.unwrap_or_default());
    entry::SigningCertificate {
        serial: Bytes::copy_from_slice(certificate.serial()),
        tbs_sha256: Bytes::copy_from_slice(&certificate.tbs_sha256()),
        key_id: copy(certificate.subject_key_id()),
        issuer_key_id: copy(certificate.authority_key_id()),
        not_after: certificate.not_after().as_secs(),
    }
}
