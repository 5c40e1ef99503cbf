//! Where documents come from: files, folders, standard input.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::Failure;

/// Bytes of one file.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// Bytes of a run.
const MAX_BYTES: usize = 16 * 1024 * 1024;
const MAX_FILES: usize = 2000;
/// Folders in folders.
const MAX_DEPTH: usize = 16;

/// A text and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As it is told to people.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// Reads what `-f` names: files as they are, `-` as standard input, and of a folder and its folders every `*.yaml` and
/// `*.yml`, in the order of their names, except hidden ones.
///
/// # Errors
/// What can't be read, is not UTF-8, or is too large.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if path.as_os_str() != "-" && path.is_dir() {
            let before = files.len();
            list(path, 0, &mut files)?;
            if files.len() == before {
                return Err(Failure::of(
                    "resource.no-file",
                    format!("there is no file in `{}`", path.display()),
                    "files of a folder must end with `.yaml` or `.yml`",
                ));
            }
        } else {
            files.push(path.clone());
        }
    }
    if files.len() > MAX_FILES {
        return Err(Failure::of(
            "resource.too-many-files",
            format!("these are more than {MAX_FILES} files"),
            "apply them in parts",
        ));
    }
    if files.iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(Failure::usage("standard input can be read only once", "write `-f -` once"));
    }
    let mut left = MAX_BYTES;
    files
        .iter()
        .map(|path| {
            let source = if path.as_os_str() == "-" {
                take("standard input", io::stdin().lock())
            } else {
                let file = std::fs::File::open(path).map_err(|source| Failure::read(path, source))?;
                take(&path.display().to_string(), file)
            }?;
            left = left.checked_sub(source.text.len()).ok_or_else(|| too_large("all of them", MAX_BYTES))?;
            Ok(source)
        })
        .collect()
}

fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let failed = |source| Failure::read(folder, source);
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            entries.push(entry.path());
        }
    }
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if depth < MAX_DEPTH && files.len() <= MAX_FILES {
                list(&path, depth + 1, files)?;
            }
        } else if path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") {
            files.push(path);
        }
    }
    Ok(())
}

fn take(name: &str, input: impl io::Read) -> Result<Source, Failure> {
    let mut bytes = Vec::new();
    input
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Failure::read(Path::new(name), source))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large(&format!("`{name}`"), 4 * 1024 * 1024));
    }
    let text = String::from_utf8(bytes).map_err(|cause| {
        let at = cause.utf8_error().valid_up_to();
        let line = cause.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        Failure::of(
            "resource.not-text",
            format!("`{name}` is not UTF-8: see line {line}"),
            "save it as UTF-8",
        )
    })?;
    Ok(Source { name: name.to_owned(), text })
}

fn too_large(what: &str, most: usize) -> Failure {
    Failure::of(
        "resource.too-large",
        format!("{what}: more than {} MiB", most / (1024 * 1024)),
        "split it, or write a rule in place of many entries",
    )
}
