//! The meeting point: one command down, one completion up. No protocol knowledge lives here.
//!
//! A [`Path`] belongs to one connection. `handle` takes what the iSCSI engine says and hands it to the SCSI engine;
//! `step` takes what the SCSI engine says next and hands it to the iSCSI engine or to a volume.

use crate::figures::Wait;
use crate::mailbox::CommandIndex;
use crate::registry::{Place, TargetIndex};
use crate::reservations::Keeper;
use crate::shared::{ConnectionIndex, Owner, Running, Shared, State, VolumeIndex, cookie};
use crate::turns::units;
use crate::volume::Volume;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use kernel_runtime::{Instant, Stage};
use storage_block::{Buffer, Request, Share};
use storage_iscsi::{Command, Connection, Event, LogoutReason, Outcome, Task, TaskManagement};
use storage_scsi::{Arrival, Carrier, Ended, Memory, Rest, Status, UnitId};

/// One connection's way through storage.
pub(crate) struct Path {
    shared: Rc<Shared>,
    index: ConnectionIndex,
    /// The place of its session among those whose turn it can be.
    pub(crate) turn: ConnectionIndex,
    /// The running command of each task slot of the connection's engine, and its task: slots are used again.
    commands: Vec<Option<Slot>>,
    ready: Vec<CommandIndex>,
    /// When this pass began: near enough to now for all that comes of it, and asked of the clock once.
    now: Instant,
    /// Memory for answers that need no disk.
    control: Share,
    /// The connection's part of the memory of each volume that it has used.
    parts: Vec<Option<Part>>,
}

/// A running command in the slot of its task.
#[derive(Clone, Copy)]
struct Slot {
    task: Task,
    command: CommandIndex,
    /// What it counts for, and when it came.
    units: u32,
    since: Instant,
}

/// A connection's part of what the commands of a volume may hold. All have equal parts, so that one which keeps what it has,
/// because it takes no data or gives none, starves itself only.
struct Part {
    /// Which unit the volume is behind: each has its own share, and is not told apart by its volume.
    target: TargetIndex,
    unit: UnitId,
    share: Share,
    /// The volume's memory for parameter lists, which all connections share.
    lists: Share,
    /// Of how many.
    connections: usize,
}

/// An event that is not about a command or its data: the portal answers it.
pub(crate) enum Other {
    Login,
    LoggedIn,
    SendTargets,
    TaskManagement(TaskManagement),
    Logout(LogoutReason),
    Close,
}

/// What came of resuming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resumed {
    /// There was nothing to resume.
    Nothing,
    /// Whatever was resumed has to wait as before.
    Held,
    /// Some command came further.
    Moved,
}

impl Path {
    pub(crate) fn new(shared: Rc<Shared>, index: ConnectionIndex) -> Self {
        let slots = usize::from(shared.limits.iscsi.commands) + usize::from(shared.limits.iscsi.immediate);
        let ready = Vec::with_capacity(shared.limits.commands);
        let (control, parts) = (shared.control(), (0..shared.limits.volumes).map(|_| None).collect());
        let (commands, now) = (vec![None; slots], shared.clock.now());
        Self { shared, index, turn: index, commands, ready, now, control, parts }
    }

    pub(crate) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    pub(crate) fn index(&self) -> ConnectionIndex {
        self.index
    }

    /// Down: what the initiator wants.
    pub(crate) fn handle(&mut self, connection: &mut Connection, event: Event) -> Option<Other> {
        match event {
            Event::Command(command) => {
                let shared = self.shared.clone();
                shared.clock.profile().within(Stage::Scsi, || self.begin(&shared, connection, &command));
            }
            Event::Received { task, offset, buffer } => {
                let shared = self.shared.clone();
                let state = &mut *shared.state.borrow_mut();
                let (now, mine) = (self.now, self.index);
                if let Some((index, running)) = self.running(state, task) {
                    if let Some(micros) = running.wait.has(now) {
                        shared.figures[mine].awaited(micros);
                    }
                    running.command.received(offset, buffer);
                    shared.clock.profile().within(Stage::Scsi, || self.step(connection, state, index));
                }
            }
            Event::Dropped(task) => self.abort(task),
            Event::Login => return Some(Other::Login),
            Event::LoggedIn => return Some(Other::LoggedIn),
            Event::SendTargets => return Some(Other::SendTargets),
            Event::TaskManagement(request) => return Some(Other::TaskManagement(request)),
            Event::Logout(reason) => return Some(Other::Logout(reason)),
            Event::Close => return Some(Other::Close),
        }
        None
    }

    /// When this pass began.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Something is done at this time that is of no pass.
    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// Up: go on with every command that something happened to until `now`, when this pass begins.
    pub(crate) fn resume(&mut self, connection: &mut Connection, now: Instant) -> Resumed {
        self.now = now;
        let shared = self.shared.clone();
        while let Some((task, status)) = shared.mailboxes[self.index].pop_revoked() {
            self.forget(task);
            match status {
                Some(status) => connection.finish(task, Outcome { status: status as u8, ..Outcome::good(0) }),
                None => connection.abort(task),
            }
        }
        let mut ready = core::mem::take(&mut self.ready);
        shared.mailboxes[self.index].drain_into(&mut ready);
        let answered = self.answer_functions(connection);
        let mut resumed = if ready.is_empty() { Resumed::Nothing } else { Resumed::Held };
        if answered {
            resumed = Resumed::Moved;
        }
        if !ready.is_empty() {
            let state = &mut *shared.state.borrow_mut();
            // The stage is changed for all of them at once.
            shared.clock.profile().within(Stage::Scsi, || {
                for index in ready.drain(..) {
                    if self.end(connection, state, index) || self.step(connection, state, index) {
                        resumed = Resumed::Moved;
                    }
                }
            });
        }
        self.ready = ready;
        resumed
    }

    /// The running command of a task.
    pub(crate) fn command(&self, task: Task) -> Option<CommandIndex> {
        self.running(&mut self.shared.state.borrow_mut(), task).map(|(index, _)| index)
    }

    fn running<'a>(&self, state: &'a mut State, task: Task) -> Option<(CommandIndex, &'a mut Running)> {
        let slot = self.commands.get(task.slot()).copied().flatten()?;
        let index = slot.command;
        let running = state.commands.get_mut(index)?;
        let owner = running.owner?;
        (slot.task == task && owner.connection == self.index && owner.task == task)
            .then_some((index, running))
    }

    fn begin(&mut self, shared: &Shared, connection: &mut Connection, command: &Command) {
        let units = units(command.expected_data_transfer_length);
        shared.turns.begun(self.turn, units);
        if !self.admit(shared, connection, command, units) {
            shared.turns.ended(self.turn, units, 0);
        }
    }

    /// Begin a command. Answers whether it has a slot.
    fn admit(&mut self, shared: &Shared, connection: &mut Connection, command: &Command, units: u32) -> bool {
        let state = &mut *shared.state.borrow_mut();
        let State { registry, commands, .. } = &mut *state;
        let session = registry.session(self.index);
        let Some((target, nexus)) = session else {
            connection.abort(command.task);
            return false;
        };
        let held = shared.running[self.index].get();
        let owed = |each| shared.owed(registry, self.index, each);
        if !commands.admits(held, shared.limits.connections, owed) {
            let outcome = Outcome { status: Status::TaskSetFull as u8, ..Outcome::good(0) };
            connection.finish(command.task, outcome);
            return false;
        }
        let Some(device) = registry.device_mut(target) else {
            connection.abort(command.task);
            return false;
        };
        let (data_out, data_in) = directions(command);
        let (lun, cdb, attribute) = (command.lun, &command.cdb, attribute(command.attribute));
        let (index, running) = commands.claim();
        running.target = target;
        running.owner = Some(Owner { connection: self.index, task: command.task });
        (running.read, running.write) = (command.read, command.write);
        running.held = None;
        running.since = self.now;
        running.wait = Wait::default();
        let arrival = Arrival { nexus, lun, cdb, data_out, data_in, attribute };
        device.begin(&mut running.command, &arrival);
        let slot = Slot { task: command.task, command: index, units, since: self.now };
        match self.commands[command.task.slot()].replace(slot) {
            Some(before) => shared.turns.ended(self.turn, before.units, 0),
            None => shared.running[self.index].set(held + 1),
        }
        self.step(connection, state, index);
        true
    }

    /// End a command of this connection with GOOD, if that is all there is left to do: nearly all commands have but one
    /// request, and end when it has come back. Answers whether it has ended.
    fn end(&mut self, connection: &mut Connection, state: &mut State, index: CommandIndex) -> bool {
        let State { registry, commands, .. } = &mut *state;
        let Some(running) = commands.get_mut(index) else { return false };
        let Some(Owner { task, .. }) = running.owner.filter(|owner| owner.connection == self.index) else {
            return false;
        };
        let (target, unit) = (running.target, running.command.unit());
        let Some(device) = registry.device_mut(target) else { return false };
        let Some(Ended { data, wanted_out, wanted_in }) = running.command.end(device) else { return false };
        let (transferred, bidirectional_read) = transferred(running, wanted_out, wanted_in);
        let outcome = Outcome { bidirectional_read, ..Outcome::good(transferred) };
        match data {
            Some(buffer) => connection.send_all(task, buffer, outcome),
            None => connection.finish(task, outcome),
        }
        self.ended(state, (index, task), (target, unit));
        true
    }

    /// A command of this connection has ended: its slot is free, and who waited for it may go on.
    pub(crate) fn ended(
        &mut self,
        state: &mut State,
        (index, task): (CommandIndex, Task),
        (target, unit): (TargetIndex, UnitId),
    ) {
        state.commands.release(index);
        self.forget(task);
        if !state.held.is_empty() {
            self.shared.wake_blocked(state, target, unit);
        }
    }

    /// Let a command of this connection go on until it waits or has ended. Answers whether it came any further.
    fn step(&mut self, connection: &mut Connection, state: &mut State, index: CommandIndex) -> bool {
        let mut moved = false;
        loop {
            let State { registry, commands, .. } = &mut *state;
            let Some(running) = commands.get_mut(index) else { return moved };
            // A command that ended meanwhile left its slot to another, which may be another connection's.
            let Some(Owner { task, .. }) = running.owner.filter(|owner| owner.connection == self.index)
            else {
                return moved;
            };
            let (target, unit) = (running.target, running.command.unit());
            let Some(Place { device, volume, volumes, connections }) = registry.place(target, unit) else {
                return moved;
            };
            let volume = volume.map(|volume| (&self.shared.volumes[volume], &mut self.parts[volume]));
            let volume = volume
                .and_then(|(volume, part)| Some((volume, parts(part, volume, (target, unit), connections)?)));
            let control = &self.control;
            let (data, lists) = volume.map_or((control, control), |(_, part)| (&part.share, &part.lists));
            let memory = Memory { data, lists, control };
            let (now, volume) = (self.now, volume.map(|(volume, _)| volume));
            let wait = &mut running.wait;
            let others = Others { unit, volumes, shared: &self.shared };
            let (keeper, released) = (&self.shared.keeper, false);
            let mut hands =
                Hands { connection, task, index, now, volume, others, keeper, target, wait, moved, released };
            let rest = running.command.step(device, &memory, &mut hands);
            moved = hands.moved;
            if hands.released {
                self.shared.wake_target(state, target);
            }
            match rest {
                Rest::Wait => return moved,
                Rest::Finish(outcome) => {
                    let Some(running) = state.commands.get(index) else { return moved };
                    connection.finish(task, answer(running, &outcome));
                    self.ended(state, (index, task), (target, unit));
                    return true;
                }
                Rest::Abort { unit, nexus } => {
                    self.shared.abort_of(state, target, unit, nexus, index);
                    moved = true;
                }
                Rest::Starved => {
                    let (lists, answers) = (lists.lack(), control.lack());
                    let lacks = [memory.data.lack(), lists.or(answers)];
                    self.shared.hold(state, index, lacks);
                    return moved;
                }
                Rest::Blocked => {
                    self.shared.hold(state, index, [None, None]);
                    return moved;
                }
            }
        }
    }

    /// The task has no command any more.
    pub(crate) fn forget(&mut self, task: Task) {
        let slot = self.commands.get_mut(task.slot());
        if let Some(slot) = slot.and_then(|slot| slot.take_if(|slot| slot.task == task)) {
            self.shared.running[self.index].update(|count| count - 1);
            let took = self.now.as_micros().saturating_sub(slot.since.as_micros());
            self.shared.turns.ended(self.turn, slot.units, took);
            self.shared.figures[self.index].ended(took);
        }
    }

    /// The initiator will hear no more of this task.
    pub(crate) fn abort(&mut self, task: Task) {
        if let Some(index) = self.command(task) {
            self.forget(task);
            let shared = self.shared.clone();
            shared.abort(&mut shared.state.borrow_mut(), index);
        }
    }

    /// End a command with BUSY whose data stands on the connection and has no place: the initiator tries again, and
    /// meanwhile its pings get through.
    pub(crate) fn turn_away(&mut self, connection: &mut Connection, task: Task) {
        connection.finish(task, Outcome { status: Status::Busy as u8, ..Outcome::good(0) });
        self.abort(task);
    }

    /// The connection is none of its session's any more, by a logout or because it was lost: its commands are nobody's. With
    /// the last one the session is over, and its nexus lost.
    pub(crate) fn end_session(&mut self, is_closed: bool) {
        let shared = self.shared.clone();
        let state = &mut *shared.state.borrow_mut();
        shared.running[self.index].set(0);
        shared.forget_functions(state, self.index);
        for Slot { command: index, units, .. } in self.commands.iter_mut().filter_map(Option::take) {
            shared.turns.ended(self.turn, units, 0);
            let is_ours = state
                .commands
                .get_mut(index)
                .is_some_and(|running| running.owner.is_some_and(|owner| owner.connection == self.index));
            if is_ours {
                shared.abort(state, index);
            }
        }
        shared.leave(state, self.index, is_closed);
        // The parts of the other sessions are larger now.
        shared.wake_held(state);
    }
}

/// What carries for a command, between its connection and its volume.
struct Hands<'a> {
    connection: &'a mut Connection,
    task: Task,
    index: CommandIndex,
    now: Instant,
    volume: Option<&'a Volume>,
    others: Others<'a>,
    wait: &'a mut Wait,
    keeper: &'a Keeper,
    target: TargetIndex,
    /// It carried something.
    moved: bool,
    /// Commands of the target that are blocked may go on.
    released: bool,
}

/// The volumes behind the units of a target, for a command that copies between them.
struct Others<'a> {
    /// The unit of the command.
    unit: UnitId,
    volumes: &'a [Option<VolumeIndex>],
    shared: &'a Shared,
}

impl<'a> Others<'a> {
    #[cold]
    fn find(&self, unit: UnitId) -> Option<&'a Volume> {
        self.shared.volumes.get(self.volumes.get(unit.index()).copied().flatten()?)
    }
}

impl Carrier for Hands<'_> {
    fn receive(&mut self, offset: u32, buffer: Buffer) {
        self.wait.asks(self.now);
        self.connection.receive(self.task, offset, buffer);
        self.moved = true;
    }

    fn issue(&mut self, unit: UnitId, mut request: Request) {
        request.cookie = cookie(self.index, request.cookie);
        // A unit whose commands reach its backend has a volume, and the engine has looked that the unit is there.
        let volume = if unit == self.others.unit { self.volume } else { self.others.find(unit) };
        if let Some(volume) = volume {
            volume.push(self.now, request);
        }
        self.moved = true;
    }

    fn send(&mut self, offset: u32, buffer: Buffer) {
        self.connection.send(self.task, offset, buffer);
        self.moved = true;
    }

    fn released(&mut self) {
        self.released = true;
    }

    fn keep(&mut self, unit: UnitId) {
        self.keeper.keep(self.target, unit);
        self.moved = true;
    }

    fn now(&self) -> Duration {
        self.now.since(Instant::ZERO)
    }

    fn random(&mut self) -> Option<[u8; 32]> {
        self.others.shared.token()
    }
}

/// The connection's part of a volume's memory, as it is for so many connections.
fn parts<'a>(
    place: &'a mut Option<Part>,
    volume: &Volume,
    (target, unit): (TargetIndex, UnitId),
    connections: usize,
) -> Option<&'a Part> {
    if !place.as_ref().is_some_and(|part| part.target == target && part.unit == unit) {
        let share = volume.share()?.part();
        *place = Some(Part { target, unit, share, lists: volume.lists()?, connections: 0 });
    }
    let part = place.as_mut()?;
    if part.connections != connections {
        part.connections = connections;
        part.share.bound(connections);
    }
    Some(part)
}

/// Bytes that the initiator offers, and bytes that it can take.
fn directions(command: &Command) -> (u32, u32) {
    let expected = command.expected_data_transfer_length;
    match (command.write, command.read) {
        (true, true) => (expected, command.bidirectional_read_length),
        (true, false) => (expected, 0),
        (false, true) => (0, expected),
        (false, false) => (0, 0),
    }
}

fn attribute(attribute: storage_iscsi::Attribute) -> storage_scsi::Attribute {
    match attribute {
        storage_iscsi::Attribute::Ordered => storage_scsi::Attribute::Ordered,
        storage_iscsi::Attribute::HeadOfQueue => storage_scsi::Attribute::HeadOfQueue,
        _ => storage_scsi::Attribute::Simple,
    }
}

/// Bytes that a command transfers, and those that one with data both ways reads.
fn transferred(running: &Running, wanted_out: u64, wanted_in: u64) -> (u64, u64) {
    match (running.write, running.read) {
        (true, true) => (wanted_out, wanted_in),
        (true, false) => (wanted_out, 0),
        (false, true) => (wanted_in, 0),
        (false, false) => (wanted_out.max(wanted_in), 0),
    }
}

/// The end of a command in the words of the transport.
fn answer<'a>(running: &Running, outcome: &'a storage_scsi::Outcome) -> Outcome<'a> {
    let (transferred, bidirectional_read) = transferred(running, outcome.wanted_out, outcome.wanted_in);
    Outcome { status: outcome.status as u8, sense: outcome.sense.as_ref(), transferred, bidirectional_read }
}
