//! Counters that begin just below their wrap: the numbers of an iSCSI session, and those of TCP's bytes.

use super::traffic::Traffic;
use super::{BOUND, CARRIED, LIMIT, SIZE};
use crate::hostile::good_login;
use crate::hostile::peer::{Peer, Who};
use crate::hostile::session::{Session, lun, read10};
use crate::network::wire::Ether;
use crate::service::{Inside, PORT, Place, Service};
use image_launch::net::Wire;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const ABORT_TASK: u8 = 1;
/// Responses to task management (RFC 7143 section 11.6.1).
const COMPLETE: u8 = 0;
const NO_TASK: u8 = 1;
/// A connection whose first number is at most so far below the wrap will do: one of 32 is.
const NEAR: u32 = 128 << 20;
/// The longest that dropped connections are waited for; they come back within a second.
const ROUND: Duration = Duration::from_millis(1200);
/// Bytes that are moved beyond it.
const BEYOND: u64 = 8 << 20;
/// The disks: the first is for connections to the portal, for the others connections to their services are tried.
pub(crate) const SERVICES: u16 = 8;

/// CmdSN, ExpStatSN and the rest of them wrap, at different commands of one session.
pub(crate) fn numbers_wrap() {
    let mut who = Who::new("traffic", 0);
    who.first = (0xffff_ff00, 0xffff_fe00);
    let mut traffic = Traffic::start(&who);
    let start = Instant::now();
    let has_wrapped = |number: u32| number < 1 << 31;
    while !(has_wrapped(traffic.session.cmd_sn) && has_wrapped(traffic.session.exp_stat_sn)) {
        assert!(start.elapsed() < LIMIT, "it takes too long to come to the wrap");
        traffic.work(CARRIED / 2).unwrap();
    }
    let session = &traffic.session;
    let commands = session.cmd_sn.wrapping_sub(who.first.0);
    let answers = session.exp_stat_sn.wrapping_sub(who.first.1);
    println!("{commands} commands, {answers} answers");
    assert_eq!(
        u64::from(answers),
        u64::from(commands) + traffic.pings + 1,
        "one for each, and one for the login"
    );
    traffic.end(&Inside.file("disk0.raw"), BOUND).unwrap();
    aborts_wrap();
}

/// A command that was aborted before it came counts as received, and an old one is gone, although its number is larger.
fn aborts_wrap() {
    let mut who = Who::new("aborts", 0);
    who.first = (0xffff_fff0, 0xffff_fff8);
    let mut session = Session::open(&who);
    while session.cmd_sn != 0xffff_fffe {
        session.run(lun(0), &[0; 16], &[], 0).and_then(|answer| answer.good()).unwrap();
    }
    session.cmd_sn = 2;
    assert_eq!(session.manage(ABORT_TASK, lun(0), (0x7777, 0x8000)), Ok(NO_TASK), "beyond the window");
    assert_eq!(session.manage(ABORT_TASK, lun(0), (0x7778, 1)), Ok(COMPLETE), "not yet come");
    session.cmd_sn = 0xffff_fffe;
    let mut tags = Vec::new();
    for number in [0xffff_fffe, 0xffff_ffff, 0, 1, 2, 3] {
        if number == 1 {
            session.number();
            continue;
        }
        assert_eq!(session.cmd_sn, number);
        tags.push(session.begin(lun(0), &read10(number & 7, 8), &[], 4096));
    }
    for tag in tags {
        let answer = session.finish(tag, BOUND).and_then(|answer| answer.good()).unwrap();
        assert_eq!(answer.data.len(), 4096);
    }
    assert_eq!(session.manage(ABORT_TASK, lun(0), (0x7779, 0xffff_ffff)), Ok(COMPLETE), "long done");
}

/// The numbers that the bytes of a connection begin with: the appliance's, and ours.
#[derive(Clone, Copy, Debug)]
struct First {
    theirs: u32,
    ours: u32,
}

impl First {
    /// Bytes to the wrap of those that do the work, if these are not too many.
    fn distance(self, by_us: bool) -> Option<u32> {
        let left = (if by_us { self.ours } else { self.theirs }).wrapping_neg();
        (1..NEAR).contains(&left).then_some(left)
    }
}

/// The bytes of a connection to the portal wrap at 32 bits: those of the appliance while it answers reads, and ours while we
/// write. Nobody may choose where they begin, so connections are made until they begin in the right place.
pub(crate) fn portal_streams_wrap() {
    let service = Service::start(&Inside, 0, SIZE, |_| {});
    for is_write in [false, true] {
        let start = Instant::now();
        let (peer, distance) = {
            let ether = Ether::open(Wire::Host);
            loop {
                assert!(start.elapsed() < LIMIT, "no connection begins near the wrap");
                let peer = Peer::connect();
                let port = peer.port();
                let frame = ether.hear(BOUND, |frame| {
                    Segment::of(frame).is_some_and(|segment| segment.to == port && segment.is_syn)
                });
                let Segment { number, acknowledges, .. } = Segment::of(&frame.unwrap()).unwrap();
                let first = First { theirs: number, ours: acknowledges.wrapping_sub(1) };
                if let Some(distance) = first.distance(is_write) {
                    break (peer, distance);
                }
            }
        };
        println!("portal, write {is_write}: {distance} bytes to the wrap, found after {:?}", start.elapsed());
        let mut traffic = Traffic::start_on(peer, &Who::new("traffic", 0));
        pass(&mut traffic, distance, is_write);
        traffic.end(&service.options.file, BOUND).unwrap();
    }
}

/// The same on the other network: the bytes of a storage service while it answers reads, and the appliance's writes.
pub(crate) fn service_streams_wrap() {
    let services: Vec<_> = (1..SERVICES).map(|n| Service::start(&Inside, n, SIZE, |_| {})).collect();
    for is_write in [false, true] {
        let start = Instant::now();
        let (service, distance) = {
            let ether = Ether::open(Wire::Service);
            let mut found = None;
            while found.is_none() {
                assert!(start.elapsed() < LIMIT, "no connection begins near the wrap");
                for (disk, service) in (1..).zip(&services) {
                    // A connection over which nothing was done is taken for one of a service that dies of each, and made
                    // anew after a while only.
                    good_login("prober", disk, BOUND).unwrap();
                    service.order("drop");
                }
                let all = connections(&ether, services.len());
                found = all.iter().find_map(|(port, first)| Some((*port, first.distance(!is_write)?)));
            }
            found.unwrap()
        };
        let disk = service - PORT;
        println!(
            "disk {disk}, write {is_write}: {distance} bytes to the wrap, found after {:?}",
            start.elapsed()
        );
        let service = &services[usize::from(disk) - 1];
        let mut traffic = Traffic::start(&Who::new("traffic", disk.into()));
        let accepted = service.figure("accepted");
        pass(&mut traffic, distance, is_write);
        assert_eq!(service.figure("accepted"), accepted, "it was another connection");
        traffic.end(&service.options.file, BOUND).unwrap();
    }
}

/// Moves all bytes up to the wrap, and some more of all kinds.
fn pass(traffic: &mut Traffic, distance: u32, is_write: bool) {
    traffic.stream(u64::from(distance) + BEYOND, is_write, 512).unwrap();
    traffic.work(Duration::from_millis(300)).unwrap();
}

/// The next connections of the appliance to `count` services, by port, as far as they come soon.
fn connections(ether: &Ether, count: usize) -> BTreeMap<u16, First> {
    let mut begun = BTreeMap::new();
    let mut connected = BTreeMap::new();
    let end = Instant::now() + ROUND;
    while connected.len() < count {
        let left = end.saturating_duration_since(Instant::now());
        let frame = ether.hear(left, |frame| Segment::of(frame).is_some_and(|segment| segment.to >= PORT));
        let Some(segment) = frame.and_then(|frame| Segment::of(&frame)) else { break };
        if segment.is_syn {
            begun.insert(segment.to, segment.number);
        } else if let Some(theirs) = begun.get(&segment.to)
            && segment.number == theirs.wrapping_add(1)
        {
            let ours = segment.acknowledges.wrapping_sub(1);
            connected.entry(segment.to).or_insert(First { theirs: *theirs, ours });
        }
    }
    connected
}

/// What is of interest in a frame of TCP.
struct Segment {
    to: u16,
    number: u32,
    acknowledges: u32,
    is_syn: bool,
}

impl Segment {
    fn of(frame: &[u8]) -> Option<Self> {
        let is_tcp = frame.get(12..14)? == [8, 0] && *frame.get(14)? == 0x45 && *frame.get(23)? == 6;
        let word = |at: usize| frame.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        let to = u16::from_be_bytes(frame.get(36..38)?.try_into().ok()?);
        let is_syn = *frame.get(47)? & 2 != 0;
        is_tcp.then_some(Self { to, number: word(38)?, acknowledges: word(42)?, is_syn })
    }
}
