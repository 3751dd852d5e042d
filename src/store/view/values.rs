//! Values that sled holds only the place of. They are in the truth and nowhere else.

use std::cell::Cell;

use bytes::Bytes;

use crate::store::{Error, change::Stands};

/// The truth, as a place to read values from.
pub(in crate::store) trait Values: Send + Sync {
    /// Call this before reading sled. Then every place that sled returns is good for this reader.
    fn reader<'a>(&self, waits: Waits<'a>) -> Box<dyn ValueReader + 'a>;
}

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Waits<'a> {
    /// It may.
    Yes,
    /// It may not. If it would have to, it sets this flag and fails with [`Error::Busy`].
    No(&'a Cell<bool>),
}

/// Reads values, and some ahead if they stand side by side.
pub(in crate::store) trait ValueReader {
    /// The bytes of a key's value in the truth; `None` if there are none.
    ///
    /// They may be any bytes. The caller has their checksum.
    ///
    /// # Errors
    /// Errors of the disk; [`Error::Busy`] if it may not wait for the disk but would have to.
    fn read(&mut self, key: &[u8], stands: Stands, len: usize) -> Result<Option<Bytes>, Error>;
}

#[cfg(test)]
pub(in crate::store::view) mod in_memory {
    //! A journal in memory that has only values.

    use std::sync::{Arc, Mutex};

    use super::{Bytes, Error, Stands, ValueReader, Values, Waits};

    #[derive(Clone, Default)]
    pub(in crate::store::view) struct InMemory(pub(in crate::store::view) Arc<Mutex<Vec<u8>>>);

    impl InMemory {
        /// Appends a value, and returns its place.
        pub(in crate::store::view) fn append(&self, value: &[u8]) -> u64 {
            let mut bytes = self.0.lock().unwrap();
            let at = bytes.len() as u64;
            bytes.extend_from_slice(value);
            at
        }
    }

    impl Values for InMemory {
        fn reader<'a>(&self, _: Waits<'a>) -> Box<dyn ValueReader + 'a> {
            Box::new(self.clone())
        }
    }

    impl ValueReader for InMemory {
        fn read(&mut self, _: &[u8], stands: Stands, len: usize) -> Result<Option<Bytes>, Error> {
            let Stands::Journal(at) = stands else {
                return Ok(None);
            };
            let bytes = self.0.lock().unwrap();
            let at = usize::try_from(at).unwrap();
            Ok(bytes.get(at..at + len).map(Bytes::copy_from_slice))
        }
    }
}
