//! A NIC whose cycles are counted: what the driver does is its own, what the stack does with a frame is the stack's.
//!
//! Giving back the buffer of a received frame and asking for wake-ups are left where they are called: telling them apart
//! would cost more than they do.

use kernel_runtime::{Profile, Stage};
use network_nic::{Counters, Device, DeviceCapabilities, Instant, Nic, PacketMeta, TxToken};

/// A NIC, and where its cycles are counted.
pub struct Measured<N> {
    nic: N,
    profile: Profile,
}

impl<N> Measured<N> {
    /// Count the cycles of `nic` in `profile`.
    pub fn new(nic: N, profile: Profile) -> Self {
        Self { nic, profile }
    }

    /// The NIC itself.
    pub fn inner(&self) -> &N {
        &self.nic
    }

    /// The NIC, no longer counted.
    pub fn into_inner(self) -> N {
        self.nic
    }
}

impl<N: Nic> Device for Measured<N> {
    type RxToken<'a>
        = N::RxToken<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = MeasuredToken<'a, N::TxToken<'a>>
    where
        Self: 'a;

    fn receive(&mut self, timestamp: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let Self { nic, profile } = self;
        let (token, reply) = profile.within(Stage::Driver, || nic.receive(timestamp))?;
        Some((token, MeasuredToken { token: reply, profile }))
    }

    fn transmit(&mut self, timestamp: Instant) -> Option<Self::TxToken<'_>> {
        // Only asks whether there is room; the work is the token's.
        let Self { nic, profile } = self;
        nic.transmit(timestamp).map(|token| MeasuredToken { token, profile })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.nic.capabilities()
    }
}

impl<N: Nic> Nic for Measured<N> {
    fn mac(&self) -> [u8; 6] {
        self.nic.mac()
    }

    fn waits(&self) -> bool {
        self.nic.waits()
    }

    fn flush(&mut self) {
        self.profile.within(Stage::Driver, || self.nic.flush());
    }

    fn arm(&mut self) -> bool {
        self.nic.arm()
    }

    fn rests_until(&self) -> Option<Instant> {
        self.nic.rests_until()
    }

    fn has_sent(&mut self) -> bool {
        self.nic.has_sent()
    }

    fn counters(&self) -> Counters {
        self.nic.counters()
    }
}

/// A frame to be sent by a measured NIC.
pub struct MeasuredToken<'a, T> {
    token: T,
    profile: &'a Profile,
}

impl<T: TxToken> TxToken for MeasuredToken<'_, T> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Self { token, profile } = self;
        profile
            .within(Stage::Driver, || token.consume(len, |frame| profile.within(Stage::Stack, || f(frame))))
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.token.set_meta(meta);
    }
}
