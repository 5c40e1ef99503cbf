//! Rego: policies written as such ([`export`]), and, behind the feature `rego`, programs that take part in decisions
//! ([`program`]). The `input` of both is that of [`crate::record`].

pub mod export;
#[cfg(feature = "rego")]
pub mod program;
#[cfg(feature = "rego")]
mod runs;
#[cfg(feature = "rego")]
mod source;
