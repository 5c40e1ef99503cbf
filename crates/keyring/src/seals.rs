//! The seals of a keyring that exists: which there are, which of them open, and their change.
//!
//! Nothing is changed by whoever can't open the keyring: one seal at least has to be shown. So a server, which may be an
//! attacker's, can't put a keyring under a seal of his own whose secret it does not hold anyway.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use bonafide_crypto::random::Random;
use bonafide_secmem::SecretBytes;

use crate::sealed::{MAX_SEALS, Sealed, SealedRoot, encode};
use crate::{DeviceAccess, KeyringError, Seal, SealSource, file};

/// What a seal is called in its keyring: 1 to 63 of `a-z`, `0-9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SealName(String);

/// A change of the seals of a keyring.
#[derive(Debug)]
pub enum SealChange {
    /// One more seal, which is made unless it is there. The root key stays.
    Add {
        /// What to call it.
        name: SealName,
        /// The seal.
        source: SealSource,
    },
    /// These seals open nothing any more. There is a new root key, so all others must open now. At least one stays.
    Remove(Vec<SealName>),
    /// There is a new root key, under the same seals, all of which must open now.
    Renew,
}

/// The seals of a keyring.
#[derive(Debug)]
pub struct Seals {
    /// In the order of their coming.
    pub seals: Vec<SealState>,
    /// The seals that were shown and open nothing: their places among them, and why.
    pub problems: Vec<(usize, KeyringError)>,
}

/// One seal of a keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealState {
    /// What it is called.
    pub name: SealName,
    /// As [`Seal::kind`].
    pub kind: String,
    /// The place of the shown seal that opens it; none: nobody knows whether it can be opened.
    pub opened_by: Option<usize>,
}

/// Looks which of `shown` open the keyring at `path`. Blocks.
///
/// # Errors
/// A file that is no keyring.
pub fn inspect_seals(
    path: impl AsRef<Path>,
    shown: &[SealSource],
    device: &DeviceAccess,
) -> Result<Seals, KeyringError> {
    Ok(Shown::look(path.as_ref(), shown, device)?.report())
}

/// Changes the seals of the keyring at `path`, which one of `shown` has to open. The file is the old one or the new one, whatever
/// breaks meanwhile. What the keyring holds stays the same, so who has it open need not know. Blocks.
///
/// # Errors
/// [`KeyringError::NoSeal`] if none of `shown` opens the keyring; [`KeyringError::SealExists`], [`KeyringError::SealUnknown`],
/// [`KeyringError::LastSeal`], [`KeyringError::SealAway`], [`KeyringError::TooManySeals`]; those of seals and of writing. Then
/// nothing has changed.
pub fn change_seals(
    path: impl AsRef<Path>,
    shown: &[SealSource],
    change: &SealChange,
    device: &DeviceAccess,
    random: &dyn Random,
) -> Result<Seals, KeyringError> {
    let path = path.as_ref();
    let mut look = Shown::look(path, shown, device)?;
    let Some(root) = look.root.take() else {
        return Err(KeyringError::none_opens(shown, look.problems));
    };
    match change {
        SealChange::Add { name, source } => look.add(path, shown, &root, name, source, device, random)?,
        SealChange::Remove(names) => look.remove(path, names, &root, random)?,
        SealChange::Renew => look.remove(path, &[], &root, random)?,
    }
    Ok(look.report())
}

/// A keyring, and what opens it.
struct Shown {
    sealed: Sealed,
    /// One for each seal that was shown; none: it can't be used at all.
    seals: Vec<Option<Box<dyn Seal>>>,
    /// One for each root key of the file: which seal opens it.
    opened_by: Vec<Option<usize>>,
    problems: Vec<(usize, KeyringError)>,
    root: Option<SecretBytes>,
}

impl Shown {
    fn look(path: &Path, shown: &[SealSource], device: &DeviceAccess) -> Result<Self, KeyringError> {
        let sealed = Sealed::read(path)?;
        let mut opened_by = vec![None; sealed.roots.len()];
        let (mut seals, mut problems, mut root) = (Vec::new(), Vec::new(), None);
        for (place, source) in shown.iter().enumerate() {
            let seal = match source.open(device) {
                Ok(seal) => seal,
                Err(error) => {
                    problems.push((place, error));
                    seals.push(None);
                    continue;
                }
            };
            let opened = sealed.unseal(&*seal).and_then(|(index, found)| {
                sealed.open(&found)?;
                Ok((index, found))
            });
            match opened {
                Ok((index, found)) => {
                    if let Some(by @ None) = opened_by.get_mut(index) {
                        *by = Some(place);
                    }
                    root.get_or_insert(found);
                }
                Err(error) => problems.push((place, error)),
            }
            seals.push(Some(seal));
        }
        Ok(Self { sealed, seals, opened_by, problems, root })
    }

    #[expect(clippy::too_many_arguments, reason = "what a keyring is written with")]
    fn add(
        &mut self,
        path: &Path,
        shown: &[SealSource],
        root: &SecretBytes,
        name: &SealName,
        source: &SealSource,
        device: &DeviceAccess,
        random: &dyn Random,
    ) -> Result<(), KeyringError> {
        let roots = &self.sealed.roots;
        if roots.iter().any(|root| root.name == *name) {
            return Err(KeyringError::SealExists(name.to_string()));
        }
        if roots.len() >= MAX_SEALS {
            return Err(KeyringError::TooManySeals(MAX_SEALS));
        }
        let body = self.sealed.open(root)?;
        let (seal, made) = source.open_or_create(device, random)?;
        // The same secret under two names could not be taken away.
        let other = roots.iter().find(|root| root.kind == seal.kind() && seal.unseal(&root.sealed).is_ok());
        if let Some(other) = other {
            return Err(KeyringError::SealExists(other.name.to_string()));
        }
        let written = (|| {
            let sealed = seal.seal(root, random)?;
            let mut roots = roots.clone();
            roots.push(SealedRoot { name: name.clone(), kind: seal.kind().to_owned(), sealed });
            file::replace(path, &encode(path, &roots, root, &body, random)?)
        })();
        if let Err(error) = written {
            // A key to nothing would be in the way of the next attempt.
            if let (Some(made), true) =
                (made, Sealed::read(path).is_ok_and(|now| now.roots.len() == roots.len()))
            {
                let _gone = std::fs::remove_file(made);
            }
            return Err(error);
        }
        self.sealed = Sealed::read(path)?;
        self.opened_by.push(Some(shown.len()));
        Ok(())
    }

    /// Without these, and with a new root key.
    fn remove(
        &mut self,
        path: &Path,
        names: &[SealName],
        root: &SecretBytes,
        random: &dyn Random,
    ) -> Result<(), KeyringError> {
        if let Some(name) =
            names.iter().find(|name| !self.sealed.roots.iter().any(|root| root.name == **name))
        {
            return Err(KeyringError::SealUnknown(name.to_string()));
        }
        let body = self.sealed.open(root)?;
        let fresh = crate::keyring::secret(|bytes| random.fill(bytes))?;
        let (mut roots, mut opened_by) = (Vec::new(), Vec::new());
        for (root, by) in self.sealed.roots.iter().zip(&self.opened_by) {
            if names.contains(&root.name) {
                continue;
            }
            let seal = by.and_then(|place| self.seals.get(place)).and_then(Option::as_deref);
            let seal = seal.ok_or_else(|| KeyringError::SealAway(root.name.to_string()))?;
            roots.push(SealedRoot { sealed: seal.seal(&fresh, random)?, ..root.clone() });
            opened_by.push(*by);
        }
        if roots.is_empty() {
            return Err(KeyringError::LastSeal);
        }
        file::replace(path, &encode(path, &roots, &fresh, &body, random)?)?;
        self.sealed = Sealed::read(path)?;
        self.opened_by = opened_by;
        Ok(())
    }

    fn report(self) -> Seals {
        let state = |(root, opened_by): (SealedRoot, Option<usize>)| SealState {
            name: root.name,
            kind: root.kind,
            opened_by,
        };
        let seals = self.sealed.roots.into_iter().zip(self.opened_by).map(state).collect();
        Seals { seals, problems: self.problems }
    }
}

impl SealName {
    pub(crate) const MAX: usize = 63;

    /// What the first seal of a keyring is called: by its kind.
    pub(crate) fn of_kind(kind: &str) -> Option<Self> {
        kind.parse().ok()
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SealName {
    type Err = KeyringError;

    fn from_str(text: &str) -> Result<Self, KeyringError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || text.len() > Self::MAX || !text.bytes().all(allowed) {
            return Err(KeyringError::SealName);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SealName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
