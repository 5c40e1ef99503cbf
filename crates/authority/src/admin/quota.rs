//! How much the admins of sites may write. Operators on the local socket are not counted; an admin of a site is a
//! workload, and one that writes in a loop must not keep everybody else from writing.

use bonafide_identity::SpiffeId;
use tokio::time::Instant;
use tonic::Code;

use super::Caller;
use crate::{
    rates::{Limit, Rates},
    refusal::Refusal,
};

/// Writes of one admin SVID.
const OF_ADMIN: Limit = Limit { per_second: 20, burst: 200 };
/// Writes of all the admins that one site's evidence earns: a rule may yield any number of them.
const OF_SITE: Limit = Limit { per_second: 50, burst: 500 };

/// The buckets of all admins of sites.
#[derive(Debug, Default)]
pub(super) struct Quota {
    admins: Rates<SpiffeId>,
    sites: Rates<String>,
}

impl Quota {
    /// Counts a write that costs as much as `cost` ordinary ones.
    ///
    /// # Errors
    /// `admin.too-many-writes`, with the time to wait.
    pub(super) fn charge(&self, caller: &Caller, cost: u32) -> Result<(), Refusal> {
        let Caller::Peer(admin) = caller else { return Ok(()) };
        let now = Instant::now();
        let of_admin = self.admins.charge(&admin.id, cost, OF_ADMIN, now);
        of_admin.and_then(|()| self.sites.charge(&admin.site, cost, OF_SITE, now)).map_err(|too_many| {
            let seconds = too_many.retry_after.as_secs_f64().ceil().max(1.0);
            Refusal::new(
                Code::ResourceExhausted,
                "admin.too-many-writes",
                "this admin, or its site, writes too much",
            )
            .hint(format!("try again in {seconds} s"))
        })
    }
}
