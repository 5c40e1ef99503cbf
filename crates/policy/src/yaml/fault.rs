//! What is wrong with a file: where, and what to write instead.

use std::fmt::Write as _;

use crate::text::clean;

/// Characters of a line that are shown around its fault.
const WIDTH: usize = 100;

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In characters.
    pub length: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Stable, `resource.…`.
    pub code: String,
    /// One line.
    pub message: String,
    /// What to write instead.
    pub help: String,
    /// Index of the source.
    pub source: usize,
    /// Where in it.
    pub spot: Spot,
}

impl Fault {
    /// In the first source.
    pub fn new(
        code: impl Into<String>,
        spot: Spot,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { code: code.into(), message: message.into(), help: help.into(), source: 0, spot }
    }

    /// The fault with the line that it is in, and carets under it.
    pub fn render(&self, name: &str, text: &str, coloured: bool) -> String {
        let paint = |text: &str, colour: &str| {
            if coloured { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
        };
        let Spot { line, column, length } = self.spot;
        let margin = line.to_string().len();
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{}: {}",
            paint(&format!("error[{}]", clean(&self.code)), "31"),
            clean(&self.message)
        );
        let _ = writeln!(out, "{:margin$}--> {}:{line}:{column}", "", clean(name));
        let whole: Vec<char> = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().chars().collect();
        let skipped = column.saturating_sub(WIDTH / 2).min(whole.len().saturating_sub(WIDTH));
        let shown: Vec<char> = whole.iter().skip(skipped).take(WIDTH).copied().collect();
        // Each character may be cleaned into several.
        let width = |letters: &[char]| clean(&letters.iter().collect::<String>()).chars().count();
        let before = column.saturating_sub(1).saturating_sub(skipped).min(shown.len());
        let (head, tail) = shown.split_at(before);
        let under = tail.split_at(length.min(tail.len())).0;
        let dots = if skipped > 0 { "…" } else { "" };
        let line_text = format!("{dots}{}", clean(&shown.iter().collect::<String>()));
        let _ = writeln!(out, "{:margin$} |", "");
        let _ = writeln!(out, "{}", format!("{line} | {line_text}").trim_end());
        let carets = "^".repeat(width(under).max(1));
        let indent = width(head) + dots.chars().count();
        let _ = writeln!(
            out,
            "{}",
            format!("{:margin$} | {:indent$}{} {}", "", "", paint(&carets, "31"), clean(&self.help))
                .trim_end()
        );
        out
    }
}
