//! The limits of a server: it takes on no more of anything.

use std::time::Duration;

use crate::catalog::BOOKMARK_INTERVAL;

/// The limits of a server, for [`Listener::with_limits`](crate::Listener::with_limits). The defaults fit a server for a fleet; a
/// program that embeds one changes what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at a time. Others wait to be accepted. The process's limit of file descriptors may lower this.
    pub connections: usize,
    /// Calls under way on one connection.
    pub streams_per_connection: u32,
    /// Calls under way, without streams. Others are refused with UNAVAILABLE.
    pub calls: usize,
    /// Calls under way for one caller, if callers need a token. Others are refused with `RESOURCE_EXHAUSTED`.
    pub calls_per_caller: usize,
    /// Bytes of the request messages of all calls under way. Others are refused with UNAVAILABLE: until it is answered, a request
    /// takes several times its size.
    pub calls_bytes: usize,
    /// Streams under way: watches, snapshots, reflection. Others are refused with UNAVAILABLE.
    pub streams: usize,
    /// Like `calls_per_caller`, for streams.
    pub streams_per_caller: usize,
    /// Bytes of a request message. The default is 16 times the largest record, so that a client that sends too much gets an answer.
    pub request_bytes: usize,
    /// Bytes of all headers of one request (h2 accepts 16 MiB).
    pub header_bytes: u32,
    /// How long a connection may take until it has begun, with TLS and HTTP/2's preface.
    pub greeting_timeout: Duration,
    /// How long a call may take until its answer begins. A caller may set a shorter time.
    pub request_timeout: Duration,
    /// How long an answer may wait until its caller reads on. Then the connection is closed. Messages of a stream may wait as long
    /// as there is room.
    pub stall_timeout: Duration,
    /// Bytes of answers that may wait for their callers. Beyond that, the connection that has waited longest is closed. A page of a
    /// list may keep up to twice its bytes in memory.
    pub stalled_bytes: usize,
    /// How often a watch reports its revision when nothing happens, so that its caller knows that it is alive.
    pub bookmark_interval: Duration,
    /// How often an idle connection is asked for a sign of life.
    pub keepalive_interval: Duration,
    /// How long a connection may take to answer that.
    pub keepalive_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            streams_per_connection: 100,
            calls: 1024,
            calls_per_caller: 512,
            calls_bytes: 8 << 20,
            streams: 10_240,
            streams_per_caller: 1024,
            request_bytes: 1 << 20,
            header_bytes: 32 << 10,
            greeting_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            stalled_bytes: 32 << 20,
            bookmark_interval: BOOKMARK_INTERVAL,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}
