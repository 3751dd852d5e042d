//! The rules for the fields of all resources. Each rule takes a field's path and value, and adds what is wrong.

mod extra;

use std::{fmt, ops::RangeInclusive};

pub(crate) use self::extra::{extra, extra_levels_fit};

use super::{
    Violations,
    limits::{ID_BYTES_MAX, RECORD_BYTES_MAX, STRING_BYTES_MAX},
};

/// A field's path. It is turned into text only if something is wrong with the field.
pub(crate) type Path<'a> = fmt::Arguments<'a>;

/// The last second of the year 9999, in seconds since the Unix epoch. Calendars in clients and servers end there.
pub(crate) const TIME_S_MAX: i64 = 253_402_300_799;

/// The most characters of a bad value that a message shows.
const SHOWN_CHARS_MAX: usize = 64;

/// Whether a character can change how text is shown: a control character, or one that changes the direction of what follows.
#[must_use]
pub(crate) fn is_steering(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// A required name: 1 to `bytes_max` bytes without control characters, which would break the lines of whoever prints it.
pub(crate) fn required_name(
    path: Path<'_>,
    value: &str,
    bytes_max: usize,
    violations: &mut Violations,
) {
    if value.is_empty() {
        violations.add(
            path.to_string(),
            format!("is required: 1 to {bytes_max} bytes"),
        );
    } else {
        name(path, value, bytes_max, violations);
    }
}

/// An optional name: at most `bytes_max` bytes without control characters.
pub(crate) fn name(path: Path<'_>, value: &str, bytes_max: usize, violations: &mut Violations) {
    at_most(path, value, bytes_max, violations);
    if let Some((at, control)) = value.char_indices().find(|(_, c)| is_steering(*c)) {
        violations.add(
            path.to_string(),
            format!("must be without control characters, but byte {at} starts {control:?}"),
        );
    }
}

/// Any other string: at most 4 KiB. Paths may hold any character but NUL, so that these strings may, too.
pub(crate) fn text(path: Path<'_>, value: &str, violations: &mut Violations) {
    at_most(path, value, STRING_BYTES_MAX, violations);
    if let Some(at) = value.find('\0') {
        violations.add(
            path.to_string(),
            format!("must be without NUL characters, but has one at byte {at}"),
        );
    }
}

/// Adds a string of more than `bytes_max` bytes. Returns whether it is short enough.
pub(crate) fn at_most(
    path: Path<'_>,
    value: &str,
    bytes_max: usize,
    violations: &mut Violations,
) -> bool {
    let fits = value.len() <= bytes_max;
    if !fits {
        violations.add(
            path.to_string(),
            format!("must be at most {bytes_max} bytes, not {}", value.len()),
        );
    }
    fits
}

/// A required Keystone id. Freezer API v2: `[\w-]+`, here only ASCII.
pub(crate) fn keystone_id(path: Path<'_>, value: &str, violations: &mut Violations) {
    if value.is_empty() || value.len() > ID_BYTES_MAX || !value.bytes().all(is_word) {
        violations.add(
            path.to_string(),
            format!(
                "must be 1 to {ID_BYTES_MAX} ASCII letters, digits, \"_\" and \"-\", not {}",
                measured(value, ID_BYTES_MAX)
            ),
        );
    }
}

/// A project's id: a Keystone id, but not "-", which means every project in lists.
pub(crate) fn project_id(path: Path<'_>, value: &str, violations: &mut Violations) {
    if value == "-" {
        violations.add(
            path.to_string(),
            "must be one project: \"-\" means every project, in lists only",
        );
    } else {
        keystone_id(path, value, violations);
    }
}

/// A client's id, if set. Freezer API v2: `[project_]hostname`.
pub(crate) fn client_id(path: Path<'_>, value: &str, violations: &mut Violations) {
    if !value.is_empty() && (value.len() > ID_BYTES_MAX || !is_client_id(value)) {
        violations.add(
            path.to_string(),
            format!(
                "must be [project_]hostname, as in \"node1.example.org\" or \"demo_node1\", of at most \
                 {ID_BYTES_MAX} bytes, not {}",
                measured(value, ID_BYTES_MAX)
            ),
        );
    }
}

fn is_client_id(value: &str) -> bool {
    // A hostname has no "_". So the last one ends the project, which may contain more of them.
    let host = match value.rsplit_once('_') {
        Some(("", _)) => return false,
        Some((project, _)) if !project.bytes().all(is_word) => return false,
        Some((_, host)) => host,
        None => value,
    };
    host.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// A resource's id, if set: 32 lowercase hex digits, a UUID as Freezer writes it.
pub(crate) fn id(path: Path<'_>, value: &str, violations: &mut Violations) {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if !value.is_empty() && (value.len() != 32 || !value.bytes().all(is_hex)) {
        violations.add(
            path.to_string(),
            format!("must be 32 lowercase hex digits, not {}", quoted(value)),
        );
    }
}

/// One of a fixed set of words, if set.
pub(crate) fn word(path: Path<'_>, value: &str, words: &[&str], violations: &mut Violations) {
    if value.is_empty() || words.contains(&value) {
        return;
    }
    let suggestion = did_you_mean(value, words.iter().copied());
    violations.add(
        path.to_string(),
        format!(
            "must be {}, not {}{suggestion}",
            one_of(words),
            quoted(value)
        ),
    );
}

/// "one of a, b or c".
pub(crate) fn one_of(words: &[&str]) -> String {
    match words {
        [others @ .., last] if !others.is_empty() => {
            format!("one of {} or {last}", others.join(", "))
        }
        _ => words.concat(),
    }
}

/// `; did you mean "…"?` with the word that is most like `value`. Empty if no word is like it.
pub(crate) fn did_you_mean<'a>(value: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    nearest(value, words).map_or_else(String::new, |word| format!("; did you mean {word:?}?"))
}

/// The word that is so much like `value` that it was probably meant.
pub(crate) fn nearest<'a>(
    value: &str,
    words: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // The time grows with both lengths, and a value this long is not a typing error.
    if value.len() > SHOWN_CHARS_MAX {
        return None;
    }
    let value = value.to_lowercase();
    let value_chars = value.chars().count();
    words
        .into_iter()
        .filter_map(|word| {
            let lowercase = word.to_lowercase();
            let word_chars = lowercase.chars().count();
            let near = (value_chars.max(word_chars) / 3).min(2);
            if value_chars.abs_diff(word_chars) > near {
                return None;
            }
            let distance = strsim::osa_distance(&value, &lowercase);
            (distance <= near).then_some((distance, word))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// A number in `range`.
pub(crate) fn in_range(
    path: Path<'_>,
    value: impl Into<i64>,
    range: RangeInclusive<i64>,
    violations: &mut Violations,
) {
    let value = value.into();
    if !range.contains(&value) {
        violations.add(
            path.to_string(),
            format!("must be {} to {}, not {value}", range.start(), range.end()),
        );
    }
}

/// A number that cannot be negative, such as a count.
pub(crate) fn not_negative(path: Path<'_>, value: impl Into<i64>, violations: &mut Violations) {
    let value = value.into();
    if value < 0 {
        violations.add(path.to_string(), format!("must be 0 or more, not {value}"));
    }
}

/// Seconds since the Unix epoch. Freezer API v2: -1 means that the time is not known, or has not come.
pub(crate) fn time_s(path: Path<'_>, value: i64, violations: &mut Violations) {
    if !(-1..=TIME_S_MAX).contains(&value) {
        violations.add(
            path.to_string(),
            format!("must be seconds since the Unix epoch, 0 to {TIME_S_MAX}, or -1 for none, not {value}"),
        );
    }
}

/// The size of a whole encoded resource, in bytes.
pub(crate) fn record_size(path: Path<'_>, size_bytes: usize, violations: &mut Violations) {
    if size_bytes > RECORD_BYTES_MAX {
        violations.add(
            path.to_string(),
            format!("must be at most {RECORD_BYTES_MAX} bytes encoded, not {size_bytes}"),
        );
    }
}

/// A bad value as messages show it: escaped, and cut if it is long.
pub(crate) fn quoted(value: &str) -> Quoted<'_> {
    Quoted(value)
}

/// See [`quoted`].
pub(crate) struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(SHOWN_CHARS_MAX) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
        }
    }
}

/// A bad value, or only its length if that is what is wrong.
fn measured(value: &str, bytes_max: usize) -> String {
    if value.len() > bytes_max {
        format!("{} bytes", value.len())
    } else {
        quoted(value).to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_types::{Struct, Value};

    use super::*;

    /// What `rule` says about a value, one line for each violation.
    pub(super) fn said(rule: impl FnOnce(&mut Violations)) -> Vec<String> {
        let mut violations = Violations::new();
        rule(&mut violations);
        violations
            .iter()
            .map(|v| format!("{} {}", v.field, v.description))
            .collect()
    }

    #[test]
    fn a_required_name_has_1_to_max_bytes_and_no_control_characters() {
        let name = |value: &str| said(|v| required_name(format_args!("a.b"), value, 64, v));
        assert_eq!(name(""), ["a.b is required: 1 to 64 bytes"]);
        for good in [
            "a",
            " ",
            "\u{a0}",
            &"x".repeat(64),
            &"é".repeat(32),
            &"🧊".repeat(16),
        ] {
            assert!(name(good).is_empty(), "{good:?}");
        }
        for (long, bytes) in [
            ("x".repeat(65), 65),
            ("é".repeat(33), 66),
            ("🧊".repeat(17), 68),
        ] {
            assert_eq!(
                name(&long),
                [format!("a.b must be at most 64 bytes, not {bytes}")]
            );
        }
        for (bad, at, shown) in [
            ("\0", 0, "\\0"),
            ("é\n", 2, "\\n"),
            ("a\u{7f}", 1, "\\u{7f}"),
            ("\u{85}", 0, "\\u{85}"),
        ] {
            assert_eq!(
                name(bad),
                [format!(
                    "a.b must be without control characters, but byte {at} starts '{shown}'"
                )]
            );
        }
        assert_eq!(name(&"\t".repeat(65)).len(), 2);
    }

    #[test]
    fn a_text_may_be_empty_and_may_hold_anything_but_nul() {
        let text = |value: &str| said(|v| text(format_args!("t"), value, v));
        for good in ["", "/srv/with\nnewline", "\u{1b}", &"x".repeat(4096)] {
            assert!(text(good).is_empty(), "{good:?}");
        }
        assert_eq!(
            text(&"x".repeat(4097)),
            ["t must be at most 4096 bytes, not 4097"]
        );
        assert_eq!(
            text("a\0b"),
            ["t must be without NUL characters, but has one at byte 1"]
        );
    }

    #[test]
    fn a_project_id_is_one_word() {
        let project = |value: &str| said(|v| project_id(format_args!("p"), value, v));
        for good in ["a", "_", "--", "3f5B-_", &"x".repeat(128)] {
            assert!(project(good).is_empty(), "{good:?}");
        }
        for bad in ["", "-", "a b", "a/b", "é", "a\n", "a\0", &"x".repeat(129)] {
            assert_eq!(project(bad).len(), 1, "{bad:?}");
        }
        let shown = |value: &str| project(value).pop().expect("it is bad");
        assert!(shown("a b").ends_with("not \"a b\""), "{}", shown("a b"));
        let long = "x".repeat(129);
        assert!(shown(&long).ends_with("not 129 bytes"), "{}", shown(&long));
    }

    #[test]
    fn a_client_id_is_a_hostname_that_a_project_may_precede() {
        let client = |value: &str| said(|v| client_id(format_args!("c"), value, v));
        let label = "x".repeat(63);
        for good in [
            "",
            "a",
            "node1",
            "node-1.example.org",
            "demo_node1",
            "a_b-_c_node1",
            "-_n",
            "__n",
            "10.0.0.1",
            &label,
            &format!("{label}.{label}"),
        ] {
            assert!(client(good).is_empty(), "{good:?}");
        }
        for bad in [
            "_n",
            "n_",
            "_",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a.-b",
            "a b",
            "p q_n",
            "é",
            "a\n",
            &"x".repeat(64),
            &format!("{label}.{label}.x"),
            &format!("é_{label}"),
        ] {
            assert_eq!(client(bad).len(), 1, "{bad:?}");
        }
    }

    #[test]
    fn an_id_is_32_lowercase_hex_digits() {
        let id = |value: &str| said(|v| id(format_args!("i"), value, v));
        for good in ["", "0123456789abcdef0123456789abcdef"] {
            assert!(id(good).is_empty(), "{good:?}");
        }
        let upper = "0123456789ABCDEF0123456789abcdef";
        for bad in [
            "0",
            &"a".repeat(31),
            &"a".repeat(33),
            &"g".repeat(32),
            upper,
            &"é".repeat(16),
        ] {
            assert_eq!(
                id(bad),
                [format!("i must be 32 lowercase hex digits, not {bad:?}")]
            );
        }
    }

    #[test]
    fn a_word_is_one_of_its_set_and_the_nearest_is_suggested() {
        let word = |value: &str| {
            said(|v| {
                word(
                    format_args!("w"),
                    value,
                    &["backup", "restore", "exec", "fs"],
                    v,
                );
            })
        };
        for good in ["", "backup", "fs"] {
            assert!(word(good).is_empty(), "{good:?}");
        }
        for (bad, meant) in [
            ("Backup", "backup"),
            ("bakcup", "backup"),
            ("restor", "restore"),
            ("exce", "exec"),
            ("FS", "fs"),
        ] {
            assert_eq!(
                word(bad),
                [format!(
                    "w must be one of backup, restore, exec or fs, not {bad:?}; did you mean {meant:?}?"
                )]
            );
        }
        assert_eq!(
            word("x"),
            ["w must be one of backup, restore, exec or fs, not \"x\""]
        );
        assert!(word(&"backup".repeat(1000))[0].ends_with("…"));
    }

    #[test]
    fn numbers_are_held_to_their_ends() {
        let port = |n: i32| said(|v| in_range(format_args!("n"), n, 0..=65535, v));
        assert!(port(0).is_empty() && port(65535).is_empty());
        assert_eq!(port(65536), ["n must be 0 to 65535, not 65536"]);
        assert_eq!(port(-1), ["n must be 0 to 65535, not -1"]);
        let count = |n: i32| said(|v| not_negative(format_args!("n"), n, v));
        assert!(count(0).is_empty() && count(i32::MAX).is_empty());
        assert_eq!(count(i32::MIN), ["n must be 0 or more, not -2147483648"]);
        let time = |n: i64| said(|v| time_s(format_args!("n"), n, v));
        assert!(time(-1).is_empty() && time(0).is_empty() && time(TIME_S_MAX).is_empty());
        assert_eq!(
            time(-2).len() + time(TIME_S_MAX + 1).len() + time(i64::MIN).len(),
            3
        );
    }

    #[test]
    fn a_record_has_at_most_64_kib() {
        assert!(said(|v| record_size(format_args!("job"), 65536, v)).is_empty());
        assert_eq!(
            said(|v| record_size(format_args!("job"), 65537, v)),
            ["job must be at most 65536 bytes encoded, not 65537"]
        );
    }

    proptest! {
        #[test]
        fn no_string_makes_a_rule_panic(value: String, max in 0..70_usize) {
            let mut v = Violations::new();
            let path = format_args!("f");
            required_name(path, &value, max, &mut v);
            text(path, &value, &mut v);
            project_id(path, &value, &mut v);
            client_id(path, &value, &mut v);
            id(path, &value, &mut v);
            word(path, &value, &["backup", "fs", ""], &mut v);
            let keyed = Struct {
                fields: [(value, Value { kind: None })].into(),
            };
            extra(path, Some(&keyed), &mut v);
        }

        #[test]
        fn freezers_client_ids_are_accepted(
            value in "([a-zA-Z0-9_-]{1,20}_)?[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-zA-Z0-9]{1,10}){0,3}"
        ) {
            prop_assert!(said(|v| client_id(format_args!("c"), &value, v)).is_empty());
        }
    }
}
