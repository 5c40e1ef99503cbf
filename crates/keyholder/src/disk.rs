//! Files of a keyholder: each there as it was or as it is to be, and what is destroyed overwritten first.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::Refusal;

/// What a file is called until it is whole.
const UNFINISHED: &str = ".new";
/// What names of seal keys begin with.
const SEAL: &str = "seal-";
/// No file of ours is longer.
const MAX: u64 = 2 << 20;

/// The data directory.
#[derive(Clone, Debug)]
pub(crate) struct Disk(PathBuf);

impl Disk {
    pub(crate) fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Makes the directory.
    pub(crate) fn create(&self) -> Result<(), Refusal> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.map_err(|cause| failed(&self.0, &cause))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file, or replaces it. It is durable then.
    pub(crate) fn put(&self, name: &str, content: &[u8]) -> Result<(), Refusal> {
        let (path, unfinished) = (self.path(name), self.path(&format!("{name}{UNFINISHED}")));
        let options =
            || OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
        options()
            .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&unfinished, &path))
            .and_then(|()| self.sync())
            .map_err(|cause| failed(&path, &cause))
    }

    /// Overwrites a file and removes it. Where the disk or its file system keeps old blocks, or has snapshots, that is not all:
    /// what was in the file is wrapped by the keyring, whose seal should be elsewhere.
    pub(crate) fn erase(&self, name: &str) -> Result<(), Refusal> {
        let path = self.path(name);
        let erased = OpenOptions::new().write(true).open(&path).and_then(|mut file| {
            let length = usize::try_from(file.metadata()?.len().min(MAX)).unwrap_or(0);
            file.write_all(&vec![0; length])?;
            file.sync_all()?;
            fs::remove_file(&path)?;
            self.sync()
        });
        match erased {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            erased => erased.map_err(|cause| failed(&path, &cause)),
        }
    }

    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, Refusal> {
        let path = self.path(name);
        let length = fs::metadata(&path).map_err(|cause| failed(&path, &cause))?.len();
        if length > MAX {
            return Err(failed(&path, &io::ErrorKind::FileTooLarge.into()));
        }
        fs::read(&path).map_err(|cause| failed(&path, &cause))
    }

    /// The seal keys of all epochs. What was never finished is removed.
    pub(crate) fn seals(&self) -> Result<BTreeMap<String, Bytes>, Refusal> {
        let mut seals = BTreeMap::new();
        for entry in fs::read_dir(&self.0).map_err(|cause| failed(&self.0, &cause))? {
            let name = entry.map_err(|cause| failed(&self.0, &cause))?.file_name();
            let Some(name) = name.to_str().filter(|name| name.starts_with(SEAL) && *name != "seal.key")
            else {
                continue;
            };
            if name.ends_with(UNFINISHED) {
                self.erase(name)?;
            } else {
                seals.insert(name.to_owned(), self.read(name)?.into());
            }
        }
        Ok(seals)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

fn failed(path: &Path, cause: &io::Error) -> Refusal {
    Refusal::new(
        "keyholder.disk",
        format!("`{}`: {cause}", path.display()),
        "see that the disk has room, and that the directory belongs to the keyholder's user",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_as_a_whole_and_erased() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path());
        disk.put("seal-1-1", b"one").unwrap();
        disk.put("seal-1-1", b"another").unwrap();
        fs::write(disk.path("seal-1-2.new"), b"half").unwrap();
        assert_eq!(disk.seals().unwrap().into_keys().collect::<Vec<_>>(), ["seal-1-1"]);
        assert_eq!(disk.read("seal-1-1").unwrap(), b"another");
        disk.erase("seal-1-1").unwrap();
        disk.erase("seal-1-1").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
