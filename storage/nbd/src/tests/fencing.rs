//! The contexts that a service of its own has: incarnation and writer, against the other end and against servers that
//! know neither.

use super::{Pair, drain, feed};
use crate::testing::{Admission, Disk, Lease, Session, Settings, Shape};
use crate::wire::error;
use crate::{Client, ClientError, Event, Fatal, Limits, Retry, Writer};
use kernel_runtime::Instant;
use storage_block::{Error, Operation};

const SIZE: usize = 1 << 16;

fn client(generation: u64, owner: &str) -> Client {
    let writer = Some(Writer { generation, owner });
    Client::new(&Limits::DEFAULT, crate::Settings { writer, ..crate::Settings::of("disk") }).expect("sound")
}

fn settings() -> Settings {
    Settings { fencing: true, incarnation: Some("boot-1".to_string()), ..Settings::default() }
}

/// A service with one export: its sessions, and who writes.
struct Service {
    settings: Settings,
    disk: Disk,
    lease: Lease,
    sessions: Vec<Session>,
}

impl Service {
    fn new(settings: Settings) -> Self {
        Self { settings, disk: Disk::new(SIZE), lease: Lease::default(), sessions: Vec::new() }
    }

    /// A new connection of `client`; negotiates to the end.
    fn connect(&mut self, client: &mut Client) -> Result<usize, Fatal> {
        self.sessions.push(Session::new(&self.settings, &self.disk));
        let at = self.sessions.len() - 1;
        client.connected(Instant::ZERO);
        loop {
            feed(client, &core::mem::take(&mut self.sessions[at].output), usize::MAX)?;
            if matches!(client.poll_event(), Some(Event::Ready)) {
                return Ok(at);
            }
            self.sessions[at].receive(&drain(client));
            self.judge(at);
        }
    }

    fn judge(&mut self, at: usize) {
        let Some(claim) = self.sessions[at].fence_request().cloned() else { return };
        let admission = self.lease.admit(&claim);
        for (index, other) in self.sessions.iter_mut().enumerate() {
            if index != at && claim.cuts(admission, other.claim()) {
                other.cut();
            }
        }
        self.sessions[at].fence(admission != Admission::Refused);
    }
}

#[test]
fn a_claim_that_is_taken_and_an_incarnation_are_told() {
    for extended in [false, true] {
        let mut service = Service::new(Settings { extended, ..settings() });
        let mut client = client(0xa1, "host-7");
        client.set_place(0x1f, 3, &[1, 0xff]);
        service.connect(&mut client).expect("sound");
        let export = client.export().expect("an export");
        assert!(export.fenced && export.geometry.status);
        assert_eq!(export.incarnation.as_deref(), Some("boot-1"));
        let claim = service.sessions[0].claim().expect("granted");
        assert_eq!((claim.generation, &*claim.owner, claim.session), (0xa1, "host-7", 0x1f));
        assert_eq!((claim.connection, &claim.alive[..]), (3, &[1, 0xff][..]));
        service.sessions[0].assert_obeyed();
    }
}

#[test]
fn a_place_holds_for_the_next_connections_and_is_bounded() {
    let mut service = Service::new(settings());
    let mut client = client(u64::MAX, &"z".repeat(32));
    let many: Vec<u32> = (0..20).map(|index| u32::MAX - index).collect();
    client.set_place(u64::MAX, u32::MAX, &many);
    for _ in 0..2 {
        let at = service.connect(&mut client).expect("sound");
        let claim = service.sessions[at].claim().expect("granted");
        assert_eq!(claim.alive, many[..crate::MAX_ALIVE]);
        assert!(client.export().is_some_and(|export| export.fenced));
        client.disconnected(Instant::ZERO);
    }
}

#[test]
fn without_a_claim_none_is_made() {
    let mut service = Service::new(settings());
    let mut client = Client::new(&Limits::DEFAULT, "disk").expect("sound");
    client.set_place(1, 2, &[3]);
    let at = service.connect(&mut client).expect("sound");
    assert!(service.sessions[at].claim().is_none());
    let export = client.export().expect("an export");
    assert!(!export.fenced && export.incarnation.is_some());
}

#[test]
fn an_older_generation_is_refused_and_never_let_in_without_its_claim() {
    let mut service = Service::new(settings());
    service.connect(&mut client(5, "new")).expect("sound");
    for (generation, owner) in [(4, "new"), (5, "old"), (0, "old")] {
        let mut late = client(generation, owner);
        assert_eq!(service.connect(&mut late), Err(Fatal::Fenced));
        assert_eq!(Fatal::Fenced.retry(), Retry::Slowly);
        assert!(!late.remark().is_empty() && late.poll_transmit().is_none(), "not another word");
        assert!(late.export().is_none());
    }
    assert!(service.sessions.iter().skip(1).all(|session| session.export().is_none()));
    assert!(!service.sessions[0].is_cut());
}

#[test]
fn a_claim_ends_what_came_by_older_connections() {
    let mut service = Service::new(settings());
    let (mut old, mut other, mut new) = (client(1, "a"), client(1, "a"), client(2, "b"));
    old.set_place(7, 1, &[]);
    let first = service.connect(&mut old).expect("sound");
    other.set_place(7, 2, &[1]);
    service.connect(&mut other).expect("sound");
    assert!(!service.sessions[first].is_cut(), "told to be alive");
    let pair = Pair::new(&Settings::default(), SIZE);
    let write = pair.request(9, Operation::Write { fua: false }, 0, 512);
    old.submit(Instant::ZERO, write).expect("a slot");
    service.sessions[first].receive(&drain(&mut old));
    assert_eq!(service.sessions[first].waiting.len(), 1);
    service.connect(&mut new).expect("sound");
    assert!(service.sessions[first].waiting.is_empty() && service.sessions[first].is_cut());
    // It hears that it is to go, and its write is unfinished rather than done.
    let words = core::mem::take(&mut service.sessions[first].output);
    feed(&mut old, &words, usize::MAX).expect("sound");
    assert!(matches!(old.poll_event(), Some(Event::Closing)));
    old.disconnected(Instant::ZERO);
    assert_eq!(old.take_unfinished().map(|unfinished| unfinished.request.cookie), Some(9));
    assert!(service.disk.content().iter().all(|&byte| byte == 0));
}

#[test]
fn a_connection_of_the_same_session_that_is_not_named_is_cut() {
    let mut service = Service::new(settings());
    let mut clients: Vec<_> = (0..4).map(|_| client(1, "a")).collect();
    for (number, alive) in [(1, &[][..]), (2, &[1]), (3, &[1, 2]), (4, &[2])] {
        let client = &mut clients[number as usize - 1];
        client.set_place(7, number, alive);
        service.connect(client).expect("sound");
    }
    let cut: Vec<_> = service.sessions.iter().map(Session::is_cut).collect();
    assert_eq!(cut, [true, false, true, false]);
}

#[test]
fn servers_that_know_no_such_context_are_served_without() {
    let plain = Settings::default();
    let refusing = Settings { refuses_unknown_contexts: true, ..Settings::default() };
    for settings in [plain, refusing] {
        for extended in [false, true] {
            let mut service = Service::new(Settings { extended, ..settings.clone() });
            let mut client = client(1, "a");
            service.connect(&mut client).expect("sound");
            let export = client.export().expect("an export");
            assert!(!export.fenced && export.incarnation.is_none() && export.geometry.status);
        }
    }
    let mut service = Service::new(Settings { structured: false, ..settings() });
    let mut client = client(1, "a");
    service.connect(&mut client).expect("sound");
    assert!(client.export().is_some_and(|export| !export.fenced && export.incarnation.is_none()));
}

#[test]
fn an_incarnation_that_is_none_is_not_believed() {
    for token in ["", "A", "a b", "a\u{1b}[2J", &"x".repeat(65)] {
        let mut service = Service::new(Settings { incarnation: Some(token.to_string()), ..settings() });
        let mut client = client(1, "a");
        service.connect(&mut client).expect("sound");
        assert_eq!(client.export().expect("an export").incarnation, None, "{token}");
    }
    let longest = "0-9a-z".repeat(10) + "long";
    let mut service = Service::new(Settings { incarnation: Some(longest.clone()), ..settings() });
    let mut client = client(1, "a");
    service.connect(&mut client).expect("sound");
    assert_eq!(client.export().and_then(|export| export.incarnation).as_deref(), Some(longest.as_str()));
}

#[test]
fn the_incarnation_is_no_part_of_what_an_export_is() {
    let mut client = client(1, "a");
    let mut exports = Vec::new();
    for token in [Some("one"), Some("two"), None] {
        let settings = Settings { incarnation: token.map(str::to_string), ..settings() };
        Service::new(settings).connect(&mut client).expect("sound");
        exports.push(*client.export().expect("an export"));
        client.disconnected(Instant::ZERO);
    }
    for export in &exports[1..] {
        assert_eq!(crate::validate(&exports[0], export), Ok(crate::Change::default()));
        assert_ne!(exports[0].incarnation, export.incarnation);
    }
}

#[test]
fn names_of_writers_are_checked() {
    let with = |owner: &str| {
        let writer = Some(Writer { generation: 0, owner });
        Client::new(&Limits::DEFAULT, crate::Settings { writer, ..crate::Settings::of("disk") }).err()
    };
    assert_eq!(with("a-0"), None);
    assert_eq!(with(&"a".repeat(32)), None);
    for wrong in ["", "A", "a:b", "a_b", "ä", &"a".repeat(33)] {
        assert_eq!(with(wrong), Some(ClientError::Owner), "{wrong}");
    }
}

#[test]
fn who_makes_no_claim_may_be_served_read_only() {
    let settings = Settings { claimed_only: true, ..settings() };
    let mut service = Service::new(settings);
    let mut plain = Client::new(&Limits::DEFAULT, "disk").expect("sound");
    service.connect(&mut plain).expect("sound");
    assert!(plain.export().is_some_and(|export| export.geometry.read_only));
    let mut claiming = client(0, "a");
    service.connect(&mut claiming).expect("sound");
    assert!(claiming.export().is_some_and(|export| !export.geometry.read_only));
}

#[test]
fn what_comes_by_a_cut_connection_is_refused() {
    let mut pair = Pair::new(&settings(), SIZE);
    pair.session.cut();
    pair.submit(1, Operation::Write { fua: false }, 0, 512);
    pair.send();
    assert!(pair.session.waiting.is_empty());
    pair.deliver().expect("sound");
    assert!(matches!(pair.client.poll_event(), Some(Event::Closing)));
    let mut pair = Pair::new(&settings(), SIZE);
    let refused = pair.run(Operation::Read, 0, 512, Shape::Error(error::EPERM));
    assert_eq!(refused, Err(Error::NotPermitted));
}
