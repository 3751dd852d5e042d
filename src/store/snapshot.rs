//! Snapshots as files: checked, and made into a store again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Error,
    checkpoint::{Checkpoint, Sink, Summary},
    checkpointer,
    disk::{Disk, DiskFile, RealDisk},
    frame::{Frame, Position},
    home, journal,
    journal::Journal,
};

/// The size of the files of a restored journal: as of any other.
const SEGMENT_BYTES: u64 = 16 << 20;

/// What a snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The store that it was taken of.
    pub store: Uuid,
    /// The revision at which it is exact.
    pub revision: u64,
    /// When it was begun, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Its size.
    pub bytes: u64,
}

impl From<Summary> for Snapshot {
    fn from(summary: Summary) -> Self {
        let Summary {
            store,
            time_ms,
            end,
            bytes,
            ..
        } = summary;
        Snapshot {
            store,
            revision: end.revision,
            time_ms,
            bytes,
        }
    }
}

/// How far the journal of the store that a snapshot is of is replayed behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To its end.
    End,
    /// Up to and with this revision.
    Revision(u64),
    /// Up to and with what was committed at this time, milliseconds since the Unix epoch.
    TimeMs(u64),
}

/// Checks a snapshot: every byte, the order, and that it comes to the state that was written.
///
/// # Errors
/// [`Error::Foreign`] if it is none, [`Error::Corrupt`] naming the damage.
pub fn verify_snapshot(file: &Path) -> Result<Snapshot, Error> {
    let checkpoint = open(file)?;
    checkpoint.verify()?;
    Ok(checkpoint.summary().into())
}

/// Makes a store in `root`, which must be empty, of a snapshot, and of what the journal of another store's directory has behind
/// it, if one is given. Ids, revisions and pages are those of the original; page tokens are not, since it is another store.
///
/// # Errors
/// [`Error::Occupied`]; [`Error::Corrupt`] if the snapshot or the journal is damaged, or they do not meet; what the disk
/// says. A store that was not finished is no store.
pub fn restore(file: &Path, root: &Path, replay: Option<(&Path, Until)>) -> Result<u64, Error> {
    let checkpoint = open(file)?;
    checkpoint.verify()?;
    let _lock = home::claim(root)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(root.to_path_buf()));
    let occupied = || Error::Occupied {
        path: root.display().to_string(),
    };
    if home::read_format(&*disk)?.is_some() || Journal::holds_changes(&*disk)? {
        return Err(occupied());
    }
    let id = Uuid::new_v4();
    let copied = copy(&checkpoint, &*disk, id)?;
    let mut journal = Journal::create(disk.clone(), id, copied, SEGMENT_BYTES)?;
    if let Some((original, until)) = replay {
        append(&mut journal, &checkpoint.summary(), original, until)?;
    }
    home::write_format(&*disk, id)?;
    Ok(journal.end().revision)
}

fn open(file: &Path) -> Result<Checkpoint, Error> {
    let dir = file
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let name = file.file_name().map(PathBuf::from).unwrap_or_default();
    Checkpoint::open(&RealDisk::new(dir.to_path_buf()), &name)
}

/// Writes the snapshot as the checkpoint of the store with that id, and says where it ends.
fn copy(checkpoint: &Checkpoint, disk: &dyn Disk, id: Uuid) -> Result<Position, Error> {
    const TEMPORARY: &str = "checkpoint/new.tmp";
    disk.create_dir(Path::new("checkpoint"))?;
    disk.remove(Path::new(TEMPORARY))?;
    let mut sink = Append {
        file: disk.open(Path::new(TEMPORARY))?,
        written: 0,
    };
    let end = checkpoint.copy_as(id, &mut sink)?;
    sink.file.sync()?;
    Checkpoint::open(disk, Path::new(TEMPORARY))?.verify()?;
    disk.rename(Path::new(TEMPORARY), &checkpointer::path_at(end.revision))?;
    disk.sync_dir(Path::new("checkpoint"))?;
    disk.sync_dir(Path::new(""))?;
    Ok(end)
}

struct Append {
    file: Box<dyn DiskFile>,
    written: u64,
}

impl Sink for Append {
    fn put(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.file.write_at(self.written, &bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// Appends what the original's journal has behind the snapshot.
fn append(
    journal: &mut Journal,
    snapshot: &Summary,
    original: &Path,
    until: Until,
) -> Result<(), Error> {
    let disk = RealDisk::new(original.to_path_buf());
    if let Until::Revision(revision) = until
        && revision < snapshot.end.revision
    {
        return Err(Error::Corrupt {
            what: format!(
                "the snapshot is of revision {} already: choose an older one to go back to {revision}",
                snapshot.end.revision
            ),
        });
    }
    journal::read(
        &disk,
        snapshot.store,
        snapshot.end.revision,
        u64::MAX,
        &mut |frame, _| {
            let mut changes = frame.changes.clone();
            match until {
                Until::Revision(revision) => changes.retain(|change| change.revision <= revision),
                Until::TimeMs(time_ms) if frame.time_ms > time_ms => changes.clear(),
                Until::End | Until::TimeMs(_) => {}
            }
            // What comes behind the last that is wanted is not wanted either, whatever its clock said.
            if changes.is_empty() || frame.first_revision != journal.end().revision + 1 {
                return Ok(());
            }
            journal.append(&Frame {
                first_revision: frame.first_revision,
                time_ms: frame.time_ms,
                changes,
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use super::*;
    use crate::store::{Direction, Options, Store};

    async fn put(store: &Store, key: String, value: &'static str) {
        let transaction = move |transaction: &mut crate::store::Transaction<'_>| {
            transaction.put(key, value);
            Ok::<(), Error>(())
        };
        store.commit(transaction).await.unwrap();
    }

    fn content(store: &Store) -> Vec<(Bytes, Bytes)> {
        let all = (Bound::Included(b"a".to_vec()), Bound::Unbounded);
        store
            .range(all, Direction::Forward)
            .map(|entry| entry.unwrap())
            .collect()
    }

    fn write(store: &Store, file: &Path) -> Snapshot {
        let mut bytes = Vec::new();
        let snapshot = store
            .snapshot(|chunk| {
                bytes.extend_from_slice(&chunk);
                Ok(())
            })
            .unwrap();
        std::fs::write(file, bytes).unwrap();
        snapshot
    }

    #[tokio::test]
    async fn a_restored_snapshot_is_the_same_catalog_and_the_journal_takes_it_further() {
        let dir = tempfile::tempdir().unwrap();
        let original = dir.path().join("original");
        let file = dir.path().join("snapshot");
        let store = Store::open(&original, &Options::default()).unwrap();
        for n in 0..50 {
            put(&store, format!("k{n}"), "one").await;
        }
        let snapshot = write(&store, &file);
        assert_eq!((snapshot.revision, snapshot.store), (50, store.id()));
        assert_eq!(verify_snapshot(&file).unwrap(), snapshot);
        let at_50 = content(&store);
        put(&store, "k0".into(), "changed").await;
        let at_51 = content(&store);
        put(&store, "later".into(), "two").await;
        let at_52 = content(&store);
        store.verify().unwrap();
        store.close().unwrap();

        let restored = |name: &str, replay: Option<(&Path, Until)>| {
            let root = dir.path().join(name);
            let revision = restore(&file, &root, replay).unwrap();
            let store = Store::open(&root, &Options::default()).unwrap();
            assert_eq!(store.revision(), revision);
            store.verify().unwrap();
            (revision, content(&store))
        };
        assert_eq!(restored("alone", None), (50, at_50));
        assert_eq!(
            restored("by-revision", Some((&original, Until::Revision(51)))),
            (51, at_51)
        );
        assert_eq!(
            restored("to-the-end", Some((&original, Until::End))),
            (52, at_52)
        );
        assert_eq!(
            restored("by-time", Some((&original, Until::TimeMs(0)))).0,
            50
        );
        let occupied = restore(&file, &dir.path().join("alone"), None);
        assert!(
            matches!(occupied, Err(Error::Occupied { .. })),
            "{occupied:?}"
        );
        let too_late = restore(
            &file,
            &dir.path().join("late"),
            Some((&original, Until::Revision(7))),
        );
        assert!(
            matches!(too_late, Err(Error::Corrupt { .. })),
            "{too_late:?}"
        );
    }
}
