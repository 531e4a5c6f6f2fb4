//! Pages of lists.

use control::PageQuery;
use http_kit::ApiError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::limits::{CURSOR_LENGTH_MAX, PAGE_LENGTH_DEFAULT, PAGE_LENGTH_MAX};

/// One part of a list. Never empty in mid-list, because clients stop at an empty one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PageBody<T> {
    /// The items.
    pub(crate) items: Vec<T>,
    /// Hand back as `cursor` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
}

impl<T> PageBody<T> {
    pub(crate) fn of<U>(page: control::Page<U>, shape: impl FnMut(U) -> T) -> Self {
        Self {
            items: page.items.into_iter().map(shape).collect(),
            next_cursor: page.next_cursor.filter(|cursor| !cursor.is_empty()),
        }
    }
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct PageParams {
    cursor: Option<String>,
    limit: Option<u32>,
}

impl PageParams {
    pub(crate) const fn new(cursor: Option<String>, limit: Option<u32>) -> Self {
        Self { cursor, limit }
    }

    /// For `control`.
    ///
    /// # Errors
    /// 400 for a limit of 0 and for a cursor that cannot be one of ours.
    pub(crate) fn query(self) -> Result<PageQuery, ApiError> {
        if self.limit == Some(0) {
            return Err(ApiError::invalid("limit starts at 1"));
        }
        if self.cursor.as_ref().is_some_and(|cursor| cursor.len() > CURSOR_LENGTH_MAX) {
            return Err(ApiError::invalid("cursor is not one that this server gave out"));
        }
        let limit = self.limit.unwrap_or(PAGE_LENGTH_DEFAULT).min(PAGE_LENGTH_MAX);
        Ok(PageQuery { cursor: self.cursor, limit: Some(limit) })
    }
}

/// A switch in a query: `true`, `1` or nothing after the name turn it on, `false` and `0` off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flag(pub(crate) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "true" | "1" | "" => Ok(Self(true)),
            "false" | "0" => Ok(Self(false)),
            other => Err(serde::de::Error::custom(format!("{other:?} is neither true nor false"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_pages_hold() {
        let query = |cursor: Option<&str>, limit| {
            PageParams { cursor: cursor.map(str::to_owned), limit }.query()
        };
        assert_eq!(query(None, None).unwrap().limit, Some(100));
        assert_eq!(query(None, Some(50_000)).unwrap().limit, Some(1000));
        assert_eq!(query(None, Some(0)).unwrap_err().status(), 400);
        assert_eq!(query(Some(&"x".repeat(2000)), None).unwrap_err().status(), 400);
    }

    #[test]
    fn an_empty_cursor_means_the_last_page() {
        let page = control::Page { items: vec![1], next_cursor: Some(String::new()) };
        let body = serde_json::to_value(PageBody::of(page, |n| n)).unwrap();
        assert_eq!(body, serde_json::json!({"items": [1]}));
    }
}
