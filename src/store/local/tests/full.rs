//! A disk that is full, or slow to answer.

use super::*;

#[tokio::test]
async fn a_file_that_cannot_be_written_anew_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let disk = Arc::new(disk::full::FullDisk::new(dir.path()));
    let store = open_on(&disk, &path, &Options::default());
    fill(&store, 20).await;
    disk.set_full(true);
    let refused = store.local().rewrite().await;
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    assert!(!path.with_extension("new").exists(), "it keeps no room");
    disk.set_full(false);
    put(&store, "k", "v").await;
    store.local().rewrite().await.unwrap();
    store.close().unwrap();
    assert_eq!(content(&opened(&path)).len(), 21);
}

/// The paths of a store, and the disk that they are on, which can be full.
pub(super) fn paths_and_disk(dir: &tempfile::TempDir) -> (Paths, Arc<disk::full::FullDisk>) {
    let paths = Paths::of(&dir.path().join("store")).unwrap();
    (paths, Arc::new(disk::full::FullDisk::new(dir.path())))
}

/// Opens a store on a disk that can be full.
fn open_on(disk: &Arc<disk::full::FullDisk>, path: &Path, options: &Options) -> Store {
    let paths = Paths::of(path).unwrap();
    Store::of(Local::open_on(Arc::default(), disk.clone(), paths, options).unwrap())
}

#[tokio::test]
async fn what_rests_on_a_write_that_the_full_disk_refused_shares_its_fate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let disk = Arc::new(disk::full::FullDisk::new(dir.path()));
    let options = Options {
        journal_room_bytes: 64 << 10,
        ..Options::default()
    };
    let store = open_on(&disk, &path, &options);
    put(&store, "k", "v").await;
    disk.set_full(true);
    // Too large for the room that is left, and small enough that others join the group.
    let deletes = (0..200).map(|_| {
        let value = vec![7; 70 << 10];
        store.commit(
            Batch::default()
                .expect("k", Some(1))
                .delete("k")
                .put("big", value),
        )
    });
    for outcome in futures_util::future::join_all(deletes).await {
        assert!(matches!(outcome, Err(Error::Full { .. })), "{outcome:?}");
    }
    assert!(store.condition().borrow().full.is_some());
    assert!(!store.condition().borrow().is_well());
    assert_eq!(content(&store), pairs(&[("k", "v")]));
    disk.set_full(false);
    // Nothing of them may be left for those that follow.
    let batch = Batch::default()
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
    let disk = Arc::new(disk::full::FullDisk::new(dir.path()));
    let store = open_on(&disk, &path, &Options::default());
    let create = |key: &'static str| store.commit(Batch::default().expect(key, None).put(key, "v"));
    assert_eq!(create("k").await, Ok(Outcome::Committed(1)));
    disk.set_room(16 << 20);
    assert_eq!(create("l").await, Ok(Outcome::Committed(2)));
    disk.set_room(1 << 20);
    let refused = create("m").await;
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    assert!(store.condition().borrow().full.is_some());
    assert!(
        !path.with_extension("reserve").exists(),
        "the reserve is given up"
    );
    let delete = Batch::default().expect("k", Some(1)).delete("k");
    assert_eq!(store.commit(delete).await, Ok(Outcome::Committed(3)));
    let update = Batch::default().expect("l", Some(2)).put("l", "w");
    assert_eq!(store.commit(update).await, Ok(Outcome::Committed(4)));
    store.close().unwrap();

    let store = open_on(&disk, &path, &Options::default());
    assert_eq!(content(&store), pairs(&[("l", "w")]));
    disk.set_room(1 << 30);
    // Nobody writes; health must show it nevertheless.
    let mut condition = store.condition();
    let well = condition.wait_for(Condition::is_well);
    tokio::time::timeout(Duration::from_secs(20), well)
        .await
        .unwrap()
        .unwrap();
    let create = Batch::default().expect("m", None).put("m", "v");
    assert_eq!(store.commit(create).await, Ok(Outcome::Committed(5)));
    assert!(path.with_extension("reserve").exists());
}

#[tokio::test]
async fn a_read_that_would_wait_for_the_disk_is_made_on_a_thread_that_may() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(disk::full::FullDisk::new(dir.path()));
    let store = open_on(&disk, &dir.path().join("store"), &Options::default());
    fill(&store, 2).await;
    store.fed_sled();
    let read = async || {
        let read = store.read(Reach::Page, |view| {
            let found = view.get(b"k0001")?.expect("it is there");
            Ok::<_, Error>((found.value.len(), std::thread::current().id()))
        });
        read.await.unwrap()
    };
    let here = std::thread::current().id();
    assert_eq!(read().await, (64 << 10, here));
    disk.set_slow(true);
    let (len, there) = read().await;
    assert!(len == 64 << 10 && there != here, "{len} {there:?}");
}

#[test]
fn a_disk_that_is_nearly_full_gives_the_journal_a_part_of_its_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk::full::FullDisk::new(dir.path());
    let mut file = disk.open(Path::new("file")).unwrap();
    let mut reserve = || journal::reserve(&disk, &mut *file, 1000, 1 << 20);
    for (room, reserved) in [(1 << 30, 1 << 20), (2 << 20, 512 << 10), (0, 64 << 10)] {
        disk.set_room(room);
        assert_eq!(reserve(), Ok(1000 + reserved), "of {room} bytes");
    }
    disk.set_full(true);
    assert!(matches!(reserve(), Err(Error::Full { .. })));
}

#[tokio::test]
async fn there_must_be_room_to_spare_before_new_things_are_taken_again() {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let disk = Arc::new(disk::full::FullDisk::new(dir.path()));
    let store = open_on(&disk, &path, &Options::default());
    let reserve = path.with_extension("reserve");
    for (step, (room_bytes, takes_new, has_reserve)) in [
        (8 * MIB, true, true),
        (8 * MIB - 1, false, true),
        (10 * MIB - 1, false, true),
        (10 * MIB, true, true),
        (4 * MIB, false, true),
        (4 * MIB - 1, false, false),
        (10 * MIB, true, false),
        (16 * MIB - 1, true, false),
        (16 * MIB, true, true),
    ]
    .into_iter()
    .enumerate()
    {
        disk.set_room(room_bytes);
        let key = format!("k{step}");
        let create = Batch::default().expect(key.clone(), None).put(key, "v");
        let created = store.commit(create).await;
        assert_eq!(created.is_ok(), takes_new, "step {step}: {created:?}");
        assert_eq!(reserve.exists(), has_reserve, "step {step}");
    }
    store.close().unwrap();
    // An opening may need the room that is reserved.
    disk.set_room(15 * MIB);
    let _store = open_on(&disk, &path, &Options::default());
    assert!(!reserve.exists());
}
