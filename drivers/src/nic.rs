//! A NIC of any kind, and what a driver of one makes its tokens of.
//!
//! A new kind is a line in `kinds!` at the end. What the stack does with a frame is compiled once, not once for each kind:
//! a driver only says where the frame lies, before and after.

use crate::hyperv::netvsc::NetVsc;
use crate::intel::Intel;
use crate::rtl8139::Rtl8139;
use crate::virtio::net::VirtioNet;
use crate::vmxnet3::Vmxnet3;
use crate::xen::netfront::Netfront;
use crate::{Error, Location};
use core::fmt;
use core::num::NonZeroU16;
use network_nic::offload::{self, Header};
use network_nic::{Counters, Device, DeviceCapabilities, Instant, Nic, PacketMeta};

/// A received frame, in the driver's memory for as long as this is kept; it goes back to the device when it is dropped.
pub trait Received {
    /// The frame.
    fn frame(&self) -> &[u8];
}

/// Room for a frame to be sent.
pub trait Room {
    /// The first `length` bytes of it, with whatever is in them. The same ones each time.
    fn frame(&mut self, length: usize) -> &mut [u8];

    /// The frame is TCP to be cut by the device into segments of so many bytes of payload each; `None`: it goes as it is.
    fn cut(&mut self, segment: Option<NonZeroU16>);

    /// Its first `length` bytes are the frame: queue them.
    fn send(self, length: usize);
}

/// The stack's token of a received frame.
#[derive(Debug)]
pub struct RxToken<T>(pub(crate) T);

/// The stack's token of room for a frame.
#[derive(Debug)]
pub struct TxToken<T>(pub(crate) T);

impl<T: Received> network_nic::RxToken for RxToken<T> {
    #[inline]
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0.frame())
    }
}

impl<T: Room> network_nic::TxToken for TxToken<T> {
    #[inline]
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, len: usize, f: F) -> R {
        let result = f(self.0.frame(len));
        self.0.send(len);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.0.cut(meta.segmentation_offload_size);
    }
}

/// A NIC's address, if it is one that a single station can have.
pub(crate) fn station(mac: [u8; 6]) -> Result<[u8; 6], Error> {
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(Error::Layout("its address is not one station's"));
    }
    Ok(mac)
}

/// VIRTIO_NET_HDR_F_DATA_VALID, by which a frame's checksum is vouched for.
const DATA_VALID: u8 = 2;
/// Bytes of a frame's header, and of the tag that a frame of a VLAN carries besides.
pub(crate) const ETHERNET: usize = 14;
const TAG: usize = 4;
/// The MTU where nobody says another.
pub(crate) const USUAL_MTU: usize = 1500;

/// The longest frame of a network with that MTU: the stack does not want one with a tag, but it is no lie.
pub(crate) const fn tagged(mtu: usize) -> usize {
    mtu + ETHERNET + TAG
}

/// Whether a frame may be given to a stack that does not verify checksums of TCP, when a host says of those of TCP and of UDP whether
/// they are right, or would be if they had been made.
pub(crate) fn vouch(frame: &mut [u8], tcp_is_right: bool, udp_is_right: bool) -> bool {
    // A checksum of UDP that was never made is none (RFC 768).
    if udp_is_right && let Some(place) = udp_checksum(frame) {
        frame[place..place + 2].fill(0);
    }
    let flags = if tcp_is_right { DATA_VALID } else { 0 };
    offload::check_received(&Header { flags, ..Header::default() }, frame).is_ok()
}

/// Where the checksum is, if the frame is UDP over IPv4 and no fragment.
fn udp_checksum(frame: &[u8]) -> Option<usize> {
    let ip = frame.get(ETHERNET..ETHERNET + 20)?;
    let place = ETHERNET + usize::from(ip[0] & 15) * 4 + 6;
    let is_udp = frame[12..14] == [8, 0] && ip[0] >> 4 == 4 && ip[9] == 17 && ip[6] & 0x3f == 0 && ip[7] == 0;
    (is_udp && place + 2 <= frame.len()).then_some(place)
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident($nic:ty, $received:ty, $room:ty),)*) => {
        /// A NIC of any kind there is a driver for.
        #[allow(clippy::large_enum_variant, reason = "a machine has few, and what is in it is used for each frame")]
        pub enum AnyNic {
            $($(#[$doc])* $kind($nic),)*
        }

        /// A received frame of any of them.
        #[derive(Debug)]
        pub enum AnyReceived<'a> {
            $($(#[$doc])* $kind($received),)*
        }

        /// Room for a frame in any of them.
        #[derive(Debug)]
        pub enum AnyRoom<'a> {
            $($(#[$doc])* $kind($room),)*
        }

        /// Does with the NIC, whichever kind it is.
        macro_rules! each {
            ($any:expr, $each:ident => $what:expr) => {
                match $any { $(AnyNic::$kind($each) => $what,)* }
            };
        }

        impl Device for AnyNic {
            type RxToken<'a> = RxToken<AnyReceived<'a>>;
            type TxToken<'a> = TxToken<AnyRoom<'a>>;

            #[inline]
            fn receive(&mut self, now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
                match self {
                    $(Self::$kind(nic) => nic.receive(now).map(|(frame, room)| {
                        (RxToken(AnyReceived::$kind(frame.0)), TxToken(AnyRoom::$kind(room.0)))
                    }),)*
                }
            }

            #[inline]
            fn transmit(&mut self, now: Instant) -> Option<Self::TxToken<'_>> {
                match self {
                    $(Self::$kind(nic) => nic.transmit(now).map(|room| TxToken(AnyRoom::$kind(room.0))),)*
                }
            }

            fn capabilities(&self) -> DeviceCapabilities {
                each!(self, nic => nic.capabilities())
            }
        }

        impl Received for AnyReceived<'_> {
            #[inline]
            fn frame(&self) -> &[u8] {
                match self { $(Self::$kind(received) => received.frame(),)* }
            }
        }

        impl Room for AnyRoom<'_> {
            #[inline]
            fn frame(&mut self, length: usize) -> &mut [u8] {
                match self { $(Self::$kind(room) => room.frame(length),)* }
            }

            #[inline]
            fn cut(&mut self, segment: Option<NonZeroU16>) {
                match self { $(Self::$kind(room) => room.cut(segment),)* }
            }

            #[inline]
            fn send(self, length: usize) {
                match self { $(Self::$kind(room) => room.send(length),)* }
            }
        }
    };
}

kinds! {
    /// virtio-net.
    Virtio(VirtioNet, crate::virtio::net::Rx<'a>, crate::virtio::net::Tx<'a>),
    /// VMware's vmxnet3.
    Vmxnet3(Vmxnet3, crate::vmxnet3::Rx<'a>, crate::vmxnet3::Tx<'a>),
    /// One of Intel's.
    Intel(Intel, crate::intel::Rx<'a>, crate::intel::Tx<'a>),
    /// Realtek's RTL8139C+.
    Rtl8139(Rtl8139, crate::rtl8139::Rx<'a>, crate::rtl8139::Tx<'a>),
    /// NetVSC.
    NetVsc(NetVsc, crate::hyperv::netvsc::Rx<'a>, crate::hyperv::netvsc::Tx<'a>),
    /// Xen's.
    Netfront(Netfront, crate::xen::netfront::Rx<'a>, crate::xen::netfront::Tx<'a>),
}

impl AnyNic {
    /// Where it was found.
    pub fn location(&self) -> Location {
        each!(self, nic => nic.location())
    }
}

impl fmt::Display for AnyNic {
    /// Where it was found.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.location().fmt(f)
    }
}

impl Nic for AnyNic {
    fn mac(&self) -> [u8; 6] {
        each!(self, nic => nic.mac())
    }

    fn waits(&self) -> bool {
        each!(self, nic => nic.waits())
    }

    fn flush(&mut self) {
        each!(self, nic => nic.flush());
    }

    fn arm(&mut self) -> bool {
        each!(self, nic => nic.arm())
    }

    fn rests_until(&self) -> Option<Instant> {
        each!(self, nic => nic.rests_until())
    }

    fn has_sent(&mut self) -> bool {
        each!(self, nic => nic.has_sent())
    }

    fn counters(&self) -> Counters {
        each!(self, nic => nic.counters())
    }
}
