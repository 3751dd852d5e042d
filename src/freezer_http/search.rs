//! Searches of lists: the JSON body of a GET. A key is found at any depth of the document that the reader would see.

use memchr::memmem::Finder;
use prost::DecodeError;
use serde_json::Value;

use crate::{
    freezer_json::{Writer, whole_number},
    resource::Violations,
};

/// The most criteria in one search.
const CRITERIA_MAX: usize = 64;

/// The criteria of a search.
#[derive(Clone, Debug, Default)]
pub(super) struct Search {
    /// All of these must hold.
    matches: Vec<Criterion>,
    /// None of these may hold.
    match_nots: Vec<Criterion>,
    pub(super) time_after: Option<i64>,
    pub(super) time_before: Option<i64>,
}

/// A key, and a value that it must have somewhere in the document.
#[derive(Clone, Debug)]
struct Criterion {
    key: String,
    wanted: Value,
    /// Finds the value's text in an encoded record. If it is not there, the document does not have the value either.
    text: Option<Finder<'static>>,
}

impl Search {
    /// Reads a search. An empty body matches everything.
    ///
    /// # Errors
    /// Every key that is not valid.
    pub(super) fn read(body: &[u8]) -> Result<Search, Violations> {
        let body = body.trim_ascii();
        if body.is_empty() {
            return Ok(Search::default());
        }
        let wrong = |why: String| Violations::one("the search", why);
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| wrong(format!("must be a JSON object, and is no JSON: {error}")))?;
        let members = match &value {
            // A client sends `null` if no search was asked for.
            Value::Null => return Ok(Search::default()),
            Value::Object(members) => members,
            _ => return Err(wrong("must be a JSON object".into())),
        };
        let mut search = Search::default();
        let mut violations = Violations::new();
        for (key, value) in members {
            match key.as_str() {
                "match" => search.matches = criteria(key, value, &mut violations),
                "match_not" => search.match_nots = criteria(key, value, &mut violations),
                "time_after" => search.time_after = seconds(key, value, &mut violations),
                "time_before" => search.time_before = seconds(key, value, &mut violations),
                _ => violations.add(
                    key,
                    "is none of match, match_not, time_after and time_before",
                ),
            }
        }
        violations.or(search)
    }

    /// Whether everything matches, except for times.
    pub(super) fn is_empty(&self) -> bool {
        self.matches.is_empty() && self.match_nots.is_empty()
    }

    /// Whether an encoded resource matches in the form that `writer` writes.
    ///
    /// # Errors
    /// If `record` does not decode.
    pub(super) fn matches(&self, writer: &Writer, record: &[u8]) -> Result<bool, DecodeError> {
        let may_match = |criterion: &Criterion| {
            let text = criterion.text.as_ref();
            text.is_none_or(|text| text.find(record).is_some())
        };
        if !self.matches.iter().all(may_match) {
            return Ok(false);
        }
        let mut text = Vec::with_capacity(record.len() * 2);
        writer.write(record, &mut text)?;
        let document = serde_json::from_slice(&text).expect("what was written is JSON");
        Ok(self.matches.iter().all(|wanted| wanted.is_in(&document))
            && !self.match_nots.iter().any(|wanted| wanted.is_in(&document)))
    }
}

impl Criterion {
    fn new(key: &str, wanted: &Value) -> Criterion {
        let text = wanted.as_str().filter(|text| !text.is_empty());
        Criterion {
            key: key.to_owned(),
            wanted: wanted.clone(),
            text: text
                .filter(|text| is_found_as_written(text))
                .map(|text| Finder::new(text).into_owned()),
        }
    }

    /// Whether a document has this value. A document without the key does not match.
    fn is_in(&self, document: &Value) -> bool {
        let mut found = Vec::new();
        collect(document, &self.key, &mut found);
        let is_nothing = |value: &Value| value.is_null() || value.as_str() == Some("");
        if is_nothing(&self.wanted) {
            return found.into_iter().all(is_nothing);
        }
        found.into_iter().any(|value| is_same(value, &self.wanted))
    }
}

/// Whether the encoded record holds a text exactly as the document does. Numbers and bools, and text that looks like them, may be
/// written otherwise.
fn is_found_as_written(text: &str) -> bool {
    let is_word = ["true", "false"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word));
    !is_word && text.parse::<f64>().is_err()
}

/// The values of a key at any depth.
fn collect<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(members) => {
            for (own, value) in members {
                if own == key {
                    found.push(value);
                }
                collect(value, key, found);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                collect(element, key, found);
            }
        }
        _ => {}
    }
}

/// Whether two values are the same. People write numbers and bools as text, too.
fn is_same(value: &Value, wanted: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    if value == wanted {
        return true;
    }
    match (value, wanted) {
        (Value::String(_), Value::String(_)) => false,
        _ => text(value)
            .zip(text(wanted))
            .is_some_and(|(own, wanted)| own.eq_ignore_ascii_case(&wanted)),
    }
}

/// A list of objects, each with one key or several, and the values that these must have.
fn criteria(path: &str, value: &Value, violations: &mut Violations) -> Vec<Criterion> {
    let expected = r#"must be a list such as [{"client_id": "node1"}]"#;
    let Some(elements) = value.as_array() else {
        violations.add(path, expected);
        return Vec::new();
    };
    let mut criteria = Vec::new();
    for (n, element) in elements.iter().enumerate() {
        let Some(members) = element.as_object() else {
            violations.add(format!("{path}[{n}]"), expected);
            continue;
        };
        for (key, wanted) in members {
            if key == "_all" {
                // `openstack … --search` sends such a list as a string of JSON.
                let inner = wanted.as_str().map(serde_json::from_str::<Value>);
                let inner = inner.and_then(Result::ok).unwrap_or_default();
                let path = format!("{path}[{n}]._all");
                criteria.extend(self::criteria(&path, &inner, violations));
            } else {
                criteria.push(Criterion::new(key, wanted));
            }
        }
    }
    if criteria.len() > CRITERIA_MAX {
        violations.add(path, format!("may ask for {CRITERIA_MAX} values at once"));
    }
    criteria
}

/// A time in seconds since the Unix epoch.
fn seconds(path: &str, value: &Value, violations: &mut Violations) -> Option<i64> {
    let seconds = whole_number(value);
    if seconds.is_none() {
        violations.add(path, "must be seconds since 1970, a whole number");
    }
    seconds
}
