//! Files of stores that are not open: checking them, and making stores from them.

use std::{fs::File, path::Path};

use uuid::Uuid;

use super::{
    disk::{Disk, RealDisk},
    file::{FileSink, Header, Sink, Stored, Writer, check},
    home::Paths,
    views,
};
use crate::store::{
    Error, OpenError,
    change::{Group, Position},
};

/// What a snapshot contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The store from which it was taken.
    pub store: Uuid,
    /// The revision that it holds.
    pub revision: u64,
    /// When it was begun, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Its size.
    pub bytes: u64,
}

/// How far a restore goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// To the end of what there is.
    End,
    /// Up to this revision, including it.
    Revision(u64),
    /// Up to what was committed at this time, including it. In milliseconds since the Unix epoch.
    TimeMs(u64),
}

/// Checks a snapshot, or the file of a store that is not open: every byte, the order, and that the result is the state that was
/// written.
///
/// # Errors
/// [`OpenError::Foreign`] if it is something else; [`Error::Corrupt`] with the damage.
pub(crate) fn verify_file(path: &Path) -> Result<Snapshot, OpenError> {
    let Kept { stored, .. } = &Kept::open(path)?;
    stored.verify()?;
    let end = check(stored, &mut |_| ())?.end;
    Ok(Snapshot {
        store: stored.store(),
        revision: end.position.revision,
        time_ms: stored.header.time_ms,
        bytes: end.offset,
    })
}

/// A file to which nobody can write while this is kept.
struct Kept {
    stored: Stored,
    _lock: File,
}

impl Kept {
    fn open(path: &Path) -> Result<Kept, OpenError> {
        let paths = Paths::of(path)?;
        let stored = Stored::open(&RealDisk::new(paths.dir.clone()), &paths.file)?;
        let lock = paths.claim_to_read(&*stored.file)?;
        Ok(Kept {
            stored,
            _lock: lock,
        })
    }
}

/// Whether the store in a file has a view, in `view` or beside the file.
///
/// # Errors
/// Errors of the system.
pub(crate) fn has_view(path: &Path, view: Option<&Path>) -> Result<bool, OpenError> {
    let paths = Paths::of(path)?;
    Ok(views::are_in(view.unwrap_or(&paths.view))?)
}

/// Makes a store in the file `to`, which must not exist, from a snapshot or from the file of a store that is not open. If a later
/// file of the same store is given, its journal is applied on top. Ids, revisions and pages are those of the original. Page tokens
/// are not valid in the new store, because it is another one.
///
/// A restore that did not finish leaves no store, and the next try replaces what it left behind.
///
/// # Errors
/// [`OpenError::Occupied`]; [`OpenError::NotThatFar`] if the file is later than the wanted time, or the journal ends before it;
/// [`Error::Corrupt`] if one of the files is damaged, or there is a gap between them; errors of the disk.
pub(crate) fn restore(
    from: &Path,
    to: &Path,
    journal: Option<&Path>,
    until: Until,
) -> Result<u64, OpenError> {
    let original = Original::open(from, journal)?;
    let last = original.last_wanted(until)?;
    let paths = Paths::of(to)?;
    paths.make_dir()?;
    let disk = RealDisk::new(paths.dir.clone());
    refuse_occupied(&disk, &paths)?;
    make(&disk, &paths, &original, last)?;
    Ok(last)
}

/// # Errors
/// [`OpenError::Occupied`] if something was written to the file where the store is to be made.
fn refuse_occupied(disk: &dyn Disk, paths: &Paths) -> Result<(), OpenError> {
    let is_there = disk
        .list()?
        .iter()
        .any(|name| paths.file == Path::new(name));
    if is_there && disk.open_to_read(&paths.file)?.size()? > 0 {
        return Err(OpenError::Occupied {
            path: paths.full().display().to_string(),
        });
    }
    Ok(())
}

/// Makes the new store's file from the wanted part of the original.
fn make(disk: &dyn Disk, paths: &Paths, original: &Original, last: u64) -> Result<(), OpenError> {
    let mut sink = FileSink::begin(disk, &paths.restoring)?;
    let made = original.copy_up_to(last, Uuid::new_v4(), &mut sink);
    let made = made.and_then(|()| {
        sink.file.sync()?;
        let stored = Stored::open(disk, &paths.restoring)?;
        stored.verify()?;
        check(&stored, &mut |_| ())?;
        // Somebody may have begun another store there meanwhile.
        refuse_occupied(disk, paths)?;
        disk.rename(&paths.restoring, &paths.file)?;
        Ok(disk.sync_names()?)
    });
    made.inspect_err(|_| {
        // The first error is the one to report. If the file stays, the next try removes it.
        let _ = disk.remove(&paths.restoring);
    })
}

/// Makes a store from a file, on a disk that holds none.
#[cfg(test)]
pub(super) fn make_on(disk: &dyn Disk, paths: &Paths, from: &Path) -> Result<(), OpenError> {
    let original = Original::open(from, None)?;
    make(disk, paths, &original, original.last_wanted(Until::End)?)
}

/// What a store is made from.
struct Original {
    file: Kept,
    /// Where the file ends.
    end: Position,
    /// A later file of the same store.
    journal: Option<Kept>,
}

impl Original {
    fn open(from: &Path, journal: Option<&Path>) -> Result<Original, OpenError> {
        let file = Kept::open(from)?;
        file.stored.verify()?;
        let end = check(&file.stored, &mut |_| ())?.end.position;
        let journal = journal.map(Kept::open).transpose()?;
        if let Some(Kept { stored, .. }) = &journal {
            if stored.store() != file.stored.store() {
                return Err(OpenError::NotThatFar {
                    reason: format!(
                        "{} is not of the store that {} was taken of",
                        stored.name, file.stored.name
                    ),
                });
            }
            check(stored, &mut |_| ())?;
        }
        Ok(Original { file, end, journal })
    }

    /// Calls `visit` with every frame: first the file's own, then those of the journal that follow. Returns the revision at which
    /// they end.
    fn frames(&self, visit: &mut dyn FnMut(&Group) -> Result<(), Error>) -> Result<u64, OpenError> {
        let mut frames = self.file.stored.frames()?;
        while let Some(found) = frames.next()? {
            visit(&found.group)?;
        }
        let end = self.end;
        let Some(Kept {
            stored: journal, ..
        }) = &self.journal
        else {
            return Ok(end.revision);
        };
        let mut frames = journal.frames()?;
        while frames.place().position.revision < end.revision && frames.next()?.is_some() {}
        let met = frames.place().position;
        if met.revision < end.revision {
            return Err(OpenError::NotThatFar {
                reason: format!(
                    "{} ends at revision {}, and {} is of revision {}, which is later",
                    journal.name, met.revision, self.file.stored.name, end.revision
                ),
            });
        }
        if !met.is_at(&end) {
            let what = format!(
                "the journal of {} starts at revision {} and does not continue {}, which ends at revision {}",
                journal.name, met.revision, self.file.stored.name, end.revision
            );
            return Err(Error::Corrupt { what }.into());
        }
        while let Some(found) = frames.next()? {
            visit(&found.group)?;
        }
        Ok(frames.place().position.revision)
    }

    /// The last revision to restore.
    fn last_wanted(&self, until: Until) -> Result<u64, OpenError> {
        let (first, _) = self.file.stored.trailer.clone()?.exact;
        let mut first_time_ms = self.file.stored.header.time_ms;
        let mut last_in_time = first;
        let last = self.frames(&mut |frame| {
            if frame.last_revision() <= first {
                first_time_ms = first_time_ms.max(frame.time_ms);
            } else if matches!(until, Until::TimeMs(time_ms) if frame.time_ms <= time_ms) {
                last_in_time = frame.last_revision();
            }
            Ok(())
        })?;
        let too_late = |wanted: String| OpenError::NotThatFar {
            reason: format!(
                "{} is of revision {first}, which is later than {wanted}: choose an older snapshot",
                self.file.stored.name
            ),
        };
        match until {
            Until::End => Ok(last),
            Until::Revision(wanted) if wanted < first => {
                Err(too_late(format!("revision {wanted}")))
            }
            Until::Revision(wanted) if wanted <= last => Ok(wanted),
            Until::Revision(wanted) => Err(OpenError::NotThatFar {
                reason: format!("the journal ends at revision {last}: it has no revision {wanted}"),
            }),
            Until::TimeMs(time_ms) if time_ms < first_time_ms => Err(too_late("that time".into())),
            Until::TimeMs(_) => Ok(last_in_time),
        }
    }

    /// Writes the same content as the file of another store, up to a revision and including it.
    fn copy_up_to(&self, last: u64, store: Uuid, sink: &mut dyn Sink) -> Result<(), OpenError> {
        let trailer = self.file.stored.trailer.clone()?;
        let header = Header {
            store,
            time_ms: self.file.stored.header.time_ms,
        };
        let mut writer = Writer::begin(sink, header)?;
        self.file
            .stored
            .records(&mut |entry| writer.record(&entry))?;
        // The chain of checksums depends on the store's id, so that it is computed anew.
        let mut chain = 0;
        let start = Position {
            chain,
            ..trailer.start
        };
        writer.end_of_records((start, 0), trailer.fed, trailer.exact)?;
        self.frames(&mut |frame| {
            let mut frame = frame.clone();
            frame.changes.retain(|change| change.revision <= last);
            if frame.changes.is_empty() {
                return Ok(());
            }
            let (bytes, encoded) = frame.encode(store, chain);
            chain = encoded;
            sink.put(bytes.into())
        })?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use crate::store::{Batch, Entry, Options, Store};

    async fn put(store: &Store, key: String, value: &'static str) {
        store
            .commit(Batch::default().put(key, value))
            .await
            .unwrap();
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
        assert_eq!(verify_file(&file).unwrap(), snapshot);
        let at_50 = content(&store);
        put(&store, "k0".into(), "changed").await;
        let at_51 = content(&store);
        put(&store, "later".into(), "two").await;
        let at_52 = content(&store);
        store.verify().unwrap();
        store.close().unwrap();

        let restored = |name: &str, journal: Option<&Path>, until: Until| {
            let root = dir.path().join(name);
            let revision = restore(&file, &root, journal, until).unwrap();
            let store = Store::open(&root, &Options::default()).unwrap();
            assert_eq!(store.revision(), revision);
            store.verify().unwrap();
            (revision, content(&store))
        };
        assert_eq!(restored("alone", None, Until::End), (50, at_50.clone()));
        for (name, revision, content) in [("not-on", 50, at_50), ("by-revision", 51, at_51)] {
            let until = Until::Revision(revision);
            assert_eq!(restored(name, Some(&original), until), (revision, content));
        }
        assert_eq!(
            restored("to-the-end", Some(&original), Until::End),
            (52, at_52.clone())
        );
        let of_snapshot = Kept::open(&file).unwrap().stored.header.time_ms;
        // What was committed within the same millisecond belongs to it.
        assert!(restored("at-its-time", Some(&original), Until::TimeMs(of_snapshot)).0 >= 50);
        let now = crate::clock::now_ms();
        assert_eq!(
            restored("by-time", Some(&original), Until::TimeMs(now)).0,
            52
        );
        // A restored file is a file like any other.
        let again = dir.path().join("again");
        assert_eq!(restore(&original, &again, None, Until::End), Ok(52));
        let again = Store::open(&again, &Options::default()).unwrap();
        assert_eq!(content(&again), at_52);
        assert_ne!(again.id(), snapshot.store);
    }

    #[tokio::test]
    async fn what_cannot_be_restored_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let original = dir.path().join("original");
        let (file, early) = (dir.path().join("snapshot"), dir.path().join("early"));
        let store = Store::open(&original, &Options::default()).unwrap();
        put(&store, "a".into(), "one").await;
        std::fs::copy(&original, &early).unwrap();
        put(&store, "b".into(), "two").await;
        assert_eq!(write(&store, &file).revision, 2);
        put(&store, "c".into(), "three").await;
        store.close().unwrap();

        let occupied = restore(&file, &original, None, Until::End);
        let is_told = matches!(occupied, Err(OpenError::Occupied { .. }));
        assert!(is_told, "{occupied:?}");
        let to = dir.path().join("to");
        for (what, until, journal) in [
            ("an earlier revision", Until::Revision(1), &original),
            ("an earlier time", Until::TimeMs(0), &original),
            ("past the end", Until::Revision(4), &original),
            ("a journal that ends before", Until::End, &early),
        ] {
            let refused = restore(&file, &to, Some(journal), until);
            let is_told = matches!(refused, Err(OpenError::NotThatFar { .. }));
            assert!(is_told, "{what}: {refused:?}");
            assert!(!to.exists(), "{what}");
        }
        assert_eq!(restore(&file, &to, Some(&original), Until::End), Ok(3));
    }

    #[tokio::test]
    async fn what_a_failed_restore_left_gives_way_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("snapshot");
        let store = Store::open(&dir.path().join("original"), &Options::default()).unwrap();
        put(&store, "k".into(), "one").await;
        write(&store, &file);
        let root = dir.path().join("restored");
        // What a restore leaves behind that ended before it was done.
        std::fs::write(dir.path().join("restored.restoring"), "ICEBOX").unwrap();
        let unfinished = Store::open(&root, &Options::default());
        assert!(
            matches!(unfinished, Err(OpenError::Foreign { .. })),
            "{unfinished:?}"
        );
        put(&store, "k".into(), "two").await;
        write(&store, &file);
        assert_eq!(restore(&file, &root, None, Until::End).unwrap(), 2);
        assert!(!dir.path().join("restored.restoring").exists());
        let restored = Store::open(&root, &Options::default()).unwrap();
        assert_eq!(content(&restored), content(&store));
    }

    #[tokio::test]
    async fn nobody_writes_to_what_a_store_is_made_of() {
        let dir = tempfile::tempdir().unwrap();
        let (from, journal) = (dir.path().join("from"), dir.path().join("journal"));
        let store = Store::open(&journal, &Options::default()).unwrap();
        put(&store, "k".into(), "one").await;
        write(&store, &from);
        store.close().unwrap();
        let original = Original::open(&from, Some(&journal)).unwrap();
        for path in [&from, &journal] {
            let opened = Store::open(path, &Options::default());
            assert!(
                matches!(opened, Err(OpenError::Locked { .. })),
                "{opened:?}"
            );
        }
        drop(original);
        Store::open(&from, &Options::default()).unwrap();
    }

    #[tokio::test]
    async fn a_snapshot_is_served_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("snapshot");
        let store = Store::open(&dir.path().join("original"), &Options::default()).unwrap();
        for n in 0..50 {
            put(&store, format!("k{n}"), "one").await;
        }
        write(&store, &file);
        let served = Store::open(&file, &Options::default()).unwrap();
        assert_eq!((served.id(), served.revision()), (store.id(), 50));
        assert_eq!(content(&served), content(&store));
        put(&served, "k".into(), "two").await;
        served.local().rewrite().await.unwrap();
        served.close().unwrap();
        let served = Store::open(&file, &Options::default()).unwrap();
        assert_eq!((served.revision(), content(&served).len()), (51, 51));
    }
}
