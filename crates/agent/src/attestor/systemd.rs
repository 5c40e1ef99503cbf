//! The system's unit that a process belongs to: `systemd.*` selectors.
//!
//! | selector | value |
//! |---|---|
//! | `systemd.id` | name of the unit, as `nginx.service` or `session-3.scope` |
//!
//! It comes from the process' control group, which only root can make it leave. It says which unit the process was
//! started in, and nothing of what the unit runs. What a user's own service manager starts belongs to
//! `user@<uid>.service`: that user makes and names such units as he likes, so they are not told apart. Inside a container
//! that systemd knows, the unit is the container's scope, whatever units run within it. Nothing is asked over D-Bus.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Attestor, Findings, Subject, cgroups};

/// The `systemd` attestor.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemdAttestor;

impl Attestor for SystemdAttestor {
    fn name(&self) -> &'static str {
        "systemd"
    }

    fn attest(&self, subject: Arc<Subject>) -> BoxFuture<'_, Findings> {
        Box::pin(async move {
            let mut findings = Findings::default();
            let unit = cgroups::look(&subject.process).and_then(|seen| Ok(seen.groups.systemd_unit()?));
            match unit {
                Ok(Some(unit)) => findings.add("systemd.id", &unit),
                Ok(None) => {}
                Err(error) => findings.fail("systemd.id", &format_args!("{error} ({})", error.code())),
            }
            findings
        })
    }
}
