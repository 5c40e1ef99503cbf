//! What is read means the same when it is printed, and in its canonical bytes.
#![no_main]

use bonafide_policy::{print, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(documents) = read(text) else { return };
    for document in &documents {
        for text in [document.canonical(), print::document(document)] {
            let again = read(&text).unwrap_or_else(|faults| panic!("{text}\n{faults:#?}"));
            assert_eq!(again.len(), 1);
            assert!(again.iter().all(|again| again.body() == document.body()), "{text}");
        }
    }
});
