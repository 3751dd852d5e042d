//! What a server takes on: no more of anything than is said here.

use std::time::Duration;

use crate::catalog::BOOKMARK_INTERVAL;

/// The limits of a server, for [`Listener::with_limits`](crate::Listener::with_limits). Each has a default that fits a server of
/// a fleet; a program that embeds one changes what it must.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at a time. Others wait to be accepted. It is never more than the process has file descriptors for.
    pub connections: usize,
    /// Calls that one connection may have under way (tonic sets no limit).
    pub streams_per_connection: u32,
    /// Calls under way at a time, streams left out. Others are refused with UNAVAILABLE.
    pub calls: usize,
    /// Calls under way at a time for one caller, where callers are asked who they are. Others are refused with
    /// `RESOURCE_EXHAUSTED`.
    pub calls_per_caller: usize,
    /// The bytes of the requests' messages of calls under way. Others are refused with UNAVAILABLE: each takes some times as much
    /// until it is answered.
    pub calls_bytes: usize,
    /// Streams under way at a time: watches, snapshots, reflection. Others are refused with UNAVAILABLE.
    pub streams: usize,
    /// As `calls_per_caller`, of streams.
    pub streams_per_caller: usize,
    /// The bytes of a request's message: 16 times the largest record by default, so that a client's mistake is answered, not
    /// cut off.
    pub request_bytes: usize,
    /// The bytes of all headers of one request (h2 accepts 16 MiB).
    pub header_bytes: u32,
    /// How long a connection may take until it has begun as one of HTTP/2, TLS and all.
    pub greeting_timeout: Duration,
    /// How long a call may take until its answer begins, whatever its caller says. A shorter time of the caller's counts.
    pub request_timeout: Duration,
    /// How long an answer may wait for its caller to read on. Then its connection is ended. What a stream says may wait for as long
    /// as there is room.
    pub stall_timeout: Duration,
    /// The bytes of answers that may wait for their callers to read on. Then the connection of the longest waiting is ended.
    pub stalled_bytes: usize,
    /// How often a watch says where it is, so that its caller knows that it lives.
    pub bookmark_interval: Duration,
    /// How often a quiet connection is asked whether it still lives.
    pub keepalive_interval: Duration,
    /// How long it may take to answer that.
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
