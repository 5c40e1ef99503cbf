//! Workloads of several agents that talk to each other all the time, with the SDK.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Result, anyhow};
use bonafide_sdk::X509Source;
use bonafide_tls::{Authorizer, ClientConfig, ServerConfig};
use tokio::task::JoinHandle;

use super::{agent::Agent, server::TRUST_DOMAIN};

/// One workload: how it serves, and how it calls.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) source: X509Source,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

impl Peer {
    /// With what this agent gives to this process.
    pub(crate) async fn of(agent: &Agent) -> Result<Self> {
        let source = X509Source::connect_to(&format!("unix://{}", agent.socket().display())).await?;
        let members = || Ok::<_, anyhow::Error>(Authorizer::member_of(TRUST_DOMAIN.parse()?));
        let server = bonafide_sdk::tls::server_config(&source, members()?)?;
        let client = bonafide_sdk::tls::client_config(&source, members()?)?;
        Ok(Self { source, server, client })
    }

    /// Who has issued what it shows now.
    pub(crate) fn issuer(&self) -> Option<Vec<u8>> {
        self.source.svid().ok()?.chain().first()?.authority_key_id().map(<[u8]>::to_vec)
    }
}

/// A handshake, in memory.
pub(crate) async fn handshake(server: &ServerConfig, client: &ClientConfig) -> Result<(), String> {
    let (here, there) = tokio::io::duplex(64 * 1024);
    let (served, called) = tokio::join!(server.accept(here), client.connect(there));
    served.map_err(|error| error.to_string())?;
    called.map_err(|error| error.to_string())?;
    Ok(())
}

/// Handshakes of everybody with everybody, until it is ended.
#[derive(Debug)]
pub(crate) struct Load {
    ends: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    task: JoinHandle<BTreeMap<String, u64>>,
}

impl Load {
    pub(crate) fn start(peers: &[Peer]) -> Self {
        let (ends, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (peers, ended, count) = (peers.to_vec(), Arc::clone(&ends), Arc::clone(&done));
        let task = tokio::spawn(async move {
            let mut failures = BTreeMap::new();
            while !ended.load(Ordering::Relaxed) {
                for server in &peers {
                    for client in &peers {
                        match handshake(&server.server, &client.client).await {
                            Ok(()) => _ = count.fetch_add(1, Ordering::Relaxed),
                            Err(why) => *failures.entry(why).or_insert(0) += 1,
                        }
                    }
                }
            }
            failures
        });
        Self { ends, done, task }
    }

    /// How many there were, and why some failed.
    pub(crate) async fn finish(self) -> Result<(u64, BTreeMap<String, u64>)> {
        self.ends.store(true, Ordering::Relaxed);
        let failures = self.task.await.map_err(|_| anyhow!("the load has stopped"))?;
        Ok((self.done.load(Ordering::Relaxed), failures))
    }
}
