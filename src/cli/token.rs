//! `icebox token`: the tokens that callers show to a server.

use clap::ValueEnum;
use uuid::Uuid;

use super::Error;
use crate::identity::{Tokens, sha256_hex};

/// Make a token, and show the entry for the server's file of tokens
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox token new --role member --user-id alice --project demo >> tokens.toml
  icebox token new --role agent --user-id backup --project demo --client-id node1 >> tokens.toml
  icebox token new --role admin --user-id root --expires 2027-01-01T00:00:00Z >> tokens.toml

The token itself is shown once, on standard error: give it to its bearer. The file has only its hash, and the server reads it
with `icebox serve --tokens tokens.toml`, and again on SIGHUP.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a token
    New(New),
}

#[derive(clap::Args)]
struct New {
    /// What its bearer may do
    #[arg(long, value_enum)]
    role: RoleName,
    /// Who its bearer is: the `user_id` of what they store
    #[arg(long, value_name = "ID")]
    user_id: String,
    /// The `user_name` of what they store
    #[arg(long, value_name = "NAME")]
    user_name: Option<String>,
    /// A project of its bearer; may be given several times
    #[arg(long = "project", value_name = "ID")]
    projects: Vec<String>,
    /// The client whose agent the bearer is
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// When it expires: RFC 3339
    #[arg(long, value_name = "TIME")]
    expires: Option<jiff::Timestamp>,
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleName {
    /// Everything, in every project
    Admin,
    /// Reads and writes in its projects
    Member,
    /// Reads in its projects
    Reader,
    /// Records backups as one client, and reads and reports on that client's jobs
    Agent,
}

pub(super) fn run(args: Args) -> Result<(), Error> {
    let Command::New(new) = args.command;
    // Two random UUIDs have 244 random bits.
    let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let role = new.role.to_possible_value();
    let mut entry = toml::Table::new();
    let mut say = |key: &str, value: toml::Value| drop(entry.insert(key.into(), value));
    say("sha256", sha256_hex(&token).into());
    say("user_id", new.user_id.into());
    say("role", role.expect("each has one").get_name().into());
    if let Some(name) = new.user_name {
        say("user_name", name.into());
    }
    if !new.projects.is_empty() {
        say("projects", new.projects.into());
    }
    if let Some(client_id) = new.client_id {
        say("client_id", client_id.into());
    }
    if let Some(expires) = new.expires {
        let expires = expires.to_string().parse::<toml::value::Datetime>();
        let expires = expires.map_err(|error| Error::Usage(format!("--expires: {error}")))?;
        say("expires", expires.into());
    }
    let tables = toml::Value::Array(vec![entry.into()]);
    let document = toml::Table::from_iter([("token".to_owned(), tables)]).to_string();
    // Parse it as the server will.
    Tokens::parse(&document).map_err(|wrong| Error::Usage(wrong.to_string()))?;
    print!("{document}");
    eprintln!("{token}");
    Ok(())
}
