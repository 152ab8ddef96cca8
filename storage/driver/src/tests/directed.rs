//! Single scenarios, step by step.

use crate::driver::Limits;
use crate::{Dial, Driver, Event, Rate, Settings};
use kernel_runtime::Instant;
use std::time::Duration;
use storage_block::{Arrived, Completion, Delivery, Error, Operation, Pool, Recipient, Request, Share};
use storage_nbd::testing::{self, Disk, Session, Shape};
use storage_nbd::wire::{command, error};
use storage_nbd::{Mismatch, Retry, TransmissionFlags, Writer};

const BLOCK: usize = 512;

struct Bench {
    now: Instant,
    driver: Driver,
    settings: testing::Settings,
    disk: Disk,
    sessions: Vec<Option<Session>>,
    share: Share,
    done: Vec<Completion>,
    /// Whoever has a use for what is read where it lies, if anybody.
    taker: Option<Taker>,
}

/// Ends reads by what they bring, and keeps the first byte of each; and how often it was offered a read that was not whole.
#[derive(Default)]
struct Taker(Vec<(u64, u8)>, usize);

impl Recipient for Taker {
    fn deliver(&mut self, cookie: u64, arrived: &Arrived<'_>) -> Delivery {
        if !arrived.is_last {
            self.1 += 1;
            return Delivery::Used(0);
        }
        self.0.push((cookie, *arrived.had.first().unwrap_or(&arrived.come[0])));
        Delivery::Ended
    }
}

impl Bench {
    /// One connection, which is up.
    fn open() -> Self {
        let mut bench = Self::new(1, Rate::default(), |_| {});
        assert!(bench.dial(0));
        bench.carry(0);
        bench
    }

    fn new(paths: usize, rate: Rate, change: impl FnOnce(&mut testing::Settings)) -> Self {
        let mut settings = testing::Settings::default();
        settings.flags.0 |= TransmissionFlags::CAN_MULTI_CONN.0;
        change(&mut settings);
        let limits = Limits {
            nbd: storage_nbd::Limits { slots: 4, ..storage_nbd::Limits::DEFAULT },
            paths,
            entries: 64,
            hold: Duration::from_secs(25),
            hold_off: Duration::from_secs(30),
            flush_after: Duration::from_secs(10),
        };
        let journal = Pool::new(&[(2048, 64)]);
        let journal = journal.share(journal.capacity());
        let set = Settings {
            nbd: storage_nbd::Settings {
                writer: Some(Writer { generation: 1, owner: "test" }),
                ..storage_nbd::Settings::of("disk")
            },
            portals: 1,
            seed: 7,
            rate,
            portals_fence: false,
            assume_durable: false,
        };
        Self {
            now: Instant::from_micros(1_000_000),
            driver: Driver::new(Instant::ZERO, &limits, &set, journal).expect("sound"),
            settings,
            disk: Disk::new(96 * BLOCK),
            sessions: (0..paths).map(|_| None).collect(),
            share: Pool::new(&[(2048, 64)]).share(1 << 30),
            done: Vec::new(),
            taker: None,
        }
    }
    /// A write was acknowledged and is not durable; then the connection was lost, and a new one stands to an export that is
    /// read-only now, of a service that tells this incarnation.
    fn become_read_only(incarnation: Option<&str>) -> Self {
        let mut bench =
            Self::new(1, Rate::default(), |settings| settings.incarnation = incarnation.map(Into::into));
        assert!(bench.dial(0));
        bench.carry(0);
        bench.push(1, WRITE, 0, 1, 0xa1);
        bench.all(0);
        bench.settings.flags.0 |= TransmissionFlags::READ_ONLY.0;
        bench.lose(0);
        bench.wait(1000);
        assert!(bench.dial(0));
        bench
    }
    fn dial(&mut self, path: usize) -> bool {
        if self.sessions[path].is_some() || !matches!(self.driver.dial(path, self.now), Dial::Now(_)) {
            return false;
        }
        self.driver.connected(path, self.now);
        self.sessions[path] = Some(Session::new(&self.settings, &self.disk));
        true
    }
    /// Bytes both ways; answers whether the connection has ended.
    fn carry(&mut self, path: usize) -> Option<crate::End> {
        for _ in 0..8 {
            self.driver.dispatch(self.now);
            if self.sessions[path].is_none() {
                break;
            }
            if let Err(end) = self.driver.handle_timeout(path, self.now) {
                self.lose(path);
                return Some(end);
            }
            let session = self.sessions[path].as_mut().expect("there");
            while let Some(bytes) = self.driver.poll_transmit(path) {
                let count = bytes.len();
                session.receive(bytes);
                if let Err(end) = self.driver.transmitted(path, self.now, count) {
                    self.lose(path);
                    return Some(end);
                }
            }
            let session = self.sessions[path].as_mut().expect("there");
            let bytes: Vec<u8> = session.output.drain(..).collect();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let taken = if let Some(taker) = &mut self.taker {
                    self.driver.take(path, self.now, rest, taker)
                } else {
                    let space = self.driver.space(path);
                    let count = space.len().min(rest.len());
                    space[..count].copy_from_slice(&rest[..count]);
                    self.driver.received(path, self.now, count).map(|()| count)
                };
                match taken {
                    Ok(count) => rest = &rest[count..],
                    Err(end) => {
                        self.lose(path);
                        return Some(end);
                    }
                }
            }
        }
        while let Some(event) = self.driver.poll_event() {
            if let Event::Completed(completion) = event {
                self.done.push(completion);
            }
        }
        None
    }
    /// The client's side of the connection is gone; what the server has of it is handed out.
    fn lose(&mut self, path: usize) -> Session {
        self.driver.disconnected(path, self.now, Retry::Soon);
        self.sessions[path].take().expect("there")
    }
    fn grant(&mut self, path: usize) {
        self.session(path).fence(true);
    }
    fn session(&mut self, path: usize) -> &mut Session {
        self.sessions[path].as_mut().expect("there")
    }
    fn push(&mut self, cookie: u64, operation: Operation, block: usize, count: usize, fill: u8) {
        let buffer = operation.carries_data().then(|| {
            let mut buffer = self.share.take(count * BLOCK).expect("a buffer");
            buffer.fill(fill);
            buffer
        });
        let (offset, length) = ((block * BLOCK) as u64, (count * BLOCK) as u64);
        self.driver.push(self.now, Request { cookie, operation, offset, length, buffer });
    }
    fn find(&mut self, path: usize, what: u16) -> usize {
        let waiting = &self.session(path).waiting;
        waiting.iter().position(|waiting| waiting.request.command == what).expect("it was sent")
    }
    fn answer(&mut self, path: usize, what: u16, shape: Shape) {
        let index = self.find(path, what);
        let disk = &mut self.disk;
        self.sessions[path].as_mut().expect("there").execute(disk, index, shape);
    }
    fn all(&mut self, path: usize) {
        for _ in 0..50 {
            self.carry(path);
            while self.sessions[path].as_ref().is_some_and(|session| !session.waiting.is_empty()) {
                let disk = &mut self.disk;
                self.sessions[path].as_mut().expect("there").execute(disk, 0, Shape::Plain);
            }
        }
    }
    fn result(&self, cookie: u64) -> Option<Result<(), Error>> {
        self.done.iter().find(|done| done.cookie == cookie).map(|done| done.result)
    }
    fn wait(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
    }
}

const WRITE: Operation = Operation::Write { fua: false };

#[test]
fn a_fence_that_named_a_connection_alive_does_not_end_the_quarantine_of_that_connection() {
    let mut bench = Bench::new(2, Rate::default(), |settings| {
        settings.incarnation = Some("life-1".into());
        settings.fencing = true;
    });
    assert!(bench.dial(0));
    bench.carry(0);
    bench.grant(0);
    bench.carry(0);
    // The second connection claims, and names the first as alive; the service has yet to answer.
    assert!(bench.dial(1));
    bench.carry(1);
    assert_eq!(bench.session(1).fence_request().expect("a claim").alive, [1]);
    // A write goes by the first, which then is lost.
    bench.push(1, WRITE, 0, 1, 0xa1);
    bench.carry(0);
    bench.find(0, command::WRITE);
    let mut ghost = bench.lose(0);
    bench.grant(1);
    bench.all(1);
    let path = usize::from(bench.sessions[1].is_some());
    if path == 0 {
        // It claims anew, and names nobody: now the first connection is over, and what came by it.
        bench.wait(1000);
        assert!(bench.dial(0));
        bench.carry(0);
        assert_eq!(bench.session(0).fence_request().expect("a claim").alive, []);
        ghost.cut();
        bench.grant(0);
        bench.all(0);
    }
    assert_eq!(bench.result(1), Some(Ok(())));
    bench.push(2, WRITE, 0, 1, 0xa2);
    bench.all(path);
    let was_acknowledged = bench.result(2) == Some(Ok(()));
    // The service was told that the first connection lives: it is free to execute what came by it.
    if !ghost.is_cut() {
        ghost.execute(&mut bench.disk, 0, Shape::Plain);
    }
    assert!(!was_acknowledged || bench.disk.content()[0] == 0xa2, "an acknowledged write was undone");
}

#[test]
fn a_flush_beside_a_durable_write_that_failed_is_not_believed() {
    let mut bench = Bench::open();
    bench.push(1, WRITE, 0, 1, 0xa1);
    bench.all(0);
    assert_eq!(bench.result(1), Some(Ok(())));
    bench.push(2, Operation::Write { fua: true }, 8, 1, 0xb1);
    bench.push(3, Operation::Flush, 0, 0, 0);
    bench.carry(0);
    // Making the second write durable fails, and what was in the cache is dropped; the flush behind it finds nothing.
    bench.disk.crash();
    bench.answer(0, command::WRITE, Shape::Error(error::EIO));
    bench.answer(0, command::FLUSH, Shape::Plain);
    bench.all(0);
    assert_ne!(bench.result(3), None);
    let durable = bench.disk.durable()[0] == 0xa1;
    assert!(bench.result(3) != Some(Ok(())) || durable, "flushed, and lost: {:?}", bench.driver.status());
}

#[test]
fn a_flush_answered_before_a_durable_write_that_failed_is_not_believed() {
    let mut bench = Bench::open();
    bench.push(1, WRITE, 0, 1, 0xa1);
    bench.all(0);
    bench.push(2, Operation::Write { fua: true }, 8, 1, 0xb1);
    bench.push(3, Operation::Flush, 0, 0, 0);
    bench.carry(0);
    bench.disk.crash();
    bench.answer(0, command::FLUSH, Shape::Plain);
    bench.answer(0, command::WRITE, Shape::Error(error::EIO));
    bench.all(0);
    let durable = bench.disk.durable()[0] == 0xa1;
    assert!(bench.result(3) != Some(Ok(())) || durable, "flushed, and lost: {:?}", bench.driver.status());
}

#[test]
fn a_read_that_was_executed_before_a_repair_and_answered_after_it_is_read_again() {
    for goes_straight in [false, true] {
        read_before_a_repair(goes_straight.then(Taker::default));
    }
}

fn read_before_a_repair(taker: Option<Taker>) {
    let mut bench = Bench::new(2, Rate::default(), |settings| settings.incarnation = Some("one".into()));
    bench.taker = taker;
    assert!(bench.dial(0));
    bench.carry(0);
    assert!(bench.dial(1));
    bench.carry(1);
    bench.push(1, WRITE, 0, 1, 0xa1);
    bench.all(0);
    bench.all(1);
    assert_eq!(bench.result(1), Some(Ok(())));
    bench.push(2, Operation::Flush, 0, 0, 0);
    bench.carry(0);
    bench.push(3, Operation::Read, 0, 1, 0);
    bench.carry(0);
    bench.carry(1);
    let (flush, read) =
        if bench.session(0).waiting[0].request.command == command::FLUSH { (0, 1) } else { (1, 0) };
    bench.disk.crash();
    bench.answer(flush, command::FLUSH, Shape::Error(error::EIO));
    bench.answer(read, command::READ, Shape::Plain);
    // The answer to the read is late.
    let late: Vec<u8> = bench.session(read).output.drain(..).collect();
    bench.all(flush);
    if !bench.session(read).waiting.is_empty() {
        bench.all(read);
        bench.all(flush);
    }
    bench.session(read).output.splice(0..0, late);
    bench.all(read);
    bench.all(flush);
    assert_eq!(bench.result(2), Some(Ok(())), "{:?}", bench.driver.status());
    if let Some(Taker(taken, _)) = &bench.taker {
        assert_eq!(taken[..], [(3, 0xa1)], "what was acknowledged is not read");
        return;
    }
    let read = bench.done.iter().find(|done| done.cookie == 3).expect("it ends");
    let byte = read.buffer.as_ref().map(|buffer| buffer[0]);
    assert!(read.result.is_err() || byte == Some(0xa1), "what was acknowledged is not read: {byte:x?}");
}

#[test]
fn a_read_answered_right_behind_a_flush_that_failed_is_read_again() {
    let mut bench = Bench::open();
    bench.taker = Some(Taker::default());
    bench.push(1, WRITE, 0, 1, 0xa1);
    bench.all(0);
    bench.push(2, Operation::Flush, 0, 0, 0);
    bench.push(3, Operation::Read, 0, 1, 0);
    bench.carry(0);
    // What was in the cache is dropped, and the read finds what was there before; both answers come at once.
    bench.disk.crash();
    bench.answer(0, command::FLUSH, Shape::Error(error::EIO));
    bench.answer(0, command::READ, Shape::Plain);
    bench.all(0);
    assert_eq!(bench.result(2), Some(Ok(())), "{:?}", bench.driver.status());
    assert_eq!(bench.taker.expect("there").0, [(3, 0xa1)], "what was acknowledged is not read");
}

#[test]
fn of_a_read_beside_writes_that_are_not_durable_nothing_is_given_before_it_is_whole() {
    for is_durable in [false, true] {
        let mut bench = Bench::open();
        bench.taker = Some(Taker::default());
        bench.push(1, WRITE, 0, 1, 0xa1);
        bench.all(0);
        if is_durable {
            bench.push(2, Operation::Flush, 0, 0, 0);
            bench.all(0);
        }
        bench.push(3, Operation::Read, 0, 4, 0);
        bench.carry(0);
        bench.answer(0, command::READ, Shape::Plain);
        let late = bench.session(0).output.split_off(2 * BLOCK);
        bench.carry(0);
        bench.session(0).output = late;
        bench.carry(0);
        let Taker(taken, early) = bench.taker.expect("there");
        assert_eq!((taken.len(), early > 0), (1, is_durable));
    }
}

#[test]
fn a_read_that_goes_straight_is_under_way_no_more_and_its_connection_takes_the_next() {
    let mut bench = Bench::open();
    bench.taker = Some(Taker::default());
    bench.push(1, WRITE, 0, 1, 0xa1);
    bench.all(0);
    for cookie in 2..40 {
        bench.push(cookie, Operation::Read, 0, 1, 0);
        bench.all(0);
        assert!(bench.driver.is_idle());
    }
    let taken = &bench.taker.as_ref().expect("there").0;
    assert!(taken.len() == 38 && taken.iter().all(|&(cookie, byte)| cookie >= 2 && byte == 0xa1));
    assert_eq!((bench.driver.status().straight, bench.done.len()), (38 * BLOCK as u64, 1));
    assert_eq!(bench.share.used(), 0);
}

#[test]
fn the_flush_of_a_repair_that_is_lost_with_its_connection_is_not_asked_for_again_alone() {
    let mut bench = Bench::new(2, Rate::default(), |settings| {
        settings.flags.0 &= !TransmissionFlags::SEND_FUA.0;
        settings.incarnation = Some("life-1".into());
    });
    assert!(bench.dial(0));
    bench.carry(0);
    assert!(bench.dial(1));
    bench.carry(1);
    bench.push(1, WRITE, 0, 1, 0xa1);
    bench.all(0);
    bench.all(1);
    bench.push(2, Operation::Flush, 0, 0, 0);
    bench.carry(0);
    bench.disk.crash();
    bench.answer(0, command::FLUSH, Shape::Error(error::EIO));
    bench.carry(0);
    bench.answer(0, command::WRITE, Shape::Plain);
    bench.carry(0);
    bench.find(0, command::FLUSH);
    // This one fails, too, and its answer is lost with the connection.
    bench.disk.crash();
    bench.lose(0);
    bench.all(1);
    assert_ne!(bench.result(2), None);
    let durable = bench.disk.durable()[0] == 0xa1;
    assert!(bench.result(2) != Some(Ok(())) || durable, "flushed, and lost: {:?}", bench.driver.status());
}

#[test]
fn an_answer_of_a_process_that_is_gone_is_not_flushed_at_its_successor() {
    let mut bench = Bench::new(2, Rate::default(), |_| {});
    assert!(bench.dial(0));
    bench.carry(0);
    bench.push(1, WRITE, 0, 1, 0xa1);
    bench.carry(0);
    // Acknowledged, but the answer is on its way for long; meanwhile the process dies with its cache, and its successor
    // takes the second connection.
    bench.answer(0, command::WRITE, Shape::Plain);
    let late: Vec<u8> = bench.session(0).output.drain(..).collect();
    bench.disk.crash();
    if !bench.dial(1) {
        // Without a proof that both lead to one process there is one connection only.
        return;
    }
    bench.carry(1);
    bench.session(0).output.extend(late);
    bench.carry(0);
    // The rest of what the dead process had to say: its end.
    if bench.sessions[0].is_some() {
        bench.lose(0);
    }
    bench.push(2, Operation::Flush, 0, 0, 0);
    bench.all(1);
    let acknowledged = bench.result(1) == Some(Ok(())) && bench.result(2) == Some(Ok(()));
    assert!(
        !acknowledged || bench.disk.durable()[0] == 0xa1,
        "flushed, and lost: {:?}",
        bench.driver.status()
    );
}

#[test]
fn a_second_connection_to_an_export_that_is_not_for_several_is_not_used_beside_the_first() {
    let mut bench = Bench::new(2, Rate::default(), |settings| {
        settings.incarnation = Some("life-1".into());
    });
    assert!(bench.dial(0));
    bench.carry(0);
    assert!(bench.dial(1));
    bench.carry(1);
    bench.lose(0);
    bench.settings.flags.0 &= !TransmissionFlags::CAN_MULTI_CONN.0;
    bench.wait(200);
    assert!(bench.dial(0));
    bench.carry(0);
    bench.carry(1);
    let up = bench.driver.status().connections;
    assert!(up <= 1, "{up} connections to an export that takes one");
}

#[test]
fn a_trim_costs_no_bandwidth() {
    let mut bench = Bench::new(1, Rate { iops: 0, bandwidth: 4096, burst: 1 }, |_| {});
    assert!(bench.dial(0));
    bench.carry(0);
    for cookie in 0..4 {
        bench.push(cookie, Operation::Trim { fua: false }, 0, 90, 0);
        bench.all(0);
    }
    bench.push(9, Operation::Read, 0, 1, 0);
    for _ in 0..20 {
        bench.wait(100);
        bench.all(0);
    }
    assert_eq!(bench.result(9), Some(Ok(())), "two seconds later");
}

#[test]
fn what_is_to_be_tried_again_does_not_make_a_busy_connection_spin() {
    let mut bench = Bench::open();
    for cookie in 0..8 {
        bench.push(cookie, Operation::Read, cookie as usize, 1, 0);
    }
    bench.carry(0);
    bench.answer(0, command::READ, Shape::Error(error::ENOMEM));
    bench.carry(0);
    bench.wait(1000);
    bench.carry(0);
    let due = bench.driver.poll_timeout();
    assert!(due.is_none_or(|due| due > bench.now), "due {due:?} at {:?}, again and again", bench.now);
}

#[test]
fn a_renewal_that_waits_for_something_slow_does_not_spin() {
    let mut bench = Bench::open();
    bench.push(1, WRITE, 0, 1, 1);
    bench.all(0);
    bench.push(2, Operation::Trim { fua: false }, 8, 1, 1);
    bench.carry(0);
    bench.driver.renew();
    for _ in 0..12 {
        bench.wait(1000);
        bench.carry(0);
    }
    let due = bench.driver.poll_timeout();
    assert!(due.is_none_or(|due| due > bench.now), "due {due:?} at {:?}, again and again", bench.now);
}

#[test]
fn a_withdrawn_disk_whose_service_comes_back_in_time_is_flushed() {
    let mut bench = Bench::open();
    bench.push(1, WRITE, 0, 1, 0xa1);
    bench.all(0);
    bench.disk.crash();
    bench.lose(0);
    bench.driver.close();
    for _ in 0..90 {
        bench.wait(100);
        bench.dial(0);
        bench.all(0);
    }
    assert!(bench.driver.is_drained() && bench.disk.durable()[0] == 0xa1, "{:?}", bench.driver.status());
}

#[test]
fn a_disk_that_is_withdrawn_while_it_is_renewed_is_flushed() {
    let mut bench = Bench::open();
    bench.push(1, WRITE, 0, 1, 0xa1);
    bench.all(0);
    bench.driver.renew();
    bench.driver.close();
    for _ in 0..90 {
        bench.wait(100);
        bench.dial(0);
        bench.all(0);
    }
    assert!(bench.driver.is_drained() && bench.disk.durable()[0] == 0xa1, "{:?}", bench.driver.status());
}

#[test]
fn an_export_that_becomes_read_only_is_flushed_before_it_is_renewed() {
    let mut bench = Bench::open();
    bench.push(1, WRITE, 0, 1, 0xa1);
    bench.all(0);
    // For new connections only.
    bench.settings.flags.0 |= TransmissionFlags::READ_ONLY.0;
    bench.driver.renew();
    for _ in 0..90 {
        bench.wait(100);
        bench.dial(0);
        bench.all(0);
    }
    assert!(bench.driver.is_up(), "{:?}", bench.driver.status());
}

#[test]
fn a_renewal_over_several_connections_comes_to_an_end_although_one_is_stuck() {
    let mut bench = Bench::new(2, Rate::default(), |settings| settings.incarnation = Some("one".into()));
    assert!(bench.dial(0));
    bench.carry(0);
    assert!(bench.dial(1));
    bench.carry(1);
    bench.wait(6000);
    bench.all(0);
    bench.all(1);
    bench.driver.renew();
    let mut dials = 0;
    bench.push(1, Operation::Read, 0, 1, 0);
    // The second connection takes no bytes for a while.
    for tenth in 0..100 {
        bench.wait(100);
        dials += usize::from(bench.dial(0));
        bench.all(0);
        if tenth > 30 {
            bench.dial(1);
            bench.all(1);
        }
    }
    assert_eq!(bench.result(1), Some(Ok(())), "{dials} dials; {:?}", bench.driver.status());
}

#[test]
fn a_service_that_does_not_flush_is_not_asked_without_a_pause() {
    let mut bench = Bench::open();
    bench.push(1, WRITE, 0, 1, 1);
    bench.all(0);
    bench.wait(11_000);
    let mut count = 0;
    for _ in 0..100 {
        bench.carry(0);
        if bench.session(0).waiting.iter().any(|waiting| waiting.request.command == command::FLUSH) {
            count += 1;
            bench.answer(0, command::FLUSH, Shape::Error(error::EPERM));
        }
    }
    assert!(count <= 2, "{count} flushes at one moment");
}

#[test]
fn a_flush_that_fails_with_nothing_kept_yet_has_what_was_under_way_written_again() {
    let mut bench = Bench::open();
    bench.push(1, Operation::Flush, 0, 0, 0);
    bench.push(2, WRITE, 0, 1, 0xa1);
    bench.carry(0);
    // The write is done and then dropped by the flush, whose failure is heard first.
    bench.answer(0, command::FLUSH, Shape::Error(error::EIO));
    bench.carry(0);
    bench.answer(0, command::WRITE, Shape::Plain);
    bench.disk.crash();
    bench.all(0);
    let results: Vec<_> = bench.done.iter().map(|done| (done.cookie, done.result)).collect();
    assert_eq!(results, [(1, Err(Error::Io)), (2, Ok(()))]);
    assert_eq!(bench.disk.content()[0], 0xa1, "nobody has to ask for a flush first");
}

#[test]
fn an_export_that_becomes_read_only_and_has_forgotten_nothing_is_read_on() {
    let mut bench = Bench::become_read_only(Some("one"));
    assert_eq!(bench.carry(0), None, "the same process has all that was acknowledged");
    bench.push(2, Operation::Read, 0, 1, 0);
    bench.push(3, Operation::Flush, 0, 0, 0);
    bench.all(0);
    assert_eq!((bench.result(2), bench.result(3)), (Some(Ok(())), Some(Ok(()))));
    assert_eq!(bench.disk.durable()[0], 0xa1);
}

#[test]
fn an_export_that_becomes_read_only_and_may_have_forgotten_something_is_not_used() {
    let mut bench = Bench::become_read_only(None);
    assert!(matches!(bench.carry(0), Some(crate::End::Mismatch(Mismatch::ReadOnly))));
}

#[test]
fn an_export_that_has_become_read_only_and_fails_to_flush_is_not_used_until_it_takes_everything_again() {
    let mut bench = Bench::become_read_only(Some("one"));
    bench.carry(0);
    bench.push(2, Operation::Flush, 0, 0, 0);
    bench.carry(0);
    bench.disk.crash();
    bench.answer(0, command::FLUSH, Shape::Error(error::EIO));
    assert!(matches!(bench.carry(0), Some(crate::End::Mismatch(Mismatch::ReadOnly))));
    assert_eq!(bench.result(2), None, "it is not known yet");
    bench.settings.flags.0 &= !TransmissionFlags::READ_ONLY.0;
    bench.wait(10_000);
    assert!(bench.dial(0));
    bench.all(0);
    assert_eq!(bench.result(2), Some(Ok(())));
    assert_eq!(bench.disk.durable()[0], 0xa1);
}

#[test]
fn what_lacks_space_is_told_so_and_not_that_the_service_is_stalled() {
    let mut bench = Bench::open();
    bench.push(1, WRITE, 0, 1, 0xa1);
    let mut tries = 0;
    while bench.result(1).is_none() {
        bench.carry(0);
        while bench.sessions[0].as_ref().is_some_and(|session| !session.waiting.is_empty()) {
            bench.answer(0, command::WRITE, Shape::Error(error::ENOSPC));
            bench.carry(0);
            tries += 1;
        }
        assert!(!bench.driver.is_stalled(bench.now), "after {tries} tries");
        bench.wait(250);
    }
    assert_eq!(bench.result(1), Some(Err(Error::NoSpace)));
    assert!(tries > 10, "it was tried {tries} times while commands are held");
}
