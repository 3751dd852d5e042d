//! Page tokens: a place in a list, bound to the list that it is of.
//!
//! A token is URL-safe base64 of a version byte, the place (project, name and id of the last item looked
//! at) and a CRC-32C over these and over the store, kind, scope and filter. The checksum keeps a token
//! from being used for another list by mistake; it is not a secret: whoever makes up a token is shown what
//! the request's project may be shown, from another place on.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::{Error, Scope};
use crate::resource::{Filter, Violations};

const VERSION: u8 = 1;
const CRC_BYTES: usize = 4;
/// Longer than any token that was ever given out: a project, a name and an id.
const TOKEN_BYTES_MAX: usize = 1024;

/// The token of the place in the list.
pub(super) fn write<F: Filter>(store: Uuid, scope: &Scope, filter: &F, place: &[u8]) -> String {
    let mut token = vec![VERSION];
    token.extend_from_slice(place);
    token.extend_from_slice(&checksum(store, scope, filter, &token));
    URL_SAFE_NO_PAD.encode(token)
}

/// The place that a token names.
///
/// # Errors
/// If it is no token, or of another list.
pub(super) fn read<F: Filter>(
    store: Uuid,
    scope: &Scope,
    filter: &F,
    token: &str,
) -> Result<Vec<u8>, Error> {
    let refuse = |reason| Err(Error::Invalid(Violations::one("page_token", reason)));
    let decoded = if token.len() <= TOKEN_BYTES_MAX {
        URL_SAFE_NO_PAD.decode(token).ok()
    } else {
        None
    };
    let Some((content, crc)) = decoded
        .as_ref()
        .and_then(|bytes| bytes.split_last_chunk::<CRC_BYTES>())
    else {
        return refuse("is not a next_page_token: pass one on as it was received");
    };
    if *crc != checksum(store, scope, filter, content) {
        return refuse(
            "is not of this list: project_id and filter must be those of the page that it came with",
        );
    }
    match content {
        [VERSION, place @ ..] => Ok(place.to_vec()),
        _ => refuse("is of another version of Icebox: start the list again"),
    }
}

fn checksum<F: Filter>(store: Uuid, scope: &Scope, filter: &F, content: &[u8]) -> [u8; CRC_BYTES] {
    let scope = match scope {
        Scope::Project(project) => project.as_str(),
        Scope::AllProjects => "-",
    };
    let mut list = store.as_bytes().to_vec();
    list.extend_from_slice(std::any::type_name::<F>().as_bytes());
    list.push(0);
    list.extend_from_slice(scope.as_bytes());
    list.push(0);
    list.extend_from_slice(&filter.encode_to_vec());
    crc32c::crc32c_append(crc32c::crc32c(&list), content).to_le_bytes()
}
