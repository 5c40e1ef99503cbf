//! Selectors, the subset matcher, evidence, lineage.
