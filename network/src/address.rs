//! How a stack gets its address.

use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

/// An IPv4 address and the length of its network's prefix, as in `10.77.0.2/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address itself, with its host part.
    pub address: Ipv4Addr,
    /// Bits of the network part, 1 to 32.
    pub prefix: u8,
}

impl Cidr {
    /// Whether `address` lies in this network.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.address.to_bits()) & self.mask() == 0
    }

    /// The directed broadcast address of this network; one of at most two addresses has none (RFC 3021).
    pub fn broadcast(self) -> Option<Ipv4Addr> {
        (self.prefix < 31).then(|| Ipv4Addr::from_bits(self.address.to_bits() | !self.mask()))
    }

    /// Whether the address is one that a host of this network can have: neither the network's own nor its broadcast
    /// address.
    pub fn is_host(self) -> bool {
        self.prefix >= 31
            || (Some(self.address) != self.broadcast() && self.address.to_bits() & !self.mask() != 0)
    }

    /// Whether the two networks have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The text is not an address that a host can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError;

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a unicast IPv4 address and prefix length such as 10.77.0.2/24")
    }
}

impl FromStr for Cidr {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (address, prefix) = text.split_once('/').ok_or(ParseError)?;
        let address: Ipv4Addr = address.parse().map_err(|_| ParseError)?;
        let prefix: u8 = prefix.parse().map_err(|_| ParseError)?;
        let unicast = !(address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || address.is_broadcast());
        if !unicast || !(1..=32).contains(&prefix) {
            return Err(ParseError);
        }
        let cidr = Self { address, prefix };
        if cidr.is_host() { Ok(cidr) } else { Err(ParseError) }
    }
}

/// Where a stack's address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// Given in the configuration.
    Static {
        /// The stack's own address.
        cidr: Cidr,
        /// The router to other networks, if there is one.
        gateway: Option<Ipv4Addr>,
    },
    /// Asked for by DHCPv4 (RFC 2131).
    Dhcp,
}
