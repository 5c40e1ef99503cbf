//! What is done with leased keys, one item at a time. `None`: it has to be done at the authority.

use bonafide_kms::{
    ciphertext::{Ciphertext, Kind},
    context::Context,
    error::Refusal as Refused,
    lease::{Denial, Purpose},
    material::{MAX_PLAINTEXT, Message},
};
use bonafide_wire::{
    kms::{
        DecryptItem, DecryptLease, DecryptResult, EncryptItem, EncryptLease, EncryptResult, LeaseItem,
        VerifyItem, VerifyLease, VerifyResult, lease_item::Use,
    },
    types::Problem,
};
use bytes::Bytes;

use crate::{
    keys::{NodeKeys, Secret, Subject},
    refusal::{Refusal, problem},
};

/// Refusals of a lease that say nothing of the operation: it is done where the key is.
const ELSEWHERE: &[&str] =
    &["kms.leases-full", "kms.local-never", "kms.lease-use", "kms.no-stream", "kms.not-an-envelope"];

pub(super) async fn encrypt(
    keys: &NodeKeys,
    subject: &Subject,
    key: &str,
    item: &EncryptItem,
) -> Option<EncryptResult> {
    // Leases are for the primary version.
    if item.version != 0 {
        return None;
    }
    let done = async {
        let context = context(&item.context)?;
        if item.plaintext.len() > MAX_PLAINTEXT {
            return Err(Stopped::of(Refused::TooLong));
        }
        let wish = || LeaseItem {
            key: key.to_owned(),
            context: item.context.clone(),
            r#use: Some(Use::Encrypt(EncryptLease {})),
        };
        let want = (key, &context.digest(), Purpose::Encrypt);
        let secret = keys.borrow(subject, want, size(&item.plaintext), wish).await?;
        let Secret::DataKey(data_key) = &*secret else { return Err(Stopped::Elsewhere) };
        let ciphertext = data_key.seal(&item.plaintext, keys.random()).map_err(Stopped::of)?;
        let version = data_key.header().version;
        Ok(EncryptResult { problem: None, ciphertext: ciphertext.into(), version })
    };
    finish(done.await, |problem| EncryptResult { problem: Some(problem), ..EncryptResult::default() })
}

pub(super) async fn decrypt(
    keys: &NodeKeys,
    subject: &Subject,
    key: &str,
    item: &DecryptItem,
) -> Option<DecryptResult> {
    let done = async {
        let context = context(&item.context)?;
        let ciphertext = decode(&item.ciphertext)?;
        let parts = match (ciphertext.header.kind, ciphertext.envelope()) {
            (_, Some(parts)) => parts,
            // Cut off.
            (Kind::Envelope, None) => return Err(Stopped::of(Refused::Ciphertext)),
            (_, None) => return Err(Stopped::Elsewhere),
        };
        let wish = || {
            let wrapped = Bytes::copy_from_slice(parts.wrapped);
            LeaseItem {
                key: key.to_owned(),
                context: item.context.clone(),
                r#use: Some(Use::Decrypt(DecryptLease { wrapped, version: ciphertext.header.version })),
            }
        };
        let want = (key, &context.digest(), Purpose::Decrypt(parts.digest()));
        let secret = keys.borrow(subject, want, size(parts.sealed), wish).await?;
        let Secret::DataKey(data_key) = &*secret else { return Err(Stopped::Elsewhere) };
        // The data key alone would open it under any header.
        if data_key.header() != ciphertext.header {
            return Err(Stopped::of(Refused::Ciphertext));
        }
        let plaintext = data_key.open(parts).map_err(Stopped::of)?;
        let version = ciphertext.header.version;
        Ok(DecryptResult { problem: None, plaintext: Bytes::from_owner(plaintext), version })
    };
    finish(done.await, |problem| DecryptResult { problem: Some(problem), ..DecryptResult::default() })
}

pub(super) async fn verify(
    keys: &NodeKeys,
    subject: &Subject,
    key: &str,
    item: &VerifyItem,
) -> Option<VerifyResult> {
    let done = async {
        let context = context(&item.context)?;
        let signature = decode(&item.signature)?;
        let header = signature.header;
        let Some((scheme, raw)) = signature.signature().filter(|_| header.kind == Kind::Signature) else {
            return Err(Stopped::Elsewhere);
        };
        let wish = || LeaseItem {
            key: key.to_owned(),
            context: item.context.clone(),
            r#use: Some(Use::Verify(VerifyLease {})),
        };
        let want = (key, &context.digest(), Purpose::Verify);
        let secret = keys.borrow(subject, want, size(&item.message), wish).await?;
        let Secret::Public(public) = &*secret else { return Err(Stopped::Elsewhere) };
        let answer = |valid| VerifyResult { problem: None, valid, version: header.version };
        if (public.key, public.key_type) != (header.key, header.key_type) {
            return Ok(answer(false));
        }
        // One that is newer than the lease, or none that may be used.
        let half = public.versions.get(&header.version).ok_or(Stopped::Elsewhere)?;
        let message =
            if item.prehashed { Message::Digest(&item.message) } else { Message::Whole(&item.message) };
        match half.verify(scheme, message, raw) {
            Ok(()) => Ok(answer(true)),
            Err(Refused::Signature) => Ok(answer(false)),
            Err(refused) => Err(Stopped::of(refused)),
        }
    };
    finish(done.await, |problem| VerifyResult { problem: Some(problem), ..VerifyResult::default() })
}

/// Why an item was not done here.
enum Stopped {
    Elsewhere,
    Refused(Problem),
}

impl Stopped {
    fn of(refused: Refused) -> Self {
        Self::Refused(problem(refused.code(), refused, refused.hint()))
    }
}

impl From<Denial> for Stopped {
    fn from(denial: Denial) -> Self {
        match &denial {
            Denial::Busy | Denial::TooLarge => Self::Elsewhere,
            Denial::Refused { code, .. } if ELSEWHERE.contains(&code.as_str()) => Self::Elsewhere,
            _ => Self::Refused(Refusal::of_denial(&denial).to_problem()),
        }
    }
}

fn finish<T>(done: Result<T, Stopped>, failed: impl Fn(Problem) -> T) -> Option<T> {
    match done {
        Ok(done) => Some(done),
        Err(Stopped::Refused(problem)) => Some(failed(problem)),
        Err(Stopped::Elsewhere) => None,
    }
}

fn context(pairs: &std::collections::BTreeMap<String, String>) -> Result<Context, Stopped> {
    Context::new(pairs.clone()).map_err(|error| Stopped::Refused(problem(error.code(), &error, error.hint())))
}

fn decode(bytes: &[u8]) -> Result<Ciphertext<'_>, Stopped> {
    Ciphertext::decode(bytes).map_err(|error| Stopped::Refused(problem(error.code(), error, error.hint())))
}

fn size(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}
