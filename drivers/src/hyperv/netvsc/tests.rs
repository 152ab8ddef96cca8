//! The NIC against an emulated host, honest and not.

use super::hostile::{completion, driver};
use super::*;
use crate::emulated::frames::{at, frame, nothing, receive, segment, send};
use crate::emulated::hostile::play_by_chance;
use crate::emulated::hyperv::{Host, Packet, capabilities};
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use kernel_io::emulated::faults;
use network_nic::{Device as _, PacketMeta, RxToken as _, TxToken as _};

/// Enough for long frames, and for short ones only.
const MUCH: usize = 4 << 20;
const LITTLE: usize = 128 << 10;
/// How many of something, where Miri takes its time.
const MANY: u16 = if cfg!(miri) { 12 } else { 2000 };
const EVERY: usize = if cfg!(miri) { 5 } else { 1 };
const TCP_IS_RIGHT: u32 = 1 << 3;

fn pair(memory: usize) -> (Host, NetVsc) {
    let host = Host::new(1);
    let nic = driver(memory).expect("an honest host");
    host.signals();
    (host, nic)
}

#[test]
fn frames_go_both_ways_unchanged() {
    for memory in [LITTLE, MUCH] {
        let (host, mut nic) = pair(memory);
        assert_eq!((nic.mac(), host.nic(0).version()), ([0, 0x15, 0x5d, 0, 0, 1], Some(5 << 16)));
        assert!(host.nic(0).listens());
        for number in 0..MANY {
            let out = frame(number, 60 + usize::from(number % 1400));
            assert!(send(&mut nic, &out, at(0)));
            nic.flush();
            assert_eq!(host.nic(0).sent.pop_front().map(|sent| (sent.frame, sent.todo)), Some((out, None)));
            let back = frame(number, 16 + usize::from(number % 1500));
            assert!(host.deliver(0, &[&back], None));
            assert_eq!(receive(&mut nic, at(0)), Some(back));
            assert_eq!(receive(&mut nic, at(0)), None);
        }
        let counters = Counters { received: MANY.into(), sent: MANY.into(), dropped: 0, resets: 0 };
        assert_eq!((nic.counters(), faults()), (counters, nothing()));
        // All places and buffers are where they were.
        drop(nic);
        assert_eq!((host.version(), faults()), (None, nothing()));
    }
}

#[test]
fn several_frames_of_one_packet_come_one_by_one() {
    let (host, mut nic) = pair(LITTLE);
    for round in 0..if cfg!(miri) { 2 } else { 20 } {
        let frames: Vec<_> = (0..7).map(|number| frame(round * 7 + number, 700)).collect();
        let parts: Vec<_> = frames.iter().map(Vec::as_slice).collect();
        assert!(host.deliver(0, &parts, None));
        for expected in frames {
            assert_eq!(receive(&mut nic, at(0)), Some(expected));
        }
        assert!(nic.waits(), "the packet is to be completed");
        assert_eq!(receive(&mut nic, at(0)), None);
        nic.flush();
    }
    assert_eq!(faults(), nothing());
}

#[test]
fn all_places_come_back_to_the_host_which_is_signalled_when_it_waits_for_room() {
    let (host, mut nic) = pair(LITTLE);
    let places = (LITTLE / 2) / 1806;
    for _ in 0..if cfg!(miri) { 1 } else { 3 } {
        let mut delivered = 0;
        while host.deliver(0, &[&frame(delivered, 60)], None) {
            delivered += 1;
        }
        assert_eq!(usize::from(delivered), places);
        for number in 0..delivered {
            assert_eq!(receive(&mut nic, at(0)), Some(frame(number, 60)));
        }
        assert_eq!(receive(&mut nic, at(0)), None);
        nic.flush();
    }
    drop(nic);
    // More places than the ring has room for: the host waits for that, and hears of it.
    let host = Host::new(1);
    let mut nic = driver(MUCH).expect("an honest host");
    let mut delivered = 0;
    while host.deliver(0, &[&frame(delivered, 60)], None) {
        delivered += 1;
    }
    let places = (1 << 20) / 1806;
    assert!(usize::from(delivered) <= places);
    host.signals();
    for number in 0..delivered {
        assert_eq!(receive(&mut nic, at(0)), Some(frame(number, 60)));
    }
    assert_eq!(receive(&mut nic, at(0)), None);
    nic.flush();
    assert_eq!(host.signals(), 1);
    assert!(host.deliver(0, &[&frame(0, 60)], None));
    assert_eq!((receive(&mut nic, at(0)), faults()), (Some(frame(0, 60)), nothing()));
}

#[test]
fn a_batch_is_one_signal_and_none_while_the_host_is_at_it() {
    let (host, mut nic) = pair(LITTLE);
    host.set_busy(false);
    for number in 0..5 {
        assert!(send(&mut nic, &frame(number, 60), at(0)));
    }
    assert_eq!(host.signals(), 0);
    nic.flush();
    nic.flush();
    assert_eq!(host.signals(), 1);
    assert!(send(&mut nic, &frame(5, 60), at(0)));
    nic.flush();
    assert_eq!(host.signals(), 0, "it has not read what came before");
    assert!(receive(&mut nic, at(0)).is_none() && !nic.has_sent(), "the host has them still");
    host.work(0);
    assert_eq!(host.nic(0).sent.len(), 6);
    assert!(receive(&mut nic, at(0)).is_none() && nic.has_sent());
    host.set_control(0, false, 8, 1);
    assert!(send(&mut nic, &frame(6, 60), at(0)));
    nic.flush();
    assert_eq!(host.signals(), 0, "it does not want to be signalled");
}

#[test]
fn an_armed_nic_is_woken_once_and_one_that_works_is_not() {
    let (host, mut nic) = pair(LITTLE);
    assert!(!nic.arm());
    assert!(host.deliver(0, &[&frame(0, 60)], None));
    assert!(nic.arm(), "a frame waits");
    assert!(receive(&mut nic, at(0)).is_some() && receive(&mut nic, at(0)).is_none());
    nic.flush();
    assert!(!nic.arm(), "and none does");
    for number in 0..MANY {
        assert!(host.deliver(0, &[&frame(number, 60)], None));
        assert!(nic.waits() && nic.arm() && nic.arm());
        assert_eq!(receive(&mut nic, at(0)), Some(frame(number, 60)));
        assert!(nic.arm(), "it is still to be completed");
        assert_eq!(receive(&mut nic, at(0)), None);
        assert!(!nic.arm());
    }
    assert_eq!(faults(), nothing());
}

#[test]
fn without_room_only_answers_go_and_the_last_buffer_never_does() {
    let (host, mut nic) = pair(LITTLE);
    host.nic(0).completes = false;
    let mut sent = 0;
    while send(&mut nic, &frame(sent, 60), at(0)) {
        sent += 1;
    }
    nic.flush();
    // Frames are received nevertheless: what they say may be that there is room.
    for number in 0..6 {
        assert!(host.deliver(0, &[&frame(number, 60)], None));
        let (token, answer) = nic.receive(at(0)).expect("a frame");
        assert_eq!(token.consume(<[u8]>::to_vec), frame(number, 60));
        answer.consume(60, |bytes| bytes.copy_from_slice(&frame(number, 60)));
        nic.flush();
    }
    let all = host.nic(0).sent.len();
    assert_eq!(
        (all, nic.counters().dropped),
        (usize::from(sent) + 3, 3),
        "four are kept, and one of them for ever"
    );
    assert!(!send(&mut nic, &frame(0, 60), at(0)));
    let transactions: Vec<_> = host.nic(0).sent.drain(..).map(|sent| sent.transaction).collect();
    for transaction in transactions {
        assert!(host.put(0, &completion(transaction)));
    }
    assert!(nic.waits());
    assert_eq!(receive(&mut nic, at(0)), None);
    assert!(send(&mut nic, &frame(0, 60), at(0)));
    assert_eq!((nic.counters().resets, faults()), (0, nothing()));
}

#[test]
fn checksums_and_segments_are_left_to_a_host_that_does_them() {
    let (host, mut nic) = pair(MUCH);
    let capabilities = nic.capabilities();
    assert!(
        !capabilities.checksum.tcp.tx() && !capabilities.checksum.tcp.rx() && capabilities.checksum.ipv4.tx()
    );
    assert_eq!(capabilities.segmentation.tcpv4.map(usize::from), Some(0xf53c));
    assert_eq!(host.nic(0).settings[&0xfc01_020c][..12], [0x80, 1, 20, 0, 1, 4, 0, 0, 0, 0, 0, 2]);
    assert!(send(&mut nic, &segment(100), at(0)));
    nic.flush();
    let sent = host.nic(0).sent.pop_front().expect("a frame");
    // IPv4, TCP, from byte 34 on; the sum of the pseudo-header in place of the checksum.
    assert_eq!(sent.todo, Some((0, 1 | 4 | 34 << 16)));
    let sum = |frame: &[u8]| u16::from_be_bytes([frame[50], frame[51]]);
    assert_eq!(sum(&sent.frame), 2 * (10 << 8) + 3 + 6 + 120);

    let bytes = segment(20_000);
    let mut token = nic.transmit(at(0)).expect("room");
    let mut meta = PacketMeta::default();
    meta.segmentation_offload_size = NonZeroU16::new(1460);
    token.set_meta(meta);
    token.consume(bytes.len(), |frame| frame.copy_from_slice(&bytes));
    nic.flush();
    let sent = host.nic(0).sent.pop_front().expect("a frame");
    assert_eq!(sent.todo, Some((2, 1460 | 34 << 20 | 1 << 30)));
    // No length and no checksum of IP, and a sum without the length.
    assert_eq!((&sent.frame[16..18], &sent.frame[24..26]), (&[0, 0][..], &[0, 0][..]));
    assert_eq!(sum(&sent.frame), 2 * (10 << 8) + 3 + 6);
    assert_eq!((&sent.frame[54..], faults()), (&bytes[54..], nothing()));
}

#[test]
fn without_offloads_the_stack_does_it_all() {
    let none = Vec::new();
    for (offered, checksum) in
        [(none, false), (capabilities(0x10, 0xf53c), false), (capabilities(0x14, 0), true)]
    {
        let host = Host::new(1);
        host.nic(0).offloads = offered;
        let mut nic = driver(MUCH).expect("an honest host");
        assert_eq!(nic.capabilities().segmentation.tcpv4, None);
        assert_eq!(nic.capabilities().checksum.tcp.tx(), !checksum);
        assert!(send(&mut nic, &segment(100), at(0)));
        nic.flush();
        let sent = host.nic(0).sent.pop_front().expect("a frame");
        assert_eq!((sent.todo.is_some(), sent.frame == segment(100)), (checksum, !checksum));
    }
}

#[test]
fn a_checksum_is_verified_unless_the_host_has_done_so() {
    let (host, mut nic) = pair(LITTLE);
    let bytes = segment(50);
    assert!(host.deliver(0, &[&bytes], None) && host.deliver(0, &[&bytes], Some(0)));
    assert!(host.deliver(0, &[&bytes], Some(TCP_IS_RIGHT | 1)), "it says both");
    assert_eq!((receive(&mut nic, at(0)), nic.counters().dropped), (None, 3));
    assert!(host.deliver(0, &[&bytes], Some(TCP_IS_RIGHT)));
    assert_eq!(receive(&mut nic, at(0)), Some(bytes));
    // What comes from the same machine may have no checksum of UDP, and then has none.
    let mut datagram = segment(50);
    datagram[23] = 17;
    datagram[40..42].copy_from_slice(&[0xde, 0xad]);
    assert!(host.deliver(0, &[&datagram], Some(1 << 4)) && host.deliver(0, &[&datagram], None));
    let kept = [(); 2].map(|()| receive(&mut nic, at(0)).map(|frame| [frame[40], frame[41]]));
    assert_eq!((kept, faults()), ([Some([0, 0]), Some([0xde, 0xad])], nothing()));
}

#[test]
fn frames_that_are_too_short_or_too_long_are_dropped() {
    let (host, mut nic) = pair(LITTLE);
    for length in [2, 13, 1519, 1700] {
        assert!(host.deliver(0, &[&frame(1, length.max(14))[..length]], None));
    }
    assert!(host.deliver(0, &[&frame(1, 1518)], None));
    assert_eq!(receive(&mut nic, at(0)).map(|frame| frame.len()), Some(1518));
    assert_eq!((receive(&mut nic, at(0)), nic.counters().dropped, nic.counters().resets), (None, 4, 0));
}

#[test]
fn a_host_that_does_not_make_sense_at_the_start_is_refused() {
    type Change = fn(&mut crate::emulated::hyperv::Nic);
    let broken: [(Change, Error); 8] = [
        (|nic| nic.versions.clear(), Error::Unsupported("its version of NVSP")),
        (|nic| nic.mac = [0; 6], Error::Layout("its address is not one station's")),
        (|nic| nic.mac[0] = 1, Error::Layout("its address is not one station's")),
        (|nic| nic.section.0 = 1000, Error::Layout("how it divides memory")),
        (|nic| nic.section.1 = Some(u32::MAX), Error::Layout("how it divides memory")),
        (|nic| nic.section.1 = Some(0), Error::Layout("how it divides memory")),
        (|nic| nic.status = 0xc000_0001, Error::Refused("a question")),
        (|nic| nic.silent = true, Error::NoAnswer),
    ];
    for (change, error) in broken {
        let host = Host::new(1);
        change(&mut host.nic(0));
        assert_eq!(driver(LITTLE).err(), Some(error));
        assert_eq!((host.shown(), faults()), (0, nothing()), "all is taken back");
    }
}

/// How a host lies.
type Tell = fn(&Host);

/// Lies, each by what the host does.
fn lies() -> Vec<(Lie, Tell)> {
    fn transfer(header: &[u64], payload: u64) -> Packet {
        let payload = vec![payload];
        Packet { kind: 7, wants_completion: true, transaction: 9, header: header.to_vec(), payload }
    }
    vec![
        (Lie::Index, |host| host.set_control(0, true, 0, 0x7fff_fff8)),
        (Lie::Index, |host| host.set_control(0, true, 0, 16 * 4096)),
        (Lie::Index, |host| host.set_control(0, true, 0, 4)),
        (Lie::Length, |host| host.set_control(0, true, 0, (host.waiting(0) * 8 + 64) & !63 | 8)),
        (Lie::Length, |host| host.put_words(0, &[6 | 1 << 16 | 2 << 32, 0, 0])),
        (Lie::Length, |host| host.put_words(0, &[6 | 3 << 16 | 2 << 32, 0, 0])),
        (Lie::Length, |host| host.put_words(0, &[6 | 2 << 16 | 3 << 32, 0, 0])),
        (Lie::Length, |host| host.put_words(0, &[6 | 2 << 16 | 0xffff << 32, 0, 0])),
        (Lie::Kind, |host| host.put_words(0, &[9 | 2 << 16 | 2 << 32, 0, 0])),
        (Lie::Kind, |host| host.put_words(0, &[2 << 16 | 2 << 32, 0, 0])),
        (Lie::Transaction, |host| assert!(host.put(0, &completion(1)))),
        (Lie::Transaction, |host| assert!(host.put(0, &completion(0)))),
        (Lie::Transaction, |host| assert!(host.put(0, &completion(u64::MAX)))),
        (Lie::Transaction, |host| assert!(host.put(0, &completion(1 << 32 | 5)))),
        (Lie::Range, |host| assert!(host.put(0, &transfer(&[0xbeef | 1 << 32, 100], 107)))),
        (Lie::Range, |host| assert!(host.put(0, &transfer(&[0xcafe | 1 << 32, 100], 105)))),
        (Lie::Range, |host| assert!(host.put(0, &transfer(&[0xcafe | 1 << 32, 100 | 65500 << 32], 107)))),
        (Lie::Range, |host| assert!(host.put(0, &transfer(&[0xcafe | 1 << 32, u64::MAX], 107)))),
        (Lie::Range, |host| assert!(host.put(0, &transfer(&[0xcafe | 1 << 32, 4], 107)))),
        (Lie::Length, |host| assert!(host.put(0, &transfer(&[0xcafe | 1 << 32, 100 | 50_001 << 32], 107)))),
        (Lie::Length, |host| assert!(host.put(0, &transfer(&[0xcafe | 2 << 32], 107)))),
        (Lie::Length, |host| assert!(host.put(0, &transfer(&[0xcafe | 0xffff_ffff << 32], 107)))),
        (Lie::Length, |host| assert!(host.put(0, &transfer(&[], 107)))),
        (Lie::Full, |host| {
            host.set_busy(false);
            host.nic(0).completes = false;
            host.set_control(0, false, 4, host.written(0) + 8);
        }),
        (Lie::Index, |host| host.set_control(0, false, 4, 3)),
        (Lie::Index, |host| host.set_control(0, false, 4, u32::MAX - 7)),
    ]
}

#[test]
fn a_lie_closes_the_channel_and_opens_it_again() {
    for (number, (lie, tell)) in lies().into_iter().enumerate().step_by(EVERY) {
        let (host, mut nic) = pair(LITTLE);
        assert!(host.deliver(0, &[&frame(1, 60)], None));
        assert!(receive(&mut nic, at(0)).is_some() && receive(&mut nic, at(0)).is_none());
        nic.flush();
        tell(&host);
        // What concerns our own ring shows when something is sent, or completed.
        let sent = send(&mut nic, &frame(2, 60), at(0));
        nic.flush();
        let mut resets = 0;
        for _ in 0..3 {
            assert_eq!(receive(&mut nic, at(0)), None, "{number}: {lie:?}");
            nic.flush();
            resets = nic.counters().resets;
        }
        host.set_busy(true);
        host.nic(0).completes = true;
        host.work(0);
        assert_eq!(resets, 1, "{number}: {lie:?}, {sent}");
        assert!(host.deliver(0, &[&frame(3, 60)], None), "{number}: {lie:?}");
        assert_eq!(receive(&mut nic, at(0)), Some(frame(3, 60)));
        assert!(send(&mut nic, &frame(4, 60), at(0)));
        nic.flush();
        assert_eq!(host.nic(0).sent.pop_back().map(|sent| sent.frame), Some(frame(4, 60)));
    }
}

/// Messages of RNDIS that lie about themselves: words, and bytes that follow.
fn false_messages() -> Vec<(bool, Vec<u32>)> {
    let packet = |change: fn(&mut Vec<u32>)| {
        let mut words = vec![1, 120, 52, 60, 0, 0, 0, 36, 16, 0, 0, 16, 0, 12, 0];
        words.resize(30, 0);
        change(&mut words);
        words
    };
    vec![
        (false, packet(|_| {})),
        (true, packet(|words| words[1] = 7)),
        (true, packet(|words| words[1] = 124)),
        (true, packet(|words| words[1] = u32::MAX)),
        (true, packet(|words| words[1] = 8)),
        (true, packet(|words| words[2] = 53)),
        (true, packet(|words| words[2] = u32::MAX)),
        (true, packet(|words| words[3] = 61)),
        (true, packet(|words| (words[2], words[3]) = (u32::MAX, u32::MAX))),
        (true, packet(|words| words[7] = 200)),
        (true, packet(|words| words[7] = 37)),
        (true, packet(|words| words[8] = 200)),
        (true, packet(|words| words[8] = 8)),
        (true, packet(|words| words[11] = 0)),
        (true, packet(|words| words[11] = 14)),
        (true, packet(|words| words[11] = 20)),
        (true, packet(|words| words[11] = u32::MAX)),
        (false, packet(|words| words[13] = 13)),
        (false, packet(|words| words[13] = 16)),
        (false, packet(|words| words[13] = u32::MAX)),
        (false, vec![0x8000_0004, 24, 99, 0, u32::MAX, u32::MAX]),
        (false, vec![0x1234, 8]),
        (true, vec![7, 8]),
        (false, vec![7, 20, 0x4001_000c, 0, 0]),
    ]
}

#[test]
fn a_message_that_lies_about_its_lengths_is_a_lie_and_others_are_nothing() {
    for (number, (is_lie, words)) in false_messages().into_iter().enumerate().step_by(EVERY) {
        let (host, mut nic) = pair(LITTLE);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert!(host.indicate(0, &[bytes]));
        while receive(&mut nic, at(0)).is_some() {}
        assert_eq!(nic.counters().resets, u64::from(is_lie), "{number}: {words:x?}");
        assert!(host.deliver(0, &[&frame(3, 60)], None));
        assert_eq!(receive(&mut nic, at(0)), Some(frame(3, 60)), "{number}");
    }
}

#[test]
fn a_host_that_only_lies_is_given_a_rest() {
    let (host, mut nic) = pair(LITTLE);
    for round in 0..9 {
        assert_eq!(nic.counters().resets, round);
        assert!(host.put(0, &completion(3)), "{round}");
        assert_eq!(receive(&mut nic, at(0)), None);
    }
    assert!(!host.is_open(0) && nic.waits() && !nic.arm());
    assert_eq!(nic.rests_until(), Some(at(1000)), "somebody has to look when it is over");
    assert!(!send(&mut nic, &frame(0, 60), at(999)) && !host.is_open(0));
    assert!(send(&mut nic, &frame(0, 60), at(1000)) && host.is_open(0));
    assert_eq!(faults(), nothing());
}

#[test]
fn one_that_does_not_let_go_is_given_up() {
    let (host, mut nic) = pair(LITTLE);
    host.misbehave(|wrong| wrong.silent = vec![11]);
    assert!(host.put(0, &completion(3)));
    for milliseconds in [0, 5000] {
        assert_eq!(receive(&mut nic, at(milliseconds)), None);
        assert!(!send(&mut nic, &frame(0, 60), at(milliseconds)));
        assert!(!nic.arm(), "it does not keep the machine awake");
    }
    assert_eq!(nic.counters().resets, 1);
}

#[test]
fn one_that_changes_or_does_not_answer_is_closed_and_tried_again_later() {
    let changes: [fn(&Host, bool); 3] = [
        |host, wrong| host.nic(0).mac[5] = if wrong { 77 } else { 1 },
        |host, wrong| host.nic(0).offloads = if wrong { Vec::new() } else { capabilities(0x14, 0xf53c) },
        |host, wrong| host.nic(0).silent = wrong,
    ];
    for change in changes {
        let (host, mut nic) = pair(LITTLE);
        change(&host, true);
        assert!(host.put(0, &completion(3)));
        let before = kernel_io::microseconds();
        // It rests a second, and then two.
        for milliseconds in [0, 999, 1000, 2999] {
            assert_eq!(receive(&mut nic, at(milliseconds)), None);
            assert!(!send(&mut nic, &frame(0, 60), at(milliseconds)));
            assert!(!host.is_open(0) && host.shown() == 0, "all is taken back");
            nic.arm();
            assert!(!nic.arm(), "it does not keep the machine awake");
        }
        // Two starts, of which each took its time and no more.
        assert!(kernel_io::microseconds() - before <= 2 * u64::from(RESET_TIME) + 1000);
        change(&host, false);
        assert!(send(&mut nic, &frame(0, 60), at(3000)) && host.is_open(0));
        assert!(host.deliver(0, &[&frame(1, 60)], None));
        assert_eq!((receive(&mut nic, at(3000)), nic.counters().resets), (Some(frame(1, 60)), 1));
        assert_eq!(faults(), nothing());
    }
}

#[test]
fn what_the_host_does_not_see_is_not_counted_as_sent() {
    let (host, mut nic) = pair(LITTLE);
    assert!(send(&mut nic, &frame(0, 60), at(0)));
    // A ring of ours with an index that cannot be.
    host.set_control(0, false, 4, 0xffff_fff0);
    send(&mut nic, &frame(0, 60), at(0));
    assert_eq!((nic.counters().sent, nic.counters().dropped), (1, 1));
}

#[test]
fn a_channel_that_is_taken_back_is_let_go_without_waiting() {
    for silent in [vec![], vec![11]] {
        let (host, mut nic) = pair(LITTLE);
        host.misbehave(|wrong| wrong.silent = silent);
        assert!(send(&mut nic, &frame(0, 60), at(0)));
        host.rescind(0);
        assert!(nic.arm());
        let before = kernel_io::microseconds();
        assert_eq!(receive(&mut nic, at(0)), None);
        assert!(host.is_released(0) && !host.is_open(0) && host.shown() == 0);
        assert!(!nic.arm() && !send(&mut nic, &frame(0, 60), at(9000)));
        drop(nic);
        assert_eq!(kernel_io::microseconds(), before);
        assert_eq!(faults(), nothing());
    }
}

#[test]
fn one_that_is_not_let_go_at_its_start_is_waited_for_once() {
    let host = Host::new(1);
    host.nic(0).mac = [1; 6];
    host.misbehave(|wrong| wrong.silent = vec![11]);
    let before = kernel_io::microseconds();
    assert_eq!(driver(LITTLE).err(), Some(Error::NoAnswer));
    assert!(kernel_io::microseconds() - before < 3 * u64::from(super::super::bus::ANSWER_TIME));
}

#[test]
fn a_hostile_host_does_no_harm_and_an_honest_one_is_served_after_it() {
    play_by_chance(hostile::play, if cfg!(miri) { 1 } else { 20 }, MANY.into(), 100);
}
