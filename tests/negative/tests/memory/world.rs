//! Storage between an initiator's wire and a service's, all in one thread.

use kernel_runtime::{Clock, Executor, Instant};
use network::{Addressing, Attachment, Settings, Side, Stream, TryRead};
use network_nic::testing::Wire as Cable;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;
use storage::{Exposure, IscsiLimits, Limits, NbdLimits, Policy, ScsiLimits, Storage, VolumeState};
use storage_nbd::testing::{self, Disk, Session, Shape};
use tests_negative::{Received, Wire};

/// Blocks of the disk.
pub(crate) const BLOCKS: u64 = 16_384;
/// How long an answer may take, in virtual time.
const SOON: Duration = Duration::from_secs(3);
/// A turn of everybody.
const TURN: Duration = Duration::from_micros(50);
const PORT: u16 = 3260;

/// A storage service that does what it is asked.
async fn serve(clock: Clock, mut stream: Stream) {
    let mut disk = Disk::new(BLOCKS as usize * 512);
    loop {
        stream.accept(10_809).await;
        let mut session = Session::new(&testing::Settings::default(), &disk);
        let mut buffer = [0; 4096];
        loop {
            let output = std::mem::take(&mut session.output);
            if stream.write_all(&output).await.is_err() {
                break;
            }
            match stream.try_read(&mut buffer) {
                Ok(TryRead::Bytes(count)) => session.receive(&buffer[..count]),
                Ok(TryRead::Empty) => clock.sleep(Duration::from_micros(200)).await,
                Ok(TryRead::Finished) | Err(_) => break,
            }
            while !session.waiting.is_empty() {
                session.execute(&mut disk, 0, Shape::Plain);
            }
        }
        session.assert_obeyed();
        stream.finish().await;
    }
}

/// Everybody there is, and the time.
pub(crate) struct World {
    ends: [Attachment<Cable>; 4],
    executor: Executor,
    now: Instant,
}

fn limits() -> Limits {
    Limits {
        connections: 4,
        volumes: 1,
        commands: 64,
        sharing: storage::Sharing::default(),
        port_group: 1,
        pool: [(4096, 64), (16384, 8), (65536, 4)],
        share: 1 << 20,
        control: 65536,
        iscsi: IscsiLimits::default(),
        scsi: ScsiLimits { units: 1, nexuses: 8, commands: 64 },
        nbd: NbdLimits::default(),
        hold: Duration::from_secs(25),
        hold_off: Duration::from_secs(30),
        paths: 1,
        journal: [(4096, 64), (16384, 8), (65536, 4)],
        entries: 64,
        flush_after: Duration::from_secs(10),
        watch: Duration::from_secs(600),
    }
}

impl World {
    /// A world with this target, whose disk is there.
    pub(crate) fn new(target: &str) -> Self {
        let end = |wire: Cable| {
            let last = wire.mac[5];
            let cidr = format!("10.78.0.{last}/24").parse().expect("an address");
            let addressing = Addressing::Static { cidr, gateway: None };
            let settings = Settings { side: Side::Service, addressing, foreign: None, seed: u64::from(last) };
            Attachment::new(&settings, wire, Instant::ZERO)
        };
        let [[a, b], [c, d]] = [(); 2].map(|()| Cable::pair([1, 2]));
        let ends = [a, b, c, d].map(end);
        let limits = limits();
        let mut executor = Executor::new(16);
        let storage = Storage::new(&limits, executor.clock(), 1, None, "test", None);
        executor.add("volume", storage.serve_volume(0, 0, ends[0].stack().stream(65536, 65536)));
        for index in 0..limits.connections {
            let stream = ends[2].stack().stream(65536, 65536);
            executor.add("portal", storage.serve_initiators(index, PORT, stream));
        }
        executor.add("service", serve(executor.clock(), ends[1].stack().stream(65536, 65536)));
        let control = storage.control();
        control
            .expose(Exposure {
                id: "disk".into(),
                iqn: target.into(),
                lun: 0,
                volume: "nbd://10.78.0.2:10809/disk".into(),
                initiators: vec!["*".into()],
                chap: None,
                read_only: false,
                removable: false,
                access: storage::AccessState::Optimized,
                policy: Policy::default(),
            })
            .expect("exposed");
        let mut world = Self { ends, executor, now: Instant::ZERO };
        world.run_until(SOON, || control.get("disk").is_some_and(|disk| disk.state == VolumeState::Ready));
        world
    }

    /// Lets time pass until something holds, or for `limit`. Answers whether it does.
    fn run_until(&mut self, limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
        let end = self.now + limit;
        while !holds() {
            if self.now >= end {
                return false;
            }
            let mut moved = false;
            for attachment in &mut self.ends {
                moved |= attachment.receive(self.now);
            }
            moved |= self.executor.run_ready(self.now) > 0;
            for attachment in &mut self.ends {
                moved |= attachment.transmit(self.now);
                moved |= !attachment.nic().outgoing.borrow().is_empty();
            }
            let step = self.now + TURN;
            let deadlines = self.ends.iter_mut().filter_map(|end| end.next_deadline(self.now));
            let next = deadlines.chain(self.executor.next_deadline()).min().unwrap_or(end);
            self.now = if moved || self.executor.has_ready() { step } else { next.max(step).min(end) };
        }
        true
    }

    /// A connection to the portal.
    pub(crate) fn connect(&mut self) -> Connection<'_> {
        let mut stream = self.ends[3].stack().stream(65536, 65536);
        {
            let address = format!("10.78.0.1:{PORT}").parse().expect("an address");
            let mut connecting = pin!(stream.connect(address));
            let mut context = Context::from_waker(Waker::noop());
            let stands = self.run_until(SOON, || connecting.as_mut().poll(&mut context).is_ready());
            assert!(stands, "there is a slot");
        }
        Connection { world: self, stream, has_finished: false }
    }
}

/// An initiator's end of a connection.
pub(crate) struct Connection<'a> {
    world: &'a mut World,
    stream: Stream,
    has_finished: bool,
}

impl Wire for Connection<'_> {
    fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        let stream = &self.stream;
        self.world.run_until(SOON, || {
            match stream.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(_) => rest = &[],
            }
            rest.is_empty()
        });
    }

    fn finish(&mut self) {
        self.has_finished = true;
        let mut context = Context::from_waker(Waker::noop());
        let mut finishing = pin!(self.stream.finish());
        self.world.run_until(SOON, || finishing.as_mut().poll(&mut context).is_ready());
    }

    fn receive(&mut self) -> Received {
        let (stream, mut received) = (&self.stream, Received::Nothing);
        let mut buffer = vec![0; 65536];
        self.world.run_until(SOON, || {
            received = match stream.try_read(&mut buffer) {
                Ok(TryRead::Bytes(count)) => Received::Bytes(buffer[..count].to_vec()),
                Ok(TryRead::Empty) => return false,
                Ok(TryRead::Finished) | Err(_) => Received::Closed,
            };
            true
        });
        received
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.stream.abort();
        // The RST goes out, and the target's slot listens again.
        self.world.run_until(Duration::from_millis(1), || false);
    }
}
