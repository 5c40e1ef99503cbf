//! The rules of extensions (RFC 5280 section 4.2, X509-SVID section 4).

use bonafide_crypto::asn1::{
    BIT_STRING, BOOLEAN, OBJECT_IDENTIFIER, OCTET_STRING, Reader, SEQUENCE, context_primitive,
};
use bonafide_identity::attributes;

use super::LintError;
use crate::template::{Order, Profile, oid};

/// The values, each at most once.
#[derive(Default)]
struct Values<'a> {
    basic_constraints: Option<Value<'a>>,
    key_usage: Option<Value<'a>>,
    extended_key_usage: Option<Value<'a>>,
    subject_key_id: Option<Value<'a>>,
    authority_key_id: Option<Value<'a>>,
    alternative_name: Option<Value<'a>>,
    attributes: Option<Value<'a>>,
}

#[derive(Clone, Copy)]
struct Value<'a> {
    critical: bool,
    der: &'a [u8],
}

pub(super) fn check(extensions: Reader<'_>, order: &Order, issuer_key_id: &[u8]) -> Result<(), LintError> {
    let values = read(extensions)?;
    let is_ca = order.profile.is_ca();

    let constraints = required(values.basic_constraints, true, "basicConstraints")?;
    if read_constraints(constraints) != Some(expected_constraints(order.profile)) {
        return Err(LintError::Extension("basicConstraints"));
    }
    // X509-SVID section 4.3: an authority has keyCertSign, a leaf has neither that nor cRLSign.
    let usage = required(values.key_usage, true, "keyUsage")?;
    let (unused, bits) = if is_ca { (2, 0b0000_0100) } else { (7, 0b1000_0000) };
    if usage != [BIT_STRING, 2, unused, bits] {
        return Err(LintError::Extension("keyUsage"));
    }
    check_extended_usage(values.extended_key_usage, is_ca)?;

    let own = required(values.subject_key_id, false, "subjectKeyIdentifier")?;
    if whole(own, OCTET_STRING) != Some(&order.public_key.key_id()) {
        return Err(LintError::Extension("subjectKeyIdentifier"));
    }
    let above = required(values.authority_key_id, false, "authorityKeyIdentifier")?;
    let above = whole(above, SEQUENCE).and_then(|id| whole(id, context_primitive(0)));
    if above != Some(issuer_key_id) || issuer_key_id.is_empty() {
        return Err(LintError::Extension("authorityKeyIdentifier"));
    }
    // Critical exactly if the subject is empty, which it is in leaves.
    let names = required(values.alternative_name, !is_ca, "subjectAltName")?;
    check_names(names, order)?;
    match (values.attributes, &order.attributes) {
        (None, None) => Ok(()),
        (Some(value), Some(expected)) if !value.critical && value.der == expected.der() => {
            attributes::check_der(value.der).map_err(|_| LintError::Attributes)
        }
        _ => Err(LintError::Attributes),
    }
}

fn read(mut extensions: Reader<'_>) -> Result<Values<'_>, LintError> {
    let mut values = Values::default();
    while !extensions.is_empty() {
        let (kind, value) = read_extension(&mut extensions).ok_or(LintError::Structure)?;
        let (slot, name) = match kind {
            oid::BASIC_CONSTRAINTS => (&mut values.basic_constraints, "basicConstraints"),
            oid::KEY_USAGE => (&mut values.key_usage, "keyUsage"),
            oid::EXTENDED_KEY_USAGE => (&mut values.extended_key_usage, "extKeyUsage"),
            oid::SUBJECT_KEY_ID => (&mut values.subject_key_id, "subjectKeyIdentifier"),
            oid::AUTHORITY_KEY_ID => (&mut values.authority_key_id, "authorityKeyIdentifier"),
            oid::SUBJECT_ALT_NAME => (&mut values.alternative_name, "subjectAltName"),
            kind if kind == attributes::OID.as_bytes() => (&mut values.attributes, "attributes"),
            // Name constraints among them: see the template.
            _ => return Err(LintError::Extension("unknown")),
        };
        if slot.replace(value).is_some() {
            return Err(LintError::Extension(name));
        }
    }
    Ok(values)
}

fn read_extension<'a>(extensions: &mut Reader<'a>) -> Option<(&'a [u8], Value<'a>)> {
    let mut extension = extensions.nested(SEQUENCE)?;
    let kind = extension.content(OBJECT_IDENTIFIER)?;
    let critical = match extension.optional(BOOLEAN)? {
        None => false,
        Some([0xff]) => true,
        Some(_) => return None,
    };
    let der = extension.content(OCTET_STRING)?;
    extension.finish()?;
    Some((kind, Value { critical, der }))
}

fn required<'a>(value: Option<Value<'a>>, critical: bool, name: &'static str) -> Result<&'a [u8], LintError> {
    match value {
        Some(value) if value.critical == critical => Ok(value.der),
        _ => Err(LintError::Extension(name)),
    }
}

/// CA or not, and the path length.
fn expected_constraints(profile: Profile) -> (bool, Option<u8>) {
    match profile {
        Profile::Root => (true, None),
        Profile::Intermediate => (true, Some(0)),
        Profile::Workload | Profile::Agent | Profile::Authority => (false, None),
    }
}

fn read_constraints(der: &[u8]) -> Option<(bool, Option<u8>)> {
    let mut constraints = Reader::new(whole(der, SEQUENCE)?);
    let ca = match constraints.optional(BOOLEAN)? {
        None => false,
        Some([0xff]) => true,
        Some(_) => return None,
    };
    let length = match constraints.optional(bonafide_crypto::asn1::INTEGER)? {
        None => None,
        Some([length @ 0..=0x7f]) => Some(*length),
        Some(_) => return None,
    };
    constraints.finish()?;
    Some((ca, length))
}

/// X509-SVID section 4.4: both uses in a leaf; an authority of ours has none, because verifiers nest them.
fn check_extended_usage(value: Option<Value<'_>>, is_ca: bool) -> Result<(), LintError> {
    const ERROR: LintError = LintError::Extension("extKeyUsage");
    if is_ca {
        return if value.is_none() { Ok(()) } else { Err(ERROR) };
    }
    let mut usages = Reader::new(whole(required(value, false, "extKeyUsage")?, SEQUENCE).ok_or(ERROR)?);
    for purpose in [1, 2] {
        let expected = [0x2b, 6, 1, 5, 5, 7, 3, purpose];
        if usages.content(OBJECT_IDENTIFIER) != Some(&expected) {
            return Err(ERROR);
        }
    }
    usages.finish().ok_or(ERROR)
}

/// X509-SVID section 2: exactly one URI, and it is the ordered one.
fn check_names(der: &[u8], order: &Order) -> Result<(), LintError> {
    let mut names = Reader::new(whole(der, SEQUENCE).ok_or(LintError::Names)?);
    let mut uris = 0;
    let mut dns_names = order.dns_names.iter();
    while !names.is_empty() {
        let name = names.any().ok_or(LintError::Names)?;
        if name.tag == context_primitive(6) && name.content == order.id.as_str().as_bytes() {
            uris += 1;
        } else if name.tag == context_primitive(2) {
            if dns_names.next().map(|expected| expected.as_str().as_bytes()) != Some(name.content) {
                return Err(LintError::Names);
            }
        } else {
            return Err(LintError::Names);
        }
    }
    if uris == 1 && dns_names.next().is_none() { Ok(()) } else { Err(LintError::Names) }
}

/// The content of `der`, which must be one element with this tag.
fn whole(der: &[u8], tag: u8) -> Option<&[u8]> {
    let mut reader = Reader::new(der);
    let content = reader.content(tag)?;
    reader.finish()?;
    Some(content)
}
