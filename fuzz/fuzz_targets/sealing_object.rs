//! A sealed secret, as bytes and as text, is refused, or has one form; what is signed of it can always be said.
#![no_main]

use bonafide_sealing::armour;
use bonafide_sealing::document::Document;
use bonafide_sealing::object::SealedObject;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(object) = SealedObject::decode(data) {
        assert_eq!(object.encode(), data);
        assert!(!object.message().is_empty());
        for stanza in &object.stanzas {
            assert!(stanza.identity(&object.tenant).is_ok());
            assert!(!stanza.message(&object.oid).is_empty());
        }
        assert_eq!(armour::from_text(&armour::to_text(&object)).as_ref(), Ok(&object));
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(object) = armour::from_text(text)
    {
        assert_eq!(armour::to_text(&object), text.trim_ascii());
    }
});
