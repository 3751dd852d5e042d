//! Where a store is: its file, what lies beside it, and who may use it.
//!
//! | name | what |
//! |---|---|
//! | `icebox.db` | all that counts: see `file/` |
//! | `icebox.db.view/` | sled, which can be made anew: see `views.rs`. It may be elsewhere |
//! | `icebox.db.new` | what is to take the file's place, while it is written |
//! | `icebox.db.restoring` | what a restore makes, until it is done |
//! | `icebox.db.reserve` | room for a disk that is full: see `space.rs` |

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::{
    disk::{Disk, DiskFile},
    file::{Header, Status},
};
use crate::store::{Error, OpenError};

/// The names of a store's files.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    /// The directory of the files. Their names are relative to it.
    pub(super) dir: PathBuf,
    /// The store's file.
    pub(super) file: PathBuf,
    /// The file that will replace it.
    pub(super) new: PathBuf,
    /// The result of a restore, until that is done.
    pub(super) restoring: PathBuf,
    /// Room that is freed when the disk is full.
    pub(super) reserve: PathBuf,
    /// The view's directory, unless the view is elsewhere.
    pub(super) view: PathBuf,
}

impl Paths {
    /// The names for the store in the file `path`. Symbolic links are followed.
    ///
    /// # Errors
    /// [`OpenError::Foreign`] if it is a directory; errors of the system.
    pub(super) fn of(path: &Path) -> Result<Paths, OpenError> {
        let failed = |error: io::Error| Error::io("look at", path, &error);
        let path = match fs::canonicalize(path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
                let name = path.file_name().ok_or_else(|| failed(error))?;
                let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
                let dir = dir.unwrap_or(Path::new("."));
                fs::canonicalize(dir).unwrap_or(dir.to_owned()).join(name)
            }
            Err(error) => return Err(failed(error).into()),
        };
        if path.is_dir() {
            let what = if path.join("FORMAT").exists() {
                "is a store of an Icebox before the first release, which was a directory: export it with that one, and import the \
                 export into a new store"
            } else {
                "is a directory: name a file, as icebox.db"
            };
            return Err(OpenError::Foreign {
                reason: format!("{} {what}", path.display()),
            });
        }
        let (Some(dir), Some(file)) = (path.parent(), path.file_name()) else {
            return Err(OpenError::Foreign {
                reason: format!("{} is no file", path.display()),
            });
        };
        let beside = |suffix: &str| {
            let mut name = file.to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        Ok(Paths {
            dir: dir.to_owned(),
            file: file.into(),
            new: beside(".new"),
            restoring: beside(".restoring"),
            reserve: beside(".reserve"),
            view: dir.join(beside(".view")),
        })
    }

    /// The full path of the store's file.
    pub(super) fn full(&self) -> PathBuf {
        self.dir.join(&self.file)
    }

    /// Makes the directory of the store if it is missing.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(super) fn make_dir(&self) -> Result<(), Error> {
        make_dir(&self.dir)
    }

    /// Checks that the file has only one name. When it is written anew, other names would keep the old file.
    ///
    /// # Errors
    /// [`OpenError::Foreign`] if it has more.
    fn check_names(&self) -> Result<(), OpenError> {
        let path = self.full();
        let links = fs::metadata(&path).map_or(1, |metadata| metadata.nlink());
        if links == 1 {
            return Ok(());
        }
        Err(OpenError::Foreign {
            reason: format!(
                "{} has {links} names, of which all but one would be left behind when it is written anew: copy it instead",
                path.display()
            ),
        })
    }

    /// Claims the store's file for this process alone. Makes an empty file if it is missing; an existing one is not written to.
    ///
    /// # Errors
    /// [`OpenError::Foreign`]; [`OpenError::NewerFormat`]; [`OpenError::Locked`] with the owner.
    pub(super) fn claim(
        &self,
        disk: &dyn Disk,
    ) -> Result<(Box<dyn DiskFile>, Option<Header>), OpenError> {
        let Some(file) = disk.claim(&self.file)? else {
            return Err(locked(&*disk.open_to_read(&self.file)?)?);
        };
        let header = Header::read(&*file, &self.file.display().to_string())?;
        self.check_names()?;
        Ok((file, header))
    }

    /// Makes sure that nobody writes to the store while the returned file is kept. Does not write to it.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process has it open.
    pub(super) fn claim_to_read(&self, stored: &dyn DiskFile) -> Result<File, OpenError> {
        let path = self.full();
        let file = File::open(&path).map_err(|error| Error::io("open", &path, &error))?;
        match file.try_lock_shared() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(locked(stored)?),
            Err(fs::TryLockError::Error(error)) => Err(Error::io("lock", &path, &error).into()),
        }
    }
}

/// The error that another process has a file.
fn locked(file: &dyn DiskFile) -> Result<OpenError, Error> {
    let owner = match Status::read(file)?.owner {
        0 => "another process".to_owned(),
        owner => format!("process {owner}"),
    };
    Ok(OpenError::Locked { owner })
}

/// Makes a directory for its owner alone, and missing ones above it, all durably.
///
/// # Errors
/// Errors of the disk.
pub(super) fn make_dir(dir: &Path) -> Result<(), Error> {
    let parents = parents_of_missing(dir);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Error::io("create directory", dir, &error))?;
    for parent in parents {
        File::open(&parent)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| Error::io("sync directory", &parent, &error))?;
    }
    Ok(())
}

/// The directories that will get a new name when `dir` is made. Only syncing them makes it durable.
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

/// Checks that the journal, which ends at `end`, has everything that the store had reached.
///
/// # Errors
/// [`Error::Corrupt`] with what is lost.
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
