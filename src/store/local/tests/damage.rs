//! Damage anywhere in the file is reported, repaired or harmless.

use super::*;

/// The file of a closed store, up to the end of its last frame. Its records are of revision 3; its journal starts before that and
/// ends at 6.
async fn small_file(path: &Path) -> Vec<u8> {
    let store = opened(path);
    for value in ["one", "two", "three"] {
        put(&store, "k1", value).await;
    }
    while store.view.fed() != store.view.shown() {
        tokio::task::yield_now().await;
    }
    store.local().rewrite().await.unwrap();
    put(&store, "k2", "four").await;
    put(&store, "k2", "five").await;
    put(&store, "k3", "six").await;
    store.close().unwrap();
    std::fs::remove_dir_all(view_dir(path)).unwrap();
    let mut whole = std::fs::read(path).unwrap();
    whole.truncate(whole.iter().rposition(|&byte| byte != 0).unwrap() + 1);
    whole
}

/// Checks that a file is refused, or holds everything that it held.
fn is_told_or_harmless(path: &Path, bytes: &[u8], what: impl std::fmt::Display) {
    let _ = std::fs::remove_dir_all(view_dir(path));
    std::fs::write(path, bytes).unwrap();
    if let Ok(store) = open(path) {
        let all = pairs(&[("k1", "three"), ("k2", "five"), ("k3", "six")]);
        assert_eq!((store.revision(), content(&store)), (6, all), "{what}");
    }
}

#[tokio::test]
async fn a_bit_flipped_anywhere_in_the_file_of_a_closed_store_is_told_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    // The view is removed, because it would tell how far the store had come.
    let whole = small_file(&path).await;
    for bit in 0..whole.len() * 8 {
        // Nobody reads the rest of the header's sectors.
        if (64 * 8..500 * 8).contains(&bit) || (540 * 8..1024 * 8).contains(&bit) {
            continue;
        }
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        is_told_or_harmless(&path, &damaged, format_args!("bit {bit}"));
    }
}

#[tokio::test]
async fn a_file_cut_anywhere_is_told_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let whole = small_file(&path).await;
    // An empty file is a new store.
    for len in 1..whole.len() {
        is_told_or_harmless(&path, &whole[..len], format_args!("length {len}"));
    }
}

#[tokio::test]
async fn a_journal_that_lost_what_the_view_has_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    put(&store, "k", "v").await;
    let before = std::fs::read(&path).unwrap();
    put(&store, "k", "w").await;
    store.close().unwrap();
    std::fs::write(&path, before).unwrap();
    assert!(matches!(
        open(&path),
        Err(OpenError::Store(Error::Corrupt { .. }))
    ));
}

#[tokio::test]
async fn damaged_records_are_told_with_the_view_and_without() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = Options {
        journal_keep_bytes: 0,
        ..Options::default()
    };
    let store = Store::open(&path, &options).unwrap();
    fill(&store, 300).await;
    store.fed_sled();
    store.local().rewrite().await.unwrap();
    put(&store, "new", "one").await;
    store.close().unwrap();
    let flip = |at: usize| {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    // In the second record, once in its value and once before it.
    for at in [100_000, 66_585 + 9] {
        flip(at);
        for aside in [false, true] {
            if aside {
                std::fs::rename(view_dir(&path), dir.path().join("aside")).unwrap();
            }
            let Err(OpenError::Store(Error::Corrupt { what })) = open(&path) else {
                panic!("it was opened")
            };
            assert!(what.contains("store is damaged at byte 66585"), "{what}");
        }
        let _ = std::fs::remove_dir_all(view_dir(&path));
        std::fs::rename(dir.path().join("aside"), view_dir(&path)).unwrap();
        flip(at);
    }
    assert_eq!(opened(&path).content().unwrap().len(), 301);
}

#[tokio::test]
async fn a_value_that_is_damaged_while_the_store_is_open_is_told_and_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    fill(&store, 3).await;
    store.fed_sled();
    let mut bytes = std::fs::read(&path).unwrap();
    // Ids and checksums may have such a byte, too.
    let at = bytes
        .windows(32)
        .position(|bytes| bytes == [7; 32])
        .unwrap()
        + 100;
    bytes[at] ^= 1;
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(&path).unwrap(),
        &bytes[at..=at],
        at as u64,
    )
    .unwrap();
    assert!(matches!(
        store.view.patiently().get(b"k0000"),
        Err(Error::Corrupt { .. })
    ));
    assert_eq!(
        store
            .view
            .patiently()
            .get(b"k0001")
            .unwrap()
            .unwrap()
            .value
            .len(),
        64 << 10
    );
    // Nothing can repair it, so that nothing more is written to this disk.
    for _ in 0..200 {
        if store.condition().borrow().stopped.is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it goes on");
}

#[tokio::test]
async fn what_the_store_had_reached_is_told_without_the_view() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    put(&store, "k", "v").await;
    let before = std::fs::read(&path).unwrap();
    put(&store, "k", "w").await;
    store.close().unwrap();
    std::fs::remove_dir_all(view_dir(&path)).unwrap();
    let closed = std::fs::read(&path).unwrap();
    let lost = [&closed[..1024], &before[1024..]].concat();
    std::fs::write(&path, lost).unwrap();
    assert!(matches!(
        open(&path),
        Err(OpenError::Store(Error::Corrupt { .. }))
    ));
}

#[tokio::test]
async fn what_is_lost_of_a_damaged_file_is_told_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let whole = small_file(&path).await;
    let frames: Vec<_> = whole
        .windows(4)
        .enumerate()
        .filter(|(_, magic)| magic == b"IBXF")
        .map(|(at, _)| at)
        .collect();
    let lost = |at: usize| -> Vec<String> {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let examined = examine(&path, None).unwrap();
        examined
            .findings
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    };
    let only = |what: &[String]| what.get(1..).unwrap_or_default().concat();
    // The first three are covered by the records.
    let told: Vec<_> = frames.iter().map(|at| only(&lost(at + 40))).collect();
    let expected = [
        "",
        "",
        "",
        "revisions 4 to 4 are lost",
        "revisions 5 to 5 are lost",
        "",
    ];
    assert_eq!(told, expected, "of {frames:?}");
    assert_eq!(
        only(&lost(1030)),
        "what comes behind the first 0 records is lost"
    );
}
