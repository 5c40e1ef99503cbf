//! From a request to something that may be signed, or a refusal. Decides; neither logs nor signs.

use std::sync::Arc;
use std::time::Duration;

use bonafide_ca::lint::{LintedTbs, lint};
use bonafide_ca::template::{self, NodeLeaf, Tbs, WorkloadLeaf};
use bonafide_ca::{SerialNumber, Validity};
use bonafide_crypto::csr;
use bonafide_crypto::digest::sha256;
use bonafide_crypto::key::{PublicKey, PublicKeyAlgorithm};
use bonafide_crypto::random::Random;
use bonafide_identity::attributes::{Attribute, Attributes, AttributesError};
use bonafide_identity::jwt::JwtClaims;
use bonafide_identity::revocation::Subject;
use bonafide_identity::time::UnixTime;
use bonafide_identity::{InstanceId, SpiffeId};
use bonafide_wire::node::{IssueJwt, IssueX509, RenewAgent};

use super::earnings::{Earning, Earnings};
use super::lineages::{Discord, Lineage, Lineages};
use crate::entry::{self, entry::Kind as EntryKind};
use crate::keys::KeySet;
use crate::refusal::Refusal;
use crate::registration::{admitted_attestation, attestation_mark};
use crate::state::State;

/// Larger keys cost every verifier of the trust domain.
const MAX_RSA_BITS: u16 = 4096;
const MAX_AUDIENCES: usize = 32;
/// Bytes of all audiences of a token.
const MAX_AUDIENCE: usize = 8192;

/// Random bytes that one certificate takes: an instance ID, a serial number and jitter.
pub(crate) const RANDOM_OF_EACH: usize = 34;

/// All that a decision looks at.
pub(crate) struct Context<'a> {
    pub(crate) agent: &'a SpiffeId,
    /// Of this server.
    pub(crate) server: &'a str,
    pub(crate) state: &'a State,
    pub(crate) earnings: &'a Earnings<'a>,
    pub(crate) keys: &'a KeySet,
    pub(crate) lineages: &'a Lineages,
    pub(crate) random: &'a dyn Random,
    pub(crate) backdate: Duration,
    pub(crate) now: UnixTime,
}

/// Ready to be logged and signed.
#[derive(Debug)]
pub(crate) enum Unsigned {
    Certificate {
        linted: Box<LintedTbs>,
        instance: Option<InstanceId>,
        generation: u64,
        renew_after: UnixTime,
        noted: Option<Noted>,
    },
    Jwt(JwtClaims),
}

/// What the lineages remember of a certificate that was not released yet.
#[derive(Debug)]
pub(crate) struct Noted {
    pub(crate) instance: InstanceId,
    pub(crate) next: Lineage,
    pub(crate) before: Option<Lineage>,
}

impl Context<'_> {
    /// The first SVID of an instance.
    pub(crate) fn first(&self, ask: &IssueX509) -> Result<(Unsigned, EntryKind), Refusal> {
        let earning = self.earnings.of(self.agent, &ask.registration, &ask.selectors)?;
        let public_key = proven_key(&ask.csr, earning.earned.grant.id())?;
        let instance = InstanceId::from_bytes(self.random.array());
        self.workload(&earning, public_key, instance, 0, false)?.map_err(|discord| discord.refusal(instance))
    }

    /// A JWT-SVID.
    pub(crate) fn jwt(&self, ask: &IssueJwt) -> Result<(Unsigned, EntryKind), Refusal> {
        let earning = self.earnings.of(self.agent, &ask.registration, &ask.selectors)?;
        let earned = &earning.earned;
        let instance = match &*ask.instance {
            [] => None,
            _ => Some(self.own_instance(ask, &earning)?),
        };
        check_audience(&ask.audience)?;
        let key = self.keys.jwt(self.state)?;
        let lifetime = earned.grant.jwt_ttl();
        let issued_at = self.now.saturating_sub(self.backdate.min(lifetime));
        let id: [u8; 16] = self.random.array();
        let jti = InstanceId::from_bytes(id).to_string();
        let claims = JwtClaims {
            id: earned.grant.id().clone(),
            audience: ask.audience.clone(),
            issued_at: self.floor(earned.grant.id()).map_or(issued_at, |floor| issued_at.max(floor)),
            expires_at: self.now.saturating_add(lifetime),
            instance,
            jti: Some(jti.clone()),
        };
        let entry = entry::JwtSvid {
            jti,
            spiffe_id: claims.id.to_string(),
            audience: claims.audience.clone(),
            registration: earned.registration.id.clone(),
            registration_revision: earned.registration.revision,
            site: earned.site.name.to_string(),
            agent: self.agent.to_string(),
            instance: ask.instance.clone(),
            expires_at: claims.expires_at.as_secs(),
            key_id: key.id().to_owned(),
        };
        Ok((Unsigned::Jwt(claims), EntryKind::JwtSvid(entry)))
    }

    /// The agent's own SVID, again.
    pub(crate) fn agent_renewal(
        &self,
        ask: &RenewAgent,
        lifetime: Duration,
        attestation: u64,
    ) -> Result<(Unsigned, EntryKind), Refusal> {
        let public_key = proven_key(&ask.csr, self.agent)?;
        self.agent(public_key, lifetime, attestation)
    }

    /// The agent's own SVID, for a key whose possession was proved.
    pub(crate) fn agent(
        &self,
        public_key: PublicKey,
        lifetime: Duration,
        attestation: u64,
    ) -> Result<(Unsigned, EntryKind), Refusal> {
        let record = admitted_attestation(self.state, self.agent, attestation)?;
        let site = record.site.clone();
        let left = record.proof.map_or(Duration::MAX, |proof| proof.expires_at.since(self.now));
        if left.is_zero() {
            return Err(Refusal::denied(
                "agent.proof-expired",
                "the certificate that the node has attested with has expired",
            )
            .hint("renew the node's certificate: the agent attests again by itself"));
        }
        let Dates { validity, serial, renew_after } = self.dates(lifetime.min(left), None)?;
        // Where the node's certificate ends first, to renew it brings nothing.
        let renew_after = if left < lifetime { validity.not_after() } else { renew_after };
        let key_id = public_key.key_id();
        let mut attributes = vec![Attribute::site(&site)];
        attributes.extend(attestation_mark(attestation));
        let leaf = NodeLeaf {
            id: self.agent.clone(),
            public_key,
            dns_names: Vec::new(),
            attributes: Attributes { attributes, ..Attributes::default() }.encode().map_err(unwritable)?,
            validity,
            serial,
        };
        let tbs = template::agent(leaf, self.keys.issuer().certificate()).map_err(unfit)?;
        let linted = self.linted(&tbs)?;
        let tbs_sha256 = sha256(linted.der());
        self.lineages.agents.note(tbs_sha256, validity.not_after(), self.now);
        let entry = entry::AgentSvid {
            serial: copy(serial.as_bytes()),
            tbs_sha256: copy(&tbs_sha256),
            spiffe_id: self.agent.to_string(),
            site,
            not_after: validity.not_after().as_secs(),
            key_id: copy(&key_id),
            issuer_key_id: copy(self.keys.issuer_key_id()),
        };
        let unsigned = Unsigned::Certificate {
            linted: Box::new(linted),
            instance: None,
            generation: 0,
            renew_after,
            noted: None,
        };
        Ok((unsigned, EntryKind::AgentSvid(entry)))
    }

    /// A workload's SVID. The inner error: the lineage does not allow it.
    pub(super) fn workload(
        &self,
        Earning { agent, registration, earned, attributes, .. }: &Earning,
        public_key: PublicKey,
        instance: InstanceId,
        generation: u64,
        taken: bool,
    ) -> Result<Result<(Unsigned, EntryKind), Discord>, Refusal> {
        let grant = &earned.grant;
        let Dates { validity, serial, renew_after } = self.dates(grant.x509_ttl(), self.floor(grant.id()))?;
        let key_id = public_key.key_id();
        let leaf = WorkloadLeaf {
            id: grant.id().clone(),
            public_key,
            dns_names: grant.dns_names().to_vec(),
            attributes: attributes.with(Some(instance), generation).map_err(unwritable)?,
            validity,
            serial,
        };
        let tbs = template::workload(leaf, self.keys.issuer().certificate()).map_err(unfit)?;
        let linted = self.linted(&tbs)?;
        let tbs_sha256 = sha256(linted.der());
        let next = Lineage {
            generation,
            serial: *serial.as_bytes(),
            tbs_sha256,
            key_id,
            registration: Arc::clone(registration),
            agent: Arc::clone(agent),
            not_after: validity.not_after(),
            ended: false,
            moved: false,
        };
        // Last, for it can't be refused any more after this.
        let before = match self.lineages.note(instance, next.clone(), taken, self.now) {
            Ok(before) => before,
            Err(discord) => return Ok(Err(discord)),
        };
        let entry = entry::X509Svid {
            serial: copy(serial.as_bytes()),
            tbs_sha256: copy(&tbs_sha256),
            spiffe_id: grant.id().to_string(),
            registration: earned.registration.id.clone(),
            registration_revision: earned.registration.revision,
            site: earned.site.name.to_string(),
            agent: agent.to_string(),
            instance: copy(instance.as_bytes()),
            generation,
            not_after: validity.not_after().as_secs(),
            key_id: copy(&key_id),
            issuer_key_id: copy(self.keys.issuer_key_id()),
        };
        let unsigned = Unsigned::Certificate {
            linted: Box::new(linted),
            instance: Some(instance),
            generation,
            renew_after,
            noted: Some(Noted { instance, next, before }),
        };
        Ok(Ok((unsigned, EntryKind::X509Svid(entry))))
    }

    fn linted(&self, tbs: &Tbs) -> Result<LintedTbs, Refusal> {
        // The keys are those of a moment ago; the state says whether one was stolen since.
        if !self.keys.may_issue(self.state) {
            return Err(Refusal::unavailable(
                "issuance.authority-tainted",
                "the authority is changing its keys",
            )
            .hint("it is tried again by itself"));
        }
        lint(tbs, self.keys.issuer().certificate()).map_err(|error| {
            tracing::error!(code = error.code(), "the linter refused a certificate that the template made");
            Refusal::new(tonic::Code::Internal, error.code(), error.to_string())
        })
    }

    fn dates(&self, lifetime: Duration, floor: Option<UnixTime>) -> Result<Dates, Refusal> {
        let dates = dates(self.keys, self.random, self.backdate, lifetime, self.now)?;
        let Some(floor) = floor.filter(|floor| dates.validity.not_before() < *floor) else {
            return Ok(dates);
        };
        let validity = Validity::new(floor, dates.validity.not_after()).ok_or_else(|| {
            Refusal::unavailable(
                "issuance.revoked-until",
                "the SPIFFE ID was revoked by a clock that is ahead",
            )
            .hint("compare the clocks of the authority's servers")
        })?;
        Ok(Dates { validity, ..dates })
    }

    /// What is issued under a revoked ID from now on must not look older than the revocation: it is not backdated
    /// beyond it.
    fn floor(&self, id: &SpiffeId) -> Option<UnixTime> {
        let revocations = self.state.revocations();
        if revocations.is_empty() {
            return None;
        }
        revocations.get(&Subject::Id(id.clone())).and_then(|revocation| revocation.issued_before)
    }
}

/// Of one certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dates {
    pub(crate) validity: Validity,
    pub(crate) serial: SerialNumber,
    pub(crate) renew_after: UnixTime,
}

/// When a leaf of this lifetime is valid, its number, and when to renew it: at half of its life, give or take a tenth,
/// so that what was issued together is not renewed together.
pub(crate) fn dates(
    keys: &KeySet,
    random: &dyn Random,
    backdate: Duration,
    lifetime: Duration,
    now: UnixTime,
) -> Result<Dates, Refusal> {
    let issuer = keys.issuer().certificate();
    let random: [u8; 18] = random.array();
    let (serial, jitter) = random.split_at(16);
    let serial = SerialNumber::from_random_bytes(serial.try_into().unwrap_or_default());
    let jitter = u64::from(u16::from_be_bytes(jitter.try_into().unwrap_or_default()));

    let end = now.saturating_add(lifetime).min(issuer.not_after());
    let remaining = end.since(now);
    let start = now.saturating_sub(backdate.min(remaining));
    let validity = Validity::new(start, end)
        .filter(|_| !remaining.is_zero())
        .and_then(|validity| validity.within(issuer))
        .ok_or_else(|| {
            Refusal::unavailable("issuance.intermediate-expired", "the authority's intermediate has expired")
                .hint("it is replaced at half of its life: look at the authority's log and clock")
        })?;
    let half = remaining.as_secs() / 2;
    let renew_after = now.saturating_add(Duration::from_secs(half * 9 / 10 + half * jitter / 5 / 65_535));
    Ok(Dates { validity, serial, renew_after })
}

pub(super) const FRESH: &str = "ask for the first SVID of a new instance";

/// Before anything is logged: an entry that the ledger can't hold would fail with all that are written beside it.
fn check_audience(audience: &[String]) -> Result<(), Refusal> {
    let bytes: usize = audience.iter().map(String::len).sum();
    if audience.is_empty()
        || audience.iter().any(String::is_empty)
        || audience.len() > MAX_AUDIENCES
        || bytes > MAX_AUDIENCE
    {
        return Err(Refusal::invalid(
            "issuance.audience",
            "a JWT-SVID is for 1 to 32 audiences, none of them empty, of 8192 bytes in all",
        )
        .hint("name those that will see the token"));
    }
    Ok(())
}

/// The key of a request, once its possession is proved.
pub(crate) fn proven_key(request: &[u8], id: &SpiffeId) -> Result<PublicKey, Refusal> {
    let request = csr::parse_and_verify(request)
        .map_err(|error| Refusal::invalid(error.code(), error.to_string()).hint(error.hint()))?;
    // Its names are never used. But who asks for another identity is wrong, or worse.
    if request.uri_sans.iter().any(|name| name != id.as_str()) {
        return Err(Refusal::denied(
            "issuance.request-names-another",
            format!("the certification request names another identity than `{id}`"),
        )
        .hint("send a request without names: the authority knows them"));
    }
    acceptable(&request.public_key)?;
    Ok(request.public_key)
}

pub(super) fn acceptable(key: &PublicKey) -> Result<(), Refusal> {
    match key.algorithm() {
        PublicKeyAlgorithm::Rsa { bits } if bits > MAX_RSA_BITS => Err(Refusal::invalid(
            "issuance.key-too-large",
            format!("an RSA key of {bits} bits is larger than {MAX_RSA_BITS}"),
        )
        .hint("use P-256")),
        _ => Ok(()),
    }
}

fn unwritable(error: AttributesError) -> Refusal {
    Refusal::invalid(error.code(), error.to_string()).hint(error.hint())
}

fn unfit(error: template::TemplateError) -> Refusal {
    Refusal::invalid(error.code(), error.to_string()).hint(error.hint())
}

fn copy(bytes: &[u8]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(bytes)
}
