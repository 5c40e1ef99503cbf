//! A decision log. A request that is read from it is written so that it reads back, and stands at the same point.
#![no_main]

use bonafide_policy::{analysis::witness, record, replay};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for event in replay::events(text).into_iter().flatten() {
        assert_eq!(record::scenario(&record::of(&event.scenario)).as_ref(), Ok(&event.scenario));
        let Some(point) = witness::point(&event.scenario) else { continue };
        if let Some(scenario) = witness::scenario(&point) {
            assert_eq!(witness::point(&scenario), Some(point));
        }
    }
});
