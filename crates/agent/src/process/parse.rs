//! The two texts of `/proc/<pid>` that matter here, `proc(5)`.

use super::Credentials;

/// What is needed of `/proc/<pid>/stat`.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Stat {
    pub(super) start_time: u64,
    pub(super) layout: [u64; 5],
}

/// Fields are numbered from 1 in `proc_pid_stat(5)`; the second one, the command, is in parentheses and
/// may hold anything, parentheses and line breaks too, so the last `)` ends it.
pub(super) fn stat(text: &[u8]) -> Option<Stat> {
    let end_of_command = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(text.get(end_of_command + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // `fields` starts with field 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        start_time: field(22)?,
        layout: [field(26)?, field(27)?, field(28)?, field(45)?, field(46)?],
    })
}

/// `Uid` and `Gid` list real, effective, saved and file system IDs.
pub(super) fn status(text: &[u8]) -> Option<Credentials> {
    let (mut uid, mut gid, mut groups) = (None, None, None);
    for line in text.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
        let slot = match name {
            b"Uid" => &mut uid,
            b"Gid" => &mut gid,
            b"Groups" => &mut groups,
            _ => continue,
        };
        let numbers: Option<Vec<u32>> = std::str::from_utf8(value)
            .ok()?
            .split_ascii_whitespace()
            .map(|number| number.parse().ok())
            .collect();
        // A process can't write here, but two answers to one question are never right.
        if slot.replace(numbers?).is_some() {
            return None;
        }
    }
    let mut groups = groups?;
    groups.sort_unstable();
    groups.dedup();
    Some(Credentials { uid: *uid?.get(1)?, gid: *gid?.get(1)?, groups })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_command_may_hold_anything() {
        let tail = (3..=52).map(|n: u32| if n == 3 { "S".to_owned() } else { (n * 100).to_string() });
        let text = format!("7 (a) b) 9 (\n) {}\n", tail.collect::<Vec<_>>().join(" "));
        assert_eq!(
            stat(text.as_bytes()),
            Some(Stat { start_time: 2200, layout: [2600, 2700, 2800, 4500, 4600] })
        );
        assert_eq!(stat(b"7 (x) S 1 2"), None);
        assert_eq!(stat(b""), None);
    }

    #[test]
    fn effective_ids_count() {
        let text = b"Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t30 10 10 \nThreads:\t1\n";
        assert_eq!(status(text), Some(Credentials { uid: 2, gid: 6, groups: vec![10, 30] }));
        assert_eq!(status(b"Uid:\t1\t2\t3\t4\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\n"), None);
        assert_eq!(status(b"Uid:\t1\nGid:\t5\t6\nGroups:\n"), None);
        assert_eq!(status(b"Gid:\t5\t6\nGroups:\n"), None);
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = stat(&text);
            let _ = status(&text);
        }
    }
}
