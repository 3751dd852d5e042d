//! Joins what is written to a connection, until the [`Cork`] is pulled.
//!
//! HTTP/2 writes and flushes each frame of an answer by itself. Each write is a system call, and wakes the client. So small writes are
//! kept here. Larger ones are not, because copying them costs more than the system call: the transport itself is corked for them,
//! so that the client is not woken for each.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Transport;

/// A larger write is not kept. It takes with it what is kept.
const SMALL_BYTES_MAX: usize = 4 << 10;
/// The most bytes that are kept.
const KEPT_BYTES_MAX: usize = 16 << 10;
/// The most slices that are written at a time.
const SLICES_MAX: usize = 16;

/// A transport that is written to until the cork is pulled. A flush does nothing.
pub(super) struct Corked<T>(Arc<Mutex<Shared<T>>>);

/// Lets out what was written.
pub(super) struct Cork<T>(Arc<Mutex<Shared<T>>>);

struct Shared<T> {
    transport: T,
    kept: BytesMut,
    /// Whether the transport itself is corked, too.
    is_corked: bool,
    /// Why what was kept could not be written. The next read fails with it.
    failed: Option<io::Error>,
}

/// The transport with a cork.
pub(super) fn corked<T>(transport: T) -> (Corked<T>, Cork<T>) {
    let shared = Arc::new(Mutex::new(Shared {
        transport,
        kept: BytesMut::new(),
        is_corked: false,
        failed: None,
    }));
    (Corked(shared.clone()), Cork(shared))
}

impl<T: Transport> Cork<T> {
    /// Writes what is kept, and lets the transport send all of it. If the transport takes no more now, `cx` is woken once it does.
    /// Returns whether a read is due, because the transport has failed.
    pub(super) fn pull(&self, cx: &mut Context<'_>) -> bool {
        let mut shared = lock(&self.0);
        match shared.poll_flush(cx) {
            Poll::Ready(Err(error)) => {
                shared.failed = Some(error);
                true
            }
            _ => false,
        }
    }
}

impl<T: Transport> Shared<T> {
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let written = ready!(Pin::new(&mut self.transport).poll_write(cx, &self.kept))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_written(written);
        }
        if self.is_corked {
            self.transport.cork(false);
            self.is_corked = false;
        }
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    /// The first `bytes` that were kept are written.
    fn is_written(&mut self, bytes: usize) {
        self.kept.advance(bytes);
        if self.kept.is_empty() {
            // Of a connection that says nothing, nothing stays in memory.
            self.kept = BytesMut::new();
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        if bytes <= SMALL_BYTES_MAX && self.kept.len() + bytes <= KEPT_BYTES_MAX {
            for buf in bufs {
                self.kept.extend_from_slice(buf);
            }
            return Poll::Ready(Ok(bytes));
        }
        if !self.is_corked {
            self.transport.cork(true);
            self.is_corked = true;
        }
        loop {
            let kept = self.kept.len();
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            slices[0] = IoSlice::new(&self.kept);
            let of_bufs = bufs.len().min(SLICES_MAX - 1);
            slices[1..=of_bufs].copy_from_slice(&bufs[..of_bufs]);
            let transport = Pin::new(&mut self.transport);
            let written = ready!(transport.poll_write_vectored(cx, &slices[..=of_bufs]))?;
            self.is_written(written.min(kept));
            if written > kept || written == 0 {
                return Poll::Ready(Ok(written.saturating_sub(kept)));
            }
        }
    }
}

impl<T: Transport> AsyncRead for Corked<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        if let Some(error) = shared.failed.take() {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut shared.transport).poll_read(cx, buf)
    }
}

impl<T: Transport> AsyncWrite for Corked<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        ready!(shared.poll_flush(cx))?;
        Pin::new(&mut shared.transport).poll_shutdown(cx)
    }
}

fn lock<T>(shared: &Mutex<Shared<T>>) -> MutexGuard<'_, Shared<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::{future::poll_fn, task::noop_waker};
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Records what is written to it. It takes only so many bytes at a time, and none while it is full.
    #[derive(Default)]
    struct Socket {
        written: Vec<Vec<u8>>,
        bytes_max: usize,
        is_full: bool,
        is_broken: bool,
        is_shut_down: bool,
        corks: Mutex<Vec<bool>>,
    }

    impl Transport for Socket {
        fn cork(&self, is_corked: bool) {
            self.corks.lock().unwrap().push(is_corked);
        }
    }

    impl AsyncRead for Socket {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let socket = self.get_mut();
            if socket.is_broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if socket.is_full {
                return Poll::Pending;
            }
            let mut written: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            written.truncate(socket.bytes_max);
            let len = written.len();
            socket.written.push(written);
            Poll::Ready(Ok(len))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.get_mut().is_shut_down = true;
            Poll::Ready(Ok(()))
        }
    }

    fn made(bytes_max: usize) -> (Corked<Socket>, Cork<Socket>) {
        corked(Socket {
            bytes_max,
            ..Socket::default()
        })
    }

    /// Writes in two slices, as HTTP/2 does, and flushes. Returns how much was taken, or `None` if nothing can be now.
    fn write(to: &mut Corked<Socket>, bytes: &[u8]) -> Option<usize> {
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let (head, body) = bytes.split_at(bytes.len() / 3);
        let bufs = [IoSlice::new(head), IoSlice::new(body)];
        let Poll::Ready(written) = Pin::new(&mut *to).poll_write_vectored(&mut cx, &bufs) else {
            return None;
        };
        assert!(Pin::new(to).poll_flush(&mut cx).is_ready());
        Some(written.unwrap())
    }

    fn pull(cork: &Cork<Socket>) -> bool {
        cork.pull(&mut Context::from_waker(&noop_waker()))
    }

    #[test]
    fn small_writes_leave_together_when_the_cork_is_pulled() {
        let (mut transport, cork) = made(usize::MAX);
        for _ in 0..3 {
            assert_eq!(write(&mut transport, b"small"), Some(5));
        }
        assert!(lock(&cork.0).written().is_empty());
        assert!(!pull(&cork));
        assert_eq!(lock(&cork.0).written(), [b"smallsmallsmall"]);
        assert!(!pull(&cork));
        assert_eq!(lock(&cork.0).written().len(), 1);
    }

    #[test]
    fn a_large_write_takes_with_it_what_is_kept() {
        let (mut transport, cork) = made(usize::MAX);
        let large = vec![7; SMALL_BYTES_MAX + 1];
        assert_eq!(write(&mut transport, b"small"), Some(5));
        assert_eq!(write(&mut transport, &large), Some(large.len()));
        assert_eq!(lock(&cork.0).written(), [[b"small", &large[..]].concat()]);
    }

    #[test]
    fn a_large_write_is_not_said_to_be_taken_while_only_what_was_kept_is() {
        let (mut transport, cork) = made(b"small".len());
        write(&mut transport, b"small");
        let large = vec![7; SMALL_BYTES_MAX + 1];
        assert_eq!(write(&mut transport, &large), Some(5));
        assert_eq!(lock(&cork.0).written(), [*b"small", [7; 5]]);
    }

    #[test]
    fn slices_are_written_together_up_to_a_limit() {
        let (mut transport, cork) = made(usize::MAX);
        assert!(transport.is_write_vectored());
        let piece = vec![7; SMALL_BYTES_MAX];
        let bufs = [IoSlice::new(&piece); SLICES_MAX * 2];
        let waker = noop_waker();
        let written =
            Pin::new(&mut transport).poll_write_vectored(&mut Context::from_waker(&waker), &bufs);
        let Poll::Ready(Ok(written)) = written else {
            panic!("the socket takes all: {written:?}");
        };
        // One slice is for what is kept.
        assert_eq!(written, (SLICES_MAX - 1) * piece.len());
        assert_eq!(lock(&cork.0).written().len(), 1);
    }

    #[test]
    fn the_transport_is_corked_from_the_first_large_write_to_the_pull() {
        let (mut transport, cork) = made(usize::MAX);
        write(&mut transport, b"small");
        assert!(!pull(&cork));
        assert!(lock(&cork.0).corks().is_empty());
        for _ in 0..2 {
            write(&mut transport, &[7; SMALL_BYTES_MAX + 1]);
        }
        write(&mut transport, b"small");
        assert_eq!(lock(&cork.0).corks(), [true]);
        assert!(!pull(&cork));
        assert!(!pull(&cork));
        assert_eq!(lock(&cork.0).corks(), [true, false]);
        assert_eq!(lock(&cork.0).written().last().unwrap(), b"small");
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let (mut transport, cork) = made(usize::MAX);
        lock(&cork.0).transport.is_full = true;
        let mut kept = 0;
        while let Some(written) = write(&mut transport, &[7; 1000]) {
            kept += written;
            assert!(kept <= KEPT_BYTES_MAX);
        }
        assert_eq!(kept, 16_000);
        assert!(!pull(&cork));
        lock(&cork.0).transport.is_full = false;
        assert!(!pull(&cork));
        assert_eq!(lock(&cork.0).written().concat().len(), kept);
    }

    #[tokio::test]
    async fn a_read_tells_that_what_was_kept_could_not_be_written() {
        let (mut transport, cork) = made(usize::MAX);
        write(&mut transport, b"small");
        lock(&cork.0).transport.is_broken = true;
        assert!(pull(&cork));
        let read = transport.read(&mut [0; 8]).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn what_is_kept_is_written_before_the_end() {
        let (mut transport, cork) = made(2);
        write(&mut transport, b"small");
        poll_fn(|cx| Pin::new(&mut transport).poll_shutdown(cx))
            .await
            .unwrap();
        assert_eq!(lock(&cork.0).written().concat(), b"small");
        assert!(lock(&cork.0).transport.is_shut_down);
    }

    impl Shared<Socket> {
        fn corks(&self) -> Vec<bool> {
            self.transport.corks.lock().unwrap().clone()
        }

        fn written(&self) -> &[Vec<u8>] {
            &self.transport.written
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        Pull,
        Take(usize),
        Fill,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1..2 * SMALL_BYTES_MAX).prop_map(Step::Write),
            2 => Just(Step::Pull),
            1 => (1..3 * SMALL_BYTES_MAX).prop_map(Step::Take),
            1 => Just(Step::Fill),
        ]
    }

    proptest! {
        #[test]
        fn everything_is_written_in_its_order(steps in prop::collection::vec(step(), 1..60)) {
            let (mut transport, cork) = made(1000);
            let mut sent = Vec::new();
            for step in steps {
                match step {
                    Step::Write(len) => {
                        let bytes: Vec<u8> = (sent.len()..sent.len() + len).map(|n| n.to_le_bytes()[0]).collect();
                        if let Some(written) = write(&mut transport, &bytes) {
                            prop_assert!(written > 0);
                            sent.extend_from_slice(&bytes[..written]);
                        }
                    }
                    Step::Pull => prop_assert!(!pull(&cork)),
                    Step::Take(bytes_max) => {
                        let socket = &mut lock(&cork.0).transport;
                        (socket.bytes_max, socket.is_full) = (bytes_max, false);
                    }
                    Step::Fill => lock(&cork.0).transport.is_full = true,
                }
            }
            lock(&cork.0).transport.is_full = false;
            prop_assert!(!pull(&cork));
            prop_assert_eq!(lock(&cork.0).written().concat(), sent);
        }
    }
}
