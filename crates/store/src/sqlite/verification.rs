//! What `open` checks: everything.

use bonafide_crypto::digest::SetDigest;
use rusqlite::{Connection, Transaction};

use super::{database::error, rows};
use crate::{
    Object, Place, StoreError,
    authentication::{HeadRow, Keys},
    sql,
    walk::{Audit, ObjectWalk, missing, verify_first_change},
};

/// What was verified.
pub(super) struct Verified {
    pub(super) head: HeadRow,
    /// Of the set of objects.
    pub(super) digest: SetDigest,
    pub(super) objects: Vec<Object>,
}

/// Verifies the schema, the head, the chain of changes, each object, each object against the log, and the set of
/// objects against the head. Changes and objects are gone through at the same time, by a connection for each.
pub(super) fn verify(
    connection: &mut Connection,
    reader: &mut Connection,
    keys: &Keys,
) -> Result<Verified, StoreError> {
    let transaction = connection.transaction().map_err(error)?;
    verify_schema(&transaction)?;
    let head = rows::head(&transaction, keys)?;
    drop(transaction);
    let (mut audit, objects) = std::thread::scope(|scope| {
        let changes = scope.spawn(|| verify_changes(connection, keys, &head));
        let objects = Objects::read(reader, keys, &head);
        // The log first: it says what the objects must be.
        Ok((changes.join().unwrap_or(Err(StoreError::Closed))?, objects?))
    })?;
    let Objects { objects, macs, walk } = objects;
    for (object, mac) in objects.iter().zip(&macs) {
        audit.object(&head, (&object.key, object.revision, mac))?;
    }
    if let Some(revision) = audit.left() {
        return Err(missing(&rows::change_key(connection, revision)?));
    }
    let digest = walk.finish()?;
    Ok(Verified { head, digest, objects })
}

fn verify_changes(connection: &mut Connection, keys: &Keys, head: &HeadRow) -> Result<Audit, StoreError> {
    let transaction = unchanged(connection, keys, head)?;
    let mut audit = Audit::new(head);
    let start = (head.floor, head.anchor);
    rows::each_change(&transaction, keys, head, start, usize::MAX, |change| {
        audit.change(keys, head, change);
    })?;
    verify_nothing_before(&transaction, head)?;
    Ok(audit)
}

/// A look at the database in which it still has this head.
fn unchanged<'a>(
    connection: &'a mut Connection,
    keys: &Keys,
    head: &HeadRow,
) -> Result<Transaction<'a>, StoreError> {
    let transaction = connection.transaction().map_err(error)?;
    if rows::head(&transaction, keys)? != *head {
        return Err(StoreError::broken(Place::Head, "it was changed while the store was opened"));
    }
    Ok(transaction)
}

/// The objects, each authentic. Whether these are all that there should be is another question.
struct Objects<'a> {
    objects: Vec<Object>,
    /// Of each of them.
    macs: Vec<[u8; 32]>,
    walk: ObjectWalk<'a>,
}

impl<'a> Objects<'a> {
    fn read(reader: &mut Connection, keys: &'a Keys, head: &'a HeadRow) -> Result<Self, StoreError> {
        let transaction = unchanged(reader, keys, head)?;
        let (mut objects, mut macs) = (Vec::new(), Vec::new());
        let walk = rows::each_object(&transaction, keys, head, |object| {
            objects.push(object.to_owned());
            macs.push(object.mac);
            Ok(())
        })?;
        verify_pages(&transaction)?;
        Ok(Self { objects, macs, walk })
    }
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
