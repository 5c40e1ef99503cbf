//! What another process has used so far.

use std::{fs, io, time::Duration};

use nix::{time::ClockId, unistd::Pid};
use serde::Serialize;

/// A process on this machine, and those that it had started when this was made: an authority has one for its keys.
#[derive(Clone, Debug)]
pub struct Process(Vec<Member>);

#[derive(Clone, Copy, Debug)]
struct Member {
    id: u32,
    clock: ClockId,
}

/// CPU time and memory of processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Seconds of CPU time of all threads, since they started.
    pub cpu_seconds: f64,
    /// Bytes that are in memory now. What processes share counts for each.
    pub memory: u64,
    /// The most bytes that were in memory at once, of each.
    pub peak_memory: u64,
}

impl Process {
    /// By its number.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(id: u32) -> io::Result<Self> {
        let member = |id: u32| -> io::Result<Member> {
            let pid = Pid::from_raw(id.try_into().map_err(io::Error::other)?);
            Ok(Member { id, clock: ClockId::pid_cpu_clock_id(pid)? })
        };
        let mut members = vec![member(id)?];
        // One that has ended meanwhile costs nothing any more.
        members.extend(children(id)?.into_iter().filter_map(|child| member(child).ok()));
        Ok(Self(members))
    }

    /// CPU time of all threads, since they started.
    ///
    /// # Errors
    /// If a process has ended.
    pub fn cpu(&self) -> io::Result<Duration> {
        self.0.iter().map(|member| Ok(Duration::from(member.clock.now()?))).sum()
    }

    /// What it has used until now (proc_pid_status(5)).
    ///
    /// # Errors
    /// If a process has ended.
    pub fn usage(&self) -> io::Result<Usage> {
        let mut usage = Usage { cpu_seconds: self.cpu()?.as_secs_f64(), ..Usage::default() };
        for member in &self.0 {
            let status = fs::read_to_string(format!("/proc/{}/status", member.id))?;
            let bytes = |name: &str| {
                let kibibytes: Option<u64> = field(&status, name)?.strip_suffix(" kB")?.parse().ok();
                kibibytes.map(|kibibytes| kibibytes * 1024)
            };
            let missing = || io::Error::other("the kernel does not tell its memory");
            usage.memory += bytes("VmRSS").ok_or_else(missing)?;
            usage.peak_memory += bytes("VmHWM").ok_or_else(missing)?;
        }
        Ok(usage)
    }
}

/// The processes that this one has started, and that have not ended.
fn children(parent: u32) -> io::Result<Vec<u32>> {
    let parent = parent.to_string();
    let child = |entry: io::Result<fs::DirEntry>| -> Option<u32> {
        let entry = entry.ok()?;
        let id = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        (field(&status, "PPid")? == parent).then_some(id)
    };
    Ok(fs::read_dir("/proc")?.filter_map(child).collect())
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
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

    #[test]
    fn what_it_has_started_counts() {
        let alone = Process::of(std::process::id()).unwrap().0.len();
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let both = Process::of(std::process::id()).unwrap();
        assert!(both.0.len() > alone && both.0.iter().any(|member| member.id == child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
