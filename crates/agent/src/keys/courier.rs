//! What goes to the authority about keys: operations for an instance, and questions about leases, many at a time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bonafide_identity::InstanceId;
use bonafide_kms::lease::{Renewal, Used};
use bonafide_net::drain::Shutdown;
use bonafide_wire::{
    kms::{
        self, LeaseRequest, LeaseResult, OnBehalfOf, RenewLeasesRequest, ReturnLeasesRequest,
        keys_client::KeysClient,
    },
    problem_of,
    types::Problem,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tonic::{Code, Response, Status, transport::Channel};

use super::{Ask, MAX_MESSAGE, NodeKeys, Subject, letter};
use crate::refusal::{Refusal, problem};

/// An answer that takes longer is not waited for.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long a refusal is remembered.
const REFUSED: Duration = Duration::from_millis(1500);
/// Looks for what is over.
const TICK: Duration = Duration::from_secs(1);
/// Leases of one question, and of one message about those that are held.
const MAX_ASKED: usize = 64;
const MAX_TOLD: usize = 256;

/// A request that an agent makes for an instance.
pub(crate) trait OnBehalf: Clone + Send + 'static {
    fn on_behalf_of(&mut self) -> &mut Option<OnBehalfOf>;
}

macro_rules! on_behalf {
    ($($request:ident),+) => {
        $(impl OnBehalf for kms::$request {
            fn on_behalf_of(&mut self) -> &mut Option<OnBehalfOf> {
                &mut self.on_behalf_of
            }
        })+
    };
}

on_behalf!(
    DecryptRequest,
    EncryptRequest,
    FetchRequest,
    GenerateDataKeyRequest,
    GetPublicKeyRequest,
    GrantRequest,
    LeaseRequest,
    MacRequest,
    RandomRequest,
    RevokeGrantRequest,
    RewrapRequest,
    SignRequest,
    VerifyMacRequest,
    VerifyRequest
);

/// A call of the authority, to be made with some client.
pub(crate) type Call<Q, A> = fn(KeysClient<Channel>, Q) -> BoxFuture<'static, Result<Response<A>, Status>>;

/// Names a call of the authority.
macro_rules! remote {
    ($method:ident) => {
        |mut client, request| Box::pin(async move { client.$method(request).await })
    };
}
pub(crate) use remote;

impl NodeKeys {
    /// Asks the authority for an instance. Its SVID goes along when the server has not seen it.
    pub(crate) async fn ask<Q: OnBehalf, A>(
        &self,
        subject: &Subject,
        mut request: Q,
        call: Call<Q, A>,
    ) -> Result<A, Refusal> {
        let instance = subject.instance;
        // A renewed one may say something else.
        let leaf = subject.credential.chain().first().cloned();
        let (client, mut shown) = {
            let mut inner = self.lock();
            if inner.over.contains_key(&instance) {
                return Err(Refusal::key_identity_ended());
            }
            let line = inner.line.as_mut().ok_or_else(Refusal::keys_unreachable)?;
            let shown = line.shown.get(&instance) == leaf.as_ref();
            (line.client.clone().max_encoding_message_size(MAX_MESSAGE * 2), shown)
        };
        loop {
            let chain = if shown { Vec::new() } else { subject.credential.chain().to_vec() };
            let named = Bytes::copy_from_slice(instance.as_bytes());
            *request.on_behalf_of() = Some(OnBehalfOf { instance: named, chain });
            let answer = tokio::time::timeout(ANSWER_TIME, call(client.clone(), request.clone())).await;
            match answer.map_err(|_| Refusal::keys_unreachable())? {
                Ok(answer) => {
                    if !shown && let (Some(line), Some(leaf)) = (&mut self.lock().line, leaf) {
                        line.shown.insert(instance, leaf);
                    }
                    return Ok(answer.into_inner());
                }
                // Of an SVID that has ended, or that this server has forgotten.
                Err(status) if shown && problem_of(&status).code == "kms.instance-unknown" => shown = false,
                Err(status) => return Err(Refusal::of_key_server(&status)),
            }
        }
    }

    /// Brings questions and answers until shutdown.
    pub(crate) async fn run(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            let idle = self.is_idle();
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(TICK), if !idle => self.tick(),
                () = shutdown.triggered() => return,
            }
            self.dispatch();
        }
    }

    fn dispatch(self: &Arc<Self>) {
        let mut inner = self.lock();
        let now = self.moment(&mut inner);
        let (asks, renewals) =
            (std::mem::take(&mut inner.outbox.asks), std::mem::take(&mut inner.outbox.renewals));
        let Some(client) = inner.line.as_ref().map(|line| line.client.clone()) else {
            for Ask { subject, question, .. } in asks {
                if let Some(borrower) = inner.borrowers.get_mut(&subject.instance) {
                    borrower.held.leases().failed(&question, now.at + REFUSED);
                    borrower.changed.send_modify(|count| *count += 1);
                }
            }
            for (instance, renewal) in renewals {
                if let Some(borrower) = inner.borrowers.get_mut(&instance) {
                    borrower.held.leases().renewal_failed(&renewal, now.at);
                }
            }
            return;
        };
        let mut of_instances: HashMap<InstanceId, Vec<Ask>> = HashMap::new();
        for ask in asks {
            of_instances.entry(ask.subject.instance).or_default().push(ask);
        }
        for mut asks in of_instances.into_values() {
            while !asks.is_empty() {
                let rest = asks.split_off(asks.len().min(MAX_ASKED));
                tokio::spawn(Arc::clone(self).lease(std::mem::replace(&mut asks, rest)));
            }
        }
        for part in renewals.chunks(MAX_TOLD) {
            tokio::spawn(Arc::clone(self).renew(client.clone(), part.to_vec()));
        }
        while !inner.outbox.returns.is_empty() {
            let part = inner.outbox.returns.len().min(MAX_TOLD);
            let part: Vec<Used> = inner.outbox.returns.drain(..part).collect();
            tokio::spawn(Arc::clone(self).give_back(client.clone(), part));
        }
    }

    /// Asks for leases of one instance.
    async fn lease(self: Arc<Self>, asks: Vec<Ask>) {
        let Some(subject) = asks.first().map(|ask| ask.subject.clone()) else { return };
        let request =
            LeaseRequest { items: asks.iter().map(|ask| ask.item.clone()).collect(), on_behalf_of: None };
        let answer = self.ask(&subject, request, remote!(lease)).await;
        let mut results: Vec<Result<LeaseResult, Refusal>> = match answer {
            Ok(answer) => answer.results.into_iter().map(Ok).collect(),
            Err(refusal) => asks.iter().map(|_| Err(refusal.clone())).collect(),
        };
        results.resize_with(asks.len(), || Err(Refusal::key_answer()));
        let mut inner = self.lock();
        let now = self.moment(&mut inner);
        let inner = &mut *inner;
        let mut learned = Vec::new();
        for (ask, result) in asks.iter().zip(results) {
            let Some(borrower) = inner.borrowers.get_mut(&subject.instance) else {
                // The instance has ended meanwhile.
                if let Ok(result) = result
                    && let Some(lease) = letter::lease_id(&result.lease)
                {
                    inner.outbox.give_back(Used { lease, messages: 0, bytes: 0 });
                }
                continue;
            };
            let leases = borrower.held.leases();
            let again = now.at + REFUSED;
            match result {
                Err(refusal) if refusal.status_code() == Code::Unavailable => {
                    leases.failed(&ask.question, again);
                }
                Err(refusal) => {
                    leases.refused(&ask.question, letter::denial(refusal.to_problem()), again);
                }
                Ok(LeaseResult { problem: Some(problem), .. }) => {
                    leases.refused(&ask.question, letter::denial(problem), again);
                }
                Ok(result) => match letter::granted(result, &ask.item, &ask.question.want.context, now) {
                    None => {
                        let problem = Refusal::key_answer().to_problem();
                        leases.refused(&ask.question, letter::denial(problem), again);
                    }
                    Some(letter::Granted { grant, revision, secret }) => {
                        borrower.held.granted(&ask.question, grant, revision, secret, now.at);
                        if ask.question.want.purpose == bonafide_kms::lease::Purpose::Encrypt {
                            learned.push((grant.key, grant.version, revision));
                        }
                    }
                },
            }
        }
        if let Some(borrower) = inner.borrowers.get_mut(&subject.instance) {
            borrower.changed.send_modify(|count| *count += 1);
        }
        // What one instance hears of a key, all hear.
        for (key, version, revision) in learned {
            for borrower in inner.borrowers.values_mut().filter(|borrower| !borrower.held.is_empty()) {
                borrower.held.learn(key, version, revision);
            }
        }
        self.collect_all(inner);
    }

    async fn renew(self: Arc<Self>, client: KeysClient<Channel>, renewals: Vec<(InstanceId, Renewal)>) {
        let uses = renewals.iter().map(|(_, renewal)| letter::to_use(&renewal.used)).collect();
        let results = renew(client, uses).await;
        let mut inner = self.lock();
        let now = self.moment(&mut inner);
        for (index, (instance, renewal)) in renewals.iter().enumerate() {
            let Some(borrower) = inner.borrowers.get_mut(instance) else { continue };
            let leases = borrower.held.leases();
            match results.as_ref().map(|results| results.get(index)) {
                Ok(Some(Ok(terms))) => leases.renewed(renewal, letter::to_terms(terms, now), now.at),
                Ok(Some(Err(_))) => leases.ended(renewal.used.lease),
                Ok(None) | Err(_) => leases.renewal_failed(renewal, now.at),
            }
            borrower.changed.send_modify(|count| *count += 1);
        }
        self.collect_all(&mut inner);
    }

    async fn give_back(self: Arc<Self>, mut client: KeysClient<Channel>, used: Vec<Used>) {
        let request = ReturnLeasesRequest { leases: used.iter().map(letter::to_use).collect() };
        let told = tokio::time::timeout(ANSWER_TIME, client.return_leases(request)).await;
        let passing = match told {
            Ok(Ok(_)) => false,
            // Told again on the next connection.
            Ok(Err(status)) => Refusal::of_key_server(&status).status_code() == Code::Unavailable,
            Err(_) => true,
        };
        if passing {
            let mut inner = self.lock();
            used.into_iter().for_each(|used| inner.outbox.give_back(used));
        }
    }
}

/// What the authority says to each, in their order.
pub(super) async fn renew(
    mut client: KeysClient<Channel>,
    leases: Vec<kms::LeaseUse>,
) -> Result<Vec<Result<kms::LeaseTerms, Problem>>, Refusal> {
    let asked = leases.len();
    let answer = tokio::time::timeout(ANSWER_TIME, client.renew_leases(RenewLeasesRequest { leases })).await;
    let answer = answer.map_err(|_| Refusal::keys_unreachable())?;
    let answer = answer.map_err(|status| Refusal::of_key_server(&status))?.into_inner();
    if answer.results.len() != asked {
        return Err(Refusal::key_answer());
    }
    let results = answer.results.into_iter().map(|result| match (result.problem, result.terms) {
        (None, Some(terms)) => Ok(terms),
        (Some(problem), _) => Err(problem),
        (None, None) => Err(problem("kms.answer", "the authority has given no terms", "")),
    });
    Ok(results.collect())
}
