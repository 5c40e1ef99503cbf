//! An issued SVID with its key, in the form in which it is served and stored.

use std::sync::Arc;

use bonafide_crypto::key::{PrivateKey, PublicKey};
use bonafide_identity::{Certificate, InstanceId, SpiffeId, TrustDomain, time::UnixTime};
use bytes::Bytes;

/// Longest chain that is looked at.
const MAX_CHAIN: usize = 8;
/// Longest certificate that is looked at.
const MAX_CERTIFICATE: usize = 16 * 1024;

/// A chain that fits its key.
#[derive(Clone, Debug)]
pub struct Credential {
    chain: Vec<Bytes>,
    key: Arc<PrivateKey>,
    facts: LeafFacts,
}

/// What is read of a leaf.
#[derive(Clone, Debug)]
pub struct LeafFacts {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// Launch that it names.
    pub instance: Option<InstanceId>,
    /// The key that it certifies.
    pub public_key: PublicKey,
    /// Start of its validity: what revocations are compared with.
    pub not_before: UnixTime,
    /// End of its validity.
    pub not_after: UnixTime,
}

/// The authority sent a chain that can't be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CredentialError {
    /// Not certificates, or too many or too long ones.
    #[error("the authority sent a chain that is malformed")]
    Malformed,
    /// Certifies another key, or names another identity or instance, than was asked for.
    #[error("the authority sent an SVID of another `{what}` than was asked for")]
    Other {
        /// What differs.
        what: &'static str,
    },
    /// Was revoked while it was under way.
    #[error("the authority sent an SVID that it has revoked")]
    Revoked,
    /// Has expired already.
    #[error("the authority sent an SVID that has expired by this node's clock")]
    Expired,
}

impl CredentialError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed | Self::Other { .. } => "agent.issued-unfit",
            Self::Revoked => "agent.issued-revoked",
            Self::Expired => "agent.clock",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Malformed | Self::Other { .. } => {
                "look at the authority's log; its version may not fit the agent's"
            }
            Self::Revoked => "it is asked for again by itself",
            Self::Expired => "compare the clocks of this node and of the authority",
        }
    }
}

/// How a leaf is read. A parameter, so that the state machines can be tested without certificates.
pub trait ReadLeaf: std::fmt::Debug + Send + Sync {
    /// Parses a leaf.
    ///
    /// # Errors
    ///
    /// [`CredentialError::Malformed`].
    fn read(&self, der: &[u8]) -> Result<LeafFacts, CredentialError>;

    /// The subject key identifiers of all authorities above a leaf, the root's included, as the chain names them.
    fn issuers(&self, chain: &[Bytes]) -> Vec<Vec<u8>>;
}

/// Reads certificates with `identity`.
#[derive(Clone, Copy, Debug)]
pub struct StrictLeaf;

impl ReadLeaf for StrictLeaf {
    fn read(&self, der: &[u8]) -> Result<LeafFacts, CredentialError> {
        let leaf = Certificate::from_der(der).map_err(|_| CredentialError::Malformed)?;
        Ok(LeafFacts {
            spiffe_id: leaf.spiffe_id().cloned().ok_or(CredentialError::Malformed)?,
            instance: leaf.attributes().and_then(|attributes| attributes.instance),
            public_key: leaf.public_key().clone(),
            not_before: leaf.not_before(),
            not_after: leaf.not_after(),
        })
    }

    fn issuers(&self, chain: &[Bytes]) -> Vec<Vec<u8>> {
        let parsed = chain.iter().filter_map(|der| Certificate::from_der(der).ok());
        parsed.filter_map(|certificate| certificate.authority_key_id().map(<[u8]>::to_vec)).collect()
    }
}

impl Credential {
    /// Checks that the chain's leaf certifies this very key.
    ///
    /// Does not verify the chain against a bundle: it came from the authority over mutual TLS.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the chain.
    pub fn new(
        chain: Vec<Bytes>,
        key: Arc<PrivateKey>,
        reader: &dyn ReadLeaf,
    ) -> Result<Self, CredentialError> {
        if chain.len() > MAX_CHAIN || chain.iter().any(|der| der.len() > MAX_CERTIFICATE) {
            return Err(CredentialError::Malformed);
        }
        let leaf = chain.first().ok_or(CredentialError::Malformed)?;
        let facts = reader.read(leaf)?;
        if facts.public_key != *key.public_key() {
            return Err(CredentialError::Other { what: "key" });
        }
        Ok(Self { chain, key, facts })
    }

    /// DER, leaf first.
    pub fn chain(&self) -> &[Bytes] {
        &self.chain
    }

    /// DER without anything in between, leaf first (SPIFFE Workload API §5.2).
    pub fn chain_der(&self) -> Bytes {
        self.chain.concat().into()
    }

    /// The leaf's key.
    pub fn key(&self) -> &Arc<PrivateKey> {
        &self.key
    }

    /// Whose it is.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.facts.spiffe_id
    }

    /// Trust domain of its owner.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.facts.spiffe_id.trust_domain()
    }

    /// The launch that the leaf names.
    pub fn instance(&self) -> Option<InstanceId> {
        self.facts.instance
    }

    /// Start of the leaf's validity.
    pub fn not_before(&self) -> UnixTime {
        self.facts.not_before
    }

    /// End of the leaf's validity.
    pub fn not_after(&self) -> UnixTime {
        self.facts.not_after
    }
}
