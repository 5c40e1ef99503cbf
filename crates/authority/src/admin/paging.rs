//! Lists, page by page. A page begins after the key that the one before it ended with, so that what is added or
//! removed meanwhile neither repeats nor hides anything else.

use tonic::Code;

use crate::refusal::Refusal;

/// Items of one page.
const MAX_PAGE: usize = 1000;
/// Items of an answer to a caller that asks for no pages.
const MAX_WHOLE: usize = 5000;
/// Longest SPIFFE ID.
const MAX_TOKEN: usize = 2048;

/// Which part of a list is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    /// `None`: the whole list.
    size: Option<usize>,
    after: &'a str,
}

impl<'a> Page<'a> {
    /// # Errors
    /// `list.page-token`.
    pub(super) fn new(page_size: u32, page_token: &'a str) -> Result<Self, Refusal> {
        if page_token.len() > MAX_TOKEN {
            return Err(foreign_token());
        }
        let size = (page_size > 0 || !page_token.is_empty())
            .then(|| usize::try_from(page_size).unwrap_or(MAX_PAGE))
            .map(|size| if size == 0 { MAX_PAGE } else { size.min(MAX_PAGE) });
        Ok(Self { size, after: page_token })
    }

    /// The key that the page begins after; empty for the first page.
    pub(super) fn after(&self) -> &'a str {
        self.after
    }

    /// The page, and the token of the next one. `items` begin after [`Self::after`], in the order of their keys.
    ///
    /// # Errors
    /// `list.too-long`, for a caller that asks for no pages: he would take a part for the whole.
    pub(super) fn take<T>(
        &self,
        items: impl Iterator<Item = T>,
        key: impl Fn(&T) -> String,
    ) -> Result<(Vec<T>, String), Refusal> {
        let size = self.size.unwrap_or(MAX_WHOLE);
        let mut page: Vec<T> = items.take(size + 1).collect();
        if page.len() <= size {
            return Ok((page, String::new()));
        }
        if self.size.is_none() {
            return Err(Refusal::new(
                Code::OutOfRange,
                "list.too-long",
                "there are more than one answer holds (5000)",
            )
            .hint("ask page by page, or name one site"));
        }
        page.truncate(size);
        let next = page.last().map(&key).unwrap_or_default();
        Ok((page, next))
    }
}

/// A page token that this list never gave out.
pub(super) fn foreign_token() -> Refusal {
    Refusal::invalid("list.page-token", "the page token is not one of this list")
        .hint("use the token of the page before, or none")
}
