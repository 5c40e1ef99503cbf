//! Keys that this program uses and never manages.
//!
//! ```no_run
//! use bonafide_sdk::{Context, Keys};
//! # async fn example() -> Result<(), bonafide_sdk::Error> {
//! let keys = Keys::connect().await?;
//! // Not secret, and not in the ciphertext: whoever decrypts must say the same. Policies see it.
//! let context = Context::new([("table", "orders"), ("tenant", "acme")])?;
//! let ciphertext = keys.encrypt("orders", &context, b"4111 1111 1111 1111").await?;
//! let plaintext = keys.decrypt("orders", &context, &ciphertext).await?;
//! assert_eq!(&**plaintext, b"4111 1111 1111 1111");
//!
//! let signature = keys.sign("receipts", &Context::none(), b"paid").await?;
//! assert!(keys.verify("receipts", &Context::none(), b"paid", &signature.bytes).await?);
//! # Ok(())
//! # }
//! ```
//!
//! The authority decides by policies who may do what with which key. Where a key allows it (`local: process`), a data key of it is
//! lent to this process for some minutes: then it encrypts and decrypts in about a microsecond, also while agent and authority are
//! away, as long as the lease lasts and no longer than the key's `max_stale`. Everything else goes over the agent's socket. Rotation
//! is nobody's business here: ciphertexts say which version they need.
//!
//! Data keys lie in memory of which the kernel keeps others away (`memfd_secret`, where there is that). A forked child does not have
//! it: one that goes on without `execve` must not use, nor drop, what it has inherited.

mod answers;
mod process;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bonafide_kms::{
    ciphertext::Ciphertext,
    context::{Context as Pairs, ContextDigest},
    lease::Purpose,
};
use bonafide_wire::kms::{
    self, DecryptLease, EncryptLease, LeaseItem, keys_client::KeysClient, lease_item::Use,
};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Status, service::interceptor::InterceptedService, transport::Channel};
use zeroize::Zeroizing;

pub use self::answers::{GeneratedKey, PublicKey, Signature};
use self::{
    answers::{refused, single},
    process::{Lender, Lessee},
};
use crate::{Endpoint, Error, Options, backoff::Backoff, endpoint::SecurityHeader, error::Ended, task::Task};

/// A batch, and what protobuf puts around it.
const MAX_MESSAGE: usize = 9 << 20;

pub(crate) type Client = KeysClient<InterceptedService<Channel, SecurityHeader>>;

/// Uses keys, in this process where that may be, and otherwise at the agent. Clones share everything; leases end with the last.
#[derive(Clone, Debug)]
pub struct Keys {
    client: Client,
    lessee: Arc<Lessee>,
    _task: Arc<Task>,
}

/// What a ciphertext is bound to beside its key: names and values, at most 64 pairs and 8 KiB. It is worth keeping: made once, it
/// costs nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    pairs: BTreeMap<String, String>,
    digest: ContextDigest,
}

impl Context {
    /// A context of these pairs, in any order.
    ///
    /// # Errors
    /// [`Error::Refused`] says which pair there can't be.
    pub fn new<K: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, Error> {
        let context = Pairs::new(pairs).map_err(|error| refused(error.code(), &error, error.hint()))?;
        let pairs = context.pairs().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Self { pairs, digest: context.digest() })
    }

    /// The empty one.
    #[must_use]
    pub fn none() -> Self {
        Self { pairs: BTreeMap::new(), digest: Pairs::default().digest() }
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::none()
    }
}

impl Keys {
    /// Uses keys by the agent that the environment names.
    ///
    /// # Errors
    /// [`Error::Unreachable`] without an agent, [`Error::Refused`] with the agent's reason if this program has no identity.
    pub async fn connect() -> Result<Self, Error> {
        Self::connect_with(Options::default()).await
    }

    /// The same as `options` say; which identity to pick is the agent's affair.
    ///
    /// # Errors
    /// As [`Keys::connect`].
    pub async fn connect_with(options: Options) -> Result<Self, Error> {
        let endpoint = match options.endpoint {
            Some(endpoint) => endpoint,
            None => Endpoint::from_environment()?,
        };
        let client = endpoint.keys_client(MAX_MESSAGE);
        let lessee = Arc::new(Lessee::new(client.clone(), options.clock, Arc::clone(&options.random)));
        let lender = Lender::new(Arc::clone(&lessee), endpoint.leases_client());
        let mut backoff = Backoff::new(options.random);
        let deadline = Instant::now() + options.patience;
        let stream = loop {
            let opened = timeout_at(deadline, lender.open()).await;
            match opened.unwrap_or_else(|_| Err(Status::unavailable("the agent does not answer"))) {
                Ok(stream) => break stream,
                Err(status) => {
                    let Ended { error, .. } = Ended::of_status(&status);
                    let pause = backoff.next();
                    if Instant::now() + pause >= deadline {
                        return Err(error);
                    }
                    sleep(pause).await;
                }
            }
        };
        let task = Task::spawn(lender.follow(stream, backoff));
        Ok(Self { client, lessee, _task: Arc::new(task) })
    }

    /// Encrypts at most 1 MiB with the primary version of a key.
    ///
    /// # Errors
    /// [`Error::Refused`] with code and hint, [`Error::Unreachable`] without an agent.
    pub async fn encrypt(&self, key: &str, context: &Context, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        match self.encrypt_here(key, context, plaintext).await {
            Some(done) => done,
            None => single(self.encrypt_there(key, &[(context, plaintext)]).await?),
        }
    }

    /// The same for many, each with a result of its own. At the agent, a batch has at most 256 items and 4 MiB.
    ///
    /// # Errors
    /// As [`Keys::encrypt`], of the batch as a whole.
    pub async fn encrypt_batch(
        &self,
        key: &str,
        items: &[(&Context, &[u8])],
    ) -> Result<Vec<Result<Vec<u8>, Error>>, Error> {
        let here = items.iter().map(|(context, plaintext)| self.encrypt_here(key, context, plaintext));
        let done = join_all(here).await;
        let rest: Vec<_> = answers::rest(&done, items);
        let there = if rest.is_empty() { Vec::new() } else { self.encrypt_there(key, &rest).await? };
        answers::together(done, there)
    }

    /// Decrypts what was encrypted with some version of a key, in the same context; also opens the wrapped form of a data key.
    ///
    /// # Errors
    /// As [`Keys::encrypt`].
    pub async fn decrypt(
        &self,
        key: &str,
        context: &Context,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        match self.decrypt_here(key, context, ciphertext).await {
            Some(done) => done,
            None => single(self.decrypt_there(key, &[(context, ciphertext)]).await?),
        }
    }

    /// The same for many, each with a result of its own.
    ///
    /// # Errors
    /// As [`Keys::encrypt`], of the batch as a whole.
    pub async fn decrypt_batch(
        &self,
        key: &str,
        items: &[(&Context, &[u8])],
    ) -> Result<Vec<Result<Zeroizing<Vec<u8>>, Error>>, Error> {
        let here = items.iter().map(|(context, ciphertext)| self.decrypt_here(key, context, ciphertext));
        let done = join_all(here).await;
        let rest: Vec<_> = answers::rest(&done, items);
        let there = if rest.is_empty() { Vec::new() } else { self.decrypt_there(key, &rest).await? };
        answers::together(done, there)
    }

    /// Decrypts at the authority, and encrypts again under the primary version.
    ///
    /// # Errors
    /// As [`Keys::encrypt`].
    pub async fn rewrap(&self, key: &str, context: &Context, ciphertext: &[u8]) -> Result<Vec<u8>, Error> {
        let item = kms::RewrapItem {
            ciphertext: Bytes::copy_from_slice(ciphertext),
            context: context.pairs.clone(),
            version: 0,
        };
        let request = kms::RewrapRequest { key: key.to_owned(), items: vec![item], on_behalf_of: None };
        let results = self.client().rewrap(request).await.map_err(|status| Error::of_status(&status))?;
        single(answers::ciphertexts(results.into_inner().results, 1)?)
    }

    /// The MAC of a message. The context is for policies: what is authenticated is the message alone.
    ///
    /// # Errors
    /// As [`Keys::encrypt`].
    pub async fn mac(&self, key: &str, context: &Context, message: &[u8]) -> Result<Vec<u8>, Error> {
        single(self.mac_batch(key, &[(context, message)]).await?)
    }

    /// The same for many, each with a result of its own.
    ///
    /// # Errors
    /// As [`Keys::encrypt`], of the batch as a whole.
    pub async fn mac_batch(
        &self,
        key: &str,
        items: &[(&Context, &[u8])],
    ) -> Result<Vec<Result<Vec<u8>, Error>>, Error> {
        let wire = items.iter().map(|(context, message)| kms::MacItem {
            message: Bytes::copy_from_slice(message),
            version: 0,
            context: context.pairs.clone(),
        });
        let request = kms::MacRequest { key: key.to_owned(), items: wire.collect(), on_behalf_of: None };
        let answer = self.client().mac(request).await.map_err(|status| Error::of_status(&status))?;
        answers::read(answer.into_inner().results, items.len(), |one| (one.problem, one.mac.to_vec()))
    }

    /// Whether a MAC is of this message.
    ///
    /// # Errors
    /// As [`Keys::encrypt`].
    pub async fn verify_mac(
        &self,
        key: &str,
        context: &Context,
        message: &[u8],
        mac: &[u8],
    ) -> Result<bool, Error> {
        let item = kms::VerifyMacItem {
            message: Bytes::copy_from_slice(message),
            mac: Bytes::copy_from_slice(mac),
            context: context.pairs.clone(),
        };
        let request = kms::VerifyMacRequest { key: key.to_owned(), items: vec![item], on_behalf_of: None };
        let answer = self.client().verify_mac(request).await.map_err(|status| Error::of_status(&status))?;
        single(answers::read(answer.into_inner().results, 1, |one| (one.problem, one.valid))?)
    }

    /// Signs a message as keys of this type usually do.
    ///
    /// # Errors
    /// As [`Keys::encrypt`].
    pub async fn sign(&self, key: &str, context: &Context, message: &[u8]) -> Result<Signature, Error> {
        single(self.sign_batch(key, &[(context, message)]).await?)
    }

    /// The same for many, each with a result of its own.
    ///
    /// # Errors
    /// As [`Keys::encrypt`], of the batch as a whole.
    pub async fn sign_batch(
        &self,
        key: &str,
        items: &[(&Context, &[u8])],
    ) -> Result<Vec<Result<Signature, Error>>, Error> {
        let wire = items.iter().map(|(context, message)| kms::SignItem {
            message: Bytes::copy_from_slice(message),
            context: context.pairs.clone(),
            ..kms::SignItem::default()
        });
        let request = kms::SignRequest { key: key.to_owned(), items: wire.collect(), on_behalf_of: None };
        let answer = self.client().sign(request).await.map_err(|status| Error::of_status(&status))?;
        answers::read(answer.into_inner().results, items.len(), answers::signature)
    }

    /// Whether a signature is of this message, by some version of the key that may be used.
    ///
    /// # Errors
    /// As [`Keys::encrypt`].
    pub async fn verify(
        &self,
        key: &str,
        context: &Context,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, Error> {
        single(self.verify_batch(key, &[(context, message, signature)]).await?)
    }

    /// The same for many: context, message and signature of each.
    ///
    /// # Errors
    /// As [`Keys::encrypt`], of the batch as a whole.
    pub async fn verify_batch(
        &self,
        key: &str,
        items: &[(&Context, &[u8], &[u8])],
    ) -> Result<Vec<Result<bool, Error>>, Error> {
        let wire = items.iter().map(|(context, message, signature)| kms::VerifyItem {
            message: Bytes::copy_from_slice(message),
            signature: Bytes::copy_from_slice(signature),
            context: context.pairs.clone(),
            ..kms::VerifyItem::default()
        });
        let request = kms::VerifyRequest { key: key.to_owned(), items: wire.collect(), on_behalf_of: None };
        let answer = self.client().verify(request).await.map_err(|status| Error::of_status(&status))?;
        answers::read(answer.into_inner().results, items.len(), |one| (one.problem, one.valid))
    }

    /// A fresh key of 32 bytes for this program's own cryptography, with its wrapped form, which [`Keys::decrypt`] opens.
    ///
    /// # Errors
    /// As [`Keys::encrypt`].
    pub async fn data_key(&self, key: &str, context: &Context) -> Result<GeneratedKey, Error> {
        let item = kms::DataKeyItem { context: context.pairs.clone(), ..kms::DataKeyItem::default() };
        let request =
            kms::GenerateDataKeyRequest { key: key.to_owned(), items: vec![item], on_behalf_of: None };
        let answer = self.client().generate_data_key(request).await;
        let answer = answer.map_err(|status| Error::of_status(&status))?;
        single(answers::read(answer.into_inner().results, 1, answers::data_key)?)
    }

    /// Random bytes of the node, at most 64 KiB.
    ///
    /// # Errors
    /// As [`Keys::encrypt`].
    pub async fn random(&self, bytes: u32) -> Result<Zeroizing<Vec<u8>>, Error> {
        let request = kms::RandomRequest { bytes, on_behalf_of: None };
        let answer = self.client().random(request).await.map_err(|status| Error::of_status(&status))?;
        Ok(Zeroizing::new(answer.into_inner().random.to_vec()))
    }

    /// The public keys of all versions of a key that may be used.
    ///
    /// # Errors
    /// As [`Keys::encrypt`].
    pub async fn public_key(&self, key: &str) -> Result<Vec<PublicKey>, Error> {
        let request =
            kms::GetPublicKeyRequest { key: key.to_owned(), versions: Vec::new(), on_behalf_of: None };
        let answer = self.client().get_public_key(request).await;
        let results = answer.map_err(|status| Error::of_status(&status))?.into_inner().results;
        let count = results.len();
        answers::read(results, count, answers::public_key)?.into_iter().collect()
    }

    /// For how long nothing was heard of the authority, and `None` if what is lent here is not good for anything new: the agent, or
    /// the authority, is away.
    pub fn unheard(&self) -> Option<Duration> {
        self.lessee.unheard()
    }

    fn client(&self) -> Client {
        self.client.clone()
    }

    async fn encrypt_here(
        &self,
        key: &str,
        context: &Context,
        plaintext: &[u8],
    ) -> Option<Result<Vec<u8>, Error>> {
        let wish = || LeaseItem {
            key: key.to_owned(),
            context: context.pairs.clone(),
            r#use: Some(Use::Encrypt(EncryptLease {})),
        };
        let want = (key, &context.digest, Purpose::Encrypt);
        Some(match self.lessee.borrow(want, plaintext.len() as u64, wish).await? {
            Ok(data_key) => data_key
                .seal(plaintext, self.lessee.random())
                .map_err(|error| refused(error.code(), &error, error.hint())),
            Err(error) => Err(error),
        })
    }

    async fn encrypt_there(
        &self,
        key: &str,
        items: &[(&Context, &[u8])],
    ) -> Result<Vec<Result<Vec<u8>, Error>>, Error> {
        let wire = items.iter().map(|(context, plaintext)| kms::EncryptItem {
            plaintext: Bytes::copy_from_slice(plaintext),
            context: context.pairs.clone(),
            version: 0,
        });
        let request = kms::EncryptRequest { key: key.to_owned(), items: wire.collect(), on_behalf_of: None };
        let answer = self.client().encrypt(request).await.map_err(|status| Error::of_status(&status))?;
        answers::ciphertexts(answer.into_inner().results, items.len())
    }

    async fn decrypt_here(
        &self,
        key: &str,
        context: &Context,
        ciphertext: &[u8],
    ) -> Option<Result<Zeroizing<Vec<u8>>, Error>> {
        // What is not read here the authority may know how to.
        let ciphertext = Ciphertext::decode(ciphertext).ok()?;
        let parts = ciphertext.envelope()?;
        let wish = || {
            let wrapped = Bytes::copy_from_slice(parts.wrapped);
            LeaseItem {
                key: key.to_owned(),
                context: context.pairs.clone(),
                r#use: Some(Use::Decrypt(DecryptLease { wrapped, version: ciphertext.header.version })),
            }
        };
        let want = (key, &context.digest, Purpose::Decrypt(parts.digest()));
        Some(match self.lessee.borrow(want, parts.sealed.len() as u64, wish).await? {
            // The data key alone would open it under any header.
            Ok(data_key) if data_key.header() != ciphertext.header => {
                let error = bonafide_kms::error::Refusal::Ciphertext;
                Err(refused(error.code(), &error, error.hint()))
            }
            Ok(data_key) => data_key.open(parts).map_err(|error| refused(error.code(), &error, error.hint())),
            Err(error) => Err(error),
        })
    }

    async fn decrypt_there(
        &self,
        key: &str,
        items: &[(&Context, &[u8])],
    ) -> Result<Vec<Result<Zeroizing<Vec<u8>>, Error>>, Error> {
        let wire = items.iter().map(|(context, ciphertext)| kms::DecryptItem {
            ciphertext: Bytes::copy_from_slice(ciphertext),
            context: context.pairs.clone(),
        });
        let request = kms::DecryptRequest { key: key.to_owned(), items: wire.collect(), on_behalf_of: None };
        let answer = self.client().decrypt(request).await.map_err(|status| Error::of_status(&status))?;
        answers::read(answer.into_inner().results, items.len(), |one| {
            (one.problem, Zeroizing::new(one.plaintext.to_vec()))
        })
    }
}
