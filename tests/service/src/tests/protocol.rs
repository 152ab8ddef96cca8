//! What a client may say, and what it may not.

use super::client::Client;
use super::{SIZE, Service};
use crate::testing::Folder;
use std::io::{Read, Write};
use std::process::Command;
use storage_nbd::wire::{self, command, command_flag, error, option, option_reply};

#[test]
fn what_the_export_does_not_do_is_an_error_and_not_the_end() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |options| options.block_sizes = [4096, 4096, 1 << 20]);
    let mut client = Client::connect(&service, "").unwrap();
    for (code, flags, offset, length, expected) in [
        (command::READ, 0, SIZE, 4096, error::EINVAL),
        (command::READ, 0, u64::MAX - 4095, 4096, error::EINVAL),
        (command::READ, 0, 512, 4096, error::EINVAL),
        (command::READ, 0, 0, 0, error::EINVAL),
        (command::READ, command_flag::NO_HOLE, 0, 4096, error::EINVAL),
        (command::FLUSH, 0, 0, 4096, error::EINVAL),
        (command::WRITE_ZEROES, 0, SIZE, 4096, error::ENOSPC),
        (99, 0, 0, 4096, error::EINVAL),
    ] {
        assert_eq!(
            client.any(code, flags, (offset, length)),
            Some(Err(expected)),
            "{code} {offset}+{length}"
        );
    }
    assert_eq!(client.read(0), Some(Ok(0)));
    // A payload of which there is no end in sight is.
    client.begin(command::WRITE, 0, 0, 2 << 20, &[]);
    assert_eq!(client.reply(), None);
    assert_eq!(service.figure("broken"), "1");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |options| options.name = "disk".into());
    let mut client = Client::dial(&service);
    assert_eq!(client.option(77, b"what"), Err(option_reply::ERR_UNSUP));
    assert_eq!(client.option(option::GO, b"\0\0\0\x04disc\0\0"), Err(option_reply::ERR_UNKNOWN));
    assert_eq!(client.option(option::GO, b"\0\0\0\x09disk\0\0"), Err(option_reply::ERR_INVALID));
    assert_eq!(client.option(option::GO, b"\0"), Err(option_reply::ERR_INVALID));
    assert_eq!(client.option(option::STRUCTURED_REPLY, b"x"), Err(option_reply::ERR_INVALID));
    assert_eq!(
        client.option(option::SET_META_CONTEXT, b"\0\0\0\0\0\0\0\x02\0\0\0\0"),
        Err(option_reply::ERR_INVALID)
    );
    let listed = client.option(option::LIST, &[]).unwrap();
    assert_eq!(listed[0][4..], *b"disk");
    client.go();
    assert_eq!(client.size, SIZE);
    // Noise instead of an option.
    let mut noisy = Client::dial(&service);
    noisy.stream.write_all(&[0xa5; 64]).unwrap();
    assert_eq!(noisy.stream.read(&mut [0; 16]).unwrap_or(0), 0);
}

#[test]
fn extended_headers_carry_long_ranges_and_long_extents() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |options| options.size = Some(16 << 30));
    let mut client = Client::dial(&service);
    client.option(option::EXTENDED_HEADERS, &[]).unwrap();
    assert_eq!(client.option(option::STRUCTURED_REPLY, &[]), Err(option_reply::ERR_EXT_HEADER_REQD));
    client.select(&["base:allocation", "x-corbel:incarnation:"]).unwrap();
    client.go();
    let mut run = |code: u16, length: u64| {
        let request = wire::ExtendedRequest { flags: 0, command: code, cookie: 7, offset: 4096, length };
        client.stream.write_all(&request.to_bytes()).unwrap();
        let mut payloads = Vec::new();
        loop {
            let mut header = [0; 32];
            client.stream.read_exact(&mut header).unwrap();
            assert_eq!(header[8..24], [&7_u64.to_be_bytes()[..], &4096_u64.to_be_bytes()].concat());
            let mut payload = vec![0; u64::from_be_bytes(header[24..32].try_into().unwrap()) as usize];
            client.stream.read_exact(&mut payload).unwrap();
            payloads.push(payload);
            if header[5] == 1 {
                return payloads;
            }
        }
    };
    assert_eq!(run(command::WRITE_ZEROES, 8 << 30), [Vec::<u8>::new()]);
    let status = run(command::BLOCK_STATUS, 8 << 30);
    assert_eq!(status.len(), 2, "one chunk a context");
    assert_eq!(status[0][8..16], (8_u64 << 30).to_be_bytes());
    assert_eq!(status[0][16..24], 3_u64.to_be_bytes());
}

#[test]
fn real_clients_find_their_data_again() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |_| {});
    let uri = format!("nbd://{}", service.address);
    let mut qemu = Command::new("qemu-io");
    for words in
        ["write -P 7 0 64k", "write -f -P 8 64k 4k", "flush", "read -P 7 0 64k", "read -P 8 64k 4k", "map"]
    {
        qemu.args(["-c", words]);
    }
    match qemu.args(["-f", "raw", &uri]).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && !said.contains("failed"), "{said}");
        }
        Err(_) => println!("qemu-io is not installed: skipped"),
    }
    match Command::new("nbdinfo").arg(&uri).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(
                said.contains("can_multi_conn: true") && said.contains("x-corbel:incarnation:"),
                "{said}"
            );
        }
        Err(_) => println!("nbdinfo is not installed: skipped"),
    }
}
