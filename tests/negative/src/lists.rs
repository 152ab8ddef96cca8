//! Parameter lists that are wrong, and data of another length than the CDB's (SPC-4, SBC-3).

use crate::case::{Answer, Case, Place, Said, Sense, Transferred, case};
use crate::commands::{command, illegal, in_cdb, on_blocks};
use crate::session::SESSION;

/// The length that the CDB says is wrong, before anything is transferred.
const LENGTH_IN_CDB: Answer = Answer::Condition(illegal(0x1a00));
/// The length is wrong for what is in the list.
const LENGTH_IN_LIST: Answer = in_data(0x1a00, [0; 3]);
const LBA_OUT_OF_RANGE: Answer = in_data(0x2100, [0; 3]);

/// What is wrong with data that was transferred.
const fn in_data(code: u16, specific: [u8; 3]) -> Answer {
    Answer::Condition(Sense { specific, transferred: Transferred::All, ..illegal(code) })
}

/// INVALID FIELD IN PARAMETER LIST, at that byte and the most significant bit of the field, if it is not the whole byte.
const fn in_list(byte: u8, bit: Option<u8>) -> Answer {
    let first = match bit {
        Some(bit) => 0x88 | bit,
        None => 0x80,
    };
    in_data(0x2600, [first, 0, byte])
}

/// INVALID FIELD IN COMMAND INFORMATION UNIT: the initiator has less data than the command needs, by so many bytes.
const fn short_by(over: u32) -> Answer {
    Answer::Condition(Sense { transferred: Transferred::Beyond(over), ..illegal(0x0e03) })
}

pub(crate) fn cases(place: &Place) -> Vec<Case> {
    let mut cases = unmap(place);
    cases.extend(mode_select());
    cases.extend(persistent_reserve_out());
    cases.extend(lengths());
    cases
}

fn unmap_cdb(length: u16) -> [u8; 10] {
    let [high, low] = length.to_be_bytes();
    [0x42, 0, 0, 0, 0, 0, 0, high, low, 0]
}

/// An UNMAP parameter list of these ranges.
fn unmap_list(ranges: &[(u64, u32)]) -> Vec<u8> {
    let descriptors = 16 * ranges.len() as u16;
    let mut list = [(descriptors + 6).to_be_bytes(), descriptors.to_be_bytes(), [0; 2], [0; 2]].concat();
    for (first, count) in ranges {
        list.extend(first.to_be_bytes());
        list.extend(count.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

fn unmap(place: &Place) -> Vec<Case> {
    let end = place.blocks;
    let mut cases = Vec::new();
    let mut push = |name: String, length: u16, list: &[u8], answer: Answer| {
        cases.push(case("L27", name, SESSION, command(&unmap_cdb(length), list, 0), answer));
    };
    for length in 1..8 {
        let list = vec![0; usize::from(length)];
        push(format!("UNMAP with a list of {length} bytes"), length, &list, LENGTH_IN_CDB);
    }
    let list = unmap_list(&[(0, 1)]);
    for length in [8_u16, 23] {
        let short = 24 - u32::from(length);
        let name = format!("UNMAP with {length} of 24 bytes of its list");
        push(name, 24, &list[..usize::from(length)], short_by(short));
    }
    for bytes in [17_u16, 32, 0x7fff, 0xffff] {
        let mut list = list.clone();
        list[2..4].copy_from_slice(&bytes.to_be_bytes());
        push(format!("UNMAP with {bytes} bytes of descriptors in a list of 24"), 24, &list, in_list(2, None));
    }
    for (what, ranges) in [
        ("a block behind the last", vec![(end, 1)]),
        ("the last block and one more", vec![(end - 1, 2)]),
        ("a good range and a bad one", vec![(4096, 1), (end, 1)]),
        ("the last block there could be", vec![(u64::MAX, 1)]),
        ("blocks that wrap", vec![(u64::MAX - 1, 4)]),
        ("more than everything", vec![(0, u32::MAX)]),
    ] {
        let list = unmap_list(&ranges);
        push(format!("UNMAP of {what}"), list.len() as u16, &list, LBA_OUT_OF_RANGE);
    }
    cases
}

/// MODE SELECT (6) and (10), whose header has four bytes and eight.
fn mode_select() -> Vec<Case> {
    let six = |flags: u8, list: &[u8]| command(&[0x15, flags, 0, 0, list.len() as u8, 0], list, 0);
    let ten =
        |flags: u8, list: &[u8]| command(&[0x55, flags, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], list, 0);
    let mut cases = Vec::new();
    let mut push =
        |name: String, said: Said, answer: Answer| cases.push(case("L27", name, SESSION, said, answer));
    for (what, header) in [("(6)", 4_usize), ("(10)", 8)] {
        let select = |flags: u8, list: &[u8]| if header == 4 { six(flags, list) } else { ten(flags, list) };
        push(format!("MODE SELECT {what} without PF"), select(0x00, &vec![0; header]), in_cdb(1, Some(4)));
        for length in 1..header {
            let name = format!("MODE SELECT {what} of {length} bytes");
            push(name, select(0x10, &vec![0; length]), LENGTH_IN_LIST);
        }
        let with = |page: &[u8]| [&vec![0; header], page].concat();
        for code in [0x00_u8, 0x02, 0x3e] {
            let name = format!("MODE SELECT {what} of the page {code:#04x}");
            push(
                name,
                select(0x10, &with(&[code, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
                in_list(header as u8, Some(5)),
            );
        }
        let caching = |length: u8| {
            let mut page = vec![0; usize::from(length) + 2];
            (page[0], page[1]) = (0x08, length);
            with(&page)
        };
        for length in [0, 1, 0x11, 0x13] {
            let name = format!("MODE SELECT {what} of a caching page of length {length}");
            push(name, select(0x10, &caching(length)), in_list(header as u8 + 1, None));
        }
        let mut half = caching(0x12);
        half.truncate(header + 10);
        push(format!("MODE SELECT {what} of half a caching page"), select(0x10, &half), LENGTH_IN_LIST);
        // Nothing but WCE can be changed there.
        for at in [3, 8, 12, 19] {
            let mut page = caching(0x12);
            page[header + 2] = 4;
            page[header + at] = 0x01;
            let name = format!("MODE SELECT {what} of a caching page with another byte {at}");
            push(name, select(0x10, &page), in_list((header + at) as u8, None));
        }
    }
    let mut descriptor = vec![0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 4, 0];
    push("MODE SELECT (6) of blocks of 1,024 bytes".into(), six(0x10, &descriptor), in_list(9, None));
    descriptor[3] = 7;
    push(
        "MODE SELECT (6) of a block descriptor of seven bytes".into(),
        six(0x10, &descriptor[..11]),
        in_list(3, None),
    );
    descriptor[3] = 9;
    push(
        "MODE SELECT (6) whose block descriptor is longer than it".into(),
        six(0x10, &descriptor),
        LENGTH_IN_LIST,
    );
    let beyond = [0, 0, 0, 0, 0, 0, 0xff, 0xff];
    push(
        "MODE SELECT (10) whose block descriptor is 65,535 bytes long".into(),
        ten(0x10, &beyond),
        LENGTH_IN_LIST,
    );
    cases
}

/// PERSISTENT RESERVE OUT, by somebody who is not registered.
fn persistent_reserve_out() -> Vec<Case> {
    let out = |action: u8, kind: u8, length: u32, list: &[u8]| {
        let mut cdb = [0; 10];
        (cdb[0], cdb[1], cdb[2]) = (0x5f, action, kind);
        cdb[5..9].copy_from_slice(&length.to_be_bytes());
        command(&cdb, list, 0)
    };
    let mut cases = Vec::new();
    let mut push =
        |name: String, said: Said, answer: Answer| cases.push(case("L27", name, SESSION, said, answer));
    for action in [8, 0x10, 0x1f] {
        let name = format!("PERSISTENT RESERVE OUT, service action {action}");
        push(name, out(action, 1, 24, &[0; 24]), in_cdb(1, Some(4)));
    }
    for (action, name) in
        [(1, "RESERVE"), (2, "RELEASE"), (3, "CLEAR"), (4, "PREEMPT"), (5, "PREEMPT AND ABORT")]
    {
        let said = out(action, 1, 24, &[0; 24]);
        push(format!("{name} by nobody who is registered"), said, Answer::Conflict);
        let mut list = [0; 24];
        list[..8].copy_from_slice(&0x1234_5678_9abc_def0_u64.to_be_bytes());
        push(format!("{name} with a key that nobody has"), out(action, 1, 24, &list), Answer::Conflict);
        for length in [0, 1, 23] {
            let said = out(action, 1, length, &vec![0; length as usize]);
            push(format!("{name} with a list of {length} bytes"), said, LENGTH_IN_CDB);
        }
        push(format!("{name} with a list of 25 bytes"), out(action, 1, 25, &[0; 25]), LENGTH_IN_LIST);
    }
    let mut list = [0; 24];
    list[..8].copy_from_slice(&1_u64.to_be_bytes());
    push("REGISTER with a key, by nobody who has one".into(), out(0, 0, 24, &list), Answer::Conflict);
    push("REGISTER AND MOVE by nobody who is registered".into(), out(7, 0, 24, &[0; 24]), Answer::Conflict);
    for length in [0, 1, 23] {
        let said = out(0, 0, length, &vec![0; length as usize]);
        push(format!("REGISTER with a list of {length} bytes"), said, LENGTH_IN_CDB);
    }
    let huge = out(0, 0, u32::MAX, &[]);
    push("REGISTER with a list of 4 GiB".into(), huge, LENGTH_IN_CDB);
    // SPEC_I_PT (bit 3 of byte 20) with a service action that has none, and TransportIDs that are none.
    let mut list = [0; 24];
    list[20] = 0x08;
    push(
        "REGISTER AND IGNORE EXISTING KEY with SPEC_I_PT".into(),
        out(6, 0, 24, &list),
        in_list(20, Some(3)),
    );
    let ports = |length: u32, ids: &[u8]| {
        let mut list = vec![0; 28];
        list[15] = 1;
        list[20] = 0x08;
        list[24..28].copy_from_slice(&length.to_be_bytes());
        list.extend(ids);
        out(0, 0, list.len() as u32, &list)
    };
    push(
        "REGISTER with SPEC_I_PT and TransportIDs beyond the list".into(),
        ports(0x100, &[0; 24]),
        in_list(24, None),
    );
    push(
        "REGISTER with SPEC_I_PT and 4 GiB of TransportIDs".into(),
        ports(u32::MAX, &[0; 24]),
        in_list(24, None),
    );
    push(
        "REGISTER with SPEC_I_PT and half a TransportID".into(),
        ports(12, &[0x05, 0, 0, 20, b'i', b'q', b'n', b'.', b'a', 0, 0, 0]),
        in_list(28, None),
    );
    cases
}

/// More or less data than the CDB needs: refused as a whole where half would be wrong.
fn lengths() -> Vec<Case> {
    let with = |name: &str, cdb: &[u8], out: &[u8], answer: Answer| {
        case("L20", name, SESSION, command(cdb, out, 0), answer)
    };
    let some = [0xbb; 4096];
    vec![
        with("WRITE SAME (10) of half a block", &on_blocks(0x41, 0, 4096, 1), &some[..256], short_by(256)),
        with("WRITE SAME (16) of a byte", &on_blocks(0x93, 0, 4096, 1), &some[..1], short_by(511)),
        with("ORWRITE of one block of two", &on_blocks(0x8b, 0, 4096, 2), &some[..512], short_by(512)),
        with(
            "VERIFY (10) with BYTCHK 01b and half of the data",
            &on_blocks(0x2f, 2, 4096, 2),
            &some[..512],
            short_by(512),
        ),
        with(
            "VERIFY (16) with BYTCHK 11b and half a block",
            &on_blocks(0x8f, 6, 4096, 2),
            &some[..256],
            short_by(256),
        ),
        with(
            "COMPARE AND WRITE of one block with data for none",
            &on_blocks(0x89, 0, 4096, 1),
            &some[..512],
            in_cdb(13, None),
        ),
        with(
            "COMPARE AND WRITE of one block with data for two",
            &on_blocks(0x89, 0, 4096, 1),
            &some[..2048],
            in_cdb(13, None),
        ),
        with(
            "COMPARE AND WRITE of three blocks with data for two",
            &on_blocks(0x89, 0, 4096, 3),
            &some[..2048],
            in_cdb(13, None),
        ),
        with(
            "COMPARE AND WRITE of no blocks with data for one",
            &on_blocks(0x89, 0, 4096, 0),
            &some[..1024],
            in_cdb(13, None),
        ),
    ]
}
