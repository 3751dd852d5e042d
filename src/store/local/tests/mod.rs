//! The local truth as a whole: what survives, what is reported, and what is repaired.

mod damage;
mod examine;
mod full;
mod groups;
mod names;
mod view;

use std::path::PathBuf;

use super::{
    log::{Follower, Next},
    *,
};
use crate::store::{
    Group, Reach, Read, Store,
    view::{Sled, Values, Waits},
};

fn open(path: &Path) -> Result<Store, OpenError> {
    Store::open(path, &Options::default())
}

fn opened(path: &Path) -> Store {
    open(path).unwrap()
}

/// The directory of the view of the store in a file.
fn view_dir(path: &Path) -> PathBuf {
    Paths::of(path).unwrap().view
}

/// The views of the store in a file.
fn views(path: &Path) -> Vec<PathBuf> {
    let names = std::fs::read_dir(view_dir(path)).unwrap();
    let mut views: Vec<_> = names.map(|name| name.unwrap().path()).collect();
    views.retain(|view| view.is_dir());
    views.sort();
    views
}

/// The only view of the store.
fn only_view(path: &Path) -> PathBuf {
    let [view] = &views(path)[..] else {
        panic!("{:?}", views(path))
    };
    view.clone()
}

async fn put(store: &Store, key: &'static str, value: &'static str) -> u64 {
    match store.commit(Batch::default().put(key, value)).await {
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

    std::fs::remove_dir_all(view_dir(&path)).unwrap();
    let store = opened(&path);
    assert_eq!(
        (store.revision(), content(&store)),
        (3, pairs(&[("k1", "uno"), ("k2", "two")]))
    );
    store.close().unwrap();

    // Garbage in place of the view: sled refuses it, or panics.
    for entry in std::fs::read_dir(only_view(&path)).unwrap() {
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
async fn the_room_that_a_store_takes_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    let usage = async || store.local().usage().await.unwrap();
    assert_eq!(usage().await.records, None);
    let mut journal_bytes = usage().await.journal_bytes;
    assert_eq!(journal_bytes, 0);
    for value_bytes in [10_u16, 5000] {
        let batch = Batch::default().put("k", vec![7; value_bytes.into()]);
        store.commit(batch).await.unwrap();
        let more = usage().await.journal_bytes - journal_bytes;
        let least = u64::from(value_bytes);
        assert!((least..least + 300).contains(&more), "{more}");
        journal_bytes += more;
    }
    store.local().rewrite().await.unwrap();
    let before = usage().await;
    let (revision, _) = before.records.unwrap();
    assert_eq!(revision, 2);
    let below = view_dir(&path).join("a").join("b");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(below.join("c"), vec![7; 8 << 20]).unwrap();
    let more = usage().await.view_bytes - before.view_bytes;
    assert!((8 << 20..9 << 20).contains(&more), "{more}");
    std::fs::remove_dir_all(below).unwrap();
    store.close().unwrap();
}

#[tokio::test]
async fn a_batch_whose_expectations_do_not_hold_leaves_nothing_and_takes_no_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir.path().join("store"));
    let commit = async |batch| store.commit(batch).await.unwrap();
    let create = || Batch::default().expect("k", None).put("k", "v");
    assert_eq!(commit(create()).await, Outcome::Committed(1));
    assert_eq!(commit(create()).await, Outcome::Changed);
    let at = |revision| {
        Batch::default()
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
    assert_eq!(
        store.view.patiently().get(b"k").unwrap().unwrap().revision,
        2
    );
    let delete = Batch::default().expect("k", Some(2)).delete("k");
    assert_eq!(commit(delete).await, Outcome::Committed(3));
    assert_eq!(commit(create()).await, Outcome::Committed(4));
}

#[tokio::test]
async fn of_many_that_expect_the_same_one_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir.path().join("store"));
    let creates =
        (0..100).map(|n| store.commit(Batch::default().expect("k", None).put("k", format!("{n}"))));
    let outcomes = futures_util::future::join_all(creates).await;
    let committed = outcomes
        .iter()
        .filter(|outcome| **outcome == Ok(Outcome::Committed(1)));
    assert_eq!((committed.count(), store.revision()), (1, 1));
}

/// Writes `n` keys of 64 KiB.
async fn fill(store: &Store, n: u32) {
    for key in 0..n {
        let key = format!("k{key:04}");
        let value = vec![7; 64 << 10];
        store
            .commit(Batch::default().put(key, value))
            .await
            .unwrap();
    }
}

/// The revision of the records, and the bytes of the frames.
fn records_and_journal(store: &Store) -> (u64, u64) {
    let log = store.local().core.log();
    (log.trailer.exact.0, log.bytes())
}

#[tokio::test]
async fn who_began_to_read_before_the_file_was_replaced_reads_what_came_later() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir.path().join("store"));
    let core = &store.local().core;
    put(&store, "k", "before").await;
    let mut reader = core.current.reader(Waits::Yes);
    for (round, value) in ["once", "twice"].into_iter().enumerate() {
        store.fed_sled();
        store.local().rewrite().await.unwrap();
        let revision = put(&store, "k", value).await;
        let mut stands = None;
        let mut visit = |frame: &Group, at| {
            stands = Some(frame.placed(Some(at))[0].stands);
            Ok(())
        };
        core.log().read(revision - 1, revision, &mut visit).unwrap();
        let read = reader.read(b"k", stands.unwrap(), value.len()).unwrap();
        assert_eq!(read.as_deref(), Some(value.as_bytes()), "round {round}");
    }
}

#[tokio::test]
async fn who_follows_the_journal_goes_on_in_the_file_that_replaced_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir.path().join("store"));
    let core = &store.local().core;
    for value in ["one", "two", "three"] {
        put(&store, "k", value).await;
    }
    let mut follower = Follower::new(0);
    for revision in 1..=3 {
        let Ok(Next::Group(group)) = follower.next(&core.log()) else {
            panic!("it is kept")
        };
        assert_eq!(group.last_revision(), revision);
        // The frames in the new file stand behind the records, and so elsewhere than before.
        store.fed_sled();
        store.local().rewrite().await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_was_written_anew_makes_the_view_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = Options {
        journal_keep_bytes: 0,
        ..Options::default()
    };
    let store = Store::open(&path, &options).unwrap();
    fill(&store, 600).await;
    store.fed_sled();
    store.local().rewrite().await.unwrap();
    assert_eq!(
        records_and_journal(&store),
        (600, 0),
        "what the records cover goes"
    );
    put(&store, "k0000", "changed").await;
    put(&store, "new", "one").await;
    let before = content(&store);
    store.close().unwrap();
    std::fs::remove_dir_all(view_dir(&path)).unwrap();
    let store = opened(&path);
    assert_eq!((store.revision(), content(&store) == before), (602, true));
    store.fed_sled();
    store.local().rewrite().await.unwrap();
    // What is kept by default.
    let (records, journal) = records_and_journal(&store);
    assert!(
        records == 602 && (100..1000).contains(&journal),
        "{records} {journal}"
    );
    store.close().unwrap();
    let store = opened(&path);
    assert_eq!((store.revision(), content(&store) == before), (602, true));
    assert!(!path.with_extension("new").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_written_anew_is_exact_though_writes_go_on() {
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
    // Each file is read back and compared with the state hash before it is used.
    for _ in 0..5 {
        store.local().rewrite().await.unwrap();
    }
    writing.await.unwrap();
    let before = content(&store);
    Arc::into_inner(store).unwrap().close().unwrap();
    std::fs::remove_dir_all(view_dir(&path)).unwrap();
    assert!(content(&opened(&path)) == before);
}

#[tokio::test]
async fn a_file_whose_journal_outgrows_its_records_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        rewrite_floor_bytes: 1 << 20,
        ..Options::default()
    };
    let store = Store::open(&dir.path().join("store"), &options).unwrap();
    fill(&store, 64).await;
    for _ in 0..100 {
        if records_and_journal(&store).0 > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it was not");
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
    // Another process, with the right clock.
    let store = opened(&path);
    assert!(store.now_ms() >= future);
    store.local().rewrite().await.unwrap();
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
    std::fs::remove_dir_all(view_dir(&path)).unwrap();
    let cancelled = Arc::new(AtomicBool::new(true));
    assert_eq!(
        Store::open_unless(cancelled, &path, &Options::default()).err(),
        Some(OpenError::Store(Error::Closed))
    );
    assert_eq!(content(&opened(&path)).len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_whole_though_the_file_is_written_anew_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        journal_room_bytes: 64 << 10,
        journal_keep_bytes: 0,
        rewrite_floor_bytes: u64::MAX / 2,
        ..Options::default()
    };
    let store = Store::open(&dir.path().join("store"), &options).unwrap();
    let write = async |n: u32| {
        let batch = Batch::default().put(format!("k{n}"), vec![b'v'; 4000]);
        store.commit(batch).await.unwrap();
    };
    for n in 0..600 {
        write(n).await;
    }
    let mut snapshot = Vec::new();
    let made = tokio::task::block_in_place(|| {
        store.local().snapshot(|chunk| {
            // After the first of several chunks, everything is written again, and the file is written anew twice.
            if snapshot.is_empty() {
                tokio::runtime::Handle::current().block_on(async {
                    for n in 0..600 {
                        write(n).await;
                        if n == 300 {
                            store.local().rewrite().await.unwrap();
                        }
                    }
                    store.local().rewrite().await.unwrap();
                });
            }
            snapshot.extend_from_slice(&chunk);
            Ok(())
        })
    });
    let made = made.unwrap();
    assert_eq!((made.revision, made.bytes), (1200, snapshot.len() as u64));
    let file = dir.path().join("snapshot");
    std::fs::write(&file, snapshot).unwrap();
    assert_eq!(verify_file(&file).unwrap().revision, 1200);
    let restored = dir.path().join("restored");
    assert_eq!(restore(&file, &restored, None, Until::End).unwrap(), 1200);
    let restored = opened(&restored);
    assert!(restored.content().unwrap() == store.content().unwrap());
}

#[tokio::test]
async fn a_torn_tail_is_removed_however_long_it_is() {
    const TORN: usize = 5 << 19;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    put(&store, "k", "v").await;
    let end = usize::try_from(store.local().core.log().end().offset).unwrap();
    store.abandon();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.resize(end, 0);
    bytes.resize(end + TORN, 0x5a);
    std::fs::write(&path, bytes).unwrap();

    let store = opened(&path);
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes[end..].iter().all(|&byte| byte == 0));
    assert_eq!(bytes.len(), end + TORN, "it takes no room on the disk");
    assert_eq!(put(&store, "l", "w").await, 2);
    store.abandon();
    assert_eq!(content(&opened(&path)), pairs(&[("k", "v"), ("l", "w")]));
}
