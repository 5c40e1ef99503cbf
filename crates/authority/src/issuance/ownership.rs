//! Which server renews an instance. Rules only: what is remembered, logged and written is a parameter.
//!
//! The server that has issued the first SVID of an instance renews it, and needs no record for that. Another one takes it over
//! by a record in the log. The server that decided until then is asked in it: it lets go, or it objects, because it has had a
//! successor of that certificate itself. So of two successors the second one is refused, at whichever servers they are asked
//! for. A server that does not answer in time counts as dead, and stays in the record until it has been heard; what it has
//! issued shows when it comes back, or when its certificate is shown to another one: two certificates of one generation end the
//! lineage on both sides.
//!
//! What a thief can do who has copied the key of an instance and the SVID of its agent: where the owner is dead, and has issued
//! a successor that was not shown elsewhere yet, he gets one of his own, until the rightful process renews.

use std::sync::Arc;

use bonafide_identity::InstanceId;
use bonafide_identity::time::UnixTime;
use bytes::Bytes;

use super::lineages::{Answer, Discord, Lineage, Lineages};
use crate::records::LineageOwner;
use crate::records::lineage_owner::Unanswered;

/// A renewal that was proved: who asks holds the key of the previous certificate, and the new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) instance: InstanceId,
    /// Of the new certificate.
    pub(crate) generation: u64,
    pub(crate) key_id: [u8; 20],
    /// Of the certificate before it.
    pub(crate) previous_key_id: [u8; 20],
    /// The server that has issued that; none if its intermediate is not known any more.
    pub(crate) issuer: Option<Arc<str>>,
}

/// Where and when a claim is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judge<'a> {
    pub(crate) server: &'a str,
    /// The store's.
    pub(crate) incarnation: &'a [u8],
    /// Generation and key of the newest certificate that this server has issued itself.
    pub(crate) issued: Option<(u64, [u8; 20])>,
    /// Nothing that was issued until now is valid then.
    pub(crate) forgotten_at: UnixTime,
}

/// What a server does about a claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// It renews the instance anyhow.
    Own,
    /// Once this is written, it does.
    Take(LineageOwner),
    /// This is to be written, and `from` has to answer.
    Ask(LineageOwner),
    /// It has asked already.
    Wait,
    /// There are two certificates of one generation: this is to be written, and nobody renews any of them.
    Condemn(LineageOwner),
}

impl Judge<'_> {
    /// Decides on a claim, with the record that there is.
    ///
    /// # Errors
    /// It is the second successor, or the instance has ended.
    pub(crate) fn judge(&self, record: Option<&LineageOwner>, claim: &Claim) -> Result<Step, Discord> {
        let previous = claim.generation.saturating_sub(1);
        if let Some((generation, key_id)) = self.issued {
            let repeated = (generation, key_id) == (claim.generation, claim.key_id);
            if generation > previous && !repeated {
                return Err(Discord::Forked { newest: generation });
            }
            if generation == previous && key_id != claim.previous_key_id {
                return Ok(Step::Condemn(LineageOwner { forked: true, ..self.own(claim, "", None) }));
            }
        }
        let by_issuer = || match claim.issuer.as_deref() {
            Some(issuer) if issuer == self.server => Step::Own,
            Some(issuer) => Step::Ask(self.own(claim, issuer, None)),
            None => Step::Take(self.own(claim, "", None)),
        };
        let Some(record) = record else { return Ok(by_issuer()) };
        if record.ended {
            return Err(Discord::Ended);
        }
        let repeated = is_for(record, claim);
        if record.forked || record.generation > previous && !repeated {
            return Err(Discord::Forked { newest: record.generation });
        }
        // Who has taken it over after the moment that the store was restored to is not known any more.
        if record.incarnation != self.incarnation {
            return Ok(by_issuer());
        }
        let condemn = || {
            let expires_at = self.forgotten_at.as_secs();
            Ok(Step::Condemn(LineageOwner { forked: true, expires_at, ..record.clone() }))
        };
        if unheard(record, self.server).is_some_and(|unheard| contradicts(self.issued, unheard)) {
            return condemn();
        }
        let owner = if record.from.is_empty() { &record.server } else { &record.from };
        let is_of_record = record.generation == previous && record.key_id == claim.previous_key_id.as_slice();
        if !repeated && !is_of_record {
            let elsewhere = claim.issuer.as_deref().is_some_and(|issuer| issuer != owner);
            // The one key is in the record, the other one in the certificate that is shown.
            if record.generation == previous || elsewhere {
                return condemn();
            }
        }
        Ok(match (owner == self.server, record.from.is_empty()) {
            (true, true) => Step::Own,
            // Another one asks, and this one is faster.
            (true, false) => Step::Take(self.own(claim, "", Some(record))),
            (false, false) if record.server == self.server && repeated => Step::Wait,
            (false, _) => Step::Ask(self.own(claim, owner, Some(record))),
        })
    }

    fn own(&self, claim: &Claim, from: &str, before: Option<&LineageOwner>) -> LineageOwner {
        let unanswered = before.into_iter().flat_map(|before| &before.unanswered);
        LineageOwner {
            server: self.server.to_owned(),
            from: from.to_owned(),
            generation: claim.generation,
            key_id: Bytes::copy_from_slice(&claim.key_id),
            incarnation: Bytes::copy_from_slice(self.incarnation),
            expires_at: self.forgotten_at.as_secs(),
            forked: false,
            ended: false,
            unanswered: unanswered.filter(|unanswered| unanswered.server != self.server).cloned().collect(),
        }
    }
}

/// What was issued without having heard `server`.
fn unheard<'a>(record: &'a LineageOwner, server: &str) -> Option<&'a Unanswered> {
    record.unanswered.iter().find(|unanswered| unanswered.server == server)
}

/// Whether a server that has issued this has had another successor of the same certificate.
fn contradicts(issued: Option<(u64, [u8; 20])>, unheard: &Unanswered) -> bool {
    issued.is_some_and(|(generation, key_id)| {
        generation >= unheard.generation
            && (generation != unheard.generation || unheard.key_id != key_id.as_slice())
    })
}

/// Whether `server` waits for an answer to this claim.
pub(crate) fn is_open(record: &LineageOwner, server: &str, claim: &Claim) -> bool {
    record.server == server && !record.from.is_empty() && is_for(record, claim)
}

/// The record of a claim that nobody has answered, as it is written in the end.
pub(crate) fn insisted(record: &LineageOwner) -> LineageOwner {
    let mut insisted = LineageOwner { from: String::new(), ..record.clone() };
    // The oldest counts: all that follows is built on it.
    if unheard(record, &record.from).is_none() {
        insisted.unanswered.push(Unanswered {
            server: record.from.clone(),
            generation: record.generation,
            key_id: record.key_id.clone(),
        });
    }
    insisted
}

/// What became of a claim that was answered: whether `server` may renew now. If not, another one has been asked for the same
/// certificate meanwhile.
///
/// # Errors
/// It is the second successor, or the instance has ended.
pub(crate) fn settled(record: Option<&LineageOwner>, server: &str, claim: &Claim) -> Result<bool, Discord> {
    let Some(record) = record else { return Ok(false) };
    if record.ended {
        return Err(Discord::Ended);
    }
    if record.forked || !is_for(record, claim) {
        return Err(Discord::Forked { newest: record.generation });
    }
    Ok(record.server == server && record.from.is_empty())
}

/// What `server` says to another server's record, if anything, and what it has issued itself, if that shows a fork which
/// nobody has seen yet.
pub(crate) fn answer(
    lineages: &Lineages,
    (server, incarnation): (&str, &[u8]),
    (instance, record): (InstanceId, &LineageOwner),
    now: UnixTime,
) -> Option<(LineageOwner, Option<Lineage>)> {
    if record.server == server || record.incarnation != incarnation || record.forked {
        return None;
    }
    let mut settled = LineageOwner { from: String::new(), ..record.clone() };
    if let Some(unheard) = unheard(record, server)
        && contradicts(lineages.issued(instance, now), unheard)
    {
        return Some((LineageOwner { forked: true, ..settled }, lineages.newest(instance, now)));
    }
    if record.from == server {
        settled.unanswered.retain(|unanswered| unanswered.server != server);
        return Some(match lineages.answer(instance, record.generation, &record.key_id, now) {
            Answer::LetGo => (settled, None),
            Answer::Keep { generation, key_id, ended } => {
                let (server, key_id) = (server.to_owned(), Bytes::copy_from_slice(&key_id));
                (LineageOwner { server, generation, key_id, ended, ..settled }, None)
            }
        });
    }
    lineages.moved(instance);
    None
}

/// Whether the record was written for this very certificate.
fn is_for(record: &LineageOwner, claim: &Claim) -> bool {
    record.generation == claim.generation && record.key_id == claim.key_id.as_slice()
}

/// Whether `server` may renew what it has issued itself without looking further.
pub(crate) fn leaves(record: Option<&LineageOwner>, server: &str, incarnation: &[u8], claim: &Claim) -> bool {
    record.is_none_or(|record| {
        let settled = record.server == server && record.from.is_empty() || record.incarnation != incarnation;
        // It may have taken the instance over for a successor of another one, and not issued that yet.
        let continues = record.generation < claim.generation || is_for(record, claim);
        settled && continues && !record.forked && !record.ended
    })
}

#[cfg(test)]
mod tests;
