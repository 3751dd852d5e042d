//! What is committed together.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Waker},
};

use futures_util::future::BoxFuture;

use super::{full::paths_and_disk, *};

type Asked<'a> = BoxFuture<'a, Result<Outcome, Error>>;

/// Commits set timers, which never run out here. In a task of the runtime only so many futures could be polled at a time.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap()
}

/// A store on a disk that can be full, whose threads are stepped.
fn stepped(
    dir: &tempfile::TempDir,
    options: &Options,
) -> (Store, Workers, Arc<disk::full::FullDisk>) {
    let (paths, disk) = paths_and_disk(dir);
    let opened = Local::open_stepped(Arc::default(), disk.clone(), paths, options);
    let (local, workers) = opened.unwrap();
    (Store::of(local), workers, disk)
}

/// Queues batches.
fn ask<'a>(store: &'a Store, batches: impl IntoIterator<Item = Batch>) -> Vec<Asked<'a>> {
    let mut asked: Vec<Asked<'a>> = Vec::new();
    for batch in batches {
        asked.push(Box::pin(store.commit(batch)));
    }
    assert!(answers(&mut asked).iter().all(Option::is_none));
    asked
}

/// The answers that have come.
fn answers(asked: &mut [Asked<'_>]) -> Vec<Option<Result<Outcome, Error>>> {
    let mut cx = Context::from_waker(Waker::noop());
    let polled = asked.iter_mut().map(|asked| asked.as_mut().poll(&mut cx));
    polled
        .map(|polled| match polled {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        })
        .collect()
}

/// Commits a batch by itself. Returns its revision.
fn committed(store: &Store, workers: &mut Workers, batch: Batch) -> u64 {
    let mut asked = ask(store, [batch]);
    assert!(workers.committer.step());
    match answers(&mut asked)[..] {
        [Some(Ok(Outcome::Committed(revision)))] => revision,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn a_group_has_no_more_than_the_most_batches_and_bytes() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let dir = tempfile::tempdir().unwrap();
    let (store, mut workers, _) = stepped(&dir, &Options::default());
    let mut committed = |batches: Vec<Batch>| {
        let mut asked = ask(&store, batches);
        let mut groups = Vec::new();
        while !asked.is_empty() {
            assert!(workers.committer.step());
            let given = answers(&mut asked);
            let count = given.iter().take_while(|answer| answer.is_some()).count();
            assert!(given[count..].iter().all(Option::is_none));
            asked.drain(..count);
            groups.push(count);
        }
        groups
    };
    let small = |_| Batch::default().put("small", "value");
    assert_eq!(committed((0..600).map(small).collect()), [256, 256, 88]);
    let large = |_| Batch::default().put("large", vec![7; 3 << 19]);
    assert_eq!(committed((0..7).map(large).collect()), [3, 3, 1]);
    drop(workers);
    store.abandon();
}

#[test]
fn what_waits_for_the_committer_is_counted() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let dir = tempfile::tempdir().unwrap();
    let (store, mut workers, _) = stepped(&dir, &Options::default());
    let asked = ask(&store, (0..3).map(|_| Batch::default().put("k", "v")));
    assert_eq!(store.local().queued(), 3);
    assert!(workers.committer.step());
    assert_eq!(store.local().queued(), 0);
    drop((asked, workers));
    store.abandon();
}

#[test]
fn only_a_store_that_is_well_says_that_it_was_closed() {
    let runtime = runtime();
    let _entered = runtime.enter();
    for (is_stopped, is_fed) in [(false, false), (false, true), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut workers, disk) = stepped(&dir, &Options::default());
        committed(&store, &mut workers, Batch::default().put("k", "v"));
        if is_fed {
            assert!(workers.feeder.step().unwrap());
        }
        if is_stopped {
            store.local().core.stop(&Error::Closed);
        }
        drop(workers);
        disk.writes();
        store.close().unwrap();
        let says = !disk.writes().is_empty();
        assert_eq!(says, is_fed && !is_stopped, "{is_stopped} {is_fed}");
    }
}

#[test]
fn only_what_rests_on_a_failed_group_shares_its_fate() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        journal_room_bytes: 64 << 10,
        ..Options::default()
    };
    let (store, mut workers, disk) = stepped(&dir, &options);
    let batch = Batch::default().put("durable", "value");
    assert_eq!(committed(&store, &mut workers, batch), 1);
    disk.set_full(true);
    let mut asked = ask(
        &store,
        [
            Batch::default()
                .expect("durable", Some(1))
                .put("durable", vec![7; 2 << 20]),
            Batch::default().expect("durable", Some(1)).put("a", "b"),
            Batch::default().expect("other", Some(1)).put("a", "b"),
        ],
    );
    assert!(workers.committer.step());
    let given = answers(&mut asked);
    assert!(
        matches!(given[0], Some(Err(Error::Full { .. }))),
        "{given:?}"
    );
    // It was not as expected only because of the first one.
    assert_eq!(given[1], given[0]);
    assert_eq!(given[2], Some(Ok(Outcome::Changed)));
    drop((asked, workers));
    store.abandon();
}

#[test]
fn a_file_that_could_not_replace_the_old_one_is_written_no_more() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let dir = tempfile::tempdir().unwrap();
    let (store, mut workers, disk) = stepped(&dir, &Options::default());
    while workers.rewriter.step() {}
    let (answer, mut answered) = oneshot::channel();
    let now = Work::Now(answer);
    store.local().core.rewriter.try_send(now).unwrap();
    let open_files = disk.open_files();
    // It is written, and then commits go to both.
    for _ in 0..2 {
        assert!(workers.rewriter.step());
    }
    let batch = Batch::default().put("k", "to both");
    assert_eq!(committed(&store, &mut workers, batch), 1);
    disk.set_full(true);
    assert!(workers.rewriter.step());
    let refused = answered.try_recv().unwrap();
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    assert_eq!(disk.open_files(), open_files, "it is let go");
    let batch = Batch::default().put("k", "to one");
    assert_eq!(committed(&store, &mut workers, batch), 2);
    drop(workers);
    store.abandon();
}

#[test]
fn nobody_waits_until_the_room_of_a_file_is_free() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let dir = tempfile::tempdir().unwrap();
    let (store, mut workers, disk) = stepped(&dir, &Options::default());
    while workers.rewriter.step() {}
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let core = Arc::downgrade(&store.local().core);
    let counted = counts.clone();
    disk.when_freeing(move || {
        let Some(core) = core.upgrade() else { return };
        let delays = core.journal.try_lock().is_err() || core.view.gate.try_read().is_err();
        counted[usize::from(delays)].fetch_add(1, Ordering::SeqCst);
    });
    let mut write_anew = || {
        let now = Work::Now(oneshot::channel().0);
        store.local().core.rewriter.try_send(now).unwrap();
        while workers.rewriter.step() {}
    };
    let reader = store.local().core.log();
    let open_files = disk.open_files();
    write_anew();
    assert!(disk.open_files() > open_files, "the old file is still read");
    drop(reader);
    assert!(
        disk.open_files() > open_files,
        "its reader has not closed it"
    );
    write_anew();
    assert_eq!(disk.open_files(), open_files);
    disk.set_full(true);
    write_anew();
    assert_eq!(disk.open_files(), open_files);
    let [free, delaying] = &*counts;
    assert!(free.load(Ordering::SeqCst) > 5);
    assert_eq!(delaying.load(Ordering::SeqCst), 0);
    drop(workers);
    store.abandon();
}

#[test]
fn the_file_is_written_anew_once_the_journal_behind_its_records_has_grown() {
    let runtime = runtime();
    let _entered = runtime.enter();
    // The fourth passes the floor, and the tenth half of 19 records.
    for (records, due_after) in [(0, 4), (19, 10)] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            rewrite_floor_bytes: 64 << 10,
            ..Options::default()
        };
        let (store, mut workers, _) = stepped(&dir, &options);
        let put = |workers: &mut Workers, n| {
            let batch = Batch::default().put(format!("k{n}"), vec![7; 20 << 10]);
            committed(&store, workers, batch);
            while workers.feeder.step().unwrap() {}
        };
        for n in 0..records {
            put(&mut workers, n);
        }
        let rewrites = || store.local().core.meters.rewrites.get();
        let ask = |work| store.local().core.rewriter.try_send(work);
        if records > 0 {
            ask(Work::Now(oneshot::channel().0)).ok();
            while workers.rewriter.step() {}
        }
        let mut expected = rewrites();
        for n in 1..=2 * due_after {
            put(&mut workers, 0);
            ask(Work::Look).ok();
            while workers.rewriter.step() {}
            expected += u64::from(n % due_after == 0);
            assert_eq!(rewrites(), expected, "{records} {n}");
        }
        drop(workers);
        store.abandon();
    }
}

#[test]
fn frames_are_written_where_something_was_written_before() {
    let runtime = runtime();
    let _entered = runtime.enter();
    for (journal_room_bytes, fills_expected) in [(64 << 10, 4), (4 << 20, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            journal_room_bytes,
            ..Options::default()
        };
        let (store, mut workers, disk) = stepped(&dir, &options);
        let (mut written_end, mut fills) = (0, 0);
        disk.writes();
        for _ in 0..40 {
            let batch = Batch::default().put("k", vec![7; 5 << 10]);
            committed(&store, &mut workers, batch);
            let mut writes = disk.writes();
            let (frame, is_zeros) = writes.pop().unwrap();
            assert!(!is_zeros);
            if frame.end <= written_end {
                assert_eq!(writes, []);
                continue;
            }
            fills += 1;
            written_end = frame.end;
            for (zeros, is_zeros) in writes {
                assert_eq!((zeros.start, is_zeros), (written_end, true));
                written_end = zeros.end;
            }
            let room_end = dir.path().join("store").metadata().unwrap().len();
            assert_eq!(written_end, room_end.min(frame.end + (1 << 20)));
        }
        assert_eq!(fills, fills_expected);
        drop(workers);
        store.abandon();
    }
}
