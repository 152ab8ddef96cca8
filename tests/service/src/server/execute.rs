//! Doing what a command says.

use super::{Server, Waiting};
use crate::faults::Lie;
use crate::medium::Cache;
use crate::session::{Command, Extent};
use std::io;
use std::time::Instant;
use storage_nbd::wire::{command, command_flag, error};

/// Added to a cookie that is to be nobody's.
const NOBODYS: u64 = 0x5a5a_0000_0000;

impl Server {
    /// Executes the commands whose time has come, those of one connection in the order of their times.
    pub(super) fn execute_due(&mut self, now: Instant) {
        if self.faults.stall_until.is_some_and(|until| now < until) {
            return;
        }
        let mut index = 0;
        while index < self.connections.len() {
            let waiting = &self.connections[index].waiting;
            let due = waiting.iter().enumerate().filter(|(_, waiting)| waiting.due <= now);
            match due.min_by_key(|(_, waiting)| waiting.due).map(|(place, _)| place) {
                Some(place) => {
                    let Waiting { command, .. } = self.connections[index].waiting.remove(place);
                    self.execute(index, &command);
                }
                None => index += 1,
            }
        }
    }

    fn execute(&mut self, index: usize, command: &Command) {
        let is_dead = self.connections[index].stream.is_none();
        let id = self.connections[index].id;
        self.counts.executed += 1;
        if is_dead {
            self.counts.late += 1;
            self.log.note(id, "late", (command.offset, command.length), (false, 0), &[]);
        }
        let outcome = match self.faults.failure(command.code) {
            Some(failure) => {
                if failure.drops && command.code == command::FLUSH {
                    // As a kernel that marks clean what it could not write: the process lives on, and so its token.
                    let pages = self.medium.lose();
                    self.log.note(id, "lost", (0, pages as u64), (false, 0), &[]);
                }
                Err(failure.errno)
            }
            None => match self.touch(index, command) {
                Some(outcome) => outcome,
                None => return self.fenced(),
            },
        };
        self.note(id, command, outcome.as_ref().err().copied().unwrap_or(0));
        if !is_dead {
            self.reply(index, command, outcome);
        }
    }

    /// Does it under the lease; `None` if that is lost. Answers what was read.
    fn touch(&mut self, index: usize, command: &Command) -> Option<Result<Vec<u8>, u32>> {
        if !self.export.knows_writers {
            return Some(answer(self.perform(command)));
        }
        if self.connections[index].claim.is_none() {
            if !command.changes_medium() && command.code != command::FLUSH {
                return Some(answer(self.perform(command)));
            }
            // Where there are writers, who is none of them may read.
            if !matches!(self.lease.writer(), Ok(None)) {
                return Some(if command.code == command::FLUSH { Ok(Vec::new()) } else { Err(error::EPERM) });
            }
        }
        let outcome = match self.lease.hold() {
            // Held until the last system call of the change is through.
            Ok(Some(_hold)) => Some(answer(self.perform(command))),
            Ok(None) => None,
            Err(problem) => Some(answer(Err(problem))),
        };
        if command.code == command::FLUSH && self.cache == Cache::None && matches!(outcome, Some(Err(_))) {
            self.forgot();
        }
        outcome
    }

    /// A failed flush without a cache of ours: the host may have forgotten what it could not write, and will say that all
    /// is well the next time. So this incarnation ends here, and every client has to bring its unflushed writes again.
    fn forgot(&mut self) {
        self.lose();
        for connection in &mut self.connections {
            connection.is_ending = true;
        }
    }

    fn perform(&mut self, request: &Command) -> io::Result<Vec<u8>> {
        let Command { offset, length, payload, .. } = request;
        let (offset, length) = (*offset, *length);
        if let Some(bytes) = self.faults.torn(request.code) {
            self.medium.tear(offset, &payload[..bytes.min(payload.len())])?;
            self.log.note(0, "torn", (offset, bytes as u64), (true, 0), payload);
            self.log.write()?;
            end();
        }
        let durable = request.has(command_flag::FUA);
        match request.code {
            command::READ => {
                let mut data = vec![0; length as usize];
                self.medium.read(offset, &mut data)?;
                return Ok(data);
            }
            command::WRITE => self.medium.write(offset, payload, durable)?,
            command::WRITE_ZEROES => {
                let keep = request.has(command_flag::NO_HOLE);
                self.medium.zero(offset, length, keep, durable)?;
            }
            command::TRIM => self.medium.zero(offset, length, false, durable)?,
            command::FLUSH => self.medium.flush()?,
            // There is no better place to prefetch to.
            _ => {}
        }
        Ok(Vec::new())
    }

    fn note(&mut self, id: u64, command: &Command, code: u32) {
        let what = match command.code {
            command::WRITE => "write",
            command::WRITE_ZEROES => "zeroes",
            command::TRIM => "trim",
            command::FLUSH => "flush",
            _ => return,
        };
        let durable = command.has(command_flag::FUA) || command.code == command::FLUSH;
        self.log.note(
            id,
            what,
            (command.offset, command.length),
            (durable && code == 0, code),
            &command.payload,
        );
    }

    fn reply(&mut self, index: usize, command: &Command, outcome: Result<Vec<u8>, u32>) {
        let lie = self.faults.lie(command.code);
        let mut outcome = outcome;
        if let (Some(lie @ (Lie::Misdirected | Lie::Flipped)), Ok(data)) = (lie, &mut outcome) {
            self.falsify(command, lie, data);
        }
        let extents = (command.code == command::BLOCK_STATUS).then(|| self.extents(command));
        let connection = &mut self.connections[index];
        let session = &mut connection.session;
        let start = session.output.len();
        let told = match lie {
            Some(Lie::Cookie) => Command { cookie: command.cookie ^ NOBODYS, ..command.clone() },
            _ => command.clone(),
        };
        match (&outcome, extents) {
            (Err(code), _) => session.failed(&told, *code),
            (Ok(_), Some(extents)) => session.extents(&told, &extents),
            (Ok(data), None) if command.code == command::READ => session.data(&told, data),
            (Ok(_), None) => session.done(&told),
        }
        match lie {
            Some(Lie::Nothing) => session.output.truncate(start),
            Some(Lie::Extra) => {
                let twin = session.output[start..].to_vec();
                session.output.extend_from_slice(&twin);
            }
            Some(Lie::Short) => {
                let half = (session.output.len() - start) / 2;
                session.output.truncate(start + half);
                connection.waiting.clear();
                connection.is_ending = true;
            }
            _ => {}
        }
    }

    /// Makes of what was read what a broken disk would have read.
    fn falsify(&mut self, command: &Command, lie: Lie, data: &mut [u8]) {
        match lie {
            Lie::Misdirected => {
                let next = command.offset + command.length;
                let other = if next + command.length <= self.medium.size() { next } else { 0 };
                // The old content is as good a lie.
                let _ = self.medium.read(other, data);
            }
            _ => {
                let middle = data.len() / 2;
                if let Some(byte) = data.get_mut(middle) {
                    *byte ^= 0x10;
                }
            }
        }
    }

    /// The state of a range. Holes are what the file system says, where nothing in the cache says otherwise.
    fn extents(&self, command: &Command) -> Vec<Extent> {
        let whole = vec![Extent { length: command.length, state: 0 }];
        let mut extents = self.medium.extents(command.offset, command.length).unwrap_or(whole);
        if command.has(command_flag::REQ_ONE) {
            extents.truncate(1);
        }
        extents
    }
}

fn answer(outcome: io::Result<Vec<u8>>) -> Result<Vec<u8>, u32> {
    outcome.map_err(|problem| {
        eprintln!("the medium: {problem}");
        match problem.kind() {
            io::ErrorKind::StorageFull => error::ENOSPC,
            io::ErrorKind::OutOfMemory => error::ENOMEM,
            _ => error::EIO,
        }
    })
}

/// As by `kill -9`: nothing is flushed, closed or said.
pub(super) fn end() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}
