//! Ids as people type them: in upper case, with dashes, or only the first digits if these name one resource.

use super::{Channel, Error};
use crate::proto::{ResolveIdRequest, maintenance_service_client::MaintenanceServiceClient};

const ID_DIGITS: usize = 32;

/// The id as it is stored, as far as this is known without asking the server.
pub(super) fn normalized(typed: &str) -> String {
    typed
        .chars()
        .filter(|character| *character != '-')
        .map(|character| character.to_ascii_lowercase())
        .collect()
}

/// The whole id for what a person has typed, in the project's resources of this kind.
///
/// # Errors
/// If no resource matches, or more than one.
pub(super) async fn resolve(
    channel: &Channel,
    project_id: &str,
    kind: &str,
    typed: &str,
) -> Result<String, Error> {
    let id = normalized(typed);
    let is_part = !id.is_empty()
        && id.len() < ID_DIGITS
        && id.chars().all(|character| character.is_ascii_hexdigit());
    // The server explains what is wrong with text that is not an id.
    if !is_part || project_id == "-" {
        return Ok(id);
    }
    let request = ResolveIdRequest {
        project_id: project_id.to_owned(),
        kind: kind.to_owned(),
        id_prefix: id.clone(),
    };
    let mut client = MaintenanceServiceClient::new(channel.clone());
    let mut ids = client.resolve_id(request).await?.into_inner().ids;
    match (ids.pop(), ids.is_empty()) {
        (Some(id), true) => Ok(id),
        (Some(last), false) => Err(Error::Failed(format!(
            "{id} is the start of more than one {kind}'s ID: {}, {last}",
            ids.join(", ")
        ))),
        (None, _) => Err(Error::Failed(format!(
            "the project has no {kind} whose ID starts with {id}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_as_people_write_them() {
        let stored = "0ae284d514eb47dd84154748b5056749";
        assert_eq!(normalized("0AE284D5-14EB-47DD-8415-4748B5056749"), stored);
        assert_eq!(normalized(stored), stored);
    }
}
