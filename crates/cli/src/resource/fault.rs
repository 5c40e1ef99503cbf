//! The faults of a run, as they are told.

use std::fmt::Write as _;

pub use bonafide_policy::yaml::fault::{Fault, Spot};

/// Faults that are told; the number of the others is.
const MAX_TOLD: usize = 50;

/// All of them, as they go to standard error.
pub fn render_all(faults: &[Fault], sources: &[super::source::Source], coloured: bool) -> String {
    let mut out = String::new();
    for fault in faults.iter().take(MAX_TOLD) {
        if let Some(source) = sources.get(fault.source) {
            out.push_str(&fault.render(&source.name, &source.text, coloured));
            out.push('\n');
        }
    }
    if faults.len() > MAX_TOLD {
        let _ = writeln!(out, "and {} more", faults.len() - MAX_TOLD);
    }
    out
}
