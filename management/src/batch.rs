//! Several commands in one request: each becomes an operation of its own, or a problem.

use crate::Management;
use crate::answers::answered;
use crate::documents::Order;
use crate::forecast::forecast;
use crate::operations::{self, Stage};
use crate::policy::Principal;
use crate::problem::{Kind, Problem};
use agent_protocol::{InstanceId, Object, OpId, encode};
use alloc::boxed::Box;
use alloc::vec::Vec;
use kernel_runtime::{Instant, with_deadline};
use management_api::{
    BATCH_MAX, BatchElement, BatchRequest, BatchResult, BatchView, CommandRequest, Forecast,
};
use management_http::Response;

/// A batch that waits for what comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    parts: Vec<(InstanceId, Result<Part, Problem>)>,
    until: Instant,
    dry: bool,
}

/// What has become of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Operation(OpId),
    /// It is only to be looked at what would.
    Forecast(Box<Order>),
}

impl Batch {
    /// The operations that it has become.
    pub(crate) fn operations(&self) -> impl Iterator<Item = &OpId> {
        self.parts.iter().filter_map(|(_, part)| match part {
            Ok(Part::Operation(id)) => Some(id),
            _ => None,
        })
    }
}

impl Management {
    /// Make operations of a batch, or forecasts of a dry run.
    pub(crate) fn batch(
        &self,
        request: BatchRequest,
        dry: bool,
        principal: Principal,
        until: Instant,
    ) -> Result<Batch, Problem> {
        if request.commands.is_empty() || request.commands.len() > BATCH_MAX {
            return Err(Problem::new(Kind::InvalidField, "commands: 1 to 32"));
        }
        let parts = request.commands.into_iter().map(|Object(element)| {
            let instance = element.instance.clone();
            (instance, self.part(element, dry, principal))
        });
        Ok(Batch { parts: parts.collect(), until, dry })
    }

    fn part(&self, element: BatchElement, dry: bool, principal: Principal) -> Result<Part, Problem> {
        let BatchElement { instance, verb, args, precondition, client_token, deadline_ms } = element;
        let request = CommandRequest { verb, args, precondition, client_token, deadline_ms };
        let order = self.order(request, instance, principal)?;
        if dry {
            self.may_begin(order.action.verb())?;
            return Ok(Part::Forecast(Box::new(order)));
        }
        self.admit(&order, principal).map(Part::Operation)
    }

    /// Wait for what comes of a batch, as long as it does, and answer it.
    pub async fn wait_for_all(&self, batch: Batch) -> Response {
        if batch.dry {
            let response = Response::json(200, encode(&self.forecasts(batch).await));
            self.metrics.response(response.status);
            return response;
        }
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

    /// What would come of each, one after the other: they share the time that an answer may take.
    async fn forecasts(&self, batch: Batch) -> BatchView {
        let mut view = BatchView { results: Vec::with_capacity(batch.parts.len()), failed: 0 };
        for (instance, part) in batch.parts {
            let forecast = match part {
                Ok(Part::Forecast(order)) => self.foretell(&order, batch.until).await.map(Some),
                Ok(Part::Operation(_)) => Ok(None),
                Err(problem) => Err(problem),
            };
            let (forecast, problem) = match forecast {
                Ok(forecast) => (forecast, None),
                Err(problem) => (None, Some(problem.document())),
            };
            view.failed += u32::from(problem.is_some());
            view.results.push(BatchResult { instance, operation: None, problem, forecast });
        }
        view
    }

    async fn foretell(&self, order: &Order, until: Instant) -> Result<Forecast, Problem> {
        let question = self.describe(order.instance.clone())?;
        forecast(order, &*answered(self.forward.ask(question, until).await)?)
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
                Ok(Part::Forecast(_)) => (None, None),
                Ok(Part::Operation(id)) => match known.get(id).filter(|operation| operation.told) {
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
            view.results.push(BatchResult { instance: instance.clone(), operation, problem, forecast: None });
        }
        view
    }
}
