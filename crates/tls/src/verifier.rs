use std::sync::{Arc, OnceLock};

use bonafide_crypto::digest::sha256;
use bonafide_identity::{
    Certificate, TrustDomain,
    bundle::{BundleMap, TrustBundle},
    reserved,
    time::Clock,
    x509::{self, VerifiedX509Svid},
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::{Authorizer, PeerError, Trust};

/// The most certificates that are looked at. A root, its intermediate and a leaf make three.
const MAX_CHAIN: usize = 8;

/// By what a peer is judged.
#[derive(Clone, Debug)]
pub(crate) enum Judge {
    Trust { trust: Trust, authorizer: Authorizer },
    Pin { trust_domain: TrustDomain, root: [u8; 32] },
}

impl Judge {
    /// What may change while a connection is open; a pin does not.
    pub(crate) fn trust(&self) -> Option<&Trust> {
        match self {
            Self::Trust { trust, .. } => Some(trust),
            Self::Pin { .. } => None,
        }
    }

    fn judge(&self, chain: &[&[u8]], clock: &dyn Clock) -> Result<VerifiedX509Svid, PeerError> {
        match self {
            Self::Trust { trust, authorizer } => {
                let peer = x509::verify(chain, &trust.load(), clock.now())?;
                authorizer.check(&peer)?;
                Ok(peer)
            }
            Self::Pin { trust_domain, root } => {
                // The leaf itself can't be the root; everything else that the server sent may be.
                let pinned =
                    chain.iter().skip(1).find(|der| sha256(der) == *root).ok_or(PeerError::NotPinned)?;
                let root = Certificate::from_der(pinned).map_err(|_| PeerError::NotPinned)?;
                let bundle = TrustBundle::new(trust_domain.clone()).with_x509_authority(root);
                let mut bundles = BundleMap::default();
                bundles.insert(bundle);
                let peer = x509::verify(chain, &bundles, clock.now())?;
                if reserved::authority_server(peer.id()).is_none() {
                    return Err(PeerError::NotAuthority(peer.id().clone()));
                }
                Ok(peer)
            }
        }
    }
}

/// What became of the peer of one connection. Written by its verifier, read when the handshake has ended.
pub(crate) type Verdict = Arc<OnceLock<Result<Arc<VerifiedX509Svid>, PeerError>>>;

/// Verifies the peer of one connection.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    pub(crate) judge: Judge,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
    /// For servers: whether a client may come without a certificate.
    pub(crate) optional: bool,
    pub(crate) verdict: Verdict,
}

impl PeerVerifier {
    fn verify(&self, leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        if others.len() >= MAX_CHAIN {
            return Err(CertificateError::BadEncoding.into());
        }
        let chain: Vec<&[u8]> = std::iter::once(leaf).chain(others).map(AsRef::as_ref).collect();
        let judged = self.judge.judge(&chain, self.clock.as_ref()).map(Arc::new);
        let answer = judged.as_ref().map(|_| ()).map_err(alert);
        if self.verdict.set(judged).is_err() {
            return Err(Error::General("a connection has one peer".to_owned()));
        }
        answer
    }

    fn signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }
}

/// What the peer is told. It learns the kind of refusal, not whom we would have accepted.
fn alert(error: &PeerError) -> Error {
    let certificate = match error {
        PeerError::NotAuthorized(_) | PeerError::NotAuthority(_) => {
            CertificateError::ApplicationVerificationFailure
        }
        PeerError::NotPinned => CertificateError::UnknownIssuer,
        PeerError::Svid(error) => match error.code() {
            "x509.expired" => CertificateError::Expired,
            "x509.not-yet-valid" => CertificateError::NotValidYet,
            code if code.starts_with("x509.revoked-") => CertificateError::Revoked,
            _ => CertificateError::Other(OtherError(Arc::new(error.clone()))),
        },
    };
    Error::InvalidCertificate(certificate)
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.optional
    }

    /// None: clients choose by themselves, and names of CAs say nothing in SPIFFE.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
