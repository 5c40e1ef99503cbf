//! A share at rest: AES-256-GCM under a key of its own epoch, which lies in a file of its own, wrapped by the keyring, and is
//! destroyed when the epoch ends.

use bonafide_crypto::aead::AeadKey;
use bonafide_crypto::random::Random;
use bonafide_keyring::Wrapping;
use bonafide_sealing::epoch::EpochRecord;
use bonafide_sealing::group::{Index, Scalar};
use bonafide_sealing::params::SealParams;
use bonafide_sealing::share::{Share, ShareName};

use crate::error::Refusal;

/// What everything that the keyring wraps for a keyholder begins with.
pub(crate) const PREFIX: &str = "keyholder/";

/// The file of an epoch's seal key.
pub(crate) fn seal_name(version: u64, epoch: u64) -> String {
    format!("seal-{version}-{epoch}")
}

/// A share, encrypted, and its seal key, wrapped.
pub(crate) fn seal(
    wrapping: &Wrapping<'_>,
    random: &dyn Random,
    share: &Share,
) -> Result<(Vec<u8>, Vec<u8>), Refusal> {
    let name = share.name();
    let (key, bytes) = AeadKey::generate(random);
    let wrapped = wrapping.wrap(&context(name.version, name.epoch), bytes.as_slice())?;
    Ok((key.seal(&name.aad(), share.secret_bytes().as_slice(), random), wrapped))
}

/// The share that was sealed.
pub(crate) fn open(
    wrapping: &Wrapping<'_>,
    params: &SealParams,
    record: &EpochRecord,
    index: Index,
    sealed: &[u8],
    wrapped: &[u8],
) -> Result<Share, Refusal> {
    let damaged = || {
        Refusal::new(
            "keyholder.share-damaged",
            format!("the share of epoch `{}` does not open", record.epoch),
            "restore the data directory as a whole, or reshare without this keyholder",
        )
    };
    let name = ShareName {
        tenant: params.tenant,
        keyset: params.keyset.clone(),
        version: params.version,
        epoch: record.epoch,
        index,
    };
    let key = wrapping.unwrap(&context(name.version, name.epoch), wrapped)?;
    let key = AeadKey::from_bytes(key.as_slice().try_into().map_err(|_| damaged())?);
    let secret = key.open(&name.aad(), sealed).map_err(|_| damaged())?;
    let secret = Scalar::from_bytes(secret.as_slice().try_into().map_err(|_| damaged())?);
    Ok(Share::new(params, record, index, secret.map_err(|_| damaged())?)?)
}

fn context(version: u64, epoch: u64) -> String {
    format!("{PREFIX}{}", seal_name(version, epoch))
}
