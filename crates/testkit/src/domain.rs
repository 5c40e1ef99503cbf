use std::{sync::Arc, time::Duration};

use bonafide_ca::{
    CertificateAuthority, SerialNumber, Validity,
    lint::lint,
    self_sign_root, sign_intermediate,
    template::{self, NodeLeaf, WorkloadLeaf},
};
use bonafide_crypto::{
    key::{KeyAlgorithm, PrivateKey, Signer},
    random::SystemRandom,
};
use bonafide_identity::{
    BundleMap, Certificate, InstanceId, JwtClaims, SpiffeId, TrustBundle, TrustDomain, UnixTime, X509Svid,
    attributes::{Attribute, Attributes, Kind},
    jwt, reserved,
};

const HOUR: Duration = Duration::from_secs(3600);
const KID: &str = "key-1";

/// A trust domain with a root, an intermediate and a JWT key, made by the real authority's own code.
#[derive(Debug)]
pub struct TestDomain {
    trust_domain: TrustDomain,
    root: Certificate,
    authority: CertificateAuthority,
    jwt_key: PrivateKey,
}

fn serial() -> SerialNumber {
    SerialNumber::random(&SystemRandom)
}

fn key() -> PrivateKey {
    PrivateKey::generate(KeyAlgorithm::EcP256).expect("a key")
}

impl TestDomain {
    /// A new trust domain, whose authority is valid from three days before `now` to three days after.
    pub fn new(name: &str, now: UnixTime) -> Self {
        let days = HOUR * 24 * 3;
        let validity = Validity::new(now.saturating_sub(days), now.saturating_add(days)).expect("in order");
        let trust_domain: TrustDomain = name.parse().expect("a trust domain");
        let root_key = key();
        let root = self_sign_root(&trust_domain, &root_key, validity, serial()).expect("a root");
        let signer: Arc<dyn Signer> = Arc::new(key());
        let intermediate =
            sign_intermediate(&trust_domain, &root, &root_key, signer.public_key(), validity, serial())
                .expect("an intermediate");
        let authority = CertificateAuthority::new(vec![intermediate], signer).expect("an authority");
        Self { trust_domain, root, authority, jwt_key: key() }
    }

    /// A trust domain whose keys are known: what a thief has who stole them.
    pub fn with_keys(
        trust_domain: TrustDomain,
        root: Certificate,
        intermediate: Certificate,
        signer: Arc<dyn Signer>,
        jwt_key: PrivateKey,
    ) -> Self {
        let authority = CertificateAuthority::new(vec![intermediate], signer).expect("an authority");
        Self { trust_domain, root, authority, jwt_key }
    }

    /// Its name.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its root certificate.
    pub fn root(&self) -> &Certificate {
        &self.root
    }

    /// Root and JWT key.
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new(self.trust_domain.clone())
            .with_x509_authority(self.root.clone())
            .with_jwt_authority(KID, self.jwt_key.public_key().clone())
    }

    /// A map of this bundle alone.
    pub fn bundles(&self) -> BundleMap {
        let mut bundles = BundleMap::new();
        bundles.insert(self.bundle());
        bundles
    }

    /// The ID with this path, as `/web`.
    pub fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, path).expect("a path")
    }

    /// An SVID for one hour from `now`, of a new instance, labelled `env` = `test`.
    pub fn svid(&self, path: &str, now: UnixTime) -> X509Svid {
        self.svid_valid(path, Validity::starting(now, HOUR).expect("a time"))
    }

    /// An SVID for any time.
    pub fn svid_valid(&self, path: &str, validity: Validity) -> X509Svid {
        let key = key();
        let leaf = WorkloadLeaf {
            id: self.id(path),
            public_key: key.public_key().clone(),
            dns_names: Vec::new(),
            attributes: Attributes {
                instance: Some(InstanceId::random(&SystemRandom)),
                generation: 0,
                attributes: vec![Attribute::new(Kind::Label, "env", "test")],
            }
            .encode()
            .expect("attributes"),
            validity,
            serial: serial(),
        };
        let tbs = template::workload(leaf, self.authority.certificate()).expect("a leaf");
        self.finish(&tbs, key, false)
    }

    /// The SVID of a server of the authority, whose chain ends with the root, for one hour from `now`.
    pub fn authority_svid(&self, server: &str, now: UnixTime) -> X509Svid {
        let key = key();
        let leaf = NodeLeaf {
            id: reserved::authority_id(&self.trust_domain, server).expect("a server"),
            public_key: key.public_key().clone(),
            dns_names: Vec::new(),
            attributes: Attributes::default().encode().expect("attributes"),
            validity: Validity::starting(now, HOUR).expect("a time"),
            serial: serial(),
        };
        let tbs = template::authority(leaf, self.authority.certificate()).expect("a leaf");
        self.finish(&tbs, key, true)
    }

    /// A JWT-SVID for five minutes from `now`.
    pub fn jwt(&self, path: &str, audience: &[&str], now: UnixTime) -> String {
        let claims = JwtClaims {
            id: self.id(path),
            audience: audience.iter().map(|&each| each.to_owned()).collect(),
            issued_at: now,
            expires_at: now.saturating_add(Duration::from_secs(300)),
            instance: None,
            jti: Some(serial().to_string()),
        };
        jwt::issue(&claims, &self.jwt_key, KID).expect("a token")
    }

    fn finish(&self, tbs: &template::Tbs, key: PrivateKey, with_root: bool) -> X509Svid {
        let linted = lint(tbs, self.authority.certificate()).expect("a clean leaf");
        let der = self.authority.issue(linted).expect("a signature");
        let mut chain = vec![Certificate::from_der(&der).expect("a certificate")];
        chain.extend_from_slice(self.authority.chain());
        if with_root {
            chain.push(self.root.clone());
        }
        X509Svid::new(chain, key, None).expect("an SVID")
    }
}
