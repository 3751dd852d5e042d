//! Prints the events of a watch line by line as they come.

use std::{
    io::{self, Write},
    marker::PhantomData,
};

use serde_json::{Value, json};

use super::{
    Error,
    output::{Format, GAP_CHARS, Listing, Printable, Row, cut, fit, yaml},
};

/// The word for a resource that is gone.
const REMOVED: &str = "removed";

/// Prints the events of a watch: one line or one document for each.
pub(super) struct Stream<R> {
    format: Format,
    with_project: bool,
    columns: Vec<&'static str>,
    /// The terminal's width, if the table must fit into it.
    width: Option<usize>,
    has_header: bool,
    /// Lines that wait until everything stored has arrived, because the columns' widths depend on it.
    waiting: Vec<Vec<String>>,
    /// The columns to print and their widths, once they are known.
    fitted: Option<Vec<(usize, usize)>>,
    row: PhantomData<fn(R)>,
}

impl<R: Row> Stream<R> {
    /// # Errors
    /// If the rows should be sorted: a watch has no end, so that it cannot be sorted.
    pub(super) fn new(listing: &Listing, with_project: bool) -> Result<Self, Error> {
        if listing.is_sorted() {
            return Err(Error::Usage(
                "--sort: what is watched comes in the order in which it changes".into(),
            ));
        }
        let mut columns = vec!["CHANGE"];
        if with_project {
            columns.push("PROJECT");
        }
        columns.extend(R::COLUMNS);
        Ok(Stream {
            format: listing.format(),
            with_project,
            columns,
            width: listing.width(),
            has_header: listing.has_header(),
            waiting: Vec::new(),
            fitted: None,
            row: PhantomData,
        })
    }

    /// Prints a resource as it is stored now.
    pub(super) fn put(&mut self, row: &R, revision: u64) -> Result<(), Error> {
        if self.format != Format::Table {
            return self.document(
                row.id(),
                &json!({"revision": revision, "put": row.document()}),
            );
        }
        let change = if revision == 0 { "stored" } else { "put" };
        let mut cells = vec![change.to_owned()];
        if self.with_project {
            cells.push(row.project().to_owned());
        }
        cells.extend(row.cells());
        self.line(cells.into_iter())
    }

    /// Prints the id of a resource that is gone.
    pub(super) fn removed(&mut self, id: &str, revision: u64) -> Result<(), Error> {
        if self.format != Format::Table {
            return self.document(id, &json!({"revision": revision, "removed": id}));
        }
        let cells = self.columns.iter().map(|column| match *column {
            "CHANGE" => REMOVED,
            column if column.ends_with("ID") => id,
            _ => "",
        });
        let cells: Vec<_> = cells.map(str::to_owned).collect();
        self.line(cells.into_iter())
    }

    /// Prints that everything up to a revision has arrived, if the output is for programs.
    pub(super) fn synced(&mut self, revision: u64) -> Result<(), Error> {
        match self.format {
            Format::Table => self.fit(),
            Format::Name => Ok(()),
            _ => self.document("", &json!({"revision": revision, "synced": true})),
        }
    }

    fn document(&self, id: &str, document: &Value) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        match self.format {
            Format::Name => writeln!(out, "{}", Printable(id))?,
            Format::Yaml => writeln!(out, "---\n{}", yaml(document)?)?,
            format => writeln!(out, "{}", format.one(document)?)?,
        }
        Ok(out.flush()?)
    }

    fn line(&mut self, cells: impl Iterator<Item = String>) -> Result<(), Error> {
        let cells: Vec<_> = cells.map(|cell| Printable(&cell).to_string()).collect();
        if let Some(fitted) = &self.fitted {
            return print(fitted, &cells, self.width.is_some());
        }
        self.waiting.push(cells);
        Ok(())
    }

    /// Prints the lines that have waited. From now on each line is printed at once.
    fn fit(&mut self) -> Result<(), Error> {
        if self.fitted.is_some() {
            return Ok(());
        }
        let width = self.width.unwrap_or(usize::MAX - GAP_CHARS);
        // There must be room for every possible word, not only for those that have come by now.
        let mut widest = vec![String::new(); self.columns.len()];
        REMOVED.clone_into(&mut widest[0]);
        self.waiting.push(widest);
        let fitted = fit::<R>(&self.columns, &self.waiting, width, None);
        self.waiting.pop();
        if self.has_header {
            let header: Vec<_> = self.columns.iter().map(|&name| name.to_owned()).collect();
            print(&fitted, &header, false)?;
        }
        for cells in std::mem::take(&mut self.waiting) {
            print(&fitted, &cells, self.width.is_some())?;
        }
        self.fitted = Some(fitted);
        Ok(())
    }
}

/// Prints one line of a table. Columns are at least this wide, and no wider if the table must fit.
fn print(fitted: &[(usize, usize)], cells: &[String], must_fit: bool) -> Result<(), Error> {
    let cells = fitted.iter().map(|&(n, chars)| {
        let cell = if must_fit {
            cut(&cells[n], chars)
        } else {
            cells[n].clone()
        };
        format!("{cell:chars$}")
    });
    let line = cells.collect::<Vec<_>>().join(&" ".repeat(GAP_CHARS));
    let mut out = io::stdout().lock();
    writeln!(out, "{}", line.trim_end())?;
    Ok(out.flush()?)
}
