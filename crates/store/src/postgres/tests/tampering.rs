//! Whoever can write the database changes it in every way there is; opening must refuse, and say where.

use tokio_postgres::Client;

use super::*;
use crate::Place;

/// A store with removals, overwritten objects, several versions of values, and a compacted part.
struct Fixture {
    server: Server,
    database: Database,
    client: Client,
}

/// Tables with their columns; the first one names the row.
const COLUMNS: [(&str, &[&str]); 3] = [
    ("head", &["id", "incarnation", "revision", "floor", "anchor", "tip", "objects", "set_tag", "mac"]),
    ("change", &["revision", "key", "value", "mac"]),
    ("object", &["key", "revision", "value", "mac"]),
];

impl Fixture {
    async fn new() -> Option<Self> {
        let server = Server::new()?;
        let store = server.open().await;
        let batch =
            Batch::default().put("old/1", "one").put("old/2", "two").put("a", "first").put("b", "first");
        let revision = store.commit(Revision(0), batch).await.unwrap();
        let revision = store.commit(revision, Batch::default().put("c", "gone").remove("c")).await.unwrap();
        store.compact(revision).await.unwrap();
        let batch =
            Batch::default().put("a", "second").put("d", "gone").remove("d").put("e", "").put("a", "3");
        store.commit(revision, batch).await.unwrap();
        let database = server.database();
        let (client, _driver) = session::connect(&server.address(), None).await.unwrap();
        client
            .batch_execute(
                "CREATE SCHEMA kept; CREATE TABLE kept.change AS TABLE change; \
                 CREATE TABLE kept.head AS TABLE head; CREATE TABLE kept.object AS TABLE object",
            )
            .await
            .unwrap();
        Some(Self { server, database, client })
    }

    /// Runs `attack` on the database, and returns what opening it says. Puts everything back afterwards. `None` if the
    /// database itself refuses the attack.
    async fn opened_after(&self, attack: &str) -> Option<Result<(), StoreError>> {
        self.client.batch_execute(attack).await.ok()?;
        let opened = self.server.opened().await.map(drop);
        for (table, _) in COLUMNS {
            let restore = format!("TRUNCATE {table}; INSERT INTO {table} TABLE kept.{table}");
            self.client.batch_execute(&restore).await.unwrap();
        }
        Some(opened)
    }

    async fn place_after(&self, attack: &str) -> (Place, &'static str) {
        match self.opened_after(attack).await {
            Some(Err(StoreError::Broken { place, what })) => (place, what),
            other => panic!("{attack}: not refused as broken: {other:?}"),
        }
    }
}

fn place(table: &str, name: &str) -> Place {
    match table {
        "head" => Place::Head,
        "change" => Place::Change(Revision(name.parse().unwrap())),
        _ => Place::Object(name.to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_in_any_column_of_any_row() {
    let Some(fixture) = Fixture::new().await else { return };
    fixture.opened_after("SELECT 1").await.unwrap().expect("nothing was changed");
    let mut tried = 0;
    for (table, columns) in COLUMNS {
        let names = fixture.database.sql(&format!("SELECT {} FROM {table} ORDER BY 1", columns[0]));
        for name in names.lines() {
            for column in columns {
                let flips: &[&str] = match (*column, table) {
                    ("id" | "revision" | "floor" | "objects", _) => {
                        &["+ 1", "# 256", "# (1::bigint << 40)", "- 1000"]
                    }
                    ("key", _) => &["|| 'x'", "|| ' '"],
                    _ => &["|| '\\x00'", "first", "last", "null"],
                };
                for flip in flips {
                    let value = match *flip {
                        "first" => format!("set_byte({column}, 0, get_byte({column}, 0) # 1)"),
                        "last" => format!(
                            "set_byte({column}, length({column}) - 1, get_byte({column}, length({column}) - 1) # 128)"
                        ),
                        // In place of nothing, something: an object for its removal, and the other way round.
                        "null" => format!("CASE WHEN {column} IS NULL THEN '\\x'::bytea END"),
                        flip => format!(
                            "coalesce({column}::text::{}, '') {flip}",
                            match *column {
                                "key" => "text",
                                "id" | "revision" | "floor" | "objects" => {
                                    // Numbers are never null.
                                    "bigint"
                                }
                                _ => "bytea",
                            }
                        )
                        .replace("coalesce(", "(")
                        .replace(", '') ", ") "),
                    };
                    let attack = format!(
                        "DO $$ BEGIN UPDATE {table} SET {column} = {value} WHERE {}::text = '{name}'; \
                         IF NOT FOUND THEN RAISE 'no such row'; END IF; \
                         IF NOT EXISTS (TABLE {table} EXCEPT TABLE kept.{table}) THEN RAISE 'the same'; END IF; \
                         END $$",
                        columns[0]
                    );
                    let Some(opened) = fixture.opened_after(&attack).await else { continue };
                    tried += 1;
                    let Err(StoreError::Broken { place: found, .. }) = &opened else {
                        panic!("{attack}: {opened:?}");
                    };
                    // A row that became another one is missing where it was, or too much where it is.
                    let named = *found == place(table, name) || *column == columns[0];
                    assert!(named, "{attack}: said {found}");
                }
            }
        }
    }
    assert!(tried > 120, "only {tried} changes were possible");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_removed_added_swapped_or_put_back() {
    let Some(fixture) = Fixture::new().await else { return };
    assert_eq!(fixture.place_after("DELETE FROM head").await.0, Place::Head);
    for first in 7..=11 {
        let one = fixture.place_after(&format!("DELETE FROM change WHERE revision = {first}")).await.0;
        let tail = fixture.place_after(&format!("DELETE FROM change WHERE revision >= {first}")).await.0;
        assert_eq!((one, tail), (Place::Change(Revision(first)), Place::Change(Revision(first))));
    }
    for (key, place) in [
        ("a", Place::Object("a".into())),
        ("e", Place::Object("e".into())),
        ("old/1", Place::CompactedObjects(Revision(6))),
    ] {
        assert_eq!(fixture.place_after(&format!("DELETE FROM object WHERE key = '{key}'")).await.0, place);
    }
    for (attack, place) in [
        (
            "INSERT INTO change SELECT 12, key, value, mac FROM change WHERE revision = 11",
            Place::Change(Revision(12)),
        ),
        (
            "INSERT INTO change SELECT 3, key, value, mac FROM change WHERE revision = 11",
            Place::Change(Revision(3)),
        ),
        (
            "INSERT INTO object SELECT 'f', revision, value, mac FROM object WHERE key = 'b'",
            Place::Object("f".into()),
        ),
        (
            "INSERT INTO head SELECT 2, incarnation, revision, floor, anchor, tip, objects, set_tag, mac FROM head",
            Place::Head,
        ),
        (
            "UPDATE object SET value = (SELECT value FROM object WHERE key = 'old/1') WHERE key = 'old/2'",
            Place::Object("old/2".into()),
        ),
        (
            "UPDATE object o SET (revision, value, mac) = (SELECT revision, value, mac FROM object p \
             WHERE p.key = CASE o.key WHEN 'old/1' THEN 'old/2' ELSE 'old/1' END) WHERE key LIKE 'old/%'",
            Place::Object("old/1".into()),
        ),
    ] {
        assert_eq!(fixture.place_after(attack).await.0, place, "{attack}");
    }

    // True rows of an earlier moment, and of another incarnation.
    let store = fixture.server.opened().await.unwrap();
    store.commit(Revision(11), Batch::default().put("a", "4").remove("b")).await.unwrap();
    fixture
        .client
        .batch_execute(
            "CREATE SCHEMA older; ALTER TABLE kept.change SET SCHEMA older; \
        ALTER TABLE kept.head SET SCHEMA older; ALTER TABLE kept.object SET SCHEMA older; \
        CREATE TABLE kept.change AS TABLE change; CREATE TABLE kept.head AS TABLE head; \
        CREATE TABLE kept.object AS TABLE object",
        )
        .await
        .unwrap();
    let object = |key: &str| Place::Object(key.to_owned());
    let put_back = |key: &str| {
        format!(
            "DELETE FROM object WHERE key = '{key}'; \
                 INSERT INTO object SELECT * FROM older.object WHERE key = '{key}';"
        )
    };
    let found = fixture.place_after(&put_back("a")).await;
    assert_eq!(found, (object("a"), "a later change replaced this version"));
    let found = fixture.place_after(&put_back("b")).await;
    assert_eq!(found, (object("b"), "a later change removed the object"));
    let head = "DELETE FROM head; INSERT INTO head TABLE older.head;";
    let found = fixture.place_after(head).await;
    assert_eq!(found, (Place::Change(Revision(12)), "the row is newer than the head"));
    let cut = format!("{head} DELETE FROM change WHERE revision > 11;");
    assert_eq!(fixture.place_after(&cut).await, (object("a"), "the row is newer than the head"));
    let cut = format!("{cut} {}", put_back("a"));
    assert_eq!(fixture.place_after(&cut).await.0, Place::CompactedObjects(Revision(6)));

    drop(store);
    PostgresStore::renew_incarnation(fixture.server.address(), &key(), &SystemRandom).await.unwrap();
    fixture
        .client
        .batch_execute(
            "ALTER TABLE kept.change RENAME TO c; ALTER TABLE kept.head RENAME TO h; \
        ALTER TABLE kept.object RENAME TO o; CREATE TABLE kept.change AS TABLE change; \
        CREATE TABLE kept.head AS TABLE head; CREATE TABLE kept.object AS TABLE object",
        )
        .await
        .unwrap();
    let attack =
        "DELETE FROM object WHERE key = 'a'; INSERT INTO object SELECT * FROM kept.o WHERE key = 'a'";
    assert_eq!(fixture.place_after(attack).await, (object("a"), "its MAC does not fit the row"));
    let attack = "INSERT INTO change SELECT * FROM kept.c WHERE revision = 13";
    assert_eq!(fixture.place_after(attack).await.0, Place::Change(Revision(13)));
    let attack = "DELETE FROM head; INSERT INTO head TABLE kept.h";
    assert_eq!(fixture.place_after(attack).await.0, Place::Change(Revision(7)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn things_that_are_added_to_the_schema() {
    let Some(fixture) = Fixture::new().await else { return };
    fixture
        .client
        .batch_execute("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        .await
        .unwrap();
    for (attack, undo, name) in [
        (
            "CREATE TRIGGER t BEFORE INSERT ON change FOR EACH ROW EXECUTE FUNCTION f()",
            "DROP TRIGGER t ON change",
            "t",
        ),
        ("CREATE RULE r AS ON INSERT TO object DO ALSO NOTHING", "DROP RULE r ON object", "r"),
        ("CREATE INDEX i ON object ((length(key)))", "DROP INDEX i", "i"),
        ("CREATE POLICY p ON object USING (key <> 'a')", "DROP POLICY p ON object", "p"),
        (
            "ALTER TABLE object ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE object DISABLE ROW LEVEL SECURITY",
            "object",
        ),
        (
            "ALTER TABLE change ADD CHECK (length(key) > 0)",
            "ALTER TABLE change DROP CONSTRAINT change_key_check",
            "change_key_check",
        ),
        ("ALTER TABLE object ADD COLUMN x TEXT", "ALTER TABLE object DROP COLUMN x", "object"),
        ("ALTER TABLE head ALTER tip SET DEFAULT '\\x'", "ALTER TABLE head ALTER tip DROP DEFAULT", "head"),
        ("ALTER TABLE change SET UNLOGGED", "ALTER TABLE change SET LOGGED", "change"),
        ("ALTER TABLE change RENAME TO changes", "ALTER TABLE changes RENAME TO change", "change"),
        (
            "ALTER TABLE object RENAME TO o; CREATE VIEW object AS SELECT * FROM o WHERE key <> 'a'",
            "DROP VIEW object; ALTER TABLE o RENAME TO object",
            "object",
        ),
    ] {
        fixture.client.batch_execute(attack).await.unwrap();
        let error = fixture.server.opened().await.unwrap_err();
        let StoreError::Broken { place, .. } = &error else { panic!("{attack}: {error}") };
        assert_eq!(*place, Place::Database(format!("schema, `{name}`")), "{attack}");
        fixture.client.batch_execute(undo).await.unwrap();
        fixture.server.opened().await.expect(undo);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_store_notices_too() {
    let Some(fixture) = Fixture::new().await else { return };
    let store = fixture.server.opened().await.unwrap();
    let attack = |statement: &'static str| fixture.client.batch_execute(statement);
    attack("UPDATE object SET value = '\\x00' WHERE key = 'b'").await.unwrap();
    let error = store.snapshot().await.unwrap_err();
    assert!(matches!(error, StoreError::Broken { place: Place::Object(_), .. }), "{error}");
    // What is written over it is what this server knows, not what stands there.
    assert_eq!(store.commit(Revision(11), Batch::default().put("b", "new")).await.unwrap(), Revision(12));
    assert_eq!(store.snapshot().await.unwrap().objects.len(), 5);

    // A rogue writer who moves the head along has no MAC for it.
    attack("UPDATE head SET revision = 13; INSERT INTO change SELECT 13, key, value, mac FROM change WHERE revision = 12")
        .await
        .unwrap();
    for error in [
        store.head().await.unwrap_err(),
        store.changes(Revision(12), 9).await.unwrap_err(),
        store.commit(Revision(12), Batch::default().put("b", "newer")).await.unwrap_err(),
        store.commit(Revision(13), Batch::default().put("b", "newer")).await.unwrap_err(),
        store.wait(Revision(12), Duration::MAX).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Broken { place: Place::Head, .. }), "{error}");
    }
    attack("UPDATE head SET revision = 12; DELETE FROM change WHERE revision = 13").await.unwrap();
    attack("UPDATE change SET key = 'x' WHERE revision = 9").await.unwrap();
    assert_eq!(store.changes(Revision(6), 2).await.unwrap().len(), 2);
    for error in
        [store.changes(Revision(6), 9).await.unwrap_err(), store.compact(Revision(10)).await.unwrap_err()]
    {
        assert!(matches!(error, StoreError::Broken { place: Place::Change(Revision(9)), .. }), "{error}");
    }
}
