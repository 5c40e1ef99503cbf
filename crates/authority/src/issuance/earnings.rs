//! What the requests of one batch earn. An agent that fills its pool, or a deployment that starts, asks the same many
//! times over; the answer is found once.

use std::cell::RefCell;
use std::rc::Rc;

use bonafide_identity::SpiffeId;
use bonafide_identity::attributes::Attribute;
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
    agent: SpiffeId,
    registration: String,
    selectors: Vec<Selector>,
    pub(crate) earned: Earned,
    pub(crate) attributes: Vec<Attribute>,
}

impl<'a> Earnings<'a> {
    pub(crate) const fn new(state: &'a State, now: UnixTime) -> Self {
        Self { state, now, last: RefCell::new(None) }
    }

    /// What the agent's evidence earns under a registration.
    ///
    /// # Errors
    /// As [`earn`], and for selectors that are none.
    pub(crate) fn of(
        &self,
        agent: &SpiffeId,
        registration: &str,
        selectors: &[Selector],
    ) -> Result<Rc<Earning>, Refusal> {
        let mut last = self.last.borrow_mut();
        if let Some(last) = &*last
            && last.registration == registration
            && last.selectors == selectors
            && last.agent == *agent
        {
            return Ok(Rc::clone(last));
        }
        let attested = to_selectors(selectors)?;
        let earned = earn(self.state, agent, registration, &attested, self.now)?;
        let attributes = certified(agent, &earned, &attested);
        let found = Earning {
            agent: agent.clone(),
            registration: registration.to_owned(),
            selectors: selectors.to_vec(),
            earned,
            attributes,
        };
        Ok(Rc::clone(last.insert(Rc::new(found))))
    }
}
