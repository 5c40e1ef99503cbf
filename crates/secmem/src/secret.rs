//! Bytes on pages of their own.

use std::fmt;
use std::ptr::NonNull;

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mlock, mmap_anonymous, mprotect, munmap,
};
use zeroize::Zeroize;

/// Secret bytes on pages of their own, between two guard pages that no access survives. The pages are locked into
/// memory if the limit of the process allows it, are left out of core dumps, are empty in a forked child, and are
/// zeroed when dropped.
pub struct SecretBytes {
    mapping: NonNull<u8>,
    mapping_len: usize,
    data: NonNull<u8>,
    len: usize,
    locked: bool,
}

/// No memory for a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no protected memory could be mapped")]
pub struct SecretError;

impl SecretBytes {
    /// Maps `len` bytes and lets `fill` write them; they are zero before.
    ///
    /// # Errors
    /// [`SecretError`] if the kernel gives no memory, or doesn't let it be kept out of core dumps.
    pub fn new(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<Self, SecretError> {
        let mut secret = Self::map(len)?;
        fill(secret.expose_mut());
        Ok(secret)
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        // SAFETY: `data` points to `len` bytes of the mapping, which is readable, initialised (anonymous pages are
        // zero) and lives as long as `self`; `expose_mut` needs `&mut self`, so nothing writes meanwhile.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }

    /// The bytes, to change them.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `expose`, the mapping is writable, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }

    /// Whether the pages can't be swapped out.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    fn map(len: usize) -> Result<Self, SecretError> {
        let page = rustix::param::page_size();
        let body = len.max(1).checked_next_multiple_of(page).ok_or(SecretError)?;
        let mapping_len = body.checked_add(2 * page).ok_or(SecretError)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let mapping = unsafe {
            mmap_anonymous(std::ptr::null_mut(), mapping_len, ProtFlags::empty(), MapFlags::PRIVATE)
        };
        let mapping = NonNull::new(mapping.map_err(|_| SecretError)?.cast::<u8>()).ok_or(SecretError)?;
        // SAFETY: one page into a mapping of at least three is inside it.
        let first = unsafe { mapping.add(page) };
        // The bytes end where the guard page begins, so that an overrun by one byte faults.
        // SAFETY: `len <= body`, so this is still inside the mapping.
        let data = unsafe { first.add(body - len) };
        let mut secret = Self { mapping, mapping_len, data, len, locked: false };

        let pages = first.as_ptr().cast();
        // SAFETY: the range is the inner part of the mapping made above, which nothing else uses; giving it access
        // and marking it breaks no reference.
        unsafe {
            mprotect(pages, body, MprotectFlags::READ | MprotectFlags::WRITE).map_err(|_| SecretError)?;
            madvise(pages, body, Advice::LinuxDontDump).map_err(|_| SecretError)?;
            // A child of fork must not inherit the secret. Kernels below 4.14 don't know the advice; they have no
            // pidfd either, and nothing else here runs on them.
            let _ = madvise(pages, body, Advice::LinuxWipeOnFork);
            secret.locked = mlock(pages, body).is_ok();
        }
        Ok(secret)
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.expose_mut().zeroize();
        // SAFETY: this is the whole mapping of `map`, and no reference into it outlives `self`. Unmapping also
        // unlocks.
        let unmapped = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapping_len) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

// SAFETY: the mapping belongs to this value alone, and is reached through `&self` and `&mut self` only, with the
// rules of a `Box<[u8]>`.
unsafe impl Send for SecretBytes {}
// SAFETY: shared access only reads.
unsafe impl Sync for SecretBytes {}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl SecretError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "secmem.no-memory"
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "give the process more memory"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept_and_not_printed() {
        for len in [0, 1, 32, 4095, 4096, 4097] {
            let mut secret = SecretBytes::new(len, |bytes| bytes.fill(0x5a)).unwrap();
            assert_eq!(secret.expose(), vec![0x5a; len]);
            secret.expose_mut().fill(1);
            assert_eq!(secret.expose(), vec![1; len]);
            assert_eq!(format!("{secret:?}"), "[secret]");
        }
        assert!(SecretBytes::new(usize::MAX, |_| ()).is_err());
    }

    /// What the kernel says about the pages: guards around them, not dumped (`dd`), wiped on fork (`wf`).
    #[test]
    fn pages_are_guarded_and_not_dumped() {
        let secret = SecretBytes::new(32, |bytes| bytes.fill(1)).unwrap();
        let page = rustix::param::page_size();
        let first = secret.data.as_ptr() as usize / page * page;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let flags = maps
            .split_once(&format!("{first:x}-{:x} rw-p", first + page))
            .and_then(|(_, rest)| rest.split_once("VmFlags:"))
            .and_then(|(_, rest)| rest.lines().next())
            .unwrap();
        assert!(flags.contains(" dd") && flags.contains(" wf"), "{flags}");
        assert_eq!(flags.contains(" lo"), secret.is_locked());
        for guard in [first - page, first + page] {
            let protected = maps.lines().any(|line| {
                let Some((range, rest)) = line.split_once(' ') else { return false };
                let Some((from, to)) = range.split_once('-') else { return false };
                let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
                else {
                    return false;
                };
                from <= guard && guard < to && rest.starts_with("---p")
            });
            assert!(protected, "{guard:x}");
        }
    }
}
