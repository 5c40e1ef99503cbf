use std::fmt;

use super::RevocationError;
use crate::bundle::MAX_KEY_ID_LENGTH;
use crate::id::{SpiffeId, TrustDomain};
use crate::instance::InstanceId;
use crate::reserved;

/// Longest name of a site, in bytes: that of an attribute's value.
pub const MAX_SITE_LENGTH: usize = crate::attributes::MAX_VALUE_LENGTH;

/// What a revocation is about.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Subject {
    /// An agent, and every SVID that was issued through it.
    Agent(SpiffeId),
    /// A key of an authority, and every SVID above which it stands: the subject key identifier of an X.509 authority,
    /// or the key ID of a JWT key.
    AuthorityKey(Box<[u8]>),
    /// Every SVID of a SPIFFE ID.
    Id(SpiffeId),
    /// One launch of a workload.
    Instance(InstanceId),
    /// Every SVID that a site's evidence led to, those of its agents included.
    Site(Box<str>),
}

/// The kinds of subjects.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum SubjectKind {
    /// [`Subject::Agent`].
    Agent,
    /// [`Subject::AuthorityKey`].
    AuthorityKey,
    /// [`Subject::Id`].
    Id,
    /// [`Subject::Instance`].
    Instance,
    /// [`Subject::Site`].
    Site,
}

impl Subject {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> SubjectKind {
        match self {
            Self::Agent(_) => SubjectKind::Agent,
            Self::AuthorityKey(_) => SubjectKind::AuthorityKey,
            Self::Id(_) => SubjectKind::Id,
            Self::Instance(_) => SubjectKind::Instance,
            Self::Site(_) => SubjectKind::Site,
        }
    }

    /// What names it within its kind.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Agent(id) | Self::Id(id) => id.as_str().as_bytes(),
            Self::AuthorityKey(key_id) => key_id,
            Self::Instance(instance) => instance.as_bytes(),
            Self::Site(site) => site.as_bytes(),
        }
    }

    pub(super) fn check(&self, trust_domain: &TrustDomain) -> Result<(), RevocationError> {
        let fits = match self {
            Self::Agent(id) | Self::Id(id) if id.trust_domain() != trust_domain => {
                return Err(RevocationError::Foreign(id.trust_domain().clone()));
            }
            Self::Agent(id) => reserved::agent_site(id).is_some(),
            Self::Id(id) => !id.is_trust_domain(),
            Self::AuthorityKey(key_id) => (1..=MAX_KEY_ID_LENGTH).contains(&key_id.len()),
            Self::Instance(_) => true,
            Self::Site(site) => (1..=MAX_SITE_LENGTH).contains(&site.len()),
        };
        if fits { Ok(()) } else { Err(RevocationError::Subject(self.kind().as_str())) }
    }
}

impl SubjectKind {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::AuthorityKey => "authority key",
            Self::Id => "SPIFFE ID",
            Self::Instance => "instance",
            Self::Site => "site",
        }
    }

    /// In digests. Never changed, only added to.
    pub(super) fn as_byte(self) -> u8 {
        match self {
            Self::Instance => 1,
            Self::Id => 2,
            Self::Agent => 3,
            Self::Site => 4,
            Self::AuthorityKey => 5,
        }
    }
}

impl fmt::Display for Subject {
    /// As errors and logs name it: ``instance `0190a1b2-…` ``.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `", self.kind().as_str())?;
        match self {
            Self::Agent(id) | Self::Id(id) => write!(f, "{id}")?,
            Self::AuthorityKey(key_id) => key_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?,
            Self::Instance(instance) => write!(f, "{instance}")?,
            Self::Site(site) => f.write_str(site)?,
        }
        f.write_str("`")
    }
}
