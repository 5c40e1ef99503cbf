//! From fields to DER.

use std::borrow::Cow;

use bonafide_crypto::asn1::{
    BOOLEAN, GENERALIZED_TIME, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, UTC_TIME, Writer, context,
    context_primitive,
};
use bonafide_crypto::key::PublicKey;
use bonafide_identity::time::UnixTime;
use bonafide_identity::{DnsName, SpiffeId};

/// Object identifiers of extensions (RFC 5280 section 4.2), without tag and length.
pub(crate) mod oid {
    pub(crate) const SUBJECT_KEY_ID: &[u8] = b"\x55\x1d\x0e";
    pub(crate) const KEY_USAGE: &[u8] = b"\x55\x1d\x0f";
    pub(crate) const SUBJECT_ALT_NAME: &[u8] = b"\x55\x1d\x11";
    pub(crate) const BASIC_CONSTRAINTS: &[u8] = b"\x55\x1d\x13";
    pub(crate) const AUTHORITY_KEY_ID: &[u8] = b"\x55\x1d\x23";
    pub(crate) const EXTENDED_KEY_USAGE: &[u8] = b"\x55\x1d\x25";
}

/// Every field of a TBSCertificate (RFC 5280 section 4.1).
#[derive(Clone, Debug)]
pub(crate) struct Layout<'a> {
    pub(crate) version: u8,
    pub(crate) serial: Cow<'a, [u8]>,
    pub(crate) algorithm: &'a [u8],
    pub(crate) issuer: Cow<'a, [u8]>,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    pub(crate) subject: Vec<u8>,
    pub(crate) public_key: PublicKey,
    pub(crate) extensions: Vec<Extension<'a>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Extension<'a> {
    pub(crate) oid: &'static [u8],
    pub(crate) critical: bool,
    pub(crate) value: Cow<'a, [u8]>,
}

impl Layout<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let values: usize = self.extensions.iter().map(|extension| extension.value.len() + 20).sum();
        let spki = self.public_key.spki_der();
        let names = self.issuer.len() + self.subject.len();
        let mut out = Writer::with_capacity(values + spki.len() + names + 128);
        out.nested(SEQUENCE, |tbs| {
            tbs.nested(context(0), |version| version.primitive(INTEGER, &[self.version]));
            tbs.primitive(INTEGER, &self.serial);
            tbs.raw(self.algorithm);
            tbs.raw(&self.issuer);
            tbs.nested(SEQUENCE, |validity| {
                time(validity, self.not_before);
                time(validity, self.not_after);
            });
            tbs.raw(&self.subject);
            tbs.raw(spki);
            tbs.nested(context(3), |extensions| {
                extensions.nested(SEQUENCE, |extensions| {
                    self.extensions.iter().for_each(|extension| extension.encode(extensions));
                });
            });
        });
        out.finish()
    }
}

impl Extension<'_> {
    fn encode(&self, out: &mut Writer) {
        out.nested(SEQUENCE, |extension| {
            extension.primitive(OBJECT_IDENTIFIER, self.oid);
            if self.critical {
                extension.primitive(BOOLEAN, &[0xff]);
            }
            extension.primitive(OCTET_STRING, &self.value);
        });
    }
}

pub(super) fn subject_key_id(key_id: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(key_id.len() + 2);
    out.primitive(OCTET_STRING, key_id);
    out.finish()
}

pub(super) fn authority_key_id(key_id: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(key_id.len() + 4);
    out.nested(SEQUENCE, |id| id.primitive(context_primitive(0), key_id));
    out.finish()
}

pub(super) fn alternative_names(id: &SpiffeId, dns_names: &[DnsName]) -> Vec<u8> {
    let mut out = Writer::with_capacity(id.as_str().len() + 8 + 64 * dns_names.len());
    out.nested(SEQUENCE, |names| {
        names.primitive(context_primitive(6), id.as_str().as_bytes());
        dns_names.iter().for_each(|name| names.primitive(context_primitive(2), name.as_str().as_bytes()));
    });
    out.finish()
}

/// UTCTime through 2049, GeneralizedTime from 2050 on (RFC 5280 section 4.1.2.5).
fn time(out: &mut Writer, moment: UnixTime) {
    let (year, month, day, hour, minute, second) = moment.to_civil();
    let mut text = Vec::with_capacity(15);
    // INVARIANT: a validity lies between 1970 and 9999.
    let mut push = |value: i64| text.extend([value / 10 % 10, value % 10].map(|digit| b'0' + digit as u8));
    if year >= 2050 {
        push(year / 100);
    }
    push(year % 100);
    for field in [month, day, hour, minute, second] {
        push(field.into());
    }
    text.push(b'Z');
    out.primitive(if year >= 2050 { GENERALIZED_TIME } else { UTC_TIME }, &text);
}
