use std::ops::Range;

use bonafide_crypto::asn1::{self, Reader};

use super::{CertificateError, range_of};
use crate::attributes::{self, Attributes};
use crate::der;
use crate::id::SpiffeId;

const MAX_EXTENSIONS: usize = 32;

/// id-ce, 2.5.29.
const ID_CE: [u8; 2] = [0x55, 0x1d];
/// id-kp-serverAuth and id-kp-clientAuth, 1.3.6.1.5.5.7.3.1 and .2.
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
/// anyExtendedKeyUsage, 2.5.29.37.0.
const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

/// What a key may be used for (RFC 5280 section 4.2.1.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyUsage {
    bits: u16,
    /// Whether the extension is critical.
    pub critical: bool,
}

/// Whether a certificate is an authority, and how long a path below it may be (RFC 5280 section 4.2.1.9).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BasicConstraints {
    /// Whether the subject is an authority.
    pub ca: bool,
    /// How many intermediates may follow below; no limit if absent.
    pub path_length: Option<u64>,
    /// Whether the extension is critical.
    pub critical: bool,
}

/// What a key may be used for by purpose (RFC 5280 section 4.2.1.12).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ExtendedKeyUsage {
    /// TLS servers.
    pub server_auth: bool,
    /// TLS clients.
    pub client_auth: bool,
    /// Every purpose.
    pub any: bool,
    /// Whether the extension is critical.
    pub critical: bool,
}

#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) key_usage: Option<KeyUsage>,
    pub(super) basic_constraints: Option<BasicConstraints>,
    pub(super) extended_key_usage: Option<ExtendedKeyUsage>,
    pub(super) names: Names,
    pub(super) name_constraints: Option<NameConstraints>,
    pub(super) subject_key_id: Option<Range<usize>>,
    pub(super) authority_key_id: Option<Range<usize>>,
    pub(super) attributes: Option<Box<Attributes>>,
}

#[derive(Debug, Default)]
pub(super) struct Names {
    /// `None` if there is no such extension.
    pub(super) critical: Option<bool>,
    pub(super) uris: Vec<Box<str>>,
    pub(super) dns_names: Vec<Box<str>>,
    pub(super) spiffe_id: Option<SpiffeId>,
}

#[derive(Debug)]
pub(super) struct NameConstraints {
    pub(super) critical: bool,
    /// Without tag and length.
    pub(super) content: Range<usize>,
}

impl KeyUsage {
    /// digitalSignature: the key signs something other than certificates and revocation lists.
    pub fn digital_signature(&self) -> bool {
        self.has(0)
    }

    /// keyCertSign: the key signs certificates.
    pub fn key_cert_sign(&self) -> bool {
        self.has(5)
    }

    /// cRLSign: the key signs revocation lists.
    pub fn crl_sign(&self) -> bool {
        self.has(6)
    }

    /// The bit of this number in RFC 5280 section 4.2.1.3: 0 is digitalSignature, 8 is decipherOnly.
    pub fn has(&self, bit: u8) -> bool {
        bit < 16 && self.bits & (0x8000 >> bit) != 0
    }
}

/// Reads the content of the explicit tag [3] of the certificate `der`.
pub(super) fn parse(der: &[u8], explicit: &[u8]) -> Result<Extensions, CertificateError> {
    let malformed = || CertificateError::Malformed;
    let mut reader = Reader::new(explicit);
    let mut list = reader.nested(asn1::SEQUENCE).ok_or_else(malformed)?;
    reader.finish().ok_or_else(malformed)?;
    // Extensions ::= SEQUENCE SIZE (1..MAX)
    if list.is_empty() {
        return Err(CertificateError::Malformed);
    }
    let mut extensions = Extensions::default();
    let mut seen: Vec<&[u8]> = Vec::with_capacity(8);
    while !list.is_empty() {
        if seen.len() == MAX_EXTENSIONS {
            return Err(CertificateError::TooManyExtensions);
        }
        let (oid, critical, value) = read(&mut list).ok_or_else(malformed)?;
        if seen.contains(&oid) {
            return Err(CertificateError::DuplicateExtension);
        }
        seen.push(oid);
        extensions.take(der, oid, critical, value)?;
    }
    Ok(extensions)
}

fn read<'a>(list: &mut Reader<'a>) -> Option<(&'a [u8], bool, &'a [u8])> {
    let mut extension = list.nested(asn1::SEQUENCE)?;
    let oid = der::oid(&mut extension)?;
    let critical = der::default_false(&mut extension)?;
    let value = extension.content(asn1::OCTET_STRING)?;
    extension.finish()?;
    Some((oid, critical, value))
}

impl Extensions {
    fn take(&mut self, der: &[u8], oid: &[u8], critical: bool, value: &[u8]) -> Result<(), CertificateError> {
        use CertificateError::{CriticalExtension, Extension};

        if oid == attributes::OID.as_bytes() {
            if critical {
                return Err(CriticalExtension("attested attributes"));
            }
            self.attributes = Some(Box::new(Attributes::from_der(value)?));
            return Ok(());
        }
        match oid.strip_prefix(&ID_CE) {
            Some([14]) => {
                let id = key_identifier(value).ok_or(Extension("subject key identifier"))?;
                if critical {
                    return Err(CriticalExtension("subject key identifier"));
                }
                self.subject_key_id = Some(range_of(der, id));
            }
            Some([15]) => {
                let bits = key_usage(value).ok_or(Extension("key usage"))?;
                self.key_usage = Some(KeyUsage { bits, critical });
            }
            Some([17]) => self.names = names(value, critical).ok_or(Extension("subject alternative name"))?,
            Some([19]) => {
                let (ca, path_length) = basic_constraints(value).ok_or(Extension("basic constraints"))?;
                self.basic_constraints = Some(BasicConstraints { ca, path_length, critical });
            }
            Some([30]) => {
                let content = name_constraints(value).ok_or(Extension("name constraints"))?;
                self.name_constraints = Some(NameConstraints { critical, content: range_of(der, content) });
            }
            Some([35]) => {
                let id = authority_key_identifier(value).ok_or(Extension("authority key identifier"))?;
                if critical {
                    return Err(CriticalExtension("authority key identifier"));
                }
                self.authority_key_id = id.map(|id| range_of(der, id));
            }
            Some([37]) => {
                let usage = extended_key_usage(value).ok_or(Extension("extended key usage"))?;
                self.extended_key_usage = Some(ExtendedKeyUsage { critical, ..usage });
            }
            // policyConstraints and inhibitAnyPolicy: they change what a path needs (sections 4.2.1.11 and 4.2.1.14), and
            // policies are not processed here. An issuer that forgot to mark them critical means them all the same.
            Some([36 | 54]) => return Err(CertificateError::UnknownCriticalExtension),
            _ if critical => return Err(CertificateError::UnknownCriticalExtension),
            _ => {}
        }
        Ok(())
    }
}

fn key_identifier(value: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(value);
    let id = reader.content(asn1::OCTET_STRING)?;
    reader.finish()?;
    (!id.is_empty()).then_some(id)
}

/// Section 4.2.1.1: the key identifier may be missing; issuer and serial come together or not at all.
#[expect(clippy::option_option, reason = "outer: whether it is well-formed; inner: whether it names a key")]
fn authority_key_identifier(value: &[u8]) -> Option<Option<&[u8]>> {
    let mut reader = Reader::new(value);
    let mut fields = reader.nested(asn1::SEQUENCE)?;
    reader.finish()?;
    let id = fields.optional(asn1::context_primitive(0))?;
    let issuer = fields.optional(asn1::context(1))?;
    let serial = fields.optional(asn1::context_primitive(2))?;
    fields.finish()?;
    if issuer.is_some() != serial.is_some() || id.is_some_and(<[u8]>::is_empty) {
        return None;
    }
    Some(id)
}

/// Section 4.2.1.3: at least one bit is set.
fn key_usage(value: &[u8]) -> Option<u16> {
    let mut reader = Reader::new(value);
    let bits = der::named_bits(reader.content(asn1::BIT_STRING)?)?;
    reader.finish()?;
    // Nine bits have names.
    (bits != 0 && bits & 0x007f == 0).then_some(bits)
}

fn basic_constraints(value: &[u8]) -> Option<(bool, Option<u64>)> {
    let mut reader = Reader::new(value);
    let mut fields = reader.nested(asn1::SEQUENCE)?;
    reader.finish()?;
    let ca = der::default_false(&mut fields)?;
    let path_length = if fields.is_empty() { None } else { Some(der::u64(&mut fields)?) };
    fields.finish()?;
    // Section 4.2.1.9: no path length without cA.
    (ca || path_length.is_none()).then_some((ca, path_length))
}

fn extended_key_usage(value: &[u8]) -> Option<ExtendedKeyUsage> {
    let mut reader = Reader::new(value);
    let mut purposes = reader.nested(asn1::SEQUENCE)?;
    reader.finish()?;
    let mut usage = ExtendedKeyUsage::default();
    // SEQUENCE SIZE (1..MAX)
    loop {
        let purpose = der::oid(&mut purposes)?;
        usage.server_auth |= purpose == SERVER_AUTH;
        usage.client_auth |= purpose == CLIENT_AUTH;
        usage.any |= purpose == ANY_USAGE;
        if purposes.is_empty() {
            return Some(usage);
        }
    }
}

/// Section 4.2.1.10: never empty. What they say is applied by the path validation.
fn name_constraints(value: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(value);
    let content = reader.content(asn1::SEQUENCE)?;
    reader.finish()?;
    let mut trees = Reader::new(content);
    let permitted = trees.optional(asn1::context(0))?;
    let excluded = trees.optional(asn1::context(1))?;
    trees.finish()?;
    let filled = [permitted, excluded].into_iter().flatten().all(|subtrees| !subtrees.is_empty());
    (!content.is_empty() && filled).then_some(content)
}

/// Section 4.2.1.6. Every name is looked at: one that is malformed refuses the certificate, because a name that
/// is skipped could be the second SPIFFE ID.
fn names(value: &[u8], critical: bool) -> Option<Names> {
    let mut reader = Reader::new(value);
    let mut list = reader.nested(asn1::SEQUENCE)?;
    reader.finish()?;
    let mut names = Names { critical: Some(critical), ..Names::default() };
    // SEQUENCE SIZE (1..MAX)
    loop {
        let name = list.any()?;
        match name.tag {
            // dNSName
            0x82 => names.dns_names.push(ascii(name.content)?),
            // uniformResourceIdentifier
            0x86 => names.uris.push(ascii(name.content)?),
            // rfc822Name
            0x81 => drop(ascii(name.content)?),
            // iPAddress
            0x87 if matches!(name.content.len(), 4 | 16) => {}
            // otherName, x400Address, directoryName, ediPartyName, registeredID
            0xa0 | 0xa3 | 0xa4 | 0xa5 | 0x88 => {}
            _ => return None,
        }
        if list.is_empty() {
            break;
        }
    }
    if let [uri] = names.uris.as_slice() {
        names.spiffe_id = SpiffeId::parse_canonical(uri).ok();
    }
    Some(names)
}

/// IA5String, which is ASCII, without control characters, and not empty.
fn ascii(content: &[u8]) -> Option<Box<str>> {
    let printable = content.iter().all(|byte| (0x20..0x7f).contains(byte));
    (printable && !content.is_empty()).then(|| str::from_utf8(content).ok().map(Box::from)).flatten()
}
