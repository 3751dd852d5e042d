//! `icebox serve`: the server in the foreground.

use std::{
    io::IsTerminal,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tracing_subscriber::EnvFilter;

use super::{
    Error,
    listen::{self, Listen},
};
use crate::{Access, Icebox, Tls, Tokens, clock, store};

/// Serve a catalog over gRPC
///
/// Without --tokens, whoever reaches the address is a local administrator, so it must be one that only this machine can
/// reach. SIGTERM and Ctrl-C finish what is under way; a second one ends at once.
#[derive(Clone, clap::Args)]
#[command(after_help = "Examples:
  icebox serve
  icebox serve --listen 127.0.0.1:0 --store /var/lib/icebox/icebox.db
  icebox serve --listen unix:/run/icebox.sock")]
pub(super) struct Args {
    /// Where to listen: IP:PORT (port 0 picks a free one) or unix:PATH
    #[arg(long, env = "ICEBOX_LISTEN", default_value = "127.0.0.1:50051")]
    listen: Listen,
    /// The store's file, made if it is missing
    #[arg(
        long,
        env = "ICEBOX_STORE",
        default_value = "icebox.db",
        value_name = "FILE"
    )]
    store: PathBuf,
    /// The directory of what lists are read from, which is made anew where it is missing; FILE.view without it
    #[arg(long, env = "ICEBOX_VIEW", value_name = "DIR")]
    view: Option<PathBuf>,
    /// Memory for the store's cache, in MiB; the process takes up to 380 MiB more
    #[arg(long, env = "ICEBOX_CACHE_MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(8..=1 << 20))]
    cache_mib: u64,
    /// The store's file is not written anew before its journal has grown by so much, in MiB
    #[arg(long, env = "ICEBOX_REWRITE_FLOOR_MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(..=1 << 20))]
    rewrite_floor_mib: u64,
    /// Ask every caller for a token of this file, made with `icebox token new`; it is read again on SIGHUP
    #[arg(long, env = "ICEBOX_TOKENS", value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Speak TLS with this certificate, and those that lead to its issuer behind it: PEM
    #[arg(
        long,
        env = "ICEBOX_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key: PEM, in a file that others cannot read
    #[arg(
        long,
        env = "ICEBOX_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
    /// Ask whoever connects for a certificate of this issuer, PEM: by a name in it they are known as by a token
    #[arg(
        long,
        env = "ICEBOX_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "tls_cert",
        requires = "tokens"
    )]
    tls_client_ca: Option<PathBuf>,
    /// Listen on an address that others can reach, without TLS, or without asking anybody who they are
    #[arg(long)]
    insecure: bool,
}

/// Of the mode of a file.
const READABLE_BY_OTHERS: u32 = 0o004;
/// Reads that may wait for the disk at the same time; further ones queue.
const READING_THREADS_MAX: usize = 64;

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let is_safe = args.tokens.is_some() && args.tls_cert.is_some();
    let is_exposed = !args.listen.is_local() && !is_safe;
    if is_exposed && !args.insecure {
        return Err(Error::Usage(format!(
            "{} can be reached from other machines, and {}; or listen on 127.0.0.1 or unix:PATH, or say --insecure",
            args.listen,
            if args.tokens.is_some() {
                "tokens would go there in plain text: give it --tls-cert and --tls-key"
            } else {
                "whoever reaches it may do everything: give it --tokens, --tls-cert and --tls-key"
            }
        )));
    }
    // Whoever reads the log must not hold up the server: what is not taken in time is dropped.
    let (stderr, _log_until_the_end) = tracing_appender::non_blocking(std::io::stderr());
    let is_json = log_to(stderr)?;
    // sled makes its files readable to all unless told otherwise.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let failed = |error: std::io::Error| Error::Failed(format!("could not start: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(READING_THREADS_MAX)
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let (first, asked_to_end) = oneshot::channel();
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            // Nobody listens if the server has ended by itself.
            let _ = first.send(());
            either(&mut terminate, &mut interrupt).await;
            tracing::warn!("asked to end again: ending at once");
            std::process::exit(1);
        });
        let asks = args.tokens.is_some();
        let announce = |bound: &Listen| {
            if is_json {
                // Whatever is logged, who started it learns the address.
                let line = serde_json::json!({
                    "timestamp": jiff::Timestamp::from_millisecond(
                        i64::try_from(clock::now_ms()).expect("before the year 10000")
                    ).expect("before the year 10000").to_string(),
                    "level": "INFO",
                    "fields": {"message": "listening", "address": bound.to_string()},
                    "target": "icebox",
                });
                eprintln!("{line}");
            } else {
                eprintln!("icebox: listening on {bound}");
            }
            if let Listen::Unix(_) = bound {
                tracing::info!(
                    "grpcurl needs `-authority localhost` here: a path is no authority in HTTP/2"
                );
            }
            if is_exposed && asks {
                tracing::warn!(
                    "others can read what goes to and from {bound}, the tokens among it"
                );
            } else if is_exposed {
                tracing::warn!("whoever reaches {bound} may do everything");
            }
        };
        serve(args, announce, asked_to_end).await
    })
}

/// Serves until `asked_to_end` resolves.
async fn serve(
    args: &Args,
    announce: impl FnOnce(&Listen),
    mut asked_to_end: oneshot::Receiver<()>,
) -> Result<(), Error> {
    let identity = Identity::read(args)?;
    identity.follow(args)?;
    let Identity { access, tls } = identity;
    // Bound first: a taken address is told at once, however long the store takes to open. Whoever connects from now on is
    // answered once it is.
    let (listener, bound) = listen::bind(&args.listen)
        .await
        .map_err(|error| Error::Failed(format!("could not listen on {}: {error}", args.listen)))?;
    let listener = match tls {
        Some(tls) => listener.with_tls(tls),
        None => listener,
    };
    announce(&bound.listen);
    let options = store::Options {
        cache_bytes: args.cache_mib << 20,
        view: args.view.clone(),
        rewrite_floor_bytes: args.rewrite_floor_mib << 20,
        ..store::Options::default()
    };
    let failed = |error: &dyn std::fmt::Display| {
        Error::Failed(format!("store {}: {error}", args.store.display()))
    };
    let icebox = tokio::select! {
        opened = Icebox::open(&args.store, options) => opened.map_err(|error| failed(&error))?,
        _ = &mut asked_to_end => {
            tracing::info!("shutting down before the store is open");
            return Ok(());
        }
    };
    let serving = icebox.serve_those(listener, access);
    tracing::info!(revision = icebox.revision(), "serving");
    tokio::select! {
        served = serving => {
            return served.map_err(|error| Error::Failed(format!("the server failed: {error}")));
        }
        _ = asked_to_end => {}
    }
    tracing::info!("shutting down: finishing what is under way");
    icebox.close().await.map_err(|error| failed(&error))
}

/// What is read again on SIGHUP: who may call, and the certificate.
struct Identity {
    /// The bearers of the tokens in the file, or whoever can connect.
    access: Access,
    tls: Option<Tls>,
}

impl Identity {
    /// # Errors
    /// What is wrong with which file.
    fn read(args: &Args) -> Result<Identity, Error> {
        Ok(Identity {
            access: match &args.tokens {
                Some(file) => Access::with_tokens(tokens(file).map_err(Error::Failed)?),
                None => Access::default(),
            },
            tls: tls(args).map_err(Error::Failed)?,
        })
    }

    /// Reads it again whenever the process is told to. What is wrong stays as it was.
    fn follow(&self, args: &Args) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::Failed(format!("could not start: {error}"));
        let mut hangups = signal(SignalKind::hangup()).map_err(failed)?;
        let (access, current) = (self.access.clone(), self.tls.clone());
        let args = args.clone();
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                match args.tokens.as_deref().map(tokens).transpose() {
                    Ok(Some(tokens)) => {
                        tracing::info!(tokens = tokens.len(), "the tokens were read again");
                        access.replace_tokens(tokens);
                    }
                    Ok(None) => {}
                    Err(why) => tracing::error!(%why, "the tokens stay as they were"),
                }
                match tls(&args) {
                    Ok(new) => {
                        if let (Some(current), Some(new)) = (&current, new) {
                            tracing::info!("the certificate was read again");
                            current.replace(&new);
                        }
                    }
                    Err(why) => tracing::error!(%why, "the certificate stays as it was"),
                }
            }
        });
        Ok(())
    }
}

fn tokens(file: &Path) -> Result<Tokens, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| format!("{shown} cannot be read: {error}"))?;
    Tokens::parse(&text).map_err(|wrong| format!("{shown}: {wrong}"))
}

/// The certificate, if there is one.
fn tls(args: &Args) -> Result<Option<Tls>, String> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else {
        return Ok(None);
    };
    let read = |file: &Path| {
        std::fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
    };
    let (certificate_pem, key_pem) = (read(certificate)?, read(key)?);
    let mode = std::fs::metadata(key).map_or(0, |metadata| metadata.mode());
    if mode & READABLE_BY_OTHERS != 0 {
        return Err(format!(
            "{} can be read by others: chmod 600 it, and think of another key",
            key.display()
        ));
    }
    let unusable = |files: &[&Path], error: &dyn std::fmt::Display| {
        let files: Vec<_> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        format!("{}: {error}", files.join(" with "))
    };
    let tls = Tls::from_pem(&certificate_pem, &key_pem)
        .map_err(|error| unusable(&[certificate, key], &error))?;
    let Some(issuer) = &args.tls_client_ca else {
        return Ok(Some(tls));
    };
    let tls = tls.asking_for_certificates_of(&read(issuer)?);
    tls.map(Some).map_err(|error| unusable(&[issuer], &error))
}

async fn either(
    terminate: &mut tokio::signal::unix::Signal,
    interrupt: &mut tokio::signal::unix::Signal,
) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// For people on a terminal, as JSON for what collects logs elsewhere, which is said. `ICEBOX_LOG` chooses what is logged.
///
/// # Errors
/// If that cannot be understood.
fn log_to(stderr: tracing_appender::non_blocking::NonBlocking) -> Result<bool, Error> {
    let filter = match std::env::var("ICEBOX_LOG") {
        Ok(filter) if !filter.is_empty() => {
            EnvFilter::builder().parse(&filter).map_err(|error| {
                Error::Usage(format!(
                    "ICEBOX_LOG={filter}: {error}; it is a filter such as info,icebox=debug"
                ))
            })?
        }
        _ => EnvFilter::new("info,sled=warn"),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    let is_json = !std::io::stderr().is_terminal();
    if is_json {
        log.json().with_span_list(false).init();
    } else {
        log.init();
    }
    Ok(is_json)
}
