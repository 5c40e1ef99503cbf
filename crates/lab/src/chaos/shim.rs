//! Faults of disk and clock below a real process: a small library that is preloaded into it.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::case::Skipped;

const SOURCE: &str = include_str!("shim.c");

/// Where the library of a process reads what it shall do.
#[derive(Debug)]
pub(crate) struct Shim {
    library: PathBuf,
    path: PathBuf,
    page: File,
}

/// What can be told: 64-bit numbers, one after the other. As in `shim.c`.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Clock,
    SyncFails,
    WriteTears,
    TearPerMille,
    Where,
    SyncDelay,
    Hits,
}

/// The files that a fault is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Files {
    Store = 1,
    Ledger = 2,
}

impl Shim {
    /// Compiles the library into `directory`.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let (source, library) = (directory.join("shim.c"), directory.join("shim.so"));
        std::fs::write(&source, SOURCE)?;
        compile(&["-shared", "-fPIC", "-ldl"], &source, &library)?;
        Self::with(library, directory.join("shim.page"))
    }

    /// The same library for another process.
    pub(crate) fn another(&self, name: &str) -> Result<Self> {
        Self::with(self.library.clone(), self.path.with_extension(name))
    }

    fn with(library: PathBuf, path: PathBuf) -> Result<Self> {
        let page = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
        page.set_len(4096)?;
        Ok(Self { library, path, page })
    }

    /// What a process needs in its environment.
    pub(crate) fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![("LD_PRELOAD", self.library.clone()), ("BONAFIDE_CHAOS_SHIM", self.path.clone())]
    }

    /// The wall clock of the process goes wrong by so many seconds.
    pub(crate) fn shift_clock(&self, seconds: i64) -> Result<()> {
        self.tell(Slot::Clock, seconds)
    }

    /// The `nth` sync from now on fails, once.
    pub(crate) fn fail_sync(&self, files: Files, nth: i64) -> Result<()> {
        self.tell(Slot::Where, files as i64)?;
        self.tell(Slot::SyncFails, nth)
    }

    /// Of the `nth` write from now on only a part reaches the disk; the process is gone at once.
    pub(crate) fn tear_write(&self, files: Files, nth: i64, per_mille: i64) -> Result<()> {
        self.tell(Slot::Where, files as i64)?;
        self.tell(Slot::TearPerMille, per_mille)?;
        self.tell(Slot::WriteTears, nth)
    }

    /// How many faults have happened.
    pub(crate) fn hits(&self) -> Result<i64> {
        let mut bytes = [0; 8];
        self.page.read_exact_at(&mut bytes, Slot::Hits as u64 * 8)?;
        Ok(i64::from_ne_bytes(bytes))
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&self) -> Result<()> {
        for slot in [Slot::Clock, Slot::SyncFails, Slot::WriteTears, Slot::SyncDelay] {
            self.tell(slot, 0)?;
        }
        Ok(())
    }

    fn tell(&self, slot: Slot, value: i64) -> Result<()> {
        Ok(self.page.write_all_at(&value.to_ne_bytes(), slot as u64 * 8)?)
    }
}

/// Runs the C compiler.
pub(crate) fn compile(flags: &[&str], source: &Path, out: &Path) -> Result<()> {
    let compiled = Command::new("cc").args(["-O2", "-Wall", "-o"]).arg(out).arg(source).args(flags).output();
    let compiled = compiled.map_err(|_| Skipped("there is no C compiler `cc`".to_owned()))?;
    let said = String::from_utf8_lossy(&compiled.stderr);
    compiled.status.success().then_some(()).with_context(|| format!("cc: {said}"))
}
