//! What is told of a store that no server runs on, without touching it.

use super::*;
use crate::store::{examine, has_view};

/// Copies the only view of a store to a directory.
fn keep_view(path: &Path, copy: &Path) {
    std::fs::create_dir(copy).unwrap();
    for file in std::fs::read_dir(only_view(path)).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
    }
}

/// Puts a copy of the view in its place.
fn put_back(copy: &Path, path: &Path) {
    let view = only_view(path);
    for file in std::fs::read_dir(copy).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), view.join(file.file_name())).unwrap();
    }
}

/// What is found in a store at revision 2 with one key, if anything.
fn found(path: &Path) -> Vec<String> {
    let before = std::fs::read(path).unwrap();
    let examined = examine(path, None).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), before, "it was not touched");
    assert_eq!(examined.revision, 2);
    let entry = examined.get(b"k").unwrap().unwrap();
    assert_eq!((&*entry.value, entry.revision), (&b"two"[..], 2));
    let findings = examined.findings.into_iter();
    findings
        .map(|finding| format!("{}: {}", finding.what, finding.cure))
        .collect()
}

/// A store with two commits. The view as it was between them is kept in `older`.
async fn store(path: &Path, older: &Path) -> Store {
    let store = opened(path);
    put(&store, "k", "one").await;
    store.close().unwrap();
    keep_view(path, older);
    let store = opened(path);
    put(&store, "k", "two").await;
    store
}

#[tokio::test]
async fn nothing_is_found_in_a_store_that_is_whole() {
    for (is_closed, keeps_view) in [(true, true), (true, false), (false, true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = store(&path, &dir.path().join("older")).await;
        if is_closed {
            store.close().unwrap();
        } else {
            store.abandon();
        }
        if !keeps_view {
            std::fs::remove_dir_all(view_dir(&path)).unwrap();
        }
        assert_eq!(has_view(&path, None), Ok(keeps_view));
        let nothing = Vec::<String>::new();
        assert_eq!(found(&path), nothing, "{is_closed} {keeps_view}");
    }
}

#[tokio::test]
async fn an_older_view_is_told_only_if_the_store_was_closed() {
    for is_closed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (path, older) = (dir.path().join("store"), dir.path().join("older"));
        let store = store(&path, &older).await;
        if is_closed {
            store.close().unwrap();
        } else {
            store.abandon();
        }
        put_back(&older, &path);
        let found = found(&path);
        if is_closed {
            let [only] = &found[..] else {
                panic!("{found:?}")
            };
            assert!(
                only.contains("was closed at revision 2 and shows revision 1"),
                "{only}"
            );
            assert!(only.contains("the next start makes it anew"), "{only}");
        } else {
            assert_eq!(found, Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn a_view_that_lost_something_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = store(&path, &dir.path().join("older")).await;
    store.close().unwrap();
    let view = Sled::open(&only_view(&path), 8 << 20).unwrap();
    view.lose(b"k").unwrap();
    view.flush().unwrap();
    drop(view);
    let found = found(&path);
    let [only] = &found[..] else {
        panic!("{found:?}")
    };
    assert!(only.contains("does not hold what was written"), "{only}");
}

#[tokio::test]
async fn a_file_that_lost_what_the_view_has_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    put(&store, "k", "two").await;
    put(&store, "k", "two").await;
    let before = std::fs::read(&path).unwrap();
    put(&store, "k", "three").await;
    store.close().unwrap();
    std::fs::write(&path, before).unwrap();
    let found = found(&path);
    assert!(!found.is_empty());
    assert!(
        found
            .iter()
            .all(|found| found.contains("restore a snapshot")),
        "{found:?}"
    );
}
