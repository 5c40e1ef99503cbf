//! What can go wrong with a keyring.

use std::path::PathBuf;

use crate::SealSource;

/// Why a keyring or a seal did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// The seal opened the root key, but the rest of the file is not what was written under it.
    #[error("the keyring `{}` was damaged or changed", .0.display())]
    Broken(PathBuf),
    /// A device has no keys of this kind.
    #[error("a device holds no `{0}` key for us")]
    DeviceAlgorithm(&'static str),
    /// The device failed.
    #[error("the PKCS#11 device failed: {0}")]
    DeviceFailed(String),
    /// A key is not in the device as it must be.
    #[error("the key `{id}` {what}")]
    DeviceKey {
        /// Its `CKA_ID` in hexadecimal digits, or its label.
        id: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The library can't be used.
    #[error("the PKCS#11 module `{}` can't be used: {why}", module.display())]
    DeviceModule {
        /// Which library.
        module: PathBuf,
        /// In the words of the loader, or of the library.
        why: String,
    },
    /// The device does not take the PIN.
    #[error("the PKCS#11 device does not take the PIN")]
    DevicePin,
    /// There is no such token, or none that could be told from others.
    #[error("there is no PKCS#11 token `{0}`")]
    DeviceToken(String),
    /// More requests wait for the worker than may.
    #[error("too many requests wait for the key worker")]
    Busy,
    /// The process that holds the keyring does nothing else.
    #[error("there is no handler beside the keys for such requests")]
    NoHandler,
    /// A key or the seal is in a device, and none is configured.
    #[error("the key is in a PKCS#11 device, and none is configured")]
    NoDevice,
    /// A key is drawn or read that is none.
    #[error(transparent)]
    Key(#[from] bonafide_crypto::key::KeyError),
    /// There is a file already.
    #[error("`{}` exists", .0.display())]
    Exists(PathBuf),
    /// The last seal can't be taken away: nothing would open the keyring.
    #[error("no seal would be left to open the keyring")]
    LastSeal,
    /// None of several seals opens the keyring: each, and why.
    #[error("no seal opens the keyring: {0}")]
    NoSeal(String),
    /// A seal would have to take a new root key, and does not open.
    #[error("the seal `{0}` does not open here, so it can't take the new root key")]
    SealAway(String),
    /// The keyring is under this seal.
    #[error("the keyring has this seal as `{0}`")]
    SealExists(String),
    /// What a seal needs can't be had.
    #[error("{0}")]
    SealMissing(String),
    /// What a seal is called.
    #[error("the name of a seal is 1 to 63 of `a-z0-9-`")]
    SealName,
    /// The keyring has no such seal.
    #[error("the keyring has no seal `{0}`")]
    SealUnknown(String),
    /// There are as many seals as a keyring takes.
    #[error("a keyring has at most {0} seals")]
    TooManySeals(usize),
    /// The file is not what it should be.
    #[error("`{}` is not {what}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// The key file can be read by others.
    #[error("`{}` has mode {mode:04o}: others can read the key", path.display())]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file could not be read or written.
    #[error("`{}`: {cause}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// No memory that is fit for a secret.
    #[error("no protected memory for a key")]
    Memory,
    /// There are as many versions as a keyring holds.
    #[error("the keyring holds {0} versions, the most it can")]
    TooManyVersions(usize),
    /// What should be unwrapped was not wrapped by this keyring for this context, or was changed.
    #[error("the wrapped key does not open for `{context}`")]
    Unwrap {
        /// What it was said to be.
        context: String,
    },
    /// The wrapped key names a version that this keyring does not have.
    #[error("the wrapped key is under version {0}, which this keyring does not have")]
    Version(u32),
    /// The key worker refused, or failed at it.
    #[error("{message}")]
    Worker {
        /// Its error's code.
        code: &'static str,
        /// Its error's hint.
        hint: &'static str,
        /// Its error's message.
        message: String,
    },
    /// The process that holds the live keys has ended, or does not answer.
    #[error("the key worker is gone: {0}")]
    WorkerGone(String),
    /// What the key worker was asked, or answered, is not of its protocol.
    #[error("the key worker was asked or answered what it must not: {0}")]
    WorkerProtocol(&'static str),
    /// The process for the live keys can't be started.
    #[error("the key worker can't be started: {0}")]
    WorkerStart(std::io::Error),
    /// Another process looks into the key worker.
    #[error("the key worker is traced by process {0}")]
    WorkerTraced(u32),
    /// The seal is of the right kind, but has another secret.
    #[error("the {0} seal does not open this keyring")]
    WrongSeal(&'static str),
    /// The keyring is sealed by another kind of seal.
    #[error("the keyring is sealed by `{expected}`, not by `{given}`")]
    WrongSealKind {
        /// The kind that sealed it.
        expected: String,
        /// The kind that was tried.
        given: &'static str,
    },
}

impl KeyringError {
    /// A stable name for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Broken(_) => "keyring.broken",
            Self::DeviceAlgorithm(_) => "keyring.device-algorithm",
            Self::DeviceFailed(_) => "keyring.device-failed",
            Self::DeviceKey { .. } => "keyring.device-key",
            Self::DeviceModule { .. } => "keyring.device-module",
            Self::DevicePin => "keyring.device-pin",
            Self::DeviceToken(_) => "keyring.device-token",
            Self::Busy => "keyring.busy",
            Self::NoHandler => "keyring.no-handler",
            Self::NoDevice => "keyring.no-device",
            Self::Key(error) => error.code(),
            Self::Exists(_) => "keyring.exists",
            Self::LastSeal => "keyring.last-seal",
            Self::NoSeal(_) => "keyring.no-seal",
            Self::SealAway(_) => "keyring.seal-away",
            Self::SealExists(_) => "keyring.seal-exists",
            Self::SealMissing(_) => "keyring.seal-missing",
            Self::SealName => "keyring.seal-name",
            Self::SealUnknown(_) => "keyring.seal-unknown",
            Self::TooManySeals(_) => "keyring.too-many-seals",
            Self::Format { .. } => "keyring.format",
            Self::Mode { .. } => "keyring.mode",
            Self::Io { .. } => "keyring.io",
            Self::Memory => "keyring.memory",
            Self::TooManyVersions(_) => "keyring.too-many-versions",
            Self::Unwrap { .. } => "keyring.unwrap",
            Self::Version(_) => "keyring.version",
            Self::Worker { code, .. } => code,
            Self::WorkerGone(_) => "keyring.worker-gone",
            Self::WorkerProtocol(_) => "keyring.worker-protocol",
            Self::WorkerStart(_) => "keyring.worker-start",
            Self::WorkerTraced(_) => "keyring.worker-traced",
            Self::WrongSeal(_) => "keyring.wrong-seal",
            Self::WrongSealKind { .. } => "keyring.wrong-seal-kind",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Broken(_) | Self::Format { .. } => "restore the file from a backup",
            Self::DeviceAlgorithm(_) => "use `ec-p256`, `ec-p384` or an RSA key, or leave `keys.pkcs11` out",
            Self::DeviceFailed(_) => {
                "see whether the device is there and well; its vendor's log may say more"
            }
            Self::DeviceKey { .. } => "restore the device from a backup, or look who has changed its keys",
            Self::DeviceModule { .. } => {
                "name the vendor's library in `keys.pkcs11.module`, and what it needs to find its device in `keys.pkcs11.environment`"
            }
            Self::DevicePin => {
                "put the right PIN into `keys.pkcs11.pin_file` and start again: after a refusal it is not tried any more, because a device locks itself"
            }
            Self::DeviceToken(_) => {
                "name the label of one token in `keys.pkcs11.token`; the vendor's tool lists them"
            }
            Self::Busy => "ask again in a moment; if it persists, give the server more cores",
            Self::NoHandler => "run server and worker from one and the same program",
            Self::NoDevice => "configure the device in `[keys.pkcs11]`",
            Self::Key(error) => error.hint(),
            Self::Exists(_) => "open it, or choose another place; nothing is overwritten",
            Self::LastSeal => "add another seal first",
            Self::NoSeal(_) => {
                "bring one of the seals back: its key file, its passphrase or its device; each says why it does not open"
            }
            Self::SealAway(_) => "bring it back, or remove it in the same step",
            Self::SealExists(_) => "choose another name and another secret, or keep the one that is there",
            Self::SealMissing(_) => {
                "put it where the configuration of the seal says; a file descriptor can be read only once"
            }
            Self::SealName => "choose a short name such as `hsm` or `recovery`",
            Self::SealUnknown(_) => "`bonafide authority seal list` shows the seals of this server",
            Self::TooManySeals(_) => "remove one that is not needed any more",
            Self::Mode { .. } => "`chmod 600` the file, and ask who may have read it",
            Self::Io { .. } => "check that the directory exists, is writable and has room",
            Self::Memory => "raise the limit of locked memory (`ulimit -l`) or free some memory",
            Self::TooManyVersions(_) => "rewrap what the oldest versions wrapped, in a new keyring",
            Self::Unwrap { .. } | Self::Version(_) => {
                "check that store and keyring belong together, as of the same backup"
            }
            Self::Worker { hint, .. } => hint,
            Self::WorkerGone(_) => {
                "start the server again; the system's log says whether the worker was killed, or ran out of memory"
            }
            Self::WorkerProtocol(_) => "run server and worker from one and the same program",
            Self::WorkerStart(_) => "see whether this user may start more processes",
            Self::WorkerTraced(_) => "end the debugger; only a development server may hold its keys itself",
            Self::WrongSeal(_) => "give the passphrase or key file that this keyring was sealed with",
            Self::WrongSealKind { .. } => "configure the kind of seal that this keyring was sealed with",
        }
    }

    /// Why none of the seals opens a keyring: of one seal, in its own words.
    pub(crate) fn none_opens(shown: &[SealSource], mut problems: Vec<(usize, Self)>) -> Self {
        if let ([_], Some((_, error))) = (shown, problems.pop_if(|_| shown.len() == 1)) {
            return error;
        }
        let each = problems
            .iter()
            .filter_map(|(place, error)| Some(format!("{}: {error} ({})", shown.get(*place)?, error.code())));
        Self::NoSeal(each.collect::<Vec<_>>().join("; "))
    }

    /// An error of the worker's, as it came over the socket: the code names it again.
    pub(crate) fn of_worker(code: &str, message: String) -> Self {
        let known = Self::samples().into_iter().find(|sample| sample.code() == code);
        match known {
            Some(sample) => Self::Worker { code: sample.code(), hint: sample.hint(), message },
            None => Self::WorkerProtocol("an error that this server does not know"),
        }
    }

    /// The same once more, for another who waits: with code, hint and message.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::WorkerProtocol(what) => Self::WorkerProtocol(what),
            Self::WorkerGone(why) => Self::WorkerGone(why.clone()),
            Self::Busy => Self::Busy,
            Self::NoHandler => Self::NoHandler,
            other => Self::Worker { code: other.code(), hint: other.hint(), message: other.to_string() },
        }
    }

    /// One of each that a worker answers.
    fn samples() -> Vec<Self> {
        use bonafide_crypto::key::KeyError;
        let (path, none) = (PathBuf::new, String::new);
        vec![
            Self::Broken(path()),
            Self::DeviceAlgorithm(""),
            Self::DeviceFailed(none()),
            Self::DeviceKey { id: none(), what: "" },
            Self::DeviceModule { module: path(), why: none() },
            Self::DevicePin,
            Self::DeviceToken(none()),
            Self::Busy,
            Self::NoHandler,
            Self::NoDevice,
            Self::Exists(path()),
            Self::Format { path: path(), what: "" },
            Self::LastSeal,
            Self::NoSeal(none()),
            Self::SealAway(none()),
            Self::SealExists(none()),
            Self::SealMissing(none()),
            Self::SealName,
            Self::SealUnknown(none()),
            Self::TooManySeals(0),
            Self::Key(KeyError::Generation),
            Self::Key(KeyError::Inconsistent),
            Self::Key(KeyError::Malformed),
            Self::Key(KeyError::NotOnCurve),
            Self::Key(KeyError::RsaExponent),
            Self::Key(KeyError::RsaModulus { bits: 0 }),
            Self::Key(KeyError::TooLong),
            Self::Key(KeyError::Unsupported),
            Self::Mode { path: path(), mode: 0 },
            Self::Io { path: path(), cause: std::io::ErrorKind::Other.into() },
            Self::Memory,
            Self::TooManyVersions(0),
            Self::Unwrap { context: none() },
            Self::Version(0),
            Self::WorkerGone(none()),
            Self::WorkerProtocol(""),
            Self::WorkerTraced(0),
            Self::WrongSeal(""),
            Self::WrongSealKind { expected: none(), given: "" },
        ]
    }

    pub(crate) fn io(path: &std::path::Path, cause: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), cause }
    }
}
