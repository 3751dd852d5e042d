//! All access to the disk for the store's own files. It is small, so that tests can replace it with a disk whose power can be cut.
//!
//! Paths are relative to one directory. After a power cut only synced things are certain: a file's bytes after [`DiskFile::sync`],
//! and new, renamed or removed names after [`Disk::sync_names`].

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, IoSliceMut},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::Error;
use crate::store::view::Waits;

/// How often to open a file again that was replaced meanwhile. The one who replaces it holds the new one.
const CLAIM_TRIES_MAX: usize = 10;

/// A directory with the store's files.
pub(super) trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing. Creates it if it is missing.
    ///
    /// # Errors
    /// Errors of the disk.
    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error>;

    /// Opens a file as [`Disk::open`] does, for this process alone until [`DiskFile::release`]. `None` if another process has it.
    /// The claimed file is the one that has this name now, not one that was just replaced.
    ///
    /// # Errors
    /// Errors of the disk.
    fn claim(&self, path: &Path) -> Result<Option<Box<dyn DiskFile>>, Error>;

    /// Opens an existing file for reading.
    ///
    /// # Errors
    /// Errors of the disk. A missing file is an error here.
    fn open_to_read(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error>;

    /// The names in the directory, sorted.
    ///
    /// # Errors
    /// Errors of the disk.
    fn list(&self) -> Result<Vec<String>, Error>;

    /// Renames a file. It replaces a file that has that name.
    ///
    /// # Errors
    /// Errors of the disk.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error>;

    /// Removes a file, or a directory with everything in it, if it exists.
    ///
    /// # Errors
    /// Errors of the disk.
    fn remove(&self, path: &Path) -> Result<(), Error>;

    /// Makes the names in the directory durable.
    ///
    /// # Errors
    /// Errors of the disk.
    fn sync_names(&self) -> Result<(), Error>;

    /// The room that is left for this process. `None` if the system does not tell.
    fn room_bytes(&self) -> Option<u64>;
}

/// An open file.
pub(super) trait DiskFile: Send + Sync {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Errors of the disk. A part of the bytes may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Reads up to `buffer`'s size from `offset` on. Returns how much; it is less only at the file's end.
    ///
    /// # Errors
    /// Errors of the disk.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error>;

    /// Reads like [`DiskFile::read_at`] if everything is in memory. `None` if the disk would be needed.
    ///
    /// # Errors
    /// Errors of the disk.
    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        self.read_at(offset, buffer).map(Some)
    }

    /// The file's size in bytes.
    ///
    /// # Errors
    /// Errors of the disk.
    fn size(&self) -> Result<u64, Error>;

    /// Reserves room up to `len` bytes. New room reads as zeros.
    ///
    /// # Errors
    /// [`Error::Full`] if there is not enough room.
    fn allocate(&mut self, len: u64) -> Result<(), Error>;

    /// Makes the file's bytes and length durable.
    ///
    /// # Errors
    /// Errors of the disk. After a sync has failed once, a later sync cannot be trusted.
    fn sync(&mut self) -> Result<(), Error>;

    /// Lets other processes claim the file.
    fn release(&mut self);
}

/// Reads like [`DiskFile::read_at`]. `waits` tells whether it may wait for the disk.
///
/// # Errors
/// Errors of the disk; [`Error::Busy`] if it may not wait but would have to.
pub(super) fn read(
    file: &dyn DiskFile,
    offset: u64,
    buffer: &mut [u8],
    waits: Waits<'_>,
) -> Result<usize, Error> {
    match waits {
        Waits::Yes => file.read_at(offset, buffer),
        Waits::No(would_wait) => file.read_now(offset, buffer)?.ok_or_else(|| {
            would_wait.set(true);
            Error::Busy
        }),
    }
}

/// The operating system's disk below one directory.
#[derive(Clone, Debug)]
pub(super) struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The disk below `root`, which must exist.
    #[must_use]
    pub(super) fn new(root: PathBuf) -> Self {
        RealDisk { root }
    }
}

struct RealFile {
    file: File,
    path: PathBuf,
    is_claimed: bool,
}

/// Nothing exists below a name that is missing or is not a directory.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

impl RealDisk {
    fn open_file(&self, path: &Path) -> Result<RealFile, Error> {
        let path = self.root.join(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::io("open", &path, &error))?;
        Ok(RealFile {
            file,
            path,
            is_claimed: false,
        })
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
        Ok(Box::new(self.open_file(path)?))
    }

    fn claim(&self, path: &Path) -> Result<Option<Box<dyn DiskFile>>, Error> {
        for _ in 0..CLAIM_TRIES_MAX {
            let mut file = self.open_file(path)?;
            match file.file.try_lock() {
                Ok(()) => file.is_claimed = true,
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(file.failed("lock")(error)),
            }
            // Another process may have replaced it after it was opened, and then released this one.
            let ours = file.file.metadata().map_err(file.failed("look at"))?;
            match fs::metadata(&file.path) {
                Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {
                    return Ok(Some(Box::new(file)));
                }
                Err(error) if !is_absent(&error) => return Err(file.failed("look at")(error)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn open_to_read(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
        let path = self.root.join(path);
        let file = File::open(&path).map_err(|error| Error::io("open", &path, &error))?;
        Ok(Box::new(RealFile {
            file,
            path,
            is_claimed: false,
        }))
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        let failed = |error: io::Error| Error::io("list", &self.root, &error);
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let (from, to) = (self.root.join(from), self.root.join(to));
        fs::rename(&from, &to).map_err(|error| Error::io("rename", &from, &error))
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        let path = self.root.join(path);
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        match removed {
            Err(error) if !is_absent(&error) => Err(Error::io("remove", &path, &error)),
            _ => Ok(()),
        }
    }

    fn sync_names(&self) -> Result<(), Error> {
        File::open(&self.root)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| Error::io("sync directory", &self.root, &error))
    }

    fn room_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.root).ok()?;
        // Some file systems do not count.
        let counts = stat.f_blocks > 0;
        counts.then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl Drop for RealFile {
    fn drop(&mut self) {
        self.release();
    }
}

impl RealFile {
    fn failed(&self, action: &str) -> impl Fn(io::Error) -> Error {
        move |error| Error::io(action, &self.path, &error)
    }
}

impl DiskFile for RealFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(self.failed("write"))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .file
                .read_at(&mut buffer[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("read")(error)),
            }
        }
        Ok(filled)
    }

    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        let mut buffers = [IoSliceMut::new(buffer)];
        match preadv2(&self.file, &mut buffers, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == buffer.len() => Ok(Some(read)),
            // The file's end, or the first page that is not in memory; or a file system or a kernel that cannot tell.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
            Err(errno) => Err(self.failed("read")(errno.into())),
        }
    }

    fn size(&self) -> Result<u64, Error> {
        Ok(self.file.metadata().map_err(self.failed("look at"))?.len())
    }

    fn allocate(&mut self, len: u64) -> Result<(), Error> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, len) {
            // Some file systems cannot reserve room. There a full disk shows when it is written to.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                self.file.set_len(len).map_err(self.failed("extend"))
            }
            reserved => reserved.map_err(|errno| self.failed("allocate")(errno.into())),
        }
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_data().map_err(self.failed("sync"))
    }

    fn release(&mut self) {
        if std::mem::take(&mut self.is_claimed) {
            // Closing the file would be enough, if a process that was just forked did not hold it, too, until it runs another
            // program.
            let _ = self.file.unlock();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_at_once_is_what_is_there_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().to_owned());
        let mut file = disk.open(Path::new("file")).unwrap();
        file.write_at(0, &[7; 10_000]).unwrap();
        let mut buffer = [0; 8000];
        // Not every file system can tell.
        if let Some(read) = file.read_now(1000, &mut buffer).unwrap() {
            assert_eq!((read, buffer), (8000, [7; 8000]));
        }
        assert_eq!(file.read_now(9000, &mut buffer).unwrap(), None);
    }
}

#[cfg(test)]
pub(in crate::store) mod full {
    //! A disk that can be full, or slow to answer.

    use std::{
        ops::Range,
        sync::{
            Arc, Mutex, OnceLock,
            atomic::{AtomicBool, AtomicU64, Ordering},
        },
    };

    use super::{Disk, DiskFile, Error, Path, RealDisk};

    /// Where something was written into a file, and whether it was only zeros.
    pub(in crate::store) type Write = (Range<u64>, bool);

    /// The operating system's disk, with as much room as a test says.
    pub(in crate::store) struct FullDisk {
        disk: RealDisk,
        is_full: Arc<AtomicBool>,
        is_slow: Arc<AtomicBool>,
        room_bytes: AtomicU64,
        /// Has one more holder for each file that is open.
        open_files: Arc<()>,
        writes: Arc<Mutex<Vec<Write>>>,
        freeing: Arc<Freeing>,
    }

    /// What to do when a file is removed or closed, which frees its room.
    type Freeing = OnceLock<Box<dyn Fn() + Send + Sync>>;

    impl FullDisk {
        /// The disk below `root`, with room.
        pub(in crate::store) fn new(root: &Path) -> Self {
            FullDisk {
                disk: RealDisk::new(root.to_path_buf()),
                is_full: Arc::default(),
                is_slow: Arc::default(),
                room_bytes: AtomicU64::new(1 << 30),
                open_files: Arc::default(),
                writes: Arc::default(),
                freeing: Arc::default(),
            }
        }

        /// Sets, once, what to do whenever a file is removed or closed.
        pub(in crate::store) fn when_freeing(&self, freeing: impl Fn() + Send + Sync + 'static) {
            assert!(self.freeing.set(Box::new(freeing)).is_ok());
        }

        /// Sets whether what needs room fails: allocating it for a file, and renaming.
        pub(in crate::store) fn set_full(&self, is_full: bool) {
            self.is_full.store(is_full, Ordering::SeqCst);
        }

        /// Sets whether every read has to wait for the disk.
        pub(in crate::store) fn set_slow(&self, is_slow: bool) {
            self.is_slow.store(is_slow, Ordering::SeqCst);
        }

        /// How many files are open.
        pub(in crate::store) fn open_files(&self) -> usize {
            Arc::strong_count(&self.open_files) - 1
        }

        /// What was written since the last time that this was asked, in order.
        pub(in crate::store) fn writes(&self) -> Vec<Write> {
            std::mem::take(&mut self.writes.lock().unwrap())
        }

        fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
            Box::new(FullFile {
                file,
                _open: self.open_files.clone(),
                writes: self.writes.clone(),
                is_full: self.is_full.clone(),
                is_slow: self.is_slow.clone(),
                freeing: self.freeing.clone(),
            })
        }

        /// Sets how much room the disk reports.
        pub(in crate::store) fn set_room(&self, bytes: u64) {
            self.room_bytes.store(bytes, Ordering::SeqCst);
        }
    }

    struct FullFile {
        file: Box<dyn DiskFile>,
        _open: Arc<()>,
        writes: Arc<Mutex<Vec<Write>>>,
        is_full: Arc<AtomicBool>,
        is_slow: Arc<AtomicBool>,
        freeing: Arc<Freeing>,
    }

    impl Drop for FullFile {
        fn drop(&mut self) {
            if let Some(freeing) = self.freeing.get() {
                freeing();
            }
        }
    }

    impl Disk for FullDisk {
        fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
            Ok(self.file(self.disk.open(path)?))
        }

        fn claim(&self, path: &Path) -> Result<Option<Box<dyn DiskFile>>, Error> {
            let claimed = self.disk.claim(path)?;
            Ok(claimed.map(|file| self.file(file)))
        }

        fn open_to_read(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
            Ok(self.file(self.disk.open_to_read(path)?))
        }

        fn list(&self) -> Result<Vec<String>, Error> {
            self.disk.list()
        }

        fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
            if self.is_full.load(Ordering::SeqCst) {
                return Err(Error::Full {
                    action: format!("rename {}", from.display()),
                });
            }
            self.disk.rename(from, to)
        }

        fn remove(&self, path: &Path) -> Result<(), Error> {
            if let Some(freeing) = self.freeing.get() {
                freeing();
            }
            self.disk.remove(path)
        }

        fn sync_names(&self) -> Result<(), Error> {
            self.disk.sync_names()
        }

        fn room_bytes(&self) -> Option<u64> {
            Some(self.room_bytes.load(Ordering::SeqCst))
        }
    }

    impl DiskFile for FullFile {
        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
            let is_zeros = bytes.iter().all(|byte| *byte == 0);
            let write = (offset..offset + bytes.len() as u64, is_zeros);
            self.writes.lock().unwrap().push(write);
            self.file.write_at(offset, bytes)
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
            self.file.read_at(offset, buffer)
        }

        fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
            if self.is_slow.load(Ordering::SeqCst) {
                return Ok(None);
            }
            self.file.read_at(offset, buffer).map(Some)
        }

        fn size(&self) -> Result<u64, Error> {
            self.file.size()
        }

        fn allocate(&mut self, len: u64) -> Result<(), Error> {
            if self.is_full.load(Ordering::SeqCst) {
                return Err(Error::Full {
                    action: format!("allocate {len} bytes"),
                });
            }
            self.file.allocate(len)
        }

        fn sync(&mut self) -> Result<(), Error> {
            self.file.sync()
        }

        fn release(&mut self) {
            self.file.release();
        }
    }
}
