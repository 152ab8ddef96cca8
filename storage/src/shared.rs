//! What the tasks of storage have in common: targets, running commands, volumes, and the mailboxes between them.
//!
//! Everything runs on one thread; a borrow of [`State`] never lives across an await.

use crate::Limits;
use crate::abort::Pending;
use crate::carrier::Tls;
use crate::challenge::Challenger;
use crate::commands::Commands;
use crate::figures::{Figures, Wait};
use crate::mailbox::{CommandIndex, Mailbox};
use crate::registry::{Registry, TargetIndex};
use crate::reservations::Keeper;
use crate::straight::Seat;
use crate::turns::Turns;
use crate::volume::Volume;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell, RefCell};
use core::net::SocketAddrV4;
use core::time::Duration;
use kernel_runtime::{Clock, Instant};
use sha2::{Digest, Sha256};
use storage_block::{Buffer, Completion, Geometry, Lack, Pool, Request, Share};
use storage_scsi::{Carrier, LogicalUnit, MAX_LIST, Memory, Readiness, Rest, Status, UnitId};

/// What part of the memory for answers one connection may hold, as a divisor.
const CONTROL_PARTS: usize = 4;

/// A volume's slot.
pub(crate) type VolumeIndex = usize;
/// A connection's slot.
pub(crate) type ConnectionIndex = usize;

/// Storage, as its tasks and its control see it.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    /// This appliance's name as a writer of disks.
    pub(crate) owner: String,
    /// What it takes to speak TLS, if it is set up.
    pub(crate) tls: Option<Rc<Tls>>,
    /// What challenges are made of, if there is anything for that.
    pub(crate) challenger: OnceCell<Challenger>,
    pub(crate) pool: Pool,
    /// Memory for writes that are acknowledged and not durable yet, beside the pool: a disk whose service is away keeps
    /// what it has, and nobody else waits for it.
    pub(crate) journals: Share,
    /// Memory for answers that need no disk, so that they are given although every disk hangs and holds all it may of
    /// the pool.
    control: Pool,
    /// A share of it from which nothing is taken, for commands that nobody waits for.
    nothing: Share,
    pub(crate) state: RefCell<State>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) mailboxes: Vec<Mailbox>,
    /// The session of each connection while its task is not at work.
    pub(crate) seats: Vec<Seat>,
    /// How many commands each connection has running.
    pub(crate) running: Vec<Cell<usize>>,
    /// What each of them has done.
    pub(crate) figures: Vec<Figures>,
    /// What each of them has begun.
    pub(crate) turns: Turns,
    /// What discovery gives as the portal, if not the address the initiator came to.
    pub(crate) portal: Option<SocketAddrV4>,
    /// What keeps reservations through a restart.
    pub(crate) keeper: Keeper,
    /// Everything is about to end: nobody may log in any more.
    pub(crate) is_draining: Cell<bool>,
    seed: Cell<u64>,
    /// What the tokens of copies are made of, and how many there were.
    pub(crate) tokens: Cell<Option<([u64; 4], u64)>>,
    /// The pools' count of returned buffers when starved commands were last looked after.
    returned: Cell<u64>,
}

/// The part that one task changes and another sees.
pub(crate) struct State {
    pub(crate) registry: Registry,
    pub(crate) commands: Commands<Running>,
    /// Commands that could not go on for want of a buffer, or because another one is in their way.
    pub(crate) held: Vec<CommandIndex>,
    /// What those of them lack that lack a buffer, each once: to see whether anything has come back to any of them takes a
    /// look for each share and not for each command.
    pub(crate) lacks: Vec<Lack>,
    /// Task management functions that wait for what they have ended.
    pub(crate) pending: Vec<Pending>,
}

/// A command of some session, from its arrival until nothing of it is under way any more.
pub(crate) struct Running {
    pub(crate) command: storage_scsi::Command,
    pub(crate) target: TargetIndex,
    /// Whose it is; `None` once it was aborted and only its requests are still under way.
    pub(crate) owner: Option<Owner>,
    /// Which way its data goes.
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// It stands in [`State::held`], for this reason.
    pub(crate) held: Option<Held>,
    /// When it came.
    pub(crate) since: Instant,
    /// How long it waits for data.
    pub(crate) wait: Wait,
}

impl Default for Running {
    fn default() -> Self {
        let (command, since, wait) = (storage_scsi::Command::new(), Instant::ZERO, Wait::default());
        Self { command, target: 0, owner: None, read: false, write: false, held: None, since, wait }
    }
}

/// Why a command is held.
#[derive(Clone, Debug)]
pub(crate) enum Held {
    /// Another command of its unit stands before it, or the unit is not known yet.
    Blocked,
    /// There was no buffer, in the memory for data, or in that for answers.
    Starved([Option<Lack>; 2]),
}

/// The session that waits for a command.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) connection: ConnectionIndex,
    pub(crate) task: storage_iscsi::Task,
}

/// The carrier of a command that was aborted, which moves nothing any more.
struct Nobody;

impl Carrier for Nobody {
    fn receive(&mut self, _: u32, _: Buffer) {}
    fn issue(&mut self, _: UnitId, _: Request) {}
    fn send(&mut self, _: u32, _: Buffer) {}
    fn keep(&mut self, _: UnitId) {}
}

/// A request's cookie on its way through a volume: the command's slot, and its own name for the request.
pub(crate) fn cookie(command: CommandIndex, part: u64) -> u64 {
    debug_assert!(part <= u64::from(u32::MAX), "a part's name has 32 bits");
    u64::from(command) << 32 | part
}

impl Shared {
    /// What one connection may hold of the memory for answers: who asks and does not listen starves itself only.
    pub(crate) fn control(&self) -> Share {
        let lists = self.limits.volumes * MAX_LIST as usize;
        let part = self.limits.control.saturating_sub(lists) / CONTROL_PARTS;
        self.control.share(part.max(2 * MAX_LIST as usize))
    }

    /// What one disk may hold of that memory: one parameter list, whatever else it holds.
    pub(crate) fn lists(&self) -> Share {
        self.control.share(MAX_LIST as usize)
    }

    /// How many commands all sessions but that of `connection` lack to `each`.
    pub(crate) fn owed(&self, registry: &Registry, connection: ConnectionIndex, each: usize) -> usize {
        let running = self.running.iter().enumerate();
        let others = running.filter(|(other, _)| *other != connection && registry.session(*other).is_some());
        others.map(|(_, count)| each.saturating_sub(count.get())).sum()
    }

    pub(crate) fn new(
        limits: &Limits,
        clock: Clock,
        seed: u64,
        portal: Option<SocketAddrV4>,
        owner: &str,
        tls: Option<Tls>,
    ) -> Rc<Self> {
        let pool = Pool::new(&limits.pool);
        let state = State {
            registry: Registry::new(limits),
            commands: Commands::new(limits.commands),
            held: Vec::with_capacity(limits.commands),
            lacks: Vec::with_capacity(2 * limits.commands),
            pending: Vec::with_capacity(limits.connections),
        };
        let list = MAX_LIST as usize;
        let control = Pool::new(&[(list, (limits.control / list).max(1))]);
        let journals = Pool::new(&limits.journal);
        let journals = journals.share(journals.capacity());
        Rc::new(Self {
            clock,
            limits: *limits,
            owner: owner.to_string(),
            tls: tls.map(Rc::new),
            challenger: OnceCell::new(),
            nothing: control.share(0),
            returned: Cell::new(pool.returned().wrapping_add(control.returned())),
            control,
            journals,
            state: RefCell::new(state),
            volumes: (0..limits.volumes).map(|_| Volume::new(limits.paths)).collect(),
            mailboxes: (0..limits.connections).map(|_| Mailbox::new(limits.commands)).collect(),
            seats: (0..limits.connections).map(|_| Seat::default()).collect(),
            running: (0..limits.connections).map(|_| Cell::new(0)).collect(),
            figures: (0..limits.connections).map(|_| Figures::default()).collect(),
            turns: Turns::new(limits.connections, limits.sharing),
            portal,
            keeper: Keeper::default(),
            is_draining: Cell::new(false),
            seed: Cell::new(seed),
            tokens: Cell::new(None),
            pool,
        })
    }

    /// A number that differs at each call and each boot.
    pub(crate) fn seed(&self) -> u64 {
        let next =
            self.seed.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.seed.set(next);
        next
    }

    /// Bytes that nobody can guess who does not know the secret, and others each time.
    pub(crate) fn token(&self) -> Option<[u8; 32]> {
        let (secret, count) = self.tokens.get()?;
        self.tokens.set(Some((secret, count + 1)));
        let mut hash = Sha256::new();
        secret.iter().chain([&count]).for_each(|word| hash.update(word.to_be_bytes()));
        Some(hash.finalize().into())
    }

    /// A request ended: tell its command, and wake the session that waits for it.
    pub(crate) fn complete(&self, mut completion: Completion) {
        // The upper half is the command's slot.
        let index = (completion.cookie >> 32) as CommandIndex;
        completion.cookie &= u64::from(u32::MAX);
        let state = &mut *self.state.borrow_mut();
        let Some(running) = state.commands.get_mut(index) else { return };
        running.command.completed(completion);
        self.turns.happens();
        match running.owner {
            Some(owner) => self.mailboxes[owner.connection].push(index),
            None => self.drain(state, index),
        }
    }

    /// Take a command from its session. What it has under way below still comes back, and until then it keeps its place
    /// among the commands of its unit: nothing that overlaps it overtakes it.
    pub(crate) fn abort(&self, state: &mut State, index: CommandIndex) {
        let State { registry, commands, .. } = &mut *state;
        if let Some(running) = commands.get_mut(index) {
            running.owner = None;
            running.command.abort();
            for unit in running.command.units() {
                if let Some(volume) = registry.volume(running.target, unit) {
                    // What was not sent never will be.
                    self.volumes[volume].lose(|cookie| cookie >> 32 == u64::from(index));
                }
            }
            self.drain(state, index);
        }
    }

    /// Step a command without a session; once nothing of it is under way it is gone, and those that waited for it go on.
    fn drain(&self, state: &mut State, index: CommandIndex) {
        let State { registry, commands, .. } = &mut *state;
        let Some(running) = commands.get_mut(index) else { return };
        let is_copy = running.command.is_copy();
        let is_over = match registry.device_mut(running.target) {
            None => running.command.is_quiet(),
            Some(device) => {
                let memory = Memory { data: &self.nothing, lists: &self.nothing, control: &self.nothing };
                matches!(running.command.step(device, &memory, &mut Nobody), Rest::Finish(_))
            }
        };
        if is_over {
            let (target, unit) = (running.target, running.command.unit());
            running.command.clear();
            commands.release(index);
            self.settle_functions(state, index);
            if is_copy {
                self.wake_target(state, target);
            } else {
                self.wake_blocked(state, target, unit);
            }
        }
    }

    /// Something that held commands may wait for has changed: let their sessions try again.
    pub(crate) fn wake_held(&self, state: &mut State) {
        self.wake(state, |_| true);
    }

    /// A command has given up places in units of a target: let those try again that it may have stood before.
    pub(crate) fn wake_target(&self, state: &mut State, target: TargetIndex) {
        self.wake(state, |running| running.target == target);
    }

    /// A command of a unit has ended: let those try again that it may have stood before. No others, or a window of
    /// commands for a disk that hangs would be tried in vain with every command for one that works.
    pub(crate) fn wake_blocked(&self, state: &mut State, target: TargetIndex, unit: UnitId) {
        let is_meant = |command: &storage_scsi::Command| command.unit() == unit || command.is_copy();
        self.wake(state, |running| running.target == target && is_meant(&running.command));
    }

    fn wake(&self, state: &mut State, is_meant: impl Fn(&Running) -> bool) {
        let State { held, commands, .. } = state;
        held.retain(|&index| {
            // The place of a command that is gone may be another's, which is not held or stands here for itself.
            let Some(running) = commands.get_mut(index).filter(|running| running.held.is_some()) else {
                return false;
            };
            let stays = !is_meant(running);
            if !stays {
                running.held = None;
                if let Some(owner) = running.owner {
                    self.mailboxes[owner.connection].push(index);
                }
            }
            stays
        });
    }

    /// A command cannot go on: because others are before it, or for want of what it lacks.
    pub(crate) fn hold(&self, state: &mut State, index: CommandIndex, lacks: [Option<Lack>; 2]) {
        let State { commands, held, lacks: all, .. } = state;
        let Some(running) = commands.get_mut(index) else { return };
        if running.held.is_none() {
            held.push(index);
        }
        let waits_for = |running: &Running, lack: &Lack| match &running.held {
            Some(Held::Starved(lacks)) => lacks.iter().flatten().any(|own| own.is_same(lack)),
            _ => false,
        };
        for lack in lacks.iter().flatten() {
            if all.iter().any(|known| known.is_same(lack)) {
                continue;
            }
            if all.len() == all.capacity() {
                // Those that nobody lacks any more: of commands that were aborted, of disks that are gone.
                all.retain(|known| commands.iter_mut().any(|(_, running)| waits_for(running, known)));
            }
            all.push(lack.clone());
        }
        let Some(running) = commands.get_mut(index) else { return };
        let is_starved = lacks.iter().any(Option::is_some);
        running.held = Some(if is_starved { Held::Starved(lacks) } else { Held::Blocked });
    }

    /// Let commands that lacked a buffer try again, if one has come back to where they take theirs from: what other disks
    /// and other sessions give back is none of theirs.
    pub(crate) fn wake_starved(&self) {
        let returned = self.pool.returned().wrapping_add(self.control.returned());
        if self.returned.replace(returned) == returned {
            return;
        }
        let state = &mut *self.state.borrow_mut();
        if !state.lacks.iter().any(Lack::may_be_over) {
            return;
        }
        let mut lacks = core::mem::take(&mut state.lacks);
        // All who lack the same, also those who have found that out since.
        let is_over = |own: &Lack| lacks.iter().any(|lack| lack.is_same(own) && lack.may_be_over());
        self.wake(state, |running| match &running.held {
            Some(Held::Starved(own)) => own.iter().flatten().any(is_over),
            _ => false,
        });
        lacks.retain(|lack| !lack.may_be_over());
        state.lacks = lacks;
    }

    /// The disk behind a volume can be used, and this is its shape.
    ///
    /// # Errors
    /// When no SCSI disk can have that shape; the reason is for people.
    pub(crate) fn volume_ready(&self, volume: VolumeIndex, geometry: Geometry) -> Result<(), String> {
        let mut result = Ok(());
        self.each_unit(volume, |unit| {
            result = unit.set_geometry(geometry).map_err(|error| error.to_string());
            if result.is_ok() {
                unit.set_readiness(Readiness::Ready);
            }
        });
        result
    }

    /// The way to the disk is lost for the moment: commands wait.
    pub(crate) fn volume_lost(&self, volume: VolumeIndex) {
        self.each_unit(volume, |unit| unit.set_readiness(Readiness::Connecting));
    }

    /// The way to the disk has been lost for longer than its users are to wait: commands that need it end with NOT READY
    /// from now on.
    pub(crate) fn volume_failed(&self, volume: VolumeIndex) {
        self.each_unit(volume, |unit| unit.set_readiness(Readiness::BecomingReady));
    }

    /// What is there now is not the disk that went: commands end with NOT READY until it is back, or somebody acts.
    pub(crate) fn volume_replaced(&self, volume: VolumeIndex) {
        self.each_unit(volume, |unit| unit.set_readiness(Readiness::Down));
    }

    /// What of aborted commands waits to be sent is not sent any more.
    pub(crate) fn lose_abandoned(&self, volume: VolumeIndex) {
        let state = &mut *self.state.borrow_mut();
        self.volumes[volume].lose(|cookie| {
            let running = state.commands.get((cookie >> 32) as CommandIndex);
            running.is_some_and(|running| running.owner.is_none())
        });
    }

    /// End with BUSY all commands for a disk that came `hold` ago or longer. What of them is under way below keeps its
    /// place, as that of an aborted command does.
    pub(crate) fn give_up_old(&self, volume: VolumeIndex, now: Instant, hold: Duration) {
        let state = &mut *self.state.borrow_mut();
        let mut next = 0;
        loop {
            let State { registry, commands, .. } = &mut *state;
            let found = commands.iter_mut().find(|(index, running)| {
                *index >= next
                    && running.since + hold <= now
                    && running.owner.is_some()
                    && running
                        .command
                        .units()
                        .into_iter()
                        .any(|unit| registry.is_behind(volume, running.target, unit))
            });
            let Some((index, running)) = found else { return };
            next = index + 1;
            if let Some(owner) = running.owner {
                // Who is told BUSY begins anew, and what was copied may be what was to be copied.
                let is_partly_done = running.command.is_partly_done();
                let status = if is_partly_done { Status::TaskAborted } else { Status::Busy };
                self.mailboxes[owner.connection].revoke(owner.task, Some(status));
            }
            self.abort(state, index);
        }
    }

    fn each_unit(&self, volume: VolumeIndex, mut f: impl FnMut(&mut LogicalUnit)) {
        let state = &mut *self.state.borrow_mut();
        state.registry.for_each_unit(volume, |device, unit| {
            if let Some(unit) = device.unit_mut(unit) {
                f(unit);
            }
        });
        self.wake_held(state);
    }
}
