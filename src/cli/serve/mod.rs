//! `icebox serve`: the server in the foreground.

mod args;
mod identity;

use std::{io::IsTerminal, iter, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tracing_subscriber::EnvFilter;

use super::{
    Error,
    listen::{self, Bound, Listen},
};
use crate::{Icebox, Listener, clock, store};
pub(super) use args::Args;
use identity::Identity;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The most reads that wait for the disk at the same time; further ones queue.
const READING_THREADS_MAX: usize = 16;

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let is_exposed = check_exposure(args)?;
    // A slow reader of the log must not delay the server: lines that it does not take in time are dropped.
    let (stderr, _log_until_the_end) = tracing_appender::non_blocking(std::io::stderr());
    let is_json = log_to(stderr, &args.log)?;
    // sled would make its files readable by everybody.
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
            // Sending fails if the server has already ended by itself.
            let _ = first.send(());
            either(&mut terminate, &mut interrupt).await;
            tracing::warn!("asked to end again: ending at once");
            std::process::exit(1);
        });
        let asks = args.tokens.is_some();
        let announce = |bound: &Listen, http: Option<&Listen>| {
            tell_address(is_json, "listening", bound);
            if let Some(http) = http {
                tell_address(is_json, "listening for HTTP", http);
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

/// Tells the address. The person who started the server learns it even if the filter logs nothing.
fn tell_address(is_json: bool, message: &str, address: &Listen) {
    if !is_json {
        eprintln!("icebox: {message} on {address}");
        return;
    }
    let now_ms = i64::try_from(clock::now_ms()).expect("before the year 10000");
    let now = jiff::Timestamp::from_millisecond(now_ms).expect("before the year 10000");
    let line = serde_json::json!({
        "timestamp": now.to_string(),
        "level": "INFO",
        "fields": {"message": message, "address": address.to_string()},
        "target": "icebox",
    });
    eprintln!("{line}");
}

/// Whether others can reach the server although it is not safe. The options must say that this is meant.
///
/// # Errors
/// If they do not.
fn check_exposure(args: &Args) -> Result<bool, Error> {
    let is_safe = args.tokens.is_some() && args.tls_cert.is_some();
    let mut listens = iter::once(&args.listen).chain(&args.http);
    let exposed = listens.find(|listen| !listen.is_local() && !is_safe);
    if args.insecure {
        return Ok(exposed.is_some());
    }
    if let Some(metrics) = args.metrics.filter(|metrics| !metrics.ip().is_loopback()) {
        return Err(Error::Usage(format!(
            "the metrics on {metrics} can be reached from other machines, and whoever reaches them reads them; let them be on \
             127.0.0.1, or say --insecure"
        )));
    }
    if let Some(listen) = exposed {
        return Err(Error::Usage(format!(
            "{listen} can be reached from other machines, and {}; or listen on 127.0.0.1 or unix:PATH, or say --insecure",
            if args.tokens.is_some() {
                "tokens would go there in plain text: give it --tls-cert and --tls-key"
            } else {
                "whoever reaches it may do everything: give it --tokens, --tls-cert and --tls-key"
            }
        )));
    }
    Ok(false)
}

/// Serves until `asked_to_end` resolves.
async fn serve(
    args: &Args,
    announce: impl FnOnce(&Listen, Option<&Listen>),
    mut asked_to_end: oneshot::Receiver<()>,
) -> Result<(), Error> {
    let identity = Identity::read(args)?;
    identity.follow(args)?;
    let Identity { access, tls } = identity;
    // Bind first: a taken address is reported at once, however long the store takes to open. Connections that come meanwhile are
    // answered once it is open.
    let (listener, bound) = bind(&args.listen).await?;
    let http = match &args.http {
        Some(http) => Some(bind(http).await?),
        None => None,
    };
    let metrics =
        match args.metrics {
            Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
                Error::Failed(format!("could not listen on {address}: {error}"))
            })?),
            None => None,
        };
    let taking = |listener: Listener| {
        let listener = listener.with_limits(args.limits());
        match &tls {
            Some(tls) => listener.with_tls(tls.clone()),
            None => listener,
        }
    };
    announce(&bound.listen, http.as_ref().map(|(_, bound)| &bound.listen));
    let options = store::Options {
        cache_bytes: args.cache_mib << 20,
        view: args.view.clone(),
        rewrite_floor_bytes: args.rewrite_floor_mib << 20,
        journal_keep_bytes: args.history_mib << 20,
        journal_keep_changes: args.history_changes.unwrap_or(u64::MAX),
        journal_keep_age: args.history_days.map_or(Duration::MAX, |days| DAY * days),
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
    if let Some(metrics) = metrics {
        let address = metrics.local_addr().ok();
        tracing::info!(?address, "answering Prometheus");
        // The metrics are served until the store is closed.
        drop(icebox.serve_metrics(metrics));
    }
    // The address is released at the end of this function.
    let _http_bound = http.map(|(listener, bound)| {
        drop(icebox.serve_http(taking(listener), access.clone()));
        bound
    });
    let serving = icebox.serve_those(taking(listener), access);
    tracing::info!(revision = icebox.revision(), "serving");
    tell_systemd(NotifyState::Ready);
    tokio::select! {
        served = serving => {
            return served.map_err(|error| Error::Failed(format!("the server failed: {error}")));
        }
        _ = asked_to_end => {}
    }
    tracing::info!("shutting down: finishing what is under way");
    tell_systemd(NotifyState::Stopping);
    icebox.close().await.map_err(|error| failed(&error))
}

async fn bind(listen: &Listen) -> Result<(Listener, Bound), Error> {
    let bound = listen::bind(listen).await;
    bound.map_err(|error| Error::Failed(format!("could not listen on {listen}: {error}")))
}

/// Tells systemd, or whatever else has started the process, about its state if it asked for that.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd cannot be told how the server is");
    }
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

/// Logs as text on a terminal and as JSON elsewhere. Returns which of them. The filter chooses what is logged.
///
/// # Errors
/// If the filter is not valid.
fn log_to(
    stderr: tracing_appender::non_blocking::NonBlocking,
    filter: &str,
) -> Result<bool, Error> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        Error::Usage(format!(
            "--log or ICEBOX_LOG {filter:?}: {error}; it is a filter such as info,icebox=debug"
        ))
    })?;
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
