use bonafide_identity::revocation::{Revocation, Revocations, Subject};
use bonafide_identity::{InstanceId, SpiffeId, UnixTime};

use crate::types::{self, revocation::Subject as WireSubject};

/// Bytes of revocations in one message of a stream, about.
pub const REVOCATIONS_PART: usize = 240 * 1024;

/// A revocation for the wire.
#[must_use]
pub fn from_revocation(revocation: &Revocation) -> types::Revocation {
    types::Revocation {
        issued_before: revocation.issued_before.map_or(0, UnixTime::as_secs),
        expires_at: revocation.expires_at.as_secs(),
        ..from_subject(&revocation.subject)
    }
}

/// What a revocation is about, and nothing else of it.
#[must_use]
pub fn from_subject(subject: &Subject) -> types::Revocation {
    let subject = match subject {
        Subject::Agent(id) => WireSubject::Agent(id.to_string()),
        Subject::AuthorityKey(key_id) => WireSubject::AuthorityKey(bytes::Bytes::copy_from_slice(key_id)),
        Subject::Id(id) => WireSubject::SpiffeId(id.to_string()),
        Subject::Instance(instance) => {
            WireSubject::Instance(bytes::Bytes::copy_from_slice(instance.as_bytes()))
        }
        Subject::Site(site) => WireSubject::Site(site.to_string()),
    };
    types::Revocation { subject: Some(subject), issued_before: 0, expires_at: 0 }
}

/// What a revocation is about; `None` if it is malformed, or of a kind that is not known here.
#[must_use]
pub fn to_subject(wire: &types::Revocation) -> Option<Subject> {
    Some(match wire.subject.as_ref()? {
        WireSubject::Agent(id) => Subject::Agent(SpiffeId::parse_canonical(id).ok()?),
        WireSubject::AuthorityKey(key_id) => Subject::AuthorityKey(key_id.as_ref().into()),
        WireSubject::Instance(bytes) => {
            Subject::Instance(InstanceId::from_bytes(bytes.as_ref().try_into().ok()?))
        }
        WireSubject::Site(site) => Subject::Site(site.as_str().into()),
        WireSubject::SpiffeId(id) => Subject::Id(SpiffeId::parse_canonical(id).ok()?),
    })
}

/// A revocation as it is pushed; `None` as [`to_subject`].
#[must_use]
pub fn to_revocation(wire: &types::Revocation) -> Option<Revocation> {
    let issued_before = (wire.issued_before != 0).then(|| UnixTime::from_secs(wire.issued_before));
    Some(Revocation {
        subject: to_subject(wire)?,
        issued_before,
        expires_at: UnixTime::from_secs(wire.expires_at),
    })
}

/// Puts and removes what a message says. What is malformed, of an unknown kind or too much is left out: the digest
/// tells whoever sent it. Says whether anything changed, and how much was left out.
pub fn apply_revocations(
    set: &mut Revocations,
    revoked: &[types::Revocation],
    unrevoked: &[types::Revocation],
) -> (bool, usize) {
    let (mut changed, mut left_out) = (false, 0);
    for wire in unrevoked {
        match to_subject(wire) {
            Some(subject) => changed |= set.remove(&subject),
            None => left_out += 1,
        }
    }
    for wire in revoked {
        match to_revocation(wire).map(|revocation| set.insert(revocation)) {
            Some(Ok(differs)) => changed |= differs,
            Some(Err(_)) | None => left_out += 1,
        }
    }
    (changed, left_out)
}
