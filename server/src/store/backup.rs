//! Copies of the database, consistent while the daemon writes.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2},
    libc,
    unistd::Uid,
};
use sqlx::{Connection, SqliteConnection};

use super::open::{DATABASE, file, options, with_suffix};
use crate::fault::{self, Effect};

/// How often another copy may get in between before this one gives up.
const TRIES: usize = 8;

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

/// Copies a database file. The copy gets its name when it is whole and on the disk: whoever dies before leaves a file with
/// `.part` at its end, which the next copy of that name takes over.
pub(super) async fn copy(database: &Path, to: &Path) -> Result<(), BackupError> {
    let failed = |source| BackupError::Io { path: to.to_owned(), source };
    if fs::symlink_metadata(to).is_ok() {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let part = with_suffix(to, ".part");
    // Held until it has its name.
    let held = hold_part(&part).map_err(failed)?;
    let copied = vacuum_into(database, &part).await;
    let copied = copied.map_err(|source| BackupError::Database { path: to.to_owned(), source });
    let named = copied.and_then(|()| name_it(&held, &part, to).map_err(failed));
    if named.is_err() {
        // What it says of the copy matters more than that the rest of it stays.
        let _ = file(|| fs::remove_file(&part));
    }
    named
}

/// Makes an empty file that nobody else is about to fill, or empties the one that somebody left who died.
fn hold_part(part: &Path) -> io::Result<Flock<File>> {
    for _ in 0..TRIES {
        let opened = match create_private(part) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open_left(part),
            opened => opened,
        };
        let found = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        let held = match Flock::lock(found, FlockArg::LockExclusiveNonblock) {
            Ok(held) => held,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(io::Error::other("another copy is just being written there"));
            }
            Err((_, errno)) => return Err(errno.into()),
        };
        let is_still = fs::symlink_metadata(part).is_ok_and(|there| {
            held.metadata().is_ok_and(|ours| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
        });
        if is_still {
            // A journal is of the rest, and would be played back into the new copy.
            match fs::remove_file(with_suffix(part, "-journal")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            held.set_len(0)?;
            return Ok(held);
        }
        // Whoever held it has given it its name meanwhile.
    }
    Err(io::Error::other("others keep writing copies there"))
}

/// A rest of ours, never a stranger's file.
fn open_left(part: &Path) -> io::Result<File> {
    let left = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(part)?;
    let about = left.metadata()?;
    if !about.is_file() || about.uid() != Uid::effective().as_raw() || about.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!("{} is in the way", part.display())));
    }
    Ok(left)
}

fn name_it(held: &File, part: &Path, to: &Path) -> io::Result<()> {
    file(|| held.sync_all())?;
    file(|| match renameat2(AT_FDCWD, part, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // A file system that does not know the flag. Nobody but another copy would make the file right now.
        Err(Errno::EINVAL | Errno::ENOSYS) if fs::symlink_metadata(to).is_err() => fs::rename(part, to),
        renamed => Ok(renamed?),
    })?;
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    file(|| File::open(directory)?.sync_all())
}

async fn vacuum_into(database: &Path, to: &Path) -> Result<(), sqlx::Error> {
    let to = to.to_str().ok_or_else(|| sqlx::Error::Configuration("the path is not UTF-8".into()))?;
    if let Some(fault) = fault::before(Effect::File) {
        return Err(sqlx::Error::Io(io::Error::other(fault.to_string())));
    }
    let mut connection = SqliteConnection::connect_with(&options(database).read_only(true)).await?;
    if fault::dies_between(Effect::File) {
        // As much as has reached the file by then.
        fs::write(to, b"SQLite format 3\0")?;
        fault::die();
    }
    sqlx::query("VACUUM INTO ?").bind(to).execute(&mut connection).await?;
    connection.close().await?;
    fault::after(Effect::File);
    Ok(())
}

/// Makes an empty file that only its owner can read, whatever the umask is.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    file(|| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path))
}
