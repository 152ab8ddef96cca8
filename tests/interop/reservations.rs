//! Persistent reservations that outlive the appliance: registered and reserved with APTPL, they are there, and enforced,
//! after a reset of the machine and after QEMU, or the process, was killed; and refused where nothing could keep them.

use crate::fixture::{Turn, script, stage};
use crate::hostile::body;
use crate::hostile::peer::{Peer, Who};
use crate::hostile::session::{Answer, BLOCK, GOOD, Session, lun, read10, write10};
use crate::inside::play;
use image_launch::appliance::{Kind, READY, REFUSED};
use image_launch::disk::Server;
use image_launch::machine::Board;
use image_launch::scratch::Scratch;
use image_launch::stage::Stage;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

const SIZE: u64 = 16 << 20;
const CONFLICT: u8 = 0x18;
/// Exclusive Access, Registrants Only.
const KIND: u8 = 6;
const APTPL: u8 = 0x01;
const SPEC_I_PT: u8 = 0x08;
/// The ports that are registered, with their keys. The last is so by another's word, and logs in for the first time after
/// the restart.
const KEYS: [(&str, u64); 3] = [("first", 0xa1), ("second", 0xb2), ("later", 0xa1)];

/// What can be played inside.
pub(crate) const SCENARIOS: &[(&str, fn())] = &[
    ("reservations_are_made", make),
    ("reservations_are_there", find),
    ("reservations_are_left", leave),
    ("reservations_are_gone", miss),
    ("reservations_are_refused", be_refused),
];

fn session(name: &str) -> Session {
    Session::open_with(Peer::connect(), &Who::new(name, 0), &[]).unwrap()
}

fn change(session: &mut Session, action: u8, kind: u8, list: &[u8]) -> Answer {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5f, action, kind, u8::try_from(list.len()).unwrap());
    session.run(lun(0), &cdb, list, 0).unwrap()
}

fn list(key: u64, action_key: u64, flags: u8) -> Vec<u8> {
    let mut list = [key.to_be_bytes(), action_key.to_be_bytes(), [0; 8]].concat();
    list[20] = flags;
    list
}

fn ask(session: &mut Session, action: u8) -> Vec<u8> {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[7]) = (0x5e, action, 4);
    session.run(lun(0), &cdb, &[], 1024).unwrap().good().unwrap().data
}

/// PTPL_C and PTPL_A.
fn capabilities(session: &mut Session) -> (bool, bool) {
    let data = ask(session, 2);
    (data[2] & 1 != 0, data[3] & 1 != 0)
}

/// The TransportID of a port (SPC-4 section 7.6.4.6).
fn transport_id(name: &str) -> Vec<u8> {
    let who = Who::new(name, 0);
    let isid: String = who.isid.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut name = format!("{},i,0x{isid}\0", who.initiator).into_bytes();
    name.resize(name.len().next_multiple_of(4), 0);
    [vec![0x45, 0], u16::try_from(name.len()).unwrap().to_be_bytes().to_vec(), name].concat()
}

fn make() {
    let (mut first, mut second) = (session("first"), session("second"));
    assert_eq!(capabilities(&mut first), (true, false));
    let later = transport_id("later");
    let mut named = list(0, 0xa1, APTPL | SPEC_I_PT);
    named.extend(u32::try_from(later.len()).unwrap().to_be_bytes());
    named.extend(later);
    change(&mut first, 0, 0, &named).good().unwrap();
    change(&mut second, 6, 0, &list(0, 0xb2, APTPL)).good().unwrap();
    change(&mut first, 1, KIND, &list(0xa1, 0, 0)).good().unwrap();
    assert_eq!(capabilities(&mut first), (true, true));
    find();
}

fn find() {
    let mut stranger = session("stranger");
    assert_eq!(
        stranger.run(lun(0), &read10(0, 1), &[], 512).unwrap().status,
        CONFLICT,
        "who is not registered"
    );
    assert_eq!(stranger.run(lun(0), &write10(0, 1), &[0; BLOCK], 0).unwrap().status, CONFLICT);
    assert_eq!(
        change(&mut stranger, 1, KIND, &list(0xa1, 0, 0)).status,
        CONFLICT,
        "a key is nobody's by itself"
    );
    assert_eq!(capabilities(&mut stranger), (true, true));
    let held = ask(&mut stranger, 1);
    assert_eq!((&held[8..16], held[21]), (&0xa1_u64.to_be_bytes()[..], KIND));
    let full = ask(&mut stranger, 3);
    let (mut rest, mut found) = (&full[8..], BTreeMap::new());
    while !rest.is_empty() {
        let length = usize::try_from(u32::from_be_bytes(rest[20..24].try_into().unwrap())).unwrap();
        let holds = rest[12] & 1 != 0;
        found.insert(rest[24..24 + length].to_vec(), (rest[..8].to_vec(), holds));
        rest = &rest[24 + length..];
    }
    let expected: BTreeMap<_, _> = KEYS
        .iter()
        .map(|(name, key)| (transport_id(name), (key.to_be_bytes().to_vec(), *name == "first")))
        .collect();
    assert_eq!(found, expected, "every port with its key, and who holds");
    for (name, _) in KEYS {
        let mut registrant = session(name);
        assert_eq!(registrant.run(lun(0), &write10(0, 1), &[7; BLOCK], 0).unwrap().status, GOOD, "{name}");
        assert_eq!(registrant.run(lun(0), &read10(0, 1), &[], 512).unwrap().status, GOOD, "{name}");
    }
}

/// The last registration decides: nothing is to outlive the next restart.
fn leave() {
    let mut second = session("second");
    change(&mut second, 0, 0, &list(0xb2, 0xb3, 0)).good().unwrap();
    assert_eq!(capabilities(&mut second), (true, false));
    let mut stranger = session("stranger");
    assert_eq!(stranger.run(lun(0), &read10(0, 1), &[], 512).unwrap().status, CONFLICT, "it still holds");
}

fn miss() {
    let mut stranger = session("stranger");
    assert_eq!(capabilities(&mut stranger), (true, false));
    assert_eq!(ask(&mut stranger, 0), [0; 8], "nobody is registered");
    stranger.run(lun(0), &write10(0, 1), &[0; BLOCK], 0).unwrap().good().unwrap();
}

fn be_refused() {
    let mut first = session("first");
    assert_eq!(capabilities(&mut first), (false, false));
    for action in [0, 6] {
        let refused = change(&mut first, action, 0, &list(0, 0xa1, APTPL));
        assert_eq!(refused.sense, Some((5, 0x26, 0)), "it could not be kept: {refused:?}");
    }
    assert_eq!(ask(&mut first, 0), [0; 8]);
    change(&mut first, 0, 0, &list(0, 0xa1, 0)).good().unwrap();
}

fn outlive(kind: Kind) {
    let mut script = script(kind, SIZE, Server::QemuNbd);
    script.state = true;
    let (mut stage, _turn) = stage(&script);
    play(&mut stage, "reservations_are_made");
    stage.reboot().unwrap();
    play(&mut stage, "reservations_are_there");
    stage.crash().unwrap();
    play(&mut stage, "reservations_are_there");
    play(&mut stage, "reservations_are_left");
    stage.crash().unwrap();
    play(&mut stage, "reservations_are_gone");
}

#[test]
fn reservations_outlive_the_appliance_and_keep_strangers_out_from_the_first_command() {
    outlive(body());
}

#[test]
fn the_image_keeps_them_on_a_virtio_disk() {
    if std::env::var_os("CORBEL_TARGET").is_some() {
        return; // the test above has run on that body
    }
    // On PCI and at memory-mapped registers.
    for board in [Board::Q35, Board::Microvm] {
        outlive(Kind::Image(board));
    }
}

/// Who was told of a state disk and cannot have it does not serve, and says why.
fn refuse(kind: Kind, disk: &str, why: &str) {
    let mut script = script(kind, SIZE, Server::QemuNbd);
    script.config = vec![("state.disk".into(), disk.into())];
    let _turn = Turn::take();
    let mut stage = Stage::set(&script).unwrap();
    let line = stage.appliance.wait_for(REFUSED, Duration::from_secs(60)).unwrap();
    assert!(line.contains("state.disk: ") && line.contains(why), "{line}");
    assert!(!stage.appliance.console().contains(READY));
}

#[test]
fn an_appliance_without_the_state_disk_it_was_told_of_does_not_serve() {
    let folder = Scratch::new().unwrap();
    let disk = folder.file("foreign.raw");
    let mut bytes = vec![0; 4 << 20];
    bytes[1 << 20] = 1;
    fs::write(&disk, &bytes).unwrap();
    let path = disk.display().to_string();
    refuse(Kind::Hosted, &path, "something else is on it");
    assert_eq!(fs::read(&disk).unwrap(), bytes, "it is left as it is");
    refuse(Kind::Hosted, &format!("{path}.missing"), "No such file");
    refuse(Kind::default(), "nobody", "no virtio disk has the serial number");
}

#[test]
fn without_a_state_disk_nothing_is_promised() {
    let (mut stage, _turn) = stage(&script(body(), SIZE, Server::QemuNbd));
    play(&mut stage, "reservations_are_refused");
}
