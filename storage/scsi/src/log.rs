//! LOG SENSE (SPC-4 section 6.7): which log pages there are, and that there is nothing to report.
//!
//! A disk behind a network has no temperature and no counters of its medium, and the storage service does not tell how
//! much space is left (page 0Ch): what is not known has no page.

use crate::command::{Call, Head, Task};
use crate::field::{Answer, u16_at};
use crate::sense::{Refusal, Sense};
use crate::target::Target;

const ALL_SUBPAGES: u8 = 0xff;
const INFORMATIONAL_EXCEPTIONS: u8 = 0x2f;

/// Page and subpage of each, ascending.
const PAGES: [[u8; 2]; 3] = [[0, 0], [0, ALL_SUBPAGES], [INFORMATIONAL_EXCEPTIONS, 0]];

pub(crate) fn sense(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    Ok(Task::answer(answer, u32::from(u16_at(&head.cdb, 7))))
}

fn answer(call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    const CUMULATIVE: u8 = 1;
    let (control, page) = (call.cdb()[2] >> 6, [call.cdb()[2] & 0x3f, call.cdb()[3]]);
    let subpage_format = if page[1] == 0 { 0 } else { 0x40 };
    answer.put(&[subpage_format | page[0], page[1], 0, 0]);
    match page {
        [0, 0] => PAGES.iter().filter(|page| page[1] == 0).for_each(|page| answer.put_u8(page[0])),
        [0, ALL_SUBPAGES] => PAGES.iter().for_each(|page| answer.put(page)),
        [INFORMATIONAL_EXCEPTIONS, 0] => {
            if control != CUMULATIVE {
                return Err(Sense::in_cdb(2, Some(7)).into());
            }
            // Parameter 0, a binary list of four bytes: no exception, no valid temperature.
            answer.put(&[0, 0, 0x03, 4, 0, 0, 0xff, 0]);
        }
        _ => return Err(Sense::in_cdb(2, Some(5)).into()),
    }
    answer.close_u16(2);
    Ok(())
}
