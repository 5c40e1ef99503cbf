//! A sealed secret as text: one line that survives YAML, shells and mail.

use base64ct::{Base64UrlUnpadded, Encoding as _};

use crate::document::{Document as _, FormatError};
use crate::object::SealedObject;

/// What every line begins with.
pub const PREFIX: &str = "bbf1:";

/// The most characters of a line.
pub const MAX_TEXT: usize = PREFIX.len() + SealedObject::MAX.div_ceil(3) * 4;

/// An object as `bbf1:` and base64url without padding (RFC 4648 section 5).
#[must_use]
pub fn to_text(object: &SealedObject) -> String {
    format!("{PREFIX}{}", Base64UrlUnpadded::encode_string(&object.encode()))
}

/// Reads what [`to_text`] wrote. White space around it is ignored, as `$(cat file)` and editors leave it.
///
/// # Errors
/// [`FormatError`] for every other form, and for base64 that is not canonical.
pub fn from_text(text: &str) -> Result<SealedObject, FormatError> {
    let text = text.trim_ascii();
    if text.len() > MAX_TEXT {
        return Err(FormatError::TooLong(SealedObject::NAME));
    }
    let encoded = text.strip_prefix(PREFIX).ok_or(FormatError::Malformed("text of a sealed secret"))?;
    let bytes = Base64UrlUnpadded::decode_vec(encoded)
        .map_err(|_| FormatError::Malformed("text of a sealed secret"))?;
    SealedObject::decode(&bytes)
}
