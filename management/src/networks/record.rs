//! A map as a record on the state disk, and in memory: 14 bytes an interface, where JSON takes some 80.

use agent_protocol::{Endpoint, MTU, Mac, NetworkMap, NetworkName, Vni};
use alloc::vec::Vec;
use core::net::Ipv4Addr;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// The network is to be like this.
    Map(NetworkMap),
    /// It is to be gone from the host; the map that was wanted before had this generation.
    Gone(u64),
}

const GONE: u8 = 0;
const MAP: u8 = 1;
/// Bytes in front of the interfaces: what it is, generation, number, MTU.
pub(crate) const HEAD: usize = 1 + 8 + 4 + 2;
/// Bytes of an interface.
pub(crate) const ENDPOINT: usize = 6 + 4 + 4;

impl Record {
    /// As bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let map = match self {
            Self::Gone(generation) => {
                let mut bytes = Vec::from([GONE]);
                bytes.extend_from_slice(&generation.to_le_bytes());
                return bytes;
            }
            Self::Map(map) => map,
        };
        let mut bytes = Vec::with_capacity(HEAD + map.endpoints.len() * ENDPOINT);
        bytes.push(MAP);
        bytes.extend_from_slice(&map.generation.to_le_bytes());
        bytes.extend_from_slice(&map.vni.get().to_le_bytes());
        bytes.extend_from_slice(&map.mtu.to_le_bytes());
        for Endpoint { mac, ip, underlay } in &map.endpoints {
            bytes.extend_from_slice(&mac.0);
            bytes.extend_from_slice(&ip.octets());
            bytes.extend_from_slice(&underlay.octets());
        }
        bytes
    }

    /// The record of a network of this name; `None` of one that this version cannot read.
    pub(crate) fn decode(network: &NetworkName, bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let generation = u64::from_le_bytes(*generation);
        match *kind {
            GONE if rest.is_empty() => return Some(Self::Gone(generation)),
            MAP => {}
            _ => return None,
        }
        let (vni, rest) = rest.split_first_chunk()?;
        let (mtu, rest) = rest.split_first_chunk()?;
        let (endpoints, rest) = rest.as_chunks::<ENDPOINT>();
        let mtu = u16::from_le_bytes(*mtu);
        if !rest.is_empty() || !MTU.contains(&mtu) {
            return None;
        }
        let endpoint = |&[a, b, c, d, e, f, i, j, k, l, w, x, y, z]: &[u8; ENDPOINT]| Endpoint {
            mac: Mac([a, b, c, d, e, f]),
            ip: Ipv4Addr::new(i, j, k, l),
            underlay: Ipv4Addr::new(w, x, y, z),
        };
        Some(Self::Map(NetworkMap {
            network: network.clone(),
            generation,
            vni: Vni::new(u32::from_le_bytes(*vni))?,
            mtu,
            endpoints: endpoints.iter().map(endpoint).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_nothing_else_is_one() {
        let network: NetworkName = "blue".parse().unwrap();
        let endpoint = |last| Endpoint {
            mac: Mac([0x52, 0x54, 0, 0, 1, last]),
            ip: Ipv4Addr::new(10, 5, 0, last),
            underlay: Ipv4Addr::new(192, 0, 2, last),
        };
        let endpoints = (1..=3).map(endpoint).collect();
        let vni = Vni::new(0xff_fffe).unwrap();
        let map =
            NetworkMap { network: network.clone(), generation: u64::MAX - 1, vni, mtu: 1450, endpoints };
        for record in [Record::Map(map), Record::Gone(7)] {
            let bytes = record.encode();
            for length in 0..bytes.len() {
                let cut = Record::decode(&network, &bytes[..length]);
                let whole = length >= HEAD && (length - HEAD).is_multiple_of(ENDPOINT);
                assert_eq!(cut.is_some(), whole, "{length}");
            }
            assert!(Record::decode(&network, &[&bytes[..], &[0]].concat()).is_none());
            assert_eq!(Record::decode(&network, &bytes), Some(record));
        }
    }
}
