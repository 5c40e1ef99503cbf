//! `transit/encrypt`, and all else that is done with a key: one item or a batch, in Vault's shapes.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bonafide_crypto::digest::{sha256, sha384, sha512};
use bonafide_crypto::jose::JwsAlgorithm;
use bonafide_crypto::key::SignatureAlgorithm;
use bonafide_kms::algorithm::{KeyType, Operation, Scheme};
use bonafide_kms::ciphertext::{self, Ciphertext, Header, Kind};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::Call;
use super::answer::{Answer, said, status};
use super::fields::{Fields, decode};
use super::keys::pem;
use crate::journal::hex;
use crate::kms::KeyRecord;
use crate::kms::callers::Caller;
use crate::kms::service::{Done, Item, MAX_ITEMS, Service, What};
use crate::refusal::Refusal;

/// One hash of Vault's names and ours.
const HASHES: [(&str, &str); 3] = [("sha2-256", "sha256"), ("sha2-384", "sha384"), ("sha2-512", "sha512")];

/// How signatures look outside: what stands for a whole call, and may stand in each item.
struct Manner<'a> {
    /// From the path.
    hash: Option<&'a str>,
    whole: &'a Fields,
}

/// `POST transit/OPERATION/…`.
pub(super) async fn operate(call: Call<'_>, operation: &str, rest: &[&str]) -> Result<Answer, Refusal> {
    let caller = call.caller()?.0;
    match (operation, rest) {
        ("random", _) => random(&call, &caller, rest),
        ("hash", _) => hash(&call.fields, rest.first().copied()),
        ("encrypt" | "decrypt" | "rewrap", [key]) => batch(call, &caller, operation, key, None).await,
        ("hmac" | "sign" | "verify", [key]) => batch(call, &caller, operation, key, None).await,
        ("hmac" | "sign" | "verify", [key, hash]) => batch(call, &caller, operation, key, Some(hash)).await,
        ("datakey", ["plaintext", key]) => data_key(&call, &caller, key, false).await,
        ("datakey", ["wrapped", key]) => data_key(&call, &caller, key, true).await,
        _ => Err(Refusal::not_found("vault.path", "unsupported path")
            .hint("see the operations of the transit engine")),
    }
}

/// One item, or all of `batch_input`.
async fn batch(
    call: Call<'_>,
    caller: &Caller,
    operation: &str,
    name: &str,
    hash: Option<&str>,
) -> Result<Answer, Refusal> {
    // What is not the caller's is refused by the service, in words that don't tell it from what there is not.
    let Call { vault, mut fields, .. } = call;
    let service = &vault.0.service;
    let key = service.named(caller, name);
    let items = fields.batch()?;
    let manner = Manner { hash, whole: &fields };
    let Some(items) = items else {
        let item = read(operation, key.as_deref(), &fields, &manner)?;
        let results = service.execute(caller, name, &[item]).await?;
        let done = results
            .into_iter()
            .next()
            .unwrap_or_else(|| Err(Refusal::unavailable("kms.answer", "no answer")))?;
        return Ok(Answer::Data(Value::Object(shown(done, &fields, &manner)?)));
    };
    let code = fields.number("partial_failure_response_code")?;
    let code = code.and_then(|code| StatusCode::from_u16(code.try_into().ok()?).ok());
    let mut results = Vec::with_capacity(items.len());
    for part in items.chunks(MAX_ITEMS) {
        results.extend(some(service, caller, operation, name, key.as_deref(), part, &manner).await?);
    }
    // As Vault: what encrypts or decrypts fails as a whole, all else item by item.
    let strict = matches!(operation, "encrypt" | "decrypt");
    let failed = results.iter().filter_map(|result| result.as_ref().err()).map(status).next();
    let status = match failed {
        Some(first) if strict => code.unwrap_or(first),
        _ => StatusCode::OK,
    };
    let shown = results.into_iter().zip(&items).map(|(result, item)| {
        let mut result = result.unwrap_or_else(|refusal| {
            let mut fields = Map::new();
            fields.insert("error".to_owned(), json!(said(&refusal)));
            if operation == "decrypt" {
                fields.insert("plaintext".to_owned(), json!(""));
            }
            fields
        });
        let reference = item.text("reference").ok().flatten().unwrap_or_default();
        result.insert("reference".to_owned(), json!(reference));
        Value::Object(result)
    });
    Ok(Answer::Batch(shown.collect(), status))
}

/// As many items as one call may have.
async fn some(
    service: &Service,
    caller: &Caller,
    operation: &str,
    name: &str,
    key: Option<&KeyRecord>,
    part: &[Fields],
    manner: &Manner<'_>,
) -> Result<Vec<Result<Map<String, Value>, Refusal>>, Refusal> {
    let mut refused = Vec::with_capacity(part.len());
    let mut wanted = Vec::with_capacity(part.len());
    for fields in part {
        match read(operation, key, fields, manner) {
            Ok(item) => {
                wanted.push(item);
                refused.push(None);
            }
            Err(refusal) => refused.push(Some(refusal)),
        }
    }
    let mut done = match wanted.is_empty() {
        true => Vec::new(),
        false => service.execute(caller, name, &wanted).await?,
    }
    .into_iter();
    let results = refused.into_iter().zip(part).map(|(refusal, fields)| match refusal {
        Some(refusal) => Err(refusal),
        None => {
            let done = done.next().unwrap_or_else(|| Err(Refusal::unavailable("kms.answer", "no answer")))?;
            shown(done, fields, manner)
        }
    });
    Ok(results.collect())
}

/// What an item asks for. `key` is missing where there is none of this name: the service says so.
fn read(
    operation: &str,
    key: Option<&KeyRecord>,
    fields: &Fields,
    manner: &Manner<'_>,
) -> Result<Item, Refusal> {
    let version = |name| {
        Ok::<_, Refusal>(fields.number(name)?.or(manner.whole.number(name)?).filter(|number| *number > 0))
    };
    let missing =
        |name: &str, what: &str| Refusal::invalid("vault.field", format!("missing {name} to {what}"));
    let bytes = |name: &str, what: &str| fields.bytes(name)?.ok_or_else(|| missing(name, what));
    let text = |name: &str, what: &str| fields.text(name)?.ok_or_else(|| missing(name, what));
    let what = match operation {
        "encrypt" => {
            What::Encrypt { plaintext: bytes("plaintext", "encrypt")?, version: version("key_version")? }
        }
        "decrypt" => What::Decrypt { ciphertext: whole(text("ciphertext", "decrypt")?)? },
        "rewrap" => What::Rewrap {
            ciphertext: whole(text("ciphertext", "decrypt")?)?,
            version: version("key_version")?,
        },
        "hmac" => {
            manner.check_mac(key, fields)?;
            What::Mac { message: bytes("input", "authenticate")?, version: version("key_version")? }
        }
        "verify" if fields.has("hmac") => {
            manner.check_mac(key, fields)?;
            let mac = detached(key, text("hmac", "verify")?, None, |header, raw| {
                header.of_kind(Kind::Mac).with(&raw)
            })?;
            What::VerifyMac { message: bytes("input", "verify")?, mac }
        }
        "verify" => {
            let scheme = manner.scheme(key, fields)?;
            let given = text("signature", "verify")?;
            let jws = scheme.filter(|_| manner.as_jws(fields).unwrap_or(false)).and_then(jws);
            let signature = detached(key, given, jws, |header, raw| match scheme {
                Some(scheme) => {
                    ciphertext::signature(header.key_type, header.key, header.version, scheme, &raw)
                }
                None => Vec::new(),
            })?;
            What::Verify {
                message: bytes("input", "verify")?,
                prehashed: manner.flag(fields, "prehashed")?,
                signature,
            }
        }
        _ => What::Sign {
            message: bytes("input", "sign")?,
            prehashed: manner.flag(fields, "prehashed")?,
            scheme: manner.scheme(key, fields)?,
            version: version("key_version")?,
        },
    };
    Ok(Item { what, context: context(fields, manner.whole)? })
}

/// What ciphertexts are bound to, as a context of ours.
fn context(fields: &Fields, whole: &Fields) -> Result<BTreeMap<String, String>, Refusal> {
    let mut context = BTreeMap::new();
    for name in ["context", "associated_data"] {
        if let Some(value) = fields.canonical(name)?.or(whole.canonical(name)?) {
            context.insert(name.to_owned(), value);
        }
    }
    Ok(context)
}

impl Manner<'_> {
    fn text<'f>(&'f self, fields: &'f Fields, name: &str) -> Result<Option<&'f str>, Refusal> {
        Ok(fields.text(name)?.or(self.whole.text(name)?))
    }

    fn flag(&self, fields: &Fields, name: &str) -> Result<bool, Refusal> {
        Ok(fields.flag(name)? || self.whole.flag(name)?)
    }

    /// The name of a hash, as ours has it.
    fn hash(&self, fields: &Fields) -> Result<Option<&'static str>, Refusal> {
        let name = match self.hash {
            Some(hash) => Some(hash),
            None => self.text(fields, "hash_algorithm")?.or(self.text(fields, "algorithm")?),
        };
        name.map(ours).transpose()
    }

    /// A key of ours makes one kind of MAC.
    fn check_mac(&self, key: Option<&KeyRecord>, fields: &Fields) -> Result<(), Refusal> {
        let (Some(key), Some(hash)) = (key, self.hash(fields)?) else { return Ok(()) };
        if key.key.key_type.is_mac() && !key.key.key_type.as_str().ends_with(hash) {
            return Err(Refusal::invalid(
                "vault.algorithm",
                format!("keys of type `{}` have a hash of their own", key.key.key_type),
            )
            .hint("leave the algorithm out, or make a key with the type `hmac-sha384` or `hmac-sha512`"));
        }
        Ok(())
    }

    /// How it is signed. `None`: as keys of this kind sign.
    fn scheme(&self, key: Option<&KeyRecord>, fields: &Fields) -> Result<Option<Scheme>, Refusal> {
        let Some(key_type) = key.map(|key| key.key.key_type) else { return Ok(None) };
        let (hash, default) = (self.hash(fields)?, key_type.default_scheme());
        if !matches!(key_type, KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096) {
            let fits = match (hash, default) {
                (Some(hash), Some(scheme)) => {
                    scheme.as_str().ends_with(hash) || !scheme.as_str().contains("sha")
                }
                _ => true,
            };
            return match fits {
                true => Ok(default),
                false => Err(Refusal::invalid(
                    "vault.algorithm",
                    format!("keys of type `{key_type}` don't sign with this hash"),
                )
                .hint("leave `hash_algorithm` out")),
            };
        }
        let padding = match self.text(fields, "signature_algorithm")?.unwrap_or("pss") {
            "pss" | "" => "pss",
            "pkcs1v15" => "pkcs1",
            _ => {
                return Err(Refusal::invalid(
                    "vault.algorithm",
                    "`signature_algorithm` is `pss` or `pkcs1v15`",
                ));
            }
        };
        Ok(Scheme::from_name(&format!("rsa-{padding}-{}", hash.unwrap_or("sha256"))))
    }

    /// Whether signatures are as JWS has them.
    fn as_jws(&self, fields: &Fields) -> Result<bool, Refusal> {
        match self.text(fields, "marshaling_algorithm")?.unwrap_or("asn1") {
            "asn1" => Ok(false),
            "jws" => Ok(true),
            _ => Err(Refusal::invalid("vault.algorithm", "`marshaling_algorithm` is `asn1` or `jws`")),
        }
    }
}

/// The algorithm of JOSE that signs so, if there is one.
fn jws(scheme: Scheme) -> Option<JwsAlgorithm> {
    let Scheme::Classic(algorithm) = scheme else { return None };
    if algorithm == SignatureAlgorithm::Ed25519 {
        return None;
    }
    JwsAlgorithm::ALL.into_iter().find(|jws| jws.signature_algorithm() == algorithm)
}

fn ours(hash: &str) -> Result<&'static str, Refusal> {
    let found = HASHES.iter().find(|(theirs, ours)| *theirs == hash || *ours == hash);
    found.map(|(_, ours)| *ours).ok_or_else(|| {
        let short: String = hash.chars().take(40).collect();
        Refusal::invalid("vault.algorithm", format!("unsupported algorithm {short}"))
            .hint("sha2-256, sha2-384 and sha2-512 are there")
    })
}

/// `vault:vN:` and base64: version and bytes.
fn versioned(text: &str) -> Result<(u32, Vec<u8>), Refusal> {
    let read = || {
        let (version, bytes) = text.strip_prefix("vault:v")?.split_once(':')?;
        let bytes = decode(bytes).ok().or_else(|| URL_SAFE_NO_PAD.decode(bytes).ok())?;
        Some((version.parse().ok()?, bytes))
    };
    read().ok_or_else(|| {
        Refusal::invalid(
            "vault.ciphertext",
            "invalid ciphertext or signature: it has not the form `vault:v<version>:<base64>`",
        )
        .hint("give it as it was returned")
    })
}

/// A ciphertext in text is one of ours with its header: it names its key.
fn whole(text: &str) -> Result<Bytes, Refusal> {
    let (version, bytes) = versioned(text)?;
    let same = Ciphertext::decode(&bytes).is_ok_and(|read| read.header.version == version);
    if !same {
        return Err(Refusal::invalid(
            "vault.ciphertext",
            "invalid ciphertext: it was changed, or was made elsewhere",
        )
        .hint("give it as it was returned"));
    }
    Ok(bytes.into())
}

fn in_text(version: u32, bytes: &[u8]) -> String {
    format!("vault:v{version}:{}", STANDARD.encode(bytes))
}

/// A signature or MAC is in text what everybody else makes of it, without a header. `with` puts one before it.
fn detached(
    key: Option<&KeyRecord>,
    text: &str,
    jws: Option<JwsAlgorithm>,
    with: impl FnOnce(Header, Vec<u8>) -> Vec<u8>,
) -> Result<Bytes, Refusal> {
    let (version, mut raw) = versioned(text)?;
    let Some(record) = key else { return Ok(Bytes::new()) };
    let key_type = record.key.key_type;
    if let Some(jws) = jws {
        raw = jws.signature_from_jose(&raw).unwrap_or_default();
    }
    let header = Header { kind: Kind::Signature, key_type, key: record.key.id, version };
    Ok(with(header, raw).into())
}

/// What came of an item.
fn shown(done: Done, fields: &Fields, manner: &Manner<'_>) -> Result<Map<String, Value>, Refusal> {
    // Texts are moved: `json!` would copy each of them.
    let of = |members: [(&str, Value); 2]| members.map(|(name, value)| (name.to_owned(), value)).into_iter();
    let shown = match done {
        Done::Ciphertext { bytes, version } => {
            of([("ciphertext", Value::String(in_text(version, &bytes))), ("key_version", version.into())])
                .collect()
        }
        Done::Plaintext { bytes, .. } => one("plaintext", Value::String(STANDARD.encode(&bytes))),
        Done::Mac { bytes, version } => {
            let raw = Ciphertext::decode(&bytes).map(|mac| mac.body.to_vec()).unwrap_or_default();
            one("hmac", Value::String(in_text(version, &raw)))
        }
        Done::Signature { raw, scheme, version, .. } => {
            let text = if manner.as_jws(fields)? {
                let raw = jws(scheme)
                    .map_or(Some(raw.clone()), |jws| jws.signature_to_jose(raw))
                    .unwrap_or_default();
                format!("vault:v{version}:{}", URL_SAFE_NO_PAD.encode(&raw))
            } else {
                in_text(version, &raw)
            };
            of([("signature", Value::String(text)), ("key_version", version.into())]).collect()
        }
        Done::Verified { valid, .. } => one("valid", valid.into()),
        Done::DataKey { plaintext, wrapped, version } => {
            let known = of([
                ("ciphertext", Value::String(in_text(version, &wrapped))),
                ("key_version", version.into()),
            ]);
            let plaintext =
                plaintext.map(|bytes| ("plaintext".to_owned(), Value::String(STANDARD.encode(&bytes))));
            known.chain(plaintext).collect()
        }
        Done::PublicKey { .. } | Done::Material { .. } => {
            return Err(Refusal::unavailable("kms.answer", "the answer is not one to the question"));
        }
    };
    Ok(shown)
}

fn one(name: &str, value: Value) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), value)])
}

async fn data_key(
    call: &Call<'_>,
    caller: &Caller,
    name: &str,
    wrapped_only: bool,
) -> Result<Answer, Refusal> {
    let fields = &call.fields;
    let bytes = match fields.number("bits")?.unwrap_or(256) {
        128 => 16,
        256 => 32,
        512 => 64,
        _ => return Err(Refusal::invalid("vault.field", "invalid bit length: 128, 256 and 512 are there")),
    };
    let version = fields.number("key_version")?.filter(|number| *number > 0);
    let item =
        Item { what: What::DataKey { bytes, wrapped_only, version }, context: context(fields, fields)? };
    let done = call.vault.0.service.execute(caller, name, &[item]).await?.into_iter().next();
    let done = done.unwrap_or_else(|| Err(Refusal::unavailable("kms.answer", "no answer")))?;
    Ok(Answer::Data(Value::Object(shown(done, fields, &Manner { hash: None, whole: fields })?)))
}

/// `GET transit/export/public-key/NAME`, and `/VERSION` or `/latest`.
pub(super) async fn public_keys(
    call: &Call<'_>,
    name: &str,
    version: Option<&str>,
) -> Result<Answer, Refusal> {
    let caller = call.caller()?.0;
    let service = &call.vault.0.service;
    let versions = match version {
        None => service.usable_versions(&caller, name, Operation::PublicKey)?.into_iter().map(Some).collect(),
        Some("latest") => vec![None],
        Some(version) => {
            let number =
                version.parse().map_err(|_| Refusal::invalid("vault.field", "invalid key version"))?;
            vec![Some(number)]
        }
    };
    let items: Vec<_> = versions
        .into_iter()
        .map(|version| Item { what: What::PublicKey { version }, context: BTreeMap::new() })
        .collect();
    let (mut keys, mut kind) = (Map::new(), "");
    for done in service.execute(&caller, name, &items).await? {
        if let Done::PublicKey { spki, key_type, version } = done? {
            kind = key_type.as_str();
            keys.insert(version.to_string(), json!(pem(&spki)));
        }
    }
    Ok(Answer::Data(json!({ "keys": keys, "name": name, "type": kind })))
}

fn random(call: &Call<'_>, caller: &Caller, rest: &[&str]) -> Result<Answer, Refusal> {
    let fields = &call.fields;
    let count = rest.iter().find_map(|part| part.parse().ok());
    let count = match count {
        Some(count) => count,
        None => fields.number("bytes")?.unwrap_or(32),
    };
    let length = usize::try_from(count).unwrap_or(usize::MAX);
    let bytes = call.vault.0.service.random(caller, length)?;
    Ok(Answer::Data(json!({ "random_bytes": formatted(fields, "base64", &bytes)? })))
}

fn hash(fields: &Fields, name: Option<&str>) -> Result<Answer, Refusal> {
    let name = match name {
        Some(name) => name,
        None => fields.text("algorithm")?.unwrap_or("sha2-256"),
    };
    let input = fields.bytes("input")?;
    let input = input.ok_or_else(|| Refusal::invalid("vault.field", "missing input to hash"))?;
    let sum = match ours(name)? {
        "sha256" => sha256(&input).to_vec(),
        "sha384" => sha384(&input).to_vec(),
        _ => sha512(&input).to_vec(),
    };
    Ok(Answer::Data(json!({ "sum": formatted(fields, "hex", &sum)? })))
}

fn formatted(fields: &Fields, default: &str, bytes: &[u8]) -> Result<String, Refusal> {
    match fields.text("format")?.unwrap_or(default) {
        "base64" => Ok(STANDARD.encode(bytes)),
        "hex" => Ok(hex(bytes)),
        _ => {
            Err(Refusal::invalid("vault.field", "unsupported encoding format; must be \"hex\" or \"base64\""))
        }
    }
}
