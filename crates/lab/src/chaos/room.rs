//! A small disk, which can be filled.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::case::need_root;

/// A file system of its own. Gone when dropped.
#[derive(Debug)]
pub(crate) struct Room(PathBuf);

impl Room {
    /// Of so many bytes, at `path`.
    pub(crate) fn at(path: &Path, bytes: u64) -> Result<Self> {
        need_root()?;
        fs::create_dir_all(path)?;
        let options = format!("size={bytes},mode=0700");
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("mount a tmpfs at `{}`", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// Takes all of the space that is left.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.ballast())?;
        for chunk in [64 * 1024, 4096, 1] {
            let bytes = vec![7; chunk];
            loop {
                match ballast.write_all(&bytes) {
                    Ok(()) => {}
                    Err(cause) if cause.kind() == ErrorKind::StorageFull => break,
                    Err(cause) => return Err(cause.into()),
                }
            }
        }
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Whoever has files open there ends soon.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
