//! Names of authorities.

use std::fmt::Write as _;

use bonafide_crypto::asn1::{OBJECT_IDENTIFIER, SEQUENCE, SET, UTF8_STRING, Writer};
use bonafide_crypto::key::PublicKey;

use super::Profile;

/// id-at-commonName.
const COMMON_NAME: &[u8] = b"\x55\x04\x03";

/// The subject of a certificate: unique per key for an authority, empty for a leaf. At most 62 of the 64 characters
/// that RFC 5280 appendix A.1 gives a common name.
pub(crate) fn name_of(profile: Profile, key: &PublicKey) -> Vec<u8> {
    let mut common_name = match profile {
        Profile::Root => "Bonafide root ".to_owned(),
        Profile::Intermediate => "Bonafide intermediate ".to_owned(),
        Profile::Workload | Profile::Agent | Profile::Authority => return vec![SEQUENCE, 0],
    };
    for byte in key.key_id() {
        let _ = write!(common_name, "{byte:02x}");
    }
    let mut name = Writer::with_capacity(80);
    name.nested(SEQUENCE, |name| {
        name.nested(SET, |relative| {
            relative.nested(SEQUENCE, |attribute| {
                attribute.primitive(OBJECT_IDENTIFIER, COMMON_NAME);
                attribute.primitive(UTF8_STRING, common_name.as_bytes());
            });
        });
    });
    name.finish()
}
