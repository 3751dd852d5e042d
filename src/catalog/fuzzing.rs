//! Page tokens, as a fuzzer makes them.

use uuid::Uuid;

use super::{Scope, token};
use crate::{proto::Job, resource::Resource};

/// Reads a page token. One that is good is written as it was read.
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
