//! Key pairs in a device.

use std::ffi::c_ulong;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bonafide_crypto::asn1::{OBJECT_IDENTIFIER, Reader, SEQUENCE, Writer};
use bonafide_crypto::digest::{sha256, sha384};
use bonafide_crypto::key::{
    KeyAlgorithm, PublicKey, PublicKeyAlgorithm, SignError, SignatureAlgorithm, Signer,
};
use bonafide_crypto::random::Random;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::session::{Failure, Sessions};
use crate::KeyringError;

/// Of the authority's own keys.
const LABEL: &[u8] = b"bonafide";
const OCTET_STRING: u8 = 0x04;
const NULL: u8 = 0x05;
const EC_PUBLIC_KEY: &[u8] = b"\x2a\x86\x48\xce\x3d\x02\x01";
const RSA_ENCRYPTION: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
const P256: &[u8] = b"\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x2b\x81\x04\x00\x22";

/// A private key in a device.
pub(super) struct DeviceKey {
    sessions: Arc<Sessions>,
    public: PublicKey,
    /// What it is called there: whose it is. Under another label there is no such key.
    label: Vec<u8>,
    /// Where the device has it, for one login.
    handle: Mutex<Option<(u64, ObjectHandle)>>,
}

enum Kind {
    Ec(&'static [u8]),
    Rsa(c_ulong),
}

impl DeviceKey {
    /// A key of the authority itself.
    pub(super) fn generate(
        sessions: &Arc<Sessions>,
        algorithm: KeyAlgorithm,
        random: &dyn Random,
    ) -> Result<Self, KeyringError> {
        Self::draw(sessions, algorithm, LABEL, false, random)
    }

    pub(super) fn draw(
        sessions: &Arc<Sessions>,
        algorithm: KeyAlgorithm,
        label: &[u8],
        decrypts: bool,
        random: &dyn Random,
    ) -> Result<Self, KeyringError> {
        let kind = match algorithm {
            KeyAlgorithm::EcP256 => Kind::Ec(P256),
            KeyAlgorithm::EcP384 => Kind::Ec(P384),
            KeyAlgorithm::Rsa2048 => Kind::Rsa(2048),
            KeyAlgorithm::Rsa3072 => Kind::Rsa(3072),
            KeyAlgorithm::Rsa4096 => Kind::Rsa(4096),
            KeyAlgorithm::EcP521 | KeyAlgorithm::Ed25519 => {
                return Err(KeyringError::DeviceAlgorithm(algorithm.as_str()));
            }
        };
        // The key ID is a digest of the public key, which nobody knows before.
        let draft: [u8; 20] = random.array();
        let public = sessions.with(|session, _| {
            let (public, private) = draw(session, &kind, &draft, label, decrypts)?;
            let made = finish(session, &kind, public, private);
            if made.is_err() {
                // What is not as it must be helps nobody.
                let _ = session.destroy_object(private);
                let _ = session.destroy_object(public);
            }
            made
        })?;
        Self::named(sessions, public, label).found()
    }

    /// A key of the authority itself that was drawn before.
    pub(super) fn find(sessions: &Arc<Sessions>, public: PublicKey) -> Result<Self, KeyringError> {
        Self::named(sessions, public, LABEL).found()
    }

    /// A key of this label. The device is not asked yet.
    pub(super) fn named(sessions: &Arc<Sessions>, public: PublicKey, label: &[u8]) -> Self {
        Self { sessions: Arc::clone(sessions), public, label: label.to_vec(), handle: Mutex::default() }
    }

    fn found(self) -> Result<Self, KeyringError> {
        self.in_session(|_, _| Ok(()))?;
        Ok(self)
    }

    pub(super) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Does something with the private half.
    pub(super) fn in_session<T>(
        &self,
        work: impl Fn(&Session, ObjectHandle) -> Result<T, Failure>,
    ) -> Result<T, KeyringError> {
        self.sessions.with(|session, epoch| work(session, self.handle(session, epoch)?))
    }

    /// Takes both halves out of the device.
    pub(super) fn destroy(&self) -> Result<(), KeyringError> {
        let (id, label) = (self.public.key_id(), &self.label);
        self.sessions.with(|session, _| {
            let wanted =
                [Attribute::Token(true), Attribute::Id(id.to_vec()), Attribute::Label(label.clone())];
            for object in session.find_objects(&wanted)? {
                session.destroy_object(object)?;
            }
            Ok(())
        })?;
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// Looked up and checked once for each login.
    fn handle(&self, session: &Session, epoch: u64) -> Result<ObjectHandle, Failure> {
        let mut known = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, handle)) = *known
            && of == epoch
        {
            return Ok(handle);
        }
        let id = self.public.key_id();
        let wanted = [
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::Token(true),
            Attribute::Id(id.to_vec()),
            Attribute::Label(self.label.clone()),
        ];
        let refused = |what| KeyringError::DeviceKey { id: hex(&id), what };
        let found = session.find_objects(&wanted)?;
        let [handle] = found.as_slice() else {
            let what =
                if found.is_empty() { "is not in the device" } else { "is in the device several times" };
            return Err(refused(what).into());
        };
        check_kept(session, *handle, &id)?;
        *known = Some((epoch, *handle));
        Ok(*handle)
    }

    fn sign_once(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, KeyringError> {
        let (mechanism, digest) = mechanism(algorithm, message)?;
        let signature = self.in_session(|session, handle| {
            Ok(session.sign(&mechanism, handle, digest.as_deref().unwrap_or(message))?)
        })?;
        let wrong = || KeyringError::DeviceFailed("a signature that does not verify".to_owned());
        let signature = match self.public.algorithm() {
            PublicKeyAlgorithm::Rsa { .. } => signature,
            _ => ecdsa_der(&signature).ok_or_else(wrong)?,
        };
        // One faulty RSA signature gives the key away.
        self.public.verify(algorithm, message, &signature).map_err(|_| wrong())?;
        Ok(signature)
    }
}

impl Signer for DeviceKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn signature_algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::default_for(self.public.algorithm())
    }

    fn sign_with(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if !algorithm.fits(self.public.algorithm()) {
            return Err(SignError::Unfit);
        }
        self.sign_once(algorithm, message)
            .map_err(|error| SignError::Failed(format!("{error} ({})", error.code())))
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceKey").field("public", &self.public).finish_non_exhaustive()
    }
}

fn draw(
    session: &Session,
    kind: &Kind,
    id: &[u8],
    label: &[u8],
    decrypts: bool,
) -> Result<(ObjectHandle, ObjectHandle), Failure> {
    let named = |private| {
        vec![
            Attribute::Token(true),
            Attribute::Private(private),
            Attribute::Id(id.to_vec()),
            Attribute::Label(label.to_vec()),
        ]
    };
    let mut public = named(false);
    public.push(Attribute::Verify(true));
    let mut private = named(true);
    private.extend([Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::Sign(true)]);
    if decrypts {
        private.push(Attribute::Decrypt(true));
    }
    let mechanism = match kind {
        Kind::Ec(curve) => {
            let mut parameters = Writer::with_capacity(16);
            parameters.primitive(OBJECT_IDENTIFIER, curve);
            public.push(Attribute::EcParams(parameters.finish()));
            Mechanism::EccKeyPairGen
        }
        Kind::Rsa(bits) => {
            public.push(Attribute::ModulusBits((*bits).into()));
            public.push(Attribute::PublicExponent(vec![1, 0, 1]));
            Mechanism::RsaPkcsKeyPairGen
        }
    };
    Ok(session.generate_key_pair(&mechanism, &public, &private)?)
}

/// Reads the public half, gives both halves their ID, and checks what the device made of the private one.
fn finish(
    session: &Session,
    kind: &Kind,
    public: ObjectHandle,
    private: ObjectHandle,
) -> Result<PublicKey, Failure> {
    let key = PublicKey::from_spki_der(&spki(session, kind, public)?).map_err(KeyringError::from)?;
    let id = key.key_id();
    session.update_attributes(public, &[Attribute::Id(id.to_vec())])?;
    session.update_attributes(private, &[Attribute::Id(id.to_vec())])?;
    check_kept(session, private, &id)?;
    Ok(key)
}

/// That the key was drawn in the device, and was never anywhere else.
fn check_kept(session: &Session, private: ObjectHandle, id: &[u8]) -> Result<(), Failure> {
    let wanted = [
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::AlwaysSensitive,
        AttributeType::NeverExtractable,
        AttributeType::Local,
    ];
    let attributes = session.get_attributes(private, &wanted)?;
    let all = [
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::AlwaysSensitive(true),
        Attribute::NeverExtractable(true),
        Attribute::Local(true),
    ];
    if all.iter().all(|attribute| attributes.contains(attribute)) {
        return Ok(());
    }
    let what = "could have left the device: it is not sensitive, or extractable, or was brought in";
    Err(KeyringError::DeviceKey { id: hex(id), what }.into())
}

fn spki(session: &Session, kind: &Kind, public: ObjectHandle) -> Result<Vec<u8>, Failure> {
    let odd = || KeyringError::DeviceFailed("a public key that can't be read".to_owned());
    let (algorithm, parameters, bits) = match kind {
        Kind::Ec(curve) => {
            let attributes = session.get_attributes(public, &[AttributeType::EcPoint])?;
            let Some(Attribute::EcPoint(point)) = attributes.first() else { return Err(odd().into()) };
            // An OCTET STRING around the point (PKCS#11 2.40 section 2.3.3), which some devices leave out.
            let mut reader = Reader::new(point);
            let inner = reader.content(OCTET_STRING).filter(|_| reader.finish().is_some());
            (EC_PUBLIC_KEY, Some(*curve), inner.unwrap_or(point).to_vec())
        }
        Kind::Rsa(_) => {
            let wanted = [AttributeType::Modulus, AttributeType::PublicExponent];
            let attributes = session.get_attributes(public, &wanted)?;
            let (mut modulus, mut exponent) = (None, None);
            for attribute in &attributes {
                match attribute {
                    Attribute::Modulus(number) => modulus = Some(number),
                    Attribute::PublicExponent(number) => exponent = Some(number),
                    _ => {}
                }
            }
            let (modulus, exponent) = modulus.zip(exponent).ok_or_else(odd)?;
            let mut key = Writer::with_capacity(modulus.len() + 32);
            key.nested(SEQUENCE, |key| {
                key.positive(modulus);
                key.positive(exponent);
            });
            (RSA_ENCRYPTION, None, key.finish())
        }
    };
    let mut out = Writer::with_capacity(bits.len() + 64);
    out.nested(SEQUENCE, |spki| {
        spki.nested(SEQUENCE, |identifier| {
            identifier.primitive(OBJECT_IDENTIFIER, algorithm);
            match parameters {
                Some(curve) => identifier.primitive(OBJECT_IDENTIFIER, curve),
                None => identifier.primitive(NULL, &[]),
            }
        });
        spki.bit_string(&bits);
    });
    Ok(out.finish())
}

/// How the device signs; what it gets instead of the message. Devices that hash before ECDSA are rare, so it is done
/// here.
fn mechanism(
    algorithm: SignatureAlgorithm,
    message: &[u8],
) -> Result<(Mechanism<'static>, Option<Vec<u8>>), KeyringError> {
    let pss = |hash_alg, mgf, s_len: c_ulong| PkcsPssParams { hash_alg, mgf, s_len: s_len.into() };
    let (sha256_type, sha384_type) = (MechanismType::SHA256, MechanismType::SHA384);
    Ok(match algorithm {
        SignatureAlgorithm::EcdsaP256Sha256 => (Mechanism::Ecdsa, Some(sha256(message).to_vec())),
        SignatureAlgorithm::EcdsaP384Sha384 => (Mechanism::Ecdsa, Some(sha384(message).to_vec())),
        SignatureAlgorithm::RsaPkcs1Sha256 => (Mechanism::Sha256RsaPkcs, None),
        SignatureAlgorithm::RsaPkcs1Sha384 => (Mechanism::Sha384RsaPkcs, None),
        SignatureAlgorithm::RsaPkcs1Sha512 => (Mechanism::Sha512RsaPkcs, None),
        SignatureAlgorithm::RsaPssSha256 => {
            (Mechanism::Sha256RsaPkcsPss(pss(sha256_type, PkcsMgfType::MGF1_SHA256, 32)), None)
        }
        SignatureAlgorithm::RsaPssSha384 => {
            (Mechanism::Sha384RsaPkcsPss(pss(sha384_type, PkcsMgfType::MGF1_SHA384, 48)), None)
        }
        SignatureAlgorithm::RsaPssSha512 => {
            (Mechanism::Sha512RsaPkcsPss(pss(MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64)), None)
        }
        SignatureAlgorithm::EcdsaP521Sha512 => return Err(KeyringError::DeviceAlgorithm("ec-p521")),
        SignatureAlgorithm::Ed25519 => return Err(KeyringError::DeviceAlgorithm("ed25519")),
    })
}

/// Devices give r and s, one behind the other; everybody else takes DER (RFC 3279 section 2.2.3).
pub(super) fn ecdsa_der(raw: &[u8]) -> Option<Vec<u8>> {
    let (r, s) = raw.split_at_checked(raw.len() / 2).filter(|(r, s)| r.len() == s.len())?;
    let zero = |number: &[u8]| number.iter().all(|byte| *byte == 0);
    if zero(r) || zero(s) {
        return None;
    }
    let mut out = Writer::with_capacity(raw.len() + 16);
    out.nested(SEQUENCE, |numbers| {
        numbers.positive(r);
        numbers.positive(s);
    });
    Some(out.finish())
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
