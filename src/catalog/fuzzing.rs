//! Page tokens for the fuzzer.

use uuid::Uuid;

use super::{Scope, token};
use crate::{proto::Job, resource::Resource};

/// Reads a page token. A good token must be written again exactly as it was read.
pub fn page_token(text: &str) {
    let (store, scope) = (Uuid::nil(), Scope::AllProjects);
    let filter = <Job as Resource>::Filter::default();
    if let Ok(place) = token::read::<Job>(store, &scope, &filter, text) {
        let again = token::write::<Job>(store, &scope, &filter, &place);
        assert_eq!(
            token::read::<Job>(store, &scope, &filter, &again).ok(),
            Some(place)
        );
    }
}
