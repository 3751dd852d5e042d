//! Who may open a store, under which names, and what counts as a store.

use super::*;

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
    // Like a process between its fork and its exec.
    let forked = store.local().core.clone();
    store.close().unwrap();
    opened(&path).close().unwrap();
    drop(forked);
}

#[tokio::test]
async fn a_second_open_is_refused_through_every_name_and_while_the_file_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Arc::new(opened(&path));
    fill(&store, 100).await;
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let rewriting = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..20 {
                store.local().rewrite().await.unwrap();
            }
        }
    });
    let mut tries = 0;
    while !rewriting.is_finished() || tries == 0 {
        for name in [&path, &link] {
            let again = open(name);
            assert!(matches!(again, Err(OpenError::Locked { .. })), "{again:?}");
        }
        tries += 1;
        tokio::task::yield_now().await;
    }
    rewriting.await.unwrap();
    Arc::into_inner(store).unwrap().close().unwrap();
    // This name would keep the old file when the store is written anew.
    std::fs::hard_link(&path, dir.path().join("hard")).unwrap();
    let named_twice = open(&path);
    assert!(
        matches!(named_twice, Err(OpenError::Foreign { .. })),
        "{named_twice:?}"
    );
    std::fs::remove_file(dir.path().join("hard")).unwrap();
    let store = opened(&link);
    store.local().rewrite().await.unwrap();
    store.close().unwrap();
    assert!(link.is_symlink());
    assert_eq!(content(&opened(&path)).len(), 100);
}

#[tokio::test]
async fn missing_directories_are_made_and_a_link_to_nothing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (link, nothing) = (dir.path().join("link"), dir.path().join("nothing"));
    std::os::unix::fs::symlink(&nothing, &link).unwrap();
    let refused = open(&link);
    let is_told = matches!(&refused, Err(OpenError::Store(Error::Io { .. })));
    assert!(is_told, "{refused:?}");
    assert!(link.is_symlink() && !nothing.exists());
    opened(&dir.path().join("some/where/store"))
        .close()
        .unwrap();
}

#[tokio::test]
async fn what_is_newer_older_or_foreign_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    opened(&path).close().unwrap();
    let mut newer = std::fs::read(&path).unwrap();
    newer[8] += 1;
    let crc = crc32c::crc32c(&newer[..36]).to_le_bytes();
    newer[36..40].copy_from_slice(&crc);
    std::fs::write(&path, &newer).unwrap();
    assert_eq!(
        open(&path).unwrap_err(),
        OpenError::NewerFormat {
            found: 5,
            supported: 4
        }
    );
    assert!(std::fs::read(&path).unwrap() == newer);

    let foreign = dir.path().join("thesis.tex");
    std::fs::write(&foreign, "\\documentclass{article}").unwrap();
    assert!(matches!(open(&foreign), Err(OpenError::Foreign { .. })));
    assert!(!view_dir(&foreign).exists());
    let Err(OpenError::Foreign { reason }) = open(dir.path()) else {
        panic!("it was opened")
    };
    assert!(reason.contains("name a file"), "{reason}");
    std::fs::write(dir.path().join("FORMAT"), "icebox store, format 2\n").unwrap();
    let Err(OpenError::Foreign { reason }) = open(dir.path()) else {
        panic!("it was opened")
    };
    assert!(reason.contains("export it"), "{reason}");
}

#[tokio::test]
async fn the_view_may_be_elsewhere_and_takes_nobody_elses_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let elsewhere = |name: &str| Options {
        view: Some(dir.path().join(name)),
        ..Options::default()
    };
    let store = Store::open(&path, &elsewhere("view")).unwrap();
    put(&store, "k", "v").await;
    let other = Store::open(&dir.path().join("other"), &elsewhere("view"));
    assert!(matches!(other, Err(OpenError::Locked { .. })), "{other:?}");
    store.close().unwrap();
    assert!(!view_dir(&path).exists());
    let thesis = dir.path().join("home/2024");
    std::fs::create_dir_all(&thesis).unwrap();
    let taken = Store::open(&path, &elsewhere("home"));
    assert!(matches!(taken, Err(OpenError::Foreign { .. })), "{taken:?}");
    assert!(thesis.exists());
    // A view of another store is made again.
    opened(&dir.path().join("another")).close().unwrap();
    let other = Store::open(&dir.path().join("another"), &elsewhere("view")).unwrap();
    assert_eq!(content(&other), []);
    other.close().unwrap();
    let store = Store::open(&path, &elsewhere("view")).unwrap();
    assert_eq!(content(&store), pairs(&[("k", "v")]));
}

#[tokio::test]
async fn a_file_that_is_lost_while_its_view_is_there_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    put(&store, "k", "v").await;
    store.close().unwrap();
    let whole = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let told = || matches!(open(&path), Err(OpenError::Store(Error::Corrupt { .. })));
    assert!(told(), "it is missing");
    assert!(told(), "it is missing still");
    std::fs::write(&path, "").unwrap();
    assert!(told(), "it is empty");
    std::fs::write(&path, whole).unwrap();
    assert_eq!(content(&opened(&path)), pairs(&[("k", "v")]));
}
