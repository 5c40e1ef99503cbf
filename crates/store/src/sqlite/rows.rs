//! Rows, read with suspicion: a type, a length or a MAC that does not fit names the row.

use rusqlite::{Connection, OptionalExtension, Row, types::ValueRef};

use super::database::error;
use crate::{
    Incarnation, Place, Revision, StoreError,
    authentication::{HeadRow, Keys},
    sql,
    walk::{ChangeRow, ChangeWalk, ObjectRow, ObjectWalk},
};

/// The head, verified.
pub(super) fn head(connection: &Connection, keys: &Keys) -> Result<HeadRow, StoreError> {
    let broken = |what| StoreError::broken(Place::Head, what);
    let mut statement = connection.prepare_cached(sql::HEAD).map_err(error)?;
    let mut rows = statement.query([]).map_err(error)?;
    let row = rows.next().map_err(error)?.ok_or_else(|| broken("its row is missing"))?;
    if number(row, 0, &broken)? != 1 {
        return Err(broken("its row is not the one that was written"));
    }
    let head = HeadRow {
        incarnation: Incarnation::from_bytes(bytes(row, 1, &broken)?),
        revision: Revision(number(row, 2, &broken)?),
        floor: Revision(number(row, 3, &broken)?),
        anchor: bytes(row, 4, &broken)?,
        tip: bytes(row, 5, &broken)?,
        objects: number(row, 6, &broken)?,
        set_tag: bytes(row, 7, &broken)?,
    };
    keys.verify_head(&head, &bytes(row, 8, &broken)?)?;
    if rows.next().map_err(error)?.is_some() {
        return Err(broken("a row was added"));
    }
    Ok(head)
}

/// Goes through at most `max` changes after the one at `after.0`, whose MAC is `after.1`, as [`ChangeWalk`] does.
pub(super) fn each_change(
    connection: &Connection,
    keys: &Keys,
    head: &HeadRow,
    after: (Revision, [u8; 32]),
    max: usize,
    mut visit: impl FnMut(&ChangeRow<'_>),
) -> Result<(Revision, [u8; 32]), StoreError> {
    let mut walk = ChangeWalk::new(keys, head, after);
    let limit = i64::try_from(max).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(sql::CHANGES).map_err(error)?;
    let mut rows = statement.query((integer(after.0.0)?, limit)).map_err(error)?;
    while let Some(row) = rows.next().map_err(error)? {
        let expected = walk.expected();
        let broken = |what| StoreError::broken(Place::Change(expected), what);
        walk.arrive(number(row, 0, &broken)?)?;
        let change = ChangeRow {
            revision: expected,
            key: text(row, 1, &broken)?,
            value: match row.get_ref(2).map_err(error)? {
                ValueRef::Null => None,
                ValueRef::Blob(value) => Some(value),
                _ => return Err(broken("its value has the wrong type")),
            },
            mac: bytes(row, 3, &broken)?,
        };
        walk.step(&change)?;
        visit(&change);
    }
    walk.finish(max)
}

/// Goes through all objects, as [`ObjectWalk`] does, which it returns: their set is yet to be verified.
pub(super) fn each_object<'a>(
    connection: &Connection,
    keys: &'a Keys,
    head: &'a HeadRow,
    mut visit: impl FnMut(&ObjectRow<'_>) -> Result<(), StoreError>,
) -> Result<ObjectWalk<'a>, StoreError> {
    let mut walk = ObjectWalk::new(keys, head);
    let mut statement = connection.prepare_cached(sql::OBJECTS).map_err(error)?;
    let mut rows = statement.query([]).map_err(error)?;
    while let Some(row) = rows.next().map_err(error)? {
        let object = object_row(row)?;
        walk.step(&object)?;
        visit(&object)?;
    }
    Ok(walk)
}

/// The MAC of one object, if there is one by this key. Its row has been verified.
pub(super) fn object_mac(
    connection: &Connection,
    keys: &Keys,
    head: &HeadRow,
    key: &str,
) -> Result<Option<[u8; 32]>, StoreError> {
    let mut statement = connection.prepare_cached(sql::OBJECT).map_err(error)?;
    let mut rows = statement.query([key]).map_err(error)?;
    let Some(row) = rows.next().map_err(error)? else { return Ok(None) };
    let object = object_row(row)?;
    keys.verify_object(&head.incarnation, object.key, object.revision, object.value, &object.mac)?;
    if object.key != key {
        return Err(StoreError::broken(Place::Object(key.to_owned()), "another row answers to its key"));
    }
    Ok(Some(object.mac))
}

/// The MAC in the row of one change. Not verified: the MAC of the change after it does that.
pub(super) fn change_mac(connection: &Connection, revision: Revision) -> Result<[u8; 32], StoreError> {
    let broken = |what| StoreError::broken(Place::Change(revision), what);
    connection
        .prepare_cached(sql::CHANGE_MAC)
        .map_err(error)?
        .query_row([integer(revision.0)?], |row| Ok(bytes(row, 0, &broken)))
        .optional()
        .map_err(error)?
        .unwrap_or_else(|| Err(broken("the row is missing")))
}

/// The key of one change that has been verified.
pub(super) fn change_key(connection: &Connection, revision: Revision) -> Result<String, StoreError> {
    let mut statement = connection.prepare(sql::CHANGES).map_err(error)?;
    let after = integer(revision.0.saturating_sub(1))?;
    statement.query_row((after, 1), |row| row.get(1)).map_err(error)
}

/// A number as the database holds it.
pub(super) fn integer(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::Invalid { what: "a revision is below 2^63" })
}

fn object_row<'a>(row: &'a Row<'_>) -> Result<ObjectRow<'a>, StoreError> {
    let nameless = |what| {
        StoreError::broken(Place::Database("table `object`, a row without a readable key".into()), what)
    };
    let key = text(row, 0, &nameless)?;
    let broken = |what| StoreError::broken(Place::Object(key.to_owned()), what);
    Ok(ObjectRow {
        key,
        revision: Revision(number(row, 1, &broken)?),
        value: match row.get_ref(2).map_err(error)? {
            ValueRef::Blob(value) => value,
            _ => return Err(broken("its value has the wrong type")),
        },
        mac: bytes(row, 3, &broken)?,
    })
}

fn number(
    row: &Row<'_>,
    column: usize,
    broken: &impl Fn(&'static str) -> StoreError,
) -> Result<u64, StoreError> {
    match row.get_ref(column).map_err(error)? {
        ValueRef::Integer(number) => {
            u64::try_from(number).map_err(|_| broken("one of its numbers is negative"))
        }
        _ => Err(broken("one of its numbers has the wrong type")),
    }
}

fn bytes<const N: usize>(
    row: &Row<'_>,
    column: usize,
    broken: &impl Fn(&'static str) -> StoreError,
) -> Result<[u8; N], StoreError> {
    match row.get_ref(column).map_err(error)? {
        ValueRef::Blob(bytes) => {
            <[u8; N]>::try_from(bytes).map_err(|_| broken("one of its byte strings has the wrong length"))
        }
        _ => Err(broken("one of its byte strings has the wrong type")),
    }
}

fn text<'a>(
    row: &'a Row<'_>,
    column: usize,
    broken: &impl Fn(&'static str) -> StoreError,
) -> Result<&'a str, StoreError> {
    match row.get_ref(column).map_err(error)? {
        ValueRef::Text(text) => std::str::from_utf8(text).map_err(|_| broken("its key is not UTF-8")),
        _ => Err(broken("its key has the wrong type")),
    }
}
