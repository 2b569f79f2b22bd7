//! Versions in their order and in pages, neither of which Key Vault promises.

use std::cmp::Ordering;

use crate::error::Failure;
use crate::providers::catalogue::bad_token;
use crate::secrets::{Listing, Page, VersionInfo};

const MAX_PAGE: usize = 1_000;

/// Of two versions from one second, which is as exact as the vault tells it, the order is that of their ids.
pub(super) fn newest_first(a: &VersionInfo, b: &VersionInfo) -> Ordering {
    (b.created, &b.id).cmp(&(a.created, &a.id))
}

pub(super) fn page_of_versions(mut versions: Vec<VersionInfo>, page: &Page) -> Result<Listing<VersionInfo>, Failure> {
    if let Some(token) = &page.token {
        let last = versions.iter().position(|version| *version.id == **token).ok_or_else(bad_token)?;
        versions.drain(..=last);
    }
    let size = page.size.clamp(1, MAX_PAGE);
    let more = versions.len() > size;
    versions.truncate(size);
    let next = versions.last().filter(|_| more).map(|last| last.id.to_string());
    Ok(Listing { items: versions, next })
}
