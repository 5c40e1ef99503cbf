//! The one reader of YAML in the house: strict, and with the place of everything.
//!
//! A misspelt field of a policy is a hole. So unknown and repeated fields, values of another type, anchors, aliases
//! and tags are faults; each has its place and what to write instead, and all faults of a text are told, not only
//! the first. A text is first read into a [`tree`], and that field by field ([`fields`]) into what it means.

pub mod fault;
pub mod fields;
pub(crate) mod json;
pub mod tree;
