//! Reads the documents in a file one by one. The JSON may have any size; only one document is in memory at a time.

use std::{
    cell::{Cell, RefCell},
    fmt,
    io::{self, BufRead, BufReader, Read},
    ops::ControlFlow,
};

use serde::de::{
    DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
    value::MapAccessDeserializer,
};
use serde_json::{Map, Value};

/// The most bytes that one document may take in the file. A server takes requests of at most 1 MiB, and records of at most 64 KiB:
/// a larger document does not belong to a catalog, and would only fill the memory.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The kind of a document, as its place in the file tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Any kind: the document itself tells.
    Any,
    /// An element of a list `backups`.
    Backup,
    /// An element of a list `jobs`.
    Job,
    /// An element of a list `clients`.
    Client,
    /// An element of a list `actions`.
    Action,
    /// An element of a list `sessions`.
    Session,
}

impl Expected {
    fn in_list(key: &str) -> Option<Expected> {
        match key {
            "backups" => Some(Expected::Backup),
            "jobs" => Some(Expected::Job),
            "clients" => Some(Expected::Client),
            "actions" => Some(Expected::Action),
            "sessions" => Some(Expected::Session),
            _ => None,
        }
    }
}

/// What the reader hands on.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// A document.
    Document {
        /// Its place in the file: `backups[17]`, `[3]` or `line 5`.
        place: String,
        /// The kind that it must have.
        expected: Expected,
        /// The document itself.
        value: Value,
        /// How many bytes of the file have been read so far.
        read_bytes: u64,
    },
    /// One sentence about something that was left out.
    Note(String),
}

/// Calls `hand_on` with every document in `source`, until that says to stop. A document is a JSON value, an element of a top-level
/// array, or an element of the lists in `{"backups": […], "jobs": […]}`. Any number of these may follow each other, as in JSON
/// Lines.
///
/// # Errors
/// If `source` cannot be read, or is not JSON from some point on. The documents before that point have been handed on.
pub(super) fn read_documents(
    source: impl Read,
    hand_on: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<(), String> {
    let mut source = BufReader::with_capacity(64 << 10, source);
    if source
        .fill_buf()
        .map_err(|error| error.to_string())?
        .starts_with(BYTE_ORDER_MARK)
    {
        source.consume(BYTE_ORDER_MARK.len());
    }
    let position = Position {
        line: Cell::new(1),
        bytes: Cell::new(0),
        document_start: Cell::new(0),
    };
    let mut json = serde_json::Deserializer::from_reader(Counted {
        source,
        position: &position,
    });
    let sink = Sink {
        position: &position,
        number: Cell::new(0),
        line: Cell::new(1),
        stopped: Cell::new(false),
        hand_on: RefCell::new(hand_on),
    };
    loop {
        position.document_start.set(position.bytes.get());
        match json.end() {
            Ok(()) if sink.number.get() == 0 => return Err("holds no documents".into()),
            Ok(()) => return Ok(()),
            Err(error) if error.is_io() => return Err(describe(&error, &position)),
            // Anything else but white space begins the next value.
            Err(_) => {}
        }
        sink.number.set(sink.number.get() + 1);
        sink.line.set(position.line.get());
        let documents = Documents {
            sink: &sink,
            path: String::new(),
            list_of: None,
        };
        match documents.deserialize(&mut json) {
            Ok(_) => {}
            Err(_) if sink.stopped.get() => return Ok(()),
            Err(error) => return Err(describe(&error, &position)),
        }
    }
}

fn describe(error: &serde_json::Error, position: &Position) -> String {
    // serde_json puts the place at the end of its message; people look for it at the start.
    let (line, column) = (error.line(), error.column());
    let message = error.to_string();
    let message = message
        .strip_suffix(&format!(" at line {line} column {column}"))
        .unwrap_or(&message);
    if error.is_io() {
        format!("line {}: {message}", position.line.get())
    } else {
        format!("line {line} column {column}: not JSON: {message}")
    }
}

/// How far the file has been read.
struct Position {
    line: Cell<u64>,
    bytes: Cell<u64>,
    document_start: Cell<u64>,
}

/// Counts the bytes of the file, which `serde_json` takes one by one.
struct Counted<'a, R> {
    source: BufReader<R>,
    position: &'a Position,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let position = self.position;
        if position.bytes.get() - position.document_start.get() > DOCUMENT_BYTES_MAX {
            return Err(io::Error::other(format!(
                "a document is larger than {} MiB",
                DOCUMENT_BYTES_MAX >> 20
            )));
        }
        let len = self.source.read(buf)?;
        position.bytes.set(position.bytes.get() + len as u64);
        for byte in &buf[..len] {
            position
                .line
                .set(position.line.get() + u64::from(*byte == b'\n'));
        }
        Ok(len)
    }
}

/// Where the documents go.
struct Sink<'a> {
    position: &'a Position,
    /// The number of the top-level value, from 1.
    number: Cell<u64>,
    /// The line on which that value starts.
    line: Cell<u64>,
    stopped: Cell<bool>,
    hand_on: RefCell<&'a mut dyn FnMut(Event) -> ControlFlow<()>>,
}

impl Sink<'_> {
    fn place(&self, path: &str) -> String {
        match (self.number.get(), path) {
            (_, "") => format!("line {}", self.line.get()),
            (1, path) => path.to_owned(),
            (_, path) => format!("line {}: {path}", self.line.get()),
        }
    }

    fn document<E: serde::de::Error>(
        &self,
        path: &str,
        expected: Expected,
        value: Value,
    ) -> Result<(), E> {
        let read_bytes = self.position.bytes.get();
        self.position.document_start.set(read_bytes);
        self.send(Event::Document {
            place: self.place(path),
            expected,
            value,
            read_bytes,
        })
    }

    fn left_out<E: serde::de::Error>(&self, path: &str) -> Result<(), E> {
        let place = self.place(path);
        self.send(Event::Note(format!(
            "{place} was left out: only backups and jobs are read from a list"
        )))
    }

    fn send<E: serde::de::Error>(&self, event: Event) -> Result<(), E> {
        match (self.hand_on.borrow_mut())(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => {
                self.stopped.set(true);
                Err(E::custom("stopped"))
            }
        }
    }
}

/// Reads one value and hands on the documents in it. Gives the value back if it should have been a list but is not.
struct Documents<'a> {
    sink: &'a Sink<'a>,
    path: String,
    /// The kind of its documents, if the value stands under a key such as `backups`.
    list_of: Option<Expected>,
}

impl Documents<'_> {
    fn whole<E: serde::de::Error>(self, value: Value) -> Result<Option<Value>, E> {
        match self.list_of {
            Some(_) => Ok(Some(value)),
            None => self
                .sink
                .document(&self.path, Expected::Any, value)
                .map(|()| None),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Documents<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Documents<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Freezer document")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Option<Value>, A::Error> {
        for n in 0_u64.. {
            let path = format!("{}[{n}]", self.path);
            if let Some(expected) = self.list_of {
                let Some(value) = elements.next_element()? else {
                    break;
                };
                self.sink.document(&path, expected, value)?;
            } else {
                let element = Documents {
                    sink: self.sink,
                    path,
                    list_of: None,
                };
                if elements.next_element_seed(element)?.is_none() {
                    break;
                }
            }
        }
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Option<Value>, A::Error> {
        if self.list_of.is_some() {
            return serde::Deserialize::deserialize(MapAccessDeserializer::new(members)).map(Some);
        }
        let join = |key: &str| {
            if self.path.is_empty() {
                key.to_owned()
            } else {
                format!("{}.{key}", self.path)
            }
        };
        let mut document = Map::new();
        let mut has_lists = false;
        while let Some(key) = members.next_key::<String>()? {
            if let Some(expected) = Expected::in_list(&key) {
                let list = Documents {
                    sink: self.sink,
                    path: join(&key),
                    list_of: Some(expected),
                };
                match members.next_value_seed(list)? {
                    None => has_lists = true,
                    Some(_) if has_lists => self.sink.left_out(&join(&key))?,
                    Some(value) => {
                        document.insert(key, value);
                    }
                }
            } else if has_lists {
                // Its value is not kept: keys beside a list could fill the memory.
                members.next_value::<IgnoredAny>()?;
                self.sink.left_out(&join(&key))?;
            } else {
                document.insert(key, members.next_value()?);
            }
        }
        if !has_lists {
            return self.whole(Value::Object(document));
        }
        for key in document.keys() {
            self.sink.left_out(&join(key))?;
        }
        Ok(None)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Option<Value>, E> {
        self.whole(value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Option<Value>, E> {
        self.whole(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Option<Value>, E> {
        self.whole(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Option<Value>, E> {
        self.whole(value.into())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Option<Value>, E> {
        self.whole(value.into())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Option<Value>, E> {
        self.whole(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Placed = (String, Expected, Value);

    fn read(text: &str) -> (Vec<Placed>, Vec<String>, Result<(), String>) {
        let (mut documents, mut notes) = (Vec::new(), Vec::new());
        let result = read_documents(text.as_bytes(), &mut |event| {
            match event {
                Event::Document {
                    place,
                    expected,
                    value,
                    ..
                } => documents.push((place, expected, value)),
                Event::Note(note) => notes.push(note),
            }
            ControlFlow::Continue(())
        });
        (documents, notes, result)
    }

    fn placed(place: &str, expected: Expected, value: Value) -> Placed {
        (place.to_owned(), expected, value)
    }

    #[test]
    fn lists_are_taken_apart() {
        let (documents, notes, result) = read(
            r#"{"links": {"next": 1}, "backups": [1, {"a": []}], "jobs": [null], "total": 3}"#,
        );
        assert_eq!(
            documents,
            [
                placed("backups[0]", Expected::Backup, json!(1)),
                placed("backups[1]", Expected::Backup, json!({"a": []})),
                placed("jobs[0]", Expected::Job, json!(null)),
            ]
        );
        assert_eq!(
            notes,
            [
                "total was left out: only backups and jobs are read from a list",
                "links was left out: only backups and jobs are read from a list",
            ]
        );
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn one_document_is_one_document() {
        let (documents, _, result) = read("\u{feff}\n {\"backup_name\": \"a\", \"jobs\": 5}\n");
        assert_eq!(
            documents,
            [placed(
                "line 2",
                Expected::Any,
                json!({"backup_name": "a", "jobs": 5})
            )]
        );
        assert_eq!(result, Ok(()));
        assert_eq!(read("{}").0, [placed("line 1", Expected::Any, json!({}))]);
    }

    #[test]
    fn an_array_is_taken_apart_lists_and_all() {
        let (documents, _, _) = read(r#"[{"a": 1}, {"jobs": [2, 3]}]"#);
        assert_eq!(
            documents,
            [
                placed("[0]", Expected::Any, json!({"a": 1})),
                placed("[1].jobs[0]", Expected::Job, json!(2)),
                placed("[1].jobs[1]", Expected::Job, json!(3)),
            ]
        );
    }

    #[test]
    fn json_lines_are_known_by_their_line() {
        let (documents, _, result) = read("{\"a\": 1}\n\n{\"a\":\n2}\n{\"jobs\": [3]} true 7");
        assert_eq!(
            documents,
            [
                placed("line 1", Expected::Any, json!({"a": 1})),
                placed("line 3", Expected::Any, json!({"a": 2})),
                placed("line 5: jobs[0]", Expected::Job, json!(3)),
                placed("line 5", Expected::Any, json!(true)),
                placed("line 5", Expected::Any, json!(7)),
            ]
        );
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn what_stood_before_the_damage_is_handed_on() {
        for (text, complaint) in [
            (
                "{\"jobs\": [1, 2,\n x",
                "line 2 column 2: not JSON: expected value",
            ),
            (
                "{\"jobs\": [1, 2",
                "line 1 column 14: not JSON: EOF while parsing a list",
            ),
            (
                "{\"jobs\": [1, 2]",
                "line 1 column 15: not JSON: EOF while parsing an object",
            ),
            ("[1, 2] ]", "line 1 column 8: not JSON: expected value"),
        ] {
            let (documents, _, result) = read(text);
            assert_eq!(documents.len(), 2, "{text}");
            assert_eq!(result, Err(complaint.to_owned()), "{text}");
        }
    }

    #[test]
    fn nothing_is_no_document_but_an_empty_list_is_fine() {
        for text in ["", " \n\n"] {
            assert_eq!(read(text).2, Err("holds no documents".to_owned()));
        }
        for text in ["[]", r#"{"backups": []}"#] {
            assert_eq!(read(text), (vec![], vec![], Ok(())));
        }
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let (documents, _, result) = read(&"[".repeat(1_000_000));
        assert_eq!(documents, []);
        assert!(result.unwrap_err().contains("recursion limit"));
    }

    #[test]
    fn a_document_without_end_is_refused() {
        let text = format!("{{\"jobs\": [1, \"{}", "x".repeat(5 << 20));
        let (documents, _, result) = read(&text);
        assert_eq!(documents.len(), 1);
        assert_eq!(
            result,
            Err("line 1: a document is larger than 4 MiB".to_owned())
        );
        let spaces = read_documents(io::repeat(b' '), &mut |_| ControlFlow::Continue(()));
        assert_eq!(
            spaces,
            Err("line 1: a document is larger than 4 MiB".to_owned())
        );
    }

    #[test]
    fn a_million_documents_pass_through_one_by_one() {
        struct Million {
            left: u32,
            chunk: io::Cursor<Vec<u8>>,
        }
        impl Read for Million {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                let len = self.chunk.read(buf)?;
                if len > 0 || self.left == 0 {
                    return Ok(len);
                }
                self.left -= 1;
                let chunk = if self.left == 0 {
                    "1]}".to_owned()
                } else {
                    "{\"a\":1},".repeat(1000)
                };
                self.chunk = io::Cursor::new(chunk.into_bytes());
                self.chunk.read(buf)
            }
        }
        let source = Million {
            left: 1001,
            chunk: io::Cursor::new(b"{\"backups\":[".to_vec()),
        };
        let mut documents = 0_u64;
        let result = read_documents(source, &mut |_| {
            documents += 1;
            ControlFlow::Continue(())
        });
        assert_eq!((documents, result), (1_000_001, Ok(())));
    }

    #[test]
    fn reading_stops_when_told() {
        let mut documents = 0;
        let result = read_documents(&b"[1, 2, 3, not even JSON"[..], &mut |_| {
            documents += 1;
            if documents == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert_eq!((documents, result), (2, Ok(())));
    }
}
