use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bonafide_crypto::key::{PrivateKey, PublicKeyAlgorithm, SignatureAlgorithm, Signer};
use bonafide_identity::x509::X509Svid;
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::{self, CertifiedKey},
};
use tokio::sync::watch;

/// What a process presents of itself: one X509-SVID at a time, changed while connections go on.
#[derive(Debug)]
pub struct IdentitySlot {
    presented: ArcSwapOption<Presented>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Presented {
    svid: Arc<X509Svid>,
    certified: Arc<CertifiedKey>,
}

impl IdentitySlot {
    /// An empty slot. Handshakes that need an identity fail until it is filled.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { presented: ArcSwapOption::empty(), changes: watch::Sender::new(0) })
    }

    /// Presents `svid` from the next handshake on.
    pub fn set(&self, svid: &X509Svid) {
        let chain = svid.chain().iter().map(|each| CertificateDer::from(each.der().to_vec())).collect();
        let key = Arc::new(TlsKey(Arc::clone(svid.key())));
        let certified = Arc::new(CertifiedKey::new(chain, key));
        self.presented.store(Some(Arc::new(Presented { svid: Arc::new(svid.clone()), certified })));
        self.changes.send_modify(|count| *count += 1);
    }

    /// Presents nothing any more.
    pub fn clear(&self) {
        self.presented.store(None);
        self.changes.send_modify(|count| *count += 1);
    }

    /// What is presented now.
    pub fn current(&self) -> Option<Arc<X509Svid>> {
        self.presented.load().as_ref().map(|presented| Arc::clone(&presented.svid))
    }

    /// Changes its value at every [`Self::set`] and [`Self::clear`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.presented.load().as_ref().map(|presented| Arc::clone(&presented.certified))
    }
}

/// Gives rustls what the slot holds at the moment of a handshake. Server names mean nothing here.
#[derive(Debug)]
pub(crate) struct Resolver(pub(crate) Arc<IdentitySlot>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.certified()
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.certified()
    }

    fn has_certs(&self) -> bool {
        self.0.presented.load().is_some()
    }
}

/// A key of ours as rustls wants it. The key stays where it is: nothing is exported or parsed again.
#[derive(Debug)]
struct TlsKey(Arc<PrivateKey>);

#[derive(Debug)]
struct TlsSigner {
    key: Arc<PrivateKey>,
    scheme: SignatureScheme,
    algorithm: SignatureAlgorithm,
}

/// The schemes of TLS 1.3 (RFC 8446 §4.2.3) that each kind of key can do, best first.
fn schemes(key: PublicKeyAlgorithm) -> &'static [(SignatureScheme, SignatureAlgorithm)] {
    match key {
        PublicKeyAlgorithm::EcP256 => {
            &[(SignatureScheme::ECDSA_NISTP256_SHA256, SignatureAlgorithm::EcdsaP256Sha256)]
        }
        PublicKeyAlgorithm::EcP384 => {
            &[(SignatureScheme::ECDSA_NISTP384_SHA384, SignatureAlgorithm::EcdsaP384Sha384)]
        }
        PublicKeyAlgorithm::EcP521 => {
            &[(SignatureScheme::ECDSA_NISTP521_SHA512, SignatureAlgorithm::EcdsaP521Sha512)]
        }
        PublicKeyAlgorithm::Ed25519 => &[(SignatureScheme::ED25519, SignatureAlgorithm::Ed25519)],
        PublicKeyAlgorithm::Rsa { .. } => &[
            (SignatureScheme::RSA_PSS_SHA256, SignatureAlgorithm::RsaPssSha256),
            (SignatureScheme::RSA_PSS_SHA384, SignatureAlgorithm::RsaPssSha384),
            (SignatureScheme::RSA_PSS_SHA512, SignatureAlgorithm::RsaPssSha512),
        ],
    }
}

impl sign::SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn sign::Signer>> {
        let (scheme, algorithm) =
            *schemes(self.0.public_key().algorithm()).iter().find(|(scheme, _)| offered.contains(scheme))?;
        Some(Box::new(TlsSigner { key: Arc::clone(&self.0), scheme, algorithm }))
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        match self.0.public_key().algorithm() {
            PublicKeyAlgorithm::EcP256 | PublicKeyAlgorithm::EcP384 | PublicKeyAlgorithm::EcP521 => {
                rustls::SignatureAlgorithm::ECDSA
            }
            PublicKeyAlgorithm::Ed25519 => rustls::SignatureAlgorithm::ED25519,
            PublicKeyAlgorithm::Rsa { .. } => rustls::SignatureAlgorithm::RSA,
        }
    }
}

impl sign::Signer for TlsSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.key.sign_with(self.algorithm, message).map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}
