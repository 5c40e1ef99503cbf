//! A control group that bounds the memory of a process.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::case::Skipped;

/// Gone when dropped; nothing may run in it then.
#[derive(Debug)]
pub(crate) struct Cage(PathBuf);

impl Cage {
    /// Of so many bytes. Below the group of this process, in whichever hierarchy has the memory controller.
    pub(crate) fn new(bytes: u64) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let in_hierarchy = |line: &str| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let path = path.trim_start_matches('/');
            if controllers.split(',').any(|name| name == "memory") {
                Some((Path::new("/sys/fs/cgroup/memory").join(path), "memory.limit_in_bytes"))
            } else if controllers.is_empty() {
                Some((Path::new("/sys/fs/cgroup").join(path), "memory.max"))
            } else {
                None
            }
        };
        for (parent, limit) in own.lines().filter_map(in_hierarchy) {
            let cage = parent.join(format!("bonafide-chaos-{}", std::process::id()));
            if fs::create_dir(&cage).is_err() {
                continue;
            }
            let cage = Self(cage);
            if fs::write(cage.0.join(limit), bytes.to_string()).is_ok() {
                return Ok(cage);
            }
        }
        Err(Skipped("no control group for memory can be made here".to_owned()).into())
    }

    /// A process that writes its number there is in it, with all that it starts.
    pub(crate) fn door(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// The most bytes that were in use at once.
    pub(crate) fn peak(&self) -> Result<u64> {
        let peak = ["memory.max_usage_in_bytes", "memory.peak"];
        let read = peak.iter().find_map(|name| fs::read_to_string(self.0.join(name)).ok());
        Ok(read.context("the control group does not tell its peak")?.trim().parse()?)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
