//! The store's directory: who may use it, which format it has, and whether the view in it can be trusted.
//!
//! | name | what |
//! |---|---|
//! | `LOCK` | locked by the process that has the store open; says which |
//! | `FORMAT` | the format's version and the store's id; written last, so that a store is there whole or not |
//! | `journal/` | the truth since the checkpoint: see `journal.rs` |
//! | `checkpoint/` | the truth before: see `checkpoint.rs` |
//! | `view/` | sled: see `view.rs` |
//! | `view.aside/` | a view that could not be trusted, kept until the journal has replaced it |
//! | `VIEW` | what the view's files may hold after a crash |
//! | `RESTORING` | what is here is of a restore that was not finished, unless there is a `FORMAT` |

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{Read, Seek, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use uuid::Uuid;

use super::{
    Error,
    disk::{Disk, replace_file},
};

/// The format that this program writes, and the newest that it reads.
const FORMAT: u32 = 2;
/// What an owner's line in `LOCK` may take: a pid and a time.
const OWNER_BYTES_MAX: u64 = 256;

/// The view's directory.
pub(super) const VIEW_DIR: &str = "view";

const FORMAT_FILE: &str = "FORMAT";
const VIEW_FILE: &str = "VIEW";
const LOCK_FILE: &str = "LOCK";
const VIEW_ASIDE_DIR: &str = "view.aside";
const RESTORING_FILE: &str = "RESTORING";
const OURS: [&str; 11] = [
    LOCK_FILE,
    FORMAT_FILE,
    "FORMAT.tmp",
    VIEW_FILE,
    "VIEW.tmp",
    "journal",
    "checkpoint",
    VIEW_DIR,
    VIEW_ASIDE_DIR,
    RESTORING_FILE,
    "RESTORING.tmp",
];

/// Holds the store's lock until it is dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Makes the directory if it is missing, refuses one that is not ours, and locks it.
///
/// # Errors
/// [`Error::Foreign`] before anything is written, [`Error::Locked`] naming the owner.
pub(super) fn claim(root: &Path) -> Result<Lock, Error> {
    match fs::metadata(root) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(Error::Foreign {
                reason: format!("{} is not a directory", root.display()),
            });
        }
        Ok(_) => refuse_foreign(root)?,
        Err(_) => {
            DirBuilder::new()
                .mode(0o700)
                .create(root)
                .map_err(|error| Error::io("create directory", root, &error))?;
            let parent = match root.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            File::open(parent)
                .and_then(|dir| dir.sync_all())
                .map_err(|error| Error::io("sync directory", parent, &error))?;
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
            return Err(Error::Locked {
                owner: owner.into(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
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
    Ok(Lock { _file: file })
}

fn refuse_foreign(root: &Path) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::io("list", root, &error);
    for entry in fs::read_dir(root).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if !OURS.iter().any(|ours| name == *ours) {
            let reason = format!(
                "{} holds {}, which Icebox does not know: choose an empty directory",
                root.display(),
                name.to_string_lossy()
            );
            return Err(Error::Foreign { reason });
        }
    }
    Ok(())
}

/// The store's id, or `None` where no store was made yet.
///
/// # Errors
/// [`Error::NewerFormat`], or [`Error::Foreign`] if `FORMAT` is not readable as ours.
pub(super) fn read_format(disk: &dyn Disk) -> Result<Option<Uuid>, Error> {
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
        (Some(found), _) if found > FORMAT => Err(Error::NewerFormat {
            found,
            supported: FORMAT,
        }),
        (Some(found), _) if found < FORMAT => Err(Error::Foreign {
            reason: format!(
                "it has format {found}, of an Icebox before the first release: export it with that one, and import \
                 the export"
            ),
        }),
        (Some(_), Some(id)) => Ok(Some(id)),
        _ => Err(Error::Foreign {
            reason: "its FORMAT file is damaged or not Icebox's".into(),
        }),
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

/// What is known about the view's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ViewState {
    /// All of it reached the disk when it was closed.
    Closed,
    /// It was open in this boot of the machine: the page cache has what the process wrote.
    OpenInThisBoot,
    /// The machine may have lost any part of it.
    Unknown,
    /// It was seen not to hold what was written.
    Distrusted,
}

/// What the last owner said about the view, and a revision that the store has reached for sure.
///
/// # Errors
/// What the disk says.
pub(super) fn read_view_state(disk: &dyn Disk) -> Result<(ViewState, u64), Error> {
    let bytes = disk.read(Path::new(VIEW_FILE))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let said: Vec<_> = text.split_whitespace().collect();
    let (state, reached) = match said[..] {
        ["closed", reached] => (ViewState::Closed, reached),
        ["open", reached, boot] if disk.boot_id().is_some_and(|now| now == boot) => {
            (ViewState::OpenInThisBoot, reached)
        }
        ["open", reached, _] => (ViewState::Unknown, reached),
        ["distrusted", reached] => (ViewState::Distrusted, reached),
        _ => return Ok((ViewState::Unknown, 0)),
    };
    Ok(reached
        .parse()
        .map_or((ViewState::Unknown, 0), |reached| (state, reached)))
}

/// Says that the view is being written to. Must be durable before it is.
///
/// # Errors
/// What the disk says.
pub(super) fn write_view_open(disk: &dyn Disk, reached: u64) -> Result<(), Error> {
    let boot = disk.boot_id().unwrap_or_else(|| "unknown".into());
    write_view(disk, &format!("open {reached} {boot}\n"))
}

/// Says that all of the view is on disk.
///
/// # Errors
/// What the disk says.
pub(super) fn write_view_closed(disk: &dyn Disk, reached: u64) -> Result<(), Error> {
    write_view(disk, &format!("closed {reached}\n"))
}

/// Says that the view does not hold what was written.
///
/// # Errors
/// What the disk says.
pub(super) fn write_view_distrusted(disk: &dyn Disk, reached: u64) -> Result<(), Error> {
    write_view(disk, &format!("distrusted {reached}\n"))
}

fn write_view(disk: &dyn Disk, text: &str) -> Result<(), Error> {
    replace_file(disk, Path::new(VIEW_FILE), text.as_bytes())
}

/// Clears the view's place. Its data stays beside it for as long as the journal may turn out damaged.
///
/// # Errors
/// What the disk says.
pub(super) fn set_view_aside(disk: &dyn Disk) -> Result<(), Error> {
    let names = disk.list(Path::new(""))?;
    let is_there = |dir: &str| names.iter().any(|name| name == dir);
    if is_there(VIEW_ASIDE_DIR) {
        // An earlier attempt did not finish: what it had made is worth less than what it set aside.
        disk.remove(Path::new(VIEW_DIR))
    } else if is_there(VIEW_DIR) {
        disk.rename(Path::new(VIEW_DIR), Path::new(VIEW_ASIDE_DIR))
    } else {
        Ok(())
    }
}

/// Removes what [`set_view_aside`] kept, now that the journal has proved whole.
///
/// # Errors
/// What the disk says.
pub(super) fn remove_view_set_aside(disk: &dyn Disk) -> Result<(), Error> {
    disk.remove(Path::new(VIEW_ASIDE_DIR))
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
