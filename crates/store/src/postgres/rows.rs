//! Rows of PostgreSQL, read with suspicion: a length or a MAC that does not fit names the row.

use tokio_postgres::{Row, types::FromSql};

use crate::{
    Incarnation, Place, Revision, StoreError,
    authentication::HeadRow,
    walk::{ChangeRow, ObjectRow},
};

/// The head and its MAC, which is yet to be verified.
pub(super) fn head(rows: &[Row]) -> Result<(HeadRow, [u8; 32]), StoreError> {
    let broken = |what| StoreError::broken(Place::Head, what);
    let (row, more) = rows.split_first().ok_or_else(|| broken("its row is missing"))?;
    if number(row, 0, &broken)? != 1 {
        return Err(broken("its row is not the one that was written"));
    }
    if !more.is_empty() {
        return Err(broken("a row was added"));
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
    Ok((head, bytes(row, 8, &broken)?))
}

/// The revision of a row of table `change`.
pub(super) fn revision(row: &Row, expected: Revision) -> Result<u64, StoreError> {
    number(row, 0, &|what| StoreError::broken(Place::Change(expected), what))
}

/// The rest of it.
pub(super) fn change(row: &Row, revision: Revision) -> Result<ChangeRow<'_>, StoreError> {
    let broken = |what| StoreError::broken(Place::Change(revision), what);
    Ok(ChangeRow {
        revision,
        key: column(row, 1, &broken)?,
        value: column(row, 2, &broken)?,
        mac: bytes(row, 3, &broken)?,
    })
}

/// The answer to a question for the MAC of one change.
pub(super) fn change_mac(rows: &[Row], revision: Revision) -> Result<[u8; 32], StoreError> {
    let broken = |what| StoreError::broken(Place::Change(revision), what);
    bytes(rows.first().ok_or_else(|| broken("the row is missing"))?, 0, &broken)
}

pub(super) fn object(row: &Row) -> Result<ObjectRow<'_>, StoreError> {
    let nameless = |what| {
        StoreError::broken(Place::Database("table `object`, a row without a readable key".into()), what)
    };
    let key = column(row, 0, &nameless)?;
    let broken = |what| StoreError::broken(Place::Object(str::to_owned(key)), what);
    Ok(ObjectRow {
        key,
        revision: Revision(number(row, 1, &broken)?),
        value: column(row, 2, &broken)?,
        mac: bytes(row, 3, &broken)?,
    })
}

/// A number as the database holds it.
pub(super) fn integer(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::Invalid { what: "a revision is below 2^63" })
}

fn column<'a, T: FromSql<'a>>(
    row: &'a Row,
    column: usize,
    broken: &impl Fn(&'static str) -> StoreError,
) -> Result<T, StoreError> {
    row.try_get(column).map_err(|_| broken("one of its columns has the wrong type"))
}

fn number(row: &Row, at: usize, broken: &impl Fn(&'static str) -> StoreError) -> Result<u64, StoreError> {
    u64::try_from(column::<i64>(row, at, broken)?).map_err(|_| broken("one of its numbers is negative"))
}

fn bytes<const N: usize>(
    row: &Row,
    at: usize,
    broken: &impl Fn(&'static str) -> StoreError,
) -> Result<[u8; N], StoreError> {
    <[u8; N]>::try_from(column::<&[u8]>(row, at, broken)?)
        .map_err(|_| broken("one of its byte strings has the wrong length"))
}
