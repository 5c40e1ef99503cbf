//! Checkpoints: size and root of a log, bound to a state of the store, as signed notes (C2SP tlog-checkpoint and
//! signed-note).

use std::{fmt, str::FromStr};

use base64ct::{Base64, Encoding};
use bonafide_crypto::{
    digest::sha256,
    key::{PublicKey, PublicKeyAlgorithm, SignatureAlgorithm, Signer},
};

use crate::{Cosignature, Hash, LedgerError};

/// No note of ours is longer; witnesses add some lines.
pub(crate) const MAX_NOTE: usize = 64 * 1024;
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The type of an Ed25519 key in a signed note.
const ED25519: u8 = 1;

/// The state of the store at the time of a checkpoint. Who has seen it notices a store that was rolled back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bindings {
    /// Which life of the store.
    pub incarnation: [u8; 16],
    /// Its last revision.
    pub revision: u64,
    /// The digest of the set of what agents are told.
    pub set_digest: [u8; 32],
    /// Which life of the ledger. It goes up when an operator accepts that the ledger has lost entries: only then may a
    /// checkpoint not continue an earlier one.
    pub life: u64,
}

/// What a checkpoint says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// The name of the log.
    pub origin: String,
    /// How many entries it has.
    pub size: u64,
    /// The root of the Merkle tree over them.
    pub root: Hash,
    /// The state of the store.
    pub bindings: Bindings,
}

/// A checkpoint with its signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: String,
}

/// The name of a log and its public Ed25519 key: `<name>+<hash>+<key>`, as other C2SP tools take it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifierKey {
    name: String,
    key: PublicKey,
    raw: [u8; 32],
}

impl Checkpoint {
    fn body(&self) -> String {
        let Bindings { incarnation, revision, set_digest, life } = &self.bindings;
        let incarnation: String = incarnation.iter().map(|byte| format!("{byte:02x}")).collect();
        // The first life is not named: it is that of every ledger that nothing has happened to.
        let life = if *life == 0 { String::new() } else { format!("life {life}\n") };
        format!(
            "{}\n{}\n{}\nincarnation {incarnation}\nrevision {revision}\nset-digest {}\n{life}",
            self.origin,
            self.size,
            Base64::encode_string(&self.root),
            Base64::encode_string(set_digest),
        )
    }

    fn parse(body: &str) -> Option<Self> {
        let mut lines = body.split('\n');
        let checkpoint = Self {
            origin: lines.next()?.to_owned(),
            size: lines.next()?.parse().ok()?,
            root: decode(lines.next()?)?,
            bindings: Bindings {
                incarnation: u128::from_str_radix(lines.next()?.strip_prefix("incarnation ")?, 16)
                    .ok()?
                    .to_be_bytes(),
                revision: lines.next()?.strip_prefix("revision ")?.parse().ok()?,
                set_digest: decode(lines.next()?.strip_prefix("set-digest ")?)?,
                life: lines.next()?.strip_prefix("life ").map_or(Some(0), |life| life.parse().ok())?,
            },
        };
        // One text for one meaning: signs, leading zeros and upper case are somebody else's.
        (checkpoint.body() == body).then_some(checkpoint)
    }
}

impl SignedCheckpoint {
    /// Signs `checkpoint` with an Ed25519 key.
    pub(crate) fn sign(checkpoint: Checkpoint, signer: &dyn Signer) -> Result<Self, LedgerError> {
        let key = VerifierKey::new(&checkpoint.origin, signer.public_key().clone())?;
        let body = checkpoint.body();
        let signature = signer
            .sign_with(SignatureAlgorithm::Ed25519, body.as_bytes())
            .map_err(|error| LedgerError::Sign(error.to_string()))?;
        let signature = Base64::encode_string(&[key.id().as_slice(), &signature].concat());
        let note = format!("{body}\n\u{2014} {} {signature}\n", checkpoint.origin);
        Ok(Self { checkpoint, note })
    }

    /// Reads a note and verifies that `key` signed it, whoever else did.
    ///
    /// # Errors
    /// [`LedgerError::Broken`] if it is no checkpoint of ours, of another log, or not signed by `key`.
    pub fn parse(note: &[u8], key: &VerifierKey) -> Result<Self, LedgerError> {
        let broken = |what: &str| LedgerError::broken("checkpoint", what);
        if note.len() > MAX_NOTE {
            return Err(broken("it is too long"));
        }
        let note = std::str::from_utf8(note).map_err(|_| broken("it is not UTF-8"))?;
        let (body, signatures) = note.rsplit_once("\n\n").ok_or_else(|| broken("it has no signature"))?;
        let body = format!("{body}\n");
        let mut signed = false;
        for line in
            signatures.strip_suffix('\n').ok_or_else(|| broken("its last line has no end"))?.split('\n')
        {
            let (name, signature) = line
                .strip_prefix("\u{2014} ")
                .and_then(|line| line.split_once(' '))
                .ok_or_else(|| broken("a signature line is malformed"))?;
            let signature =
                Base64::decode_vec(signature).map_err(|_| broken("a signature line is malformed"))?;
            let Some((id, signature)) = signature.split_first_chunk() else {
                return Err(broken("a signature line is malformed"));
            };
            // Once is enough, however often somebody has copied the line.
            if !signed && name == key.name && *id == key.id() {
                key.key
                    .verify(SignatureAlgorithm::Ed25519, body.as_bytes(), signature)
                    .map_err(|_| broken("the signature does not fit"))?;
                signed = true;
            }
        }
        if !signed {
            return Err(broken("it is not signed by the key of this ledger"));
        }
        let checkpoint = Checkpoint::parse(&body).ok_or_else(|| broken("it is not a checkpoint"))?;
        if checkpoint.origin != key.name {
            return Err(broken("it is of another log"));
        }
        Ok(Self { checkpoint, note: note.to_owned() })
    }

    /// The name of the log of a note, whoever has signed it: which key to verify it with.
    #[must_use]
    pub fn origin_of(note: &[u8]) -> Option<&str> {
        let line = note.split(|byte| *byte == b'\n').next()?;
        std::str::from_utf8(line).ok().filter(|origin| !origin.is_empty())
    }

    /// What it says.
    #[must_use]
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The signed note.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The signed note, with what witnesses have said of it.
    #[must_use]
    pub fn cosigned<'a>(&self, cosignatures: impl IntoIterator<Item = &'a Cosignature>) -> String {
        cosignatures.into_iter().fold(self.note.clone(), |note, cosignature| note + cosignature.line())
    }

    /// What is signed.
    pub(crate) fn body(&self) -> &str {
        self.note.rsplit_once("\n\n").and_then(|(body, _)| self.note.get(..=body.len())).unwrap_or_default()
    }
}

impl VerifierKey {
    /// For the log called `name`.
    ///
    /// # Errors
    /// [`LedgerError::Invalid`] for a name that is empty, or has blanks, control characters or a plus; and for a key
    /// that is not Ed25519.
    pub fn new(name: &str, key: PublicKey) -> Result<Self, LedgerError> {
        let named = !name.is_empty()
            && name.len() <= 255
            && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+');
        if !named {
            return Err(LedgerError::Invalid("a ledger's name has 1 to 255 bytes, without blanks and plus"));
        }
        let raw = key.spki_der().strip_prefix(&SPKI_PREFIX).and_then(|raw| <[u8; 32]>::try_from(raw).ok());
        match (key.algorithm(), raw) {
            (PublicKeyAlgorithm::Ed25519, Some(raw)) => Ok(Self { name: name.to_owned(), key, raw }),
            _ => Err(LedgerError::Invalid("a ledger's key is an Ed25519 key")),
        }
    }

    /// The name of the log.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> [u8; 4] {
        let hash = sha256(&[self.name.as_bytes(), b"\n", &[ED25519], &self.raw].concat());
        let [a, b, c, d, ..] = hash;
        [a, b, c, d]
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = Base64::encode_string(&[&[ED25519], self.raw.as_slice()].concat());
        write!(f, "{}+{:08x}+{key}", self.name, u32::from_be_bytes(self.id()))
    }
}

impl FromStr for VerifierKey {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        let refused = || LedgerError::Invalid("a ledger's key reads `<name>+<hash>+<key>`");
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(refused());
        };
        let key: [u8; 33] = decode(key).ok_or_else(refused)?;
        let spki = [SPKI_PREFIX.as_slice(), key.get(1..).unwrap_or_default()].concat();
        let parsed = Self::new(name, PublicKey::from_spki_der(&spki).map_err(|_| refused())?)?;
        if parsed.to_string() == text { Ok(parsed) } else { Err(refused()) }
    }
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let decoded = Base64::decode(text, &mut bytes).ok()?.len();
    (decoded == N).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};

    use super::*;

    fn signed() -> (VerifierKey, SignedCheckpoint) {
        signed_in(0)
    }

    fn signed_in(life: u64) -> (VerifierKey, SignedCheckpoint) {
        let signer = PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap();
        let checkpoint = Checkpoint {
            origin: "example.org/ledger/a".to_owned(),
            size: 12_345,
            root: [7; 32],
            bindings: Bindings { incarnation: [0; 16], revision: u64::MAX, set_digest: [9; 32], life },
        };
        let key = VerifierKey::new("example.org/ledger/a", signer.public_key().clone()).unwrap();
        (key, SignedCheckpoint::sign(checkpoint, &signer).unwrap())
    }

    #[test]
    fn a_note_reads_back_and_no_byte_of_it_can_change() {
        no_byte_can_change(&signed());
        no_byte_can_change(&signed_in(7));
    }

    fn no_byte_can_change((key, signed): &(VerifierKey, SignedCheckpoint)) {
        let note = signed.note().as_bytes();
        assert_eq!(SignedCheckpoint::parse(note, key).unwrap(), *signed);
        assert_eq!(signed.body(), signed.checkpoint().body());
        for at in 0..note.len() {
            for flip in [1, 0x20, 0x80] {
                let mut flipped = note.to_vec();
                flipped[at] ^= flip;
                assert!(SignedCheckpoint::parse(&flipped, key).is_err(), "byte {at}");
            }
            assert!(SignedCheckpoint::parse(&note[..at], key).is_err(), "cut at {at}");
        }
        assert!(SignedCheckpoint::parse(&[note, b"\n"].concat(), key).is_err());
    }

    #[test]
    fn witnesses_may_add_lines_and_others_may_not_sign() {
        let (key, signed) = signed();
        let cosigned = format!("{}\u{2014} witness.example AAAAAAAA\n", signed.note());
        assert_eq!(
            SignedCheckpoint::parse(cosigned.as_bytes(), &key).unwrap().checkpoint(),
            signed.checkpoint()
        );
        let (other, _) = self::signed();
        assert!(SignedCheckpoint::parse(signed.note().as_bytes(), &other).is_err());
    }

    #[test]
    fn a_verifier_key_reads_back() {
        let (key, _) = signed();
        let text = key.to_string();
        assert_eq!(text.parse::<VerifierKey>().unwrap(), key);
        for at in 0..text.len() {
            let mut flipped = text.clone().into_bytes();
            flipped[at] ^= 1;
            assert!(String::from_utf8(flipped).unwrap().parse::<VerifierKey>().is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_verifier_key_has_the_hash_of_the_specification() {
        // The example of C2SP signed-note and of golang.org/x/mod/sumdb/note.
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        assert_eq!(text.parse::<VerifierKey>().unwrap().to_string(), text);
    }

    #[test]
    fn names_and_keys_are_checked() {
        let (key, _) = signed();
        for name in ["", "a b", "a+b", "a\nb", &"a".repeat(256)] {
            assert!(VerifierKey::new(name, key.key.clone()).is_err(), "{name}");
        }
        let other = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
        assert!(VerifierKey::new("a", other.public_key().clone()).is_err());
    }
}
