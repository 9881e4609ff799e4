//! From a state directory to a running store: lock, look, migrate, load. What is found wrong is left as it is.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use netloom_api::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use sqlx::{
    Connection, SqliteConnection,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::{broadcast, mpsc, watch};

use super::{
    FOLLOW_EVENTS, OpenError, Published, QUEUE_BATCHES, Shared, Snapshot, Store, StoreOptions, backup,
    load::{Loaded, load},
    sync,
    writer::Writer,
};
use crate::fault::{self, Effect};

/// The schema, step by step.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// The database's file in the state directory.
pub(super) const DATABASE: &str = "netloom.db";
/// "netl", as in the first migration.
const APPLICATION_ID: i64 = 0x6e65_746c;
/// What a copy from before a migration is called at the end.
const BACKUP: &str = "backup";
/// Who reads the log at the same time.
const READERS: u32 = 2;
/// The part of the file that says what the rest is.
const HEADER: usize = 100;
/// How long a statement waits for a lock; only a backup by another process can hold one.
const BUSY: Duration = Duration::from_secs(5);

/// Opens the store with the schema that `migrations` end in.
pub(super) async fn open(options: StoreOptions, migrations: &Migrator) -> Result<Store, OpenError> {
    let StoreOptions { state_dir, events } = options;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&state_dir);
    made.map_err(io_error(&state_dir))?;
    let lock = lock(&state_dir)?;
    let path = state_dir.join(DATABASE);
    fault::request(Effect::Read)
        .map_or(Ok(()), |fault| Err(io_error(&path)(io::Error::other(fault.to_string()))))?;
    if !path.exists() {
        create(&path, migrations).await?;
    }
    let loaded = read(&path, migrations).await?;
    start(path, lock, loaded, events).await
}

/// How every connection is opened.
pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    use sqlx::ConnectOptions;
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .disable_statement_logging()
}

/// Blames the file for SQLite's error.
pub(super) fn database(path: &Path) -> impl Fn(sqlx::Error) -> OpenError {
    const SQLITE_CORRUPT: i32 = 11;
    const SQLITE_NOTADB: i32 = 26;
    move |source| {
        let code = source.as_database_error().and_then(|error| error.code());
        match code.and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff) {
            Some(SQLITE_CORRUPT | SQLITE_NOTADB) => corrupt(path, source.to_string()),
            Some(_) | None => OpenError::Database { path: path.to_owned(), source },
        }
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { path: path.to_owned(), source }
}

fn corrupt(path: &Path, detail: String) -> OpenError {
    OpenError::Corrupt { path: path.to_owned(), detail, backup: newest_backup(path) }
}

fn newest_backup(path: &Path) -> Option<PathBuf> {
    let backups = fs::read_dir(path.parent()?).ok()?.filter_map(Result::ok);
    let backups =
        backups.filter(|entry| entry.path().extension().is_some_and(|extension| extension == BACKUP));
    let dated = backups.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())));
    dated.max().map(|(_, path)| path)
}

/// Takes the directory for this process, for as long as the lock lives.
fn lock(state_dir: &Path) -> Result<Flock<File>, OpenError> {
    let path = state_dir.join("lock");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    match Flock::lock(file.map_err(io_error(&path))?, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let written = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
            written.map_err(io_error(&path))?;
            Ok(lock)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(io_error(&path))?;
            Err(OpenError::Locked { state_dir: state_dir.to_owned(), pid: pid.trim().parse().ok() })
        }
        Err((_, errno)) => Err(io_error(&path)(errno.into())),
    }
}

/// Makes a new database under another name first, so that half a one is never taken for the truth.
async fn create(path: &Path, migrations: &Migrator) -> Result<(), OpenError> {
    let wal = with_suffix(path, "-wal");
    if wal.exists() {
        return Err(corrupt(path, format!("the file is missing, but {} is there", wal.display())));
    }
    let new = with_suffix(path, ".new");
    for suffix in ["", "-wal", "-shm", "-journal"] {
        remove_if_there(&with_suffix(&new, suffix))?;
    }
    backup::create_private(&new).map_err(io_error(&new))?;
    let fresh = options(&new).journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
    let mut connection = SqliteConnection::connect_with(&fresh).await.map_err(database(&new))?;
    let migrated = run(migrations, &mut connection).await;
    migrated.map_err(|source| OpenError::Migrate { path: new.clone(), backup: None, source })?;
    connection.close().await.map_err(database(&new))?;
    file(|| File::open(&new)?.sync_all()).map_err(io_error(&new))?;
    file(|| fs::rename(&new, path)).map_err(io_error(path))?;
    sync_directory(path)
}

/// Takes the steps that the schema lacks, each in a transaction of its own.
async fn run(migrations: &Migrator, connection: &mut SqliteConnection) -> Result<(), MigrateError> {
    if let Some(fault) = fault::before(Effect::Transaction) {
        return Err(MigrateError::Source(fault.to_string().into()));
    }
    migrations.run(connection).await?;
    fault::after(Effect::Transaction);
    Ok(())
}

/// Does something to a file, with its points around it.
pub(super) fn file<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if let Some(fault) = fault::before(Effect::File) {
        return Err(io::Error::other(fault.to_string()));
    }
    let done = call();
    fault::after(Effect::File);
    done
}

fn remove_if_there(path: &Path) -> Result<(), OpenError> {
    match file(|| fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync_directory(path: &Path) -> Result<(), OpenError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    file(|| File::open(directory)?.sync_all()).map_err(io_error(directory))
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Checks the file, brings its schema up to date, and reads it. A database that is not taken is not written to.
async fn read(path: &Path, migrations: &Migrator) -> Result<Loaded, OpenError> {
    check_header(path)?;
    let known = migrations.iter().map(|migration| migration.version).max().unwrap_or(0);
    let mut connection =
        SqliteConnection::connect_with(&options(path).read_only(true)).await.map_err(database(path))?;
    let found = check(&mut connection, path).await?;
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    if found < known {
        connection.close().await.map_err(database(path))?;
        migrate(path, migrations, found).await?;
        let read_only = options(path).read_only(true);
        connection = SqliteConnection::connect_with(&read_only).await.map_err(database(path))?;
    }
    compare_migrations(&mut connection, path, migrations).await?;
    let loaded = load(&mut connection, path).await?;
    connection.close().await.map_err(database(path))?;
    Ok(loaded)
}

/// What is no SQLite file at all is seen before SQLite opens it.
fn check_header(path: &Path) -> Result<(), OpenError> {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let file = File::open(path).map_err(io_error(path))?;
    let mut header = Vec::with_capacity(HEADER);
    io::Read::take(&file, HEADER as u64).read_to_end(&mut header).map_err(io_error(path))?;
    match header.get(..MAGIC.len()) {
        Some(magic) if magic == MAGIC => {}
        _ if header.is_empty() => return Err(corrupt(path, "it is empty".into())),
        _ => return Err(corrupt(path, "it is not a SQLite database".into())),
    }
    // With a log beside it, the last pages may be there alone.
    let log = fs::metadata(with_suffix(path, "-wal"));
    if log.is_ok_and(|log| log.len() > 0) {
        return Ok(());
    }
    let (have, want) = (file.metadata().map_err(io_error(path))?.len(), length_in(&header));
    match want {
        Some(want) if have >= want => Ok(()),
        Some(want) => Err(corrupt(path, format!("it has {have} of {want} bytes"))),
        None => Err(corrupt(path, "its header is cut off".into())),
    }
}

/// How long the file says it is: SQLite reads what is missing of the last page as zeros, and no check of its own notices.
/// (Database File Format, sections 1.3.2 and 1.3.7.)
fn length_in(header: &[u8]) -> Option<u64> {
    let page = u16::from_be_bytes(*header.get(16..)?.first_chunk()?);
    let page = if page == 1 { 1 << 16 } else { u64::from(page) };
    Some(page * u64::from(u32::from_be_bytes(*header.get(28..)?.first_chunk()?)))
}

async fn check(connection: &mut SqliteConnection, path: &Path) -> Result<i64, OpenError> {
    let application: i64 = pragma(connection, path, "PRAGMA application_id").await?;
    if application != APPLICATION_ID {
        return Err(corrupt(
            path,
            format!("its application id is {application:#x}, not {APPLICATION_ID:#x}"),
        ));
    }
    let found: String = pragma(connection, path, "PRAGMA quick_check(1)").await?;
    if found != "ok" {
        return Err(corrupt(path, found));
    }
    pragma(connection, path, "PRAGMA user_version").await
}

async fn pragma<T>(connection: &mut SqliteConnection, path: &Path, sql: &'static str) -> Result<T, OpenError>
where
    (T,): for<'r> sqlx::FromRow<'r, sqlx::sqlite::SqliteRow> + Send + Unpin,
{
    let row: Result<(T,), _> = sqlx::query_as(sql).fetch_one(connection).await;
    row.map(|(value,)| value).map_err(database(path))
}

/// A schema that was made by other text than this daemon's is not the one that it knows.
async fn compare_migrations(
    connection: &mut SqliteConnection,
    path: &Path,
    migrations: &Migrator,
) -> Result<(), OpenError> {
    const SQL: &str = "SELECT version, checksum FROM _sqlx_migrations ORDER BY version";
    let applied: Vec<(i64, Vec<u8>)> =
        sqlx::query_as(SQL).fetch_all(connection).await.map_err(database(path))?;
    let known = migrations.iter().map(|migration| (migration.version, &*migration.checksum));
    let applied = applied.iter().map(|(version, checksum)| (*version, checksum.as_slice()));
    match known.zip(applied).find(|(known, applied)| known != applied) {
        None => Ok(()),
        Some(((version, _), _)) => {
            let source = MigrateError::VersionMismatch(version);
            Err(OpenError::Migrate { path: path.to_owned(), backup: None, source })
        }
    }
}

/// Copies the database, then changes it.
async fn migrate(path: &Path, migrations: &Migrator, found: i64) -> Result<(), OpenError> {
    let now = Timestamp::now().as_micros();
    let copy = path.with_file_name(format!("netloom-v{found}-{now}.{BACKUP}"));
    backup::copy(path, &copy).await.map_err(|error| match error {
        backup::BackupError::Io { path, source } => OpenError::Io { path, source },
        backup::BackupError::Database { path, source } => OpenError::Database { path, source },
    })?;
    sync_directory(path)?;
    tracing::info!(from = found, backup = %copy.display(), "the database's schema is brought up to date");
    let full = options(path).synchronous(SqliteSynchronous::Full);
    let mut connection = SqliteConnection::connect_with(&full).await.map_err(database(path))?;
    let migrated = run(migrations, &mut connection).await;
    migrated.map_err(|source| OpenError::Migrate { path: path.to_owned(), backup: Some(copy), source })?;
    connection.close().await.map_err(database(path))
}

async fn start(
    path: PathBuf,
    lock: Flock<File>,
    loaded: Loaded,
    retention: crate::config::EventRetention,
) -> Result<Store, OpenError> {
    let Loaded { world, seq, pruned } = loaded;
    let writing = options(&path).journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Normal);
    let mut connection = SqliteConnection::connect_with(&writing).await.map_err(database(&path))?;
    // The first read makes the write-ahead log, whose directory entry has to be durable too.
    let _: i64 = pragma(&mut connection, &path, "PRAGMA user_version").await?;
    sync_directory(&path)?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(BUSY)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with(options(&path).read_only(true));
    let (sync, sync_ended) = sync::start(with_suffix(&path, "-wal")).map_err(io_error(&path))?;
    let (queue, messages) = mpsc::channel(QUEUE_BATCHES);
    let published = Arc::new(Published {
        snapshot: watch::Sender::new(Snapshot { world: Arc::new(world), seq, epoch: 0 }),
        followers: broadcast::Sender::new(FOLLOW_EVENTS),
        pruned: AtomicI64::new(pruned),
    });
    let writer = Writer {
        connection,
        published: published.clone(),
        queue: messages,
        sync,
        sync_ended,
        retention,
        lock,
    };
    tokio::spawn(writer.run());
    Ok(Store { shared: Arc::new(Shared { queue, published, readers, path }) })
}
