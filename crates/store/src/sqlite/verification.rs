//! What `open` checks: everything.

use std::collections::HashMap;

use bonafide_crypto::digest::SetDigest;
use rusqlite::Connection;

use super::{
    database::error,
    rows::{self, ObjectRow},
};
use crate::{
    Place, Revision, StoreError,
    authentication::{HeadRow, Keys},
    sql,
};

/// What the log says about one key: its last change, and the MAC of the object that it left, if it left one.
type Fold = HashMap<String, (Revision, Option<[u8; 32]>)>;

/// Verifies the schema, the head, the chain of changes, each object, each object against the log, and the set of
/// objects against the head. Returns the head and the digest of the set.
pub(super) fn verify(connection: &mut Connection, keys: &Keys) -> Result<(HeadRow, SetDigest), StoreError> {
    let transaction = connection.transaction().map_err(error)?;
    verify_schema(&transaction)?;
    let head = rows::head(&transaction, keys)?;

    let mut fold = Fold::new();
    let start = (head.floor, head.anchor);
    rows::each_change(&transaction, keys, &head, start, usize::MAX, |change, head| {
        let object =
            change.value.map(|value| keys.object(&head.incarnation, change.key, change.revision, value));
        fold.insert(change.key.to_owned(), (change.revision, object));
        Ok(())
    })?;
    verify_nothing_before(&transaction, &head)?;

    let mut objects = 0;
    let digest = rows::each_object(&transaction, keys, &head, |object, head| {
        objects += 1;
        let logged = fold.remove(object.key);
        compare_with_log(object, head, logged)
            .map_err(|what| StoreError::broken(Place::Object(object.key.to_owned()), what))
    })?;
    // What is left must be removals.
    if let Some((key, _)) = fold.iter().filter(|(_, (_, object))| object.is_some()).min() {
        return Err(StoreError::broken(Place::Object(key.clone()), "the row is missing"));
    }
    keys.verify_set(&digest, &head, objects)?;
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
        let revision: i64 = row.get(0).map_err(error)?;
        match u64::try_from(revision) {
            Ok(revision) if revision > head.floor.0 => {}
            Ok(revision) => {
                let place = Place::Change(Revision(revision));
                return Err(StoreError::broken(place, "the row is below the floor"));
            }
            Err(_) => {
                let place = Place::Database("table `change`, a row with a negative revision".to_owned());
                return Err(StoreError::broken(place, "the row was added"));
            }
        }
    }
    Ok(())
}

/// An object must be what the log says that it is, or older than the log.
fn compare_with_log(
    object: &ObjectRow<'_>,
    head: &HeadRow,
    logged: Option<(Revision, Option<[u8; 32]>)>,
) -> Result<(), &'static str> {
    match logged {
        _ if object.revision > head.revision => Err("the row is newer than the head"),
        Some((revision, Some(mac))) if revision == object.revision && mac == object.mac => Ok(()),
        Some((revision, None)) if revision > object.revision => Err("a later change removed the object"),
        Some((revision, _)) if revision > object.revision => Err("a later change replaced this version"),
        None if object.revision <= head.floor => Ok(()),
        _ => Err("no change in the log wrote this"),
    }
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
