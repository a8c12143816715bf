//! Lists in pages: by number, as in EMQX, or by a cursor. Going on from a cursor costs nothing,
//! whereas the pages before a number have to be looked through.

use super::problem::ApiProblem;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::str::FromStr;
use utoipa::{IntoParams, ToSchema};

/// The number of entries of a page, unless the request says another.
const USUAL: usize = 100;
/// The largest number of entries of a page.
pub(super) const MOST: usize = 10_000;
/// The furthest entry to which the number of a page may lead.
const FURTHEST: usize = 10_000_000;

/// Which part of a list is wanted.
#[derive(Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Paging {
    /// The number of the page, from 1. Pages that come before it are looked through.
    #[param(minimum = 1, default = 1)]
    pub(super) page: Option<usize>,
    /// Most entries.
    #[param(minimum = 1, maximum = 10000, default = 100)]
    pub(super) limit: Option<usize>,
    /// Where the last page ended (`meta.cursor`), instead of `page`.
    pub(super) cursor: Option<String>,
}

/// Declares the parameters of a list that can be filtered: those of [`Paging`], and its own.
/// Unknown parameters are refused; serde cannot do that with a flattened struct.
macro_rules! paged {
    ($(#[$about:meta])* $visible:vis struct $name:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Default, serde::Deserialize, utoipa::IntoParams)]
        #[into_params(parameter_in = Query)]
        #[serde(default, deny_unknown_fields)]
        $visible struct $name {
            /// The number of the page, from 1. Pages that come before it are looked through.
            #[param(minimum = 1, default = 1)]
            page: Option<usize>,
            /// Most entries.
            #[param(minimum = 1, maximum = 10000, default = 100)]
            limit: Option<usize>,
            /// Where the last page ended (`meta.cursor`), instead of `page`.
            cursor: Option<String>,
            $($own)*
        }

        impl $name {
            /// Which part of the list is wanted.
            fn paging(&self) -> $crate::admin::api::page::Paging {
                let (page, limit, cursor) = (self.page, self.limit, self.cursor.clone());
                $crate::admin::api::page::Paging { page, limit, cursor }
            }
        }
    };
}
pub(super) use paged;

/// A page of a list.
#[derive(Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The entries.
    pub(super) data: Vec<T>,
    /// Where in the list this is.
    pub(super) meta: Meta,
}

/// Where in its list a page is.
#[derive(Serialize, ToSchema)]
pub(super) struct Meta {
    /// The number of the page, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<usize>,
    /// Most entries that were asked for.
    limit: usize,
    /// Entries of the whole list, where that is known without looking through it.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    /// There are more.
    hasnext: bool,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// A position in a list that extends over all shards: the shard, and the position there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ListPosition<C> {
    pub(super) shard: usize,
    pub(super) at: C,
}

/// Which part of a list is wanted, after the parameters were checked.
pub(super) struct ListSlice<C> {
    page: Option<usize>,
    pub(super) limit: usize,
    /// The number of entries that are passed over.
    pub(super) skip: usize,
    pub(super) from: ListPosition<C>,
}

impl Paging {
    /// # Errors
    /// A parameter is out of its bounds, or the cursor does not belong to this list.
    pub(super) fn checked<C: FromStr + Default>(&self) -> Result<ListSlice<C>, ApiProblem> {
        let limit = self.limit.unwrap_or(USUAL);
        if limit == 0 || limit > MOST {
            return Err(ApiProblem::bad(format!("limit: it must be 1 to {MOST}")));
        }
        if self.page.is_some() && self.cursor.is_some() {
            return Err(ApiProblem::bad("page: it cannot be given together with cursor"));
        }
        let first = ListPosition { shard: 0, at: C::default() };
        let (from, page) = match &self.cursor {
            None => (first, Some(self.page.unwrap_or(1))),
            Some(text) => {
                let parsed = text.split_once('.').and_then(|(shard, at)| {
                    Some(ListPosition { shard: shard.parse().ok()?, at: at.parse().ok()? })
                });
                let unknown = || ApiProblem::bad("cursor: it is not one that this list has given");
                (parsed.ok_or_else(unknown)?, None)
            }
        };
        let skip = match page {
            Some(0) => return Err(ApiProblem::bad("page: it must be at least 1")),
            Some(page) => (page - 1).saturating_mul(limit),
            None => 0,
        };
        if skip > FURTHEST {
            return Err(ApiProblem::bad("page: it is too far away; use cursor"));
        }
        Ok(ListSlice { page, limit, skip, from })
    }
}

impl ListSlice<u32> {
    /// A page of a list that is held as a whole. Its cursor counts the entries before the next
    /// page.
    pub(super) fn page_of<T>(&self, all: Vec<T>) -> Page<T> {
        let (count, begin) = (all.len(), self.skip.saturating_add(self.from.at as usize));
        let end = begin.saturating_add(self.limit);
        let data = all.into_iter().skip(begin).take(self.limit).collect();
        let next = (end < count).then_some(ListPosition { shard: 0, at: end as u32 });
        self.page(data, Some(count as u64), next)
    }
}

impl<C: Display> ListSlice<C> {
    /// A page with these entries. `next` is where the list continues.
    pub(super) fn page<T>(
        &self,
        data: Vec<T>,
        count: Option<u64>,
        next: Option<ListPosition<C>>,
    ) -> Page<T> {
        let cursor = next.map(|next| format!("{}.{}", next.shard, next.at));
        let meta =
            Meta { page: self.page, limit: self.limit, count, hasnext: cursor.is_some(), cursor };
        Page { data, meta }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paging(page: Option<usize>, cursor: Option<&str>) -> Paging {
        Paging { page, limit: Some(4), cursor: cursor.map(str::to_owned) }
    }

    #[test]
    fn a_list_at_hand_is_walked_by_number_and_by_cursor() {
        let all: Vec<u32> = (0..10).collect();
        let (mut by_number, mut by_cursor) = (Vec::new(), Vec::new());
        let mut cursor: Option<String> = None;
        for number in 1..=3 {
            let page =
                paging(Some(number), None).checked::<u32>().ok().unwrap().page_of(all.clone());
            assert_eq!((page.meta.hasnext, page.meta.count), (number < 3, Some(10)));
            by_number.push(page.data);
            let wanted = paging(None, cursor.as_deref()).checked::<u32>().ok().unwrap();
            let page = wanted.page_of(all.clone());
            assert_eq!(page.meta.hasnext, page.meta.cursor.is_some());
            cursor = page.meta.cursor;
            by_cursor.push(page.data);
        }
        assert_eq!(by_number, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
        assert_eq!((by_number, None), (by_cursor, cursor));
        let beyond = paging(Some(4), None).checked::<u32>().ok().unwrap().page_of(all);
        assert!(beyond.data.is_empty() && !beyond.meta.hasnext);
    }
}
