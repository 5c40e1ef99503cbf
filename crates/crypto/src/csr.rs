//! Certification requests (PKCS#10, RFC 2986). A request gives a public key and a proof that the sender holds the
//! private half, and nothing else: subject, names and extensions that it asks for are never copied anywhere.

use crate::asn1::{
    BIT_STRING, BOOLEAN, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, Reader, SEQUENCE, SET, Writer, context,
    context_primitive,
};
use crate::key::{KeyError, PrivateKey, PublicKey, SignError, SignatureAlgorithm, Signer};

/// The largest request that is looked at, in bytes.
pub const MAX_BYTES: usize = 16 * 1024;

const MAX_ATTRIBUTES: usize = 16;
const MAX_EXTENSIONS: usize = 32;
const MAX_NAMES: usize = 64;
const EXTENSION_REQUEST: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e";
const SUBJECT_ALT_NAME: &[u8] = b"\x55\x1d\x11";

/// A request whose signature was checked with the key that it names.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerifiedCsr {
    /// The key of the sender.
    pub public_key: PublicKey,
    /// The URI names that the request asks for, as they stood: an authority refuses and logs a request that names
    /// another identity, and issues only what its own records say.
    pub uri_sans: Vec<String>,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// The public key is not acceptable.
    #[error("the public key of the certification request was refused: {0}")]
    Key(#[from] KeyError),
    /// Not canonical DER of a PKCS#10 request.
    #[error("the certification request is malformed")]
    Malformed,
    /// The proof of possession does not match.
    #[error("the certification request is not signed by the key that it names")]
    Signature,
    /// More bytes, attributes, extensions or names than are looked at.
    #[error("the certification request exceeds a limit")]
    TooLong,
    /// The signature algorithm is unknown, or does not fit the key.
    #[error("the signature algorithm of the certification request does not fit its key")]
    UnfitAlgorithm,
}

/// Parses a request strictly and checks its proof of possession.
///
/// # Errors
/// [`CsrError`] names what is wrong.
pub fn parse_and_verify(der: &[u8]) -> Result<VerifiedCsr, CsrError> {
    if der.len() > MAX_BYTES {
        return Err(CsrError::TooLong);
    }
    let request = Request::read(der).ok_or(CsrError::Malformed)?;
    let public_key = PublicKey::from_spki_der(request.spki)?;
    let algorithm = SignatureAlgorithm::from_algorithm_identifier_der(request.algorithm)
        .filter(|algorithm| algorithm.fits(public_key.algorithm()))
        .ok_or(CsrError::UnfitAlgorithm)?;
    let uri_sans = read_uri_sans(request.attributes)?;
    public_key.verify(algorithm, request.signed, request.signature).map_err(|_| CsrError::Signature)?;
    Ok(VerifiedCsr { public_key, uri_sans })
}

/// Makes a request with an empty subject and no attributes.
///
/// # Errors
/// As [`Signer::sign`].
pub fn build(key: &PrivateKey) -> Result<Vec<u8>, SignError> {
    let mut info = Writer::with_capacity(256);
    info.nested(SEQUENCE, |info| {
        info.primitive(INTEGER, &[0]);
        info.primitive(SEQUENCE, &[]);
        info.raw(key.public_key().spki_der());
        info.primitive(context(0), &[]);
    });
    let info = info.finish();
    let signature = key.sign(&info)?;
    let mut request = Writer::with_capacity(info.len().saturating_add(signature.len()).saturating_add(32));
    request.nested(SEQUENCE, |request| {
        request.raw(&info);
        request.raw(key.signature_algorithm().algorithm_identifier_der());
        request.bit_string(&signature);
    });
    Ok(request.finish())
}

impl CsrError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Key(error) => error.code(),
            Self::Malformed => "crypto.csr-malformed",
            Self::Signature => "crypto.csr-signature-mismatch",
            Self::TooLong => "crypto.csr-too-long",
            Self::UnfitAlgorithm => "crypto.csr-algorithm-unfit",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Key(error) => error.hint(),
            Self::Malformed | Self::TooLong => "send a plain PKCS#10 request in DER, at most 16 KiB",
            Self::Signature => "sign the request with the private half of the key in it",
            Self::UnfitAlgorithm => {
                "use ECDSA with the hash that fits the curve, Ed25519, or RSA with SHA-256, SHA-384 or SHA-512"
            }
        }
    }
}

struct Request<'a> {
    signed: &'a [u8],
    spki: &'a [u8],
    attributes: Reader<'a>,
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Request<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let mut outer = Reader::new(der);
        let mut parts = outer.nested(SEQUENCE)?;
        outer.finish()?;
        let info = parts.element(SEQUENCE)?;
        let algorithm = parts.element(SEQUENCE)?.encoded;
        if parts.peek() != Some(BIT_STRING) {
            return None;
        }
        let signature = parts.bit_string()?;
        parts.finish()?;

        let mut fields = Reader::new(info.content);
        if fields.content(INTEGER)? != [0] {
            return None;
        }
        let mut subject = fields.nested(SEQUENCE)?;
        while !subject.is_empty() {
            subject.element(SET)?;
        }
        let spki = fields.element(SEQUENCE)?.encoded;
        let attributes = fields.nested(context(0))?;
        fields.finish()?;
        Some(Self { signed: info.encoded, spki, attributes, algorithm, signature })
    }
}

fn read_uri_sans(mut attributes: Reader<'_>) -> Result<Vec<String>, CsrError> {
    let mut requested = None;
    let mut count = 0;
    while !attributes.is_empty() {
        count += 1;
        if count > MAX_ATTRIBUTES {
            return Err(CsrError::TooLong);
        }
        let extensions = read_attribute(&mut attributes).ok_or(CsrError::Malformed)?;
        if extensions.is_some() && std::mem::replace(&mut requested, extensions).is_some() {
            return Err(CsrError::Malformed);
        }
    }
    let Some(mut extensions) = requested else {
        return Ok(Vec::new());
    };
    let mut names = None;
    let mut count = 0;
    while !extensions.is_empty() {
        count += 1;
        if count > MAX_EXTENSIONS {
            return Err(CsrError::TooLong);
        }
        let found = read_extension(&mut extensions).ok_or(CsrError::Malformed)?;
        if found.is_some() && std::mem::replace(&mut names, found).is_some() {
            return Err(CsrError::Malformed);
        }
    }
    let Some(mut names) = names else {
        return Ok(Vec::new());
    };
    let mut uris = Vec::new();
    let mut count = 0;
    while !names.is_empty() {
        count += 1;
        if count > MAX_NAMES {
            return Err(CsrError::TooLong);
        }
        let name = names.any().ok_or(CsrError::Malformed)?;
        if name.tag == context_primitive(6) {
            // uniformResourceIdentifier is an IA5String (RFC 5280 section 4.2.1.6).
            let uri = std::str::from_utf8(name.content).ok().filter(|uri| uri.is_ascii());
            uris.push(uri.ok_or(CsrError::Malformed)?.to_owned());
        }
    }
    Ok(uris)
}

/// The requested extensions, if the next attribute holds them.
fn read_attribute<'a>(attributes: &mut Reader<'a>) -> Option<Option<Reader<'a>>> {
    let mut attribute = attributes.nested(SEQUENCE)?;
    let kind = attribute.content(OBJECT_IDENTIFIER)?;
    let mut values = attribute.nested(SET)?;
    attribute.finish()?;
    if kind != EXTENSION_REQUEST {
        return Some(None);
    }
    let extensions = values.nested(SEQUENCE)?;
    values.finish()?;
    Some(Some(extensions))
}

/// The general names, if the next extension is a subject alternative name.
fn read_extension<'a>(extensions: &mut Reader<'a>) -> Option<Option<Reader<'a>>> {
    let mut extension = extensions.nested(SEQUENCE)?;
    let kind = extension.content(OBJECT_IDENTIFIER)?;
    if let Some(critical) = extension.optional(BOOLEAN)? {
        // DER: TRUE is 0xff, and the default FALSE is not encoded.
        if critical != [0xff] {
            return None;
        }
    }
    let value = extension.content(OCTET_STRING)?;
    extension.finish()?;
    if kind != SUBJECT_ALT_NAME {
        return Some(None);
    }
    let mut value = Reader::new(value);
    let names = value.nested(SEQUENCE)?;
    value.finish()?;
    Some(Some(names))
}

#[cfg(test)]
mod tests;
