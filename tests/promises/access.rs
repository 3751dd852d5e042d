//! Promise: a server with tokens serves those who have one, tells others no more than that they need one, and accepts a new file of
//! tokens without disconnecting anybody.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use crate::harness::child::ChildServer;

/// The text that no log may contain.
const SECRET: &str = "a-planted-secret-of-whoever";

fn icebox(arguments: &[&str], token: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_icebox"));
    command.args(arguments).env_remove("ICEBOX_TOKEN");
    if let Some(token) = token {
        command.env("ICEBOX_TOKEN", token);
    }
    command.output().expect("the binary runs")
}

/// Makes a token, and adds its entry to a file.
fn new_token(file: &Path, who: &[&str]) -> String {
    let made = icebox(&[&["token", "new"], who].concat(), None);
    let said = String::from_utf8(made.stderr).expect("text");
    assert!(made.status.success(), "{said}");
    let before = fs::read_to_string(file).unwrap_or_default();
    let entry = String::from_utf8(made.stdout).expect("text");
    assert!(!entry.contains(said.trim()), "only its hash");
    fs::write(file, before + &entry).expect("room");
    said.trim().to_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn those_who_have_a_token_are_served_and_others_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens.toml");
    let admin = new_token(&tokens, &["--role", "admin", "--user-id", "root"]);
    let reader = new_token(
        &tokens,
        &[
            "--role",
            "reader",
            "--user-id",
            "alice",
            "--project",
            "demo",
        ],
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_icebox"));
    command.env("ICEBOX_TOKENS", &tokens);
    let server = ChildServer::start_as(command, &dir.path().join("icebox.db"));
    let list = |project: &str, token: Option<&str>| {
        let list = ["backups", "list", "--project", project];
        icebox(
            &[&list[..], &["--server", server.address()]].concat(),
            token,
        )
    };
    assert!(list("-", Some(&admin)).status.success());
    assert!(list("demo", Some(&reader)).status.success());
    let foreign = list("other", Some(&reader));
    assert!(
        said(&foreign).contains("project other is not yours"),
        "{}",
        said(&foreign)
    );
    let nobody = list("demo", None);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said(&nobody).contains("Send a token"), "{}", said(&nobody));
    let unknown = list("demo", Some("whatever"));
    assert!(
        said(&unknown).contains("is not known here"),
        "{}",
        said(&unknown)
    );

    // A wrong file changes nothing.
    let good = fs::read_to_string(&tokens).unwrap();
    fs::write(&tokens, good.replace("sha256", "sha512")).unwrap();
    server.hang_up();
    std::thread::sleep(Duration::from_millis(300));
    assert!(list("demo", Some(&reader)).status.success());
    // A right file does, while the server goes on.
    fs::write(&tokens, "").unwrap();
    let member = new_token(
        &tokens,
        &["--role", "member", "--user-id", "bob", "--project", "demo"],
    );
    server.hang_up();
    for _ in 0..100 {
        if list("demo", Some(&member)).status.success() {
            assert!(!list("demo", Some(&reader)).status.success());
            assert!(server.terminate().success());
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the tokens were not read again");
}

#[test]
fn a_token_goes_nowhere_where_others_can_read_it_and_into_no_log() {
    let over_plain_text = icebox(
        &[
            "backups",
            "list",
            "--project",
            "p",
            "--server",
            "icebox.example.org:50051",
        ],
        Some(SECRET),
    );
    assert_eq!(over_plain_text.status.code(), Some(2));
    let refused = said(&over_plain_text);
    assert!(
        refused.contains("https://") && !refused.contains(SECRET),
        "{refused}"
    );

    let dir = tempfile::tempdir().unwrap();
    let (tokens, log) = (dir.path().join("tokens.toml"), dir.path().join("log"));
    let admin = new_token(&tokens, &["--role", "admin", "--user-id", "root"]);
    let mut server = Command::new(env!("CARGO_BIN_EXE_icebox"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--cache-mib",
            "16",
            "--store",
        ])
        .arg(dir.path().join("icebox.db"))
        .arg("--tokens")
        .arg(&tokens)
        .env("ICEBOX_LOG", "trace")
        .stderr(fs::File::create(&log).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let address = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        let text = fs::read_to_string(&log).unwrap();
        let first: serde_json::Value = serde_json::from_str(text.lines().next()?).ok()?;
        Some(first["fields"]["address"].as_str()?.to_owned())
    });
    let address = address.expect("it listens");
    let get = |token: &str| {
        let id = "0123456789abcdef0123456789abcdef";
        icebox(
            &["backups", "get", id, "--project", "p", "--server", &address],
            Some(token),
        )
    };
    assert!(
        said(&get(&admin)).contains("has no backup"),
        "{}",
        said(&get(&admin))
    );
    assert!(said(&get(SECRET)).contains("is not known here"));
    let _ = server.kill();
    server.wait().unwrap();
    let text = fs::read_to_string(&log).unwrap();
    assert!(
        text.contains("\"caller\":\"root\""),
        "it says who has called"
    );
    for secret in [&*admin, SECRET] {
        assert!(!text.contains(secret), "a token is in the log");
    }
}
