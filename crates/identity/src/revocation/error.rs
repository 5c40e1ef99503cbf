use crate::id::TrustDomain;

/// Why something cannot be revoked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RevocationError {
    /// There are 10,000 already.
    #[error("there are 10000 revocations already")]
    TooMany,
    /// An ID or agent of another trust domain.
    #[error("the subject belongs to the trust domain `{0}`, whose own authority revokes it")]
    Foreign(TrustDomain),
    /// A site or key ID that is empty or too long, or an ID that stands for no workload or no agent.
    #[error("there is no such {0} to revoke")]
    Subject(&'static str),
}

impl RevocationError {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooMany => "revocation.too-many",
            Self::Foreign(_) => "revocation.foreign",
            Self::Subject(_) => "revocation.subject",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::TooMany => "revoke what they have in common: the ID, the agent or the site",
            Self::Foreign(_) => "ask whoever runs that trust domain, or remove its bundle",
            Self::Subject(_) => {
                "name an instance, an ID with a path, the ID of an agent, a site, or a key ID of up to 256 bytes"
            }
        }
    }
}
