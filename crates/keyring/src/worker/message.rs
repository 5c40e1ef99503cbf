//! Requests and answers, as bytes.

mod sealing;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bonafide_crypto::key::{KeyAlgorithm, SignError, SignatureAlgorithm};

use self::sealing::{problems, put_problems, put_seal, put_sealed, seal, sealed};
use crate::KeySpec;
use crate::codec::{Input, put_bytes, put_string};
use crate::handler::MAX_HANDLED;

/// Messages in one request to sign.
pub(super) const MAX_BATCH: usize = 64;
/// What is signed is a certificate, the claims of a token, or a checkpoint.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;
/// Of a context or a purpose.
const MAX_NAME: usize = 512;
const MAX_PATH: usize = 4096;
const MAX_PASSPHRASE: usize = 4096;
pub(super) const MAX_WRAPPED: usize = 16 * 1024;
const MAX_SIGNATURE: usize = 1024;
const MAX_SPKI: usize = 2048;
const MAX_TEXT: usize = 1024;
/// Seals that are shown at a time.
const MAX_SHOWN: usize = 16;
/// Requests to a handler in one frame.
pub(super) const MAX_PARTS: usize = 64;
/// One of them, and the answer to it.
pub(super) const MAX_PART: usize = MAX_HANDLED;

/// What a worker is asked.
pub(super) enum Request<'a> {
    /// Open the keyring with the first of these seals that does it, or make it under the first; once.
    Unseal { create: bool, keyring: &'a Path, seals: Vec<SealPart<'a>>, device: Option<DevicePart<'a>> },
    /// Draw a key.
    Generate { spec: KeySpec, prefix: &'a str },
    /// Open a wrapped key.
    Open { context: &'a str, wrapped: &'a [u8] },
    /// Sign with an open key.
    Sign { handle: u32, algorithm: SignatureAlgorithm, messages: Vec<&'a [u8]> },
    /// Derive a MAC key.
    MacKey { purpose: &'a str },
    /// Close an open key.
    Forget { handle: u32 },
    /// Wrap a key that was made elsewhere.
    Import { context: &'a str, pkcs8: &'a [u8] },
    /// For the handler: one or more, in their order.
    Handle(Vec<&'a [u8]>),
    /// Look at the seals of a keyring, or change them; never by who has one open.
    Seals {
        keyring: &'a Path,
        seals: Vec<SealPart<'a>>,
        change: ChangePart<'a>,
        device: Option<DevicePart<'a>>,
    },
}

/// What opens the seal.
pub(super) enum SealPart<'a> {
    KeyFile(&'a Path),
    Passphrase(&'a [u8]),
    Device,
    Missing { kind: &'a str, why: &'a str },
}

/// What becomes of the seals.
pub(super) enum ChangePart<'a> {
    Nothing,
    Add { name: &'a str, seal: SealPart<'a> },
    Remove(Vec<&'a str>),
    Renew,
}

/// Something that went wrong beside: the place of what, the error's code and message.
pub(super) type ProblemPart<'a> = (u8, &'a str, &'a str);

/// How to reach a device.
#[derive(Clone, Copy)]
pub(super) struct DevicePart<'a> {
    pub(super) module: &'a Path,
    pub(super) token: &'a str,
    pub(super) pin: &'a [u8],
}

/// What a worker answers, if it does not refuse.
pub(super) enum Answer<'a> {
    /// The keyring is open.
    Unsealed {
        /// The names of the protections that could not be taken.
        missing: Vec<&'a str>,
        /// The seal that has opened it, by its place and its name.
        by: (u8, &'a str),
        /// Those before it.
        problems: Vec<ProblemPart<'a>>,
        /// Of the device: one, or none.
        device: Vec<ProblemPart<'a>>,
    },
    /// A key that is open now; wrapped if it is new.
    Key {
        handle: u32,
        spki: &'a [u8],
        wrapped: &'a [u8],
    },
    /// One for each message.
    Signatures(Vec<Result<&'a [u8], SignError>>),
    MacKey(&'a [u8; 32]),
    Forgotten,
    /// One for each, as far as they fit into a frame: what is not there was not done.
    Handled(Vec<&'a [u8]>),
    Seals {
        /// Name, kind, and the place of what opens it.
        seals: Vec<(&'a str, &'a str, Option<u8>)>,
        problems: Vec<ProblemPart<'a>>,
    },
    Refused {
        code: &'a str,
        message: &'a str,
    },
}

impl<'a> Request<'a> {
    /// `None` if a part is too long.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Unseal { create, keyring, seals, device } => {
                out.push(1);
                out.push(u8::from(*create));
                put_sealed(out, keyring, seals, *device)
            }
            Self::Generate { spec, prefix } => {
                out.push(2);
                out.push(u8::from(spec.in_device));
                put_string(out, spec.algorithm.as_str().as_bytes())?;
                put_string(out, prefix.as_bytes())
            }
            Self::Open { context, wrapped } => {
                out.push(3);
                put_string(out, context.as_bytes())?;
                put_bytes(out, wrapped)
            }
            Self::Sign { handle, algorithm, messages } => {
                out.push(4);
                out.extend_from_slice(&handle.to_be_bytes());
                let position = SignatureAlgorithm::ALL.iter().position(|known| known == algorithm)?;
                out.push(u8::try_from(position).ok()?);
                out.push(u8::try_from(messages.len()).ok()?);
                messages.iter().try_for_each(|message| put_bytes(out, message))
            }
            Self::MacKey { purpose } => {
                out.push(5);
                put_string(out, purpose.as_bytes())
            }
            Self::Forget { handle } => {
                out.push(6);
                out.extend_from_slice(&handle.to_be_bytes());
                Some(())
            }
            Self::Import { context, pkcs8 } => {
                out.push(7);
                put_string(out, context.as_bytes())?;
                put_bytes(out, pkcs8)
            }
            Self::Handle(parts) => {
                out.push(8);
                put_parts(out, parts)
            }
            Self::Seals { keyring, seals, change, device } => {
                out.push(9);
                put_sealed(out, keyring, seals, *device)?;
                match change {
                    ChangePart::Nothing => out.push(0),
                    ChangePart::Add { name, seal } => {
                        out.push(1);
                        put_string(out, name.as_bytes())?;
                        put_seal(out, seal)?;
                    }
                    ChangePart::Remove(names) => {
                        out.push(2);
                        out.push(u8::try_from(names.len()).ok()?);
                        names.iter().try_for_each(|name| put_string(out, name.as_bytes()))?;
                    }
                    ChangePart::Renew => out.push(3),
                }
                Some(())
            }
        }
    }

    /// `None` for what is no request.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let request = match input.byte()? {
            1 => {
                let create = flag(&mut input)?;
                let (keyring, seals, device) = sealed(&mut input)?;
                Self::Unseal { create, keyring, seals, device }
            }
            2 => {
                let in_device = flag(&mut input)?;
                let algorithm = KeyAlgorithm::from_name(input.text(16)?)?;
                Self::Generate { spec: KeySpec { algorithm, in_device }, prefix: input.text(MAX_NAME)? }
            }
            3 => Self::Open { context: input.text(MAX_NAME)?, wrapped: input.bytes(MAX_WRAPPED)? },
            4 => {
                let handle = input.number()?;
                let algorithm = *SignatureAlgorithm::ALL.get(usize::from(input.byte()?))?;
                let count = usize::from(input.byte()?);
                if count == 0 || count > MAX_BATCH {
                    return None;
                }
                let messages = (0..count).map(|_| input.bytes(MAX_MESSAGE)).collect::<Option<_>>()?;
                Self::Sign { handle, algorithm, messages }
            }
            5 => Self::MacKey { purpose: input.text(MAX_NAME)? },
            6 => Self::Forget { handle: input.number()? },
            7 => Self::Import { context: input.text(MAX_NAME)?, pkcs8: input.bytes(MAX_WRAPPED)? },
            8 => Self::Handle(parts(&mut input)?),
            9 => {
                let (keyring, seals, device) = sealed(&mut input)?;
                let change = match input.byte()? {
                    0 => ChangePart::Nothing,
                    1 => ChangePart::Add { name: input.text(MAX_NAME)?, seal: seal(&mut input)? },
                    2 => {
                        let count = usize::from(input.byte()?);
                        if count > MAX_SHOWN {
                            return None;
                        }
                        let names = (0..count).map(|_| input.text(MAX_NAME)).collect::<Option<_>>()?;
                        ChangePart::Remove(names)
                    }
                    3 => ChangePart::Renew,
                    _ => return None,
                };
                Self::Seals { keyring, seals, change, device }
            }
            _ => return None,
        };
        input.finish().map(|()| request)
    }

    /// Whether its bytes, or those of its answer, are worth stealing.
    pub(super) fn is_secret(&self) -> bool {
        matches!(
            self,
            Self::Unseal { .. }
                | Self::Seals { .. }
                | Self::MacKey { .. }
                | Self::Import { .. }
                | Self::Handle(_)
        )
    }
}

impl<'a> Answer<'a> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Refused { code, message } => {
                out.push(0);
                put_string(out, code.as_bytes())?;
                let end = message.floor_char_boundary(MAX_TEXT);
                put_string(out, message.get(..end)?.as_bytes())
            }
            Self::Unsealed { missing, by, problems, device } => {
                out.push(1);
                out.push(u8::try_from(missing.len()).ok()?);
                missing.iter().try_for_each(|name| put_string(out, name.as_bytes()))?;
                out.push(by.0);
                put_string(out, by.1.as_bytes())?;
                put_problems(out, problems)?;
                put_problems(out, device)
            }
            Self::Key { handle, spki, wrapped } => {
                out.push(2);
                out.extend_from_slice(&handle.to_be_bytes());
                put_bytes(out, spki)?;
                put_bytes(out, wrapped)
            }
            Self::Signatures(signatures) => {
                out.push(4);
                out.push(u8::try_from(signatures.len()).ok()?);
                signatures.iter().try_for_each(|signature| match signature {
                    Ok(signature) => {
                        out.push(0);
                        put_string(out, signature)
                    }
                    Err(SignError::Unfit) => {
                        out.push(1);
                        Some(())
                    }
                    Err(error) => {
                        out.push(2);
                        let text = match error {
                            SignError::Failed(text) => text.clone(),
                            other => other.to_string(),
                        };
                        put_string(out, text.get(..text.floor_char_boundary(MAX_TEXT))?.as_bytes())
                    }
                })
            }
            Self::MacKey(key) => {
                out.push(5);
                out.extend_from_slice(*key);
                Some(())
            }
            Self::Forgotten => {
                out.push(6);
                Some(())
            }
            Self::Handled(parts) => {
                out.push(7);
                put_parts(out, parts)
            }
            Self::Seals { seals, problems } => {
                out.push(8);
                out.push(u8::try_from(seals.len()).ok()?);
                for (name, kind, by) in seals {
                    put_string(out, name.as_bytes())?;
                    put_string(out, kind.as_bytes())?;
                    out.push(u8::from(by.is_some()));
                    out.extend(by);
                }
                put_problems(out, problems)
            }
        }
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let answer = match input.byte()? {
            0 => Self::Refused { code: input.text(64)?, message: input.text(MAX_TEXT)? },
            1 => {
                let count = input.byte()?;
                let missing = (0..count).map(|_| input.text(64)).collect::<Option<_>>()?;
                let by = (input.byte()?, input.text(MAX_NAME)?);
                Self::Unsealed { missing, by, problems: problems(&mut input)?, device: problems(&mut input)? }
            }
            2 => Self::Key {
                handle: input.number()?,
                spki: input.bytes(MAX_SPKI)?,
                wrapped: input.bytes(MAX_WRAPPED)?,
            },
            4 => {
                let count = usize::from(input.byte()?);
                if count > MAX_BATCH {
                    return None;
                }
                let signature = |_| {
                    Some(match input.byte()? {
                        0 => Ok(input.string(MAX_SIGNATURE)?),
                        1 => Err(SignError::Unfit),
                        2 => Err(SignError::Failed(input.text(MAX_TEXT)?.to_owned())),
                        _ => return None,
                    })
                };
                Self::Signatures((0..count).map(signature).collect::<Option<_>>()?)
            }
            5 => Self::MacKey(input.array()?),
            6 => Self::Forgotten,
            7 => Self::Handled(parts(&mut input)?),
            8 => {
                let count = usize::from(input.byte()?);
                let mut seals = Vec::new();
                for _ in 0..count {
                    let (name, kind) = (input.text(MAX_NAME)?, input.text(MAX_NAME)?);
                    let by = if flag(&mut input)? { Some(input.byte()?) } else { None };
                    seals.push((name, kind, by));
                }
                Self::Seals { seals, problems: problems(&mut input)? }
            }
            _ => return None,
        };
        input.finish().map(|()| answer)
    }
}

fn put_parts(out: &mut Vec<u8>, parts: &[&[u8]]) -> Option<()> {
    // In one piece: a buffer that grew would leave copies behind.
    out.reserve_exact(1 + parts.iter().map(|part| 4 + part.len()).sum::<usize>());
    out.push(u8::try_from(parts.len()).ok()?);
    parts.iter().try_for_each(|part| put_bytes(out, part))
}

fn parts<'a>(input: &mut Input<'a>) -> Option<Vec<&'a [u8]>> {
    let count = usize::from(input.byte()?);
    if count == 0 || count > MAX_PARTS {
        return None;
    }
    (0..count).map(|_| input.bytes(MAX_PART)).collect()
}

fn flag(input: &mut Input<'_>) -> Option<bool> {
    match input.byte()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn path<'a>(input: &mut Input<'a>) -> Option<&'a Path> {
    Some(Path::new(OsStr::from_bytes(input.string(MAX_PATH)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests() -> impl Strategy<Value = Vec<u8>> {
        let name = "[a-z/]{0,40}";
        let blob = prop::collection::vec(any::<u8>(), 0..300);
        (0..11_usize, name, blob, any::<u32>(), 0..10_usize, 1..=MAX_BATCH).prop_map(
            |(which, name, blob, handle, algorithm, count)| {
                let spec = KeySpec { algorithm: KeyAlgorithm::EcP384, in_device: algorithm % 2 == 0 };
                let path = Path::new(&name);
                let device = spec.in_device.then_some(DevicePart { module: path, token: &name, pin: &blob });
                let request = match which {
                    0 => Request::Unseal {
                        create: spec.in_device,
                        keyring: path,
                        seals: vec![SealPart::KeyFile(path), SealPart::Device],
                        device,
                    },
                    1 => Request::Unseal {
                        create: spec.in_device,
                        keyring: path,
                        seals: vec![
                            SealPart::Passphrase(&blob),
                            SealPart::Missing { kind: &name, why: &name },
                        ],
                        device,
                    },
                    9 => Request::Seals {
                        keyring: path,
                        seals: vec![SealPart::Device],
                        change: ChangePart::Add { name: &name, seal: SealPart::Passphrase(&blob) },
                        device,
                    },
                    10 => Request::Seals {
                        keyring: path,
                        seals: vec![SealPart::Device],
                        change: match count % 3 {
                            0 => ChangePart::Remove(vec![&name; count % 16]),
                            1 => ChangePart::Renew,
                            _ => ChangePart::Nothing,
                        },
                        device,
                    },
                    2 => Request::Generate { spec, prefix: &name },
                    3 => Request::Open { context: &name, wrapped: &blob },
                    4 => {
                        let algorithm = SignatureAlgorithm::ALL[algorithm];
                        Request::Sign { handle, algorithm, messages: vec![&blob; count] }
                    }
                    5 => Request::MacKey { purpose: &name },
                    6 => Request::Forget { handle },
                    7 => Request::Handle(vec![&blob; count]),
                    _ => Request::Import { context: &name, pkcs8: &blob },
                };
                let mut out = Vec::new();
                request.encode(&mut out).unwrap();
                out
            },
        )
    }

    proptest! {
        #[test]
        fn requests_have_one_form(bytes in requests(), cut in any::<prop::sample::Index>()) {
            let mut again = Vec::new();
            Request::decode(&bytes).unwrap().encode(&mut again).unwrap();
            prop_assert_eq!(&again, &bytes);
            prop_assert!(Request::decode(&bytes[..cut.index(bytes.len())]).is_none());
            again.push(0);
            prop_assert!(Request::decode(&again).is_none());
        }

        #[test]
        fn noise_is_read_as_it_is_written(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut again = Vec::new();
            if let Some(request) = Request::decode(&noise) {
                request.encode(&mut again).unwrap();
                prop_assert_eq!(&again, &noise);
            }
            again.clear();
            if let Some(answer) = Answer::decode(&noise) {
                answer.encode(&mut again).unwrap();
                prop_assert_eq!(&again, &noise);
            }
        }
    }

    #[test]
    fn batches_are_bounded() {
        let sign = |count: usize, length: usize| {
            let message = vec![0; length];
            let algorithm = SignatureAlgorithm::Ed25519;
            let request = Request::Sign { handle: 1, algorithm, messages: vec![&message; count] };
            let mut out = Vec::new();
            request.encode(&mut out).map(|()| Request::decode(&out).is_some())
        };
        assert_eq!(sign(MAX_BATCH, 1), Some(true));
        assert_eq!(sign(MAX_BATCH + 1, 1), Some(false));
        assert_eq!(sign(0, 1), Some(false));
        assert_eq!(sign(300, 1), None);
        assert_eq!(sign(1, MAX_MESSAGE), Some(true));
        assert_eq!(sign(1, MAX_MESSAGE + 1), Some(false));
    }
}
