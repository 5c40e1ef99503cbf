//! The data directory: what lets an agent restart while its authority is down.
//!
//! One file for each instance, so that a renewal costs one small write. Files are written whole under
//! another name and renamed; none is synced, since nothing here is worth anything after a reboot.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use bonafide_attest::SelectorSet;
use bonafide_identity::{InstanceId, TrustDomain, time::UnixTime};
use bonafide_wire::{node::Update, types};
use bytes::Bytes;
use prost::Message;
use rustix::fs::{FlockOperation, flock};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    convert,
    core::{LaunchKey, Saved, SavedKey, claim::Binding},
    process::{self, Image},
};

/// Largest file that is read back.
const MAX_FILE: u64 = 512 << 20;
const NODE: &str = "node";
const VIEW: &str = "view";
const INSTANCES: &str = "instances";
const WITNESSED: &str = "witnessed";

/// An open data directory. Held by one agent at a time: two would hand out the same unassigned keys.
#[derive(Debug)]
pub(crate) struct Storage {
    directory: PathBuf,
    boot: String,
    on_tmpfs: bool,
    lock: File,
}

/// The agent's own SVID, and whom it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct SavedNode {
    pub(crate) address: String,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) site: String,
    pub(crate) chain: Vec<Bytes>,
    pub(crate) key: SavedKey,
    pub(crate) renew_after: UnixTime,
    pub(crate) bundle: Bytes,
    /// Digest of the token that it joined with: another one asks for another SVID.
    pub(crate) joined_with: Vec<u8>,
}

/// The data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Reading or writing failed.
    #[error("cannot {what} `{path}`: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read or write it.
    #[error("`{path}` is not the agent's alone: it needs mode 0700 and the agent's user as owner")]
    Open {
        /// The directory.
        path: PathBuf,
    },
    /// Others may replace it.
    #[error("whoever may write to `{path}` can replace the agent's data directory")]
    Replaceable {
        /// A directory above.
        path: PathBuf,
    },
    /// Another agent runs on it.
    #[error("another agent uses `{path}`")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

impl StorageError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "agent.storage",
            Self::Open { .. } => "agent.storage-open",
            Self::Replaceable { .. } => "agent.storage-replaceable",
            Self::InUse { .. } => "agent.storage-in-use",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "look at the directory's owner, mode and free space",
            Self::Open { .. } => "`chmod 0700` it, or name another `data_dir`",
            Self::Replaceable { .. } => {
                "name a `data_dir` below directories that belong to root or the agent's user, and that only they may write to"
            }
            Self::InUse { .. } => "stop the other agent, or name another `data_dir`",
        }
    }
}

impl Storage {
    /// Opens a data directory, and makes it if there is none.
    pub(crate) fn open(directory: &Path) -> Result<Self, StorageError> {
        let create = |path: &Path| {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(path).map_err(io_error("create", path))
        };
        create(directory)?;
        let status = fs::symlink_metadata(directory).map_err(io_error("look at", directory))?;
        let own = rustix::process::geteuid().as_raw() == status.uid();
        if !status.is_dir() || !own || status.permissions().mode() & 0o077 != 0 {
            return Err(StorageError::Open { path: directory.to_owned() });
        }
        check_above(directory)?;
        create(&directory.join(INSTANCES))?;
        let lock_path = directory.join("lock");
        let mut options = OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.map_err(io_error("open", &lock_path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StorageError::InUse { path: directory.to_owned() });
        }
        let boot = process::boot_id().map_err(io_error("read the boot ID for", directory))?;
        Ok(Self { directory: directory.to_owned(), boot, on_tmpfs: is_volatile(directory), lock })
    }

    /// Whether what is stored goes with the next reboot.
    pub(crate) fn is_volatile(&self) -> bool {
        self.on_tmpfs
    }

    /// Lets another agent use the directory. Nothing may be written any more.
    pub(crate) fn release(&self) {
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }

    pub(crate) fn load_node(&self) -> Option<SavedNode> {
        let stored = NodeFile::decode(self.read(&self.directory.join(NODE))?.as_slice()).ok()?;
        Some(SavedNode {
            trust_domain: stored.trust_domain.parse().ok()?,
            site: stored.site,
            address: stored.address,
            chain: stored.chain,
            key: SavedKey(Zeroizing::new(stored.key)),
            renew_after: UnixTime::from_secs(stored.renew_after),
            bundle: stored.bundle,
            joined_with: stored.joined_with,
        })
    }

    pub(crate) fn save_node(&self, node: &SavedNode) -> Result<(), StorageError> {
        let mut file = NodeFile {
            address: node.address.clone(),
            trust_domain: node.trust_domain.to_string(),
            site: node.site.clone(),
            chain: node.chain.clone(),
            key: node.key.0.to_vec(),
            renew_after: node.renew_after.as_secs(),
            bundle: node.bundle.clone(),
            joined_with: node.joined_with.clone(),
        };
        let written = self.write(&self.directory.join(NODE), &file);
        file.key.zeroize();
        written
    }

    pub(crate) fn load_view(&self) -> Option<Update> {
        Update::decode(self.read(&self.directory.join(VIEW))?.as_slice()).ok()
    }

    pub(crate) fn save_view(&self, view: &Update) -> Result<(), StorageError> {
        self.write(&self.directory.join(VIEW), view)
    }

    /// Checkpoints of the authority's ledgers, each after its key.
    pub(crate) fn load_witnessed(&self) -> Vec<(String, String)> {
        let file = self.read(&self.directory.join(WITNESSED));
        let stored = file.and_then(|bytes| WitnessedFile::decode(bytes.as_slice()).ok()).unwrap_or_default();
        stored.ledgers.into_iter().map(|ledger| (ledger.key, ledger.note)).collect()
    }

    /// Synced, unlike all else: where the directory is not on a tmpfs, it is of use after a reboot.
    pub(crate) fn save_witnessed(&self, ledgers: Vec<(String, String)>) -> Result<(), StorageError> {
        let ledgers = ledgers.into_iter().map(|(key, note)| WitnessedLedger { key, note }).collect();
        let path = self.directory.join(WITNESSED);
        self.write(&path, &WitnessedFile { ledgers })?;
        let sync = || {
            File::open(&path)?.sync_all()?;
            File::open(&self.directory)?.sync_all()
        };
        sync().map_err(io_error("sync", &path))
    }

    /// Everything that makes sense; what does not is removed.
    pub(crate) fn load_instances(&self) -> Result<Vec<Saved>, StorageError> {
        let path = self.directory.join(INSTANCES);
        let mut instances = Vec::new();
        for entry in fs::read_dir(&path).map_err(io_error("list", &path))? {
            let entry = entry.map_err(io_error("list", &path))?;
            let stored = self
                .read(&entry.path())
                .and_then(|bytes| InstanceFile::decode(bytes.as_slice()).ok())
                .and_then(|file| file.into_saved(&self.boot));
            match stored {
                Some(saved) => instances.push(saved),
                None => self.remove(&entry.path())?,
            }
        }
        Ok(instances)
    }

    pub(crate) fn save_instance(&self, saved: &Saved) -> Result<(), StorageError> {
        let mut file = InstanceFile::of(saved, &self.boot);
        let written = self.write(&self.instance_path(saved.id), &file);
        file.key.zeroize();
        file.successor_key.zeroize();
        written
    }

    pub(crate) fn forget_instance(&self, id: InstanceId) -> Result<(), StorageError> {
        self.remove(&self.instance_path(id))
    }

    /// The authority has banned this agent: nothing is kept.
    pub(crate) fn forget_all(&self) -> Result<(), StorageError> {
        self.remove(&self.directory.join(NODE))?;
        self.remove(&self.directory.join(VIEW))?;
        self.remove(&self.directory.join(WITNESSED))?;
        for saved in self.load_instances()? {
            self.forget_instance(saved.id)?;
        }
        Ok(())
    }

    fn instance_path(&self, id: InstanceId) -> PathBuf {
        self.directory.join(INSTANCES).join(id.to_string())
    }

    fn read(&self, path: &Path) -> Option<Zeroizing<Vec<u8>>> {
        let file = File::open(path).ok()?;
        let size = file.metadata().ok()?.len();
        if size > MAX_FILE {
            return None;
        }
        // Sized once, so that no copy of a key stays behind in a smaller buffer.
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).ok()?.saturating_add(1)));
        file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn write(&self, path: &Path, message: &impl Message) -> Result<(), StorageError> {
        let bytes = Zeroizing::new(message.encode_to_vec());
        let temporary = self.directory.join("writing");
        let mut options = OpenOptions::new();
        let written = (|| {
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // Always a file of our own, with no more rights than the umask leaves of these.
            let mut file = options.write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(&bytes)?;
            fs::rename(&temporary, path)
        })();
        written.map_err(io_error("write", path))
    }

    fn remove(&self, path: &Path) -> Result<(), StorageError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
            _ => Ok(()),
        }
    }
}

/// Whoever may rename the directory can put another one in its place.
fn check_above(directory: &Path) -> Result<(), StorageError> {
    let real = fs::canonicalize(directory).map_err(io_error("look at", directory))?;
    let us = rustix::process::geteuid().as_raw();
    for path in real.ancestors().skip(1) {
        let status = fs::metadata(path).map_err(io_error("look at", path))?;
        let (others_write, sticky) = (status.mode() & 0o022 != 0, status.mode() & 0o1000 != 0);
        if ![0, us].contains(&status.uid()) || (others_write && !sticky) {
            return Err(StorageError::Replaceable { path: path.to_owned() });
        }
    }
    Ok(())
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::Io { what, path, source }
}

/// `statfs(2)`: tmpfs and ramfs.
fn is_volatile(path: &Path) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    rustix::fs::statfs(path).is_ok_and(|status| [TMPFS, RAMFS].contains(&status.f_type))
}

#[derive(Clone, PartialEq, Message)]
struct NodeFile {
    #[prost(string, tag = "1")]
    address: String,
    #[prost(string, tag = "2")]
    trust_domain: String,
    #[prost(string, tag = "3")]
    site: String,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    chain: Vec<Bytes>,
    #[prost(bytes = "vec", tag = "5")]
    key: Vec<u8>,
    #[prost(int64, tag = "6")]
    renew_after: i64,
    #[prost(bytes = "bytes", tag = "7")]
    bundle: Bytes,
    #[prost(bytes = "vec", tag = "8")]
    joined_with: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WitnessedFile {
    #[prost(message, repeated, tag = "1")]
    ledgers: Vec<WitnessedLedger>,
}

#[derive(Clone, PartialEq, Message)]
struct WitnessedLedger {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    note: String,
}

#[derive(Clone, PartialEq, Message)]
struct InstanceFile {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    registration: String,
    #[prost(uint64, tag = "3")]
    revision: u64,
    #[prost(message, repeated, tag = "4")]
    selectors: Vec<types::Selector>,
    #[prost(uint64, tag = "5")]
    generation: u64,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    chain: Vec<Bytes>,
    #[prost(bytes = "vec", tag = "7")]
    key: Vec<u8>,
    #[prost(int64, tag = "8")]
    renew_after: i64,
    #[prost(message, optional, tag = "9")]
    binding: Option<BindingFile>,
    #[prost(bytes = "vec", tag = "10")]
    successor_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "11")]
    successor_nonce: Vec<u8>,
    #[prost(int64, optional, tag = "12")]
    ended_at: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct BindingFile {
    /// Start times and process numbers count within one boot.
    #[prost(string, tag = "1")]
    boot: String,
    #[prost(int32, tag = "2")]
    pid: i32,
    /// Start time, device, inode, and the five of the layout.
    #[prost(uint64, repeated, tag = "3")]
    image: Vec<u64>,
    #[prost(message, repeated, tag = "4")]
    selectors: Vec<types::Selector>,
    #[prost(int64, tag = "5")]
    launched_at: i64,
    #[prost(bool, tag = "6")]
    reported: bool,
}

impl InstanceFile {
    fn of(saved: &Saved, boot: &str) -> Self {
        let (successor_key, successor_nonce) = match &saved.successor {
            Some((key, nonce)) => (key.0.to_vec(), nonce.to_vec()),
            None => Default::default(),
        };
        Self {
            id: saved.id.as_bytes().to_vec(),
            registration: saved.registration.clone(),
            revision: saved.revision,
            selectors: convert::to_wire(&saved.selectors),
            generation: saved.generation,
            chain: saved.chain.clone(),
            key: saved.key.0.to_vec(),
            renew_after: saved.renew_after.as_secs(),
            binding: saved.binding.as_ref().map(|binding| BindingFile::of(binding, boot)),
            successor_key,
            successor_nonce,
            ended_at: saved.ended_at.map(UnixTime::as_secs),
        }
    }

    fn into_saved(self, boot: &str) -> Option<Saved> {
        let binding = match self.binding {
            Some(binding) => Some(binding.into_binding(boot)?),
            None => None,
        };
        let successor = match self.successor_key.is_empty() {
            true => None,
            false => {
                Some((SavedKey(Zeroizing::new(self.successor_key)), self.successor_nonce.try_into().ok()?))
            }
        };
        Some(Saved {
            id: InstanceId::from_bytes(self.id.try_into().ok()?),
            registration: self.registration,
            revision: self.revision,
            selectors: convert::selectors(&self.selectors)?,
            generation: self.generation,
            chain: self.chain,
            key: SavedKey(Zeroizing::new(self.key)),
            renew_after: UnixTime::from_secs(self.renew_after),
            binding,
            successor,
            ended_at: self.ended_at.map(UnixTime::from_secs),
        })
    }
}

impl BindingFile {
    fn of(binding: &Binding, boot: &str) -> Self {
        let image = binding.launch.image;
        let mut numbers = vec![image.start_time, image.exe_device, image.exe_inode];
        numbers.extend(image.layout);
        Self {
            boot: boot.to_owned(),
            pid: binding.launch.pid,
            image: numbers,
            selectors: convert::to_wire(&binding.selectors),
            launched_at: binding.launched_at.as_secs(),
            reported: binding.reported,
        }
    }

    /// None for a launch of another boot: it is over.
    fn into_binding(self, boot: &str) -> Option<Binding> {
        let [start_time, exe_device, exe_inode, layout @ ..] = <[u64; 8]>::try_from(self.image).ok()?;
        let selectors: SelectorSet = convert::selectors(&self.selectors)?;
        (self.boot == boot).then_some(Binding {
            launch: LaunchKey { pid: self.pid, image: Image { start_time, exe_device, exe_inode, layout } },
            selectors,
            launched_at: UnixTime::from_secs(self.launched_at),
            reported: self.reported,
        })
    }
}

#[cfg(test)]
mod tests {
    use bonafide_crypto::{key::KeyAlgorithm, key::PrivateKey};

    use super::*;

    fn saved(ended: bool) -> Saved {
        let key = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
        let selectors = SelectorSet::from_pairs([("unix.uid", "1")]).unwrap();
        let image = Image { start_time: 1, exe_device: 2, exe_inode: 3, layout: [4, 5, 6, 7, 8] };
        Saved {
            id: InstanceId::from_bytes([7; 16]),
            registration: "web".into(),
            revision: 3,
            selectors: selectors.clone(),
            generation: 2,
            chain: vec![Bytes::from_static(b"leaf"), Bytes::from_static(b"intermediate")],
            key: SavedKey(key.to_pkcs8_der()),
            renew_after: UnixTime::from_secs(10),
            binding: Some(Binding {
                launch: LaunchKey { pid: 5, image },
                selectors,
                launched_at: UnixTime::from_secs(9),
                reported: true,
            }),
            successor: Some((SavedKey(key.to_pkcs8_der()), [1; 16])),
            ended_at: ended.then(|| UnixTime::from_secs(11)),
        }
    }

    #[test]
    fn what_is_stored_comes_back_and_nobody_else_can_read_it() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        let storage = Storage::open(&directory).unwrap();
        for ended in [false, true] {
            let saved = saved(ended);
            storage.save_instance(&saved).unwrap();
            let loaded = storage.load_instances().unwrap().remove(0);
            assert_eq!(loaded.binding, saved.binding);
            assert_eq!(*loaded.key.0, *saved.key.0);
            assert_eq!(loaded.successor.map(|(_, nonce)| nonce), Some([1; 16]));
            assert_eq!((loaded.chain, loaded.ended_at), (saved.chain, saved.ended_at));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&storage.instance_path(saved(false).id)), 0o600);
        assert_eq!(mode(&directory.join("lock")), 0o600);
    }

    #[test]
    fn launches_of_another_boot_are_forgotten() {
        let parent = tempfile::tempdir().unwrap();
        let mut storage = Storage::open(&parent.path().join("state")).unwrap();
        storage.save_instance(&saved(false)).unwrap();
        storage.boot = "another".into();
        assert!(storage.load_instances().unwrap().is_empty());
        assert!(!storage.instance_path(saved(false).id).exists());
    }

    #[test]
    fn a_directory_is_one_agents_and_nobody_elses() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        let storage = Storage::open(&directory).unwrap();
        assert!(matches!(Storage::open(&directory), Err(StorageError::InUse { .. })));
        drop(storage);
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(Storage::open(&directory), Err(StorageError::Open { .. })));
    }

    #[test]
    fn nobody_else_may_replace_it() {
        let parent = tempfile::tempdir().unwrap();
        let open = parent.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = |path: &Path| matches!(Storage::open(path), Err(StorageError::Replaceable { .. }));
        assert!(refused(&open.join("state")) && refused(&open.join("more/state")));
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(!refused(&open.join("state")));
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&open, Some(12_345), None).unwrap();
            assert!(refused(&open.join("state")));
        }
    }

    /// Else who has put it there could read what is written.
    #[test]
    fn a_file_that_was_there_before_is_not_written_to() {
        let parent = tempfile::tempdir().unwrap();
        let storage = Storage::open(&parent.path().join("state")).unwrap();
        let (planted, kept) = (storage.directory.join("writing"), parent.path().join("kept"));
        fs::write(&planted, "").unwrap();
        fs::hard_link(&planted, &kept).unwrap();
        storage.save_instance(&saved(false)).unwrap();
        assert_eq!(fs::read(kept).unwrap(), b"");
    }

    #[test]
    fn damaged_files_are_no_instances() {
        let parent = tempfile::tempdir().unwrap();
        let storage = Storage::open(&parent.path().join("state")).unwrap();
        fs::write(storage.directory.join(INSTANCES).join("x"), [0xff; 40]).unwrap();
        assert!(storage.load_instances().unwrap().is_empty());
        assert!(storage.load_node().is_none() && storage.load_view().is_none());
    }
}
