//! Where the server listens: a TCP address or a Unix socket.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    str::FromStr,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
};
use tokio_stream::{Stream, wrappers::UnixListenerStream};
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};

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

    /// Removes what would stay behind.
    pub(super) fn clean_up(&self) {
        if let Listen::Unix(path) = self {
            // Somebody else may have cleaned up, or taken over.
            let _ = fs::remove_file(path);
        }
    }
}

/// Listens, and says where exactly.
pub(super) async fn bind(listen: &Listen) -> io::Result<(Incoming, Listen)> {
    match listen {
        Listen::Tcp(address) => {
            // `serve_with_incoming` ignores `tcp_nodelay`; without it a call waits for a delayed ACK.
            let incoming = TcpIncoming::bind(*address)?.with_nodelay(Some(true));
            let bound = Listen::Tcp(incoming.local_addr()?);
            Ok((Incoming::Tcp(incoming), bound))
        }
        Listen::Unix(path) => {
            remove_stale(path).await?;
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            Ok((
                Incoming::Unix(UnixListenerStream::new(listener)),
                listen.clone(),
            ))
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

/// Connections as they come.
pub(super) enum Incoming {
    Tcp(TcpIncoming),
    Unix(UnixListenerStream),
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Incoming::Tcp(tcp) => Pin::new(tcp)
                .poll_next(cx)
                .map(|next| next.map(|stream| stream.map(Connection::Tcp))),
            Incoming::Unix(unix) => Pin::new(unix)
                .poll_next(cx)
                .map(|next| next.map(|stream| stream.map(Connection::Unix))),
        }
    }
}

/// One connection.
pub(super) enum Connection {
    Tcp(tokio::net::TcpStream),
    Unix(UnixStream),
}

impl Connected for Connection {
    type ConnectInfo = Option<TcpConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        match self {
            Connection::Tcp(stream) => Some(stream.connect_info()),
            Connection::Unix(_) => None,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Connection::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Connection::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Connection::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Connection::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Connection::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
