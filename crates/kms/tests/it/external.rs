//! Keys whose private half is elsewhere.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey, PublicKey, SignatureAlgorithm, Signer as _};
use bonafide_crypto::oaep::{OaepHash, OaepPrivateKey};
use bonafide_kms::algorithm::Scheme;
use bonafide_kms::ciphertext::Kind;
use bonafide_kms::material::{External, Message};

use super::*;

/// A device that has one key for each name, and may be away.
#[derive(Default)]
struct Drawer {
    keys: Mutex<BTreeMap<String, Arc<Kept>>>,
    away: bool,
}

#[derive(Debug)]
struct Kept(PrivateKey, Option<OaepPrivateKey>);

impl External for Kept {
    fn sign(&self, algorithm: SignatureAlgorithm, message: Message<'_>) -> Result<Vec<u8>, Refusal> {
        match message {
            Message::Whole(message) => self.0.sign_with(algorithm, message),
            Message::Digest(digest) => self.0.sign_digest(algorithm, digest),
        }
        .map_err(|_| Refusal::Device)
    }

    fn decrypt(&self, hash: OaepHash, label: &[u8], sealed: &[u8]) -> Result<Erased, Refusal> {
        self.1
            .as_ref()
            .ok_or(Refusal::Unfit)?
            .decrypt(hash, label, sealed)
            .map(Erased::from)
            .map_err(|_| Refusal::Ciphertext)
    }
}

impl Wrapping for Drawer {
    fn wrap(&self, context: &str, secret: &[u8]) -> Option<Vec<u8>> {
        Glass.wrap(context, secret)
    }

    fn unwrap(&self, context: &str, wrapped: &[u8]) -> Option<Erased> {
        Glass.unwrap(context, wrapped)
    }

    fn draw(
        &self,
        context: &str,
        algorithm: KeyAlgorithm,
    ) -> Result<(PublicKey, Arc<dyn External>), Refusal> {
        if self.away {
            return Err(Refusal::Device);
        }
        let key = PrivateKey::generate(algorithm).unwrap();
        let (public, oaep) = (key.public_key().clone(), OaepPrivateKey::new(&key).ok());
        let kept = Arc::new(Kept(key, oaep));
        self.keys.lock().unwrap().insert(context.to_owned(), Arc::clone(&kept));
        Ok((public, kept))
    }

    fn find(&self, context: &str, public: &PublicKey) -> Result<Arc<dyn External>, Refusal> {
        let found = self.keys.lock().unwrap().get(context).cloned().filter(|_| !self.away);
        let found = found.ok_or(Refusal::Device)?;
        assert_eq!(found.0.public_key(), public);
        Ok(found)
    }

    fn destroy(&self, context: &str, _: &PublicKey) -> Result<(), Refusal> {
        self.keys.lock().unwrap().remove(context);
        Ok(())
    }
}

#[test]
fn the_private_half_of_an_external_key_is_used_where_it_is() {
    let (engine, mut drawer) = (engine(), Drawer::default());
    let flags = Flags { external: true, ..Flags::default() };
    let draw = |drawer: &Drawer, version, key_type, flags| {
        engine.one(drawer, &Request::Generate { key: KEY, version, key_type, flags })
    };
    let (handle, wrapped) = opened(draw(&drawer, 1, KeyType::Rsa2048, flags).unwrap());
    assert_eq!(drawer.keys.lock().unwrap().keys().collect::<Vec<_>>(), [&bonafide_kms::engine::path(KEY, 1)]);
    let sealed = bytes(
        engine.one(&drawer, &Request::Encrypt { handle, context: none(), plaintext: b"plain" }).unwrap(),
    );
    let open = |drawer: &Drawer, handle, context, body: &[u8]| {
        engine.one(drawer, &Request::Decrypt { handle, context, kind: Kind::Direct, body }).map(bytes)
    };
    assert_eq!(open(&drawer, handle, none(), &sealed), Ok(b"plain".to_vec()));
    assert_eq!(open(&drawer, handle, context(&[("a", "b")]), &sealed), Err(Refusal::Ciphertext));
    let scheme = Scheme::Classic(SignatureAlgorithm::RsaPssSha256);
    let sign = |drawer: &Drawer, handle, scheme| {
        engine.one(drawer, &Request::Sign { handle, scheme, prehashed: false, message: b"m" }).map(bytes)
    };
    let signature = sign(&drawer, handle, scheme).unwrap();
    let verify = |handle| {
        let message = b"m".as_slice();
        engine.one(
            &Glass,
            &Request::Verify { handle, scheme, prehashed: false, message, signature: &signature },
        )
    };
    assert_eq!(verify(handle), Ok(Answer::Done));
    let es = Scheme::Classic(SignatureAlgorithm::EcdsaP256Sha256);
    assert_eq!(sign(&drawer, handle, es), Err(Refusal::Unfit));
    assert_eq!(engine.one(&drawer, &Request::Export { handle }), Err(Refusal::External));
    // Wrapped is the public half alone, for this version alone.
    let secret = Glass.unwrap(&bonafide_kms::engine::path(KEY, 1), &wrapped).unwrap();
    assert!(PublicKey::from_spki_der(&secret[3..]).is_ok());
    let other = engine.one(&drawer, &Request::Open { key: KEY, version: 2, wrapped: &wrapped });
    assert_eq!(other, Err(Refusal::Wrapped));

    // What can't be there, or not so, is not drawn.
    for (key_type, flags) in [
        (KeyType::Ed25519, flags),
        (KeyType::Aes256Gcm, flags),
        (KeyType::Rsa2048, Flags { exportable: true, ..flags }),
        (KeyType::Rsa2048, Flags { convergent: true, ..flags }),
    ] {
        assert_eq!(draw(&drawer, 3, key_type, flags), Err(Refusal::Unfit));
    }
    let secret = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap().to_pkcs8_der();
    let import =
        Request::Import { key: KEY, version: 3, key_type: KeyType::EcdsaP256, flags, secret: &secret };
    assert_eq!(engine.one(&drawer, &import), Err(Refusal::External));
    assert_eq!(drawer.keys.lock().unwrap().len(), 1);

    // Without its device only the public half is of use.
    drawer.away = true;
    let away = |drawer: &dyn Wrapping| {
        let again = Request::Open { key: KEY, version: 1, wrapped: &wrapped };
        opened(engine.one(drawer, &again).unwrap()).0
    };
    for (handle, refusal) in [(away(&drawer), Refusal::Device), (away(&Glass), Refusal::NoDevice)] {
        assert_eq!(open(&drawer, handle, none(), &sealed), Err(refusal));
        assert_eq!(sign(&drawer, handle, scheme), Err(refusal));
        assert_eq!(verify(handle), Ok(Answer::Done));
    }
    drawer.away = false;
    let destroy = Request::Destroy { key: KEY, version: 1, wrapped: &wrapped };
    for _ in 0..2 {
        assert_eq!(engine.one(&drawer, &destroy), Ok(Answer::Done), "done twice is done");
    }
    assert!(drawer.keys.lock().unwrap().is_empty());
    let (_, soft) = generate(&engine, 1, KeyType::EcdsaP256, Flags::default());
    let destroy = Request::Destroy { key: KEY, version: 1, wrapped: &soft };
    assert_eq!(engine.one(&drawer, &destroy), Err(Refusal::Unfit), "what is no device's");
}
