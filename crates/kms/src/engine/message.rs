//! Requests and results, as bytes.

use std::fmt;

use bonafide_crypto::erased::Erased;
use bonafide_crypto::oaep::OaepHash;

use crate::algorithm::{KeyType, Scheme, oaep_from_tag, oaep_tag};
use crate::ciphertext::{KeyId, Kind};
use crate::codec::{Input, put_bytes};
use crate::context::ContextDigest;
use crate::error::Refusal;
use crate::material::{Flags, MAX_MESSAGE, MAX_PLAINTEXT, MAX_SECRET, WRAPPED_MAX};

/// Requests in one batch.
pub const MAX_ITEMS: usize = 256;
/// Bytes of one batch of requests.
pub const MAX_REQUEST: usize = 2 * 1024 * 1024;
/// Bytes of the results of one batch.
pub const MAX_ANSWER: usize = 2 * 1024 * 1024;

/// Bytes of a body: that of an envelope around the longest plaintext.
const MAX_BODY: usize = MAX_PLAINTEXT + WRAPPED_MAX + 64;
/// Bytes of wrapped material: what the keyring adds is less.
const MAX_WRAPPED: usize = MAX_SECRET + 256;
/// Bytes of a signature or tag: ML-DSA-65 has the longest.
const MAX_SIGNATURE: usize = 4096;
/// Bytes of a public half: ML-DSA-65 has the longest.
const MAX_PUBLIC: usize = 2048;
const MAX_LABEL: usize = 1024;

/// What an engine is asked. Printed without its content, in which there may be a plaintext.
#[derive(Clone, Copy)]
pub enum Request<'a> {
    /// Draw a secret for a version.
    Generate {
        /// Whose.
        key: KeyId,
        /// Which version.
        version: u32,
        /// What kind.
        key_type: KeyType,
        /// What it is declared to be.
        flags: Flags,
    },
    /// Take a secret that was made elsewhere; forms as in [`crate::material::Material::import`].
    Import {
        /// Whose.
        key: KeyId,
        /// Which version.
        version: u32,
        /// What kind.
        key_type: KeyType,
        /// What it is declared to be.
        flags: Flags,
        /// The secret.
        secret: &'a [u8],
    },
    /// The same, sealed to an RSA key that is open: an AES-256 key under RSA-OAEP without a label, and behind it the secret
    /// under AES-KWP (RFC 5649), as PKCS#11's `CKM_RSA_AES_KEY_WRAP`.
    ImportSealed {
        /// Whose.
        key: KeyId,
        /// Which version.
        version: u32,
        /// What kind.
        key_type: KeyType,
        /// What it is declared to be.
        flags: Flags,
        /// The handle of the RSA key.
        under: u32,
        /// The hash of OAEP.
        hash: OaepHash,
        /// Both parts.
        sealed: &'a [u8],
    },
    /// Open the secret of a version.
    Open {
        /// Whose.
        key: KeyId,
        /// Which version.
        version: u32,
        /// What [`Answer::Opened`] gave when it was made.
        wrapped: &'a [u8],
    },
    /// Wrap a secret again, under the newest key of the keyring.
    WrapAgain {
        /// Whose.
        key: KeyId,
        /// Which version.
        version: u32,
        /// As it is wrapped now.
        wrapped: &'a [u8],
    },
    /// Close a secret.
    Forget {
        /// Which.
        handle: u32,
    },
    /// Encrypt: gives the body of [`Kind::Direct`].
    Encrypt {
        /// Under which version.
        handle: u32,
        /// In which context.
        context: ContextDigest,
        /// What.
        plaintext: &'a [u8],
    },
    /// Decrypt: gives the plaintext, or for [`Kind::DataKey`] the data key.
    Decrypt {
        /// Under which version.
        handle: u32,
        /// In which context.
        context: ContextDigest,
        /// What the body is: direct, envelope or data key.
        kind: Kind,
        /// The body.
        body: &'a [u8],
    },
    /// Open what was made with the public half alone; see [`crate::material::Material::open_foreign`].
    OpenForeign {
        /// Which version.
        handle: u32,
        /// The hash of OAEP.
        hash: OaepHash,
        /// The label of OAEP.
        label: &'a [u8],
        /// What to open.
        ciphertext: &'a [u8],
    },
    /// Decrypt, and encrypt again: gives a body of the same kind. The data key of an envelope is drawn anew.
    Rewrap {
        /// Under which version it is.
        handle: u32,
        /// Under which it shall be: of the same key or, where policy allows both, of another.
        to: u32,
        /// In which context: it stays the same.
        context: ContextDigest,
        /// What the body is.
        kind: Kind,
        /// The body.
        body: &'a [u8],
    },
    /// Make a MAC: gives the tag.
    Mac {
        /// Under which version.
        handle: u32,
        /// Of what.
        message: &'a [u8],
    },
    /// Check a MAC.
    VerifyMac {
        /// Under which version.
        handle: u32,
        /// Of what.
        message: &'a [u8],
        /// The tag.
        tag: &'a [u8],
    },
    /// Sign: gives the signature.
    Sign {
        /// With which version.
        handle: u32,
        /// How.
        scheme: Scheme,
        /// Whether `message` is the digest of one.
        prehashed: bool,
        /// What.
        message: &'a [u8],
    },
    /// Check a signature.
    Verify {
        /// Of which version.
        handle: u32,
        /// How it was signed.
        scheme: Scheme,
        /// Whether `message` is the digest of one.
        prehashed: bool,
        /// What was signed.
        message: &'a [u8],
        /// The signature.
        signature: &'a [u8],
    },
    /// Draw a data key: gives the body of [`Kind::DataKey`].
    DataKey {
        /// Under which version.
        handle: u32,
        /// In which context.
        context: ContextDigest,
        /// How many bytes: 16, 32 or 64.
        length: u8,
        /// Whether the data key itself is wanted too.
        plaintext: bool,
    },
    /// Give out the secret, if it was declared exportable.
    Export {
        /// Of which version.
        handle: u32,
    },
    /// Take the key pair of an external version out of the device, for ever.
    Destroy {
        /// Whose.
        key: KeyId,
        /// Which version.
        version: u32,
        /// What [`Answer::Opened`] gave when it was made.
        wrapped: &'a [u8],
    },
}

/// What comes back. Printed without its content, in which there may be a plaintext.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// A secret is open.
    Opened {
        /// Stands for it from now on.
        handle: u32,
        /// What kind it is.
        key_type: KeyType,
        /// What it was declared to be.
        flags: Flags,
        /// The public half as SubjectPublicKeyInfo; empty if there is none.
        public: Vec<u8>,
        /// The secret, wrapped, if it is new; or else empty.
        wrapped: Vec<u8>,
    },
    /// A body, a plaintext, a tag, a signature or a secret, as was asked.
    Bytes(Erased),
    /// A data key.
    DataKey {
        /// The data key itself, if it was asked for.
        plaintext: Option<Erased>,
        /// Wrapped: a body of [`Kind::DataKey`].
        wrapped: Vec<u8>,
    },
    /// It is done; the signature or the MAC matches.
    Done,
}

/// What became of one request.
pub type Outcome = Result<Answer, Refusal>;

impl Answer {
    pub(super) fn bytes(bytes: Vec<u8>) -> Self {
        Self::Bytes(Erased::new(bytes))
    }

    fn length(&self) -> usize {
        match self {
            Self::Opened { public, wrapped, .. } => 14 + public.len() + wrapped.len(),
            Self::Bytes(bytes) => 4 + bytes.len(),
            Self::DataKey { plaintext, wrapped } => {
                9 + plaintext.as_ref().map_or(0, |bytes| bytes.len()) + wrapped.len()
            }
            Self::Done => 0,
        }
    }
}

impl<'a> Request<'a> {
    /// Bytes that its result has at most.
    pub(super) fn answer_bound(&self) -> usize {
        16 + match self {
            Self::Generate { .. } | Self::Import { .. } | Self::ImportSealed { .. } | Self::Open { .. } => {
                MAX_WRAPPED + MAX_PUBLIC
            }
            Self::WrapAgain { .. } => MAX_WRAPPED,
            Self::Forget { .. } | Self::VerifyMac { .. } | Self::Verify { .. } | Self::Destroy { .. } => 0,
            // What RSA and ML-KEM add is less.
            Self::Encrypt { plaintext, .. } => plaintext.len() + WRAPPED_MAX,
            Self::Decrypt { body, .. } => body.len(),
            Self::Rewrap { body, .. } => body.len() + 2 * WRAPPED_MAX,
            Self::OpenForeign { ciphertext, .. } => ciphertext.len(),
            Self::Mac { .. } | Self::Sign { .. } => MAX_SIGNATURE,
            Self::DataKey { .. } => WRAPPED_MAX + 64,
            Self::Export { .. } => MAX_SECRET,
        }
    }

    /// Bytes that it has at most, with what [`Self::encode`] puts around.
    fn length(&self) -> usize {
        64 + match self {
            Self::Generate { .. } | Self::Forget { .. } | Self::DataKey { .. } | Self::Export { .. } => 0,
            Self::Import { secret: bytes, .. }
            | Self::ImportSealed { sealed: bytes, .. }
            | Self::Open { wrapped: bytes, .. }
            | Self::WrapAgain { wrapped: bytes, .. }
            | Self::Destroy { wrapped: bytes, .. }
            | Self::Encrypt { plaintext: bytes, .. }
            | Self::Decrypt { body: bytes, .. }
            | Self::Rewrap { body: bytes, .. }
            | Self::Mac { message: bytes, .. }
            | Self::Sign { message: bytes, .. } => bytes.len(),
            Self::OpenForeign { label: one, ciphertext: other, .. }
            | Self::VerifyMac { message: one, tag: other, .. }
            | Self::Verify { message: one, signature: other, .. } => one.len() + other.len(),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) -> Option<()> {
        let version = |out: &mut Vec<u8>, key: &KeyId, version: u32| {
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(&version.to_be_bytes());
        };
        let handle = |out: &mut Vec<u8>, tag: u8, handle: u32| {
            out.push(tag);
            out.extend_from_slice(&handle.to_be_bytes());
        };
        match *self {
            Self::Generate { key, version: number, key_type, flags } => {
                out.extend_from_slice(&[1, key_type.tag(), flags.byte()]);
                version(out, &key, number);
            }
            Self::Import { key, version: number, key_type, flags, secret } => {
                out.extend_from_slice(&[2, key_type.tag(), flags.byte()]);
                version(out, &key, number);
                put_bytes(out, secret)?;
            }
            Self::ImportSealed { key, version: number, key_type, flags, under, hash, sealed } => {
                out.extend_from_slice(&[3, key_type.tag(), flags.byte()]);
                version(out, &key, number);
                out.extend_from_slice(&under.to_be_bytes());
                out.push(oaep_tag(hash));
                put_bytes(out, sealed)?;
            }
            Self::Open { key, version: number, wrapped } => {
                out.push(4);
                version(out, &key, number);
                put_bytes(out, wrapped)?;
            }
            Self::WrapAgain { key, version: number, wrapped } => {
                out.push(5);
                version(out, &key, number);
                put_bytes(out, wrapped)?;
            }
            Self::Forget { handle: number } => handle(out, 6, number),
            Self::Encrypt { handle: number, context, plaintext } => {
                handle(out, 7, number);
                out.extend_from_slice(context.as_bytes());
                put_bytes(out, plaintext)?;
            }
            Self::Decrypt { handle: number, context, kind, body } => {
                handle(out, 8, number);
                out.extend_from_slice(context.as_bytes());
                out.push(kind as u8);
                put_bytes(out, body)?;
            }
            Self::OpenForeign { handle: number, hash, label, ciphertext } => {
                handle(out, 9, number);
                out.push(oaep_tag(hash));
                put_bytes(out, label)?;
                put_bytes(out, ciphertext)?;
            }
            Self::Rewrap { handle: number, to, context, kind, body } => {
                handle(out, 10, number);
                out.extend_from_slice(&to.to_be_bytes());
                out.extend_from_slice(context.as_bytes());
                out.push(kind as u8);
                put_bytes(out, body)?;
            }
            Self::Mac { handle: number, message } => {
                handle(out, 11, number);
                put_bytes(out, message)?;
            }
            Self::VerifyMac { handle: number, message, tag } => {
                handle(out, 12, number);
                put_bytes(out, message)?;
                put_bytes(out, tag)?;
            }
            Self::Sign { handle: number, scheme, prehashed, message } => {
                handle(out, 13, number);
                out.extend_from_slice(&[scheme.tag(), u8::from(prehashed)]);
                put_bytes(out, message)?;
            }
            Self::Verify { handle: number, scheme, prehashed, message, signature } => {
                handle(out, 14, number);
                out.extend_from_slice(&[scheme.tag(), u8::from(prehashed)]);
                put_bytes(out, message)?;
                put_bytes(out, signature)?;
            }
            Self::DataKey { handle: number, context, length, plaintext } => {
                handle(out, 15, number);
                out.extend_from_slice(context.as_bytes());
                out.extend_from_slice(&[length, u8::from(plaintext)]);
            }
            Self::Export { handle: number } => handle(out, 16, number),
            Self::Destroy { key, version: number, wrapped } => {
                out.push(17);
                version(out, &key, number);
                put_bytes(out, wrapped)?;
            }
        }
        Some(())
    }

    fn decode(input: &mut Input<'a>) -> Option<Self> {
        let key_type = |input: &mut Input<'a>| KeyType::from_tag(input.byte()?);
        let flags = |input: &mut Input<'a>| Flags::from_byte(input.byte()?);
        let key = |input: &mut Input<'a>| Some(KeyId::from_bytes(*input.array()?));
        let version = |input: &mut Input<'a>| input.number().filter(|version| *version > 0);
        let context = |input: &mut Input<'a>| Some(ContextDigest::from_bytes(*input.array()?));
        let kind = |input: &mut Input<'a>| match input.byte()? {
            1 => Some(Kind::Direct),
            2 => Some(Kind::Envelope),
            3 => Some(Kind::DataKey),
            _ => None,
        };
        let scheme = |input: &mut Input<'a>| Scheme::from_tag(input.byte()?);
        let hash = |input: &mut Input<'a>| oaep_from_tag(input.byte()?);
        // Fields are read in the order in which they stand.
        Some(match input.byte()? {
            1 => {
                let (key_type, flags) = (key_type(input)?, flags(input)?);
                Self::Generate { key_type, flags, key: key(input)?, version: version(input)? }
            }
            2 => {
                let (key_type, flags) = (key_type(input)?, flags(input)?);
                let (key, version) = (key(input)?, version(input)?);
                Self::Import { key, version, key_type, flags, secret: input.bytes(MAX_SECRET)? }
            }
            3 => {
                let (key_type, flags) = (key_type(input)?, flags(input)?);
                let (key, version, under) = (key(input)?, version(input)?, input.number()?);
                let (hash, sealed) = (hash(input)?, input.bytes(MAX_SECRET + 1024)?);
                Self::ImportSealed { key, version, key_type, flags, under, hash, sealed }
            }
            4 => {
                Self::Open { key: key(input)?, version: version(input)?, wrapped: input.bytes(MAX_WRAPPED)? }
            }
            5 => Self::WrapAgain {
                key: key(input)?,
                version: version(input)?,
                wrapped: input.bytes(MAX_WRAPPED)?,
            },
            6 => Self::Forget { handle: input.number()? },
            7 => Self::Encrypt {
                handle: input.number()?,
                context: context(input)?,
                plaintext: input.bytes(MAX_PLAINTEXT)?,
            },
            8 => Self::Decrypt {
                handle: input.number()?,
                context: context(input)?,
                kind: kind(input)?,
                body: input.bytes(MAX_BODY)?,
            },
            9 => Self::OpenForeign {
                handle: input.number()?,
                hash: hash(input)?,
                label: input.bytes(MAX_LABEL)?,
                ciphertext: input.bytes(MAX_BODY)?,
            },
            10 => Self::Rewrap {
                handle: input.number()?,
                to: input.number()?,
                context: context(input)?,
                kind: kind(input)?,
                body: input.bytes(MAX_BODY)?,
            },
            11 => Self::Mac { handle: input.number()?, message: input.bytes(MAX_MESSAGE)? },
            12 => Self::VerifyMac {
                handle: input.number()?,
                message: input.bytes(MAX_MESSAGE)?,
                tag: input.bytes(MAX_SIGNATURE)?,
            },
            13 => Self::Sign {
                handle: input.number()?,
                scheme: scheme(input)?,
                prehashed: input.flag()?,
                message: input.bytes(MAX_MESSAGE)?,
            },
            14 => Self::Verify {
                handle: input.number()?,
                scheme: scheme(input)?,
                prehashed: input.flag()?,
                message: input.bytes(MAX_MESSAGE)?,
                signature: input.bytes(MAX_SIGNATURE)?,
            },
            15 => Self::DataKey {
                handle: input.number()?,
                context: context(input)?,
                length: input.byte().filter(|length| matches!(length, 16 | 32 | 64))?,
                plaintext: input.flag()?,
            },
            16 => Self::Export { handle: input.number()? },
            17 => Self::Destroy {
                key: key(input)?,
                version: version(input)?,
                wrapped: input.bytes(MAX_WRAPPED)?,
            },
            _ => return None,
        })
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Generate { .. } => "Generate",
            Self::Import { .. } => "Import",
            Self::ImportSealed { .. } => "ImportSealed",
            Self::Open { .. } => "Open",
            Self::WrapAgain { .. } => "WrapAgain",
            Self::Forget { .. } => "Forget",
            Self::Encrypt { .. } => "Encrypt",
            Self::Decrypt { .. } => "Decrypt",
            Self::OpenForeign { .. } => "OpenForeign",
            Self::Rewrap { .. } => "Rewrap",
            Self::Mac { .. } => "Mac",
            Self::VerifyMac { .. } => "VerifyMac",
            Self::Sign { .. } => "Sign",
            Self::Verify { .. } => "Verify",
            Self::DataKey { .. } => "DataKey",
            Self::Export { .. } => "Export",
            Self::Destroy { .. } => "Destroy",
        })
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opened { .. } => "Opened",
            Self::Bytes(_) => "Bytes([secret])",
            Self::DataKey { .. } => "DataKey([secret])",
            Self::Done => "Done",
        })
    }
}

/// Writes a batch for [`Engine::answer`](super::Engine::answer).
///
/// # Errors
/// [`Refusal::TooLong`] for more than [`MAX_ITEMS`] requests, or more than [`MAX_REQUEST`] bytes.
pub fn encode_requests(requests: &[Request<'_>]) -> Result<Erased, Refusal> {
    let length: usize = requests.iter().map(Request::length).sum();
    if requests.len() > MAX_ITEMS || length > MAX_REQUEST {
        return Err(Refusal::TooLong);
    }
    // Reserved in one piece: a buffer that grew would leave copies behind.
    let mut out = Erased::new(Vec::with_capacity(2 + length));
    out.extend_from_slice(&u16::try_from(requests.len()).map_err(|_| Refusal::TooLong)?.to_be_bytes());
    for request in requests {
        request.encode(&mut out).ok_or(Refusal::TooLong)?;
    }
    Ok(out)
}

/// Reads a batch; `None` for what is none.
#[must_use]
pub fn decode_requests(bytes: &[u8]) -> Option<Vec<Request<'_>>> {
    let mut input = Input(bytes);
    let count = usize::from(input.short()?);
    if count > MAX_ITEMS || bytes.len() > MAX_REQUEST + 2 {
        return None;
    }
    let requests = (0..count).map(|_| Request::decode(&mut input)).collect::<Option<_>>()?;
    input.finish().map(|()| requests)
}

pub(super) fn encode_outcomes(outcomes: &[Outcome]) -> Erased {
    let length: usize = outcomes.iter().map(|outcome| 2 + outcome.as_ref().map_or(0, Answer::length)).sum();
    let mut out = Erased::new(Vec::with_capacity(2 + length));
    // INVARIANT: there are as many as requests, and of these 256 at most.
    out.extend_from_slice(&u16::try_from(outcomes.len()).unwrap_or(0).to_be_bytes());
    for outcome in outcomes {
        // INVARIANT: no part comes near 4 GiB.
        let _ = match outcome {
            Err(refusal) => {
                out.extend_from_slice(&[0, refusal.tag()]);
                Some(())
            }
            Ok(Answer::Opened { handle, key_type, flags, public, wrapped }) => {
                out.extend_from_slice(&[1, key_type.tag(), flags.byte()]);
                out.extend_from_slice(&handle.to_be_bytes());
                put_bytes(&mut out, public).and_then(|()| put_bytes(&mut out, wrapped))
            }
            Ok(Answer::Bytes(bytes)) => {
                out.push(2);
                put_bytes(&mut out, bytes)
            }
            Ok(Answer::DataKey { plaintext, wrapped }) => {
                out.extend_from_slice(&[3, u8::from(plaintext.is_some())]);
                plaintext
                    .as_ref()
                    .map_or(Some(()), |plaintext| put_bytes(&mut out, plaintext))
                    .and_then(|()| put_bytes(&mut out, wrapped))
            }
            Ok(Answer::Done) => {
                out.push(4);
                Some(())
            }
        };
    }
    out
}

/// Reads what [`Engine::answer`](super::Engine::answer) has answered to `count` requests.
///
/// # Errors
/// [`Refusal::Request`] if the engine could not read the batch, or if this can't be read.
pub fn decode_outcomes(bytes: &[u8], count: usize) -> Result<Vec<Outcome>, Refusal> {
    let read = || {
        let mut input = Input(bytes);
        if usize::from(input.short()?) != count || count > MAX_ITEMS || bytes.len() > 2 * MAX_ANSWER {
            return None;
        }
        let outcomes = (0..count).map(|_| decode_outcome(&mut input)).collect::<Option<_>>()?;
        input.finish().map(|()| outcomes)
    };
    read().ok_or(Refusal::Request)
}

fn decode_outcome(input: &mut Input<'_>) -> Option<Outcome> {
    Some(match input.byte()? {
        0 => Err(Refusal::from_tag(input.byte()?)?),
        1 => {
            let (key_type, flags) = (KeyType::from_tag(input.byte()?)?, Flags::from_byte(input.byte()?)?);
            Ok(Answer::Opened {
                handle: input.number()?,
                key_type,
                flags,
                public: input.bytes(MAX_PUBLIC)?.to_vec(),
                wrapped: input.bytes(MAX_WRAPPED)?.to_vec(),
            })
        }
        2 => Ok(Answer::bytes(input.bytes(MAX_ANSWER)?.to_vec())),
        3 => {
            let plaintext = if input.flag()? { Some(Erased::new(input.bytes(64)?.to_vec())) } else { None };
            Ok(Answer::DataKey { plaintext, wrapped: input.bytes(WRAPPED_MAX)?.to_vec() })
        }
        4 => Ok(Answer::Done),
        _ => return None,
    })
}
