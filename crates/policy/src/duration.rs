//! Durations as people write them: `90s`, `5m`, `1h30m`, `2d`.

use std::fmt::Write as _;

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as `90s`, `5m`, `1h30m` or `2d`")]
pub struct NotADuration;

/// Parses a duration into seconds. Units descend, each at most once; a bare number is refused, because others read it
/// as minutes.
///
/// # Errors
/// [`NotADuration`], also for zero and for more than `u32::MAX` seconds.
pub fn parse(text: &str) -> Result<u32, NotADuration> {
    let mut total = 0_u64;
    let mut number: Option<u64> = None;
    let mut units = UNITS.iter();
    for letter in text.chars() {
        if let Some(digit) = letter.to_digit(10) {
            let larger = number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(u64::from(digit)));
            number = Some(larger.ok_or(NotADuration)?);
        } else {
            let (_, seconds) = units.find(|(unit, _)| *unit == letter).ok_or(NotADuration)?;
            let part = number.take().and_then(|n| n.checked_mul(*seconds)).ok_or(NotADuration)?;
            total = total.checked_add(part).ok_or(NotADuration)?;
        }
    }
    match (number, u32::try_from(total)) {
        (None, Ok(total)) if total > 0 => Ok(total),
        _ => Err(NotADuration),
    }
}

/// Formats seconds exactly, such that [`parse`] reads it back: `1h30m`. Zero is `0s`.
pub fn format(seconds: u64) -> String {
    let mut rest = seconds;
    let mut out = String::new();
    for (unit, size) in UNITS {
        let number = rest / size;
        rest %= size;
        if number > 0 {
            let _ = write!(out, "{number}{unit}");
        }
    }
    if out.is_empty() { "0s".into() } else { out }
}

/// Formats seconds for a glance: the two largest units.
pub fn glance(seconds: u64) -> String {
    let keep = UNITS.iter().find(|(_, size)| seconds >= *size).map_or(1, |(_, size)| match size {
        86_400 => 3_600,
        3_600 => 60,
        _ => 1,
    });
    format(seconds / keep * keep)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_write() {
        assert_eq!(parse("90s"), Ok(90));
        assert_eq!(parse("5m"), Ok(300));
        assert_eq!(parse("1h30m"), Ok(5_400));
        assert_eq!(parse("2d"), Ok(172_800));
    }

    #[test]
    fn what_is_refused() {
        for text in
            ["", "5", "0s", "m", "5m1h", "1h1h", "-5s", "1.5h", "5 m", "99999999999999999999d", "4294967296s"]
        {
            assert_eq!(parse(text), Err(NotADuration), "{text}");
        }
    }

    #[test]
    fn a_glance_keeps_two_units() {
        assert_eq!(glance(3_725), "1h2m");
        assert_eq!(glance(90_061), "1d1h");
        assert_eq!(glance(59), "59s");
        assert_eq!(glance(0), "0s");
    }

    proptest! {
        #[test]
        fn formatted_durations_read_back(seconds in 1_u32..) {
            prop_assert_eq!(parse(&format(u64::from(seconds))), Ok(seconds));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }
    }
}
