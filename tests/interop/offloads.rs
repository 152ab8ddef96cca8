//! Whatever the NICs cut and merge, however long the frames and with frames lost: every byte is where it was written, no
//! session is disturbed. And nothing happens where a counter wraps.
//!
//! Each test boots the image with NICs of one kind; a session with much under way and its steady neighbour work on disks
//! of their own, and the file behind the first is compared at the end.

mod rings;
mod traffic;
mod wraps;

use crate::cells::lose;
use crate::fixture::{script, stage_alone};
use crate::hostile::Steady;
use crate::hostile::peer::Who;
use crate::inside::play;
use crate::service::{self, Inside, Place};
use image_launch::appliance::Kind;
use image_launch::disk::Server;
use image_launch::stage::Stage;
use rings::Rings;
use std::time::{Duration, Instant};
use traffic::Traffic;

/// What is played inside the networks.
pub(crate) const SCENARIOS: &[(&str, fn())] = &[
    ("carried", carried),
    ("carried_past_loss", carried_past_loss),
    ("rings_wrap", rings_wrap),
    ("numbers_wrap", wraps::numbers_wrap),
    ("portal_streams_wrap", wraps::portal_streams_wrap),
    ("service_streams_wrap", wraps::service_streams_wrap),
];

/// Bytes of each disk.
const SIZE: u64 = traffic::SIZE;
/// How long there is traffic, how long frames are lost at a time, and how many must be.
const CARRIED: Duration = Duration::from_millis(1500);
const LOST: Duration = Duration::from_secs(3);
const ENOUGH: u64 = 8;
/// The longest that an operation may take where nothing is lost, on a busy machine, and where something is.
const BOUND: Duration = Duration::from_secs(5);
const BOUND_PAST_LOSS: Duration = Duration::from_secs(20);
/// No wrap is waited for as long, on any machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Features of a NIC as QEMU names them, and their bits (virtio 1.2 sections 5.1.3 and 6).
const FEATURES: [(&str, u64); 5] = [
    ("csum", 1 << 0),
    ("guest_csum", 1 << 1),
    ("guest_tso4", 1 << 7),
    ("host_tso4", 1 << 11),
    ("event_idx", 1 << 29),
];

/// NICs of one kind.
struct Nics {
    mtu: u16,
    /// Memory of the machine, in MiB.
    memory: u32,
    /// What the device is told not to offer.
    without: &'static [&'static str],
    /// Of [`FEATURES`], what is in use.
    agreed: &'static [&'static str],
}

const ALL: &[&str] = &["csum", "guest_csum", "guest_tso4", "host_tso4", "event_idx"];
const NO_OFFLOADS: &[&str] = &["csum", "guest_csum", "guest_tso4", "host_tso4"];

impl Nics {
    const fn of(mtu: u16) -> Self {
        Self { mtu, memory: 64, without: &[], agreed: ALL }
    }

    const fn without_offloads(mtu: u16) -> Self {
        Self { without: NO_OFFLOADS, agreed: &["event_idx"], ..Self::of(mtu) }
    }

    /// Boots the image with them, plays the scenarios, and sees to it that all of it was as it was to be.
    fn play(&self, scenarios: &[&str]) {
        let mut script = script(Kind::default(), SIZE, Server::QemuNbd);
        script.disks = vec![(SIZE, Server::QemuNbd); 2];
        script.memory = self.memory;
        script.net.mtu = self.mtu;
        for feature in self.without {
            script.arguments.extend(["-global".into(), format!("virtio-net-pci.{feature}=off")]);
        }
        let (mut stage, _turn) = stage_alone(&script);
        self.must_be_agreed(&stage);
        for scenario in scenarios {
            play(&mut stage, scenario);
        }
        undisturbed(&stage);
    }

    /// Both NICs work as they were to, by what the driver says.
    fn must_be_agreed(&self, stage: &Stage) {
        let console = stage.appliance.console();
        let lines: Vec<_> = console.lines().filter(|line| line.contains("virtio-net ")).collect();
        assert_eq!(lines.len(), 2, "{console}");
        for line in lines {
            println!("{line}");
            let after = |word: &str| line.split(word).nth(1).and_then(|rest| rest.split([' ', ',']).next());
            let features = after("features 0x").and_then(|word| u64::from_str_radix(word, 16).ok()).unwrap();
            let agreed = FEATURES.iter().filter(|(_, bit)| features & bit != 0).map(|(name, _)| *name);
            assert_eq!(agreed.collect::<Vec<_>>(), self.agreed, "{line}");
            let mtu: u16 = after("mtu ").unwrap().parse().unwrap();
            // With too little memory for frames of that length the appliance asks for shorter ones.
            assert!(mtu == self.mtu || self.memory < 64 && mtu < self.mtu, "{line}");
        }
    }
}

/// No connection of the appliance, to whomever, was lost or in doubt, and no device was reset.
fn undisturbed(stage: &Stage) {
    let console = stage.appliance.console();
    let is_trouble = |line: &&str| {
        let is_setting = line.contains("WITHOUT AUTHENTICATION");
        (line.contains("WARN") || line.contains("ERROR") || line.contains("dropped")) && !is_setting
    };
    let trouble: Vec<_> = console.lines().filter(is_trouble).collect();
    assert!(trouble.is_empty(), "{trouble:#?}");
}

/// Mixed traffic on disk 0 for a time, beside a steady session on disk 1.
fn carried() {
    let steady = Steady::start(1);
    let mut traffic = Traffic::start(&Who::new("traffic", 0));
    traffic.work(CARRIED).unwrap();
    traffic.end(&Inside.file("disk0.raw"), BOUND).unwrap();
    steady.finish(BOUND);
}

/// The same with one of a hundred frames lost each way on both networks, until so many are that it proves something, and
/// nothing lost at the end.
fn carried_past_loss() {
    let steady = Steady::start(1);
    let mut traffic = Traffic::start(&Who::new("traffic", 0));
    // What the appliance has sent to the service and was lost there fills its memory for a second and longer: writes that find
    // no place meanwhile are told to try again, so that pings behind them get through.
    traffic.is_patient = true;
    let start = Instant::now();
    let mut lost = 0;
    // Long frames are few, and none goes while a connection waits to send again what was lost.
    while lost < ENOUGH {
        assert!(start.elapsed() < LIMIT, "only {lost} frames were lost");
        lost += std::thread::scope(|scope| {
            let lost = scope.spawn(|| lose(1, LOST));
            traffic.work(LOST).unwrap();
            lost.join().unwrap()
        });
    }
    println!("{lost} frames were lost in {:?}", start.elapsed());
    traffic.end(&Inside.file("disk0.raw"), BOUND_PAST_LOSS).unwrap();
    steady.finish(BOUND_PAST_LOSS);
}

/// Traffic until each of the four rings has had more than 65,536 frames, which is where their indices wrap.
fn rings_wrap() {
    let steady = Steady::start(1);
    let mut traffic = Traffic::start(&Who::new("traffic", 0));
    let start = Instant::now();
    while !Rings::now().have_wrapped() {
        assert!(start.elapsed() < LIMIT, "{:?}", Rings::now());
        for is_write in [false, true] {
            traffic.stream(SIZE, is_write, 512).unwrap();
        }
    }
    println!("{:?} after {:?}", Rings::now(), start.elapsed());
    // Both sides must have slept and been woken beyond the wrap too.
    traffic.work(Duration::from_millis(500)).unwrap();
    traffic.end(&Inside.file("disk0.raw"), BOUND).unwrap();
    steady.finish(BOUND);
}

#[test]
fn frames_are_cut_and_merged_by_the_nics() {
    Nics::of(1500).play(&["carried_past_loss"]);
}

#[test]
fn nothing_is_cut_merged_or_summed_by_the_nics() {
    Nics::without_offloads(1500).play(&["carried_past_loss"]);
}

#[test]
fn frames_are_merged_and_not_cut() {
    let agreed = &["csum", "guest_csum", "guest_tso4", "event_idx"];
    Nics { without: &["host_tso4"], agreed, ..Nics::of(1500) }.play(&["carried"]);
}

#[test]
fn frames_are_cut_and_not_merged() {
    let agreed = &["csum", "guest_csum", "host_tso4", "event_idx"];
    Nics { without: &["guest_tso4", "mrg_rxbuf"], agreed, ..Nics::of(1500) }.play(&["carried"]);
}

#[test]
fn only_what_is_received_is_summed_by_the_nics() {
    let agreed = &["guest_csum", "guest_tso4"];
    Nics { without: &["csum", "event_idx"], agreed, ..Nics::of(1500) }.play(&["carried"]);
}

#[test]
fn only_what_is_sent_is_summed_by_the_nics() {
    let agreed = &["csum", "host_tso4", "event_idx"];
    Nics { without: &["guest_csum"], agreed, ..Nics::of(9000) }.play(&["carried"]);
}

#[test]
fn long_frames_are_carried_with_offloads() {
    Nics::of(9000).play(&["carried_past_loss"]);
}

#[test]
fn long_frames_are_carried_without_offloads() {
    Nics::without_offloads(9000).play(&["carried"]);
}

#[test]
fn the_longest_frames_are_carried_with_offloads() {
    Nics::of(65521).play(&["carried"]);
}

#[test]
fn the_longest_frames_are_carried_without_offloads() {
    Nics::without_offloads(65521).play(&["carried_past_loss"]);
}

#[test]
fn a_small_machine_on_networks_with_the_longest_frames_gets_shorter_ones() {
    Nics { memory: 9, ..Nics::of(65521) }.play(&["carried"]);
}

#[test]
fn rings_wrap_at_sixteen_bits_with_event_indices() {
    Nics::without_offloads(1500).play(&["rings_wrap", "numbers_wrap"]);
}

#[test]
fn rings_wrap_at_sixteen_bits_without_event_indices() {
    let without = &["csum", "guest_csum", "guest_tso4", "host_tso4", "event_idx"];
    Nics { without, agreed: &[], ..Nics::of(1500) }.play(&["rings_wrap"]);
}

#[test]
fn the_numbers_of_all_four_streams_of_a_read_and_a_write_wrap() {
    let mut script = script(Kind::default(), SIZE, Server::QemuNbd);
    script.disks.clear();
    script.memory = 256;
    for n in 0..wraps::SERVICES {
        service::expose(&mut script, n, &[]);
    }
    let (mut stage, _turn) = stage_alone(&script);
    play(&mut stage, "portal_streams_wrap");
    play(&mut stage, "service_streams_wrap");
}
