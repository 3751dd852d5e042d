//! Lists that ask for page after page.

use prost::Message;

use super::{
    Error, ids,
    output::{Listing, Printer, Row},
};
use crate::{
    catalog::PAGE_ITEMS_MAX,
    proto::{Page, Revisioned},
};

/// The options of every list command.
#[derive(clap::Args, Debug, Default)]
pub(super) struct Paging {
    /// Print at most this many (default: all)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Start after the one with this ID
    #[arg(long, value_name = "ID")]
    marker: Option<String>,
}

/// The part of a list request that differs from page to page.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) limit: i32,
    pub(super) marker: String,
    pub(super) page_token: String,
}

/// Prints page after page until the list ends or the limit is reached.
pub(super) async fn print_pages<R: Row + Message + Revisioned + Default>(
    paging: Paging,
    listing: &Listing,
    all_projects: bool,
    noun: &str,
    page: impl AsyncFnMut(Place) -> Result<Page<R>, Error>,
) -> Result<(), Error> {
    let mut printer = Printer::new(listing, all_projects)?;
    for_each(paging, page, |row| printer.print(row)).await?;
    printer.finish(noun)
}

/// Calls `visit` with row after row until the list ends or the limit is reached.
pub(super) async fn for_each<R: Message + Revisioned + Default>(
    paging: Paging,
    mut page: impl AsyncFnMut(Place) -> Result<Page<R>, Error>,
    mut visit: impl FnMut(R) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut left = paging.limit.unwrap_or(u64::MAX);
    let mut marker = paging
        .marker
        .as_deref()
        .map(ids::normalized)
        .unwrap_or_default();
    let mut page_token = String::new();
    loop {
        let limit = left.min(PAGE_ITEMS_MAX as u64);
        let limit = i32::try_from(limit).expect("a page's limit is small");
        let place = Place {
            limit,
            marker: std::mem::take(&mut marker),
            page_token,
        };
        let answer = page(place).await?;
        let rows = answer.decoded()?;
        left = left.saturating_sub(rows.len() as u64);
        for row in rows {
            visit(row)?;
        }
        page_token = answer.next_page_token;
        if left == 0 || page_token.is_empty() {
            return Ok(());
        }
    }
}
