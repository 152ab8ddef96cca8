//! CDBs that are wrong, and units that are not there (SAM-5 section 4.7, SPC-4, SBC-3).

use crate::case::{Answer, Case, Place, Said, Sense, State, Transferred, case};
use crate::session::SESSION;
use storage_iscsi::wire::ScsiCommand;

const ILLEGAL_REQUEST: u8 = 5;

pub(crate) const fn illegal(code: u16) -> Sense {
    Sense { key: ILLEGAL_REQUEST, code, specific: [0; 3], transferred: Transferred::Nothing }
}

/// INVALID FIELD IN CDB, at that byte and the most significant bit of the field, if it is not the whole byte.
pub(crate) const fn in_cdb(byte: u8, bit: Option<u8>) -> Answer {
    let first = match bit {
        Some(bit) => 0xc8 | bit,
        None => 0xc0,
    };
    Answer::Condition(Sense { specific: [first, 0, byte], ..illegal(0x2400) })
}

const INVALID_OPERATION_CODE: Answer = Answer::Condition(illegal(0x2000));
const LBA_OUT_OF_RANGE: Answer = Answer::Condition(illegal(0x2100));
const LOGICAL_UNIT_NOT_SUPPORTED: Answer = Answer::Condition(illegal(0x2500));

pub(crate) fn cases(place: &Place) -> Vec<Case> {
    let mut cases = unknown();
    cases.extend(reserved_bits());
    cases.extend(not_offered());
    cases.extend(ranges(place));
    cases.extend(units());
    cases
}

/// A command of the unit with the LUN field zero: `out` bytes of data with it, or room for `room`.
pub(crate) fn command(cdb: &[u8], out: &[u8], room: u32) -> Said {
    let mut whole = [0; 16];
    whole[..cdb.len()].copy_from_slice(cdb);
    let length = if out.is_empty() { room } else { out.len() as u32 };
    let command = ScsiCommand {
        last: true,
        read: out.is_empty() && room > 0,
        write: !out.is_empty(),
        attribute: 1,
        initiator_task_tag: 0x70,
        expected_data_transfer_length: length,
        cdb: whole,
        ..ScsiCommand::default()
    };
    Said::new(command.header(), out)
}

/// Operation codes that this target does not have, with room for an answer and without: each of the groups that have none,
/// and commands that others answer with memory of theirs or go wrong in.
fn unknown() -> Vec<Case> {
    let named: &[(&str, &str, &[u8])] = &[
        ("L27", "FORMAT UNIT", &[0x04, 0, 0, 0, 0, 0]),
        ("L27", "REASSIGN BLOCKS", &[0x07, 0, 0, 0, 0, 0]),
        ("CVE-2024-8178", "WRITE BUFFER", &[0x3b, 2, 0, 0, 0, 0, 0, 0, 64, 0]),
        ("CVE-2024-8178", "READ BUFFER", &[0x3c, 2, 0, 0, 0, 0, 0, 0, 64, 0]),
        ("L27", "READ LONG (10)", &[0x3e, 0, 0, 0, 0, 0, 0, 2, 0, 0]),
        ("L27", "WRITE LONG (10)", &[0x3f, 0, 0, 0, 0, 0, 0, 2, 0, 0]),
        ("L27", "SANITIZE", &[0x48, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("L27", "XDREAD (10)", &[0x52, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
        ("L27", "XPWRITE (10)", &[0x51, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
        ("L27", "XDWRITEREAD (10)", &[0x53, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
        ("L27", "ATA PASS-THROUGH (16)", &[0x85, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xec, 0]),
        ("L27", "ATA PASS-THROUGH (12)", &[0xa1, 8, 0, 0, 0, 0, 0, 0, 0, 0xec, 0, 0]),
        ("L27", "SECURITY PROTOCOL IN", &[0xa2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]),
        ("L27", "SECURITY PROTOCOL OUT", &[0xb5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("L27", "MOVE MEDIUM", &[0xa5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let mut cases = Vec::new();
    for (source, name, cdb) in named {
        for room in [0, 512] {
            let name = format!("{name}, with room for {room} bytes");
            cases.push(case(source, name, SESSION, command(cdb, &[], room), INVALID_OPERATION_CODE));
        }
    }
    for code in [0x60, 0x70, 0x7e, 0x7f, 0xc0, 0xdf, 0xe0, 0xff] {
        let name = format!("operation code {code:#04x} of a group without commands");
        cases.push(case("L27", name, SESSION, command(&[code], &[], 0), INVALID_OPERATION_CODE));
    }
    cases
}

/// A command, and single bits of its CDB that are reserved, obsolete or of something that is not to be had. The bit that
/// the sense data names is the most significant one of the field.
type Reserved = (&'static str, &'static [u8], &'static [(u8, u8, u8)]);

/// The CONTROL byte has NACA in bit 2 and obsolete bits 0 and 1, and is the last of the CDB.
const RESERVED: &[Reserved] = &[
    ("TEST UNIT READY", &[0x00, 0, 0, 0, 0, 0], &[(3, 0x01, 0), (4, 0x80, 7), (5, 0x04, 2), (5, 0x01, 0)]),
    ("REQUEST SENSE", &[0x03, 0, 0, 0, 18, 0], &[(2, 0x01, 0), (3, 0x80, 7), (5, 0x04, 2)]),
    ("READ (6)", &[0x08, 0, 0, 0, 1, 0], &[(1, 0x80, 7), (5, 0x04, 2)]),
    ("WRITE (6)", &[0x0a, 0, 0, 0, 1, 0], &[(1, 0x80, 7), (5, 0x04, 2)]),
    ("INQUIRY", &[0x12, 0, 0, 0, 36, 0], &[(1, 0x02, 1), (5, 0x04, 2)]),
    ("RELEASE (6)", &[0x17, 0, 0, 0, 0, 0], &[(2, 0x01, 0), (3, 0x01, 0), (5, 0x04, 2)]),
    (
        "READ CAPACITY (10)",
        &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[(2, 0x80, 7), (5, 0x01, 0), (8, 0x01, 0), (9, 0x04, 2)],
    ),
    (
        "READ (10)",
        &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[(1, 0x20, 7), (1, 0x80, 7), (1, 0x04, 2), (1, 0x01, 0), (9, 0x04, 2)],
    ),
    (
        "WRITE (10)",
        &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[(1, 0x20, 7), (1, 0x04, 2), (1, 0x01, 0), (9, 0x04, 2)],
    ),
    (
        "WRITE AND VERIFY (10)",
        &[0x2e, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[(1, 0x20, 7), (1, 0x08, 3), (9, 0x04, 2)],
    ),
    ("VERIFY (10)", &[0x2f, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[(1, 0x40, 7), (1, 0x08, 3), (9, 0x04, 2)]),
    ("PRE-FETCH (10)", &[0x34, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[(1, 0x01, 0), (9, 0x04, 2)]),
    ("SYNCHRONIZE CACHE (10)", &[0x35, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[(1, 0x01, 0), (9, 0x04, 2)]),
    (
        "WRITE SAME (10)",
        &[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[(1, 0x20, 7), (1, 0x10, 4), (1, 0x04, 2), (1, 0x02, 1), (9, 0x04, 2)],
    ),
    ("UNMAP", &[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[(1, 0x01, 0), (2, 0x80, 7), (5, 0x01, 0), (9, 0x04, 2)]),
    (
        "PERSISTENT RESERVE IN",
        &[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0],
        &[(2, 0x01, 0), (6, 0x80, 7), (9, 0x04, 2)],
    ),
    (
        "READ (16)",
        &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        &[(1, 0x20, 7), (1, 0x04, 2), (15, 0x04, 2)],
    ),
    (
        "COMPARE AND WRITE",
        &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        &[(1, 0x20, 7), (10, 0x01, 0), (12, 0x80, 7), (15, 0x04, 2)],
    ),
    (
        "WRITE (16)",
        &[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        &[(1, 0x20, 7), (1, 0x04, 2), (15, 0x04, 2)],
    ),
    ("ORWRITE (16)", &[0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[(1, 0x20, 7), (15, 0x04, 2)]),
    (
        "WRITE AND VERIFY (16)",
        &[0x8e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        &[(1, 0x20, 7), (1, 0x08, 3), (15, 0x04, 2)],
    ),
    (
        "VERIFY (16)",
        &[0x8f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        &[(1, 0x80, 7), (1, 0x08, 3), (15, 0x04, 2)],
    ),
    ("PRE-FETCH (16)", &[0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[(1, 0x01, 0), (15, 0x04, 2)]),
    (
        "SYNCHRONIZE CACHE (16)",
        &[0x91, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        &[(1, 0x01, 0), (15, 0x04, 2)],
    ),
    (
        "WRITE SAME (16)",
        &[0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        &[(1, 0x20, 7), (1, 0x10, 4), (1, 0x04, 2), (1, 0x02, 1), (15, 0x04, 2)],
    ),
    (
        "READ CAPACITY (16)",
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0],
        &[(2, 0x80, 7), (9, 0x01, 0), (14, 0x01, 0), (15, 0x04, 2)],
    ),
    (
        "GET LBA STATUS",
        &[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0],
        &[(1, 0x20, 7), (15, 0x04, 2)],
    ),
    (
        "REPORT LUNS",
        &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0],
        &[(3, 0x01, 0), (5, 0x80, 7), (10, 0x01, 0), (11, 0x04, 2)],
    ),
    ("READ (12)", &[0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[(1, 0x20, 7), (1, 0x04, 2), (11, 0x04, 2)]),
    ("WRITE (12)", &[0xaa, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[(1, 0x20, 7), (1, 0x04, 2), (11, 0x04, 2)]),
    (
        "WRITE AND VERIFY (12)",
        &[0xae, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        &[(1, 0x20, 7), (1, 0x08, 3), (11, 0x04, 2)],
    ),
    ("VERIFY (12)", &[0xaf, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[(1, 0x20, 7), (1, 0x08, 3), (11, 0x04, 2)]),
];

fn reserved_bits() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, cdb, bits) in RESERVED {
        for (byte, mask, bit) in *bits {
            let mut cdb = cdb.to_vec();
            cdb[usize::from(*byte)] |= mask;
            let name = format!("{name} with bits {mask:#04x} in byte {byte}");
            cases.push(case("L27", name, SESSION, command(&cdb, &[], 0), in_cdb(*byte, Some(*bit))));
        }
    }
    cases
}

/// Services, pages and options that are not there.
fn not_offered() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |name: String, cdb: &[u8], room: u32, answer: Answer| {
        cases.push(case("L27", name, SESSION, command(cdb, &[], room), answer));
    };
    for action in [0x00, 0x11, 0x1f] {
        push(format!("service action {action:#04x} of 9Eh"), &[0x9e, action, 0, 0], 32, in_cdb(1, Some(4)));
    }
    for action in [0x00, 0x1f] {
        push(format!("service action {action:#04x} of A3h"), &[0xa3, action, 0, 0], 32, in_cdb(1, Some(4)));
    }
    for action in [4, 8, 0x10, 0x1f] {
        let cdb = [0x5e, action, 0, 0, 0, 0, 0, 0, 255, 0];
        push(format!("PERSISTENT RESERVE IN, service action {action}"), &cdb, 255, in_cdb(1, Some(4)));
    }
    for page in [0x01, 0x7f, 0x81, 0xc0, 0xff] {
        push(format!("INQUIRY of the page {page:#04x}"), &[0x12, 1, page, 0, 255, 0], 255, in_cdb(2, None));
    }
    for page in [0x80, 0x83] {
        push(
            format!("INQUIRY of page {page:#04x} without EVPD"),
            &[0x12, 0, page, 0, 255, 0],
            255,
            in_cdb(2, None),
        );
    }
    for page in [0x00, 0x02, 0x20, 0x3e] {
        push(
            format!("MODE SENSE (6) of the page {page:#04x}"),
            &[0x1a, 0, page, 0, 255, 0],
            255,
            in_cdb(2, Some(5)),
        );
        let cdb = [0x5a, 0, page, 0, 0, 0, 0, 0, 255, 0];
        push(format!("MODE SENSE (10) of the page {page:#04x}"), &cdb, 255, in_cdb(2, Some(5)));
    }
    let saved = Answer::Condition(illegal(0x3900));
    for page in [0x08, 0x0a, 0x3f] {
        let cdb = [0x1a, 0, 0xc0 | page, 0, 255, 0];
        push(format!("MODE SENSE (6) of the saved page {page:#04x}"), &cdb, 255, saved.clone());
    }
    for subpage in [0x01, 0x7f] {
        let cdb = [0x1a, 0, 0x3f, subpage, 255, 0];
        push(format!("MODE SENSE (6) of all pages, subpage {subpage:#04x}"), &cdb, 255, in_cdb(3, None));
    }
    for option in [4, 5, 7] {
        let cdb = [0xa3, 0x0c, option, 0, 0, 0, 0, 0, 0, 255, 0, 0];
        let name = format!("REPORT SUPPORTED OPERATION CODES by option {option}");
        push(name, &cdb, 255, in_cdb(2, Some(2)));
    }
    for (option, opcode, what) in [(1, 0x9e, "has service actions"), (2, 0x28, "has none")] {
        let cdb = [0xa3, 0x0c, option, opcode, 0, 0, 0, 0, 0, 255, 0, 0];
        let name = format!("REPORT SUPPORTED OPERATION CODES by option {option} of a code that {what}");
        push(name, &cdb, 255, in_cdb(2, Some(2)));
    }
    for report in [0x03, 0x0f, 0x13, 0xff] {
        let cdb = [0xa0, 0, report, 0, 0, 0, 0, 0, 0, 16, 0, 0];
        push(format!("REPORT LUNS of the selection {report:#04x}"), &cdb, 16, in_cdb(2, None));
    }
    for value in [2, 3] {
        push(
            format!("PREVENT ALLOW MEDIUM REMOVAL of {value}"),
            &[0x1e, 0, 0, 0, value, 0],
            0,
            in_cdb(4, Some(1)),
        );
    }
    push("START STOP UNIT that ejects a fixed disk".into(), &[0x1b, 0, 0, 0, 2, 0], 0, in_cdb(4, Some(1)));
    for opcode in [0x2f, 0xaf] {
        let at = if opcode == 0x2f { 8 } else { 9 };
        let mut cdb = [0; 12];
        (cdb[0], cdb[1], cdb[at]) = (opcode, 4, 1);
        let cdb = if opcode == 0x2f { &cdb[..10] } else { &cdb[..] };
        push(format!("{opcode:#04x}, VERIFY, with BYTCHK 10b"), cdb, 0, in_cdb(1, Some(2)));
    }
    cases
}

/// Commands on blocks: their name, their opcode and second byte, blocks of Data-Out for each block, and whether no blocks
/// at all mean none.
const ON_BLOCKS: &[(&str, u8, u8, usize)] = &[
    ("READ (10)", 0x28, 0, 0),
    ("WRITE (10)", 0x2a, 0, 1),
    ("WRITE AND VERIFY (10)", 0x2e, 0, 1),
    ("VERIFY (10)", 0x2f, 0, 0),
    ("VERIFY (10) with BYTCHK 01b", 0x2f, 2, 1),
    ("PRE-FETCH (10)", 0x34, 0, 0),
    ("SYNCHRONIZE CACHE (10)", 0x35, 0, 0),
    ("WRITE SAME (10)", 0x41, 0, 1),
    ("READ (12)", 0xa8, 0, 0),
    ("WRITE (12)", 0xaa, 0, 1),
    ("WRITE AND VERIFY (12)", 0xae, 0, 1),
    ("VERIFY (12)", 0xaf, 0, 0),
    ("READ (16)", 0x88, 0, 0),
    ("COMPARE AND WRITE", 0x89, 0, 2),
    ("WRITE (16)", 0x8a, 0, 1),
    ("ORWRITE (16)", 0x8b, 0, 1),
    ("WRITE AND VERIFY (16)", 0x8e, 0, 1),
    ("VERIFY (16)", 0x8f, 0, 0),
    ("PRE-FETCH (16)", 0x90, 0, 0),
    ("SYNCHRONIZE CACHE (16)", 0x91, 0, 0),
    ("WRITE SAME (16)", 0x93, 0, 1),
];

/// The CDB of a command on blocks.
pub(crate) fn on_blocks(opcode: u8, second: u8, first: u64, count: u32) -> Vec<u8> {
    let mut cdb = vec![0; [6, 10, 10, 0, 16, 12][usize::from(opcode >> 5)]];
    (cdb[0], cdb[1]) = (opcode, second);
    match (opcode >> 5, opcode) {
        (1 | 2, _) => {
            cdb[2..6].copy_from_slice(&(first as u32).to_be_bytes());
            cdb[7..9].copy_from_slice(&(count as u16).to_be_bytes());
        }
        (5, _) => {
            cdb[2..6].copy_from_slice(&(first as u32).to_be_bytes());
            cdb[6..10].copy_from_slice(&count.to_be_bytes());
        }
        (_, 0x89) => {
            cdb[2..10].copy_from_slice(&first.to_be_bytes());
            cdb[13] = count as u8;
        }
        _ => {
            cdb[2..10].copy_from_slice(&first.to_be_bytes());
            cdb[10..14].copy_from_slice(&count.to_be_bytes());
        }
    }
    cdb
}

/// Blocks beyond the last one, partly or wholly, near or far, and so far that a sum of 64 bits would be small.
fn ranges(place: &Place) -> Vec<Case> {
    let mut cases = Vec::new();
    let end = place.blocks;
    for (name, opcode, second, blocks_out) in ON_BLOCKS {
        let is_long = matches!(opcode >> 5, 4);
        let far = if is_long { u64::MAX } else { u64::from(u32::MAX) };
        for (what, first, count) in [
            ("a block behind the last", end, 1),
            ("the last block and one more", end - 1, 2),
            ("the last block there could be", far, 1),
        ] {
            let cdb = on_blocks(*opcode, *second, first, count);
            let is_same = matches!(opcode, 0x41 | 0x93);
            let blocks = blocks_out * if is_same { 1 } else { count as usize };
            let room = if matches!(opcode, 0x28 | 0xa8 | 0x88) { count * 512 } else { 0 };
            let said = command(&cdb, &vec![0xbb; blocks * 512], room);
            cases.push(case("L20", format!("{name} of {what}"), SESSION, said, LBA_OUT_OF_RANGE));
        }
    }
    let mut push = |name: &str, cdb: &[u8], room: u32| {
        cases.push(case("L20", name, SESSION, command(cdb, &[], room), LBA_OUT_OF_RANGE));
    };
    push(
        "READ (16) of everything from the last block there could be",
        &on_blocks(0x88, 0, u64::MAX, u32::MAX),
        u32::MAX,
    );
    push("READ (16) of blocks that wrap", &on_blocks(0x88, 0, u64::MAX - 1, 4), 2048);
    push("READ (16) at 2^63", &on_blocks(0x88, 0, 1 << 63, 1), 512);
    push("READ (16) at 2^32", &on_blocks(0x88, 0, 1 << 32, 1), 512);
    push("READ (10) of nothing beyond the end", &on_blocks(0x28, 0, end + 1, 0), 0);
    push("VERIFY (16) of nothing beyond the end", &on_blocks(0x8f, 0, end + 1, 0), 0);
    push(
        "GET LBA STATUS behind the last block",
        &{
            let mut cdb = on_blocks(0x9e, 0x12, end, 24);
            cdb[1] = 0x12;
            cdb
        },
        24,
    );
    push("GET LBA STATUS of the last block there could be", &on_blocks(0x9e, 0x12, u64::MAX, 24), 24);
    cases
}

/// LUNs that lead nowhere, in every form of addressing, by a read and by a write (SAM-5 section 4.7).
fn units() -> Vec<Case> {
    let luns: [[u8; 8]; 15] = [
        [0x00, 0x01, 0, 0, 0, 0, 0, 0],
        [0x00, 0xff, 0, 0, 0, 0, 0, 0],
        [0x01, 0x00, 0, 0, 0, 0, 0, 0],
        [0x3f, 0x00, 0, 0, 0, 0, 0, 0],
        [0x40, 0x01, 0, 0, 0, 0, 0, 0],
        [0x7f, 0xff, 0, 0, 0, 0, 0, 0],
        [0x80, 0x00, 0, 0, 0, 0, 0, 0],
        [0xc0, 0x00, 0, 0, 0, 0, 0, 0],
        [0xc1, 0x02, 0, 0, 0, 0, 0, 0],
        [0xd2, 0x00, 0, 0x01, 0, 0, 0, 0],
        [0xd2, 0x01, 0, 0, 0, 0, 0, 0],
        [0xe2, 0x00, 0, 0, 0, 0, 0, 0],
        [0x00, 0x00, 0x00, 0x01, 0, 0, 0, 0],
        [0x00, 0x00, 0, 0, 0, 0, 0, 0x01],
        [0xff; 8],
    ];
    let mut cases = Vec::new();
    let state: State = SESSION;
    for lun in luns {
        for (what, said) in [
            ("a read", command(&on_blocks(0x28, 0, 0, 1), &[], 512)),
            ("a write", command(&on_blocks(0x2a, 0, 0, 1), &[0xbb; 512], 0)),
            ("a code of nobody", command(&[0xff], &[], 0)),
        ] {
            let name = format!("{what} at {lun:02x?}");
            cases.push(case("L26", name, state, said.put(8, &lun), LOGICAL_UNIT_NOT_SUPPORTED));
        }
    }
    // The well-known unit is there, but has no blocks.
    let lun = [0xc1, 0x01, 0, 0, 0, 0, 0, 0];
    for opcode in [0x28, 0x2a] {
        let out: &[u8] = if opcode == 0x2a { &[0xbb; 512] } else { &[] };
        let said = command(&on_blocks(opcode, 0, 0, 1), out, 512).put(8, &lun);
        let name = format!("{opcode:#04x} at the REPORT LUNS well-known unit");
        cases.push(case("L26", name, state, said, INVALID_OPERATION_CODE));
    }
    cases
}
