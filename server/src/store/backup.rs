//! Copies of the database, consistent while the daemon writes.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use sqlx::{Connection, SqliteConnection};

use super::open::{DATABASE, options};

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file exists, or cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database cannot be read or copied.
    #[error("cannot copy the database to {}: {source}", path.display())]
    Database {
        /// The copy.
        path: PathBuf,
        /// What SQLite said.
        source: sqlx::Error,
    },
}

/// Whether a state directory has a database.
pub fn is_there(state_dir: &Path) -> bool {
    state_dir.join(DATABASE).exists()
}

/// Copies the database of a state directory, whether a daemon runs on it or not, to a file that does not exist yet.
pub async fn backup(state_dir: &Path, to: &Path) -> Result<(), BackupError> {
    copy(&state_dir.join(DATABASE), to).await
}

/// Copies a database file. Half a copy is removed again.
pub(super) async fn copy(database: &Path, to: &Path) -> Result<(), BackupError> {
    let failed = |source| BackupError::Io { path: to.to_owned(), source };
    create_private(to).map_err(failed)?;
    let copied = vacuum_into(database, to).await;
    if copied.is_err() {
        fs::remove_file(to).map_err(failed)?;
    }
    copied.map_err(|source| BackupError::Database { path: to.to_owned(), source })?;
    File::open(to).and_then(|file| file.sync_all()).map_err(failed)
}

async fn vacuum_into(database: &Path, to: &Path) -> Result<(), sqlx::Error> {
    let mut connection = SqliteConnection::connect_with(&options(database).read_only(true)).await?;
    let to = to.to_str().ok_or_else(|| sqlx::Error::Configuration("the path is not UTF-8".into()))?;
    sqlx::query("VACUUM INTO ?").bind(to).execute(&mut connection).await?;
    connection.close().await
}

/// Makes an empty file that only its owner can read, whatever the umask is.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
