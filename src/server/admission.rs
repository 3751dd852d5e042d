//! Admits calls while there is room for them: a number at a time, for each caller and in all, each with a deadline. A call counts
//! from when its whole request was read until its answer exists, so that a slow caller cannot hold a place. `waiting.rs` limits
//! what waits for slow callers, and `outgoing.rs` hands it on.

use std::{
    collections::HashMap,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt};
use tower::{Layer, Service};

use super::{
    Limits,
    connection::Peer,
    metrics::{Metrics, OneOf},
    outcome::mend,
    outgoing::{Attached, Lost, Outgoing},
    waiting::{Patience, Waiting},
};
use crate::{
    identity::{Access, Caller, Rpc, Shape, Share},
    service::{AnswerBytes, HeldBytes, PREFIX_BYTES, Pieces},
};

/// What a request takes before its message is read, and about what an answer takes that does not tell its size.
const REQUEST_BYTES: usize = 8 << 10;
const ANSWER_BYTES: usize = 4 << 10;
/// The most pages of lists that are made at a time. Only the processor makes them, so that more at a time would only take memory.
const PAGES_MADE_MAX: usize = 16;
/// How much of a request that is too large is read, and for how long, before it is refused.
const DISCARDED_BYTES_MAX: usize = 64 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// The most parts of a request. Clients send parts of 16 KiB; a client that sends single bytes is not an honest one.
const PARTS_MAX: usize = 4096;
/// When a caller that was refused may try again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Admits calls while there is room.
#[derive(Clone, Debug)]
pub(super) struct Admission(Arc<Room>);

#[derive(Debug)]
struct Room {
    access: Access,
    limits: Limits,
    calls: Arc<Semaphore>,
    /// One permit for each KiB of the requests of calls under way.
    calls_kib: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    pages: Semaphore,
    waiting: Arc<Waiting>,
    metrics: Metrics,
    message: Message,
}

/// How a request's body contains its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// After a flag and a length, as in gRPC.
    Framed,
    /// The body is the message.
    #[cfg(feature = "http")]
    Whole,
}

impl Admission {
    pub(super) fn new(
        limits: &Limits,
        metrics: Metrics,
        access: Access,
        message: Message,
    ) -> Admission {
        Admission(Arc::new(Room {
            message,
            access,
            calls: Arc::new(Semaphore::new(limits.calls)),
            calls_kib: Arc::new(Semaphore::new(kib(limits.calls_bytes))),
            streams: Arc::new(Semaphore::new(limits.streams)),
            pages: Semaphore::new(PAGES_MADE_MAX),
            waiting: Waiting::new(limits, metrics.disconnected()),
            limits: limits.clone(),
            metrics,
        }))
    }
}

impl<S> Layer<S> for Admission {
    type Service = Admitting<S>;

    fn layer(&self, inner: S) -> Admitting<S> {
        Admitting {
            inner,
            room: self.0.clone(),
        }
    }
}

/// A service with limited room.
#[derive(Clone, Debug)]
pub(super) struct Admitting<S> {
    inner: S,
    room: Arc<Room>,
}

impl<S> Service<Request<Body>> for Admitting<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The clone will be called next; the service that is ready now is used for this call.
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        let room = self.room.clone();
        Box::pin(async move {
            let timeout = timeout(&room.limits, request.headers());
            let answering = room.answer(inner, request);
            match tokio::time::timeout(timeout, answering).await {
                Ok(Ok(answered)) => answered,
                Ok(Err(refused)) => Ok(refused.into_http()),
                Err(_) => Ok(too_late(timeout).into_http()),
            }
        })
    }
}

impl Room {
    /// # Errors
    /// The refusal, if there is no room for the request.
    async fn answer<S>(
        &self,
        mut inner: S,
        request: Request<Body>,
    ) -> Result<Result<Response<Body>, S::Error>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let peer = peer.expect("every connection says who is at its other end");
        let caller = request.extensions().get::<Arc<Caller>>().cloned();
        let rpc = request.extensions().get::<&Rpc>();
        let shape = rpc.map_or(Shape::Call, |rpc| rpc.shape);
        let is_stream = shape == Shape::Stream;
        let mut bytes = 0;
        let request = if is_stream {
            request
        } else {
            let (head, body) = request.into_parts();
            let message = self.read(body, &peer).await?;
            bytes = message.len();
            Request::from_parts(head, Body::new(Full::new(message)))
        };
        let (page, making) = if shape == Shape::Page {
            let page = self.page_for(&peer, bytes).await;
            (page, self.making().await)
        } else {
            (None, None)
        };
        let place = self.place(is_stream, bytes, caller.as_ref())?;
        let answered = inner.call(request).await;
        // A call's place is free now. A stream keeps its place until it ends.
        let place = is_stream.then_some(place);
        // A caller that may no longer call gets no more messages.
        let lost = caller.filter(|_| is_stream);
        let lost = lost.map(|caller| Box::pin(self.access.clone().lost(caller)) as Lost);
        let answered = answered.map(|mut response| {
            mend(&mut response, self.limits.request_bytes);
            let says = response.extensions().get::<AnswerBytes>();
            let bytes = says.map_or(ANSWER_BYTES, |says| says.0);
            let held = response.extensions().get::<HeldBytes>().cloned();
            let pieces = response.extensions_mut().remove::<Pieces>();
            let patience = if is_stream {
                Patience::Endless
            } else {
                Patience::Little
            };
            let attached = Attached {
                held,
                lost,
                _place: place,
                _page: page,
            };
            let waits = (bytes, patience);
            response.map(|body| {
                let body = pieces.map_or(body, Body::new);
                Body::new(Outgoing::new(body, &self.waiting, &peer, waits, attached))
            })
        });
        drop(making);
        Ok(answered)
    }

    /// A permit to send another page to a caller. A caller that does not read its pages makes only itself wait.
    async fn page_for(
        &self,
        peer: &Arc<Peer>,
        request_bytes: usize,
    ) -> Option<OwnedSemaphorePermit> {
        if let Ok(page) = peer.pages.clone().try_acquire_owned() {
            return Some(page);
        }
        let _turn = self
            .waiting
            .begin(peer, REQUEST_BYTES + request_bytes, Patience::Little);
        peer.pages.clone().acquire_owned().await.ok()
    }

    /// A permit to make a page. Everybody who waits for room is woken at once, so that each one checks again in its turn.
    async fn making(&self) -> Option<SemaphorePermit<'_>> {
        loop {
            self.waiting.clone().room().await;
            let making = self.pages.acquire().await.ok()?;
            if self.waiting.has_room() {
                return Some(making);
            }
        }
    }

    /// The only message of a request.
    ///
    /// # Errors
    /// If it is larger than a request may be. This is reported as soon as it is known.
    async fn read(&self, body: Body, peer: &Arc<Peer>) -> Result<Bytes, Status> {
        let mut body = pin!(body);
        let mut read = Read::default();
        let mut turn = None;
        loop {
            let mut next = body.frame();
            // Most requests have come together with their headers. Reading them takes no waiting.
            let frame = if let Some(frame) = (&mut next).now_or_never() {
                frame
            } else {
                turn.get_or_insert_with(|| {
                    let bytes = REQUEST_BYTES + read.bytes();
                    self.waiting.begin(peer, bytes, Patience::Little)
                });
                next.await
            };
            let Some(frame) = frame else {
                return Ok(read.whole());
            };
            if let Ok(part) = frame?.into_data() {
                if let Some(turn) = &turn {
                    turn.add(part.len());
                }
                if let Err(refused) = read.add(part, self.message, self.limits.request_bytes) {
                    if self.message != Message::Framed {
                        // The client reads no answer before it has sent everything.
                        let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard(body)).await;
                    }
                    return Err(refused);
                }
            }
        }
    }

    /// # Errors
    /// If there are none left.
    fn place(
        &self,
        is_stream: bool,
        bytes: usize,
        caller: Option<&Arc<Caller>>,
    ) -> Result<Place, Status> {
        let limits = &self.limits;
        let (all, of_caller_max, what) = if is_stream {
            (&self.streams, limits.streams_per_caller, "streams")
        } else {
            (&self.calls, limits.calls_per_caller, "calls")
        };
        let share = match caller {
            Some(caller) => {
                let share = Share::of(caller, is_stream, of_caller_max);
                Some(share.ok_or_else(|| {
                    let message = format!(
                        "{of_caller_max} {what} of yours are under way, and no more are taken: try again when one has ended"
                    );
                    no_room(Code::ResourceExhausted, "CALLER_LIMIT", message)
                })?)
            }
            None => None,
        };
        let too_many = |_| {
            let message = format!("too many {what} are under way: try again in a moment");
            no_room(Code::Unavailable, "SERVER_LIMIT", message)
        };
        let permit = all.clone().try_acquire_owned().map_err(too_many)?;
        // A request that is larger than the whole limit is admitted alone.
        let of_request = kib(bytes).min(kib(limits.calls_bytes).max(1));
        let of_request = u32::try_from(of_request).unwrap_or(u32::MAX);
        let of_bytes = self.calls_kib.clone().try_acquire_many_owned(of_request);
        Ok(Place {
            _permit: permit,
            _kib: of_bytes.map_err(too_many)?,
            _share: share,
            _counted: is_stream.then(|| self.metrics.streaming()),
        })
    }
}

/// The number of KiB for this many bytes, rounded up.
fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1 << 10)
}

/// The place of a call or stream that is under way.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    /// The permits for what its request takes.
    _kib: OwnedSemaphorePermit,
    _share: Option<Share>,
    /// The count of streams, for a stream.
    _counted: Option<OneOf>,
}

/// The part of a request that has been read.
#[derive(Default)]
struct Read {
    first: Bytes,
    /// All of it, once it has more than one part.
    rest: BytesMut,
    parts: usize,
}

impl Read {
    fn bytes(&self) -> usize {
        self.first.len().max(self.rest.len())
    }

    /// # Errors
    /// If it is too large, or has too many parts.
    fn add(
        &mut self,
        part: Bytes,
        message: Message,
        request_bytes_max: usize,
    ) -> Result<(), Status> {
        self.parts += 1;
        if self.parts > PARTS_MAX {
            let message = format!("the request comes in more than {PARTS_MAX} parts");
            return Err(too_large(message));
        }
        if self.first.is_empty() {
            self.first = part;
        } else {
            if self.rest.is_empty() {
                self.rest.extend_from_slice(&self.first);
            }
            self.rest.extend_from_slice(&part);
        }
        let begun = if self.rest.is_empty() {
            &self.first[..]
        } else {
            &self.rest[..]
        };
        let bytes = match message {
            Message::Framed => {
                let says = begun.get(1..PREFIX_BYTES).map_or(0, |length| {
                    length
                        .iter()
                        .fold(0, |sum, &byte| sum << 8 | usize::from(byte))
                });
                says.max(begun.len().saturating_sub(PREFIX_BYTES))
            }
            #[cfg(feature = "http")]
            Message::Whole => begun.len(),
        };
        if bytes > request_bytes_max {
            return Err(larger_than(request_bytes_max));
        }
        Ok(())
    }

    fn whole(self) -> Bytes {
        if self.rest.is_empty() {
            self.first
        } else {
            self.rest.freeze()
        }
    }
}

/// Reads the rest of a body and drops it.
async fn discard(mut body: Pin<&mut Body>) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > DISCARDED_BYTES_MAX {
            return;
        }
    }
}

/// How long a call may take until its answer begins.
fn timeout(limits: &Limits, headers: &HeaderMap) -> Duration {
    let wanted = headers
        .get("grpc-timeout")
        .and_then(|value| grpc_timeout(value.as_bytes()));
    wanted.map_or(limits.request_timeout, |wanted| {
        wanted.min(limits.request_timeout)
    })
}

/// A `grpc-timeout`: up to 8 digits and a unit.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(digits * 3600),
        b'M' => Duration::from_secs(digits * 60),
        b'S' => Duration::from_secs(digits),
        b'm' => Duration::from_millis(digits),
        b'u' => Duration::from_micros(digits),
        b'n' => Duration::from_nanos(digits),
        _ => return None,
    })
}

fn too_late(timeout: Duration) -> Status {
    let message = format!(
        "no answer within {} ms: whether anything was changed is not known, and sending it again is safe with the same id",
        timeout.as_millis()
    );
    let details = ErrorDetails::with_error_info("TOO_LATE", "icebox", HashMap::new());
    Status::with_error_details(Code::DeadlineExceeded, message, details)
}

fn no_room(code: Code, reason: &str, message: String) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, "icebox", HashMap::new());
    details.set_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(code, message, details)
}

/// The refusal of a request that is too large.
pub(super) fn larger_than(request_bytes_max: usize) -> Status {
    too_large(format!(
        "the request is larger than {request_bytes_max} bytes: send less at once"
    ))
}

fn too_large(message: String) -> Status {
    let details = ErrorDetails::with_error_info("REQUEST_TOO_LARGE", "icebox", HashMap::new());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_timeout_is_up_to_8_digits_and_a_unit() {
        for (value, expected) in [
            ("5S", Some(5_000_000)),
            ("99999999H", Some(99_999_999 * 3_600_000_000)),
            ("2M", Some(120_000_000)),
            ("0m", Some(0)),
            ("7m", Some(7000)),
            ("7u", Some(7)),
            ("7000n", Some(7)),
            ("", None),
            ("S", None),
            ("100000000S", None),
            ("-1S", None),
            ("1.5S", None),
            ("5s", None),
            ("5", None),
        ] {
            let micros = grpc_timeout(value.as_bytes()).map(|timeout| timeout.as_micros());
            assert_eq!(micros, expected, "{value}");
        }
    }

    #[test]
    fn a_request_is_too_large_as_soon_as_it_says_so() {
        let part = Bytes::copy_from_slice;
        let mut says = Read::default();
        let framed = Message::Framed;
        says.add(part(&[0, 0, 0]), framed, 100).unwrap();
        let refused = says.add(part(&[0, 101]), framed, 100).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let mut fits = Read::default();
        fits.add(part(&[0, 0, 0, 0, 100]), framed, 100).unwrap();
        fits.add(part(&[7; 100]), framed, 100).unwrap();
        assert_eq!(fits.bytes(), 105);
        assert!(fits.add(part(&[7]), framed, 100).is_err());
        let mut trickles = Read::default();
        for _ in 0..PARTS_MAX {
            trickles.add(Bytes::new(), framed, 100).unwrap();
        }
        assert!(trickles.add(Bytes::new(), framed, 100).is_err());
    }
}
