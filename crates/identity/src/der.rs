//! The DER of a few types that only certificates need, over the reader and writer of `crypto::asn1`.

use bonafide_crypto::asn1::{self, Reader, Writer};

use crate::time::UnixTime;

/// ENUMERATED.
pub(crate) const ENUMERATED: u8 = 0x0a;

/// The next element, a non-negative INTEGER below 2^64.
pub(crate) fn u64(reader: &mut Reader<'_>) -> Option<u64> {
    let content = reader.content(asn1::INTEGER)?;
    let magnitude = match content {
        [] => return None,
        [0] => content,
        [0, rest @ ..] => rest.first().is_some_and(|first| *first >= 0x80).then_some(rest)?,
        [first, ..] => (*first < 0x80).then_some(content)?,
    };
    (magnitude.len() <= 8).then(|| magnitude.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// Writes a non-negative INTEGER.
pub(crate) fn write_u64(writer: &mut Writer, value: u64) {
    if value == 0 {
        writer.primitive(asn1::INTEGER, &[0]);
    } else {
        writer.positive(&value.to_be_bytes());
    }
}

/// `BOOLEAN DEFAULT FALSE`: DER writes it only when it is true (X.690 section 11.5).
pub(crate) fn default_false(reader: &mut Reader<'_>) -> Option<bool> {
    match reader.optional(asn1::BOOLEAN)? {
        None => Some(false),
        Some([0xff]) => Some(true),
        Some(_) => None,
    }
}

/// The next element, an OBJECT IDENTIFIER, as its content. Arcs of any size are taken, in their shortest form.
pub(crate) fn oid<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let content = reader.content(asn1::OBJECT_IDENTIFIER)?;
    let mut at_start = true;
    for &byte in content {
        if at_start && byte == 0x80 {
            return None;
        }
        at_start = byte & 0x80 == 0;
    }
    (!content.is_empty() && at_start).then_some(content)
}

/// The content of a BIT STRING with named bits, most significant first: at most 16 of them, without trailing
/// zeros (X.690 section 11.2.2).
pub(crate) fn named_bits(content: &[u8]) -> Option<u16> {
    let (&unused, bytes) = content.split_first()?;
    let (bits, last) = match *bytes {
        [] => return (unused == 0).then_some(0),
        [one] => (u16::from(one) << 8, one),
        [one, two] => (u16::from_be_bytes([one, two]), two),
        _ => return None,
    };
    // The last bit of the string is a one, and the unused ones below it are zeros.
    (unused < 8 && last.trailing_zeros() == u32::from(unused)).then_some(bits)
}

/// The next element, a Time as RFC 5280 section 4.1.2.5 has it: UTCTime until 2049, GeneralizedTime from 2050,
/// both with seconds, without fractions, and in UTC.
pub(crate) fn time(reader: &mut Reader<'_>) -> Option<UnixTime> {
    let element = reader.any()?;
    let digits = element.content.strip_suffix(b"Z")?;
    let (year, rest) = match (element.tag, digits.len()) {
        (asn1::UTC_TIME, 12) => {
            let (year, rest) = two_digits(digits)?;
            (i64::from(year) + if year < 50 { 2000 } else { 1900 }, rest)
        }
        (asn1::GENERALIZED_TIME, 14) => {
            let (century, rest) = two_digits(digits)?;
            let (year, rest) = two_digits(rest)?;
            (i64::from(century) * 100 + i64::from(year), rest)
        }
        _ => return None,
    };
    if element.tag == asn1::GENERALIZED_TIME && year < 2050 {
        return None;
    }
    let (month, rest) = two_digits(rest)?;
    let (day, rest) = two_digits(rest)?;
    let (hour, rest) = two_digits(rest)?;
    let (minute, rest) = two_digits(rest)?;
    let (second, rest) = two_digits(rest)?;
    if rest.is_empty() { UnixTime::from_civil(year, month, day, hour, minute, second) } else { None }
}

fn two_digits(text: &[u8]) -> Option<(u8, &[u8])> {
    let ([tens, ones], rest) = text.split_first_chunk::<2>()?;
    let digit = |byte: u8| byte.is_ascii_digit().then(|| byte - b'0');
    Some((digit(*tens)? * 10 + digit(*ones)?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.primitive(tag, content);
        writer.finish()
    }

    #[test]
    fn times() {
        let good = [
            (asn1::UTC_TIME, "700101000000Z", 0),
            (asn1::UTC_TIME, "500101000000Z", -631_152_000),
            (asn1::UTC_TIME, "491231235959Z", 2_524_607_999),
            (asn1::GENERALIZED_TIME, "20500101000000Z", 2_524_608_000),
            (asn1::GENERALIZED_TIME, "99991231235959Z", 253_402_300_799),
        ];
        for (tag, text, seconds) in good {
            let der = element(tag, text.as_bytes());
            assert_eq!(time(&mut Reader::new(&der)), Some(UnixTime::from_secs(seconds)), "{text}");
        }
        let bad = [
            (asn1::GENERALIZED_TIME, "20491231235959Z"),
            (asn1::UTC_TIME, "7001010000Z"),
            (asn1::UTC_TIME, "700101000000"),
            (asn1::UTC_TIME, "700101000000+0000"),
            (asn1::UTC_TIME, "700132000000Z"),
            (asn1::UTC_TIME, "70010100006 Z"),
            (asn1::UTC_TIME, "20500101000000Z"),
            (asn1::GENERALIZED_TIME, "500101000000Z"),
            (asn1::GENERALIZED_TIME, "20500101000000.5Z"),
            (asn1::GENERALIZED_TIME, "20500229000000Z"),
            (asn1::UTF8_STRING, "700101000000Z"),
        ];
        for (tag, text) in bad {
            let der = element(tag, text.as_bytes());
            assert_eq!(time(&mut Reader::new(&der)), None, "{text}");
        }
    }

    #[test]
    fn named_bits_have_one_form() {
        assert_eq!(named_bits(&[7, 0x80]), Some(0x8000));
        assert_eq!(named_bits(&[1, 0x06]), Some(0x0600));
        assert_eq!(named_bits(&[7, 0x03, 0x80]), Some(0x0380));
        assert_eq!(named_bits(&[0]), Some(0));
        let bad: [&[u8]; 8] =
            [&[], &[1], &[0, 0x80], &[6, 0x80], &[7, 0xc0], &[8, 0x80], &[0, 0], &[7, 1, 1, 0x80]];
        for bits in bad {
            assert_eq!(named_bits(bits), None, "{bits:?}");
        }
    }

    #[test]
    fn booleans_and_oids_have_one_form() {
        assert_eq!(default_false(&mut Reader::new(&[1, 1, 0xff])), Some(true));
        assert_eq!(default_false(&mut Reader::new(&[])), Some(false));
        assert_eq!(default_false(&mut Reader::new(&[1, 1, 0])), None);
        assert_eq!(default_false(&mut Reader::new(&[1, 1, 1])), None);
        assert_eq!(oid(&mut Reader::new(&[6, 3, 0x55, 0x1d, 0x0f])), Some(&[0x55, 0x1d, 0x0f][..]));
        for bad in [&[6, 0][..], &[6, 2, 0x55, 0x80], &[6, 3, 0x55, 0x80, 0x01]] {
            assert_eq!(oid(&mut Reader::new(bad)), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn integers_round_trip(value: u64) {
            let mut writer = Writer::default();
            write_u64(&mut writer, value);
            prop_assert_eq!(u64(&mut Reader::new(&writer.finish())), Some(value));
        }
    }
}
