//! The options of `icebox serve`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::builder::RangedU64ValueParser;

use crate::{Limits, cli::listen::Listen};

/// Serve a catalog over gRPC
///
/// Without --tokens, everybody who reaches the address is a local administrator, so that it must be one that only this machine
/// can reach. After SIGTERM or Ctrl-C the server finishes what is under way; a second signal ends it at once.
#[derive(Clone, clap::Args)]
#[command(after_help = "Examples:
  icebox serve
  icebox serve --listen 127.0.0.1:0 --store /var/lib/icebox/icebox.db
  icebox serve --listen unix:/run/icebox.sock
  icebox serve --http 127.0.0.1:9090")]
pub(crate) struct Args {
    /// Where to listen: IP:PORT (port 0 picks a free one) or unix:PATH
    #[arg(long, env = "ICEBOX_LISTEN", default_value = "127.0.0.1:50051")]
    pub(super) listen: Listen,
    /// The store's file, made if it is missing
    #[arg(
        long,
        env = "ICEBOX_STORE",
        default_value = "icebox.db",
        value_name = "FILE"
    )]
    pub(super) store: PathBuf,
    /// The directory of the view, from which lists are read; it is made again if it is missing [default: FILE.view]
    #[arg(long, env = "ICEBOX_VIEW", value_name = "DIR")]
    pub(super) view: Option<PathBuf>,
    /// Memory for the store's cache, in MiB; the process takes up to 256 MiB more
    #[arg(long, env = "ICEBOX_CACHE_MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(8..=1 << 20))]
    pub(super) cache_mib: u64,
    /// Write the store's file anew only after its journal has grown by this much, in MiB
    #[arg(long, env = "ICEBOX_REWRITE_FLOOR_MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(..=1 << 20))]
    pub(super) rewrite_floor_mib: u64,
    /// How much of the journal to keep for `icebox audit` and for those who follow changes, in MiB; more is removed when the file
    /// is written anew
    #[arg(long, env = "ICEBOX_HISTORY_MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(..=1 << 20))]
    pub(super) history_mib: u64,
    /// The most changes to keep of it
    #[arg(long, env = "ICEBOX_HISTORY_CHANGES", value_name = "N")]
    pub(super) history_changes: Option<u64>,
    /// The most days to keep of it
    #[arg(long, env = "ICEBOX_HISTORY_DAYS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) history_days: Option<u32>,
    /// Ask every caller for a token from this file, made with `icebox token new`; SIGHUP reads the file again
    #[arg(long, env = "ICEBOX_TOKENS", value_name = "FILE")]
    pub(super) tokens: Option<PathBuf>,
    /// Use TLS with this certificate, followed by those that lead to its issuer: PEM
    #[arg(
        long,
        env = "ICEBOX_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub(super) tls_cert: Option<PathBuf>,
    /// The certificate's private key: PEM, in a file that others cannot read
    #[arg(
        long,
        env = "ICEBOX_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub(super) tls_key: Option<PathBuf>,
    /// Ask clients for a certificate of this issuer (PEM); a name in it identifies them as a token does
    #[arg(
        long,
        env = "ICEBOX_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "tls_cert",
        requires = "tokens"
    )]
    pub(super) tls_client_ca: Option<PathBuf>,
    /// Also serve Freezer's HTTP API v2 on IP:PORT or unix:PATH, with the same callers, TLS and limits
    #[arg(long, env = "ICEBOX_HTTP", value_name = "ADDRESS")]
    pub(super) http: Option<Listen>,
    /// Serve Prometheus over HTTP on this address: /metrics, /livez and /readyz, without authentication
    #[arg(long, env = "ICEBOX_METRICS", value_name = "IP:PORT")]
    pub(super) metrics: Option<SocketAddr>,
    /// Allow an address that others can reach without TLS or without authentication
    #[arg(long, env = "ICEBOX_INSECURE")]
    pub(super) insecure: bool,
    /// What to log: a filter such as info,icebox=debug
    #[arg(
        long,
        env = "ICEBOX_LOG",
        value_name = "FILTER",
        default_value = "info,sled=warn"
    )]
    pub(super) log: String,
    /// A TOML file for settings that neither the command line nor the environment sets; its keys are the options' names
    #[arg(long, env = "ICEBOX_SERVE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

impl Args {
    pub(super) fn limits(&self) -> Limits {
        let own = &self.limits;
        Limits {
            connections: own.connections_max,
            streams_per_connection: own.streams_per_connection_max,
            calls: own.calls_max,
            calls_per_caller: own.calls_per_caller_max,
            calls_bytes: own.calls_mib_max << 20,
            streams: own.streams_max,
            streams_per_caller: own.streams_per_caller_max,
            request_bytes: own.request_kib_max << 10,
            header_bytes: own.header_kib_max << 10,
            greeting_timeout: Duration::from_millis(own.greeting_timeout_ms),
            request_timeout: Duration::from_millis(own.request_timeout_ms),
            stall_timeout: Duration::from_millis(own.stall_timeout_ms),
            stalled_bytes: own.stalled_mib_max << 20,
            bookmark_interval: Duration::from_millis(own.bookmark_interval_ms),
            keepalive_interval: Duration::from_millis(own.keepalive_interval_ms),
            keepalive_timeout: Duration::from_millis(own.keepalive_timeout_ms),
        }
    }
}

/// The server's limits: see [`Limits`].
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// The most connections at a time; others wait
    #[arg(long, env = "ICEBOX_CONNECTIONS_MAX", default_value_t = 1024, value_parser = count())]
    connections_max: usize,
    /// The most calls at a time on one connection
    #[arg(long, env = "ICEBOX_STREAMS_PER_CONNECTION_MAX", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    streams_per_connection_max: u32,
    /// The most calls at a time, without streams; others are refused with UNAVAILABLE
    #[arg(long, env = "ICEBOX_CALLS_MAX", default_value_t = 1024, value_parser = count())]
    calls_max: usize,
    /// The most calls at a time with one token; others are refused, too
    #[arg(long, env = "ICEBOX_CALLS_PER_CALLER_MAX", default_value_t = 512, value_parser = count())]
    calls_per_caller_max: usize,
    /// The most memory for the requests of calls under way, in MiB; others are refused with UNAVAILABLE
    #[arg(long, env = "ICEBOX_CALLS_MIB_MAX", default_value_t = 8, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 16))]
    calls_mib_max: usize,
    /// The most streams at a time: watches, snapshots, reflection
    #[arg(long, env = "ICEBOX_STREAMS_MAX", default_value_t = 10_240, value_parser = count())]
    streams_max: usize,
    /// The most streams at a time with one token
    #[arg(long, env = "ICEBOX_STREAMS_PER_CALLER_MAX", default_value_t = 1024, value_parser = count())]
    streams_per_caller_max: usize,
    /// The largest message of a request, in KiB
    #[arg(long, env = "ICEBOX_REQUEST_KIB_MAX", default_value_t = 1024, value_parser = RangedU64ValueParser::<usize>::new().range(128..=16 << 10))]
    request_kib_max: usize,
    /// The largest headers of a request, in KiB
    #[arg(long, env = "ICEBOX_HEADER_KIB_MAX", default_value_t = 32, value_parser = clap::value_parser!(u32).range(4..=1024))]
    header_kib_max: u32,
    /// How long a connection may take to begin, with TLS
    #[arg(long, env = "ICEBOX_GREETING_TIMEOUT_MS", default_value_t = 10_000, value_parser = milliseconds())]
    greeting_timeout_ms: u64,
    /// How long a call may take until its answer begins
    #[arg(long, env = "ICEBOX_REQUEST_TIMEOUT_MS", default_value_t = 60_000, value_parser = milliseconds())]
    request_timeout_ms: u64,
    /// How long an answer may wait until it is read; messages of a stream may wait longer
    #[arg(long, env = "ICEBOX_STALL_TIMEOUT_MS", default_value_t = 60_000, value_parser = milliseconds())]
    stall_timeout_ms: u64,
    /// The most that may wait to be read, in MiB; beyond that, the connection that has waited longest is closed
    #[arg(long, env = "ICEBOX_STALLED_MIB_MAX", default_value_t = 32, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 16))]
    stalled_mib_max: usize,
    /// How often a watch reports its revision when nothing happens
    #[arg(long, env = "ICEBOX_BOOKMARK_INTERVAL_MS", default_value_t = 15_000, value_parser = milliseconds())]
    bookmark_interval_ms: u64,
    /// How often an idle connection is asked for a sign of life
    #[arg(long, env = "ICEBOX_KEEPALIVE_INTERVAL_MS", default_value_t = 20_000, value_parser = milliseconds())]
    keepalive_interval_ms: u64,
    /// How long a connection may take to answer that
    #[arg(long, env = "ICEBOX_KEEPALIVE_TIMEOUT_MS", default_value_t = 20_000, value_parser = milliseconds())]
    keepalive_timeout_ms: u64,
}

fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1 << 20)
}

/// At least one, and at most the number of milliseconds in a day.
fn milliseconds() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(1..=86_400_000)
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches};

    use super::*;

    #[test]
    fn what_is_not_said_is_as_a_program_has_it_that_embeds_icebox() {
        let command = Args::augment_args(clap::Command::new("serve"));
        let matches = command.get_matches_from(["serve"]);
        let args = Args::from_arg_matches(&matches).unwrap();
        assert_eq!(args.limits(), Limits::default());
    }
}
