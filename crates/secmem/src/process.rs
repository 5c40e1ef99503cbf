//! What a process can do for itself before it holds its first secret.

/// What [`harden_process`] achieved. A process may refuse to go on, or report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Hardening {
    /// Other processes of the same user can neither trace this one nor read its memory (`PR_SET_DUMPABLE` 0).
    pub not_dumpable: bool,
    /// A crash writes no memory to disk (`RLIMIT_CORE` 0).
    pub no_core: bool,
}

/// Protects the memory of this process from other processes of the same user, and from core dumps.
///
/// It doesn't protect from root, and a program that this one executes starts with the defaults of its own.
pub fn harden_process() -> Hardening {
    use rustix::process::{
        DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior, setrlimit,
    };

    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let no_core = setrlimit(Resource::Core, none).is_ok() && getrlimit(Resource::Core).current == Some(0);
    let not_dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok()
        && matches!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
    Hardening { not_dumpable, no_core }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardened_process_dumps_nothing() {
        assert_eq!(harden_process(), Hardening { not_dumpable: true, no_core: true });
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let core = limits.lines().find(|line| line.starts_with("Max core file size"));
        // A process that isn't dumpable may not even read its own limits any more, unless it is root.
        assert!(core.is_none_or(|line| line.split_whitespace().nth(4) == Some("0")));
    }
}
