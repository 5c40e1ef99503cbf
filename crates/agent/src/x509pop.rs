//! Joining by certificate: what the node brings, and what it signs.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use bonafide_attest::x509pop::{KIND, Proof, algorithm_for, scheme_of};
use bonafide_crypto::{
    key::{PrivateKey, Signer},
    random::Random,
};
use bonafide_identity::{
    Certificate, TrustDomain,
    bundle::{BundleMap, TrustBundle},
    x509::MAX_CLIENT_CHAIN,
};
use bonafide_wire::node::{X509PopChallenge, X509PopEvidence, X509PopResponse};
use bytes::Bytes;
use prost::Message;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Largest file that is read: a key, a chain or a bundle.
const MAX_FILE: u64 = 256 * 1024;

/// How a node joins by a certificate that it has already.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct JoinByCertificate {
    /// Name of the site, which trusts the certificate's root.
    pub site: String,
    /// Of the authority.
    pub trust_domain: TrustDomain,
    /// SPIFFE bundle document of the trust domain, as `bonafide bundle show` prints it: how the node recognises its
    /// authority. Read anew for each attempt. Once the agent has joined, it knows newer roots by itself.
    pub trust_bundle: PathBuf,
    /// Where the certificate and its key are.
    pub x509pop: KeyFiles,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct KeyFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The key, PKCS#8 and not encrypted. Nobody but its owner may read it.
    pub key: PathBuf,
}

/// Why the files of a node prove nothing.
#[derive(Debug, thiserror::Error)]
pub enum X509PopError {
    /// A file can't be read.
    #[error("cannot read `{path}`: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read or write the key.
    #[error("others than its owner may read or write the key `{path}`")]
    Open {
        /// The key.
        path: PathBuf,
    },
    /// Not what it should be.
    #[error("`{path}` {what}")]
    Unfit {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// They do not belong together.
    #[error("the key `{path}` is not that of the certificate")]
    Mismatch {
        /// The key.
        path: PathBuf,
    },
}

impl X509PopError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "join.x509pop-file",
            Self::Open { .. } => "join.x509pop-key-open",
            Self::Unfit { .. } => "join.x509pop-unfit",
            Self::Mismatch { .. } => "join.x509pop-mismatch",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "name files that the agent can read",
            Self::Open { .. } => "`chmod 0600` it, and let it belong to root or to the agent's user",
            Self::Unfit { .. } => {
                "give PEM: the chain with the leaf first, and the key as PKCS#8 (`openssl pkcs8 -topk8 -nodes`)"
            }
            Self::Mismatch { .. } => "give the key that the certificate was made for",
        }
    }
}

/// A node's certificate with its key, read for one attestation.
#[derive(Debug)]
pub(crate) struct NodeCertificate {
    chain: Vec<Bytes>,
    key: PrivateKey,
}

impl NodeCertificate {
    /// Reads both files. They are read for each attestation: whoever renews them needn't tell the agent.
    pub(crate) fn load(files: &KeyFiles) -> Result<Self, X509PopError> {
        let unfit = |path: &Path, what: &dyn std::fmt::Display| X509PopError::Unfit {
            path: path.to_owned(),
            what: what.to_string(),
        };
        let path = &files.certificate;
        let text = read(path, false)?;
        let mut chain = Vec::new();
        for (label, der) in blocks(&text).map_err(|what| unfit(path, &what))? {
            if label == "CERTIFICATE" {
                chain.push(Bytes::copy_from_slice(&der));
            }
        }
        let leaf = chain.first().ok_or_else(|| unfit(path, &"holds no certificate"))?;
        let leaf = Certificate::from_der(leaf).map_err(|error| {
            unfit(path, &format_args!("begins with a certificate that is refused: {error}"))
        })?;
        if chain.len() > MAX_CLIENT_CHAIN {
            return Err(unfit(path, &"holds more than five certificates"));
        }
        let path = &files.key;
        let text = read(path, true)?;
        let mut keys = blocks(&text).map_err(|what| unfit(path, &what))?;
        keys.retain(|(label, _)| label != "EC PARAMETERS");
        let key = match keys.as_slice() {
            [(label, der)] if label == "PRIVATE KEY" => PrivateKey::from_pkcs8_der(der)
                .map_err(|error| unfit(path, &format_args!("holds a key that is refused: {error}")))?,
            [(label, _)] => return Err(unfit(path, &format_args!("holds a `{label}`, not a `PRIVATE KEY`"))),
            _ => return Err(unfit(path, &"does not hold exactly one key")),
        };
        if key.public_key() != leaf.public_key() {
            return Err(X509PopError::Mismatch { path: path.clone() });
        }
        Ok(Self { chain, key })
    }

    /// `AttestBegin.evidence`.
    pub(crate) fn evidence(&self, site: &str) -> Bytes {
        X509PopEvidence { site: site.to_owned(), chain: self.chain.clone() }.encode_to_vec().into()
    }

    /// The answer to a challenge of the authority; `None` for a challenge that makes no sense, and for a key that can't
    /// sign.
    pub(crate) fn answer(
        &self,
        challenge: &[u8],
        join: &JoinByCertificate,
        csr: &[u8],
        random: &dyn Random,
    ) -> Option<Bytes> {
        let challenge = X509PopChallenge::decode(challenge).ok()?;
        let authority_nonce: &[u8; 32] = (*challenge.nonce).try_into().ok()?;
        let node_nonce: [u8; 32] = random.array();
        let proof = Proof {
            trust_domain: &join.trust_domain,
            site: &join.site,
            authority_nonce,
            node_nonce: &node_nonce,
            certificate: self.chain.first()?,
            csr,
        };
        let algorithm = algorithm_for(self.key.public_key().algorithm());
        let response = X509PopResponse {
            nonce: Bytes::copy_from_slice(&node_nonce),
            scheme: scheme_of(algorithm)?,
            signature: self.key.sign_with(algorithm, &proof.transcript()).ok()?.into(),
        };
        Some(response.encode_to_vec().into())
    }
}

impl JoinByCertificate {
    /// `AttestBegin.attestor`.
    pub(crate) const KIND: &'static str = KIND;

    /// By what the authority is recognised: the roots of the file, and those that the agent has learned.
    pub(crate) fn trust(&self, learned: &BundleMap) -> Result<BundleMap, X509PopError> {
        let path = &self.trust_bundle;
        let unfit = |error: &dyn std::fmt::Display| X509PopError::Unfit {
            path: path.clone(),
            what: format!("is no SPIFFE bundle document of `{}`: {error}", self.trust_domain),
        };
        let learned = learned.get(&self.trust_domain);
        let mut bundle = match read(path, false) {
            Ok(document) => {
                TrustBundle::parse(&self.trust_domain, &document).map_err(|error| unfit(&error))?
            }
            Err(_) if learned.is_some() => TrustBundle::new(self.trust_domain.clone()),
            Err(error) => return Err(error),
        };
        for root in learned.into_iter().flat_map(|bundle| bundle.x509_authorities()) {
            if !bundle.x509_authorities().contains(root) {
                bundle = bundle.with_x509_authority(root.clone());
            }
        }
        let mut bundles = BundleMap::new();
        bundles.insert(bundle);
        Ok(bundles)
    }
}

/// Reads a whole file. A key's must be its owner's alone, and that owner root or the agent's user: what is checked is the
/// file that is open, not one that takes its name a moment later.
fn read(path: &Path, secret: bool) -> Result<Zeroizing<Vec<u8>>, X509PopError> {
    let io = |source| X509PopError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let status = file.metadata().map_err(io)?;
    if !status.is_file() {
        return Err(io(io::Error::other("no regular file")));
    }
    if secret {
        let owner = status.uid();
        let own = owner == 0 || owner == rustix::process::geteuid().as_raw();
        if !own || status.mode() & 0o077 != 0 {
            return Err(X509PopError::Open { path: path.to_owned() });
        }
    }
    // As large as it can get, so that it never moves and leaves a copy behind.
    let length = usize::try_from(status.len().min(MAX_FILE)).unwrap_or_default();
    let mut content = Zeroizing::new(Vec::with_capacity(length + 1));
    file.take(length as u64 + 1).read_to_end(&mut content).map_err(io)?;
    if content.len() > length {
        return Err(io(io::Error::other("larger than 256 KiB, or just being written")));
    }
    Ok(content)
}

/// A label, and what it labels.
type Block = (String, Zeroizing<Vec<u8>>);

/// The blocks of a PEM text (RFC 7468).
fn blocks(text: &[u8]) -> Result<Vec<Block>, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "is not PEM")?;
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, from_label)) = rest.split_once("-----BEGIN ") {
        let (label, _) = from_label.split_once("-----").ok_or("holds a PEM block without a label")?;
        let end = format!("-----END {label}-----");
        let (body, after) = from_label.split_once(end.as_str()).ok_or("holds a PEM block without an end")?;
        let whole = Zeroizing::new(format!("-----BEGIN {body}{end}\n"));
        let (label, der) =
            der::pem::decode_vec(whole.as_bytes()).map_err(|_| "holds a PEM block that is broken")?;
        blocks.push((label.to_owned(), Zeroizing::new(der)));
        rest = after;
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        der::pem::encode_string(label, der::pem::LineEnding::LF, der).unwrap()
    }

    #[test]
    fn a_key_that_others_may_read_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let files = KeyFiles {
            certificate: directory.path().join("node.pem"),
            key: directory.path().join("node.key"),
        };
        let code = || NodeCertificate::load(&files).map_or_else(|error| error.code(), |_| "ok");
        let write = |key: &str| {
            std::fs::write(&files.key, key).unwrap();
            std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o600)).unwrap();
        };
        assert_eq!(code(), "join.x509pop-file");
        std::fs::write(&files.certificate, "no PEM").unwrap();
        assert_eq!(code(), "join.x509pop-unfit");
        std::fs::write(&files.certificate, pem("CERTIFICATE", certificate.der())).unwrap();
        write(&pem("PRIVATE KEY", &key.serialize_der()));
        assert_eq!(code(), "ok");
        for mode in [0o640, 0o604, 0o620, 0o601] {
            std::fs::set_permissions(&files.key, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(code(), "join.x509pop-key-open", "{mode:o}");
        }
        write(&pem("EC PRIVATE KEY", &key.serialize_der()));
        assert_eq!(code(), "join.x509pop-unfit");
        write(&pem("PRIVATE KEY", &rcgen::KeyPair::generate().unwrap().serialize_der()));
        assert_eq!(code(), "join.x509pop-mismatch");
        write(&"x".repeat(300 * 1024));
        assert_eq!(code(), "join.x509pop-file");
        let text = toml::from_str::<JoinByCertificate>(
            "site = 'lab'\ntrust_domain = 'example.org'\ntrust_bundle = '/b'\nx509pop = { certificate = '/c', key = '/k', sign = true }",
        );
        assert!(text.is_err(), "unknown settings are refused");
    }
}
