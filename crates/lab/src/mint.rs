//! `mint`, `mint-1` and `jwt-mint`: what an SVID costs the authority, from the agent's stream to the ledger's disk.

use std::{
    fs::File,
    hint::black_box,
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use bonafide_crypto::{
    csr,
    key::{KeyAlgorithm, PrivateKey, Signer},
};
use bonafide_wire::node::{IssueJwt, IssueX509, agent_message, authority_message};
use bytes::Bytes;

use crate::{
    Options,
    authority::{self, AuthorityProcess, REGISTRATION},
    clock::CpuClock,
    figure::Figure,
    node::Node,
    pairs::{Pairs, median},
};

const IN_FLIGHT: u64 = 64;
const PER_TURN: u64 = 1500;
const ROUNDS: usize = 9;
const FLOOR_TURNS: u32 = 400;
const ONE_AT_A_TIME: usize = 300;
/// About what a leaf of ours has.
const CERTIFICATE: usize = 640;

/// An authority, a node, and requests that are made already: keys of workloads are not the authority's work.
pub(crate) struct Mint {
    authority: AuthorityProcess,
    node: Node,
    requests: Vec<Bytes>,
    directory: tempfile::TempDir,
    next: u64,
}

impl Mint {
    pub(crate) async fn start(options: &Options) -> Result<Self> {
        let directory = options.directory()?;
        let mut authority = AuthorityProcess::start(&directory.path().join("authority")).await?;
        authority.put_entry(REGISTRATION, "/lab/shop/cart", authority::selectors()).await?;
        let node = Node::join(&authority.join().await?).await?;
        let requests = (0..512)
            .map(|_| Ok(csr::build(&PrivateKey::generate(KeyAlgorithm::EcP256)?)?.into()))
            .collect::<Result<_>>()?;
        let mut mint = Self { authority, node, requests, directory, next: 0 };
        mint.turn(Self::x509, PER_TURN, IN_FLIGHT).await?;
        Ok(mint)
    }

    /// Many at once: CPU time of the authority's two processes, beside the check of the request and the signature.
    pub(crate) async fn x509_figure(&mut self) -> Result<Figure> {
        let key = PrivateKey::generate(KeyAlgorithm::EcP256)?;
        let request = csr::build(&key)?;
        let pairs = self
            .pairs(Self::x509, || {
                black_box(csr::parse_and_verify(black_box(&request))?);
                black_box(key.sign(black_box(&[7; CERTIFICATE]))?);
                Ok(())
            })
            .await?;
        let what = format!(
            "X509-SVID, request to durable log, {IN_FLIGHT} in flight; floor: CSR and P-256 signature"
        );
        Ok(figure("mint", pairs, 1.25, what))
    }

    /// The same for JWT-SVIDs.
    pub(crate) async fn jwt_figure(&mut self) -> Result<Figure> {
        let key = PrivateKey::generate(KeyAlgorithm::EcP256)?;
        let pairs = self
            .pairs(Self::jwt, || {
                black_box(key.sign(black_box(&[7; 300]))?);
                Ok(())
            })
            .await?;
        let what = format!("JWT-SVID, request to durable log, {IN_FLIGHT} in flight; floor: P-256 signature");
        Ok(Figure { target: None, ..figure("jwt-mint", pairs, 0.0, what) })
    }

    /// One after the other: how long a caller waits. The disk decides.
    pub(crate) async fn latency_figure(&mut self) -> Result<Figure> {
        let probe = File::create(self.directory.path().join("probe"))?;
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for turn in 0..ONE_AT_A_TIME {
            let start = Instant::now();
            probe.write_all_at(&[7; 512], turn as u64 * 512)?;
            probe.sync_data()?;
            floor.push(start.elapsed().as_secs_f64() * 1e3);
            let start = Instant::now();
            self.turn(Self::x509, 1, 1).await?;
            ours.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let (value, floor) = (median(ours), median(floor));
        Ok(Figure {
            name: "mint-1",
            value,
            unit: "ms",
            floor: Some(floor),
            ratio: Some(value / floor),
            peer_ratio: None,
            target: None,
            what: "latency of one X509-SVID at a time; floor: one fdatasync of the same disk".to_owned(),
        })
    }

    async fn pairs(
        &mut self,
        ask: fn(&mut Self) -> agent_message::Kind,
        floor: impl Fn() -> Result<()> + Sync,
    ) -> Result<Pairs> {
        // On as many threads as the authority signs on: two that share a core, or a clock, slow each other down.
        let threads = thread::available_parallelism()?.get();
        let once = || -> Result<f64> {
            let clock = CpuClock::thread();
            let start = clock.now()?;
            for _ in 0..FLOOR_TURNS {
                floor()?;
            }
            Ok(micros(clock.now()? - start) / f64::from(FLOOR_TURNS))
        };
        let floor = || -> Result<f64> {
            let costs = thread::scope(|scope| {
                let running: Vec<_> = (0..threads).map(|_| scope.spawn(once)).collect();
                running
                    .into_iter()
                    .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
                    .collect::<Result<Vec<f64>>>()
            })?;
            Ok(costs.iter().sum::<f64>() / costs.len() as f64)
        };
        let mut rounds = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let first = floor()?;
            let a = self.cost(ask).await?;
            let b = self.cost(ask).await?;
            rounds.push([first, a, b, floor()?]);
        }
        Ok(Pairs::of(&rounds))
    }

    /// CPU time of the authority and of the process of its keys for each answer, in µs.
    async fn cost(&mut self, ask: fn(&mut Self) -> agent_message::Kind) -> Result<f64> {
        let process = self.authority.process()?;
        let start = process.cpu()?;
        self.turn(ask, PER_TURN, IN_FLIGHT).await?;
        Ok(micros(process.cpu()? - start) / PER_TURN as f64)
    }

    /// Asks `count` times, `in_flight` at once.
    async fn turn(
        &mut self,
        ask: fn(&mut Self) -> agent_message::Kind,
        count: u64,
        in_flight: u64,
    ) -> Result<()> {
        let mut asked = 0;
        for answered in 0..count {
            while asked < count && asked < answered + in_flight {
                let kind = ask(self);
                self.node.say(kind).await?;
                asked += 1;
            }
            match self.node.answer().await? {
                authority_message::Kind::X509Issued(_) | authority_message::Kind::JwtIssued(_) => {}
                other => bail!("the authority answered {other:?}"),
            }
        }
        Ok(())
    }

    fn x509(&mut self) -> agent_message::Kind {
        let request = self.number();
        let csr = usize::try_from(request).ok().and_then(|n| self.requests.get(n % self.requests.len()));
        agent_message::Kind::IssueX509(IssueX509 {
            request,
            registration: REGISTRATION.to_owned(),
            selectors: authority::selectors(),
            csr: csr.cloned().unwrap_or_default(),
        })
    }

    fn jwt(&mut self) -> agent_message::Kind {
        let request = self.number();
        agent_message::Kind::IssueJwt(IssueJwt {
            request,
            registration: REGISTRATION.to_owned(),
            selectors: authority::selectors(),
            audience: vec![format!("spiffe://{}/lab/other/{request}", authority::TRUST_DOMAIN)],
            instance: Bytes::new(),
            chain: Vec::new(),
        })
    }

    const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

const fn figure(name: &'static str, pairs: Pairs, target: f64, what: String) -> Figure {
    Figure {
        name,
        value: pairs.ours,
        unit: "µs",
        floor: Some(pairs.floor),
        ratio: Some(pairs.ratio),
        peer_ratio: None,
        target: Some(target),
        what,
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
