//! The data path: iSCSI in, NBD out.
//!
//! Three engines that know nothing of each other (`iscsi`, `scsi`, `nbd`) are joined here by tasks: one for each iSCSI
//! connection ([`Storage::serve_initiators`]) and one for each disk ([`Storage::serve_volume`]). Management drives it
//! through [`Control`]; storage has never heard of management.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod abort;
mod carrier;
mod challenge;
mod commands;
mod control;
mod figures;
mod limits;
mod mailbox;
mod path;
mod portal;
mod registry;
mod reservations;
mod shared;
mod straight;
#[cfg(test)]
mod tests;
mod turns;
mod volume;
mod watch;

use alloc::rc::Rc;
use alloc::sync::Arc;
use core::future::Future;
use core::net::SocketAddrV4;
use kernel_runtime::Clock;
use network::Stream;
use network_tls::{NoEntropy, Random};
use shared::Shared;
use state::Records;

pub use carrier::Tls;
pub use control::{Control, ControlError, Exposed, Exposure, Policy, VolumeState};
pub use figures::Connected;
pub use limits::{Limits, Sharing};
pub use storage_driver::{Rate, Status};
pub use storage_iscsi::Limits as IscsiLimits;
pub use storage_iscsi::chap;
pub use storage_iscsi::wire::Checksum;
pub use storage_nbd::{Histogram, Latency, Limits as NbdLimits};
pub use storage_scsi::{AccessState, Limits as ScsiLimits};

/// Storage as a whole. Its tasks run for ever.
pub struct Storage(Rc<Shared>);

impl Storage {
    /// Storage within `limits`. `seed` is random and differs at each boot. Discovery gives `portal` to initiators, or
    /// the address they came to. `owner` names this appliance to storage services that admit one writer only: 1 to 32 of
    /// `0-9`, `a-z` and `-`, the same after a restart and another one on each host. Without `tls` no disk can be behind `nbds://`.
    pub fn new(
        limits: &Limits,
        clock: Clock,
        seed: u64,
        portal: Option<SocketAddrV4>,
        owner: &str,
        tls: Option<Tls>,
    ) -> Self {
        Self(Shared::new(limits, clock, seed, portal, owner, tls))
    }

    /// Make the challenges of initiators of this; without it nobody can be asked who it is.
    ///
    /// # Errors
    /// When there is too little randomness, or that was said before.
    pub fn make_challenges_of(&self, random: Arc<dyn Random>) -> Result<(), NoEntropy> {
        self.0.challenger.set(challenge::Challenger::new(random)?).map_err(|_| NoEntropy)
    }

    /// Make the tokens of offloaded copies of this, which is random and secret; without it there are none.
    pub fn make_tokens_of(&self, secret: [u64; 4]) {
        self.0.tokens.set(Some((secret, 0)));
    }

    /// What drives it.
    pub fn control(&self) -> Control {
        Control(self.0.clone())
    }

    /// The task of connection slot `index`, below [`Limits::connections`], on the host-only network.
    pub fn serve_initiators(
        &self,
        index: usize,
        port: u16,
        stream: Stream,
    ) -> impl Future<Output = ()> + 'static {
        portal::run(self.0.clone(), index, port, stream)
    }

    /// The task of connection `path`, below [`Limits::paths`], of volume slot `index`, below [`Limits::volumes`], on the
    /// service network.
    pub fn serve_volume(
        &self,
        index: usize,
        path: usize,
        stream: Stream,
    ) -> impl Future<Output = ()> + 'static {
        volume::run(self.0.clone(), index, path, stream)
    }

    /// Keep persistent reservations in these records: from now on APTPL is offered, and disks that are exposed have the
    /// reservations that were kept of them. Answers the task that does it.
    pub fn keep_reservations(&self, records: Records) -> impl Future<Output = ()> + 'static {
        self.0.keeper.set_records(records.clone());
        reservations::run(self.0.clone(), records)
    }

    /// The task that looks whether disks have changed, on the service network.
    pub fn watch_volumes(&self, stream: Stream) -> impl Future<Output = ()> + 'static {
        watch::run(self.0.clone(), stream)
    }
}
