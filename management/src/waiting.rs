//! What is told of one operation, at once or when something has come of it; and how one is called off.

use crate::answers::forgotten;
use crate::ask::Question;
use crate::operations::{End, Stage, view};
use crate::plane::{Aim, Management, Wait};
use crate::problem::{Kind, Problem};
use crate::slots::Taken;
use agent_protocol::{OpId, encode};
use alloc::format;
use kernel_runtime::with_deadline;
use management_http::Response;

impl Management {
    /// The question as it is to be asked: one whose answer is waited for is answered at once when too many wait.
    pub(crate) fn may_wait(&self, question: Question) -> (Question, Option<Taken<'_>>) {
        let now = self.clock.now();
        match question {
            Question::Console(id, after, until) if until > now => {
                let waiting = self.slots.wait();
                let until = if waiting.is_some() { until } else { now };
                (Question::Console(id, after, until), waiting)
            }
            other => (other, None),
        }
    }

    /// Wait for what a request waits for, as long as it does, and answer it.
    pub async fn wait(&self, wait: Wait) -> Response {
        let waiting = if wait.aim == Aim::Look { self.slots.wait() } else { None };
        while !self.is_over(&wait) && (waiting.is_some() || wait.aim != Aim::Look) {
            if with_deadline(&self.clock, wait.until, self.news.heard()).await.is_err() {
                break;
            }
        }
        drop(waiting);
        self.recorded().await;
        self.waited(&wait)
    }

    fn is_over(&self, wait: &Wait) -> bool {
        let operations = self.operations.borrow();
        operations.get(&wait.id).is_none_or(|operation| match wait.aim {
            Aim::Command(_) => operation.told && !matches!(operation.stage, Stage::Accepted | Stage::Sent),
            Aim::End | Aim::Look => !operation.told || !operation.stage.is_open(),
        })
    }

    /// The answer to a request that has waited.
    pub(crate) fn waited(&self, wait: &Wait) -> Response {
        let response = match wait.aim {
            Aim::Command(creates) => self.told(&wait.id, creates),
            Aim::End | Aim::Look => self.shown(&wait.id),
        };
        let response = response.unwrap_or_else(|problem| problem.at(&wait.path).response());
        self.metrics.response(response.status);
        response
    }

    /// The answer to the client that sent the command of this operation.
    fn told(&self, id: &OpId, creates: bool) -> Result<Response, Problem> {
        let operations = self.operations.borrow();
        let operation = operations.get(id).ok_or_else(|| forgotten(id))?;
        if !operation.told {
            let detail = "The state disk has not said yet whether this is remembered.";
            return Err(Problem::new(Kind::OutcomeUnknown, detail).at(&operation.path()));
        }
        if let Some(problem) = &operation.problem {
            return Err(problem.clone().at(&operation.path()));
        }
        let status = if creates && operation.stage == Stage::Succeeded { 201 } else { 202 };
        let location =
            if status == 201 { format!("/v1/instances/{}", operation.instance) } else { operation.path() };
        let body = encode(&view(operation));
        Ok(Response { location: Some(location), ..Response::json(status, body) })
    }

    /// The answer to whoever looks at this operation.
    pub(crate) fn shown(&self, id: &OpId) -> Result<Response, Problem> {
        let operations = self.operations.borrow();
        let operation = operations.get(id).filter(|operation| operation.told).ok_or_else(|| forgotten(id))?;
        Ok(Response::json(200, encode(&view(operation))))
    }

    /// Call off an operation of which the agent has not heard; or only look whether it could be.
    pub(crate) fn cancel(&self, id: &OpId, dry: bool) -> Result<(), Problem> {
        let mut operations = self.operations.borrow_mut();
        let operation = operations.get_mut(id).filter(|operation| operation.told);
        let operation = operation.ok_or_else(|| forgotten(id))?;
        if operation.stage != Stage::Accepted
            || operation.sends > 0
            || operation.carried
            || operation.end.is_some()
        {
            let detail = format!("It is {}; it cannot be called off any more.", operation.stage.as_str());
            return Err(Problem::new(Kind::NotCancellable, detail).at(&operation.path()));
        }
        if dry {
            return Ok(());
        }
        let end =
            End::undone(Kind::Cancelled, "It was called off before the agent was asked; nothing was done.");
        operation.end_with(End { stage: Stage::Refused, ..end }, self.clock.now());
        self.changed.raise();
        Ok(())
    }
}
