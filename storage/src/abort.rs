//! Task management (RFC 7143 section 11.5, SAM-5 section 7): which commands a function ends, and its answer.
//!
//! A function is answered when nothing of the commands it ended can change a disk any more: what was not sent yet never
//! is, and what is under way is waited for. Not for ever, or an initiator would escalate because a service hangs: after
//! [`PATIENCE`] the connections that carry it are dropped, which closes what they may still write to all newer writes.
//! Until then, too, such a command keeps its place among the commands of its unit, and nothing that overlaps it is let
//! past.

use crate::mailbox::CommandIndex;
use crate::path::Path;
use crate::shared::{ConnectionIndex, Shared, State};
use alloc::vec::Vec;
use core::time::Duration;
use kernel_runtime::Instant;
use storage_iscsi::{
    Connection, Function, Referenced, SessionTrigger, Task, TaskManagement, TaskManagementResponse,
};
use storage_scsi::{Attention, Nexus, Status, UnitId};

/// How long a function waits for what is under way: less than the 15 s after which initiators give up an ABORT TASK.
const PATIENCE: Duration = Duration::from_secs(10);

/// A function that is answered when the commands it ended are gone.
pub(crate) struct Pending {
    connection: ConnectionIndex,
    task: Task,
    response: TaskManagementResponse,
    /// Those commands.
    awaited: Vec<CommandIndex>,
    until: Instant,
}

/// Which commands of a target are meant.
#[derive(Clone, Copy)]
struct Scope {
    /// Of one unit, or of all.
    unit: Option<UnitId>,
    /// Of one connection, or of all.
    connection: Option<ConnectionIndex>,
}

impl Path {
    /// Do what is asked and say how it went.
    pub(crate) fn manage(&mut self, connection: &mut Connection, request: &TaskManagement) {
        let ended = match request.referenced {
            Referenced::Task(task) if request.function == Function::AbortTask => self.command(task),
            _ => None,
        };
        let response = self.decide(connection, request);
        let shared = self.shared().clone();
        let state = &mut *shared.state.borrow_mut();
        let awaited = match request.function {
            _ if response != TaskManagementResponse::FUNCTION_COMPLETE => Vec::new(),
            Function::AbortTask => {
                ended.into_iter().filter(|&index| shared.is_changing(state, index)).collect()
            }
            Function::QueryTask | Function::QueryTaskSet | Function::QueryAsyncEvent | Function::ClearAca => {
                Vec::new()
            }
            _ => shared.changing(state, self.index(), request.lun),
        };
        if awaited.is_empty() {
            return connection.task_management_response(request.task, response);
        }
        let until = shared.clock.now() + PATIENCE;
        let (connection, task) = (self.index(), request.task);
        state.pending.push(Pending { connection, task, response, awaited, until });
    }

    /// Answer the functions that have waited long enough. Answers whether there was one.
    pub(crate) fn answer_functions(&mut self, connection: &mut Connection) -> bool {
        let shared = self.shared().clone();
        let state = &mut *shared.state.borrow_mut();
        if state.pending.is_empty() {
            return false;
        }
        let now = self.now();
        let before = state.pending.len();
        let mut index = 0;
        while let Some(pending) = state.pending.get(index) {
            if pending.connection != self.index() || !pending.awaited.is_empty() && now < pending.until {
                index += 1;
                continue;
            }
            let pending = state.pending.remove(index);
            for index in pending.awaited {
                shared.cut(state, index);
            }
            connection.task_management_response(pending.task, pending.response);
        }
        state.pending.len() < before
    }

    /// When a function of this connection has waited long enough.
    pub(crate) fn functions_until(&self) -> Option<Instant> {
        let state = self.shared().state.borrow();
        let mine = state.pending.iter().filter(|pending| pending.connection == self.index());
        mine.map(|pending| pending.until).min()
    }

    fn decide(&mut self, connection: &mut Connection, request: &TaskManagement) -> TaskManagementResponse {
        let shared = self.shared().clone();
        let Some((target, unit)) = locate(&mut shared.state.borrow_mut(), self.index(), request.lun) else {
            return TaskManagementResponse::REJECTED;
        };
        let mine = Some(self.index());
        match (request.function, unit) {
            (Function::AbortTask, _) => self.abort_one(connection, request.referenced),
            (Function::QueryTask, _) => match request.referenced {
                Referenced::Task(task) if self.command(task).is_some() => {
                    TaskManagementResponse::FUNCTION_SUCCEEDED
                }
                _ => TaskManagementResponse::FUNCTION_COMPLETE,
            },
            (Function::TargetWarmReset | Function::TargetColdReset, _) => {
                self.clear(connection, target, Scope { unit: None, connection: None });
                let state = &mut *shared.state.borrow_mut();
                if let Some(device) = state.registry.device_mut(target) {
                    device.target_reset();
                }
                shared.wake_held(state);
                TaskManagementResponse::FUNCTION_COMPLETE
            }
            (Function::NexusReset, _) => {
                self.clear(connection, target, Scope { unit: None, connection: mine });
                TaskManagementResponse::FUNCTION_COMPLETE
            }
            (Function::ClearAca | Function::QueryAsyncEvent, _) => TaskManagementResponse::NOT_SUPPORTED,
            (_, None) => TaskManagementResponse::LUN_DOES_NOT_EXIST,
            (Function::AbortTaskSet, unit) => {
                self.clear(connection, target, Scope { unit, connection: mine });
                TaskManagementResponse::FUNCTION_COMPLETE
            }
            (Function::ClearTaskSet, unit) => {
                self.clear(connection, target, Scope { unit, connection: None });
                TaskManagementResponse::FUNCTION_COMPLETE
            }
            (Function::QueryTaskSet, Some(unit)) => self.query(target, unit),
            (Function::LogicalUnitReset, Some(unit)) => {
                self.clear(connection, target, Scope { unit: Some(unit), connection: None });
                let state = &mut *shared.state.borrow_mut();
                if let Some(device) = state.registry.device_mut(target) {
                    device.lun_reset(unit);
                }
                shared.wake_held(state);
                TaskManagementResponse::FUNCTION_COMPLETE
            }
        }
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

    fn query(&self, target: usize, unit: UnitId) -> TaskManagementResponse {
        let mut state = self.shared().state.borrow_mut();
        let is_there = state.commands.iter_mut().any(|(_, running)| {
            let mine = running.owner.is_some_and(|owner| owner.connection == self.index());
            mine && running.target == target && running.command.unit() == unit
        });
        if is_there {
            TaskManagementResponse::FUNCTION_SUCCEEDED
        } else {
            TaskManagementResponse::FUNCTION_COMPLETE
        }
    }

    /// Abort all commands in `scope`: our own here, those of others through their mailboxes.
    fn clear(&mut self, connection: &mut Connection, target: usize, scope: Scope) {
        let shared = self.shared().clone();
        let mut next: CommandIndex = 0;
        loop {
            let state = &mut *shared.state.borrow_mut();
            let found = state.commands.iter_mut().find(|(index, running)| {
                let owner = running.owner.map(|owner| owner.connection);
                *index >= next
                    && running.target == target
                    && scope.unit.is_none_or(|unit| running.command.unit() == unit)
                    && owner.is_some_and(|owner| scope.connection.is_none_or(|only| only == owner))
            });
            let Some((index, running)) = found else { return };
            next = index + 1;
            let (owner, unit) = (running.owner, running.command.unit());
            let Some(owner) = owner else { continue };
            let nexus = running.command.nexus();
            let unit = state.registry.device_mut(target).and_then(|device| device.unit_mut(unit));
            let tell = unit.is_some_and(|unit| {
                let tell = unit.task_aborted_status();
                if !tell && owner.connection != self.index() {
                    // Without a status it would learn of it by a time-out only. A reset says more, and comes over it.
                    unit.raise(nexus, Attention::CommandsCleared);
                }
                tell
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

/// The target of a connection's session, and the unit that a LUN leads to there.
fn locate(state: &mut State, connection: ConnectionIndex, lun: [u8; 8]) -> Option<(usize, Option<UnitId>)> {
    let (target, _) = state.registry.session(connection)?;
    let device = state.registry.device_mut(target)?;
    Some((target, device.find(lun)))
}

impl Shared {
    /// Whether a request of an aborted command is under way that may change its disk.
    fn is_changing(&self, state: &mut State, index: CommandIndex) -> bool {
        let State { registry, commands, .. } = state;
        let Some(running) = commands.get(index).filter(|running| running.owner.is_none()) else {
            return false;
        };
        let volume = registry.volume(running.target, running.command.unit());
        volume
            .is_some_and(|volume| self.volumes[volume].is_changing(|cookie| cookie >> 32 == u64::from(index)))
    }

    /// The aborted commands of the unit that a LUN leads to, or of all units of the target, that may still change them.
    fn changing(&self, state: &mut State, connection: ConnectionIndex, lun: [u8; 8]) -> Vec<CommandIndex> {
        let Some((target, unit)) = locate(state, connection, lun) else { return Vec::new() };
        let aborted: Vec<_> = state
            .commands
            .iter_mut()
            .filter(|(_, running)| running.owner.is_none() && running.target == target)
            .filter(|(_, running)| unit.is_none_or(|unit| running.command.unit() == unit))
            .map(|(index, _)| index)
            .collect();
        aborted.into_iter().filter(|&index| self.is_changing(state, index)).collect()
    }

    /// Drop the connections that carry requests of a command.
    fn cut(&self, state: &mut State, index: CommandIndex) {
        let State { registry, commands, .. } = state;
        let Some(running) = commands.get(index) else { return };
        if let Some(volume) = registry.volume(running.target, running.command.unit()) {
            log::warn!("volume {volume}: an aborted write is not answered");
            self.volumes[volume].cut(|cookie| cookie >> 32 == u64::from(index));
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
        target: usize,
        unit: UnitId,
        nexus: Nexus,
        except: CommandIndex,
    ) {
        let device = state.registry.device_mut(target);
        let tell = device.and_then(|device| device.unit(unit)).is_some_and(|unit| unit.task_aborted_status());
        let mut next = 0;
        loop {
            let found = state.commands.iter_mut().find(|(index, running)| {
                let meant = running.command.unit() == unit && running.command.nexus() == nexus;
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

    /// End the session of a connection from outside: another login replaces it. Its task notices that it has no session.
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
        state.registry.step(connection, SessionTrigger::Closed);
        self.mailboxes[connection].nudge();
    }
}
