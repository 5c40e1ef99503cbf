//! Revocations: of an instance, of an ID, of an agent, of a site.
//!
//! A site's admins revoke what lies in their site alone. An ID lies in every site whose scope covers it, because its
//! workloads may run in any of them. A quarantine is lifted by an operator, for who quarantined a site may be who took
//! it over.

use std::sync::Arc;
use std::time::Duration;

use bonafide_attest::registration::{Kind, Registration};
use bonafide_identity::revocation::{MAX_REVOCATIONS, Revocation, Subject};
use bonafide_identity::{InstanceId, SpiffeId, time::UnixTime};
use bonafide_wire::admin::{
    ListRevocationsRequest, ListRevocationsResponse, RevocationRecord as WireRecord, RevokeRequest,
    RevokeResponse, UnrevokeRequest, WriteResponse,
};
use bonafide_wire::{from_revocation, to_subject, types};
use tonic::Code;

use super::{Admin, Caller, Rights, idempotency};
use crate::records::{self, Agent, Ban, Object, RecordChange, RevocationRecord};
use crate::refusal::Refusal;
use crate::scope::MAX_X509_TTL;
use crate::site;
use crate::state::{SiteState, State};

/// Most revocations of one site's subjects.
const MAX_OF_SITE: usize = 1000;
/// Kept for operators, so that no sites' admins together can take the last place.
const RESERVED: usize = 1000;
/// Longest reason, in bytes.
pub(super) const MAX_REASON: usize = 256;
/// Most registrations that one revocation deletes, and names.
const MAX_REGISTRATIONS: usize = 500;
/// Clocks of servers may differ by so much without a revocation ending before what it concerns.
const SLACK: Duration = Duration::from_secs(3600);
/// A quarantine has no end of its own: 9999-12-31T23:59:59Z.
const NEVER: UnixTime = UnixTime::from_secs(253_402_300_799);

/// Who revokes, when and why.
#[derive(Clone, Debug)]
struct Verdict {
    reason: String,
    revoked_by: String,
    now: UnixTime,
}

impl Admin {
    /// From now on peers refuse what the subject names, and its agents stop serving it.
    ///
    /// # Errors
    /// A subject that is unknown or not the caller's, in the same words; a full set.
    pub async fn revoke(&self, caller: &Caller, request: RevokeRequest) -> Result<RevokeResponse, Refusal> {
        let own = RevokeRequest { idempotency_key: String::new(), ..request.clone() };
        let RevokeRequest { subject, reason, idempotency_key, delete_registrations } = request;
        let idempotency = idempotency(caller, "Revoke", &idempotency_key, &own)?;
        let subject = read_subject(subject)?;
        check_reason(&reason)?;
        if delete_registrations && !matches!(subject, Subject::Id(_)) {
            return Err(Refusal::invalid(
                "revocation.delete-registrations",
                "only with an ID are its registrations deleted",
            ));
        }
        let verdict = Verdict { reason, revoked_by: caller.name(), now: self.clock.now() };
        let (revoked, info) = (subject.clone(), Arc::clone(&self.info));
        let answer = self
            .write(caller, idempotency, move |state, rights| {
                let owner = match &revoked {
                    Subject::Instance(instance) => {
                        instance_owner(*instance, (info.site_of_instance)(*instance), rights)?
                    }
                    Subject::Id(id) => id_owner(state, id, rights)?,
                    Subject::Agent(id) => agent(state, id, rights)?.site.clone(),
                    Subject::Site(name) => site_owner(state, name, rights)?,
                    Subject::AuthorityKey(_) => return Err(not_here()),
                };
                let mut changes = revoke(state, rights, &revoked, owner, &verdict)?;
                if delete_registrations && let Subject::Id(id) = &revoked {
                    let named: Vec<_> = entries_of(state, id, rights).take(MAX_REGISTRATIONS + 1).collect();
                    if named.len() > MAX_REGISTRATIONS {
                        return Err(Refusal::invalid(
                            "revocation.too-many-registrations",
                            "more than 500 registrations name this ID",
                        )
                        .hint("revoke it without deleting them, then delete them in groups"));
                    }
                    changes.extend(
                        named.iter().map(|entry| RecordChange::Remove(records::registration_key(&entry.id))),
                    );
                }
                Ok((changes, names(state, &revoked, delete_registrations, rights)))
            })
            .await?;
        let state = self.registry.state();
        let revocation = state.revocation(&subject).map(|record| from_revocation(&record.revocation));
        let registrations = match &subject {
            // Whoever has revoked its own ID may read nothing any more, but its write stands.
            Subject::Id(id) => {
                self.reader(caller).map_or_else(|_| Vec::new(), |(_, rights)| yielding(&state, id, &rights))
            }
            _ => Vec::new(),
        };
        let deleted = answer.name.split(' ').filter(|id| !id.is_empty()).map(ToOwned::to_owned).collect();
        Ok(RevokeResponse { revision: answer.revision, revocation, registrations, deleted })
    }

    /// Takes a revocation back: what has not expired is trusted again.
    ///
    /// # Errors
    /// One that does not exist or is not the caller's, in the same words; that of an agent, which stays banned.
    pub async fn unrevoke(
        &self,
        caller: &Caller,
        request: UnrevokeRequest,
    ) -> Result<WriteResponse, Refusal> {
        let own = UnrevokeRequest { idempotency_key: String::new(), ..request.clone() };
        let idempotency = idempotency(caller, "Unrevoke", &request.idempotency_key, &own)?;
        let subject = read_subject(request.subject)?;
        let answer = self
            .write(caller, idempotency, move |state, rights| {
                let visible = |record: &&Arc<RevocationRecord>| sees(rights, record);
                let record = state.revocation(&subject).filter(visible).ok_or_else(|| {
                    Refusal::not_found("revocation.unknown", format!("the {subject} is not revoked"))
                        .hint("`bonafide revoke list` shows what is")
                })?;
                match &record.revocation.subject {
                    Subject::Site(_) => rights.everything()?,
                    Subject::Agent(_) => {
                        return Err(Refusal::precondition(
                            "revocation.agent-is-banned",
                            "an agent that was revoked is banned, and stays so",
                        )
                        .hint("join the node again: it gets another agent ID"));
                    }
                    Subject::AuthorityKey(_) => return Err(not_here()),
                    Subject::Id(_) | Subject::Instance(_) => {}
                }
                Ok((vec![RecordChange::Remove(records::revocation_key(&subject))], String::new()))
            })
            .await?;
        Ok(WriteResponse { revision: answer.revision })
    }

    /// The revocations of a site, or all that the caller may see.
    ///
    /// # Errors
    /// A site that is not the caller's.
    pub fn list_revocations(
        &self,
        caller: &Caller,
        request: &ListRevocationsRequest,
    ) -> Result<ListRevocationsResponse, Refusal> {
        let (state, rights) = self.reader(caller)?;
        if !request.site.is_empty() {
            site::check_name(&request.site)?;
            rights.of_site(&request.site)?;
        }
        let wanted = |record: &&Arc<RevocationRecord>| {
            sees(&rights, record) && (request.site.is_empty() || request.site == record.owner)
        };
        let revocations = state.revocation_records().filter(wanted).map(|record| WireRecord {
            revocation: Some(from_revocation(&record.revocation)),
            site: record.owner.clone(),
            reason: record.reason.clone(),
            revoked_by: record.revoked_by.clone(),
            revoked_at: record.revoked_at.as_secs(),
        });
        Ok(ListRevocationsResponse { revocations: revocations.collect() })
    }
}

/// What a ban does beside the agent's record: every SVID that was issued through it is refused by peers.
pub(super) fn of_banned(
    state: &State,
    rights: &Rights,
    agent: &Agent,
    reason: &str,
    revoked_by: &str,
    now: UnixTime,
) -> Result<Vec<RecordChange>, Refusal> {
    let verdict = Verdict { reason: reason.to_owned(), revoked_by: revoked_by.to_owned(), now };
    revoke(state, rights, &Subject::Agent(agent.id.clone()), agent.site.clone(), &verdict)
}

/// The changes that revoke a subject of `owner`; none if it is revoked already.
fn revoke(
    state: &State,
    rights: &Rights,
    subject: &Subject,
    owner: String,
    verdict: &Verdict,
) -> Result<Vec<RecordChange>, Refusal> {
    let now = verdict.now;
    let mut changes = Vec::new();
    if let Subject::Agent(id) = subject
        && let Some(agent) = state.agent(id)
        && agent.ban.is_none()
    {
        let ban = Some(Ban { at: now, reason: verdict.reason.clone() });
        changes.push(RecordChange::Put(Object::Agent(Arc::new(Agent { ban, ..(**agent).clone() }))));
    }
    // What was issued in this very second counts: validity starts at a whole second.
    let issued_before = match subject {
        Subject::Id(_) => Some(now.saturating_add(Duration::from_secs(1))),
        _ => None,
    };
    let before = state.revocation(subject);
    let stands = before.is_some_and(|before| {
        issued_before.is_none_or(|bound| before.revocation.issued_before.is_some_and(|known| known >= bound))
    });
    if stands {
        return Ok(changes);
    }
    if before.is_none() {
        check_room(state, rights, &owner)?;
    }
    let expires_at = match subject {
        Subject::Site(_) => NEVER,
        // No leaf lives longer than this.
        _ => now.saturating_add(MAX_X509_TTL).saturating_add(SLACK),
    };
    let revocation = Revocation { subject: subject.clone(), issued_before, expires_at };
    changes.push(RecordChange::Put(Object::Revocation(Arc::new(RevocationRecord {
        revocation,
        owner,
        reason: verdict.reason.clone(),
        revoked_by: verdict.revoked_by.clone(),
        revoked_at: now,
    }))));
    Ok(changes)
}

fn check_room(state: &State, rights: &Rights, owner: &str) -> Result<(), Refusal> {
    let all = state.revocation_records().len();
    let operator = rights.everything().is_ok();
    let most = if operator { MAX_REVOCATIONS } else { MAX_REVOCATIONS - RESERVED };
    let full = |count: usize, whose: &str| {
        Refusal::new(
            Code::ResourceExhausted,
            "revocation.too-many",
            format!("there are {count} revocations {whose} already"),
        )
        .hint("revoke what they have in common: the ID, the agent or the site; each ends within 25 hours")
    };
    if all >= most {
        return Err(full(all, "in all"));
    }
    if !operator {
        let of_site = state.revocation_records().filter(|record| record.owner == owner).count();
        if of_site >= MAX_OF_SITE {
            return Err(full(of_site, &format!("of the site `{owner}`")));
        }
    }
    Ok(())
}

fn instance_owner(instance: InstanceId, site: Option<String>, rights: &Rights) -> Result<String, Refusal> {
    match site {
        Some(site) if rights.sees(&site) => Ok(site),
        // Another server may have issued it.
        None if rights.everything().is_ok() => Ok(String::new()),
        _ => Err(Refusal::not_found(
            "revocation.unknown-instance",
            format!("there is no living instance `{instance}`"),
        )
        .hint(
            "its ID stands in its certificate and in `bonafide explain`; without it, revoke its SPIFFE ID",
        )),
    }
}

fn id_owner(state: &State, id: &SpiffeId, rights: &Rights) -> Result<String, Refusal> {
    if id.trust_domain() != state.trust_domain() {
        return Err(Refusal::invalid(
            "revocation.foreign",
            format!("`{id}` belongs to another trust domain, whose own authority revokes it"),
        ));
    }
    let covers = |site: &&Arc<site::Site>| site.scope.spiffe_ids.iter().any(|pattern| pattern.matches(id));
    let sites: Vec<&Arc<site::Site>> = state.sites().filter_map(SiteState::site).filter(covers).collect();
    if rights.everything().is_err() && (sites.is_empty() || !sites.iter().all(|site| rights.sees(&site.name)))
    {
        return Err(Refusal::denied(
            "revocation.other-site",
            format!("`{id}` does not lie in the caller's sites alone"),
        )
        .hint("revoke its instances, or ask an operator"));
    }
    Ok(match sites.as_slice() {
        [site] => site.name.to_string(),
        _ => String::new(),
    })
}

fn site_owner(state: &State, name: &str, rights: &Rights) -> Result<String, Refusal> {
    site::check_name(name)?;
    rights.of_site(name)?;
    match state.site(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(Refusal::not_found("site.unknown", format!("there is no site `{name}`"))),
    }
}

fn agent<'a>(state: &'a State, id: &SpiffeId, rights: &Rights) -> Result<&'a Arc<Agent>, Refusal> {
    state.agent(id).filter(|agent| rights.sees(&agent.site)).ok_or_else(|| {
        Refusal::not_found("agent.unknown", format!("there is no agent `{id}`"))
            .hint("`bonafide agent list` shows those that you may see")
    })
}

fn sees(rights: &Rights, record: &RevocationRecord) -> bool {
    if record.owner.is_empty() { rights.everything().is_ok() } else { rights.sees(&record.owner) }
}

/// Entries that name an ID, and that the caller may delete.
fn entries_of<'a>(
    state: &'a State,
    id: &'a SpiffeId,
    rights: &'a Rights,
) -> impl Iterator<Item = Arc<Registration>> + 'a {
    state.registrations_after("").filter(move |registration| match &registration.kind {
        Kind::Entry(named) => named == id && rights.sees(&registration.site),
        Kind::Rule(_) => false,
    })
}

/// IDs of the entries that are deleted, for the answer and its replay.
fn names(state: &State, subject: &Subject, delete: bool, rights: &Rights) -> String {
    match subject {
        Subject::Id(id) if delete => {
            let names: Vec<String> = entries_of(state, id, rights).map(|entry| entry.id.clone()).collect();
            names.join(" ")
        }
        _ => String::new(),
    }
}

/// Registrations under which an ID can be issued anew, as far as the caller may know.
fn yielding(state: &State, id: &SpiffeId, rights: &Rights) -> Vec<String> {
    state
        .registrations_after("")
        .filter(|registration| registration.can_yield(id) && rights.sees(&registration.site))
        .take(MAX_REGISTRATIONS)
        .map(|registration| registration.id.clone())
        .collect()
}

fn read_subject(wire: Option<types::Revocation>) -> Result<Subject, Refusal> {
    let malformed = || {
        Refusal::invalid("revocation.subject", "the request names nothing that can be revoked")
            .hint("name an instance, a SPIFFE ID, an agent or a site")
    };
    let wire = wire.ok_or_else(malformed)?;
    if wire.issued_before != 0 || wire.expires_at != 0 {
        return Err(Refusal::invalid(
            "revocation.time",
            "the authority alone says from when and until when a revocation holds",
        ));
    }
    match to_subject(&wire).ok_or_else(malformed)? {
        Subject::AuthorityKey(_) => Err(not_here()),
        Subject::Id(id) if id.is_trust_domain() => Err(malformed()),
        subject => Ok(subject),
    }
}

fn check_reason(reason: &str) -> Result<(), Refusal> {
    if reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
        return Err(Refusal::invalid(
            "revocation.reason",
            "the reason is longer than 256 bytes, or has a control character",
        ));
    }
    Ok(())
}

fn not_here() -> Refusal {
    Refusal::invalid("revocation.authority-key", "an authority's key is withdrawn by its rotation, not here")
        .hint("`bonafide ca` manages the authority's keys")
}
