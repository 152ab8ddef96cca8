//! Several commands in one request: each becomes an operation of its own, or a problem.

use crate::Management;

use crate::operations::{self, Stage};
use crate::policy::Principal;
use crate::problem::{Kind, Problem};
use agent_protocol::{InstanceId, Object, OpId, encode};
use alloc::vec::Vec;
use kernel_runtime::{Instant, with_deadline};
use management_api::{BATCH_MAX, BatchElement, BatchRequest, BatchResult, BatchView, CommandRequest};
use management_http::Response;

/// A batch that waits for what comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    parts: Vec<(InstanceId, Result<OpId, Problem>)>,
    until: Instant,
}

impl Batch {
    /// The operations that it has become.
    pub(crate) fn operations(&self) -> impl Iterator<Item = &OpId> {
        self.parts.iter().filter_map(|(_, part)| part.as_ref().ok())
    }
}

impl Management {
    /// Make operations of a batch.
    pub(crate) fn batch(
        &self,
        request: BatchRequest,
        principal: Principal,
        until: Instant,
    ) -> Result<Batch, Problem> {
        if request.commands.is_empty() || request.commands.len() > BATCH_MAX {
            return Err(Problem::new(Kind::InvalidField, "commands: 1 to 32"));
        }
        let parts = request.commands.into_iter().map(|Object(element)| {
            let instance = element.instance.clone();
            (instance, self.part(element, principal))
        });
        Ok(Batch { parts: parts.collect(), until })
    }

    fn part(&self, element: BatchElement, principal: Principal) -> Result<OpId, Problem> {
        let BatchElement { instance, verb, args, precondition, client_token, deadline_ms } = element;
        let request = CommandRequest { verb, args, precondition, client_token, deadline_ms };
        let order = self.order(request, instance, principal)?;
        self.admit(&order, principal)
    }

    /// Wait for what comes of a batch, as long as it does, and answer it.
    pub async fn wait_for_all(&self, batch: Batch) -> Response {
        while !self.are_over(&batch) {
            if with_deadline(&self.clock, batch.until, self.news.heard()).await.is_err() {
                break;
            }
        }
        self.recorded().await;
        let response = Response::json(202, encode(&self.batch_view(&batch)));
        self.metrics.response(response.status);
        response
    }

    fn are_over(&self, batch: &Batch) -> bool {
        let operations = self.operations.borrow();
        batch
            .operations()
            .filter_map(|id| operations.get(id))
            .all(|operation| operation.told && !matches!(operation.stage, Stage::Accepted | Stage::Sent))
    }

    fn batch_view(&self, batch: &Batch) -> BatchView {
        let known = self.operations.borrow();
        let mut view = BatchView { results: Vec::with_capacity(batch.parts.len()), failed: 0 };
        for (instance, part) in &batch.parts {
            let (operation, problem) = match part {
                Ok(id) => match known.get(id).filter(|operation| operation.told) {
                    Some(operation) => (Some(operations::view(operation)), None),
                    None => {
                        let detail = "The state disk has not said yet whether this is remembered.";
                        (None, Some(Problem::new(Kind::OutcomeUnknown, detail).document()))
                    }
                },
                Err(problem) => (None, Some(problem.document())),
            };
            let failed = operation.as_ref().is_none_or(|operation| operation.error.is_some());
            view.failed += u32::from(failed);
            view.results.push(BatchResult { instance: instance.clone(), operation, problem });
        }
        view
    }
}
