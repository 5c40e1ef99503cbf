//! The file of a keyring: the root key under each seal, and the keyring under the root key.
//!
//! ```text
//! v2   magic ── number of seals ── each: name, kind, sealed root key ── body
//! v1   magic ── kind, sealed root key ── body
//! ```
//!
//! The body is encrypted under the root key, bound to all that stands before it: a seal that somebody else has added, taken
//! away or swapped makes the file one that no seal opens.

use std::path::{Path, PathBuf};

use bonafide_crypto::{aead::AeadKey, kdf::hkdf_sha256, random::Random};
use bonafide_secmem::SecretBytes;
use zeroize::Zeroizing;

use crate::{
    KeyringError, Seal, SealName,
    codec::{Input, put_string},
    file,
};

/// Seals of one keyring.
pub(crate) const MAX_SEALS: usize = 8;
const MAGIC: &[u8; 20] = b"bonafide keyring v2\n";
/// Of files with one seal, which had no name.
const MAGIC_1: &[u8; 20] = b"bonafide keyring v1\n";
const MAX_SEALED_ROOT: usize = 4096;
const MAX_KIND: usize = 64;

/// A keyring's file, of which nothing is known to be true yet.
pub(crate) struct Sealed {
    path: PathBuf,
    pub(crate) roots: Vec<SealedRoot>,
    header: Vec<u8>,
    body: Vec<u8>,
}

/// The root key under one seal.
#[derive(Clone, Debug)]
pub(crate) struct SealedRoot {
    pub(crate) name: SealName,
    pub(crate) kind: String,
    pub(crate) sealed: Vec<u8>,
}

impl Sealed {
    pub(crate) fn read(path: &Path) -> Result<Self, KeyringError> {
        let contents = file::read(path)?;
        let format = || KeyringError::Format { path: path.to_owned(), what: "a keyring" };
        let (roots, body) = decode(&contents).ok_or_else(format)?;
        let header = contents.get(..contents.len().saturating_sub(body.len())).ok_or_else(format)?;
        Ok(Self { path: path.to_owned(), roots, header: header.to_vec(), body: body.to_vec() })
    }

    /// The root key, as this seal opens it, and under which of [`Self::roots`] it was.
    pub(crate) fn unseal(&self, seal: &dyn Seal) -> Result<(usize, SecretBytes), KeyringError> {
        let mut refused = None;
        for (index, root) in self.roots.iter().enumerate().filter(|(_, root)| root.kind == seal.kind()) {
            match seal.unseal(&root.sealed) {
                Ok(root) => return Ok((index, root)),
                // Another one of its kind may have the right secret.
                Err(error @ KeyringError::WrongSeal(_)) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(|| {
            let kinds: Vec<&str> = self.roots.iter().map(|root| root.kind.as_str()).collect();
            KeyringError::WrongSealKind { expected: kinds.join("`, `"), given: seal.kind() }
        }))
    }

    /// What is under the root key.
    pub(crate) fn open(&self, root: &SecretBytes) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        let opened = body_key(root).open(&self.header, &self.body);
        opened.map_err(|_| KeyringError::Broken(self.path.clone()))
    }
}

/// The whole file.
pub(crate) fn encode(
    path: &Path,
    roots: &[SealedRoot],
    root: &SecretBytes,
    body: &[u8],
    random: &dyn Random,
) -> Result<Vec<u8>, KeyringError> {
    if roots.is_empty() || roots.len() > MAX_SEALS {
        return Err(KeyringError::TooManySeals(MAX_SEALS));
    }
    let mut contents = MAGIC.to_vec();
    contents.extend(u8::try_from(roots.len()));
    for SealedRoot { name, kind, sealed } in roots {
        if sealed.len() > MAX_SEALED_ROOT || kind.len() > MAX_KIND {
            return Err(KeyringError::Format { path: path.to_owned(), what: "room for this seal" });
        }
        put_string(&mut contents, name.as_str().as_bytes())
            .and_then(|()| put_string(&mut contents, kind.as_bytes()))
            .and_then(|()| put_string(&mut contents, sealed))
            .ok_or_else(|| KeyringError::Format { path: path.to_owned(), what: "room for this seal" })?;
    }
    let sealed = body_key(root).seal(&contents, body, random);
    contents.extend(sealed);
    Ok(contents)
}

/// The root keys, and the body.
fn decode(contents: &[u8]) -> Option<(Vec<SealedRoot>, &[u8])> {
    if let Some(rest) = contents.strip_prefix(MAGIC_1) {
        let mut input = Input(rest);
        let kind = input.text(MAX_KIND)?;
        let sealed = input.string(MAX_SEALED_ROOT)?.to_vec();
        return Some((
            vec![SealedRoot { name: SealName::of_kind(kind)?, kind: kind.to_owned(), sealed }],
            input.0,
        ));
    }
    let mut input = Input(contents.strip_prefix(MAGIC)?);
    let count = usize::from(input.byte()?);
    if count == 0 || count > MAX_SEALS {
        return None;
    }
    let mut roots: Vec<SealedRoot> = Vec::with_capacity(count);
    for _ in 0..count {
        let name: SealName = input.text(SealName::MAX)?.parse().ok()?;
        if roots.iter().any(|root| root.name == name) {
            return None;
        }
        let kind = input.text(MAX_KIND)?.to_owned();
        roots.push(SealedRoot { name, kind, sealed: input.string(MAX_SEALED_ROOT)?.to_vec() });
    }
    Some((roots, input.0))
}

fn body_key(root: &SecretBytes) -> AeadKey {
    AeadKey::from_bytes(&hkdf_sha256(root.expose(), b"", b"bonafide keyring v1 body"))
}
