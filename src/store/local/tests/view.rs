//! A wrong, damaged or unfinished view is repaired, and a good one is kept.

use super::*;

fn sled_in(dir: &Path) -> Sled {
    Sled::open(dir, 8 << 20).unwrap()
}

#[tokio::test]
async fn a_view_that_lost_something_with_the_machine_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    put(&store, "k1", "one").await;
    put(&store, "k2", "two").await;
    store.close().unwrap();
    let view = sled_in(&only_view(&path));
    view.lose(b"k1").unwrap();
    view.flush().unwrap();
    assert_eq!(
        content(&opened(&path)),
        pairs(&[("k1", "one"), ("k2", "two")])
    );
}

#[tokio::test]
async fn a_view_that_turns_out_wrong_is_made_anew_while_the_store_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    put(&store, "k1", "one").await;
    put(&store, "k2", "two").await;
    store.fed_sled().lose(b"k1").unwrap();
    let mut condition = store.condition();
    condition.mark_unchanged();
    assert!(matches!(
        store.local().rewrite().await,
        Err(Error::Corrupt { .. })
    ));
    assert_eq!(content(&store), pairs(&[("k1", "one"), ("k2", "two")]));
    // It was told that the view is made anew, and then that it is well again.
    assert!(condition.has_changed().unwrap());
    assert!(condition.borrow().is_well());
    store.local().rewrite().await.unwrap();
    put(&store, "k3", "three").await;
    store.close().unwrap();
    assert_eq!(
        content(&opened(&path)),
        pairs(&[("k1", "one"), ("k2", "two"), ("k3", "three")])
    );
}

#[tokio::test]
async fn a_value_that_fails_its_checksum_heals_while_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir.path().join("store"));
    // So many that the first and the last are in different blocks.
    fill(&store, 100).await;
    put(&store, "k0000", "one").await;
    put(&store, "k0099", "two").await;
    store.fed_sled().damage(b"k0000");
    assert!(matches!(
        store.view.patiently().get(b"k0000"),
        Err(Error::Corrupt { .. })
    ));
    assert_eq!(
        store.view.patiently().get(b"k0099").unwrap().unwrap().value,
        "two"
    );
    for _ in 0..200 {
        if let Ok(Some(entry)) = store.view.patiently().get(b"k0000") {
            assert_eq!(entry.value, "one");
            store.local().rewrite().await.unwrap();
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it did not heal");
}

#[tokio::test]
async fn a_view_that_was_replaced_is_let_go_and_with_it_its_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&dir.path().join("store"));
    put(&store, "k1", "one").await;
    put(&store, "k2", "two").await;
    let replaced = Arc::downgrade(&store.fed_sled());
    store.fed_sled().lose(b"k1").unwrap();
    store.local().rewrite().await.unwrap_err();
    assert_eq!(content(&store), pairs(&[("k1", "one"), ("k2", "two")]));
    // Nobody writes, so that the committer is not the one that repairs it.
    for _ in 0..200 {
        if replaced.upgrade().is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("somebody still holds it");
}

#[tokio::test]
async fn a_view_that_was_being_made_when_the_process_ended_does_not_keep_its_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    put(&store, "k", "v").await;
    store.abandon();
    let second = only_view(&path).to_str().unwrap().replace("-1", "-2");
    sled_in(Path::new(&second)).flush().unwrap();
    let store = opened(&path);
    assert!(only_view(&path).to_str().unwrap().ends_with("-1"));
    assert_eq!(content(&store), pairs(&[("k", "v")]));
}

#[tokio::test]
async fn a_journal_whose_sums_were_made_from_a_wrong_view_is_healed_from_its_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    put(&store, "k1", "one").await;
    put(&store, "k2", "two").await;
    // Each opening finds it wrong again, until the file was written anew from what it really holds.
    store.fed_sled().lose(b"k1").unwrap();
    put(&store, "k1", "uno").await;
    store.abandon();
    let store = opened(&path);
    assert_eq!(content(&store), pairs(&[("k1", "uno"), ("k2", "two")]));
    put(&store, "k3", "three").await;
    store.local().rewrite().await.unwrap();
    store.verify().unwrap();
    store.close().unwrap();
    let store = opened(&path);
    store.verify().unwrap();
    assert_eq!(
        content(&store),
        pairs(&[("k1", "uno"), ("k2", "two"), ("k3", "three")])
    );
}

#[tokio::test]
async fn a_bit_flipped_anywhere_in_the_view_heals_or_is_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    fill(&store, 20).await;
    put(&store, "k0003", "changed").await;
    let before = content(&store);
    store.abandon();
    let mut seed = 7_u64;
    for _ in 0..40 {
        let file = only_view(&path).join("db");
        let whole = std::fs::read(&file).unwrap();
        let end = whole.iter().rposition(|&byte| byte != 0).unwrap();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = usize::try_from(seed >> 33).unwrap() % end;
        let mut flipped = whole;
        flipped[at] ^= 1 << (seed % 8);
        std::fs::write(&file, flipped).unwrap();
        let store = opened(&path);
        assert!(content(&store) == before, "byte {at}");
        store.abandon();
    }
}

#[tokio::test]
async fn a_view_that_was_trusted_at_opening_is_fed_and_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = opened(&path);
    put(&store, "k", "v").await;
    store.close().unwrap();
    let store = opened(&path);
    let trusted = store.view.sled().unwrap();
    put(&store, "k", "w").await;
    assert!(Arc::ptr_eq(&store.fed_sled(), &trusted));
    assert!(only_view(&path).to_str().unwrap().ends_with("-1"));
}
