//! Peers that do not keep to the protocol: they lose their own connection, everybody else goes on.

use crate::fixture::{script, stage, targets};
use image_launch::disk::Server;
use image_launch::initiator;
use image_launch::process::{self, Process};
use image_launch::stage::Stage;
use std::fmt::Write as _;
use std::net::SocketAddrV4;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const SIZE: u64 = 8 << 20;

#[test]
fn garbage_on_every_port_disturbs_nobody() {
    for kind in targets() {
        let (stage, _turn) = stage(&script(kind, SIZE, Server::QemuNbd));
        let reader = steady_reader(&stage);
        for (n, bytes) in garbage().iter().enumerate() {
            for port in [stage.net.portal(), stage.net.api()] {
                say(&stage, port, bytes, &format!("{n}-{}", port.port()));
            }
        }
        ended_well(reader);
        let unit = stage.unit(0);
        initiator::qemu_io(&stage.net, &unit, &["write -P 9 0 1M", "flush", "read -P 9 0 1M"]).unwrap();
        assert!(!stage.appliance.console().contains("panicked"), "{kind}: {}", stage.appliance.console());
    }
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    for kind in targets() {
        let (stage, _turn) = stage(&script(kind, SIZE, Server::QemuNbd));
        let mut silent = Vec::new();
        for n in 0..40 {
            let mut socat = stage.net.command("socat");
            socat.args(["-u", &format!("TCP:{}", stage.net.portal()), "STDOUT"]);
            silent.push(Process::start("socat", socat, &stage.scratch.file(&format!("silent-{n}"))).unwrap());
        }
        std::thread::sleep(Duration::from_secs(1));
        let capacity = initiator::capacity(&stage.net, &stage.unit(0)).unwrap();
        assert_eq!(capacity.bytes(), SIZE, "{kind}");
    }
}

/// An honest initiator that reads all through the test.
fn steady_reader(stage: &Stage) -> Process {
    let mut io = stage.net.command("qemu-io");
    io.args(["-f", "raw"]);
    for n in 0..100 {
        let offset = n * 64;
        io.args([
            "-c",
            &format!("write -P {} {offset}k 64k", n + 1),
            "-c",
            &format!("read -P {} {offset}k 64k", n + 1),
        ]);
        io.args(["-c", "sleep 20"]);
    }
    io.arg(stage.unit(0).url());
    Process::start("qemu-io", io, &stage.scratch.file("reader.log")).unwrap()
}

fn ended_well(mut reader: Process) {
    let status = reader.wait(LIMIT).unwrap();
    let output = reader.output();
    assert!(status.success() && !output.contains("failed"), "{}", reader.tail());
    assert_eq!(output.matches("read 65536/65536").count(), 100, "{}", reader.tail());
}

/// Sends bytes and closes; whatever comes back is not our business here.
fn say(stage: &Stage, to: SocketAddrV4, bytes: &[u8], name: &str) {
    let file = stage.scratch.file(&format!("garbage-{name}"));
    std::fs::write(&file, bytes).unwrap();
    let mut socat = stage.net.command("socat");
    socat.args([
        "-t",
        "0.2",
        "-T",
        "2",
        &format!("OPEN:{},rdonly!!STDOUT", file.display()),
        &format!("TCP:{to}"),
    ]);
    // A reset by the other side is one of the proper answers.
    process::run(socat, LIMIT).unwrap();
}

fn garbage() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![
        vec![0; 48],
        vec![0xff; 48],
        vec![0xff; 100_000],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"POST /v1/instances HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
        b"POST /v1/instances HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        b"GET /v1 HTTP/1.1\r\nhost: a\r\n".to_vec(),
        nested_json(),
        long_header(),
        login_header(0x00ff_ffff),
        login_header(8192),
    ];
    // Random bytes behind a login's first byte, and behind none; the same on every run.
    let mut state = 0x1234_5678_u32;
    let mut random = |first: u8, length: usize| {
        let mut bytes = vec![first];
        bytes.extend((1..length).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        }));
        bytes
    };
    for length in [48, 100, 1000, 9000] {
        all.push(random(0x43, length));
        all.push(random(0x01, length));
    }
    all
}

/// A Login Request that announces `length` bytes of text and sends none.
fn login_header(length: u32) -> Vec<u8> {
    let mut bytes = vec![0; 48];
    bytes[0] = 0x43;
    bytes[1] = 0x87;
    bytes[5..8].copy_from_slice(&length.to_be_bytes()[1..]);
    bytes
}

fn nested_json() -> Vec<u8> {
    let body = "[".repeat(60_000);
    let length = body.len();
    format!("POST /v1/instances HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn long_header() -> Vec<u8> {
    let mut text = String::from("GET /v1 HTTP/1.1\r\nhost: a\r\n");
    for n in 0..2000 {
        let _ = write!(text, "x-{n}: {}\r\n", "y".repeat(40));
    }
    text.into_bytes()
}
