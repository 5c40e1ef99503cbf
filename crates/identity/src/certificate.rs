//! X.509 certificates: parsed once, strictly, and owned.

mod error;
mod extensions;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use bonafide_crypto::asn1::{self, Reader};
use bonafide_crypto::key::{PublicKey, SignatureAlgorithm};

pub use self::error::CertificateError;
use self::extensions::Extensions;
pub use self::extensions::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use crate::attributes::Attributes;
use crate::der;
use crate::id::SpiffeId;
use crate::time::UnixTime;

/// Largest certificate in bytes.
pub const MAX_CERTIFICATE_LENGTH: usize = 16 * 1024;

/// id-at-commonName, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

const MAX_SERIAL_LENGTH: usize = 20;

/// What the value of an attribute in a name can be: a DirectoryString, a NumericString, an IA5String, or the BIT
/// STRING of a unique identifier (RFC 5280 appendix A.1, RFC 4519 section 2.43).
const NAME_VALUES: &[u8] =
    &[asn1::UTF8_STRING, asn1::PRINTABLE_STRING, 0x14, 0x1c, 0x1e, 0x12, 0x16, asn1::BIT_STRING];

/// A certificate that is well-formed by RFC 5280: version 3, canonical DER without trailing bytes, a positive
/// serial of at most 20 octets, an allowed signature algorithm, an acceptable key, no extension twice, and no
/// critical extension that is not understood.
///
/// That says nothing about who signed it: see [`verify`](crate::x509::verify). What a leaf or an authority must
/// have beyond it stands in [`profile`](crate::x509::profile). Cheap to clone; equal if the bytes are equal.
#[derive(Clone)]
pub struct Certificate(Arc<Fields>);

struct Fields {
    der: Box<[u8]>,
    serial: Range<usize>,
    signature_algorithm: SignatureAlgorithm,
    issuer: Range<usize>,
    subject: Range<usize>,
    not_before: UnixTime,
    not_after: UnixTime,
    public_key: PublicKey,
    extensions: Extensions,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`CertificateError`] names the first thing that is wrong.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_CERTIFICATE_LENGTH {
            return Err(CertificateError::TooLong);
        }
        parse(der).map(|fields| Self(Arc::new(fields)))
    }

    /// Reads certificates that stand one behind the other without separators, as the Workload API writes them.
    ///
    /// # Errors
    /// Those of [`from_der`](Self::from_der), and [`CertificateError::TooMany`] for more than `limit`.
    pub fn many_from_der(der: &[u8], limit: usize) -> Result<Vec<Self>, CertificateError> {
        let mut certificates = Vec::new();
        let mut reader = Reader::new(der);
        while !reader.is_empty() {
            if certificates.len() == limit {
                return Err(CertificateError::TooMany);
            }
            let element = reader.any().ok_or(CertificateError::Malformed)?;
            certificates.push(Self::from_der(element.encoded)?);
        }
        Ok(certificates)
    }

    /// Reads the authorities of a bundle as [`many_from_der`](Self::many_from_der) does, and leaves out those that are
    /// malformed: one of them must not take the others along.
    ///
    /// # Errors
    /// If the bytes are not certificates one behind the other, there are more than `limit`, or none of them is well-formed.
    pub fn authorities_from_der(
        der: &[u8],
        limit: usize,
    ) -> Result<(Vec<Self>, Vec<CertificateError>), CertificateError> {
        let (mut authorities, mut skipped) = (Vec::new(), Vec::new());
        let mut reader = Reader::new(der);
        while !reader.is_empty() {
            if authorities.len() + skipped.len() == limit {
                return Err(CertificateError::TooMany);
            }
            let element = reader.any().ok_or(CertificateError::Malformed)?;
            match Self::from_der(element.encoded) {
                Ok(authority) => authorities.push(authority),
                Err(error) => skipped.push(error),
            }
        }
        match skipped.first() {
            Some(first) if authorities.is_empty() => Err(*first),
            _ => Ok((authorities, skipped)),
        }
    }

    /// The certificate's own bytes.
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// SHA-256 of what was signed, the TBSCertificate: all that the certificate says, without the signature.
    pub fn tbs_sha256(&self) -> [u8; 32] {
        let tbs = Reader::new(self.der())
            .nested(asn1::SEQUENCE)
            .and_then(|mut parts| parts.element(asn1::SEQUENCE));
        bonafide_crypto::digest::sha256(tbs.map_or(&[][..], |tbs| tbs.encoded))
    }

    /// The serial number: a positive number, big-endian, without leading zeros.
    pub fn serial(&self) -> &[u8] {
        self.at(&self.0.serial)
    }

    /// How the issuer signed it.
    pub fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.0.signature_algorithm
    }

    /// The issuer's name, a SEQUENCE with tag and length.
    pub fn issuer_der(&self) -> &[u8] {
        self.at(&self.0.issuer)
    }

    /// The subject's name, a SEQUENCE with tag and length.
    pub fn subject_der(&self) -> &[u8] {
        self.at(&self.0.subject)
    }

    /// The subject's common name, if it has exactly one and that is text.
    pub fn common_name(&self) -> Option<&str> {
        let mut names = common_names(self.subject_der());
        let name = names.next()?;
        names.next().is_none().then_some(name)?
    }

    /// The first second of its validity.
    pub fn not_before(&self) -> UnixTime {
        self.0.not_before
    }

    /// The last second of its validity (RFC 5280 section 4.1.2.5: inclusive).
    pub fn not_after(&self) -> UnixTime {
        self.0.not_after
    }

    /// The subject's public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.0.public_key
    }

    /// The subject key identifier.
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.0.extensions.subject_key_id.as_ref().map(|range| self.at(range))
    }

    /// The key identifier of the authority key identifier.
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        self.0.extensions.authority_key_id.as_ref().map(|range| self.at(range))
    }

    /// Whether the basic constraints say that this is a certificate authority.
    pub fn is_ca(&self) -> bool {
        self.basic_constraints().is_some_and(|constraints| constraints.ca)
    }

    /// The basic constraints.
    pub fn basic_constraints(&self) -> Option<BasicConstraints> {
        self.0.extensions.basic_constraints
    }

    /// The key usages.
    pub fn key_usage(&self) -> Option<KeyUsage> {
        self.0.extensions.key_usage
    }

    /// The extended key usages.
    pub fn extended_key_usage(&self) -> Option<ExtendedKeyUsage> {
        self.0.extensions.extended_key_usage
    }

    /// The URI names of the subject alternative names, as they stand.
    pub fn uri_sans(&self) -> &[Box<str>] {
        &self.0.extensions.names.uris
    }

    /// The DNS names of the subject alternative names, as they stand: another authority's certificate may have
    /// wildcards and capital letters here.
    pub fn dns_names(&self) -> &[Box<str>] {
        &self.0.extensions.names.dns_names
    }

    /// Whether the subject alternative names are marked critical; `None` if there are none.
    pub fn subject_alt_name_is_critical(&self) -> Option<bool> {
        self.0.extensions.names.critical
    }

    /// The SPIFFE ID, if there is exactly one URI name and it is a SPIFFE ID in canonical spelling.
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.0.extensions.names.spiffe_id.as_ref()
    }

    /// What was attested about the holder.
    pub fn attributes(&self) -> Option<&Attributes> {
        self.0.extensions.attributes.as_deref()
    }

    /// Whether it has name constraints, and whether they are critical.
    pub fn name_constraints_are_critical(&self) -> Option<bool> {
        self.0.extensions.name_constraints.as_ref().map(|constraints| constraints.critical)
    }

    /// Whether issuer and subject have the same name (RFC 5280 section 6.1: self-issued).
    pub fn is_self_issued(&self) -> bool {
        self.issuer_der() == self.subject_der()
    }

    /// Whether `now` lies in its validity, both ends included.
    pub fn is_valid_at(&self, now: UnixTime) -> bool {
        (self.not_before()..=self.not_after()).contains(&now)
    }

    /// The value of the name constraints, without tag and length.
    pub(crate) fn name_constraints(&self) -> Option<&[u8]> {
        self.0.extensions.name_constraints.as_ref().map(|constraints| self.at(&constraints.content))
    }

    // INVARIANT: every range was computed from `der` when it was parsed, and `der` never changes.
    fn at(&self, range: &Range<usize>) -> &[u8] {
        self.0.der.get(range.clone()).unwrap_or_default()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.der == other.0.der
    }
}

impl Eq for Certificate {}

impl Hash for Certificate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.der.hash(state);
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let serial: String = self.serial().iter().map(|byte| format!("{byte:02x}")).collect();
        f.debug_struct("Certificate")
            .field("serial", &serial)
            .field("uri_sans", &self.uri_sans())
            .field("not_before", &self.not_before().to_string())
            .field("not_after", &self.not_after().to_string())
            .field("is_ca", &self.is_ca())
            .finish()
    }
}

/// RFC 5280 section 4.1.
fn parse(der: &[u8]) -> Result<Fields, CertificateError> {
    let malformed = || CertificateError::Malformed;
    let mut outer = Reader::new(der);
    let mut certificate = outer.nested(asn1::SEQUENCE).ok_or_else(malformed)?;
    outer.finish().ok_or(CertificateError::TrailingBytes)?;

    let mut tbs = certificate.nested(asn1::SEQUENCE).ok_or_else(malformed)?;
    let outer_algorithm = certificate.element(asn1::SEQUENCE).ok_or_else(malformed)?.encoded;
    certificate.bit_string().ok_or_else(malformed)?;
    certificate.finish().ok_or_else(malformed)?;

    // Version 3 is the number 2; version 1 is written by leaving it out.
    if tbs.optional(asn1::context(0)).ok_or_else(malformed)? != Some(&[asn1::INTEGER, 1, 2]) {
        return Err(CertificateError::Version);
    }
    let serial = read_serial(&mut tbs)?;
    let inner_algorithm = tbs.element(asn1::SEQUENCE).ok_or_else(malformed)?.encoded;
    if inner_algorithm != outer_algorithm {
        return Err(CertificateError::SignatureAlgorithmMismatch);
    }
    let signature_algorithm = SignatureAlgorithm::from_algorithm_identifier_der(inner_algorithm)
        .ok_or(CertificateError::SignatureAlgorithm)?;
    let issuer = read_name(&mut tbs)?;
    let mut validity = tbs.nested(asn1::SEQUENCE).ok_or_else(malformed)?;
    let not_before = der::time(&mut validity).ok_or(CertificateError::Validity)?;
    let not_after = der::time(&mut validity).ok_or(CertificateError::Validity)?;
    if not_before > not_after || !validity.is_empty() {
        return Err(CertificateError::Validity);
    }
    let subject = read_name(&mut tbs)?;
    let public_key = tbs.element(asn1::SEQUENCE).ok_or_else(malformed)?.encoded;
    let public_key = PublicKey::from_spki_der(public_key)?;
    // The unique identifiers [1] and [2] must not be used (section 4.1.2.8), so only [3] may follow.
    let extensions = match tbs.optional(asn1::context(3)).ok_or_else(malformed)? {
        Some(explicit) => extensions::parse(der, explicit)?,
        None => Extensions::default(),
    };
    tbs.finish().ok_or_else(malformed)?;
    Ok(Fields {
        serial: range_of(der, serial),
        signature_algorithm,
        issuer: range_of(der, issuer),
        subject: range_of(der, subject),
        not_before,
        not_after,
        public_key,
        extensions,
        der: der.into(),
    })
}

/// Section 4.1.2.2: a positive integer of at most 20 octets.
fn read_serial<'a>(tbs: &mut Reader<'a>) -> Result<&'a [u8], CertificateError> {
    let mut element = *tbs;
    let length = tbs.content(asn1::INTEGER).ok_or(CertificateError::Malformed)?.len();
    let serial = element.positive().filter(|serial| !serial.is_empty()).ok_or(CertificateError::Serial)?;
    if length > MAX_SERIAL_LENGTH || serial == [0] {
        return Err(CertificateError::Serial);
    }
    Ok(serial)
}

/// Section 4.1.2.4: RDNSequence. The names of attributes have no meaning here, but their structure must hold.
fn read_name<'a>(tbs: &mut Reader<'a>) -> Result<&'a [u8], CertificateError> {
    let name = tbs.element(asn1::SEQUENCE).ok_or(CertificateError::Malformed)?;
    check_name(Reader::new(name.content)).ok_or(CertificateError::Name)?;
    Ok(name.encoded)
}

/// Each common name (2.5.4.3) of a name that was checked when it was read; `None` for one that is no text.
fn common_names(name: &[u8]) -> impl Iterator<Item = Option<&str>> {
    let mut name = Reader::new(name).nested(asn1::SEQUENCE).unwrap_or(Reader::new(&[]));
    let mut relative = Reader::new(&[]);
    std::iter::from_fn(move || {
        loop {
            if relative.is_empty() {
                relative = name.nested(asn1::SET)?;
            }
            let mut attribute = relative.nested(asn1::SEQUENCE)?;
            if der::oid(&mut attribute)? != COMMON_NAME {
                continue;
            }
            let value = attribute.any()?;
            // IA5String too: it is out of place here, but ASCII all the same.
            let text = matches!(value.tag, asn1::UTF8_STRING | asn1::PRINTABLE_STRING | 0x16);
            return Some(if text { str::from_utf8(value.content).ok() } else { None });
        }
    })
}

fn check_name(mut name: Reader<'_>) -> Option<()> {
    while !name.is_empty() {
        let mut relative = name.nested(asn1::SET)?;
        // SET SIZE (1..MAX)
        loop {
            let mut attribute = relative.nested(asn1::SEQUENCE)?;
            der::oid(&mut attribute)?;
            let value = attribute.any()?;
            attribute.finish()?;
            if !NAME_VALUES.contains(&value.tag) {
                return None;
            }
            if relative.is_empty() {
                break;
            }
        }
    }
    Some(())
}

/// Where `part`, which must be a part of `whole`, stands in it.
fn range_of(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    start..start + part.len()
}
