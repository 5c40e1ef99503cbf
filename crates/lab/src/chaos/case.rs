//! What a case is, where it plays, and what it reports.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use anyhow::{Context, Result};
use bonafide_crypto::random::{Random, SystemRandom};
use nix::unistd::geteuid;
use serde::Serialize;

/// A fault, and what must hold nevertheless.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What is done.
    pub(crate) fault: &'static str,
    /// What must hold.
    pub(crate) promise: &'static str,
    /// Whether a smaller form of it takes a few seconds.
    pub(crate) short: bool,
    pub(crate) run: for<'a> fn(&'a Stage) -> Playing<'a>,
}

pub(crate) type Playing<'a> = Pin<Box<dyn Future<Output = Result<Report>> + 'a>>;

/// The figure of a case in which everything held, unless the figure is too large.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) at_most: Option<f64>,
    /// What the figure is, and what else was counted.
    pub(crate) what: String,
}

/// What became of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Failed,
    Held,
    Skipped,
}

/// Why a case can't be played on this machine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Skipped(pub(crate) String);

/// Where one case plays.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) short: bool,
    disk: tempfile::TempDir,
    memory: tempfile::TempDir,
    program: PathBuf,
}

impl Stage {
    /// `directory` is on a disk. The program was built beside this one.
    pub(crate) fn new(directory: &Path, short: bool) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("bonafide");
        program
            .exists()
            .then_some(())
            .with_context(|| format!("`{}` is missing: build it", program.display()))?;
        let prefix = "bonafide-chaos-";
        let memory = Path::new("/dev/shm");
        let memory = if memory.is_dir() { memory } else { directory };
        let memory = tempfile::Builder::new().prefix(prefix).tempdir_in(memory)?;
        // Other users must find the agent's socket.
        std::fs::set_permissions(memory.path(), std::fs::Permissions::from_mode(0o711))?;
        Ok(Self {
            short,
            disk: tempfile::Builder::new().prefix(prefix).tempdir_in(directory)?,
            memory,
            program,
        })
    }

    /// On the disk.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }

    /// In memory, where agents keep their keys.
    pub(crate) fn memory(&self, name: &str) -> PathBuf {
        self.memory.path().join(name)
    }

    /// `bonafide`.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// How often something is done.
    pub(crate) const fn times(&self, all: usize, short: usize) -> usize {
        if self.short { short } else { all }
    }
}

/// Between two durations, by lot.
pub(crate) fn between(least: Duration, most: Duration) -> Duration {
    let random: &dyn Random = &SystemRandom;
    let share = f64::from(u32::from_le_bytes(random.array())) / f64::from(u32::MAX);
    least + most.saturating_sub(least).mul_f64(share)
}

/// A number below `end`, by lot.
pub(crate) fn below(end: u32) -> u32 {
    let random: &dyn Random = &SystemRandom;
    u32::from_le_bytes(random.array()) % end.max(1)
}

/// Some faults only root can make.
pub(crate) fn need_root() -> Result<()> {
    geteuid().is_root().then_some(()).ok_or_else(|| Skipped("only root can do this".to_owned()).into())
}
