//! What happens in a history: launches, operators and faults, all drawn from its seed.

use std::{sync::Arc, time::Duration};

use bonafide_authority::{
    Refusal,
    admin::Caller,
    records::{RecordChange, SigningKey, registration_key, signing_key::Use},
    simulation,
};
use bonafide_identity::{Certificate, revocation::Subject, time::UnixTime};
use bonafide_wire::{
    admin::{
        BanAgentRequest, ChangeAuthorityRequest, PrepareAuthorityRequest, RevokeRequest, UnrevokeRequest,
        signing_authority::Kind,
    },
    from_subject,
    types::{self, registration::Kind as RegistrationKind},
};

use crate::{
    check::USERS,
    store::Fault,
    world::{DOMAIN, SITES, START, Sabotage, World, facts},
};

/// What kind of history it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    servers: usize,
    agents: usize,
    /// Virtual seconds until the faults end.
    length: i64,
    /// Of a hundred steps, how many are faults.
    faults: u64,
    cut_replies: u64,
    sabotage: Option<Sabotage>,
}

/// Virtual seconds until everything has had its time: twice the longest wait of an agent, and a pool that is drawn anew.
const REST: i64 = 1000;

impl Plan {
    /// Of a seed: mostly short, some as long as the lives of keys.
    pub(crate) fn of(seed: u64) -> Self {
        let long = seed.is_multiple_of(16);
        Self {
            servers: if seed % 3 == 1 { 2 } else { 1 },
            agents: 1 + usize::try_from(seed % 3).unwrap(),
            length: if long { 5000 } else { 1200 },
            faults: if seed % 5 == 4 { 5 } else { 35 },
            cut_replies: if seed % 2 == 1 { 40 } else { 0 },
            sabotage: None,
        }
    }

    /// The same history, with its end cut off; nothing if it is short already.
    pub(crate) fn shorter(self) -> Option<Self> {
        (self.length > 100).then(|| Self { length: self.length * 3 / 4, ..self })
    }

    /// Without faults but this one.
    pub(crate) fn broken(sabotage: Sabotage) -> Self {
        let length = if sabotage == Sabotage::Bundle { 9000 } else { 6000 };
        Self { servers: 1, agents: 2, length, faults: 0, cut_replies: 0, sabotage: Some(sabotage) }
    }
}

/// Plays one history to its end, or to the first violation.
pub(crate) async fn play(seed: u64, plan: Plan) -> World {
    let mut world = World::new(seed, plan.servers, plan.agents).await;
    world.cut_replies = plan.cut_replies;
    for number in 0..plan.agents {
        world.put(format!("base-{number}"), number % 2, 1 + u32::try_from(number).unwrap() % USERS, false);
        world.launch(number, 1 + u32::try_from(number).unwrap() % USERS);
    }
    world.pass(START + 30).await;
    (0..plan.agents).for_each(|number| world.ask_again(number));
    world.pass(START + 60).await;
    world.sabotage = plan.sabotage;
    while world.now < START + plan.length && world.violation.is_none() {
        if world.chance.percent(plan.faults) {
            world.fault();
        } else if plan.sabotage.is_some() {
            world.sabotaged();
        } else {
            world.operate();
        }
        world.rejoin().await;
        let next = world.now + world.chance.between(1, 60);
        world.pass(next).await;
    }
    world.heal();
    let rest = world.now + REST;
    while world.now < rest && world.violation.is_none() {
        world.rejoin().await;
        world.unrevoke(true);
        // Clients whose process had nothing yet go on asking.
        if world.now < rest - 300 {
            (0..plan.agents).for_each(|number| world.ask_again(number));
        }
        let next = world.now + 50;
        world.pass(next).await;
    }
    // A stream ends now and then, and is opened again.
    let last = world.now + 120;
    while world.now < last && world.violation.is_none() && !world.is_quiet() {
        let next = world.now + 1;
        world.pass(next).await;
    }
    if world.violation.is_none() {
        world.check_at_rest();
    }
    world
}

/// On the local socket.
const OPERATOR: Caller = Caller::Local { uid: 0 };

impl World {
    fn put(&mut self, id: String, site: usize, uid: u32, rule: bool) {
        let spiffe_id = if rule {
            format!("spiffe://{DOMAIN}/app/{id}/{{unix.user}}")
        } else {
            format!("spiffe://{DOMAIN}/app/{id}-{uid}")
        };
        let parents: Vec<String> = self
            .nodes
            .iter()
            .filter(|node| node.site == SITES[site])
            .map(|node| node.id.to_string())
            .collect();
        let base = id.starts_with("base");
        let x509_ttl = if base { 0 } else { [0, 600, 1200][self.chance.index(3)] };
        let own = !base && self.chance.percent(25) && !parents.is_empty();
        let wire = types::Registration {
            id,
            kind: if rule { RegistrationKind::Rule } else { RegistrationKind::Entry }.into(),
            site: SITES[site].to_owned(),
            spiffe_id,
            parent: if own { parents[self.chance.index(parents.len())].clone() } else { String::new() },
            selectors: vec![types::Selector { key: "unix.uid".to_owned(), value: uid.to_string() }],
            hint: format!("{}", self.chance.below(3)),
            x509_ttl,
            ..Default::default()
        };
        let now = UnixTime::from_secs(self.now);
        let object = simulation::registration(&wire, &self.trust_domain, now).unwrap();
        self.write(RecordChange::Put(object));
    }

    fn launch(&mut self, number: usize, uid: u32) {
        let pid = i32::try_from(self.chance.below(3)).unwrap() + 10;
        self.next_start += 1;
        let (start, clock) = (self.next_start, self.clock_of(number));
        let node = &mut self.nodes[number];
        node.processes.insert(pid, (start, uid));
        self.say(format!("agent {number}: process {pid} of user {uid} starts"));
        let node = &mut self.nodes[number];
        if node.down_until.is_none() && node.agent.launch((pid, start), facts(uid), clock).is_none() {
            self.crash_agent(number, 5);
        }
    }

    /// Processes come and go, and operators change what they may have.
    fn operate(&mut self) {
        let number = self.chance.index(self.nodes.len());
        if self.nodes[number].sleeps_until > self.now {
            return;
        }
        let uid = 1 + u32::try_from(self.chance.below(USERS.into())).unwrap();
        let id = format!("r{}", self.chance.below(4));
        match self.chance.below(100) {
            0..20 => self.launch(number, uid),
            20..30 => self.ask_again(number),
            30..40 => {
                let clock = self.clock_of(number);
                let node = &mut self.nodes[number];
                if let Some((pid, (start, _))) = node.processes.pop_first()
                    && node.down_until.is_none()
                    && node.agent.end((pid, start), clock).is_none()
                {
                    self.crash_agent(number, 5);
                }
            }
            40..55 => {
                let (site, rule) = (self.chance.index(2), self.chance.percent(30));
                self.put(id, site, uid, rule);
            }
            55..63 => self.write(RecordChange::Remove(registration_key(&id))),
            63..65 => {
                let request = BanAgentRequest { id: self.nodes[number].id.to_string(), ..Default::default() };
                self.nodes[number].outlawed = true;
                self.call(format!("ban agent {number}"), |admin| async move {
                    admin.ban_agent(&OPERATOR, request).await.map(|_| ()).map_err(|why| why.code().to_owned())
                });
            }
            65..67 => self.disk.compact(),
            67..70 => self.replace(),
            70..73 => self.revoke(number),
            73..75 => self.unrevoke(false),
            75..79 => self.order(),
            _ => {}
        }
    }

    /// An operator replaces a key, in his own time.
    fn replace(&mut self) {
        let running: Vec<usize> =
            (0..self.places.len()).filter(|server| self.places[*server].running.is_some()).collect();
        if running.is_empty() {
            return;
        }
        let server = running[self.chance.index(running.len())];
        let (root, revoke) = (self.chance.percent(70), self.chance.percent(50));
        self.say(format!("server {server} is to replace a key: root {root}, revoke {revoke}"));
        if let Some(server) = &self.places[server].running {
            tokio::spawn(server.replace(root, revoke));
        }
    }

    /// An operator revokes an instance, an ID or a site.
    fn revoke(&mut self, number: usize) {
        let kept = self.nodes[number].agent.kept();
        let bound: Vec<_> = kept.iter().filter(|kept| kept.pid.is_some()).collect();
        let subject = match self.chance.below(5) {
            0 => Subject::Site(self.nodes[number].site.into()),
            _ if bound.is_empty() => return,
            1 | 2 => Subject::Instance(bound[self.chance.index(bound.len())].instance),
            _ => {
                let leaf = Certificate::from_der(&bound[self.chance.index(bound.len())].chain[0]).unwrap();
                Subject::Id(leaf.spiffe_id().unwrap().clone())
            }
        };
        let what = match &subject {
            Subject::Instance(_) => format!("revoke an instance of agent {number}"),
            subject => format!("revoke the {subject}"),
        };
        let request = RevokeRequest { subject: Some(from_subject(&subject)), ..Default::default() };
        self.call(what, |admin| async move {
            admin.revoke(&OPERATOR, request).await.map(|_| ()).map_err(|why| why.code().to_owned())
        });
    }

    /// An operator takes a revocation back: of a site, or any.
    fn unrevoke(&mut self, of_site: bool) {
        let records = self.oracle.state.revocation_records();
        let subjects: Vec<Subject> = records
            .map(|record| record.revocation.subject.clone())
            .filter(|subject| {
                matches!(subject, Subject::Site(_)) || !of_site && matches!(subject, Subject::Instance(_))
            })
            .collect();
        if subjects.is_empty() {
            return;
        }
        let subject = &subjects[self.chance.index(subjects.len())];
        let request = UnrevokeRequest { subject: Some(from_subject(subject)), ..Default::default() };
        self.call("take a revocation back".to_owned(), |admin| async move {
            admin.unrevoke(&OPERATOR, request).await.map(|_| ()).map_err(|why| why.code().to_owned())
        });
    }

    /// An operator gives one order, which may make no sense.
    fn order(&mut self) {
        let mut keys: Vec<Arc<SigningKey>> = self.oracle.state.signing_keys().cloned().collect();
        keys.retain(|key| key.r#use() != Use::Ledger);
        // Their IDs are no chance from the seed.
        keys.sort_by_key(|key| (key.published_revision, key.state_since, key.r#use() as i32));
        let force = self.chance.percent(10);
        let kind = [Kind::Root, Kind::Intermediate, Kind::Jwt][self.chance.index(3)];
        let key = &keys[self.chance.index(keys.len())];
        let request = ChangeAuthorityRequest { id: key.id.clone(), force, wait: 60 };
        let of = format!("the {:?} key of revision {}, force {force}", key.r#use(), key.published_revision);
        let code = |why: Refusal| why.code().to_owned();
        match self.chance.below(4) {
            0 => {
                let request = PrepareAuthorityRequest { kind: kind.into() };
                self.call(format!("prepare a key: {kind:?}"), |admin| async move {
                    admin.prepare_authority(&OPERATOR, request).await.map(|_| ()).map_err(code)
                });
            }
            1 => {
                self.insisted |= force;
                self.call(format!("activate {of}"), |admin| async move {
                    admin.activate_authority(&OPERATOR, request).await.map(|_| ()).map_err(code)
                });
            }
            2 => {
                self.insisted |= force;
                self.call(format!("taint {of}"), |admin| async move {
                    admin.taint_authority(&OPERATOR, request).await.map(|_| ()).map_err(code)
                });
            }
            _ => {
                self.insisted |= force;
                self.call(format!("revoke {of}"), |admin| async move {
                    admin.revoke_authority(&OPERATOR, request).await.map(|_| ()).map_err(code)
                });
            }
        }
    }

    /// A process asks once more, as a client that reconnects does.
    fn ask_again(&mut self, number: usize) {
        let clock = self.clock_of(number);
        let node = &mut self.nodes[number];
        if node.down_until.is_some() || node.sleeps_until > self.now {
            return;
        }
        for (pid, (start, uid)) in node.processes.clone() {
            if node.agent.launch((pid, start), facts(uid), clock).is_none() {
                return self.crash_agent(number, 5);
            }
        }
    }

    fn fault(&mut self) {
        self.calm_since = self.now;
        let number = self.chance.index(self.nodes.len());
        let server = self.chance.index(self.places.len());
        match self.chance.below(12) {
            0 => self.cut(number, Some(0), None),
            1 => self.cut(number, None, Some(0)),
            2 => self.cut(number, None, Some(60)),
            3 if self.nodes[number].down_until.is_none() => {
                let down = self.chance.between(0, 40);
                self.crash_agent(number, down);
            }
            4 => {
                let effects = self.chance.index(6);
                self.say(format!("agent {number} is to crash after {effects} effects"));
                self.nodes[number].agent.crash_after(effects);
            }
            5 => {
                let down = self.chance.between(0, 60);
                self.crash_server(server, down);
            }
            6 | 7 => {
                let fault = match self.chance.below(5) {
                    0 => Fault::Clean,
                    1 => Fault::Full,
                    2 => Fault::Unknown(true),
                    3 => Fault::Unknown(false),
                    _ => Fault::Slow(Duration::from_secs(self.chance.below(8))),
                };
                self.say(format!("the next commit of server {server}: {fault:?}"));
                self.places[server].line.fail(fault);
            }
            8 => {
                let full = self.chance.percent(50);
                self.say(format!("the ledger of server {server} is full: {full}"));
                self.places[server].full = full;
                self.places[server].pages.set_full(full);
            }
            9 => {
                let offset = self.chance.between(-45, 45);
                if self.chance.percent(15) {
                    let offset = [-3600, 30 * 86_400][self.chance.index(2)];
                    let time = self.chance.between(2, 60);
                    self.nodes[number].offset = offset;
                    self.nodes[number].clock_until = self.now + time;
                    self.say(format!("the clock of agent {number} is off by {offset} s for {time} s"));
                } else if self.chance.percent(50) {
                    self.nodes[number].offset = offset;
                    self.say(format!("the clock of agent {number} is off by {offset} s"));
                } else {
                    self.places[server].offset = offset;
                    self.say(format!("the clock of server {server} is off by {offset} s"));
                }
                let now = self.now;
                self.set_time(now);
            }
            11 if self.chance.percent(50) => {
                let time = self.chance.between(5, 1500);
                self.say(format!("the machine of agent {number} is suspended for {time} s"));
                self.nodes[number].sleeps_until = self.now + time;
                self.cut(number, Some(0), Some(0));
            }
            10 if self.chance.percent(20) => {
                let lost = self.chance.index(3);
                for server in 0..self.places.len() {
                    self.crash_server(server, 5);
                }
                self.disk.restore(lost);
                self.say("the store is restored from a copy".to_owned());
            }
            _ => {}
        }
    }

    /// Agents that were banned join again, with a new line; so do those whose SVID ended while there was no authority.
    async fn rejoin(&mut self) {
        for number in 0..self.nodes.len() {
            let clock = self.clock_of(number);
            let node = &self.nodes[number];
            if node.sleeps_until > self.now || node.offset.abs() > 60 {
                continue;
            }
            let (banned, distrusted) = (node.banned, node.distrusted);
            let expired = node.agent.node_expiry().is_none_or(|end| end <= clock);
            let away = node.synced_since.is_none_or(|since| self.now - since < 300)
                || self.now - self.calm_since < 300;
            if expired && !banned && !away {
                self.violated(format!("the SVID of agent {number} itself was not renewed in time"));
            }
            if !banned && !expired && !distrusted {
                continue;
            }
            let site = self.nodes[number].site;
            if let Some(node) = self.join(site).await {
                self.say(format!("agent {number} joins again"));
                self.cut(number, Some(0), None);
                self.nodes[number] = node;
            }
        }
    }

    fn heal(&mut self) {
        self.say("the faults end");
        self.cut_replies = 0;
        self.calm_since = self.now;
        for place in &mut self.places {
            place.line.heal();
            place.full = false;
            place.pages.set_full(false);
            place.offset = 0;
        }
        for node in &mut self.nodes {
            (node.offset, node.clock_until, node.sleeps_until) = (0, i64::MAX, 0);
        }
        for number in 0..self.nodes.len() {
            self.nodes[number].agent.crash_after(usize::MAX);
            self.ask_again(number);
        }
        let now = self.now;
        self.set_time(now);
    }

    /// What is broken on purpose, besides what the network does.
    fn sabotaged(&mut self) {
        match self.sabotage {
            Some(Sabotage::Update) => self.put("r0".to_owned(), 0, 1, false),
            Some(Sabotage::Store) => {
                self.places[0].line.fail(Fault::Lie);
                self.put("r1".to_owned(), 0, 1, false);
            }
            Some(Sabotage::Root) => {
                let change = self.oracle.second_root().unwrap();
                self.disk.append(vec![change]);
            }
            Some(Sabotage::Grant) => {
                self.oracle.forget();
                self.nodes[0].touched = true;
            }
            Some(Sabotage::Clone) => {
                let clock = self.clock_of(0);
                let running = self.running(0);
                let renewed = self.nodes[0].agent.kept().iter().any(|kept| kept.generation > 0);
                match self.nodes[0].older.take() {
                    Some(mut older) if renewed => {
                        self.cut(0, Some(0), Some(0));
                        older.restart(&running, clock);
                        self.nodes[0].wire = None;
                        self.nodes[0].agent = older;
                    }
                    older => self.nodes[0].older = Some(older.unwrap_or_else(|| self.nodes[0].agent.copy())),
                }
            }
            _ => {}
        }
    }
}
