//! Opening: who may, what is refused, what survives.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use sqlx::{
    Connection, Executor, Row, SqlSafeStr, SqliteConnection,
    migrate::{Migration, MigrationType, Migrator},
};

use super::fixtures::*;
use crate::store::{
    BackupError, OpenError, StoreOptions, backup,
    open::{self, DATABASE, MIGRATIONS},
};

/// A state directory with a database that has something in it.
async fn used() -> (tempfile::TempDir, PathBuf, crate::world::World) {
    let dir = temp();
    let store = open(dir.path()).await;
    let mut head = Head::of(&store);
    head.write(vec![namespace("red"), network("net", 1), attachment("a", "red", "net", 1, 2)], vec![])
        .await
        .unwrap();
    store.close().await;
    let path = dir.path().join(DATABASE);
    (dir, path, head.world)
}

/// Changes a closed database by hand.
async fn change(path: &Path, sql: &'static str) {
    let mut connection = SqliteConnection::connect_with(&open::options(path)).await.unwrap();
    connection.execute(sql).await.unwrap();
    connection.close().await.unwrap();
}

/// The error of opening, which must not have changed the file.
async fn refusal(dir: &Path) -> OpenError {
    let path = dir.join(DATABASE);
    let before = fs::read(&path).unwrap();
    let error = try_open(dir).await.unwrap_err();
    assert!(fs::read(&path).unwrap() == before, "the file was changed");
    error
}

#[tokio::test]
async fn a_second_daemon_is_told_who_has_the_directory() {
    let dir = temp();
    let store = open(dir.path()).await;
    match try_open(dir.path()).await.unwrap_err() {
        OpenError::Locked { pid, .. } => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other}"),
    }
    store.close().await;
    open(dir.path()).await;
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let dir = temp();
    let state_dir = dir.path().join("deep/state");
    let store = open(&state_dir).await;
    Head::of(&store).write(vec![namespace("red")], vec![]).await.unwrap();
    store.backup(&state_dir.join("copy")).await.unwrap();
    assert_eq!(fs::metadata(&state_dir).unwrap().permissions().mode() & 0o777, 0o700);
    let files: Vec<_> = fs::read_dir(&state_dir).unwrap().map(Result::unwrap).collect();
    assert_eq!(files.len(), 5, "{files:?}");
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
}

#[tokio::test]
async fn what_was_written_survives_an_unclean_end() {
    let dir = temp();
    let store = open(dir.path()).await;
    let mut head = Head::of(&store);
    head.write(vec![namespace("red"), network("net", 1)], vec![]).await.unwrap();
    head.write(vec![attachment("a", "red", "net", 1, 2)], vec![]).await.unwrap();
    // What a process that was killed leaves behind: the files as they are now.
    let crashed = temp();
    for file in [DATABASE, "netloom.db-wal"] {
        fs::copy(dir.path().join(file), crashed.path().join(file)).unwrap();
    }
    let snapshot = open(crashed.path()).await.snapshot();
    assert_eq!((&*snapshot.world, snapshot.seq), (&head.world, 3));
}

#[tokio::test]
async fn a_half_made_database_is_made_again() {
    let dir = temp();
    fs::write(dir.path().join("netloom.db.new"), "half").unwrap();
    fs::write(dir.path().join("netloom.db.new-wal"), "half").unwrap();
    open(dir.path()).await.close().await;
    assert!(!dir.path().join("netloom.db.new").exists());
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (dir, path, _) = used().await;
    change(&path, "PRAGMA user_version = 99").await;
    match refusal(dir.path()).await {
        OpenError::Newer { found: 99, known, .. } => assert!(known < 99),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_older_schema_is_copied_and_then_brought_up_to_date() {
    let (dir, path, world) = used().await;
    let next = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap() + 1;
    let with = |sql: String| {
        let sql = sqlx::AssertSqlSafe(sql).into_sql_str();
        let added = Migration::new(next, "next".into(), MigrationType::Simple, sql, false);
        Migrator::with_migrations(MIGRATIONS.iter().cloned().chain([added]).collect())
    };
    let options = || StoreOptions { state_dir: dir.path().to_owned(), events: Default::default() };
    let copies = || {
        let files = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|end| end == "backup")).collect::<Vec<_>>()
    };

    match open::open(options(), &with("broken".into())).await.unwrap_err() {
        OpenError::Migrate { backup: Some(backup), .. } => assert_eq!(copies(), [backup]),
        other => panic!("{other}"),
    }
    // The daemon from before still opens what a failed migration left, and the copy.
    assert_eq!(*open(dir.path()).await.snapshot().world, world);
    let restored = temp();
    fs::copy(&copies()[0], restored.path().join(DATABASE)).unwrap();
    assert_eq!(*open(restored.path()).await.snapshot().world, world);

    let good = with(format!("CREATE TABLE added (id INTEGER) STRICT; PRAGMA user_version = {next};"));
    let store = open_when_unlocked(options(), &good).await;
    assert_eq!(*store.snapshot().world, world);
    assert_eq!(copies().len(), 2);
    store.close().await;
    let mut connection = SqliteConnection::connect_with(&open::options(&path)).await.unwrap();
    connection.execute("SELECT * FROM added").await.unwrap();
    connection.close().await.unwrap();
    assert!(matches!(refusal(dir.path()).await, OpenError::Newer { .. }));
}

/// A store that was dropped closes in the background.
async fn open_when_unlocked(options: StoreOptions, migrations: &Migrator) -> crate::store::Store {
    loop {
        match open::open(options.clone(), migrations).await {
            Err(OpenError::Locked { .. }) => tokio::task::yield_now().await,
            other => return other.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_migration_whose_text_was_changed_is_refused() {
    let (dir, path, _) = used().await;
    change(&path, "UPDATE _sqlx_migrations SET checksum = x'00'").await;
    assert!(matches!(refusal(dir.path()).await, OpenError::Migrate { .. }));
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_the_newest_backup_named() {
    let (dir, path, _) = used().await;
    backup(dir.path(), &dir.path().join("old.backup")).await.unwrap();
    let good = fs::read(&path).unwrap();
    let noise: Vec<u8> = (0..8192_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let schema_page_lost = [&good[..100], &noise[..3996], &good[4096..]].concat();
    let root_page_lost = [&good[..4096], &noise[..4096], &good[8192..]].concat();
    let cut = good[..good.len() / 2 / 4096 * 4096].to_vec();
    let cases = [
        ("noise", noise),
        ("schema", schema_page_lost),
        ("a page", root_page_lost),
        ("cut", cut),
        ("a byte", good[..good.len() - 1].to_vec()),
        ("nothing", vec![]),
    ];
    for (what, bytes) in cases {
        fs::write(&path, bytes).unwrap();
        match refusal(dir.path()).await {
            OpenError::Corrupt { backup: Some(backup), .. } => {
                assert_eq!(backup, dir.path().join("old.backup"), "{what}");
            }
            other => panic!("{what}: {other}"),
        }
    }
}

#[tokio::test]
async fn another_program_s_database_is_refused() {
    let (dir, path, _) = used().await;
    change(&path, "PRAGMA application_id = 1").await;
    assert!(matches!(refusal(dir.path()).await, OpenError::Corrupt { backup: None, .. }));
}

#[tokio::test]
async fn a_database_that_went_missing_does_not_become_an_empty_one() {
    let dir = temp();
    fs::write(dir.path().join("netloom.db-wal"), "left over").unwrap();
    assert!(matches!(try_open(dir.path()).await.unwrap_err(), OpenError::Corrupt { .. }));
    assert!(!dir.path().join(DATABASE).exists());
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named() {
    let cases = [
        ("UPDATE namespaces SET spec = '{\"colour\": 1}'", "namespaces", "red"),
        ("UPDATE networks SET labels = '[]'", "networks", "net"),
        ("UPDATE networks SET spec_version = 2", "networks", "net"),
        (
            "UPDATE attachments SET uid = 'x'; DELETE FROM allocations; DELETE FROM devices",
            "attachments",
            "a",
        ),
        ("DELETE FROM allocations WHERE holder_kind = 'Attachment'", "allocations", "net@10.1.0.2"),
        ("INSERT INTO cursors VALUES ('net', '10.1.0.5/24', '10.1.0.9')", "cursors", "net"),
    ];
    for (sql, table, row) in cases {
        let (dir, path, _) = used().await;
        let plain = open::options(&path).foreign_keys(false);
        let mut connection = SqliteConnection::connect_with(&plain).await.unwrap();
        connection.execute(sql).await.unwrap();
        connection.close().await.unwrap();
        match refusal(dir.path()).await {
            OpenError::Undecodable { table: found, row: at, .. } => assert_eq!((found, &*at), (table, row)),
            other => panic!("{sql}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_backup_made_while_the_daemon_writes_opens_as_it_was() {
    let dir = temp();
    let store = open(dir.path()).await;
    let mut head = Head::of(&store);
    head.write(vec![namespace("red")], vec![]).await.unwrap();
    let world = head.world.clone();
    let copied = temp();
    let copy = copied.path().join(DATABASE);
    backup(dir.path(), &copy).await.unwrap();
    head.write(vec![namespace("blue")], vec![]).await.unwrap();
    assert!(matches!(store.backup(&copy).await, Err(BackupError::Io { .. })), "it exists");
    assert_eq!(*open(copied.path()).await.snapshot().world, world);
    let nowhere = backup(&dir.path().join("nowhere"), &dir.path().join("nothing")).await;
    assert!(matches!(nowhere, Err(BackupError::Database { .. })));
    assert!(!dir.path().join("nothing").exists());
}

#[tokio::test]
async fn the_schema_is_the_golden_one() {
    let (_dir, path, _) = used().await;
    let mut connection = SqliteConnection::connect_with(&open::options(&path)).await.unwrap();
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut connection).await.unwrap();
    assert_eq!(Some(version), MIGRATIONS.iter().map(|migration| migration.version).max());
    let sql = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE '\\_sqlx%' ESCAPE '\\' \
        ORDER BY tbl_name, type DESC, name";
    let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
    let schema: String = rows.iter().map(|row| format!("{};\n\n", row.get::<&str, _>(0))).collect();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/schema.golden.sql");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &schema).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    assert_eq!(schema, expected, "if this is meant: UPDATE_GOLDEN=1 cargo test -p netloom-server golden");
}

#[tokio::test]
#[ignore = "prints numbers: cargo test -p netloom-server -- --ignored --nocapture how_long"]
async fn how_long_a_start_takes() {
    let dir = temp();
    let store = open(dir.path()).await;
    let mut head = Head::of(&store);
    let mut all: Vec<_> = (0..5).map(|n| network(&format!("net{n}"), n)).collect();
    for n in 0..1000_u32 {
        let (of, host) = ((n / 250) as u8, (n % 250) as u8 + 2);
        all.push(namespace(&format!("ns{n}")));
        all.push(attachment(&format!("a{n}"), &format!("ns{n}"), &format!("net{of}"), of, host));
    }
    head.write(all, vec![]).await.unwrap();
    for _ in 0..100 {
        let mut batch = head.batch(vec![], vec![]);
        let mut one = event(netloom_api::Kind::Namespace, "red", netloom_api::EventType::Status);
        one.message = Some("x".repeat(1000));
        batch.events = vec![one; 1000];
        store.submit(batch).unwrap().written.await.unwrap();
    }
    store.close().await;
    let size = fs::metadata(dir.path().join(DATABASE)).unwrap().len();
    let start = std::time::Instant::now();
    open(dir.path()).await;
    println!("a start with 1000 attachments and a database of {} MiB: {:?}", size >> 20, start.elapsed());
}
