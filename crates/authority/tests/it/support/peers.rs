//! Callers over mutual TLS, with real certificates that really were verified.

use std::{sync::Arc, time::Duration};

use bonafide_ca::{
    CertificateAuthority, SerialNumber, Validity, lint::lint, self_sign_root, sign_intermediate, template,
};
use bonafide_crypto::{
    key::{KeyAlgorithm, PrivateKey},
    random::SystemRandom,
};
use bonafide_identity::{
    InstanceId,
    attributes::{Attribute, Attributes, Kind},
    bundle::{BundleMap, TrustBundle},
    time::UnixTime,
    x509,
};
use bonafide_net::tls_listener::PeerSvid;

use super::{ADMINS_AGENT, ADMINS_SELECTORS, START, agent_id, id, trust_domain};

/// Issues what a site's workloads get.
pub(crate) struct Issuer {
    authority: CertificateAuthority,
    bundles: BundleMap,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        let root_key = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
        let root = self_sign_root(&trust_domain(), &root_key, validity(), serial()).unwrap();
        let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcP256).unwrap());
        let intermediate =
            sign_intermediate(&trust_domain(), &root, &root_key, key.public_key(), validity(), serial())
                .unwrap();
        let bundles = BundleMap::from(TrustBundle::new(trust_domain()).with_x509_authority(root));
        let authority = CertificateAuthority::new(vec![intermediate], key).unwrap();
        Self { authority, bundles }
    }

    /// A verified peer with these administrative rights.
    pub(crate) fn peer(&self, spiffe_id: &str, site: &str, registration: &str, admin: &[&str]) -> PeerSvid {
        let key = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
        let mut attributes = vec![Attribute::site(site), Attribute::registration(registration)];
        let agent = agent_id(site, ADMINS_AGENT);
        attributes.push(Attribute::new(Kind::Evidence, "agent", agent.path()));
        attributes
            .extend(ADMINS_SELECTORS.iter().map(|(key, value)| Attribute::new(Kind::Selector, *key, *value)));
        attributes.extend(admin.iter().map(|site| Attribute::new(Kind::Admin, "site", *site)));
        let leaf = template::WorkloadLeaf {
            id: id(spiffe_id),
            public_key: key.public_key().clone(),
            dns_names: Vec::new(),
            attributes: Attributes {
                instance: Some(InstanceId::from_bytes([1; 16])),
                generation: 0,
                attributes,
            }
            .encode()
            .unwrap(),
            validity: validity(),
            serial: serial(),
        };
        let issuer = self.authority.certificate();
        let tbs = template::workload(leaf, issuer).unwrap();
        let der = self.authority.issue(lint(&tbs, issuer).unwrap()).unwrap();
        let verified =
            x509::verify(&[&der, issuer.der()], &self.bundles, UnixTime::from_secs(START)).unwrap();
        PeerSvid(Some(Arc::new(verified)))
    }
}

fn validity() -> Validity {
    Validity::starting(UnixTime::from_secs(START), Duration::from_secs(3600)).unwrap()
}

fn serial() -> SerialNumber {
    SerialNumber::random(&SystemRandom)
}
