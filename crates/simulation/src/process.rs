//! What another process has used so far.

use std::{fs, io, time::Duration};

use nix::{time::ClockId, unistd::Pid};
use serde::Serialize;

/// A process on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    id: u32,
    clock: ClockId,
}

/// CPU time and memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Seconds of CPU time of all of its threads, since it started.
    pub cpu_seconds: f64,
    /// Bytes that are in memory now.
    pub memory: u64,
    /// The most bytes that were in memory at once.
    pub peak_memory: u64,
}

impl Process {
    /// By its number.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(id: u32) -> io::Result<Self> {
        let pid = Pid::from_raw(id.try_into().map_err(io::Error::other)?);
        Ok(Self { id, clock: ClockId::pid_cpu_clock_id(pid)? })
    }

    /// CPU time of all of its threads, since it started.
    ///
    /// # Errors
    /// If it has ended.
    pub fn cpu(self) -> io::Result<Duration> {
        Ok(self.clock.now()?.into())
    }

    /// What it has used until now (proc_pid_status(5)).
    ///
    /// # Errors
    /// If it has ended.
    pub fn usage(self) -> io::Result<Usage> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id))?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kibibytes: Option<u64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
            kibibytes.map(|kibibytes| kibibytes * 1024)
        };
        let missing = || io::Error::other("the kernel does not tell its memory");
        Ok(Usage {
            cpu_seconds: self.cpu()?.as_secs_f64(),
            memory: bytes("VmRSS").ok_or_else(missing)?,
            peak_memory: bytes("VmHWM").ok_or_else(missing)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = Process::of(std::process::id()).unwrap().usage().unwrap();
        assert!(usage.cpu_seconds > 0.0);
        assert!(usage.memory > 100_000 && usage.peak_memory >= usage.memory);
    }
}
