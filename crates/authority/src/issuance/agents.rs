//! Which SVIDs of agents are alive that this server has issued.
//!
//! Whoever has stolen the key of an authority can sign an SVID of any agent, connect with it, and have it renewed: what he
//! gets then was signed by us, and is good long after that key was revoked. What he can't do is to write it into a ledger.
//! So an agent's SVID is taken only if an intermediate has signed it that stands in the store, and, if that is this
//! server's, if it was issued here. What other servers have issued, their ledgers know.
//!
//! In memory, filled from the ledger at start.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bonafide_identity::VerifiedX509Svid;
use bonafide_identity::time::UnixTime;

use crate::journal::hex;
use crate::records::signing_key;
use crate::refusal::Refusal;
use crate::scope::MAX_X509_TTL;
use crate::state::State;

/// How many SVIDs are noted between two sweeps, at least.
const SWEEP_EVERY: usize = 1024;

/// Hashes of what agents may show.
#[derive(Debug, Default)]
pub(crate) struct AgentSvids {
    server: String,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By the SHA-256 of the TBSCertificate: until when it lives.
    alive: HashMap<[u8; 32], UnixTime>,
    noted: usize,
    /// Until then an SVID may be alive that no ledger and no store knows: an operator has accepted that one of them lost
    /// what came last.
    incomplete_until: Option<UnixTime>,
}

impl AgentSvids {
    pub(crate) fn of(server: &str) -> Self {
        Self { server: server.to_owned(), known: Mutex::default() }
    }

    /// This server issues it.
    pub(crate) fn note(&self, tbs_sha256: [u8; 32], not_after: UnixTime, now: UnixTime) {
        let mut known = self.lock();
        known.noted += 1;
        if known.noted >= SWEEP_EVERY.max(known.alive.len()) {
            known.noted = 0;
            known.alive.retain(|_, end| *end > now);
        }
        known.alive.insert(tbs_sha256, not_after);
    }

    /// Ledger or store were restored from something older.
    pub(crate) fn restored(&self, now: UnixTime) {
        self.lock().incomplete_until = Some(now.saturating_add(MAX_X509_TTL));
    }

    /// Whether this SVID, whose chain was verified, was issued to its agent.
    ///
    /// # Errors
    /// If nobody can have issued it but a thief.
    pub(crate) fn recognise(
        &self,
        svid: &VerifiedX509Svid,
        state: &State,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let issuer = svid.authorities().first();
        let record = issuer.and_then(|issuer| {
            let record = state.signing_key(&hex(issuer.subject_key_id()?))?;
            let is_ours = record.r#use() == signing_key::Use::Intermediate
                && record.public_key == issuer.public_key().spki_der();
            is_ours.then_some(record)
        });
        let known = self.lock();
        let issued = record.is_some_and(|record| {
            record.server != self.server || known.alive.contains_key(&svid.leaf().tbs_sha256())
        });
        if issued || known.incomplete_until.is_some_and(|until| now < until) {
            return Ok(());
        }
        drop(known);
        tracing::error!(
            agent = %svid.id(),
            "somebody shows an SVID of an agent that was never issued: is the key of an authority stolen?"
        );
        let message = "the SVID that the agent shows was never issued";
        Err(Refusal::new(tonic::Code::Unauthenticated, "stream.unlogged-svid", message)
            .hint("look at the authority's log; to replace a stolen key, use `bonafide ca drill`"))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
