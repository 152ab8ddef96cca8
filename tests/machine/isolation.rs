//! The two networks: whatever is sent to the appliance on one is never seen on the other.
//!
//! Both TAP devices are recorded while marked frames of every kind go to both sides, also frames that name the other
//! side, and while the appliance does its work across both.

mod frame;
mod recording;

use crate::fixture::{script, stage, targets};
use frame::Frame;
use image_launch::api;
use image_launch::disk::Server;
use image_launch::initiator;
use image_launch::net::{API, ISCSI, Wire};
use image_launch::process;
use image_launch::stage::Stage;
use recording::Recording;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn no_frame_of_one_network_reaches_the_other() {
    for kind in targets() {
        let (stage, _turn) = stage(&script(kind, 8 << 20, Server::QemuNbd));
        work(&stage);
        let macs = Macs { host: mac(&stage, Wire::Host), service: mac(&stage, Wire::Service) };
        let mut recordings =
            [Wire::Host, Wire::Service].map(|wire| Recording::start(&stage.net, &stage.scratch, wire));
        let mut sent = Vec::new();
        for wire in [Wire::Host, Wire::Service] {
            for (n, frame) in frames(wire, &macs).into_iter().enumerate() {
                let marker = format!("<corbel {} {n:02}>", wire.name());
                let file = stage.scratch.file(&format!("frame-{}-{n:02}", wire.name()));
                std::fs::write(&file, frame.marked(&marker)).unwrap();
                sent.push((wire, marker));
            }
            send(&stage, wire);
        }
        work(&stage);
        let [host, service] = &mut recordings;
        let (host, service) = (host.finish(), service.finish());
        for (wire, marker) in &sent {
            let (own, other) = if *wire == Wire::Host { (&host, &service) } else { (&service, &host) };
            assert!(own.carries(marker.as_bytes()), "{kind}: {marker} was not sent: the test is blind");
            assert!(!other.carries(marker.as_bytes()), "{kind}: {marker} crossed over");
        }
        for (own, wire, other) in [(&host, Wire::Host, Wire::Service), (&service, Wire::Service, Wire::Host)]
        {
            let (mac, foreign_mac) = (macs.on(wire), macs.on(other));
            assert!(own.frames_from(mac) > 10, "{kind}: the appliance was silent on {}", wire.name());
            assert_eq!(
                own.frames_from(foreign_mac),
                0,
                "{kind}: a frame of the other NIC on {}",
                wire.name()
            );
            let foreign = own.claims_of(other.appliance(), mac);
            assert_eq!(
                foreign,
                0,
                "{kind}: the appliance used its address on the other network on {}",
                wire.name()
            );
            let open = own.opened(if wire == Wire::Host { API } else { ISCSI }, mac);
            assert_eq!(open, 0, "{kind}: a port of the other network is open on {}", wire.name());
        }
    }
}

/// The appliance's addresses on both wires.
struct Macs {
    host: String,
    service: String,
}

impl Macs {
    fn on(&self, wire: Wire) -> &str {
        match wire {
            Wire::Host => &self.host,
            Wire::Service => &self.service,
        }
    }
}

/// The appliance's address on `wire`, as this side has learnt it.
fn mac(stage: &Stage, wire: Wire) -> String {
    let mut ip = stage.net.command("ip");
    ip.args(["neighbour", "show", &wire.appliance().to_string(), "dev", wire.name()]);
    let text = process::check(ip, LIMIT).unwrap();
    let mut words = text.split_whitespace().skip_while(|word| *word != "lladdr");
    words
        .nth(1)
        .unwrap_or_else(|| panic!("the appliance was not heard on {}: {text}", wire.name()))
        .to_string()
}

/// Frames of many kinds for the appliance on `wire`, all of which ask to be carried or answered across.
fn frames(wire: Wire, macs: &Macs) -> Vec<Frame> {
    let other = if wire == Wire::Host { Wire::Service } else { Wire::Host };
    let (own, everybody) = (macs.on(wire), "ff:ff:ff:ff:ff:ff");
    let foreign_port = if wire == Wire::Host { API } else { ISCSI };
    let mut frames = vec![
        Frame::local_experiment(everybody),
        Frame::local_experiment(own),
        Frame::local_experiment(macs.on(other)),
        // Not in this side's own name: the answers to its connections would follow the frame's sender.
        Frame::arp_request(everybody, wire.address(77), wire.appliance()),
        Frame::arp_request(everybody, wire.address(77), other.appliance()),
        Frame::arp_request(everybody, other.here(), other.appliance()),
        Frame::ipv6_to_all_nodes(),
    ];
    for target in [
        wire.appliance(),
        other.appliance(),
        other.here(),
        wire.address(255),
        other.address(255),
        [255; 4].into(),
        [224, 0, 0, 1].into(),
    ] {
        for mac in [own, everybody] {
            frames.push(Frame::ping(mac, wire.here(), target));
            frames.push(Frame::udp(mac, wire.here(), target, 9));
            // As if it came from the other network already.
            frames.push(Frame::udp(mac, other.here(), target, 67));
        }
    }
    for target in [wire.appliance(), other.appliance()] {
        frames.push(Frame::syn(own, wire.here(), target, foreign_port));
    }
    frames
}

/// Puts the frames for `wire` on it, towards the appliance.
fn send(stage: &Stage, wire: Wire) {
    let name = wire.name();
    let mut sh = stage.net.command("sh");
    let each = "set -e; for frame in frame-$0-*; do socat -u -t 0 OPEN:$frame INTERFACE:$0; done";
    sh.args(["-c", each, name]).current_dir(stage.scratch.path());
    process::check(sh, LIMIT).unwrap();
}

/// What the appliance is for: an initiator on one side, its disk and the provider on the other.
fn work(stage: &Stage) {
    let commands = ["write -P 0x5a 0 4M", "read -P 0x5a 0 4M", "flush"];
    initiator::qemu_io(&stage.net, &stage.unit(0), &commands).unwrap();
    assert_eq!(api::ask(&stage.net, "GET", "/v1", None).unwrap().status, 200);
}
