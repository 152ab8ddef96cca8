//! The parsers, each behind a function from bytes to nothing.

use core::num::NonZeroU16;
use core::time::Duration;
use kernel_runtime::Instant;
use storage_block::{Operation, Pool, Request, Share};
use storage_iscsi::{Admission, Connection, Event, Outcome, TargetRecord, TaskManagementResponse};
use storage_scsi::testing::Bench;

const START: Instant = Instant::ZERO;

/// An initiator that says these bytes, before a layer above that answers everything.
pub(crate) fn iscsi(input: &[u8]) {
    let limits =
        storage_iscsi::Limits { commands: 8, immediate: 2, buffers: 24, ..storage_iscsi::Limits::default() };
    let pool = Pool::new(&[(4096, 8), (65536, 4)]);
    let share = pool.share(usize::MAX / 2);
    let mut connection = Connection::new(&limits, START);
    let mut rest = input;
    let mut sent = 0;
    while !rest.is_empty() && sent < 1 << 22 {
        let space = connection.space();
        let count = space.len().min(rest.len());
        if count == 0 {
            break;
        }
        space[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        if connection.received(START, count).is_err() {
            return;
        }
        // Whoever has something wait looks for pings behind it.
        let Ok(behind) = connection.take_behind(START, rest) else { return };
        rest = &rest[behind..];
        while let Some(event) = connection.poll_event() {
            answer(&mut connection, event, &share);
        }
        while let Some(bytes) = connection.poll_transmit() {
            let count = bytes.len();
            assert!(count > 0, "an empty piece would never be sent");
            sent += count;
            connection.transmitted(count);
        }
    }
    connection.close();
    assert_eq!(share.used(), 0, "all buffers came back");
}

fn answer(connection: &mut Connection, event: Event, share: &Share) {
    match event {
        Event::Login => {
            let tsih = NonZeroU16::MIN;
            connection.admit(Admission::Accept { tsih, portal_group_tag: 1 });
        }
        Event::SendTargets => {
            connection.answer_send_targets([TargetRecord { name: "iqn.2024-01.test:disk", portals: &[] }]);
        }
        Event::Command(command) => {
            let length = command.expected_data_transfer_length.min(8192) as usize;
            let buffer = share.take(length.max(1));
            match buffer {
                Some(buffer) if command.write && length > 0 => connection.receive(command.task, 0, buffer),
                Some(mut buffer) if command.read => {
                    buffer.fill(0x5a);
                    connection.send(command.task, 0, buffer);
                    connection.finish(command.task, Outcome::good(length as u64));
                }
                _ => connection
                    .finish(command.task, Outcome { status: 2, sense: &[0x70; 18], ..Outcome::good(0) }),
            }
        }
        Event::Received { task, buffer, .. } => connection.finish(task, Outcome::good(buffer.len() as u64)),
        Event::TaskManagement(request) => {
            connection.task_management_response(request.task, TaskManagementResponse::FUNCTION_COMPLETE);
        }
        Event::Logout(_) => connection.logout_response(storage_iscsi::LogoutResponse::Closed),
        Event::LoggedIn | Event::Dropped(_) | Event::Close => {}
    }
}

pub(crate) fn text(input: &[u8]) {
    for pair in storage_iscsi::wire::text::pairs(input) {
        let Ok((key, value)) = pair else { break };
        assert!(!key.is_empty());
        let _number = storage_iscsi::wire::text::number(value);
    }
}

/// Commands one after the other on a disk in memory: a byte for the data's length, sixteen for the CDB.
pub(crate) fn scsi(input: &[u8]) {
    let mut bench = Bench::new(storage_scsi::testing::geometry(256, 512));
    for piece in input.chunks(17).take(8) {
        let (Some(length), cdb) = (piece.first(), &piece[1..]) else { return };
        let length = usize::from(*length) * 64;
        let data = vec![0x11; length];
        let (outcome, data_in) = bench.run(cdb, &data, length as u32);
        assert!(data_in.len() <= length, "no more than there is room for");
        assert!(outcome.wanted_in < 1 << 40);
    }
}

/// A client that negotiates and then reads, writes and flushes; `peer` gets what it says and answers with bytes.
pub(crate) fn converse(name: &str, mut peer: impl FnMut(&[u8]) -> Vec<u8>) {
    let limits = storage_nbd::Limits { slots: 4, ..storage_nbd::Limits::DEFAULT };
    let Ok(mut client) = storage_nbd::Client::new(&limits, name) else { return };
    let pool = Pool::new(&[(4096, 8)]);
    let share = pool.share(usize::MAX / 2);
    client.connected(START);
    let mut asked = false;
    for _ in 0..64 {
        let mut said = Vec::new();
        while let Some(bytes) = client.poll_transmit() {
            let count = bytes.len();
            said.extend_from_slice(bytes);
            client.transmitted(START, count);
        }
        let answer = peer(&said);
        if answer.is_empty() && said.is_empty() {
            break;
        }
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let space = client.space();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            if client.received(START, count).is_err() {
                return;
            }
            while client.poll_event().is_some() {}
        }
        if client.is_ready() && !core::mem::replace(&mut asked, true) {
            for (cookie, operation) in
                [(1, Operation::Read), (2, Operation::Write { fua: true }), (3, Operation::Flush)]
            {
                let length = if operation.carries_data() { 4096 } else { 0 };
                let buffer = operation.carries_data().then(|| share.take(4096)).flatten();
                drop(client.submit(START, Request { cookie, operation, offset: 0, length, buffer }));
            }
        }
    }
    client.disconnected(START);
    while client.take_unfinished().is_some() {}
}

/// A storage service that says these bytes, whatever it is asked.
pub(crate) fn nbd(input: &[u8]) {
    let mut pieces = input.chunks(input.len().div_ceil(16).max(1));
    converse("disk", |_| pieces.next().map(<[u8]>::to_vec).unwrap_or_default());
}

pub(crate) fn uri(input: &[u8]) {
    if let Ok(text) = core::str::from_utf8(input) {
        drop(storage_nbd::Uri::parse(text));
    }
}

pub(crate) fn http_server(input: &[u8]) {
    let now = Duration::ZERO;
    let mut server = management_http::Server::new(management_http::Limits::SERVER, now);
    let mut rest = input;
    for _ in 0..10_000 {
        if server.request().is_some() {
            server.respond(now, &management_http::Response::no_content());
        }
        let count = server.transmit().len();
        if count > 0 {
            server.transmitted(now, count);
        }
        if server.is_finished() {
            return;
        }
        let space = server.space();
        let count = space.len().min(rest.len());
        if count == 0 {
            break;
        }
        space[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        server.received(now, count);
    }
    server.end_of_input();
}

pub(crate) fn http_client(input: &[u8]) {
    let mut client = management_http::Client::new(management_http::Limits::CLIENT, "10.0.0.1:80");
    client.request(management_http::Method::Get, "/a1/inventory", None);
    client.transmitted(client.transmit().len());
    let mut rest = input;
    while client.reply().is_none() {
        let space = client.space();
        let count = space.len().min(rest.len());
        if count == 0 {
            break;
        }
        space[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        if client.received(count).is_err() {
            return;
        }
    }
    let _verdict = client.end_of_input();
}

pub(crate) fn json(input: &[u8]) {
    let _verdict = management_http::json::check(input, &management_http::json::Bounds::REQUEST);
}

pub(crate) fn agent_protocol(input: &[u8]) {
    drop(agent_protocol::decode::<agent_protocol::Hello>(input));
    drop(agent_protocol::decode::<agent_protocol::Welcome>(input));
    drop(agent_protocol::decode::<agent_protocol::Command>(input));
    drop(agent_protocol::decode::<agent_protocol::Answer>(input));
    drop(agent_protocol::decode::<agent_protocol::Inventory>(input));
}

pub(crate) fn configuration(input: &[u8]) {
    use image_appliance::config::{Channel, Config};
    let text = String::from_utf8_lossy(input);
    drop(Config::parse(&[(Channel::FwCfg, &text)]));
    let _address = text.parse::<network::Cidr>();
}

/// A disk in memory.
struct Medium<'a> {
    bytes: &'a [u8],
    reads: u32,
}

impl image_channels::volume::Medium for Medium<'_> {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> bool {
        self.reads += 1;
        assert!(offset.is_multiple_of(4096) && into.len().is_multiple_of(512) && into.len() <= 4096);
        let start = usize::try_from(offset).expect("it is inside");
        into.copy_from_slice(&self.bytes[start..start + into.len()]);
        true
    }
}

pub(crate) fn cidata(input: &[u8]) {
    use image_channels::volume::{Found, read};
    let mut medium = Medium { bytes: input, reads: 0 };
    let mut into = vec![0; image_channels::LONGEST];
    if let Ok(Found::Document(length)) = read(&mut medium, &mut into) {
        assert!((1..=into.len()).contains(&length));
    }
    assert!(medium.reads <= 2048, "it ends");
}

pub(crate) fn smbios(input: &[u8]) {
    use image_channels::smbios::{LONGEST_TABLE, Table};
    if let Some(table) = Table::search(input) {
        assert!((1..=LONGEST_TABLE).contains(&table.length));
    }
    if let Ok(Some(document)) = image_appliance::config::oem::document(input) {
        assert!(document.len() <= input.len());
    }
}

pub(crate) fn metadata(input: &[u8]) {
    use image_channels::mmds::Answer;
    if let Ok(Some(answer)) = Answer::parse(input) {
        assert!(answer.body.len() <= input.len() && answer.status < 1000);
        drop(answer.token().map(<[u8]>::to_vec));
        // What is behind it changes nothing, and of a part of it nothing is believed.
        let end = answer.body.as_ptr() as usize - input.as_ptr() as usize + answer.body.len();
        assert_eq!(Answer::parse(&input[..end]), Ok(Some(answer)));
        assert_eq!(Answer::parse(&input[..end - 1]), Ok(None));
    }
}

/// Frames on two NICs in turn: a byte for which, one for the time until the next, two for the length.
pub(crate) fn nic_probe(input: &[u8]) {
    use image_probe::{Network, Probe, Verdict};
    let host = Network::new("10.77.0.2/24".parse().ok(), None, &mut [[10, 77, 0, 9].into()].into_iter());
    let service = Network::new(None, None, &mut core::iter::empty());
    let macs = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
    let mut now = START;
    let Ok(mut probe) = Probe::new([host, service], &macs, 7, now) else { return };
    let mut rest = input;
    while let Some(([place, wait, high, low], behind)) = rest.split_first_chunk() {
        let (frame, behind) =
            behind.split_at(usize::from(u16::from_be_bytes([*high, *low])).min(behind.len()));
        rest = behind;
        now = now + Duration::from_millis(u64::from(*wait));
        assert!(probe.ask(now).len() <= 8, "bounded");
        probe.heard(usize::from(*place), frame);
        match probe.verdict(now) {
            Verdict::Decided(host, service) => assert!(host < 2 && host + service == 1),
            Verdict::Waiting(_) => {}
            Verdict::Contradiction(text) => assert!(text.contains("host.mac")),
        }
    }
}

pub(crate) fn frame(input: &[u8]) {
    use network_nic::offload::{HEADER_LEN, Header, check_received, prepare_transmit};
    let Some((header, frame)) = input.split_at_checked(HEADER_LEN) else { return };
    let Some(header) = Header::parse(header) else { return };
    let mut frame = frame.to_vec();
    let _verdict = check_received(&header, &mut frame);
    let header = prepare_transmit(&mut frame, NonZeroU16::new(header.gso_size));
    assert!(usize::from(header.csum_start) <= frame.len());
}

/// A virtio device that does and says what the bytes say. What it may not do to the driver it may do; what the driver may
/// not do to it panics in the device.
pub(crate) fn virtio_net(input: &[u8]) {
    use drivers::emulated::Emulated;
    use network_nic::{Device, Nic, RxToken, TxToken};
    const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 5 | 1 << 3 | 0b1000_1000_0011;
    let device = Emulated::nic(FEATURES);
    let Ok(mut nic) = device.driver(64 << 10) else { return };
    let mut now = 0;
    let mut bytes = input.iter().copied();
    let mut next = || bytes.next();
    for _ in 0..200 {
        let (Some(what), Some(a), Some(b)) = (next(), next(), next()) else { break };
        let time = network_nic::Instant::from_millis(now);
        match what % 8 {
            0 => drop(device.deliver(&vec![a; 12 + usize::from(b)])),
            1 => device.lie(usize::from(a & 1), u32::from(b), u32::from(a) << (b & 15), u16::from(a >> 4)),
            2 => drop(device.sent()),
            3 => {
                if let Some((frame, _)) = nic.receive(time) {
                    frame.consume(|frame| assert!(frame.len() <= 65550, "no longer than its buffer"));
                }
            }
            4 => {
                if let Some(token) = nic.transmit(time) {
                    token.consume(60 + usize::from(a), |frame| frame.fill(b));
                }
            }
            5 => nic.flush(),
            6 => drop(nic.arm()),
            _ => now += i64::from(a) * 16,
        }
    }
    drop(nic);
    let faults = kernel_io::emulated::faults();
    assert!(faults.is_empty(), "{faults:?}");
}

/// A device of each kind that does what the bytes say, and is honest after their end.
pub(crate) mod hostile {
    use drivers::emulated::Random;
    use drivers::emulated::hostile::{KINDS, alone};

    /// No input takes longer.
    const STEPS: i64 = 300;

    fn play(name: &str, input: &[u8]) {
        let play = KINDS.iter().find(|(kind, _)| *kind == name).expect("a kind of that name").1;
        if let Err(find) = alone(play, Random::told(input), STEPS) {
            std::panic::resume_unwind(find);
        }
    }

    macro_rules! targets {
        ($($target:ident: $name:literal,)*) => {
            $(pub(crate) fn $target(input: &[u8]) {
                play($name, input);
            })*
        };
    }

    targets! {
        virtio_net: "virtio-net",
        virtio_legacy: "virtio-legacy",
        vmxnet3: "vmxnet3",
        intel: "intel",
        rtl8139: "rtl8139",
        netvsc: "netvsc",
        netfront: "netfront",
    }
}
