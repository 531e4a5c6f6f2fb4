//! Pages of lists: opaque cursors, bounded lengths.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{PAGE_LENGTH_DEFAULT, PAGE_LENGTH_MAX};
use crate::{Error, Result};

/// Which part of a list is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct PageQuery {
    /// [`Page::next_cursor`] of the page before; `None` or empty starts.
    pub cursor: Option<String>,
    /// How many items at most; bounded by [`PAGE_LENGTH_MAX`].
    pub limit: Option<u32>,
}

impl PageQuery {
    /// The length to serve, within bounds.
    #[must_use]
    pub fn length(&self) -> usize {
        let length = self.limit.unwrap_or(PAGE_LENGTH_DEFAULT).clamp(1, PAGE_LENGTH_MAX);
        length as usize
    }

    /// The cursor, where there is one.
    #[must_use]
    pub fn after(&self) -> Option<&str> {
        self.cursor.as_deref().filter(|cursor| !cursor.is_empty())
    }

    /// The cursor as what it was made from.
    pub(crate) fn parse_cursor<T: FromStr>(&self) -> Result<Option<T>> {
        let parsed = self.after().map(str::parse).transpose();
        parsed.map_err(|_| {
            Error::invalid("the cursor is not one of this list; start again without it")
                .with_detail("field", "cursor")
        })
    }
}

/// One part of a list. Never empty in mid-list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page starts; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Cuts `items`, of which one more than `length` may have been read, and makes the cursor
    /// from the last one kept.
    pub(crate) fn cut(mut items: Vec<T>, length: usize, cursor: impl Fn(&T) -> String) -> Self {
        let more = items.len() > length;
        items.truncate(length);
        let next_cursor = if more { items.last().map(cursor) } else { None };
        Self { items, next_cursor }
    }
}
