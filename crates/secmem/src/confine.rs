//! Taking away from a process what it does not need.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::RawFd;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

use crate::harden_process;

/// What a process that holds keys still needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Confinement {
    /// It speaks over the network, as some modules of devices do. Else it gets an empty network, and no sockets.
    pub network: bool,
    /// It runs code of others, such as the module of a device: Unix sockets, and files that only root may read, stay.
    pub foreign_code: bool,
}

/// A protection that this system did not grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing(&'static str);

impl Missing {
    /// The protection's name in kebab case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }

    const SIGNALS: Self = Self("own-end");
    const NOT_DUMPABLE: Self = Self("not-dumpable");
    const NO_CORE: Self = Self("no-core");
    const DIES_WITH_PARENT: Self = Self("dies-with-parent");
    const DESCRIPTORS: Self = Self("closed-descriptors");
    const NETWORK: Self = Self("no-network");
    const LOCKED: Self = Self("locked-memory");
    const PRIVILEGES: Self = Self("no-new-privileges");
    const CAPABILITIES: Self = Self("no-capabilities");
    const SECCOMP: Self = Self("seccomp");
    const FILES: Self = Self("no-files");
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Confinement {
    /// Confines this process, as far as the system allows; says what it did not allow. To be called before there is a
    /// second thread and before there is a secret. Descriptors other than the first three are closed.
    #[must_use]
    pub fn enter(self) -> Vec<Missing> {
        let mut missing = Vec::new();
        let mut note = |done: bool, what: Missing| {
            if !done {
                missing.push(what);
            }
        };
        note(close_descriptors().is_ok(), Missing::DESCRIPTORS);
        note(defer_signals(), Missing::SIGNALS);
        // Before the network: where that takes a user namespace, this process has privileges in there alone.
        note(lock_memory(), Missing::LOCKED);
        if !self.network {
            note(leave_network(), Missing::NETWORK);
        }
        note(set_no_new_privs(true).is_ok(), Missing::PRIVILEGES);
        note(self.drop_capabilities(), Missing::CAPABILITIES);
        // Changes of credentials reset what follows.
        note(set_parent_process_death_signal(Some(Signal::KILL)).is_ok(), Missing::DIES_WITH_PARENT);
        let hardening = harden_process();
        note(hardening.not_dumpable, Missing::NOT_DUMPABLE);
        note(hardening.no_core, Missing::NO_CORE);
        note(self.deny_at_start().is_some(), Missing::SECCOMP);
        missing
    }

    /// Takes the right to open files, and to start threads, from all threads of this process. To be called once all
    /// is open; not with foreign code, which may open a file whenever it wants to.
    #[must_use]
    pub fn settle(self) -> Vec<Missing> {
        if self.foreign_code || deny(&FILES, BTreeMap::new(), libc::EPERM).is_some() {
            return Vec::new();
        }
        vec![Missing::FILES]
    }

    /// What is needed to read files of others, the keyring's for one, stays; in a process that can open no files any
    /// more it is worth nothing. So does what keeps memory locked.
    fn drop_capabilities(self) -> bool {
        let kept = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::IPC_LOCK;
        let Ok(now) = rustix::thread::capabilities(None) else { return false };
        let permitted = now.permitted & kept;
        let sets = CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets).is_ok()
    }

    fn deny_at_start(self) -> Option<()> {
        let mut conditional = BTreeMap::new();
        // A fork, but not a thread.
        conditional.insert(libc::SYS_clone, vec![where_argument(0, SeccompCmpOp::MaskedEq(0x0001_0000), 0)?]);
        if !self.network {
            let rules = if self.foreign_code {
                let unix = u64::try_from(libc::AF_UNIX).ok()?;
                vec![where_argument(0, SeccompCmpOp::Ne, unix)?]
            } else {
                Vec::new()
            };
            conditional.insert(libc::SYS_socket, rules);
        }
        deny(&ALWAYS, conditional, libc::EPERM)?;
        deny_x32()?;
        // As on a kernel that doesn't know it: then libraries use `clone`, whose flags a filter can read.
        deny(&[libc::SYS_clone3], BTreeMap::new(), libc::ENOSYS)
    }
}

/// What a signer never does. New calls of future kernels are not among them: `io_uring` shows why that would be worse
/// than a list of what is allowed, and modules of devices why there is none.
const ALWAYS: [libc::c_long; 33] = [
    libc::SYS_accept4,
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bind,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_listen,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// What opens or changes files, and what starts threads.
const FILES: [libc::c_long; 16] = [
    libc::SYS_clone,
    libc::SYS_connect,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_linkat,
    libc::SYS_memfd_create,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_socketpair,
    libc::SYS_symlinkat,
    libc::SYS_truncate,
    libc::SYS_unlinkat,
];

/// Calls that only older machines have.
#[cfg(target_arch = "x86_64")]
const OLD_FILES: [libc::c_long; 8] = [
    libc::SYS_creat,
    libc::SYS_link,
    libc::SYS_mkdir,
    libc::SYS_mknod,
    libc::SYS_open,
    libc::SYS_rename,
    libc::SYS_symlink,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_FILES: [libc::c_long; 0] = [];

#[cfg(target_arch = "x86_64")]
const OLD_FORKS: [libc::c_long; 2] = [libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const OLD_FORKS: [libc::c_long; 0] = [];

fn where_argument(index: u8, operator: SeccompCmpOp, value: u64) -> Option<SeccompRule> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value).ok()?;
    SeccompRule::new(vec![condition]).ok()
}

/// Calls that answer with `errno` from now on, in every thread.
fn deny(
    always: &[libc::c_long],
    conditional: BTreeMap<i64, Vec<SeccompRule>>,
    errno: libc::c_int,
) -> Option<()> {
    let mut rules = conditional;
    rules.extend(always.iter().map(|call| (*call, Vec::new())));
    if always.contains(&libc::SYS_openat) {
        rules.extend(OLD_FILES.iter().map(|call| (*call, Vec::new())));
    }
    if always.contains(&libc::SYS_execve) {
        rules.extend(OLD_FORKS.iter().map(|call| (*call, Vec::new())));
    }
    let refuse = SeccompAction::Errno(u32::try_from(errno).ok()?);
    let arch = std::env::consts::ARCH.try_into().ok()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).ok()?;
    let program: BpfProgram = filter.try_into().ok()?;
    seccompiler::apply_filter_all_threads(&program).ok()
}

/// The calls of the x32 ABI are those of x86-64 under other numbers, which no list of numbers names. Calls of i386 end the
/// process: a filter is for one architecture.
#[cfg(target_arch = "x86_64")]
fn deny_x32() -> Option<()> {
    // `__X32_SYSCALL_BIT`.
    const X32: u32 = 0x4000_0000;
    let code = |class: u32| u16::try_from(class).ok();
    let step = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    let refused = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).ok()?;
    // The number of the call is the first word of what a filter sees.
    let program: BpfProgram = vec![
        step(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS)?, 0, 0),
        step(code(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K)?, 1, X32),
        step(code(libc::BPF_RET | libc::BPF_K)?, 0, refused),
        step(code(libc::BPF_RET | libc::BPF_K)?, 0, libc::SECCOMP_RET_ALLOW),
    ];
    seccompiler::apply_filter_all_threads(&program).ok()
}

#[cfg(not(target_arch = "x86_64"))]
fn deny_x32() -> Option<()> {
    Some(())
}

/// A network without an interface, not even an address of its own. Without privileges that takes a user namespace, in
/// which this process is who it was.
fn leave_network() -> bool {
    if unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return true;
    }
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).is_err() {
        return false;
    }
    // Without this the process is `nobody` to itself, and reads its files all the same.
    let _ = std::fs::write("/proc/self/setgroups", "deny");
    let _ = std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"));
    let _ = std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"));
    true
}

/// Every page stays in memory as soon as it is used. Only without a limit: one that is reached would end the process.
fn lock_memory() -> bool {
    let unlimited = Rlimit { current: None, maximum: None };
    let _ = setrlimit(Resource::Memlock, unlimited);
    let privileged = rustix::thread::capabilities(None)
        .is_ok_and(|capabilities| capabilities.effective.contains(CapabilitySet::IPC_LOCK));
    (privileged || getrlimit(Resource::Memlock).current.is_none())
        && mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).is_ok()
}

/// What a terminal and a service manager send to all processes at once is for the parent, which still needs this one to
/// end well. Threads that are started later have the same mask, and so do processes: a parent that calls this in the thread
/// that starts a confined process leaves no moment in which that one could be ended.
pub fn defer_signals() -> bool {
    use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM};
    SigSet::from_iter([SIGHUP, SIGINT, SIGTERM]).thread_block().is_ok()
}

fn close_descriptors() -> std::io::Result<()> {
    let mut open: Vec<RawFd> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number: Option<RawFd> = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        open.extend(number.filter(|number| *number > 2));
    }
    for descriptor in open {
        // That of the directory is closed already.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}
