use std::fmt;
use std::sync::Arc;

use bonafide_crypto::key::PrivateKey;

use super::path::MAX_CHAIN_LENGTH;
use super::profile::{self, ProfileError};
use crate::attributes::Attributes;
use crate::certificate::Certificate;
use crate::id::SpiffeId;
use crate::time::UnixTime;

/// Longest hint in bytes (Workload API section 5.2.1).
const MAX_HINT_LENGTH: usize = 1024;

/// An X509-SVID of one's own: a chain of certificates and the private key of its leaf. Cheap to clone.
#[derive(Clone)]
pub struct X509Svid {
    id: SpiffeId,
    chain: Arc<[Certificate]>,
    leaf: Certificate,
    key: Arc<PrivateKey>,
    hint: Option<Arc<str>>,
}

/// Why a chain and a key are not an X509-SVID.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum X509SvidError {
    /// No certificate, or more than 8.
    #[error("the chain does not have 1 to 8 certificates")]
    ChainLength,
    /// The leaf does not keep the profile.
    #[error("the leaf is not an X509-SVID: {0}")]
    Leaf(#[from] ProfileError),
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the leaf")]
    Key,
    /// A hint of more than 1024 bytes.
    #[error("the hint is longer than 1024 bytes")]
    Hint,
}

impl X509SvidError {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ChainLength => "x509-svid.chain-length",
            Self::Leaf(error) => error.code(),
            Self::Key => "x509-svid.key",
            Self::Hint => "x509-svid.hint",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::ChainLength => "give the leaf first, then its intermediates, without the root",
            Self::Leaf(error) => error.hint(),
            Self::Key => "give the private key that was made together with the certificate",
            Self::Hint => "shorten the hint of the registration",
        }
    }
}

impl X509Svid {
    /// An X509-SVID from a chain, leaf first, and the leaf's private key.
    ///
    /// It checks that the leaf keeps the profile and that the key is the leaf's. It does not verify the
    /// chain: one's own SVID comes from one's own authority.
    ///
    /// # Errors
    /// [`X509SvidError`] names what does not fit.
    pub fn new(
        chain: Vec<Certificate>,
        key: impl Into<Arc<PrivateKey>>,
        hint: Option<String>,
    ) -> Result<Self, X509SvidError> {
        let key = key.into();
        if chain.len() > MAX_CHAIN_LENGTH {
            return Err(X509SvidError::ChainLength);
        }
        let leaf = chain.first().ok_or(X509SvidError::ChainLength)?.clone();
        let id = profile::check_leaf(&leaf)?.clone();
        if key.public_key() != leaf.public_key() {
            return Err(X509SvidError::Key);
        }
        if hint.as_ref().is_some_and(|hint| hint.len() > MAX_HINT_LENGTH) {
            return Err(X509SvidError::Hint);
        }
        let hint = hint.filter(|hint| !hint.is_empty()).map(Arc::from);
        Ok(Self { id, chain: chain.into(), leaf, key, hint })
    }

    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The certificates, leaf first, without the root.
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// The leaf.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// The leaf's private key.
    pub fn key(&self) -> &Arc<PrivateKey> {
        &self.key
    }

    /// What the operator said this SVID is for, to tell several apart.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// What the authority attested about this launch of the workload.
    pub fn attributes(&self) -> Option<&Attributes> {
        self.leaf.attributes()
    }

    /// The last second at which the whole chain is valid.
    pub fn not_after(&self) -> UnixTime {
        self.chain.iter().map(Certificate::not_after).min().unwrap_or(self.leaf.not_after())
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("id", &self.id)
            .field("chain", &self.chain)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}
