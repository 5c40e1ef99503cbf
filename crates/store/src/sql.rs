//! Every statement that a store runs.
//!
//! They are portable: the same text runs on SQLite and PostgreSQL (`$1` placeholders, each first used in ascending
//! order, because SQLite numbers named parameters by first use). Only the schema is in a dialect.

/// SQLite's schema, by name. `STRICT` keeps types; a table `WITHOUT ROWID` has no second index that could disagree
/// with it.
pub(crate) const SQLITE_SCHEMA: [(&str, &str); 3] = [
    (
        "change",
        "CREATE TABLE change (\
         revision INTEGER PRIMARY KEY, \
         key TEXT NOT NULL, \
         value BLOB, \
         mac BLOB NOT NULL\
         ) STRICT",
    ),
    (
        "head",
        "CREATE TABLE head (\
         id INTEGER PRIMARY KEY, \
         incarnation BLOB NOT NULL, \
         revision INTEGER NOT NULL, \
         floor INTEGER NOT NULL, \
         anchor BLOB NOT NULL, \
         tip BLOB NOT NULL, \
         objects INTEGER NOT NULL, \
         set_tag BLOB NOT NULL, \
         mac BLOB NOT NULL\
         ) STRICT",
    ),
    (
        "object",
        "CREATE TABLE object (\
         key TEXT NOT NULL PRIMARY KEY, \
         revision INTEGER NOT NULL, \
         value BLOB NOT NULL, \
         mac BLOB NOT NULL\
         ) STRICT, WITHOUT ROWID",
    ),
];

/// What the schema is in fact.
pub(crate) const SQLITE_SCHEMA_OBJECTS: &str = "SELECT type, name, sql FROM sqlite_master ORDER BY name";

/// PostgreSQL's schema. Keys are ordered by their bytes, as in SQLite, whatever the language of the database.
pub(crate) const POSTGRES_SCHEMA: [&str; 3] = [
    "CREATE TABLE change (\
     revision BIGINT PRIMARY KEY, \
     key TEXT COLLATE \"C\" NOT NULL, \
     value BYTEA, \
     mac BYTEA NOT NULL)",
    "CREATE TABLE head (\
     id BIGINT PRIMARY KEY, \
     incarnation BYTEA NOT NULL, \
     revision BIGINT NOT NULL, \
     floor BIGINT NOT NULL, \
     anchor BYTEA NOT NULL, \
     tip BYTEA NOT NULL, \
     objects BIGINT NOT NULL, \
     set_tag BYTEA NOT NULL, \
     mac BYTEA NOT NULL)",
    "CREATE TABLE object (\
     key TEXT COLLATE \"C\" NOT NULL PRIMARY KEY, \
     revision BIGINT NOT NULL, \
     value BYTEA NOT NULL, \
     mac BYTEA NOT NULL)",
];

/// What the schema is in fact: the tables and their columns, and all that could be hung onto them.
pub(crate) const POSTGRES_SCHEMA_OBJECTS: &str = "\
     WITH ours AS (SELECT c.* FROM pg_catalog.pg_class c \
       WHERE c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident(current_schema())) \
       AND c.relname IN ('change', 'head', 'object')), \
     parts (name, definition) AS ( \
     SELECT o.relname::text, concat_ws(' ', o.relkind, o.relpersistence, o.relrowsecurity, o.relhassubclass, \
       string_agg(concat_ws(' ', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), l.collname, \
         a.attnotnull, a.atthasdef, a.attidentity, a.attgenerated), ', ' ORDER BY a.attnum)) \
       FROM ours o LEFT JOIN pg_catalog.pg_attribute a \
         ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped \
       LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation AND l.collname <> 'default' \
       GROUP BY o.relname, o.relkind, o.relpersistence, o.relrowsecurity, o.relhassubclass \
     UNION ALL SELECT i.relname::text, pg_catalog.pg_get_indexdef(i.oid, 0, true) FROM ours o \
       JOIN pg_catalog.pg_index x ON x.indrelid = o.oid JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid \
       WHERE NOT (x.indisprimary AND x.indisvalid AND x.indnatts = 1 AND x.indexprs IS NULL) \
     UNION ALL SELECT t.tgname::text, 'trigger' FROM ours o JOIN pg_catalog.pg_trigger t ON t.tgrelid = o.oid \
     UNION ALL SELECT r.rulename::text, 'rule' FROM ours o \
       JOIN pg_catalog.pg_rewrite r ON r.ev_class = o.oid WHERE o.relkind = 'r' \
     UNION ALL SELECT p.polname::text, 'policy' FROM ours o JOIN pg_catalog.pg_policy p ON p.polrelid = o.oid \
     UNION ALL SELECT n.conname::text, 'constraint' FROM ours o \
       JOIN pg_catalog.pg_constraint n ON n.conrelid = o.oid WHERE n.contype NOT IN ('p', 'n') \
     ) SELECT name, definition FROM parts ORDER BY name COLLATE \"C\"";

/// What [`POSTGRES_SCHEMA_OBJECTS`] says about [`POSTGRES_SCHEMA`].
pub(crate) const POSTGRES_SCHEMA_EXPECTED: [(&str, &str); 3] = [
    ("change", "r p f f revision bigint t f  , key text C t f  , value bytea f f  , mac bytea t f  "),
    (
        "head",
        "r p f f id bigint t f  , incarnation bytea t f  , revision bigint t f  , floor bigint t f  , \
         anchor bytea t f  , tip bytea t f  , objects bigint t f  , set_tag bytea t f  , mac bytea t f  ",
    ),
    ("object", "r p f f key text C t f  , revision bigint t f  , value bytea t f  , mac bytea t f  "),
];

/// The settings that decide whether what PostgreSQL acknowledges is on the disk.
pub(crate) const POSTGRES_SETTINGS: &str = "SELECT name, setting FROM pg_catalog.pg_settings \
     WHERE name IN ('fsync', 'full_page_writes', 'server_encoding', 'synchronous_commit')";

pub(crate) const HEAD: &str =
    "SELECT id, incarnation, revision, floor, anchor, tip, objects, set_tag, mac FROM head ORDER BY id";

pub(crate) const INSERT_HEAD: &str = "INSERT INTO head \
     (id, incarnation, revision, floor, anchor, tip, objects, set_tag, mac) \
     VALUES (1, $1, $2, $3, $4, $5, $6, $7, $8)";

/// The first statement of each commit. On a server with several writers it takes the lock of the row, so that the
/// order of commits is the order of revisions; and it gives nothing when somebody else was first.
pub(crate) const ADVANCE: &str = "UPDATE head SET revision = revision + $1 WHERE id = 1 AND revision = $2";

/// The last statement of each commit.
pub(crate) const AUTHENTICATE_HEAD: &str =
    "UPDATE head SET floor = $1, anchor = $2, tip = $3, objects = $4, set_tag = $5, mac = $6 WHERE id = 1";

/// A new incarnation; its head is authenticated after that.
pub(crate) const RENEW: &str = "UPDATE head SET incarnation = $1 WHERE id = 1";

pub(crate) const AUTHENTICATE_OBJECT: &str = "UPDATE object SET mac = $1 WHERE key = $2";

pub(crate) const CHANGES: &str =
    "SELECT revision, key, value, mac FROM change WHERE revision > $1 ORDER BY revision LIMIT $2";

pub(crate) const CHANGE_MAC: &str = "SELECT mac FROM change WHERE revision = $1";

pub(crate) const INSERT_CHANGE: &str =
    "INSERT INTO change (revision, key, value, mac) VALUES ($1, $2, $3, $4)";

pub(crate) const DELETE_CHANGES: &str = "DELETE FROM change WHERE revision <= $1";

pub(crate) const OBJECT: &str = "SELECT key, revision, value, mac FROM object WHERE key = $1";

pub(crate) const OBJECTS: &str = "SELECT key, revision, value, mac FROM object ORDER BY key";

pub(crate) const PUT_OBJECT: &str = "INSERT INTO object (key, revision, value, mac) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, value = excluded.value, mac = excluded.mac";

pub(crate) const DELETE_OBJECT: &str = "DELETE FROM object WHERE key = $1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_first_used_in_ascending_order() {
        for statement in [
            HEAD,
            INSERT_HEAD,
            ADVANCE,
            AUTHENTICATE_HEAD,
            RENEW,
            AUTHENTICATE_OBJECT,
            CHANGES,
            CHANGE_MAC,
            INSERT_CHANGE,
            DELETE_CHANGES,
            OBJECT,
            OBJECTS,
            PUT_OBJECT,
            DELETE_OBJECT,
        ] {
            for (next, part) in (1..).zip(statement.split('$').skip(1)) {
                let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
                assert_eq!(digits.parse::<u32>().unwrap(), next, "{statement}");
            }
        }
    }
}
