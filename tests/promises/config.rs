//! Promise: the command line counts first for a setting of the server, then the environment, then a file. `icebox config print`
//! shows the value and its origin. Everything that is wrong in a file is reported, and nothing starts.

use std::{fs, path::Path, process::Command};

/// The standard output, the standard error and the exit status of `icebox` with these arguments and this file.
fn icebox(arguments: &[&str], file: &Path, environment: &[(&str, &str)]) -> (String, String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_icebox"))
        .args(arguments)
        .arg("--config")
        .arg(file)
        .envs(environment.iter().copied())
        .output()
        .expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let status = output.status.code().expect("it ends by itself");
    (text(&output.stdout), text(&output.stderr), status)
}

#[test]
fn the_command_line_counts_most_then_the_environment_then_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("icebox.toml");
    fs::write(
        &file,
        "listen = \"unix:/run/icebox.sock\"\ncache_mib = 64\ncalls_max = 7\ninsecure = true\n",
    )
    .unwrap();
    let (printed, said, status) = icebox(
        &["config", "print", "--calls-max", "3"],
        &file,
        &[("ICEBOX_CACHE_MIB", "32"), ("ICEBOX_CALLS_MAX", "5")],
    );
    assert_eq!((&*said, status), ("", 0));
    let line = |start: &str| {
        let mut lines = printed.lines().filter(|line| line.starts_with(start));
        let (value, origin) = lines.next().unwrap().split_once('#').unwrap();
        (value.trim().to_owned(), origin.trim().to_owned())
    };
    let is = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    let from_file = file.display().to_string();
    assert_eq!(
        line("listen"),
        is("listen = \"unix:/run/icebox.sock\"", &from_file)
    );
    assert_eq!(line("cache_mib"), is("cache_mib = 32", "ICEBOX_CACHE_MIB"));
    assert_eq!(line("calls_max"), is("calls_max = 3", "the command line"));
    assert_eq!(line("insecure"), is("insecure = true", &from_file));
    assert_eq!(line("streams_max"), is("streams_max = 10240", "default"));
    assert!(printed.contains("# tokens is not set"), "{printed}");

    // The output is such a file itself, and with it everything is the same.
    let again = dir.path().join("again.toml");
    fs::write(&again, &printed).unwrap();
    let (reprinted, _, _) = icebox(&["config", "print"], &again, &[]);
    let values = |text: &str| -> Vec<String> {
        let values = text.lines().map(|line| line.split('#').next().unwrap());
        values.map(|value| value.trim().to_owned()).collect()
    };
    assert_eq!(values(&printed), values(&reprinted));
}

#[test]
fn all_that_is_wrong_in_a_file_is_told_and_nothing_starts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("icebox.toml");
    let store = dir.path().join("icebox.db");
    let serve = ["serve", "--store", store.to_str().unwrap()];
    for (text, expected) in [
        (
            "cache_mb = 3\ninsecure = 1\ntls_cert = true\nfruit = 1",
            &[
                "icebox.toml: ",
                "no setting cache_mb: is cache_mib meant?",
                "insecure must be true or false",
                "tls_cert must be a text or a number",
                "no setting fruit;",
            ][..],
        ),
        ("config = \"other.toml\"", &["no setting config"]),
        ("a = 1\ncache_mib = \n", &["icebox.toml: line 2: "]),
        (
            "cache_mib = 3",
            &["icebox.toml are refused", "--cache-mib", "is not in 8.."],
        ),
        (
            "tls_cert = \"c.pem\"",
            &["icebox.toml are refused", "--tls-key"],
        ),
        ("request_timeout_ms = 0", &["--request-timeout-ms"]),
    ] {
        fs::write(&file, text).unwrap();
        let (_, said, status) = icebox(&serve, &file, &[]);
        assert_eq!(status, 2, "{text}: {said}");
        for what in expected {
            let what = what.trim_end_matches(';');
            assert!(said.contains(what), "{text}: {said}");
        }
    }
    let (_, said, status) = icebox(&serve, &dir.path().join("none.toml"), &[]);
    assert!(status == 2 && said.contains("none.toml"), "{said}");
    assert!(!store.exists());
}
