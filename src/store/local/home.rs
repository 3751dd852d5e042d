//! The store's directory: who may use it, which format it has, and whether the view in it can be trusted.
//!
//! | name | what |
//! |---|---|
//! | `LOCK` | locked by the process that has the store open; says which |
//! | `FORMAT` | the format's version and the store's id; written last, so that a store is there whole or not |
//! | `journal/` | the truth since the checkpoint: see `journal/` |
//! | `checkpoint/` | the truth before: see `checkpoint/` |
//! | `view/1/`, … | sled: see `view/sled.rs`; a new number for each that is made |
//! | `REACHED` | a revision that the store has reached for sure; `LOCK` says it, too |
//! | `RESERVE` | room for a disk that is full: see `space.rs` |
//! | `RESTORING` | what is here is of a restore that was not finished, unless there is a `FORMAT` |

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::disk::{Disk, replace_file};
use crate::store::{Error, OpenError};

/// The format that this program writes, and the newest that it reads.
const FORMAT: u32 = 2;
/// What an owner's line in `LOCK` may take: a pid and a time.
const OWNER_BYTES_MAX: u64 = 256;
/// What `LOCK` says when nobody has the store open, before the revision.
const CLOSED_AT: &str = "closed at revision ";

/// The view's directory.
pub(super) const VIEW_DIR: &str = "view";

const FORMAT_FILE: &str = "FORMAT";
const REACHED_FILE: &str = "REACHED";
const LOCK_FILE: &str = "LOCK";
const RESTORING_FILE: &str = "RESTORING";
const OURS: [&str; 11] = [
    LOCK_FILE,
    FORMAT_FILE,
    "FORMAT.tmp",
    REACHED_FILE,
    "REACHED.tmp",
    "journal",
    "checkpoint",
    VIEW_DIR,
    "RESERVE",
    RESTORING_FILE,
    "RESTORING.tmp",
];

/// Holds the store's lock until it is dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// The revision that the last owner says it had reached, when it closed the store.
    pub(super) reached: u64,
}

impl Lock {
    /// The same file once more, as a process has it that was forked.
    #[cfg(test)]
    pub(super) fn try_clone(&self) -> File {
        self.file.try_clone().expect("a descriptor")
    }

    /// Says that the store is closed at this revision.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn close_at(&mut self, revision: u64) -> Result<(), Error> {
        let said = format!("{CLOSED_AT}{revision}\n");
        self.file
            .rewind()
            .and_then(|()| self.file.write_all(said.as_bytes()))
            .and_then(|()| self.file.set_len(said.len() as u64))
            .and_then(|()| self.file.sync_all())
            .map_err(|error| Error::io("write", Path::new(LOCK_FILE), &error))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file would do, if no process that was just forked holds it as well until it becomes another program.
        let _ = self.file.unlock();
    }
}

/// The directories that will hold a new name when this one is made: only their syncs make it durable.
fn parents_of_missing(dir: &Path) -> Vec<PathBuf> {
    let missing = dir.ancestors().take_while(|dir| {
        let is_here = dir.as_os_str().is_empty();
        !is_here && !dir.exists()
    });
    let parents = missing.map(|dir| match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    });
    parents.collect()
}

/// Makes the directory if it is missing, refuses one that is not ours, and locks it.
///
/// # Errors
/// [`OpenError::Foreign`] before anything is written, [`OpenError::Locked`] naming the owner.
pub(super) fn claim(root: &Path) -> Result<Lock, OpenError> {
    match fs::metadata(root) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(OpenError::Foreign {
                reason: format!("{} is not a directory", root.display()),
            });
        }
        Ok(_) => refuse_foreign(root)?,
        Err(_) => {
            let parents = parents_of_missing(root);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(root)
                .map_err(|error| Error::io("create directory", root, &error))?;
            for parent in parents {
                File::open(&parent)
                    .and_then(|dir| dir.sync_all())
                    .map_err(|error| Error::io("sync directory", &parent, &error))?;
            }
        }
    }
    let path = root.join(LOCK_FILE);
    let failed = |error: std::io::Error| Error::io("lock", &path, &error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // The owner's line is only for the message: the lock itself is what counts.
            let _ = file.take(OWNER_BYTES_MAX).read_to_string(&mut owner);
            let owner = owner.trim();
            let owner = if owner.is_empty() {
                "another process"
            } else {
                owner
            };
            return Err(OpenError::Locked {
                owner: owner.into(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error).into()),
    }
    let mut said = String::new();
    // What is no text is no revision.
    let _ = (&mut file).take(OWNER_BYTES_MAX).read_to_string(&mut said);
    let reached = reached_in(&said);
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "process {}", std::process::id()))
        .or_else(|error| {
            if error.kind() == std::io::ErrorKind::StorageFull {
                Ok(())
            } else {
                Err(error)
            }
        })
        .map_err(failed)?;
    Ok(Lock { file, reached })
}

/// Sees that nobody writes to the store while it is read, for as long as the file is kept that is returned, without writing to
/// it; and the revision that the last owner says it had reached.
///
/// # Errors
/// [`OpenError::Foreign`], [`OpenError::Locked`].
pub(super) fn claim_to_read(root: &Path) -> Result<(Option<File>, u64), OpenError> {
    refuse_foreign(root)?;
    let path = root.join(LOCK_FILE);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        // Nobody has ever written to it: it is a copy.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, 0)),
        Err(error) => return Err(Error::io("open", &path, &error).into()),
    };
    let mut said = String::new();
    // What is no text names nobody and no revision.
    let _ = (&mut file).take(OWNER_BYTES_MAX).read_to_string(&mut said);
    match file.try_lock_shared() {
        Ok(()) => Ok((Some(file), reached_in(&said))),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            owner: said.trim().to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path, &error).into()),
    }
}

/// The revision that the last owner says it had reached.
fn reached_in(said: &str) -> u64 {
    let reached = said.trim().strip_prefix(CLOSED_AT);
    reached
        .and_then(|reached| reached.parse().ok())
        .unwrap_or(0)
}

fn refuse_foreign(root: &Path) -> Result<(), OpenError> {
    let failed = |error: std::io::Error| Error::io("list", root, &error);
    for entry in fs::read_dir(root).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if !OURS.iter().any(|ours| name == *ours) {
            let reason = format!(
                "{} holds {}, which Icebox does not know: choose an empty directory",
                root.display(),
                name.to_string_lossy()
            );
            return Err(OpenError::Foreign { reason });
        }
    }
    Ok(())
}

/// The store's id, or `None` where no store was made yet.
///
/// # Errors
/// [`OpenError::NewerFormat`], or [`OpenError::Foreign`] if `FORMAT` is not readable as ours.
pub(super) fn read_format(disk: &dyn Disk) -> Result<Option<Uuid>, OpenError> {
    let Some(bytes) = disk.read(Path::new(FORMAT_FILE))? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let version = lines
        .next()
        .and_then(|line| line.strip_prefix("icebox store, format "));
    let version = version.and_then(|version| version.parse::<u32>().ok());
    let id = lines
        .next()
        .and_then(|line| line.strip_prefix("id "))
        .and_then(|id| Uuid::parse_str(id).ok());
    match (version, id) {
        (Some(found), _) if found > FORMAT => Err(OpenError::NewerFormat {
            found,
            supported: FORMAT,
        }),
        (Some(found), _) if found < FORMAT => Err(OpenError::Foreign {
            reason: format!(
                "it has format {found}, of an Icebox before the first release: export it with that one, and import \
                 the export"
            ),
        }),
        (Some(_), Some(id)) => Ok(Some(id)),
        _ => Err(OpenError::Foreign {
            reason: "its FORMAT file is damaged or not Icebox's".into(),
        }),
    }
}

/// What is wrong with a store that has no `FORMAT`.
pub(super) fn format_is_missing() -> Error {
    Error::Corrupt {
        what: "FORMAT is missing, so the journal beside it cannot be checked: restore that file"
            .into(),
    }
}

/// Declares the store made. Everything else of a new store must be durable before.
///
/// # Errors
/// What the disk says.
pub(super) fn write_format(disk: &dyn Disk, store: Uuid) -> Result<(), Error> {
    let text = format!("icebox store, format {FORMAT}\nid {}\n", store.simple());
    replace_file(disk, Path::new(FORMAT_FILE), text.as_bytes())
}

/// The revision that the store has reached for sure, as two files tell that are not the journal. Where both and the view are
/// lost with the journal's tail, nothing tells any more that there was more.
///
/// # Errors
/// What the disk says.
pub(super) fn read_reached(disk: &dyn Disk, said_in_lock: u64) -> Result<u64, Error> {
    let bytes = disk.read(Path::new(REACHED_FILE))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let reached = text.trim().parse().unwrap_or(0);
    Ok(said_in_lock.max(reached))
}

/// Says that the store has reached this revision. A disk that has no room for that keeps what it said before.
///
/// # Errors
/// What the disk says.
pub(super) fn write_reached(disk: &dyn Disk, revision: u64) -> Result<(), Error> {
    match replace_file(
        disk,
        Path::new(REACHED_FILE),
        format!("{revision}\n").as_bytes(),
    ) {
        Err(Error::Full { .. }) => Ok(()),
        other => other,
    }
}

/// Checks that the journal, which ends at `end`, has all that the store had reached.
///
/// # Errors
/// [`Error::Corrupt`] telling what is lost.
pub(super) fn check_reached(reached: u64, end: u64) -> Result<(), Error> {
    if reached <= end {
        return Ok(());
    }
    Err(Error::Corrupt {
        what: format!(
            "the journal ends at revision {end}, but the store has been at revision {reached}: the changes between \
             them are lost from the journal"
        ),
    })
}

/// Whether a restore into this directory was begun and not finished.
///
/// # Errors
/// What the disk says.
pub(super) fn restore_was_begun(disk: &dyn Disk) -> Result<bool, Error> {
    Ok(disk.read(Path::new(RESTORING_FILE))?.is_some())
}

/// Says that a restore is under way, and removes what an earlier one left.
///
/// # Errors
/// What the disk says.
pub(super) fn begin_restore(disk: &dyn Disk) -> Result<(), Error> {
    replace_file(disk, Path::new(RESTORING_FILE), b"")?;
    remove_restored(disk)
}

/// Says that the restore is done. There must be a `FORMAT` by now.
///
/// # Errors
/// What the disk says.
pub(super) fn end_restore(disk: &dyn Disk) -> Result<(), Error> {
    disk.remove(Path::new(RESTORING_FILE))?;
    disk.sync_dir(Path::new(""))
}

/// Removes what a restore that failed has made.
///
/// # Errors
/// What the disk says.
pub(super) fn clear_restore(disk: &dyn Disk) -> Result<(), Error> {
    remove_restored(disk)?;
    end_restore(disk)
}

fn remove_restored(disk: &dyn Disk) -> Result<(), Error> {
    for dir in ["checkpoint", "journal"] {
        disk.remove(Path::new(dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_that_gets_a_new_name_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().to_owned();
        assert_eq!(parents_of_missing(&here), Vec::<PathBuf>::new());
        assert_eq!(
            parents_of_missing(&here.join("a/b/c")),
            [here.join("a/b"), here.join("a"), here]
        );
        assert_eq!(parents_of_missing(Path::new("new")), [PathBuf::from(".")]);
    }
}
