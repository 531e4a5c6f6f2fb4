//! Pages of a bucket's listing, as version 2 of the call defines them.

use std::ops::Bound;

use super::objects::Bucket;

/// The most entries of one page.
const PAGE_MAX: usize = 1_000;

/// What a page is asked for with.
#[derive(Debug, Default)]
pub(super) struct Question<'a> {
    pub(super) prefix: &'a str,
    pub(super) delimiter: Option<&'a str>,
    /// The continuation token or, on the first page, where to start after.
    pub(super) after: &'a str,
    pub(super) max: Option<i32>,
}

/// An entry of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Object(String),
    Prefix(String),
}

impl Entry {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Object(text) | Self::Prefix(text) => text,
        }
    }
}

/// A page, and whether there is more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    pub(super) truncated: bool,
}

pub(super) fn page(bucket: &Bucket, question: &Question<'_>) -> Page {
    let max =
        question.max.and_then(|max| usize::try_from(max).ok()).unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let start = match question.after {
        after if after >= question.prefix => Bound::Excluded(after),
        _ => Bound::Included(question.prefix),
    };
    let mut page = Page::default();
    if max == 0 {
        return page;
    }
    for key in bucket.range::<str, _>((start, Bound::Unbounded)).map(|(key, _)| key) {
        let Some(rest) = key.strip_prefix(question.prefix) else { break };
        let entry = match question.delimiter.and_then(|delimiter| rest.split_once(delimiter)) {
            Some((group, _)) => {
                let delimiter = question.delimiter.unwrap_or_default();
                Entry::Prefix(format!("{}{group}{delimiter}", question.prefix))
            }
            None => Entry::Object(key.clone()),
        };
        // A group counts once, also where the page before ended with it.
        let seen = page.entries.last() == Some(&entry)
            || matches!(&entry, Entry::Prefix(group) if question.after.starts_with(group.as_str()));
        if seen {
            continue;
        }
        if page.entries.len() >= max {
            page.truncated = true;
            break;
        }
        page.entries.push(entry);
    }
    page
}
