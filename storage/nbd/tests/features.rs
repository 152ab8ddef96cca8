//! What servers of the distribution have beyond reads and writes: extents, fast zeroes, facts on the side; each checked
//! against what another client finds there.

mod support;

use std::os::unix::fs::FileExt;
use std::time::Duration;
use storage_block::{Error, Extent, Operation, Request};
use storage_nbd::{Client, Facts, Headers, Limits, Probe, Settings, TransmissionFlags};
use support::model::{Model, share};
use support::server::{self, Folder, Server, run};
use support::service::Service;
use support::{Driver, Socket};

const SIZE: u64 = 16 << 20;

fn opened<'a>(socket: Socket, settings: impl Into<Settings<'a>>) -> Driver {
    let mut driver = Driver::new(Client::new(&Limits::DEFAULT, settings).expect("a client"));
    driver.open(socket).expect("an export");
    driver
}

fn zeroes(fast: bool, offset: u64, length: u64) -> Request {
    let operation = Operation::WriteZeroes { fua: false, no_hole: false, fast };
    Request { cookie: 1, operation, offset, length, buffer: None }
}

fn write(driver: &mut Driver, offset: u64, length: usize) {
    let mut buffer = share().take(length).expect("a buffer");
    buffer.fill(0x5a);
    let operation = Operation::Write { fua: false };
    let request = Request { cookie: 1, operation, offset, length: length as u64, buffer: Some(buffer) };
    assert_eq!(driver.run(request).result, Ok(()));
}

/// The extents of the whole disk, asked for piece by piece, joined where they are alike.
fn map(driver: &mut Driver, room: usize) -> Vec<(u64, u64, bool, bool)> {
    let size = driver.client.export().expect("an export").geometry.size;
    let mut map: Vec<(u64, u64, bool, bool)> = Vec::new();
    let mut at = 0;
    while at < size {
        let (operation, buffer) = (Operation::Status, share().take(room));
        let request = Request { cookie: 1, operation, offset: at, length: size - at, buffer };
        let completion = driver.run(request);
        assert_eq!(completion.result, Ok(()));
        let buffer = completion.buffer.expect("it comes back");
        assert!(!buffer.is_empty() && buffer.len() <= room);
        for extent in Extent::all(&buffer) {
            let length = extent.length.min(size - at);
            match map.last_mut() {
                Some((_, last, hole, zero)) if (*hole, *zero) == (extent.hole, extent.zero) => {
                    *last += length;
                }
                _ => map.push((at, length, extent.hole, extent.zero)),
            }
            at += length;
        }
    }
    map
}

/// What `nbdinfo` finds: lines of offset, length and state, whose lowest bits are those of the protocol.
fn told_by_nbdinfo(uri: &str) -> Option<Vec<(u64, u64, bool, bool)>> {
    let said = run("nbdinfo", &["--map", uri], &Folder::new())?;
    let mut map: Vec<(u64, u64, bool, bool)> = Vec::new();
    for line in said.lines() {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(u64::MAX));
        let (offset, length, state) = (
            numbers.next().expect("offset"),
            numbers.next().expect("length"),
            numbers.next().expect("state"),
        );
        let (hole, zero) = (state & 1 != 0, state & 2 != 0);
        match map.last_mut() {
            Some((_, last, a, b)) if (*a, *b) == (hole, zero) => *last += length,
            _ => map.push((offset, length, hole, zero)),
        }
    }
    Some(map)
}

fn maps_agree(server: &Server, seed: u64) {
    let mut driver = opened(server.socket(), "");
    assert!(driver.client.export().expect("an export").geometry.status);
    let mut model = Model::new(&driver, seed);
    model.longest = 1 << 18;
    model.exercise(&mut driver, 40);
    let Some(expected) = told_by_nbdinfo(&server.uri("")) else { return };
    assert!(expected.len() > 3, "{expected:?}");
    for room in [Extent::SIZE, 3 * Extent::SIZE, 4096] {
        assert_eq!(map(&mut driver, room), expected, "room for {room} bytes");
    }
    driver.close();
}

#[test]
fn extents_of_nbdkit_are_those_that_another_client_finds() {
    let Some(server) = server::nbdkit(&["memory", "16M"]) else { return };
    maps_agree(&server, 1);
}

#[test]
fn extents_of_a_file_behind_nbdkit_are_those_that_another_client_finds() {
    let folder = Folder::new();
    let disk = folder.file("disk", SIZE).display().to_string();
    let Some(server) = server::nbdkit(&["file", &disk]) else { return };
    maps_agree(&server, 2);
}

#[test]
fn extents_of_qemu_nbd_are_those_that_another_client_finds() {
    let Some(server) = server::qemu_nbd(SIZE, &[]) else { return };
    maps_agree(&server, 3);
}

#[test]
fn extents_of_this_packages_own_end_are_those_that_another_client_finds() {
    for extended in [false, true] {
        let settings = storage_nbd::testing::Settings { extended, ..Default::default() };
        let service = Service::start(settings, SIZE as usize);
        let mut driver = opened(Socket::unix(&service.path()).expect("it listens"), "disk");
        write(&mut driver, 4096, 8192);
        write(&mut driver, 1 << 20, 512);
        assert_eq!(driver.run(zeroes(false, 8192, 4096)).result, Ok(()));
        let Some(expected) = told_by_nbdinfo(&service.uri()) else { return };
        assert_eq!(expected.len(), 5, "{expected:?}");
        assert_eq!(map(&mut driver, 64), expected);
        driver.close();
        assert_eq!(*service.violations.lock().expect("nobody panicked"), Vec::<String>::new());
    }
}

#[test]
fn zeroes_are_fast_or_not_at_all() {
    let slow = ["--filter=nozero", "memory", "16M", "zeromode=emulate", "fastzeromode=slow"];
    for (arguments, expected) in [(&["memory", "16M"][..], Ok(())), (&slow, Err(Error::NotSupported))] {
        let Some(server) = server::nbdkit(arguments) else { return };
        let mut driver = opened(server.socket(), "");
        assert!(driver.client.export().expect("an export").geometry.fast_zero);
        assert_eq!(driver.run(zeroes(true, 0, 1 << 20)).result, expected);
        assert_eq!(driver.run(zeroes(false, 0, 1 << 20)).result, Ok(()), "at its own pace it goes");
        driver.close();
    }
    let Some(server) = server::nbd_server(SIZE, "flush = true") else { return };
    let mut driver = opened(server.socket(), "disk");
    assert!(!driver.client.export().expect("an export").geometry.fast_zero);
    assert_eq!(driver.run(zeroes(true, 0, 1 << 20)).result, Err(Error::NotSupported));
}

#[test]
fn each_form_of_replies_can_be_asked_for() {
    let Some(server) = server::nbdkit(&["memory", "16M"]) else { return };
    for (seed, headers) in [(1, Headers::Simple), (2, Headers::Structured), (3, Headers::Extended)] {
        let mut driver = opened(server.socket(), Settings { headers, ..Settings::of("") });
        let export = *driver.client.export().expect("an export");
        assert_eq!(export.structured, headers != Headers::Simple);
        assert_eq!(export.geometry.status, export.structured);
        // The disk has to be as the model believes.
        assert_eq!(driver.run(zeroes(false, 0, SIZE)).result, Ok(()));
        let mut model = Model::new(&driver, seed);
        model.exercise(&mut driver, 300);
        model.verify(&mut driver);
        driver.close();
    }
}

#[test]
fn several_connections_are_allowed_only_where_a_flush_reaches_all() {
    let multi = |server: &Server, export: &str| {
        let driver = opened(server.socket(), export);
        let export = driver.client.export().expect("an export");
        (export.flags.contains(TransmissionFlags::CAN_MULTI_CONN), export.multi_conn)
    };
    if let Some(server) = server::nbdkit(&["memory", "16M"]) {
        assert_eq!(multi(&server, ""), (true, true));
    }
    if let Some(server) = server::qemu_nbd(SIZE, &[]) {
        let (flag, allowed) = multi(&server, "");
        assert_eq!(flag, allowed);
    }
    // It says so of every export, with FLUSH or without.
    for (lines, allowed) in [("", false), ("flush = true", true), ("readonly = true", true)] {
        let Some(server) = server::nbd_server(SIZE, lines) else { return };
        assert_eq!(multi(&server, "disk"), (true, allowed), "{lines}");
    }
}

fn probe(socket: Socket, export: &str) -> Facts {
    let now = kernel_runtime::Instant::ZERO;
    let mut probe = Probe::new(now, export, Duration::from_secs(10)).expect("a probe");
    let mut socket = socket.blocking();
    loop {
        while let Some(bytes) = probe.poll_transmit() {
            let count = socket.write(bytes).expect("the server listens");
            probe.transmitted(count);
        }
        let count = socket.read(probe.space()).expect("the server speaks");
        assert!(count > 0, "{:?}", probe.remark());
        if let Some(facts) = probe.received(count).expect("a sound server") {
            return facts;
        }
    }
}

#[test]
fn an_export_that_grows_is_noticed_beside_the_connection_that_serves_it() {
    let folder = Folder::new();
    let disk = folder.file("disk", SIZE);
    let Some(server) = server::nbdkit(&["file", &disk.display().to_string()]) else { return };
    let mut driver = opened(server.socket(), "");
    assert_eq!(probe(server.socket(), "").size, Some(SIZE));
    let file = std::fs::File::options().write(true).open(&disk).expect("the disk");
    file.set_len(2 * SIZE).expect("it grows");
    let facts = probe(server.socket(), "");
    assert_eq!(facts.size, Some(2 * SIZE));
    assert!(facts.flags.contains(TransmissionFlags::SEND_FLUSH));
    // The connection there is serves what it began with.
    write(&mut driver, 0, 4096);
    let mut byte = [0];
    file.sync_all().expect("a disk");
    std::fs::File::open(&disk).and_then(|file| file.read_at(&mut byte, 0)).expect("the disk");
    assert_eq!(byte, [0x5a]);
    driver.close();
}

#[test]
fn a_server_that_tells_no_size_on_the_side_is_not_believed_to_have_shrunk() {
    let Some(server) = server::nbd_server(SIZE, "flush = true") else { return };
    let facts = probe(server.socket(), "disk");
    assert!(facts.size.is_none_or(|size| size == SIZE), "{facts:?}");
    let Some(server) = server::qemu_nbd(SIZE, &[]) else { return };
    let facts = probe(server.socket(), "");
    assert_eq!(facts.size, Some(SIZE));
    assert!(facts.block_sizes.is_some_and(|sizes| sizes.maximum == 32 << 20));
}

#[test]
fn facts_are_told_to_another_client_as_they_are() {
    let settings = storage_nbd::testing::Settings {
        incarnation: Some("boot-1".to_string()),
        fencing: true,
        ..Default::default()
    };
    let service = Service::start(settings, SIZE as usize);
    let Some(said) = run("nbdinfo", &["--json", &service.uri()], &Folder::new()) else { return };
    for fact in ["\"export-size\": 16777216", "base:allocation", "\"can_fua\": true", "\"can_zero\": true"] {
        assert!(said.contains(fact), "{fact} in {said}");
    }
    let listed = run("nbdinfo", &["--list", "--json", &service.uri()], &Folder::new()).expect("as before");
    assert!(listed.contains("\"export-name\": \"disk\""), "{listed}");
}

#[test]
fn other_clients_carry_a_disk_to_this_packages_own_end_and_back() {
    let service = Service::start(storage_nbd::testing::Settings::default(), SIZE as usize);
    let folder = Folder::new();
    let mut random = support::model::Random::new(7);
    let content: Vec<u8> = (0..SIZE / 4096)
        .flat_map(|_| [if random.below(3) == 0 { 0 } else { random.next() as u8 }; 4096])
        .collect();
    std::fs::write(folder.0.join("there"), &content).expect("a file");
    let uri = service.uri();
    let Some(_) = run("nbdcopy", &["--flush", "there", &uri], &folder) else { return };
    assert!(service.disk.lock().expect("nobody panicked").content() == content);
    assert!(service.disk.lock().expect("nobody panicked").durable() == content);
    run("nbdcopy", &[&uri, "back"], &folder).expect("as before");
    assert!(std::fs::read(folder.0.join("back")).expect("a file") == content);
    let convert = ["convert", "-f", "raw", "-O", "raw", &uri, "converted"];
    if run("qemu-img", &convert, &folder).is_some() {
        assert!(std::fs::read(folder.0.join("converted")).expect("a file") == content);
        let commands = ["-f", "raw", "-c", "write -P 7 0 64k", "-c", "write -z 64k 64k", "-c", "flush", "-c"];
        let all = [&commands[..], &["read -P 7 0 64k", &uri]].concat();
        run("qemu-io", &all, &folder);
        let disk = service.disk.lock().expect("nobody panicked");
        assert!(disk.durable()[..65536].iter().all(|&byte| byte == 7));
        assert!(disk.durable()[65536..131_072].iter().all(|&byte| byte == 0));
    }
}
