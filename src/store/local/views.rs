//! The view's directory: who may use it, and which views are in it.
//!
//! A view is sled in a directory that has the store's id and a number as its name. Each new view gets a new number. There are two
//! views only while one is being made, or if the process ended meanwhile. The file [`MARK`] says that everything there belongs to
//! Icebox and may be deleted.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::{
    disk::{Disk, DiskFile, RealDisk},
    home,
};
use crate::store::{Error, OpenError, view::Sled};

/// Its presence allows removing the directory that it is in.
const MARK: &str = "VIEW";
const MARK_SAYS: &str =
    "The view of an Icebox store. It can be removed while the store is closed, and is made anew.\n";

/// Claims the view's directory for this process alone while the returned file is kept. Makes the directory if it is missing.
///
/// # Errors
/// [`OpenError::Foreign`] before anything is written; [`OpenError::Locked`]; errors of the disk.
pub(super) fn claim(dir: &Path) -> Result<Box<dyn DiskFile>, OpenError> {
    let disk = RealDisk::new(dir.to_owned());
    let names = disk.list()?;
    if !names.is_empty() && !names.iter().any(|name| name == MARK) {
        return Err(OpenError::Foreign {
            reason: format!(
                "{} is to hold the view, but holds something else: choose an empty directory",
                dir.display()
            ),
        });
    }
    home::make_dir(dir)?;
    let mark = disk.claim(Path::new(MARK))?;
    let mut mark = mark.ok_or_else(|| OpenError::Locked {
        owner: format!("another process, whose view is in {}", dir.display()),
    })?;
    match mark.write_at(0, MARK_SAYS.as_bytes()) {
        // Only its name matters.
        Err(Error::Full { .. }) => {}
        written => written?,
    }
    Ok(mark)
}

/// Whether a directory has a view of any store.
///
/// # Errors
/// Errors of the disk.
pub(super) fn are_in(dir: &Path) -> Result<bool, Error> {
    let names = RealDisk::new(dir.to_owned()).list()?;
    Ok(names.iter().any(|name| parse(name).is_some()))
}

/// The store and the number in a view's name.
fn parse(name: &str) -> Option<(Uuid, u64)> {
    let (store, number) = name.split_once('-')?;
    Some((Uuid::try_parse(store).ok()?, number.parse().ok()?))
}

/// The views of a store.
pub(super) struct Views {
    dir: PathBuf,
    disk: RealDisk,
    store: Uuid,
    cache_bytes: u64,
}

impl Views {
    /// The views of `store` in `dir`.
    pub(super) fn new(dir: &Path, store: Uuid, cache_bytes: u64) -> Views {
        Views {
            dir: dir.to_owned(),
            disk: RealDisk::new(dir.to_owned()),
            store,
            cache_bytes,
        }
    }

    /// The directory of the views.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the view with a number is, or would be.
    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.dir.join(self.name(number))
    }

    fn name(&self, number: u64) -> String {
        format!("{}-{number}", self.store.simple())
    }

    /// Opens a view. Makes an empty one if it is missing.
    ///
    /// # Errors
    /// If sled fails or panics.
    pub(super) fn open(&self, number: u64) -> Result<Sled, Error> {
        Sled::open(&self.path(number), self.cache_bytes)
    }

    /// The existing views of the store, oldest first.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(super) fn numbers(&self) -> Result<Vec<u64>, Error> {
        let names = self.disk.list()?;
        let parsed = names.iter().filter_map(|name| parse(name));
        let ours = parsed.filter(|(store, _)| *store == self.store);
        let mut numbers: Vec<u64> = ours.map(|(_, number)| number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Removes a view, if it exists.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(super) fn remove(&self, number: u64) -> Result<(), Error> {
        self.disk.remove(Path::new(&self.name(number)))
    }

    /// Removes every view but this one, also views of other stores: they can be made again from those stores' files.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(super) fn discard_all_but(&self, kept: Option<u64>) -> Result<(), Error> {
        for name in self.disk.list()? {
            if let Some((store, number)) = parse(&name)
                && (store != self.store || Some(number) != kept)
            {
                self.disk.remove(Path::new(&name))?;
            }
        }
        Ok(())
    }

    /// The room that is left for the views.
    pub(super) fn room_bytes(&self) -> Option<u64> {
        self.disk.room_bytes()
    }
}
