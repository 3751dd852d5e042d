#![allow(clippy::disallowed_methods)]

use std::{fs::File, thread};

use super::*;
use crate::store::view::{
    entry::{HEAD_BYTES, PLACE_BYTES, VALUE_BYTES_MAX},
    values::in_memory::InMemory,
};

#[test]
fn a_view_opens_once_what_closed_it_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    drop(Sled::open(dir.path(), 1 << 20).unwrap());
    let held = File::open(dir.path().join("db")).unwrap();
    held.lock().unwrap();
    let letting_go = thread::spawn(move || {
        thread::sleep(LOCK_RETRY * 5);
        drop(held);
    });
    Sled::open(dir.path(), 1 << 20).unwrap();
    letting_go.join().unwrap();
}

#[test]
fn only_a_whole_view_of_this_form_says_its_revision() {
    let dir = tempfile::tempdir().unwrap();
    let view = Sled::open(dir.path(), 1 << 20).unwrap();
    assert_eq!(view.shown().unwrap(), (0, StateHash::default()));
    let state = StateHash::of(b"k", b"v", 7);
    view.shows(7, state).unwrap();
    assert_eq!(view.shown().unwrap(), (7, state));
    let shown = view.db.remove(SHOWN_KEY).unwrap().unwrap();
    let is_damaged = || matches!(view.shown(), Err(Error::Corrupt { .. }));
    // Another form has another key for it.
    view.db.insert(b"\0shown", &shown).unwrap();
    assert!(is_damaged());
    for damaged in [&shown[1..], &shown[..shown.len() - 1], b""] {
        view.db.insert(SHOWN_KEY, damaged).unwrap();
        assert!(is_damaged());
    }
}

#[test]
fn a_value_is_read_where_it_stands_and_told_if_it_is_damaged_there() {
    let dir = tempfile::tempdir().unwrap();
    let journal = InMemory::default();
    let view = Sled::open(dir.path(), 1 << 20).unwrap();
    let view = view.reading(Arc::new(journal.clone()));
    let large = vec![b'v'; VALUE_BYTES_MAX + 1];
    let small = &large[1..];
    let put = |key: &'static str, value: &[u8], stands| {
        let (key, value) = (Bytes::from(key), Bytes::copy_from_slice(value));
        let write = Placed {
            key: &key,
            value: Some(&value),
            revision: 7,
            stands,
            share: None,
        };
        view.apply(&[write], 7, StateHash::default()).unwrap();
    };
    put(
        "in the journal",
        &large,
        Stands::Journal(journal.append(&large)),
    );
    put("small", small, Stands::Journal(journal.append(small)));
    put("nowhere else", &large, Stands::Nowhere);
    let held = |key: &str| view.stored(key.as_bytes()).unwrap().unwrap().len();
    assert_eq!(
        ["in the journal", "small", "nowhere else"].map(held),
        [PLACE_BYTES, small.len(), large.len()].map(|len| HEAD_BYTES + len)
    );
    let values = || -> Vec<_> {
        let all = (Bound::Excluded(SHOWN_KEY.to_vec()), Bound::Unbounded);
        let values = view.range(all, Direction::Backward).unwrap();
        values.map(|entry| Some(entry.ok()?.value)).collect()
    };
    let large = Some(Bytes::from(large.clone()));
    let small = Some(Bytes::copy_from_slice(small));
    assert_eq!(values(), [small.clone(), large.clone(), large.clone()]);
    assert_eq!(
        view.get(b"in the journal", Waits::Yes)
            .unwrap()
            .map(|entry| entry.value),
        large
    );
    journal.0.lock().unwrap()[3] ^= 1;
    assert_eq!(values(), [small, large, None]);
    assert!(matches!(
        view.get(b"in the journal", Waits::Yes),
        Err(Error::Corrupt { .. })
    ));
}

#[test]
fn the_shares_of_a_cache_are_as_large_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let cache_bytes: u64 = 256 << 20;
    let view = Sled::open(dir.path(), cache_bytes).unwrap();
    let runs = view.runs.bytes_max() + view.extracts.bytes_max();
    let shares = view.filter.bytes() + runs + view.points.bytes_max();
    #[expect(clippy::cast_precision_loss)]
    let overhead = (cache_bytes - shares) as f64 / view.capacity() as f64;
    assert!((overhead - CACHE_OVERHEAD).abs() < 0.01, "{overhead}");
}

/// Numbers as keys, and the keys that a scan from one to another finds.
fn scanned(view: &Sled, from: u32, to: u32) -> usize {
    let bound = |n: u32| Bound::Included(key(n).to_vec());
    let bounds = (bound(from), bound(to));
    let frame: Framing = |value, _, to| {
        to.extend_from_slice(value);
        to.len() - value.len()..to.len()
    };
    let mut found = 0;
    let limit = bounds.1.clone();
    let scanned = view.scan_runs(
        &bounds,
        &limit,
        (Kept::Framed, frame),
        Waits::Yes,
        &mut |_| {
            found += 1;
            ControlFlow::Continue(())
        },
    );
    assert!(scanned.unwrap().is_continue());
    found
}

fn key(n: u32) -> Bytes {
    format!("k{n:05}").into()
}

/// Puts keys that hold themselves. Returns what the state hash is then.
pub(super) fn fill(view: &Sled, count: u32) -> StateHash {
    let keys: Vec<Bytes> = (0..count).map(key).collect();
    let write = |key| Placed {
        key,
        value: Some(key),
        revision: 7,
        stands: Stands::Nowhere,
        share: None,
    };
    let writes: Vec<Placed<'_>> = keys.iter().map(write).collect();
    let with = |state: StateHash, key: &Bytes| state.with(key, key, 7);
    let state = keys.iter().fold(StateHash::default(), with);
    view.apply(&writes, 7, state).unwrap();
    state
}

#[test]
fn every_key_is_summed_up_once_from_whichever_end() {
    for count in [0, 1, 2, 999, 1000, 1001, 3000, 7777] {
        let dir = tempfile::tempdir().unwrap();
        let view = Sled::open(dir.path(), 8 << 20).unwrap();
        let state = fill(&view, count);
        let goes_on = std::sync::atomic::AtomicBool::new(false);
        let (summed, tally) = view.state(&goes_on).unwrap();
        assert!(summed == state, "of {count} keys");
        assert_eq!(tally.count(*b"k0"), u64::from(count));
    }
}

#[test]
fn a_run_that_is_made_before_another_one_ends_there_and_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let view = Sled::open(dir.path(), 8 << 20).unwrap();
    fill(&view, 100);
    assert_eq!(scanned(&view, 50, 99), 50);
    assert_eq!(scanned(&view, 0, 99), 100);
    // The runs are not told of this, and still have them.
    for n in [0, 49, 50, 99] {
        view.lose(&key(n)).unwrap();
    }
    assert_eq!(scanned(&view, 0, 99), 100);
}

#[test]
fn sleds_errors_say_what_a_user_can_do() {
    let said = |error| failed_to("write the view")(error);
    let full = sled::Error::Io(io::ErrorKind::StorageFull.into());
    let read_only = sled::Error::Io(io::ErrorKind::ReadOnlyFilesystem.into());
    let corrupt = sled::Error::Corruption { at: None, bt: () };
    assert!(matches!(said(full), Error::Full { action } if action == "write the view"));
    assert!(matches!(said(read_only), Error::Io { .. }));
    assert!(matches!(said(corrupt), Error::Corrupt { .. }));
    assert!(matches!(
        said(sled::Error::ReportableBug(String::new())),
        Error::Io { .. }
    ));
}

#[test]
fn only_a_held_lock_is_waited_for() {
    let tries = std::cell::Cell::new(0);
    let opened = unlocked(|| {
        tries.set(tries.get() + 1);
        Err(sled::Error::Io(io::ErrorKind::PermissionDenied.into()))
    });
    assert!(opened.is_err());
    assert_eq!(tries.get(), 1);
}
