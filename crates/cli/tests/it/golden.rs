//! Compares output with files under `tests/golden`. `BONAFIDE_BLESS=1` writes them anew.

use std::{fs, path::Path};

use bonafide_cli::{Format, Moment, View, render};

/// A fixed now: 2026-01-02 03:04:05Z.
pub(crate) const NOW: i64 = 1_767_323_045;

/// Checks each format of a view.
pub(crate) fn check<V: View>(name: &str, view: &V) {
    for (format, ending) in [(Format::Table, "txt"), (Format::Json, "json"), (Format::Yaml, "yaml")] {
        check_text(&format!("{name}.{ending}"), &render(view, format, false, false, Moment(NOW)).unwrap());
    }
    check_text(&format!("{name}.quiet"), &render(view, Format::Table, true, false, Moment(NOW)).unwrap());
}

pub(crate) fn check_text(file: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("BONAFIDE_BLESS").is_some() {
        fs::write(&path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        actual, expected,
        "{file} differs; if that is meant, run with BONAFIDE_BLESS=1 and read the diff"
    );
}
