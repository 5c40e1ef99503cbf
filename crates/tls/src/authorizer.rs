use std::{collections::BTreeSet, fmt, sync::Arc};

use bonafide_identity::{SpiffeId, SpiffeIdPattern, TrustDomain, x509::VerifiedX509Svid};

/// Which verified peers are welcome.
#[derive(Clone)]
pub struct Authorizer(Rule);

#[derive(Clone)]
enum Rule {
    Custom(Arc<dyn Fn(&VerifiedX509Svid) -> bool + Send + Sync>),
    Ids(Arc<BTreeSet<SpiffeId>>),
    Member(TrustDomain),
    Pattern(Arc<SpiffeIdPattern>),
}

/// A peer that proved who it is, but is not welcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{id}` is not {expected}")]
pub struct NotAuthorized {
    /// Who it is.
    pub id: SpiffeId,
    /// Who would be welcome, in words.
    pub expected: String,
}

impl Authorizer {
    /// Everybody of a trust domain.
    pub fn member_of(trust_domain: TrustDomain) -> Self {
        Self(Rule::Member(trust_domain))
    }

    /// Exactly one ID.
    pub fn id(id: SpiffeId) -> Self {
        Self::ids([id])
    }

    /// Any of these IDs. Of none: nobody.
    pub fn ids(ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        Self(Rule::Ids(Arc::new(ids.into_iter().collect())))
    }

    /// IDs that match, as `spiffe://td/ns/*/sa/web`.
    pub fn pattern(pattern: SpiffeIdPattern) -> Self {
        Self(Rule::Pattern(Arc::new(pattern)))
    }

    /// Whom `welcome` lets in. It is called within the handshake, so it must not block.
    pub fn custom(welcome: impl Fn(&VerifiedX509Svid) -> bool + Send + Sync + 'static) -> Self {
        Self(Rule::Custom(Arc::new(welcome)))
    }

    /// Decides about one peer.
    ///
    /// # Errors
    /// [`NotAuthorized`] says who came and who was expected.
    pub fn check(&self, peer: &VerifiedX509Svid) -> Result<(), NotAuthorized> {
        let welcome = match &self.0 {
            Rule::Custom(welcome) => welcome(peer),
            Rule::Ids(ids) => ids.contains(peer.id()),
            Rule::Member(trust_domain) => peer.id().trust_domain() == trust_domain,
            Rule::Pattern(pattern) => pattern.matches(peer.id()),
        };
        if welcome {
            return Ok(());
        }
        Err(NotAuthorized { id: peer.id().clone(), expected: self.to_string() })
    }
}

impl fmt::Display for Authorizer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Custom(_) => out.write_str("welcome by the program's own rule"),
            Rule::Ids(ids) => match ids.first() {
                Some(id) if ids.len() == 1 => write!(out, "`{id}`"),
                _ => write!(out, "one of {} allowed IDs", ids.len()),
            },
            Rule::Member(trust_domain) => write!(out, "of trust domain `{trust_domain}`"),
            Rule::Pattern(pattern) => write!(out, "matched by `{pattern}`"),
        }
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Authorizer({self})")
    }
}
