//! The table of commands. What is dispatched and what REPORT SUPPORTED OPERATION CODES tells are both made from it, so
//! the two cannot differ. What the standards require of each command stands in `tests/spec`.

use crate::command::{Head, Task};
use crate::copy::{list, report, rod};
use crate::sense::{Refusal, Sense, code};
use crate::target::Target;
use crate::unit::LogicalUnit;
use crate::{
    capacity, inquiry, log, luns, maintenance, medium, mode, persistent, ports, removal, reserve, status,
};

/// What has to be there before a command's handler is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing: it is answered whatever state the unit is in, and it leaves unit attentions where they are.
    Nothing,
    /// The logical unit.
    Unit,
    /// The logical unit and its geometry.
    Geometry,
    /// The medium, in place and within reach.
    Medium,
}

/// How a command stands to persistent reservations of others (SPC-4 table 66, SBC-3 table 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Always allowed, or checked by the handler itself.
    Always,
    /// Allowed under a reservation that excludes writers only.
    Read,
    /// Never allowed under a reservation of others.
    Change,
}

/// What a unit must offer for a command to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    Always,
    /// Only where blocks can be given back.
    Thin,
}

/// Begins a command: checks it and says what is to be done.
pub(crate) type Handler = fn(&mut Target, &Head) -> Result<Task, Refusal>;

/// One command.
pub(crate) struct Command {
    pub(crate) opcode: u8,
    /// The service action, where the opcode has some.
    pub(crate) action: Option<u16>,
    /// Its name in the standards.
    pub(crate) name: &'static str,
    /// CDB usage data: a bit for each bit of the CDB that is looked at. Its length is the CDB's; its first byte is
    /// the opcode.
    pub(crate) usage: &'static [u8],
    /// The bits of a CDB, as one number, that may not be set.
    unused: u128,
    pub(crate) needs: Needs,
    pub(crate) access: Access,
    pub(crate) offered: Offered,
    pub(crate) handler: Handler,
}

const fn row(
    action: Option<u16>,
    name: &'static str,
    usage: &'static [u8],
    needs: Needs,
    access: Access,
    handler: Handler,
) -> Command {
    let (opcode, unused, offered) = (usage[0], unused(usage), Offered::Always);
    Command { opcode, action, name, usage, unused, needs, access, offered, handler }
}

/// The bits that nobody looks at; what is behind the CDB's end is none of its own.
const fn unused(usage: &[u8]) -> u128 {
    let mut unused = [0; 16];
    let mut index = 1;
    while index < usage.len() {
        unused[index] = !usage[index];
        index += 1;
    }
    u128::from_be_bytes(unused)
}

const fn thin(command: Command) -> Command {
    Command { offered: Offered::Thin, ..command }
}

use Access::{Always, Change, Read};
use Needs::{Geometry, Medium, Nothing, Unit};

/// All commands, in ascending order of opcode and service action.
#[rustfmt::skip]
pub(crate) static COMMANDS: &[Command] = &[
    row(None, "TEST UNIT READY", &[0x00, 0, 0, 0, 0, 0], Medium, Always, status::test_unit_ready),
    row(None, "REQUEST SENSE", &[0x03, 0x01, 0, 0, 0xff, 0], Nothing, Always, status::request_sense),
    row(None, "READ(6)", &[0x08, 0x1f, 0xff, 0xff, 0xff, 0], Medium, Read, medium::read),
    row(None, "WRITE(6)", &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0], Medium, Change, medium::write),
    row(None, "INQUIRY", &[0x12, 0x01, 0xff, 0xff, 0xff, 0], Nothing, Always, inquiry::inquiry),
    row(None, "MODE SELECT(6)", &[0x15, 0x10, 0, 0, 0xff, 0], Geometry, Change, mode::select),
    row(None, "RESERVE(6)", &[0x16, 0, 0, 0, 0, 0], Unit, Always, reserve::reserve),
    row(None, "RELEASE(6)", &[0x17, 0, 0, 0, 0, 0], Unit, Always, reserve::release),
    row(None, "MODE SENSE(6)", &[0x1a, 0x08, 0xff, 0xff, 0xff, 0], Geometry, Change, mode::sense),
    row(None, "START STOP UNIT", &[0x1b, 0x01, 0, 0x0f, 0xf7, 0], Unit, Always, removal::start_stop),
    row(None, "PREVENT ALLOW MEDIUM REMOVAL", &[0x1e, 0, 0, 0, 0x03, 0], Unit, Always, removal::prevent_allow),
    row(None, "READ CAPACITY(10)", &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Geometry, Always, capacity::read_10),
    row(None, "READ(10)", &[0x28, 0x1a, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], Medium, Read, medium::read),
    row(None, "WRITE(10)", &[0x2a, 0x1a, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], Medium, Change, medium::write),
    row(None, "WRITE AND VERIFY(10)", &[0x2e, 0x16, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], Medium, Change, medium::write_and_verify),
    row(None, "VERIFY(10)", &[0x2f, 0x16, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], Medium, Read, medium::verify),
    row(None, "PRE-FETCH(10)", &[0x34, 0x02, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], Medium, Read, medium::pre_fetch),
    row(None, "SYNCHRONIZE CACHE(10)", &[0x35, 0x06, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], Medium, Change, medium::synchronize_cache),
    row(None, "READ DEFECT DATA(10)", &[0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0], Medium, Read, capacity::read_defect_data_10),
    row(None, "WRITE SAME(10)", &[0x41, 0x08, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], Medium, Change, medium::write_same),
    thin(row(None, "UNMAP", &[0x42, 0, 0, 0, 0, 0, 0x1f, 0xff, 0xff, 0], Medium, Change, medium::unmap)),
    row(None, "LOG SENSE", &[0x4d, 0, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0], Unit, Always, log::sense),
    row(None, "MODE SELECT(10)", &[0x55, 0x10, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Geometry, Change, mode::select),
    row(None, "RESERVE(10)", &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], Unit, Always, reserve::reserve),
    row(None, "RELEASE(10)", &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0], Unit, Always, reserve::release),
    row(None, "MODE SENSE(10)", &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0], Geometry, Change, mode::sense),
    row(Some(0x00), "PERSISTENT RESERVE IN, READ KEYS", &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Unit, Always, persistent::read),
    row(Some(0x01), "PERSISTENT RESERVE IN, READ RESERVATION", &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Unit, Always, persistent::read),
    row(Some(0x02), "PERSISTENT RESERVE IN, REPORT CAPABILITIES", &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Unit, Always, persistent::read),
    row(Some(0x03), "PERSISTENT RESERVE IN, READ FULL STATUS", &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Unit, Always, persistent::read),
    row(Some(0x00), "PERSISTENT RESERVE OUT, REGISTER", &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Unit, Always, persistent::change),
    row(Some(0x01), "PERSISTENT RESERVE OUT, RESERVE", &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Unit, Always, persistent::change),
    row(Some(0x02), "PERSISTENT RESERVE OUT, RELEASE", &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Unit, Always, persistent::change),
    row(Some(0x03), "PERSISTENT RESERVE OUT, CLEAR", &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Unit, Always, persistent::change),
    row(Some(0x04), "PERSISTENT RESERVE OUT, PREEMPT", &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Unit, Always, persistent::change),
    row(Some(0x05), "PERSISTENT RESERVE OUT, PREEMPT AND ABORT", &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Unit, Always, persistent::change),
    row(Some(0x06), "PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY", &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Unit, Always, persistent::change),
    row(Some(0x07), "PERSISTENT RESERVE OUT, REGISTER AND MOVE", &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Unit, Always, persistent::change),
    row(Some(0x00), "EXTENDED COPY(LID1)", &[0x83, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Unit, Change, list::extended_copy),
    row(Some(0x01), "EXTENDED COPY(LID4)", &[0x83, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Unit, Change, list::extended_copy),
    row(Some(0x10), "POPULATE TOKEN", &[0x83, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Read, rod::populate),
    row(Some(0x11), "WRITE USING TOKEN", &[0x83, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Change, rod::write),
    row(Some(0x1c), "COPY OPERATION ABORT", &[0x83, 0x1f, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Unit, Change, report::abort),
    row(Some(0x00), "RECEIVE COPY STATUS(LID1)", &[0x84, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Unit, Change, report::status_1),
    row(Some(0x03), "RECEIVE COPY OPERATING PARAMETERS", &[0x84, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Unit, Change, report::operating_parameters),
    row(Some(0x04), "RECEIVE COPY FAILURE DETAILS(LID1)", &[0x84, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Unit, Change, report::failure_details),
    row(Some(0x05), "RECEIVE COPY STATUS(LID4)", &[0x84, 0x1f, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Unit, Change, report::status_4),
    row(Some(0x07), "RECEIVE ROD TOKEN INFORMATION", &[0x84, 0x1f, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Unit, Read, rod::information),
    row(None, "READ(16)", &[0x88, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Read, medium::read),
    row(None, "COMPARE AND WRITE", &[0x89, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0x1f, 0], Medium, Change, medium::compare_and_write),
    row(None, "WRITE(16)", &[0x8a, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Change, medium::write),
    row(None, "ORWRITE(16)", &[0x8b, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Change, medium::or_write),
    row(None, "WRITE AND VERIFY(16)", &[0x8e, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Change, medium::write_and_verify),
    row(None, "VERIFY(16)", &[0x8f, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Read, medium::verify),
    row(None, "PRE-FETCH(16)", &[0x90, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Read, medium::pre_fetch),
    row(None, "SYNCHRONIZE CACHE(16)", &[0x91, 0x06, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Change, medium::synchronize_cache),
    row(None, "WRITE SAME(16)", &[0x93, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Change, medium::write_same),
    row(Some(0x10), "READ CAPACITY(16)", &[0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Geometry, Always, capacity::read_16),
    row(Some(0x12), "GET LBA STATUS", &[0x9e, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Medium, Read, medium::get_lba_status),
    row(None, "REPORT LUNS", &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Nothing, Always, luns::report),
    row(Some(0x0a), "REPORT TARGET PORT GROUPS", &[0xa3, 0x3f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Unit, Always, ports::report),
    row(Some(0x0c), "REPORT SUPPORTED OPERATION CODES", &[0xa3, 0x1f, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Unit, Always, maintenance::operation_codes),
    row(Some(0x0d), "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", &[0xa3, 0x1f, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Unit, Always, maintenance::task_management),
    row(Some(0x0a), "SET TARGET PORT GROUPS", &[0xa4, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Unit, Change, ports::set),
    row(None, "READ(12)", &[0xa8, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Read, medium::read),
    row(None, "WRITE(12)", &[0xaa, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Change, medium::write),
    row(None, "WRITE AND VERIFY(12)", &[0xae, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Change, medium::write_and_verify),
    row(None, "VERIFY(12)", &[0xaf, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Medium, Read, medium::verify),
    row(None, "READ DEFECT DATA(12)", &[0xb7, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Medium, Read, capacity::read_defect_data_12),
];

impl Command {
    /// The CDB's length.
    pub(crate) fn length(&self) -> usize {
        self.usage.len()
    }

    /// Whether `unit` offers it.
    pub(crate) fn is_offered(&self, unit: Option<&LogicalUnit>) -> bool {
        match self.offered {
            Offered::Always => true,
            // Of a disk that is not known yet it cannot be denied: initiators never ask again.
            Offered::Thin => unit.is_none_or(|unit| unit.geometry().is_none() || unit.is_thin()),
        }
    }

    /// Whether all bits that are set in `cdb` are looked at (SPC-4 section 4.2.5.1: else the field is invalid).
    pub(crate) fn check_usage(&self, cdb: &[u8; 16]) -> Result<(), Sense> {
        let unknown = u128::from_be_bytes(*cdb) & self.unused;
        if unknown == 0 {
            return Ok(());
        }
        let first = unknown.leading_zeros();
        // A field is named by its most significant bit, whichever of its bits is wrong (SPC-4 section 4.5.2.4.2). Bits 7 to
        // 5 of byte 1 are one field in every CDB: protection information, or what was a LUN once.
        let bit = if matches!(first, 8..11) { 7 } else { 7 - (first % 8) as u8 };
        Err(Sense::in_cdb((first / 8) as u16, Some(bit)))
    }

    /// The CDB usage data that REPORT SUPPORTED OPERATION CODES tells for `unit`.
    pub(crate) fn usage_for(&self, unit: &LogicalUnit) -> [u8; 16] {
        let mut usage = [0; 16];
        usage[..self.length()].copy_from_slice(self.usage);
        if let Some(action) = self.action {
            usage[1] = usage[1] & 0xe0 | (action as u8 & 0x1f);
        }
        // The UNMAP bit of WRITE SAME is looked at only where blocks can be given back.
        if matches!(self.opcode, 0x41 | 0x93) && !unit.is_thin() {
            usage[1] &= !0x08;
        }
        usage
    }
}

/// Where in the table the rows of each opcode begin; behind its end for one that has none.
static ROWS: [u8; 256] = {
    let mut rows = [COMMANDS.len() as u8; 256];
    let mut row = COMMANDS.len();
    while row > 0 {
        row -= 1;
        rows[COMMANDS[row].opcode as usize] = row as u8;
    }
    rows
};

/// The command in `cdb`, or the sense data for there being none.
pub(crate) fn find(cdb: &[u8; 16]) -> Result<&'static Command, Sense> {
    let rows = COMMANDS.get(usize::from(ROWS[usize::from(cdb[0])])..).unwrap_or_default();
    let mut known = false;
    for command in rows.iter().take_while(|command| command.opcode == cdb[0]) {
        known = true;
        if command.action.is_none_or(|action| action == u16::from(cdb[1] & 0x1f)) {
            return Ok(command);
        }
    }
    Err(if known { Sense::in_cdb(1, Some(4)) } else { Sense::illegal(code::INVALID_OPERATION_CODE) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_ascends_and_each_cdb_has_its_group_s_length() {
        assert!(COMMANDS.is_sorted_by(|a, b| (a.opcode, a.action) < (b.opcode, b.action)));
        for command in COMMANDS {
            let length = match command.opcode >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                group => panic!("{} is of group {group}", command.name),
            };
            assert_eq!(command.length(), length, "{}", command.name);
            assert_eq!(command.usage[0], command.opcode);
            assert_eq!(command.usage.last(), Some(&0), "{}: NACA and the like are refused", command.name);
        }
    }

    #[test]
    fn every_command_is_found_and_others_are_not() {
        for command in COMMANDS {
            let mut cdb = [0; 16];
            cdb[0] = command.opcode;
            cdb[1] = command.action.unwrap_or(0) as u8;
            let found = find(&cdb).expect("it is in the table");
            assert_eq!((found.opcode, found.action), (command.opcode, command.action));
            assert_eq!(found.check_usage(&cdb), Ok(()));
        }
        let mut cdb = [0; 16];
        cdb[0] = 0xff;
        assert_eq!(find(&cdb).err().map(|sense| sense.code), Some(code::INVALID_OPERATION_CODE));
        cdb[..2].copy_from_slice(&[0x9e, 0x1f]);
        assert_eq!(find(&cdb).err().map(|sense| sense.code), Some(code::INVALID_FIELD_IN_CDB));
    }

    #[test]
    fn a_bit_nobody_looks_at_is_refused_with_its_place() {
        let mut cdb = [0; 16];
        cdb[0] = 0x28;
        cdb[1] = 0x60;
        let command = find(&cdb).expect("READ(10)");
        assert_eq!(command.check_usage(&cdb), Err(Sense::in_cdb(1, Some(7))));
        cdb[1] = 0x20;
        assert_eq!(command.check_usage(&cdb), Err(Sense::in_cdb(1, Some(7))), "by the field's first bit");
    }

    #[test]
    fn every_bit_of_every_command_is_looked_at_or_refused_with_its_place() {
        for command in COMMANDS {
            let mut cdb = [0; 16];
            cdb[0] = command.opcode;
            for bit in 8..128 {
                let (byte, shift) = (bit / 8, 7 - bit % 8);
                let mut cdb = cdb;
                cdb[byte] |= 1 << shift;
                let used = command.usage.get(byte).is_none_or(|usage| usage >> shift & 1 != 0);
                let named = if byte == 1 && shift >= 5 { 7 } else { shift };
                let expected = if used { Ok(()) } else { Err(Sense::in_cdb(byte as u16, Some(named as u8))) };
                assert_eq!(command.check_usage(&cdb), expected, "{} {byte}", command.name);
            }
        }
    }
}
