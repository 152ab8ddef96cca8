//! An initiator that does one thing with its disk while something goes wrong, and knows what must be on it.

use crate::hostile::peer::{Peer, Who};
use crate::hostile::session::{BLOCK as SECTOR, SILENCE, SYNCHRONIZE_CACHE, Session, lun, read10, write10};
use crate::kills::block::{BLOCK, fill, mix, write_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Blocks that it works on.
pub(crate) const BLOCKS: usize = 64;
/// What is written in the column "write acked, not flushed".
const UNFLUSHED: std::ops::Range<u64> = 8..24;
/// How long one command may take in all its attempts: longer than any fault here and what comes after it.
const PATIENCE: Duration = Duration::from_secs(110);
/// A ping that is not answered in this time means that the connection is gone.
const PING: Duration = Duration::from_secs(500);
const BETWEEN_PINGS: Duration = Duration::from_millis(400);
const ABORT_TASK: u8 = 1;
/// LOGICAL UNIT RESET, of no task.
const RESET: (u8, (u32, u32)) = (5, (u32::MAX, 0));

/// What goes on when something goes wrong: the columns of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    Idle,
    Read,
    Write,
    Unflushed,
    Flush,
    Abort,
    Login,
}

impl Column {
    pub(crate) const ALL: [Self; 7] =
        [Self::Idle, Self::Read, Self::Write, Self::Unflushed, Self::Flush, Self::Abort, Self::Login];

    /// As the table names it.
    pub(crate) fn name(self) -> &'static str {
        ["idle", "read", "write", "unflushed", "flush", "abort", "login"][self as usize]
    }
}

/// What all workers of a row share.
#[derive(Default)]
pub(crate) struct Row {
    /// Workers that are at work.
    pub(crate) ready: AtomicU32,
    /// The fault is over.
    pub(crate) is_over: AtomicBool,
    /// Raised: every worker dies and logs in again.
    pub(crate) deaths: AtomicU32,
    /// A disk may show what nobody has written.
    pub(crate) may_damage: AtomicBool,
}

/// What a worker has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Commands that ended well.
    pub(crate) good: u32,
    /// Those that were told to try again later.
    pub(crate) busy: u32,
    /// Connections that it lost.
    pub(crate) reconnects: u32,
    /// Reads of what nobody has written.
    pub(crate) damaged: u32,
    /// Unit attentions, as code and qualifier.
    pub(crate) attentions: Vec<(u8, u8)>,
    /// Commands that ended with another sense.
    pub(crate) errors: Vec<(u8, u8, u8)>,
    /// The longest command, all attempts together.
    pub(crate) longest: Duration,
    /// The longest answer to a ping, or to a login.
    pub(crate) longest_ping: Duration,
    /// From the end of the fault to the end of the first command after it.
    pub(crate) recovery: Duration,
}

/// The initiator of one disk.
pub(crate) struct Worker {
    row: Arc<Row>,
    column: Column,
    who: Who,
    session: Option<Session>,
    /// By block: the last write.
    written: Vec<u64>,
    /// By block: the last write that a flush has made durable.
    pub(crate) floor: Vec<u64>,
    next: u64,
    seed: u64,
    died: u32,
    pub(crate) seen: Seen,
}

/// Why a worker gave up.
pub(crate) type Wrong = String;

impl Worker {
    pub(crate) fn new(row: &Arc<Row>, column: Column, n: usize) -> Self {
        Self {
            row: Arc::clone(row),
            column,
            who: Who::new(&format!("cell-{}", column.name()), n),
            session: None,
            written: vec![0; BLOCKS],
            floor: vec![0; BLOCKS],
            next: 1,
            seed: n as u64,
            died: 0,
            seen: Seen::default(),
        }
    }

    /// Works until the fault is over, then looks at everything.
    pub(crate) fn work(&mut self) -> Result<(), Wrong> {
        for block in 0..BLOCKS as u64 {
            self.write(block)?;
        }
        self.flush()?;
        if self.column == Column::Unflushed {
            UNFLUSHED.clone().try_for_each(|block| self.write(block))?;
        }
        self.seen = Seen::default();
        self.row.ready.fetch_add(1, Ordering::SeqCst);
        while !self.row.is_over.load(Ordering::SeqCst) {
            match self.column {
                Column::Idle | Column::Unflushed => self.ping()?,
                Column::Read => self.read_any()?,
                Column::Write => self.write_any()?,
                Column::Flush => {
                    self.write_any()?;
                    self.flush()?;
                }
                Column::Abort => self.abort()?,
                Column::Login => self.log_in_again()?,
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let over = Instant::now();
        self.read_any()?;
        self.seen.recovery = over.elapsed();
        for block in 0..BLOCKS as u64 {
            self.read(block)?;
        }
        self.write_any()?;
        self.flush()
    }

    fn random(&mut self) -> u64 {
        self.seed = mix(self.seed);
        self.seed
    }

    fn read_any(&mut self) -> Result<(), Wrong> {
        let block = self.random() % BLOCKS as u64;
        self.read(block)
    }

    fn write_any(&mut self) -> Result<(), Wrong> {
        let block = self.random() % BLOCKS as u64;
        self.write(block)
    }

    fn read(&mut self, block: u64) -> Result<(), Wrong> {
        let Some(data) = self.run(&read10(sector(block), SECTORS), &[], BLOCK as u32, false)? else {
            return Ok(());
        };
        match write_of(&data, block) {
            Ok(found) if found == self.written[block as usize] => Ok(()),
            outcome if self.row.may_damage.load(Ordering::SeqCst) => {
                println!("{}: damage: {outcome:?}", self.column.name());
                self.seen.damaged += 1;
                Ok(())
            }
            Ok(found) => Err(format!(
                "block {block} holds write {found}, and {} was acknowledged",
                self.written[block as usize]
            )),
            Err(reason) => Err(reason),
        }
    }

    fn write(&mut self, block: u64) -> Result<(), Wrong> {
        let mut bytes = vec![0; BLOCK];
        fill(&mut bytes, block, self.next);
        // A write that failed has no outcome that one could build on; only the same one again makes it known.
        self.run(&write10(sector(block), SECTORS), &bytes, 0, true)?;
        self.written[block as usize] = self.next;
        self.next += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Wrong> {
        self.run(&SYNCHRONIZE_CACHE, &[], 0, true)?;
        self.floor.copy_from_slice(&self.written);
        Ok(())
    }

    /// Begins a write, ends it by task management, and writes the same block anew: the old one must never come back.
    fn abort(&mut self) -> Result<(), Wrong> {
        let block = self.random() % BLOCKS as u64;
        let mut bytes = vec![0; BLOCK];
        fill(&mut bytes, block, self.next);
        self.next += 1;
        let resets = self.random().is_multiple_of(4);
        if let Err(reason) = self.try_abort(block, &bytes, resets) {
            self.lost(&reason)?;
        }
        self.write(block)?;
        self.read(block)
    }

    fn try_abort(&mut self, block: u64, bytes: &[u8], resets: bool) -> Result<(), String> {
        let session = self.session()?;
        let tag = session.begin(lun(0), &write10(sector(block), SECTORS), bytes, 0);
        let order = session.cmd_sn.wrapping_sub(1);
        let (function, task) = if resets { RESET } else { (ABORT_TASK, (tag, order)) };
        manage(session, function, task)?;
        session.forget(tag);
        Ok(())
    }

    fn reset_unit(&mut self) -> Result<(), String> {
        let (function, task) = RESET;
        manage(self.session()?, function, task)
    }

    /// Takes its own session's place.
    fn log_in_again(&mut self) -> Result<(), Wrong> {
        let start = Instant::now();
        self.session = None;
        self.session()?;
        self.seen.longest_ping = self.seen.longest_ping.max(start.elapsed());
        self.read_any()
    }

    fn ping(&mut self) -> Result<(), Wrong> {
        std::thread::sleep(Duration::from_millis(20));
        self.die_if_told();
        let outcome = self.session()?.ping();
        match outcome {
            Ok(time) => self.seen.longest_ping = self.seen.longest_ping.max(time),
            Err(reason) => self.lost(&reason)?,
        }
        Ok(())
    }

    /// Runs a command until it ends well, or with an error that is final and need not be otherwise. Answers what was read.
    fn run(
        &mut self,
        cdb: &[u8; 16],
        out: &[u8],
        expected: u32,
        must: bool,
    ) -> Result<Option<Vec<u8>>, Wrong> {
        let start = Instant::now();
        let is_unit_attention = |sense: Option<(u8, u8, u8)>| matches!(sense, Some((6, ..)));
        while start.elapsed() < PATIENCE {
            let answer = match self.attempt(cdb, out, expected) {
                Ok(answer) => answer,
                Err(reason) => {
                    self.lost(&reason)?;
                    continue;
                }
            };
            match (answer.status, answer.sense) {
                (0, _) => {
                    self.seen.good += 1;
                    self.seen.longest = self.seen.longest.max(start.elapsed());
                    return Ok(Some(answer.data));
                }
                // BUSY, TASK SET FULL.
                (0x08 | 0x28, _) => self.seen.busy += 1,
                (_, sense) if is_unit_attention(sense) => {
                    self.seen.attentions.extend(sense.map(|(_, code, qualifier)| (code, qualifier)));
                    continue;
                }
                (_, Some(sense)) => {
                    self.seen.errors.push(sense);
                    if !must {
                        return Ok(None);
                    }
                    // A flush that has failed stays failed until somebody who was told resets the unit.
                    if *cdb == SYNCHRONIZE_CACHE
                        && let Err(reason) = self.reset_unit()
                    {
                        self.lost(&reason)?;
                    }
                }
                (status, None) => return Err(format!("{:02x}: status {status:#04x} without sense", cdb[0])),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(format!("{:02x}: nothing within {PATIENCE:?}: {:?}", cdb[0], self.seen))
    }

    fn attempt(
        &mut self,
        cdb: &[u8; 16],
        out: &[u8],
        expected: u32,
    ) -> Result<crate::hostile::session::Answer, String> {
        let row = Arc::clone(&self.row);
        let died = self.died;
        let mut longest = self.seen.longest_ping;
        let session = self.session()?;
        let tag = session.begin(lun(0), cdb, out, expected);
        if row.deaths.load(Ordering::SeqCst) != died {
            // With the command on its way.
            self.die_if_told();
            return Err("killed".into());
        }
        let end = Instant::now() + PATIENCE;
        let mut next = Instant::now() + BETWEEN_PINGS;
        while !session.is_done(tag) {
            match session.step(next.min(end)) {
                Err(error) if error == SILENCE && Instant::now() < end => {
                    longest = longest.max(session.ping()?);
                    next = Instant::now() + BETWEEN_PINGS;
                }
                outcome => outcome?,
            }
        }
        let answer = session.finish(tag, PING);
        self.seen.longest_ping = longest;
        answer
    }

    fn die_if_told(&mut self) {
        let deaths = self.row.deaths.load(Ordering::SeqCst);
        if deaths != self.died {
            self.died = deaths;
            self.session = None;
            self.seen.reconnects += 1;
        }
    }

    /// The connection is gone.
    fn lost(&mut self, reason: &str) -> Result<(), Wrong> {
        if reason != "killed" {
            self.seen.reconnects += 1;
        }
        self.session = None;
        if self.seen.reconnects > 2000 {
            return Err(format!("a connection that never lasts: {reason}"));
        }
        Ok(())
    }

    /// The session, a new one if there is none.
    fn session(&mut self) -> Result<&mut Session, String> {
        let end = Instant::now() + PATIENCE;
        while self.session.is_none() {
            let attempt = Peer::connect_within(Duration::from_secs(5)).map_err(|error| error.to_string());
            let attempt = attempt.and_then(|peer| Session::open_silently(peer, &self.who, &[]));
            match attempt {
                Ok(session) => self.session = Some(session),
                Err(reason) if Instant::now() > end => return Err(reason),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        Ok(self.session.as_mut().expect("it was just opened"))
    }
}

/// A task management function, whose answer may wait for a storage service.
fn manage(session: &mut Session, function: u8, task: (u32, u32)) -> Result<(), String> {
    let answer = session.manage_later(function, lun(0), task);
    let end = Instant::now() + PATIENCE;
    while !session.is_answered(answer) {
        session.step(end)?;
    }
    session.answer(answer).map(drop)
}

/// Sectors of a block.
const SECTORS: u16 = (BLOCK / SECTOR) as u16;

fn sector(block: u64) -> u32 {
    block as u32 * u32::from(SECTORS)
}
