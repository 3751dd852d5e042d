//! Files: damage is found wherever it is, and reading something that is not a file of ours is harmless.

use std::{
    future::Future,
    path::Path,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;

use super::*;
use crate::store::{
    Batch, Options, Store,
    local::{
        Local, Workers,
        disk::{Disk, RealDisk},
        home::Paths,
    },
};

/// Commits without a thread.
fn commit(local: &Local, workers: &mut Workers, batch: Batch) {
    let mut committed = Box::pin(local.commit(batch));
    let mut context = Context::from_waker(Waker::noop());
    assert!(committed.as_mut().poll(&mut context).is_pending());
    assert!(workers.committer.step());
    let Poll::Ready(outcome) = committed.as_mut().poll(&mut context) else {
        panic!("it is not answered")
    };
    outcome.unwrap();
}

/// A snapshot with records, some of which the frames replace.
fn snapshot() -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::of(&dir.path().join("store")).unwrap();
    let disk = Arc::new(RealDisk::new(dir.path().to_owned()));
    let (local, mut workers) =
        Local::open_stepped(Arc::default(), disk, paths, &Options::default()).unwrap();
    let batch = |n: u32| {
        Batch::default()
            .put(format!("k{n}"), "value")
            .put("changing", format!("{n}"))
            .delete(format!("k{}", n.wrapping_sub(2)))
    };
    for n in 0..6 {
        commit(&local, &mut workers, batch(n));
    }
    workers.feeder.step().unwrap();
    for n in 6..9 {
        commit(&local, &mut workers, batch(n));
    }
    let mut bytes = Vec::new();
    let taken = local.snapshot(|chunk| {
        bytes.extend_from_slice(&chunk);
        Ok(())
    });
    assert_eq!(taken.unwrap().revision, 9);
    bytes
}

/// A directory for files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Files(tempfile::tempdir().unwrap())
    }

    fn verify(&self, bytes: &[u8]) -> Result<Trailer, OpenError> {
        std::fs::write(self.0.path().join("file"), bytes).unwrap();
        let disk = RealDisk::new(self.0.path().to_owned());
        let stored = Stored::open(&disk, Path::new("file"))?;
        stored.verify()?;
        check(&stored, &mut |_| ())?;
        Ok(stored.trailer?)
    }
}

#[test]
fn a_bit_flipped_anywhere_is_found_and_so_is_a_missing_end() {
    let whole = snapshot();
    let files = Files::new();
    let trailer = files.verify(&whole).unwrap();
    assert_eq!((trailer.records, trailer.fed, trailer.exact.0), (3, 6, 9));
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(files.verify(&flipped).is_err(), "bit {bit}");
    }
    for len in 0..whole.len() {
        assert!(files.verify(&whole[..len]).is_err(), "length {len}");
    }
}

#[test]
fn a_trailer_that_tells_of_more_than_there_can_be_is_none() {
    let trailer = Files::new().verify(&snapshot()).unwrap();
    assert_eq!(Trailer::decode(&trailer.encode()), Some(trailer));
    let (_, state) = trailer.exact;
    for far in [
        Trailer {
            fed: u64::MAX,
            ..trailer
        },
        Trailer {
            exact: (u64::MAX, state),
            ..trailer
        },
        Trailer {
            before_bytes: u64::MAX,
            ..trailer
        },
    ] {
        assert_eq!(Trailer::decode(&far.encode()), None);
    }
}

#[test]
fn the_trailer_is_found_whatever_the_status_says() {
    let mut bytes = snapshot();
    let files = Files::new();
    let trailer = files.verify(&bytes).unwrap();
    for trailer_at in [
        0,
        1,
        RECORDS_AT as u64,
        trailer.at - 1,
        trailer.at,
        u64::MAX,
    ] {
        let status = Status {
            owner: 7,
            reached: 9,
            trailer_at,
        };
        let path = files.0.path().join("file");
        std::fs::write(&path, &bytes).unwrap();
        let disk = RealDisk::new(files.0.path().to_owned());
        let mut file = disk.open(Path::new("file")).unwrap();
        status.write(&mut *file).unwrap();
        assert_eq!(Status::read(&*file).unwrap(), status);
        bytes = std::fs::read(&path).unwrap();
        assert_eq!(files.verify(&bytes).unwrap(), trailer);
    }
}

proptest! {
    #[test]
    fn what_is_no_file_is_told(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<[u8; 4]>()), 1..8),
        cut: Option<prop::sample::Index>,
    ) {
        static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let whole = WHOLE.get_or_init(snapshot);
        let mut bytes = whole.clone();
        for (at, with) in changes {
            let at = at.index(bytes.len() - 4);
            bytes[at..at + 4].copy_from_slice(&with);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let found = Files::new().verify(&bytes);
        prop_assert!(found.is_err() || bytes == *whole);
    }
}

async fn written(path: &Path) -> Vec<u8> {
    let store = Store::open(path, &Options::default()).unwrap();
    for value in ["one", "two", "three"] {
        store
            .commit(Batch::default().put("k", value))
            .await
            .unwrap();
    }
    store.abandon();
    let mut bytes = std::fs::read(path).unwrap();
    bytes.truncate(bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1);
    bytes
}

fn reopened(path: &Path) -> u64 {
    let _ = std::fs::remove_dir_all(Paths::of(path).unwrap().view);
    let store = Store::open(path, &Options::default()).unwrap();
    let revision = store.revision();
    store.abandon();
    revision
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_and_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let whole = written(&path).await;
    let frame = whole
        .windows(4)
        .rposition(|bytes| bytes == b"IBXF")
        .unwrap();
    for cut in frame..whole.len() {
        let mut torn = whole.clone();
        torn[cut..].fill(0);
        // The power went before anything else was written.
        torn[512..536].fill(0);
        std::fs::write(&path, torn).unwrap();
        assert_eq!(reopened(&path), 2, "cut {cut}");
        let left = std::fs::read(&path).unwrap();
        assert!(
            left[frame..].iter().all(|&byte| byte == 0),
            "cut {cut}: it is still there"
        );
    }
    let store = Store::open(&path, &Options::default()).unwrap();
    store.commit(Batch::default().put("k", "3")).await.unwrap();
    store.abandon();
    assert_eq!(reopened(&path), 3);
}
