//! The disk against an emulated device, honest and otherwise.

use super::*;
use crate::emulated::{Chain, Description, Emulated, Misbehaviour};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use kernel_io::emulated::{faults, on_delay, read_memory, write_memory};

const LONGEST: usize = if cfg!(miri) { 4 << 10 } else { 24 << 10 };

/// The device's side: a disk, and what was asked of it.
#[derive(Clone)]
struct Disk {
    device: Emulated,
    bytes: Rc<RefCell<Vec<u8>>>,
    asked: Rc<RefCell<Vec<(u32, u64)>>>,
}

fn disk(features: u64) -> Disk {
    let mut bytes = vec![0; 64 << 10];
    (0..).zip(bytes.chunks_mut(512)).for_each(|(number, sector)| sector.fill(number));
    let configuration = (bytes.len() as u64 / 512).to_le_bytes().to_vec();
    let features = feature::VERSION_1 | features;
    let device =
        Emulated::new(Description { kind: 2, features, configuration, queues: vec![8], legacy: false });
    Disk { device, bytes: Rc::new(RefCell::new(bytes)), asked: Rc::default() }
}

fn part(chain: &Chain, index: usize) -> (u64, Vec<u8>, bool) {
    let (address, length, writable) = chain.parts[index];
    let mut bytes = vec![0; length as usize];
    read_memory(address, &mut bytes).expect("it was lent");
    (address, bytes, writable)
}

impl Disk {
    fn driver(&self) -> Result<Block, Error> {
        let disk = self.clone();
        on_delay(move || {
            if disk.device.is_running() {
                disk.serve(0);
            }
        });
        let block = Block::new(self.device.device().expect("vectors"), LONGEST);
        on_delay(|| {});
        block
    }

    /// Answer what is asked, with this status. Answers whether anything was.
    fn serve(&self, status: u8) -> bool {
        let Some(chain) = self.device.take(0) else { return false };
        let (_, header, writable) = part(&chain, 0);
        assert!(header.len() == 16 && !writable);
        let kind = u32::from_le_bytes(header[..4].try_into().expect("four"));
        let sector = u64::from_le_bytes(header[8..].try_into().expect("eight"));
        self.asked.borrow_mut().push((kind, sector));
        let last = chain.parts.len() - 1;
        let (place, state, writable) = part(&chain, last);
        assert!(state.len() == 1 && writable);
        let start = sector as usize * 512;
        let disk = &mut *self.bytes.borrow_mut();
        let mut written = 1;
        match kind {
            IN | GET_ID => {
                let (address, data, writable) = part(&chain, 1);
                assert!(writable);
                let id = *b"corbel-state\0\0\0\0\0\0\0\0";
                let bytes = if kind == IN { &disk[start..start + data.len()] } else { &id[..] };
                write_memory(address, bytes).expect("it was lent");
                written += data.len();
            }
            OUT => {
                let (_, data, writable) = part(&chain, 1);
                assert!(!writable);
                disk[start..start + data.len()].copy_from_slice(&data);
            }
            FLUSH => assert_eq!((last, sector), (1, 0)),
            _ => panic!("a request of kind {kind}"),
        }
        write_memory(place, &[status]).expect("it was lent");
        self.device.put(0, &chain, written as u32);
        true
    }
}

#[test]
fn it_reads_writes_and_flushes() {
    let disk = disk(feature::BLK_FLUSH);
    let mut block = disk.driver().expect("an honest device");
    assert_eq!((block.serial(), block.size(), block.is_read_only()), ("corbel-state", 64 << 10, false));
    let mut read = vec![0; 4096];
    assert_eq!(block.carry(Request::Read(8192, &mut read), 0), Poll::Pending);
    assert_eq!(block.deadline(), Some(PATIENCE));
    assert_eq!(block.carry(Request::Read(8192, &mut read), 1), Poll::Pending, "it is asked once");
    assert!(disk.serve(OK) && !disk.serve(OK));
    assert_eq!(block.carry(Request::Read(8192, &mut read), 2), Poll::Ready(Ok(())));
    assert_eq!((read[0], read[4095], block.deadline()), (16, 23, None));
    // Three times around the ring's index at 16 bits would be long; around its entries is enough.
    for round in 0..if cfg!(miri) { 6 } else { 20_u8 } {
        let bytes = vec![round; LONGEST];
        assert_eq!(block.carry(Request::Write(4096, &bytes), 0), Poll::Pending);
        assert!(disk.serve(OK));
        assert_eq!(block.carry(Request::Write(4096, &bytes), 0), Poll::Ready(Ok(())));
        assert_eq!(disk.bytes.borrow()[4096..4096 + LONGEST], bytes);
        assert_eq!(block.carry(Request::Flush, 0), Poll::Pending);
        assert!(disk.serve(OK));
        assert_eq!(block.carry(Request::Flush, 0), Poll::Ready(Ok(())));
    }
    assert_eq!(disk.asked.borrow()[1..4], [(IN, 16), (OUT, 8), (FLUSH, 0)]);
    assert_eq!(faults().len(), 0);
}

#[test]
fn a_disk_without_a_cache_is_not_flushed() {
    let disk = disk(feature::BLK_RO);
    let mut block = disk.driver().expect("an honest device");
    assert!(block.is_read_only());
    assert_eq!(block.carry(Request::Flush, 0), Poll::Ready(Ok(())));
    assert!(!disk.serve(OK));
}

#[test]
fn what_cannot_be_is_not_asked() {
    let disk = disk(0);
    let mut block = disk.driver().expect("an honest device");
    let (mut short, mut long) = (vec![0; 100], vec![0; LONGEST + 512]);
    assert_eq!(block.carry(Request::Read(0, &mut short), 0), Poll::Ready(Err(Failed)));
    assert_eq!(block.carry(Request::Read(0, &mut long), 0), Poll::Ready(Err(Failed)));
    let mut sector = vec![0; 512];
    for offset in [100, 64 << 10, u64::MAX - 511] {
        assert_eq!(block.carry(Request::Read(offset, &mut sector), 0), Poll::Ready(Err(Failed)));
        assert_eq!(block.carry(Request::Write(offset, &sector), 0), Poll::Ready(Err(Failed)));
    }
    assert!(!disk.serve(OK));
}

#[test]
fn an_error_of_the_disk_is_that_of_the_request_only() {
    let disk = disk(feature::BLK_FLUSH);
    let mut block = disk.driver().expect("an honest device");
    for status in [1, 2, 0xff] {
        assert_eq!(block.carry(Request::Flush, 0), Poll::Pending);
        assert!(disk.serve(status));
        assert_eq!(block.carry(Request::Flush, 0), Poll::Ready(Err(Failed)));
    }
    let resets = disk.device.resets();
    assert_eq!(block.carry(Request::Flush, 0), Poll::Pending);
    assert!(disk.serve(OK));
    assert_eq!(block.carry(Request::Flush, 0), Poll::Ready(Ok(())));
    assert_eq!(disk.device.resets(), resets);
}

#[test]
fn silence_and_lies_reset_it_and_it_comes_back() {
    let disk = disk(feature::BLK_FLUSH);
    let mut block = disk.driver().expect("an honest device");
    let mut read = vec![0; 512];
    let mut now = 0;
    // Silence, its own word, an identifier it does not have, too much written, an index that jumps.
    for way in 0..5 {
        assert_eq!(block.carry(Request::Read(0, &mut read), now), Poll::Pending);
        match way {
            0 => now += PATIENCE,
            1 => disk.device.need_reset(),
            2 => disk.device.lie(0, 1, 1, 1),
            3 => disk.device.lie(0, 0, 514, 1),
            _ => disk.device.lie(0, 0, 1, 2),
        }
        assert_eq!(block.carry(Request::Read(0, &mut read), now), Poll::Ready(Err(Failed)), "way {way}");
        assert!(!disk.device.is_running(), "way {way}");
        assert_eq!(block.carry(Request::Read(0, &mut read), now), Poll::Ready(Err(Failed)), "it rests");
        now += REST;
        assert_eq!(block.carry(Request::Read(512, &mut read), now), Poll::Pending);
        assert!(disk.serve(OK));
        assert_eq!(block.carry(Request::Read(512, &mut read), now), Poll::Ready(Ok(())), "way {way}");
        assert_eq!(read, [1; 512]);
    }
    assert_eq!(faults().len(), 0);
    // One that takes its cache back is not what it was.
    assert_eq!(block.carry(Request::Flush, now), Poll::Pending);
    disk.device.need_reset();
    assert_eq!(block.carry(Request::Flush, now), Poll::Ready(Err(Failed)));
    disk.device.describe(|it| it.features = feature::VERSION_1);
    now += REST;
    assert_eq!(block.carry(Request::Flush, now), Poll::Ready(Err(Failed)));
    disk.device.describe(|it| it.features |= feature::BLK_FLUSH);
    now += REST;
    assert_eq!(block.carry(Request::Flush, now), Poll::Pending);
    // One that does not come out of reset is left alone for ever.
    disk.device.misbehave(Misbehaviour { stuck: true, ..Misbehaviour::default() });
    disk.device.lie(0, 7, 1, 1);
    assert_eq!(block.carry(Request::Flush, now), Poll::Ready(Err(Failed)));
    assert_eq!(block.carry(Request::Flush, now + 10 * REST), Poll::Ready(Err(Failed)));
}

#[test]
fn idling_is_woken_by_the_end_of_a_request_and_by_nothing_else() {
    let disk = disk(feature::BLK_FLUSH);
    let mut block = disk.driver().expect("an honest device");
    assert!(!block.arm());
    assert_eq!(block.carry(Request::Flush, 0), Poll::Pending);
    assert!(!block.arm());
    assert!(disk.serve(OK));
    assert!(block.arm(), "there is something already");
    assert_eq!(block.carry(Request::Flush, 0), Poll::Ready(Ok(())));
    assert!(!block.arm());
}

#[test]
fn a_device_that_is_none_is_not_brought_up() {
    let silent = disk(0);
    assert!(Block::new(silent.device.device().expect("vectors"), LONGEST).is_err());
    let narrow = disk(0);
    narrow.device.describe(|it| it.queues = vec![2]);
    assert!(matches!(narrow.driver(), Err(Error::NoQueue(0))));
    let short = disk(0);
    short.device.describe(|it| it.configuration.truncate(7));
    assert!(matches!(short.driver(), Err(Error::Layout(_))));
    // A name of anything at all is no text, or none of anybody's.
    assert_eq!(faults().len(), 0);
}
