//! What a dealer publishes, and what it tells each receiver.

use bonafide_crypto::cipher::{Cipher, CipherKey, NONCE, TAG};
use bonafide_crypto::digest::sha256;
use bonafide_crypto::kdf::hkdf_sha256_parts;
use bonafide_crypto::random::Random;
use zeroize::Zeroizing;

use crate::document::{Digest, framed};
use crate::group::{G1_BYTES, G1Point, G2Point, GroupError, Index, Scalar};
use crate::params::same_secret;

/// Bytes of a share that is encrypted to its receiver.
pub(super) const SEALED_SHARE: usize = G1_BYTES + 32 + TAG;

/// The contribution to a new key in the second group, and proof that the dealer knows its secret. Without it, whoever speaks last
/// could choose his contribution such that he knows the sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Possession {
    /// a·G2
    pub second: G2Point,
    /// Schnorr's proof: challenge.
    pub challenge: [u8; 16],
    /// Schnorr's proof: response.
    pub response: Scalar,
}

/// A share, encrypted to its receiver's key of this ceremony: an ephemeral point, and ciphertext with tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedShare(pub [u8; SEALED_SHARE]);

/// Where a share goes, and in which ceremony. A ciphertext opens nowhere else.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) session: &'a Digest,
    pub(super) transcript: &'a Digest,
    pub(super) dealer: Index,
    pub(super) receiver: Index,
    /// The receiver's key.
    pub(super) key: &'a G1Point,
}

impl Possession {
    pub(super) fn new(
        session: &Digest,
        dealer: Index,
        secret: &Scalar,
        random: &dyn Random,
    ) -> Result<Self, GroupError> {
        let generator = G1Point::generator();
        let first = generator.times(secret).ok_or(GroupError::Scalar)?;
        let second = G2Point::generator().times(secret).ok_or(GroupError::Scalar)?;
        // As in a proof of an answer: a machine that was cloned must not answer two challenges with one nonce.
        let seed = Zeroizing::new(random.array::<32>());
        let context = framed(&[session, &[dealer.number()]]);
        let nonce = hkdf_sha256_parts(secret.to_bytes().as_slice(), seed.as_slice(), &[b"BBF pop", &context]);
        let nonce = Scalar::reduce(&nonce);
        let committed = generator.times(&nonce).ok_or(GroupError::Scalar)?;
        let challenge = challenge(session, dealer, &first, &second, &committed);
        let response = nonce.plus(&widened(&challenge).times(secret));
        Ok(Self { second, challenge, response })
    }

    /// Whether the dealer knows the secret of `first`, and both points have the same.
    pub(super) fn holds(&self, session: &Digest, dealer: Index, first: &G1Point) -> bool {
        let negated = Scalar::zero().minus(&widened(&self.challenge));
        let generator = G1Point::generator();
        let committed = G1Point::sum_of_multiples([(&generator, self.response.clone()), (first, negated)]);
        let known = committed.is_some_and(|committed| {
            challenge(session, dealer, first, &self.second, &committed) == self.challenge
        });
        known && same_secret(first, &self.second)
    }
}

impl SealedShare {
    pub(super) fn new(way: &Way<'_>, share: &Scalar, random: &dyn Random) -> Result<Self, GroupError> {
        let ephemeral = Scalar::random(random);
        let point = G1Point::generator().times(&ephemeral).ok_or(GroupError::Scalar)?.encode();
        let secret = way.key.shared_secret(&ephemeral).ok_or(GroupError::Scalar)?;
        let mut out = [0; SEALED_SHARE];
        let (head, body) = out.split_at_mut(G1_BYTES);
        head.copy_from_slice(&point);
        let cipher = way.cipher(&point, &secret).ok_or(GroupError::Scalar)?;
        let plaintext = share.to_bytes();
        cipher.seal_into(&[0; NONCE], &[], plaintext.as_slice(), body).map_err(|_| GroupError::Scalar)?;
        Ok(Self(out))
    }

    /// `None` if it is no share for this receiver.
    pub(super) fn open(&self, way: &Way<'_>, key: &Scalar) -> Option<Scalar> {
        let (head, body) = self.0.split_first_chunk::<G1_BYTES>()?;
        let secret = G1Point::decode(head).ok()?.shared_secret(key)?;
        let mut share = Zeroizing::new([0; 32]);
        way.cipher(head, &secret)?.open_into(&[0; NONCE], &[], body, share.as_mut()).ok()?;
        Scalar::from_bytes(&share).ok()
    }
}

impl Way<'_> {
    /// The key is used once, because the ephemeral point is.
    fn cipher(&self, ephemeral: &[u8; G1_BYTES], secret: &[u8; G1_BYTES]) -> Option<CipherKey> {
        let parties = [self.dealer.number(), self.receiver.number()];
        let info =
            framed(&[self.session, self.transcript, &parties, ephemeral, self.key.encode().as_slice()]);
        let key = hkdf_sha256_parts::<32>(secret, b"bbf-subshare-v1", &[&info]);
        CipherKey::new(Cipher::Aes256Gcm, key.as_slice())
    }
}

fn challenge(
    session: &Digest,
    dealer: Index,
    first: &G1Point,
    second: &G2Point,
    committed: &G1Point,
) -> [u8; 16] {
    let hash = sha256(&framed(&[
        b"BBF-V01-CS02-POSSESSION",
        session,
        &[dealer.number()],
        &first.encode(),
        &second.encode(),
        &committed.encode(),
    ]));
    hash.first_chunk().copied().unwrap_or_default()
}

fn widened(challenge: &[u8; 16]) -> Scalar {
    let mut bytes = [0; 48];
    if let Some(low) = bytes.last_chunk_mut() {
        *low = *challenge;
    }
    Scalar::reduce(&bytes)
}
