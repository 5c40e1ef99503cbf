//! What the requests of one batch earn. An agent that fills its pool, or a deployment that starts, asks the same many
//! times over; the answer is found once.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bonafide_identity::SpiffeId;
use bonafide_identity::attributes::AttributeList;
use bonafide_identity::time::UnixTime;
use bonafide_wire::types::Selector;

use super::certified::certified;
use crate::convert::wire::to_selectors;
use crate::refusal::Refusal;
use crate::registration::{Earned, earn};
use crate::state::State;

/// Remembers the last answer. It is good for one state and one moment, so it lives as long as they are held.
#[derive(Debug)]
pub(crate) struct Earnings<'a> {
    state: &'a State,
    now: UnixTime,
    last: RefCell<Option<Rc<Earning>>>,
}

/// What one evidence earned.
#[derive(Debug)]
pub(crate) struct Earning {
    pub(crate) agent: Arc<SpiffeId>,
    pub(crate) registration: Arc<str>,
    selectors: Vec<Selector>,
    pub(crate) earned: Earned,
    /// What each certificate says beside the SPIFFE ID.
    pub(crate) attributes: AttributeList,
}

impl<'a> Earnings<'a> {
    pub(crate) const fn new(state: &'a State, now: UnixTime) -> Self {
        Self { state, now, last: RefCell::new(None) }
    }

    /// What the agent's evidence earns under a registration.
    ///
    /// # Errors
    /// As [`earn`], for selectors that are none, and if they don't fit into a certificate.
    pub(crate) fn of(
        &self,
        agent: &SpiffeId,
        registration: &str,
        selectors: &[Selector],
    ) -> Result<Rc<Earning>, Refusal> {
        let mut last = self.last.borrow_mut();
        if let Some(last) = &*last
            && *last.registration == *registration
            && last.selectors == selectors
            && *last.agent == *agent
        {
            return Ok(Rc::clone(last));
        }
        let attested = to_selectors(selectors)?;
        let earned = earn(self.state, agent, registration, &attested, self.now)?;
        let attributes = AttributeList::new(&certified(agent, &earned, &attested))
            .map_err(|error| Refusal::invalid(error.code(), error.to_string()).hint(error.hint()))?;
        let found = Earning {
            agent: Arc::new(agent.clone()),
            registration: Arc::from(registration),
            selectors: selectors.to_vec(),
            earned,
            attributes,
        };
        Ok(Rc::clone(last.insert(Rc::new(found))))
    }
}
