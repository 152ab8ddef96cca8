//! The score by family, ours beside that of others.

use super::score::{Outcome, Score};
use std::fmt::Write as _;

/// What stands at the head of each column after ours.
const PEERS: [&str; 5] = ["tgt 1.0.85", "SCST 3.11-pre", "LIO 6.12", "SPDK 24.01", "istgt 0.4"];

/// A family: its name, how the names of its suites begin, and the scores of others: passed, failed, skipped and, behind
/// a +, unfinished. They were measured in the same way: one process a suite, writing allowed, two paths; tgt with the unit
/// it does best on, which is thin and removable.
type Family = (&'static str, &'static [&'static str], [&'static str; 5]);

#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    ("CompareAndWrite", &["CompareAndWrite"], ["0/0/5", "3/2/0", "2/2/1", "1/2/2", "1/3/1"]),
    ("ExtendedCopy", &["ExtendedCopy"], ["0/0/6", "4/2/0", "6/0/0", "0/1/5", "0/0/6"]),
    ("GetLBAStatus", &["GetLBAStatus"], ["1/2/0", "1/0/2", "0/0/3", "0/0/3", "0/0/3"]),
    ("Inquiry", &["Inquiry"], ["7/0/0", "7/0/0", "7/0/0", "6/1/0", "5/2/0"]),
    ("Mandatory, NoMedia, TestUnitReady, ReadCapacity10", &["Mandatory", "NoMedia", "TestUnitReady", "ReadCapacity10"], ["3/0/1", "4/0/0", "4/0/0", "4/0/0", "4/0/0"]),
    ("ModeSense6", &["ModeSense6"], ["5/0/0", "4/1/0", "5/0/0", "5/0/0", "2/1/0+1"]),
    ("OrWrite", &["OrWrite"], ["6/0/0", "0/0/6", "0/0/6", "0/0/6", "0/0/6"]),
    ("Prefetch10, 16", &["Prefetch"], ["8/0/0", "0/0/8", "0/0/8", "0/0/8", "0/0/8"]),
    ("PreventAllow", &["PreventAllow"], ["4/2/2", "0/0/8", "0/0/8", "0/0/8", "0/0/8"]),
    ("Prin (3 suites)", &["Prin"], ["3/1/0", "4/0/0", "4/0/0", "2/2/0", "4/0/0"]),
    ("Prout (4 suites)", &["Prout"], ["12/4/0", "16/0/0", "16/0/0", "10/6/0", "4/12/0"]),
    ("Read6, 10, 12, 16", &["Read6", "Read10", "Read12", "Read16"], ["18/0/0", "18/0/0", "18/0/0", "12/6/0", "4/4/0+3"]),
    ("ReadCapacity16", &["ReadCapacity16"], ["4/0/0", "4/0/0", "4/0/0", "4/0/0", "1/0/0+1"]),
    ("ReadDefectData10, 12, ReadOnly", &["ReadDefectData", "ReadOnly"], ["0/0/3", "0/0/3", "0/0/3", "0/0/3", "0/0/3"]),
    ("ReceiveCopyResults", &["ReceiveCopyResults"], ["0/0/2", "2/0/0", "1/1/0", "0/0/2", "0/0/2"]),
    ("ReportSupportedOpcodes", &["ReportSupportedOpcodes"], ["3/0/1", "4/0/0", "3/0/1", "0/0/4", "0/0/4"]),
    ("Reserve6", &["Reserve6"], ["4/1/2", "5/2/0", "4/1/2", "1/4/2", "1/6/0"]),
    ("Sanitize", &["Sanitize"], ["0/0/11", "0/0/11", "0/1/10", "0/2/9", "0/0/8+1"]),
    ("StartStopUnit", &["StartStopUnit"], ["3/0/0", "2/0/1", "2/0/1", "2/0/1", "2/0/1"]),
    ("Unmap", &["Unmap"], ["2/1/0", "2/1/0", "3/0/0", "3/0/0", "0/0/3"]),
    ("Verify10, 12, 16", &["Verify"], ["24/0/0", "24/0/0", "10/6/8", "0/0/24", "9/15/0"]),
    ("Write10, 12, 16", &["Write10", "Write12", "Write16"], ["16/0/0", "16/0/0", "16/0/0", "10/6/0", "3/3/0+3"]),
    ("WriteAtomic16", &["WriteAtomic16"], ["0/0/6", "0/0/6", "0/0/6", "0/0/6", "0/0/6"]),
    ("WriteSame10, 16", &["WriteSame"], ["20/0/0", "16/2/2", "14/0/6", "6/6/8", "4/8/8"]),
    ("WriteVerify10, 12, 16", &["WriteVerify"], ["18/0/0", "18/0/0", "12/0/6", "0/0/18", "3/3/0+3"]),
    ("iSCSIcmdsn", &["iSCSIcmdsn"], ["2/0/0", "2/0/0", "2/0/0", "2/0/0", "2/0/0"]),
    ("iSCSIdatasn", &["iSCSIdatasn"], ["0/1/0", "0/1/0", "0/1/0", "1/0/0", "0/1/0"]),
    ("iSCSIResiduals", &["iSCSIResiduals"], ["10/0/0", "9/1/0", "4/5/1", "0/7/3", "0/10/0"]),
    ("iSCSITMF", &["iSCSITMF"], ["2/0/0", "1/1/0", "2/0/0", "1/1/0", "2/0/0"]),
    ("MultipathIO", &["MultipathIO"], ["2/1/1", "4/0/0", "4/0/0", "3/1/0", "3/1/0"]),
    ("all 230", &[""], ["177/13/40", "170/13/47", "143/17/70", "73/45/112", "54/69/67+12"]),
];

/// Rows of cells: the head, then a row a family.
fn rows(score: &Score) -> Vec<Vec<String>> {
    let head = ["passed/failed/skipped", "here"].into_iter().chain(PEERS).map(str::to_string).collect();
    let mut rows: Vec<Vec<String>> = vec![head];
    for (name, begins, peers) in FAMILIES {
        let is_one = |suite: &str| begins.iter().any(|begin| suite.starts_with(begin));
        let [pass, fail, skip, unfinished] =
            [Outcome::Pass, Outcome::Fail, Outcome::Skip, Outcome::Unfinished]
                .map(|outcome| score.count_in(is_one, outcome));
        let mut ours = format!("{pass}/{fail}/{skip}");
        if unfinished > 0 {
            let _ = write!(ours, "+{unfinished}");
        }
        rows.push([(*name).to_string(), ours].into_iter().chain(peers.map(str::to_string)).collect());
    }
    rows
}

/// The table for a screen.
pub(crate) fn table(score: &Score) -> String {
    let mut text = String::new();
    for row in rows(score) {
        let _ = write!(text, "{:52}", row[0]);
        for cell in &row[1..] {
            let _ = write!(text, "{cell:>14}");
        }
        text.push('\n');
    }
    text
}

/// The document that publishes the score.
pub(crate) fn document(score: &Score) -> String {
    let mut text = String::from(
        "# libiscsi's conformance suite\n\n\
         Made by `CORBEL_SCORE=update cargo test --test interop suite` from what was measured; every run of the tests\n\
         measures it again and fails if a test fails, or passes no more. How it is counted: [README.md](README.md).\n\n",
    );
    for (number, row) in rows(score).iter().enumerate() {
        let _ = writeln!(text, "| {} |", row.join(" | "));
        if number == 0 {
            let _ = writeln!(text, "{}|", "|---".repeat(row.len()));
        }
    }
    text
}

#[test]
fn the_families_of_each_peer_add_up_to_its_total() {
    let numbers =
        |cell: &str| cell.split(['/', '+']).map(|word| word.parse::<u32>().unwrap()).collect::<Vec<_>>();
    let (total, families) = FAMILIES.split_last().unwrap();
    for peer in 0..3 {
        let mut sum = vec![0; 3];
        for (_, _, cells) in families {
            sum.iter_mut().zip(numbers(cells[peer])).for_each(|(sum, number)| *sum += number);
        }
        assert_eq!(sum, numbers(total.2[peer]), "{}", PEERS[peer]);
    }
}
