//! The certificate extension with what was attested about one launch of a workload.
//!
//! ```asn1
//! BonafideAttributes ::= SEQUENCE {
//!     instance    [0] IMPLICIT OCTET STRING (SIZE (16)) OPTIONAL,
//!     generation  INTEGER (0..18446744073709551615),
//!     attributes  SEQUENCE (SIZE (0..64)) OF Attribute }
//!
//! Attribute ::= SEQUENCE {
//!     kind   ENUMERATED { selector(0), label(1), site(2), registration(3), admin(4), evidence(5) },
//!     key    UTF8String (SIZE (1..128)),           -- printable ASCII without space
//!     value  OCTET STRING (SIZE (0..1024)) }
//! ```
//!
//! - `instance` names one launch: replicas share a SPIFFE ID, and each has an instance ID of its own.
//! - `generation` counts the certificates of one instance; every renewal adds one.
//! - `attributes` is a set, written in ascending order of (kind, key, value) without duplicates. A label has
//!   one value per key; a certificate has at most one site and one registration.
//! - The encoding is DER with exactly one form per value; the reader refuses every other. The whole is at
//!   most 8 KiB. A change of layout gets a new object identifier, so there is no version field.
//!
//! **Semantics.** Labels certified here are the only labels that policies trust. Selectors and evidence
//! record what the authority was shown when it issued; they grant nothing by themselves. Nothing may be
//! read from this extension before the certificate that carries it was verified, and only for the trust
//! domain of that certificate: another trust domain's labels mean what that trust domain says they mean.
//!
//! **Not critical.** X509-SVID is a shared format: an Envoy, a Go or a Java program must be able to verify
//! our certificates although it never heard of attributes, and RFC 5280 section 4.2 makes it refuse an
//! unknown critical extension. Ignoring the extension is safe, because it only ever adds facts about the
//! holder of an identity; it never takes rights away. What limits a certificate (validity, usages) stands
//! in the standard fields.

use bonafide_crypto::asn1::{self, Reader, Writer};
use const_oid::ObjectIdentifier;

use crate::der;
use crate::instance::InstanceId;

/// The object identifier of the extension.
///
/// Provisional: it hangs below a private enterprise number that IANA has not assigned to anybody (0x0b0af1de,
/// far beyond the assigned range), and it changes once, here, when a number is registered. An arc under 2.25
/// (a UUID) is no way out: Go refuses extensions whose identifiers have a component of 2^31 or more, and other
/// readers refuse components that take more than four bytes, 2^28 or more.
pub const OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.185266654.1");

/// Most attributes of one certificate.
pub const MAX_ATTRIBUTES: usize = 64;
/// Longest key in bytes.
pub const MAX_KEY_LENGTH: usize = 128;
/// Longest value in bytes.
pub const MAX_VALUE_LENGTH: usize = 1024;
/// Longest encoding of the extension's value in bytes.
pub const MAX_DER_LENGTH: usize = 8 * 1024;

const INSTANCE: u8 = asn1::context_primitive(0);

/// Key that [`Attribute::site`] uses.
pub const SITE_KEY: &str = "site";
/// Key that [`Attribute::registration`] uses.
pub const REGISTRATION_KEY: &str = "registration";

/// What an attribute is about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Kind {
    /// An attested selector of the process, such as `unix.uid` = `1000`. Several values per key are usual.
    Selector = 0,
    /// A label that policies may trust. One value per key.
    Label = 1,
    /// The site whose evidence led to this certificate; its value is the site's name.
    Site = 2,
    /// The registration that granted this identity; its value is the registration's ID.
    Registration = 3,
    /// An administrative right over the authority.
    Admin = 4,
    /// How strong the evidence was, such as `caller` = `pidfd`.
    Evidence = 5,
}

/// One attested attribute.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Attribute {
    /// What it is about.
    pub kind: Kind,
    /// 1 to 128 printable ASCII characters without space.
    pub key: String,
    /// Up to 1024 bytes, text or not.
    pub value: Vec<u8>,
}

/// The content of the extension.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Attributes {
    /// Which launch of the workload the certificate belongs to, if it belongs to one.
    pub instance: Option<InstanceId>,
    /// How many certificates this instance had before this one.
    pub generation: u64,
    /// The attributes; their order has no meaning.
    pub attributes: Vec<Attribute>,
}

/// A list of attributes, checked and laid out once for the many certificates of one registration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AttributeList(Vec<u8>);

/// The value of the extension, as it stands in a certificate. Only what [`Attributes::from_der`] reads can be one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EncodedAttributes(Vec<u8>);

/// Why attributes cannot be written, or bytes are not attributes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AttributesError {
    /// Not the one DER form of the type.
    #[error("the attributes are not in their DER form")]
    Malformed,
    /// A kind that this version does not know.
    #[error("an attribute is of an unknown kind")]
    UnknownKind,
    /// More than 64 attributes, or an encoding of more than 8 KiB.
    #[error("there are more than 64 attributes, or more than 8 KiB of them")]
    TooMany,
    /// An empty or too long key, or one that is not printable ASCII.
    #[error("the key of an attribute is not 1 to 128 printable ASCII characters")]
    Key,
    /// A value of more than 1024 bytes, or a site or registration that is not text.
    #[error("the value of an attribute is longer than 1024 bytes, or not text where it must be")]
    Value,
    /// Attributes that are not in ascending order, or twice the same.
    #[error("the attributes are not in ascending order")]
    Order,
    /// Two values of one label, two sites or two registrations.
    #[error("a label, site or registration has two values")]
    Ambiguous,
}

impl AttributesError {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "attributes.malformed",
            Self::UnknownKind => "attributes.unknown-kind",
            Self::TooMany => "attributes.too-many",
            Self::Key => "attributes.key",
            Self::Value => "attributes.value",
            Self::Order => "attributes.order",
            Self::Ambiguous => "attributes.ambiguous",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Malformed | Self::UnknownKind | Self::Order => {
                "the certificate was issued by another version or another program: upgrade, or issue it again"
            }
            Self::TooMany => "certify fewer labels and selectors",
            Self::Key => "use keys of 1 to 128 printable ASCII characters without space",
            Self::Value => "use values of at most 1024 bytes",
            Self::Ambiguous => "give each label one value, and the certificate one site and one registration",
        }
    }
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Selector, Self::Label, Self::Site, Self::Registration, Self::Admin, Self::Evidence]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }

    /// The name of the kind, for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Selector => "selector",
            Self::Label => "label",
            Self::Site => "site",
            Self::Registration => "registration",
            Self::Admin => "admin",
            Self::Evidence => "evidence",
        }
    }
}

impl Attribute {
    /// An attribute of any kind. Its bounds are checked when it is written.
    pub fn new(kind: Kind, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self { kind, key: key.into(), value: value.into() }
    }

    /// The site whose evidence led to the certificate.
    pub fn site(name: &str) -> Self {
        Self::new(Kind::Site, SITE_KEY, name)
    }

    /// The registration that granted the identity.
    pub fn registration(id: &str) -> Self {
        Self::new(Kind::Registration, REGISTRATION_KEY, id)
    }

    fn check(&self) -> Result<(), AttributesError> {
        check_key(&self.key)?;
        check_value(self.kind, &self.value)
    }
}

impl Attributes {
    /// The value of the extension. Attributes may be in any order, and exact duplicates count once.
    ///
    /// # Errors
    /// As [`AttributeList::new`].
    pub fn encode(&self) -> Result<EncodedAttributes, AttributesError> {
        AttributeList::new(&self.attributes)?.with(self.instance, self.generation)
    }

    /// Reads the value of the extension.
    ///
    /// # Errors
    /// If the bytes are anything else than what [`encode`](Self::encode) writes.
    pub fn from_der(der: &[u8]) -> Result<Self, AttributesError> {
        let (instance, generation, list) = read(der)?;
        let mut attributes = Vec::new();
        read_list(list, |attribute| attributes.push(attribute.to_owned()))?;
        Ok(Self { instance, generation, attributes })
    }

    /// The certified labels: key and value.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.of(Kind::Label)
    }

    /// The value of one certified label.
    pub fn label(&self, key: &str) -> Option<&[u8]> {
        self.labels().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// The attested selectors: key and value.
    pub fn selectors(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.of(Kind::Selector)
    }

    /// The administrative rights: key and value.
    pub fn admin(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.of(Kind::Admin)
    }

    /// The evidence: key and value.
    pub fn evidence(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.of(Kind::Evidence)
    }

    /// The site whose evidence led to the certificate.
    pub fn site(&self) -> Option<&str> {
        self.of(Kind::Site).next().and_then(|(_, value)| str::from_utf8(value).ok())
    }

    /// The registration that granted the identity.
    pub fn registration(&self) -> Option<&str> {
        self.of(Kind::Registration).next().and_then(|(_, value)| str::from_utf8(value).ok())
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = (&str, &[u8])> {
        self.attributes.iter().filter(move |a| a.kind == kind).map(|a| (a.key.as_str(), a.value.as_slice()))
    }
}

impl AttributeList {
    /// Attributes in any order; exact duplicates count once.
    ///
    /// # Errors
    /// If an attribute or the whole exceeds its bounds, or a label, site or registration has two values.
    pub fn new(attributes: &[Attribute]) -> Result<Self, AttributesError> {
        let mut sorted: Vec<&Attribute> = attributes.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() > MAX_ATTRIBUTES {
            return Err(AttributesError::TooMany);
        }
        let mut neighbours = sorted.iter().zip(sorted.iter().skip(1));
        if neighbours.any(|(one, other)| Borrowed::from(*one).clashes(Borrowed::from(*other))) {
            return Err(AttributesError::Ambiguous);
        }
        sorted.iter().try_for_each(|attribute| attribute.check())?;
        let mut list = Writer::with_capacity(256);
        list.nested(asn1::SEQUENCE, |list| {
            for attribute in sorted {
                list.nested(asn1::SEQUENCE, |fields| {
                    fields.primitive(der::ENUMERATED, &[attribute.kind as u8]);
                    fields.primitive(asn1::UTF8_STRING, attribute.key.as_bytes());
                    fields.primitive(asn1::OCTET_STRING, &attribute.value);
                });
            }
        });
        Ok(Self(list.finish()))
    }

    /// The value of the extension of one certificate: of which launch, and the how manieth of it.
    ///
    /// # Errors
    /// If the whole is longer than 8 KiB.
    pub fn with(
        &self,
        instance: Option<InstanceId>,
        generation: u64,
    ) -> Result<EncodedAttributes, AttributesError> {
        let mut writer = Writer::with_capacity(self.0.len().saturating_add(40));
        writer.nested(asn1::SEQUENCE, |content| {
            if let Some(instance) = instance {
                content.primitive(INSTANCE, instance.as_bytes());
            }
            der::write_u64(content, generation);
            content.raw(&self.0);
        });
        let der = writer.finish();
        if der.len() > MAX_DER_LENGTH {
            return Err(AttributesError::TooMany);
        }
        Ok(EncodedAttributes(der))
    }
}

impl EncodedAttributes {
    /// The value as bytes, without those of the extension around it.
    pub fn der(&self) -> &[u8] {
        &self.0
    }
}

/// Checks bytes as [`Attributes::from_der`] does, and keeps nothing of them.
///
/// # Errors
/// As [`Attributes::from_der`].
pub fn check_der(der: &[u8]) -> Result<(), AttributesError> {
    let (_, _, list) = read(der)?;
    read_list(list, |_| {})
}

/// Up to the list.
fn read(der: &[u8]) -> Result<(Option<InstanceId>, u64, Reader<'_>), AttributesError> {
    if der.len() > MAX_DER_LENGTH {
        return Err(AttributesError::TooMany);
    }
    let read = || {
        let mut outer = Reader::new(der);
        let mut content = outer.nested(asn1::SEQUENCE)?;
        outer.finish()?;
        let instance = match content.optional(INSTANCE)? {
            Some(bytes) => Some(InstanceId::from_bytes(bytes.try_into().ok()?)),
            None => None,
        };
        let generation = der::u64(&mut content)?;
        let list = content.nested(asn1::SEQUENCE)?;
        content.finish()?;
        Some((instance, generation, list))
    };
    read().ok_or(AttributesError::Malformed)
}

fn read_list<'a>(mut list: Reader<'a>, mut each: impl FnMut(Borrowed<'a>)) -> Result<(), AttributesError> {
    let mut previous: Option<Borrowed<'_>> = None;
    let mut count = 0;
    while !list.is_empty() {
        if count == MAX_ATTRIBUTES {
            return Err(AttributesError::TooMany);
        }
        count += 1;
        let fields = list.nested(asn1::SEQUENCE).ok_or(AttributesError::Malformed)?;
        let attribute = read_attribute(fields)?;
        if let Some(previous) = previous {
            if previous >= attribute {
                return Err(AttributesError::Order);
            }
            if previous.clashes(attribute) {
                return Err(AttributesError::Ambiguous);
            }
        }
        each(attribute);
        previous = Some(attribute);
    }
    Ok(())
}

fn read_attribute(mut fields: Reader<'_>) -> Result<Borrowed<'_>, AttributesError> {
    let (kind, key, value) = (|| {
        let kind = fields.content(der::ENUMERATED)?;
        let key = fields.content(asn1::UTF8_STRING)?;
        let value = fields.content(asn1::OCTET_STRING)?;
        fields.finish()?;
        Some((kind, key, value))
    })()
    .ok_or(AttributesError::Malformed)?;
    let kind = match kind {
        [byte @ 0..=0x7f] => Kind::from_byte(*byte).ok_or(AttributesError::UnknownKind)?,
        _ => return Err(AttributesError::Malformed),
    };
    let key = str::from_utf8(key).map_err(|_| AttributesError::Key)?;
    check_key(key)?;
    check_value(kind, value)?;
    Ok(Borrowed { kind, key, value })
}

/// An [`Attribute`] in the bytes that it was read from. The order of the fields is that of the encoding.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Borrowed<'a> {
    kind: Kind,
    key: &'a str,
    value: &'a [u8],
}

impl<'a> From<&'a Attribute> for Borrowed<'a> {
    fn from(Attribute { kind, key, value }: &'a Attribute) -> Self {
        Self { kind: *kind, key, value }
    }
}

impl Borrowed<'_> {
    fn to_owned(self) -> Attribute {
        Attribute::new(self.kind, self.key, self.value)
    }

    /// Whether two neighbours in the order give two values to what has one.
    fn clashes(self, other: Self) -> bool {
        self.kind == other.kind
            && match self.kind {
                Kind::Label => self.key == other.key,
                Kind::Site | Kind::Registration => true,
                Kind::Selector | Kind::Admin | Kind::Evidence => false,
            }
    }
}

fn check_key(key: &str) -> Result<(), AttributesError> {
    let in_bounds = (1..=MAX_KEY_LENGTH).contains(&key.len());
    if in_bounds && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(AttributesError::Key)
    }
}

fn check_value(kind: Kind, value: &[u8]) -> Result<(), AttributesError> {
    let is_text = !matches!(kind, Kind::Site | Kind::Registration) || str::from_utf8(value).is_ok();
    if value.len() <= MAX_VALUE_LENGTH && is_text { Ok(()) } else { Err(AttributesError::Value) }
}
