//! Volumes and sessions against a storage service in memory, over a simulated wire.

mod fairness;
mod sessions;
mod tls;

use crate::shared::Shared;
use crate::{Control, Exposure, Limits, Storage, VolumeState};
use kernel_runtime::{Clock, Executor, Instant};
use network::{Addressing, Attachment, Settings, Side, Stack, Stream, TryRead};
use network_nic::testing::Wire;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use storage_block::{Operation, Request};
use storage_nbd::testing::{self, Disk, Session, Shape};
use storage_nbd::wire::{command, error};

/// What the service does with the commands of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Execute and answer them.
    Serve,
    /// Execute nothing.
    Hang,
    /// Execute and answer them, and close the connection behind the answer.
    ServeAndClose,
    /// Close the connection when one comes.
    Close,
    /// Execute and answer so many of them, and no more.
    Answer(usize),
    /// Answer them with an error.
    Fail,
    /// Send half of an answer, and close the connection.
    BreakOff,
}

/// The storage service.
struct Service {
    name: &'static str,
    disk: Disk,
    manner: Manner,
    /// Writes it was given.
    writes: usize,
    /// Of each farewell that it was told, whether the stream ended behind it as it should.
    farewells: Vec<bool>,
    /// How it has TLS.
    tls: tls::Service,
}

impl Service {
    /// Whether it has something to answer.
    fn answers(&self, session: &Session) -> bool {
        !session.waiting.is_empty() && !matches!(self.manner, Manner::Hang | Manner::Answer(0))
    }
}

async fn serve(service: Rc<RefCell<Service>>, clock: Clock, port: u16, mut stream: Stream) {
    loop {
        stream.accept(port).await;
        let (mut session, mut pipe) = {
            let service = service.borrow();
            let settings = testing::Settings {
                name: service.name.into(),
                tls: service.tls.encryption(),
                ..testing::Settings::default()
            };
            (Session::new(&settings, &service.disk), tls::Pipe::new(&service.tls))
        };
        converse(&service, &clock, &mut session, &mut pipe, &mut stream).await;
        service.borrow_mut().tls.remember(&pipe);
        session.assert_obeyed();
        if session.has_ended() {
            let mut buffer = [0; 64];
            let in_order = loop {
                match stream.read(&mut buffer).await {
                    Ok(0) => break true,
                    // The end of TLS is said as well.
                    Ok(_) => {}
                    Err(_) => break false,
                }
            };
            service.borrow_mut().farewells.push(in_order);
        }
        stream.finish().await;
    }
}

async fn converse(
    service: &RefCell<Service>,
    clock: &Clock,
    session: &mut Session,
    pipe: &mut tls::Pipe,
    stream: &mut Stream,
) {
    let mut buffer = [0; 4096];
    loop {
        let output = pipe.outgoing(session);
        if stream.write_all(&output).await.is_err() || pipe.is_over() {
            return;
        }
        match stream.try_read(&mut buffer) {
            Ok(TryRead::Bytes(count)) => pipe.receive(session, &buffer[..count]),
            // What was left waiting may be answered now.
            Ok(TryRead::Empty) if service.borrow().answers(session) => {}
            Ok(TryRead::Empty) => clock.sleep(Duration::from_millis(1)).await,
            Ok(TryRead::Finished) | Err(_) => return,
        }
        if session.has_ended() {
            return;
        }
        let service = &mut *service.borrow_mut();
        if session.waiting.is_empty() || service.manner == Manner::Hang {
            continue;
        }
        let is_write = |waiting: &&testing::Waiting| waiting.request.command == command::WRITE;
        service.writes += session.waiting.iter().filter(is_write).count();
        if service.manner == Manner::Close {
            return;
        }
        while service.answers(session) {
            let shape = if service.manner == Manner::Fail { Shape::Error(error::EIO) } else { Shape::Plain };
            if let Manner::Answer(left) = &mut service.manner {
                *left -= 1;
            }
            session.execute(&mut service.disk, 0, shape);
        }
        if service.manner == Manner::BreakOff {
            let output = pipe.outgoing(session);
            stream.try_write(&output[..output.len().min(65536) / 2]).expect("it stands");
            return;
        }
        if service.manner == Manner::ServeAndClose {
            let output = pipe.outgoing(session);
            let taken = stream.try_write(&output);
            assert_eq!(taken, Ok(output.len()), "a short answer fits");
            return;
        }
    }
}

struct World {
    /// Both ends of the wire to the services and, with addresses like theirs, of that to the initiators.
    ends: [Attachment<Wire>; 4],
    executor: Executor,
    now: Instant,
    storage: Storage,
    server: Stack,
    /// Where initiators are.
    host: Stack,
    /// Rounds of the loop so far.
    turns: u64,
    /// Every frame, of both directions.
    overheard: Vec<u8>,
    records: Option<state::Records>,
}

fn limits() -> Limits {
    Limits {
        connections: 2,
        volumes: 2,
        commands: 64,
        pool: [(4096, 64), (16384, 4), (32768, 4)],
        share: 65536,
        control: 16384,
        iscsi: crate::IscsiLimits::default(),
        scsi: crate::ScsiLimits { units: 2, nexuses: 8, commands: 64 },
        nbd: crate::NbdLimits::default(),
        hold: Duration::from_secs(25),
        sharing: crate::Sharing::default(),
        port_group: 1,
        hold_off: Duration::from_secs(30),
        paths: 1,
        journal: [(4096, 64), (16384, 4), (32768, 4)],
        entries: 64,
        flush_after: Duration::from_secs(10),
        watch: Duration::from_secs(30),
    }
}

impl World {
    fn new() -> Self {
        Self::with_tls(None)
    }

    fn with_tls(tls: Option<crate::Tls>) -> Self {
        Self::within(&limits(), tls)
    }

    fn within(limits: &Limits, tls: Option<crate::Tls>) -> Self {
        let end = |wire: Wire| {
            let last = wire.mac[5];
            let cidr = format!("10.78.0.{last}/24").parse().expect("an address");
            let addressing = Addressing::Static { cidr, gateway: None };
            let settings = Settings { side: Side::Service, addressing, foreign: None, seed: u64::from(last) };
            Attachment::new(&settings, wire, Instant::ZERO)
        };
        let [[a, b], [c, d]] = [(); 2].map(|()| Wire::pair([1, 2]));
        let ends = [a, b, c, d].map(end);
        let mut executor = Executor::new(16);
        let storage = Storage::new(limits, executor.clock(), 1, None, "test", tls);
        for index in 0..limits.volumes {
            let stream = ends[0].stack().stream(65536, 65536);
            executor.add("volume", storage.serve_volume(index, 0, stream));
        }
        let stream = ends[0].stack().stream(4096, 4096);
        executor.add("watch", storage.watch_volumes(stream));
        let [server, host] = [1, 3].map(|end: usize| ends[end].stack());
        let (now, turns, overheard) = (Instant::ZERO, 0, Vec::new());
        Self { ends, executor, now, storage, server, host, turns, overheard, records: None }
    }

    fn service(&mut self, port: u16, name: &'static str, manner: Manner) -> Rc<RefCell<Service>> {
        self.service_with(port, name, manner, tls::Service::default())
    }

    fn service_with(
        &mut self,
        port: u16,
        name: &'static str,
        manner: Manner,
        tls: tls::Service,
    ) -> Rc<RefCell<Service>> {
        let service =
            Service { name, disk: Disk::new(1 << 20), manner, writes: 0, farewells: Vec::new(), tls };
        let service = Rc::new(RefCell::new(service));
        for _ in 0..2 {
            let stream = self.server.stream(65536, 65536);
            let clock = self.executor.clock();
            self.executor.add("service", serve(service.clone(), clock, port, stream));
        }
        service
    }

    fn control(&self) -> Control {
        self.storage.control()
    }

    fn shared(&self) -> &Shared {
        &self.storage.0
    }

    fn expose(&self, id: &str, volume: &str) {
        self.control().expose(exposure(id, volume)).expect("exposed");
    }

    fn state(&self, id: &str) -> VolumeState {
        self.control().get(id).expect("exposed").state
    }

    /// A write that no command waits for, with bytes that must not stay away.
    fn write(&self, volume: usize, offset: u64) {
        let volume = &self.shared().volumes[volume];
        let buffer = volume.share().expect("assigned").take(4096).expect("room");
        let operation = Operation::Write { fua: false };
        volume.push(
            self.executor.clock().now(),
            Request { cookie: 0, operation, offset, length: 4096, buffer: Some(buffer) },
        );
    }

    fn borrowed(&self, volume: usize) -> usize {
        self.shared().volumes[volume].share().expect("assigned").used()
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.turns += 1;
            let mut moved = false;
            for attachment in &mut self.ends {
                moved |= attachment.receive(self.now);
            }
            moved |= self.executor.run_ready(self.now) > 0;
            if let Some(records) = &self.records {
                records.turn(self.now);
            }
            for attachment in &mut self.ends {
                moved |= attachment.transmit(self.now);
                let outgoing = attachment.nic().outgoing.borrow();
                moved |= !outgoing.is_empty();
                self.overheard.extend(outgoing.iter().flatten());
            }
            // A turn takes its time, so one that is for nothing shows in their number and nowhere else.
            let step = self.now + Duration::from_micros(100);
            let deadlines = self.ends.iter_mut().filter_map(|end| end.next_deadline(self.now));
            let next = deadlines.chain(self.executor.next_deadline()).min().unwrap_or(end);
            self.now = if moved || self.executor.has_ready() { step } else { next.max(step).min(end) };
        }
    }
}

fn exposure(id: &str, volume: &str) -> Exposure {
    Exposure {
        id: id.into(),
        iqn: format!("iqn.2026-01.test:{id}"),
        lun: 0,
        volume: volume.into(),
        initiators: vec!["*".into()],
        chap: None,
        read_only: false,
        removable: false,
        access: crate::AccessState::Optimized,
        policy: crate::Policy::default(),
    }
}

#[test]
fn how_to_use_the_way_to_a_disk_may_change_while_it_is_exposed_and_nothing_else() {
    use crate::{AccessState, ControlError};
    let world = World::new();
    let control = world.control();
    let first = exposure("one", "nbd://10.78.0.2:10809/disk");
    for access in
        [AccessState::Optimized, AccessState::Standby, AccessState::Standby, AccessState::NonOptimized]
    {
        let exposed = control.expose(Exposure { access, ..first.clone() }).expect("the same but for that");
        assert_eq!(exposed.exposure.access, access);
        let told = control.get("one").expect("it").exposure;
        assert_eq!(told, Exposure { access, ..first.clone() });
        let told = world.shared().state.borrow_mut().registry.access_state("one");
        assert_eq!(told, Some(access), "and the unit goes by it");
    }
    let other = Exposure { removable: true, access: AccessState::Optimized, ..first };
    assert!(matches!(control.expose(other), Err(ControlError::Conflict(_))));
    assert_eq!(control.get("one").expect("it").exposure.access, AccessState::NonOptimized);
}

#[test]
fn a_disk_is_served_while_another_is_still_being_withdrawn() {
    let mut world = World::new();
    let old = world.service(10809, "old", Manner::Serve);
    let new = world.service(10810, "new", Manner::Serve);
    world.expose("one", "nbd://10.78.0.2:10809/old");
    world.run(Duration::from_secs(1));
    assert_eq!(world.state("one"), VolumeState::Ready);
    world.control().withdraw("one").expect("withdrawn");
    world.expose("two", "nbd://10.78.0.2:10810/new");
    assert_eq!(world.state("two"), VolumeState::Connecting);
    world.run(Duration::from_secs(5));
    assert_eq!(world.state("two"), VolumeState::Ready);
    world.write(1, 0);
    world.run(Duration::from_secs(1));
    assert_eq!((old.borrow().writes, new.borrow().writes), (0, 1));
    assert!(world.shared().volumes[0].is_free(), "the farewell is over");
    assert_eq!(old.borrow().farewells, [true], "it was heard, and the connection ended in order");
}

#[test]
fn a_place_whose_server_never_answered_is_free_at_once() {
    let mut world = World::new();
    world.expose("one", "nbd://10.78.0.9:10809/old");
    world.run(Duration::from_millis(500));
    world.control().withdraw("one").expect("withdrawn");
    world.run(Duration::from_secs(4));
    world.expose("two", "nbd://10.78.0.2:10810/new");
    let new = world.service(10810, "new", Manner::Serve);
    world.run(Duration::from_secs(10));
    assert_eq!(world.state("two"), VolumeState::Ready);
    world.write(0, 0);
    world.run(Duration::from_secs(1));
    assert_eq!(new.borrow().writes, 1);
}

#[test]
fn what_was_answered_before_the_connection_ended_is_done() {
    let mut world = World::new();
    let service = world.service(10809, "disk", Manner::Serve);
    world.expose("one", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    service.borrow_mut().manner = Manner::ServeAndClose;
    world.write(0, 0);
    // Before the next connection can stand.
    world.run(Duration::from_millis(10));
    assert_eq!(service.borrow().writes, 1);
    assert_eq!(world.borrowed(0), 0, "its buffer is back");
    service.borrow_mut().manner = Manner::Serve;
    world.run(Duration::from_secs(5));
    assert_eq!(service.borrow().writes, 2, "the journal writes it again, once");
}

#[test]
fn when_a_lost_connection_can_write_no_more_there_is_peace() {
    let mut world = World::new();
    let service = world.service(10809, "disk", Manner::Serve);
    world.expose("one", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    service.borrow_mut().manner = Manner::Close;
    world.write(0, 0);
    world.run(Duration::from_secs(1));
    service.borrow_mut().manner = Manner::Serve;
    world.run(limits().hold_off + Duration::from_secs(2));
    assert_eq!(world.borrowed(0), 0);
    let before = world.turns;
    world.run(Duration::from_secs(10));
    let turns = world.turns - before;
    // Each service looks every millisecond whether there is something to do.
    assert!(turns < 60_000, "{turns} turns in ten seconds");
}

#[test]
fn a_disk_that_has_grown_is_noticed_and_nothing_is_lost_over_it() {
    let mut world = World::new();
    let service = world.service(10809, "disk", Manner::Serve);
    world.expose("one", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    let before = world.control().get("one").expect("exposed").size.expect("known");
    world.write(0, 0);
    let larger = usize::try_from(before).expect("small") * 2;
    service.borrow_mut().disk.resize(larger);
    world.run(limits().watch + Duration::from_secs(5));
    let exposed = world.control().get("one").expect("exposed");
    assert_eq!((exposed.size, exposed.state), (Some(2 * before), VolumeState::Ready));
    assert_eq!(service.borrow().farewells, [true], "of the connection that was made anew");
}

#[test]
fn a_disk_that_comes_back_smaller_is_not_served_until_it_has_its_size_again() {
    let mut world = World::new();
    let service = world.service(10809, "disk", Manner::Serve);
    world.expose("one", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    let size =
        usize::try_from(world.control().get("one").expect("exposed").size.expect("known")).expect("small");
    service.borrow_mut().disk.resize(size / 2);
    world.run(limits().watch + Duration::from_secs(5));
    assert!(matches!(world.state("one"), VolumeState::Down(reason) if reason.contains("shrunk")));
    service.borrow_mut().disk.resize(size);
    world.run(Duration::from_secs(10));
    assert_eq!(world.state("one"), VolumeState::Ready);
}
