//! The door with a lock: callers in TLS on wires in memory, honest and not.

use super::desk::*;
use super::tasks::{End, Exchange, Slot};
use crate::*;
use kernel_runtime::{Day, Executor, Instant};
use management_http::{Client, Limits, Method};
use network_tls::{Algorithm, Anchors, Buffers, ClientConfig, Connection, Dates, PrivateKey};
use state::Records;
use std::rc::Rc;
use std::time::Duration;
use tests_pki::{Authority, Issued, Kind, Leaf, NOW, crypto};

pub(super) const VM: &str = "spiffe://example.org/svc/vm";
pub(super) const BUFFERS: Buffers = Buffers { receive: 20 << 10, transmit: 20 << 10 };

/// A plane behind a locked door, and those who come.
pub(super) struct World {
    executor: Executor,
    pub(super) now: Duration,
    pub(super) management: Rc<Management>,
    pub(super) api: Exchange,
    pub(super) authority: Authority,
    records: Option<Records>,
}

pub(super) fn lock(authority: &Authority) -> Lock {
    Lock {
        crypto: crypto().clone(),
        anchors: Anchors::from_der([authority.der.clone()]).unwrap(),
        trust_domain: "example.org".into(),
        signatures: false,
        dates: Dates::MustBeChecked,
        day: Some(Day::new(NOW, Instant::ZERO)),
        buffers: BUFFERS,
    }
}

impl World {
    pub(super) fn new(slots: usize) -> Self {
        let authority = Authority::new("provider", Kind::P256);
        let own = authority.issue(&Leaf::server(&["appliance.example"]));
        let door = Door::locked(lock(&authority), vec![own.der], own.key).unwrap();
        Self::behind(door, authority, None, slots)
    }

    pub(super) fn behind(door: Door, authority: Authority, records: Option<Records>, slots: usize) -> Self {
        let mut executor = Executor::new(8);
        let configuration = Configuration { door, ..configuration(None) };
        let management = Rc::new(Management::new(configuration, Shelf::default(), None, executor.clock()));
        executor.add("clerk", keep(management.clone()));
        let api = Exchange::default();
        for _ in 0..slots {
            let (slot, shared) = (Slot { exchange: api.clone(), end: End::default() }, management.clone());
            executor.add("session", async move { session::serve_on(slot, 443, &shared).await });
        }
        Self { executor, now: Duration::ZERO, management, api, authority, records }
    }

    pub(super) fn pump(&mut self) {
        let now = Instant::ZERO + self.now;
        loop {
            let ran = self.executor.run_ready(now);
            if let Some(records) = &self.records {
                records.turn(now);
            }
            if ran == 0 {
                return;
            }
        }
    }

    pub(super) fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.pump();
            let next = self.executor.next_deadline().map(|deadline| deadline.since(Instant::ZERO));
            match next {
                Some(next) if next <= end => self.now = next.max(self.now + Duration::from_micros(1)),
                _ => break,
            }
        }
        self.now = end;
        self.pump();
    }

    pub(super) fn issue(&self, names: &[&str]) -> Issued {
        self.authority.issue(&Leaf { names, ..Leaf::client() })
    }

    /// Somebody who shows `identity`.
    pub(super) fn caller(&mut self, identity: Option<&Issued>) -> Caller {
        let anchors = Anchors::from_der([self.authority.der.clone()]).unwrap();
        let identity = identity.map(Issued::identity);
        self.caller_by(&ClientConfig::new(crypto(), &anchors, identity, Dates::MustBeChecked).unwrap())
    }

    fn caller_by(&mut self, config: &ClientConfig) -> Caller {
        let tls = Connection::client(config, "appliance.example", Some(NOW), BUFFERS).unwrap();
        let mut caller = Caller { end: self.api.dial(), tls, client: Client::new(Limits::CLIENT, "corbel") };
        caller.carry(self);
        caller
    }

    /// Somebody who shows `identity`, and takes `pause` twice in the middle of saying hello and once behind it.
    pub(super) fn slow_caller(&mut self, identity: &Issued, pause: Duration) -> Caller {
        let anchors = Anchors::from_der([self.authority.der.clone()]).unwrap();
        let config =
            ClientConfig::new(crypto(), &anchors, Some(identity.identity()), Dates::MustBeChecked).unwrap();
        let mut tls = Connection::client(&config, "appliance.example", Some(NOW), BUFFERS).unwrap();
        let hello = tls.poll_transmit().to_vec();
        tls.transmitted(hello.len());
        let end = self.api.dial();
        for piece in hello.chunks(hello.len().div_ceil(3)) {
            end.write(piece);
            self.wait(pause);
        }
        let mut caller = Caller { end, tls, client: Client::new(Limits::CLIENT, "corbel") };
        caller.carry(self);
        caller
    }

    /// Somebody without a certificate: before the appliance is enrolled one who believes the key that it has made.
    pub(super) fn stranger(&mut self) -> Caller {
        let waiting = self.management.configuration.door.keys().and_then(|(_, keys)| keys.waiting());
        let Some(pin) = waiting else { return self.caller(None) };
        let own = PrivateKey::generate(crypto(), Algorithm::P256).unwrap().self_signed("stranger").unwrap();
        self.caller_by(&ClientConfig::pinned(crypto(), &[pin], own).unwrap())
    }

    pub(super) fn get(&mut self, identity: &Issued, path: &str) -> (u16, serde_json::Value) {
        let mut caller = self.caller(Some(identity));
        let answer = caller.ask(self, Method::Get, path, None).expect("an answer");
        caller.end.reset();
        self.pump();
        answer
    }
}

pub(super) struct Caller {
    pub(super) end: End,
    pub(super) tls: Connection,
    client: Client,
}

impl Caller {
    /// Let bytes go to and fro until nobody has any. What TLS makes of them is told, if it ends it.
    pub(super) fn carry(&mut self, world: &mut World) -> Option<String> {
        loop {
            let bytes = self.tls.poll_transmit().to_vec();
            self.tls.transmitted(bytes.len());
            self.end.write(&bytes);
            world.pump();
            let came = self.end.read();
            if came.is_empty() && bytes.is_empty() {
                return None;
            }
            for chunk in came.chunks(1024) {
                let space = self.tls.space();
                space[..chunk.len()].copy_from_slice(chunk);
                if let Err(fatal) = self.tls.received(chunk.len()) {
                    return Some(fatal.to_string());
                }
            }
        }
    }

    pub(super) fn ask(
        &mut self,
        world: &mut World,
        method: Method,
        path: &str,
        body: Option<&str>,
    ) -> Result<(u16, serde_json::Value), String> {
        let request = self.request(method, path, body);
        self.write(world, &request)?;
        self.answer(world)
    }

    /// The bytes of a request, which are not sent yet.
    pub(super) fn request(&mut self, method: Method, path: &str, body: Option<&str>) -> Vec<u8> {
        self.client.request(method, path, body.map(str::as_bytes));
        let request = self.client.transmit().to_vec();
        self.client.transmitted(request.len());
        request
    }

    /// Send these bytes of a request, or of several.
    pub(super) fn write(&mut self, world: &mut World, bytes: &[u8]) -> Result<(), String> {
        let mut sent = 0;
        while sent < bytes.len() {
            let count = self.tls.write(&bytes[sent..]).map_err(|fatal| fatal.to_string())?;
            if count == 0 {
                return Err("it does not go on".into());
            }
            sent += count;
            if let Some(fatal) = self.carry(world) {
                return Err(fatal);
            }
        }
        Ok(())
    }

    /// The record that a request is in, which is not sent yet.
    pub(super) fn record(&mut self) -> Vec<u8> {
        let request = self.request(Method::Get, "/healthz", None);
        assert_eq!(self.tls.write(&request).unwrap(), request.len());
        let record = self.tls.poll_transmit().to_vec();
        self.tls.transmitted(record.len());
        record
    }

    /// The answer that has come to a request.
    pub(super) fn answer(&mut self, world: &mut World) -> Result<(u16, serde_json::Value), String> {
        if let Some(fatal) = self.carry(world) {
            return Err(fatal);
        }
        let mut bytes = [0; 4096];
        loop {
            let count = self.tls.read(&mut bytes).map_err(|fatal| fatal.to_string())?;
            for byte in &bytes[..count] {
                self.client.space()[0] = *byte;
                self.client.received(1).unwrap();
            }
            if let Some(reply) = self.client.reply() {
                let body = serde_json::from_slice(reply.body).unwrap_or_default();
                return Ok((reply.status, body));
            }
            if count == 0 {
                return Err("it said nothing".into());
            }
        }
    }
}

#[test]
fn a_service_is_known_by_its_certificate_and_may_do_what_is_its_own() {
    let mut world = World::new(2);
    let [vm, net, storage] = ["vm", "net", "storage"]
        .map(|service| world.issue(&[format!("spiffe://example.org/svc/{service}").as_str()]));
    for (who, path, status) in [
        (&vm, "/v1", 200),
        (&vm, "/v1/operations", 200),
        (&net, "/v1", 200),
        (&net, "/v1/operations", 403),
        (&net, "/v1/targets", 403),
        (&storage, "/v1/targets", 200),
        (&storage, "/v1/instances", 403),
        (&storage, "/v1/metrics", 200),
    ] {
        let (answered, body) = world.get(who, path);
        assert_eq!(answered, status, "{path}: {body}");
        if status == 403 {
            assert!(body["detail"].as_str().unwrap().contains(" may not look at "), "{body}");
        }
    }
    assert_eq!(world.get(&vm, "/v1").1["authentication"], "mutual-tls");
    let mut caller = world.caller(Some(&storage));
    let body = Some(r#"{"verb":"terminate"}"#);
    let answer = caller.ask(&mut world, Method::Post, "/v1/instances/web-1/commands", body).unwrap();
    assert_eq!(answer.1["detail"], "svc/storage may not command instances.");
    // The same connection serves on.
    assert_eq!(caller.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
}

#[test]
fn who_names_no_service_is_told_so_and_may_do_nothing() {
    let mut world = World::new(1);
    let long = format!("spiffe://example.org/svc/{}", "v".repeat(2100));
    for (names, why) in [
        (&[VM, "spiffe://example.org/svc/net"][..], "more than one URI"),
        (&[VM, VM], "more than one URI"),
        (&[], "no subjectAltName"),
        (&["vm.example.org"], "no URI"),
        (&["https://example.org/svc/vm"], "no SPIFFE ID"),
        (&["spiffe://example.com/svc/vm"], "another trust domain"),
        (&["spiffe://example.org.evil/svc/vm"], "another trust domain"),
        (&["spiffe://example.org"], "no path"),
        (&["spiffe://example.org/svc/vm/"], "none of svc/vm"),
        (&["spiffe://example.org/svc/VM"], "none of svc/vm"),
        (&["spiffe://example.org/svc/root"], "none of svc/vm"),
        (&["spiffe://example.org/vm"], "none of svc/vm"),
        (&[long.as_str()], "longer than 2048 bytes"),
    ] {
        let who = world.issue(names);
        for path in ["/healthz", "/v1/instances"] {
            let (status, body) = world.get(&who, path);
            assert_eq!(status, 403, "{names:?}");
            assert!(body["detail"].as_str().unwrap().contains(why), "{names:?}: {body}");
        }
    }
    let vm = world.issue(&["vm.example.org", VM]);
    assert_eq!(world.get(&vm, "/v1").0, 200, "a name of another kind beside it is no harm");
}

#[test]
fn who_cannot_prove_who_it_is_never_gets_as_far_as_a_request() {
    let mut world = World::new(1);
    let other = Authority::new("somebody else", Kind::P256);
    let names = &[VM];
    let leaf = Leaf { names, ..Leaf::client() };
    let server = Leaf { names, ..Leaf::server(&[]) };
    let expired = Leaf { years: (2024, 2025), ..leaf };
    let early = Leaf { years: (2027, 2028), ..leaf };
    for (who, alert) in [
        (None, "CertificateRequired"),
        (Some(other.issue(&leaf)), "UnknownCA"),
        (Some(world.authority.issue(&server)), "UnsupportedCertificate"),
        (Some(world.authority.issue(&expired)), "CertificateExpired"),
        (Some(world.authority.issue(&early)), "CertificateExpired"),
    ] {
        let before = world.management.configuration.door.clone();
        let mut caller = world.caller(who.as_ref());
        // In TLS 1.3 a client is told behind its own last word.
        let told = match caller.carry(&mut world) {
            Some(told) => told,
            None => caller.ask(&mut world, Method::Get, "/healthz", None).expect_err("refused"),
        };
        assert!(told.contains(alert), "{alert}: {told}");
        let mut text = String::new();
        before.figures(&mut text, &world.management.clock);
        assert!(!text.contains("refused\"} 0"), "{text}");
        world.wait(Duration::from_millis(60));
        assert!(caller.end.is_closed(), "{alert}");
    }
    let vm = world.issue(&[VM]);
    assert_eq!(world.get(&vm, "/v1").0, 200, "the slot is there for the next");
}

#[test]
fn a_flood_of_callers_that_are_refused_is_counted_and_leaves_the_trail_to_others() {
    let mut world = World::new(1);
    let vm = world.issue(&[VM]);
    let expired = world.authority.issue(&Leaf { names: &[VM], years: (2024, 2025), ..Leaf::client() });
    let knock = |world: &mut World, who: Option<&Issued>, expected: bool| {
        let mut caller = world.caller(who);
        if caller.carry(world).is_none() {
            assert_eq!(caller.ask(world, Method::Get, "/healthz", None).is_ok(), expected);
        }
        caller.end.reset();
        world.wait(Duration::from_millis(60));
    };
    let handshakes = |world: &mut World| {
        let (status, page) = world.get(&vm, "/v1/audit");
        assert_eq!(status, 200);
        let records = page["records"].as_array().unwrap().clone();
        records.into_iter().filter(|record| record["verb"] == "handshake").collect::<Vec<_>>()
    };
    knock(&mut world, None, false);
    knock(&mut world, None, false);
    knock(&mut world, Some(&expired), false);
    let told = handshakes(&mut world);
    assert_eq!(told.len(), 1, "the first at once: {told:?}");
    assert_eq!((&told[0]["decision"], &told[0]["outcome"]), (&"denied".into(), &"no-certificate".into()));
    world.wait(Duration::from_secs(61));
    let told = handshakes(&mut world);
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[1]["outcome"], "no-certificate 1, expired 1");
    assert!(told[1]["object"].as_str().unwrap().starts_with("2 more, the last from "), "{told:?}");
    // Six hours of it.
    for _ in 0..360 {
        knock(&mut world, None, false);
        knock(&mut world, None, false);
        world.wait(Duration::from_secs(60));
    }
    let told = handshakes(&mut world);
    assert!((8..=12).contains(&told.len()), "{}", told.len());
    // A day of silence, and it is news again.
    world.wait(Duration::from_secs(24 * 3600));
    let told = handshakes(&mut world).len();
    knock(&mut world, Some(&expired), false);
    let after = handshakes(&mut world);
    assert_eq!((after.len(), &after[told]["outcome"]), (told + 1, &"expired".into()));
    let counted =
        |reason: &str, count: u64| format!("corbel_api_refused_total{{reason=\"{reason}\"}} {count}\n");
    let mut text = String::new();
    world.management.refusals.figures(&mut text);
    for (reason, count) in [("no-certificate", 722), ("expired", 2), ("unknown-authority", 0)] {
        assert!(text.contains(&counted(reason, count)), "{text}");
    }
}

#[test]
fn who_knocks_once_a_minute_does_not_get_a_record_for_each() {
    let mut world = World::new(1);
    let vm = world.issue(&[VM]);
    // Two hours of it.
    for _ in 0..120 {
        world.caller(None).carry(&mut world);
        world.wait(Duration::from_secs(61));
    }
    let page = world.get(&vm, "/v1/audit").1;
    let records = page["records"].as_array().unwrap();
    let told = records.iter().filter(|record| record["verb"] == "handshake").count();
    assert!((6..=8).contains(&told), "{told}");
}

#[test]
fn noise_ends_the_connection_and_the_next_caller_is_served() {
    let mut world = World::new(1);
    let vm = world.issue(&[VM]);
    let mut empty = Vec::new();
    (0..3000).for_each(|_| empty.extend(b"\x17\x03\x03\0\0"));
    let mut changes = Vec::new();
    (0..3000).for_each(|_| changes.extend(b"\x14\x03\x03\0\x01\x01"));
    for noise in [
        &b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"\0\0\0\0\0\0\0\0\0\0",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\xff\xff",
        b"\x15\x03\x03\0\x02\x02\x28",
        b"\x16\x03\x01\0\x04\x01\xff\xff\xff",
        &empty,
        &changes,
        &[0x80; 70_000],
    ] {
        let end = world.api.dial();
        end.write(noise);
        world.pump();
        world.wait(Duration::from_millis(5200));
        assert!(end.is_closed(), "{:x?}", &noise[..5]);
        assert!(!end.read().starts_with(b"HTTP"), "nothing is said in clear");
        assert_eq!(world.get(&vm, "/v1").0, 200);
    }
}

#[test]
fn a_handshake_that_is_cut_at_any_byte_leaves_the_slot_to_the_next() {
    let mut world = World::new(1);
    let vm = world.issue(&[VM]);
    let anchors = Anchors::from_der([world.authority.der.clone()]).unwrap();
    let config = ClientConfig::new(crypto(), &anchors, Some(vm.identity()), Dates::MustBeChecked).unwrap();
    let mut hello = Connection::client(&config, "appliance.example", Some(NOW), BUFFERS).unwrap();
    let hello = hello.poll_transmit().to_vec();
    for cut in 0..hello.len() {
        let end = world.api.dial();
        end.write(&hello[..cut]);
        if cut % 2 == 0 {
            end.finish();
        } else {
            end.reset();
        }
        world.pump();
        world.wait(Duration::from_millis(60));
        assert!(end.is_closed(), "{cut}");
    }
    assert_eq!(world.get(&vm, "/v1").0, 200);
}

#[test]
fn a_farewell_is_answered_and_a_cut_is_no_end_of_a_request() {
    let mut world = World::new(1);
    let vm = world.issue(&[VM]);
    let mut caller = world.caller(Some(&vm));
    assert_eq!(caller.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
    caller.tls.close();
    assert_eq!(caller.carry(&mut world), None);
    assert!(caller.tls.peer_closed(), "close_notify is answered by close_notify");
    assert!(caller.end.is_closed());

    let mut caller = world.caller(Some(&vm));
    let body = br#"{"verb":"terminate"}"#;
    caller.client.request(Method::Post, "/v1/instances/web-1/commands", Some(body));
    let request = caller.client.transmit().to_vec();
    caller.tls.write(&request[..request.len() - 1]).unwrap();
    caller.carry(&mut world);
    caller.end.finish();
    world.pump();
    assert!(caller.end.is_closed());
    assert!(caller.end.read().len() < 100, "no answer but an alert");
}

#[test]
fn the_certificate_that_is_shown_is_told_of_before_it_is_over() {
    let mut world = World::new(1);
    let vm = world.issue(&[VM]);
    let (status, ready) = world.get(&vm, "/readyz");
    assert_eq!(status, 200, "{ready}");
    // From 2026 to 2028; it is June 2026.
    assert_eq!(ready["certificate"]["rotation_due"], false);
    assert_eq!(ready["certificate"]["days_left"], 578);
    let year = Duration::from_secs(365 * 24 * 3600);
    world.now += year;
    world.pump();
    let mut text = String::new();
    world.management.configuration.door.figures(&mut text, &world.management.clock);
    assert!(text.contains("corbel_api_certificate_rotation_due 1"), "{text}");
}
