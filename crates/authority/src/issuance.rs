//! Evidence → site scope → registration → template → lint → log → sign → release.

#[allow(dead_code, reason = "the pipeline joins it when the crates below it land")]
pub(crate) mod lineages;
#[allow(dead_code, reason = "the pipeline joins it when the crates below it land")]
pub(crate) mod queue;
