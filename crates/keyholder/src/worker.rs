//! The process that holds the share: this same program once more, without network, files and dumps (see `bonafide-keyring`, which
//! starts it, and gives it the keyring to open what is kept). Its server asks it in bytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bonafide_crypto::erased::Erased;
use bonafide_crypto::random::Random;
use bonafide_identity::time::Clock;
use bonafide_keyring::{Handler, Wrapping};
use bonafide_wire::keyholder as wire;
use prost::Message as _;

use crate::error::Refusal;
use crate::generated::worker::{Reply, Request, request::Ask};
use crate::holder::{Holder, Work};
use crate::judge::Judge;
use crate::share::PREFIX;

/// What a keyholder's process answers with, to be given to [`serve_worker_with`](bonafide_keyring::serve_worker_with), or to keys
/// in one process where tests want that.
#[must_use]
pub fn share_handler(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Arc<dyn Handler> {
    let judge = Judge::new(random.as_ref());
    Arc::new(ShareHandler { clock, random, judge, holder: Mutex::default() })
}

#[derive(Debug)]
struct ShareHandler {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    judge: Judge,
    holder: Mutex<Option<Holder>>,
}

impl Handler for ShareHandler {
    fn prefix(&self) -> &'static str {
        PREFIX
    }

    fn answer(&self, wrapping: &Wrapping<'_>, request: &[u8]) -> Erased {
        let reply = match Request::decode(request).ok().and_then(|request| request.ask) {
            Some(ask) => self.asked(wrapping, ask),
            None => Err(unreadable()),
        };
        let reply =
            reply.unwrap_or_else(|refusal| Reply { refusal: Some(refusal.into()), ..Reply::default() });
        Erased::new(reply.encode_to_vec())
    }
}

impl ShareHandler {
    fn asked(&self, wrapping: &Wrapping<'_>, ask: Ask) -> Result<Reply, Refusal> {
        match ask {
            Ask::Evaluate(asked) => {
                let judged = self.judge.answer(&asked, self.clock.now(), self.random.as_ref());
                let audit = judged.entry.into();
                Ok(match judged.outcome {
                    Ok(answer) => Reply { body: answer.into(), audit, ..Reply::default() },
                    Err(refusal) => Reply { refusal: Some(refusal.into()), audit, ..Reply::default() },
                })
            }
            Ask::Challenge(asked) => {
                let nonce = self.judge.nonce(&asked.leaf, self.clock.now());
                Ok(Reply { body: nonce.to_vec().into(), ..Reply::default() })
            }
            Ask::Create(_) => {
                let (clock, random) = (Arc::clone(&self.clock), Arc::clone(&self.random));
                let (holder, work) = Holder::create(wrapping, clock, random)?;
                self.opened(holder, work)
            }
            Ask::Open(asked) => {
                let (clock, random) = (Arc::clone(&self.clock), Arc::clone(&self.random));
                let (holder, work) = Holder::open(wrapping, clock, random, &asked.state, &asked.seals)?;
                self.opened(holder, work)
            }
            Ask::Install(asked) => {
                let documents = wire::Documents::decode(asked.documents).map_err(|_| unreadable())?;
                self.change(|holder| holder.install(wrapping, &documents, asked.is_local))
            }
            Ask::Deliver(asked) => {
                self.change(|holder| holder.deliver(wrapping, &asked.plan, &asked.message))
            }
            Ask::Durable(asked) => self.change(|holder| holder.durable(wrapping, asked.number)),
            Ask::TimeOut(asked) => self.change(|holder| holder.time_out(wrapping, &asked.session)),
            Ask::Ripen(_) => self.change(|holder| holder.ripen(wrapping)),
            Ask::Propose(asked) => {
                let proposal = wire::ProposeRequest::decode(asked.proposal).map_err(|_| unreadable())?;
                let mut session = Vec::new();
                let mut reply = self.change(|holder| {
                    let (digest, work) = holder.propose(wrapping, &proposal)?;
                    session = digest.to_vec();
                    Ok(work)
                })?;
                reply.body = session.into();
                Ok(reply)
            }
        }
    }

    fn opened(&self, holder: Holder, work: Work) -> Result<Reply, Refusal> {
        let mut place = self.lock();
        if place.is_some() {
            return Err(Refusal::new("keyholder.worker", "it is open already", "start it anew"));
        }
        self.reply(place.insert(holder), work)
    }

    fn change(&self, change: impl FnOnce(&mut Holder) -> Result<Work, Refusal>) -> Result<Reply, Refusal> {
        let mut holder = self.lock();
        let holder = holder.as_mut().ok_or_else(|| Refusal::not_ready("the keyholder is not open"))?;
        let work = change(holder)?;
        self.reply(holder, work)
    }

    /// From here on questions are judged with what has changed.
    fn reply(&self, holder: &mut Holder, work: Work) -> Result<Reply, Refusal> {
        *self.judge.bench.write().unwrap_or_else(PoisonError::into_inner) = holder.bench()?;
        let (steps, confirm) = holder.confirm(work);
        Ok(Reply { steps, confirm, view: Some(holder.view()), ..Reply::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Holder>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unreadable() -> Refusal {
    Refusal::new("keyholder.worker", "a request that can't be read", "both processes must be of one program")
}

#[cfg(test)]
mod tests;
