//! Promise: this Icebox opens a store that an earlier one has written, with everything that it held.
//!
//! `tests/data/store-format-N/icebox.db` is a store as a killed server of that format left it. `expected.json` is what `icebox
//! export --project -` printed for it then.

use std::{fs, path::Path, process::Command};

use crate::harness::child::ChildServer;

/// The formats that this Icebox opens.
const FORMATS: &[u32] = &[3, 4];

fn exported(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_icebox"))
        .args(["export", "--project", "-"])
        .args(arguments)
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test]
async fn a_store_of_each_format_opens_with_all_that_it_held() {
    for format in FORMATS {
        let fixture = format!(
            "{}/tests/data/store-format-{format}",
            env!("CARGO_MANIFEST_DIR")
        );
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("icebox.db");
        fs::copy(Path::new(&fixture).join("icebox.db"), &store).unwrap();
        let expected = fs::read(Path::new(&fixture).join("expected.json")).unwrap();
        let mut expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        // What was added to Icebox later is not in it.
        for later in ["actions", "sessions", "clients"] {
            expected[later] = serde_json::json!([]);
        }
        // It is examined first, which changes nothing.
        assert_eq!(exported(&["--store", store.to_str().unwrap()]), expected);
        let server = ChildServer::start(&store);
        assert_eq!(exported(&["--server", server.address()]), expected);
        assert!(server.terminate().success());
        let server = ChildServer::start(&store);
        assert_eq!(exported(&["--server", server.address()]), expected);
    }
}
