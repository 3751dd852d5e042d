//! A connection: its transport, the peer at its other end, and its beginning, which must be quick.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::maybe_done;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_rustls::{rustls::pki_types::CertificateDer, server::TlsStream};

use super::{
    Tls,
    metrics::OneOf,
    tls::{HTTP2, Protocol},
    until,
};

/// The first bytes of every HTTP/2 connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The most pages of lists that are on their way to one caller. Pages are the large answers.
const PAGES_MAX: usize = 16;

/// What a connection's bytes go through.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {
    /// While it is corked, it may keep what is written to it, so that it leaves in larger parts.
    fn cork(&self, _is_corked: bool) {}
}

impl Transport for TcpStream {
    #[cfg(target_os = "linux")]
    fn cork(&self, is_corked: bool) {
        // It fails only for a socket that is no longer connected.
        let _ = rustix::net::sockopt::set_tcp_cork(self, is_corked);
    }
}

impl Transport for UnixStream {}

impl Transport for DuplexStream {}

impl Transport for TlsStream<Box<dyn Transport>> {
    fn cork(&self, is_corked: bool) {
        self.get_ref().0.cork(is_corked);
    }
}

/// The peer at the other end of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its name in logs.
    pub(super) name: Arc<str>,
    /// The names in its certificate, which was signed by a trusted issuer.
    pub(super) certified: Vec<String>,
    /// One permit for each page of a list that may be on its way to it.
    pub(super) pages: Arc<Semaphore>,
    /// Cuts the connection off.
    pub(super) cut: watch::Sender<bool>,
}

/// A connection that has begun.
pub(super) struct Connection {
    transport: Box<dyn Transport>,
    peer: Arc<Peer>,
    /// The rest of the preface, which was read before and has to be read again by the server.
    preface: &'static [u8],
    /// Done when the connection is cut off, and stays done.
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    _place: OwnedSemaphorePermit,
    _counted: OneOf,
}

/// A connection that was accepted, and has sent nothing yet.
pub(super) struct Accepted {
    pub(super) transport: Box<dyn Transport>,
    pub(super) name: Arc<str>,
    pub(super) place: OwnedSemaphorePermit,
    pub(super) counted: OneOf,
}

impl Accepted {
    /// Makes the TLS handshake, and waits for the preface if the protocol is HTTP/2. A client that sends anything else gets no
    /// answer.
    ///
    /// # Errors
    /// If it takes longer than `timeout`, the handshake fails, or the preface is wrong.
    pub(super) async fn greet(
        self,
        protocol: Protocol,
        tls: Option<Tls>,
        timeout: Duration,
        all_cut: watch::Receiver<bool>,
    ) -> io::Result<Connection> {
        let Accepted {
            mut transport,
            name,
            place,
            counted,
        } = self;
        let mut certified = Vec::new();
        let greeting = async {
            if let Some(tls) = tls {
                let secured = tls.acceptor(protocol).accept(transport).await?;
                let (_, session) = secured.get_ref();
                let chain = session.peer_certificates().unwrap_or_default();
                certified = chain.first().map(names_in).unwrap_or_default();
                transport = Box::new(secured);
            }
            let preface = if protocol == HTTP2 { PREFACE } else { b"" };
            let mut begun = [0; PREFACE.len()];
            let begun = &mut begun[..preface.len()];
            transport.read_exact(begun).await?;
            if begun == preface {
                Ok((transport, preface))
            } else {
                Err(io::Error::from(io::ErrorKind::InvalidData))
            }
        };
        let (transport, preface) = tokio::time::timeout(timeout, greeting).await??;
        let cut = watch::channel(false).0;
        let own_cut = cut.subscribe();
        Ok(Connection {
            transport,
            peer: Arc::new(Peer {
                name,
                certified,
                pages: Arc::new(Semaphore::new(PAGES_MAX)),
                cut,
            }),
            preface,
            cut: Box::pin(maybe_done(async move {
                tokio::select! {
                    () = until(own_cut) => {}
                    () = until(all_cut) => {}
                }
            })),
            _place: place,
            _counted: counted,
        })
    }
}

impl Connection {
    /// The peer at its other end.
    pub(super) fn peer(&self) -> Arc<Peer> {
        self.peer.clone()
    }

    /// The result of a write, unless the connection is cut off first. A caller that reads nothing makes a write wait forever, and
    /// then nothing else would notice the cut.
    fn unless_cut<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_pending() && self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        written
    }
}

/// The names in a certificate.
fn names_in(certificate: &CertificateDer<'_>) -> Vec<String> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok();
    let names = parsed.iter().flat_map(|certificate| {
        let dns = certificate.valid_dns_names();
        dns.chain(certificate.valid_uri_names()).map(str::to_owned)
    });
    names.collect()
}

impl Transport for Connection {
    fn cork(&self, is_corked: bool) {
        self.transport.cork(is_corked);
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
        if !connection.preface.is_empty() {
            let (now, later) = connection
                .preface
                .split_at(connection.preface.len().min(buf.remaining()));
            buf.put_slice(now);
            connection.preface = later;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut connection.transport).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let connection = self.get_mut();
        let written = Pin::new(&mut connection.transport).poll_write(cx, buf);
        connection.unless_cut(written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let connection = self.get_mut();
        let written = Pin::new(&mut connection.transport).poll_write_vectored(cx, bufs);
        connection.unless_cut(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        let flushed = Pin::new(&mut connection.transport).poll_flush(cx);
        connection.unless_cut(flushed, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        let shut_down = Pin::new(&mut connection.transport).poll_shutdown(cx);
        connection.unless_cut(shut_down, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_connection_whose_caller_reads_nothing_can_be_cut() {
        let (server, mut caller) = tokio::io::duplex(64);
        caller.write_all(PREFACE).await.unwrap();
        let accepted = Accepted {
            transport: Box::new(server),
            name: "test".into(),
            place: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
            counted: OneOf::default(),
        };
        let (_all, all_cut) = watch::channel(false);
        let greeted = accepted.greet(HTTP2, None, SOON, all_cut);
        let mut connection = greeted.await.unwrap();
        let peer = connection.peer();
        let writing = tokio::spawn(async move { connection.write_all(&[7; 1000]).await });
        tokio::task::yield_now().await;
        peer.cut.send_replace(true);
        let written = tokio::time::timeout(SOON, writing).await;
        let written = written.expect("it ends").unwrap();
        assert_eq!(
            written.unwrap_err().kind(),
            io::ErrorKind::ConnectionAborted
        );
    }
}
