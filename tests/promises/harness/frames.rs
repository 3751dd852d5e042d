//! HTTP/2 frame by frame, for things that no well-behaved client does.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The first bytes of a connection.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(crate) mod flag {
    pub(crate) const END_HEADERS: u8 = 4;
}

/// A connection.
pub(crate) struct Raw(TcpStream);

impl Raw {
    pub(crate) async fn connect(address: &str) -> Raw {
        Raw(TcpStream::connect(address).await.expect("it listens"))
    }

    /// Sends bytes, whatever they are.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("the connection lives");
    }

    /// Begins a connection as a client does.
    pub(crate) async fn begin(&mut self) {
        self.send(PREFACE).await;
        self.frame(kind::SETTINGS, 0, 0, &[]).await;
    }

    pub(crate) async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let sent = self.try_frame(kind, flags, stream, payload).await;
        assert!(sent, "the connection has ended");
    }

    /// Sends a frame. Fails if the connection has ended.
    pub(crate) async fn try_frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> bool {
        let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.is_ok()
    }

    /// Sends the headers of a gRPC request. Fails if the connection has ended.
    pub(crate) async fn try_request(&mut self, stream: u32, path: &str) -> bool {
        // `:method: POST` and `:scheme: http` of HPACK's static table.
        let mut block = vec![0x83, 0x86];
        for (name, value) in [
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            literal(&mut block, name, value);
        }
        self.try_frame(kind::HEADERS, flag::END_HEADERS, stream, &block)
            .await
    }

    /// Waits until the other side has ended the connection.
    pub(crate) async fn end(&mut self) {
        let mut rest = [0; 4096];
        while self.0.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    }
}

/// A header that is neither indexed nor compressed.
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        block.push(u8::try_from(text.len()).expect("below 127"));
        block.extend(text.as_bytes());
    }
}
