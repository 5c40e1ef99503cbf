use proptest::prelude::*;

use super::*;
use crate::context::Context;

fn headers() -> impl Strategy<Value = Header> {
    let types =
        (0..5_usize, 0..15_usize).prop_map(|(kind, key_type)| (Kind::ALL[kind], KeyType::ALL[key_type]));
    let fitting = types.prop_filter("a kind that the key can make", |(kind, key_type)| match kind {
        Kind::Direct | Kind::Envelope | Kind::DataKey => key_type.encrypts(),
        Kind::Signature => key_type.signs(),
        Kind::Mac => key_type.is_mac(),
    });
    (fitting, any::<[u8; 16]>(), 1_u32..).prop_map(|((kind, key_type), key, version)| {
        let key = KeyId::from_bytes(key);
        Header { kind, key_type, key, version }
    })
}

proptest! {
    #[test]
    fn there_is_one_form(header in headers(), body in prop::collection::vec(any::<u8>(), 1..60)) {
        let bytes = header.with(&body);
        let read = Ciphertext::decode(&bytes).unwrap();
        prop_assert_eq!(read, Ciphertext { header, body: &body });
        prop_assert_eq!(&header.aad(&Context::default().digest())[..HEADER], &bytes[..HEADER]);
        prop_assert!(Ciphertext::decode(&bytes[..HEADER]).is_err());
    }

    #[test]
    fn noise_is_none_or_reads_as_written(noise in prop::collection::vec(any::<u8>(), 0..80)) {
        let bytes = [&[FORMAT], noise.as_slice()].concat();
        if let Ok(read) = Ciphertext::decode(&bytes) {
            prop_assert_eq!(read.header.with(read.body), bytes);
        }
        prop_assert!(noise.first() == Some(&FORMAT) || Ciphertext::decode(&noise).is_err());
    }

    #[test]
    fn texts_have_one_form(version in 1_u32.., body in prop::collection::vec(any::<u8>(), 1..60)) {
        let text = to_text(version, &body);
        prop_assert_eq!(from_text(&text).unwrap(), (version, body));
        prop_assert!(from_text(&text.replace(":v", ":v0")).is_err());
        prop_assert!(from_text(&(text.clone() + "=")).is_err());
        prop_assert!(from_text(&(" ".to_owned() + &text)).is_err());
    }

    #[test]
    fn ids_are_read_as_they_are_written(id in any::<[u8; 16]>()) {
        let id = KeyId::from_bytes(id);
        prop_assert_eq!(id.to_string().parse(), Ok(id));
        prop_assert_eq!(id.to_string().trim_end_matches(|_| true).parse::<KeyId>(), Err(FormatError::KeyId));
    }
}

#[test]
fn what_has_no_body_or_no_version_is_none() {
    for (text, why) in [
        ("vault:v1:", FormatError::Text),
        ("vault:v+1:AA==", FormatError::Text),
        ("vault:v:AA==", FormatError::Text),
        ("vault:v4294967296:AA==", FormatError::Text),
        ("v1:AA==", FormatError::Text),
    ] {
        assert_eq!(from_text(text), Err(why), "{text}");
    }
    let header = Header {
        kind: Kind::Direct,
        key_type: KeyType::Aes256Gcm,
        key: KeyId::from_bytes([1; 16]),
        version: 0,
    };
    assert_eq!(Ciphertext::decode(&header.with(b"x")), Err(FormatError::Malformed));
    let mac = Header { kind: Kind::Mac, version: 1, ..header };
    assert_eq!(Ciphertext::decode(&mac.with(b"x")), Err(FormatError::Malformed), "AES makes no MAC");
    let envelope = Header { kind: Kind::Envelope, version: 1, ..header };
    for body in [b"\0".as_slice(), b"\0\0x", b"\0\x02x", b"\0\x01x"] {
        let bytes = envelope.with(body);
        assert_eq!(Ciphertext::decode(&bytes).unwrap().envelope(), None, "{body:?}");
    }
    assert!(Ciphertext::decode(&envelope.with(b"\0\x01xy")).unwrap().envelope().is_some());
}

/// Ciphertexts are kept for years.
#[test]
fn the_header_is_stable() {
    let header = Header {
        kind: Kind::Direct,
        key_type: KeyType::Aes256Gcm,
        key: KeyId::from_bytes([7; 16]),
        version: 258,
    };
    assert_eq!(
        header.encode(),
        *b"\xb1\x01\x02\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\0\0\x01\x02"
    );
}
