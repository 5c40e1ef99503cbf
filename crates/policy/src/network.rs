//! Networks that a request may come from.

use std::{fmt, net::IpAddr};

use crate::words::Unfit;

/// All addresses of one prefix, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// Reads `address/length`, or an address alone. An IPv4 address that is mapped into IPv6 is one of IPv4.
    ///
    /// # Errors
    /// If it is neither, or has bits beyond its length.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        let unfit = |hint: String| {
            Unfit::new("policy.source", "this is no network such as `10.0.0.0/8` or `2001:db8::/32`", hint)
        };
        let general = || unfit("write the first address, `/`, and how many bits are fixed".to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| general())?;
        if address.to_canonical() != address {
            return Err(unfit(format!("write it as IPv4: `{}`", address.to_canonical())));
        }
        let bits = bits_of(address);
        let length = match length {
            None => bits,
            Some(digits) if digits.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|length| *length <= bits && (digits == "0" || !digits.starts_with('0')))
                .ok_or_else(general)?,
            Some(_) => return Err(general()),
        };
        let masked = mask(address, length);
        if masked != address {
            return Err(unfit(format!("write `{masked}/{length}`, or `{address}` for the one address")));
        }
        Ok(Self { address, length })
    }

    /// The first address and how many bits are fixed.
    pub fn parts(self) -> (IpAddr, u8) {
        (self.address, self.length)
    }

    /// Whether an address is in it. Those of IPv4 that are mapped into IPv6 are those of IPv4.
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && mask(address, self.length) == self.address
    }

    /// Whether every address of `other` is in it.
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }
}

const fn bits_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The first `length` bits of an address.
pub(crate) fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let ones = u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V4((address.to_bits() & ones).into())
        }
        IpAddr::V6(address) => {
            let ones = u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V6((address.to_bits() & ones).into())
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_a_network() {
        for (text, printed) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(Network::parse(text).unwrap().to_string(), printed);
        }
        for text in [
            "",
            "10",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "::ffff:10.0.0.0/104",
            "::1/129",
            "a",
        ] {
            assert!(Network::parse(text).is_err(), "{text}");
        }
        let private = Network::parse("10.0.0.0/8").unwrap();
        assert!(private.contains("10.255.0.1".parse().unwrap()));
        assert!(private.contains("::ffff:10.0.0.1".parse().unwrap()));
        assert!(!private.contains("11.0.0.0".parse().unwrap()));
        assert!(!private.contains("::10.0.0.1".parse().unwrap()));
        assert!(Network::parse("::/0").unwrap().contains("::1".parse().unwrap()));
        assert!(!Network::parse("::/0").unwrap().contains("10.0.0.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn covering_is_containing(one: u32, other: u32, long in 0_u8..=32, longer in 0_u8..=32, at: u32) {
            let network = |bits: u32, length| {
                let address = mask(IpAddr::V4(bits.into()), length);
                Network::parse(&format!("{address}/{length}")).unwrap()
            };
            // Near each other, so that both cases occur.
            let (wide, narrow) = (network(one, long), network(one ^ (other >> long.min(31)), longer));
            let address = IpAddr::V4((one ^ (at >> longer.min(31))).into());
            prop_assert!(!wide.covers(narrow) || !narrow.contains(address) || wide.contains(address));
            prop_assert_eq!(Network::parse(&narrow.to_string()).unwrap(), narrow);
        }
    }
}
