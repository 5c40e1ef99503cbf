//! The versions of the wrapping key, under the root key, in one file.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use bonafide_crypto::{aead::AeadKey, kdf::hkdf_sha256, mac::MacKey, random::Random};
use bonafide_secmem::SecretBytes;
use zeroize::Zeroizing;

use crate::{
    KeyringError, Seal,
    codec::{Input, put_string},
    file,
};

const MAGIC: &[u8; 20] = b"bonafide keyring v1\n";
const MAX_VERSIONS: usize = 256;
const MAX_SEALED_ROOT: usize = 4096;
const MAX_KIND: usize = 64;

/// The versions of a wrapping key, and what is derived from the secret beside them. Can be shared.
pub struct Keyring {
    path: PathBuf,
    mac_secret: SecretBytes,
    state: RwLock<State>,
}

struct State {
    seal_kind: String,
    /// In ascending order; the last one is the primary.
    versions: Vec<Version>,
}

struct Version {
    number: u32,
    bytes: SecretBytes,
    key: AeadKey,
}

impl Keyring {
    /// Draws a new keyring, with version 1, and writes it to `path`, where no file may be. Blocks.
    ///
    /// # Errors
    /// [`KeyringError::Exists`] when there is a file already; those of the seal and of writing.
    pub fn create(
        path: impl AsRef<Path>,
        seal: &dyn Seal,
        random: &dyn Random,
    ) -> Result<Self, KeyringError> {
        let keyring = Self {
            path: path.as_ref().to_owned(),
            mac_secret: secret(|bytes| random.fill(bytes))?,
            state: RwLock::new(State {
                seal_kind: seal.kind().to_owned(),
                versions: vec![Version::new(1, |bytes| random.fill(bytes))?],
            }),
        };
        {
            let state = keyring.state.read().unwrap_or_else(PoisonError::into_inner);
            file::create(path.as_ref(), &keyring.encode(&state.versions, seal, random)?)?;
        }
        Ok(keyring)
    }

    /// Opens the keyring at `path`. Blocks, with a passphrase seal for a good part of a second.
    ///
    /// # Errors
    /// [`KeyringError::WrongSealKind`] and [`KeyringError::WrongSeal`] when this seal did not seal it;
    /// [`KeyringError::Broken`] when the file was changed.
    pub fn open(path: impl AsRef<Path>, seal: &dyn Seal) -> Result<Self, KeyringError> {
        let path = path.as_ref();
        let format = || KeyringError::Format { path: path.to_owned(), what: "a keyring" };
        let broken = || KeyringError::Broken(path.to_owned());
        let contents = file::read(path)?;
        let mut input = Input(contents.strip_prefix(MAGIC).ok_or_else(format)?);
        let kind =
            input.string(MAX_KIND).and_then(|kind| std::str::from_utf8(kind).ok()).ok_or_else(format)?;
        if kind != seal.kind() {
            return Err(KeyringError::WrongSealKind { expected: kind.to_owned(), given: seal.kind() });
        }
        let sealed_root = input.string(MAX_SEALED_ROOT).ok_or_else(format)?;
        let root = seal.unseal(sealed_root)?;
        let header = contents.get(..contents.len().saturating_sub(input.0.len())).ok_or_else(format)?;
        let body = body_key(&root).open(header, input.0).map_err(|_| broken())?;
        let (mac_secret, versions) = decode_body(&body).ok_or_else(broken)?;
        Ok(Self {
            path: path.to_owned(),
            mac_secret: secret(|bytes| bytes.copy_from_slice(mac_secret))?,
            state: RwLock::new(State {
                seal_kind: kind.to_owned(),
                versions: versions
                    .into_iter()
                    .map(|(number, key)| Version::new(number, |bytes| bytes.copy_from_slice(key)))
                    .collect::<Result<_, _>>()?,
            }),
        })
    }

    /// Encrypts `plaintext` under the primary version. It opens only with the same `context`, which says what it is:
    /// `signing-key/<id>`, say. The result names its version.
    #[must_use]
    pub fn wrap(&self, context: &str, plaintext: &[u8], random: &dyn Random) -> Vec<u8> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        // INVARIANT: a keyring has a version from its creation on. Were it not so, an empty result would open never.
        let Some(primary) = state.versions.last() else { return Vec::new() };
        let mut wrapped = primary.number.to_be_bytes().to_vec();
        wrapped.extend(primary.key.seal(&wrap_aad(primary.number, context), plaintext, random));
        wrapped
    }

    /// Decrypts what [`wrap`](Self::wrap) returned, under whichever version.
    ///
    /// # Errors
    /// [`KeyringError::Version`] when this keyring lacks the version; [`KeyringError::Unwrap`] when it was wrapped
    /// for another context, by another keyring, or was changed.
    pub fn unwrap(&self, context: &str, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        let refused = || KeyringError::Unwrap { context: context.to_owned() };
        let mut input = Input(wrapped);
        let number = input.number().ok_or_else(refused)?;
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let version = state
            .versions
            .binary_search_by_key(&number, |version| version.number)
            .ok()
            .and_then(|index| state.versions.get(index))
            .ok_or(KeyringError::Version(number))?;
        version.key.open(&wrap_aad(number, context), input.0).map_err(|_| refused())
    }

    /// A MAC key for one purpose. It is the same for the whole life of the keyring, whatever is rotated.
    #[must_use]
    pub fn mac_key(&self, purpose: &str) -> MacKey {
        MacKey::from_bytes(&self.mac_key_bytes(purpose))
    }

    pub(crate) fn mac_key_bytes(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let info = [b"bonafide keyring v1 mac ".as_slice(), purpose.as_bytes()].concat();
        hkdf_sha256(self.mac_secret.expose(), b"", &info)
    }

    /// Adds a version of the wrapping key and makes it the primary, and the root key a new one, under `seal`. Older
    /// versions go on unwrapping. Returns the new version, which is durable. Blocks.
    ///
    /// # Errors
    /// [`KeyringError::TooManyVersions`]; those of the seal and of writing. Then nothing has changed.
    pub fn rotate(&self, seal: &dyn Seal, random: &dyn Random) -> Result<u32, KeyringError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.versions.len() >= MAX_VERSIONS {
            return Err(KeyringError::TooManyVersions(MAX_VERSIONS));
        }
        let number = state.primary().saturating_add(1);
        state.versions.push(Version::new(number, |bytes| random.fill(bytes))?);
        let written = self
            .encode(&state.versions, seal, random)
            .and_then(|contents| file::replace(&self.path, &contents));
        if let Err(cause) = written {
            state.versions.pop();
            return Err(cause);
        }
        seal.kind().clone_into(&mut state.seal_kind);
        Ok(number)
    }

    /// Puts the keyring under another seal, or under another secret of the same kind, with a new root key. What
    /// was wrapped stays as it is. Copies of the old file still open with the old seal. Blocks.
    ///
    /// # Errors
    /// Those of the seal and of writing. Then nothing has changed.
    pub fn reseal(&self, seal: &dyn Seal, random: &dyn Random) -> Result<(), KeyringError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        file::replace(&self.path, &self.encode(&state.versions, seal, random)?)?;
        seal.kind().clone_into(&mut state.seal_kind);
        Ok(())
    }

    /// The version that wraps.
    #[must_use]
    pub fn primary(&self) -> u32 {
        self.state.read().unwrap_or_else(PoisonError::into_inner).primary()
    }

    /// The kind of the seal that it is under.
    #[must_use]
    pub fn seal_kind(&self) -> String {
        self.state.read().unwrap_or_else(PoisonError::into_inner).seal_kind.clone()
    }

    /// The file: what it is, the seal's kind, the sealed root key, and the rest under the root key. Each time with a
    /// fresh root key.
    fn encode(
        &self,
        versions: &[Version],
        seal: &dyn Seal,
        random: &dyn Random,
    ) -> Result<Vec<u8>, KeyringError> {
        let root = secret(|bytes| random.fill(bytes))?;
        let sealed_root = seal.seal(&root, random)?;
        let mut contents = MAGIC.to_vec();
        put_string(&mut contents, seal.kind().as_bytes())
            .and_then(|()| put_string(&mut contents, &sealed_root))
            .ok_or_else(|| KeyringError::Format { path: self.path.clone(), what: "room for this seal" })?;
        // Reserved in one piece: a buffer that grew would leave copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(36 + 36 * versions.len()));
        body.extend_from_slice(self.mac_secret.expose());
        for version in versions {
            body.extend_from_slice(&version.number.to_be_bytes());
            body.extend_from_slice(version.bytes.expose());
        }
        let sealed = body_key(&root).seal(&contents, &body, random);
        contents.extend(sealed);
        Ok(contents)
    }
}

impl State {
    fn primary(&self) -> u32 {
        self.versions.last().map_or(0, |version| version.number)
    }
}

impl Version {
    fn new(number: u32, fill: impl FnOnce(&mut [u8])) -> Result<Self, KeyringError> {
        let bytes = secret(fill)?;
        let key = <&[u8; 32]>::try_from(bytes.expose()).map_err(|_| KeyringError::Memory)?;
        Ok(Self { number, key: AeadKey::from_bytes(key), bytes })
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("path", &self.path)
            .field("seal", &self.seal_kind())
            .field("primary", &self.primary())
            .finish_non_exhaustive()
    }
}

/// The MAC secret, and versions in ascending order, at least one.
#[expect(clippy::type_complexity, reason = "borrowed parts, named by the one caller")]
fn decode_body(body: &[u8]) -> Option<(&[u8; 32], Vec<(u32, &[u8; 32])>)> {
    let mut input = Input(body);
    let mac_secret = input.array()?;
    let mut versions = Vec::new();
    while !input.0.is_empty() {
        let version = (input.number()?, input.array()?);
        if versions.len() >= MAX_VERSIONS || versions.last().is_some_and(|(last, _)| *last >= version.0) {
            return None;
        }
        versions.push(version);
    }
    (!versions.is_empty()).then_some((mac_secret, versions))
}

fn body_key(root: &SecretBytes) -> AeadKey {
    AeadKey::from_bytes(&hkdf_sha256(root.expose(), b"", b"bonafide keyring v1 body"))
}

fn wrap_aad(version: u32, context: &str) -> Vec<u8> {
    [b"bonafide keyring v1 wrap ".as_slice(), &version.to_be_bytes(), context.as_bytes()].concat()
}

fn secret(fill: impl FnOnce(&mut [u8])) -> Result<SecretBytes, KeyringError> {
    SecretBytes::new(32, fill).map_err(|_| KeyringError::Memory)
}
