//! How our certificates look. No other module lays one out.
//!
//! | | root | intermediate | leaf |
//! |---|---|---|---|
//! | subject | a name of its own per key | the same | empty |
//! | basic constraints, critical | CA | CA, path length 0 | not a CA |
//! | key usage, critical | keyCertSign | keyCertSign | digitalSignature |
//! | extended key usage | – | – | serverAuth, clientAuth |
//! | subject and authority key identifier | yes | yes | yes |
//! | subject alternative name | the trust domain's ID | the trust domain's ID | the SPIFFE ID and DNS names, critical |
//! | attested attributes | – | – | yes |
//!
//! Three decisions are not obvious:
//! - Roots and intermediates have a subject with the identifier of their key in it. Several authorities of one name
//!   make verifiers try the wrong one, and some of them stop there.
//! - A leaf has no subject: a name beside the SPIFFE ID would be a second, unattested identity. The alternative name
//!   must be critical then (RFC 5280 section 4.2.1.6, X509-SVID section 5.2).
//! - There are no name constraints. The common verifiers either ignore those on URIs or, like rustls-webpki, refuse
//!   every chain that has them; what an authority may issue is enforced before it signs.

mod layout;
mod name;

use std::borrow::Cow;

use bonafide_crypto::key::{PublicKey, SignatureAlgorithm};
use bonafide_identity::attributes::EncodedAttributes;
use bonafide_identity::{Certificate, DnsName, SpiffeId, TrustDomain, attributes};

pub(crate) use layout::{Extension, Layout, oid};
pub(crate) use name::name_of;

use crate::validity::{SerialNumber, Validity};

/// Most DNS names of a leaf.
pub const MAX_DNS_NAMES: usize = 32;

/// A leaf as it was ordered.
#[derive(Clone, Debug)]
pub struct WorkloadLeaf {
    /// The identity.
    pub id: SpiffeId,
    /// The key whose possession was proven.
    pub public_key: PublicKey,
    /// DNS names, for peers that don't speak SPIFFE.
    pub dns_names: Vec<DnsName>,
    /// What was attested.
    pub attributes: EncodedAttributes,
    /// When it is valid; must lie within the issuer's time.
    pub validity: Validity,
    /// Its number.
    pub serial: SerialNumber,
}

/// A leaf of Bonafide itself: an agent, or a server of the authority.
#[derive(Clone, Debug)]
pub struct NodeLeaf {
    /// The identity, below `/bonafide/`.
    pub id: SpiffeId,
    /// The key whose possession was proven.
    pub public_key: PublicKey,
    /// DNS names, for consoles and load balancers.
    pub dns_names: Vec<DnsName>,
    /// What was attested.
    pub attributes: EncodedAttributes,
    /// When it is valid; must lie within the issuer's time.
    pub validity: Validity,
    /// Its number.
    pub serial: SerialNumber,
}

/// A certificate that nobody signed yet, together with the order that it was laid out for.
#[derive(Clone, Debug)]
pub struct Tbs {
    pub(crate) der: Vec<u8>,
    pub(crate) order: Order,
}

/// What a certificate must be, independent of its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) profile: Profile,
    pub(crate) id: SpiffeId,
    pub(crate) public_key: PublicKey,
    pub(crate) dns_names: Vec<DnsName>,
    /// The value of the attributes extension.
    pub(crate) attributes: Option<EncodedAttributes>,
    pub(crate) validity: Validity,
    pub(crate) serial: SerialNumber,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// The trust anchor of a trust domain; signs intermediates.
    Root,
    /// The authority of one server; signs leaves.
    Intermediate,
    /// The identity of a workload.
    Workload,
    /// The identity of an agent.
    Agent,
    /// The identity of a server of the authority.
    Authority,
}

/// Why a certificate could not be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// Too many DNS names.
    #[error("a certificate has at most 32 DNS names")]
    DnsNames,
}

/// The certificate of a root, which signs itself.
#[must_use]
pub fn root(trust_domain: &TrustDomain, key: &PublicKey, validity: Validity, serial: SerialNumber) -> Tbs {
    let order = ca_order(Profile::Root, trust_domain, key, validity, serial);
    let name = name_of(Profile::Root, key);
    let issuer = Issuer { name: &name, key, key_id: &key.key_id() };
    Tbs { der: lay_out(&order, &issuer).encode(), order }
}

/// The certificate of an intermediate that `issuer`, a root, will sign.
#[must_use]
pub fn intermediate(
    trust_domain: &TrustDomain,
    key: &PublicKey,
    validity: Validity,
    serial: SerialNumber,
    issuer: &Certificate,
) -> Tbs {
    let order = ca_order(Profile::Intermediate, trust_domain, key, validity, serial);
    Tbs { der: lay_out(&order, &Issuer::of(issuer)).encode(), order }
}

/// The certificate of a workload that `issuer` will sign.
///
/// # Errors
/// [`TemplateError`] if there are too many names.
pub fn workload(leaf: WorkloadLeaf, issuer: &Certificate) -> Result<Tbs, TemplateError> {
    let WorkloadLeaf { id, public_key, dns_names, attributes, validity, serial } = leaf;
    lay_out_leaf(
        Profile::Workload,
        NodeLeaf { id, public_key, dns_names, attributes, validity, serial },
        issuer,
    )
}

/// The certificate of an agent that `issuer` will sign.
///
/// # Errors
/// As [`workload`].
pub fn agent(leaf: NodeLeaf, issuer: &Certificate) -> Result<Tbs, TemplateError> {
    lay_out_leaf(Profile::Agent, leaf, issuer)
}

/// The certificate of a server of the authority that `issuer` will sign.
///
/// # Errors
/// As [`workload`].
pub fn authority(leaf: NodeLeaf, issuer: &Certificate) -> Result<Tbs, TemplateError> {
    lay_out_leaf(Profile::Authority, leaf, issuer)
}

impl Tbs {
    /// The TBSCertificate (RFC 5280 section 4.1.2).
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What it is for.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.order.profile
    }

    /// Its serial number.
    #[must_use]
    pub fn serial(&self) -> SerialNumber {
        self.order.serial
    }

    /// When it is valid.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.order.validity
    }
}

impl Profile {
    /// Whether it is an authority.
    #[must_use]
    pub const fn is_ca(self) -> bool {
        matches!(self, Self::Root | Self::Intermediate)
    }
}

impl TemplateError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::DnsNames => "ca.too-many-dns-names",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::DnsNames => "give the registration fewer DNS names",
        }
    }
}

pub(crate) struct Issuer<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) key: &'a PublicKey,
    pub(crate) key_id: &'a [u8],
}

impl<'a> Issuer<'a> {
    fn of(certificate: &'a Certificate) -> Self {
        Self {
            name: certificate.subject_der(),
            key: certificate.public_key(),
            // Without one the linter refuses.
            key_id: certificate.subject_key_id().unwrap_or_default(),
        }
    }
}

fn ca_order(
    profile: Profile,
    trust_domain: &TrustDomain,
    key: &PublicKey,
    validity: Validity,
    serial: SerialNumber,
) -> Order {
    Order {
        profile,
        id: trust_domain.id(),
        public_key: key.clone(),
        dns_names: Vec::new(),
        attributes: None,
        validity,
        serial,
    }
}

fn lay_out_leaf(profile: Profile, leaf: NodeLeaf, issuer: &Certificate) -> Result<Tbs, TemplateError> {
    if leaf.dns_names.len() > MAX_DNS_NAMES {
        return Err(TemplateError::DnsNames);
    }
    let order = Order {
        profile,
        id: leaf.id,
        public_key: leaf.public_key,
        dns_names: leaf.dns_names,
        attributes: Some(leaf.attributes),
        validity: leaf.validity,
        serial: leaf.serial,
    };
    Ok(Tbs { der: lay_out(&order, &Issuer::of(issuer)).encode(), order })
}

/// The table of the module's documentation.
pub(crate) fn lay_out<'a>(order: &'a Order, issuer: &Issuer<'a>) -> Layout<'a> {
    let profile = order.profile;
    let mut extensions = Vec::with_capacity(7);
    let mut add = |oid, critical, value: Cow<'a, [u8]>| extensions.push(Extension { oid, critical, value });
    match profile {
        Profile::Root => add(oid::BASIC_CONSTRAINTS, true, Cow::Borrowed(b"\x30\x03\x01\x01\xff")),
        Profile::Intermediate => {
            add(oid::BASIC_CONSTRAINTS, true, Cow::Borrowed(b"\x30\x06\x01\x01\xff\x02\x01\x00"));
        }
        // The default FALSE is not encoded in DER.
        Profile::Workload | Profile::Agent | Profile::Authority => {
            add(oid::BASIC_CONSTRAINTS, true, Cow::Borrowed(b"\x30\x00"));
        }
    }
    if profile.is_ca() {
        // Bit 5, keyCertSign. We sign no revocation lists.
        add(oid::KEY_USAGE, true, Cow::Borrowed(b"\x03\x02\x02\x04"));
    } else {
        // Bit 0, digitalSignature.
        add(oid::KEY_USAGE, true, Cow::Borrowed(b"\x03\x02\x07\x80"));
        // serverAuth and clientAuth: every workload is both (X509-SVID section 4.4).
        let usages: &[u8] =
            b"\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02";
        add(oid::EXTENDED_KEY_USAGE, false, usages.into());
    }
    add(oid::SUBJECT_KEY_ID, false, layout::subject_key_id(&order.public_key.key_id()).into());
    add(oid::AUTHORITY_KEY_ID, false, layout::authority_key_id(issuer.key_id).into());
    add(
        oid::SUBJECT_ALT_NAME,
        !profile.is_ca(),
        layout::alternative_names(&order.id, &order.dns_names).into(),
    );
    if let Some(value) = &order.attributes {
        add(attributes::OID.as_bytes(), false, value.der().into());
    }
    Layout {
        version: 2,
        serial: order.serial.as_bytes().into(),
        algorithm: SignatureAlgorithm::default_for(issuer.key.algorithm()).algorithm_identifier_der(),
        issuer: issuer.name.into(),
        not_before: order.validity.not_before(),
        not_after: order.validity.not_after(),
        subject: name_of(profile, &order.public_key),
        public_key: order.public_key.clone(),
        extensions,
    }
}
