//! The store against a disk that forgets, fails and lies.

use crate::format::LEAST_BLOCKS;
use crate::testing::RamDisk;
use crate::{BLOCK, Change, Disk, Error, MAX_KEY, MAX_VALUE, Records, Store};
use kernel_runtime::{Executor, Instant};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

const LIMIT: usize = 64 << 10;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A change that owns what it is made of.
type Wanted = (Vec<u8>, Option<Vec<u8>>);

fn borrowed(changes: &[Wanted]) -> Vec<Change<'_>> {
    changes
        .iter()
        .map(|(key, value)| match value {
            Some(value) => Change::Put(key, value),
            None => Change::Delete(key),
        })
        .collect()
}

fn after(model: &Model, changes: &[Wanted]) -> Model {
    let mut model = model.clone();
    for (key, value) in changes {
        match value {
            Some(value) => drop(model.insert(key.clone(), value.clone())),
            None => drop(model.remove(key)),
        }
    }
    model
}

fn contents(store: &Store) -> Model {
    store.with_prefix(b"").map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// Carry requests to their end; `Err(None)` when the power has failed after `steps` of them.
fn run(store: &mut Store, disk: &RamDisk, steps: &mut u64) -> Result<(), Option<Error>> {
    while let Some(request) = store.request() {
        if *steps == 0 {
            return Err(None);
        }
        *steps -= 1;
        let result = disk.carry_out(request);
        if let Some(end) = store.done(result) {
            return end.map_err(Some);
        }
    }
    panic!("it neither goes on nor has ended")
}

fn mount(disk: &RamDisk, random: &mut Random) -> Result<Store, Error> {
    let mut identity = [0; 16];
    identity.fill_with(|| random.next() as u8);
    let mut store = Store::new(disk.blocks(), LIMIT, identity, random.next());
    match run(&mut store, disk, &mut u64::MAX.clone()) {
        Ok(()) => Ok(store),
        Err(error) => Err(error.expect("no power failure here")),
    }
}

fn change(random: &mut Random) -> Vec<Wanted> {
    let one = |random: &mut Random| {
        let key = vec![b'k', random.below(12) as u8];
        let length = match random.below(12) {
            0 => random.below(MAX_VALUE as u64),
            1..3 => random.below(4096),
            _ => random.below(200),
        };
        let fill = random.next() as u8;
        (key, (random.below(4) > 0).then(|| vec![fill; length as usize]))
    };
    (0..1 + random.below(3)).map(|_| one(random)).collect()
}

/// One history: changes, failures of the disk, and at some request a power failure, after which what was acknowledged is
/// there and nothing was invented; then the same again on that disk.
fn history(seed: u64) {
    let random = &mut Random(seed);
    let blocks = LEAST_BLOCKS + random.below(40);
    let disk = RamDisk::new(blocks);
    let mut certain = Model::new();
    // What may be there instead, until a change or a heal has succeeded.
    let mut possible: Vec<Model> = Vec::new();
    for _ in 0..6 {
        let mut store = mount(&disk, random).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let found = contents(&store);
        assert!(found == certain || possible.contains(&found), "seed {seed}: acknowledged or possible");
        (certain, possible) = (found, Vec::new());
        let mut steps = random.below(120);
        loop {
            if random.below(12) == 0 {
                disk.fail_after(Some(random.below(6) as u32));
            }
            let wanted = change(random);
            let next = after(&certain, &wanted);
            match store.begin(&borrowed(&wanted)) {
                Ok(()) => {}
                Err(Error::Full | Error::TooLong) => {
                    if steps == 0 {
                        break;
                    }
                    steps -= 1;
                    continue;
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
            match run(&mut store, &disk, &mut steps) {
                Ok(()) => (certain, possible) = (next, Vec::new()),
                Err(Some(error)) => {
                    assert_eq!(error, Error::Disk, "seed {seed}");
                    disk.fail_after(None);
                    possible.push(next);
                    if random.below(2) == 0 {
                        store.heal();
                        match run(&mut store, &disk, &mut steps) {
                            Ok(()) => possible.clear(),
                            Err(None) => break,
                            Err(Some(error)) => panic!("seed {seed}: {error}"),
                        }
                    }
                }
                Err(None) => {
                    possible.push(next);
                    break;
                }
            }
            assert_eq!(contents(&store), certain, "seed {seed}: what is here is what was acknowledged");
        }
        disk.power_failure(|| random.next());
    }
}

#[test]
fn what_was_acknowledged_outlives_any_power_failure_and_nothing_is_invented() {
    for seed in 0..1500 {
        history(seed);
    }
}

#[test]
fn every_request_of_a_history_may_be_the_last() {
    // The same changes, with the power failing before each request in turn.
    for seed in 0..20 {
        for last in 0.. {
            let random = &mut Random(seed);
            let disk = RamDisk::new(LEAST_BLOCKS);
            let mut store = mount(&disk, random).expect("a blank disk");
            let (mut model, mut steps, mut cut) = (Model::new(), last, None);
            for _ in 0..20 {
                let wanted = change(random);
                let next = after(&model, &wanted);
                if store.begin(&borrowed(&wanted)).is_err() {
                    continue;
                }
                if run(&mut store, &disk, &mut steps).is_err() {
                    cut = Some(next);
                    break;
                }
                model = next;
            }
            disk.power_failure(|| random.next());
            let found = contents(&mount(&disk, random).expect("its disk"));
            let Some(next) = cut else {
                assert_eq!(found, model);
                break;
            };
            assert!(found == model || found == next, "seed {seed}, request {last}");
        }
    }
}

#[test]
fn what_an_unfinished_snapshot_has_left_is_nothing_to_the_next() {
    let big = vec![7; MAX_VALUE];
    for cut in 0.. {
        let (disk, random) = (RamDisk::new(129), &mut Random(cut));
        let mut store = mount(&disk, random).expect("blank");
        let keep = |store: &mut Store, change: Change<'_>, mut steps: u64| {
            store.begin(&[change]).expect("room");
            run(store, &disk, &mut steps).is_ok()
        };
        for key in [b"a", b"z"] {
            assert!(keep(&mut store, Change::Put(key, &big), 99));
        }
        // Until one block is left behind what is there.
        while store.half.expect("one").end + 1 < store.label.half {
            assert!(keep(&mut store, Change::Put(b"b", b""), 99));
        }
        // A snapshot of two records whose head is never written.
        assert!(!keep(&mut store, Change::Put(b"b", &big[..5000]), 5));
        disk.power_failure(|| 1);
        let mut store = mount(&disk, random).expect("its disk");
        assert!(keep(&mut store, Change::Delete(b"z"), 99));
        // One of one record in the same place, and the power fails somewhere on the way.
        let whole = keep(&mut store, Change::Put(b"c", b""), cut);
        disk.power_failure(|| 1);
        let found = mount(&disk, random).expect("its disk");
        assert_eq!((found.get(b"a").is_some(), found.get(b"z")), (true, None), "cut {cut}");
        if whole {
            break;
        }
    }
}

#[test]
fn a_blank_disk_becomes_ours_and_stays_so() {
    let (disk, random) = (RamDisk::new(600), &mut Random(1));
    let mut store = mount(&disk, random).expect("blank");
    let identity = store.identity();
    store.begin(&[Change::Put(b"a", b"1"), Change::Put(b"b", b""), Change::Delete(b"c")]).expect("room");
    assert_eq!(store.begin(&[]), Err(Error::Busy));
    run(&mut store, &disk, &mut 99).expect("kept");
    assert_eq!((store.get(b"a"), store.get(b"b"), store.get(b"c")), (Some(&b"1"[..]), Some(&b""[..]), None));
    disk.power_failure(|| 0);
    let store = mount(&disk, random).expect("ours");
    assert_eq!(store.identity(), identity);
    let found: Vec<_> = store.with_prefix(b"a").collect();
    assert_eq!(found, [(&b"a"[..], &b"1"[..])]);
}

#[test]
fn what_is_not_ours_is_left_as_it_is() {
    let random = &mut Random(2);
    // One byte anywhere in what would be ours makes it somebody else's.
    for at in [0, 511, 1080, BLOCK, 65536, (LEAST_BLOCKS as usize) * BLOCK - 1] {
        let disk = RamDisk::new(LEAST_BLOCKS);
        disk.edit(|bytes| bytes[at] = 1);
        assert_eq!(mount(&disk, random).err(), Some(Error::Foreign), "byte {at}");
        disk.edit(|bytes| {
            assert_eq!(bytes[at], 1);
            bytes[at] = 0;
            assert!(bytes.iter().all(|byte| *byte == 0), "nothing was written");
        });
        assert!(mount(&disk, random).is_ok());
    }
    assert_eq!(mount(&RamDisk::new(LEAST_BLOCKS - 1), random).err(), Some(Error::TooSmall));
    // Ours, of another version, and on a disk that has shrunk.
    let disk = RamDisk::new(LEAST_BLOCKS + 2);
    mount(&disk, random).expect("blank");
    let smaller = RamDisk::new(LEAST_BLOCKS);
    disk.edit(|bytes| smaller.edit(|other| other.copy_from_slice(&bytes[..other.len()])));
    assert_eq!(mount(&smaller, random).err(), Some(Error::TooSmall));
    disk.edit(|bytes| {
        bytes[8] = 9;
        let sum = crate::checksum::crc32c(&[&bytes[..508]]);
        bytes[508..512].copy_from_slice(&sum.to_le_bytes());
    });
    assert_eq!(mount(&disk, random).err(), Some(Error::Version(9)));
}

#[test]
fn damage_to_what_was_acknowledged_is_told_and_not_passed_over() {
    let random = &mut Random(3);
    let disk = RamDisk::new(LEAST_BLOCKS);
    let mut store = mount(&disk, random).expect("blank");
    // Twice around, so that both halves have been in use.
    for round in 0..70_u8 {
        store.begin(&[Change::Put(b"key", &[round; 100])]).expect("room");
        run(&mut store, &disk, &mut u64::MAX.clone()).expect("kept");
    }
    let half = (LEAST_BLOCKS as usize - 1) / 2 * BLOCK;
    let heads = [BLOCK, BLOCK + half];
    let mut told = 0;
    for at in heads.into_iter().chain(heads.map(|at| at + BLOCK)) {
        disk.edit(|bytes| bytes[at + 40] ^= 1);
        match mount(&disk, random) {
            Err(error) => told += usize::from(error == Error::Corrupt),
            // A record of the half that is not in use.
            Ok(store) => assert_eq!(store.get(b"key"), Some(&[69; 100][..])),
        }
        disk.edit(|bytes| bytes[at + 40] ^= 1);
    }
    assert_eq!(told, 3, "both heads, and the snapshot in use");
}

#[test]
fn a_rotten_record_is_not_taken_for_the_end_of_the_log() {
    let random = &mut Random(7);
    // Bytes of the header, the last of the first sector, and one behind it.
    let rotten = [0, 5, 8, 16, 24, 40, 511, 1000];
    let lengths = [100, 100, 5000, 9000, 1000, MAX_VALUE, 100, 3000, 100, MAX_VALUE, 1000];
    let disk = RamDisk::new(LEAST_BLOCKS + 200);
    let mut store = mount(&disk, random).expect("blank");
    let mut starts = Vec::new();
    for (key, length) in lengths.into_iter().enumerate() {
        store.begin(&[Change::Put(&[key as u8], &vec![7; length])]).expect("room");
        run(&mut store, &disk, &mut u64::MAX.clone()).expect("kept");
        let half = store.half.expect("one");
        assert_eq!(half.index, 0, "one log");
        starts.push((1 + half.end as usize) * BLOCK - (length + 35).next_multiple_of(BLOCK));
    }
    let (last, acknowledged) = starts.split_last().expect("some");
    for (key, (start, length)) in acknowledged.iter().zip(lengths).enumerate() {
        for at in rotten.into_iter().filter(|at| *at < length) {
            // Also where the record behind it is not whole either.
            for damage in [&[*start + at][..], &[*start + at, starts[key + 1] + 41]] {
                let rot = || disk.edit(|bytes| damage.iter().for_each(|at| bytes[*at] ^= 0x80));
                rot();
                assert_eq!(mount(&disk, random).err(), Some(Error::Corrupt), "record {key}, {damage:?}");
                rot();
            }
        }
    }
    // Of the last nobody knows whether it was ever whole, unless it is of one sector.
    disk.edit(|bytes| bytes[last + 600] ^= 1);
    let mut store = mount(&disk, random).expect("a torn record is the end");
    assert_eq!(contents(&store).len(), lengths.len() - 1);
    store.begin(&[Change::Put(b"small", b"value")]).expect("room");
    run(&mut store, &disk, &mut u64::MAX.clone()).expect("kept");
    assert!(mount(&disk, random).is_ok());
    disk.edit(|bytes| bytes[last + 36] ^= 1);
    assert_eq!(mount(&disk, random).err(), Some(Error::Corrupt));
}

#[test]
fn random_bytes_of_a_disk_are_survived() {
    let random = &mut Random(4);
    for seed in 0..400 {
        let disk = RamDisk::new(LEAST_BLOCKS);
        let mut store = mount(&disk, random).expect("blank");
        for _ in 0..random.below(30) {
            let wanted = change(random);
            if store.begin(&borrowed(&wanted)).is_ok() {
                run(&mut store, &disk, &mut u64::MAX.clone()).expect("kept");
            }
        }
        disk.edit(|bytes| {
            for _ in 0..1 + random.below(40) {
                let at = random.below(bytes.len() as u64) as usize;
                let at = if random.below(2) == 0 { at % (4 * BLOCK) } else { at };
                bytes[at] = random.next() as u8;
            }
        });
        if let Ok(store) = mount(&disk, random) {
            assert!(contents(&store).len() <= 12, "seed {seed}");
        }
    }
}

#[test]
fn a_full_disk_says_so_and_loses_nothing() {
    let random = &mut Random(5);
    let disk = RamDisk::new(LEAST_BLOCKS);
    let mut store = mount(&disk, random).expect("blank");
    let value = [7; 1000];
    let mut kept = 0_u32;
    loop {
        match store.begin(&[Change::Put(&kept.to_be_bytes(), &value)]) {
            Ok(()) => run(&mut store, &disk, &mut u64::MAX.clone()).expect("kept"),
            Err(error) => {
                assert_eq!(error, Error::Full);
                break;
            }
        }
        kept += 1;
    }
    assert!(kept >= 50, "{kept} of 1000 bytes each in half of {LEAST_BLOCKS} blocks");
    let mut store = mount(&disk, random).expect("its disk");
    assert_eq!(contents(&store).len(), kept as usize);
    // What gives space back is always possible, also as part of a larger change.
    let last = (kept - 1).to_be_bytes();
    store.begin(&[Change::Delete(&last), Change::Put(b"new", &value[..900])]).expect("as much as before");
    run(&mut store, &disk, &mut u64::MAX.clone()).expect("kept");
    let mut small = Store::new(disk.blocks(), 1000, [0; 16], 0);
    assert_eq!(run(&mut small, &disk, &mut u64::MAX.clone()), Err(Some(Error::Full)), "too little memory");
    assert_eq!(small.begin(&[]), Err(Error::Disk), "what was not read is not written over");
    assert!(small.request().is_none());
}

#[test]
fn what_is_too_long_is_refused() {
    let (disk, random) = (RamDisk::new(600), &mut Random(6));
    let mut store = mount(&disk, random).expect("blank");
    let (long, value) = ([1; MAX_KEY + 1], vec![0; MAX_VALUE + 1]);
    let wrong: [&[Change<'_>]; 4] = [
        &[Change::Put(b"", b"")],
        &[Change::Delete(&long)],
        &[Change::Put(b"a", &value)],
        &[Change::Put(b"a", &value[1..]), Change::Put(b"b", &value[1..])],
    ];
    for changes in wrong {
        assert_eq!(store.begin(changes), Err(Error::TooLong));
    }
    store.begin(&[Change::Put(&long[1..], &value[1..])]).expect("as long as may be");
    run(&mut store, &disk, &mut 99).expect("kept");
}

/// Runs turns until a task has said something.
struct World {
    executor: Executor,
    records: Records,
    now: Instant,
    said: Rc<RefCell<Vec<Result<(), Error>>>>,
}

impl World {
    fn new(disk: &RamDisk) -> Self {
        let records = Records::open(Box::new(disk.clone()), LIMIT, ([1; 16], 1), || Instant::ZERO);
        let records = records.unwrap_or_else(|error| panic!("{error}"));
        Self { executor: Executor::new(64), records, now: Instant::ZERO, said: Rc::default() }
    }

    fn keep(&mut self, key: &'static [u8]) {
        let (records, said) = (self.records.clone(), self.said.clone());
        self.executor.add("keeper", async move {
            let result = records.keep(&[Change::Put(key, b"value")]).await;
            said.borrow_mut().push(result);
        });
    }

    fn turns(&mut self) -> Vec<Result<(), Error>> {
        for _ in 0..8 {
            self.executor.run_ready(self.now);
            self.records.turn(self.now);
        }
        std::mem::take(&mut self.said.borrow_mut())
    }
}

#[test]
fn tasks_wait_for_their_changes_one_after_the_other() {
    let disk = RamDisk::new(600);
    let mut world = World::new(&disk);
    disk.hang(true);
    for key in [b"a", b"b", b"c"] {
        world.keep(key);
    }
    assert_eq!(world.turns(), []);
    assert_eq!(world.records.get(b"a"), None, "not before it is durable");
    disk.hang(false);
    assert_eq!(world.turns(), [Ok(()); 3]);
    disk.power_failure(|| 0);
    let world = World::new(&disk);
    assert!([b"a", b"b", b"c"].iter().all(|key| world.records.get(*key).is_some()));
}

#[test]
fn a_disk_that_has_failed_is_left_alone_for_a_while_and_then_healed() {
    let disk = RamDisk::new(600);
    let mut world = World::new(&disk);
    world.keep(b"a");
    assert_eq!(world.turns(), [Ok(())]);
    disk.fail_after(Some(0));
    world.keep(b"b");
    assert_eq!(world.turns(), [Err(Error::Disk)]);
    let before = disk.requests();
    world.keep(b"c");
    assert_eq!(world.turns(), [Err(Error::Disk)], "at once");
    assert_eq!(disk.requests(), before);
    let retry = world.records.next_deadline().expect("another attempt");
    assert_eq!(retry, Instant::ZERO + Duration::from_secs(5));
    disk.fail_after(None);
    world.now = retry;
    assert_eq!(world.turns(), []);
    assert_eq!(world.records.next_deadline(), None);
    // Whatever the failed write has left on the disk is nothing any more.
    let again = World::new(&disk);
    assert_eq!((again.records.get(b"a").is_some(), again.records.get(b"b")), (true, None));
    world.keep(b"d");
    assert_eq!(world.turns(), [Ok(())]);
}
