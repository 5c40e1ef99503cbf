//! The next certificate of an instance: what it continues, and whether this server may give it.

use bonafide_attest::lineage::transcript;
use bonafide_crypto::key::{PublicKey, SignatureAlgorithm};
use bonafide_identity::revocation::Subject;
use bonafide_identity::{Certificate, InstanceId, x509};
use bonafide_wire::node::{IssueJwt, RenewX509};
use bytes::Bytes;

use super::certified::AGENT_KEY;
use super::earnings::Earning;
use super::lineages::Discord;
use super::ownership::{Claim, Judge, Step, leaves};
use super::prepare::{Context, FRESH, Unsigned, acceptable};
use crate::entry::entry::Kind as EntryKind;
use crate::journal::hex;
use crate::records::LINEAGE_OWNER;
use crate::refusal::Refusal;

const MAX_CHAIN: usize = 4;
const MAX_EVIDENCE: usize = 64 * 1024;

/// Why a renewal is not prepared.
#[derive(Debug)]
pub(crate) enum Hold {
    Refused(Refusal),
    /// It is all right, but this server has to take the instance over first.
    Elsewhere(Box<Claim>),
}

/// A certificate that a renewal continues.
struct Previous {
    certificate: Certificate,
    /// It is what this server issued last.
    remembered: bool,
}

impl From<Refusal> for Hold {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Discord {
    /// Of a request for this instance.
    pub(crate) fn refusal(self, instance: InstanceId) -> Refusal {
        match self {
            Self::Ended => ended(instance),
            Self::Forked { newest } => forked(instance, newest),
            Self::Moved => Refusal::unavailable("issuance.moving", "another server renews this instance")
                .hint("it is tried again by itself"),
        }
    }
}

impl Context<'_> {
    /// The next SVID of an instance. `taken`: what this server has taken the instance over for.
    pub(crate) fn renewal(
        &self,
        ask: &RenewX509,
        taken: Option<&Claim>,
    ) -> Result<(Unsigned, EntryKind), Hold> {
        let malformed =
            |what: &str| Refusal::invalid("lineage.malformed", format!("the renewal's {what} is malformed"));
        if ask.previous_chain.len() > MAX_CHAIN || ask.evidence.len() > MAX_EVIDENCE {
            return Err(malformed("chain or evidence").into());
        }
        let instance = InstanceId::from_bytes((*ask.instance).try_into().map_err(|_| malformed("instance"))?);
        let nonce: &[u8; 16] = (*ask.nonce).try_into().map_err(|_| malformed("nonce"))?;
        let earning = self.earnings.of(self.agent, &ask.registration, &ask.selectors)?;

        let Previous { certificate: previous, remembered } = self.previous(ask, instance)?;
        if let Some(subject) = self.state.revocations().of_certificate(&previous) {
            return Err(revoked(&subject).into());
        }
        let generation = self.own_generation(&previous, instance, &earning);
        if generation.and_then(|generation| generation.checked_add(1)) != Some(ask.generation) {
            return Err(Refusal::denied(
                "lineage.discontinuous",
                "the renewal does not continue the SVID that it shows",
            )
            .hint(FRESH)
            .into());
        }
        let previous_key = previous.public_key();
        let public_key = PublicKey::from_spki_der(&ask.public_key)
            .map_err(|error| Refusal::invalid(error.code(), error.to_string()).hint(error.hint()))?;
        acceptable(&public_key)?;
        if public_key == *previous_key {
            let refusal = Refusal::denied("lineage.same-key", "the renewal does not bring a fresh key");
            return Err(refusal.hint(FRESH).into());
        }
        let transcript = transcript(
            self.state.trust_domain(),
            instance,
            ask.generation,
            nonce,
            previous_key.spki_der(),
            public_key.spki_der(),
        );
        let signed = |key: &PublicKey, signature: &[u8]| {
            key.verify(SignatureAlgorithm::default_for(key.algorithm()), &transcript, signature)
        };
        if signed(previous_key, &ask.previous_key_signature).is_err()
            || signed(&public_key, &ask.new_key_signature).is_err()
        {
            return Err(Refusal::denied(
                "lineage.signature",
                "the renewal is not signed by both the last and the new key",
            )
            .into());
        }
        let claim = Claim {
            instance,
            generation: ask.generation,
            key_id: public_key.key_id(),
            previous_key_id: previous_key.key_id(),
            issuer: self.issuer_of(&previous),
        };
        let taken = taken.is_some_and(|taken| *taken == claim);
        if !taken && !self.decides(&claim, remembered).map_err(|discord| discord.refusal(instance))? {
            return Err(Hold::Elsewhere(Box::new(claim)));
        }
        match self.workload(&earning, public_key, instance, ask.generation, taken)? {
            Ok(prepared) => Ok(prepared),
            // Another server has just taken it over.
            Err(Discord::Moved) => Err(Hold::Elsewhere(Box::new(claim))),
            Err(discord) => Err(discord.refusal(instance).into()),
        }
    }

    /// Whether this server renews the instance, by what it knows. If not, it has to ask.
    fn decides(&self, claim: &Claim, remembered: bool) -> Result<bool, Discord> {
        // Some server can't read records of moves, so there are none.
        if !LINEAGE_OWNER.is_activated(self.state.level()) {
            return Ok(true);
        }
        let record = self.state.lineage_owner(claim.instance).map(|record| &**record);
        let incarnation = self.state.incarnation();
        if remembered && leaves(record, self.server, incarnation.as_bytes(), claim) {
            return Ok(true);
        }
        let judge = Judge {
            server: self.server,
            incarnation: incarnation.as_bytes(),
            issued: self.lineages.issued(claim.instance, self.now),
            forgotten_at: self.now,
        };
        Ok(judge.judge(record, claim)? == Step::Own)
    }

    /// The server whose intermediate has signed a certificate.
    fn issuer_of(&self, certificate: &Certificate) -> Option<std::sync::Arc<str>> {
        let intermediate = self.state.signing_key(&hex(certificate.authority_key_id()?))?;
        Some(intermediate.server.as_str().into())
    }

    /// The place in the lineage of an instance's certificate, if it is this agent's and was earned by the same registration.
    fn own_generation(
        &self,
        certificate: &Certificate,
        instance: InstanceId,
        earning: &Earning,
    ) -> Option<u64> {
        let attributes = certificate.attributes()?;
        let own = attributes.instance == Some(instance)
            && attributes.registration() == Some(&*earning.registration)
            && attributes.site() == Some(earning.earned.site.name.as_ref())
            && attributes
                .evidence()
                .any(|(key, value)| key == AGENT_KEY && value == self.agent.path().as_bytes());
        own.then_some(attributes.generation)
    }

    /// The certificate that a renewal continues, proved to be one that this trust domain has issued and that is valid.
    ///
    /// What this server issued last it need not verify again, which would cost four signature checks: it remembers the
    /// hash of what it signed. That is as safe as the chain, and in one case safer:
    ///
    /// - The hash is over everything that the certificate says (key, ID, instance, generation, attributes, dates), so the
    ///   certificate that is shown says what this server has put there itself. Whether its signature is good is of no
    ///   interest: nothing is taken from it. The renewal must still be signed with the key that it names.
    /// - Its dates are checked here as the verifier would, and revocations of what it names by the caller, for either.
    /// - Whoever has stolen the key of an authority can make chains that verify, but none that is remembered. And of an
    ///   authority that was revoked since, what this server issued itself may still be renewed.
    ///
    /// What is not remembered (another server issued it, or the answer to the last renewal was lost) is verified.
    fn previous(&self, ask: &RenewX509, instance: InstanceId) -> Result<Previous, Refusal> {
        let newest = self.lineages.newest(instance, self.now).filter(|newest| {
            newest.generation.checked_add(1) == Some(ask.generation)
                && *newest.agent == *self.agent
                && *newest.registration == *ask.registration
        });
        if let (Some(newest), Some(der)) = (newest, ask.previous_chain.first()) {
            let leaf = Certificate::from_der(der).map_err(|error| invalid(&error))?;
            // Of one generation there is one key. Another one is a copy's, or a thief's; another server's is looked at
            // more closely, for it may prove that there are two.
            let own = leaf.authority_key_id() == Some(self.keys.issuer_key_id());
            if own && leaf.public_key().key_id() != newest.key_id {
                return Err(forked(instance, newest.generation));
            }
            if leaf.tbs_sha256() == newest.tbs_sha256 {
                if !leaf.is_valid_at(self.now) {
                    return Err(invalid(&"it has expired"));
                }
                return Ok(Previous { certificate: leaf, remembered: true });
            }
        }
        Ok(Previous { certificate: self.verified(&ask.previous_chain)?, remembered: false })
    }

    fn verified(&self, chain: &[Bytes]) -> Result<Certificate, Refusal> {
        let chain: Vec<&[u8]> = chain.iter().map(|der| &**der).collect();
        let verified =
            x509::verify(&chain, self.keys.bundles(), self.now).map_err(|error| invalid(&error))?;
        Ok(verified.leaf().clone())
    }

    /// An instance of this agent under this registration that is alive: this server has issued its SVID, or is shown one that
    /// another server has issued.
    pub(super) fn own_instance(&self, ask: &IssueJwt, earning: &Earning) -> Result<InstanceId, Refusal> {
        let unknown = || {
            Refusal::denied(
                "issuance.instance",
                "no living instance of this agent and registration has this ID",
            )
            .hint(FRESH)
        };
        let instance = InstanceId::from_bytes((*ask.instance).try_into().map_err(|_| unknown())?);
        let subject = Subject::Instance(instance);
        if self.state.revocations().get(&subject).is_some() {
            return Err(revoked(&subject));
        }
        if self.state.lineage_owner(instance).is_some_and(|record| record.ended) {
            return Err(unknown());
        }
        if let Some(newest) = self.lineages.newest(instance, self.now) {
            let own = *newest.agent == *self.agent && *newest.registration == *ask.registration;
            return if own { Ok(instance) } else { Err(unknown()) };
        }
        let has_ended = self.lineages.issued(instance, self.now).is_some();
        if has_ended || ask.chain.is_empty() || ask.chain.len() > MAX_CHAIN {
            return Err(unknown());
        }
        let shown = self.verified(&ask.chain).map_err(|_| unknown())?;
        if let Some(subject) = self.state.revocations().of_certificate(&shown) {
            return Err(revoked(&subject));
        }
        self.own_generation(&shown, instance, earning).map(|_| instance).ok_or_else(unknown)
    }
}

fn invalid(why: &dyn std::fmt::Display) -> Refusal {
    Refusal::denied("lineage.previous", format!("the SVID to be renewed is not valid: {why}")).hint(FRESH)
}

/// Its process is gone.
fn ended(instance: InstanceId) -> Refusal {
    Refusal::denied("lineage.ended", format!("the instance `{instance}` has ended")).hint(FRESH)
}

/// Two successors of one certificate.
pub(super) fn forked(instance: InstanceId, newest: u64) -> Refusal {
    Refusal::denied(
        "lineage.forked",
        format!(
            "the instance `{instance}` has had a successor of that SVID, with another key (generation {newest})"
        ),
    )
    .hint("two processes hold the key of one instance: find out which of them is a copy")
}

/// A lineage that was revoked has no next generation.
pub(crate) fn revoked(subject: &Subject) -> Refusal {
    Refusal::denied("issuance.revoked", format!("the SVID to be renewed is revoked, by its {subject}"))
        .hint("`bonafide revoke list` says when and why")
}
