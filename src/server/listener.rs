//! Where the server listens: a TCP address or a Unix socket.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// Connections at a time: each may have 100 requests under way.
const CONNECTIONS_MAX: usize = 1024;
/// File descriptors that no connection takes: the store needs some for the journal, checkpoints, snapshots and sled.
const FILES_RESERVED: usize = 40;
/// How long to wait after a connection could not be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often it is told that no more connections are taken.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `host:port`; port 0 picks a free one.
    Tcp(SocketAddr),
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// An address that is none.
#[derive(Debug)]
pub struct ParseListenError;

impl fmt::Display for ParseListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be IP:PORT, as in 127.0.0.1:50051, or unix:PATH")
    }
}

impl std::error::Error for ParseListenError {}

impl FromStr for Listen {
    type Err = ParseListenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err(ParseListenError)
            } else {
                Ok(Listen::Unix(path.into()))
            };
        }
        let tcp = text
            .strip_prefix("localhost:")
            .map(|port| format!("127.0.0.1:{port}"));
        tcp.as_deref()
            .unwrap_or(text)
            .parse()
            .map(Listen::Tcp)
            .map_err(|_| ParseListenError)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Listen::Tcp(address) => address.ip().is_loopback(),
            Listen::Unix(_) => true,
        }
    }
}

/// Where a server listens.
#[derive(Debug)]
pub(super) struct Bound {
    /// The address, with the port that was picked.
    pub(super) listen: Listen,
    /// A Unix socket's file, which would stay behind.
    socket: Option<Socket>,
}

/// The file of a Unix socket: its path, and what tells it from another file that takes that path.
#[derive(Debug)]
struct Socket {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl Bound {
    /// Removes what would stay behind. A server that has taken over the path keeps its own socket.
    pub(super) fn clean_up(&self) {
        if let Some(Socket {
            path,
            device_and_inode,
        }) = &self.socket
            && device_and_inode_of(path).is_ok_and(|there| there == *device_and_inode)
        {
            // Somebody else may have removed it.
            let _ = fs::remove_file(path);
        }
    }
}

fn device_and_inode_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Listens, and says where exactly.
pub(super) async fn bind(listen: &Listen) -> io::Result<(Listener, Bound)> {
    match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address).await?;
            let bound = Bound {
                listen: Listen::Tcp(listener.local_addr()?),
                socket: None,
            };
            Ok((Listener::Tcp(listener), bound))
        }
        Listen::Unix(path) => {
            remove_stale(path).await?;
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            let bound = Bound {
                listen: listen.clone(),
                socket: Some(Socket {
                    path: path.clone(),
                    device_and_inode: device_and_inode_of(path)?,
                }),
            };
            Ok((Listener::Unix(listener), bound))
        }
    }
}

/// Removes a socket that nobody listens on any more.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if metadata.file_type().is_socket() && UnixStream::connect(path).await.is_err() {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// What takes connections.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Connections as they come, and no more at a time than the process has file descriptors for: the others wait to be accepted.
pub(super) fn connections(listener: Listener) -> impl Stream<Item = io::Result<Connection>> {
    let acceptor = Acceptor {
        listener,
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
    listener: Listener,
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
        match &self.listener {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Without it a call waits for a delayed ACK.
                stream.set_nodelay(true)?;
                Ok((Transport::Tcp(stream), Peer(address.to_string().into())))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let process = stream.peer_cred().ok().and_then(|cred| cred.pid());
                let peer = process.map_or("unix".into(), |pid| format!("unix:pid {pid}").into());
                Ok((Transport::Unix(stream), Peer(peer)))
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
}

/// One connection.
pub(super) struct Connection {
    transport: Transport,
    peer: Peer,
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
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
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
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
