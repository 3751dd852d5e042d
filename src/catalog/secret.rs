//! The secret fields of a resource, which only some callers may see. They are stored apart from the record, because pages of lists
//! are made of records. They are stored as a resource that has only these fields: appended to the record they give the whole
//! message, since protobuf allows fields in any order.

use bytes::Bytes;

use super::{Error, decode, keys};
use crate::{
    resource::Resource,
    store::{self, Batch, Found, Read, Reading},
};

/// Puts a resource's record and, apart from it, its secret fields. Returns what the record holds, too.
pub(super) fn put<R: Resource>(batch: Batch, record: Vec<u8>, resource: &mut R) -> (Batch, Bytes) {
    let secret = resource.take_secret().map(|secret| secret.encode_to_vec());
    let open = Bytes::from(resource.encode_to_vec());
    let batch = match secret {
        Some(secret) => {
            let merged = resource.merge(&*secret);
            merged.expect("it was just taken out of one");
            batch.put(keys::secret_of(&record), secret)
        }
        None => batch,
    };
    (batch.put(record, open.clone()), open)
}

/// The secret fields of the resource with this record, if it has any.
pub(super) fn of<R: Resource>(
    read: &impl Read,
    record: &[u8],
) -> Result<Option<Bytes>, store::Error> {
    if !R::HAS_SECRETS {
        return Ok(None);
    }
    let secret = read.get(&keys::secret_of(record))?;
    Ok(secret.map(|secret| secret.value))
}

/// Like [`of`], for a view, which knows whether there are any secret fields at all.
pub(super) fn in_view<R: Resource>(
    view: &Reading<'_>,
    record: &[u8],
) -> Result<Option<Bytes>, store::Error> {
    if !R::HAS_SECRETS || view.count(keys::secrets_of_kind::<R>()) == 0 {
        return Ok(None);
    }
    of::<R>(view, record)
}

/// The encoded resource in a record with its secret fields, if it has any and they are wanted.
pub(super) fn whole_in_view<R: Resource>(
    view: &Reading<'_>,
    (key, record): (&[u8], &[u8]),
    is_wanted: bool,
) -> Result<Option<Vec<u8>>, store::Error> {
    if !is_wanted {
        return Ok(None);
    }
    let secret = in_view::<R>(view, key)?;
    Ok(secret.map(|secret| whole(record, &secret)))
}

/// The encoded resource with its secret fields.
pub(super) fn whole(record: &[u8], secret: &[u8]) -> Vec<u8> {
    [record, secret].concat()
}

/// The resource in a record, with its revision and its secret fields.
pub(super) fn decode_whole<R: Resource>(
    record: Found<'_>,
    secret: Option<&[u8]>,
) -> Result<R, Error> {
    let Some(secret) = secret else {
        return decode(record);
    };
    let value = whole(record.value, secret);
    decode(Found {
        value: &value,
        framed: None,
        ..record
    })
}
