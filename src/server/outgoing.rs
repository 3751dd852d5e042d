//! An answer on its way to its caller. It counts as waiting until it is written, part by part. A stream makes its next message only
//! when there is room for it.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Status, body::Body};

use super::{
    admission::Place,
    connection::Peer,
    guard::bad_token,
    waiting::{Patience, Turn, Waiting},
};
use crate::service::HeldBytes;

/// The size of the parts that are handed to the transport. A caller that takes them slowly, one by one, is still reading.
const PART_BYTES_MAX: usize = 64 << 10;

/// Ends a stream when it is done.
pub(super) type Lost = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What belongs to an answer until it ends.
pub(super) struct Attached {
    /// What is held in memory besides its parts.
    pub(super) held: Option<HeldBytes>,
    /// Done when the stream's caller is no longer known.
    pub(super) lost: Option<Lost>,
    /// The stream's place.
    pub(super) _place: Option<Place>,
    /// The page's permit to be on its way.
    pub(super) _page: Option<OwnedSemaphorePermit>,
}

/// An answer on its way.
pub(super) struct Outgoing {
    body: Body,
    /// What the body has given and is not handed on yet.
    rest: Bytes,
    /// What waits for the caller: the parts that are not written yet, and what is kept here.
    turn: Arc<Turn>,
    /// The bytes that are kept here until the transport asks for them.
    kept: usize,
    /// Whether the next message is made only when the transport asks for it.
    is_made_on_the_way: bool,
    waiting: Arc<Waiting>,
    /// Done when there is room to make the next message.
    room: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    attached: Attached,
}

impl Outgoing {
    /// An answer of about `bytes`, whose caller has this much patience.
    pub(super) fn new(
        body: Body,
        waiting: &Arc<Waiting>,
        peer: &Arc<Peer>,
        (bytes, patience): (usize, Patience),
        attached: Attached,
    ) -> Outgoing {
        Outgoing {
            body,
            rest: Bytes::new(),
            turn: Arc::new(waiting.begin(peer, bytes, patience)),
            kept: bytes,
            is_made_on_the_way: patience == Patience::Endless || attached.held.is_some(),
            waiting: waiting.clone(),
            room: None,
            attached,
        }
    }

    /// Waits until the next message may be made.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.waiting.has_room() {
            let waiting = &self.waiting;
            let room = self
                .room
                .get_or_insert_with(|| Box::pin(waiting.clone().room()));
            ready!(room.as_mut().poll(cx));
            self.room = None;
        }
        Poll::Ready(())
    }

    /// The transport asks for what is kept here.
    fn release(&mut self) {
        self.turn.take(std::mem::take(&mut self.kept));
    }

    /// Takes what the body has given next, in the place of what was kept here.
    fn begin(&mut self, data: Bytes) {
        let held = self.attached.held.as_ref();
        let held = held.map_or(0, |held| held.0.load(Ordering::Relaxed));
        // A body that knows what is left of it has it in memory.
        let left = usize::try_from(self.body.size_hint().lower()).unwrap_or(usize::MAX);
        let kept = std::mem::replace(&mut self.kept, data.len() + held + left);
        self.turn.exchange(kept, self.kept);
        self.rest = data;
    }

    /// The next part of what is kept here. It counts until it is written.
    fn next_part(&mut self) -> Bytes {
        let part = self.rest.split_to(self.rest.len().min(PART_BYTES_MAX));
        self.kept -= part.len();
        Bytes::from_owner(Part {
            bytes: part,
            turn: self.turn.clone(),
        })
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.release();
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let outgoing = self.get_mut();
        if let Some(lost) = &mut outgoing.attached.lost
            && lost.as_mut().poll(cx).is_ready()
        {
            outgoing.attached.lost = None;
            outgoing.body = Body::empty();
            outgoing.rest = Bytes::new();
            let mut trailers = HeaderMap::new();
            bad_token().add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if outgoing.rest.is_empty() {
            if outgoing.is_made_on_the_way {
                outgoing.release();
                ready!(outgoing.poll_room(cx));
            }
            match Pin::new(&mut outgoing.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                    outgoing.begin(frame.into_data().expect("it is data"));
                }
                other => {
                    outgoing.release();
                    return other;
                }
            }
        }
        Poll::Ready(Some(Ok(Frame::data(outgoing.next_part()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let of_body = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(of_body.lower() + rest);
        hint
    }
}

/// A part of an answer. It counts as waiting while it is in memory: until it is written, or nobody will write it any more.
struct Part {
    bytes: Bytes,
    turn: Arc<Turn>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.turn.take(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::stream;
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio::sync::{Semaphore, watch};

    use super::*;
    use crate::{
        server::{Limits, metrics::Disconnected},
        service::Pieces,
    };

    const BYTES_MAX: usize = 100_000;

    fn waiting() -> Arc<Waiting> {
        let limits = Limits {
            stalled_bytes: BYTES_MAX,
            ..Limits::default()
        };
        Waiting::new(&limits, Disconnected::default())
    }

    fn outgoing(body: Body, waiting: &Arc<Waiting>, patience: Patience) -> Outgoing {
        let peer = Arc::new(Peer {
            name: "test".into(),
            certified: Vec::new(),
            pages: Arc::new(Semaphore::new(1)),
            cut: watch::channel(false).0,
        });
        let attached = Attached {
            held: None,
            lost: None,
            _place: None,
            _page: None,
        };
        Outgoing::new(body, waiting, &peer, (1000, patience), attached)
    }

    async fn next(outgoing: &mut Outgoing) -> Option<Bytes> {
        let frame = tokio::time::timeout(Duration::from_secs(20), outgoing.frame());
        let frame = frame.await.expect("it comes")?;
        Some(frame.unwrap().into_data().unwrap())
    }

    async fn has_nothing_yet(outgoing: &mut Outgoing) -> bool {
        let frame = tokio::time::timeout(Duration::from_millis(20), outgoing.frame());
        frame.await.is_err()
    }

    #[tokio::test]
    async fn an_answer_comes_whole_in_parts_that_wait_until_they_are_gone() {
        let waiting = waiting();
        let sent: Vec<u8> = (0..150_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let body = Body::new(Full::new(Bytes::from(sent.clone())));
        let mut outgoing = outgoing(body, &waiting, Patience::Little);
        assert_eq!(waiting.bytes(), 1000);
        assert_eq!(outgoing.size_hint().exact(), Some(150_000));
        let mut parts = vec![next(&mut outgoing).await.unwrap()];
        assert_eq!(
            outgoing.size_hint().exact(),
            Some(150_000 - PART_BYTES_MAX as u64)
        );
        assert!(!outgoing.is_end_stream());
        parts.push(next(&mut outgoing).await.unwrap());
        parts.push(next(&mut outgoing).await.unwrap());
        assert!(outgoing.is_end_stream());
        assert_eq!(next(&mut outgoing).await, None);
        assert_eq!(parts.concat(), sent);
        // Nobody has written any of it, although its sender is done.
        drop(outgoing);
        assert_eq!(waiting.bytes(), 150_000);
        parts.truncate(1);
        assert_eq!(waiting.bytes(), PART_BYTES_MAX);
        parts.clear();
        assert_eq!(waiting.bytes(), 0);
    }

    #[tokio::test]
    async fn all_of_an_answer_in_pieces_waits_until_it_is_written() {
        let waiting = waiting();
        let pieces = vec![Bytes::from(vec![7; 70_000]), Bytes::from(vec![8; 20_000])];
        let body = Body::new(Pieces::of(pieces, 90_000));
        let mut outgoing = outgoing(body, &waiting, Patience::Little);
        let prefix = next(&mut outgoing).await.unwrap();
        assert_eq!(waiting.bytes(), 90_005);
        drop(prefix);
        assert_eq!(waiting.bytes(), 90_000);
        let first = next(&mut outgoing).await.unwrap();
        assert_eq!(first.len(), PART_BYTES_MAX);
        drop(first);
        assert_eq!(waiting.bytes(), 90_000 - PART_BYTES_MAX);
        drop(outgoing);
        assert_eq!(waiting.bytes(), 0);
    }

    #[tokio::test]
    async fn nothing_waits_of_a_stream_that_has_nothing_to_say() {
        let waiting = waiting();
        let silent = Body::new(StreamBody::new(stream::pending::<
            Result<Frame<Bytes>, Status>,
        >()));
        let mut outgoing = outgoing(silent, &waiting, Patience::Endless);
        assert!(has_nothing_yet(&mut outgoing).await);
        assert_eq!(waiting.bytes(), 0);
    }

    #[tokio::test]
    async fn more_of_a_stream_is_made_when_there_is_room() {
        let waiting = waiting();
        let parts =
            stream::repeat_with(|| Ok::<_, Status>(Frame::data(Bytes::from(vec![7; 60_000]))));
        let mut outgoing = outgoing(
            Body::new(StreamBody::new(parts)),
            &waiting,
            Patience::Endless,
        );
        let first = next(&mut outgoing).await;
        let second = next(&mut outgoing).await;
        assert!(has_nothing_yet(&mut outgoing).await);
        drop(first);
        assert_eq!(next(&mut outgoing).await.unwrap().len(), 60_000);
        drop(second);
    }

    #[tokio::test]
    async fn of_an_answer_that_is_given_up_nothing_waits() {
        let waiting = waiting();
        let body = Body::new(Full::new(Bytes::from(vec![7; 150_000])));
        let mut outgoing = outgoing(body, &waiting, Patience::Little);
        let part = next(&mut outgoing).await;
        assert_eq!(waiting.bytes(), 150_000);
        drop(outgoing);
        drop(part);
        assert_eq!(waiting.bytes(), 0);
    }
}
