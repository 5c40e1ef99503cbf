//! What signs certificates.

use std::sync::Arc;

use bonafide_crypto::asn1::{SEQUENCE, Writer};
use bonafide_crypto::key::{PublicKey, SignError, SignatureAlgorithm, Signer};
use bonafide_identity::{Certificate, CertificateError, TrustDomain};

use crate::lint::{LintError, LintedTbs, lint, lint_root};
use crate::template;
use crate::validity::{SerialNumber, Validity};

/// A certificate of an authority, the chain above it, and the key that belongs to it.
#[derive(Clone, Debug)]
pub struct CertificateAuthority {
    chain: Vec<Certificate>,
    signer: Arc<dyn Signer>,
}

/// Why nothing was issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// What was signed can't be read back.
    #[error("the certificate of an authority can't be used: {0}")]
    Certificate(#[from] CertificateError),
    /// The chain is empty, has no authority at its head, or its parts don't belong together.
    #[error("the chain of the certificate authority is not one: {0}")]
    Chain(&'static str),
    /// The linter refused.
    #[error(transparent)]
    Lint(#[from] LintError),
    /// The key failed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The certificate was linted for another issuer.
    #[error("the certificate was laid out for another issuer")]
    WrongIssuer,
}

impl CertificateAuthority {
    /// An authority whose own certificate is the first of `chain`, followed by those above it without the root.
    ///
    /// # Errors
    /// [`IssueError::Chain`] if the first is no authority, the key isn't its own, or one did not issue the one
    /// before it.
    pub fn new(chain: Vec<Certificate>, signer: Arc<dyn Signer>) -> Result<Self, IssueError> {
        let first = chain.first().ok_or(IssueError::Chain("it is empty"))?;
        if !first.is_ca() {
            return Err(IssueError::Chain("its first certificate is not an authority"));
        }
        if first.public_key() != signer.public_key() {
            return Err(IssueError::Chain("the key belongs to another certificate"));
        }
        let connected = chain.iter().zip(chain.iter().skip(1)).all(|(below, above)| {
            below.issuer_der() == above.subject_der() && below.authority_key_id() == above.subject_key_id()
        });
        if !connected {
            return Err(IssueError::Chain("a certificate was not issued by the next one"));
        }
        Ok(Self { chain, signer })
    }

    /// Its own certificate: lay out and lint for this one.
    ///
    /// # Panics
    /// Never: there is one since it was built.
    #[must_use]
    #[expect(clippy::expect_used, reason = "`new` refuses an empty chain, and nothing changes it")]
    pub fn certificate(&self) -> &Certificate {
        self.chain.first().expect("a chain with a head")
    }

    /// Its own certificate and those above it, to send behind each leaf.
    #[must_use]
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// The same as DER.
    #[must_use]
    pub fn chain_der(&self) -> Vec<&[u8]> {
        self.chain.iter().map(Certificate::der).collect()
    }

    /// Signs a certificate. May block, because the key may be in a device.
    ///
    /// # Errors
    /// [`IssueError::WrongIssuer`] if it was linted for another issuer, [`IssueError::Sign`] if the key fails.
    pub fn issue(&self, linted: LintedTbs) -> Result<Vec<u8>, IssueError> {
        self.issue_each(&[linted]).pop().unwrap_or(Err(IssueError::WrongIssuer))
    }

    /// Signs several certificates in one go, in their order: for signers to which every call is dear. May block.
    pub fn issue_each(&self, linted: &[LintedTbs]) -> Vec<Result<Vec<u8>, IssueError>> {
        let ours = |linted: &&LintedTbs| linted.issuer() == Some(self.certificate());
        let messages: Vec<&[u8]> = linted.iter().filter(ours).map(LintedTbs::der).collect();
        let algorithm = SignatureAlgorithm::default_for(self.signer.public_key().algorithm());
        let mut signatures = self.signer.sign_each(algorithm, &messages).into_iter();
        let signed = |linted: &LintedTbs| {
            if !ours(&linted) {
                return Err(IssueError::WrongIssuer);
            }
            let none = || Err(SignError::Failed("no signature came".to_owned()));
            let signature = signatures.next().unwrap_or_else(none)?;
            Ok(certificate(linted, algorithm, &signature))
        };
        linted.iter().map(signed).collect()
    }
}

/// Makes a root certificate for `signer`.
///
/// # Errors
/// [`IssueError`] if it isn't one by the linter's rules, or the key fails.
pub fn self_sign_root(
    trust_domain: &TrustDomain,
    signer: &dyn Signer,
    validity: Validity,
    serial: SerialNumber,
) -> Result<Certificate, IssueError> {
    let linted = lint_root(&template::root(trust_domain, signer.public_key(), validity, serial))?;
    Ok(Certificate::from_der(&sign(&linted, signer)?)?)
}

/// Makes a certificate for the intermediate authority with this key, under `root`.
///
/// # Errors
/// [`IssueError`] if it isn't one by the linter's rules, `signer` isn't the key of `root`, or the key fails.
pub fn sign_intermediate(
    trust_domain: &TrustDomain,
    root: &Certificate,
    signer: &dyn Signer,
    key: &PublicKey,
    validity: Validity,
    serial: SerialNumber,
) -> Result<Certificate, IssueError> {
    if signer.public_key() != root.public_key() {
        return Err(IssueError::WrongIssuer);
    }
    let linted = lint(&template::intermediate(trust_domain, key, validity, serial, root), root)?;
    Ok(Certificate::from_der(&sign(&linted, signer)?)?)
}

impl IssueError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Certificate(error) => error.code(),
            Self::Chain(_) => "ca.chain-broken",
            Self::Lint(error) => error.code(),
            Self::Sign(error) => error.code(),
            Self::WrongIssuer => "ca.wrong-issuer",
        }
    }
}

/// RFC 5280 section 4.1.1.
fn sign(linted: &LintedTbs, signer: &dyn Signer) -> Result<Vec<u8>, IssueError> {
    // The template chose the algorithm by the issuer's key, and the linter compared.
    let algorithm = SignatureAlgorithm::default_for(signer.public_key().algorithm());
    let signature = signer.sign_with(algorithm, linted.der())?;
    Ok(certificate(linted, algorithm, &signature))
}

fn certificate(linted: &LintedTbs, algorithm: SignatureAlgorithm, signature: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(linted.der().len() + signature.len() + 32);
    out.nested(SEQUENCE, |certificate| {
        certificate.raw(linted.der());
        certificate.raw(algorithm.algorithm_identifier_der());
        certificate.bit_string(signature);
    });
    out.finish()
}
