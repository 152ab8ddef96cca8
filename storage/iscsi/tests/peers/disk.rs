//! A disk in memory that knows the few SCSI commands the tools send.

use std::sync::{Arc, Mutex};

/// Bytes on the disk.
pub(crate) const SIZE: usize = 32 << 20;
const BLOCK: usize = 512;
const LUN: [u8; 8] = [0, 1, 0, 0, 0, 0, 0, 0];

/// What a command comes to.
pub(crate) enum Answer {
    /// GOOD, with this data.
    Data(Vec<u8>),
    /// So many bytes are to be written there.
    Write { at: usize, length: usize },
    /// CHECK CONDITION.
    Sense([u8; 18]),
}

pub(crate) struct Disk(Arc<Mutex<Vec<u8>>>);

fn sense(key: u8, code: u8, qualifier: u8) -> Answer {
    Answer::Sense([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0])
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, &byte| number << 8 | usize::from(byte))
}

impl Disk {
    pub(crate) fn new(memory: Arc<Mutex<Vec<u8>>>) -> Self {
        Self(memory)
    }

    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        self.0.lock().expect("the disk")[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn execute(&self, cdb: &[u8; 16], lun: [u8; 8]) -> Answer {
        let blocks = (SIZE / BLOCK) as u64;
        match cdb[0] {
            0x12 => {
                let mut data = inquiry(cdb);
                if lun != LUN && !data.is_empty() {
                    data[0] = 0x7f;
                }
                data.truncate(number(&cdb[3..5]));
                Answer::Data(data)
            }
            0xa0 => {
                let mut data = vec![0, 0, 0, 8, 0, 0, 0, 0];
                data.extend(LUN);
                data.truncate(number(&cdb[6..10]));
                Answer::Data(data)
            }
            _ if lun != LUN => sense(5, 0x25, 0),
            0x00 | 0x35 | 0x91 => Answer::Data(Vec::new()),
            0x03 => Answer::Data(vec![0x70, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            0x1a => Answer::Data(vec![3, 0, 0x10, 0]),
            0x25 => Answer::Data([(blocks as u32 - 1).to_be_bytes(), (BLOCK as u32).to_be_bytes()].concat()),
            0x9e if cdb[1] & 0x1f == 0x10 => {
                let mut data = [&(blocks - 1).to_be_bytes()[..], &(BLOCK as u32).to_be_bytes()].concat();
                data.resize(32, 0);
                data.truncate(number(&cdb[10..14]));
                Answer::Data(data)
            }
            0x28 | 0x2a | 0x2e => self.transfer(cdb[0] == 0x28, number(&cdb[2..6]), number(&cdb[7..9])),
            0xa8 | 0xaa | 0xae => self.transfer(cdb[0] == 0xa8, number(&cdb[2..6]), number(&cdb[6..10])),
            0x88 | 0x8a | 0x8e => self.transfer(cdb[0] == 0x88, number(&cdb[2..10]), number(&cdb[10..14])),
            _ => sense(5, 0x20, 0),
        }
    }

    fn transfer(&self, read: bool, lba: usize, count: usize) -> Answer {
        let end = lba.checked_add(count).filter(|&end| end <= SIZE / BLOCK);
        let Some(end) = end else { return sense(5, 0x21, 0) };
        if read {
            let disk = self.0.lock().expect("the disk");
            Answer::Data(disk[lba * BLOCK..end * BLOCK].to_vec())
        } else {
            Answer::Write { at: lba * BLOCK, length: count * BLOCK }
        }
    }
}

fn inquiry(cdb: &[u8; 16]) -> Vec<u8> {
    let page = |code: u8, body: &[u8]| [&[0, code, 0, body.len() as u8][..], body].concat();
    match (cdb[1] & 1, cdb[2]) {
        (0, _) => {
            let mut data = vec![0, 0, 6, 2, 31, 0, 0, 2];
            data.extend(b"CORBEL  RAM DISK        1   ");
            data
        }
        (_, 0x80) => page(0x80, b"0123456789"),
        (_, 0x83) => page(0x83, &[1, 3, 0, 8, 0x30, 0, 0, 0, 0, 0, 0, 1]),
        _ => page(0, &[0, 0x80, 0x83]),
    }
}
