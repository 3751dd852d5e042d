//! Tables for people, JSON for programs.

use std::{
    fmt,
    io::{self, Write},
};

use comfy_table::{Table, presets::NOTHING};
use jiff::Timestamp;
use serde_json::Value;

use super::Error;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Aligned columns
    Table,
    /// One JSON document
    Json,
    /// One JSON document a line
    Jsonl,
}

/// Rows that share column widths: a table of more is printed in parts, so that it never fills the memory.
const TABLE_ROWS_MAX: usize = 1000;

/// A resource, as it is printed.
pub(super) trait Row {
    /// The columns of a table, apart from the project.
    const COLUMNS: &'static [&'static str];
    /// What stands in them.
    fn cells(&self) -> Vec<String>;
    /// The project that owns it.
    fn project(&self) -> &str;
    /// Its Freezer document, with what the server says about it.
    fn document(&self) -> Value;
}

/// Prints the rows of one list, as they come.
pub(super) struct Printer {
    format: Format,
    with_project: bool,
    table: Vec<Vec<String>>,
    /// The header, until it is printed.
    columns: Option<Vec<&'static str>>,
    printed: usize,
}

impl Printer {
    pub(super) fn new<R: Row>(format: Format, with_project: bool) -> Printer {
        let mut columns = R::COLUMNS.to_vec();
        if with_project {
            columns.insert(0, "PROJECT");
        }
        Printer {
            format,
            with_project,
            table: Vec::new(),
            columns: Some(columns),
            printed: 0,
        }
    }

    pub(super) fn print<R: Row>(&mut self, row: &R) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        match self.format {
            Format::Table => {
                let mut cells = row.cells();
                if self.with_project {
                    cells.insert(0, row.project().to_owned());
                }
                self.table.push(cells);
                if self.table.len() == TABLE_ROWS_MAX {
                    self.print_table()?;
                }
            }
            Format::Json => {
                let start = if self.printed == 0 { "[\n" } else { ",\n" };
                write!(out, "{start}{}", row.document())?;
            }
            Format::Jsonl => writeln!(out, "{}", row.document())?,
        }
        self.printed += 1;
        Ok(())
    }

    /// Prints what is left to print; `noun` says what there is none of.
    pub(super) fn finish(mut self, noun: &str) -> Result<(), Error> {
        match self.format {
            Format::Table if self.printed == 0 => eprintln!("no {noun}s"),
            Format::Table => self.print_table()?,
            Format::Json => {
                writeln!(
                    io::stdout().lock(),
                    "{}",
                    if self.printed == 0 { "[]" } else { "\n]" }
                )?;
            }
            Format::Jsonl => {}
        }
        Ok(())
    }

    fn print_table(&mut self) -> Result<(), Error> {
        if self.table.is_empty() {
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(NOTHING);
        if let Some(columns) = self.columns.take() {
            table.set_header(columns);
        }
        for cells in self.table.drain(..) {
            table.add_row(cells.iter().map(|cell| Printable(cell).to_string()));
        }
        let mut out = io::stdout().lock();
        for line in table.to_string().lines() {
            writeln!(out, "{}", line.trim())?;
        }
        Ok(())
    }
}

/// Prints one resource: as lines of field and value, or as JSON.
pub(super) fn print_one<R: Row>(row: &R, format: Format) -> Result<(), Error> {
    let document = row.document();
    let mut out = io::stdout().lock();
    match format {
        Format::Json => writeln!(out, "{document:#}")?,
        Format::Jsonl => writeln!(out, "{document}")?,
        Format::Table => {
            let mut fields = Vec::new();
            flatten(String::new(), &document, &mut fields);
            let width = fields
                .iter()
                .map(|(path, _)| path.len())
                .max()
                .unwrap_or_default();
            for (path, value) in fields {
                writeln!(out, "{path:width$}  {}", Printable(&value))?;
            }
        }
    }
    Ok(())
}

/// The set leaves of a document by their paths.
fn flatten(path: String, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let key = Printable(key);
                flatten(
                    if path.is_empty() {
                        key.to_string()
                    } else {
                        format!("{path}.{key}")
                    },
                    value,
                    fields,
                );
            }
        }
        Value::Array(values) => {
            for (n, value) in values.iter().enumerate() {
                flatten(format!("{path}[{n}]"), value, fields);
            }
        }
        Value::String(text) if text.is_empty() => {}
        Value::String(text) => fields.push((path, text.clone())),
        other => fields.push((path, other.to_string())),
    }
}

/// Seconds since the Unix epoch as a person reads them; nothing where the time is not known.
pub(super) fn time(seconds: i64) -> String {
    match Timestamp::from_second(seconds) {
        Ok(time) if seconds > 0 => time.to_string(),
        _ => String::new(),
    }
}

/// Text with its control characters escaped: a stored name must not move a reader's cursor.
pub(super) struct Printable<'a>(pub(super) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                fmt::Write::write_char(f, character)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(Printable("a\u{1b}[2Jé\n").to_string(), "a\\u{1b}[2Jé\\n");
    }

    #[test]
    fn a_document_is_flattened_to_its_set_leaves() {
        let mut fields = Vec::new();
        flatten(
            String::new(),
            &json!({"a": {"b": 1, "c": ""}, "d": [{"e": "x"}, true]}),
            &mut fields,
        );
        let expected = [("a.b", "1"), ("d[0].e", "x"), ("d[1]", "true")];
        assert_eq!(
            fields,
            expected.map(|(path, value)| (path.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn a_time_that_has_not_happened_is_nothing() {
        assert_eq!(time(1_486_660_214), "2017-02-09T17:10:14Z");
        assert_eq!(
            (time(-1), time(0), time(i64::MAX)),
            (String::new(), String::new(), String::new())
        );
    }
}
