//! Where `icebox serve` listens: a TCP address or a Unix socket.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::server::Listener;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    /// `host:port`; port 0 picks a free one.
    Tcp(SocketAddr),
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// Why an address cannot be used.
#[derive(Debug)]
pub(super) struct ParseListenError;

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
    /// Whether only this machine can reach the address.
    #[must_use]
    pub(super) fn is_local(&self) -> bool {
        match self {
            Listen::Tcp(address) => address.ip().is_loopback(),
            Listen::Unix(_) => true,
        }
    }
}

/// The place where a server listens, until this is dropped.
#[derive(Debug)]
pub(super) struct Bound {
    /// The address, with the port that was picked.
    pub(super) listen: Listen,
    /// The file of a Unix socket. It has to be removed at the end.
    socket: Option<Socket>,
}

/// The file of a Unix socket: its path, and what tells it from another file at that path.
#[derive(Debug)]
struct Socket {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl Drop for Bound {
    /// Removes the socket's file. If another server has taken over the path, its socket stays.
    fn drop(&mut self) {
        if let Some(Socket {
            path,
            device_and_inode,
        }) = &self.socket
            && device_and_inode_of(path).is_ok_and(|there| there == *device_and_inode)
        {
            // Somebody else may have removed it already.
            let _ = fs::remove_file(path);
        }
    }
}

fn device_and_inode_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Starts to listen, and returns the exact address.
pub(super) async fn bind(listen: &Listen) -> io::Result<(Listener, Bound)> {
    match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address).await?;
            let bound = Bound {
                listen: Listen::Tcp(listener.local_addr()?),
                socket: None,
            };
            Ok((Listener::from(listener), bound))
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
            Ok((Listener::from(listener), bound))
        }
    }
}

/// Removes a socket on which nobody listens any more.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if metadata.file_type().is_socket() && UnixStream::connect(path).await.is_err() {
        fs::remove_file(path)?;
    }
    Ok(())
}
