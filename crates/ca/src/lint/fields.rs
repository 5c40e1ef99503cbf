//! From DER back to fields, for the linter alone.

use bonafide_crypto::asn1::{GENERALIZED_TIME, INTEGER, Reader, SEQUENCE, UTC_TIME, context};
use bonafide_identity::time::UnixTime;

pub(super) struct Fields<'a> {
    pub(super) serial: &'a [u8],
    pub(super) algorithm: &'a [u8],
    pub(super) issuer: &'a [u8],
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
    pub(super) subject: &'a [u8],
    pub(super) public_key: &'a [u8],
    pub(super) extensions: Reader<'a>,
}

/// Version 3, no unique identifiers, nothing behind the extensions (RFC 5280 section 4.1).
pub(super) fn read(der: &[u8]) -> Option<Fields<'_>> {
    let mut outer = Reader::new(der);
    let mut tbs = outer.nested(SEQUENCE)?;
    outer.finish()?;
    if tbs.content(context(0))? != [INTEGER, 1, 2] {
        return None;
    }
    let serial = tbs.content(INTEGER)?;
    let algorithm = tbs.element(SEQUENCE)?.encoded;
    let issuer = tbs.element(SEQUENCE)?.encoded;
    let mut validity = tbs.nested(SEQUENCE)?;
    let not_before = read_time(&mut validity)?;
    let not_after = read_time(&mut validity)?;
    validity.finish()?;
    let subject = tbs.element(SEQUENCE)?.encoded;
    let public_key = tbs.element(SEQUENCE)?.encoded;
    let mut explicit = tbs.nested(context(3))?;
    let extensions = explicit.nested(SEQUENCE)?;
    explicit.finish()?;
    tbs.finish()?;
    Some(Fields { serial, algorithm, issuer, not_before, not_after, subject, public_key, extensions })
}

/// RFC 5280 section 4.1.2.5: seconds, `Z`, and UTCTime exactly through 2049.
fn read_time(validity: &mut Reader<'_>) -> Option<UnixTime> {
    let element = validity.any()?;
    let (digits, zone) = element.content.split_last_chunk::<1>()?;
    if zone != b"Z" || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut pairs = digits.chunks_exact(2).filter_map(|pair| match pair {
        [tens, ones] => Some((tens - b'0') * 10 + (ones - b'0')),
        _ => None,
    });
    let year = match (element.tag, digits.len()) {
        (UTC_TIME, 12) => match i64::from(pairs.next()?) {
            year @ 50.. => 1900 + year,
            year => 2000 + year,
        },
        (GENERALIZED_TIME, 14) => i64::from(pairs.next()?) * 100 + i64::from(pairs.next()?),
        _ => return None,
    };
    if (element.tag == GENERALIZED_TIME) != (year >= 2050) {
        return None;
    }
    let (month, day) = (pairs.next()?, pairs.next()?);
    let (hour, minute, second) = (pairs.next()?, pairs.next()?, pairs.next()?);
    UnixTime::from_civil(year, month, day, hour, minute, second)
}
