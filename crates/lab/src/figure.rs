//! What a benchmark says, and how it is printed.

use anyhow::Result;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;

/// One number.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What the cryptography, or the disk, alone costs: measured in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) floor: Option<f64>,
    /// Ours to the floor: the median over pairs that were measured side by side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<f64>,
    /// What somebody else's program costs to ours, on the same requests; absent without that program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_ratio: Option<f64>,
    /// What the ratio, or without one the value, should be at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<f64>,
    /// What was measured, in a few words.
    pub(crate) what: String,
}

impl Figure {
    pub(crate) fn print_json(&self) -> Result<()> {
        use std::io::Write as _;
        writeln!(std::io::stdout(), "{}", serde_json::to_string(self)?)?;
        Ok(())
    }
}

/// A table for people.
pub(crate) fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["figure", "value", "floor", "ratio", "peer", "target", "what"]);
    for figure in figures {
        let number = |value: f64| format!("{value:.2} {}", figure.unit);
        table.add_row([
            figure.name.to_owned(),
            number(figure.value),
            figure.floor.map(number).unwrap_or_default(),
            figure.ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default(),
            figure.peer_ratio.map(|ratio| format!("{ratio:.1}")).unwrap_or_default(),
            match (figure.target, figure.ratio) {
                (Some(target), Some(_)) => format!("≤ {target}"),
                (Some(target), None) => format!("≤ {target} {}", figure.unit),
                (None, _) => String::new(),
            },
            figure.what.clone(),
        ]);
    }
    table
}
