//! Snapshots and stores as files: the command makes, checks and restores them.

use super::{DATA, icebox, printed, refused};
use crate::harness::child::ChildServer;

#[test]
fn a_snapshot_of_a_running_server_is_restored_to_the_same_catalog() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let server = ChildServer::start(&dir.path().join("store"));
    let sample = format!("{DATA}/backups-list.json");
    printed(&server, &["import", &sample], "");
    let file = path("icebox.snapshot");
    printed(&server, &["snapshot", "--out", &file], "");
    let exported = printed(&server, &["export", "--project", "-"], "");
    let said = printed(&server, &["verify", &file], "");
    assert!(said.contains("is whole: revision 2"), "{said}");

    printed(
        &server,
        &["restore", &file, "--store", &path("restored")],
        "",
    );
    let said = printed(&server, &["verify", &path("restored")], "");
    assert!(said.contains("is whole: revision 2"), "{said}");
    let said = refused(
        &server,
        1,
        &["restore", &file, "--store", &path("restored")],
        "",
    );
    assert!(said.contains("is there already"), "{said}");
    // A restored store, a snapshot used directly, and a copy of a store that was stopped.
    let restored = ChildServer::start(&dir.path().join("restored"));
    let all = ["export", "--project", "-"];
    assert_eq!(printed(&restored, &all, ""), exported);
    assert!(restored.terminate().success());
    std::fs::copy(path("icebox.snapshot"), path("served.db")).unwrap();
    std::fs::copy(path("restored"), path("copied.db")).unwrap();
    for name in ["served.db", "copied.db"] {
        let as_it_is = ChildServer::start(&dir.path().join(name));
        assert_eq!(printed(&as_it_is, &all, ""), exported, "{name}");
        assert!(as_it_is.terminate().success());
        let said = printed(&server, &["verify", &path(name)], "");
        assert!(said.contains("2 backups, 0 jobs"), "{name}: {said}");
    }

    let said = refused(&server, 1, &["verify", &path("store")], "");
    assert!(said.contains("in use by process"), "{said}");
    let said = refused(&server, 1, &["verify", &path("nowhere")], "");
    assert!(said.contains("is not there"), "{said}");
    let said = refused(&server, 1, &["verify", &sample], "");
    assert!(said.contains("this is not an Icebox store"), "{said}");
    let mut damaged = std::fs::read(&file).unwrap();
    damaged[1500] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    let said = refused(&server, 1, &["verify", &file], "");
    assert!(said.contains("damaged"), "{said}");
    let said = refused(
        &server,
        1,
        &["restore", &file, "--store", &path("other")],
        "",
    );
    assert!(
        said.contains("damaged") && !dir.path().join("other").exists(),
        "{said}"
    );
}

/// Every file below a directory with its content.
fn files_in(dir: &std::path::Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut files = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_in(&path));
        } else {
            files.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    files
}

#[test]
fn verify_says_what_is_damaged_and_what_heals_it_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store_dir = dir.path().join("served");
    let store = store_dir.join("icebox.db");
    let server = ChildServer::start(&store);
    for file in ["jobs-list.json", "backups-list.json"] {
        let file = format!("{DATA}/{file}");
        printed(&server, &["import", "--into-project", "demo", &file], "");
    }
    let other = ChildServer::start(&dir.path().join("other"));
    assert!(server.terminate().success());
    let path = store.to_str().unwrap();
    let whole = files_in(&store_dir);
    let said = printed(&other, &["verify", path], "");
    assert!(
        said.contains("is whole: revision 3, 2 backups, 1 job, "),
        "{said}"
    );
    assert_eq!(files_in(&store_dir), whole, "it only reads");

    // In the middle of a key, wherever sled has put it.
    let view = whole.keys().find(|path| path.ends_with("db")).unwrap();
    let mut damaged = whole[view].clone();
    let name = b"freezer_mysql_backup";
    for at in 0..damaged.len() - name.len() {
        if damaged[at..].starts_with(name) {
            damaged[at] ^= 1;
        }
    }
    std::fs::write(view, &damaged).unwrap();
    let output = icebox(&other, &["verify", path], "");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the next start makes it anew"), "{said}");
    assert_eq!(std::fs::read(view).unwrap(), damaged, "it only reads");
    std::fs::write(view, &whole[view]).unwrap();

    let mut damaged = whole[&store].clone();
    damaged[20] ^= 1;
    std::fs::write(&store, &damaged).unwrap();
    let said = refused(&other, 1, &["verify", path], "");
    assert!(
        said.contains("the header of icebox.db is damaged"),
        "{said}"
    );

    // In the first of two frames: the second one is still whole.
    let mut damaged = whole[&store].clone();
    damaged[1024 + 100 + 100] ^= 1;
    std::fs::write(&store, &damaged).unwrap();
    std::fs::remove_dir_all(store_dir.join("icebox.db.view")).unwrap();
    let output = icebox(&other, &["verify", path], "");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("nothing heals it") && said.contains("icebox export --store"),
        "{said}"
    );
    let export = [
        "export",
        "backups",
        "--store",
        path,
        "--project",
        "-",
        "-o",
        "jsonl",
    ];
    let output = icebox(&other, &export, "");
    let left = String::from_utf8(output.stdout).unwrap();
    let warned = String::from_utf8(output.stderr).unwrap();
    assert!(warned.contains("damaged"), "{warned}");
    assert!((1..=2).contains(&left.lines().count()), "{left}");
    assert!(left.contains("freezer_mysql_backup"), "{left}");
}
