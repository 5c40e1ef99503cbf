use proptest::prelude::*;

use super::*;
use crate::cipher::TAG;

fn seal(key: &XaesKey, nonce: &[u8], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut out = vec![0; plaintext.len() + TAG];
    key.seal_into(nonce, aad, plaintext, &mut out).unwrap();
    out
}

/// The two vectors of c2sp.org/XAES-256-GCM: with and without a reduction of the subkey.
#[test]
fn keeps_the_vectors() {
    let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
    let first = seal(&XaesKey::xaes_256(&[1; 32]), nonce, b"", b"XAES-256-GCM");
    assert_eq!(
        first,
        *b"\xce\x54\x6e\xf6\x3c\x9c\xc6\x07\x65\x92\x36\x09\xb3\x3a\x9a\x19\x74\xe9\x6e\x52\xda\xf2\xfc\xf7\x07\x5e\x22\x71"
    );
    let second = seal(&XaesKey::xaes_256(&[3; 32]), nonce, b"c2sp.org/XAES-256-GCM", b"XAES-256-GCM");
    assert_eq!(
        second,
        *b"\x98\x6e\xc1\x83\x25\x93\xdf\x54\x43\xa1\x79\x43\x7f\xd0\x83\xbf\x3f\xdb\x41\xab\xd7\x40\xa2\x1f\x71\xeb\x76\x9d"
    );
}

/// One CMAC over 32 bytes, by another implementation, is the key.
#[test]
fn the_short_one_derives_by_cmac() {
    use aws_lc_rs::cmac;
    let nonce: [u8; NONCE_128] = std::array::from_fn(|at| at as u8);
    for key in [[1; 16], [3; 16], [0x80; 16]] {
        let message = [b"\0\x01X\0".as_slice(), &nonce[..28]].concat();
        let derived = cmac::sign(&cmac::Key::new(cmac::AES_128, &key).unwrap(), &message).unwrap();
        let mut expected = vec![0; 5 + TAG];
        let cipher = CipherKey::new(Cipher::Aes128Gcm, derived.as_ref()).unwrap();
        cipher.seal_into(nonce.last_chunk().unwrap(), b"aad", b"hello", &mut expected).unwrap();
        assert_eq!(seal(&XaesKey::xaes_128(&key), &nonce, b"aad", b"hello"), expected);
    }
}

proptest! {
    #[test]
    fn opens_only_what_was_sealed(
        key in any::<[u8; 32]>(),
        nonce in any::<[u8; NONCE_128]>(),
        plaintext in prop::collection::vec(any::<u8>(), 0..80),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        for key in [XaesKey::xaes_256(&key), XaesKey::xaes_128(key.first_chunk().unwrap())] {
            let nonce = &nonce[..key.nonce_length()];
            let sealed = seal(&key, nonce, b"aad", &plaintext);
            let mut opened = vec![0; plaintext.len()];
            key.open_into(nonce, b"aad", &sealed, &mut opened).unwrap();
            prop_assert_eq!(&opened, &plaintext);
            let both = [nonce, &sealed].concat();
            let at = at.index(both.len());
            let mut changed = both.clone();
            changed[at] ^= flip;
            let (nonce, sealed) = changed.split_at(key.nonce_length());
            prop_assert!(key.open_into(nonce, b"aad", sealed, &mut opened).is_err());
            prop_assert!(key.open_into(&both[1..], b"aad", sealed, &mut opened).is_err());
        }
    }
}
