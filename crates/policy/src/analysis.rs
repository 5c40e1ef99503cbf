//! What can be said of policies without a request: clauses as sets, with exact intersection, containment, emptiness,
//! and a *witness*, a request that shows it.
//!
//! A rule is a [`Region`](region::Region): statements that all hold, except where those of a carve-out do. A question
//! such as "is there a request that this rule allows and that none of those denies" is a search for a point
//! ([`region::find`]): a point is made for the statements alone, and where it does not answer the rest, the search
//! branches there. Each single statement has an exact answer, so the search has, unless it takes too long, and then it
//! says so.

pub mod atom;
mod conjunction;
pub mod domain;
pub mod glob;
pub mod nearby;
pub mod range;
pub mod region;
pub mod rule;
pub mod witness;
pub mod world;

use std::sync::Arc;

/// It takes too long to tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Exhausted;

/// A text that is not taken.
fn fresh(stem: &str, taken: impl Fn(&str) -> bool) -> Arc<str> {
    let numbered = (2_u32..).map(|number| format!("{stem}-{number}"));
    std::iter::once(stem.to_owned()).chain(numbered).find(|text| !taken(text)).unwrap_or_default().into()
}

#[cfg(test)]
mod tests;
