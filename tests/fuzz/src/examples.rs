//! Inputs as well-behaved peers send them.

use storage_iscsi::wire::{
    DataOut, Header, LoginRequest, LogoutRequest, NopOut, ScsiCommand, TaskManagementRequest, TextRequest,
};
use storage_nbd::testing::{Disk, Session, Settings, Shape};

/// One PDU: header, data, padding.
fn pdu(header: Header, data: &[u8]) -> Vec<u8> {
    let mut bytes = header.0.to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(crate) fn login(text: &[u8]) -> Vec<u8> {
    let header = LoginRequest {
        immediate: true,
        transit: true,
        current_stage: 1,
        next_stage: 3,
        data_segment: text.len() as u32,
        isid: [0x80, 0, 0, 0, 0, 1],
        cmd_sn: 1,
        ..LoginRequest::default()
    };
    pdu(header.header(), text)
}

pub(crate) const NORMAL: &[u8] = b"InitiatorName=iqn.2024-01.test:host\0TargetName=iqn.2024-01.test:disk\0SessionType=Normal\0\
HeaderDigest=None\0DataDigest=None\0InitialR2T=No\0ImmediateData=Yes\0MaxRecvDataSegmentLength=262144\0\
MaxBurstLength=1048576\0FirstBurstLength=65536\0MaxOutstandingR2T=4\0MaxConnections=1\0ErrorRecoveryLevel=0\0";

/// Whole conversations of an initiator.
pub(crate) fn iscsi() -> Vec<Vec<u8>> {
    let command = |cmd_sn: u32, write: bool, length: u32, cdb: &[u8], data: &[u8]| {
        let mut whole = [0; 16];
        whole[..cdb.len()].copy_from_slice(cdb);
        let header = ScsiCommand {
            last: true,
            read: !write,
            write,
            attribute: 1,
            data_segment: data.len() as u32,
            initiator_task_tag: cmd_sn,
            expected_data_transfer_length: length,
            cmd_sn,
            cdb: whole,
            ..ScsiCommand::default()
        };
        pdu(header.header(), data)
    };
    let read = command(1, false, 4096, &[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0], b"");
    let write = command(2, true, 512, &[0x2a, 0, 0, 0, 0, 1, 0, 0, 1, 0], &[7; 512]);
    let solicited = command(3, true, 8192, &[0x2a, 0, 0, 0, 0, 1, 0, 0, 16, 0], b"");
    let data_out = DataOut {
        last: true,
        data_segment: 8192,
        initiator_task_tag: 3,
        target_transfer_tag: 0,
        ..DataOut::default()
    };
    let data_out = pdu(data_out.header(), &[9; 8192]);
    let nop = NopOut { initiator_task_tag: 9, target_transfer_tag: u32::MAX, cmd_sn: 4, ..NopOut::default() };
    let nop = pdu(nop.header(), b"");
    let reset =
        TaskManagementRequest { immediate: true, function: 5, cmd_sn: 4, ..TaskManagementRequest::default() };
    let reset = pdu(reset.header(), b"");
    let text = b"SendTargets=All\0";
    let text_request = TextRequest {
        last: true,
        data_segment: text.len() as u32,
        initiator_task_tag: 5,
        target_transfer_tag: u32::MAX,
        cmd_sn: 4,
        ..TextRequest::default()
    };
    let send_targets = pdu(text_request.header(), text);
    let logout = pdu(LogoutRequest { cmd_sn: 5, ..LogoutRequest::default() }.header(), b"");
    let digests = [NORMAL, b"HeaderDigest=CRC32C\0"].concat();
    vec![
        login(NORMAL),
        login(&digests),
        login(b"InitiatorName=iqn.2024-01.test:host\0SessionType=Discovery\0AuthMethod=None\0"),
        [login(NORMAL), read.clone(), write.clone(), nop.clone(), logout.clone()].concat(),
        [login(NORMAL), read, write, solicited, data_out, reset, nop, send_targets, logout].concat(),
    ]
}

pub(crate) fn text() -> Vec<Vec<u8>> {
    vec![NORMAL.to_vec(), b"a=1\0b=2,3,4\0c=0x12ff\0d=0b".to_vec()]
}

/// A number for the data's length, then command descriptor blocks, sixteen bytes each.
pub(crate) fn scsi() -> Vec<Vec<u8>> {
    const CDBS: &[&[u8]] = &[
        &[0x00],
        &[0x12, 1, 0x83, 0, 255],
        &[0x12, 1, 0xb0, 0, 255],
        &[0x28, 0, 0, 0, 0, 0, 0, 0, 8],
        &[0x2a, 8, 0, 0, 0, 0, 0, 0, 8],
        &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8],
        &[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8],
        &[0x2e, 2, 0, 0, 0, 0, 0, 0, 8],
        &[0x2f, 2, 0, 0, 0, 0, 0, 0, 8],
        &[0x35],
        &[0x41, 8, 0, 0, 0, 0, 0, 0, 8],
        &[0x93, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8],
        &[0x42, 0, 0, 0, 0, 0, 0, 0, 24],
        &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        &[0x1a, 0, 0x3f, 0, 255],
        &[0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 255],
        &[0x15, 0x10, 0, 0, 24],
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32],
        &[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32],
        &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 16, 0],
        &[0x5f, 0, 5, 0, 0, 0, 0, 0, 24],
        &[0x5e, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x16],
        &[0x03, 0, 0, 0, 252],
    ];
    let one = |cdb: &&[u8]| {
        let mut bytes = vec![4];
        bytes.extend_from_slice(cdb);
        bytes.resize(17, 0);
        bytes
    };
    CDBS.iter().map(one).collect()
}

/// Parameter lists of EXTENDED COPY, with list identifiers of both kinds: eight blocks of the one unit there is.
fn copies() -> (Vec<u8>, Vec<u8>) {
    let bench = storage_scsi::testing::Bench::new(storage_scsi::testing::geometry(256, 512));
    let unit = bench.target.unit(bench.unit).expect("it is there");
    let mut cscd = vec![0xe4, 0, 0, 0, 1, 0x03, 0, 16];
    cscd.extend(unit.identity().naa());
    cscd.resize(28, 0);
    cscd.extend([0, 0, 2, 0]);
    let segment = [&[2, 0, 0, 0x18, 0, 0, 0, 0, 0, 0, 0, 8][..], &[0; 8], &[0; 7], &[64]].concat();
    let one_byte = [&[7, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0][..], &cscd, &segment].concat();
    let mut header = vec![0; 48];
    (header[0], header[3], header[16], header[23]) = (1, 0x20, 0xff, 7);
    (header[43], header[45]) = (32, 28);
    (one_byte, [header, cscd, segment].concat())
}

/// Parameter lists of POPULATE TOKEN, and of WRITE USING TOKEN with the token of zeroes: eight blocks from 32 on.
fn tokens() -> (Vec<u8>, Vec<u8>) {
    let range = [&[0; 7][..], &[32, 0, 0, 0, 8], &[0; 4]].concat();
    let populate = [&[0, 30, 0, 0, 0, 0, 0, 60][..], &[0; 6], &[0, 16], &range].concat();
    let mut token = vec![0; 512];
    (token[0], token[1], token[3], token[6], token[7]) = (0xff, 0xff, 1, 1, 0xf8);
    let write = [&[2, 38][..], &[0; 14], &token, &[0; 6], &[0, 16], &range].concat();
    (populate, write)
}

/// Who, how long the list is, a CDB, the list: what [`crate::lists::lists`] takes.
pub(crate) fn lists() -> Vec<Vec<u8>> {
    let key = |old: u64, new: u64, flags: u8| {
        let mut list = [old.to_be_bytes(), new.to_be_bytes(), [0; 8]].concat();
        list[20] = flags;
        list
    };
    let port = b"\x05\0\0\x10iqn.a\0\0\0\0\0\0\0\0\0\0\0";
    let ports = [&key(0, 1, 8)[..], &[0, 0, 0, 20], port].concat();
    let caching = [&[0; 4][..], &[0x08, 0x12, 4], &[0; 17]].concat();
    let control = [&[0; 8][..], &[0x0a, 0x0a, 4, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0]].concat();
    let unmap = [&[0, 22, 0, 16, 0, 0, 0, 0][..], &[0; 7], &[8], &[0, 0, 0, 8], &[0; 4]].concat();
    let (one_byte, four_bytes) = copies();
    let (populate, write) = tokens();
    let rows: [(u8, &[u8], Vec<u8>); 19] = [
        (0, &[0x83, 0x10, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32], populate),
        (0, &[0x83, 0x11, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 2, 40], write),
        (0, &[0x84, 0x07, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 2, 0], vec![]),
        (0, &[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 76], one_byte),
        (0, &[0x83, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 108], four_bytes),
        (1, &[0x84, 5, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 64], vec![]),
        (0, &[0x83, 0x1c, 0, 0, 0, 7], vec![]),
        (0, &[0x15, 0x10, 0, 0, 24], caching),
        (1, &[0x55, 0x10, 0, 0, 0, 0, 0, 0, 20], control),
        (0, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24], unmap),
        (0, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 24], key(0, 1, 0)),
        (1, &[0x5f, 6, 0, 0, 0, 0, 0, 0, 24], key(0, 2, 0)),
        (0, &[0x5f, 1, 5, 0, 0, 0, 0, 0, 24], key(1, 0, 0)),
        (1, &[0x5f, 4, 7, 0, 0, 0, 0, 0, 24], key(2, 1, 0)),
        (1, &[0x5f, 5, 8, 0, 0, 0, 0, 0, 24], key(2, 1, 0)),
        (1, &[0x5f, 2, 5, 0, 0, 0, 0, 0, 24], key(2, 0, 0)),
        (0, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 48], ports),
        (1, &[0x5f, 3, 0, 0, 0, 0, 0, 0, 24], key(2, 0, 0)),
        (0, &[0x5e, 3, 0, 0, 0, 0, 0, 2, 0], vec![]),
    ];
    let one = |(who, cdb, list): &(u8, &[u8], Vec<u8>)| {
        let eights = list.len().div_ceil(8);
        let mut bytes = vec![*who, eights as u8];
        bytes.extend(*cdb);
        bytes.resize(18, 0);
        bytes.extend(list);
        bytes.resize(18 + eights * 8, 0);
        bytes
    };
    let mut all: Vec<_> = rows.iter().map(one).collect();
    all.push(all.concat());
    all
}

/// Steps of two sessions, eight bytes each: what [`crate::sessions::sessions`] takes.
pub(crate) fn sessions() -> Vec<Vec<u8>> {
    // Who and what, flags, tag, CDB, place, count, room in 64 bytes, more.
    let read = |who: u8, tag: u8| [who, 0, tag, 0, 1, 8, 64, 1];
    let write = |who: u8, tag: u8| [who, 2, tag, 1, 1, 8, 64, 1];
    let eager = |who: u8, tag: u8| [who, 6, tag, 1, 1, 8, 64, 64];
    let answer = |who: u8| [who | 6, 0x20, 0, 0, 0, 0, 0, 0];
    let abort = |who: u8, tag: u8| [who | 10, 1, 1, 1, tag, 1, 0, 0];
    let reset = |who: u8| [who | 10, 1, 2, 5, 0, 0, 0, 0];
    let ping = |who: u8| [who | 12, 1, 7, 1, 0, 0, 4, 9];
    let register = |who: u8| [who, 6, 5, 21, 0, 0, 0, 1];
    let text = [14, 1, 3, 16, 0, 0, 0, 0];
    let snack = [14, 0, 3, 101, 0, 0, 0, 0];
    let leave = [15, 1, 3, 180, 0, 0, 0, 0];
    vec![
        [read(0, 1), write(0, 2), answer(0), eager(1, 1), ping(1), read(1, 2)].concat(),
        [write(0, 1), abort(0, 1), answer(0), write(1, 1), reset(1), answer(1), ping(0)].concat(),
        [register(0), register(1), write(0, 3), read(1, 3), answer(0), text, snack, leave].concat(),
        [write(0, 1), write(0, 2), write(0, 3), write(0, 4), write(1, 5), write(1, 6), answer(0), answer(1)]
            .concat(),
    ]
}

/// What a storage service says to a client that negotiates and sends the requests of [`crate::targets::nbd`].
pub(crate) fn nbd() -> Vec<Vec<u8>> {
    let settings = Settings::default();
    let plain = Settings { structured: false, ..settings.clone() };
    let old = Settings { go: false, ..plain.clone() };
    [settings, plain, old].iter().map(record).collect()
}

fn record(settings: &Settings) -> Vec<u8> {
    let mut disk = Disk::new(1 << 20);
    let mut session = Session::new(settings, &disk);
    let mut said = Vec::new();
    crate::targets::converse(&settings.name, |client| {
        session.receive(client);
        while !session.waiting.is_empty() {
            session.execute(&mut disk, 0, Shape::Pieces(7));
        }
        let new = core::mem::take(&mut session.output);
        said.extend_from_slice(&new);
        new
    });
    said
}

pub(crate) fn uri() -> Vec<Vec<u8>> {
    let examples: [&[u8]; 4] = [
        b"nbd://10.0.0.1:10809/disk",
        b"nbds://10.0.0.1/a%2fb?x=y",
        b"nbd://[::1]/",
        b"nbd+unix:///x?socket=/s",
    ];
    examples.map(<[u8]>::to_vec).to_vec()
}

pub(crate) fn http() -> Vec<Vec<u8>> {
    let examples: [&[u8]; 3] = [
        b"GET /v1/targets HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PUT /v1/targets/a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/instances HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    ];
    examples.map(<[u8]>::to_vec).to_vec()
}

pub(crate) fn http_answers() -> Vec<Vec<u8>> {
    let examples: [&[u8]; 2] = [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    ];
    examples.map(<[u8]>::to_vec).to_vec()
}

pub(crate) fn json() -> Vec<Vec<u8>> {
    let examples: [&[u8]; 4] = [
        br#"{"proto_min":1,"proto_max":1,"appliance_boot":"00000000-0000-4000-8000-000000000000"}"#,
        br#"{"op_id":"00000000-0000-4000-8000-000000000000","verb":"terminate","instance":"web-1","deadline_ms":1}"#,
        br#"{"a":[1,2,{"b":null}],"c":"\u00e9\n","d":-1.5e3}"#,
        b"[[[[]]]]",
    ];
    examples.map(<[u8]>::to_vec).to_vec()
}

pub(crate) fn configuration() -> Vec<Vec<u8>> {
    let text: &[u8] = b"host.address=10.77.0.2/24 service.address=dhcp # comment\nagent=10.77.0.1:4010 agent.insecure=yes api=80 api.insecure=yes \
        target.0.iqn=iqn.a:b target.0.volume=nbd://10.0.0.1/ target.0.initiators=* host.mac=52:54:00:00:00:01";
    vec![text.to_vec()]
}

/// Volumes labelled `cidata`, all of them shorter than inputs are.
pub(crate) fn cidata() -> Vec<Vec<u8>> {
    use image_channels::testing::{fat, iso};
    let ours = b"#corbel\nhost.address=dhcp\n".repeat(20);
    let label = b"CIDATA     ";
    let fat = fat(80, label, &[("user-data", &ours), ("corbel.cfg", &ours)]);
    let mut parted = vec![0; 4096];
    parted[446 + 4] = 0x0c;
    parted[446 + 8] = 8;
    parted[446 + 12] = (fat.len() / 512) as u8;
    parted[510..512].copy_from_slice(&[0x55, 0xaa]);
    parted.extend(&fat);
    vec![
        fat,
        parted,
        iso("cidata", "USER_DAT.;1", Some("user-data"), Some("user-data"), &ours),
        iso("CIDATA", "CORBEL.CFG;1", None, None, &ours),
    ]
}

/// A table with strings, and an entry point behind it.
pub(crate) fn smbios() -> Vec<Vec<u8>> {
    let mut table = b"\x01\x06\0\0\x01\x02QEMU\0pc\0\0\x20\x08\0\0\0\0\0\0\0\0".to_vec();
    table.extend(b"\x0b\x05\x01\0\x03corbel.config=a=b\0corbel.config+=c\0other=1\0\0\x7f\x04\0\0\0\0");
    table.resize(table.len().next_multiple_of(16), 0);
    let mut entry = b"_SM3_\0\x18\x03\x02\0\x01\0\x40\0\0\0\0\0\x0f\0\0\0\0\0".to_vec();
    entry[5] = 0_u8.wrapping_sub(entry.iter().fold(0, |sum, byte| sum.wrapping_add(*byte)));
    vec![table.clone(), [table, entry].concat()]
}

pub(crate) fn metadata() -> Vec<Vec<u8>> {
    let examples: [&[u8]; 3] = [
        b"HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nabcdefg=",
        b"HTTP/1.1 405 \r\nAllow: GET\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 404 Not Found\r\n\r\n",
    ];
    examples.map(<[u8]>::to_vec).to_vec()
}

/// An ARP answer by each NIC, and a DHCP server's offer.
pub(crate) fn nic_probe() -> Vec<Vec<u8>> {
    let arp = |address: [u8; 4]| {
        let mut frame =
            [&[2, 0, 0, 0, 0, 1][..], &[0x52, 0x54, 0, 9, 9, 9], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
        frame.extend([0x52, 0x54, 0, 9, 9, 9]);
        frame.extend(address);
        frame.resize(60, 0);
        frame
    };
    let mut offer = vec![0; 14 + 20 + 8 + 300];
    (offer[12], offer[14], offer[23]) = (8, 0x45, 17);
    offer[34..38].copy_from_slice(&[0, 67, 0, 68]);
    offer[42..50].copy_from_slice(&[2, 1, 6, 0, 0, 0, 0, 7]);
    offer[58..62].copy_from_slice(&[192, 168, 3, 4]);
    offer[70..76].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    offer[278..286].copy_from_slice(&[0x63, 0x82, 0x53, 0x63, 53, 1, 2, 255]);
    let on = |place: u8, wait: u8, frame: &[u8]| {
        let length = (frame.len() as u16).to_be_bytes();
        [&[place, wait][..], &length, frame].concat()
    };
    let last = on(0, 255, &[]);
    vec![
        [on(0, 1, &arp([10, 77, 0, 9])), on(1, 1, &offer), last.clone(), last].concat(),
        [on(0, 1, &arp([10, 77, 0, 1])), on(1, 9, &arp([10, 77, 0, 1]))].concat(),
    ]
}

/// A virtio net header and a TCP segment behind it.
pub(crate) fn frame() -> Vec<Vec<u8>> {
    let mut bytes = vec![0; 12 + 14 + 20 + 20 + 100];
    bytes[24..26].copy_from_slice(&[8, 0]);
    bytes[26..46].copy_from_slice(&[0x45, 0, 0, 140, 0, 0, 0, 0, 64, 6, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2]);
    bytes[46 + 12] = 0x50;
    vec![bytes]
}

/// Frames both ways, then a lie.
pub(crate) fn virtio_net() -> Vec<Vec<u8>> {
    let honest = [[0, 1, 60], [3, 0, 0], [4, 7, 7], [5, 0, 0], [2, 0, 0], [6, 0, 0]].concat();
    let lying = [[0, 1, 60], [1, 0, 200], [3, 0, 0], [7, 255, 0], [4, 1, 1], [5, 0, 0], [1, 1, 3]].concat();
    vec![honest.repeat(20), [honest, lying].concat().repeat(8)]
}

/// What a hostile device is told by: anything is as good, the length decides how long it takes.
pub(crate) fn chance() -> Vec<Vec<u8>> {
    let mut random = crate::mutate::Random::new(0);
    [20, 200, 600].map(|length| (0..length).map(|_| random.number() as u8).collect()).to_vec()
}
