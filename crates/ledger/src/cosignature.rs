//! Cosignatures: a witness says that it has seen a checkpoint, and none before it that this one does not continue (C2SP
//! tlog-cosignature).

use base64ct::{Base64, Encoding};
use bonafide_crypto::{
    digest::sha256,
    key::{PublicKey, PublicKeyAlgorithm, SignatureAlgorithm, Signer},
};

use crate::{LedgerError, SignedCheckpoint};

/// Longest line. An SPIFFE ID has 2048 bytes at most.
const MAX_LINE: usize = 4096;
/// The type of a timestamped Ed25519 key in a signed note.
const ED25519: u8 = 4;
/// Other keys have a type that is spelt out (C2SP signed-note, "Signature types").
const OTHER: &[u8] = b"\xffbonafide cosignature/v1 ";

/// What one witness says of one checkpoint: a line of its note.
///
/// With an Ed25519 key it is a `cosignature/v1` of the specification. Agents have the key of their SVID, which is no
/// Ed25519 key; theirs has the same message and the same shape, under a key type of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cosignature {
    witness: String,
    at: u64,
    line: String,
}

impl Cosignature {
    /// Cosigns `checkpoint` as `witness`, a name without blanks and plus, such as an SPIFFE ID. `at`: Unix time in seconds.
    ///
    /// # Errors
    /// [`LedgerError::Invalid`] for another name, [`LedgerError::Sign`] when the key does not sign.
    pub fn sign(
        checkpoint: &SignedCheckpoint,
        witness: &str,
        at: u64,
        signer: &dyn Signer,
    ) -> Result<Self, LedgerError> {
        check_name(witness)?;
        let signature =
            signer.sign(&message(checkpoint, at)).map_err(|error| LedgerError::Sign(error.to_string()))?;
        let id = key_id(witness, signer.public_key());
        let signature = Base64::encode_string(&[id.as_slice(), &at.to_be_bytes(), &signature].concat());
        Ok(Self { witness: witness.to_owned(), at, line: format!("\u{2014} {witness} {signature}\n") })
    }

    /// Verifies a line that is said to be a cosignature of `checkpoint` by `witness`, whose key is `key`.
    ///
    /// # Errors
    /// [`LedgerError::Broken`] if it is none.
    pub fn verify(
        line: &str,
        checkpoint: &SignedCheckpoint,
        witness: &str,
        key: &PublicKey,
    ) -> Result<Self, LedgerError> {
        let broken = |what: &str| LedgerError::broken("checkpoint", what);
        let malformed = || broken("a cosignature is malformed");
        check_name(witness)?;
        if line.len() > MAX_LINE {
            return Err(malformed());
        }
        let (name, signature) = line
            .strip_prefix("\u{2014} ")
            .and_then(|line| line.strip_suffix('\n'))
            .and_then(|line| line.split_once(' '))
            .ok_or_else(malformed)?;
        let bytes = Base64::decode_vec(signature).map_err(|_| malformed())?;
        let (id, rest) = bytes.split_first_chunk::<4>().ok_or_else(malformed)?;
        let (at, signature) = rest.split_first_chunk::<8>().ok_or_else(malformed)?;
        if name != witness || *id != key_id(witness, key) {
            return Err(broken("a cosignature is of another witness"));
        }
        let at = u64::from_be_bytes(*at);
        key.verify(SignatureAlgorithm::default_for(key.algorithm()), &message(checkpoint, at), signature)
            .map_err(|_| broken("a cosignature does not fit"))?;
        Ok(Self { witness: witness.to_owned(), at, line: line.to_owned() })
    }

    /// The name of who signed.
    #[must_use]
    pub fn witness(&self) -> &str {
        &self.witness
    }

    /// When, in seconds since 1970, by the witness' clock.
    #[must_use]
    pub const fn at(&self) -> u64 {
        self.at
    }

    /// The line of the note, with its end.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }
}

fn message(checkpoint: &SignedCheckpoint, at: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {at}\n{}", checkpoint.body()).into_bytes()
}

fn key_id(witness: &str, key: &PublicKey) -> [u8; 4] {
    let spki = key.spki_der();
    let hash = match key.algorithm() {
        PublicKeyAlgorithm::Ed25519 => {
            let raw = spki.len().checked_sub(32).and_then(|at| spki.get(at..)).unwrap_or_default();
            sha256(&[witness.as_bytes(), b"\n", &[ED25519], raw].concat())
        }
        _ => sha256(&[witness.as_bytes(), b"\n", OTHER, spki].concat()),
    };
    let [a, b, c, d, ..] = hash;
    [a, b, c, d]
}

fn check_name(name: &str) -> Result<(), LedgerError> {
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+') {
        return Err(LedgerError::Invalid("a witness has a name without blanks and plus"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};

    use super::*;
    use crate::{Bindings, Checkpoint, VerifierKey};

    fn signed(size: u64) -> (VerifierKey, SignedCheckpoint) {
        let signer = PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap();
        let bindings = Bindings { incarnation: [1; 16], revision: 2, set_digest: [3; 32], life: 0 };
        let checkpoint = Checkpoint { origin: "example.org/a".into(), size, root: [7; 32], bindings };
        let key = VerifierKey::new("example.org/a", signer.public_key().clone()).unwrap();
        (key, SignedCheckpoint::sign(checkpoint, &signer).unwrap())
    }

    #[test]
    fn a_cosignature_is_of_one_witness_and_one_checkpoint() {
        const NAME: &str = "spiffe://example.org/bonafide/agent/edge/1";
        let (key, checkpoint) = signed(5);
        for algorithm in [KeyAlgorithm::Ed25519, KeyAlgorithm::EcP256] {
            let witness = PrivateKey::generate(algorithm).unwrap();
            let made = Cosignature::sign(&checkpoint, NAME, 1_800_000_000, &witness).unwrap();
            let line = made.line();
            assert_eq!(Cosignature::verify(line, &checkpoint, NAME, witness.public_key()).unwrap(), made);
            // It is a line of a note, which stays one of the ledger.
            let note = checkpoint.cosigned([&made]);
            assert_eq!(
                SignedCheckpoint::parse(note.as_bytes(), &key).unwrap().checkpoint(),
                checkpoint.checkpoint()
            );
            let other = PrivateKey::generate(algorithm).unwrap();
            for (checkpoint, name, key) in [
                (&signed(6).1, NAME, witness.public_key()),
                (&checkpoint, "spiffe://example.org/bonafide/agent/edge/2", witness.public_key()),
                (&checkpoint, NAME, other.public_key()),
            ] {
                assert!(Cosignature::verify(line, checkpoint, name, key).is_err());
            }
            for at in 0..line.len() {
                let mut flipped = line.as_bytes().to_vec();
                flipped[at] ^= 1;
                if let Ok(flipped) = String::from_utf8(flipped) {
                    assert!(
                        Cosignature::verify(&flipped, &checkpoint, NAME, witness.public_key()).is_err(),
                        "byte {at}"
                    );
                }
            }
        }
        let witness = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
        for name in ["", "a b", "a\nb", "a+b"] {
            assert!(Cosignature::sign(&checkpoint, name, 1, &witness).is_err());
        }
    }
}
