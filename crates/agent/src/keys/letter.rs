//! What the authority answers about leases, read. Nothing is believed that was not asked for.

use std::collections::BTreeMap;

use bonafide_kms::{
    algorithm::KeyType,
    ciphertext::KeyId,
    context::ContextDigest,
    envelope::{DATA_KEY, DataKey},
    key::Local,
    lease::{Denial, Grant, LeaseId, Terms, Timeline, Used},
    material::PublicHalf,
};
use bonafide_wire::{
    kms::{LeaseItem, LeaseResult, LeaseTerms, LeaseUse, Local as WireLocal, lease_item},
    types::Problem,
};
use bytes::Bytes;
use zeroize::{Zeroize as _, Zeroizing};

use super::Moment;

/// Versions that are verified with.
const MAX_VERSIONS: usize = 4096;

/// What was leased.
#[derive(Debug)]
pub(crate) enum Secret {
    /// To encrypt, or to decrypt.
    DataKey(DataKey),
    /// To verify.
    Public(PublicKeys),
}

/// Public keys of one key.
#[derive(Debug)]
pub(crate) struct PublicKeys {
    pub(crate) key: KeyId,
    pub(crate) key_type: KeyType,
    pub(crate) versions: BTreeMap<u32, PublicHalf>,
}

/// A lease as it was granted.
pub(super) struct Granted {
    pub(super) grant: Grant,
    pub(super) revision: u64,
    pub(super) secret: Secret,
}

/// Reads an answer to `item`. `None`: it is none.
pub(super) fn granted(
    result: LeaseResult,
    item: &LeaseItem,
    context: &ContextDigest,
    now: Moment,
) -> Option<Granted> {
    let LeaseResult { lease, key_id, r#type, version, data_key, wrapped, public_keys, terms, .. } = result;
    let (key, key_type) = (KeyId::from_bytes((*key_id).try_into().ok()?), KeyType::from_name(&r#type)?);
    let terms = terms?;
    let secret = match item.r#use.as_ref()? {
        lease_item::Use::Verify(_) => {
            if public_keys.len() > MAX_VERSIONS {
                return None;
            }
            let half = |spki: &Bytes, name: &str| PublicHalf::from_spki(KeyType::from_name(name)?, spki).ok();
            let versions =
                public_keys.iter().filter_map(|one| Some((one.version, half(&one.spki, &one.r#type)?)));
            Secret::Public(PublicKeys { key, key_type, versions: versions.collect() })
        }
        used => {
            let asked = match used {
                lease_item::Use::Decrypt(asked) => Some(asked),
                _ => None,
            };
            if asked.is_some_and(|asked| (&asked.wrapped, asked.version) != (&wrapped, version)) {
                return None;
            }
            let plain: Option<Zeroizing<[u8; DATA_KEY]>> = (*data_key).try_into().ok().map(Zeroizing::new);
            erase(data_key);
            Secret::DataKey(DataKey::new(key_type, key, version, context, &*plain?, &wrapped).ok()?)
        }
    };
    let local = local(&terms)?;
    let lease = lease_id(&lease)?;
    let grant = Grant { lease, key, version, local, terms: to_terms(&terms, now) };
    Some(Granted { grant, revision: terms.revision, secret })
}

pub(super) fn lease_id(bytes: &[u8]) -> Option<LeaseId> {
    bytes.try_into().ok().map(LeaseId::from_bytes)
}

/// Where it may be used. What is not understood may be nowhere.
pub(super) fn local(terms: &LeaseTerms) -> Option<Local> {
    match WireLocal::try_from(terms.local).ok()? {
        WireLocal::Process => Some(Local::Process),
        WireLocal::Agent => Some(Local::Agent),
        WireLocal::Unspecified => None,
    }
}

pub(super) fn to_terms(terms: &LeaseTerms, now: Moment) -> Terms {
    let at = |moment| Timeline::at(now.at, now.wall, moment);
    Terms {
        ends: at(terms.expires_at),
        renew_after: at(terms.renew_after),
        messages: terms.max_messages,
        bytes: terms.max_bytes,
        max_stale: std::time::Duration::from_secs(terms.max_stale.into()),
    }
}

pub(super) fn to_use(used: &Used) -> LeaseUse {
    let Used { lease, messages, bytes } = *used;
    LeaseUse { lease: Bytes::copy_from_slice(lease.as_bytes()), messages, bytes }
}

pub(super) fn denial(problem: Problem) -> Denial {
    Denial::Refused { code: problem.code, message: problem.message, hint: problem.hint }
}

/// Erases a secret that came in a message, if nobody else looks at its bytes.
pub(super) fn erase(secret: Bytes) {
    if let Ok(mut secret) = secret.try_into_mut() {
        secret.as_mut().zeroize();
    }
}
