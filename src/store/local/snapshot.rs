//! Snapshots as files: checked, and made into a store again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    checkpoint::{Checkpoint, Sink, Summary},
    checkpointer,
    disk::{Disk, DiskFile, RealDisk},
    home, journal,
    journal::Journal,
};
use crate::store::{
    Error, OpenError,
    change::{Group, Position},
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
pub(crate) enum Until {
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
/// [`OpenError::Foreign`] if it is none, [`Error::Corrupt`] naming the damage.
pub(crate) fn verify_snapshot(file: &Path) -> Result<Snapshot, OpenError> {
    let checkpoint = open(file)?;
    checkpoint.verify()?;
    Ok(checkpoint.summary().into())
}

/// Makes a store in `root`, which must be empty, of a snapshot, and of what the journal of another store's directory has behind
/// it, if one is given. Ids, revisions and pages are those of the original; page tokens are not, since it is another store.
///
/// What was not finished is no store, and what it left behind gives way to the next try.
///
/// # Errors
/// [`OpenError::Occupied`]; [`OpenError::NotThatFar`] if the snapshot is of a later time than wanted, or the journal ends before it;
/// [`Error::Corrupt`] if one of them is damaged, or they do not meet; what the disk says.
pub(crate) fn restore(
    file: &Path,
    root: &Path,
    replay: Option<(&Path, Until)>,
) -> Result<u64, OpenError> {
    let checkpoint = open(file)?;
    checkpoint.verify()?;
    let replay = match replay {
        Some((original, until)) => {
            let original = RealDisk::new(original.to_path_buf());
            let last = last_wanted(&checkpoint, &original, until)?;
            Some((original, last))
        }
        None => None,
    };
    let _lock = home::claim(root)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(root.to_path_buf()));
    let was_begun = home::restore_was_begun(&*disk)?;
    let occupied = home::read_format(&*disk)?.is_some()
        || !was_begun
            && (Journal::holds_changes(&*disk)? || checkpointer::newest(&*disk)?.is_some());
    if occupied {
        return Err(OpenError::Occupied {
            path: root.display().to_string(),
        });
    }
    home::begin_restore(&*disk)?;
    let made = make(&checkpoint, &disk, replay);
    if made.is_err() {
        // The first error is the one to tell; should something stay, the next try removes it.
        let _ = home::clear_restore(&*disk);
    }
    Ok(made?)
}

/// Makes the store of a snapshot on a disk that holds none.
pub(super) fn make(
    checkpoint: &Checkpoint,
    disk: &Arc<dyn Disk>,
    replay: Option<(RealDisk, u64)>,
) -> Result<u64, Error> {
    let id = Uuid::new_v4();
    let copied = copy(checkpoint, &**disk, id)?;
    let mut journal = Journal::create(disk.clone(), id, copied, SEGMENT_BYTES)?;
    if let Some((original, last)) = replay {
        append(&mut journal, &checkpoint.summary(), &original, last)?;
    }
    home::write_format(&**disk, id)?;
    home::end_restore(&**disk)?;
    Ok(journal.end().revision)
}

/// The last revision that is wanted of the original's journal.
fn last_wanted(
    checkpoint: &Checkpoint,
    original: &RealDisk,
    until: Until,
) -> Result<u64, OpenError> {
    let snapshot = checkpoint.summary();
    let first = snapshot.end.revision;
    let too_late = |wanted: String| OpenError::NotThatFar {
        reason: format!(
            "the snapshot is of revision {first}, which is later than {wanted}: choose an older snapshot"
        ),
    };
    match until {
        Until::Revision(wanted) if wanted < first => {
            return Err(too_late(format!("revision {wanted}")));
        }
        Until::TimeMs(time_ms) if time_ms < checkpoint.last_time_ms()? => {
            return Err(too_late("that time".into()));
        }
        _ => {}
    }
    let (mut last, mut last_in_time) = (first, first);
    journal::read(
        original,
        snapshot.store,
        first,
        u64::MAX,
        &mut |frame, _| {
            last = frame.last_revision();
            if matches!(until, Until::TimeMs(time_ms) if frame.time_ms <= time_ms) {
                last_in_time = last;
            }
            Ok(())
        },
    )?;
    match until {
        Until::End => Ok(last),
        Until::TimeMs(_) => Ok(last_in_time),
        Until::Revision(wanted) if wanted <= last => Ok(wanted),
        Until::Revision(wanted) => Err(OpenError::NotThatFar {
            reason: format!("the journal ends at revision {last}: it has no revision {wanted}"),
        }),
    }
}

/// Opens a snapshot.
pub(super) fn open(file: &Path) -> Result<Checkpoint, OpenError> {
    let dir = file
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let name = file.file_name().map(PathBuf::from).unwrap_or_default();
    let disk = RealDisk::new(dir.to_path_buf());
    if !Checkpoint::is_one(&disk, &name)? {
        return Err(OpenError::Foreign {
            reason: format!("{} is no Icebox snapshot", name.display()),
        });
    }
    Ok(Checkpoint::open(&disk, &name)?)
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

/// Appends what the original's journal has behind the snapshot, up to and with revision `last`.
fn append(
    journal: &mut Journal,
    snapshot: &Summary,
    original: &RealDisk,
    last: u64,
) -> Result<(), Error> {
    let first = snapshot.end.revision;
    journal::read(
        original,
        snapshot.store,
        first,
        u64::MAX,
        &mut |frame, _| {
            let mut changes = frame.changes.clone();
            changes.retain(|change| change.revision <= last);
            if changes.is_empty() {
                return Ok(());
            }
            journal.append(&Group {
                first_revision: frame.first_revision,
                time_ms: frame.time_ms,
                changes,
            })
        },
    )
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use crate::store::{Batch, Entry, Options, Store};

    async fn put(store: &Store, key: String, value: &'static str) {
        store.commit(Batch::new().put(key, value)).await.unwrap();
    }

    fn content(store: &Store) -> Vec<Entry> {
        store.content().unwrap()
    }

    fn write(store: &Store, file: &Path) -> Snapshot {
        let mut bytes = Vec::new();
        let snapshot = store
            .local()
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
        let now = crate::clock::now_ms();
        assert_eq!(
            restored("by-time", Some((&original, Until::TimeMs(now)))).0,
            52
        );
        let occupied = restore(&file, &dir.path().join("alone"), None);
        assert!(
            matches!(occupied, Err(OpenError::Occupied { .. })),
            "{occupied:?}"
        );
        for (name, until) in [
            ("an-earlier-revision", Until::Revision(7)),
            ("an-earlier-time", Until::TimeMs(0)),
            ("past-the-end", Until::Revision(53)),
        ] {
            let refused = restore(&file, &dir.path().join(name), Some((&original, until)));
            assert!(
                matches!(refused, Err(OpenError::NotThatFar { .. })),
                "{name}: {refused:?}"
            );
            assert!(!dir.path().join(name).exists(), "{name}");
        }
    }

    #[tokio::test]
    async fn what_a_failed_restore_left_gives_way_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("snapshot");
        let store = Store::open(&dir.path().join("original"), &Options::default()).unwrap();
        put(&store, "k".into(), "one").await;
        write(&store, &file);
        let root = dir.path().join("restored");
        restore(&file, &root, None).unwrap();
        // As a restore leaves it that ended before it was done.
        std::fs::remove_file(root.join("FORMAT")).unwrap();
        let lost = restore(&file, &root, None);
        assert!(matches!(lost, Err(OpenError::Occupied { .. })), "{lost:?}");
        std::fs::write(root.join("RESTORING"), "").unwrap();
        let unfinished = Store::open(&root, &Options::default());
        assert!(
            matches!(unfinished, Err(OpenError::Foreign { .. })),
            "{unfinished:?}"
        );
        put(&store, "k".into(), "two").await;
        write(&store, &file);
        assert_eq!(restore(&file, &root, None).unwrap(), 2);
        let restored = Store::open(&root, &Options::default()).unwrap();
        assert_eq!(content(&restored), content(&store));
    }
}
