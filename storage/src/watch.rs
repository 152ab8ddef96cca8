//! Notices that a disk has grown, or has become writable or read-only, while its connection stands: NBD has no word for it.
//!
//! From time to time the service is asked about the export over a connection of its own (NBD_OPT_INFO). When the answer
//! differs, the disk's own connection is made anew, between two requests, and what it then says is told to initiators.

use crate::shared::Shared;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddrV4;
use core::time::Duration;
use kernel_runtime::{Instant, with_deadline};
use network::Stream;
use storage_nbd::{Export, Facts, Probe, TransmissionFlags};

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Look at one disk after another, for ever.
pub(crate) async fn run(shared: Rc<Shared>, mut stream: Stream) {
    // What was last told of each, lest a service that says one thing here and another there is asked for ever.
    let mut told: Vec<Option<Facts>> = vec![None; shared.volumes.len()];
    loop {
        shared.clock.sleep(shared.limits.watch).await;
        for (volume, told) in shared.volumes.iter().zip(&mut told) {
            let Some((address, name, known)) = volume.watched() else { continue };
            let deadline = shared.clock.now() + PATIENCE;
            let look = look(&shared, &mut stream, address, &name, deadline);
            let seen = with_deadline(&shared.clock, deadline, look).await.ok().flatten();
            stream.abort();
            let is_news = seen != *told;
            if is_news && seen.is_some_and(|facts| differs(&known, &facts)) {
                *told = seen;
                log::info!("{address}: export {name:?} has changed");
                volume.renew();
            }
        }
    }
}

/// Whether there is something to tell. A service that says nothing of the size, or zero as some do, says nothing.
fn differs(known: &Export, facts: &Facts) -> bool {
    let read_only = facts.flags.contains(TransmissionFlags::READ_ONLY);
    facts.size.is_some_and(|size| size != known.size) || read_only != known.geometry.read_only
}

async fn look(
    shared: &Shared,
    stream: &mut Stream,
    address: SocketAddrV4,
    name: &str,
    deadline: Instant,
) -> Option<Facts> {
    stream.connect(address).await.ok()?;
    let now = shared.clock.now();
    let mut probe = Probe::new(now, name, deadline.since(now)).ok()?;
    loop {
        while let Some(bytes) = probe.poll_transmit() {
            let count = bytes.len();
            stream.write_all(bytes).await.ok()?;
            probe.transmitted(count);
        }
        let count = stream.read(probe.space()).await.ok().filter(|&count| count > 0)?;
        if let Some(facts) = probe.received(count).ok()? {
            return Some(facts);
        }
    }
}
