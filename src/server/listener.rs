//! What a server listens on, and the connections that come from there.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::{Tls, until};

/// Connections at a time: each may have 100 requests under way.
const CONNECTIONS_MAX: usize = 1024;
/// File descriptors that no connection takes: the store needs some for its file, snapshots and sled.
const FILES_RESERVED: usize = 40;
/// How long to wait after a connection could not be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often it is told that no more connections are taken.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What a server takes connections from: tokio's `TcpListener` or `UnixListener`, or, for a client in the same process, one half
/// of `tokio::io::duplex`, which is one connection.
pub struct Listener {
    source: Source,
    pub(super) tls: Option<Tls>,
}

impl Listener {
    /// Speaks TLS with whoever connects.
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Listener {
        self.tls = Some(tls);
        self
    }
}

impl From<Source> for Listener {
    fn from(source: Source) -> Self {
        Listener { source, tls: None }
    }
}

enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
    /// Taken by the first who asks.
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

/// Connections as they come, and no more at a time than the process has file descriptors for: the others wait to be accepted.
/// Once `cut` is true, those that are open fail.
pub(super) fn connections(
    Listener { source, .. }: Listener,
    cut: watch::Receiver<bool>,
) -> impl Stream<Item = io::Result<Connection>> {
    let acceptor = Acceptor {
        source,
        cut,
        places: Arc::new(Semaphore::new(connections_max())),
        told: Mutex::new(None),
    };
    futures_util::stream::unfold(acceptor, async |acceptor| {
        let connection = acceptor.next().await;
        Some((Ok(connection), acceptor))
    })
}

fn connections_max() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    });
    files
        .saturating_sub(FILES_RESERVED)
        .clamp(1, CONNECTIONS_MAX)
}

struct Acceptor {
    source: Source,
    cut: watch::Receiver<bool>,
    /// One for each connection that may be open.
    places: Arc<Semaphore>,
    /// When it was last told that all of them are taken.
    told: Mutex<Option<Instant>>,
}

impl Acceptor {
    async fn next(&self) -> Connection {
        let place = self.place().await;
        let mut failing = false;
        loop {
            match self.accept().await {
                Ok((transport, peer)) => {
                    return Connection {
                        transport,
                        peer,
                        cut: Box::pin(until(self.cut.clone())),
                        _place: place,
                    };
                }
                // That caller has gone again: the next one may be there.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Most likely there are too few file descriptors. Trying at once would only turn in circles.
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

    async fn accept(&self) -> io::Result<(Transport, Peer)> {
        match &self.source {
            Source::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Without it a call waits for a delayed ACK.
                stream.set_nodelay(true)?;
                Ok((Transport::Tcp(stream), Peer(address.to_string().into())))
            }
            Source::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let process = stream.peer_cred().ok().and_then(|cred| cred.pid());
                let peer = process.map_or("unix".into(), |pid| format!("unix:pid {pid}").into());
                Ok((Transport::Unix(stream), Peer(peer)))
            }
            Source::Duplex(stream) => {
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
                match stream {
                    Some(stream) => Ok((Transport::Duplex(stream), Peer("in memory".into()))),
                    None => std::future::pending().await,
                }
            }
        }
    }
}

/// Who is at the other end of a connection, as logs say it.
#[derive(Clone, Debug)]
pub(super) struct Peer(pub(super) Arc<str>);

enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Duplex(DuplexStream),
}

/// One connection.
pub(super) struct Connection {
    transport: Transport,
    peer: Peer,
    /// Done when what is still under way is broken off.
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        if connection.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match &mut connection.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Duplex(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Duplex(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Duplex(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Duplex(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Duplex(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
