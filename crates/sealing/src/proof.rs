//! Proof that a keyholder has answered with the share that it has committed to, and with no other number.
//!
//! Chaum and Pedersen's proof that two logarithms are equal, `k·G = Y_i` and `e(A, Q)^k = Z`, made non-interactive with a
//! challenge of 128 bits.

use bonafide_crypto::digest::sha256;
use bonafide_crypto::kdf::hkdf_sha256_parts;
use bonafide_crypto::random::Random;
use zeroize::Zeroizing;

use crate::document::framed;
use crate::group::{G1Point, GroupError, Gt, Scalar, pair};
use crate::identity::Identity;

/// Bytes of a proof.
pub const PROOF: usize = 48;

const TAG: &[u8] = b"BBF-V01-CS02-DLEQ";

/// That an answer is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    challenge: [u8; 16],
    response: Scalar,
}

/// What is proven: the public share, what was asked, and the answer.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    /// What the secret is sealed to.
    pub identity: &'a Identity,
    /// The public share of the keyholder.
    pub share: &'a G1Point,
    /// The blinded point.
    pub point: &'a G1Point,
    /// The answer.
    pub value: &'a Gt,
}

impl Proof {
    /// Proves a statement with the share in it.
    ///
    /// # Errors
    /// [`GroupError`] if a number is zero, which happens to nobody.
    pub fn new(statement: &Statement<'_>, share: &Scalar, random: &dyn Random) -> Result<Self, GroupError> {
        let public_key = statement.identity.point()?;
        // A machine that was cloned draws the same numbers for another question; answered with one nonce, both give the share away.
        let seed = Zeroizing::new(random.array::<32>());
        let context = framed(&[statement.identity.bytes(), &statement.point.encode()]);
        let nonce = hkdf_sha256_parts(share.to_bytes().as_slice(), seed.as_slice(), &[b"BBF rho", &context]);
        let nonce = Scalar::reduce(&nonce);
        let first = G1Point::generator().times(&nonce).ok_or(GroupError::Scalar)?;
        let lines = public_key.prepare_multiple(&nonce).ok_or(GroupError::Scalar)?;
        let second = pair(statement.point, &lines);
        let challenge = statement.challenge(&first, &second);
        let response = nonce.plus(&widened(&challenge).times(share));
        Ok(Self { challenge, response })
    }

    /// Whether it proves the statement.
    #[must_use]
    pub fn proves(&self, statement: &Statement<'_>) -> bool {
        let Ok(public_key) = statement.identity.point() else { return false };
        let challenge = widened(&self.challenge);
        let negated = Scalar::zero().minus(&challenge);
        let generator = G1Point::generator();
        let first =
            G1Point::sum_of_multiples([(&generator, self.response.clone()), (statement.share, negated)]);
        let base = Gt::of(statement.point, &public_key);
        let inverse = statement.value.inverse();
        let second = Gt::product_of_powers([(&base, self.response.clone()), (&inverse, challenge)]);
        first.is_some_and(|first| statement.challenge(&first, &second) == self.challenge)
    }

    /// A proof from its bytes: challenge, response.
    ///
    /// # Errors
    /// [`GroupError::Scalar`] if the response is not reduced.
    pub fn decode(bytes: &[u8; PROOF]) -> Result<Self, GroupError> {
        let (challenge, response) = bytes.split_first_chunk().ok_or(GroupError::Scalar)?;
        let response = response.try_into().map_err(|_| GroupError::Scalar)?;
        Ok(Self { challenge: *challenge, response: Scalar::from_bytes(response)? })
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; PROOF] {
        let mut out = [0; PROOF];
        if let Some((challenge, response)) = out.split_first_chunk_mut() {
            *challenge = self.challenge;
            response.copy_from_slice(self.response.to_bytes().as_slice());
        }
        out
    }
}

impl Statement<'_> {
    fn challenge(&self, first: &G1Point, second: &Gt) -> [u8; 16] {
        let hash = sha256(&framed(&[
            TAG,
            self.identity.bytes(),
            &self.share.encode(),
            &self.point.encode(),
            self.value.encode().as_slice(),
            &first.encode(),
            second.encode().as_slice(),
        ]));
        hash.first_chunk().copied().unwrap_or_default()
    }
}

fn widened(challenge: &[u8; 16]) -> Scalar {
    let mut bytes = [0; 48];
    if let Some(low) = bytes.last_chunk_mut() {
        *low = *challenge;
    }
    Scalar::reduce(&bytes)
}
