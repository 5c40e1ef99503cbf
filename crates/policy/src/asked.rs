//! A request as rules see it: checked and normalised once, and which clause of a rule it does not meet.
//!
//! This is all that says what a clause means. The index only finds candidates for it; deciding and explaining both
//! ask here.

use std::net::IpAddr;

use bonafide_identity::UnixTime;

use crate::{
    glob,
    host::{Host, HostFault},
    model::{Bound, Exception, PropRequirements, Rule, Target, Who},
    path::{self, MAX_PATH, PathFault},
    request::{AssertedProps, CertifiedLabels, Request},
    words,
};

/// What a request has that no request may have. It is denied, whatever the rules say.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum InputFault {
    /// The action is empty, too long or has a character that no action has.
    #[error("the action is not 1 to 64 of `a-z A-Z 0-9 . _ : / -`")]
    Action,
    /// The algorithm is empty, too long or has a character that no algorithm has.
    #[error("the algorithm is not 1 to 64 of `a-z A-Z 0-9 . _ : / -`")]
    Algorithm,
    /// The host is no host.
    #[error(transparent)]
    Host(HostFault),
    /// The key is no name of a key.
    #[error("the key is not segments of `a-z A-Z 0-9 . - _`, at most 512 bytes in all")]
    Key,
    /// The path is no path, or could be read in two ways.
    #[error(transparent)]
    Path(PathFault),
    /// The service is no name of a service.
    #[error("the service is not 1 to 128 printable ASCII characters without space")]
    Service,
}

impl InputFault {
    /// A stable name of this error for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Action => "policy.action",
            Self::Algorithm => "policy.algorithm",
            Self::Host(fault) => fault.code(),
            Self::Key => "policy.key",
            Self::Path(fault) => fault.code(),
            Self::Service => "policy.service",
        }
    }

    /// What a person can do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Host(fault) => fault.hint(),
            Self::Path(fault) => fault.hint(),
            Self::Action | Self::Algorithm | Self::Key | Self::Service => {
                "ask for something that has such a name"
            }
        }
    }
}

/// Where the normal forms of a request stand. Paths that are not encoded stand where they are, and get no room.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    path: &'a mut [u8],
    host: Option<Host>,
}

/// Gives a request the room that it needs. Nearly none needs any for its path, and 4 KiB are not cleared for nothing.
pub(crate) fn with_room<T>(request: &Request<'_>, then: impl FnOnce(&mut Room<'_>) -> T) -> T {
    if request.on.path.is_some_and(path::is_encoded) {
        with_room_for_path(then)
    } else {
        then(&mut Room { path: &mut [], host: None })
    }
}

#[inline(never)]
fn with_room_for_path<T>(then: impl FnOnce(&mut Room<'_>) -> T) -> T {
    then(&mut Room { path: &mut [0; MAX_PATH], host: None })
}

/// A request whose parts are in their normal form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) request: &'a Request<'a>,
    /// Of the workload that is asked.
    pub(crate) callee: &'a CertifiedLabels,
    pub(crate) path: Option<&'a str>,
    pub(crate) host: Option<&'a str>,
    pub(crate) source: Option<IpAddr>,
}

/// The first clause of a rule that a request does not meet. Indices are into the rule's own maps.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Unmet {
    Id,
    TrustDomain,
    Label(usize),
    WhoProp(usize),
    Can,
    Path,
    Host,
    Key,
    Service,
    OnProp(usize),
    Same(usize),
    Aad(usize),
    Algorithm,
    From,
    Until,
    Source,
    WhenProp(usize),
    Except(usize),
}

impl<'a> Asked<'a> {
    pub(crate) fn new(
        request: &'a Request<'a>,
        callee: &'a CertifiedLabels,
        room: &'a mut Room<'_>,
    ) -> Result<Self, InputFault> {
        if !words::is_action(request.can) {
            return Err(InputFault::Action);
        }
        if request.when.algorithm.is_some_and(|algorithm| !words::is_action(algorithm)) {
            return Err(InputFault::Algorithm);
        }
        if request.on.service.is_some_and(|service| !words::is_key(service)) {
            return Err(InputFault::Service);
        }
        if request.on.key.is_some_and(|key| !glob::is_key_name(key)) {
            return Err(InputFault::Key);
        }
        let Room { path, host } = room;
        let path = match request.on.path {
            Some(raw) => Some(path::normalise_in(raw, path).map_err(InputFault::Path)?),
            None => None,
        };
        let host = match request.on.host {
            Some(raw) => Some(host.insert(Host::parse(raw).map_err(InputFault::Host)?).as_str()),
            None => None,
        };
        let source = request.when.source.map(|source| source.to_canonical());
        Ok(Self { request, callee, path, host, source })
    }
}

impl Rule {
    /// Whether the request is one of those that the rule is about.
    pub(crate) fn is_met(&self, asked: &Asked<'_>) -> bool {
        self.unmet(asked).is_none()
    }

    /// The first clause that is not met.
    pub(crate) fn unmet(&self, asked: &Asked<'_>) -> Option<Unmet> {
        let request = asked.request;
        self.who
            .unmet(asked)
            .or_else(|| (!self.can.is_empty() && !self.can.contains(request.can)).then_some(Unmet::Can))
            .or_else(|| self.on.unmet(asked))
            .or_else(|| self.when_unmet(asked))
            .or_else(|| self.except.iter().position(|except| except.is_met(asked)).map(Unmet::Except))
    }

    fn when_unmet(&self, asked: &Asked<'_>) -> Option<Unmet> {
        let when = &self.when;
        let Asked { request, callee, .. } = asked;
        let caller = request.who.labels();
        let differs = |key: &str| caller.get(key).is_none_or(|value| callee.get(key) != Some(value));
        if let Some(index) = when.same.iter().position(|key| differs(key.as_str())) {
            return Some(Unmet::Same(index));
        }
        let is_unbound = |(name, bound): (&words::PropName, &Bound)| {
            let value = request.when.aad.get(name.as_str());
            value.is_none_or(|value| match bound {
                Bound::Is(wanted) => wanted.as_str() != value,
                Bound::CallersLabel(key) => caller.get(key.as_str()) != Some(value.as_bytes()),
            })
        };
        if let Some(index) = when.aad.iter().position(is_unbound) {
            return Some(Unmet::Aad(index));
        }
        let algorithms = &when.algorithms;
        if !algorithms.is_empty() && !request.when.algorithm.is_some_and(|one| algorithms.contains(one)) {
            return Some(Unmet::Algorithm);
        }
        let now: UnixTime = request.now;
        if when.from.is_some_and(|from| now < from) {
            return Some(Unmet::From);
        }
        if when.until.is_some_and(|until| now >= until) {
            return Some(Unmet::Until);
        }
        if !when.sources.is_empty() {
            let inside = |source: IpAddr| when.sources.iter().any(|network| network.contains(source));
            if !asked.source.is_some_and(inside) {
                return Some(Unmet::Source);
            }
        }
        unmet_prop(&when.props, request.when.props).map(Unmet::WhenProp)
    }
}

impl Who {
    fn unmet(&self, asked: &Asked<'_>) -> Option<Unmet> {
        let caller = asked.request.who;
        if !self.ids.is_empty() && !self.ids.iter().any(|pattern| pattern.matches(caller.id())) {
            return Some(Unmet::Id);
        }
        let domains = &self.trust_domains;
        if !domains.is_empty() && !domains.contains(caller.id().trust_domain()) {
            return Some(Unmet::TrustDomain);
        }
        let mut labels = self.labels.iter();
        let unmet = labels.position(|(key, wanted)| !wanted.is_met(caller.labels().get(key.as_str())));
        unmet
            .map(Unmet::Label)
            .or_else(|| unmet_prop(&self.props, asked.request.who_props).map(Unmet::WhoProp))
    }
}

impl Target {
    fn unmet(&self, asked: &Asked<'_>) -> Option<Unmet> {
        let on = &asked.request.on;
        if !self.paths.is_empty()
            && !asked.path.is_some_and(|path| self.paths.iter().any(|pattern| pattern.matches(path)))
        {
            return Some(Unmet::Path);
        }
        if !self.hosts.is_empty()
            && !asked.host.is_some_and(|host| self.hosts.iter().any(|pattern| pattern.matches(host)))
        {
            return Some(Unmet::Host);
        }
        if !self.keys.is_empty()
            && !on.key.is_some_and(|key| self.keys.iter().any(|pattern| pattern.matches(key)))
        {
            return Some(Unmet::Key);
        }
        if !self.services.is_empty() && !on.service.is_some_and(|service| self.services.contains(service)) {
            return Some(Unmet::Service);
        }
        unmet_prop(&self.props, on.props).map(Unmet::OnProp)
    }
}

impl Exception {
    pub(crate) fn is_met(&self, asked: &Asked<'_>) -> bool {
        self.who.unmet(asked).is_none()
            && (self.can.is_empty() || self.can.contains(asked.request.can))
            && self.on.unmet(asked).is_none()
    }
}

fn unmet_prop(all: &PropRequirements, given: &AssertedProps) -> Option<usize> {
    all.iter().position(|(name, wanted)| !wanted.is_met(given.get(name.as_str())))
}
