//! `keyholder-*` and `secret-*`: what sealing a secret and opening it costs, each party for itself and all together. Nothing here
//! goes over a network.

use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey, Signer};
use bonafide_crypto::random::{Random, SystemRandom};
use bonafide_sealing::ceremony::{Ceremony, Effect, Kind, Message, Pending, Plan, Setup, Template};
use bonafide_sealing::document::{Document, Signed, VerifyingKey};
use bonafide_sealing::epoch::{EpochRecord, TrustedEpoch};
use bonafide_sealing::exchange::{EvaluationReply, EvaluationRequest};
use bonafide_sealing::group::{G1Point, Gt, Index};
use bonafide_sealing::identity::{Identity, Keyset, Tenant};
use bonafide_sealing::object::{PublicData, SealedObject};
use bonafide_sealing::opening::{Acceptance, AuthenticObject, Keyholders, Opening, Step};
use bonafide_sealing::owner::{Delegation, Owner, Purpose, Root};
use bonafide_sealing::params::TrustedParams;
use bonafide_sealing::roster::{Member, Roster, TrustedRoster};
use bonafide_sealing::seal::{Quantum, Recipient, Sealing, seal};
use bonafide_sealing::share::{PreparedPolicy, Share};

use crate::{
    clock::CpuClock,
    figure::Figure,
    pairs::{Pairs, median},
};

const ROUNDS: usize = 41;
const TIMES: u32 = 8;
const COUNT: u8 = 5;
const THRESHOLD: u8 = 3;
const NOW: u64 = 1_800_000_000;
const POLICY: &[u8] =
    b"a policy of a length that policies have, which is some hundred bytes, in the words of this house";

/// The figure of this name. Five keyholders make a key for it, in one process.
pub(crate) fn figure(name: &'static str) -> Result<Figure> {
    let house = House::new()?;
    let (share, identity) = (house.shares.first().context("keyholders have shares")?, &house.identity);
    let object = house.object()?;
    let prepared = share.prepare(identity)?;
    let request = house.begin(&object)?.request().clone();
    let (point, encoded) = (request.point, request.point.encode());
    let policy = Opening::blinding_policy(&object, 0, &house.params)?;
    let value = share.evaluate(&prepared, &point)?;
    let plain = |what: &str, cost: f64, target: Option<f64>| Figure {
        name,
        value: cost,
        unit: "µs",
        floor: None,
        ratio: None,
        peer_ratio: None,
        target,
        what: what.to_owned(),
    };
    Ok(match name {
        "keyholder-eval" => {
            let question = identity.point()?;
            let mut rounds = Vec::with_capacity(ROUNDS);
            let floor = || {
                cost(|| {
                    let point = G1Point::decode(black_box(&encoded))?;
                    Ok(black_box(Gt::of(&point, &question)))
                })
            };
            let ours = || {
                cost(|| {
                    let point = G1Point::decode(black_box(&encoded))?;
                    Ok(black_box(share.evaluate(&prepared, &point)?))
                })
            };
            for _ in 0..ROUNDS {
                rounds.push([floor()?, ours()?, ours()?, floor()?]);
            }
            let Pairs { ours, floor, ratio } = Pairs::of(&rounds);
            Figure {
                floor: Some(floor),
                ratio: Some(ratio),
                ..plain(
                    "a keyholder's answer, from the caller's bytes, of a policy that it knows",
                    ours,
                    Some(0.9),
                )
            }
        }
        "keyholder-eval-cold" => {
            let cold = costs(|| Ok(share.evaluate(&share.prepare(identity)?, &point)?))?;
            plain("the first answer of a policy", cold, None)
        }
        "keyholder-proof" => {
            let proof = costs(|| Ok(share.prove(identity, &point, &value, &SystemRandom)?))?;
            plain("the proof that an answer is right, for whoever doubts it", proof, None)
        }
        "secret-seal" => plain("a secret sealed and signed, offline", costs(|| house.seal())?, None),
        "secret-blind" => {
            let blind = costs(|| Ok(policy.blind(&SystemRandom)?))?;
            plain("a blind, which can be made ahead", blind, None)
        }
        "secret-combine" => {
            let mut rounds = Vec::with_capacity(ROUNDS);
            for _ in 0..ROUNDS {
                let mut opening = house.begin(&object)?;
                let replies = house.answers(opening.request(), &[&prepared])?;
                let start = CpuClock::thread().now()?;
                house.finish(&object, &mut opening, replies)?;
                rounds.push((CpuClock::thread().now()? - start).as_secs_f64() * 1e6);
            }
            plain("three answers verified and combined, the key and the secret opened", median(rounds), None)
        }
        "secret-open-cpu" => {
            let prepared = house.prepare()?;
            let open = costs(|| {
                let mut opening = house.begin(&object)?;
                let replies = house.answers(opening.request(), &prepared.iter().collect::<Vec<_>>())?;
                house.finish(&object, &mut opening, replies)
            })?;
            plain("3 of 5, all parties together: blind, ask, answer, combine, open", open, Some(5000.0))
        }
        _ => bail!("no figure of sealed secrets is called `{name}`"),
    })
}

/// CPU time of one, in µs.
fn cost<T>(mut work: impl FnMut() -> Result<T>) -> Result<f64> {
    let start = CpuClock::thread().now()?;
    for _ in 0..TIMES {
        black_box(work()?);
    }
    Ok((CpuClock::thread().now()? - start).as_secs_f64() * 1e6 / f64::from(TIMES))
}

fn costs<T>(mut work: impl FnMut() -> Result<T>) -> Result<f64> {
    Ok(median((0..ROUNDS).map(|_| cost(&mut work)).collect::<Result<Vec<f64>>>()?))
}

/// An owner, and keyholders with a key that they have made themselves.
struct House {
    owner: Owner,
    sealer: PrivateKey,
    members: Vec<Arc<PrivateKey>>,
    params: TrustedParams,
    epochs: [TrustedEpoch; 1],
    shares: Vec<Share>,
    identity: Identity,
}

impl House {
    fn new() -> Result<Self> {
        let (tenant, keyset) = (Tenant::random(&SystemRandom), Keyset::new("bench")?);
        let (root_key, params_key, roster_key, sealer) = (key()?, key()?, key()?, key()?);
        let root = Root { tenant, serial: 1, threshold: 1, keys: vec![public(&root_key)?], next: [0; 32] };
        let mut keys: [Vec<VerifyingKey>; 5] = Default::default();
        for (purpose, list) in Purpose::ALL.iter().zip(&mut keys) {
            match purpose {
                Purpose::Params => list.push(public(&params_key)?),
                Purpose::Roster => list.push(public(&roster_key)?),
                Purpose::Seal => list.push(public(&sealer)?),
                Purpose::Deny | Purpose::Rewrap => {}
            }
        }
        let delegation = Delegation { tenant, root: root.digest(), serial: 1, keys };
        let owner = Owner::new(root, &signed(delegation, &root_key)?)?;
        let members = (0..COUNT).map(|_| Ok(Arc::new(key()?))).collect::<Result<Vec<_>>>()?;
        let member = |member: &Arc<PrivateKey>| -> Result<Member> {
            let name = "a keyholder".to_owned();
            Ok(Member { id: name.clone(), name, key: public(member)?, operator: public(&key()?)? })
        };
        let roster = Roster {
            tenant,
            keyset: keyset.clone(),
            serial: 1,
            previous: [0; 32],
            threshold: THRESHOLD,
            lower_threshold: false,
            delay: 0,
            members: members.iter().map(member).collect::<Result<_>>()?,
            anchors: Vec::new(),
            sites: Vec::new(),
        };
        let roster = TrustedRoster::first(&owner, &signed(roster, &roster_key)?)?;
        let template = Template {
            tenant,
            keyset: keyset.clone(),
            version: 1,
            not_before: 0,
            not_after: u64::MAX,
            previous: [0; 32],
            site_keys: Vec::new(),
        };
        let plan = Plan {
            kind: Kind::Generate(Box::new(template)),
            roster: *roster.digest(),
            epoch: 1,
            dealers: Index::first(COUNT).collect(),
            nonce: (&SystemRandom as &dyn Random).array(),
        };
        let (pending, certificate) = generate(&plan, &roster, &members)?;
        let first = pending.first().context("five keyholders have shares")?;
        let params = TrustedParams::verify(&owner, &signed(first.params.clone(), &params_key)?)?;
        let epoch = TrustedEpoch::verify(&params, &roster, &certificate)?;
        let share = |pending: Pending| {
            Share::new(params.params(), epoch.record(), pending.index, pending.secret).map_err(Into::into)
        };
        let shares = pending.into_iter().map(share).collect::<Result<Vec<_>>>()?;
        let identity = Identity::new(&tenant, &keyset, POLICY, b"")?;
        Ok(Self { owner, sealer, members, params, epochs: [epoch], shares, identity })
    }

    fn seal(&self) -> Result<SealedObject> {
        let recipients = [Recipient { params: &self.params, policy: POLICY, label: b"", site: None }];
        let public = PublicData { name: "a secret".to_owned(), purpose: String::new(), not_after: None };
        let signer = Some(&self.sealer as &dyn Signer);
        let quantum = Quantum::Never;
        let sealing = Sealing { recipients: &recipients, public: &public, serial: 1, quantum, signer };
        Ok(seal(&sealing, b"correct horse battery staple", NOW, &SystemRandom)?)
    }

    fn object(&self) -> Result<AuthenticObject> {
        let acceptance = Acceptance { owner: &self.owner, name: "a secret", min_serial: 0, unsigned: false };
        Ok(AuthenticObject::verify(self.seal()?, &acceptance, NOW)?)
    }

    fn begin<'a>(&'a self, object: &'a AuthenticObject) -> Result<Opening<'a>> {
        let keyholders = Keyholders { params: &self.params, epochs: &self.epochs };
        let blinding = Opening::blinding_policy(object, 0, &self.params)?.blind(&SystemRandom)?;
        Ok(Opening::begin(object, 0, keyholders, blinding, None, None, &SystemRandom)?)
    }

    fn prepare(&self) -> Result<Vec<PreparedPolicy>> {
        let first = self.shares.iter().take(usize::from(THRESHOLD));
        first.map(|share| Ok(share.prepare(&self.identity)?)).collect()
    }

    /// Of the first three, from bytes to bytes. Who has no prepared policy here makes one.
    fn answers(
        &self,
        request: &EvaluationRequest,
        prepared: &[&PreparedPolicy],
    ) -> Result<Vec<Signed<EvaluationReply>>> {
        let request = request.encode();
        let first = self.shares.iter().zip(&self.members).take(usize::from(THRESHOLD)).enumerate();
        let answer = |(place, (share, member)): (usize, (&Share, &Arc<PrivateKey>))| {
            let request = EvaluationRequest::decode(&request)?;
            let fresh = match prepared.get(place) {
                Some(_) => None,
                None => Some(share.prepare(&request.identity()?)?),
            };
            let policy = prepared.get(place).copied().or(fresh.as_ref()).context("made above")?;
            let reply = request.answer(share, policy, member.as_ref(), &SystemRandom)?;
            Ok(Signed::decode(&reply.encode())?)
        };
        first.map(answer).collect()
    }

    fn finish(
        &self,
        object: &AuthenticObject,
        opening: &mut Opening<'_>,
        replies: Vec<Signed<EvaluationReply>>,
    ) -> Result<()> {
        for reply in replies {
            if let Step::Opened(key) = opening.accept(reply)? {
                ensure!(object.secret(&key)?.starts_with(b"correct"), "another secret has been opened");
                return Ok(());
            }
        }
        bail!("three answers do not open it");
    }
}

/// The ceremony of all members, who hear each other without a network.
fn generate(
    plan: &Plan,
    roster: &TrustedRoster,
    members: &[Arc<PrivateKey>],
) -> Result<(Vec<Pending>, Signed<EpochRecord>)> {
    let mut queue: VecDeque<(usize, Signed<Message>)> = VecDeque::new();
    let mut pending = BTreeMap::new();
    let mut certificate = None;
    let mut parties = Vec::new();
    let mut carry_out = |from: usize, effects: Vec<Effect>, queue: &mut VecDeque<_>| -> Result<bool> {
        let mut stored = false;
        for effect in effects {
            match effect {
                Effect::Broadcast(message) => queue.push_back((from, message)),
                Effect::Store(share) => {
                    pending.insert(share.index, *share);
                    stored = true;
                }
                Effect::Switch(record) => certificate = Some(*record),
                Effect::Abort(abort) | Effect::Report(abort) => {
                    bail!("the ceremony came to nothing: {abort:?}")
                }
            }
        }
        Ok(stored)
    };
    for (place, member) in members.iter().enumerate() {
        let setup = Setup { plan: plan.clone(), roster: roster.clone(), before: None, floor: 0 };
        let signer = Arc::clone(member) as Arc<dyn Signer>;
        let (party, effects) = Ceremony::begin(setup, signer, Arc::new(SystemRandom))?;
        parties.push(party);
        carry_out(place, effects, &mut queue)?;
    }
    while let Some((from, message)) = queue.pop_front() {
        for (place, party) in parties.iter_mut().enumerate().filter(|(place, _)| *place != from) {
            let effects = party.receive(message.clone());
            if carry_out(place, effects, &mut queue)? {
                carry_out(place, party.stored()?, &mut queue)?;
            }
        }
    }
    Ok((pending.into_values().collect(), certificate.context("no certificate has come to be")?))
}

fn key() -> Result<PrivateKey> {
    Ok(PrivateKey::generate(KeyAlgorithm::Ed25519)?)
}

fn public(key: &PrivateKey) -> Result<VerifyingKey> {
    Ok(VerifyingKey::new(key.public_key().clone())?)
}

fn signed<T: Document>(body: T, key: &PrivateKey) -> Result<Signed<T>> {
    let mut signed = Signed::new(body);
    signed.sign(key)?;
    Ok(signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_works() {
        let house = House::new().unwrap();
        let object = house.object().unwrap();
        let mut opening = house.begin(&object).unwrap();
        let replies = house.answers(opening.request(), &[]).unwrap();
        house.finish(&object, &mut opening, replies).unwrap();
    }
}
