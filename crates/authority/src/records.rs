//! What the store holds, in typed form. Records are protobuf of the authority's own, in an envelope that tells an
//! older server whether it may go on without understanding them.

use std::sync::Arc;

use bonafide_attest::{SelectorSet, registration::Registration};
use bonafide_identity::{
    InstanceId, Revocation, SpiffeId, TrustDomain,
    revocation::{Subject, SubjectKind},
    time::UnixTime,
};
use prost::Message;

use crate::{
    convert::record as convert,
    generated::record::{self as proto, record::Kind},
    idempotency::hex,
    kms::KeyRecord,
    policy::PolicyRecord,
    site::Site,
};

pub use crate::generated::record::{
    Idempotency, KeyGrant, KeyVersion, Lease, LedgerMark, LedgerWitness, LineageOwner, Server, SigningKey,
    Succession, ledger_mark, lineage_owner, signing_key,
};

/// The version of records that this server writes and reads.
pub const VERSION: u32 = 6;

/// One record, `settings`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of this authority; never changes.
    pub trust_domain: TrustDomain,
    /// When the store was made.
    pub created_at: UnixTime,
}

/// A token that admits one node, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Names it in lists; not secret.
    pub id: String,
    /// The site that the node will belong to.
    pub site: String,
    /// The token itself is never stored.
    pub sha256: [u8; 32],
    /// From then on it admits nobody.
    pub expires_at: UnixTime,
    /// When it was made.
    pub created_at: UnixTime,
}

/// A node that has proved what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// `spiffe://td/bonafide/agent/<site>/<uuid>`.
    pub id: SpiffeId,
    /// The site that it belongs to.
    pub site: String,
    /// How it proved itself: `join_token`, `x509pop`.
    pub attestor: String,
    /// What was proved.
    pub selectors: SelectorSet,
    /// When.
    pub attested_at: UnixTime,
    /// Set when it gets nothing any more.
    pub ban: Option<Ban>,
    /// Of its software, as it said when it attested.
    pub version: String,
    /// How often it had attested before, with the same evidence. SVIDs of earlier attestations don't admit it any more.
    pub attestation: u64,
    /// What holds the attestation up. `None`: it stands by itself.
    pub proof: Option<NodeProof>,
}

/// The certificate that a node attested with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeProof {
    /// The last second at which the path that was verified is valid. No SVID of the agent lives longer.
    pub expires_at: UnixTime,
    /// SHA-256 of the root that the path ends in. The agent is admitted as long as its site trusts it.
    pub root: [u8; 32],
}

/// Why and since when an agent gets nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Since when.
    pub at: UnixTime,
    /// In the words of who banned it.
    pub reason: String,
}

/// What is no longer trusted, and on whose word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationRecord {
    /// As it is pushed.
    pub revocation: Revocation,
    /// The site that the subject belongs to; empty if that is not known, or several share it.
    pub owner: String,
    /// In the words of who revoked it. Peers are not told.
    pub reason: String,
    /// A SPIFFE ID, or `local`.
    pub revoked_by: String,
    /// When.
    pub revoked_at: UnixTime,
}

/// One record that the fold understands.
#[derive(Clone, Debug)]
pub enum Object {
    /// `agent/<id path>`
    Agent(Arc<Agent>),
    /// `idem/<key>`; the key stands here.
    Idempotency(Arc<str>, Arc<Idempotency>),
    /// `token/<id>`
    JoinToken(Arc<JoinToken>),
    /// `kms/<id>`
    Key(Arc<KeyRecord>),
    /// `kms-grant/<id>`
    KeyGrant(Arc<KeyGrant>),
    /// `kms-version/<id>/<number>`
    KeyVersion(Arc<KeyVersion>),
    /// `lease/<name>`; the name stands here.
    Lease(Arc<str>, Arc<Lease>),
    /// `ledger/<server>`; the server stands here.
    LedgerMark(Arc<str>, Arc<LedgerMark>),
    /// `witness/<server>/<witness>`; both names stand here, with the slash.
    LedgerWitness(Arc<str>, Arc<LedgerWitness>),
    /// `lineage/<instance>`; the instance stands here.
    LineageOwner(InstanceId, Arc<LineageOwner>),
    /// `policy/<name>`
    Policy(Arc<PolicyRecord>),
    /// `registration/<id>`
    Registration(Arc<Registration>),
    /// `server/<name>`; the name stands here.
    Server(Arc<str>, Arc<Server>),
    /// `revocation/<digest of the subject>`
    Revocation(Arc<RevocationRecord>),
    /// `settings`
    Settings(Arc<Settings>),
    /// `key/<id>`
    SigningKey(Arc<SigningKey>),
    /// `site/<name>`
    Site(Arc<Site>),
    /// `incarnation/<hex>`; the incarnation in hexadecimal stands here.
    Succession(Arc<str>, Arc<Succession>),
}

/// What a record asks of its readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// A reader below this version must not interpret it.
    pub min_reader: u32,
    /// A reader that may not interpret it must stop. So such a record is written only when every server of the trust
    /// domain has said that it can read it.
    pub critical: bool,
}

impl Mark {
    /// Whether it may be written where every server reads `level`.
    #[must_use]
    pub const fn is_activated(self, level: u32) -> bool {
        !self.critical || self.min_reader <= level
    }
}

/// Of a [`LineageOwner`]: where some server can't read it, each renews what it has issued, and knows nothing of the others.
pub(crate) const LINEAGE_OWNER: Mark = Mark { min_reader: 3, critical: true };

/// Of a [`PolicyRecord`].
pub(crate) const POLICY: Mark = Mark { min_reader: 4, critical: true };

/// Of a key whose private half is in a device.
pub(crate) const EXTERNAL_KEY: Mark = Mark { min_reader: 6, critical: true };

/// What a mutation does to one record.
#[derive(Clone, Debug)]
pub enum RecordChange {
    /// Puts it, in place of the one of the same key.
    Put(Object),
    /// Removes the record of this key.
    Remove(String),
}

impl Object {
    /// Where the store keeps it.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Agent(agent) => agent_key(&agent.id),
            Self::Idempotency(key, _) => idempotency_key(key),
            Self::JoinToken(token) => token_key(&token.id),
            Self::Key(key) => key_key(key.id()),
            Self::KeyGrant(grant) => key_grant_key(&grant.id),
            Self::KeyVersion(version) => key_version_key(&version.key, version.number),
            Self::Lease(name, _) => lease_key(name),
            Self::LedgerMark(server, _) => format!("{LEDGER}{server}"),
            Self::LedgerWitness(names, _) => format!("{WITNESS}{names}"),
            Self::LineageOwner(instance, _) => format!("{LINEAGE}{instance}"),
            Self::Policy(policy) => policy_key(&policy.name),
            Self::Registration(registration) => registration_key(&registration.id),
            Self::Server(name, _) => format!("{SERVER}{name}"),
            Self::Revocation(record) => revocation_key(&record.revocation.subject),
            Self::Settings(_) => SETTINGS.to_owned(),
            Self::SigningKey(key) => signing_key_key(&key.id),
            Self::Site(site) => site_key(&site.name),
            Self::Succession(incarnation, _) => format!("{INCARNATION}{incarnation}"),
        }
    }

    /// When housekeeping may remove it.
    #[must_use]
    pub fn expires_at(&self) -> Option<UnixTime> {
        match self {
            Self::Idempotency(_, idempotency) => Some(UnixTime::from_secs(idempotency.expires_at)),
            Self::JoinToken(token) => Some(token.expires_at),
            Self::KeyGrant(grant) => Some(UnixTime::from_secs(grant.expires_at)),
            Self::LineageOwner(_, owner) => Some(UnixTime::from_secs(owner.expires_at)),
            Self::Registration(registration) => registration.expires_at,
            // A quarantine lasts until it is lifted.
            Self::Revocation(record) if record.revocation.subject.kind() != SubjectKind::Site => {
                Some(record.revocation.expires_at)
            }
            _ => None,
        }
    }

    /// For the store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Self::Agent(agent) => Kind::Agent(convert::from_agent(agent)),
            Self::Idempotency(_, idempotency) => Kind::Idempotency((**idempotency).clone()),
            Self::JoinToken(token) => Kind::JoinToken(convert::from_token(token)),
            Self::Key(key) => Kind::Key(key.to_record()),
            Self::KeyGrant(grant) => Kind::KeyGrant((**grant).clone()),
            Self::KeyVersion(version) => Kind::KeyVersion((**version).clone()),
            Self::Lease(_, lease) => Kind::Lease((**lease).clone()),
            Self::LedgerMark(_, mark) => Kind::LedgerMark((**mark).clone()),
            Self::LedgerWitness(_, witness) => Kind::LedgerWitness((**witness).clone()),
            Self::LineageOwner(_, owner) => Kind::LineageOwner((**owner).clone()),
            Self::Policy(policy) => Kind::Policy(convert::from_policy(policy)),
            Self::Registration(registration) => Kind::Registration(convert::from_registration(registration)),
            Self::Server(_, server) => Kind::Server((**server).clone()),
            Self::Revocation(record) => Kind::Revocation(convert::from_revocation(record)),
            Self::Settings(settings) => Kind::Settings(proto::Settings {
                trust_domain: settings.trust_domain.to_string(),
                created_at: settings.created_at.as_secs(),
            }),
            Self::SigningKey(key) => Kind::SigningKey((**key).clone()),
            Self::Site(site) => Kind::Site(convert::from_site(site)),
            Self::Succession(_, succession) => Kind::Succession((**succession).clone()),
        };
        let record = proto::Record { kind: Some(kind) };
        let Mark { min_reader, critical } = self.mark();
        proto::Envelope { min_reader, critical, record: Some(record) }.encode_to_vec()
    }

    /// What it asks of its readers.
    #[must_use]
    pub fn mark(&self) -> Mark {
        use signing_key::State;
        match self {
            // Nothing is given to anybody because of them: a server without them loses nothing that it had.
            Self::Server(..) | Self::Succession(..) => Mark { min_reader: 2, critical: false },
            // An older server would rotate it by a secret that is in no device.
            Self::Key(key) if key.key.birth.external => EXTERNAL_KEY,
            // A server that knows of no keys lets nobody use them.
            Self::Key(_) | Self::KeyGrant(_) | Self::KeyVersion(_) => Mark { min_reader: 5, critical: false },
            // A server that can't read it is no witness.
            Self::LedgerWitness(..) => Mark { min_reader: 4, critical: false },
            // An older server would go on publishing what was revoked.
            Self::SigningKey(key) if matches!(key.state(), State::Tainted | State::Revoked) => {
                Mark { min_reader: 2, critical: true }
            }
            // An older server would leave its agents without what guards their workloads.
            Self::Policy(_) => POLICY,
            // An older server would renew what has moved elsewhere.
            Self::LineageOwner(..) => LINEAGE_OWNER,
            // All others decide who gets what: a server that can't read one must not go on.
            _ => Mark { min_reader: 1, critical: true },
        }
    }

    /// From the store. `None`: a record of a newer kind that this server may ignore.
    ///
    /// # Errors
    /// [`RecordError::Newer`] for one that it may not ignore, [`RecordError::Damaged`] for anything else.
    pub fn decode(key: &str, value: &[u8], revision: u64) -> Result<Option<Self>, RecordError> {
        let damaged = || RecordError::Damaged { key: key.to_owned() };
        let envelope = proto::Envelope::decode(value).map_err(|_| damaged())?;
        let kind = envelope.record.and_then(|record| record.kind);
        let kind = match kind {
            Some(kind) if envelope.min_reader <= VERSION => kind,
            _ if envelope.critical => return Err(RecordError::Newer { key: key.to_owned() }),
            _ => return Ok(None),
        };
        let object = match kind {
            Kind::Agent(agent) => convert::to_agent(&agent).map(|agent| Self::Agent(Arc::new(agent))),
            Kind::Idempotency(idempotency) => {
                key.strip_prefix(IDEMPOTENCY).map(|key| Self::Idempotency(key.into(), Arc::new(idempotency)))
            }
            Kind::JoinToken(token) => convert::to_token(token).map(|token| Self::JoinToken(Arc::new(token))),
            Kind::Key(key) => KeyRecord::of_record(key, revision).map(|key| Self::Key(Arc::new(key))),
            Kind::KeyGrant(grant) => (grant.key.len() == 16).then(|| Self::KeyGrant(Arc::new(grant))),
            Kind::KeyVersion(version) => {
                let named = version.key.len() == 16 && version.number > 0;
                named.then(|| Self::KeyVersion(Arc::new(version)))
            }
            Kind::Lease(lease) => {
                key.strip_prefix(LEASE).map(|name| Self::Lease(name.into(), Arc::new(lease)))
            }
            Kind::LedgerMark(mark) => {
                key.strip_prefix(LEDGER).map(|server| Self::LedgerMark(server.into(), Arc::new(mark)))
            }
            Kind::LedgerWitness(witness) => {
                key.strip_prefix(WITNESS).map(|names| Self::LedgerWitness(names.into(), Arc::new(witness)))
            }
            Kind::LineageOwner(owner) => key
                .strip_prefix(LINEAGE)
                .and_then(|instance| instance.parse().ok())
                .map(|instance| Self::LineageOwner(instance, Arc::new(owner))),
            Kind::Policy(policy) => {
                convert::to_policy(policy, revision).map(|policy| Self::Policy(Arc::new(policy)))
            }
            Kind::Registration(registration) => convert::to_registration(&registration, revision)
                .map(|registration| Self::Registration(Arc::new(registration))),
            Kind::Server(server) => {
                key.strip_prefix(SERVER).map(|name| Self::Server(name.into(), Arc::new(server)))
            }
            Kind::Succession(succession) => key
                .strip_prefix(INCARNATION)
                .map(|incarnation| Self::Succession(incarnation.into(), Arc::new(succession))),
            Kind::Revocation(record) => {
                convert::to_revocation(&record).map(|record| Self::Revocation(Arc::new(record)))
            }
            Kind::Settings(settings) => settings.trust_domain.parse().ok().map(|trust_domain| {
                let created_at = UnixTime::from_secs(settings.created_at);
                Self::Settings(Arc::new(Settings { trust_domain, created_at }))
            }),
            Kind::SigningKey(key) => Some(Self::SigningKey(Arc::new(key))),
            Kind::Site(site) => convert::to_site(&site, revision).map(|site| Self::Site(Arc::new(site))),
        };
        match object {
            // A record under another's key would be read as two things.
            Some(object) if object.key() == key => Ok(Some(object)),
            _ => Err(damaged()),
        }
    }
}

/// Why a record can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not what this authority writes.
    #[error("the record `{key}` is damaged")]
    Damaged {
        /// Of the record.
        key: String,
    },
    /// A newer server marked it as critical.
    #[error("the record `{key}` was written by a newer server, and must not be ignored")]
    Newer {
        /// Of the record.
        key: String,
    },
}

impl RecordError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => "record.damaged",
            Self::Newer { .. } => "record.newer",
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => "restore the store from a backup",
            Self::Newer { .. } => "upgrade this server: another one of this trust domain is newer",
        }
    }
}

/// Key of the settings.
pub const SETTINGS: &str = "settings";
const IDEMPOTENCY: &str = "idem/";
const LEASE: &str = "lease/";
const LEDGER: &str = "ledger/";
const LINEAGE: &str = "lineage/";
const SERVER: &str = "server/";
const INCARNATION: &str = "incarnation/";
const REVOCATION: &str = "revocation/";
const WITNESS: &str = "witness/";

/// Key of an agent's record.
#[must_use]
pub fn agent_key(id: &SpiffeId) -> String {
    format!("agent{}", id.path())
}

/// Key of an idempotency record.
#[must_use]
pub fn idempotency_key(key: &str) -> String {
    format!("{IDEMPOTENCY}{key}")
}

/// Key of the record of a key of applications.
#[must_use]
pub fn key_key(id: &[u8]) -> String {
    format!("kms/{}", hex(id))
}

/// Key of the record of a version. What is wrapped in it is bound to `kms/<id>/<number>`: see [`key_material_context`].
#[must_use]
pub fn key_version_key(id: &[u8], number: u32) -> String {
    format!("kms-version/{}/{number}", hex(id))
}

/// What the secret of a version is wrapped for: it opens under no other name.
#[must_use]
pub fn key_material_context(id: &[u8], number: u32) -> String {
    format!("kms/{}/{number}", hex(id))
}

/// Key of a grant.
#[must_use]
pub fn key_grant_key(id: &str) -> String {
    format!("kms-grant/{id}")
}

/// Key of a lease.
#[must_use]
pub fn lease_key(name: &str) -> String {
    format!("{LEASE}{name}")
}

/// Key of a policy.
#[must_use]
pub fn policy_key(name: &str) -> String {
    format!("policy/{name}")
}

/// Key of a registration.
#[must_use]
pub fn registration_key(id: &str) -> String {
    format!("registration/{id}")
}

/// Key of a revocation. A digest, because a SPIFFE ID may be longer than a key of the store.
#[must_use]
pub fn revocation_key(subject: &Subject) -> String {
    let kind = match subject.kind() {
        SubjectKind::Agent => "agent",
        SubjectKind::AuthorityKey => "authority-key",
        SubjectKind::Id => "id",
        SubjectKind::Instance => "instance",
        SubjectKind::Site => "site",
    };
    let digest = bonafide_crypto::digest::sha256(subject.as_bytes());
    format!("{REVOCATION}{kind}/{}", hex(&digest))
}

/// Key of a signing key's record.
#[must_use]
pub fn signing_key_key(id: &str) -> String {
    format!("key/{id}")
}

/// Key of a site.
#[must_use]
pub fn site_key(name: &str) -> String {
    format!("site/{name}")
}

/// Key of a join token.
#[must_use]
pub fn token_key(id: &str) -> String {
    format!("token/{id}")
}
