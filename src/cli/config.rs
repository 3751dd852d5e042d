//! Settings of `icebox serve` in a file, and `icebox config`, which shows what counts.
//!
//! The keys of a file are the names of the options. Options that neither the command line nor the environment sets are added to the
//! command line from the file. So an option follows the same rules wherever it is set.

use std::{
    ffi::OsString,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches, parser::ValueSource};

use super::{Cli, Error, serve};
use crate::{identity::wrong_in_toml, resource::nearest};

/// What counts of the settings of `icebox serve`
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print every setting as a file would have it, and where its value comes from
    #[command(after_help = "Examples:
  icebox config print
  icebox config print --config /etc/icebox/icebox.toml --cache-mib 512")]
    Print(serve::Args),
}

/// The command line, and what a file adds to it.
pub(super) struct Settings {
    pub(super) cli: Cli,
    /// The command line with what the file adds.
    whole: ArgMatches,
    /// The command line alone.
    own: ArgMatches,
    file: Option<PathBuf>,
}

impl Settings {
    /// Parses the command line. If it is wrong, the process ends as clap ends it.
    ///
    /// # Errors
    /// If the file that it names is wrong.
    pub(super) fn parse() -> Result<Settings, Error> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let (own, refused) = match Cli::command().try_get_matches_from(&arguments) {
            Ok(own) => (own, None),
            // The file may still set what is missing.
            Err(error) => {
                let lenient = Cli::command().ignore_errors(true);
                match lenient.try_get_matches_from(&arguments) {
                    Ok(own) if file_in(&own).is_some() => (own, Some(error)),
                    _ => error.exit(),
                }
            }
        };
        let Some(file) = file_in(&own) else {
            return Ok(Settings::of(own.clone(), own, None));
        };
        let added = added(&file, innermost(&own))?;
        let with_file = arguments.into_iter().chain(added);
        let whole = Cli::command().try_get_matches_from(with_file);
        let whole = whole.unwrap_or_else(|error| {
            if let Some(refused) = refused {
                refused.exit();
            }
            eprintln!("icebox: the settings in {} are refused:", file.display());
            error.exit()
        });
        Ok(Settings::of(whole, own, Some(file)))
    }

    fn of(whole: ArgMatches, own: ArgMatches, file: Option<PathBuf>) -> Settings {
        Settings {
            cli: Cli::from_arg_matches(&whole).unwrap_or_else(|error| error.exit()),
            whole,
            own,
            file,
        }
    }

    /// Where the value of a setting comes from, if it has a value.
    fn origin(&self, arg: &Arg) -> Option<String> {
        let id = arg.get_id().as_str();
        let own = innermost(&self.own).value_source(id);
        match own {
            Some(ValueSource::CommandLine) => Some("the command line".into()),
            Some(ValueSource::EnvVariable) => {
                let name = arg.get_env().unwrap_or_default();
                Some(name.to_string_lossy().into_owned())
            }
            _ => match (innermost(&self.whole).value_source(id), &self.file) {
                (Some(ValueSource::CommandLine), Some(file)) => Some(file.display().to_string()),
                (source, _) => source.map(|_| "default".into()),
            },
        }
    }
}

pub(super) fn run(settings: &Settings) -> Result<(), Error> {
    let whole = innermost(&settings.whole);
    let mut text = String::new();
    for arg in options() {
        let Some(key) = key(&arg).filter(|key| *key != FILE) else {
            continue;
        };
        let raw = whole.get_raw(arg.get_id().as_str());
        let value = raw
            .and_then(|mut raw| raw.next())
            .map(|raw| toml_of(&raw.to_string_lossy()));
        let line = match (value, settings.origin(&arg)) {
            (Some(value), Some(origin)) => {
                format!("{:<50} # {origin}", format!("{key} = {value}"))
            }
            _ => format!("# {key} is not set"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    }
    Ok(std::io::Write::write_all(
        &mut std::io::stdout(),
        text.as_bytes(),
    )?)
}

/// The option that names the file. It cannot be set in the file.
const FILE: &str = "config";

/// The options of `icebox serve`.
fn options() -> Vec<Arg> {
    let command = <serve::Args as clap::Args>::augment_args(clap::Command::new("serve"));
    command.get_arguments().cloned().collect()
}

/// The key of a setting in a file.
fn key(arg: &Arg) -> Option<String> {
    arg.get_long().map(|long| long.replace('-', "_"))
}

/// The arguments of the command that was chosen.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches
        .subcommand()
        .map_or(matches, |(_, chosen)| innermost(chosen))
}

/// The file that the command line or the environment names, if the command takes one.
fn file_in(matches: &ArgMatches) -> Option<PathBuf> {
    let chosen = innermost(matches);
    let file = chosen.try_get_one::<PathBuf>(FILE).ok().flatten()?;
    Some(file.clone())
}

/// The arguments that a file adds to the command line.
fn added(file: &Path, own: &ArgMatches) -> Result<Vec<OsString>, Error> {
    let shown = file.display();
    let failed = |what: String| Error::Usage(format!("{shown}: {what}"));
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error| failed(wrong_in_toml(&text, &error)))?;
    let options: Vec<(String, Arg)> = options()
        .into_iter()
        .filter_map(|arg| Some((key(&arg)?, arg)))
        .filter(|(key, _)| key != FILE)
        .collect();
    let mut added = Vec::new();
    let mut wrong = Vec::new();
    for (name, value) in table {
        let Some((_, arg)) = options.iter().find(|(key, _)| *key == name) else {
            let near = nearest(&name, options.iter().map(|(key, _)| &**key));
            let hint = near.map_or_else(String::new, |key| format!(": is {key} meant?"));
            wrong.push(format!("there is no setting {name}{hint}"));
            continue;
        };
        let said = own.value_source(arg.get_id().as_str());
        let is_said = !matches!(said, None | Some(ValueSource::DefaultValue));
        let long = arg.get_long().unwrap_or_default();
        let is_flag = matches!(arg.get_action(), ArgAction::SetTrue);
        let argument = match value {
            toml::Value::Boolean(on) if is_flag => on.then(|| format!("--{long}")),
            toml::Value::String(text) if !is_flag => Some(format!("--{long}={text}")),
            toml::Value::Integer(number) if !is_flag => Some(format!("--{long}={number}")),
            _ => {
                let kind = if is_flag {
                    "true or false"
                } else {
                    "a text or a number"
                };
                wrong.push(format!("{name} must be {kind}"));
                continue;
            }
        };
        if !is_said {
            added.extend(argument.map(OsString::from));
        }
    }
    if wrong.is_empty() {
        Ok(added)
    } else {
        Err(failed(wrong.join("; ")))
    }
}

/// A value in TOML.
fn toml_of(text: &str) -> String {
    if text.parse::<u64>().is_ok() || matches!(text, "true" | "false") {
        text.to_owned()
    } else {
        toml::Value::from(text).to_string()
    }
}
