//! Frames that are cut, forged or senseless, alone and in the middle of somebody's connection.

use super::frame::{ACK, FIN, IPV4, RST, Route, SYN, Tcp, read_tcp, seal};
use super::wire::Ether;
use crate::hostile::{Steady, good_login};
use image_launch::net::{API, ISCSI, Wire};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(5);

/// All kinds of frames, three times over, beside a steady session; nobody who is not there is answered.
pub(crate) fn forged_frames() {
    let mut ether = Ether::open(Wire::Host);
    let steady = Steady::start(0);
    let mut count = 0;
    for _ in 0..3 {
        for frame in frames(&ether) {
            ether.send(&frame);
            count += 1;
            if count % 16 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        intrude(&ether, &steady);
        arp_crowd(&ether);
    }
    ether.must_stand();
    println!("{count} frames");
    unanswered(&ether);
    good_login("after-frames", 1, SOON).unwrap();
    steady.finish(SOON);
    // The same for the network of the storage service.
    let mut service = Ether::open(Wire::Service);
    let steady = Steady::start(0);
    frames(&service).iter().for_each(|frame| service.send(frame));
    service.must_stand();
    steady.finish(SOON);
}

fn frames(ether: &Ether) -> Vec<Vec<u8>> {
    let route = ether.from(66);
    let mut all = Vec::new();
    // Runts, giants, tags and types of nobody.
    for length in [14, 15, 20, 33, 34, 40, 53] {
        all.push(route.ethernet(IPV4, &[])[..].iter().copied().chain([0x45; 60]).take(length).collect());
    }
    for kind in [0x8100, 0x88a8, 0x0000, 0x05dc, 0x86dd, 0x88b5, 0xffff] {
        all.push(route.ethernet(kind, &[0xff; 1500]));
    }
    all.extend(packets(&route));
    all.extend(sources(ether));
    all.extend(segments(&route));
    all.extend(messages(&route));
    all.extend(arps(ether));
    all
}

/// IPv4 headers that do not hold what they say, and fragments.
fn packets(route: &Route) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (at, value) in
        [(0, 0x44), (0, 0x40), (0, 0x4f), (0, 0x65), (2, 0xff), (3, 0), (3, 19), (8, 0), (9, 0xff)]
    {
        let mut packet = route.packet(6, 0, &[0; 20]);
        packet[at] = value;
        seal(&mut packet);
        all.push(route.ethernet(IPV4, &packet));
    }
    let mut wrong = route.packet(6, 0, &[0; 20]);
    wrong[10] ^= 0xff;
    all.push(route.ethernet(IPV4, &wrong));
    let more = 0x2000;
    for (fragment, length) in [(more, 8), (more, 24), (1, 24), (3, 24), (0x1fff, 1480), (more | 1, 1480)] {
        all.push(route.ethernet(IPV4, &route.packet(6, fragment, &vec![0x5a; length])));
        all.push(route.ethernet(IPV4, &route.packet(17, fragment, &vec![0x5a; length])));
    }
    all
}

fn syn(port: u16) -> Tcp {
    Tcp { from: port, to: ISCSI, seq: 0x1234_5678, ack: 0, flags: SYN, window: 1000 }
}

/// SYNs from those who cannot be where they say they are; the first from the appliance itself (LAND).
fn impossible(wire: Wire) -> [Ipv4Addr; 9] {
    let other = if wire == Wire::Host { Wire::Service } else { Wire::Host };
    [
        wire.appliance(),
        other.appliance(),
        other.here(),
        wire.address(255),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(192, 0, 2, 1),
    ]
}

fn sources(ether: &Ether) -> Vec<Vec<u8>> {
    let ports = [ISCSI, 40_001];
    let routes = impossible(ether.wire()).map(|from| ether.forged(from));
    routes.iter().flat_map(|route| ports.map(|port| route.tcp(&syn(port), &[], &[]))).collect()
}

/// TCP headers whose offsets, options and flags make no sense.
fn segments(route: &Route) -> Vec<Vec<u8>> {
    let mut all: Vec<_> = [0, 0xff, SYN | FIN, SYN | RST, FIN | RST, SYN | FIN | RST | ACK, 0x20, 0x3f]
        .iter()
        .map(|flags| route.tcp(&Tcp { flags: *flags, ..syn(40_002) }, &[], &[]))
        .collect();
    for offset in [0x00, 0x40, 0xf0] {
        let mut frame = route.tcp(&syn(40_003), &[], &[]);
        frame[14 + 20 + 12] = offset;
        all.push(frame);
    }
    let options: [&[u8]; 9] = [
        &[2, 0, 0, 0],
        &[2, 1, 0, 0],
        &[2, 0xff, 0, 0],
        &[2, 4, 0, 0],
        &[3, 3, 255, 0],
        &[8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[5, 2, 5, 2],
        &[5, 10, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0],
        &[0xfe; 40],
    ];
    // They have no address that answers, so none of these becomes a connection.
    all.extend(options.iter().map(|options| route.tcp(&syn(40_004), options, &[])));
    all
}

/// ICMP that would change routes or sizes, if it were believed.
fn messages(route: &Route) -> Vec<Vec<u8>> {
    let quoted = |length: usize| route.packet(6, 0, &[0; 8])[..length].to_vec();
    let mut all = Vec::new();
    for mtu in [0_u16, 68, 1499] {
        for length in [0, 4, 20, 28] {
            let mut message = vec![3, 4, 0, 0, 0, 0];
            message.extend(mtu.to_be_bytes());
            message.extend(quoted(length));
            all.push(route.icmp(&message));
        }
    }
    all.push(route.icmp(&[&[5, 1, 0, 0, 10, 77, 0, 66][..], &quoted(28)].concat()));
    all.push(route.icmp(&[&[8, 0, 0, 0, 0, 1, 0, 1][..], &[0x5a; 1400]].concat()));
    all.push(route.icmp(&[255, 255, 0, 0]));
    all.push(route.ethernet(IPV4, &route.packet(1, 0, &[8])));
    all
}

/// ARP that is cut, of other kinds, or in the appliance's own name.
fn arps(ether: &Ether) -> Vec<Vec<u8>> {
    let route = ether.from(66);
    let right = route.arp_request();
    let mut all: Vec<_> = (14..right.len()).step_by(3).map(|length| right[..length].to_vec()).collect();
    for (at, value) in [(15, 2), (16, 0x86), (18, 0xff), (19, 0xff), (21, 0), (21, 9), (22, 0xff), (22, 0x01)]
    {
        let mut frame = right.clone();
        frame[at] = value;
        all.push(frame);
    }
    for sender in impossible(ether.wire()) {
        for operation in [1, 2] {
            let mut frame = Route { from: sender, ..route }.arp_request();
            frame[21] = operation;
            all.push(frame);
        }
    }
    all
}

/// Everybody there could be asks for the appliance at once, and again under another MAC address.
fn arp_crowd(ether: &Ether) {
    for round in 0..4 {
        for n in 3..=254 {
            let mut route = ether.from(n);
            route.from_mac[4] = round;
            ether.send(&route.arp_request());
            if n % 16 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Segments in the middle of the steady session's connection, by somebody who sees it but not the whole of it.
fn intrude(ether: &Ether, steady: &Steady) {
    let before = steady.rounds();
    let route = Route { from: Wire::Host.here(), ..ether.from(1) };
    for round in 0..40_u32 {
        ether.flush();
        let like = |frame: &[u8]| read_tcp(frame).is_some_and(|(_, _, tcp, _)| tcp.to == steady.port);
        let frame = ether.hear(SOON, like).expect("the steady session is silent");
        let (_, _, seen, _) = read_tcp(&frame).unwrap();
        let far = 0x3000_0000 + round * 0x10_0000;
        let base =
            Tcp { from: steady.port, to: ISCSI, seq: seen.ack, ack: seen.seq, flags: ACK, window: 1000 };
        for (seq, ack, flags, payload) in [
            (seen.ack.wrapping_add(far), seen.seq, RST, &b""[..]),
            (seen.ack.wrapping_sub(far), seen.seq, RST | ACK, b""),
            (seen.ack, 0, SYN, b""),
            (seen.ack.wrapping_add(far), 0, SYN, b""),
            (seen.ack, seen.seq.wrapping_add(far), ACK, b"forged"),
            (seen.ack.wrapping_add(far), seen.seq, ACK, b"forged"),
            (seen.ack.wrapping_add(far), seen.seq, FIN | ACK, b""),
            (seen.ack.wrapping_sub(far), seen.seq.wrapping_sub(far), ACK, b""),
        ] {
            ether.send(&route.tcp(&Tcp { seq, ack, flags, ..base }, &[], payload));
        }
    }
    let end = Instant::now() + SOON;
    while steady.rounds() <= before {
        assert!(Instant::now() < end, "the steady session stands still");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Nobody who cannot be there gets an answer, by whatever way.
fn unanswered(ether: &Ether) {
    ether.flush();
    for frame in sources(ether) {
        ether.send(&frame);
    }
    let impossible = impossible(ether.wire());
    let answers = ether.listen(Duration::from_millis(300), |frame| {
        read_tcp(frame).is_some_and(|(_, to, ..)| impossible.contains(&to))
            || (frame.get(12..14) == Some(&[8, 6])
                && impossible.iter().any(|address| frame.get(38..42) == Some(&address.octets())))
    });
    assert!(answers.is_empty(), "{} answers to nobody, such as {:02x?}", answers.len(), answers[0]);
}

/// Peers that are there, and whose TCP is as odd as TCP may be.
pub(crate) fn strange_peers() {
    let mut ether = Ether::open(Wire::Host);
    let steady = Steady::start(0);
    // Options of the SYN, the window that is offered, and how many frames the answer may at most take.
    let peers: [(&[u8], u16); 6] = [
        (&[2, 4, 0, 1], 65_535),
        (&[2, 4, 0, 1, 3, 3, 255, 1], 65_535),
        (&[2, 4, 5, 0xb4], 1),
        (&[2, 4, 5, 0xb4], 0),
        (&[2, 4, 0xff, 0xff, 3, 3, 14, 1], 65_535),
        (&[], 65_535),
    ];
    for (n, (options, window)) in (70..).zip(peers) {
        let frames = strange_peer(&ether, n, options, window);
        println!("a peer with options {options:02x?} and a window of {window}: {frames} frames");
        assert!(frames < 2000, "{frames}");
    }
    ether.must_stand();
    good_login("after-strangers", 1, SOON).unwrap();
    steady.finish(SOON);
}

/// Shakes hands from address `n`, says something that must be answered at length, and counts what comes.
fn strange_peer(ether: &Ether, n: u8, options: &[u8], window: u16) -> usize {
    ether.introduce(n);
    let route = ether.from(n);
    let port = 41_000 + u16::from(n);
    let opening = Tcp { window, seq: 0xffff_ff00, ..syn(port) };
    ether.send(&route.tcp(&opening, options, &[]));
    let to_us = |frame: &[u8]| read_tcp(frame).is_some_and(|(_, to, ..)| to == route.from);
    let Some(answer) = ether.hear(Duration::from_secs(1), to_us) else { return 0 };
    let (_, _, accepted, _) = read_tcp(&answer).unwrap();
    if accepted.flags & SYN == 0 {
        return 1;
    }
    // A login that is refused, across the end of the sequence numbers; every byte is acknowledged as it comes.
    let mut request = vec![0; 48];
    request[..2].copy_from_slice(&[0x43, 0x87]);
    request[7] = 4;
    request.extend(b"a=b\0");
    let mut ours =
        Tcp { seq: opening.seq.wrapping_add(1), ack: accepted.seq.wrapping_add(1), flags: ACK, ..opening };
    ether.send(&route.tcp(&ours, &[], &request));
    ours.seq = ours.seq.wrapping_add(52);
    let end = Instant::now() + Duration::from_millis(400);
    let mut frames = 1;
    while Instant::now() < end && frames < 4000 {
        let Some(frame) = ether.hear(Duration::from_millis(50), to_us) else { continue };
        frames += 1;
        let (_, _, theirs, payload) = read_tcp(&frame).unwrap();
        if theirs.seq == ours.ack && !payload.is_empty() {
            ours.ack = theirs.seq.wrapping_add(u32::try_from(payload.len()).unwrap());
            ether.send(&route.tcp(&ours, &[], &[]));
        }
    }
    ether.send(&route.tcp(&Tcp { flags: RST | ACK, ..ours }, &[], &[]));
    frames
}

/// A session that lasts over several renewals of both leases; what lies beyond the host network stays unanswered.
pub(crate) fn renewals() {
    // An offer that was missed is asked for again after ten seconds.
    good_login("leased", 1, Duration::from_secs(20)).unwrap();
    let ether = Ether::open(Wire::Host);
    let steady = Steady::start(0);
    std::thread::sleep(Duration::from_secs(8));
    // The DHCP server named a router. There is none: strangers stay unheard.
    unanswered(&ether);
    steady.finish(SOON);
    // On the service network there is one, and strangers are heard.
    let service = Ether::open(Wire::Service);
    service.flush();
    let stranger = service.forged(Ipv4Addr::new(192, 0, 2, 1));
    let request = Tcp { to: API, ..syn(40_009) };
    service.send(&stranger.tcp(&request, &[], &[]));
    let like = |frame: &[u8]| read_tcp(frame).is_some_and(|(_, to, ..)| to == stranger.from);
    assert!(service.hear(SOON, like).is_some(), "what comes by the router is not answered");
}
