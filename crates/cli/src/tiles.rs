//! Reads the entries that a ledger has published, from its files alone, as any C2SP tlog-tiles client would. Nothing is
//! verified here.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use crate::Failure;

/// Entries of a full tile (C2SP tlog-tiles).
const WIDTH: u64 = 256;
/// 256 entries of at most 65,535 bytes, each after its length.
const MAX_BUNDLE: u64 = 256 * (2 + 65_535);
const MAX_CHECKPOINT: u64 = 64 << 10;

/// How many entries the last checkpoint covers.
///
/// # Errors
/// When there is no checkpoint, or it is none.
pub fn published_size(ledger: &Path) -> Result<u64, Failure> {
    let path = ledger.join("checkpoint");
    let note = read(&path, MAX_CHECKPOINT)?;
    // C2SP tlog-checkpoint: origin, size, root hash, each on a line.
    let size = std::str::from_utf8(&note).ok().and_then(|note| note.lines().nth(1)?.parse().ok());
    size.ok_or_else(|| broken(&path, "it is no checkpoint"))
}

/// Whether it is a ledger of keys: its checkpoints say so. One without a checkpoint is not known to be.
pub fn is_of_keys(ledger: &Path) -> bool {
    let note = read(&ledger.join("checkpoint"), MAX_CHECKPOINT).unwrap_or_default();
    let origin = std::str::from_utf8(&note).ok().and_then(|note| note.lines().next());
    origin.is_some_and(|origin| origin.ends_with("/keys"))
}

/// The published entries from `from` on, `count` at most, of a ledger of `size` entries.
///
/// # Errors
/// When a tile is missing or not as it should be.
pub fn entries(ledger: &Path, size: u64, from: u64, count: u64) -> Result<Vec<(u64, Vec<u8>)>, Failure> {
    let end = from.saturating_add(count).min(size);
    let mut found = Vec::new();
    let mut index = from;
    while index < end {
        let tile = index / WIDTH;
        let first = tile * WIDTH;
        let width = (size - first).min(WIDTH);
        let path = ledger.join(tile_path(tile, width));
        let bundle = split(&read(&path, MAX_BUNDLE)?).ok_or_else(|| broken(&path, "an entry is cut off"))?;
        if bundle.len() as u64 != width {
            return Err(broken(&path, "it does not have as many entries as it should"));
        }
        let wanted =
            (first..).zip(bundle).skip_while(|(number, _)| *number < index).take_while(|(n, _)| *n < end);
        found.extend(wanted);
        index = first + width;
    }
    Ok(found)
}

/// `tile/entries/x001/x234/067`, with `.p/<width>` when it is not full.
fn tile_path(tile: u64, width: u64) -> PathBuf {
    let mut parts = vec![format!("{:03}", tile % 1000)];
    let mut rest = tile / 1000;
    while rest > 0 {
        parts.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    let mut path: PathBuf = ["tile", "entries"].iter().collect();
    path.extend(parts.iter().rev());
    if width < WIDTH {
        path.as_mut_os_string().push(".p");
        path.push(width.to_string());
    }
    path
}

/// Entries, each after its length in two bytes.
fn split(mut bundle: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let (length, rest) = bundle.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry.to_vec());
        bundle = rest;
    }
    Some(entries)
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let file = fs::File::open(path).map_err(|source| Failure::read(path, source))?;
    file.take(limit + 1).read_to_end(&mut content).map_err(|source| Failure::read(path, source))?;
    if content.len() as u64 > limit { Err(broken(path, "it is too long")) } else { Ok(content) }
}

fn broken(path: &Path, what: &str) -> Failure {
    Failure::of(
        "ledger.broken",
        format!("`{}`: {what}", path.display()),
        "`bonafide log verify` names the first place that is wrong",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(tile_path(1_234_067, 256), Path::new("tile/entries/x001/x234/067"));
        assert_eq!(tile_path(1_000, 7), Path::new("tile/entries/x001/000.p/7"));
        assert_eq!(tile_path(0, 256), Path::new("tile/entries/000"));
    }

    #[test]
    fn a_cut_off_entry_is_seen() {
        assert_eq!(split(&[0, 1, 9, 0, 0]), Some(vec![vec![9], vec![]]));
        assert_eq!(split(&[0, 2, 9]), None);
        assert_eq!(split(&[0]), None);
    }
}
