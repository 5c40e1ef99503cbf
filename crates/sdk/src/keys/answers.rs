//! What the agent answers, read.

use bonafide_wire::{kms, types::Problem};
use zeroize::Zeroizing;

use crate::Error;

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signature {
    /// Names key, version and algorithm: what [`Keys::verify`](super::Keys::verify) takes.
    pub bytes: Vec<u8>,
    /// As other programs know it: for ECDSA, DER.
    pub raw: Vec<u8>,
    /// `ecdsa-p256-sha256`, ...
    pub algorithm: String,
    /// Of the key.
    pub version: u32,
}

/// A fresh key, and the form in which it can be stored.
#[non_exhaustive]
pub struct GeneratedKey {
    /// The key. Erased when dropped.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// [`Keys::decrypt`](super::Keys::decrypt) opens it.
    pub wrapped: Vec<u8>,
    /// Of the key that wraps it.
    pub version: u32,
}

/// The public half of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublicKey {
    /// Which version.
    pub version: u32,
    /// `ecdsa-p256`, ...
    pub key_type: String,
    /// SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
}

impl std::fmt::Debug for GeneratedKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("GeneratedKey").field("version", &self.version).finish_non_exhaustive()
    }
}

/// One result for each of `count` items, or the reason why there is none.
pub(super) fn read<R, T>(
    results: Vec<R>,
    count: usize,
    show: impl Fn(R) -> (Option<Problem>, T),
) -> Result<Vec<Result<T, Error>>, Error> {
    if results.len() != count {
        return Err(Error::Answer(format!("it holds {} results for {count} items", results.len())));
    }
    let results = results.into_iter().map(|result| match show(result) {
        (None, shown) => Ok(shown),
        (Some(problem), _) => Err(of_problem(problem)),
    });
    Ok(results.collect())
}

pub(super) fn ciphertexts(
    results: Vec<kms::EncryptResult>,
    count: usize,
) -> Result<Vec<Result<Vec<u8>, Error>>, Error> {
    read(results, count, |one| (one.problem, one.ciphertext.to_vec()))
}

pub(super) fn signature(one: kms::SignResult) -> (Option<Problem>, Signature) {
    let kms::SignResult { problem, signature, version, raw, algorithm } = one;
    (problem, Signature { bytes: signature.to_vec(), raw: raw.to_vec(), algorithm, version })
}

pub(super) fn data_key(one: kms::DataKeyResult) -> (Option<Problem>, GeneratedKey) {
    let plaintext = Zeroizing::new(one.plaintext.to_vec());
    (one.problem, GeneratedKey { plaintext, wrapped: one.wrapped.to_vec(), version: one.version })
}

pub(super) fn public_key(one: kms::PublicKeyResult) -> (Option<Problem>, PublicKey) {
    let kms::PublicKeyResult { problem, version, r#type: key_type, spki } = one;
    (problem, PublicKey { version, key_type, spki: spki.to_vec() })
}

/// The result of the one item that was asked about.
pub(super) fn single<T>(results: Vec<Result<T, Error>>) -> Result<T, Error> {
    let none = || Err(Error::Answer("it holds no result".to_owned()));
    results.into_iter().next().unwrap_or_else(none)
}

/// What was not done here.
pub(super) fn rest<T, I: Clone>(done: &[Option<T>], items: &[I]) -> Vec<I> {
    let rest = items.iter().zip(done).filter(|(_, done)| done.is_none());
    rest.map(|(item, _)| item.clone()).collect()
}

/// What was done here, and what was done elsewhere, in the order of the items.
pub(super) fn together<T>(
    done: Vec<Option<Result<T, Error>>>,
    there: Vec<Result<T, Error>>,
) -> Result<Vec<Result<T, Error>>, Error> {
    let mut there = there.into_iter();
    let results = done.into_iter().map(|done| done.or_else(|| there.next()));
    results.collect::<Option<_>>().ok_or_else(|| Error::Answer("it holds too few results".to_owned()))
}

pub(super) fn of_problem(problem: Problem) -> Error {
    Error::Refused { code: problem.code, message: problem.message, hint: problem.hint }
}

/// Something that is refused without asking.
pub(super) fn refused(code: &str, message: &dyn std::fmt::Display, hint: &str) -> Error {
    Error::Refused { code: code.to_owned(), message: message.to_string(), hint: hint.to_owned() }
}
