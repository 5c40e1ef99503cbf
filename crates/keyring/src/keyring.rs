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
    DeviceAccess, KeyringError, Seal, SealName, SealSource,
    codec::Input,
    file,
    sealed::{Sealed, SealedRoot, encode},
};

const MAX_VERSIONS: usize = 256;

/// The versions of a wrapping key, and what is derived from the secret beside them. Can be shared.
pub struct Keyring {
    path: PathBuf,
    mac_secret: SecretBytes,
    state: RwLock<State>,
}

struct State {
    /// In ascending order; the last one is the primary.
    versions: Vec<Version>,
}

/// How a keyring was opened.
#[derive(Debug)]
pub struct Opened {
    /// What the seal is called that has opened it.
    pub seal: SealName,
    /// Its place among those that were shown.
    pub by: usize,
    /// Those before it, which have not opened the keyring: their places, and why.
    pub problems: Vec<(usize, KeyringError)>,
}

struct Version {
    number: u32,
    bytes: SecretBytes,
    key: AeadKey,
}

impl Keyring {
    /// Draws a new keyring, with version 1, and writes it to `path`, where no file may be. Its seal is called by its kind.
    /// Blocks.
    ///
    /// # Errors
    /// [`KeyringError::Exists`] when there is a file already; those of the seal and of writing.
    pub fn create(
        path: impl AsRef<Path>,
        seal: &dyn Seal,
        random: &dyn Random,
    ) -> Result<Self, KeyringError> {
        let path = path.as_ref();
        let keyring = Self {
            path: path.to_owned(),
            mac_secret: secret(|bytes| random.fill(bytes))?,
            state: RwLock::new(State { versions: vec![Version::new(1, |bytes| random.fill(bytes))?] }),
        };
        let root = secret(|bytes| random.fill(bytes))?;
        let sealed = seal.seal(&root, random)?;
        let name = SealName::of_kind(seal.kind()).ok_or(KeyringError::SealName)?;
        let roots = [SealedRoot { name, kind: seal.kind().to_owned(), sealed }];
        {
            let state = keyring.state.read().unwrap_or_else(PoisonError::into_inner);
            let body = keyring.body(&state.versions);
            file::create(path, &encode(path, &roots, &root, &body, random)?)?;
        }
        Ok(keyring)
    }

    /// Opens the keyring at `path`. Blocks, with a passphrase seal for a good part of a second.
    ///
    /// # Errors
    /// [`KeyringError::WrongSealKind`] and [`KeyringError::WrongSeal`] when this seal is none of the keyring's;
    /// [`KeyringError::Broken`] when the file was changed.
    pub fn open(path: impl AsRef<Path>, seal: &dyn Seal) -> Result<Self, KeyringError> {
        Self::open_sealed(path.as_ref(), &Sealed::read(path.as_ref())?, seal).map(|(keyring, _)| keyring)
    }

    /// Opens the keyring at `path` with the first of several seals that does it. Blocks.
    ///
    /// # Errors
    /// As [`Self::open`]; [`KeyringError::NoSeal`] when none of several does it.
    pub fn unseal(
        path: impl AsRef<Path>,
        shown: &[SealSource],
        device: &DeviceAccess,
    ) -> Result<(Self, Opened), KeyringError> {
        let path = path.as_ref();
        let sealed = Sealed::read(path)?;
        let mut problems = Vec::new();
        for (by, source) in shown.iter().enumerate() {
            let opened = source.open(device).and_then(|seal| Self::open_sealed(path, &sealed, &*seal));
            match opened {
                Ok((keyring, seal)) => return Ok((keyring, Opened { seal, by, problems })),
                Err(error) => problems.push((by, error)),
            }
        }
        Err(KeyringError::none_opens(shown, problems))
    }

    fn open_sealed(path: &Path, sealed: &Sealed, seal: &dyn Seal) -> Result<(Self, SealName), KeyringError> {
        let broken = || KeyringError::Broken(path.to_owned());
        let (index, root) = sealed.unseal(seal)?;
        let body = sealed.open(&root)?;
        let (mac_secret, versions) = decode_body(&body).ok_or_else(broken)?;
        let keyring = Self {
            path: path.to_owned(),
            mac_secret: secret(|bytes| bytes.copy_from_slice(mac_secret))?,
            state: RwLock::new(State {
                versions: versions
                    .into_iter()
                    .map(|(number, key)| Version::new(number, |bytes| bytes.copy_from_slice(key)))
                    .collect::<Result<_, _>>()?,
            }),
        };
        let name = sealed.roots.get(index).map(|root| root.name.clone()).ok_or_else(broken)?;
        Ok((keyring, name))
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

    /// Adds a version of the wrapping key and makes it the primary. Older versions go on unwrapping; root key and seals stay.
    /// `seal` is one of them. Returns the new version, which is durable. Blocks.
    ///
    /// # Errors
    /// [`KeyringError::TooManyVersions`]; those of the seal, of reading and of writing. Then nothing has changed.
    pub fn rotate(&self, seal: &dyn Seal, random: &dyn Random) -> Result<u32, KeyringError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.versions.len() >= MAX_VERSIONS {
            return Err(KeyringError::TooManyVersions(MAX_VERSIONS));
        }
        let number = state.primary().saturating_add(1);
        state.versions.push(Version::new(number, |bytes| random.fill(bytes))?);
        let written = (|| {
            let sealed = Sealed::read(&self.path)?;
            let (_, root) = sealed.unseal(seal)?;
            sealed.open(&root)?;
            let body = self.body(&state.versions);
            file::replace(&self.path, &encode(&self.path, &sealed.roots, &root, &body, random)?)
        })();
        if let Err(cause) = written {
            state.versions.pop();
            return Err(cause);
        }
        Ok(number)
    }

    /// The version that wraps.
    #[must_use]
    pub fn primary(&self) -> u32 {
        self.state.read().unwrap_or_else(PoisonError::into_inner).primary()
    }

    /// What is under the root key.
    fn body(&self, versions: &[Version]) -> Zeroizing<Vec<u8>> {
        // Reserved in one piece: a buffer that grew would leave copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(36 + 36 * versions.len()));
        body.extend_from_slice(self.mac_secret.expose());
        for version in versions {
            body.extend_from_slice(&version.number.to_be_bytes());
            body.extend_from_slice(version.bytes.expose());
        }
        body
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

fn wrap_aad(version: u32, context: &str) -> Vec<u8> {
    [b"bonafide keyring v1 wrap ".as_slice(), &version.to_be_bytes(), context.as_bytes()].concat()
}

pub(crate) fn secret(fill: impl FnOnce(&mut [u8])) -> Result<SecretBytes, KeyringError> {
    SecretBytes::new(32, fill).map_err(|_| KeyringError::Memory)
}
