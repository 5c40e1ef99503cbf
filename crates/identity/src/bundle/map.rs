use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{BundleError, TrustBundle, json as bundle_json};
use crate::id::TrustDomain;
use crate::revocation::Revocations;

const MAX_MAP_LENGTH: usize = 16 * 1024 * 1024;
const MAX_BUNDLES: usize = 4096;

/// The bundles of several trust domains. Bundles of different trust domains are never merged.
///
/// It also carries what their authorities have [revoked](crate::revocation), so that whoever verifies by it refuses
/// that. Revocations are no part of a bundle document: [`parse`](Self::parse) finds none, [`to_json`](Self::to_json)
/// writes none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BundleMap {
    bundles: BTreeMap<TrustDomain, Arc<TrustBundle>>,
    revocations: BTreeMap<TrustDomain, Arc<Revocations>>,
}

impl BundleMap {
    /// A map without bundles: nobody is trusted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a SPIFFE bundle map (section 5).
    ///
    /// # Errors
    /// If it is longer than 16 MiB, not JSON with unique members, has a trust domain twice, or one of its
    /// bundles is malformed.
    pub fn parse(json: &[u8]) -> Result<Self, BundleError> {
        if json.len() > MAX_MAP_LENGTH {
            return Err(BundleError::TooLong);
        }
        let object = bonafide_crypto::jose::parse_object(json).map_err(|_| BundleError::Json)?;
        let bundles = object.get("trust_domains").and_then(Value::as_object).ok_or(BundleError::Map)?;
        if bundles.len() > MAX_BUNDLES {
            return Err(BundleError::TooManyBundles);
        }
        let mut map = Self::new();
        for (name, bundle) in bundles {
            let trust_domain = TrustDomain::parse(name).map_err(BundleError::TrustDomain)?;
            let bundle = bundle.as_object().ok_or(BundleError::Map)?;
            let bundle = bundle_json::read(&trust_domain, bundle)?;
            // Two spellings of one trust domain are unique members all the same.
            if map.insert(bundle).is_some() {
                return Err(BundleError::DuplicateTrustDomain);
            }
        }
        Ok(map)
    }

    /// The map as a SPIFFE bundle map.
    pub fn to_json(&self) -> Vec<u8> {
        let bundles: Map<String, Value> = self
            .bundles
            .iter()
            .map(|(trust_domain, bundle)| (trust_domain.to_string(), bundle_json::write(bundle)))
            .collect();
        json!({ "trust_domains": bundles }).to_string().into_bytes()
    }

    /// The bundle of a trust domain.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.bundles.get(trust_domain)
    }

    /// Puts a bundle in the place of the one of its trust domain, which it returns.
    pub fn insert(&mut self, bundle: impl Into<Arc<TrustBundle>>) -> Option<Arc<TrustBundle>> {
        let bundle = bundle.into();
        self.bundles.insert(bundle.trust_domain().clone(), bundle)
    }

    /// Removes the bundle of a trust domain, so that nothing of it is trusted any longer.
    pub fn remove(&mut self, trust_domain: &TrustDomain) -> Option<Arc<TrustBundle>> {
        self.bundles.remove(trust_domain)
    }

    /// What the authority of a trust domain has revoked, as far as is known here.
    pub fn revocations(&self, trust_domain: &TrustDomain) -> Option<&Arc<Revocations>> {
        self.revocations.get(trust_domain)
    }

    /// Puts revocations in the place of those of their trust domain.
    pub fn set_revocations(&mut self, revocations: Arc<Revocations>) {
        self.revocations.insert(revocations.trust_domain().clone(), revocations);
    }

    /// Takes over the revocations of `other`, of all trust domains: for bundles that come without.
    #[must_use]
    pub fn with_revocations_of(mut self, other: &Self) -> Self {
        self.revocations.clone_from(&other.revocations);
        self
    }

    /// As [`set_revocations`](Self::set_revocations).
    #[must_use]
    pub fn with_revocations(mut self, revocations: Arc<Revocations>) -> Self {
        self.set_revocations(revocations);
        self
    }

    /// The bundles, ordered by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &Arc<TrustBundle>)> {
        self.bundles.iter()
    }

    /// How many bundles there are.
    pub fn len(&self) -> usize {
        self.bundles.len()
    }

    /// Whether there is no bundle.
    pub fn is_empty(&self) -> bool {
        self.bundles.is_empty()
    }
}

impl From<TrustBundle> for BundleMap {
    fn from(bundle: TrustBundle) -> Self {
        Self::from_iter([bundle])
    }
}

impl<B: Into<Arc<TrustBundle>>> FromIterator<B> for BundleMap {
    fn from_iter<I: IntoIterator<Item = B>>(bundles: I) -> Self {
        let mut map = Self::new();
        for bundle in bundles {
            map.insert(bundle);
        }
        map
    }
}
