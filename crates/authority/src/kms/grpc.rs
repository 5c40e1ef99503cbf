//! gRPC's side of keys: messages in and out of what the service does.

use std::sync::Arc;
use std::time::Duration;

use bonafide_crypto::erased::Erased;
use bonafide_kms::algorithm::{Operation, Scheme};
use bonafide_kms::key::Local;
use bonafide_wire::kms::{self as wire, keys_server::Keys};
use bytes::Bytes;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::callers::Callers;
use super::leases::{LeaseId, Used};
use super::leasing::{Leased, Terms, Wanted, Wish};
use super::lifecycle::NewGrant;
use super::name::short;
use super::service::{Done, Item, Service, What};
use crate::idempotency::Idempotency;
use crate::refusal::Refusal;

/// Largest message: a batch of the largest size, and what protobuf puts around it.
pub(crate) const MAX_MESSAGE: usize = (4 << 20) + (256 << 10);

/// The service of gRPC.
#[derive(Clone, Debug)]
pub(crate) struct Grpc {
    pub(crate) service: Service,
    /// Finds out who calls.
    pub(crate) callers: Arc<Callers>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Grpc {
    /// Does the items of a call.
    async fn execute<Request_>(
        &self,
        request: Request<Request_>,
        take: impl FnOnce(Request_) -> (String, Option<wire::OnBehalfOf>, Vec<Item>),
    ) -> Result<Vec<Result<Done, Refusal>>, Status> {
        let (_, extensions, message) = request.into_parts();
        let (key, on_behalf_of, items) = take(message);
        let caller = self.callers.of(&extensions, on_behalf_of.as_ref())?;
        Ok(self.service.execute(&caller, &key, &items).await?)
    }
}

/// 0 stands for the primary.
fn version(number: u32) -> Option<u32> {
    (number != 0).then_some(number)
}

/// Erased once it is sent.
fn bytes(secret: Erased) -> Bytes {
    Bytes::from_owner(secret)
}

/// An item of a batch that did not come to what the call is for can only be a mistake of ours.
fn mixed() -> Refusal {
    Refusal::unavailable("kms.answer", "the answer is not one to the question")
}

macro_rules! results {
    ($all:expr, $message:ident, $($pattern:pat => $fields:expr),+) => {
        $all.into_iter()
            .map(|one| match one {
                $(Ok($pattern) => $fields,)+
                Ok(_) => wire::$message { problem: Some(mixed().to_problem()), ..Default::default() },
                Err(refusal) => wire::$message { problem: Some(refusal.to_problem()), ..Default::default() },
            })
            .collect()
    };
}

fn encrypted(all: Vec<Result<Done, Refusal>>) -> Vec<wire::EncryptResult> {
    results!(all, EncryptResult, Done::Ciphertext { bytes, version } => wire::EncryptResult {
        problem: None,
        ciphertext: bytes.into(),
        version,
    })
}

fn verified(all: Vec<Result<Done, Refusal>>) -> Vec<wire::VerifyResult> {
    results!(all, VerifyResult, Done::Verified { valid, version } => wire::VerifyResult { problem: None, valid, version })
}

#[tonic::async_trait]
impl Keys for Grpc {
    async fn encrypt(&self, request: Request<wire::EncryptRequest>) -> Answer<wire::EncryptResponse> {
        let all = self.execute(request, |message| {
            let items = message.items.into_iter().map(|item| Item {
                what: What::Encrypt { plaintext: item.plaintext, version: version(item.version) },
                context: item.context,
            });
            (message.key, message.on_behalf_of, items.collect())
        });
        Ok(Response::new(wire::EncryptResponse { results: encrypted(all.await?) }))
    }

    async fn decrypt(&self, request: Request<wire::DecryptRequest>) -> Answer<wire::DecryptResponse> {
        let all = self.execute(request, |message| {
            let items = message.items.into_iter().map(|item| Item {
                what: What::Decrypt { ciphertext: item.ciphertext },
                context: item.context,
            });
            (message.key, message.on_behalf_of, items.collect())
        });
        let results = results!(all.await?, DecryptResult, Done::Plaintext { bytes: plaintext, version } => {
            wire::DecryptResult { problem: None, plaintext: bytes(plaintext), version }
        });
        Ok(Response::new(wire::DecryptResponse { results }))
    }

    async fn rewrap(&self, request: Request<wire::RewrapRequest>) -> Answer<wire::RewrapResponse> {
        let all = self.execute(request, |message| {
            let items = message.items.into_iter().map(|item| Item {
                what: What::Rewrap { ciphertext: item.ciphertext, version: version(item.version) },
                context: item.context,
            });
            (message.key, message.on_behalf_of, items.collect())
        });
        Ok(Response::new(wire::RewrapResponse { results: encrypted(all.await?) }))
    }

    async fn mac(&self, request: Request<wire::MacRequest>) -> Answer<wire::MacResponse> {
        let all = self.execute(request, |message| {
            let items = message.items.into_iter().map(|item| Item {
                what: What::Mac { message: item.message, version: version(item.version) },
                context: item.context,
            });
            (message.key, message.on_behalf_of, items.collect())
        });
        let results = results!(all.await?, MacResult, Done::Mac { bytes, version } => {
            wire::MacResult { problem: None, mac: bytes.into(), version }
        });
        Ok(Response::new(wire::MacResponse { results }))
    }

    async fn verify_mac(&self, request: Request<wire::VerifyMacRequest>) -> Answer<wire::VerifyResponse> {
        let all = self.execute(request, |message| {
            let items = message.items.into_iter().map(|item| Item {
                what: What::VerifyMac { message: item.message, mac: item.mac },
                context: item.context,
            });
            (message.key, message.on_behalf_of, items.collect())
        });
        Ok(Response::new(wire::VerifyResponse { results: verified(all.await?) }))
    }

    async fn sign(&self, request: Request<wire::SignRequest>) -> Answer<wire::SignResponse> {
        for item in &request.get_ref().items {
            scheme(&item.algorithm)?;
        }
        let all = self.execute(request, |message| {
            let items = message.items.into_iter().map(|item| Item {
                what: What::Sign {
                    message: item.message,
                    prehashed: item.prehashed,
                    scheme: scheme(&item.algorithm).unwrap_or_default(),
                    version: version(item.version),
                },
                context: item.context,
            });
            (message.key, message.on_behalf_of, items.collect())
        });
        let results = results!(all.await?, SignResult, Done::Signature { bytes, raw, scheme, version } => {
            wire::SignResult {
                problem: None,
                signature: bytes.into(),
                version,
                raw: raw.into(),
                algorithm: scheme.as_str().to_owned(),
            }
        });
        Ok(Response::new(wire::SignResponse { results }))
    }

    async fn verify(&self, request: Request<wire::VerifyRequest>) -> Answer<wire::VerifyResponse> {
        let all = self.execute(request, |message| {
            let items = message.items.into_iter().map(|item| Item {
                what: What::Verify {
                    message: item.message,
                    prehashed: item.prehashed,
                    signature: item.signature,
                },
                context: item.context,
            });
            (message.key, message.on_behalf_of, items.collect())
        });
        Ok(Response::new(wire::VerifyResponse { results: verified(all.await?) }))
    }

    async fn generate_data_key(
        &self,
        request: Request<wire::GenerateDataKeyRequest>,
    ) -> Answer<wire::GenerateDataKeyResponse> {
        let all = self.execute(request, |message| {
            let items = message.items.into_iter().map(|item| Item {
                what: What::DataKey {
                    // What is no length is refused as one.
                    bytes: if item.bytes == 0 { 32 } else { u8::try_from(item.bytes).unwrap_or(u8::MAX) },
                    wrapped_only: item.wrapped_only,
                    version: version(item.version),
                },
                context: item.context,
            });
            (message.key, message.on_behalf_of, items.collect())
        });
        let results = results!(all.await?, DataKeyResult, Done::DataKey { plaintext, wrapped, version } => {
            wire::DataKeyResult {
                problem: None,
                plaintext: plaintext.map(bytes).unwrap_or_default(),
                wrapped: wrapped.into(),
                version,
            }
        });
        Ok(Response::new(wire::GenerateDataKeyResponse { results }))
    }

    async fn random(&self, request: Request<wire::RandomRequest>) -> Answer<wire::RandomResponse> {
        let (_, extensions, message) = request.into_parts();
        let caller = self.callers.of(&extensions, message.on_behalf_of.as_ref())?;
        let random = self.service.random(&caller, usize::try_from(message.bytes).unwrap_or(usize::MAX))?;
        Ok(Response::new(wire::RandomResponse { random: bytes(random) }))
    }

    async fn get_public_key(
        &self,
        request: Request<wire::GetPublicKeyRequest>,
    ) -> Answer<wire::GetPublicKeyResponse> {
        let (_, extensions, message) = request.into_parts();
        let caller = self.callers.of(&extensions, message.on_behalf_of.as_ref())?;
        let mut versions = message.versions;
        if versions.is_empty() {
            versions = self.service.usable_versions(&caller, &message.key, Operation::PublicKey)?;
            // The newest are those that are asked about.
            versions = versions.split_off(versions.len().saturating_sub(super::service::MAX_ITEMS));
        }
        if versions.is_empty() {
            // Says why there are none.
            versions.push(0);
        }
        let items: Vec<_> = versions
            .into_iter()
            .map(|number| Item {
                what: What::PublicKey { version: version(number) },
                context: Default::default(),
            })
            .collect();
        let all = self.service.execute(&caller, &message.key, &items).await?;
        let results = results!(all, PublicKeyResult, Done::PublicKey { spki, key_type, version } => {
            wire::PublicKeyResult { problem: None, version, r#type: key_type.as_str().to_owned(), spki }
        });
        Ok(Response::new(wire::GetPublicKeyResponse { results }))
    }

    async fn fetch(&self, request: Request<wire::FetchRequest>) -> Answer<wire::FetchResponse> {
        let all = self.execute(request, |message| {
            let versions = if message.versions.is_empty() { vec![0] } else { message.versions };
            let items = versions.into_iter().map(|number| Item {
                what: What::Fetch { version: version(number) },
                context: Default::default(),
            });
            (message.key, message.on_behalf_of, items.collect())
        });
        let results = results!(all.await?, FetchResult, Done::Material { bytes: material, key_type, version } => {
            wire::FetchResult {
                problem: None,
                version,
                r#type: key_type.as_str().to_owned(),
                material: bytes(material),
            }
        });
        Ok(Response::new(wire::FetchResponse { results }))
    }

    async fn grant(&self, request: Request<wire::GrantRequest>) -> Answer<wire::GrantResponse> {
        let (_, extensions, message) = request.into_parts();
        let caller = self.callers.of(&extensions, message.on_behalf_of.as_ref())?;
        let own =
            wire::GrantRequest { idempotency_key: String::new(), on_behalf_of: None, ..message.clone() };
        let idempotency = Idempotency::new(
            caller.id().as_str(),
            "GrantKey",
            &message.idempotency_key,
            &own.encode_to_vec(),
        )?;
        let wire::GrantRequest { key, spiffe_id, operations, context, ttl, .. } = message;
        let wanted = {
            let state = self.service.parts().registry.state();
            NewGrant::read(&spiffe_id, &operations, context, ttl, &state)?
        };
        let (grant, revision) = self.service.grant(&caller, &key, wanted, idempotency).await?;
        Ok(Response::new(wire::GrantResponse { id: grant.id, expires_at: grant.expires_at, revision }))
    }

    async fn revoke_grant(
        &self,
        request: Request<wire::RevokeGrantRequest>,
    ) -> Answer<wire::RevokeGrantResponse> {
        let (_, extensions, message) = request.into_parts();
        let caller = self.callers.of(&extensions, message.on_behalf_of.as_ref())?;
        let revision = self.service.revoke_grant(&caller, &message.id).await?;
        Ok(Response::new(wire::RevokeGrantResponse { revision }))
    }

    async fn lease(&self, request: Request<wire::LeaseRequest>) -> Answer<wire::LeaseResponse> {
        let (_, extensions, message) = request.into_parts();
        let caller = self.callers.of(&extensions, message.on_behalf_of.as_ref())?;
        let wishes = message.items.into_iter().map(to_wish).collect::<Result<Vec<_>, _>>()?;
        let all = self.service.lease(&caller, &wishes).await?;
        let results = all.into_iter().map(|one| match one {
            Ok(leased) => from_leased(leased),
            Err(refusal) => {
                wire::LeaseResult { problem: Some(refusal.to_problem()), ..wire::LeaseResult::default() }
            }
        });
        Ok(Response::new(wire::LeaseResponse { results: results.collect() }))
    }

    async fn renew_leases(
        &self,
        request: Request<wire::RenewLeasesRequest>,
    ) -> Answer<wire::RenewLeasesResponse> {
        let (_, extensions, message) = request.into_parts();
        let agent = self.callers.agent(&extensions)?;
        let all = self.service.renew(&agent, &to_uses(&message.leases)?).await?;
        let results = all.into_iter().map(|one| match one {
            Ok(terms) => wire::RenewResult { problem: None, terms: Some(from_terms(&terms)) },
            Err(refusal) => wire::RenewResult { problem: Some(refusal.to_problem()), terms: None },
        });
        Ok(Response::new(wire::RenewLeasesResponse { results: results.collect() }))
    }

    async fn return_leases(
        &self,
        request: Request<wire::ReturnLeasesRequest>,
    ) -> Answer<wire::ReturnLeasesResponse> {
        let (_, extensions, message) = request.into_parts();
        let agent = self.callers.agent(&extensions)?;
        self.service.give_back(&agent, &to_uses(&message.leases)?).await?;
        Ok(Response::new(wire::ReturnLeasesResponse {}))
    }
}

/// Empty stands for the key's usual one.
fn scheme(name: &str) -> Result<Option<Scheme>, Refusal> {
    if name.is_empty() {
        return Ok(None);
    }
    let scheme = Scheme::from_name(name).ok_or_else(|| {
        Refusal::invalid("kms.algorithm", format!("there is no algorithm `{}`", short(name)))
            .hint("such as `ecdsa-p256-sha256`, `ed25519`, `rsa-pss-sha256`, `ml-dsa-65`; or none, for the usual one")
    })?;
    Ok(Some(scheme))
}

fn to_wish(item: wire::LeaseItem) -> Result<Wish, Refusal> {
    use wire::lease_item::Use;
    let usage = match item.r#use {
        Some(Use::Encrypt(_)) => Wanted::Encrypt,
        Some(Use::Decrypt(lease)) => Wanted::Decrypt { wrapped: lease.wrapped, version: lease.version },
        Some(Use::Verify(_)) => Wanted::Verify,
        None => {
            return Err(Refusal::invalid(
                "kms.lease-use",
                "a lease is for encryption, decryption or verification",
            )
            .hint("a newer agent may ask for more than this server gives"));
        }
    };
    Ok(Wish { key: item.key, context: item.context, usage })
}

fn to_uses(uses: &[wire::LeaseUse]) -> Result<Vec<(LeaseId, Used)>, Refusal> {
    uses.iter()
        .map(|one| {
            let id = <LeaseId>::try_from(one.lease.as_ref())
                .map_err(|_| Refusal::invalid("kms.lease-id", "the ID of a lease has 16 bytes"))?;
            Ok((id, Used { messages: one.messages, bytes: one.bytes }))
        })
        .collect()
}

fn from_leased(leased: Leased) -> wire::LeaseResult {
    let Leased { id, record, version, data_key, public, terms } = leased;
    let (data_key, wrapped) =
        data_key.map(|(data_key, wrapped)| (bytes(data_key), wrapped)).unwrap_or_default();
    let public_keys = public.into_iter().map(|(version, key_type, spki)| wire::PublicKeyResult {
        problem: None,
        version,
        r#type: key_type.as_str().to_owned(),
        spki,
    });
    wire::LeaseResult {
        problem: None,
        lease: Bytes::copy_from_slice(&id),
        key_id: Bytes::copy_from_slice(record.id()),
        r#type: record.key.key_type.as_str().to_owned(),
        version,
        data_key,
        wrapped,
        public_keys: public_keys.collect(),
        terms: Some(from_terms(&terms)),
        name: record.name().to_owned(),
    }
}

fn from_terms(terms: &Terms) -> wire::LeaseTerms {
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    wire::LeaseTerms {
        expires_at: terms.expires_at.as_secs(),
        renew_after: terms.renew_after.as_secs(),
        max_messages: terms.ceilings.messages,
        max_bytes: terms.ceilings.bytes,
        max_stale: seconds(terms.max_stale),
        local: match terms.local {
            Local::Process => wire::Local::Process,
            Local::Agent | Local::Never => wire::Local::Agent,
        }
        .into(),
        revision: terms.revision,
    }
}
