//! What a server listens on, and the connections that it accepts there.

use std::{
    fmt, io,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::DuplexStream,
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};

use super::{
    Limits, Tls,
    connection::{Accepted, Connection, Transport},
    metrics::Metrics,
    tls::Protocol,
    until,
};

/// File descriptors that are kept free of connections: the store needs some for its file, snapshots and sled.
const FILES_RESERVED: usize = 40;
/// How long to wait after a connection could not be accepted.
pub(super) const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long requests under way may take to finish when the server ends.
const DRAIN: Duration = Duration::from_secs(8);
/// How often a server logs that it accepts no more connections.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What a server accepts connections from: tokio's `TcpListener` or `UnixListener`, or, for a client in the same process, one half
/// of `tokio::io::duplex`, which is one connection.
pub struct Listener {
    source: Source,
    tls: Option<Tls>,
    pub(super) limits: Limits,
}

impl Listener {
    /// Uses TLS on its connections.
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Listener {
        self.tls = Some(tls);
        self
    }

    /// Whether it uses TLS.
    #[cfg(feature = "http")]
    pub(super) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Sets the limits for its callers.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Listener {
        self.limits = limits;
        self
    }
}

impl From<Source> for Listener {
    fn from(source: Source) -> Self {
        Listener {
            source,
            tls: None,
            limits: Limits::default(),
        }
    }
}

enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
    /// The first accept takes it.
    Duplex(Mutex<Option<DuplexStream>>),
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Source::Tcp(listener).into()
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Source::Unix(listener).into()
    }
}

impl From<DuplexStream> for Listener {
    fn from(stream: DuplexStream) -> Self {
        Source::Duplex(Mutex::new(Some(stream))).into()
    }
}

/// Accepts connections that begin to speak `protocol`, and runs `converse` on each. There are never more than the limit, and never
/// more than the process has file descriptors for: others wait to be accepted. Once `ends` is true no more are accepted, and
/// `converse` has to end those that are open. They have some seconds for that.
pub(super) async fn serve<C: Future<Output = ()> + Send + 'static>(
    Listener {
        source,
        tls,
        limits,
    }: Listener,
    protocol: Protocol,
    metrics: Metrics,
    ends: watch::Receiver<bool>,
    converse: impl Fn(Connection) -> C,
) {
    let (cuts, cut) = watch::channel(false);
    let acceptor = Acceptor {
        source,
        protocol,
        tls,
        greeting_timeout: limits.greeting_timeout,
        metrics,
        cut,
        places: Arc::new(Semaphore::new(connections_max(limits.connections))),
        told: Mutex::new(None),
    };
    // A connection that has not begun yet holds a place, too, so that the sets are never larger than the number of places.
    let (mut greeting, mut open) = (JoinSet::new(), JoinSet::new());
    let mut ended = pin!(until(ends));
    loop {
        tokio::select! {
            connection = acceptor.next(&mut greeting) => {
                open.spawn(converse(connection));
            }
            Some(_) = open.join_next() => {}
            () = &mut ended => break,
        }
    }
    // The listener is closed, so that new callers are refused at once.
    drop((acceptor, greeting));
    let all = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        let seconds = DRAIN.as_secs();
        tracing::warn!(seconds, "requests still under way are broken off");
        cuts.send_replace(true);
        while open.join_next().await.is_some() {}
    }
}

fn connections_max(wanted: usize) -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    });
    files.saturating_sub(FILES_RESERVED).min(wanted).max(1)
}

struct Acceptor {
    source: Source,
    protocol: Protocol,
    tls: Option<Tls>,
    greeting_timeout: Duration,
    metrics: Metrics,
    cut: watch::Receiver<bool>,
    /// One permit for each connection that may be open.
    places: Arc<Semaphore>,
    /// When it was last logged that there are no permits left.
    told: Mutex<Option<Instant>>,
}

impl Acceptor {
    async fn next(&self, greeting: &mut JoinSet<io::Result<Connection>>) -> Connection {
        loop {
            tokio::select! {
                Some(greeted) = greeting.join_next() => match greeted {
                    Ok(Ok(connection)) => return connection,
                    Ok(Err(error)) => {
                        self.metrics.disconnected().because("greeting");
                        tracing::debug!(%error, "a connection did not begin as it must");
                    }
                    Err(error) => tracing::error!(%error, "a connection's beginning failed"),
                },
                accepted = self.accept() => {
                    let (tls, cut) = (self.tls.clone(), self.cut.clone());
                    let greet = accepted.greet(self.protocol, tls, self.greeting_timeout, cut);
                    greeting.spawn(greet);
                }
            }
        }
    }

    /// The next connection, as soon as there is a place for it. Dropping the future loses no connection.
    async fn accept(&self) -> Accepted {
        let place = self.place().await;
        let mut failing = false;
        loop {
            match self.source.accept().await {
                Ok((transport, name)) => {
                    return Accepted {
                        transport,
                        name,
                        place,
                        counted: self.metrics.connected(),
                    };
                }
                // The caller has gone again. The next one may be there already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Most likely there are too few file descriptors. Trying again at once would only keep the processor busy.
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "no connection can be accepted: trying again");
                    }
                    failing = true;
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        let places = self.places.clone();
        if let Ok(place) = places.clone().try_acquire_owned() {
            return place;
        }
        self.tell_that_all_are_taken();
        let place = places.acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    fn tell_that_all_are_taken(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            *told = Some(Instant::now());
            tracing::warn!("all connections are taken: others wait until one ends");
        }
    }
}

impl Source {
    async fn accept(&self) -> io::Result<(Box<dyn Transport>, Arc<str>)> {
        match self {
            Source::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Without this, a call waits for a delayed ACK.
                stream.set_nodelay(true)?;
                Ok((Box::new(stream), address.to_string().into()))
            }
            Source::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let process = stream.peer_cred().ok().and_then(|cred| cred.pid());
                let name = process.map_or("unix".into(), |pid| format!("unix:pid {pid}").into());
                Ok((Box::new(stream), name))
            }
            Source::Duplex(stream) => {
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
                match stream {
                    Some(stream) => Ok((Box::new(stream), "in memory".into())),
                    None => std::future::pending().await,
                }
            }
        }
    }
}
