//! REPORT LUNS (SPC-4 section 6.33).

use crate::attention::Attention;
use crate::command::{Call, Head, Task};
use crate::field::{Answer, u32_at};
use crate::lun;
use crate::sense::{Refusal, Sense};
use crate::target::Target;

pub(crate) fn report(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    // Whoever reads the list knows it (SPC-4 section 6.33.1).
    target.each_unit(|unit| unit.attentions(head.nexus).clear(Attention::ReportedLunsChanged));
    Ok(Task::answer(answer, u32_at(&head.cdb, 6)))
}

fn answer(call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    // The conglomerate reports (10h to 12h) are asked for by some hosts: there are no administrative and no subsidiary
    // units here, so 11h, all units visible to the asker that are not subsidiary, is the plain list.
    let (units, well_known) = match call.cdb()[2] {
        0x00 | 0x11 => (true, false),
        0x01 => (false, true),
        0x02 => (true, true),
        0x10 | 0x12 => (false, false),
        _ => return Err(Sense::in_cdb(2, None).into()),
    };
    answer.put_u32(0);
    answer.put_u32(0);
    if units {
        for number in call.target.numbers() {
            answer.put(&lun::encode(number));
        }
    }
    if well_known {
        answer.put(&lun::REPORT_LUNS);
    }
    let length = (answer.length() - 8) as u32;
    answer.set(0, &length.to_be_bytes());
    Ok(())
}
