//! Many short keys on few pages.

use std::fmt;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::ftruncate;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use zeroize::Zeroize;

use crate::{SecretBytes, SecretError};

/// Bytes of a key.
pub const SLOT: usize = 32;
/// Keys on one page: as many as the map of those in use has bits.
const SLOTS: usize = 128;
const ARENA: usize = SLOT * SLOTS;

/// A key of 32 bytes on a page that only keys lie on. The page is out of reach of the kernel's own reads and of other
/// processes (`memfd_secret`, Linux 5.14), where there is that, and otherwise as [`SecretBytes`] are. 128 keys share a page, so that
/// the limit of locked memory goes a long way. A forked child does not have the page.
pub struct SecretSlot {
    data: NonNull<[u8; SLOT]>,
    arena: usize,
    index: usize,
}

/// What keeps others from the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protection {
    /// They are left out of core dumps, but the limit of locked memory is reached: they may be swapped out.
    Unlocked,
    /// They are locked into memory.
    Locked,
    /// They are not even mapped in the kernel.
    Secret,
}

/// All pages of the process.
#[derive(Default)]
struct Pool {
    /// Freed pages leave a gap: the places of others must not change.
    arenas: Vec<Option<Arena>>,
}

struct Arena {
    pages: Pages,
    /// One bit for each key in use.
    used: u128,
}

enum Pages {
    Ordinary(SecretBytes),
    Secret(SecretPages),
}

/// A page of `memfd_secret`, between two guard pages.
struct SecretPages {
    mapping: NonNull<u8>,
    mapping_len: usize,
    data: NonNull<u8>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { arenas: Vec::new() });

impl SecretSlot {
    /// Keeps a copy of a key.
    ///
    /// # Errors
    /// [`SecretError`] if the kernel gives no memory.
    pub fn new(key: &[u8; SLOT]) -> Result<Self, SecretError> {
        let mut slot = pool().take()?;
        // SAFETY: the place was free, so that this slot alone points there; it is aligned for bytes, and mapped as long as
        // its bit is set.
        unsafe { *slot.data.as_mut() = *key };
        Ok(slot)
    }

    /// The key.
    #[must_use]
    pub fn expose(&self) -> &[u8; SLOT] {
        // SAFETY: nobody writes there between `new` and `drop`, and the page stays mapped as long as this slot's bit is set.
        unsafe { self.data.as_ref() }
    }

    /// What keeps others from keys that are kept now: the weakest of all their pages. If there are none, one is made to see.
    #[must_use]
    pub fn protection() -> Protection {
        let weakest = || pool().arenas.iter().flatten().map(|arena| arena.pages.protection()).min();
        weakest().unwrap_or_else(|| {
            let probe = Self::new(&[0; SLOT]);
            let seen = weakest();
            drop(probe);
            seen.unwrap_or(Protection::Unlocked)
        })
    }
}

impl Drop for SecretSlot {
    fn drop(&mut self) {
        // SAFETY: as in `new`; `&mut self` makes this the only reference.
        unsafe { self.data.as_mut() }.zeroize();
        pool().give_back(self.arena, self.index);
    }
}

// SAFETY: the place belongs to this value alone, and is only read through `&self`.
unsafe impl Send for SecretSlot {}
// SAFETY: shared access only reads.
unsafe impl Sync for SecretSlot {}

impl fmt::Debug for SecretSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Protection {
    /// Its stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unlocked => "unlocked",
            Self::Locked => "locked",
            Self::Secret => "memfd-secret",
        }
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    fn take(&mut self) -> Result<SecretSlot, SecretError> {
        let room =
            self.arenas.iter().position(|arena| arena.as_ref().is_some_and(|arena| arena.used != u128::MAX));
        let place = match room {
            Some(place) => place,
            None => {
                let arena = Arena { pages: Pages::map()?, used: 0 };
                let gap = self.arenas.iter().position(Option::is_none);
                let place = gap.unwrap_or(self.arenas.len());
                match self.arenas.get_mut(place) {
                    Some(gap) => *gap = Some(arena),
                    None => self.arenas.push(Some(arena)),
                }
                place
            }
        };
        let arena = self.arenas.get_mut(place).and_then(Option::as_mut).ok_or(SecretError)?;
        let index = arena.used.trailing_ones() as usize;
        let start = arena.pages.start();
        arena.used |= 1 << index;
        // SAFETY: not all bits were set, so `index` is below 128, and the place inside of the page's 4096 bytes.
        let data = unsafe { start.add(index * SLOT) }.cast();
        Ok(SecretSlot { data, arena: place, index })
    }

    /// Pages without a key are unmapped, but for the last.
    fn give_back(&mut self, place: usize, index: usize) {
        let others = self.arenas.iter().flatten().count() > 1;
        if let Some(slot) = self.arenas.get_mut(place)
            && let Some(arena) = slot
        {
            arena.used &= !(1 << index);
            if arena.used == 0 && others {
                *slot = None;
            }
        }
    }
}

impl Pages {
    fn map() -> Result<Self, SecretError> {
        match SecretPages::map() {
            Ok(pages) => Ok(Self::Secret(pages)),
            Err(SecretError) => SecretBytes::new(ARENA, |_| ()).map(Self::Ordinary),
        }
    }

    fn start(&mut self) -> NonNull<u8> {
        match self {
            Self::Ordinary(bytes) => NonNull::from(bytes.expose_mut()).cast(),
            Self::Secret(pages) => pages.data,
        }
    }

    fn protection(&self) -> Protection {
        match self {
            Self::Ordinary(bytes) if bytes.is_locked() => Protection::Locked,
            Self::Ordinary(_) => Protection::Unlocked,
            Self::Secret(_) => Protection::Secret,
        }
    }
}

impl SecretPages {
    fn map() -> Result<Self, SecretError> {
        // SAFETY: the call takes one number, and gives a descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or(SecretError)?;
        // SAFETY: the kernel has just given it to us, and to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let page = rustix::param::page_size();
        let body = ARENA.next_multiple_of(page);
        ftruncate(fd.as_fd(), body as u64).map_err(|_| SecretError)?;
        let mapping_len = body + 2 * page;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let mapping = unsafe {
            mmap_anonymous(std::ptr::null_mut(), mapping_len, ProtFlags::empty(), MapFlags::PRIVATE)
        };
        let mapping = NonNull::new(mapping.map_err(|_| SecretError)?.cast::<u8>()).ok_or(SecretError)?;
        // SAFETY: one page into a mapping of at least three is inside it.
        let data = unsafe { mapping.add(page) };
        // From here on, dropping it unmaps the whole.
        let pages = Self { mapping, mapping_len, data };
        // SAFETY: it replaces the inner part of the mapping made above, which nothing else uses.
        unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            mmap(data.as_ptr().cast(), body, access, MapFlags::SHARED | MapFlags::FIXED, &fd, 0)
                .map_err(|_| SecretError)?;
            // The page is shared: a forked child would have the very same one.
            madvise(data.as_ptr().cast(), body, Advice::LinuxDontFork).map_err(|_| SecretError)?;
        }
        Ok(pages)
    }
}

impl Drop for SecretPages {
    fn drop(&mut self) {
        // SAFETY: this is the whole mapping of `map`; no slot points into it any more when its bits are all clear. What lay there
        // was erased slot by slot.
        let unmapped = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapping_len) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

// SAFETY: the mapping belongs to this value, and is reached under the pool's lock or through slots of their own.
unsafe impl Send for SecretPages {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_apart_and_erased() {
        let count = 3 * SLOTS;
        let mut slots: Vec<SecretSlot> =
            (0..count).map(|number| SecretSlot::new(&[number as u8; SLOT]).unwrap()).collect();
        for (number, slot) in slots.iter().enumerate() {
            assert_eq!(slot.expose(), &[number as u8; SLOT]);
            assert_eq!(format!("{slot:?}"), "[secret]");
        }
        let places: std::collections::HashSet<_> = slots.iter().map(|slot| slot.data).collect();
        assert_eq!(places.len(), count);
        // Its place is free again, and nothing of it is left; at most another key has come.
        let second = slots.remove(1);
        let (place, arena) = (second.data, second.arena);
        drop(second);
        let mut pool = pool();
        let start = pool.arenas[arena].as_mut().unwrap().pages.start();
        let offset = place.cast::<u8>().as_ptr() as usize - start.as_ptr() as usize;
        // SAFETY: the page is mapped: others of its keys are in use, and the pool is locked.
        assert_ne!(unsafe { *start.add(offset).cast::<[u8; SLOT]>().as_ref() }, [1; SLOT]);
    }

    #[test]
    fn what_protects_them_is_told() {
        let slot = SecretSlot::new(&[7; SLOT]).unwrap();
        let address = slot.data.as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut found = None;
        let mut inside = false;
        for line in maps.lines() {
            if let Some((range, rest)) = line.split_once(' ')
                && let Some((from, to)) = range.split_once('-')
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                inside = from <= address && address < to;
                if inside {
                    found = Some((rest.contains("secretmem"), String::new()));
                }
            } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                found.as_mut().unwrap().1 = flags.to_owned();
            }
        }
        let (secret, flags) = found.unwrap();
        assert!(flags.contains(" dd"), "{flags}");
        let here = pool().arenas[slot.arena].as_ref().unwrap().pages.protection();
        assert_eq!(here == Protection::Secret, secret);
        if secret {
            assert!(flags.contains(" dc") && flags.contains(" lo"), "{flags}");
        }
        assert!(SecretSlot::protection() <= here);
    }
}
