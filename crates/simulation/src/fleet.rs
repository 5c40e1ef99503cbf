//! All agents of a simulation: made, connected, changed, and ended together.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bonafide_attest::join::JoinLine;
use bonafide_identity::SpiffeId;
use bonafide_wire::{
    admin::{
        BanAgentRequest, CreateJoinTokenRequest, DeleteRequest, PutRegistrationRequest, PutSiteRequest,
        StatusRequest, WaitRequest, admin_client::AdminClient,
    },
    problem_of,
    types::Problem,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::Instant,
};
use tonic::{Status, transport::Channel};

use crate::{
    agent::{Shared, TIMED, VirtualAgent},
    line::{Line, Place, failed},
    meter::{Counters, Traffic},
    plan::{Plan, selectors},
    tally::{Event, Tally},
    workload::{Keys, Workload},
};

/// Calls of the admin API at a time.
const CALLS: usize = 256;
/// Nodes that join, or connect for the first time, at a time.
const AT_A_TIME: usize = 64;
/// How often a node tries to join: the authority bounds how many may come from one address.
const JOINS: u32 = 60;
const JOIN_PAUSE: Duration = Duration::from_secs(1);
/// For what takes as long as a machine is slow.
const PATIENCE: Duration = Duration::from_secs(600);

/// How far a fleet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// In words.
    pub stage: &'static str,
    /// What is done of it.
    pub done: usize,
    /// All of it.
    pub total: usize,
}

/// Why a fleet could not be made, in the authority's words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct FleetError(Problem);

/// Virtual agents with their streams.
#[derive(Debug)]
pub struct Fleet {
    plan: Plan,
    admin: AdminClient<Channel>,
    shared: Arc<Shared>,
    ids: Vec<SpiffeId>,
    counters: Vec<Arc<Counters>>,
    stop: watch::Sender<bool>,
    agents: JoinSet<()>,
}

impl FleetError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &str {
        if self.0.hint.is_empty() { "look at the authority's log" } else { &self.0.hint }
    }
}

impl From<Problem> for FleetError {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<Status> for FleetError {
    fn from(status: Status) -> Self {
        Self(problem_of(&status))
    }
}

impl Fleet {
    /// Makes the site, lets all nodes join, puts the registrations, and connects all agents. Returns when every agent
    /// has its registrations and every launch its first SVID.
    ///
    /// # Errors
    /// What the authority refused, or that it took ten minutes.
    pub async fn start(
        mut admin: AdminClient<Channel>,
        plan: Plan,
        progress: impl Fn(Progress),
    ) -> Result<Self, FleetError> {
        let status = admin.status(StatusRequest {}).await?.into_inner();
        let trust_domain =
            status.trust_domain.parse().map_err(|error| failed("simulation.trust-domain", error))?;
        let site = plan.site(&trust_domain);
        admin.put_site(PutSiteRequest { site: Some(site), ..Default::default() }).await?;
        let shared = Arc::new(Shared {
            tally: Tally::default(),
            keys: Keys::new(plan.reuse_keys)?,
            trust_domain,
            began: Instant::now(),
            synced: watch::Sender::new(0),
            launched: watch::Sender::new(0),
            delivered: 0.into(),
            delivery: tokio::sync::Notify::new(),
        });
        let counters: Vec<Arc<Counters>> = (0..plan.agents).map(|_| Arc::default()).collect();
        let lines = join_all(&admin, &plan, &counters, &shared, &progress).await?;
        let ids: Vec<SpiffeId> = lines.iter().map(|line| line.id.clone()).collect();
        let fleet = Self {
            plan,
            admin,
            shared,
            ids,
            counters,
            stop: watch::Sender::new(false),
            agents: JoinSet::new(),
        };
        fleet.put_all(&progress).await?;
        fleet.connect(lines, &progress).await
    }

    /// Counters and latencies of all agents.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Bytes of all agents, over all of their connections.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.counters.iter().fold(Traffic::default(), |sum, counters| {
            let one = counters.traffic();
            Traffic {
                to_agents: sum.to_agents + one.to_agents,
                from_agents: sum.from_agents + one.from_agents,
            }
        })
    }

    /// Changes a registration, by number, and has its delivery timed. Returns when it is durable.
    ///
    /// # Errors
    /// What the authority refused.
    pub async fn change(&self, registration: usize) -> Result<(), FleetError> {
        let mut changed = self.plan.registration(registration, &self.shared.trust_domain, &self.ids);
        changed.hint = format!("{TIMED}{}", self.shared.began.elapsed().as_micros());
        let request = PutRegistrationRequest { registration: Some(changed), ..Default::default() };
        self.admin.clone().put_registration(request).await?;
        Ok(())
    }

    /// Changes a registration, and waits until as many agents as `needed` have acknowledged it.
    ///
    /// # Errors
    /// What the authority refused, or that it took ten minutes.
    pub async fn change_and_wait(&self, registration: usize, needed: usize) -> Result<(), FleetError> {
        let wanted = self.shared.delivered.load(Ordering::Relaxed) + needed;
        self.change(registration).await?;
        let delivered = async {
            loop {
                let delivery = self.shared.delivery.notified();
                tokio::pin!(delivery);
                delivery.as_mut().enable();
                if self.shared.delivered.load(Ordering::Relaxed) >= wanted {
                    return;
                }
                delivery.await;
            }
        };
        in_time("the change was not delivered", delivered).await
    }

    /// Waits until every agent knows of everything.
    ///
    /// # Errors
    /// What the authority refused, or that some never did.
    pub async fn settle(&self) -> Result<(), FleetError> {
        let revision = self.admin.clone().status(StatusRequest {}).await?.into_inner().revision;
        let behind =
            self.admin.clone().wait(WaitRequest { revision, timeout: 30 }).await?.into_inner().behind;
        if behind.is_empty() {
            return Ok(());
        }
        let why = format!("{} agents have not acknowledged revision {revision}", behind.len());
        Err(failed("simulation.behind", why).into())
    }

    /// How many agents have a stream and all registrations, now and whenever that changes.
    #[must_use]
    pub fn synced(&self) -> watch::Receiver<usize> {
        self.shared.synced.subscribe()
    }

    /// Ends all agents.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.agents.join_next().await.is_some() {}
    }

    /// Ends all agents, and takes back what [`Self::start`] made as far as the authority allows it: registrations are
    /// deleted and agents banned. The site stays.
    ///
    /// # Errors
    /// What the authority refused.
    pub async fn clear(self) -> Result<(), FleetError> {
        let (plan, admin, ids) = (self.plan.clone(), self.admin.clone(), self.ids.clone());
        self.stop().await;
        let deleted = (0..plan.entries).map(|number| {
            let (mut admin, name) = (admin.clone(), plan.registration_id(number));
            async move { admin.delete_registration(DeleteRequest { name, ..Default::default() }).await }
        });
        futures_util::stream::iter(deleted)
            .buffer_unordered(CALLS)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await?;
        let banned = ids.into_iter().map(|id| {
            let mut admin = admin.clone();
            let reason = "the simulation has ended".to_owned();
            async move {
                admin.ban_agent(BanAgentRequest { id: id.to_string(), reason, ..Default::default() }).await
            }
        });
        futures_util::stream::iter(banned)
            .buffer_unordered(CALLS)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await?;
        Ok(())
    }

    async fn put_all(&self, progress: &impl Fn(Progress)) -> Result<(), FleetError> {
        let puts = (0..self.plan.entries).map(|number| {
            let registration = self.plan.registration(number, &self.shared.trust_domain, &self.ids);
            let mut admin = self.admin.clone();
            let request = PutRegistrationRequest { registration: Some(registration), ..Default::default() };
            async move { admin.put_registration(request).await }
        });
        let mut puts = futures_util::stream::iter(puts).buffer_unordered(CALLS);
        let (mut done, total) = (0, self.plan.entries);
        while let Some(put) = puts.next().await {
            put?;
            done += 1;
            progress(Progress { stage: "putting registrations", done, total });
        }
        Ok(())
    }

    async fn connect(mut self, lines: Vec<Line>, progress: &impl Fn(Progress)) -> Result<Self, FleetError> {
        let total = lines.len();
        let turns = Arc::new(Semaphore::new(AT_A_TIME));
        for (number, line) in lines.into_iter().enumerate() {
            let workloads = self.plan.launches_of(number).into_iter();
            let workloads = workloads
                .map(|number| Workload::new(self.plan.registration_id(number), selectors(number)))
                .collect();
            let agent = VirtualAgent::new(line, Arc::clone(&self.shared), workloads);
            let turn = in_time("the agents did not connect", Arc::clone(&turns).acquire_owned()).await?;
            let turn = turn.map_err(|error| failed("simulation.stopped", error))?;
            self.agents.spawn(agent.run(turn, self.stop.subscribe()));
            progress(Progress { stage: "connecting agents", done: number, total });
        }
        let mut synced = self.synced();
        in_time("the agents did not connect", synced.wait_for(|synced| *synced >= total)).await?.ok();
        let mut launched = self.shared.launched.subscribe();
        let launches = async {
            while *launched.borrow_and_update() < self.plan.workloads {
                let done = *launched.borrow();
                progress(Progress { stage: "launching workloads", done, total: self.plan.workloads });
                if launched.changed().await.is_err() {
                    return;
                }
            }
        };
        in_time("the workloads did not get their SVIDs", launches).await?;
        Ok(self)
    }
}

async fn join_all(
    admin: &AdminClient<Channel>,
    plan: &Plan,
    counters: &[Arc<Counters>],
    shared: &Shared,
    progress: &impl Fn(Progress),
) -> Result<Vec<Line>, FleetError> {
    let joins = counters.iter().enumerate().map(|(number, counters)| {
        let mut admin = admin.clone();
        let site = plan.site.clone();
        async move {
            let request = CreateJoinTokenRequest { site, ..Default::default() };
            let word = admin.create_join_token(request).await?.into_inner().join;
            let line: JoinLine = word.parse().map_err(|error| failed("simulation.join-line", error))?;
            join(&line, &Place::new(&line.address, number, Arc::clone(counters)), shared).await
        }
    });
    // In order, for registrations name their hosts by number.
    let mut joins = futures_util::stream::iter(joins).buffered(AT_A_TIME);
    let mut lines = Vec::with_capacity(counters.len());
    while let Some(line) = joins.next().await {
        lines.push(line?);
        progress(Progress { stage: "joining nodes", done: lines.len(), total: counters.len() });
    }
    Ok(lines)
}

async fn join(line: &JoinLine, place: &Place, shared: &Shared) -> Result<Line, FleetError> {
    let mut tries = 0;
    loop {
        let began = Instant::now();
        match Line::join(line, place.clone()).await {
            Ok(joined) => {
                shared.tally.record(Event::Join, began.elapsed());
                return Ok(joined);
            }
            Err(problem) => {
                shared.tally.error(&problem.code);
                tries += 1;
                if tries >= JOINS || !problem.code.starts_with("rate.") {
                    return Err(problem.into());
                }
            }
        }
        tokio::time::sleep(JOIN_PAUSE).await;
    }
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> Result<T, FleetError> {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.map_err(|_| failed("simulation.timed-out", format!("{what} in time")).into())
}
