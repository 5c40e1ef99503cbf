//! What is kept of a keyholder: one file that is replaced as a whole, under the keyring.

use std::collections::BTreeMap;
use std::sync::Arc;

use bonafide_crypto::key::PrivateKey;
use bonafide_crypto::random::Random;
use bonafide_identity::time::Clock;
use bonafide_keyring::Wrapping;
use bonafide_sealing::ceremony::{Decision, Effect, Plan};
use bonafide_sealing::document::{Document as _, FormatError, Signed};
use bonafide_sealing::epoch::EpochRecord;
use bonafide_sealing::group::Index;
use bonafide_sealing::params::SealParams;
use bytes::Bytes;
use prost::Message as _;

use super::{Holder, Holding, PendingShare, STATE, Work};
use crate::error::Refusal;
use crate::generated::worker::{self, step};
use crate::judge::Key;
use crate::share::{self, seal_name};
use crate::trust::Trust;

/// What the key of the roster is wrapped as.
pub(super) const KEY: &str = "keyholder/key";
/// And the state.
const CONTEXT: &str = "keyholder/state";

impl Holder {
    /// Hands the state out, to replace the one before.
    pub(super) fn save(&self, wrapping: &Wrapping<'_>, work: &mut Work) -> Result<(), Refusal> {
        let mut state = worker::State { key: self.key.clone().into(), ..worker::State::default() };
        self.trust.save(&mut state);
        state.holdings = self.holdings.values().map(Holding::saved).collect();
        state.pending = self.pending.iter().map(PendingShare::saved).collect();
        work.put(STATE.to_owned(), wrapping.wrap(CONTEXT, &state.encode_to_vec())?);
        Ok(())
    }

    /// The keyholder that was kept; and what is left of steps that a crash has cut off: votes that were given are given again, seal
    /// keys that nothing needs are destroyed.
    pub(crate) fn open(
        wrapping: &Wrapping<'_>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        state: &[u8],
        seals: &BTreeMap<String, Bytes>,
    ) -> Result<(Self, Work), Refusal> {
        let state = wrapping.unwrap(CONTEXT, state)?;
        let state = worker::State::decode(state.as_slice()).map_err(|_| damaged())?;
        let key = wrapping.unwrap(KEY, &state.key)?;
        let key = PrivateKey::from_pkcs8_der(&key).map_err(|_| damaged())?;
        let mut this = Self::empty(clock, random, key, state.key.to_vec());
        this.trust = Trust::load(&state, this.now())?;
        for saved in &state.holdings {
            let holding = Holding::opened(wrapping, saved, seals)?;
            this.holdings.insert(holding.params.version, holding);
        }
        let mut work = Work::default();
        for saved in &state.pending {
            this.reopen(wrapping, saved, seals, &mut work)?;
        }
        let held = this.holdings.values().filter(|holding| holding.share.is_some());
        let held = held.map(|holding| seal_name(holding.params.version, holding.epoch()));
        let waiting = this.pending.iter().map(PendingShare::seal_name);
        let needed: Vec<String> = held.chain(waiting).collect();
        for name in seals.keys().filter(|name| !needed.contains(name)) {
            work.push(step::Step::Erase(name.clone()));
        }
        Ok((this, work))
    }

    fn reopen(
        &mut self,
        wrapping: &Wrapping<'_>,
        saved: &worker::Pending,
        seals: &BTreeMap<String, Bytes>,
        work: &mut Work,
    ) -> Result<(), Refusal> {
        let record = EpochRecord::decode(&saved.record)?;
        let params = SealParams::decode(&saved.params)?;
        let plan = Signed::<Plan>::decode(&saved.plan)?;
        let index = Index::new(saved.index.into()).map_err(|_| damaged())?;
        let name = seal_name(params.version, record.epoch);
        let wrapped = seals.get(&name).ok_or_else(|| missing(&name))?;
        let share = share::open(wrapping, &params, &record, index, &saved.sealed_share, wrapped)?;
        let roster = self.trust.roster_of(&record.roster).cloned().ok_or_else(damaged)?;
        let signer = Arc::clone(&self.signer) as _;
        let (decision, effects) = Decision::begin(plan.body.digest(), roster, record.clone(), &signer)?;
        for effect in effects {
            if let Effect::Broadcast(message) = effect {
                work.broadcast(&plan, &message);
            }
        }
        let (key, sealed) = (Key::new(share, record.roster), saved.sealed_share.to_vec());
        self.pending.push(PendingShare { plan, index, record, params, key, sealed, decision });
        Ok(())
    }
}

impl Holding {
    fn saved(&self) -> worker::Holding {
        let document = self.document();
        let share = self.share.as_ref();
        worker::Holding {
            params: self.params.encode().into(),
            signed_params: document.params,
            certificate: document.certificate,
            index: share.map_or(0, |(key, _)| u32::from(key.share.name().index.number())),
            sealed_share: share.map(|(_, sealed)| sealed.clone().into()).unwrap_or_default(),
            floor: self.floor,
        }
    }

    fn opened(
        wrapping: &Wrapping<'_>,
        saved: &worker::Holding,
        seals: &BTreeMap<String, Bytes>,
    ) -> Result<Self, Refusal> {
        let params = SealParams::decode(&saved.params)?;
        let mut certificate = None;
        if !saved.certificate.is_empty() {
            certificate = Some(Signed::<EpochRecord>::decode(&saved.certificate)?);
        }
        let mut share = None;
        if let (Ok(index), Some(certificate)) = (Index::new(saved.index.into()), &certificate) {
            let record = &certificate.body;
            let name = seal_name(params.version, record.epoch);
            let wrapped = seals.get(&name).ok_or_else(|| missing(&name))?;
            let opened = share::open(wrapping, &params, record, index, &saved.sealed_share, wrapped)?;
            share = Some((Key::new(opened, record.roster), saved.sealed_share.to_vec()));
        }
        let mut signed = None;
        if !saved.signed_params.is_empty() {
            signed = Some(Signed::decode(&saved.signed_params)?);
        }
        Ok(Self { params, signed, certificate, share, floor: saved.floor })
    }
}

impl PendingShare {
    pub(super) fn seal_name(&self) -> String {
        seal_name(self.params.version, self.record.epoch)
    }

    fn saved(&self) -> worker::Pending {
        worker::Pending {
            plan: self.plan.encode().into(),
            index: u32::from(self.index.number()),
            record: self.record.encode().into(),
            params: self.params.encode().into(),
            sealed_share: self.sealed.clone().into(),
        }
    }
}

fn damaged() -> Refusal {
    Refusal::from(FormatError::Malformed("state of a keyholder"))
}

fn missing(name: &str) -> Refusal {
    Refusal::new(
        "keyholder.seal-missing",
        format!("the file `{name}` is missing, and with it the share"),
        "restore the data directory as a whole, or reshare without this keyholder",
    )
}
