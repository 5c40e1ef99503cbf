//! Small secret files: there whole or not at all, and readable by their owner alone.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use zeroize::Zeroizing;

use crate::KeyringError;

/// No file of ours is longer.
const MAX: u64 = 64 * 1024;

/// Writes a file that must not exist.
pub(crate) fn create(path: &Path, contents: &[u8]) -> Result<(), KeyringError> {
    let unfinished = write_beside(path, &format!("{}.new", std::process::id()), contents)?;
    // A link, unlike a rename, never replaces what another process has made meanwhile.
    let linked = fs::hard_link(&unfinished, path);
    fs::remove_file(&unfinished).map_err(|cause| KeyringError::io(&unfinished, cause))?;
    match linked {
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(KeyringError::Exists(path.to_owned()))
        }
        Err(cause) => Err(KeyringError::io(path, cause)),
        Ok(()) => sync_directory(path),
    }
}

/// Writes a file in place of the one that is there. One process at a time may do it: what another one left unfinished is
/// overwritten.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> Result<(), KeyringError> {
    let unfinished = write_beside(path, "new", contents)?;
    fs::rename(&unfinished, path).map_err(|cause| KeyringError::io(path, cause))?;
    sync_directory(path)
}

/// Reads a file that nobody but its owner may read.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let io = |cause| KeyringError::io(path, cause);
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() || metadata.len() > MAX {
        return Err(KeyringError::Format { path: path.to_owned(), what: "a file of at most 64 KiB" });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyringError::Mode { path: path.to_owned(), mode });
    }
    // Reserved in one piece: a buffer that grew would leave copies behind.
    let mut contents = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX).unwrap_or(0)));
    file.take(MAX).read_to_end(&mut contents).map_err(io)?;
    Ok(contents)
}

fn write_beside(path: &Path, ending: &str, contents: &[u8]) -> Result<std::path::PathBuf, KeyringError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{ending}"));
    let unfinished = std::path::PathBuf::from(name);
    let io = |cause| KeyringError::io(&unfinished, cause);
    match fs::remove_file(&unfinished) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(io(cause)),
        _ => {}
    }
    let written = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| file.write_all(contents).and_then(|()| file.sync_all()));
    if let Err(cause) = written {
        // What is half written helps nobody; that it could not be written is what counts.
        let _ = fs::remove_file(&unfinished);
        return Err(io(cause));
    }
    Ok(unfinished)
}

fn sync_directory(path: &Path) -> Result<(), KeyringError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|cause| KeyringError::io(directory, cause))
}
