//! What goes over the network, and what the ends do with it: in order within a stream, late, or never.

use std::collections::VecDeque;

use bonafide_authority::simulation::Server;
use bonafide_crypto::digest::SetDigest;
use bonafide_identity::{VerifiedX509Svid, time::UnixTime, x509};
use bonafide_wire::node::{
    Acknowledge, AuthorityMessage, Banned, agent_message::Kind as Said, authority_message::Kind as Told,
};

use crate::world::{Ear, START, Sabotage, Wire, World, facts};

/// An agent gives up a stream on which nothing has come for so long.
const FIRST_MESSAGE: i64 = 30;
const BOOKMARK: i64 = 30;

impl World {
    /// Everything that happens at this moment.
    pub(crate) async fn happen(&mut self) {
        self.start_servers().await;
        for _ in 0..50 {
            let mut moved = false;
            for number in 0..self.nodes.len() {
                moved |= self.agent_turn(number);
                moved |= self.hear(number).await;
            }
            self.settle().await;
            for number in 0..self.places.len() {
                self.server_turn(number);
            }
            if !moved {
                break;
            }
        }
    }

    /// Everything that an agent does now by itself. Says whether something happened.
    fn agent_turn(&mut self, number: usize) -> bool {
        let (now, clock) = (self.now, self.clock_of(number));
        if let Some(until) = self.nodes[number].down_until {
            if until > now {
                return false;
            }
            let running = self.running(number);
            let node = &mut self.nodes[number];
            node.down_until = None;
            node.retry_at = now;
            node.agent.restart(&running, clock);
            // A server's launches ask again over their own connections.
            let processes: Vec<(i32, (u64, u32))> = node.processes.clone().into_iter().collect();
            for (pid, (start, uid)) in processes {
                let _ready = node.agent.launch((pid, start), facts(uid), clock);
            }
            self.say(format!("agent {number} has started again"));
        }
        if self.nodes[number].banned || self.nodes[number].sleeps_until > now {
            return false;
        }
        let node = &mut self.nodes[number];
        if let Some(wire) = &node.wire
            && (wire.ends_at.is_some_and(|at| at <= now)
                || (!node.agent.is_synced() && wire.opened_at + FIRST_MESSAGE <= now))
        {
            self.hang_up(number);
        }
        if self.nodes[number].wire.is_none() && self.nodes[number].retry_at <= now {
            self.dial(number);
        }
        let node = &mut self.nodes[number];
        if node.agent.next_tick().is_some_and(|at| at <= clock) && node.agent.tick(clock).is_none() {
            self.crash_agent(number, 5);
            return true;
        }
        self.send(number);
        self.read(number)
    }

    fn hang_up(&mut self, number: usize) {
        self.cut(number, Some(0), None);
        let (clock, retry_at) = (self.clock_of(number), self.now + self.chance.between(1, 8));
        let node = &mut self.nodes[number];
        node.wire = None;
        node.retry_at = retry_at;
        node.synced_since = None;
        if node.agent.disconnected(clock).is_none() {
            self.crash_agent(number, 5);
        }
    }

    fn dial(&mut self, number: usize) {
        let server = self.chance.index(self.places.len());
        if self.places[server].running.is_none() {
            self.nodes[number].retry_at = self.now + self.chance.between(1, 8);
            return;
        }
        let svid = match self.shake_hands(number, server) {
            Ok(svid) => svid,
            Err(why) => {
                self.say(format!("agent {number} and server {server} don't accept each other: {why}"));
                let (clock, retry_at) = (self.clock_of(number), self.now + self.chance.between(1, 8));
                let insisted = self.insisted;
                let node = &mut self.nodes[number];
                node.retry_at = retry_at;
                if node.agent.refused(&why, clock).is_none() {
                    self.crash_agent(number, 5);
                }
                let node = &mut self.nodes[number];
                node.banned |= why == "agent.banned";
                // After that, only a person can help: also one who has cut agents off himself.
                node.distrusted |= insisted && why == "server: x509.unknown-authority";
                let authority =
                    ["x509.unknown-authority", "x509.distrusted-authority"].contains(&why.as_str());
                node.distrusted |= authority;
                let waited_for = !insisted && !node.outlawed;
                if authority && waited_for {
                    self.violated(format!("agent {number} was away, and nobody waited for it: {why}"));
                }
                return;
            }
        };
        self.next_stream += 1;
        let at = self.now + self.chance.between(0, 2);
        let node = &mut self.nodes[number];
        let hello = node.agent.connected(&self.places[server].name);
        node.wire = Some(Wire {
            number: self.next_stream,
            server,
            opened_at: self.now,
            svid,
            up: VecDeque::from([(at, Said::Hello(hello))]),
            down: VecDeque::new(),
            ends_at: None,
            dead: false,
        });
        self.say(format!("agent {number} connects to server {server}"));
    }

    /// Both sides judge each other, each by what it knows; the code of the refusal otherwise.
    fn shake_hands(&self, number: usize, server: usize) -> Result<VerifiedX509Svid, String> {
        let (node, place) = (&self.nodes[number], &self.places[server]);
        let running = place.running.as_ref().unwrap();
        let shown = running.certificates();
        let shown: Vec<&[u8]> = shown.iter().map(AsRef::as_ref).collect();
        let trust = node.agent.trust().map_err(|error| error.to_string())?;
        x509::verify(&shown, &trust, self.clock_of(number))
            .map_err(|error| format!("server: {}", error.code()))?;
        running.accept(&node.agent.node_chain()).map_err(|refusal| refusal.code().to_owned())
    }

    /// What the agent says goes on its way.
    fn send(&mut self, number: usize) {
        let now = self.now;
        let node = &mut self.nodes[number];
        for said in node.agent.take_sent() {
            let Some(wire) = &mut node.wire else { continue };
            if self.sabotage == Some(Sabotage::Renewal) && matches!(said, Said::RenewX509(_)) {
                continue;
            }
            let before = wire.up.back().map_or(now, |(at, _)| *at);
            let at = before.max(now + self.chance.between(0, 2));
            wire.up.push_back((at, said));
        }
    }

    /// What has arrived at the agent.
    fn read(&mut self, number: usize) -> bool {
        let (now, clock) = (self.now, self.clock_of(number));
        let mut moved = false;
        loop {
            let node = &mut self.nodes[number];
            let Some(wire) = node.wire.as_mut().filter(|wire| !wire.dead) else { return moved };
            let Some((_, told)) = wire.down.pop_front_if(|(at, _)| *at <= now) else { return moved };
            let name = crate::words::told(&told);
            if let Told::Refused(refused) = &told {
                let code = refused.problem.as_ref().map(|problem| problem.code.clone()).unwrap_or_default();
                let benign = ["lineage.ended", "lineage.previous"].contains(&code.as_str());
                if code.starts_with("lineage.") && !benign {
                    self.violated(format!("an honest agent {number} is refused with {code}"));
                }
            }
            self.say(format!("agent {number} is told {name}"));
            let node = &mut self.nodes[number];
            node.touched |= !matches!(told, Told::Bookmark(_) | Told::Reported(_));
            moved = true;
            match node.agent.message(AuthorityMessage { kind: Some(told) }, clock) {
                None => {
                    self.crash_agent(number, 5);
                    return true;
                }
                Some(Err(why)) => {
                    self.say(format!("agent {number} closes its stream: {why}"));
                    self.nodes[number].banned |= why == "banned";
                    self.hang_up(number);
                    return true;
                }
                Some(Ok(())) => {
                    if node.agent.is_synced() && node.synced_since.is_none() {
                        node.synced_since = Some(now);
                    }
                }
            }
            self.send(number);
        }
    }

    /// What has arrived at the agent's server.
    async fn hear(&mut self, number: usize) -> bool {
        let now = self.now;
        let mut moved = false;
        loop {
            let node = &mut self.nodes[number];
            let Some(wire) = node.wire.as_mut().filter(|wire| !wire.dead) else { return moved };
            let Some((_, said)) = wire.up.pop_front_if(|(at, _)| *at <= now) else { return moved };
            let (server, stream, svid) = (wire.server, wire.number, wire.svid.clone());
            let expires_at = svid.not_after();
            let place = &mut self.places[server];
            let Some(running) = &place.running else { return moved };
            moved = true;
            self.trace.push(format!(
                "{:>5} server {server} hears {}",
                now - START,
                crate::words::said(&said)
            ));
            let heard = match said {
                Said::Hello(hello) => match running.stream(svid, &hello).await {
                    Ok(opened) => {
                        // As a server does: the oldest of three streams ends.
                        let own = place.streams.iter().filter(|ear| ear.agent == number).count();
                        if own >= 2
                            && let Some(oldest) = place.streams.iter().position(|ear| ear.agent == number)
                        {
                            place.streams.remove(oldest);
                        }
                        place.streams.push(Ear {
                            number: stream,
                            agent: number,
                            stream: opened,
                            bookmark_at: now + BOOKMARK,
                            ends_at: None,
                            expires_at,
                        });
                        Ok(())
                    }
                    Err(refusal) => Err(refusal.code().to_owned()),
                },
                said => match place.streams.iter_mut().find(|ear| ear.number == stream) {
                    Some(ear) => ear.stream.hear(running, said),
                    None => Err("gone".to_owned()),
                },
            };
            if let Err(why) = heard {
                self.end_stream(server, stream, number, &why);
            } else {
                self.deliver(server, stream);
            }
        }
    }

    /// A server ends a stream, with the reason.
    fn end_stream(&mut self, server: usize, stream: u64, number: usize, why: &str) {
        self.say(format!("server {server} ends the stream of agent {number}: {why}"));
        self.places[server].streams.retain(|ear| ear.number != stream);
        let (now, later) = (self.now, self.now + self.chance.between(0, 2));
        if let Some(wire) = self.nodes[number].wire.as_mut().filter(|wire| wire.number == stream) {
            if why == "agent.banned" {
                wire.down.push_back((now, Told::Banned(Banned::default())));
            } else {
                wire.dead = true;
            }
            wire.ends_at = Some(later);
        }
    }

    /// Everything that a server does now by itself.
    fn server_turn(&mut self, server: usize) {
        let now = self.now;
        if let Some(code) = self.places[server].running.as_ref().and_then(Server::failure) {
            if !["store.unknown", "store.closed"].contains(&code.as_str()) {
                self.violated(format!("server {server} can't follow the log: {code}"));
            }
            self.crash_server(server, 10);
            return;
        }
        let streams: Vec<(u64, usize)> =
            self.places[server].streams.iter().map(|ear| (ear.number, ear.agent)).collect();
        for (stream, agent) in streams {
            let place = &mut self.places[server];
            let Some(running) = &place.running else { return };
            let clock = UnixTime::from_secs(now + place.offset);
            let Some(ear) = place.streams.iter_mut().find(|ear| ear.number == stream) else { continue };
            if ear.ends_at.is_some_and(|at| at <= now) {
                place.streams.retain(|ear| ear.number != stream);
                continue;
            }
            if ear.expires_at <= clock {
                self.end_stream(server, stream, agent, "its SVID has expired");
                continue;
            }
            if let Err(refusal) = ear.stream.advance(running) {
                self.end_stream(server, stream, agent, refusal.code());
                continue;
            }
            if ear.bookmark_at <= now {
                ear.bookmark_at = now + BOOKMARK;
                ear.stream.bookmark(running);
            }
            self.deliver(server, stream);
        }
    }

    /// What a server says goes on its way.
    fn deliver(&mut self, server: usize, stream: u64) {
        let now = self.now;
        let of_stream = |ear: &&mut Ear| ear.number == stream;
        let Some(number) = self.places[server].streams.iter_mut().find(of_stream).map(|ear| ear.agent) else {
            return;
        };
        let mut forgeries = Vec::new();
        let synced = self.nodes[number].agent.is_synced();
        let forges = self.sabotage == Some(Sabotage::Acknowledgement) && now > START + 600 && synced;
        let digest = match (forges, &self.places[server].running) {
            (true, Some(running)) => {
                let state = running.registry().state();
                state.agent(&self.nodes[number].id).map_or([0; 32], |agent| state.digest_of(agent).bytes())
            }
            _ => [0; 32],
        };
        let ear = self.places[server].streams.iter_mut().find(of_stream);
        for mut told in ear.map(|ear| ear.stream.take_messages()).unwrap_or_default() {
            let wire = self.nodes[number].wire.as_mut();
            let Some(wire) = wire.filter(|wire| wire.number == stream && !wire.dead) else { continue };
            let renewal = matches!(&told, Told::X509Issued(issued) if issued.generation > 0 || issued.instance.is_empty());
            if renewal && self.chance.percent(self.cut_replies) {
                self.cuts += 1;
                self.cut(number, None, None);
                continue;
            }
            if forges {
                let revision = match &told {
                    Told::Update(update) => update.revision,
                    Told::Bookmark(bookmark) => bookmark.revision,
                    _ => 0,
                };
                if revision > 0 {
                    let revocations_digest = self.nodes[number].agent.revocations().digest().to_vec().into();
                    let set_digest = digest.to_vec().into();
                    let policies_digest = SetDigest::default().bytes().to_vec().into();
                    let forged = Acknowledge { revision, set_digest, revocations_digest, policies_digest };
                    forgeries.push(Said::Acknowledge(forged));
                    continue;
                }
            }
            if let Told::Update(update) = &mut told {
                match self.sabotage {
                    Some(Sabotage::Update) => drop(update.upserts.pop()),
                    Some(Sabotage::Bundle) if now > START + 600 => update.bundle = Default::default(),
                    _ => {}
                }
            }
            let before = wire.down.back().map_or(now, |(at, _)| *at);
            let at = before.max(now + self.chance.between(0, 2));
            wire.down.push_back((at, told));
        }
        let place = &mut self.places[server];
        let ear = place.streams.iter_mut().find(|ear| ear.number == stream);
        if let (Some(ear), Some(running)) = (ear, &place.running) {
            // The server may have had enough of that.
            forgeries.into_iter().for_each(|forged| drop(ear.stream.hear(running, forged)));
        }
    }
}
