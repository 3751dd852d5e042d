//! Lists over HTTP. An answer is sent while the rest of the list is still being read.

use std::{
    collections::HashMap,
    future::ready,
    io,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    body::{Body, Bytes},
    extract::{Path, Query},
    response::Response,
};
use futures_util::{StreamExt, stream};
use http::StatusCode;
use prost::Message;

use super::{Asking, document::Document, refusal::Refused, resources::json_of, search::Search};
use crate::{
    calls::undecodable,
    catalog::{Error, Only},
    freezer_json::Form,
    resource::Violations,
    service::{AnswerBytes, HeldBytes},
};

/// The limit of a list whose request sets none. Freezer's clients always set one.
const LIMIT_DEFAULT: usize = 100;
/// The highest limit, which is more than a project has. The answer is streamed, so that its size does not matter.
const LIMIT_MAX: u64 = 1_000_000;
/// The most items that are read at a time.
const PAGE_ITEMS_MAX: usize = 100;
/// How much text is collected before it is sent. One more document, at most times, fits into the rest of the buffer.
const CHUNK_BYTES: usize = 32 << 10;
const DOCUMENT_BYTES: usize = 4 << 10;
/// The project id that means every project.
const ALL_PROJECTS: &str = "-";

/// `GET /v2/{project_id}/{kind}`
pub(super) async fn list<R: Document>(
    asking: Asking,
    Path(project_id): Path<String>,
    Query(parameters): Query<HashMap<String, String>>,
    body: Bytes,
) -> Result<Response, Refused> {
    let asked = Asked::read(&parameters)?;
    let search = Search::read(&body)?;
    let filter = match (search.time_after, search.time_before) {
        (None, None) => None,
        (after, before) => Some(R::within(after, before).ok_or_else(|| {
            Violations::one(
                "time_after",
                "and time_before are for backups, which have a time",
            )
        })?),
    };
    let only = (!search.is_empty()).then(|| {
        Only(Arc::new(move |record| {
            search.matches(&R::writer(Form::Api), record)
        }))
    });
    let project_id = if asked.has_all_projects {
        ALL_PROJECTS.to_owned()
    } else {
        project_id
    };
    let walk = Walk {
        kind: R::PLURAL,
        walker: asking
            .behalf
            .author
            .as_ref()
            .map(|author| author.caller.clone()),
        project_id: project_id.clone(),
        search: body,
        limit: asked.limit,
        marker: asked.marker.clone(),
    };
    let known = (asked.offset > 0).then(|| asking.edge.walks.get(&(&walk, asked.offset)));
    let mut listing = Listing::<R> {
        next: (walk, asked.offset.saturating_add(asked.limit)),
        asking,
        project_id,
        filter,
        only,
        left: asked.limit,
        records: Vec::new().into_iter(),
        next_page_token: String::new(),
        held: HeldBytes::default(),
        stands: Stands::Unbegun,
    };
    match known.flatten() {
        Some(token) => listing.turn("", &token, 0).await?,
        None => listing.turn(&asked.marker, "", asked.offset).await?,
    }
    let first = listing.chunk().await?;
    let bytes = AnswerBytes(first.len());
    let mut response = if listing.stands == Stands::Done {
        json_of(StatusCode::OK, first)
    } else {
        let held = listing.held.clone();
        let chunks = stream::once(ready(Ok(first))).chain(stream::unfold(listing, rest));
        let mut response = json_of(StatusCode::OK, Body::from_stream(chunks));
        response.extensions_mut().insert(held);
        response
    };
    response.extensions_mut().insert(bytes);
    Ok(response)
}

/// The next chunk of a list, and the state from which the list goes on.
async fn rest<R: Document>(mut listing: Listing<R>) -> Option<(io::Result<Bytes>, Listing<R>)> {
    if listing.stands == Stands::Done {
        return None;
    }
    let chunk = listing.chunk().await.map_err(|error| {
        tracing::warn!(%error, "a list is broken off");
        listing.stands = Stands::Done;
        io::Error::other(error)
    });
    Some((chunk, listing))
}

/// The parameters of the URL.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    limit: usize,
    offset: usize,
    marker: String,
    has_all_projects: bool,
}

impl Asked {
    /// # Errors
    /// Every bad parameter. Unknown parameters are ignored.
    fn read(parameters: &HashMap<String, String>) -> Result<Asked, Violations> {
        let mut violations = Violations::new();
        // An empty parameter counts as missing.
        let said = |name: &str| parameters.get(name).filter(|text| !text.is_empty());
        let mut number = |name: &str, max: u64| match said(name).map(|text| text.parse::<u64>()) {
            None => 0,
            Some(Ok(number)) if number <= max => usize::try_from(number).unwrap_or(usize::MAX),
            Some(_) => {
                violations.add(name, format!("must be a whole number from 0 to {max}"));
                0
            }
        };
        let limit = match number("limit", LIMIT_MAX) {
            0 => LIMIT_DEFAULT,
            limit => limit,
        };
        let offset = number("offset", u64::from(u32::MAX));
        let has_all_projects = match said("all_projects").map(String::as_str) {
            None | Some("False" | "false" | "0") => false,
            Some("True" | "true" | "1") => true,
            Some(_) => {
                violations.add("all_projects", "must be True or False");
                false
            }
        };
        violations.or(Asked {
            limit,
            offset,
            marker: said("marker").cloned().unwrap_or_default(),
            has_all_projects,
        })
    }
}

/// Which list is walked page by page, and by whom.
#[derive(Clone, Debug, Hash)]
struct Walk {
    kind: &'static str,
    walker: Option<Arc<str>>,
    project_id: String,
    search: Bytes,
    limit: usize,
    marker: String,
}

/// The state of a list that is being written.
struct Listing<R: Document> {
    asking: Asking,
    project_id: String,
    filter: Option<R::Filter>,
    only: Option<Only>,
    /// The walk that this page belongs to, and the offset of its next page.
    next: (Walk, usize),
    /// How many more items may come.
    left: usize,
    /// The records that are read but not yet written, and where to read on.
    records: std::vec::IntoIter<Bytes>,
    next_page_token: String,
    held: HeldBytes,
    stands: Stands,
}

/// How far a list has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Unbegun,
    HasNone,
    HasSome,
    Done,
}

impl<R: Document> Listing<R> {
    /// Reads the next page.
    async fn turn(&mut self, marker: &str, page_token: &str, skip: usize) -> Result<(), Error> {
        let calls = self.asking.about::<R>();
        let limit = self.left.min(PAGE_ITEMS_MAX);
        let list = calls
            .list(&*self.project_id)
            .limit(i32::try_from(limit).expect("a page is small"))
            .after(marker)
            .page_token(page_token)
            .filter(self.filter.clone())
            .only(self.only.clone())
            .skip(skip);
        let mut page = list.encoded().await?;
        self.held.0.store(page.encoded_len(), Ordering::Relaxed);
        self.next_page_token = std::mem::take(&mut page.next_page_token);
        let records = page.into_encoded().map_err(|_| undecodable::<R>())?;
        self.records = records.into_iter();
        Ok(())
    }

    /// The next chunk of the answer.
    async fn chunk(&mut self) -> Result<Bytes, Error> {
        let mut text = Vec::with_capacity(CHUNK_BYTES + DOCUMENT_BYTES);
        loop {
            self.write_page(&mut text)?;
            let has_more = self.left > 0 && !self.next_page_token.is_empty();
            if text.len() >= CHUNK_BYTES && (has_more || self.records.len() > 0) {
                return Ok(text.into());
            }
            let token = std::mem::take(&mut self.next_page_token);
            if has_more {
                self.turn("", &token, 0).await?;
                continue;
            }
            if !token.is_empty() {
                self.asking
                    .edge
                    .walks
                    .put(&(&self.next.0, self.next.1), token);
            }
            self.held.0.store(0, Ordering::Relaxed);
            text.extend_from_slice(b"]}");
            self.stands = Stands::Done;
            return Ok(text.into());
        }
    }

    /// Writes records until the chunk is full.
    fn write_page(&mut self, text: &mut Vec<u8>) -> Result<(), Error> {
        if self.stands == Stands::Unbegun {
            text.extend_from_slice(format!("{{\"{}\":[", R::PLURAL).as_bytes());
            self.stands = Stands::HasNone;
        }
        let writer = R::writer(Form::Api);
        while text.len() < CHUNK_BYTES
            && let Some(record) = self.records.next()
        {
            if self.stands == Stands::HasSome {
                text.push(b',');
            }
            writer
                .write(&record, text)
                .map_err(|_| undecodable::<R>())?;
            self.stands = Stands::HasSome;
            self.left -= 1;
        }
        Ok(())
    }
}
