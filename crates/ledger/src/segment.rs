//! The tail: segments of groups, each group written and synced at once.
//!
//! ```text
//! segment: "bonafide ledger tail v1\n"  first index (8)  group …  zeros
//! group:   first index (8)  count (4)  length (4)  digest (32)  count entries, each after its length (2)
//! ```
//!
//! The digest covers the numbers and the leaf hashes of the entries, which are needed anyway. A group that is not
//! whole can only be the last one, because a group is written after the one before it was synced. The zeros are space
//! that groups will take: writing into it changes nothing that the file system has to note, which makes a sync cost
//! half.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bonafide_crypto::digest::Sha256;

use crate::{Hash, LedgerError, leaf_hash, tile};

const MAGIC: &[u8; 24] = b"bonafide ledger tail v1\n";
const SEGMENT_HEADER: usize = MAGIC.len() + 8;
const GROUP_HEADER: usize = 8 + 4 + 4 + 32;
/// How many entries and bytes a group has at most.
pub(crate) const MAX_GROUP: usize = 8192;
pub(crate) const MAX_GROUP_BYTES: usize = 64 << 20;
/// How much space is made ready at a time, in how many pieces.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
const AHEAD: u64 = 16;

/// The segment that is written to.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    file: File,
    /// Where the next group goes.
    length: u64,
    /// Where the zeros end.
    ready: u64,
    buffer: Vec<u8>,
}

/// An entry and its hash.
pub(crate) struct Leaf {
    pub(crate) entry: Vec<u8>,
    pub(crate) hash: Hash,
}

/// What reading a segment found.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// Whole groups up to this byte, and nothing behind them.
    Clean(u64),
    /// At this byte begins a group that was not written whole.
    Torn(u64),
}

/// The name of the segment that begins with entry `first`.
pub(crate) fn name(first: u64) -> PathBuf {
    PathBuf::from(format!("tail/{first:020}"))
}

impl Segment {
    /// Makes the segment that begins with entry `first`. The caller syncs the directory.
    pub(crate) fn create(directory: &Path, first: u64) -> Result<Self, LedgerError> {
        let path = directory.join(name(first));
        let io = |cause| LedgerError::io(&path, &cause);
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        file.write_all_at(&[MAGIC.as_slice(), &first.to_be_bytes()].concat(), 0).map_err(io)?;
        file.sync_all().map_err(io)?;
        let length = SEGMENT_HEADER as u64;
        Ok(Self { path, file, length, ready: length, buffer: Vec::new() })
    }

    /// Opens the segment for writing behind its last whole group, and forgets what comes after that.
    pub(crate) fn reopen(path: &Path, length: u64) -> Result<Self, LedgerError> {
        let io = |cause| LedgerError::io(path, &cause);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
        file.set_len(length).map_err(io)?;
        // Also what was whole may not have been synced.
        file.sync_all().map_err(io)?;
        Ok(Self { path: path.to_owned(), file, length, ready: length, buffer: Vec::new() })
    }

    /// On a file that takes everything and syncs nothing.
    #[cfg(test)]
    pub(crate) fn unsyncable() -> Self {
        let path = PathBuf::from("/dev/null");
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let length = SEGMENT_HEADER as u64;
        Self { path, file, length, ready: length, buffer: Vec::new() }
    }

    /// Writes a group and syncs it. `first` is the index of its first leaf.
    ///
    /// # Errors
    /// [`LedgerError::Failed`] when nobody knows what is on the disk; after any other error nothing was written.
    pub(crate) fn append(&mut self, first: u64, leaves: &[Leaf]) -> Result<(), LedgerError> {
        self.buffer.clear();
        self.buffer.resize(GROUP_HEADER, 0);
        for leaf in leaves {
            tile::put_entry(&mut self.buffer, &leaf.entry);
        }
        let header = Header {
            first,
            count: u32::try_from(leaves.len()).unwrap_or(u32::MAX),
            length: u32::try_from(self.buffer.len() - GROUP_HEADER).unwrap_or(u32::MAX),
        };
        let digest = header.digest(leaves.iter().map(|leaf| &leaf.hash));
        if let Some(space) = self.buffer.first_chunk_mut() {
            *space = header.encode(&digest);
        }
        let end = self.length + self.buffer.len() as u64;
        self.make_ready(end)?;
        if let Err(cause) = self.file.write_all_at(&self.buffer, self.length) {
            // What was written of it is cut off again, so that the next group can take its place.
            self.cut()?;
            return Err(LedgerError::io(&self.path, &cause));
        }
        // After a failed fsync the kernel has forgotten which pages were not written: asking again would lie.
        self.file.sync_data().map_err(|cause| LedgerError::Failed(cause.to_string()))?;
        self.length = end;
        self.ready = self.ready.max(end);
        Ok(())
    }

    /// Writes zeros, unless there are enough up to `end`. On a disk that is nearly full there are none: a group may
    /// still fit.
    fn make_ready(&mut self, end: u64) -> Result<(), LedgerError> {
        if end <= self.ready {
            return Ok(());
        }
        let enough = end + AHEAD * ZEROS.len() as u64;
        while self.ready < enough {
            if self.file.write_all_at(&ZEROS, self.ready).is_err() {
                return self.cut();
            }
            self.ready += ZEROS.len() as u64;
        }
        Ok(())
    }

    /// Cuts off what is behind the last whole group.
    pub(crate) fn cut(&mut self) -> Result<(), LedgerError> {
        self.file.set_len(self.length).map_err(|cause| LedgerError::Failed(cause.to_string()))?;
        self.ready = self.length;
        Ok(())
    }
}

struct Header {
    first: u64,
    count: u32,
    length: u32,
}

impl Header {
    fn encode(&self, digest: &Hash) -> [u8; GROUP_HEADER] {
        let mut out = [0; GROUP_HEADER];
        let (first, count, length) =
            (self.first.to_be_bytes(), self.count.to_be_bytes(), self.length.to_be_bytes());
        let bytes = first.iter().chain(&count).chain(&length).chain(digest);
        for (space, byte) in out.iter_mut().zip(bytes) {
            *space = *byte;
        }
        out
    }

    fn digest<'a>(&self, leaves: impl Iterator<Item = &'a Hash>) -> Hash {
        let mut digest = Sha256::new();
        digest.update(b"bonafide ledger group v1");
        digest.update(&self.first.to_be_bytes());
        digest.update(&self.count.to_be_bytes());
        digest.update(&self.length.to_be_bytes());
        for leaf in leaves {
            digest.update(leaf);
        }
        digest.finish()
    }
}

/// Reads a segment whose name says that it begins with entry `first`. Hands each entry of each whole group to
/// `visit`, with its index and hash.
///
/// # Errors
/// [`LedgerError::Broken`] when something other than the last group is not as it was written.
pub(crate) fn read(
    path: &Path,
    first: u64,
    contents: &[u8],
    mut visit: impl FnMut(u64, &[u8], &Hash) -> Result<(), LedgerError>,
) -> Result<End, LedgerError> {
    let header = [MAGIC.as_slice(), &first.to_be_bytes()].concat();
    let Some(mut rest) = contents.strip_prefix(header.as_slice()) else {
        if contents.len() < header.len() {
            return Ok(End::Torn(0));
        }
        return Err(LedgerError::broken(path, "it does not begin like the segment that it is called"));
    };
    let mut next = first;
    loop {
        let at = contents.len() - rest.len();
        if rest.iter().all(|byte| *byte == 0) {
            return Ok(End::Clean(at as u64));
        }
        let Some((leaves, after)) = read_group(rest, next) else {
            if group_follows(rest, next) {
                return Err(LedgerError::broken(path, format!("the group at byte {at} is damaged")));
            }
            return Ok(End::Torn(at as u64));
        };
        for (entry, hash) in leaves {
            visit(next, entry, &hash)?;
            next += 1;
        }
        rest = after;
    }
}

/// One whole group that begins with entry `first`, and what comes after it.
#[expect(clippy::type_complexity, reason = "borrowed parts, taken apart by the one caller")]
fn read_group(bytes: &[u8], first: u64) -> Option<(Vec<(&[u8], Hash)>, &[u8])> {
    let (header, digest, rest) = read_header(bytes)?;
    let (body, after) = rest.split_at_checked(header.length as usize)?;
    if header.first != first || header.count == 0 {
        return None;
    }
    let leaves: Vec<_> =
        tile::split_entries(body).ok()?.into_iter().map(|entry| (entry, leaf_hash(entry))).collect();
    let fits = leaves.len() == header.count as usize
        && header.digest(leaves.iter().map(|(_, hash)| hash)) == *digest;
    fits.then_some((leaves, after))
}

fn read_header(bytes: &[u8]) -> Option<(Header, &Hash, &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    let (count, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (digest, rest) = rest.split_first_chunk()?;
    let header = Header {
        first: u64::from_be_bytes(*first),
        count: u32::from_be_bytes(*count),
        length: u32::from_be_bytes(*length),
    };
    let bounded = header.count as usize <= MAX_GROUP && header.length as usize <= MAX_GROUP_BYTES;
    bounded.then_some((header, digest, rest))
}

/// Whether a whole group comes after the damaged one at the beginning of `bytes`. If so, the damaged one had been
/// synced, and is not the trace of a crash.
fn group_follows(bytes: &[u8], next: u64) -> bool {
    (1..bytes.len()).any(|at| {
        let Some(candidate) = bytes.get(at..) else { return false };
        match read_header(candidate) {
            Some((header, ..)) if header.first > next && header.first - next <= MAX_GROUP as u64 => {
                read_group(candidate, header.first).is_some()
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(range: std::ops::Range<u64>) -> Vec<Leaf> {
        range
            .map(|index| {
                let entry = vec![index as u8; index as usize % 5];
                Leaf { hash: leaf_hash(&entry), entry }
            })
            .collect()
    }

    fn count(path: &Path, first: u64, contents: &[u8]) -> Result<(u64, End), LedgerError> {
        let mut next = first;
        let end = read(path, first, contents, |index, entry, hash| {
            assert_eq!((index, *hash), (next, leaf_hash(entry)));
            next += 1;
            Ok(())
        })?;
        Ok((next - first, end))
    }

    #[test]
    fn every_cut_and_every_flip_is_torn_or_broken() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("tail")).unwrap();
        let mut segment = Segment::create(directory.path(), 256).unwrap();
        let mut ends = vec![SEGMENT_HEADER];
        let groups = [256..259, 259..260, 260..270];
        for group in groups.clone() {
            segment.append(group.start, &leaves(group)).unwrap();
            ends.push(segment.length as usize);
        }
        let path = directory.path().join(name(256));
        let mut contents = std::fs::read(&path).unwrap();
        let clean = End::Clean(segment.length);
        assert_eq!(count(&path, 256, &contents).unwrap(), (14, clean));
        contents.truncate(ends[3] + 50);
        assert_eq!(count(&path, 255, &contents).unwrap_err().code(), "ledger.broken");

        for cut in 0..contents.len() {
            let (read, end) = count(&path, 256, &contents[..cut]).unwrap();
            let whole = ends.iter().rposition(|end| *end <= cut);
            match whole {
                None => assert_eq!((read, end), (0, End::Torn(0))),
                Some(whole) => {
                    let entries: u64 = groups[..whole].iter().map(|group| group.end - group.start).sum();
                    assert_eq!(read, entries);
                    let start = ends[whole] as u64;
                    let nothing_more = contents[ends[whole]..cut].iter().all(|byte| *byte == 0);
                    assert_eq!(end, if nothing_more { End::Clean(start) } else { End::Torn(start) });
                }
            }
        }
        for at in 0..contents.len() {
            for flip in [1, 0x80] {
                let mut flipped = contents.clone();
                flipped[at] ^= flip;
                let result = count(&path, 256, &flipped);
                // Only in the last group may it have been a crash.
                if at < ends[2] {
                    assert_eq!(result.unwrap_err().code(), "ledger.broken", "byte {at}");
                } else if at < ends[3] {
                    assert_eq!(result.unwrap(), (4, End::Torn(ends[2] as u64)), "byte {at}");
                } else {
                    assert_eq!(result.unwrap(), (14, End::Torn(ends[3] as u64)), "byte {at}");
                }
            }
        }
    }

    #[test]
    fn a_segment_goes_on_where_a_torn_group_began() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("tail")).unwrap();
        let mut segment = Segment::create(directory.path(), 0).unwrap();
        segment.append(0, &leaves(0..5)).unwrap();
        let whole = segment.length;
        segment.append(5, &leaves(5..9)).unwrap();
        let path = directory.path().join(name(0));
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(segment.length - 3).unwrap();
        let mut segment = Segment::reopen(&path, whole).unwrap();
        segment.append(5, &leaves(5..6)).unwrap();
        let contents = std::fs::read(&path).unwrap();
        assert_eq!(count(&path, 0, &contents).unwrap(), (6, End::Clean(segment.length)));
    }
}
