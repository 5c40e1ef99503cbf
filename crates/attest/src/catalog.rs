//! The selectors that the attestors of this version make: for help texts, and for those who mistype one.

/// A key, and an example of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// As in selectors.
    pub key: &'static str,
    /// A value that could stand there.
    pub example: &'static str,
}

const fn known(key: &'static str, example: &'static str) -> Known {
    Known { key, example }
}

/// Of workloads, by key.
pub const WORKLOAD: &[Known] = &[
    known("agent.peer", "start-time"),
    known("container.id", "4e3f…, 64 digits"),
    known("container.rootless_uid", "1000"),
    known("container.runtime", "docker"),
    known("docker.image_digest", "registry.example/web@sha256:…"),
    known("docker.image_id", "sha256:…"),
    known("docker.label", "team:payments"),
    known("docker.name", "web-1"),
    known("podman.image_digest", "registry.example/web@sha256:…"),
    known("podman.image_id", "sha256:…"),
    known("podman.label", "team:payments"),
    known("podman.name", "web-1"),
    known("systemd.id", "nginx.service"),
    known("unix.gid", "1000"),
    known("unix.group", "www-data"),
    known("unix.path", "/usr/bin/web"),
    known("unix.sha256", "64 digits"),
    known("unix.supplementary_gid", "1001"),
    known("unix.supplementary_group", "adm"),
    known("unix.uid", "1000"),
    known("unix.user", "web"),
];

/// Whether some attestor of this version makes selectors of this key.
#[must_use]
pub fn is_known(key: &str) -> bool {
    WORKLOAD.iter().any(|known| known.key == key)
}

/// The key that somebody may have meant who wrote this one: at most three letters differ.
#[must_use]
pub fn nearest(key: &str) -> Option<&'static str> {
    let all = WORKLOAD.iter().map(|known| (distance(key, known.key), known.key));
    all.min().filter(|(distance, _)| *distance <= 3).map(|(_, key)| key)
}

/// For people: that nobody attests such a key, and what may have been meant.
#[must_use]
pub fn unknown(key: &str) -> String {
    let meant = nearest(key).map(|key| format!("; did you mean `{key}`?")).unwrap_or_default();
    format!("no attestor of this version makes `{key}`{meant}")
}

/// Levenshtein's.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, byte) in one.bytes().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, against) in row.iter_mut().skip(1).zip(other.bytes()) {
            let substituted = diagonal + usize::from(byte != against);
            diagonal = *cell;
            left = substituted.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_selectors_in_order() {
        assert!(WORKLOAD.windows(2).all(|pair| pair[0].key < pair[1].key));
        for known in WORKLOAD {
            crate::Selector::new(known.key, known.example).unwrap();
            assert!(is_known(known.key));
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_found() {
        assert_eq!((distance("", "abc"), distance("kitten", "sitting"), distance("a", "a")), (3, 3, 0));
        for (written, meant) in [
            ("docker.imageid", Some("docker.image_id")),
            ("systemd.unit", Some("systemd.id")),
            ("systemd.ids", Some("systemd.id")),
            ("unix.uuid", Some("unix.uid")),
            ("k8s.ns", None),
        ] {
            assert_eq!(nearest(written), meant, "{written}");
        }
    }
}
