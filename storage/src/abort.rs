//! Task management (RFC 7143 section 11.5, SAM-5 section 7): which commands a function ends, and its answer.
//!
//! A function is answered at once, although requests of the commands it ended may still be under way: each of them
//! keeps its place among the commands of its unit until its last request has come back, and nothing that overlaps it is
//! let past. So a disk that hangs does not make its initiator escalate, and no old write lands behind a newer one. What
//! was not sent yet is never sent.

use crate::mailbox::CommandIndex;
use crate::path::Path;
use crate::shared::{ConnectionIndex, Shared, State};
use storage_iscsi::{Connection, Function, Referenced, TaskManagement, TaskManagementResponse};
use storage_scsi::{Attention, Nexus, Status, UnitId};

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
        let response = self.decide(connection, request);
        connection.task_management_response(request.task, response);
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
        state.registry.detach(connection);
        self.mailboxes[connection].nudge();
    }
}
