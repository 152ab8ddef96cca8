//! Notices that a disk has grown, or has become writable or read-only, while its connection stands: NBD has no word for it.
//!
//! From time to time the service is asked about the export over a connection of its own (NBD_OPT_INFO). When the answer
//! differs, the disk's own connection is made anew, between two requests, and what it then says is told to initiators. A
//! disk whose service speaks TLS is looked at in TLS.

use crate::carrier::{Carrier, Engine, Lost};
use crate::shared::Shared;
use crate::volume::Watched;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::Poll;
use core::time::Duration;
use kernel_runtime::{Instant, with_deadline};
use network::Stream;
use storage_nbd::{Export, Facts, Probe, Settings, Tls, TransmissionFlags};

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Look at one disk after another, for ever.
pub(crate) async fn run(shared: Rc<Shared>, mut stream: Stream) {
    // What was last told of each, lest a service that says one thing here and another there is asked for ever.
    let mut told: Vec<Option<Facts>> = vec![None; shared.volumes.len()];
    loop {
        shared.clock.sleep(shared.limits.watch).await;
        for (volume, told) in shared.volumes.iter().zip(&mut told) {
            let Some(watched) = volume.watched(&shared) else { continue };
            let deadline = shared.clock.now() + PATIENCE;
            let look = look(&shared, &mut stream, &watched, deadline);
            let seen = with_deadline(&shared.clock, deadline, look).await.ok().flatten();
            stream.abort();
            let is_news = seen != *told;
            if is_news && seen.is_some_and(|facts| differs(&watched.known, &facts)) {
                *told = seen;
                log::info!("{}: export {:?} has changed", watched.address, watched.name);
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

async fn look(shared: &Shared, stream: &mut Stream, watched: &Watched, deadline: Instant) -> Option<Facts> {
    stream.connect(watched.address).await.ok()?;
    let now = shared.clock.now();
    let tls = if watched.peer.is_some() { Tls::Required } else { Tls::Off };
    let settings = Settings { tls, ..Settings::of(&watched.name) };
    let mut glance = Glance { probe: Probe::new(now, settings, deadline.since(now)).ok()?, seen: None };
    let mut carrier = Carrier::new(watched.peer.clone());
    poll_fn(|cx| {
        let now = shared.clock.now();
        let mut carry =
            || Ok(carrier.receive(now, &mut glance, stream)? | carrier.transmit(&mut glance, stream)?);
        loop {
            let moved: Result<bool, Lost> = carry();
            match moved {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => return Poll::Ready(glance.seen.take()),
            }
        }
        stream.register(cx);
        Poll::Pending
    })
    .await
}

/// A look, and what it has seen.
struct Glance {
    probe: Probe,
    seen: Option<Facts>,
}

impl Engine for Glance {
    fn space(&mut self) -> &mut [u8] {
        self.probe.space()
    }

    /// What was looked for is the end as well.
    fn received(&mut self, count: usize) -> Result<(), Lost> {
        self.seen = self.probe.received(count).map_err(Lost::soon)?;
        if self.seen.is_some() { Err(Lost::soon("seen")) } else { Ok(()) }
    }

    fn poll_transmit(&mut self) -> Option<&[u8]> {
        self.probe.poll_transmit()
    }

    fn transmitted(&mut self, count: usize) -> Result<(), Lost> {
        self.probe.transmitted(count);
        Ok(())
    }

    fn wants_tls(&self) -> bool {
        self.probe.wants_tls()
    }

    fn tls_established(&mut self) {
        self.probe.tls_established();
    }
}
