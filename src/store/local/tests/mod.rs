//! The local truth from end to end: what survives, what is told, and what heals.

mod view;

use std::path::PathBuf;

use super::{home::VIEW_DIR, *};
use crate::store::{
    Read, Store,
    change::{Change, Write},
    view::Sled,
};

fn open(path: &Path) -> Result<Store, OpenError> {
    Store::open(path, &Options::default())
}

fn opened(path: &Path) -> Store {
    open(path).unwrap()
}

async fn put(store: &Store, key: &'static str, value: &'static str) -> u64 {
    match store.commit(Batch::new().put(key, value)).await {
        Ok(Outcome::Committed(revision)) => revision,
        other => panic!("{other:?}"),
    }
}

fn content(store: &Store) -> Vec<(String, String)> {
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let entries = store.content().unwrap().into_iter();
    entries
        .map(|entry| (text(entry.key), text(entry.value)))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|&(key, value)| (key.into(), value.into()))
        .collect()
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_reopen_however_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    assert_eq!(put(&store, "k2", "two").await, 1);
    assert_eq!(put(&store, "k1", "one").await, 2);
    store.close().unwrap();

    let store = opened(&path);
    assert_eq!(
        (store.revision(), content(&store)),
        (2, pairs(&[("k1", "one"), ("k2", "two")]))
    );
    assert_eq!(put(&store, "k1", "uno").await, 3);
    store.close().unwrap();

    std::fs::remove_dir_all(path.join(VIEW_DIR)).unwrap();
    let store = opened(&path);
    assert_eq!(
        (store.revision(), content(&store)),
        (3, pairs(&[("k1", "uno"), ("k2", "two")]))
    );
    store.close().unwrap();

    // Garbage in the view's place: sled refuses it, or panics.
    let views = std::fs::read_dir(path.join(VIEW_DIR)).unwrap();
    for entry in views.flat_map(|view| std::fs::read_dir(view.unwrap().path()).unwrap()) {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::write(entry.path(), [0x5a; 4096]).unwrap();
        }
    }
    let store = opened(&path);
    assert_eq!(
        (store.revision(), content(&store)),
        (3, pairs(&[("k1", "uno"), ("k2", "two")]))
    );
}

#[tokio::test]
async fn a_batch_whose_expectations_do_not_hold_leaves_nothing_and_takes_no_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir.path().join("store"));
    let commit = async |batch| store.commit(batch).await.unwrap();
    let create = || Batch::new().expect("k", None).put("k", "v");
    assert_eq!(commit(create()).await, Outcome::Committed(1));
    assert_eq!(commit(create()).await, Outcome::Changed);
    let at = |revision| {
        Batch::new()
            .expect("k", Some(revision))
            .put("k", "w")
            .put("l", "w")
    };
    assert_eq!(commit(at(2)).await, Outcome::Changed);
    assert_eq!(
        (store.revision(), content(&store)),
        (1, pairs(&[("k", "v")]))
    );
    assert_eq!(commit(at(1)).await, Outcome::Committed(2));
    assert_eq!(store.view.get(b"k").unwrap().unwrap().revision, 2);
    let delete = Batch::new().expect("k", Some(2)).delete("k");
    assert_eq!(commit(delete).await, Outcome::Committed(3));
    assert_eq!(commit(create()).await, Outcome::Committed(4));
}

#[tokio::test]
async fn of_many_that_expect_the_same_one_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir.path().join("store"));
    let creates =
        (0..100).map(|n| store.commit(Batch::new().expect("k", None).put("k", format!("{n}"))));
    let outcomes = futures_util::future::join_all(creates).await;
    let committed = outcomes
        .iter()
        .filter(|outcome| **outcome == Ok(Outcome::Committed(1)));
    assert_eq!((committed.count(), store.revision()), (1, 1));
}

#[tokio::test]
async fn a_second_open_is_told_who_holds_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let _store = opened(&path);
    let Err(OpenError::Locked { owner }) = open(&path) else {
        panic!("opened twice")
    };
    assert_eq!(owner, format!("process {}", std::process::id()));
}

#[tokio::test]
async fn a_store_that_was_closed_opens_again_whoever_was_forked_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    // As a process has it between its fork and its exec.
    let forked = store.local().lock.try_clone();
    store.close().unwrap();
    opened(&path).close().unwrap();
    drop(forked);
}

#[tokio::test]
async fn a_newer_or_foreign_directory_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    opened(&path).close().unwrap();
    std::fs::write(path.join("FORMAT"), "icebox store, format 3\nid ?\n").unwrap();
    assert_eq!(
        open(&path).unwrap_err(),
        OpenError::NewerFormat {
            found: 3,
            supported: 2
        }
    );

    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.tex"), "").unwrap();
    assert!(matches!(open(&foreign), Err(OpenError::Foreign { .. })));
    assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1);
    assert!(matches!(
        open(&foreign.join("thesis.tex")),
        Err(OpenError::Foreign { .. })
    ));
}

#[tokio::test]
async fn a_bit_flipped_anywhere_in_the_journal_of_a_closed_store_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    for value in ["one", "two", "three"] {
        put(&store, "k", value).await;
    }
    store.close().unwrap();
    let journal = path.join("journal/00000000000000000001.journal");
    let whole = std::fs::read(&journal).unwrap();
    let end = whole.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    // Without the view, which would tell by itself how far the store had come.
    std::fs::remove_dir_all(path.join(VIEW_DIR)).unwrap();
    for at in 0..end {
        let mut damaged = whole[..end].to_vec();
        damaged[at] ^= 0x20;
        std::fs::write(&journal, damaged).unwrap();
        assert!(
            matches!(open(&path), Err(OpenError::Store(Error::Corrupt { .. }))),
            "byte {at}"
        );
    }
    std::fs::write(&journal, whole).unwrap();
    assert_eq!(content(&opened(&path)), pairs(&[("k", "three")]));
}

#[tokio::test]
async fn a_journal_that_lost_what_the_view_has_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    put(&store, "k", "v").await;
    let journal = path.join("journal/00000000000000000001.journal");
    let before = std::fs::read(&journal).unwrap();
    put(&store, "k", "w").await;
    store.close().unwrap();
    std::fs::write(&journal, before).unwrap();
    assert!(matches!(
        open(&path),
        Err(OpenError::Store(Error::Corrupt { .. }))
    ));
}

/// Puts `n` keys of 64 KiB, which fills several segments.
async fn fill(store: &Store, n: u32) {
    for key in 0..n {
        let key = format!("k{key:04}");
        let value = vec![7; 64 << 10];
        store.commit(Batch::new().put(key, value)).await.unwrap();
    }
}

fn names(dir: PathBuf) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_checkpoint_and_the_journal_behind_it_make_the_view_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = Options {
        journal_keep_bytes: 0,
        ..Options::default()
    };
    let store = Store::open(&path, &options).unwrap();
    fill(&store, 600).await;
    assert!(names(path.join("journal")).len() > 2);
    store.local().checkpoint().await.unwrap();
    assert_eq!(
        names(path.join("checkpoint")),
        ["00000000000000000600.checkpoint"]
    );
    assert_eq!(
        names(path.join("journal")).len(),
        1,
        "what the checkpoint covers goes"
    );
    put(&store, "k0000", "changed").await;
    put(&store, "new", "one").await;
    let before = content(&store);
    store.close().unwrap();
    std::fs::remove_dir_all(path.join(VIEW_DIR)).unwrap();
    let store = opened(&path);
    assert_eq!((store.revision(), content(&store) == before), (602, true));
    store.local().checkpoint().await.unwrap();
    assert_eq!(
        names(path.join("checkpoint")),
        ["00000000000000000602.checkpoint"]
    );
    store.close().unwrap();
    let store = opened(&path);
    assert_eq!((store.revision(), content(&store) == before), (602, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_is_exact_though_writes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Arc::new(opened(&path));
    fill(&store, 300).await;
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..20 {
                fill(&store, 50).await;
                put(&store, "k0200", "changed").await;
            }
        }
    });
    // Each is read back and compared with the state hash before it counts.
    for _ in 0..5 {
        store.local().checkpoint().await.unwrap();
    }
    writing.await.unwrap();
    let before = content(&store);
    Arc::into_inner(store).unwrap().close().unwrap();
    std::fs::remove_dir_all(path.join(VIEW_DIR)).unwrap();
    assert!(content(&opened(&path)) == before);
}

#[tokio::test]
async fn a_journal_that_outgrows_the_checkpoint_gets_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = Options {
        checkpoint_floor_bytes: 1 << 20,
        ..Options::default()
    };
    let store = Store::open(&path, &options).unwrap();
    fill(&store, 64).await;
    for _ in 0..100 {
        if path.join("checkpoint").is_dir() && !names(path.join("checkpoint")).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no checkpoint was made");
}

#[tokio::test]
async fn a_damaged_checkpoint_is_made_again_from_the_view_and_told_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = Options {
        journal_keep_bytes: 0,
        ..Options::default()
    };
    let store = Store::open(&path, &options).unwrap();
    fill(&store, 300).await;
    store.local().checkpoint().await.unwrap();
    put(&store, "new", "one").await;
    store.close().unwrap();
    let file = path.join("checkpoint/00000000000000000300.checkpoint");
    let whole = std::fs::read(&file).unwrap();

    // In its middle, which only a rebuild looks at.
    let mut damaged = whole.clone();
    damaged[100_000] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    std::fs::rename(path.join(VIEW_DIR), dir.path().join("aside")).unwrap();
    let Err(OpenError::Store(Error::Corrupt { what })) = open(&path) else {
        panic!("it was opened")
    };
    assert!(what.contains("00000000000000000300.checkpoint"), "{what}");
    std::fs::rename(dir.path().join("aside"), path.join(VIEW_DIR)).unwrap();

    // At its end, which every open looks at.
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    let store = opened(&path);
    store.local().checkpoint().await.unwrap();
    assert_eq!(
        names(path.join("checkpoint")),
        ["00000000000000000301.checkpoint"]
    );
    store.close().unwrap();
    opened(&path).close().unwrap();
}

#[tokio::test]
async fn commit_times_never_go_back_though_the_clock_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    let future = crate::clock::now_ms() + 1_000_000_000;
    store.local().clock.is_at_least(future);
    put(&store, "k", "v").await;
    store.close().unwrap();
    // Another process, whose clock is right.
    let store = opened(&path);
    assert!(store.now_ms() >= future);
    store.local().checkpoint().await.unwrap();
    store.close().unwrap();
    assert!(opened(&path).now_ms() >= future);
}

#[tokio::test]
async fn opening_can_be_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    fill(&store, 10).await;
    store.close().unwrap();
    std::fs::remove_dir_all(path.join(VIEW_DIR)).unwrap();
    let cancelled = Arc::new(AtomicBool::new(true));
    assert_eq!(
        Store::open_unless(cancelled, &path, &Options::default()).err(),
        Some(OpenError::Store(Error::Closed))
    );
    assert_eq!(content(&opened(&path)).len(), 10);
}

#[tokio::test]
async fn what_the_store_had_reached_is_told_without_the_view() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    let journal = path.join("journal/00000000000000000001.journal");
    put(&store, "k", "v").await;
    let before = std::fs::read(&journal).unwrap();
    put(&store, "k", "w").await;
    store.close().unwrap();
    std::fs::remove_dir_all(path.join(VIEW_DIR)).unwrap();
    std::fs::write(&journal, before).unwrap();
    let lost = |file: &str| {
        let kept = std::fs::read(path.join(file)).unwrap();
        std::fs::remove_file(path.join(file)).unwrap();
        assert!(
            matches!(open(&path), Err(OpenError::Store(Error::Corrupt { .. }))),
            "without {file}"
        );
        std::fs::write(path.join(file), kept).unwrap();
    };
    lost("LOCK");
    std::fs::write(path.join("LOCK"), "closed at revision 2\n").unwrap();
    lost("REACHED");
}

/// The store on a disk that can be full.
fn open_on(disk: &Arc<disk::full::FullDisk>, path: &Path, options: &Options) -> Store {
    let lock = home::claim(path).unwrap();
    Store::of(Local::open_on(Arc::default(), disk.clone(), lock, path, options).unwrap())
}

#[tokio::test]
async fn what_rests_on_a_write_that_the_full_disk_refused_shares_its_fate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let disk = Arc::new(disk::full::FullDisk::new(&path));
    let options = Options {
        journal_segment_bytes: 64 << 10,
        ..Options::default()
    };
    let store = open_on(&disk, &path, &options);
    put(&store, "k", "v").await;
    disk.set_full(true);
    // Too large for what is left of the segment, small enough that others join the group.
    let deletes = (0..200).map(|_| {
        let value = vec![7; 70 << 10];
        store.commit(
            Batch::new()
                .expect("k", Some(1))
                .delete("k")
                .put("big", value),
        )
    });
    for outcome in futures_util::future::join_all(deletes).await {
        assert!(matches!(outcome, Err(Error::Full { .. })), "{outcome:?}");
    }
    assert!(store.condition().borrow().full.is_some());
    assert_eq!(content(&store), pairs(&[("k", "v")]));
    disk.set_full(false);
    // Nothing of them is left for those that come behind.
    let batch = Batch::new()
        .expect("k", Some(1))
        .expect("big", None)
        .put("k", "w");
    assert_eq!(store.commit(batch).await, Ok(Outcome::Committed(2)));
    store.verify().unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_what_is_new_and_takes_deletes_until_there_is_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let disk = Arc::new(disk::full::FullDisk::new(&path));
    let store = open_on(&disk, &path, &Options::default());
    let create = |key: &'static str| store.commit(Batch::new().expect(key, None).put(key, "v"));
    assert_eq!(create("k").await, Ok(Outcome::Committed(1)));
    disk.set_room(16 << 20);
    assert_eq!(create("l").await, Ok(Outcome::Committed(2)));
    disk.set_room(1 << 20);
    let refused = create("m").await;
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    assert!(store.condition().borrow().full.is_some());
    assert!(!path.join("RESERVE").exists(), "the reserve is given up");
    let delete = Batch::new().expect("k", Some(1)).delete("k");
    assert_eq!(store.commit(delete).await, Ok(Outcome::Committed(3)));
    let update = Batch::new().expect("l", Some(2)).put("l", "w");
    assert_eq!(store.commit(update).await, Ok(Outcome::Committed(4)));
    store.close().unwrap();

    let store = open_on(&disk, &path, &Options::default());
    assert_eq!(content(&store), pairs(&[("l", "w")]));
    disk.set_room(1 << 30);
    // Nobody writes, and health shows it all the same.
    let mut condition = store.condition();
    let well = condition.wait_for(Condition::is_well);
    tokio::time::timeout(Duration::from_secs(20), well)
        .await
        .unwrap()
        .unwrap();
    let create = Batch::new().expect("m", None).put("m", "v");
    assert_eq!(store.commit(create).await, Ok(Outcome::Committed(5)));
    assert!(path.join("RESERVE").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_keeps_the_segments_that_it_needs_though_checkpoints_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        journal_segment_bytes: 64 << 10,
        journal_keep_bytes: 0,
        checkpoint_floor_bytes: u64::MAX / 2,
        ..Options::default()
    };
    let store = Store::open(&dir.path().join("store"), &options).unwrap();
    let write = async |n: u32| {
        let batch = Batch::new().put(format!("k{n}"), vec![b'v'; 4000]);
        store.commit(batch).await.unwrap();
    };
    for n in 0..600 {
        write(n).await;
    }
    let mut snapshot = Vec::new();
    let made = tokio::task::block_in_place(|| {
        store.local().snapshot(|chunk| {
            // After the first chunk of several, all is written anew, and a checkpoint covers that.
            if snapshot.is_empty() {
                tokio::runtime::Handle::current().block_on(async {
                    for n in 0..600 {
                        write(n).await;
                    }
                    store.local().checkpoint().await.unwrap();
                });
            }
            snapshot.extend_from_slice(&chunk);
            Ok(())
        })
    });
    assert_eq!(made.unwrap().revision, 1200);
    let file = dir.path().join("snapshot");
    std::fs::write(&file, snapshot).unwrap();
    assert_eq!(verify_snapshot(&file).unwrap().revision, 1200);
    let restored = dir.path().join("restored");
    assert_eq!(restore(&file, &restored, None).unwrap(), 1200);
    let restored = opened(&restored);
    assert!(restored.content().unwrap() == store.content().unwrap());
}
