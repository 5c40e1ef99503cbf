//! `/proc/<pid>/cgroup`. A container's ID is whole, stands in the text, and never lies below a unit that is no runtime's.
#![no_main]

use bonafide_attest::cgroup::Cgroups;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(cgroups) = Cgroups::parse(text) else { return };
    let text = std::str::from_utf8(text).unwrap();
    if let Ok(Some(unit)) = cgroups.systemd_unit() {
        assert!(text.contains(&unit));
    }
    if let Ok(Some(container)) = cgroups.container() {
        assert!(container.id.len() == 64 && text.contains(&container.id));
        assert!(container.id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        // Whoever is moved below a service of no runtime has left every container.
        let moved = text.replace(":/", ":/system.slice/nginx.service/");
        if let Ok(moved) = Cgroups::parse(moved.as_bytes()) {
            assert_eq!(moved.container(), Ok(None));
        }
    }
});
