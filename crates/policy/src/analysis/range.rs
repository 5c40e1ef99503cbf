//! Ranges of time and of addresses. Their boundaries are finitely many, so that a look just there decides.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// From a moment to before another, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Span {
    /// The first moment in it.
    pub from: i64,
    /// The first moment after it; `None` has no end.
    pub until: Option<i64>,
}

impl Span {
    /// Whether the moment is in it.
    pub fn contains(&self, moment: i64) -> bool {
        self.from <= moment && self.until.is_none_or(|until| moment < until)
    }
}

/// A moment in all of `wanted` and none of `avoided`: `usual` if that will do.
pub(super) fn pick_moment(wanted: &[Span], avoided: &[Span], usual: i64) -> Option<i64> {
    let ends = avoided.iter().filter_map(|span| span.until);
    let before = avoided.iter().filter_map(|span| span.from.checked_sub(1));
    let last = wanted.iter().filter_map(|span| span.until?.checked_sub(1));
    let first = wanted.iter().map(|span| span.from);
    let candidates = std::iter::once(usual).chain(last).chain(first).chain(ends).chain(before);
    let fits = |moment: &i64| {
        wanted.iter().all(|span| span.contains(*moment)) && !avoided.iter().any(|span| span.contains(*moment))
    };
    candidates.chain([i64::MIN]).find(fits)
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Network {
    first: IpAddr,
    last: IpAddr,
    length: u8,
}

impl Network {
    /// The addresses whose first `length` bits are those of `address`; `None` when it has fewer.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        Some(match address {
            IpAddr::V4(address) => {
                let rest = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
                let first = (length <= 32).then_some(u32::from(address) & !rest)?;
                Self {
                    first: Ipv4Addr::from(first).into(),
                    last: Ipv4Addr::from(first | rest).into(),
                    length,
                }
            }
            IpAddr::V6(address) => {
                let rest = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
                let first = (length <= 128).then_some(u128::from(address) & !rest)?;
                Self {
                    first: Ipv6Addr::from(first).into(),
                    last: Ipv6Addr::from(first | rest).into(),
                    length,
                }
            }
        })
    }

    /// Whether its addresses are of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && (self.first..=self.last).contains(&address)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

/// An address in one network of each of `wanted`, and in none of `avoided`. Solutions begin where a network begins or
/// where one has ended.
pub(super) fn pick_address(wanted: &[&[Network]], avoided: &[&[Network]]) -> Option<IpAddr> {
    // Such addresses are of IPv4, and no network of IPv6 has them.
    let mapped = Network::new(IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)), 96);
    let begin = wanted.iter().copied().flatten().map(|network| network.first);
    let end = avoided.iter().copied().flatten().filter_map(|network| after(network.last));
    let beyond = mapped.and_then(|network| after(network.last));
    let lowest = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    begin.chain(end).chain(lowest).chain(beyond).find(|address| {
        !mapped.is_some_and(|network| network.contains(*address))
            && wanted.iter().all(|any| any.iter().any(|network| network.contains(*address)))
            && !avoided.iter().any(|any| any.iter().any(|network| network.contains(*address)))
    })
}

fn after(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => Ipv4Addr::from(u32::from(address).checked_add(1)?).into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address).checked_add(1)?).into(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span() -> impl Strategy<Value = Span> {
        (-3_i64..8, prop::option::of(-3_i64..10)).prop_map(|(from, until)| Span { from, until })
    }

    /// Networks of the last four bits of an address.
    fn networks() -> impl Strategy<Value = Vec<Network>> {
        let address = prop_oneof![
            (0_u8..16).prop_map(|low| (IpAddr::V4(Ipv4Addr::new(10, 0, 0, low)), 28)),
            (0_u16..16).prop_map(|low| (IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, low)), 124)),
        ];
        let network = (address, 0_u8..=4);
        let network =
            network.prop_map(|((address, least), more)| Network::new(address, least + more).unwrap());
        prop::collection::vec(network, 1..3)
    }

    proptest! {
        #[test]
        fn moments_are_what_enumeration_says(
            wanted in prop::collection::vec(span(), 0..3),
            avoided in prop::collection::vec(span(), 0..3),
            usual in -10_i64..20,
        ) {
            let fits = |moment: i64| {
                wanted.iter().all(|span| span.contains(moment)) && !avoided.iter().any(|span| span.contains(moment))
            };
            let picked = pick_moment(&wanted, &avoided, usual);
            prop_assert_eq!(picked.is_some(), (-20..30).any(fits));
            prop_assert!(picked.is_none_or(fits));
        }

        #[test]
        fn addresses_are_what_enumeration_says(
            wanted in prop::collection::vec(networks(), 1..3),
            avoided in prop::collection::vec(networks(), 0..4),
        ) {
            let wanted: Vec<&[Network]> = wanted.iter().map(Vec::as_slice).collect();
            let avoided: Vec<&[Network]> = avoided.iter().map(Vec::as_slice).collect();
            let fits = |address: IpAddr| {
                let in_any = |any: &[Network]| any.iter().any(|network| network.contains(address));
                wanted.iter().all(|any| in_any(any)) && !avoided.iter().any(|any| in_any(any))
            };
            let all = (0..16_u8).flat_map(|low| {
                [
                    IpAddr::V4(Ipv4Addr::new(10, 0, 0, low)),
                    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(low))),
                ]
            });
            let picked = pick_address(&wanted, &avoided);
            prop_assert_eq!(picked.is_some(), all.into_iter().any(fits));
            prop_assert!(picked.is_none_or(fits));
        }
    }

    #[test]
    fn networks_have_edges() {
        let all: Network = Network::new(IpAddr::V4(Ipv4Addr::new(1, 2, 3, 4)), 0).unwrap();
        assert!(all.contains(Ipv4Addr::BROADCAST.into()) && all.contains(Ipv4Addr::UNSPECIFIED.into()));
        assert!(!all.contains(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(Network::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 33), None);
        assert_eq!(Network::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 129), None);
        let one = Network::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 128).unwrap();
        assert!(one.contains(Ipv6Addr::LOCALHOST.into()) && !one.contains(Ipv6Addr::UNSPECIFIED.into()));
    }
}
