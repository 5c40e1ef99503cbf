//! What is no longer trusted although it has not expired: the revocations of one trust domain.
//!
//! SPIFFE has no revocation of its own (X509-SVID section 1): the lifetime of an SVID is the bound. A Bonafide authority
//! pushes this set to its agents, and they to the workloads that ask; whoever verifies with it refuses the rest of the
//! lifetime too. A [`BundleMap`](crate::BundleMap) carries it to [`x509::verify`](crate::x509::verify) and
//! [`jwt::verify`](crate::jwt::verify), so that nobody can verify and forget it.
//!
//! **Time.** A revocation may concern only what was issued before a moment. It is compared with the start of a
//! certificate's validity, or with `iat` of a token, in the authority's clock alone. Authorities backdate what they
//! issue; so that the bound needs no tolerance, the authority starts what it issues under a revoked ID at the bound or
//! later.
//!
//! The set never looks at the clock: a revocation whose time is over concerns only what has expired, and does no harm
//! until whoever keeps the set removes it. Two sets with the same revocations have the same digest, however they came
//! to be.

mod error;
mod subject;

use std::collections::BTreeMap;

use bonafide_crypto::digest::SetDigest;

pub use self::error::RevocationError;
pub use self::subject::{MAX_SITE_LENGTH, Subject, SubjectKind};
use crate::attributes::Attributes;
use crate::certificate::Certificate;
use crate::id::{SpiffeId, TrustDomain};
use crate::instance::InstanceId;
use crate::time::UnixTime;

/// Most revocations of one trust domain at a time.
pub const MAX_REVOCATIONS: usize = 10_000;

/// The key of the evidence attribute that names the agent by the path of its SPIFFE ID.
pub const AGENT_KEY: &str = "agent";

/// One revocation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Revocation {
    /// What is revoked.
    pub subject: Subject,
    /// Only what was issued before this moment; `None`: whenever it was issued.
    pub issued_before: Option<UnixTime>,
    /// When the last thing that it can concern has expired, and it may be forgotten.
    pub expires_at: UnixTime,
}

/// The revocations of one trust domain. They say nothing about SVIDs of another one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Revocations {
    trust_domain: TrustDomain,
    records: BTreeMap<Subject, Terms>,
    digest: SetDigest,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Terms {
    issued_before: Option<UnixTime>,
    expires_at: UnixTime,
}

impl Revocations {
    /// The empty set: nothing is revoked.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, records: BTreeMap::new(), digest: SetDigest::default() }
    }

    /// Whose SVIDs they concern.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Puts a revocation in the place of the one of its subject. Says whether that changed anything.
    ///
    /// # Errors
    /// If the subject belongs to another trust domain or is too long, or if there are [`MAX_REVOCATIONS`] others.
    pub fn insert(&mut self, revocation: Revocation) -> Result<bool, RevocationError> {
        let Revocation { subject, issued_before, expires_at } = revocation;
        subject.check(&self.trust_domain)?;
        let terms = Terms { issued_before, expires_at };
        match self.records.get(&subject) {
            Some(before) if *before == terms => return Ok(false),
            Some(before) => self.digest.remove(&item(&subject, *before)),
            None if self.records.len() >= MAX_REVOCATIONS => return Err(RevocationError::TooMany),
            None => {}
        }
        self.digest.insert(&item(&subject, terms));
        self.records.insert(subject, terms);
        Ok(true)
    }

    /// Takes a revocation back. Says whether it was there.
    pub fn remove(&mut self, subject: &Subject) -> bool {
        let Some(terms) = self.records.remove(subject) else { return false };
        self.digest.remove(&item(subject, terms));
        true
    }

    /// The revocation of exactly this subject.
    #[must_use]
    pub fn get(&self, subject: &Subject) -> Option<Revocation> {
        self.records.get_key_value(subject).map(revocation)
    }

    /// Every revocation, ordered by subject.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Revocation> {
        self.records.iter().map(revocation)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// What two copies compare. The empty set has a digest too.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest.bytes()
    }

    /// Which revocation concerns a certificate of a workload or agent, if one does. For a certificate that is verified,
    /// or one's own; for the authorities above it see [`is_distrusted`](Self::is_distrusted).
    #[must_use]
    pub fn of_certificate(&self, leaf: &Certificate) -> Option<Subject> {
        let id = leaf.spiffe_id().filter(|id| *id.trust_domain() == self.trust_domain)?;
        self.find(id, leaf.attributes(), leaf.not_before())
    }

    /// Which revocation concerns a token with these verified claims. A token that does not say when it was issued is as
    /// old as can be. Tokens name neither site nor agent.
    #[must_use]
    pub fn of_token(
        &self,
        id: &SpiffeId,
        instance: Option<InstanceId>,
        issued_at: Option<UnixTime>,
    ) -> Option<Subject> {
        if *id.trust_domain() != self.trust_domain || self.is_empty() {
            return None;
        }
        let issued_at = issued_at.unwrap_or(UnixTime::EPOCH);
        let instance = instance.map(Subject::Instance);
        instance
            .into_iter()
            .chain([Subject::Id(id.clone())])
            .find(|subject| self.concerns(subject, issued_at))
    }

    /// Whether an authority's key must no longer vouch for anybody, whenever it signed: by the subject key identifier of
    /// an X.509 authority, or the key ID of a JWT key.
    #[must_use]
    pub fn is_distrusted(&self, key_id: &[u8]) -> bool {
        !self.is_empty() && self.records.contains_key(&Subject::AuthorityKey(key_id.into()))
    }

    fn find(&self, id: &SpiffeId, attributes: Option<&Attributes>, issued_at: UnixTime) -> Option<Subject> {
        if self.is_empty() {
            return None;
        }
        let instance = attributes.and_then(|attributes| attributes.instance).map(Subject::Instance);
        let site = attributes.and_then(Attributes::site).map(|site| Subject::Site(site.into()));
        let agents = attributes.into_iter().flat_map(Attributes::evidence).filter_map(|(key, path)| {
            let path = str::from_utf8(path).ok().filter(|_| key == AGENT_KEY)?;
            SpiffeId::new(&self.trust_domain, path).ok().map(Subject::Agent)
        });
        // An agent's own certificate names it by its ID, and its site by its ID too.
        let own_site = crate::reserved::agent_site(id)
            .map(|site| [Subject::Agent(id.clone()), Subject::Site(site.into())]);
        let mut subjects = instance
            .into_iter()
            .chain([Subject::Id(id.clone())])
            .chain(site)
            .chain(agents)
            .chain(own_site.into_iter().flatten());
        subjects.find(|subject| self.concerns(subject, issued_at))
    }

    fn concerns(&self, subject: &Subject, issued_at: UnixTime) -> bool {
        self.records
            .get(subject)
            .is_some_and(|terms| terms.issued_before.is_none_or(|bound| issued_at < bound))
    }
}

fn revocation((subject, terms): (&Subject, &Terms)) -> Revocation {
    Revocation { subject: subject.clone(), issued_before: terms.issued_before, expires_at: terms.expires_at }
}

/// What the digest holds of a revocation. Everything before the subject has one length, so no two of them are alike.
fn item(subject: &Subject, terms: Terms) -> Vec<u8> {
    let mut item = vec![subject.kind().as_byte(), u8::from(terms.issued_before.is_some())];
    item.extend(terms.issued_before.map_or(0, UnixTime::as_secs).to_be_bytes());
    item.extend(terms.expires_at.as_secs().to_be_bytes());
    item.extend(subject.as_bytes());
    item
}

#[cfg(test)]
mod tests;
