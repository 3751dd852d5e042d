//! Tables for people, JSON for programs.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use comfy_table::{Table, presets::NOTHING};
use jiff::Timestamp;
use serde_json::Value;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::Error;
use crate::resource::is_steering;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Aligned columns
    Table,
    /// One JSON document
    Json,
    /// One JSON document a line
    Jsonl,
    /// YAML, one document each
    Yaml,
    /// Only the IDs, one a line
    Name,
}

impl Format {
    /// The text of one document, for a format that shows documents.
    pub(super) fn one(self, document: &Value) -> Result<String, Error> {
        match self {
            Format::Jsonl => Ok(document.to_string()),
            Format::Yaml => yaml(document),
            Format::Table | Format::Json | Format::Name => Ok(format!("{document:#}")),
        }
    }
}

pub(super) fn yaml(document: &Value) -> Result<String, Error> {
    let text = serde_saphyr::to_string(document);
    let text =
        text.map_err(|error| Error::Failed(format!("cannot be written as YAML: {error}")))?;
    Ok(text.trim_end().to_owned())
}

/// The most rows that share column widths. A longer table is printed in parts, so that it never fills the memory.
const TABLE_ROWS_MAX: usize = 1000;
/// The fewest characters of a column before other columns are left out to make room.
const COLUMN_CHARS_MIN: usize = 12;
/// The space between two columns.
pub(super) const GAP_CHARS: usize = 2;

/// A resource that can be printed.
pub(super) trait Row {
    /// The columns of its table, without the project.
    const COLUMNS: &'static [&'static str];
    /// The columns that are left out if a table is too wide, in this order.
    const SPARE_COLUMNS: &'static [&'static str];
    /// The cells of these columns.
    fn cells(&self) -> Vec<String>;
    /// Its id.
    fn id(&self) -> &str;
    /// The project that owns it.
    fn project(&self) -> &str;
    /// Its Freezer document, with what the server says about it.
    fn document(&self) -> Value;
}

/// How a list is printed.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub(super) struct Listing {
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Print only the IDs, as -o name does
    #[arg(long, short, conflicts_with = "output")]
    quiet: bool,
    /// Print all columns in full, however wide the terminal is
    #[arg(long)]
    wide: bool,
    /// Print no header
    #[arg(long)]
    no_headers: bool,
    /// Sort by this column of the table, from the last on with -COLUMN; the whole list is read for that
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    sort: Option<String>,
}

impl Listing {
    pub(super) fn format(&self) -> Format {
        if self.quiet {
            Format::Name
        } else {
            self.output
        }
    }

    pub(super) fn is_sorted(&self) -> bool {
        self.sort.is_some()
    }

    pub(super) fn has_header(&self) -> bool {
        !self.no_headers
    }

    /// The terminal's width, if the table must fit into it.
    pub(super) fn width(&self) -> Option<usize> {
        let is_narrow = !self.wide && io::stdout().is_terminal();
        let size = is_narrow.then(terminal_size::terminal_size).flatten();
        size.map(|(width, _)| usize::from(width.0))
    }
}

/// Prints the rows of one list as they come, or sorted at the end.
pub(super) struct Printer<R> {
    format: Format,
    with_project: bool,
    columns: Vec<&'static str>,
    /// The columns that fit, once they are known.
    chosen: Option<Vec<usize>>,
    has_header: bool,
    /// The terminal's width, if the table must fit into it.
    width: Option<usize>,
    /// The column to sort by, and whether in descending order.
    sort: Option<(usize, bool)>,
    unsorted: Vec<R>,
    table: Vec<Vec<String>>,
    printed: usize,
}

impl<R: Row> Printer<R> {
    /// # Errors
    /// If there is no such column to sort by.
    pub(super) fn new(listing: &Listing, with_project: bool) -> Result<Self, Error> {
        let mut columns = R::COLUMNS.to_vec();
        if with_project {
            columns.insert(0, "PROJECT");
        }
        let sort = listing
            .sort
            .as_ref()
            .map(|sort| sort_column(sort, &columns))
            .transpose()?;
        Ok(Printer {
            format: listing.format(),
            with_project,
            columns,
            chosen: None,
            has_header: listing.has_header(),
            width: listing.width(),
            sort,
            unsorted: Vec::new(),
            table: Vec::new(),
            printed: 0,
        })
    }

    pub(super) fn print(&mut self, row: R) -> Result<(), Error> {
        if self.sort.is_some() {
            self.unsorted.push(row);
            return Ok(());
        }
        self.print_now(&row)
    }

    fn cells(&self, row: &R) -> Vec<String> {
        let mut cells = row.cells();
        if self.with_project {
            cells.insert(0, row.project().to_owned());
        }
        cells
    }

    fn print_now(&mut self, row: &R) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        match self.format {
            Format::Table => {
                let cells = self.cells(row);
                self.table.push(
                    cells
                        .iter()
                        .map(|cell| Printable(cell).to_string())
                        .collect(),
                );
                if self.table.len() == TABLE_ROWS_MAX {
                    self.print_table()?;
                }
            }
            Format::Json => {
                let start = if self.printed == 0 { "[\n" } else { ",\n" };
                write!(out, "{start}{}", row.document())?;
            }
            Format::Jsonl => writeln!(out, "{}", row.document())?,
            Format::Yaml => writeln!(out, "---\n{}", yaml(&row.document())?)?,
            Format::Name => writeln!(out, "{}", Printable(row.id()))?,
        }
        self.printed += 1;
        Ok(())
    }

    /// Prints the remaining rows. `noun` names what there is none of, if there was no row.
    pub(super) fn finish(mut self, noun: &str) -> Result<(), Error> {
        if let Some((column, backward)) = self.sort {
            let mut rows: Vec<_> = std::mem::take(&mut self.unsorted)
                .into_iter()
                .map(|row| (self.cells(&row).swap_remove(column), row))
                .collect();
            rows.sort_by(|(a, _), (b, _)| {
                let order = in_order(a, b);
                if backward { order.reverse() } else { order }
            });
            for (_, row) in &rows {
                self.print_now(row)?;
            }
        }
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
            Format::Jsonl | Format::Yaml | Format::Name => {}
        }
        Ok(())
    }

    fn print_table(&mut self) -> Result<(), Error> {
        if self.table.is_empty() {
            return Ok(());
        }
        let mut rows = std::mem::take(&mut self.table);
        if let Some(width) = self.width {
            let fitted = fit::<R>(&self.columns, &rows, width, self.chosen.as_deref());
            for row in &mut rows {
                *row = fitted
                    .iter()
                    .map(|&(n, chars)| cut(&row[n], chars))
                    .collect();
            }
            self.chosen = Some(fitted.into_iter().map(|(n, _)| n).collect());
        }
        let mut table = Table::new();
        table.load_style(NOTHING);
        if std::mem::take(&mut self.has_header) {
            let chosen = self
                .chosen
                .clone()
                .unwrap_or_else(|| (0..self.columns.len()).collect());
            table.set_header(chosen.into_iter().map(|n| self.columns[n]));
        }
        for row in rows {
            table.add_row(row);
        }
        let mut out = io::stdout().lock();
        for line in table.to_string().lines() {
            writeln!(out, "{}", line.trim())?;
        }
        Ok(())
    }
}

/// The column that a person names, and whether the order is descending.
fn sort_column(sort: &str, columns: &[&str]) -> Result<(usize, bool), Error> {
    let plain = |name: &str| name.to_lowercase().replace([' ', '_', '-'], "");
    let (name, backward) = match sort.strip_prefix('-') {
        Some(name) => (name, true),
        None => (sort, false),
    };
    let found = columns
        .iter()
        .position(|column| plain(column) == plain(name));
    found.map(|column| (column, backward)).ok_or_else(|| {
        Error::Usage(format!(
            "--sort {sort}: there is no such column; there are {}",
            columns.join(", ")
        ))
    })
}

/// Compares numbers by value, and everything else as text.
fn in_order(a: &str, b: &str) -> std::cmp::Ordering {
    match (a.parse::<i64>(), b.parse::<i64>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        _ => a.cmp(b),
    }
}

/// Which columns a table of this width shows, and how many characters of each. Ids are shown whole, because people copy them.
pub(super) fn fit<R: Row>(
    columns: &[&str],
    rows: &[Vec<String>],
    width: usize,
    chosen: Option<&[usize]>,
) -> Vec<(usize, usize)> {
    let all: Vec<usize> = (0..columns.len()).collect();
    let chars = |n: usize| {
        let cells = rows.iter().map(|row| row[n].width()).max().unwrap_or(0);
        cells.max(columns[n].width())
    };
    let mut fitted: Vec<_> = chosen
        .unwrap_or(&all)
        .iter()
        .map(|&n| (n, chars(n)))
        .collect();
    let mut spare = R::SPARE_COLUMNS.iter();
    loop {
        let used: usize = fitted.iter().map(|(_, chars)| chars + GAP_CHARS).sum();
        let Some(excess) = used
            .checked_sub(width + GAP_CHARS)
            .filter(|&excess| excess > 0)
        else {
            return fitted;
        };
        let widest = fitted
            .iter_mut()
            .filter(|(n, _)| !columns[*n].ends_with("ID"))
            .max_by_key(|(_, chars)| *chars);
        match widest {
            Some((_, chars)) if *chars > COLUMN_CHARS_MIN => {
                *chars -= excess.min(*chars - COLUMN_CHARS_MIN).clamp(1, 4);
            }
            _ if chosen.is_some() => return fitted,
            _ => match spare.next() {
                Some(left_out) => {
                    fitted.retain(|(n, _)| columns[*n] != *left_out);
                    // Columns that were cut get back the room that is left.
                    for (n, kept) in &mut fitted {
                        *kept = chars(*n);
                    }
                }
                None => return fitted,
            },
        }
    }
}

/// As much of a cell as fits.
pub(super) fn cut(cell: &str, chars_max: usize) -> String {
    if cell.width() <= chars_max {
        return cell.to_owned();
    }
    let mut kept = String::new();
    for character in cell.chars() {
        if kept.width() + character.width().unwrap_or(0) + 1 > chars_max {
            break;
        }
        kept.push(character);
    }
    kept + "…"
}

/// Prints resources one by one: as lines of field and value, or as documents.
pub(super) struct Singles {
    format: Format,
    printed: usize,
}

impl Singles {
    pub(super) fn new(format: Format) -> Self {
        Singles { format, printed: 0 }
    }

    pub(super) fn print<R: Row>(&mut self, row: &R) -> Result<(), Error> {
        let document = row.document();
        let mut out = io::stdout().lock();
        match self.format {
            Format::Name => writeln!(out, "{}", Printable(row.id()))?,
            Format::Yaml => writeln!(out, "---\n{}", yaml(&document)?)?,
            Format::Json | Format::Jsonl => writeln!(out, "{}", self.format.one(&document)?)?,
            Format::Table => {
                if self.printed > 0 {
                    writeln!(out)?;
                }
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
        self.printed += 1;
        Ok(())
    }
}

/// Prints one resource.
pub(super) fn print_one<R: Row>(row: &R, format: Format) -> Result<(), Error> {
    Singles::new(format).print(row)
}

/// The leaves of a document that are set, by their paths.
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

/// Seconds since the Unix epoch in a form for people. Empty if the time is not known.
pub(super) fn time(seconds: i64) -> String {
    match Timestamp::from_second(seconds) {
        Ok(time) if seconds > 0 => time.to_string(),
        _ => String::new(),
    }
}

/// So many of something, in words.
pub(super) struct Count(pub(super) u64, pub(super) &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count(count, noun) = self;
        write!(f, "{count} {noun}{}", if *count == 1 { "" } else { "s" })
    }
}

/// Text whose control characters are escaped: a stored name must not move a reader's cursor, or reverse its line.
pub(super) struct Printable<'a>(pub(super) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if is_steering(character) {
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
        assert_eq!(Printable("a\u{202e}b").to_string(), "a\\u{202e}b");
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

    struct Thing(&'static str, &'static str);

    impl Row for Thing {
        const COLUMNS: &'static [&'static str] = &["THING ID", "NAME", "LEVEL", "HOST"];
        const SPARE_COLUMNS: &'static [&'static str] = &["LEVEL", "HOST"];

        fn cells(&self) -> Vec<String> {
            vec![self.id().into(), self.0.into(), "0".into(), self.1.into()]
        }

        fn id(&self) -> &'static str {
            "0ae284d514eb47dd84154748b5056749"
        }

        fn project(&self) -> &'static str {
            "p"
        }

        fn document(&self) -> Value {
            json!({})
        }
    }

    #[test]
    fn a_table_fits_into_the_terminal_and_ids_stay_whole() {
        let long = "a-name-that-goes-on-and-on-and-on-and-on-and-on";
        let rows = [Thing(long, "host"), Thing("short", long)].map(|thing| thing.cells());
        let used = |fitted: &[(usize, usize)]| {
            fitted
                .iter()
                .map(|(_, chars)| chars + GAP_CHARS)
                .sum::<usize>()
                - GAP_CHARS
        };
        for width in [70, 80, 100] {
            let fitted = fit::<Thing>(Thing::COLUMNS, &rows, width, None);
            assert!(used(&fitted) <= width, "{width}: {fitted:?}");
            assert_eq!(fitted[0], (0, 32));
        }
        let fitted = fit::<Thing>(Thing::COLUMNS, &rows, 65, None);
        assert_eq!(
            (fitted.len(), used(&fitted)),
            (3, 65),
            "no room is left: {fitted:?}"
        );
        let narrow = fit::<Thing>(Thing::COLUMNS, &rows, 50, None);
        assert_eq!(narrow.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1]);
        let wide = fit::<Thing>(Thing::COLUMNS, &rows, 1000, None);
        assert_eq!(wide[1], (1, long.len()));
        assert_eq!(
            (cut("日本語", 5), cut("short", 5)),
            ("日本…".into(), "short".into())
        );
    }

    #[test]
    fn a_column_to_sort_by_is_found_however_it_is_written() {
        let columns = ["THING ID", "NAME"];
        assert_eq!(sort_column("thing-id", &columns).unwrap(), (0, false));
        assert_eq!(sort_column("-Name", &columns).unwrap(), (1, true));
        assert!(sort_column("size", &columns).is_err());
        assert!(in_order("9", "10").is_lt() && in_order("b", "a").is_gt());
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
