//! Labels, and the selectors that choose by them, with Kubernetes' rules and grammar.

use std::collections::{BTreeMap, BTreeSet};

use prost::DecodeError;

use super::{Violations, limits::LABELS_MAX, rules};
use crate::proto::fields::{Fields, Raw, entry_of};

/// The longest name of a label, and the longest value.
const NAME_BYTES_MAX: usize = 63;
/// The longest prefix before the name and its slash.
const PREFIX_BYTES_MAX: usize = 253;
/// The longest selector.
const SELECTOR_BYTES_MAX: usize = 4096;
const REQUIREMENTS_MAX: usize = 32;

/// Adds what is wrong with labels.
pub(super) fn check(
    labels: &BTreeMap<String, String>,
    path: rules::Path<'_>,
    violations: &mut Violations,
) {
    if labels.len() > LABELS_MAX {
        let what = format!("must be at most {LABELS_MAX}, not {}", labels.len());
        violations.add(path.to_string(), what);
        return;
    }
    for (key, value) in labels {
        if let Err(what) = check_key(key) {
            violations.add(format!("{path}[{}]", rules::quoted(key)), what);
        }
        if let Err(what) = check_value(value) {
            violations.add(format!("{path}[{}]", rules::quoted(key)), what);
        }
    }
}

fn check_key(key: &str) -> Result<(), String> {
    let name = match key.split_once('/') {
        Some((prefix, name)) => {
            if !is_subdomain(prefix) {
                return Err(format!(
                    "must have a lowercase DNS name of at most {PREFIX_BYTES_MAX} bytes before its slash, not {}",
                    rules::quoted(prefix)
                ));
            }
            name
        }
        None => key,
    };
    if is_name(name) {
        return Ok(());
    }
    Err(format!(
        "must have a key of 1 to {NAME_BYTES_MAX} letters, digits, \"-\", \"_\" and \".\" that begins and ends with a letter or \
         digit, not {}",
        rules::quoted(name)
    ))
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    Err(format!(
        "must have a value of at most {NAME_BYTES_MAX} letters, digits, \"-\", \"_\" and \".\" that begins and ends with a letter \
         or digit, not {}",
        rules::quoted(value)
    ))
}

fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    (1..=NAME_BYTES_MAX).contains(&bytes.len())
        && is_end(bytes.first())
        && is_end(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn is_subdomain(prefix: &str) -> bool {
    let is_part = |part: &str| {
        is_name(part)
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    prefix.len() <= PREFIX_BYTES_MAX && prefix.split('.').all(is_part)
}

/// The requirements of a selector. Labels must meet all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    /// The values that the label must have, or must not have if they are unwanted; a missing label then counts as not having them.
    /// An empty set means any value.
    values: BTreeSet<String>,
    is_wanted: bool,
}

impl Selector {
    /// Reads a selector: `key=value`, `key!=value`, `key in (a, b)`, `key notin (a, b)`, `key`, `!key`, with commas between them.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Selector, String> {
        if text.len() > SELECTOR_BYTES_MAX {
            return Err(format!(
                "must be at most {SELECTOR_BYTES_MAX} bytes, not {}",
                text.len()
            ));
        }
        let mut requirements = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            if requirements.len() == REQUIREMENTS_MAX {
                return Err(format!("must ask for at most {REQUIREMENTS_MAX} labels"));
            }
            // A comma within parentheses separates values.
            let mut depth = 0_u32;
            let end = rest.find(|character| {
                match character {
                    '(' => depth += 1,
                    ')' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                character == ',' && depth == 0
            });
            let (one, more) = end.map_or((rest, None), |end| {
                (&rest[..end], Some(rest[end + 1..].trim()))
            });
            requirements.push(Requirement::parse(one.trim())?);
            match more {
                Some("") => return Err("must have a label behind its last comma".into()),
                Some(more) => rest = more,
                None => break,
            }
        }
        Ok(Selector(requirements))
    }

    /// Adds what is wrong with a filter's selector.
    pub(super) fn check(text: &str, violations: &mut Violations) {
        if let Err(what) = Selector::parse(text) {
            violations.add("filter.label_selector", what);
        }
    }

    /// Whether an encoded resource matches. Its labels are in the field with this tag.
    ///
    /// # Errors
    /// If `record` is not an encoded resource.
    pub(crate) fn matches(&self, record: &[u8], tag: u32) -> Result<bool, DecodeError> {
        if self.0.is_empty() {
            return Ok(true);
        }
        let labels = labels_of(record, tag)?;
        Ok(self.0.iter().all(|requirement| {
            let mut labels = labels.iter();
            let value = labels.find(|(key, _)| *key == requirement.key);
            requirement.matches(value.map(|(_, value)| *value))
        }))
    }
}

impl Requirement {
    fn parse(text: &str) -> Result<Requirement, String> {
        let wrong = || {
            format!(
                "has {}, which is none of key=value, key!=value, key in (a, b), key notin (a, b), key and !key",
                rules::quoted(text)
            )
        };
        let (key, values, is_wanted) = if let Some(key) = text.strip_prefix('!') {
            (key.trim(), Vec::new(), false)
        } else if let Some((key, value)) = text.split_once("!=") {
            (key.trim(), vec![value.trim()], false)
        } else if let Some((key, value)) = text.split_once("==") {
            (key.trim(), vec![value.trim()], true)
        } else if let Some((key, value)) = text.split_once('=') {
            (key.trim(), vec![value.trim()], true)
        } else if let Some((head, values)) = text.split_once('(') {
            let values = values.trim_end().strip_suffix(')').ok_or_else(wrong)?;
            let (key, word) = head
                .trim()
                .split_once(char::is_whitespace)
                .ok_or_else(wrong)?;
            let is_wanted = match word.trim() {
                "in" => true,
                "notin" => false,
                _ => return Err(wrong()),
            };
            (key, values.split(',').map(str::trim).collect(), is_wanted)
        } else {
            (text, Vec::new(), true)
        };
        check_key(key).map_err(|what| format!("{}: the label {what}", wrong()))?;
        for value in &values {
            check_value(value).map_err(|what| format!("{}: the label {what}", wrong()))?;
        }
        Ok(Requirement {
            key: key.to_owned(),
            values: values.into_iter().map(str::to_owned).collect(),
            is_wanted,
        })
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let has_one =
            value.is_some_and(|value| self.values.is_empty() || self.values.contains(value));
        has_one == self.is_wanted
    }
}

/// The labels of an encoded resource, in their order.
fn labels_of(record: &[u8], tag: u32) -> Result<Vec<(&str, &str)>, DecodeError> {
    let (mut labels, mut fields) = (Vec::new(), Fields::of(record));
    while let Some((found, raw)) = fields.next()? {
        if found == tag {
            let (key, value) = entry_of(raw.bytes()?)?;
            labels.push((key, value.map_or(Ok(""), Raw::text)?));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::Job;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|&(key, value)| (key.into(), value.into()))
            .collect()
    }

    fn matches(selector: &str, pairs: &[(&str, &str)]) -> bool {
        let job = Job {
            description: "d".into(),
            labels: labels(pairs),
            revision: 7,
            ..Job::default()
        };
        let selector = Selector::parse(selector).expect(selector);
        selector.matches(&job.encode_to_vec(), 16).unwrap()
    }

    #[test]
    fn selectors_choose_as_kubernetes_does() {
        let prod = &[("env", "prod"), ("example.org/tier", "db"), ("empty", "")][..];
        for (selector, expected) in [
            ("", true),
            ("env=prod", true),
            ("env == prod", true),
            ("env=test", false),
            ("env!=test", true),
            ("env!=prod", false),
            ("owner!=me", true),
            ("owner=", false),
            ("empty=", true),
            ("env in (test, prod)", true),
            ("env in (test)", false),
            ("env notin (test)", true),
            ("env notin (test,prod)", false),
            ("owner notin (me)", true),
            ("env", true),
            ("owner", false),
            ("!env", false),
            ("!owner", true),
            ("env=prod,example.org/tier in (db,web), !owner", true),
            ("env=prod,example.org/tier in (web),!owner", false),
        ] {
            assert_eq!(matches(selector, prod), expected, "{selector}");
        }
        assert!(!matches("env=prod", &[]) && matches("!env", &[]));
    }

    #[test]
    fn selectors_that_are_none_are_refused() {
        for wrong in [
            "=",
            "a=b,",
            ",a",
            "a b",
            "a in",
            "a in (b",
            "a within (b)",
            "-a",
            "a=b c",
            "UPPER.example/a",
            "a/b/c",
            &"a".repeat(64),
            &"a,".repeat(40),
            &"a".repeat(5000),
        ] {
            assert!(Selector::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_are_held_to_kubernetes_rules() {
        let said = |pairs: &[(&str, &str)]| {
            let mut violations = Violations::new();
            check(&labels(pairs), format_args!("job.labels"), &mut violations);
            let fields = violations.iter();
            fields
                .map(|violation| violation.field.clone())
                .collect::<Vec<_>>()
        };
        let good = [("a", "b"), ("example.org/A.b_c-d", ""), ("0", "v1.2")];
        assert!(said(&good).is_empty());
        let long = "x".repeat(64);
        let bad = [
            ("", "b"),
            ("/a", "b"),
            ("a", "-b"),
            ("b", &long),
            ("Ex/a", "b"),
        ];
        assert_eq!(said(&bad).len(), bad.len());
        let many: Vec<_> = (0..33).map(|n| format!("k{n}")).collect();
        let many: Vec<_> = many.iter().map(|key| (key.as_str(), "")).collect();
        assert_eq!(said(&many), ["job.labels"]);
    }
}
