//! Taking orders.

use super::{Commander, MAX_LINE, Server, execute};
use crate::control::Order;
use crate::faults::Faults;
use std::io::{ErrorKind, Read, Write};
use std::time::Instant;
use storage_nbd::wire::TransmissionFlags;

impl Server {
    /// Reads lines, obeys them and answers each with one line.
    pub(super) fn take_orders(&mut self, now: Instant) {
        let Some(control) = &self.control else { return };
        while let Ok((stream, _)) = control.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.commanders.push(Commander { stream, line: Vec::new() });
            }
        }
        let mut commanders = std::mem::take(&mut self.commanders);
        commanders.retain_mut(|commander| self.heed(commander, now));
        self.commanders = commanders;
    }

    /// Answers whether there may be more from this one.
    fn heed(&mut self, commander: &mut Commander, now: Instant) -> bool {
        let mut bytes = [0; 1024];
        let is_over = loop {
            match commander.stream.read(&mut bytes) {
                Ok(0) => break true,
                Ok(count) => commander.line.extend_from_slice(&bytes[..count]),
                Err(error) => break error.kind() != ErrorKind::WouldBlock,
            }
        };
        while let Some(end) = commander.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = commander.line.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let answer = match Order::parse(line.trim()).and_then(|order| self.obey(order, now)) {
                Ok(answer) => format!("ok {answer}\n"),
                Err(reason) => format!("error {reason}\n"),
            };
            if commander.stream.write_all(answer.as_bytes()).is_err() {
                return false;
            }
        }
        !is_over && commander.line.len() <= MAX_LINE
    }

    fn obey(&mut self, order: Order, now: Instant) -> Result<String, String> {
        match order {
            Order::Fail(failure) => self.faults.fail(failure),
            Order::Delay(aim, time) => self.faults.delay(aim, time),
            Order::Hang(time) => self.faults.hang_until = Some(now + time),
            Order::Stall(time) => self.faults.stall_until = Some(now + time),
            Order::Late(time) => self.faults.late = time,
            Order::Torn(torn) => self.faults.tear(torn),
            Order::Lie(aim, lie, count) => {
                self.faults.lies.extend(std::iter::repeat_n((aim, lie), count as usize));
            }
            Order::Size(size) => {
                self.medium.resize(size).map_err(|error| error.to_string())?;
                self.export.size = size;
            }
            Order::Pretend(size) if size > self.medium.size() => return Err("the disk is smaller".into()),
            Order::Pretend(size) => self.export.size = size,
            Order::ReadOnly(is_on) => {
                let bit = TransmissionFlags::READ_ONLY.0;
                let flags = self.export.flags.0 & !bit;
                self.export.flags = TransmissionFlags(if is_on { flags | bit } else { flags });
            }
            Order::Name(name) => self.export.name = name,
            Order::Description(text) => self.export.description = text,
            Order::Lose => self.lose(),
            Order::Drop => {
                for index in 0..self.connections.len() {
                    self.died(index, now);
                }
            }
            Order::Stats => return Ok(self.stats()),
            Order::Heal => self.heal(now),
            Order::Stop => self.is_stopping = true,
            Order::Exit => execute::end(),
        }
        Ok(String::new())
    }

    fn heal(&mut self, now: Instant) {
        self.faults = Faults::default();
        for waiting in self.connections.iter_mut().flat_map(|connection| &mut connection.waiting) {
            waiting.due = waiting.due.min(now);
        }
    }

    fn stats(&self) -> String {
        let counts = self.counts;
        let alive = self.connections.iter().filter(|connection| connection.stream.is_some()).count();
        let waiting: usize = self.connections.iter().map(|connection| connection.waiting.len()).sum();
        let writer = self.writer.as_ref().map_or("-".into(), |claim| {
            format!("{:x}:{}:{:x}", claim.generation, claim.owner, claim.session)
        });
        format!(
            "accepted={} alive={alive} waiting={waiting} executed={} refused={} cut={} discarded={} late={} broken={} \
             dirty={} incarnation={} writer={writer}",
            counts.accepted,
            counts.executed,
            counts.refused,
            counts.cut,
            counts.discarded,
            counts.late,
            counts.broken,
            self.medium.dirty(),
            self.lease.incarnation(),
        )
    }
}
