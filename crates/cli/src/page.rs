//! A page of text for people: records, tables, and steps with ticks. All foreign text is cleaned here.

use std::fmt::Write as _;

use comfy_table::{Table, presets};

use crate::{moment::Moment, text::clean};

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// As it should be.
    Ok,
    /// Here it broke.
    Failed,
    /// Not known, or not reached.
    Unknown,
}

/// A page under construction.
#[derive(Debug)]
pub struct Page {
    text: String,
    now: Moment,
    coloured: bool,
}

impl Page {
    /// An empty page, with times relative to `now`.
    pub fn new(now: Moment, coloured: bool) -> Self {
        Self { text: String::new(), now, coloured }
    }

    /// The finished text.
    pub fn into_text(self) -> String {
        self.text
    }

    /// A time, relative and absolute.
    pub fn time(&self, moment: Moment) -> String {
        moment.relative_to(self.now)
    }

    /// A time that may be missing.
    pub fn time_or(&self, moment: Option<Moment>, missing: &str) -> String {
        moment.map_or_else(|| missing.to_owned(), |moment| self.time(moment))
    }

    /// One line.
    pub fn line(&mut self, text: &str) {
        self.text.push_str(&clean(text));
        self.text.push('\n');
    }

    /// An empty line, unless the page is still empty.
    pub fn gap(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    /// Names and values, one a line; a value of several lines is indented under its name. Empty values are left out.
    pub fn record<const N: usize>(&mut self, fields: [(&str, Vec<String>); N]) {
        let width = fields
            .iter()
            .filter(|(_, values)| !values.is_empty())
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or(0);
        for (name, values) in fields {
            for (index, value) in values.iter().enumerate() {
                let name = if index == 0 { name } else { "" };
                let _ = writeln!(self.text, "{name:width$}  {}", clean(value));
            }
        }
    }

    /// A table with a header.
    pub fn table<const N: usize>(&mut self, header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).force_no_tty().set_header(header);
        for row in rows {
            table.add_row(row.map(|cell| clean(&cell)));
        }
        for line in table.lines() {
            // The style pads each cell on both sides.
            let line = line.strip_prefix(' ').unwrap_or(&line);
            let _ = writeln!(self.text, "{}", line.trim_end());
        }
    }

    /// One step of a chain: what, how it went, what was seen.
    pub fn step(&mut self, mark: Mark, name: &str, details: &[String], hint: &str) {
        let (sign, colour) = match mark {
            Mark::Ok => ("✓", "32"),
            Mark::Failed => ("✗", "31"),
            Mark::Unknown => ("·", "2"),
        };
        let sign = if self.coloured { format!("\u{1b}[{colour}m{sign}\u{1b}[0m") } else { sign.to_owned() };
        let mut lines = details.iter();
        let first = lines.next().map(|line| clean(line)).unwrap_or_default();
        let _ = writeln!(self.text, "{}", format!("{sign} {:13} {first}", clean(name)).trim_end());
        for line in lines {
            let _ = writeln!(self.text, "{:16}{}", "", clean(line));
        }
        if !hint.is_empty() {
            let _ = writeln!(self.text, "{:16}hint: {}", "", clean(hint));
        }
    }
}

/// A value for [`Page::record`] that is left out when empty.
pub fn some(value: impl Into<String>) -> Vec<String> {
    let value = value.into();
    if value.is_empty() { Vec::new() } else { vec![value] }
}
