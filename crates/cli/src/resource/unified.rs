//! Two texts as a unified diff.

use std::fmt::Write as _;

use crate::text::clean;

/// Unchanged lines around a change.
const CONTEXT: usize = 3;
/// Pairs of lines that are compared; beyond, everything counts as changed. Documents have some hundred lines.
const MAX_PAIRS: usize = 16_000_000;

/// One line of the longer story of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'a> {
    Both(&'a str),
    Old(&'a str),
    New(&'a str),
}

/// The diff from `old` to `new`; empty when they are the same. Lines are cleaned for a terminal.
pub fn diff(old: (&str, &str), new: (&str, &str), coloured: bool) -> String {
    let (before, after): (Vec<&str>, Vec<&str>) = (old.1.lines().collect(), new.1.lines().collect());
    if before == after {
        return String::new();
    }
    let lines = align(&before, &after);
    let paint = |text: String, colour: &str| {
        if coloured { format!("\u{1b}[{colour}m{text}\u{1b}[0m\n") } else { format!("{text}\n") }
    };
    let mut out = paint(format!("--- {}", clean(old.0)), "1");
    out.push_str(&paint(format!("+++ {}", clean(new.0)), "1"));
    let near = |index: usize| {
        let from = index.saturating_sub(CONTEXT);
        lines.iter().skip(from).take(index + CONTEXT + 1 - from).any(|line| !matches!(line, Line::Both(_)))
    };
    let (mut old_line, mut new_line) = (0, 0);
    let mut index = 0;
    while index < lines.len() {
        let hunk: Vec<Line<'_>> = lines
            .iter()
            .enumerate()
            .skip(index)
            .take_while(|(at, _)| near(*at))
            .map(|(_, line)| *line)
            .collect();
        let count = |other: fn(&Line<'_>) -> bool| hunk.iter().filter(|line| !other(line)).count();
        let olds = count(|line| matches!(line, Line::New(_)));
        let news = count(|line| matches!(line, Line::Old(_)));
        if hunk.is_empty() {
            (old_line, new_line, index) = (old_line + 1, new_line + 1, index + 1);
            continue;
        }
        // An empty side is numbered by the line before it.
        let start = |line: usize, length: usize| if length == 0 { line } else { line + 1 };
        let header = format!("@@ -{},{olds} +{},{news} @@", start(old_line, olds), start(new_line, news));
        out.push_str(&paint(header, "36"));
        for line in &hunk {
            match line {
                Line::Both(text) => {
                    let _ = writeln!(out, " {}", clean(text));
                }
                Line::Old(text) => out.push_str(&paint(format!("-{}", clean(text)), "31")),
                Line::New(text) => out.push_str(&paint(format!("+{}", clean(text)), "32")),
            }
        }
        old_line += olds;
        new_line += news;
        index += hunk.len();
    }
    out
}

/// By the longest common subsequence.
fn align<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<Line<'a>> {
    let old = before.iter().map(|line| Line::Old(line));
    if before.len().saturating_mul(after.len()) > MAX_PAIRS {
        return old.chain(after.iter().map(|line| Line::New(line))).collect();
    }
    let width = after.len() + 1;
    // Of the rests from (i, j): row by row from the end.
    let mut common = vec![0_u32; (before.len() + 1) * width];
    let at = |common: &[u32], i: usize, j: usize| common.get(i * width + j).copied().unwrap_or(0);
    for (i, one) in before.iter().enumerate().rev() {
        for (j, other) in after.iter().enumerate().rev() {
            let best = if one == other {
                at(&common, i + 1, j + 1) + 1
            } else {
                at(&common, i + 1, j).max(at(&common, i, j + 1))
            };
            if let Some(cell) = common.get_mut(i * width + j) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::with_capacity(before.len() + after.len());
    loop {
        match (before.get(i), after.get(j)) {
            (Some(one), Some(other)) if one == other => {
                lines.push(Line::Both(one));
                (i, j) = (i + 1, j + 1);
            }
            (Some(one), other) if other.is_none() || at(&common, i + 1, j) >= at(&common, i, j + 1) => {
                lines.push(Line::Old(one));
                i += 1;
            }
            (_, Some(other)) => {
                lines.push(Line::New(other));
                j += 1;
            }
            _ => return lines,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_others_write_it() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n";
        let new = "a\nb\nc\nd\nE\nf\ng\nh\ni\nj\nk\n";
        assert_eq!(
            diff(("x", old), ("y", new), false),
            "--- x\n+++ y\n@@ -2,9 +2,10 @@\n b\n c\n d\n-e\n+E\n f\n g\n h\n i\n j\n+k\n"
        );
        assert_eq!(diff(("x", ""), ("y", "a\n"), false), "--- x\n+++ y\n@@ -0,0 +1,1 @@\n+a\n");
        assert_eq!(diff(("x", old), ("y", old), false), "");
    }

    proptest! {
        #[test]
        fn both_texts_are_in_it(old in "([abc]\n){0,20}", new in "([abc]\n){0,20}") {
            let (before, after): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
            let lines = align(&before, &after);
            let side = |skip: fn(&Line<'_>) -> bool| -> Vec<String> {
                lines.iter().filter(|line| !skip(line)).map(|line| match line {
                    Line::Both(text) | Line::Old(text) | Line::New(text) => (*text).to_owned(),
                }).collect()
            };
            prop_assert_eq!(side(|line| matches!(line, Line::New(_))), before);
            prop_assert_eq!(side(|line| matches!(line, Line::Old(_))), after);
        }
    }
}
