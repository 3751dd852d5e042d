//! What `update` and `delete` of any resource have in common.

use std::io::{self, BufRead, IsTerminal, Write};

use serde_json::{Map, Value};

use super::{Error, document, output::Count};
use crate::resource::Violations;

/// Which fields to change, and to what.
#[derive(clap::Args)]
#[group(id = "source", required = true, multiple = false, args = ["assignments", "file"])]
pub(super) struct Fields {
    /// Set one field; an empty VALUE clears it
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = parse_assignment)]
    assignments: Vec<(String, String)>,
    /// Take the fields from a document; - reads standard input
    #[arg(long)]
    file: Option<String>,
    /// Change just these fields, clearing those that the document does not set; * for all
    #[arg(long, value_name = "PATHS", value_delimiter = ',', requires = "file")]
    mask: Vec<String>,
}

impl Fields {
    /// The fields as `read` reads them, and the paths of the mask.
    pub(super) fn read<T>(
        self,
        read: impl FnOnce(&Value) -> Result<(T, Vec<String>), Violations>,
    ) -> Result<(T, Vec<String>), Error> {
        if let Some(file) = &self.file {
            return Ok((document::read(file, read)?, self.mask));
        }
        // A key that `read` left out is not a field. The server says so about its path in the mask.
        let (fields, _) = read(&nested(&self.assignments))?;
        let paths = self.assignments.into_iter().map(|(path, _)| path).collect();
        Ok((fields, paths))
    }
}

/// The ids that a delete means: the ones that were typed, or the ones that `find` finds by the filter, if one is set.
///
/// # Errors
/// If there are neither, or both; if the person does not confirm.
pub(super) async fn chosen(
    typed: Vec<String>,
    is_filtered: bool,
    noun: &'static str,
    yes: bool,
    find: impl AsyncFnOnce() -> Result<Vec<String>, Error>,
) -> Result<Vec<String>, Error> {
    match (typed.is_empty(), is_filtered) {
        (false, false) => Ok(typed),
        (true, true) => {
            let found = find().await?;
            confirm(&Count(found.len() as u64, noun), yes)?;
            Ok(found)
        }
        _ => Err(Error::Usage(format!(
            "which {noun}s? Name their IDs, or a filter"
        ))),
    }
}

/// Asks for confirmation before this many are deleted, unless `yes` is set.
///
/// # Errors
/// If the answer is no, or there is no terminal to ask on.
fn confirm(what: &Count, yes: bool) -> Result<(), Error> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Error::Usage(format!(
            "{what} would be deleted: say --yes to do so"
        )));
    }
    eprint!("delete {what}? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::Failed("nothing was deleted".into())),
    }
}

fn parse_assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, value)) if !path.is_empty() => Ok((path.to_owned(), value.to_owned())),
        _ => Err("must be PATH=VALUE, as in description=weekly".into()),
    }
}

/// A document in which each path has its value.
fn nested(assignments: &[(String, String)]) -> Value {
    let mut document = Value::Object(Map::new());
    for (path, value) in assignments {
        let mut place = &mut document;
        for segment in path.split('.') {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place = &mut place[segment];
        }
        *place = Value::String(value.clone());
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn assignments_make_a_document() {
        let assignments = [
            "description=a=b",
            "job_schedule.status=",
            "job_schedule.event=stop",
        ]
        .map(|text| parse_assignment(text).unwrap());
        let expected =
            json!({"description": "a=b", "job_schedule": {"status": "", "event": "stop"}});
        assert_eq!(nested(&assignments), expected);
        assert!(parse_assignment("description").is_err() && parse_assignment("=x").is_err());
    }
}
