//! Disks behind `nbds://`: nothing is said in clear, and nobody is believed who is not the one.
//!
//! `pki/` holds certificates of nobody that are valid for a hundred years, the service's for 10.78.0.2 and for
//! storage.example.

use super::*;
use crate::{ControlError, Tls};
use kernel_runtime::Day;
use network_tls::{
    Anchors, Buffers, ClientConfig, Clients, Connection, Crypto, Dates, Fatal, Identity, NoEntropy, Random,
    ServerConfig,
};
use std::sync::atomic::{AtomicU64, Ordering};
use storage_nbd::testing::Encryption;
use storage_nbd::wire::{option, option_reply};

const AUTHORITY: &str = include_str!("pki/authority.pem");
const STRANGER: &str = include_str!("pki/stranger.pem");
const SERVER: &str = include_str!("pki/server.pem");
const CLIENT: &str = include_str!("pki/client.pem");

const NAME: &str = "a-name-for-nobody-else";
const URI: &str = "nbds://10.78.0.2:10809/a-name-for-nobody-else";

/// Numbers that look random and are the same in each run.
#[derive(Debug)]
struct Counter(AtomicU64);

impl Random for Counter {
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        for piece in out.chunks_mut(8) {
            let mut word = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            piece.copy_from_slice(&(word ^ word >> 31).to_le_bytes()[..piece.len()]);
        }
        Ok(())
    }
}

fn crypto(seed: u64) -> Crypto {
    Crypto::new(Box::new(Counter(AtomicU64::new(seed)))).expect("enough")
}

fn identity(pem: &str) -> Identity {
    Identity::from_pem(pem, pem).expect("sound")
}

/// What the appliance is told.
fn tls(anchors: &str, own: Option<&str>) -> Tls {
    let anchors = Anchors::from_pem(anchors).expect("sound");
    let config = ClientConfig::new(&crypto(1), &anchors, own.map(identity), Dates::CheckedWhenTimeIsKnown);
    Tls { config: config.expect("sound"), buffers: Buffers::default(), day: None }
}

/// How a service has TLS.
#[derive(Default)]
pub(super) struct Service {
    config: Option<ServerConfig>,
    /// It consents to TLS, and goes on in clear.
    clear: bool,
    /// Handshakes that succeeded.
    handshakes: usize,
    /// How connections failed.
    fatals: Vec<Fatal>,
}

impl Service {
    fn new(clients: &Clients) -> Self {
        let config = ServerConfig::new(&crypto(2), identity(SERVER), clients, Dates::CheckedWhenTimeIsKnown);
        Self { config: Some(config.expect("sound")), ..Self::default() }
    }

    pub(super) fn encryption(&self) -> Encryption {
        if self.config.is_some() { Encryption::Required } else { Encryption::Off }
    }

    pub(super) fn remember(&mut self, pipe: &Pipe) {
        self.handshakes += usize::from(pipe.told);
        self.fatals.extend(pipe.fatal.clone());
    }
}

/// The service's end of a connection.
pub(super) struct Pipe {
    config: Option<ServerConfig>,
    clear: bool,
    tls: Option<Connection>,
    told: bool,
    fatal: Option<Fatal>,
}

impl Pipe {
    pub(super) fn new(service: &Service) -> Self {
        let (config, clear) = (service.config.clone(), service.clear);
        Self { config, clear, tls: None, told: false, fatal: None }
    }

    pub(super) fn is_over(&self) -> bool {
        self.fatal.is_some()
    }

    pub(super) fn outgoing(&mut self, session: &mut Session) -> Vec<u8> {
        let output = std::mem::take(&mut session.output);
        if let Some(tls) = &mut self.tls {
            let (mut rest, mut sealed) = (&output[..], Vec::new());
            loop {
                let taken = tls.write(rest).unwrap_or(0);
                rest = &rest[taken..];
                let some = tls.poll_transmit().to_vec();
                tls.transmitted(some.len());
                sealed.extend(&some);
                if some.is_empty() && (taken == 0 || rest.is_empty()) {
                    return sealed;
                }
            }
        }
        if session.wants_tls() {
            match (&self.config, self.clear) {
                // As if somebody on the way had put an answer behind the consent.
                (_, true) => {
                    session.tls_established();
                    self.told = true;
                    let answer =
                        testing::option_reply_bytes(option::STRUCTURED_REPLY, option_reply::ACK, &[]);
                    return [output, answer].concat();
                }
                (Some(config), false) => {
                    self.tls = Some(Connection::server(config, None, Buffers::default()).expect("sound"));
                }
                (None, false) => panic!("no TLS was offered"),
            }
        }
        output
    }

    pub(super) fn receive(&mut self, session: &mut Session, mut bytes: &[u8]) {
        let Some(tls) = &mut self.tls else {
            // Behind the consent only records of TLS come, which are nothing to the session.
            if !self.told {
                session.receive(bytes);
            }
            return;
        };
        while !bytes.is_empty() {
            let space = tls.space();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            let mut data = [0; 65536];
            let read = tls.received(count).and_then(|()| tls.read(&mut data));
            if tls.is_established() && !std::mem::replace(&mut self.told, true) {
                session.tls_established();
            }
            match read {
                Ok(count) => session.receive(&data[..count]),
                Err(fatal) => self.fatal = Some(fatal),
            }
        }
    }
}

fn known() -> Clients {
    Clients::Known(Anchors::from_pem(AUTHORITY).expect("sound"))
}

fn own() -> Option<Tls> {
    Some(tls(AUTHORITY, Some(CLIENT)))
}

impl World {
    fn was_overheard(&self, words: &[u8]) -> bool {
        self.overheard.windows(words.len()).any(|window| window == words)
    }

    /// Why the disk is down.
    fn reason(&self) -> String {
        match self.state("one") {
            VolumeState::Down(reason) => reason,
            other => panic!("not down: {other:?}"),
        }
    }
}

#[test]
fn a_disk_is_served_over_tls_and_nothing_of_it_is_overheard() {
    let mut world = World::with_tls(own());
    let service = world.service_with(10809, NAME, Manner::Serve, Service::new(&known()));
    world.expose("one", URI);
    world.run(Duration::from_secs(1));
    assert_eq!(world.state("one"), VolumeState::Ready);
    let words = b"what only the disk should know";
    let volume = &world.shared().volumes[0];
    let mut buffer = volume.share().expect("assigned").take(4096).expect("room");
    buffer[..words.len()].copy_from_slice(words);
    let operation = Operation::Write { fua: false };
    let now = world.executor.clock().now();
    volume.push(now, Request { cookie: 0, operation, offset: 8192, length: 4096, buffer: Some(buffer) });
    world.run(Duration::from_secs(1));
    assert_eq!(&service.borrow().disk.content()[8192..][..words.len()], words);
    assert!(!world.was_overheard(words) && !world.was_overheard(NAME.as_bytes()));
    // And back, to nobody who waits for it.
    let volume = &world.shared().volumes[0];
    let buffer = volume.share().expect("assigned").take(4096);
    let now = world.executor.clock().now();
    let read = Request { cookie: 0, operation: Operation::Read, offset: 8192, length: 4096, buffer };
    volume.push(now, read);
    world.run(Duration::from_secs(1));
    assert_eq!(world.borrowed(0), 0, "it was answered");
    assert!(!world.was_overheard(words));
}

#[test]
fn in_clear_it_would_have_been() {
    let mut world = World::new();
    let _service = world.service(10809, NAME, Manner::Serve);
    world.expose("one", "nbd://10.78.0.2:10809/a-name-for-nobody-else");
    world.run(Duration::from_secs(1));
    assert!(world.was_overheard(NAME.as_bytes()));
}

#[test]
fn after_a_lost_connection_tls_is_made_again_and_nothing_is_lost() {
    let mut world = World::with_tls(own());
    let service = world.service_with(10809, NAME, Manner::Serve, Service::new(&known()));
    world.expose("one", URI);
    world.run(Duration::from_secs(1));
    service.borrow_mut().manner = Manner::Close;
    world.write(0, 0);
    world.run(Duration::from_secs(1));
    service.borrow_mut().manner = Manner::Serve;
    world.run(Duration::from_secs(5));
    assert_eq!((world.state("one"), world.borrowed(0)), (VolumeState::Ready, 0));
    assert!(service.borrow().writes >= 2, "it was sent again");
    assert!(service.borrow().tls.handshakes >= 1, "each that is over was in TLS");
    assert!(!world.was_overheard(NAME.as_bytes()));
}

#[test]
fn a_disk_that_has_grown_is_noticed_in_tls_too() {
    let mut world = World::with_tls(own());
    let service = world.service_with(10809, NAME, Manner::Serve, Service::new(&known()));
    world.expose("one", URI);
    world.run(Duration::from_secs(1));
    service.borrow_mut().disk.resize(2 << 20);
    world.run(limits().watch + Duration::from_secs(5));
    let exposed = world.control().get("one").expect("exposed");
    assert_eq!((exposed.size, exposed.state), (Some(2 << 20), VolumeState::Ready));
    assert!(!world.was_overheard(NAME.as_bytes()));
}

#[test]
fn a_service_by_an_authority_that_is_not_believed_is_down_with_the_reason() {
    let mut world = World::with_tls(Some(tls(STRANGER, Some(CLIENT))));
    let service = world.service_with(10809, NAME, Manner::Serve, Service::new(&known()));
    world.expose("one", URI);
    world.run(Duration::from_secs(2));
    assert!(world.reason().contains("none of the configured authorities made it"), "{}", world.reason());
    assert!(!world.was_overheard(NAME.as_bytes()));
    // It heard why.
    let fatals = &service.borrow().tls.fatals;
    assert!(matches!(&fatals[..], [Fatal::Refused(alert), ..] if alert == "UnknownCA"), "{fatals:?}");
}

#[test]
fn a_service_is_who_the_uri_says_or_it_is_down() {
    for (name, is_right) in [("storage.example", true), ("other.example", false)] {
        let mut world = World::with_tls(own());
        let _service = world.service_with(10809, NAME, Manner::Serve, Service::new(&known()));
        world.expose("one", &format!("{URI}?tls-hostname={name}"));
        world.run(Duration::from_secs(2));
        if is_right {
            assert_eq!(world.state("one"), VolumeState::Ready);
        } else {
            assert!(world.reason().contains("not valid for name other.example"), "{}", world.reason());
        }
    }
}

#[test]
fn a_service_that_wants_a_certificate_and_gets_none_is_down_with_the_reason() {
    let mut world = World::with_tls(Some(tls(AUTHORITY, None)));
    let _service = world.service_with(10809, NAME, Manner::Serve, Service::new(&known()));
    world.expose("one", URI);
    world.run(Duration::from_secs(2));
    assert!(world.reason().contains("CertificateRequired"), "{}", world.reason());
}

#[test]
fn a_service_without_tls_is_down_and_never_told_in_clear() {
    let mut world = World::with_tls(own());
    let _service = world.service(10809, NAME, Manner::Serve);
    world.expose("one", URI);
    world.run(Duration::from_secs(2));
    assert!(world.reason().contains("TLS"), "{}", world.reason());
    assert!(!world.was_overheard(NAME.as_bytes()));
}

#[test]
fn a_service_that_consents_to_tls_and_goes_on_in_clear_is_down() {
    let mut world = World::with_tls(own());
    let tls = Service { clear: true, ..Service::new(&Clients::Anybody) };
    let service = world.service_with(10809, NAME, Manner::Serve, tls);
    world.expose("one", URI);
    world.run(Duration::from_secs(2));
    assert!(world.reason().contains("does not keep to TLS"), "{}", world.reason());
    assert!(!world.was_overheard(NAME.as_bytes()));
    assert_eq!(service.borrow().writes, 0);
}

#[test]
fn without_anybody_to_believe_a_disk_in_tls_is_not_exposed() {
    let world = World::new();
    let refused = world.control().expose(exposure("one", URI));
    let expected = matches!(&refused, Err(ControlError::Invalid { field: "volume", reason }) if reason.contains("tls.anchors"));
    assert!(expected, "{refused:?}");
}

#[test]
fn dates_that_must_be_checked_are_not_left_unchecked() {
    let anchors = Anchors::from_pem(AUTHORITY).expect("sound");
    let config = ClientConfig::new(&crypto(1), &anchors, None, Dates::MustBeChecked).expect("sound");
    let mut world = World::with_tls(Some(Tls { config, buffers: Buffers::default(), day: None }));
    let _service = world.service_with(10809, NAME, Manner::Serve, Service::new(&Clients::Anybody));
    world.expose("one", URI);
    world.run(Duration::from_secs(2));
    assert!(world.reason().contains("does not know the time"), "{}", world.reason());
}

#[test]
fn a_certificate_whose_time_is_over_is_refused_where_the_time_is_known() {
    let late = Tls { day: Some(Day::new(6_000_000_000, Instant::ZERO)), ..tls(AUTHORITY, Some(CLIENT)) };
    let mut world = World::with_tls(Some(late));
    let _service = world.service_with(10809, NAME, Manner::Serve, Service::new(&known()));
    world.expose("one", URI);
    world.run(Duration::from_secs(2));
    assert!(world.reason().contains("expired"), "{}", world.reason());
}
