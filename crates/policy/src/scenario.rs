//! A request that owns what it says: as tests, witnesses and logs have them.

use std::net::IpAddr;

use bonafide_identity::UnixTime;

use crate::request::{AssertedProps, Caller, CertifiedLabels, Circumstances, Request, Thing};

/// The moment of a scenario that names none: 2026-01-01T00:00:00Z.
pub const DEFAULT_NOW: UnixTime = UnixTime::from_secs(1_767_225_600);

/// Who wants to do what to which workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Scenario {
    /// Who asks.
    pub who: Caller,
    /// What the guarded program says of the caller.
    pub who_props: AssertedProps,
    /// What it wants to do.
    pub can: String,
    /// The certified labels of the workload that is asked.
    pub callee: CertifiedLabels,
    /// As [`Thing::path`].
    pub path: Option<String>,
    /// As [`Thing::host`].
    pub host: Option<String>,
    /// As [`Thing::key`].
    pub key: Option<String>,
    /// As [`Thing::service`].
    pub service: Option<String>,
    /// As [`Thing::props`].
    pub on_props: AssertedProps,
    /// As [`Circumstances::aad`].
    pub aad: AssertedProps,
    /// As [`Circumstances::algorithm`].
    pub algorithm: Option<String>,
    /// As [`Circumstances::source`].
    pub source: Option<IpAddr>,
    /// As [`Circumstances::props`].
    pub when_props: AssertedProps,
    /// Now.
    pub now: UnixTime,
}

impl Scenario {
    /// A caller and what it wants to do, and nothing else.
    pub fn new(who: Caller, can: impl Into<String>) -> Self {
        Self {
            who,
            who_props: AssertedProps::default(),
            can: can.into(),
            callee: CertifiedLabels::none(),
            path: None,
            host: None,
            key: None,
            service: None,
            on_props: AssertedProps::default(),
            aad: AssertedProps::default(),
            algorithm: None,
            source: None,
            when_props: AssertedProps::default(),
            now: DEFAULT_NOW,
        }
    }

    /// The question, to policies that are current.
    pub fn request(&self) -> Request<'_> {
        Request {
            who: &self.who,
            who_props: &self.who_props,
            can: &self.can,
            on: Thing {
                path: self.path.as_deref(),
                host: self.host.as_deref(),
                key: self.key.as_deref(),
                service: self.service.as_deref(),
                props: &self.on_props,
            },
            when: Circumstances {
                aad: &self.aad,
                algorithm: self.algorithm.as_deref(),
                source: self.source,
                props: &self.when_props,
            },
            now: self.now,
            current_at: self.now,
        }
    }
}
