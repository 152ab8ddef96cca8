//! What services do to their clients when something goes wrong.

use super::{GATEWAYS, LATENESS, PROMISE, SECTOR, Service};
use crate::bug::Bug;
use crate::history::History;
use crate::plan::{Change, Malformation};
use kernel_runtime::Instant;
use std::time::Duration;
use storage_nbd::testing::Shape;
use storage_nbd::wire::{command, command_flag};

/// How long what a failed flush has dropped can still be read after the service has said so: until its client has heard
/// it, no client that reads from the service can know better.
const EVICTION: Duration = Duration::from_secs(5);
/// An error that no standard knows.
const STRANGE: u32 = 0x4242;
const EIO: u32 = 5;

/// What is wrong, or will be.
#[derive(Default)]
pub(super) struct Troubles {
    pub(super) down_until: Instant,
    /// The same of single gateways.
    pub(super) gateways_down: [Instant; GATEWAYS],
    pub(super) stuck_until: Instant,
    /// Until when requests take up to so much longer.
    pub(super) slow: (Instant, Duration),
    /// Flushes that fail, whether they drop what is dirty, and whether that is gone at once.
    pub(super) flush_errors: (u32, bool, bool),
    /// When what a failed flush has dropped cannot be read any more either.
    pub(super) evicted_at: Option<Instant>,
    /// The flush of a connection that was gone has dropped something, and at the next that somebody hears of this is to be
    /// said; and whether what was dropped is gone soon after.
    untold: Option<bool>,
    errors: Errors,
    torn: Option<Torn>,
    malformed: Option<Malformation>,
    pub(super) change: Option<(Change, Instant)>,
}

/// Requests that go well, then those that fail, and how.
#[derive(Clone, Copy, Default)]
pub(super) struct Errors {
    pub(super) after: u32,
    pub(super) count: u32,
    pub(super) code: u32,
}

/// The next write is the service's last.
#[derive(Clone, Copy)]
pub(super) struct Torn {
    pub(super) sectors: u64,
    pub(super) loses_cache: bool,
    pub(super) down: Duration,
}

impl Service {
    /// The process dies. What it had received may still be executed, if that was with the kernel.
    pub(crate) fn crash(
        &mut self,
        now: Instant,
        down: Duration,
        loses_cache: bool,
        keeps_requests: bool,
        history: &mut History,
    ) {
        self.troubles.down_until = now + down;
        self.kill(now, keeps_requests);
        if !keeps_requests || loses_cache {
            self.live.clear();
        }
        if loses_cache {
            self.lose_cache(now, history);
        }
        // A service that has lost nothing may say so, or know no better.
        if (loses_cache || self.random.chance(300)) && self.bug != Some(Bug::StaleIncarnation) {
            self.incarnation += 1;
        }
    }

    /// The process of one gateway dies: its connections are reset. The cache is not its own.
    pub(crate) fn crash_gateway(&mut self, now: Instant, which: usize, lingers: bool, down: Duration) {
        let gateway = which % GATEWAYS;
        self.troubles.gateways_down[gateway] = now + down;
        for place in 0..self.live.len() {
            if self.live[place].gateway == gateway {
                self.kill_one(now, place, lingers);
            }
        }
        self.wake();
    }

    pub(super) fn lose_cache(&mut self, now: Instant, history: &mut History) {
        let medium = &mut self.medium;
        if let Err(reason) = history.rolled_back(self.unit, medium.durable(), now) {
            return self.complain(reason);
        }
        medium.crash();
    }

    /// All connections are reset. What they brought is executed in its time or, where it `lingers`, at any time that the
    /// service's promise allows.
    pub(crate) fn kill(&mut self, now: Instant, lingers: bool) {
        for place in 0..self.live.len() {
            self.kill_one(now, place, lingers);
        }
        self.wake();
    }

    /// One connection of those in use is reset.
    pub(crate) fn kill_some(&mut self, now: Instant, which: u64, lingers: bool) {
        let places: Vec<usize> =
            (0..self.live.len()).filter(|&place| self.live[place].is_connected).collect();
        if !places.is_empty() {
            self.kill_one(now, places[which as usize % places.len()], lingers);
            self.wake();
        }
    }

    fn kill_one(&mut self, now: Instant, place: usize, lingers: bool) {
        let live = &mut self.live[place];
        if !live.is_connected {
            return;
        }
        live.is_connected = false;
        for (came, due) in live.times.iter_mut().filter(|_| lingers) {
            let left = (*came + PROMISE).since(now).as_micros() as u64;
            *due = now + Duration::from_micros(self.random.below(left + 1));
        }
    }

    pub(crate) fn stick(&mut self, until: Instant) {
        self.troubles.stuck_until = until;
        for (_, due) in self.live.iter_mut().flat_map(|live| &mut live.times) {
            *due = (*due).max(until);
        }
    }

    pub(crate) fn slow_down(&mut self, until: Instant, delay: Duration) {
        self.troubles.slow = (until, delay);
    }

    pub(crate) fn fail_flushes(&mut self, count: u32, drops: bool, evicts: bool) {
        self.troubles.flush_errors = (count, drops, evicts);
    }

    pub(crate) fn fail(&mut self, after: u32, count: u32, code: u32) {
        self.troubles.errors = Errors { after, count, code };
    }

    pub(crate) fn tear_next(&mut self, sectors: u64, loses_cache: bool, down: Duration) {
        self.troubles.torn = Some(Torn { sectors, loses_cache, down });
    }

    pub(crate) fn malform_next(&mut self, what: Malformation) {
        self.troubles.malformed = Some(what);
    }

    /// The export is another from now on, and for a time.
    pub(crate) fn change(&mut self, now: Instant, change: Change, time: Duration) {
        self.kill(now, false);
        if change == Change::Grown {
            let size = self.medium.content().len() + self.grain();
            self.medium.grow(size);
        } else {
            self.troubles.change = Some((change, now + time));
        }
    }

    /// By how much an export grows: whole blocks, whatever their size.
    fn grain(&self) -> usize {
        8192
    }

    /// The appliance is gone. Its successor is nobody that plain NBD could tell from a second writer, so a service that
    /// knows no claims fences by itself: it is done with the old connections before it admits a new one.
    pub(crate) fn orphan(&mut self) {
        if self.settings.fencing {
            return;
        }
        for live in &mut self.live {
            live.is_orphan = true;
        }
    }

    /// The appliance has started.
    pub(crate) fn boot(&mut self, now: Instant) {
        self.booted = now;
        self.is_known = false;
    }

    pub(super) fn fence_orphans(&mut self, now: Instant, history: &mut History) {
        let orphans: Vec<u64> = self.live.iter().filter(|live| live.is_orphan).map(|live| live.id).collect();
        for id in orphans {
            if let Some(place) = self.live.iter().position(|live| live.id == id) {
                self.drain(now, place, history);
            }
            self.live.retain(|live| live.id != id);
        }
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&mut self, now: Instant) {
        let troubles = &mut self.troubles;
        troubles.down_until = troubles.down_until.min(now);
        troubles.gateways_down = [Instant::ZERO; GATEWAYS];
        troubles.stuck_until = now;
        troubles.slow.0 = now;
        troubles.flush_errors.0 = 0;
        troubles.errors.count = 0;
        troubles.torn = None;
        troubles.malformed = None;
        if let Some((_, until)) = &mut troubles.change {
            *until = now;
        }
        for live in &mut self.live {
            live.claim_due = live.claim_due.map(|due| due.min(now));
            for (_, due) in &mut live.times {
                *due = (*due).min(now + Duration::from_millis(100));
            }
        }
    }

    /// What ends by itself. Answers whether anything did.
    pub(super) fn expire(&mut self, now: Instant, history: &mut History) -> bool {
        let mut moved = false;
        if self.troubles.evicted_at.is_some_and(|at| at <= now) {
            self.troubles.evicted_at = None;
            self.medium.evict();
            if let Err(reason) = history.rolled_back(self.unit, self.medium.content(), now) {
                self.complain(reason);
            }
            moved = true;
        }
        if self.troubles.change.is_some_and(|(_, until)| until <= now) {
            self.troubles.change = None;
            self.kill(now, false);
            moved = true;
        }
        for live in &mut self.live {
            while let Some(place) = live.held.iter().position(|(due, _)| *due <= now) {
                let (_, reply) = live.held.swap_remove(place);
                live.session.output.extend(reply);
                self.signals[live.stream].raise();
                moved = true;
            }
        }
        moved
    }

    /// How the next reply looks.
    pub(super) fn shape(&mut self, now: Instant, place: usize, index: usize) -> Shape {
        let is_flush = self.live[place].session.waiting[index].request.command == command::FLUSH;
        let is_heard = self.live[place].is_connected;
        let troubles = &mut self.troubles;
        let untold = if is_flush && is_heard { troubles.untold.take() } else { None };
        if is_flush && (troubles.flush_errors.0 > 0 || untold.is_some()) {
            let (count, drops, evicts) = troubles.flush_errors;
            let drops = drops && count > 0;
            troubles.flush_errors.0 = count.saturating_sub(1);
            if drops {
                self.medium.forget();
            }
            let is_gone = drops && evicts || untold == Some(true);
            if !is_heard {
                // As an operating system does, which tells each open file once, and as gateways have to that share one.
                troubles.untold = drops.then_some(is_gone).or(troubles.untold);
            } else if is_gone {
                troubles.evicted_at = Some(now + EVICTION);
            }
            return Shape::Error(EIO);
        }
        if !is_flush && troubles.errors.count > 0 {
            if troubles.errors.after > 0 {
                troubles.errors.after -= 1;
            } else {
                troubles.errors.count -= 1;
                return Shape::Error(troubles.errors.code);
            }
        }
        if troubles.malformed == Some(Malformation::StrangeError) {
            troubles.malformed = None;
            return Shape::Error(STRANGE);
        }
        if self.random.chance(300) { Shape::Pieces(self.random.next()) } else { Shape::Plain }
    }

    /// If it is to be: write only the first sectors of a write, and die of it. Answers whether that was so.
    pub(super) fn tear(&mut self, now: Instant, place: usize, index: usize, history: &mut History) -> bool {
        let waiting = &mut self.live[place].session.waiting[index];
        if waiting.request.command != command::WRITE {
            return false;
        }
        let Some(Torn { sectors, loses_cache, down }) = self.troubles.torn.take() else { return false };
        let length = (sectors as usize * SECTOR).min(waiting.payload.len() - SECTOR);
        log::debug!("service {}: torn after {length} bytes", self.unit);
        waiting.payload.truncate(length);
        waiting.length = length as u64;
        waiting.request.length = length as u32;
        // These sectors have reached stable storage.
        waiting.request.flags |= command_flag::FUA;
        let live = &mut self.live[place];
        live.times.remove(index);
        if length > 0 {
            live.session.execute(&mut self.medium, index, Shape::Plain);
            self.medium.written.clear();
        }
        self.crash(now, down, loses_cache, false, history);
        true
    }

    /// Make of a reply what it should not be.
    pub(super) fn distort(&mut self, now: Instant, place: usize, said: usize) {
        let live = &mut self.live[place];
        let output = &mut live.session.output;
        if live.is_ending {
            // Nothing follows the reply that ended too soon.
            output.truncate(said);
        }
        if output.len() == said || !live.is_connected {
            return;
        }
        let Some(what) = self.troubles.malformed.take() else { return };
        log::debug!("service {}: {what:?}", self.unit);
        match what {
            Malformation::Short => {
                let length = 1 + self.random.below((output.len() - said) as u64) as usize;
                output.truncate(output.len() - length);
                live.is_ending = true;
            }
            Malformation::Extra => {
                let again = output[said..].to_vec();
                output.extend(again);
            }
            Malformation::WrongCookie => output[said + 8 + self.random.below(8) as usize] ^= 0x40,
            Malformation::NoMagic => output[said] ^= 0x40,
            Malformation::StrangeError => {}
            Malformation::Late => {
                let reply = output.split_off(said);
                live.held.push((now + LATENESS, reply));
                let evicted_at = &mut self.troubles.evicted_at;
                *evicted_at = evicted_at.map(|at| at + LATENESS);
            }
        }
    }
}
