//! Lines: two patterns, then IDs. What the second matches, the first matches too if it covers it.
#![no_main]

use bonafide_identity::{SpiffeId, SpiffeIdPattern};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let mut pattern = || SpiffeIdPattern::parse(lines.next()?).ok();
    let (Some(wide), Some(narrow)) = (pattern(), pattern()) else { return };
    assert_eq!(SpiffeIdPattern::parse(&wide.to_string()).as_ref(), Ok(&wide));
    assert!(wide.covers(&wide));
    let covers = wide.covers(&narrow);
    for id in lines.filter_map(|line| SpiffeId::parse(line).ok()) {
        assert!(!covers || !narrow.matches(&id) || wide.matches(&id));
        assert!(!id.is_trust_domain() || !wide.matches(&id));
    }
    // An ID that the narrow pattern certainly matches.
    let example = narrow.to_string().replace("**", "x/y").replace('*', "z");
    if let Ok(id) = SpiffeId::parse(&example) {
        assert!(narrow.matches(&id));
        assert!(!covers || wide.matches(&id));
    }
});
