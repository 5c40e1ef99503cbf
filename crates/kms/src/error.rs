//! Why an operation was not done.

/// Why a key did not do what was asked. It has a number, because it crosses the border of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The ciphertext was made under another key, version or context, or was changed.
    #[error("the ciphertext does not open: another key, version or context, or changed")]
    Ciphertext,
    /// The signature does not belong to this message and key.
    #[error("the signature does not match")]
    Signature,
    /// The tag does not belong to this message and key.
    #[error("the MAC does not match")]
    Mac,
    /// A key of this kind can't do this.
    #[error("a key of this kind can't do this")]
    Unfit,
    /// The plaintext or the message is longer than the key takes.
    #[error("the plaintext or message is longer than this key takes")]
    TooLong,
    /// What should be imported is no key of the kind that was said.
    #[error("what should be imported is not a key of this kind")]
    Import,
    /// The key was not declared exportable at its birth.
    #[error("the key was not declared exportable at its birth")]
    NotExportable,
    /// No key is open under this handle.
    #[error("no key is open under this handle")]
    NoHandle,
    /// As many keys are open as there may be.
    #[error("too many keys are open")]
    TooManyOpen,
    /// The wrapped secret is not that of this key and version, or was changed.
    #[error("the stored secret of the key does not open: another key or version, or changed")]
    Wrapped,
    /// The request can't be read.
    #[error("the request can't be read")]
    Request,
    /// More results than one answer holds.
    #[error("the results do not fit into one answer")]
    Answer,
    /// The cryptographic library failed.
    #[error("the cryptographic library refused")]
    Library,
    /// The private half is in a device: it can neither leave it nor be brought in.
    #[error("the private half of the key is in a device, and never leaves it")]
    External,
    /// The device that has the private half did not do it.
    #[error("the PKCS#11 device that has the key did not do it")]
    Device,
    /// The private half is in a device, and this server has none.
    #[error("the key is in a PKCS#11 device, and this server has none")]
    NoDevice,
}

impl Refusal {
    /// Each of them. Its place in this list plus one is its number, which never changes.
    pub const ALL: [Self; 16] = [
        Self::Ciphertext,
        Self::Signature,
        Self::Mac,
        Self::Unfit,
        Self::TooLong,
        Self::Import,
        Self::NotExportable,
        Self::NoHandle,
        Self::TooManyOpen,
        Self::Wrapped,
        Self::Request,
        Self::Answer,
        Self::Library,
        Self::External,
        Self::Device,
        Self::NoDevice,
    ];

    /// The stable code of this error.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Ciphertext => "kms.ciphertext-refused",
            Self::Signature => "kms.signature-mismatch",
            Self::Mac => "kms.mac-mismatch",
            Self::Unfit => "kms.operation-unfit",
            Self::TooLong => "kms.too-long",
            Self::Import => "kms.import-refused",
            Self::NotExportable => "kms.not-exportable",
            Self::NoHandle => "kms.no-handle",
            Self::TooManyOpen => "kms.too-many-open",
            Self::Wrapped => "kms.wrapped-refused",
            Self::Request => "kms.request-malformed",
            Self::Answer => "kms.answer-too-large",
            Self::Library => "kms.library-refused",
            Self::External => "kms.external",
            Self::Device => "kms.device-failed",
            Self::NoDevice => "kms.no-device",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Ciphertext => "give the ciphertext whole, and the very context that it was encrypted with",
            Self::Signature | Self::Mac => {
                "check message, key and version; somebody may have changed one of them"
            }
            Self::Unfit => "`bonafide key show` says what the key is for; use one of another kind",
            Self::TooLong => "draw a data key and encrypt with that, or send smaller pieces",
            Self::Import => "give the raw bytes of a symmetric key, or PKCS#8 without a passphrase",
            Self::NotExportable => {
                "create a key with `--exportable` if it has to leave; this one can't become so"
            }
            Self::NoHandle | Self::Request | Self::Answer => {
                "ask again; if it persists, server and key worker are not of the same release"
            }
            Self::TooManyOpen => "trim versions that nothing is encrypted under any more",
            Self::Wrapped => "check that store and keyring belong together, as of the same backup",
            Self::Library => "ask again; if it persists, the machine or its memory is at fault",
            Self::External => "use it where it is; create a key without `--external` if it has to move",
            Self::Device => {
                "see whether the device is there and well, and still has the key; its vendor's log may say more"
            }
            Self::NoDevice => {
                "configure the device in `[keys.pkcs11]` of each server, or ask a server that has it"
            }
        }
    }

    pub(crate) fn tag(self) -> u8 {
        Self::ALL.iter().zip(1..).find(|(refusal, _)| **refusal == self).map_or(0, |(_, tag)| tag)
    }

    pub(crate) fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.get(usize::from(tag.checked_sub(1)?)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_codes_name_one_thing() {
        let mut codes = Vec::new();
        for (refusal, tag) in Refusal::ALL.into_iter().zip(1..) {
            assert_eq!((refusal.tag(), Refusal::from_tag(tag)), (tag, Some(refusal)));
            assert!(refusal.code().starts_with("kms.") && !codes.contains(&refusal.code()));
            codes.push(refusal.code());
        }
        assert_eq!((Refusal::from_tag(0), Refusal::from_tag(17)), (None, None));
    }
}
