//! `secret owner new`.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use bonafide_crypto::{
    key::{KeyAlgorithm, PrivateKey},
    random::SystemRandom,
};
use bonafide_sealing::{
    document::{Document as _, Signed, VerifyingKey},
    identity::Tenant,
    owner::{Delegation, MAX_KEYS, Root},
};

use super::files::{DELEGATION, ROOT};
use crate::{Console, Failure, pem, text::hex};

/// Keys for daily work, in the order of a delegation.
const PURPOSES: [&str; 5] = ["deny", "params", "rewrap", "roster", "seal"];

/// `secret owner …`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum OwnerCommand {
    /// Make a tenant: a root of several keys, the next root, keys for daily work, and `owner.pem`, which is public
    ///
    /// Prints SHA-256 of the root, which everybody pins who seals or opens. Keep the files `root-*.key` and `next-*.key` offline
    /// and apart.
    New {
        /// A new folder
        #[arg(value_hint = clap::ValueHint::DirPath)]
        folder: PathBuf,
        /// Keys of the root
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=MAX_KEYS as i64))]
        keys: u8,
        /// How many of them must sign
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=MAX_KEYS as i64))]
        threshold: u8,
    },
}

pub(super) fn run(command: OwnerCommand, console: &Console) -> Result<(), Failure> {
    let OwnerCommand::New { folder, keys, threshold } = command;
    if threshold > keys {
        return Err(Failure::usage("the threshold is higher than the number of keys", "lower --threshold"));
    }
    fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|source| Failure::write(&folder, source))?;
    let of = |prefix: &str| -> Result<Vec<PrivateKey>, Failure> {
        (1..=keys).map(|number| make(&folder.join(format!("{prefix}-{number}.key")))).collect()
    };
    let (root_keys, next_keys) = (of("root")?, of("next")?);
    let tenant = Tenant::random(&SystemRandom);
    let next = Root::commitment(threshold, &public(&next_keys)?);
    let root = Root { tenant, serial: 1, threshold, keys: public(&root_keys)?, next };
    let mut daily: [Vec<VerifyingKey>; 5] = Default::default();
    for (slot, purpose) in daily.iter_mut().zip(PURPOSES) {
        *slot = public(&[make(&folder.join(format!("{purpose}.key")))?])?;
    }
    let mut delegation = Signed::new(Delegation { tenant, root: root.digest(), serial: 1, keys: daily });
    for key in root_keys.iter().take(threshold.into()) {
        let hint = "try again";
        delegation.sign(key).map_err(|error| Failure::of(error.code(), error, hint))?;
    }
    let text = pem::encode(ROOT, &root.encode()) + &pem::encode(DELEGATION, &delegation.encode());
    write_new(&folder.join("owner.pem"), text.as_bytes(), 0o644)?;
    console.note(format!("made tenant {tenant} in `{}`; its root is", folder.display()));
    console.write(format!("{}\n", hex(&root.digest())).as_bytes())
}

fn make(path: &Path) -> Result<PrivateKey, Failure> {
    let key = PrivateKey::generate(KeyAlgorithm::Ed25519)
        .map_err(|error| Failure::of(error.code(), error, error.hint()))?;
    let text = zeroize::Zeroizing::new(pem::encode("PRIVATE KEY", &key.to_pkcs8_der()));
    write_new(path, text.as_bytes(), 0o600)?;
    Ok(key)
}

fn public(keys: &[PrivateKey]) -> Result<Vec<VerifyingKey>, Failure> {
    let verifying = |key: &PrivateKey| VerifyingKey::new(key.public_key().clone());
    keys.iter()
        .map(verifying)
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::of(error.code(), error, error.hint()))
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    written.and_then(|mut file| file.write_all(content)).map_err(|source| Failure::write(path, source))
}
