//! Makes what was written durable: one `fdatasync` of the write-ahead log for all that waits.
//!
//! A committed transaction is in the log or, after a checkpoint, in the database, which SQLite synced before it let go of
//! the log. So syncing the log is enough. It runs on a thread of its own, beside the next groups' commits.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use crate::fault::{self, Effect};

/// Who waits for one group to be durable.
pub(super) type Waiters = Vec<oneshot::Sender<Result<(), StoreError>>>;

/// How many groups may wait; more make the writer wait.
const GROUPS: usize = 64;

/// Starts the thread for the log file `wal`. It ends when the sender is gone; the receiver then says so.
pub(super) fn start(wal: PathBuf) -> io::Result<(mpsc::Sender<Waiters>, oneshot::Receiver<()>)> {
    let (sender, receiver) = mpsc::channel(GROUPS);
    let (ended, when_ended) = oneshot::channel();
    thread::Builder::new().name("netloom-sync".into()).spawn(move || {
        run(&wal, receiver);
        // Nobody has to wait for the end.
        let _ = ended.send(());
    })?;
    Ok((sender, when_ended))
}

fn run(wal: &Path, mut groups: mpsc::Receiver<Waiters>) {
    let mut file = None;
    let mut failed = None;
    while let Some(mut waiters) = groups.blocking_recv() {
        while let Ok(more) = groups.try_recv() {
            waiters.extend(more);
        }
        // After a failed sync the kernel has dropped what it could not write, and a second one would say that all is
        // well. So nothing is durable any more until a restart has read what is really there.
        if failed.is_none()
            && let Err(error) = sync(&mut file, wal)
        {
            tracing::error!(%error, file = %wal.display(), "cannot make writes durable; check the disk, then restart netloomd");
            failed = Some(StoreError::Unavailable(format!(
                "{} cannot be synced: {error}; check the disk, then restart netloomd",
                wal.display()
            )));
        }
        for waiter in waiters {
            // A caller that went away does not need the answer.
            let _ = waiter.send(failed.clone().map_or(Ok(()), Err));
        }
    }
}

/// The file is kept open, so that no error of an earlier write is missed, unless SQLite made it anew.
fn sync(file: &mut Option<File>, wal: &Path) -> io::Result<()> {
    if let Some(open) = file
        && open.metadata()?.nlink() == 0
    {
        *file = None;
    }
    let open = match file {
        Some(open) => open,
        None => file.insert(File::open(wal)?),
    };
    if let Some(fault) = fault::before(Effect::Sync) {
        return Err(io::Error::other(fault.to_string()));
    }
    open.sync_data()?;
    fault::after(Effect::Sync);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn after_a_failed_sync_nothing_is_called_durable_again() {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join("wal");
        let (groups, ended) = start(wal.clone()).unwrap();
        for _ in 0..2 {
            let (waiter, answer) = oneshot::channel();
            groups.send(vec![waiter]).await.unwrap();
            assert!(matches!(answer.await.unwrap(), Err(StoreError::Unavailable(_))));
            // What was lost does not come back with the file.
            File::create(&wal).unwrap();
        }
        drop(groups);
        ended.await.unwrap();
    }
}
