//! CPU time: what an operation costs, whoever else keeps the machine busy.

use std::time::Duration;

use anyhow::Result;
use nix::{
    time::{ClockId, clock_getcpuclockid},
    unistd::Pid,
};

/// A clock that runs while something works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock(ClockId);

impl CpuClock {
    /// This thread's.
    pub(crate) const fn thread() -> Self {
        Self(ClockId::CLOCK_THREAD_CPUTIME_ID)
    }

    /// This process', with all of its threads.
    pub(crate) const fn process() -> Self {
        Self(ClockId::CLOCK_PROCESS_CPUTIME_ID)
    }

    /// Another process', with all of its threads.
    pub(crate) fn of(process: u32) -> Result<Self> {
        Ok(Self(clock_getcpuclockid(Pid::from_raw(process.try_into()?))?))
    }

    /// What it has used so far.
    pub(crate) fn now(self) -> Result<Duration> {
        Ok(self.0.now()?.into())
    }
}
