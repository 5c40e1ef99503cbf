//! Properties and attacks: matcher, templates, lineage, join lines.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a failed test is a panic"
)]

mod join;
mod lineage;
mod matcher;
mod template;
