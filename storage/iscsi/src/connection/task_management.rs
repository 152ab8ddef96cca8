//! Task management (11.5, 11.6): which task is meant, and what the engine answers by itself.

use super::Connection;
use super::request::Order;
use crate::event::{Event, Fatal, Function, Referenced, TaskManagement, TaskManagementResponse};
use crate::task::{Phase, Purpose, Task};
use crate::wire::{Header, RESERVED_TAG, SerialNumber, TaskManagementRequest, reject};

const TASK_REASSIGN: u8 = 8;

impl Connection {
    pub(super) fn task_management_request(&mut self, header: &Header) -> Result<(), Fatal> {
        let request = TaskManagementRequest::read(header);
        if self.comes_early(&request) {
            self.park();
            return Ok(());
        }
        if self.order(header)? != Order::Take {
            return Ok(());
        }
        if header.data_segment() > 0 || request.initiator_task_tag == RESERVED_TAG {
            self.reject(header, reject::INVALID_PDU_FIELD);
            return Ok(());
        }
        if self.tasks.find_tag(request.initiator_task_tag).is_some() {
            self.reject(header, reject::TASK_IN_PROGRESS);
            return Ok(());
        }
        let begun = self.tasks.begin(Purpose::TaskManagement, request.immediate, request.initiator_task_tag);
        let Some(index) = begun else {
            self.reject(header, reject::IMMEDIATE_COMMAND);
            return Ok(());
        };
        self.arrived(header, true);
        let task = self.tasks.task(index);
        let level = self.parameters().protocol_level();
        let Some(function) = Function::from_code(request.function, level) else {
            self.task_management_response(
                task,
                match request.function {
                    TASK_REASSIGN => TaskManagementResponse::REASSIGNMENT_NOT_SUPPORTED,
                    _ => TaskManagementResponse::NOT_SUPPORTED,
                },
            );
            return Ok(());
        };
        if function.means_one_task() && self.tasks.is_management(request.referenced_task_tag) {
            // A function is not done to a function (11.5.1).
            self.task_management_response(task, TaskManagementResponse::REJECTED);
            return Ok(());
        }
        self.forget_unfinished(function, request.lun);
        let referenced =
            if function.means_one_task() { self.referenced(function, &request) } else { Referenced::Nothing };
        self.events.push_back(Event::TaskManagement(TaskManagement {
            task,
            function,
            lun: request.lun,
            referenced,
        }));
        Ok(())
    }

    /// Whether an immediate function that ends several tasks has come before some of them, which come by other connections
    /// of the session (11.5.1).
    fn comes_early(&self, request: &TaskManagementRequest) -> bool {
        let of_many = matches!(request.function, 2 | 4 | 5 | 6 | 7 | 11);
        request.immediate && of_many && self.may_have_siblings() && self.sequence.lies_ahead(request.cmd_sn)
    }

    fn referenced(&mut self, function: Function, request: &TaskManagementRequest) -> Referenced {
        let named = self.tasks.find_tag(request.referenced_task_tag);
        let named = named.filter(|&index| {
            let slot = &self.tasks[index];
            slot.purpose == Purpose::Command && slot.cmd_sn == request.ref_cmd_sn
        });
        if let Some(index) = named {
            let slot = &self.tasks[index];
            if slot.phase == Phase::Running {
                return Referenced::Task(self.tasks.task(index));
            }
            if function == Function::AbortTask && slot.awaits_data() {
                self.forget(index);
                return Referenced::NotArrived;
            }
            return Referenced::Answered;
        }
        let before = SerialNumber(request.ref_cmd_sn).is_before(SerialNumber(request.cmd_sn));
        if before && self.sequence.is_awaited(request.ref_cmd_sn) {
            let plugged = function == Function::QueryTask || self.sequence.plug(request.ref_cmd_sn);
            return if plugged { Referenced::NotArrived } else { Referenced::Unknown };
        }
        // Where there are other connections it may be running on one of them, and is to be aborted there.
        let is_past = !self.may_have_siblings() && self.sequence.is_past(request.ref_cmd_sn);
        if is_past { Referenced::Past } else { Referenced::Unknown }
    }

    /// Commands that are answered and wait for the last of their data are not known to the layer above any more.
    /// A function that ends them ends them here: an initiator may send nothing more for them (4.2.3.3).
    /// On other connections of the session it is for the layer above to have that done.
    pub fn forget_unfinished(&mut self, function: Function, lun: [u8; 8]) {
        let everywhere =
            matches!(function, Function::TargetWarmReset | Function::TargetColdReset | Function::NexusReset);
        let there =
            matches!(function, Function::AbortTaskSet | Function::ClearTaskSet | Function::LogicalUnitReset);
        for index in 0..self.limits.slots() as u16 {
            let slot = &self.tasks[index];
            let unfinished = slot.phase == Phase::Ending && slot.awaits_data();
            if unfinished && (everywhere || (there && slot.lun == lun)) {
                self.forget(index);
            }
        }
    }

    /// Answer a task management function. Whatever was answered before leaves before; what the function ended has
    /// to be [`Self::abort`]ed before, and must not be able to change anything any more.
    pub fn task_management_response(&mut self, task: Task, response: TaskManagementResponse) {
        self.task_management_response_with(task, response, [0; 3]);
    }

    /// The same, with additional response information (RFC 7144, 5.2).
    pub fn task_management_response_with(
        &mut self,
        task: Task,
        response: TaskManagementResponse,
        [a, b, c]: [u8; 3],
    ) {
        let Some(index) = self.tasks.find_running(task) else { return };
        let slot = &mut self.tasks[index];
        if slot.purpose == Purpose::TaskManagement {
            slot.phase = Phase::Ending;
            slot.answer.status = response.0;
            slot.answer.transferred = u32::from_be_bytes([a, b, c, 0]).into();
            self.queue(index);
        }
    }
}
