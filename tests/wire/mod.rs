//! Calls with messages of any bytes, for the tests here and in `src/server/isolation/`, and for `benches/rpc.rs`.

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::AsciiMetadataValue,
    transport::Channel,
};

/// The messages as they are on the wire.
#[derive(Clone, Copy, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// The result of a call: the first message of the answer, or the refusal.
pub(crate) async fn call(
    channel: &Channel,
    path: PathAndQuery,
    message: Bytes,
    authorizations: &[&str],
) -> Result<Bytes, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready()
        .await
        .map_err(|error| Status::unknown(error.to_string()))?;
    let mut request = Request::new(message);
    for authorization in authorizations {
        let value = AsciiMetadataValue::try_from(*authorization).expect("plain text");
        request.metadata_mut().append("authorization", value);
    }
    let answer = grpc.server_streaming(request, path, Raw);
    let first = answer.await?.into_inner().message().await?;
    Ok(first.unwrap_or_default())
}
