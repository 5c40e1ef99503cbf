//! What `open` checks: everything.

use bonafide_crypto::digest::SetDigest;
use rusqlite::Connection;

use super::{database::error, rows};
use crate::{
    Object, Place, StoreError,
    authentication::{HeadRow, Keys},
    sql,
    walk::{Audit, verify_first_change},
};

/// Verifies the schema, the head, the chain of changes, each object, each object against the log, and the set of
/// objects against the head. Returns the head and the digest of the set. `keep` gets each object; they hold only once this
/// has succeeded.
pub(super) fn verify(
    connection: &mut Connection,
    keys: &Keys,
    mut keep: impl FnMut(Object),
) -> Result<(HeadRow, SetDigest), StoreError> {
    let transaction = connection.transaction().map_err(error)?;
    verify_schema(&transaction)?;
    let head = rows::head(&transaction, keys)?;

    let mut audit = Audit::default();
    let start = (head.floor, head.anchor);
    rows::each_change(&transaction, keys, &head, start, usize::MAX, |change| {
        audit.change(keys, &head, change);
    })?;
    verify_nothing_before(&transaction, &head)?;

    let walk = rows::each_object(&transaction, keys, &head, |object| {
        keep(object.to_owned());
        audit.object(&head, object)
    })?;
    audit.finish()?;
    let digest = walk.finish()?;
    verify_pages(&transaction)?;
    Ok((head, digest))
}

/// Exactly our tables: an added trigger or view could lie about rows, and an index could hide some.
fn verify_schema(connection: &Connection) -> Result<(), StoreError> {
    let broken = |name: &str, what| {
        StoreError::broken(Place::Database(format!("schema, `{}`", name.escape_debug())), what)
    };
    let mut statement = connection.prepare(sql::SQLITE_SCHEMA_OBJECTS).map_err(error)?;
    let mut rows = statement.query([]).map_err(error)?;
    let mut expected = sql::SQLITE_SCHEMA.iter();
    while let Some(row) = rows.next().map_err(error)? {
        let (kind, name, definition): (String, String, Option<String>) =
            row.try_into().map_err(|_| broken("?", "it has the wrong type"))?;
        if !sql::SQLITE_SCHEMA.iter().any(|(table, _)| *table == name) || kind != "table" {
            return Err(broken(&name, "it was added"));
        }
        let Some((table, wanted)) = expected.next() else { return Err(broken(&name, "it was added")) };
        if *table != name {
            return Err(broken(table, "it is missing"));
        }
        if definition.as_deref() != Some(*wanted) {
            return Err(broken(table, "it was changed"));
        }
    }
    match expected.next() {
        Some((table, _)) => Err(broken(table, "it is missing")),
        None => Ok(()),
    }
}

/// Changes at or below the floor are gone, and stay gone.
fn verify_nothing_before(connection: &Connection, head: &HeadRow) -> Result<(), StoreError> {
    let mut statement = connection.prepare(sql::CHANGES).map_err(error)?;
    let mut rows = statement.query((i64::MIN, 1)).map_err(error)?;
    if let Some(row) = rows.next().map_err(error)? {
        verify_first_change(head, row.get(0).map_err(error)?)?;
    }
    Ok(())
}

/// What rows don't show: the structure of the pages.
fn verify_pages(connection: &Connection) -> Result<(), StoreError> {
    let finding: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(error)?;
    if finding == "ok" {
        return Ok(());
    }
    let finding = finding.lines().next().unwrap_or_default().to_owned();
    Err(StoreError::broken(Place::Database(finding), "its pages are damaged"))
}
