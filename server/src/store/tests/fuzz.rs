//! Whatever stands in a row, opening reads it or refuses; it never makes something else of it.

use netloom_fuzz::withstands;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _, SqliteConnection};

use super::fixtures::*;
use crate::store::{
    load::load,
    open::{self, DATABASE},
};

/// What is read of each noun's rows.
const COLUMNS: &[&str] = &[
    "uid",
    "name",
    "labels",
    "annotations",
    "owner",
    "generation",
    "create_time",
    "delete_time",
    "spec",
    "alloc",
];
const TABLES: &[&str] = &[
    "namespaces",
    "networks",
    "attachments",
    "port_forwards",
    "reservations",
    "routes",
    "links",
    "policies",
];

#[test]
fn whatever_stands_in_a_row_is_read_or_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = temp();
    let path = dir.path().join(DATABASE);
    let mut connection = runtime.block_on(async {
        let store = open(dir.path()).await;
        let mut head = Head::of(&store);
        let first = vec![namespace("red"), namespace("blue"), network("net", 1)];
        head.write(first, vec![]).await.unwrap();
        head.write(vec![attachment("a", "red", "net", 1, 2), reservation("r", "net", 1, 9)], vec![])
            .await
            .unwrap();
        let rest = vec![
            forward("a", None, 80, Some(90)),
            route("way", "red", 3, 7),
            link("cable", "red", "blue", 1),
            policy("p", "net", 1),
        ];
        head.write(rest, vec![]).await.unwrap();
        store.close().await;
        let mut connection =
            SqliteConnection::connect_with(&open::options(&path).foreign_keys(false)).await.unwrap();
        connection.execute("PRAGMA ignore_check_constraints = ON").await.unwrap();
        connection
    });
    // The table, the column, and what stands there.
    let mut examples = Vec::new();
    for (table, name) in (0_u8..).zip(TABLES) {
        for (column, field) in (0_u8..).zip(COLUMNS) {
            let sql = AssertSqlSafe(format!("SELECT CAST({field} AS TEXT) FROM {name} LIMIT 1"));
            let row = runtime.block_on(sqlx::query(sql).fetch_one(&mut connection)).unwrap();
            let value = row.get::<Option<String>, _>(0).unwrap_or_default();
            examples.push([&[table, column][..], value.as_bytes()].concat());
        }
    }
    let connection = std::cell::RefCell::new(connection);
    withstands(&examples, |bytes| {
        let [table, column, value @ ..] = bytes else { return };
        let (Some(table), Some(column)) =
            (TABLES.get(usize::from(*table)), COLUMNS.get(usize::from(*column)))
        else {
            return;
        };
        let mut connection = connection.borrow_mut();
        runtime.block_on(async {
            let mut transaction = connection.begin().await.unwrap();
            let sql = AssertSqlSafe(format!("UPDATE {table} SET {column} = ?"));
            let text = String::from_utf8_lossy(value).into_owned();
            // The database itself guards some of it.
            if sqlx::query(sql).bind(text).execute(&mut *transaction).await.is_ok() {
                drop(load(&mut transaction, &path).await);
            }
            transaction.rollback().await.unwrap();
        });
    });
}
