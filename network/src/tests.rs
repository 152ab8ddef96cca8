//! Two stacks on one simulated wire.

mod acknowledgements;

use crate::{Addressing, Attachment, Cidr, Settings, Side, Stack, TryRead};
use kernel_runtime::{Executor, Instant};
use network_nic::testing::Wire;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Both ends of a wire that holds at most 64 frames each way.
fn wire() -> [Wire; 2] {
    Wire::pair([1, 2]).map(|end| Wire { depth: 64, ..end })
}

struct World {
    ends: [Attachment<Wire>; 2],
    executor: Executor,
    now: Instant,
}

fn settings(address: &str, seed: u64) -> Settings {
    let cidr: Cidr = address.parse().expect("an address");
    Settings {
        side: Side::HostOnly,
        addressing: Addressing::Static { cidr, gateway: None },
        foreign: Some("10.77.1.2/24".parse().expect("an address")),
        seed,
    }
}

impl World {
    fn new() -> Self {
        let [a, b] = wire();
        let ends = [
            Attachment::new(&settings("10.77.0.1/24", 1), a, Instant::ZERO),
            Attachment::new(&settings("10.77.0.2/24", 2), b, Instant::ZERO),
        ];
        Self { ends, executor: Executor::new(8), now: Instant::ZERO }
    }

    fn stacks(&self) -> [Stack; 2] {
        [self.ends[0].stack(), self.ends[1].stack()]
    }

    /// Run until every task has finished; time jumps to the next deadline when nothing else moves.
    fn run(&mut self, limit: Duration) {
        while self.executor.living().next().is_some() {
            assert!(
                self.now < Instant::ZERO + limit,
                "still living: {:?}",
                self.executor.living().collect::<Vec<_>>()
            );
            self.turn();
        }
    }

    fn turn(&mut self) {
        let mut moved = false;
        for end in &mut self.ends {
            moved |= end.receive(self.now);
        }
        moved |= self.executor.run_ready(self.now) > 0;
        for end in &mut self.ends {
            moved |= end.transmit(self.now);
            moved |= !end.nic().outgoing.borrow().is_empty();
        }
        if !moved {
            let deadlines = self.ends.iter_mut().filter_map(|end| end.next_deadline(self.now));
            let next = deadlines.chain(self.executor.next_deadline()).min();
            let step = Instant::from_micros(self.now.as_micros() + 1);
            self.now = next.expect("somebody waits for something").max(step);
        }
    }
}

#[test]
fn bytes_arrive_in_order_and_the_end_is_seen() {
    let mut world = World::new();
    let [client, server] = world.stacks();
    let data: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = data.clone();
    let received = Rc::new(RefCell::new(Vec::new()));
    let log = received.clone();
    let mut listener = server.stream(16384, 16384);
    world.executor.add("server", async move {
        listener.accept(3260).await;
        assert_eq!(listener.peer().map(|peer| *peer.ip()), Some([10, 77, 0, 1].into()));
        let mut buffer = [0; 1000];
        loop {
            match listener.read(&mut buffer).await.expect("no reset") {
                0 => break,
                count => log.borrow_mut().extend_from_slice(&buffer[..count]),
            }
        }
        listener.finish().await;
    });
    let mut stream = client.stream(4096, 8192);
    world.executor.add("client", async move {
        stream.connect("10.77.0.2:3260".parse().expect("address")).await.expect("connected");
        stream.write_all(&sent).await.expect("written");
        stream.finish().await;
    });
    world.run(Duration::from_secs(60));
    assert!(*received.borrow() == data);
}

#[test]
fn parts_are_written_all_or_none_also_where_the_memory_begins_anew() {
    let mut world = World::new();
    let [client, server] = world.stacks();
    let received = Rc::new(RefCell::new(Vec::new()));
    let log = received.clone();
    let mut listener = server.stream(4096, 4096);
    world.executor.add("server", async move {
        listener.accept(3260).await;
        let mut buffer = [0; 1000];
        while let Ok(count @ 1..) = listener.read(&mut buffer).await {
            log.borrow_mut().extend_from_slice(&buffer[..count]);
        }
        listener.finish().await;
    });
    let mut stream = client.stream(4096, 4096);
    let clock = world.executor.clock();
    assert_eq!(stream.room(), 0, "there is no connection");
    world.executor.add("client", async move {
        stream.connect("10.77.0.2:3260".parse().expect("address")).await.expect("connected");
        for round in 0..20_u8 {
            while stream.room() < 1502 {
                clock.sleep(Duration::from_millis(1)).await;
            }
            let before = stream.room();
            assert_eq!(stream.try_write_all([&[1; 2000], &[2; 3000]]), Ok(false));
            assert_eq!(stream.room(), before);
            assert_eq!(stream.try_write_all([&[round; 1500], &[], &[255; 2]]), Ok(true));
            assert_eq!(stream.room(), before - 1502);
        }
        stream.read_with(|_| 0).expect("it stands");
        stream.finish().await;
    });
    world.run(Duration::from_secs(60));
    let expected: Vec<u8> = (0..20).flat_map(|round| [vec![round; 1500], vec![255; 2]].concat()).collect();
    assert!(*received.borrow() == expected);
}

#[test]
fn data_that_an_acknowledgement_has_overtaken_are_taken_all_the_same() {
    let mut world = World::new();
    let [client, server] = world.stacks();
    let (clock, ends) = (world.executor.clock(), Rc::new(Cell::new(None)));
    let (mut listener, end) = (server.stream(4096, 4096), ends.clone());
    let pause = move |clock: &kernel_runtime::Clock| clock.sleep(Duration::from_millis(1));
    let there = clock.clone();
    world.executor.add("server", async move {
        listener.accept(80).await;
        listener.read(&mut [0]).await.expect("a byte");
        pause(&there).await;
        pause(&there).await;
        listener.write_all(b"pong").await.expect("written");
        let mut ping = [0; 4];
        assert_eq!((listener.read(&mut ping).await, &ping), (Ok(4), b"ping"));
        end.set(Some(there.now()));
    });
    let mut stream = client.stream(4096, 4096);
    world.executor.add("client", async move {
        stream.connect("10.77.0.2:80".parse().expect("address")).await.expect("connected");
        stream.write_all(b"!").await.expect("written");
        pause(&clock).await;
        stream.write_all(b"ping").await.expect("written");
        assert_eq!(stream.read(&mut [0; 4]).await, Ok(4));
        // Time passes by milliseconds.
        for _ in 0..2000 {
            pause(&clock).await;
        }
    });
    // Its first frame stays behind until the answer to what was sent after it is acknowledged.
    let incoming = world.ends[1].nic().incoming.clone();
    let mut late = None;
    let until = |millis: u64| Instant::from_micros(1000 * millis);
    while world.now < until(3000) && world.executor.living().next().is_some() {
        world.turn();
        let mut incoming = incoming.borrow_mut();
        if late.is_none() && world.now < until(20) {
            let place = incoming.iter().position(|frame| frame.ends_with(b"ping"));
            late = place.and_then(|place| incoming.remove(place));
        } else if world.now > until(20) {
            incoming.extend(late.take());
        }
    }
    let end = ends.get().expect("it has arrived");
    assert!(end < until(500), "only after {end:?}");
}

#[test]
fn a_slot_is_used_again_after_its_connection_has_ended() {
    let mut world = World::new();
    let [client, server] = world.stacks();
    let mut listener = server.stream(4096, 4096);
    world.executor.add("server", async move {
        for round in 0..5_u8 {
            listener.accept(80).await;
            listener.write_all(&[round]).await.expect("written");
            if round % 2 == 0 { listener.finish().await } else { listener.abort() }
        }
    });
    let mut stream = client.stream(4096, 4096);
    world.executor.add("client", async move {
        for round in 0..5_u8 {
            stream.connect("10.77.0.2:80".parse().expect("address")).await.expect("connected");
            let mut byte = [0xff];
            match stream.read(&mut byte).await {
                Ok(count) => assert_eq!((count, byte[0]), (1, round)),
                Err(_) => assert_eq!(round % 2, 1, "only odd rounds are reset"),
            }
            stream.finish().await;
        }
    });
    world.run(Duration::from_secs(60));
}

#[test]
fn a_peer_hears_at_once_that_its_connection_was_aborted() {
    let mut world = World::new();
    let [client, server] = world.stacks();
    let mut listener = server.stream(4096, 4096);
    world.executor.add("server", async move {
        for _ in 0..2 {
            listener.accept(80).await;
            listener.read(&mut [0]).await.expect("a byte");
            // The slot is used again at once, which must not swallow the reset.
            listener.abort();
        }
        listener.accept(80).await;
    });
    let mut stream = client.stream(4096, 4096);
    world.executor.add("client", async move {
        for _ in 0..2 {
            stream.connect("10.77.0.2:80".parse().expect("address")).await.expect("connected");
            stream.write_all(&[1]).await.expect("written");
            assert!(stream.read(&mut [0]).await.is_err(), "reset");
        }
        stream.connect("10.77.0.2:80".parse().expect("address")).await.expect("connected");
    });
    world.run(Duration::from_secs(1));
}

#[test]
fn a_stack_that_closes_ends_its_connections_behind_what_was_written_and_listens_no_more() {
    let mut world = World::new();
    let [client, server] = world.stacks();
    let heard = Rc::new(RefCell::new(Vec::new()));
    let log = heard.clone();
    let mut listener = server.stream(4096, 4096);
    let closing = server.clone();
    let ended = Rc::new(Cell::new(false));
    let told = ended.clone();
    world.executor.add("server", async move {
        listener.accept(3260).await;
        listener.write_all(b"the last word").await.expect("written");
        closing.close();
        assert!(!closing.is_closed(), "the peer has still to hear of it");
        told.set(true);
        // Whoever had it is gone with it, and does nothing more.
        core::future::pending::<()>().await;
    });
    let (mut stream, mut late) = (client.stream(4096, 4096), client.stream(4096, 4096));
    world.executor.add("client", async move {
        let portal = "10.77.0.2:3260".parse().expect("address");
        stream.connect(portal).await.expect("connected");
        let mut buffer = [0; 100];
        while let count @ 1.. = stream.read(&mut buffer).await.expect("no reset") {
            log.borrow_mut().extend_from_slice(&buffer[..count]);
        }
        stream.finish().await;
        assert!(late.connect(portal).await.is_err(), "nobody listens");
    });
    while world.executor.living().any(|name| name == "client") {
        assert!(world.now < Instant::ZERO + Duration::from_secs(60));
        world.turn();
    }
    assert!(ended.get() && server.is_closed());
    assert_eq!(*heard.borrow(), b"the last word");
}

#[test]
fn peers_that_never_finish_their_handshake_keep_nobody_out() {
    let mut world = World::new();
    let [client, server] = world.stacks();
    for _ in 0..4 {
        let mut listener = server.stream(4096, 4096);
        world.executor.add("server", async move {
            listener.accept(3260).await;
            listener.write_all(b"hello").await.expect("written");
        });
    }
    let forged = world.ends[1].nic().incoming.clone();
    let clock = world.executor.clock();
    world.executor.add("clients", async move {
        for round in 0..4_u8 {
            for source in 0..40 {
                let mut syn = gate::syn_from(&format!("10.77.0.{}", 50 + source + 40 * round));
                syn[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
                forged.borrow_mut().push_back(syn);
            }
            let mut stream = client.stream(4096, 4096);
            stream.connect("10.77.0.2:3260".parse().expect("address")).await.expect("connected");
            assert_eq!(stream.read(&mut [0; 5]).await, Ok(5));
            clock.sleep_until(clock.now() + Duration::from_millis(100)).await;
        }
    });
    world.run(Duration::from_secs(20));
}

#[test]
fn who_never_answers_keeps_no_connection_from_the_neighbour_it_has_forgotten() {
    let mut world = World::new();
    let [client, server] = world.stacks();
    let clock = world.executor.clock();
    // One slot is left, so that none is taken from who has begun.
    for _ in 0..3 {
        let (mut listener, clock) = (server.stream(4096, 4096), clock.clone());
        world.executor.add("server", async move {
            listener.accept(3260).await;
            listener.write_all(b"hello").await.expect("written");
            clock.sleep(Duration::from_millis(300)).await;
            listener.write_all(b"again").await.expect("written");
        });
    }
    let forged = world.ends[1].nic().incoming.clone();
    let heard = Rc::new(Cell::new(None));
    let at = heard.clone();
    world.executor.add("client", async move {
        let mut stream = client.stream(4096, 4096);
        stream.connect("10.77.0.2:3260".parse().expect("address")).await.expect("connected");
        assert_eq!(stream.read(&mut [0; 5]).await, Ok(5));
        clock.sleep(Duration::from_millis(10)).await;
        // One who begins and has no address that answers, and then so many neighbours that the first is forgotten.
        let mut syn = gate::syn_from("10.77.0.66");
        syn[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
        forged.borrow_mut().push_back(syn);
        clock.sleep(Duration::from_millis(10)).await;
        forged.borrow_mut().extend((100..=250).map(gate::arp_request_from));
        assert_eq!(stream.read(&mut [0; 5]).await, Ok(5));
        at.set(Some(clock.now()));
    });
    while world.now < Instant::from_micros(10_000_000) && heard.get().is_none() {
        world.turn();
    }
    let at = heard.get().expect("it was heard");
    assert!(at < Instant::from_micros(2_000_000), "only after {at:?}");
}

#[test]
fn of_two_peers_that_come_at_once_for_the_last_slot_each_gets_it_in_turn() {
    let mut world = World::new();
    let [client, server] = world.stacks();
    let mut listener = server.stream(4096, 4096);
    world.executor.add("server", async move {
        for _ in 0..2 {
            listener.accept(80).await;
            listener.write_all(b"hello").await.expect("written");
            listener.finish().await;
        }
    });
    for _ in 0..2 {
        let mut stream = client.stream(4096, 4096);
        world.executor.add("client", async move {
            stream.connect("10.77.0.2:80".parse().expect("address")).await.expect("connected");
            assert_eq!(stream.read(&mut [0; 5]).await, Ok(5));
            stream.finish().await;
        });
    }
    world.run(Duration::from_secs(20));
}

#[test]
fn nobody_comes_to_port_zero_and_nothing_stops_for_it() {
    let mut world = World::new();
    let [_, server] = world.stacks();
    let mut listener = server.stream(1024, 1024);
    let clock = world.executor.clock();
    world.executor.add("server", async move {
        let until = clock.now() + Duration::from_millis(1);
        assert!(kernel_runtime::with_deadline(&clock, until, listener.accept(0)).await.is_err());
    });
    world.run(Duration::from_secs(1));
}

/// A connection writes all the time, and after a second its NIC takes nothing any more, or not before a second more. Answers
/// how often the world turns in three seconds from then, and when all of it has arrived.
fn write_while_the_nic_rests(until: u64) -> (u32, Option<Instant>) {
    const SECOND: u64 = 1_000_000;
    let mut world = World::new();
    let [client, server] = world.stacks();
    let (end, clock) = (Rc::new(Cell::new(None)), world.executor.clock());
    let (mut listener, arrived) = (server.stream(4096, 4096), end.clone());
    world.executor.add("server", async move {
        listener.accept(80).await;
        let (mut buffer, mut count) = ([0; 1000], 0);
        while count < 100_000 {
            count += listener.read(&mut buffer).await.expect("no reset");
        }
        arrived.set(Some(clock.now()));
    });
    let (mut stream, clock) = (client.stream(4096, 4096), world.executor.clock());
    world.executor.add("client", async move {
        stream.connect("10.77.0.2:80".parse().expect("address")).await.expect("connected");
        for _ in 0..100 {
            stream.write_all(&[1; 1000]).await.expect("written");
            clock.sleep(Duration::from_millis(15)).await;
        }
    });
    let (mut turns, rests) = (0, world.ends[0].nic().rests.clone());
    while world.now < Instant::from_micros(SECOND) {
        world.turn();
    }
    rests.set(Some(network_nic::Instant::from_micros(i64::try_from(until).expect("a time"))));
    while world.now < Instant::from_micros(4 * SECOND) {
        world.turn();
        turns += 1;
        // Nobody is asked for more.
        assert!(turns < 10_000, "a stack that turns all the time");
    }
    (turns, end.get())
}

#[test]
fn what_waits_for_a_nic_that_rests_is_sent_behind_it_and_tried_seldom_meanwhile() {
    let (turns, end) = write_while_the_nic_rests(2_000_000);
    let end = end.expect("all has arrived");
    assert!(end > Instant::from_micros(2_000_000) && turns < 2_000, "{end:?} {turns}");
    let (turns, end) = write_while_the_nic_rests(i64::MAX as u64);
    assert!(end.is_none() && turns < 1_000, "{turns}");
}

#[test]
fn a_closed_port_refuses() {
    let mut world = World::new();
    let [client, _] = world.stacks();
    let mut stream = client.stream(1024, 1024);
    world.executor.add("client", async move {
        assert!(stream.connect("10.77.0.2:9".parse().expect("address")).await.is_err());
        assert!(stream.try_read(&mut [0]).is_err());
        assert_ne!(stream.try_read(&mut []), Ok(TryRead::Bytes(0)));
    });
    world.run(Duration::from_secs(60));
}

pub(crate) mod gate {
    use crate::gate::Rules;
    use crate::{Cidr, Side};
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::*;
    use std::net::Ipv4Addr;

    fn rules(side: Side) -> Rules {
        let own: Cidr = "10.77.0.2/24".parse().expect("an address");
        let foreign = "10.77.1.2/24".parse().ok();
        Rules { side, dhcp: false, own: Some(own), routed: side == Side::Service, foreign }
    }

    /// Station `n` asks who has the address of the other end (RFC 826).
    pub(crate) fn arp_request_from(n: u8) -> Vec<u8> {
        let request = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress([2, 0, 0, 0, 1, n]),
            source_protocol_addr: Ipv4Addr::new(10, 77, 0, n),
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: Ipv4Addr::new(10, 77, 0, 2),
        };
        let mut bytes = vec![0; 14 + request.buffer_len()];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        frame.set_src_addr(EthernetAddress([2, 0, 0, 0, 1, n]));
        frame.set_dst_addr(EthernetAddress::BROADCAST);
        frame.set_ethertype(EthernetProtocol::Arp);
        request.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
        bytes
    }

    pub(crate) fn syn_from(source: &str) -> Vec<u8> {
        let source: Ipv4Addr = source.parse().expect("an address");
        let destination = Ipv4Addr::new(10, 77, 0, 2);
        let tcp = TcpRepr {
            src_port: 1000,
            dst_port: 3260,
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(1),
            ack_number: None,
            window_len: 100,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let ip = Ipv4Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: IpProtocol::Tcp,
            payload_len: tcp.buffer_len(),
            hop_limit: 64,
        };
        let mut bytes = vec![0; 14 + 20 + tcp.buffer_len()];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        frame.set_ethertype(EthernetProtocol::Ipv4);
        let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet, &ChecksumCapabilities::default());
        let (from, to) = (IpAddress::Ipv4(source), IpAddress::Ipv4(destination));
        let checksums = ChecksumCapabilities::default();
        tcp.emit(&mut TcpPacket::new_unchecked(packet.payload_mut()), &from, &to, &checksums);
        bytes
    }

    #[test]
    fn only_the_host_network_itself_is_heard_on_the_host_side() {
        let rules = rules(Side::HostOnly);
        assert!(rules.admit(&syn_from("10.77.0.1")).is_some());
        for forged in
            ["10.77.1.1", "8.8.8.8", "10.77.0.2", "127.0.0.1", "255.255.255.255", "224.0.0.1", "0.0.0.0"]
        {
            assert!(rules.admit(&syn_from(forged)).is_none(), "{forged}");
        }
    }

    #[test]
    fn a_routed_service_side_hears_everybody_but_the_host_network() {
        let rules = rules(Side::Service);
        assert!(rules.admit(&syn_from("8.8.8.8")).is_some());
        assert!(rules.admit(&syn_from("10.77.1.9")).is_none(), "that is the other network's");
    }

    #[test]
    fn answers_of_dhcp_servers_are_heard_by_who_asks_for_them() {
        let mut frame = syn_from("10.77.0.1");
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
        packet.set_next_header(IpProtocol::Udp);
        packet.set_dst_addr(Ipv4Addr::BROADCAST);
        let mut udp = UdpPacket::new_unchecked(packet.payload_mut());
        udp.set_dst_port(68);
        udp.set_len(20);
        let told = rules(Side::HostOnly);
        let asks = Rules { dhcp: true, ..told };
        assert!(told.admit(&frame).is_none() && asks.admit(&frame).is_some());
        assert!(
            Rules { own: None, ..told }.admit(&frame).is_none()
                && Rules { own: None, ..asks }.admit(&frame).is_some()
        );
    }

    #[test]
    fn what_went_to_all_stations_is_not_for_one_address() {
        let mut frame = syn_from("10.77.0.1");
        for all in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            frame[..6].copy_from_slice(&all);
            assert!(rules(Side::HostOnly).admit(&frame).is_none());
        }
    }

    #[test]
    fn a_network_of_two_addresses_has_no_broadcast_address() {
        let own: Cidr = "10.77.0.2/31".parse().expect("an address");
        let rules = Rules { own: Some(own), ..rules(Side::HostOnly) };
        assert!(rules.admit(&syn_from("10.77.0.3")).is_some(), "the other of the two");
        for nobody in ["10.77.0.0/24", "10.77.0.255/24", "10.77.0.3/30"] {
            assert!(nobody.parse::<Cidr>().is_err(), "{nobody}");
        }
    }

    #[test]
    fn fragments_options_and_other_protocols_are_not_heard() {
        let rules = rules(Side::HostOnly);
        let good = syn_from("10.77.0.1");
        for (position, value) in
            [(12, 0x86), (14, 0x46), (14, 0x44), (20, 0x20), (21, 1), (47, 0x03), (47, 0x06)]
        {
            let mut bad = good.clone();
            bad[position] = value;
            assert!(rules.admit(&bad).is_none(), "byte {position} = {value:#x}");
        }
        for length in 0..good.len() {
            assert!(rules.admit(&good[..length]).is_none(), "cut at {length}");
        }
    }

    #[test]
    fn arp_is_heard_from_neighbours_only() {
        let rules = rules(Side::HostOnly);
        let arp = |sender: [u8; 4]| {
            let mut frame = vec![0; 14 + 28];
            frame[12..14].copy_from_slice(&[8, 6]);
            frame[14 + 14..14 + 18].copy_from_slice(&sender);
            frame
        };
        assert!(rules.admit(&arp([10, 77, 0, 1])).is_some());
        for forged in [[10, 77, 0, 2], [10, 77, 1, 1], [0, 0, 0, 0], [10, 77, 0, 255]] {
            assert!(rules.admit(&arp(forged)).is_none(), "{forged:?}");
        }
    }
}
