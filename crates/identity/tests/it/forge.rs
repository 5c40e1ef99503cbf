//! Certificates with any defect: every field is bytes that a test may replace before the signature.

use bonafide_crypto::asn1::{self, Writer};
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey, PublicKey, SignatureAlgorithm, Signer};

pub(crate) const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 14];
pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
pub(crate) const ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 17];
pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
pub(crate) const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 30];
pub(crate) const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 35];
pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];

pub(crate) const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
pub(crate) const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
pub(crate) const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];
pub(crate) const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0];

pub(crate) const DIGITAL_SIGNATURE: u8 = 0;
pub(crate) const KEY_ENCIPHERMENT: u8 = 2;
pub(crate) const KEY_AGREEMENT: u8 = 4;
pub(crate) const KEY_CERT_SIGN: u8 = 5;
pub(crate) const CRL_SIGN: u8 = 6;

/// A point in time within the validity of every certificate that is forged here: 2026-01-01.
pub(crate) const NOW: i64 = 1_767_225_600;

#[derive(Clone, Debug)]
pub(crate) struct Extension {
    pub(crate) oid: Vec<u8>,
    /// The bytes of the BOOLEAN, or none.
    pub(crate) critical: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// A certificate before its signature. The fields are whole elements, with tag and length.
#[derive(Clone, Debug)]
pub(crate) struct Forge {
    pub(crate) version: Vec<u8>,
    pub(crate) serial: Vec<u8>,
    pub(crate) inner_algorithm: Vec<u8>,
    pub(crate) outer_algorithm: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) not_before: Vec<u8>,
    pub(crate) not_after: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    pub(crate) public_key: Vec<u8>,
    pub(crate) unique_ids: Vec<u8>,
    pub(crate) extensions: Option<Vec<Extension>>,
    pub(crate) unused_bits: u8,
    pub(crate) trailer: Vec<u8>,
}

pub(crate) fn key(algorithm: KeyAlgorithm) -> PrivateKey {
    PrivateKey::generate(algorithm).unwrap()
}

pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.primitive(tag, content);
    writer.finish()
}

pub(crate) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    element(asn1::SEQUENCE, &parts.concat())
}

pub(crate) fn oid(content: &[u8]) -> Vec<u8> {
    element(asn1::OBJECT_IDENTIFIER, content)
}

/// A name with a common name, or the empty name.
pub(crate) fn name(common_name: &str) -> Vec<u8> {
    if common_name.is_empty() {
        return sequence(&[]);
    }
    let attribute = sequence(&[oid(&[0x55, 4, 3]), element(asn1::UTF8_STRING, common_name.as_bytes())]);
    sequence(&[element(asn1::SET, &attribute)])
}

pub(crate) fn utc(text: &str) -> Vec<u8> {
    element(asn1::UTC_TIME, text.as_bytes())
}

pub(crate) fn generalized(text: &str) -> Vec<u8> {
    element(asn1::GENERALIZED_TIME, text.as_bytes())
}

pub(crate) fn key_usage(bits: &[u8]) -> Vec<u8> {
    let mask = bits.iter().fold(0_u8, |mask, bit| mask | 0x80 >> bit);
    element(asn1::BIT_STRING, &[u8::try_from(mask.trailing_zeros()).unwrap(), mask])
}

pub(crate) fn usages(purposes: &[&[u8]]) -> Vec<u8> {
    sequence(&purposes.iter().map(|purpose| oid(purpose)).collect::<Vec<_>>())
}

pub(crate) fn constraints(ca: bool, path_length: Option<u8>) -> Vec<u8> {
    let mut content = if ca { vec![asn1::BOOLEAN, 1, 0xff] } else { vec![] };
    content.extend(path_length.map(|length| vec![asn1::INTEGER, 1, length]).unwrap_or_default());
    element(asn1::SEQUENCE, &content)
}

pub(crate) fn uri(text: &str) -> Vec<u8> {
    element(0x86, text.as_bytes())
}

pub(crate) fn dns(text: &str) -> Vec<u8> {
    element(0x82, text.as_bytes())
}

pub(crate) fn names(names: &[Vec<u8>]) -> Vec<u8> {
    sequence(names)
}

pub(crate) fn authority_key_id(id: &[u8]) -> Vec<u8> {
    sequence(&[element(0x80, id)])
}

impl Forge {
    fn new(issuer: &str, subject: &str, public_key: &PublicKey, issuer_key: &PublicKey) -> Self {
        let algorithm = SignatureAlgorithm::default_for(issuer_key.algorithm()).algorithm_identifier_der();
        Self {
            version: element(asn1::context(0), &[asn1::INTEGER, 1, 2]),
            serial: element(asn1::INTEGER, &[0x12, 0x34, 0x56]),
            inner_algorithm: algorithm.to_vec(),
            outer_algorithm: algorithm.to_vec(),
            issuer: name(issuer),
            not_before: utc("250101000000Z"),
            not_after: utc("270101000000Z"),
            subject: name(subject),
            public_key: public_key.spki_der().to_vec(),
            unique_ids: vec![],
            extensions: Some(vec![]),
            unused_bits: 0,
            trailer: vec![],
        }
    }

    /// A leaf that keeps the profile.
    pub(crate) fn leaf(issuer: &str, id: &str, public_key: &PublicKey, issuer_key: &PublicKey) -> Self {
        let mut leaf = Self::new(issuer, "", public_key, issuer_key);
        leaf.set(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE]));
        leaf.set(EXTENDED_KEY_USAGE, false, usages(&[SERVER_AUTH, CLIENT_AUTH]));
        leaf.set(AUTHORITY_KEY_ID, false, authority_key_id(&issuer_key.key_id()));
        leaf.set(ALTERNATIVE_NAME, true, names(&[uri(id)]));
        leaf
    }

    /// An authority that keeps the profile.
    pub(crate) fn authority(
        issuer: &str,
        subject: &str,
        id: &str,
        public_key: &PublicKey,
        issuer_key: &PublicKey,
    ) -> Self {
        let mut authority = Self::new(issuer, subject, public_key, issuer_key);
        authority.set(BASIC_CONSTRAINTS, true, constraints(true, None));
        authority.set(KEY_USAGE, true, key_usage(&[KEY_CERT_SIGN, CRL_SIGN]));
        authority.set(SUBJECT_KEY_ID, false, element(asn1::OCTET_STRING, &public_key.key_id()));
        authority.set(AUTHORITY_KEY_ID, false, authority_key_id(&issuer_key.key_id()));
        authority.set(ALTERNATIVE_NAME, false, names(&[uri(id)]));
        authority
    }

    /// Adds an extension, or replaces it.
    pub(crate) fn set(&mut self, oid: &[u8], critical: bool, value: Vec<u8>) {
        self.remove(oid);
        self.add(oid, critical, value);
    }

    /// Adds an extension, even a second time.
    pub(crate) fn add(&mut self, oid: &[u8], critical: bool, value: Vec<u8>) {
        let critical = if critical { vec![asn1::BOOLEAN, 1, 0xff] } else { vec![] };
        self.extensions.as_mut().unwrap().push(Extension { oid: oid.to_vec(), critical, value });
    }

    pub(crate) fn remove(&mut self, oid: &[u8]) {
        self.extensions.as_mut().unwrap().retain(|extension| extension.oid != oid);
    }

    pub(crate) fn extension(&mut self, oid: &[u8]) -> &mut Extension {
        self.extensions.as_mut().unwrap().iter_mut().find(|extension| extension.oid == oid).unwrap()
    }

    pub(crate) fn sign(&self, key: &PrivateKey) -> Vec<u8> {
        let extensions = self.extensions.iter().map(|list| {
            let list: Vec<_> = list
                .iter()
                .map(|extension| {
                    let value = element(asn1::OCTET_STRING, &extension.value);
                    sequence(&[oid(&extension.oid), extension.critical.clone(), value])
                })
                .collect();
            element(asn1::context(3), &sequence(&list))
        });
        let tbs = sequence(&[
            self.version.clone(),
            self.serial.clone(),
            self.inner_algorithm.clone(),
            self.issuer.clone(),
            sequence(&[self.not_before.clone(), self.not_after.clone()]),
            self.subject.clone(),
            self.public_key.clone(),
            self.unique_ids.clone(),
            extensions.flatten().collect(),
        ]);
        let mut signature = vec![self.unused_bits];
        signature.extend(key.sign(&tbs).unwrap());
        let signature = element(asn1::BIT_STRING, &signature);
        let mut der = sequence(&[tbs, self.outer_algorithm.clone(), signature]);
        der.extend(&self.trailer);
        der
    }
}
