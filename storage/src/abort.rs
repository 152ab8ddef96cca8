//! Task management (RFC 7143 section 11.5, SAM-5 section 7): which commands a function ends, and its answer.
//!
//! A function is answered when nothing of the commands it ended can change a disk any more: what was not sent yet never
//! is, and what is under way is waited for. Not for long, or an initiator would escalate because a service hangs: after
//! [`PATIENCE`] it is answered all the same. Such a command keeps its place among the commands of its unit, and nothing
//! that overlaps it is let past, so that nobody who comes by this appliance can tell. When [`LIMIT`] is over the connections
//! that carry it are dropped, which closes what they may still write to all newer writes.

use crate::mailbox::{CommandIndex, Notice};
use crate::path::Path;
use crate::registry::TargetIndex;
use crate::shared::{ConnectionIndex, Running, Shared, State};
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::time::Duration;
use kernel_runtime::Instant;
use storage_iscsi::{Connection, Function, Referenced, Task, TaskManagement, TaskManagementResponse};
use storage_scsi::{Attention, Function as Asked, Nexus, Status, Target, UnitId};

/// How long a function's answer waits for what is under way.
const PATIENCE: Duration = Duration::from_millis(900);
/// How long anything waits for it.
const LIMIT: Duration = Duration::from_secs(10);

/// A function whose commands are not gone yet.
pub(crate) struct Pending {
    connection: ConnectionIndex,
    /// How it is to be answered; `None` once it was.
    answer: Option<Answer>,
    /// Those commands.
    awaited: Vec<CommandIndex>,
    since: Instant,
}

impl Pending {
    /// When something is due although its commands are not gone.
    fn due(&self) -> Instant {
        self.since + if self.answer.is_some() { PATIENCE } else { LIMIT }
    }
}

/// The answer to a function.
#[derive(Clone, Copy)]
struct Answer {
    task: Task,
    response: TaskManagementResponse,
    additional: [u8; 3],
    ends: Ends,
}

/// What ends behind an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Nothing,
    /// The session that has asked (I_T NEXUS RESET, RFC 7144 section 6.3).
    Session,
    /// All sessions of the target (TARGET COLD RESET, RFC 7143 section 11.6.1).
    All,
}

/// Which commands of a target are meant.
#[derive(Clone, Copy)]
struct Scope {
    /// Of one unit, or of all.
    unit: Option<UnitId>,
    /// Of one nexus, or of all.
    nexus: Option<Nexus>,
}

impl Path {
    /// Do what is asked and say how it went.
    pub(crate) fn manage(&mut self, connection: &mut Connection, request: &TaskManagement) {
        let ended = match request.referenced {
            Referenced::Task(task) if request.function == Function::AbortTask => self.command(task),
            _ => None,
        };
        self.shared().figures[self.index()].function();
        let (response, additional) = self.decide(connection, request);
        let shared = self.shared().clone();
        let state = &mut *shared.state.borrow_mut();
        let is_done = response == TaskManagementResponse::FUNCTION_COMPLETE;
        let awaited = match request.function {
            _ if !is_done => Vec::new(),
            Function::AbortTask => {
                ended.into_iter().filter(|&index| shared.is_changing(state, index)).collect()
            }
            Function::QueryTask | Function::QueryTaskSet | Function::QueryAsyncEvent => Vec::new(),
            Function::TargetWarmReset | Function::TargetColdReset | Function::NexusReset => {
                shared.changing(state, self.index(), None)
            }
            _ => shared.changing(state, self.index(), Some(request.lun)),
        };
        if is_done && !matches!(request.function, Function::AbortTask | Function::QueryTask) {
            self.forget_unfinished(state, request);
        }
        let ends = match request.function {
            Function::TargetColdReset if is_done => Ends::All,
            Function::NexusReset if is_done => Ends::Session,
            _ => Ends::Nothing,
        };
        let answer = Answer { task: request.task, response, additional, ends };
        if awaited.is_empty() {
            return self.answer(connection, state, answer);
        }
        let (connection, since) = (self.index(), shared.clock.now());
        state.pending.push(Pending { connection, answer: Some(answer), awaited, since });
    }

    /// Other connections of the session may have commands that are answered and wait for data, which the function ends too.
    fn forget_unfinished(&self, state: &State, request: &TaskManagement) {
        let shared = self.shared();
        let Some(tsih) = state.registry.tsih(self.index()) else { return };
        for member in state.registry.members(tsih) {
            // Our own seat is empty while we are at work.
            shared.seats[member].with(|serving| {
                serving.connection.forget_unfinished(request.function, request.lun);
            });
        }
    }

    fn answer(&self, connection: &mut Connection, state: &State, answer: Answer) {
        let Answer { task, response, additional, ends } = answer;
        connection.task_management_response_with(task, response, additional);
        if ends != Ends::Nothing
            && let Some(session) = state.registry.session(self.index())
        {
            let shared = self.shared();
            let is_meant =
                |other: (TargetIndex, Nexus)| other == session || other.0 == session.0 && ends == Ends::All;
            shared.notify(state, is_meant, Notice::Leave(shared.clock.now()));
        }
    }

    /// Answer the functions that have waited long enough. Answers whether there was one.
    pub(crate) fn answer_functions(&mut self, connection: &mut Connection) -> bool {
        let shared = self.shared().clone();
        let state = &mut *shared.state.borrow_mut();
        let (mut index, mut answered) = (0, false);
        while let Some(pending) = state.pending.get_mut(index) {
            let is_over = pending.awaited.is_empty();
            if pending.connection != self.index() || !is_over && self.now() < pending.due() {
                index += 1;
                continue;
            }
            let answer = pending.answer.take();
            // The second time it is due there is no answer left to give.
            if is_over || answer.is_none() {
                for command in state.pending.remove(index).awaited {
                    shared.cut(state, command);
                }
            }
            if let Some(answer) = answer {
                self.answer(connection, state, answer);
                answered = true;
            }
        }
        answered
    }

    /// When something is due for a function of this connection.
    pub(crate) fn functions_until(&self) -> Option<Instant> {
        let state = self.shared().state.borrow();
        let mine = state.pending.iter().filter(|pending| pending.connection == self.index());
        mine.map(Pending::due).min()
    }

    /// Do a function; answers how it went, and additional response information.
    fn decide(
        &mut self,
        connection: &mut Connection,
        request: &TaskManagement,
    ) -> (TaskManagementResponse, [u8; 3]) {
        const COMPLETE: TaskManagementResponse = TaskManagementResponse::FUNCTION_COMPLETE;
        let shared = self.shared().clone();
        let Some((target, mine, unit)) = locate(&mut shared.state.borrow_mut(), self.index(), request.lun)
        else {
            return (TaskManagementResponse::REJECTED, [0; 3]);
        };
        let nexus = Some(mine);
        let (response, mut additional) = match (function(request.function), unit) {
            (function, _) if !function.is_supported() => (TaskManagementResponse::NOT_SUPPORTED, None),
            (Asked::AbortTask, _) => (self.abort_one(connection, request.referenced), None),
            (Asked::QueryTask, _) => (self.query_one(request.referenced), None),
            (Asked::TargetReset, _) => {
                self.clear(connection, target, Scope { unit: None, nexus: None });
                self.reset(target, Target::target_reset);
                (COMPLETE, None)
            }
            (Asked::NexusReset, _) => {
                self.clear(connection, target, Scope { unit: None, nexus });
                self.reset(target, |device| device.nexus_reset(mine));
                (COMPLETE, None)
            }
            (_, None) => (TaskManagementResponse::LUN_DOES_NOT_EXIST, None),
            (Asked::AbortTaskSet, unit) => {
                self.clear(connection, target, Scope { unit, nexus });
                (COMPLETE, None)
            }
            (Asked::LogicalUnitReset, Some(unit)) => {
                self.clear(connection, target, Scope { unit: Some(unit), nexus: None });
                self.reset(target, |device| _ = device.lun_reset(unit));
                (COMPLETE, None)
            }
            (Asked::QueryTaskSet, Some(unit)) => (self.query_set(target, unit, mine), None),
            (Asked::QueryAsynchronousEvent, Some(unit)) => {
                let device = &mut *shared.state.borrow_mut();
                let device = device.registry.device_mut(target);
                let event = device.and_then(|device| device.query_asynchronous_event(unit, mine));
                (told(event.is_some()), event)
            }
            // CLEAR TASK SET; CLEAR ACA is not supported.
            (_, unit) => {
                self.clear(connection, target, Scope { unit, nexus: None });
                (COMPLETE, None)
            }
        };
        (response, additional.take().unwrap_or_default())
    }

    /// Do what else a reset does.
    fn reset(&self, target: TargetIndex, how: impl FnOnce(&mut Target)) {
        let state = &mut *self.shared().state.borrow_mut();
        if let Some(device) = state.registry.device_mut(target) {
            how(device);
        }
        self.shared().wake_held(state);
    }

    fn query_one(&self, referenced: Referenced) -> TaskManagementResponse {
        told(matches!(referenced, Referenced::Task(task) if self.command(task).is_some()))
    }

    /// ABORT TASK. Of a task that has ended already an initiator hears that all is done: some escalate to a reset
    /// otherwise.
    fn abort_one(&mut self, connection: &mut Connection, referenced: Referenced) -> TaskManagementResponse {
        match referenced {
            Referenced::Task(task) => {
                self.abort(task);
                connection.abort(task);
                TaskManagementResponse::FUNCTION_COMPLETE
            }
            Referenced::Answered | Referenced::NotArrived | Referenced::Past => {
                TaskManagementResponse::FUNCTION_COMPLETE
            }
            Referenced::Unknown | Referenced::Nothing => TaskManagementResponse::TASK_DOES_NOT_EXIST,
        }
    }

    fn query_set(&self, target: TargetIndex, unit: UnitId, nexus: Nexus) -> TaskManagementResponse {
        let mut state = self.shared().state.borrow_mut();
        let is_meant = |running: &Running| {
            let command = &running.command;
            running.owner.is_some()
                && running.target == target
                && (command.unit(), command.nexus()) == (unit, nexus)
        };
        told(state.commands.iter_mut().any(|(_, running)| is_meant(running)))
    }

    /// Abort all commands in `scope`: our own here, those of others through their mailboxes.
    fn clear(&mut self, connection: &mut Connection, target: TargetIndex, scope: Scope) {
        let shared = self.shared().clone();
        let mut next: CommandIndex = 0;
        loop {
            let state = &mut *shared.state.borrow_mut();
            let found = state.commands.iter_mut().find(|(index, running)| {
                *index >= next
                    && running.target == target
                    && running.owner.is_some()
                    && scope.unit.is_none_or(|unit| running.command.concerns(unit))
                    && scope.nexus.is_none_or(|nexus| running.command.nexus() == nexus)
            });
            let Some((index, running)) = found else { return };
            next = index + 1;
            let (owner, unit) = (running.owner, running.command.unit());
            let Some(owner) = owner else { continue };
            let nexus = running.command.nexus();
            // What an initiator ends of its own it knows of.
            let is_own = state.registry.session(self.index()) == Some((target, nexus));
            let unit = state.registry.device_mut(target).and_then(|device| device.unit_mut(unit));
            let tell = unit.is_some_and(|unit| {
                let tell = unit.task_aborted_status();
                if !tell && !is_own {
                    // Without a status it would learn of it by a time-out only. A reset says more, and comes over it.
                    unit.raise(nexus, Attention::CommandsCleared);
                }
                tell && !is_own
            });
            shared.abort(state, index);
            if owner.connection == self.index() {
                self.forget(owner.task);
                connection.abort(owner.task);
            } else {
                shared.mailboxes[owner.connection].revoke(owner.task, tell.then_some(Status::TaskAborted));
            }
        }
    }
}

/// The answer to a query.
const fn told(is_so: bool) -> TaskManagementResponse {
    if is_so { TaskManagementResponse::FUNCTION_SUCCEEDED } else { TaskManagementResponse::FUNCTION_COMPLETE }
}

/// A function in the words of SCSI.
const fn function(function: Function) -> Asked {
    match function {
        Function::AbortTask => Asked::AbortTask,
        Function::AbortTaskSet => Asked::AbortTaskSet,
        Function::ClearAca => Asked::ClearAca,
        Function::ClearTaskSet => Asked::ClearTaskSet,
        Function::LogicalUnitReset => Asked::LogicalUnitReset,
        Function::TargetWarmReset | Function::TargetColdReset => Asked::TargetReset,
        Function::QueryTask => Asked::QueryTask,
        Function::QueryTaskSet => Asked::QueryTaskSet,
        Function::NexusReset => Asked::NexusReset,
        Function::QueryAsyncEvent => Asked::QueryAsynchronousEvent,
    }
}

/// The target and the nexus of a connection's session, and the unit that a LUN leads to there.
fn locate(
    state: &mut State,
    connection: ConnectionIndex,
    lun: [u8; 8],
) -> Option<(TargetIndex, Nexus, Option<UnitId>)> {
    let (target, nexus) = state.registry.session(connection)?;
    let device = state.registry.device_mut(target)?;
    Some((target, nexus, device.find(lun)))
}

impl Shared {
    /// Whether a request of an aborted command is under way that may change its disk.
    fn is_changing(&self, state: &mut State, index: CommandIndex) -> bool {
        let State { registry, commands, .. } = state;
        let Some(running) = commands.get(index).filter(|running| running.owner.is_none()) else {
            return false;
        };
        running.command.units().into_iter().any(|unit| {
            let is_meant = |cookie| cookie >> 32 == u64::from(index);
            registry
                .volume(running.target, unit)
                .is_some_and(|volume| self.volumes[volume].is_changing(is_meant))
        })
    }

    /// The aborted commands of the unit that a LUN leads to, or of all units of the target, that may still change them.
    fn changing(
        &self,
        state: &mut State,
        connection: ConnectionIndex,
        lun: Option<[u8; 8]>,
    ) -> Vec<CommandIndex> {
        let Some((target, _, unit)) = locate(state, connection, lun.unwrap_or_default()) else {
            return Vec::new();
        };
        let unit = unit.filter(|_| lun.is_some());
        let aborted: Vec<_> = state
            .commands
            .iter_mut()
            .filter(|(_, running)| running.owner.is_none() && running.target == target)
            .filter(|(_, running)| unit.is_none_or(|unit| running.command.concerns(unit)))
            .map(|(index, _)| index)
            .collect();
        aborted.into_iter().filter(|&index| self.is_changing(state, index)).collect()
    }

    /// Drop the connections that carry requests of a command.
    fn cut(&self, state: &mut State, index: CommandIndex) {
        let State { registry, commands, .. } = state;
        let Some(running) = commands.get(index) else { return };
        for unit in running.command.units() {
            if let Some(volume) = registry.volume(running.target, unit) {
                log::warn!("volume {volume}: an aborted write is not answered");
                self.volumes[volume].cut(|cookie| cookie >> 32 == u64::from(index));
            }
        }
    }

    /// A command is gone: functions need not wait for it any more.
    pub(crate) fn settle_functions(&self, state: &mut State, index: CommandIndex) {
        for pending in &mut state.pending {
            pending.awaited.retain(|&awaited| awaited != index);
            if pending.awaited.is_empty() {
                self.mailboxes[pending.connection].nudge();
            }
        }
    }

    /// A connection is over: nobody waits for its functions.
    pub(crate) fn forget_functions(&self, state: &mut State, connection: ConnectionIndex) {
        state.pending.retain(|pending| pending.connection != connection);
    }

    /// Abort the commands of one nexus for one unit, on behalf of the command `except`. Their connections are told.
    pub(crate) fn abort_of(
        &self,
        state: &mut State,
        target: TargetIndex,
        unit: UnitId,
        nexus: Nexus,
        except: CommandIndex,
    ) {
        let device = state.registry.device_mut(target);
        let tell = device.and_then(|device| device.unit(unit)).is_some_and(|unit| unit.task_aborted_status());
        let mut next = 0;
        loop {
            let found = state.commands.iter_mut().find(|(index, running)| {
                let meant = running.command.concerns(unit) && running.command.nexus() == nexus;
                *index >= next && *index != except && running.target == target && meant
            });
            let Some((index, running)) = found else { return };
            next = index + 1;
            if let Some(owner) = running.owner {
                self.mailboxes[owner.connection].revoke(owner.task, tell.then_some(Status::TaskAborted));
            }
            self.abort(state, index);
        }
    }

    /// Have the initiators of a target asked to log out within so long a time, after which their sessions end.
    pub(crate) fn dismiss(&self, state: &State, target: TargetIndex, within: Duration) {
        self.notify(state, |session| session.0 == target, Notice::Leave(self.clock.now() + within));
    }

    /// Have the initiators of sessions, by their targets and nexuses, told something.
    pub(crate) fn notify(
        &self,
        state: &State,
        is_meant: impl Fn((TargetIndex, Nexus)) -> bool,
        notice: Notice,
    ) {
        for (connection, mailbox) in self.mailboxes.iter().enumerate() {
            let Some(session) = state.registry.session(connection) else { continue };
            // Each connection is to be left, and what is about units is told once.
            let is_first = || {
                let tsih = state.registry.tsih(connection);
                tsih.and_then(|tsih| state.registry.members(tsih).next()) == Some(connection)
            };
            if is_meant(session) && (notice != Notice::LunsChanged || is_first()) {
                mailbox.notify(notice);
            }
        }
    }

    /// Have the other connections of a session look whether they can go on.
    pub(crate) fn nudge(&self, tsih: NonZeroU16, except: ConnectionIndex) {
        for member in self.state.borrow().registry.members(tsih).filter(|&member| member != except) {
            self.mailboxes[member].nudge();
        }
    }

    /// End the session of these connections from outside, but for one of them.
    pub(crate) fn evict_session(&self, tsih: NonZeroU16, except: Option<ConnectionIndex>) {
        loop {
            let next = {
                let state = self.state.borrow();
                state.registry.members(tsih).find(|&member| Some(member) != except)
            };
            let Some(member) = next else { return };
            self.evict(member);
        }
    }

    /// End a connection of a session from outside: it is logged out, or another login replaces it or its session. Its task
    /// notices that it has none.
    pub(crate) fn evict(&self, connection: ConnectionIndex) {
        let state = &mut *self.state.borrow_mut();
        let mut next = 0;
        loop {
            let found = state.commands.iter_mut().find(|(index, running)| {
                *index >= next && running.owner.is_some_and(|owner| owner.connection == connection)
            });
            let Some((index, _)) = found else { break };
            next = index + 1;
            self.abort(state, index);
        }
        self.leave(state, connection, true);
        self.mailboxes[connection].nudge();
    }

    /// A connection is none of its session's any more, because it was logged out or because it was lost. What waited for
    /// that goes.
    pub(crate) fn leave(&self, state: &mut State, connection: ConnectionIndex, is_closed: bool) {
        state.registry.leave(connection, is_closed);
        while let Some(volume) = state.registry.remove_left() {
            self.volumes[volume].withdraw(self.clock.now());
        }
    }
}
