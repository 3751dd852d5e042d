//! A large answer in pieces.

use std::{
    pin::Pin,
    task::{Context, Poll},
    vec,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

/// The bytes before a message of gRPC: a flag that says whether it is compressed, and its length.
pub(crate) const PREFIX_BYTES: usize = 5;

/// The body of an answer whose message is in pieces, and has other owners, too. It is in the answer's extensions, and takes the place
/// of the body that tonic makes: tonic would encode the message, which copies all of it.
#[derive(Clone, Debug)]
pub(crate) struct Pieces {
    left: vec::IntoIter<Bytes>,
    is_ended: bool,
}

impl Pieces {
    /// A message of so many bytes.
    pub(crate) fn of(message: Vec<Bytes>, bytes: usize) -> Pieces {
        let mut prefix = BytesMut::with_capacity(PREFIX_BYTES);
        prefix.put_u8(0);
        prefix.put_u32(u32::try_from(bytes).expect("an answer is far smaller than 4 GiB"));
        let pieces: Vec<_> = std::iter::once(prefix.freeze()).chain(message).collect();
        Pieces {
            left: pieces.into_iter(),
            is_ended: false,
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(piece) = self.left.next() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if std::mem::replace(&mut self.is_ended, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        Status::ok("").add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.left.as_slice().iter();
        SizeHint::with_exact(left.map(|piece| piece.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn an_answer_in_pieces_is_an_ordinary_one_on_the_wire() {
        let message = [vec![7; 300], vec![8; 2]].map(Bytes::from);
        let pieces = Pieces::of(message.into(), 302);
        assert_eq!(pieces.size_hint().exact(), Some(307));
        let mut frames = pieces.clone();
        while !frames.is_end_stream() {
            frames.frame().await.expect("there is more").unwrap();
        }
        assert!(frames.frame().await.is_none());
        let mut body = pieces.collect().await.unwrap();
        let trailers = body.trailers().expect("gRPC ends with them");
        let status = Status::from_header_map(trailers).expect("they say how it went");
        assert_eq!(status.code(), Code::Ok);
        let body = std::mem::take(&mut body).to_bytes();
        let expected = [&[0, 0, 0, 1, 46][..], &[7; 300], &[8; 2]].concat();
        assert_eq!(body, expected);
    }
}
