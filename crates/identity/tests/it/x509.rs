//! X.509 confusion: one change to a good chain, and what has to come of it.

mod bad;
mod chains;
mod good;
mod revoked;

use std::sync::LazyLock;

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_identity::x509::{self, X509Error};
use bonafide_identity::{BundleMap, Certificate, TrustBundle, TrustDomain, UnixTime, VerifiedX509Svid};

use crate::forge::{Forge, NOW, key};

pub(crate) const ID: &str = "spiffe://example.org/ns/shop/sa/web";

pub(crate) struct Keys {
    pub(crate) root: PrivateKey,
    pub(crate) intermediate: PrivateKey,
    pub(crate) leaf: PrivateKey,
    pub(crate) other: PrivateKey,
}

pub(crate) static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    root: key(KeyAlgorithm::EcP256),
    intermediate: key(KeyAlgorithm::EcP256),
    leaf: key(KeyAlgorithm::EcP256),
    other: key(KeyAlgorithm::EcP256),
});

/// Certificates, leaf first.
pub(crate) type Chain = Vec<Vec<u8>>;

/// A good chain: root in the bundle, intermediate, leaf. A test changes one thing of it.
pub(crate) struct World {
    pub(crate) root: Forge,
    pub(crate) intermediate: Forge,
    pub(crate) leaf: Forge,
    pub(crate) now: i64,
    /// What happens to the presented chain (leaf, intermediate) after signing.
    pub(crate) rearrange: fn(Chain, &Self) -> Chain,
    pub(crate) bundles: fn(&Self) -> BundleMap,
}

impl World {
    pub(crate) fn new() -> Self {
        let (root, intermediate) = (KEYS.root.public_key(), KEYS.intermediate.public_key());
        Self {
            root: Forge::authority("root", "root", "spiffe://example.org", root, root),
            intermediate: Forge::authority(
                "root",
                "intermediate",
                "spiffe://example.org",
                intermediate,
                root,
            ),
            leaf: Forge::leaf("intermediate", ID, KEYS.leaf.public_key(), intermediate),
            now: NOW,
            rearrange: |chain, _| chain,
            bundles: |world| world.bundle_of("example.org").into(),
        }
    }

    pub(crate) fn root_der(&self) -> Vec<u8> {
        self.root.sign(&KEYS.root)
    }

    pub(crate) fn bundle_of(&self, trust_domain: &str) -> TrustBundle {
        TrustBundle::new(TrustDomain::parse(trust_domain).unwrap())
            .with_x509_authority(Certificate::from_der(&self.root_der()).unwrap())
    }

    pub(crate) fn chain(&self) -> Vec<Vec<u8>> {
        let chain = vec![self.leaf.sign(&KEYS.intermediate), self.intermediate.sign(&KEYS.root)];
        (self.rearrange)(chain, self)
    }

    pub(crate) fn verify(&self) -> Result<VerifiedX509Svid, X509Error> {
        verify(&self.chain(), &(self.bundles)(self), self.now)
    }
}

pub(crate) fn verify(
    chain: &[Vec<u8>],
    bundles: &BundleMap,
    now: i64,
) -> Result<VerifiedX509Svid, X509Error> {
    let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
    x509::verify(&chain, bundles, UnixTime::from_secs(now))
}
