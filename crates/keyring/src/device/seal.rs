//! A seal whose secret is an AES key in a device.

use std::ffi::c_ulong;

use bonafide_crypto::random::Random;
use bonafide_secmem::SecretBytes;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use zeroize::Zeroizing;

use super::Device;
use super::session::Failure;
use crate::seal::root;
use crate::{KeyringError, Seal};

const KIND: &str = "pkcs11";
const CONTEXT: &[u8] = b"bonafide seal v1 pkcs11";
const LABEL: &[u8] = b"bonafide seal";
const IV: usize = 12;
const TAG_BITS: c_ulong = 128;

/// AES-256-GCM in the device: what SoftHSM, cloud HSMs and network HSMs all have. The key is found by its label.
#[derive(Debug)]
pub(crate) struct DeviceSeal {
    device: Device,
}

impl DeviceSeal {
    /// With the key that is in the device.
    pub(crate) fn open(device: Device) -> Result<Self, KeyringError> {
        device.0.with(|session, _| key(session).map(|_| ()))?;
        Ok(Self { device })
    }

    /// With the key that is in the device, or a new one.
    pub(crate) fn create(device: Device, random: &dyn Random) -> Result<Self, KeyringError> {
        let id: [u8; 20] = random.array();
        device.0.with(|session, _| {
            if find(session)?.is_empty() {
                let template = [
                    Attribute::Class(ObjectClass::SECRET_KEY),
                    Attribute::KeyType(KeyType::AES),
                    Attribute::ValueLen(c_ulong::from(32_u8).into()),
                    Attribute::Token(true),
                    Attribute::Private(true),
                    Attribute::Sensitive(true),
                    Attribute::Extractable(false),
                    Attribute::Encrypt(true),
                    Attribute::Decrypt(true),
                    Attribute::Id(id.to_vec()),
                    Attribute::Label(LABEL.to_vec()),
                ];
                session.generate_key(&Mechanism::AesKeyGen, &template)?;
            }
            Ok(())
        })?;
        Self::open(device)
    }
}

impl Seal for DeviceSeal {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn seal(&self, root: &SecretBytes, random: &dyn Random) -> Result<Vec<u8>, KeyringError> {
        let drawn: [u8; IV] = random.array();
        self.device.0.with(|session, _| {
            let key = key(session)?;
            // Some devices draw an own one and write it here.
            let mut iv = drawn;
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, CONTEXT, TAG_BITS.into())?);
            let sealed = session.encrypt(&mechanism, key, root.expose())?;
            drop(mechanism);
            Ok([iv.as_slice(), &sealed].concat())
        })
    }

    fn unseal(&self, sealed: &[u8]) -> Result<SecretBytes, KeyringError> {
        let (iv, body) = sealed.split_first_chunk::<IV>().ok_or(KeyringError::WrongSeal(KIND))?;
        let opened = self.device.0.with(|session, _| {
            let key = key(session)?;
            let mut iv = *iv;
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, CONTEXT, TAG_BITS.into())?);
            // Devices name a wrong tag differently.
            Ok(session.decrypt(&mechanism, key, body).map(Zeroizing::new).ok())
        })?;
        root(&opened.ok_or(KeyringError::WrongSeal(KIND))?, KIND)
    }
}

fn find(session: &Session) -> Result<Vec<ObjectHandle>, Failure> {
    let wanted =
        [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true), Attribute::Label(LABEL.to_vec())];
    Ok(session.find_objects(&wanted)?)
}

/// The one key of that name, if it can't leave the device.
fn key(session: &Session) -> Result<ObjectHandle, Failure> {
    let refused = |what| KeyringError::DeviceKey { id: "bonafide seal".to_owned(), what };
    let found = find(session)?;
    let [key] = found.as_slice() else {
        let what = if found.is_empty() { "is not in the device" } else { "is in the device several times" };
        return Err(refused(what).into());
    };
    let attributes = session.get_attributes(*key, &[AttributeType::Sensitive, AttributeType::Extractable])?;
    let kept = [Attribute::Sensitive(true), Attribute::Extractable(false)];
    if kept.iter().all(|attribute| attributes.contains(attribute)) {
        return Ok(*key);
    }
    Err(refused("could leave the device: it is not sensitive, or extractable").into())
}
