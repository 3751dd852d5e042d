//! Page tokens: each names a place in one list.
//!
//! A token is URL-safe base64 of a version byte, the place (project, name and id of the last item that was looked at) and a
//! CRC-32C. The checksum covers these bytes, the store, the kind, the scope and the filter. It keeps a token from being used for
//! another list by mistake. It is not a secret: a made-up token shows only what the request's project may show anyway, from another
//! place on.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::{Error, Scope};
use crate::resource::{Resource, Violations};

const VERSION: u8 = 2;
const CRC_BYTES: usize = 4;
/// The most bytes in a token. A token with the longest project, name and id is shorter.
const TOKEN_BYTES_MAX: usize = 1024;

/// The token of a place in a list.
pub(super) fn write<R: Resource>(
    store: Uuid,
    scope: &Scope,
    filter: &R::Filter,
    place: &[u8],
) -> String {
    let mut token = vec![VERSION];
    token.extend_from_slice(place);
    token.extend_from_slice(&checksum::<R>(store, scope, filter, &token));
    URL_SAFE_NO_PAD.encode(token)
}

/// The place that a token names.
///
/// # Errors
/// If it is not a token, or belongs to another list.
pub(super) fn read<R: Resource>(
    store: Uuid,
    scope: &Scope,
    filter: &R::Filter,
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
    let [VERSION, place @ ..] = content else {
        return refuse("is not of this version of Icebox: start the list again");
    };
    if *crc != checksum::<R>(store, scope, filter, content) && !cfg!(fuzzing) {
        return refuse(
            "is not of this list: project_id and filter must be those of the page that it came with",
        );
    }
    Ok(place.to_vec())
}

fn checksum<R: Resource>(
    store: Uuid,
    scope: &Scope,
    filter: &R::Filter,
    content: &[u8],
) -> [u8; CRC_BYTES] {
    let scope = match scope {
        Scope::Project(project) => project.as_str(),
        Scope::AllProjects => "-",
    };
    let mut list = store.as_bytes().to_vec();
    list.push(R::KIND.tag);
    list.extend_from_slice(scope.as_bytes());
    list.push(0);
    list.extend_from_slice(&prost::Message::encode_to_vec(filter));
    crc32c::crc32c_append(crc32c::crc32c(&list), content).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proto::{Backup, BackupFilter, Job, JobFilter},
        resource::ProjectId,
    };

    fn scope() -> Scope {
        Scope::Project(ProjectId::parse("project_id", "demo").unwrap())
    }

    fn reason(refused: Result<Vec<u8>, Error>) -> String {
        refused.unwrap_err().to_string()
    }

    #[test]
    fn a_token_is_good_for_its_own_list_alone() {
        let store = Uuid::from_u128(1);
        let filter = BackupFilter::default();
        let token = write::<Backup>(store, &scope(), &filter, b"place");
        let read_in = |store, scope: &Scope, filter: &BackupFilter| {
            read::<Backup>(store, scope, filter, &token)
        };
        assert_eq!(read_in(store, &scope(), &filter).unwrap(), b"place");
        let other = BackupFilter {
            hostname: "h".into(),
            ..BackupFilter::default()
        };
        for refused in [
            read_in(Uuid::from_u128(2), &scope(), &filter),
            read_in(store, &Scope::AllProjects, &filter),
            read_in(store, &scope(), &other),
            read::<Job>(store, &scope(), &JobFilter::default(), &token),
        ] {
            assert!(reason(refused).contains("not of this list"));
        }
    }

    #[test]
    fn a_token_stays_what_it_is_as_long_as_its_version_does() {
        let token = write::<Backup>(Uuid::from_u128(1), &scope(), &BackupFilter::default(), b"p");
        assert_eq!(token, "AnCKz1Q1");
        let mut old = URL_SAFE_NO_PAD.decode(&token).unwrap();
        old[0] = 1;
        let old = URL_SAFE_NO_PAD.encode(old);
        let refused = read::<Backup>(Uuid::from_u128(1), &scope(), &BackupFilter::default(), &old);
        assert!(reason(refused).contains("not of this version"));
    }
}
