//! The authority's admin API, as commands use it.

use std::{path::Path, time::Duration};

use bonafide_crypto::random::{Random, SystemRandom};
use bonafide_wire::admin::{WaitRequest, admin_client::AdminClient};
use tonic::transport::Channel;

use crate::{Console, Failure, duration, progress::with_spinner, socket};

/// A connected client.
pub type Client = AdminClient<Channel>;

/// Items of one page of a list.
pub const PAGE: u32 = 1000;

/// Connects to the admin socket.
///
/// # Errors
/// [`Failure::socket`].
pub async fn connect(path: &Path) -> Result<Client, Failure> {
    Ok(AdminClient::new(socket::connect("authority", path).await?))
}

/// Whether to wait until agents know of a change.
#[derive(Clone, Debug, clap::Args)]
pub struct WaitArgs {
    /// Return only once every connected agent knows of the change
    #[arg(long)]
    wait: bool,
    /// With --wait: how long to wait
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    timeout: u32,
}

impl WaitArgs {
    /// How long the authority is to wait for agents before it does or refuses what they are not ready for; 0: not at all.
    pub fn seconds(&self) -> u32 {
        if self.wait { self.timeout } else { 0 }
    }

    /// Waits, if that was asked for.
    ///
    /// # Errors
    /// [`Failure::Behind`] when agents have not acknowledged in time; the change itself stands.
    pub async fn finish(&self, console: &Console, client: &mut Client, revision: u64) -> Result<(), Failure> {
        if !self.wait {
            return Ok(());
        }
        let request = WaitRequest { revision, timeout: self.timeout };
        // The authority keeps the time; ours is for an authority that does not answer at all.
        let limit = Duration::from_secs(u64::from(self.timeout).saturating_add(5));
        let answer = tokio::time::timeout(limit, client.wait(request));
        let answer = with_spinner(console, "waiting for the agents", answer).await;
        let what = || Failure::TimedOut { what: "waiting for the agents".into(), limit: self.timeout.into() };
        let agents = answer.map_err(|_| what())??.into_inner().behind;
        if agents.is_empty() { Ok(()) } else { Err(Failure::Behind { agents, revision }) }
    }
}

/// A key that makes a write happen once, however often it is sent: drawn for each invocation.
pub fn idempotency_key() -> String {
    let random: &dyn Random = &SystemRandom;
    crate::text::hex(&random.array::<16>())
}
