//! Where the authority's servers are, and which of them is tried next.

use std::sync::atomic::{AtomicUsize, Ordering};

use bonafide_crypto::random::Random;

/// Addresses of one authority. Each agent tries them in an order of its own, and stays with the one that serves it.
#[derive(Debug)]
pub(crate) struct Addresses {
    order: Vec<String>,
    turn: AtomicUsize,
}

impl Addresses {
    /// In an order drawn by lot, so that agents spread over the servers; also those of a server that dies.
    pub(crate) fn shuffled(given: &[String], random: &dyn Random) -> Self {
        let mut order = given.to_vec();
        // Fisher and Yates; that the lot is not quite even hurts nobody.
        for last in (1..order.len()).rev() {
            let lot = u64::from_le_bytes(random.array::<8>()) % (last as u64 + 1);
            order.swap(last, usize::try_from(lot).unwrap_or_default());
        }
        Self { order, turn: AtomicUsize::new(0) }
    }

    /// Each once, beginning with the one whose turn it is. To ask for the next one means that the last was of no use.
    pub(crate) fn round(&self) -> impl Iterator<Item = &str> + Send {
        let mut tried = 0;
        std::iter::from_fn(move || {
            if tried > 0 {
                self.elsewhere();
            }
            tried += 1;
            if tried > self.order.len() { None } else { self.current() }
        })
    }

    /// The one whose turn it is was of no use.
    pub(crate) fn elsewhere(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    fn current(&self) -> Option<&str> {
        let turn = self.turn.load(Ordering::Relaxed).checked_rem(self.order.len())?;
        self.order.get(turn).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bonafide_crypto::random::SystemRandom;

    use super::*;

    fn given(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("server-{number}:8443")).collect()
    }

    #[test]
    fn each_is_tried_once_and_the_one_that_works_is_kept() {
        let addresses = Addresses::shuffled(&given(5), &SystemRandom);
        let tried: Vec<&str> = addresses.round().collect();
        assert_eq!(tried.len(), 5);
        assert_eq!(tried.iter().copied().collect::<BTreeSet<_>>().len(), 5);
        // The fourth is up.
        let up = *tried.get(3).unwrap();
        assert_eq!(addresses.round().position(|address| address == up), Some(3));
        for _ in 0..3 {
            assert_eq!(addresses.round().next(), Some(up), "it is known now");
        }
        addresses.elsewhere();
        assert_eq!(addresses.round().next(), tried.get(4).copied());
        assert_eq!(Addresses::shuffled(&[], &SystemRandom).round().next(), None);
    }

    #[test]
    fn agents_spread() {
        let first = |_| Addresses::shuffled(&given(4), &SystemRandom).round().next().map(str::to_owned);
        assert_eq!((0..200).map(first).collect::<BTreeSet<_>>().len(), 4);
    }
}
