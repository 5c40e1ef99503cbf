//! An existing CA in place of a root of ours: certificate and key come from files, which are looked at again and again.
//!
//! Once it is taken up it is a root as any other: published before it is used, tainted and revoked by the same orders, and
//! its key is wrapped in the store, so the key's file can be put away. A file that names another CA is what a drawn root
//! would be: it is prepared, acknowledged, and only then used.
//!
//! What is published is the CA itself, not what stands above it: else every other CA under the same root could vouch for
//! this trust domain. What stands above travels behind each leaf, for verifiers that know that root from elsewhere.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bonafide_identity::time::UnixTime;
use bonafide_identity::x509::profile;
use bonafide_identity::{Certificate, TrustDomain};
use zeroize::Zeroizing;

use crate::config::UpstreamConfig;
use crate::journal::hex;

/// Largest file that is read.
const MAX_FILE: u64 = 64 * 1024;
/// Above the CA, without the root. With leaf, intermediate and the CA that makes six, of the eight that our verifiers take.
const MAX_ABOVE: usize = 3;
/// Of the CA's key identifier.
const MAX_KEY_ID: usize = 32;

/// Where an existing CA is.
#[derive(Debug)]
pub(crate) struct Upstream {
    config: UpstreamConfig,
    trust_domain: TrustDomain,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    offer: Option<Arc<Offer>>,
    /// What was said about it already.
    told: String,
}

/// The CA that the files name.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) id: String,
    pub(super) certificate: Certificate,
    /// What stands above it, nearest first, without the root.
    pub(super) above: Vec<Certificate>,
}

/// Why the files name no CA for us.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// A file can't be read.
    #[error("the upstream CA: `{}`: {cause}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The key is that of another certificate.
    #[error("the key in `{}` is not that of the upstream CA", .0.display())]
    Mismatch(PathBuf),
    /// Others may read or write the key.
    #[error("others than its owner may read or write the key `{}`", .0.display())]
    Open(PathBuf),
    /// It was taken up already.
    #[error("`{}` names the upstream CA that is known already, `{id}`", path.display())]
    Unchanged {
        /// The certificate's file.
        path: PathBuf,
        /// Its ID.
        id: String,
    },
    /// It can't be an authority of this trust domain.
    #[error("the upstream CA in `{}` {what}", path.display())]
    Unfit {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl Upstream {
    pub(crate) fn new(config: UpstreamConfig, trust_domain: TrustDomain) -> Self {
        Self { config, trust_domain, seen: Mutex::default() }
    }

    /// Looks at the certificate's file. Blocks, but not for long.
    pub(super) fn look(&self, now: UnixTime) -> Result<Arc<Offer>, UpstreamError> {
        let offer = self.read_offer(now).map(Arc::new);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.offer = offer.as_ref().ok().cloned();
        offer
    }

    /// The CA that was named when somebody looked last.
    pub(super) fn offered(&self) -> Option<Arc<Offer>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).offer.clone()
    }

    /// Whether this was not the last thing said.
    pub(super) fn is_news(&self, what: &str) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let news = seen.told != what;
        what.clone_into(&mut seen.told);
        news
    }

    /// The key, as PKCS#8.
    pub(super) fn key(&self) -> Result<Zeroizing<Vec<u8>>, UpstreamError> {
        let path = &self.config.key_file;
        let mut keys = blocks(path, &read(path, true)?)?;
        keys.retain(|(label, _)| label != "EC PARAMETERS");
        match keys.pop() {
            Some((label, der)) if keys.is_empty() && label == "PRIVATE KEY" => Ok(der),
            _ => Err(unfit(path, &"does not hold exactly one `PRIVATE KEY`")),
        }
    }

    pub(super) fn mismatch(&self) -> UpstreamError {
        UpstreamError::Mismatch(self.config.key_file.clone())
    }

    pub(super) fn unchanged(&self, offer: &Offer) -> UpstreamError {
        UpstreamError::Unchanged { path: self.config.cert_file.clone(), id: offer.id.clone() }
    }

    fn read_offer(&self, now: UnixTime) -> Result<Offer, UpstreamError> {
        let path = &self.config.cert_file;
        let mut chain = Vec::new();
        for (label, der) in blocks(path, &read(path, false)?)? {
            if label != "CERTIFICATE" {
                return Err(unfit(path, &format_args!("comes with a `{label}`")));
            }
            let certificate = Certificate::from_der(&der)
                .map_err(|error| unfit(path, &format_args!("has a certificate that is refused: {error}")))?;
            chain.push(certificate);
        }
        // A root is known from elsewhere, or not at all.
        if chain.len() > 1 && chain.last().is_some_and(Certificate::is_self_issued) {
            chain.pop();
        }
        if chain.len() > 1 + MAX_ABOVE {
            return Err(unfit(path, &"stands below more than three others"));
        }
        for certificate in &chain {
            self.check(certificate, now).map_err(|what| unfit(path, &what))?;
        }
        let connected = chain.iter().zip(chain.iter().skip(1)).all(|(below, above)| {
            below.issuer_der() == above.subject_der() && below.authority_key_id() == above.subject_key_id()
        });
        if !connected {
            return Err(unfit(path, &"was not issued by the certificate that follows it"));
        }
        let mut chain = chain.into_iter();
        let certificate = chain.next().ok_or_else(|| unfit(path, &"is missing: there is no certificate"))?;
        let length = certificate.basic_constraints().and_then(|constraints| constraints.path_length);
        if length.is_some_and(|length| length < 1) {
            return Err(unfit(path, &"may have no authority below it: its path length is 0"));
        }
        let key_id = certificate.subject_key_id().unwrap_or_default();
        if !(1..=MAX_KEY_ID).contains(&key_id.len()) {
            return Err(unfit(path, &"has a key identifier that is too long"));
        }
        Ok(Offer { id: hex(key_id), certificate, above: chain.collect() })
    }

    fn check(&self, certificate: &Certificate, now: UnixTime) -> Result<(), String> {
        let id = profile::check_ca(certificate)
            .map_err(|error| format!("would not be believed on the path of an SVID: {error}"))?;
        if id.is_some_and(|id| *id.trust_domain() != self.trust_domain) {
            return Err("is that of another trust domain".to_owned());
        }
        // Common verifiers fail closed on those on URIs, whatever they allow (rustls-webpki, RUSTSEC-2026-0098).
        if certificate.name_constraints_are_critical().is_some() {
            return Err("has name constraints, on which verifiers of SPIFFE IDs disagree".to_owned());
        }
        if certificate.is_valid_at(now) { Ok(()) } else { Err("has expired, or is not valid yet".to_owned()) }
    }
}

impl UpstreamError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "ca.upstream-file",
            Self::Mismatch(_) => "ca.upstream-mismatch",
            Self::Open(_) => "ca.upstream-key-open",
            Self::Unchanged { .. } => "ca.upstream-unchanged",
            Self::Unfit { .. } => "ca.upstream-unfit",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "name files in `[upstream]` that the authority's user can read",
            Self::Mismatch(_) => "give the key that the certificate was made for",
            Self::Open(_) => "`chmod 0600` it, and let it belong to root or to the authority's user",
            Self::Unchanged { .. } => {
                "put the certificate and the key of another CA there: one is known by its key, and each is used once"
            }
            Self::Unfit { .. } => {
                "give PEM: the CA's certificate first, then those above it; and its key alone, as PKCS#8 (`openssl pkcs8 -topk8 -nodes`)"
            }
        }
    }
}

fn unfit(path: &Path, what: &dyn Display) -> UpstreamError {
    UpstreamError::Unfit { path: path.to_owned(), what: what.to_string() }
}

/// Reads a whole file. A key's must be its owner's alone; what is checked is the file that is open.
fn read(path: &Path, secret: bool) -> Result<Zeroizing<Vec<u8>>, UpstreamError> {
    let io = |cause| UpstreamError::Io { path: path.to_owned(), cause };
    let file = File::open(path).map_err(io)?;
    let status = file.metadata().map_err(io)?;
    if secret {
        let own = status.uid() == 0 || status.uid() == rustix::process::geteuid().as_raw();
        if !own || status.mode() & 0o077 != 0 {
            return Err(UpstreamError::Open(path.to_owned()));
        }
    }
    // As large as it can get, so that it never moves and leaves a copy behind.
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(io)?;
    if content.len() as u64 > MAX_FILE {
        return Err(io(io::Error::other("it is larger than 64 KiB")));
    }
    Ok(content)
}

/// A label, and what it labels.
type Block = (String, Zeroizing<Vec<u8>>);

/// The blocks of a PEM text (RFC 7468).
fn blocks(path: &Path, text: &[u8]) -> Result<Vec<Block>, UpstreamError> {
    let broken = || unfit(path, &"is not PEM");
    let text = std::str::from_utf8(text).map_err(|_| broken())?;
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, from_label)) = rest.split_once("-----BEGIN ") {
        let (label, _) = from_label.split_once("-----").ok_or_else(broken)?;
        let end = format!("-----END {label}-----");
        let (body, after) = from_label.split_once(end.as_str()).ok_or_else(broken)?;
        let whole = Zeroizing::new(format!("-----BEGIN {body}{end}\n"));
        let (label, der) = der::pem::decode_vec(whole.as_bytes()).map_err(|_| broken())?;
        blocks.push((label.to_owned(), Zeroizing::new(der)));
        rest = after;
    }
    Ok(blocks)
}
