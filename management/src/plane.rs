//! The plane: a request to an answer, or to a question for the agent and then to an answer.
//!
//! Nothing here waits. [`Management::begin`] decides; when the agent must be asked, [`Management::complete`] is
//! called with what came of it. So the whole command path is tested as a function.

use crate::ask::{AgentError, Ask, LinkState, Question, Reply};
use crate::documents::{self, CommandDocument, CreateDocument, Order, TargetDocument};
use crate::metrics::{Gauges, Machine, Metrics};
use crate::operations::{Begin, Operation, OperationPage, OperationView, Operations, Stage};
use crate::policy::{Policy, Principal, Right};
use crate::problem::{self, Kind, Problem};
use crate::route::{Page, Route, route};
use crate::targets::{self, Targets};
use crate::views::{ImageList, InstancePage, InstanceView};
use crate::{about, forward, forward::GRACE};
use agent_protocol::{Action, Answer, Command, InstanceId, Inventory, OpId, Outcome, Uuid, Verb, encode};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use core::cell::RefCell;
use core::net::SocketAddrV4;
use core::time::Duration;
use kernel_runtime::{Clock, Instant};
use management_http::{Request, Response};

/// How long a client that only looks is made to wait for the agent.
const READ_TIME: Duration = Duration::from_secs(5);

/// How much of the agent's evidence is kept of an operation.
const EVIDENCE_MAX: usize = 8;

/// How the plane is set up.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Where the agent listens on the host-only network, if there is one.
    pub agent: Option<SocketAddrV4>,
    /// Random, made anew each time the appliance starts.
    pub boot: Uuid,
    /// Who may do what.
    pub policy: Policy,
    /// What the machine tells of itself.
    pub gauges: Gauges,
}

/// The command plane.
pub struct Management {
    pub(crate) configuration: Configuration,
    pub(crate) clock: Clock,
    pub(crate) forward: forward::Forward,
    pub(crate) metrics: Metrics,
    targets: Box<dyn Targets>,
    operations: RefCell<Operations>,
}

/// What a request has led to.
#[derive(Debug)]
pub enum Step {
    /// The answer.
    Answer(Response),
    /// The agent is to be asked; then [`Management::complete`].
    Ask(Ask, Continuation),
}

/// What to make of the agent's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    purpose: Purpose,
    /// The path of the request.
    path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Purpose {
    Images,
    Instances(Page),
    Instance,
    /// A command, and whether it makes something.
    Command(OpId, bool),
    /// A look at an operation that may have moved on.
    Operation(OpId),
}

impl Management {
    /// A plane over `targets`, going by `clock`.
    pub fn new(configuration: Configuration, targets: impl Targets + 'static, clock: Clock) -> Self {
        Self {
            forward: forward::Forward::new(configuration.agent.is_some(), clock.clone()),
            operations: RefCell::new(Operations::new(configuration.boot)),
            metrics: Metrics::default(),
            targets: Box::new(targets),
            configuration,
            clock,
        }
    }

    /// How the link to the agent fares.
    pub fn link_state(&self) -> LinkState {
        self.forward.state()
    }

    /// Decide on a request of `principal`.
    pub fn begin(&self, request: &Request<'_>, principal: Principal) -> Step {
        let path = request.path;
        let step = match self.decide(request, principal) {
            Ok(step) => step,
            Err(problem) => Step::Answer(problem.at(path).response()),
        };
        if let Step::Answer(response) = &step {
            self.metrics.response(response.status);
        }
        step
    }

    /// Go on with a request after the agent was asked.
    pub fn complete(&self, continuation: Continuation, reply: Result<Reply, AgentError>) -> Response {
        let response = match continuation.purpose {
            Purpose::Images => inventory(reply).map(|inventory| images(&inventory)),
            Purpose::Instances(page) => inventory(reply).map(|inventory| instances(&inventory, &page)),
            Purpose::Instance => described(reply),
            Purpose::Command(id, creates) => {
                self.settle(&id, reply);
                self.told(&id, creates)
            }
            Purpose::Operation(id) => {
                self.refresh(&id, reply);
                self.shown(&id)
            }
        };
        let response = response.unwrap_or_else(|problem| problem.at(&continuation.path).response());
        self.metrics.response(response.status);
        response
    }

    fn decide(&self, request: &Request<'_>, principal: Principal) -> Result<Step, Problem> {
        let route = route(request)?;
        let denied = |why| Problem::new(Kind::Forbidden, why);
        self.configuration.policy.decide(principal, right(&route)).map_err(denied)?;
        let targets = &*self.targets;
        let answer = match route {
            Route::Health => Response::text(200, "ok\n"),
            Route::Ready => about::ready(self),
            Route::About => about::about(self),
            Route::Problems => Response::json(200, problem::published()),
            Route::Metrics => {
                let uptime = self.clock.now().since(Instant::ZERO);
                let machine = Machine {
                    uptime,
                    link: self.forward.state(),
                    profile: self.clock.profile(),
                    gauges: self.configuration.gauges,
                };
                Response::text(200, self.metrics.text(&machine, &targets.list(), &targets.connections()))
            }
            Route::Targets => targets::list(targets),
            Route::Target(id) => targets::get(targets, id.as_str())?,
            Route::PutTarget(id) => {
                let exposure = documents::parse::<TargetDocument>(request)?.exposure(&id)?;
                targets::put(targets, exposure)?
            }
            Route::DeleteTarget(id, grace) => targets::delete(targets, id.as_str(), grace)?,
            Route::Operations(page) => self.page(&page),
            Route::Operation(id) => return self.look(id, request.path),
            Route::Images => return Ok(self.read(Question::Inventory, Purpose::Images, request.path)),
            Route::Instances(page) => {
                return Ok(self.read(Question::Inventory, Purpose::Instances(page), request.path));
            }
            Route::Instance(id) => {
                // Not the list: this one is to be looked at now.
                let op_id = self.operations.borrow_mut().name()?;
                let describe = Question::Command(Box::new(Command::new(op_id, id, Action::Describe {})));
                return Ok(self.read(describe, Purpose::Instance, request.path));
            }
            Route::CreateInstance => {
                let order = documents::parse::<CreateDocument>(request)?.order()?;
                return self.command(order, request.path);
            }
            Route::Command(id) => {
                let order = documents::parse::<CommandDocument>(request)?.order(id)?;
                return self.command(order, request.path);
            }
        };
        Ok(Step::Answer(answer))
    }

    fn read(&self, question: Question, purpose: Purpose, path: &str) -> Step {
        let deadline = self.clock.now() + READ_TIME;
        Step::Ask(Ask { question, deadline }, Continuation { purpose, path: path.into() })
    }

    /// Make an operation of an order, unless it came before.
    fn command(&self, order: Order, path: &str) -> Result<Step, Problem> {
        let now = self.clock.now();
        let creates = order.action.verb() == Verb::Create;
        let begun = self.operations.borrow_mut().begin(&order, now)?;
        let id = match begun {
            Begin::New(id) => id,
            Begin::Repeated(id) => return self.told(&id, creates).map(Step::Answer),
        };
        log::info!("operation {id}: {} {}", order.action.verb(), order.instance);
        let mut command = Command::new(id.clone(), order.instance, order.action);
        command.precondition = order.precondition;
        // What must not be ignored by an agent that is older than these.
        command.critical = ["precondition", "deadline_ms", "epoch"].map(String::from).to_vec();
        let ask = Ask { question: Question::Command(Box::new(command)), deadline: now + order.budget };
        Ok(Step::Ask(ask, Continuation { purpose: Purpose::Command(id, creates), path: path.into() }))
    }

    /// An operation; if it may have moved on, the agent is asked first.
    fn look(&self, id: OpId, path: &str) -> Result<Step, Problem> {
        let stage = self.operations.borrow().get(&id).map(|operation| operation.stage);
        match stage {
            Some(Stage::Running | Stage::Indeterminate) if self.configuration.agent.is_some() => {
                let ask =
                    Ask { question: Question::Recall(id.clone()), deadline: self.clock.now() + READ_TIME };
                Ok(Step::Ask(ask, Continuation { purpose: Purpose::Operation(id), path: path.into() }))
            }
            _ => self.shown(&id).map(Step::Answer),
        }
    }

    fn page(&self, page: &Page) -> Response {
        let operations = self.operations.borrow();
        let after = page.after.as_ref().map(InstanceId::as_str);
        let mut found = operations.page(after);
        let shown: alloc::vec::Vec<&Operation> = found.by_ref().take(page.limit).collect();
        let next = if found.next().is_some() { shown.last().map(|operation| &operation.id) } else { None };
        let operations = shown.iter().map(|operation| OperationView::new(operation)).collect();
        Response::json(200, encode(&OperationPage { operations, next }))
    }

    /// The answer to the client that sent the command of this operation.
    fn told(&self, id: &OpId, creates: bool) -> Result<Response, Problem> {
        let operations = self.operations.borrow();
        let operation = operations.get(id).ok_or_else(|| forgotten(id))?;
        if let Some(problem) = &operation.problem {
            return Err(problem.clone().at(&operation.path()));
        }
        let status = if creates && operation.stage == Stage::Succeeded { 201 } else { 202 };
        let location =
            if status == 201 { format!("/v1/instances/{}", operation.instance) } else { operation.path() };
        let body = encode(&OperationView::new(operation));
        Ok(Response { location: Some(location), ..Response::json(status, body) })
    }

    /// The answer to whoever looks at this operation.
    fn shown(&self, id: &OpId) -> Result<Response, Problem> {
        let operations = self.operations.borrow();
        let operation = operations.get(id).ok_or_else(|| forgotten(id))?;
        Ok(Response::json(200, encode(&OperationView::new(operation))))
    }

    /// Write down what came of a command.
    fn settle(&self, id: &OpId, reply: Result<Reply, AgentError>) {
        match reply {
            Ok(Reply::Answer(answer)) => self.conclude(id, &answer),
            Ok(Reply::NeverReceived(boot) | Reply::Inventory(Inventory { agent_boot: boot, .. })) => {
                let what = "a reply to another question".to_string();
                self.fail(id, &AgentError::Nonsense(Some(boot), what));
            }
            Err(error) => self.fail(id, &error),
        }
    }

    /// Write down the agent's answer.
    fn conclude(&self, id: &OpId, answer: &Answer) {
        let mut operations = self.operations.borrow_mut();
        let Some(operation) = operations.get_mut(id) else { return };
        operation.agent_boot = Some(answer.agent_boot);
        let view = |instance| InstanceView::new(instance, answer.clock_ms);
        let (stage, problem) = match &answer.outcome {
            Outcome::Done { changed, instance, evidence } => {
                operation.changed = Some(*changed);
                operation.evidence = evidence.iter().take(EVIDENCE_MAX).cloned().collect();
                operation.result = Some(view(instance));
                (Stage::Succeeded, None)
            }
            Outcome::Accepted { instance } => {
                operation.result = Some(view(instance));
                (Stage::Running, None)
            }
            Outcome::Refused { code, detail, instance } => {
                let kind = Kind::of_refusal(*code);
                let current = instance.as_ref().map(view).map(Box::new);
                (Stage::Refused, Some(Problem { current, ..Problem::new(kind, detail.as_str()) }))
            }
            Outcome::Failed { code, detail, instance } => {
                let kind = Kind::of_failure(*code);
                operation.result = instance.as_ref().map(view);
                (Stage::Failed, Some(Problem::new(kind, detail.as_str())))
            }
            Outcome::Indeterminate { detail } => {
                (Stage::Indeterminate, Some(Problem::new(Kind::OutcomeUnknown, detail.as_str())))
            }
        };
        self.enter(operation, stage, problem);
    }

    /// Write down that there was no answer.
    fn fail(&self, id: &OpId, error: &AgentError) {
        let mut operations = self.operations.borrow_mut();
        let Some(operation) = operations.get_mut(id) else { return };
        let (stage, kind, boot) = match error {
            AgentError::NotConfigured => (Stage::Failed, Kind::AgentNotConfigured, None),
            AgentError::Busy => (Stage::Failed, Kind::TooBusy, None),
            AgentError::Unavailable(_) => (Stage::Failed, Kind::AgentUnavailable, None),
            AgentError::TooLate => (Stage::Failed, Kind::DeadlinePassed, None),
            AgentError::Refused(_) => (Stage::Failed, Kind::AgentRefused, None),
            AgentError::Lost(boot, _) => (Stage::Indeterminate, Kind::OutcomeUnknown, *boot),
            AgentError::Nonsense(boot, _) => (Stage::Indeterminate, Kind::AgentNonsense, *boot),
        };
        operation.agent_boot = boot;
        self.enter(operation, stage, Some(Problem::new(kind, error.to_string())));
    }

    /// Write down what the agent recalls of an operation that may have moved on.
    fn refresh(&self, id: &OpId, reply: Result<Reply, AgentError>) {
        match reply {
            Ok(Reply::Answer(answer)) => self.conclude(id, &answer),
            Ok(Reply::NeverReceived(boot)) => self.never_received(id, boot),
            // What is known stays as it is; whoever looks sees that.
            Ok(Reply::Inventory(_)) | Err(_) => {}
        }
    }

    /// The agent's run `boot` never received the command. If that is the run it was sent to, and it is too late for it
    /// to arrive still, it was not carried out; if it is another, nobody knows.
    fn never_received(&self, id: &OpId, boot: Uuid) {
        let mut operations = self.operations.borrow_mut();
        let Some(operation) = operations.get_mut(id) else { return };
        match operation.stage {
            Stage::Indeterminate
                if operation.agent_boot == Some(boot) && self.clock.now() > operation.deadline + GRACE =>
            {
                let detail = "The command was lost on its way; nothing was done.";
                self.enter(operation, Stage::Failed, Some(Problem::new(Kind::AgentUnavailable, detail)));
            }
            Stage::Running => {
                let detail = "The agent has started anew while this was under way; look at the instance.";
                self.enter(operation, Stage::Indeterminate, Some(Problem::new(Kind::OutcomeUnknown, detail)));
            }
            _ => {}
        }
    }

    fn enter(&self, operation: &mut Operation, stage: Stage, problem: Option<Problem>) {
        let path = operation.path();
        operation.problem = problem.map(|problem| problem.at(&path));
        if operation.stage != stage {
            log::info!("operation {}: {stage:?}", operation.id);
            self.metrics.ended(stage);
        }
        operation.stage = stage;
        if !stage.is_open() {
            operation.ended.get_or_insert(self.clock.now());
        }
    }
}

fn right(route: &Route) -> Right {
    match route {
        Route::Health | Route::Ready | Route::About | Route::Problems => Right::About,
        Route::Metrics
        | Route::Images
        | Route::Instances(_)
        | Route::Instance(_)
        | Route::Operations(_)
        | Route::Operation(_)
        | Route::Targets
        | Route::Target(_) => Right::Read,
        Route::CreateInstance | Route::Command(_) => Right::Instances,
        Route::PutTarget(_) | Route::DeleteTarget(..) => Right::Targets,
    }
}

/// What to tell of a question that changes nothing and was not answered.
fn unanswered(error: &AgentError) -> Problem {
    let kind = match error {
        AgentError::NotConfigured => Kind::AgentNotConfigured,
        AgentError::Busy => Kind::TooBusy,
        // Nothing was to be done, so nothing is in doubt: it may simply be asked again.
        AgentError::Unavailable(_) | AgentError::TooLate | AgentError::Lost(..) => Kind::AgentUnavailable,
        AgentError::Nonsense(..) => Kind::AgentNonsense,
        AgentError::Refused(_) => Kind::AgentRefused,
    };
    Problem::new(kind, error.to_string())
}

fn inventory(reply: Result<Reply, AgentError>) -> Result<Inventory, Problem> {
    match reply {
        Ok(Reply::Inventory(inventory)) => Ok(inventory),
        Ok(_) => Err(Problem::new(Kind::AgentNonsense, "The agent answered another question.")),
        Err(error) => Err(unanswered(&error)),
    }
}

fn images(inventory: &Inventory) -> Response {
    Response::json(200, encode(&ImageList { images: inventory.images.clone() }))
}

fn instances(inventory: &Inventory, page: &Page) -> Response {
    let view = |instance| InstanceView::new(instance, inventory.clock_ms);
    let mut found = inventory
        .instances
        .iter()
        .filter(|instance| page.after.as_ref().is_none_or(|after| instance.id > *after));
    let shown: alloc::vec::Vec<_> = found.by_ref().take(page.limit).collect();
    let next = if found.next().is_some() { shown.last().map(|instance| instance.id.clone()) } else { None };
    Response::json(200, encode(&InstancePage { instances: shown.into_iter().map(view).collect(), next }))
}

/// The instance that the agent was told to look at.
fn described(reply: Result<Reply, AgentError>) -> Result<Response, Problem> {
    let answer = match reply {
        Ok(Reply::Answer(answer)) => answer,
        Ok(_) => return Err(Problem::new(Kind::AgentNonsense, "The agent answered another question.")),
        Err(error) => return Err(unanswered(&error)),
    };
    match answer.outcome {
        Outcome::Done { instance, .. } | Outcome::Accepted { instance } => {
            Ok(Response::json(200, encode(&InstanceView::new(&instance, answer.clock_ms))))
        }
        Outcome::Refused { code, detail, .. } => Err(Problem::new(Kind::of_refusal(code), detail.as_str())),
        Outcome::Failed { code, detail, .. } => Err(Problem::new(Kind::of_failure(code), detail.as_str())),
        Outcome::Indeterminate { detail } => Err(Problem::new(Kind::StateUnknown, detail.as_str())),
    }
}

fn forgotten(id: &OpId) -> Problem {
    Problem::new(Kind::UnknownOperation, format!("There is no operation {id}, or it has been forgotten."))
}
