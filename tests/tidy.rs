//! Promise: the text of this repository keeps the rules that a tool can check.

#![allow(clippy::unwrap_used, reason = "in a test, it asserts")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A line of this length fits beside another file on a screen.
const LINE_CHARS_MAX: usize = 140;
/// A file of this length still has one idea.
const SOURCE_LINES_MAX: usize = 600;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below these directories, and these files.
fn files(names: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut left: Vec<_> = names.iter().map(|name| repository().join(name)).collect();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            files.push(path);
        }
    }
    files
}

/// Every line of the repository's own text, with its place.
fn lines() -> Vec<(String, String)> {
    let all = [
        "src",
        "benches",
        "examples",
        "proto",
        "tests",
        ".ci",
        "build.rs",
        "Cargo.toml",
    ];
    let documents = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
    ];
    let mut lines = Vec::new();
    for file in files(&[&all[..], &documents].concat()) {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        // Freezer's own documents are left out, and so is this file, which must name what it looks for.
        let name = file
            .strip_prefix(repository())
            .unwrap()
            .display()
            .to_string();
        if !name.starts_with("tests/data") && name != "tests/tidy.rs" {
            lines.extend(
                text.lines()
                    .enumerate()
                    .map(|(n, line)| (format!("{name}:{}", n + 1), line.to_owned())),
            );
        }
    }
    assert!(lines.len() > 10_000, "this has looked at nothing");
    lines
}

#[test]
fn no_line_of_code_is_too_long() {
    let long: Vec<_> = lines()
        .into_iter()
        .filter(|(place, line)| {
            // Rows of tables and output of a console may have any length. rustfmt does not break strings.
            let is_text = place.contains(".md:") || line.trim_start().starts_with(['"', '|']);
            !is_text && !line.contains('"') && line.chars().count() > LINE_CHARS_MAX
        })
        .map(|(place, _)| place)
        .collect();
    assert_eq!(long, Vec::<String>::new());
}

#[test]
fn nothing_is_left_to_do_and_nothing_is_of_one_machine() {
    let told = [
        "TODO",
        "FIXME",
        "todo!(",
        "unimplemented!(",
        "/root/",
        "/home/",
    ];
    let found: Vec<_> = lines()
        .into_iter()
        // Freezer's own samples contain paths of homes.
        .filter(|(_, line)| !line.contains("/home/saad/") && !line.contains("/root/.freezer/"))
        .filter(|(_, line)| told.iter().any(|told| line.contains(told)))
        .map(|(place, line)| format!("{place}: {}", line.trim()))
        .collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn no_source_is_longer_than_one_idea() {
    let long: Vec<_> = files(&["src", "tests", "benches", "examples"])
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .filter(|file| fs::read_to_string(file).unwrap().lines().count() > SOURCE_LINES_MAX)
        .collect();
    assert_eq!(long, Vec::<PathBuf>::new());
}

#[test]
fn every_dependency_has_its_line() {
    let manifest: toml::Table = fs::read_to_string(repository().join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let architecture = fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap();
    let (_, table) = architecture.split_once("## Dependencies").unwrap();
    let named: Vec<_> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .collect();
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for name in manifest[kind].as_table().unwrap().keys() {
            let has_line = named
                .iter()
                .any(|line| line.split([',', ' ', '(']).any(|word| word == name));
            assert!(has_line, "{name} has no line in ARCHITECTURE.md");
        }
    }
}
