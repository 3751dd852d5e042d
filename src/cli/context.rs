//! `icebox context`: servers and projects by name, in a file.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Error;

/// Name servers and projects, and choose among them
///
/// Options and environment variables count more than the context in use.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox context set prod --server unix:/run/icebox.sock --project demo
  icebox context use prod
  icebox context list

They are kept in $ICEBOX_CONFIG, or else in icebox/config.toml below $XDG_CONFIG_HOME or ~/.config.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the contexts; the one in use has a star
    List,
    /// Use a context from now on
    Use {
        /// Its name
        name: String,
    },
    /// Make a context, or change what is named of it
    Set {
        /// Its name
        name: String,
        /// The server: host:port, http://host:port, https://host:port or unix:PATH
        #[arg(long, value_name = "ADDR")]
        server: Option<String>,
        /// The project to work in
        #[arg(long, value_name = "ID")]
        project: Option<String>,
        /// The file with the token for the server
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// Remove a context
    Delete {
        /// Its name
        name: String,
    },
}

/// A server, a project and a token file. Each may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<PathBuf>,
}

/// The configuration file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// The context in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

fn path() -> Option<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let config = || set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
    set("ICEBOX_CONFIG").or_else(|| Some(config()?.join("icebox/config.toml")))
}

impl Config {
    /// The configuration. It is empty if there is no file.
    ///
    /// # Errors
    /// If the file cannot be read, or is not valid.
    pub(super) fn read() -> Result<Config, Error> {
        let Some(path) = path() else {
            return Ok(Config::default());
        };
        let failed = |reason: String| Error::Failed(format!("{}: {reason}", path.display()));
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| failed(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The context with that name, or the one in use. It is empty if none is in use.
    ///
    /// # Errors
    /// If there is no context with that name.
    pub(super) fn context(&self, name: Option<&str>) -> Result<Context, Error> {
        match name.or(self.context.as_deref()) {
            Some(name) => self
                .contexts
                .get(name)
                .cloned()
                .ok_or_else(|| no_such(name)),
            None => Ok(Context::default()),
        }
    }

    fn write(&self) -> Result<(), Error> {
        let path = path().ok_or_else(|| {
            Error::Failed("there is no place for a configuration: set ICEBOX_CONFIG or HOME".into())
        })?;
        let text = toml::to_string(self).map_err(|error| Error::Failed(error.to_string()))?;
        replace(&path, &text).map_err(|error| {
            Error::Failed(format!("{} cannot be written: {error}", path.display()))
        })
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let temporary = tempfile::NamedTempFile::new_in(dir)?;
    fs::write(temporary.path(), text)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    Ok(())
}

fn no_such(name: &str) -> Error {
    Error::Usage(format!(
        "there is no context {name}: `icebox context list` shows those that there are"
    ))
}

pub(super) fn run(args: Args) -> Result<(), Error> {
    let mut config = Config::read()?;
    match args.command {
        Command::List => {
            for (name, context) in &config.contexts {
                let star = if config.context.as_ref() == Some(name) {
                    "*"
                } else {
                    " "
                };
                let server = context.server.as_deref().unwrap_or("-");
                let project = context.project.as_deref().unwrap_or("-");
                println!("{star} {name}  {server}  {project}");
            }
            return Ok(());
        }
        Command::Use { name } => {
            if !config.contexts.contains_key(&name) {
                return Err(no_such(&name));
            }
            config.context = Some(name);
        }
        Command::Set {
            name,
            server,
            project,
            token_file,
        } => {
            let context = config.contexts.entry(name).or_default();
            context.server = server.or(context.server.take());
            context.project = project.or(context.project.take());
            context.token_file = token_file.or(context.token_file.take());
        }
        Command::Delete { name } => {
            config
                .contexts
                .remove(&name)
                .ok_or_else(|| no_such(&name))?;
            config.context.take_if(|used| *used == name);
        }
    }
    config.write()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_reads_back_and_a_typing_error_in_it_is_told() {
        let text = "context = \"prod\"\n\n[contexts.prod]\nserver = \"unix:/run/icebox.sock\"\nproject = \"demo\"\n";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(toml::to_string(&config).unwrap(), text);
        assert_eq!(
            config.context(None).unwrap().project.as_deref(),
            Some("demo")
        );
        assert!(config.context(Some("test")).is_err());
        assert!(toml::from_str::<Config>("[contexts.prod]\nsever = \"x\"\n").is_err());
    }
}
