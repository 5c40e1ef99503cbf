//! The file: locked, created whole or not at all, and opened so that nothing in it can run.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bonafide_crypto::random::Random;
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig, params};

use super::rows::integer;
use crate::{
    Incarnation, Place, StoreError,
    authentication::{HeadRow, Keys},
    sql,
};

/// How long the lock is waited for: a predecessor that is ending, or a program that it was just starting, may hold it
/// for a moment longer.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Takes the lock that keeps other processes out. It lies in a file beside the database: SQLite's own locks on the
/// database would be lost as soon as anybody in this process closed another handle of it.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(beside(path, ".lock"))
        .map_err(|error| io(&error))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io(&error)),
        }
    }
}

/// Makes an empty store under another name, and moves it to `path` when it is whole: what is at `path` is never
/// half a store, so that an empty database there is always a fault.
pub(super) fn create(path: &Path, keys: &Keys, random: &dyn Random) -> Result<(), StoreError> {
    // SQLite would replay a log that it finds beside the new database.
    if beside(path, "-wal").exists() {
        return Err(StoreError::broken(
            Place::Database(format!("`{}`", path.display())),
            "the database is missing, but its write-ahead log is there",
        ));
    }
    let unfinished = beside(path, ".new");
    for name in [unfinished.clone(), beside(&unfinished, "-journal")] {
        match fs::remove_file(name) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(io(&cause)),
            _ => {}
        }
    }
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(|error| io(&error))?;
    let incarnation = Incarnation::from_bytes(random.array());
    let row = HeadRow::empty(incarnation, keys);
    let mut connection = Connection::open_with_flags(&unfinished, flags()).map_err(error)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(error)?;
    let transaction = connection.transaction().map_err(error)?;
    for (_, statement) in sql::SQLITE_SCHEMA {
        transaction.execute(statement, []).map_err(error)?;
    }
    transaction
        .execute(
            sql::INSERT_HEAD,
            params![
                row.incarnation.as_bytes(),
                integer(row.revision.0)?,
                integer(row.floor.0)?,
                row.anchor,
                row.tip,
                integer(row.objects)?,
                row.set_tag,
                keys.head(&row),
            ],
        )
        .map_err(error)?;
    transaction.commit().map_err(error)?;
    connection.close().map_err(|(_, cause)| error(cause))?;
    fs::rename(&unfinished, path).map_err(|cause| io(&cause))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|cause| io(&cause))
}

/// The connection that writes.
pub(super) fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = guarded(path)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(error)?;
    if mode != "wal" {
        return Err(StoreError::Io(format!("journal mode is `{mode}`, not `wal`")));
    }
    connection.pragma_update(None, "synchronous", "FULL").map_err(error)?;
    Ok(connection)
}

/// The connection that reads.
pub(super) fn connect_read_only(path: &Path) -> Result<Connection, StoreError> {
    let connection = guarded(path)?;
    connection.pragma_update(None, "query_only", true).map_err(error)?;
    Ok(connection)
}

/// Whoever wrote the file may have put more than rows into it: nothing in its schema may call functions, and
/// neither triggers nor views work.
fn guarded(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, flags()).map_err(error)?;
    for (option, value) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
    ] {
        connection.set_db_config(option, value).map_err(error)?;
    }
    connection.pragma_update(None, "cell_size_check", true).map_err(error)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(error)?;
    Ok(connection)
}

/// Without `SQLITE_OPEN_CREATE`: a database that is missing stays missing.
fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// What an error of SQLite means to us.
#[expect(clippy::needless_pass_by_value, reason = "it is handed to `map_err`")]
pub(super) fn error(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::broken(Place::Database("the database file".to_owned()), "SQLite can't read it")
        }
        _ => StoreError::Io(error.to_string()),
    }
}

fn io(error: &std::io::Error) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Io(error.to_string()),
    }
}

/// The name of a file that belongs to the database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}
