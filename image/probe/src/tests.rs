//! Machines between two networks, put the one way round and the other.

use super::frames::{arp, discover, offer, speaker};
use super::*;
use network_nic::Device;
use network_nic::testing::Wire;
use std::cell::Cell;

const A: Mac = [2, 0, 0, 0, 0, 1];
const B: Mac = [2, 0, 0, 0, 0, 2];
const C: Mac = [2, 0, 0, 0, 0, 3];
/// Addresses of both, and neighbours of both.
type Text = (Option<&'static str>, Option<&'static str>, &'static [[u8; 4]]);
const NETWORKS: Text = (Some("10.77.0.2/24"), Some("10.77.1.2/24"), &[]);

fn networks(text: Text, named: [Option<usize>; 2]) -> [Network; 2] {
    let (host, service, known) = text;
    [(host, named[HOST]), (service, named[SERVICE])].map(|(own, named)| {
        let own = own.map(|own| own.parse().unwrap());
        Network::new(own, named, &mut known.iter().map(|address| Ipv4Addr::from(*address)))
    })
}

fn at(millis: u64) -> Instant {
    Instant::from_micros(millis * 1000)
}

fn probe(text: Text, macs: &[Mac]) -> Probe {
    Probe::new(networks(text, [None; 2]), macs, 7, at(0)).unwrap()
}

/// An ARP answer, or a question of somebody's own.
fn says(operation: u8, mac: Mac, address: [u8; 4]) -> Vec<u8> {
    let mut frame = arp(mac, Ipv4Addr::UNSPECIFIED);
    frame[21] = operation;
    frame[28..32].copy_from_slice(&address);
    frame
}

/// A DHCP server's answer to a question.
fn offers(question: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut frame = question.to_vec();
    frame[34..38].copy_from_slice(&[0, 67, 0, 68]);
    frame[42] = 2;
    frame[58..62].copy_from_slice(&address);
    let kind = frame.windows(3).position(|bytes| bytes == [53, 1, 1]).unwrap();
    frame[kind + 2] = 2;
    frame
}

const STRANGER: Mac = [0x52, 0x54, 0, 9, 9, 9];

#[test]
fn whoever_answers_shows_where_its_network_is_whichever_way_round_they_are() {
    let text = (NETWORKS.0, NETWORKS.1, &[[10, 77, 1, 254], [10, 77, 0, 9]][..]);
    for (host, service) in [(0, 1), (1, 0)] {
        for heard in [[HOST, SERVICE], [SERVICE, HOST]] {
            let mut probe = probe(text, &[A, B]);
            let questions = probe.ask(at(0));
            for nic in [0, 1] {
                let asked = |address: [u8; 4]| questions.contains(&(nic, arp([A, B][nic], address.into())));
                assert!(asked([10, 77, 1, 254]) && asked([10, 77, 0, 9]) && asked([10, 77, 0, 1]), "on each");
            }
            assert_eq!(probe.verdict(at(1)), Verdict::Waiting(at(250)));
            for network in heard {
                assert_eq!(
                    probe.verdict(at(1)),
                    Verdict::Waiting(at(250)),
                    "one says nothing about the other"
                );
                let (place, address) = [(host, [10, 77, 0, 9]), (service, [10, 77, 1, 254])][network];
                probe.heard(place, &says(2, STRANGER, address));
            }
            assert_eq!(probe.verdict(at(2)), Verdict::Waiting(at(250)), "something may contradict that");
            assert!(matches!(probe.verdict(at(301)), Verdict::Waiting(_)));
            assert_eq!(probe.verdict(at(302)), Verdict::Decided(host, service));
        }
    }
}

#[test]
fn who_asks_for_us_shows_it_as_well() {
    let mut probe = probe(NETWORKS, &[A, B]);
    probe.heard(1, &says(1, STRANGER, [10, 77, 0, 77]));
    probe.heard(0, &says(1, STRANGER, [10, 77, 1, 77]));
    assert_eq!(probe.verdict(at(1)), Verdict::Waiting(at(0)));
    assert_eq!(probe.verdict(at(301)), Verdict::Decided(1, 0));
}

/// Linux answers on each of its networks for its address on any (arp_ignore=0).
#[test]
fn a_host_that_answers_on_the_providers_network_for_its_own_does_not_decide() {
    let mut early = probe(NETWORKS, &[A, B]);
    early.heard(1, &says(2, STRANGER, [10, 77, 0, 1]));
    early.heard(1, &says(2, STRANGER, [10, 77, 1, 1]));
    assert!(matches!(early.verdict(at(1)), Verdict::Contradiction(_)));
    let mut late = probe(NETWORKS, &[A, B]);
    late.heard(1, &says(2, STRANGER, [10, 77, 0, 1]));
    for millis in (0..60_000).step_by(50) {
        assert!(matches!(late.verdict(at(millis)), Verdict::Waiting(_)), "{millis}");
    }
    late.heard(0, &says(2, STRANGER, [10, 77, 0, 1]));
    assert!(matches!(late.verdict(at(60_000)), Verdict::Contradiction(_)));
    // With one of two NICs named nobody need be heard.
    for named in [[Some(1), None], [None, Some(0)]] {
        let mut probe = Probe::new(networks(NETWORKS, named), &[A, B], 7, at(0)).unwrap();
        assert!(matches!(probe.verdict(at(1)), Verdict::Waiting(_)));
        assert_eq!(probe.verdict(at(2001)), Verdict::Decided(1, 0));
    }
}

#[test]
fn what_shows_nothing_is_not_taken_for_an_answer() {
    let mut probe = probe(NETWORKS, &[A, B]);
    probe.ask(at(0));
    for frame in [
        says(2, STRANGER, [10, 77, 2, 1]),
        says(2, STRANGER, [10, 77, 0, 2]),
        says(2, STRANGER, [10, 77, 0, 0]),
        says(2, STRANGER, [10, 77, 1, 255]),
        says(2, B, [10, 77, 0, 1]),
        says(3, STRANGER, [10, 77, 0, 1]),
        says(2, [1; 6], [10, 77, 0, 1]),
        offers(&discover(A, 7), [0; 4]),
        offers(&discover(A, 8), [10, 77, 0, 1]),
        offers(&discover(B, 7), [10, 77, 0, 1]),
        discover(A, 7),
        vec![0; 14],
        vec![],
    ] {
        probe.heard(0, &frame);
        assert_eq!(probe.verdict(at(200)), Verdict::Waiting(at(250)), "{frame:02x?}");
    }
    probe.heard(2, &says(2, STRANGER, [10, 77, 0, 1]));
    assert_eq!(probe.verdict(at(200)), Verdict::Waiting(at(250)), "there is no such NIC");
}

#[test]
fn answers_that_contradict_each_other_end_it() {
    let mut bridged = probe(NETWORKS, &[A, B]);
    bridged.heard(0, &says(2, STRANGER, [10, 77, 1, 1]));
    assert!(matches!(bridged.verdict(at(1)), Verdict::Waiting(_)));
    bridged.heard(1, &says(2, STRANGER, [10, 77, 1, 1]));
    let Verdict::Contradiction(text) = bridged.verdict(at(2)) else { panic!("it is on both") };
    assert_eq!(
        text,
        "configuration: host.mac and service.mac say which NIC is on which network (there are 02:00:00:00:00:01, \
         02:00:00:00:00:02); the service network answers by two NICs, 02:00:00:00:00:01 and 02:00:00:00:00:02"
    );
    let mut one = probe(NETWORKS, &[A, B]);
    one.heard(1, &says(2, STRANGER, [10, 77, 0, 1]));
    one.heard(1, &says(2, STRANGER, [10, 77, 1, 1]));
    let Verdict::Contradiction(text) = one.verdict(at(1)) else { panic!("both are on one") };
    assert!(text.ends_with("both networks answer by the NIC 02:00:00:00:00:02"), "{text}");
    let dhcp = |named| networks((None, None, &[]), named);
    let refused = Probe::new(dhcp([None; 2]), &[A, B], 7, at(0));
    assert!(refused.is_err_and(|text| text.contains("DHCP")));
    assert!(Probe::new(dhcp([Some(1), None]), &[A, B, C], 7, at(0)).is_ok());
}

#[test]
fn a_dhcp_server_shows_where_a_network_is_that_has_its_address_from_it() {
    let text = (Some("10.77.0.2/24"), None, &[][..]);
    for (host, service) in [(0, 1), (1, 0)] {
        let mut probe = probe(text, &[A, B]);
        let questions = probe.ask(at(0));
        let question =
            |place| questions.iter().find(|(nic, frame)| *nic == place && frame[12..14] == [8, 0]).unwrap();
        // One on the host-only network as well: what it offers says so.
        probe.heard(host, &offers(&question(host).1, [10, 77, 0, 99]));
        assert_eq!(probe.verdict(at(1)), Verdict::Waiting(at(250)));
        probe.heard(service, &offers(&question(service).1, [192, 168, 3, 4]));
        assert_eq!(probe.verdict(at(2)), Verdict::Waiting(at(250)));
        assert_eq!(probe.verdict(at(302)), Verdict::Decided(host, service));
    }
    let mut only = probe(text, &[A, B]);
    let questions = only.ask(at(0));
    let (place, question) =
        questions.iter().find(|(nic, frame)| *nic == 1 && frame[12..14] == [8, 0]).unwrap();
    only.heard(*place, &offers(question, [192, 168, 3, 4]));
    assert_eq!(
        only.verdict(at(10)),
        Verdict::Waiting(at(250)),
        "that says nothing about the host-only network"
    );
    assert_eq!(only.verdict(at(5000)), Verdict::Waiting(at(250)));
    only.heard(0, &says(2, STRANGER, [10, 77, 0, 1]));
    assert_eq!(only.verdict(at(5001)), Verdict::Waiting(at(250)));
    assert_eq!(only.verdict(at(5301)), Verdict::Decided(0, 1));
    let mut both = probe(text, &[A, B]);
    for (place, mac) in [A, B].into_iter().enumerate() {
        both.heard(place, &offers(&discover(mac, 7), [192, 168, 3, 4]));
    }
    assert!(matches!(both.verdict(at(1)), Verdict::Contradiction(_)));
}

#[test]
fn of_three_nics_each_network_has_to_be_heard() {
    let mut probe = probe(NETWORKS, &[A, B, C]);
    probe.heard(2, &says(2, STRANGER, [10, 77, 0, 1]));
    assert_eq!(probe.verdict(at(1000)), Verdict::Waiting(at(0)));
    probe.heard(0, &says(2, STRANGER, [10, 77, 1, 1]));
    assert!(matches!(probe.verdict(at(1000)), Verdict::Waiting(_)));
    assert_eq!(probe.verdict(at(1300)), Verdict::Decided(2, 0));
    // One is named: the other is looked for among the rest, whoever else is heard where.
    let mut named = Probe::new(networks(NETWORKS, [Some(1), None]), &[A, B, C], 7, at(0)).unwrap();
    named.heard(1, &says(2, STRANGER, [10, 77, 1, 1]));
    named.heard(2, &says(2, STRANGER, [10, 77, 1, 1]));
    assert!(matches!(named.verdict(at(1000)), Verdict::Waiting(_)));
    assert_eq!(named.verdict(at(1300)), Verdict::Decided(1, 2));
}

#[test]
fn questions_go_on_for_as_long_as_nobody_answers_and_soon_not_as_often() {
    let mut probe = probe(NETWORKS, &[A, B]);
    let rounds = (0..60_000).filter(|millis| !probe.ask(at(*millis)).is_empty()).count();
    assert_eq!(rounds, 8 + 29);
    assert_eq!(probe.asked(), "10.77.0.1 of the host-only network, 10.77.1.1 of the service network");
}

#[test]
fn those_who_are_known_are_asked_for_and_nobody_else() {
    let of = |own: &str, known: &[[u8; 4]]| {
        let mut known = known.iter().map(|address| Ipv4Addr::from(*address));
        let network = Network::new(Some(own.parse().unwrap()), None, &mut known);
        network.neighbours.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(of("10.77.0.1/24", &[]).is_empty(), "the first address is our own");
    let known =
        [[10, 77, 1, 254], [10, 77, 1, 7], [10, 9, 9, 9], [10, 77, 1, 7], [10, 77, 1, 2], [10, 77, 1, 255]];
    assert_eq!(of("10.77.1.2/24", &known), ["10.77.1.254", "10.77.1.7", "10.77.1.1"]);
    let many: Vec<_> = (10..100).map(|last| [10, 77, 1, last]).collect();
    assert_eq!(of("10.77.1.2/24", &many).len(), MOST_ASKED);
    assert_eq!(of("10.0.0.0/31", &[]), ["10.0.0.1"]);
    assert!(of("10.77.1.2/32", &[]).is_empty());
    assert!(of("255.255.255.254/32", &[]).is_empty());
}

#[test]
fn nics_are_driven_until_it_is_known() {
    let [mut host, host_end] = Wire::pair([1, 11]);
    let [service, mut service_end] = Wire::pair([2, 12]);
    host.depth = 1;
    let mut nics = [service, host];
    let macs = nics.each_ref().map(Nic::mac);
    let mut probe = Probe::new(networks(NETWORKS, [None; 2]), &macs, 7, at(0)).unwrap();
    let time = Cell::new(0);
    let found = find(&mut nics, &mut probe, &|| at(time.get()), &mut |until| {
        let Some(until) = until else { return };
        assert!(until > at(time.get()));
        time.set(until.as_micros() / 1000);
        if time.get() >= 500 {
            let asked = service_end.receive(network_nic::Instant::ZERO).map(|(frame, _)| frame);
            if let Some(frame) = asked {
                frame.consume(|frame| assert_eq!(frame[12..14], [8, 6]));
            }
            service_end.outgoing.borrow_mut().push_back(says(2, STRANGER, [10, 77, 1, 1]));
            host_end.outgoing.borrow_mut().push_back(says(2, STRANGER, [10, 77, 0, 1]));
        }
    });
    assert_eq!((found, time.get()), (Ok((1, 0)), 800));
    assert_eq!(host_end.incoming.borrow().len(), 1, "no more than there is room for");
}

/// The watchdog and the power button are beside this, and a flood keeps them no more waiting than silence.
#[test]
fn what_is_beside_is_seen_to_in_each_turn_of_a_flood() {
    let [flooded, mut flood] = Wire::pair([1, 11]);
    let [quiet, _end] = Wire::pair([2, 12]);
    let mut nics = [flooded, quiet];
    let macs = nics.each_ref().map(Nic::mac);
    let mut probe = Probe::new(networks(NETWORKS, [None; 2]), &macs, 7, at(0)).unwrap();
    let (turns, looks) = (Cell::new(0), Cell::new(0));
    let now = || {
        turns.set(turns.get() + 1);
        // One that shows nothing, and at the end those that end it.
        let text = if turns.get() < 100 { [192, 0, 2, 1] } else { [10, 77, 0, 1] };
        flood.outgoing.borrow_mut().push_back(says(2, STRANGER, text));
        if turns.get() == 100 {
            flood.outgoing.borrow_mut().push_back(says(2, STRANGER, [10, 77, 1, 1]));
        }
        at(turns.get())
    };
    let found = find(&mut nics, &mut probe, &now, &mut |until| {
        assert_eq!(until, None, "there is always something to do");
        looks.set(looks.get() + 1);
    });
    assert!(found.unwrap_err().contains("host.mac"));
    assert_eq!((turns.get(), looks.get()), (100, 99));
    assert!(flood.receive(network_nic::Instant::ZERO).is_some(), "it asks all the same");
}

#[test]
fn no_frame_makes_it_panic() {
    let mut seed = 3_u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize
    };
    let good = [says(2, STRANGER, [10, 77, 0, 1]), offers(&discover(A, 7), [10, 0, 0, 1])];
    let mut probe = probe(NETWORKS, &[A, B]);
    for round in 0..if cfg!(miri) { 50 } else { 20_000 } {
        let mut frame = good[round % 2].clone();
        for _ in 0..next() % 4 {
            let at = next() % frame.len();
            frame[at] = next() as u8;
        }
        frame.truncate(next() % (frame.len() + 1));
        probe.heard(0, &frame);
        let _ = (speaker(&frame), offer(&frame, A, 7));
    }
}
