//! What the kernel and the user database know: `unix.*` selectors.
//!
//! | selector | value |
//! |---|---|
//! | `unix.uid`, `unix.user` | effective user, as number and name |
//! | `unix.gid`, `unix.group` | effective group, as number and name |
//! | `unix.supplementary_gid`, `unix.supplementary_group` | each other group |
//! | `unix.path` | path of the executable, if it means the same on the node as in the process |
//! | `unix.sha256` | digest of the executable that runs, in lower-case hexadecimal |
//!
//! The last two say what was started, not what runs by now: whoever has the process' user can preload
//! code into it, or take it over with `ptrace`.

use std::{
    collections::HashMap,
    fmt::Write,
    io::Read,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
};

use bonafide_attest::Selector;
use bonafide_crypto::digest::Sha256;
use futures_util::future::BoxFuture;
use nix::unistd::{Gid, Group, Uid, User};
use rustix::fs::{AtFlags, Stat, StatxFlags, fstat, statx};

use super::{Attestor, Findings, Subject};
use crate::process::Process;

/// Beyond this, none is told: a part of them would make matches a matter of chance.
const MAX_GROUPS: usize = 32;
/// Digests that are remembered.
const MAX_DIGESTS: usize = 1024;
/// The kernel's mark on the path of an executable that was unlinked.
const DELETED: &[u8] = b" (deleted)";

/// The `unix` attestor.
#[derive(Debug)]
pub struct UnixAttestor {
    files: Arc<Files>,
}

impl UnixAttestor {
    /// Hashes executables of at most `max_exe_bytes`; larger ones have no `unix.sha256`.
    pub fn new(max_exe_bytes: u64) -> Self {
        Self { files: Arc::new(Files { max_bytes: max_exe_bytes, digests: Mutex::default() }) }
    }
}

impl Attestor for UnixAttestor {
    fn name(&self) -> &'static str {
        "unix"
    }

    fn attest(&self, subject: Arc<Subject>) -> BoxFuture<'_, Findings> {
        let files = Arc::clone(&self.files);
        Box::pin(async move {
            // The user database and the executable may lie on a network.
            tokio::task::spawn_blocking(move || look(&subject, &files)).await.unwrap_or_else(|_| Findings {
                failures: vec!["`unix` failed".to_owned()],
                ..Findings::default()
            })
        })
    }
}

fn look(subject: &Subject, files: &Files) -> Findings {
    let mut findings = Findings::default();
    let credentials = &subject.credentials;
    findings.add("unix.uid", &credentials.uid.to_string());
    match User::from_uid(Uid::from_raw(credentials.uid)) {
        Ok(Some(user)) => findings.add("unix.user", &user.name),
        Ok(None) => {}
        Err(error) => findings.fail("unix.user", &error),
    }
    findings.add("unix.gid", &credentials.gid.to_string());
    findings.add_group("unix.group", credentials.gid);
    if credentials.groups.len() > MAX_GROUPS {
        findings.fail("unix.supplementary_gid", &format!("more than {MAX_GROUPS} groups"));
    } else {
        for gid in &credentials.groups {
            findings.add("unix.supplementary_gid", &gid.to_string());
            findings.add_group("unix.supplementary_group", *gid);
        }
    }
    match path_of(&subject.process) {
        Ok(path) => findings.add("unix.path", &path),
        Err(reason) => findings.fail("unix.path", &reason),
    }
    match files.digest(&subject.process) {
        Ok(digest) => {
            let mut text = String::with_capacity(64);
            for byte in digest {
                let _ = write!(text, "{byte:02x}");
            }
            findings.add("unix.sha256", &text);
        }
        Err(reason) => findings.fail("unix.sha256", &reason),
    }
    findings
}

impl Findings {
    pub(super) fn add(&mut self, key: &str, value: &str) {
        match Selector::new(key, value) {
            Ok(selector) => self.selectors.push(selector),
            Err(error) => self.fail(key, &error),
        }
    }

    fn add_group(&mut self, key: &str, gid: u32) {
        match Group::from_gid(Gid::from_raw(gid)) {
            Ok(Some(group)) => self.add(key, &group.name),
            Ok(None) => {}
            Err(error) => self.fail(key, &error),
        }
    }

    pub(super) fn fail(&mut self, key: &str, reason: &dyn std::fmt::Display) {
        self.failures.push(format!("`{key}`: {reason}"));
    }
}

/// Whoever may make a mount namespace puts any file at any path there, and a process outside of it can run that file
/// (through `/proc/<pid>/root`, or a descriptor); the same goes for a file system that was unmounted lazily. The path
/// counts only if the same file lies there on the node; or, once the file is deleted, if it lay on the file system that
/// its directory lies on.
fn path_of(process: &Process) -> Result<String, String> {
    let path = process.exe_path().map_err(|error| error.to_string())?;
    let exe = process.exe_status().map_err(|error| error.to_string())?;
    let path = if exe.st_nlink == 0 { path.strip_suffix(DELETED).unwrap_or(&path) } else { &path };
    let text = std::str::from_utf8(path).map_err(|_| "not UTF-8".to_owned())?;
    if !text.starts_with('/') {
        return Err("the file is outside of every mount".to_owned());
    }
    let here = rustix::fs::stat(text).map(|here| (here.st_dev, here.st_ino));
    let lay_here = || {
        let directory = std::path::Path::new(text).parent()?;
        Some(process.exe_mount().ok()? == mount_of(directory)?)
    };
    if here != Ok((exe.st_dev, exe.st_ino)) && !(exe.st_nlink == 0 && lay_here() == Some(true)) {
        return Err("another file lies there on the node".to_owned());
    }
    Ok(text.to_owned())
}

/// Which mount a path of the node leads to.
fn mount_of(path: &std::path::Path) -> Option<u64> {
    let status = statx(rustix::fs::CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    StatxFlags::from_bits_retain(status.stx_mask).contains(StatxFlags::MNT_ID).then_some(status.stx_mnt_id)
}

/// Digests of files, remembered as long as nothing about the file has changed.
#[derive(Debug)]
struct Files {
    max_bytes: u64,
    digests: Mutex<HashMap<FileState, Arc<Slot>>>,
}

/// Locked while somebody hashes.
type Slot = Mutex<Option<[u8; 32]>>;

/// What differs when a file has been written to. A change time can't be set by the file's owner.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct FileState {
    file: (u64, u64),
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    fn of(status: &Stat) -> Self {
        Self {
            file: (status.st_dev, status.st_ino),
            size: status.st_size,
            modified: (status.st_mtime, i64::try_from(status.st_mtime_nsec).unwrap_or(i64::MAX)),
            changed: (status.st_ctime, i64::try_from(status.st_ctime_nsec).unwrap_or(i64::MAX)),
        }
    }
}

impl Files {
    fn digest(&self, process: &Process) -> Result<[u8; 32], String> {
        let file = process.open_exe().map_err(|error| error.to_string())?;
        let state = status(&file)?;
        if u64::try_from(state.size).unwrap_or(u64::MAX) > self.max_bytes {
            return Err(format!("the executable is larger than {} bytes", self.max_bytes));
        }
        let slot = self.slot(state);
        // Of several launches of one file, the first one hashes and the others wait for it.
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = *slot {
            return Ok(digest);
        }
        let mut reader = std::fs::File::from(file).take(self.max_bytes);
        let digest = hash(&mut reader).map_err(|error| error.to_string())?;
        if status(reader.get_ref())? != state {
            return Err("the executable was written to meanwhile".to_owned());
        }
        *slot = Some(digest);
        Ok(digest)
    }

    fn slot(&self, state: FileState) -> Arc<Slot> {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if digests.len() >= MAX_DIGESTS && !digests.contains_key(&state) {
            // Rare, and cheap to make good: those that still run are hashed again at their next call.
            digests.clear();
        }
        Arc::clone(digests.entry(state).or_default())
    }
}

fn status(file: impl AsFd) -> Result<FileState, String> {
    fstat(file).map(|status| FileState::of(&status)).map_err(|error| error.to_string())
}

fn hash(reader: &mut impl Read) -> std::io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => hasher.update(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
