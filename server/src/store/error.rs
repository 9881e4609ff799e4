//! What can go wrong with the database, in the words that the rooms above branch on.

use std::path::PathBuf;

use netloom_api::ErrorReason;

use crate::error::Error;

/// Why a write or a read did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be written or read now: disk full, read-only, I/O error, or too many writes wait.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The batch was computed on top of one that failed. Compute it again on the last snapshot.
    #[error("an earlier write failed, on which this one was built; ask again")]
    Superseded,
    /// The database refused what the controller had allowed: a defect.
    #[error("the database refused a write that was checked before: {0}")]
    Guard(String),
    /// The events that are asked for are no longer kept.
    #[error("events up to {pruned} are no longer kept; list again and go on from there")]
    Expired {
        /// The last event that is gone.
        pruned: i64,
    },
    /// The store was closed.
    #[error("the database is closed")]
    Closed,
}

/// Why the store does not open. Nothing was changed, unless a migration had begun, and then there is a backup.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has the state directory.
    #[error(
        "another netloomd{} has the state directory {}; stop it, or give this one its own with --state-dir",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), state_dir.display()
    )]
    Locked {
        /// The directory.
        state_dir: PathBuf,
        /// Who, if it said so.
        pid: Option<u32>,
    },
    /// A newer netloomd wrote the database.
    #[error(
        "{} has schema version {found}, this netloomd knows {known}; \
         install the newer netloomd again, or restore the backup from before the upgrade", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest that this daemon knows.
        known: i64,
    },
    /// The file is damaged, or no database of ours at all.
    #[error("{} is damaged ({detail}); it was left as it is. {}", path.display(), repair(path, backup.as_ref()))]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
        /// The newest backup beside it.
        backup: Option<PathBuf>,
    },
    /// A row has what no version of this daemon wrote.
    #[error("row {row} of table {table} in {} cannot be read ({detail}); it was left as it is", path.display())]
    Undecodable {
        /// The file.
        path: PathBuf,
        /// The table.
        table: &'static str,
        /// The row's key.
        row: String,
        /// What is wrong.
        detail: String,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("{}: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: sqlx::Error,
    },
    /// The schema could not be brought up to date.
    #[error("the schema of {} cannot be brought up to date: {source}{}", path.display(), kept(backup.as_ref()))]
    Migrate {
        /// The file.
        path: PathBuf,
        /// The copy from before.
        backup: Option<PathBuf>,
        /// What failed.
        source: sqlx::migrate::MigrateError,
    },
}

fn repair(path: &std::path::Path, backup: Option<&PathBuf>) -> String {
    let path = path.display();
    match backup {
        Some(backup) => format!(
            "To repair: stop netloomd, move {path}* away, copy {} to {path}, start netloomd",
            backup.display()
        ),
        None => format!(
            "There is no backup beside it. To repair: move {path}* away and restore a copy made by \
             `netloomd backup`, or apply an export again"
        ),
    }
}

fn kept(backup: Option<&PathBuf>) -> String {
    backup.map(|backup| format!("; the database from before is {}", backup.display())).unwrap_or_default()
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        const SQLITE_ERROR: i32 = 1;
        const SQLITE_CONSTRAINT: i32 = 19;
        const SQLITE_MISMATCH: i32 = 20;
        if matches!(error, sqlx::Error::PoolClosed) {
            return StoreError::Closed;
        }
        // The low byte of the extended code is the primary one.
        let code = error.as_database_error().and_then(|error| error.code());
        match code.and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff) {
            Some(SQLITE_ERROR | SQLITE_CONSTRAINT | SQLITE_MISMATCH) => StoreError::Guard(error.to_string()),
            Some(_) | None => StoreError::Unavailable(error.to_string()),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let reason = match &error {
            StoreError::Unavailable(_) | StoreError::Superseded | StoreError::Closed => {
                ErrorReason::Unavailable
            }
            StoreError::Guard(_) => ErrorReason::Internal,
            StoreError::Expired { .. } => ErrorReason::Expired,
        };
        Error::new(reason, error.to_string())
    }
}
