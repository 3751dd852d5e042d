//! The values that sled only knows the place of: they stand in the truth, and nowhere else.

use std::cell::Cell;

use bytes::Bytes;

use crate::store::{Error, change::Stands};

/// The truth, as far as values are read there.
pub(in crate::store) trait Values: Send + Sync {
    /// To be called before sled is read: whatever sled says from then on of a value is good for this reader.
    fn reader<'a>(&self, waits: Waits<'a>) -> Box<dyn ValueReader + 'a>;
}

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Waits<'a> {
    /// It may.
    Yes,
    /// It must not. Where it would have to, it says so here and fails with [`Error::Busy`].
    No(&'a Cell<bool>),
}

/// Reads values, some of them ahead where they stand side by side.
pub(in crate::store) trait ValueReader {
    /// The value of a key that stands in the truth; `None` if there is no such thing.
    ///
    /// It may be any bytes: whoever asks knows their checksum.
    ///
    /// # Errors
    /// What the disk says; [`Error::Busy`] if it would have to be waited for.
    fn read(&mut self, key: &[u8], stands: Stands, len: usize) -> Result<Option<Bytes>, Error>;
}

#[cfg(test)]
pub(in crate::store::view) mod in_memory {
    //! A journal in memory, of values alone.

    use std::sync::{Arc, Mutex};

    use super::{Bytes, Error, Stands, ValueReader, Values, Waits};

    #[derive(Clone, Default)]
    pub(in crate::store::view) struct InMemory(pub(in crate::store::view) Arc<Mutex<Vec<u8>>>);

    impl InMemory {
        /// Appends a value, and says where it stands.
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
