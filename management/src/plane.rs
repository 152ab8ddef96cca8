//! The plane: a request to an answer, or to a question for the agent and then to an answer.
//!
//! [`Management::begin`] decides and never waits; when the agent must be asked, [`Management::complete`] is called with
//! what came of it, and of an operation [`Management::wait`] awaits what is of interest. So the whole command path is
//! tested as a function.

use crate::answers::{answered, described, images, instances, inventory, stats, unanswered};
use crate::ask::{AgentError, Ask, LinkState, Question, Reply};
use crate::audit::{Entry, Trail, audit_records};
use crate::batch::Batch;
use crate::delivery::is_repeatable;
use crate::desired::{Deed, Desired};
use crate::documents::{self, Order};
use crate::door::Door;
use crate::events::{Events, Listen};
use crate::forecast::{Look, forecast, instance_of};
use crate::keys::Demand;
use crate::metrics::{Gauges, Machine, Metrics};
use crate::networks::{Networks, network_bytes};
use crate::operations::{Begin, End, Operation, Operations, view};
use crate::policy::{Policy, Principal};
use crate::problem::{Kind, Problem};
use crate::refusals::Refusals;
use crate::route::{Page, Route, route};
use crate::secure::Dialling;
use crate::signatures::Nonces;
use crate::slots::Slots;
use crate::steward::Relay;
use crate::targets::Targets;
use crate::{about, answers, forward, keys, stored};
use agent_protocol::{
    Action, Command, Facility, InstanceId, NetworkName, OpId, Text, Uuid, Verb, decode, encode,
};
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::cell::{Cell, RefCell};
use core::net::SocketAddrV4;
use core::time::Duration;
use kernel_runtime::{Clock, Instant, Signal};
use management_api::audit::Decision;
use management_api::{DrainRequest, OperationPage, TargetPage};
use management_http::json::Bounds;
use management_http::{Method, Request, Response};
use state::{Change, Records};

/// How long a client that only looks is made to wait for the agent.
const READ_TIME: Duration = Duration::from_secs(5);

/// How long the answer to a command waits for what comes of it. Most commands are over by then.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(5);

/// How long it may take to see by which hypervisor an instance is run, before a command goes without that.
const LOOK_TIME: Duration = Duration::from_secs(2);

/// The most instances of a page on a machine that remembers so many operations: a page is in memory as the agent sends it, as
/// what it says, and as it is shown.
const fn page_limit(operations: usize) -> usize {
    let quarter = operations / 4;
    if quarter < 16 { 16 } else { quarter }
}

/// The record of the epoch that the agent has granted.
const EPOCH: &[u8] = b"management/epoch";

/// How the plane is set up.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Where the agent listens on the host-only network, if there is one.
    pub agent: Option<SocketAddrV4>,
    /// Random, made anew each time the appliance starts.
    pub boot: Uuid,
    /// Who may do what.
    pub policy: Policy,
    /// Who callers are.
    pub door: Door,
    /// How the agent is dialled, if it is in TLS.
    pub dialling: Option<Rc<Dialling>>,
    /// What the machine tells of itself.
    pub gauges: Gauges,
    /// How many operations are remembered, and events; of audit records as [`audit_records`] says.
    pub operations: usize,
}

/// The command plane.
pub struct Management {
    pub(crate) configuration: Configuration,
    pub(crate) clock: Clock,
    pub(crate) forward: forward::Forward,
    pub(crate) metrics: Metrics,
    pub(crate) slots: Slots,
    pub(crate) targets: Box<dyn Targets>,
    pub(crate) operations: RefCell<Operations>,
    /// Where promises are kept, if there is a disk for it, and whether that has failed.
    pub(crate) state: Option<Records>,
    pub(crate) state_failed: Cell<bool>,
    /// The epoch that the agent has granted.
    pub(crate) epoch: Cell<Option<u64>>,
    /// Tells the clerk that there is something to keep.
    pub(crate) changed: Signal,
    /// Rings when an operation has moved on, an event has happened, or something was kept.
    pub(crate) news: forward::Bell,
    pub(crate) events: RefCell<Events>,
    pub(crate) trail: RefCell<Trail>,
    pub(crate) refusals: Refusals,
    pub(crate) nonces: Nonces,
    pub(crate) desired: RefCell<Desired>,
    pub(crate) networks: RefCell<Networks>,
    /// How far the agent's events are told.
    pub(crate) relay: RefCell<Relay>,
    /// Tells the steward that there may be something to do.
    pub(crate) tending: Signal,
    /// The host takes no new instances.
    pub(crate) drain: Cell<bool>,
    /// How the link to the agent was when that was last told.
    pub(crate) link_was: Cell<&'static str>,
}

/// What a request has led to.
#[derive(Debug)]
pub enum Step {
    /// The answer.
    Answer(Response),
    /// The agent is to be asked; then [`Management::complete`].
    Ask(Ask, Continuation),
    /// [`Management::wait`] has the answer.
    Wait(Wait),
    /// [`Management::wait_for_all`] has the answer.
    Batch(Batch),
    /// [`Management::look`] has the answer.
    Look(Look),
    /// [`Management::listen`] has the answer.
    Listen(Listen),
    /// [`Management::carry_out`] has the answer.
    Keep(Deed),
    /// The appliance's keys are concerned; the session sees to it.
    Keys(KeysStep),
}

/// What the answer to a request about an operation waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub(crate) id: OpId,
    pub(crate) until: Instant,
    pub(crate) aim: Aim,
    /// The path of the request.
    pub(crate) path: String,
}

/// What is demanded of the appliance's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysStep {
    demand: Demand,
    /// The path of the request.
    path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Something has come of the command, or the agent is at it; and whether it makes something.
    Command(bool),
    /// It has ended.
    End,
    /// The same, for a client that would as well be answered at once.
    Look,
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
    Stats,
    Network(NetworkName),
    Counters(NetworkName),
    Console,
    Forecast(Box<Order>),
}

impl Management {
    /// A plane over `targets`, going by `clock`, that keeps what it promises in `state`.
    pub fn new(
        configuration: Configuration,
        targets: impl Targets + 'static,
        state: Option<Records>,
        clock: Clock,
    ) -> Self {
        let mut operations = Operations::new(configuration.boot, configuration.operations);
        if let Some(records) = &state {
            let now = clock.now();
            records.each(stored::OWNER.as_bytes(), |key, value| match stored::read(key, value, now) {
                Some(mut operation) => {
                    if operation.sends == 0 && !operation.stage.is_final() {
                        let detail = "The appliance was reset before the command was sent; nothing was done.";
                        operation.end_with(End::undone(Kind::AgentUnavailable, detail), now);
                    }
                    operations.restore(operation);
                }
                None => {
                    if let Some(number) = stored::number(key) {
                        operations.leave_out(number);
                    }
                    log::error!("a record of an operation cannot be read; it is left as it is");
                }
            });
        }
        let epoch = state.as_ref().and_then(|records| decode::<Epoch>(&records.get(EPOCH)?).ok());
        let (desired, drain) = Desired::new(state.as_ref());
        let room = network_bytes(configuration.operations);
        let networks = Networks::new(state.as_ref(), room, clock.now());
        let management = Self {
            events: RefCell::new(Events::new(configuration.boot, configuration.operations)),
            trail: RefCell::new(Trail::new(state.as_ref(), audit_records(configuration.operations))),
            refusals: Refusals::default(),
            nonces: Nonces::new(configuration.operations),
            desired: RefCell::new(desired),
            networks: RefCell::new(networks),
            relay: RefCell::default(),
            tending: Signal::new(),
            drain: Cell::new(drain),
            link_was: Cell::new(""),
            forward: forward::Forward::new(configuration.agent.is_some(), clock.clone()),
            operations: RefCell::new(operations),
            metrics: Metrics::default(),
            slots: Slots::default(),
            targets: Box::new(targets),
            state,
            state_failed: Cell::new(false),
            epoch: Cell::new(epoch.map(|Epoch { epoch }| epoch)),
            changed: Signal::new(),
            news: forward::Bell::default(),
            configuration,
            clock,
        };
        management.bring_about();
        management
    }

    /// The agent has granted this epoch; it is kept before anything is done under it.
    pub(crate) async fn hold(&self, epoch: u64) {
        if self.epoch.replace(Some(epoch)) == Some(epoch) {
            return;
        }
        if let Some(records) = &self.state
            && let Err(error) = records.keep(&[Change::Put(EPOCH, &encode(&Epoch { epoch }))]).await
        {
            log::warn!("the epoch cannot be kept: the state disk: {error}");
        }
    }

    /// How the link to the agent fares.
    pub fn link_state(&self) -> LinkState {
        self.forward.state()
    }

    /// Do what is demanded of the appliance's keys.
    pub(crate) async fn keys(&self, step: KeysStep) -> Response {
        let done = self.configuration.door.perform(step.demand, &self.clock).await;
        let response = done.unwrap_or_else(|problem| problem.at(&step.path).response());
        self.metrics.response(response.status);
        response
    }

    /// Decide on a request of `principal`.
    pub fn begin(&self, request: &Request<'_>, principal: Principal) -> Step {
        let path = request.path;
        let is_read = matches!(request.method, Method::Get | Method::Head);
        let decided = match self.judge(request, principal) {
            Ok(route) => self.decide(route, request, principal),
            Err(problem) => {
                // Whoever asks for what is not there or not its own can do so without end.
                if !is_read || problem.kind == Kind::Forbidden {
                    self.deny(request, principal, problem.kind.name());
                }
                let response = problem.at(path).response();
                self.metrics.response(response.status);
                return Step::Answer(response);
            }
        };
        let record = |decision, outcome| {
            let verb = request.method.as_str();
            self.record(Entry { principal, verb, object: path, decision, outcome, operation: None });
        };
        match &decided {
            _ if is_read => {}
            Err(problem) => record(Decision::Allowed, problem.kind.name()),
            Ok(Step::Ask(..) | Step::Answer(_)) => record(Decision::Allowed, "dry-run"),
            Ok(Step::Keep(_) | Step::Keys(_)) => record(Decision::Allowed, "accepted"),
            // Each command is on record by itself.
            Ok(_) => {}
        }
        let step = match decided {
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
            Purpose::Stats => stats(reply),
            Purpose::Network(name) => self.network(&name, reply),
            Purpose::Counters(name) => self.network_counters(&name, reply),
            Purpose::Console => answers::console(reply),
            Purpose::Forecast(order) => answered(reply)
                .and_then(|answer| {
                    if let Some(instance) = instance_of(&answer) {
                        self.foresee_by(order.action.verb(), &instance.hypervisor)?;
                    }
                    forecast(&order, &answer)
                })
                .map(|forecast| Response::json(200, encode(&forecast))),
        };
        let response = response.unwrap_or_else(|problem| problem.at(&continuation.path).response());
        self.metrics.response(response.status);
        response
    }

    /// What a request asks for, if it is something that there is and that `principal` may ask for.
    fn judge(&self, request: &Request<'_>, principal: Principal) -> Result<Route, Problem> {
        let (right, route) = route(request)?;
        let denied = |why: String| Problem::new(Kind::Forbidden, why);
        self.configuration.policy.decide(principal, right).map_err(denied)?;
        if request.field("api-version").is_some_and(|version| version != management_api::VERSION) {
            return Err(Problem::new(Kind::ApiVersion, "This appliance speaks version 1."));
        }
        Ok(route)
    }

    fn decide(&self, route: Route, request: &Request<'_>, principal: Principal) -> Result<Step, Problem> {
        let now = self.clock.now();
        let targets = &*self.targets;
        let answer = match route {
            Route::Health => Response::text(200, "ok\n"),
            Route::Ready => about::ready(self),
            Route::About => about::about(self),
            Route::Problems => Response::json(200, encode(&management_api::catalogue())),
            Route::Metrics => {
                let uptime = self.clock.now().since(Instant::ZERO);
                let machine = Machine {
                    uptime,
                    link: self.forward.state(),
                    profile: self.clock.profile(),
                    gauges: self.configuration.gauges,
                };
                let mut text = self.metrics.text(&machine, &targets.list(), &targets.connections());
                self.configuration.door.figures(&mut text, &self.clock);
                if self.configuration.door.is_locked() {
                    self.refusals.figures(&mut text);
                }
                self.refusals.denied_figures(&mut text);
                self.figures(&mut text);
                Response::text(200, text)
            }
            Route::Targets(page) => self.target_page(&page),
            Route::Target(id) => Response::json(200, encode(&self.target(id.as_str())?)),
            Route::PutTarget(id, dry, if_match) => match self.want(id, dry, if_match, request)? {
                Ok(deed) => return Ok(Step::Keep(deed)),
                Err(response) => response,
            },
            Route::DeleteTarget(id, grace, true, if_match) => self.would_go(&id, grace, if_match)?,
            Route::DeleteTarget(id, grace, false, if_match) => {
                return Ok(Step::Keep(self.unwant(id, grace, if_match, request.path)?));
            }
            Route::Networks(page) => self.network_page(&page),
            Route::Network(id) if self.forward.state() != LinkState::Up => {
                self.network(&id, Err(self.forward.absence()))?
            }
            Route::Network(id) => {
                return Ok(self.read(Question::Network(id.clone()), Purpose::Network(id), request.path));
            }
            Route::NetworkCounters(id) => {
                return Ok(self.read(Question::Network(id.clone()), Purpose::Counters(id), request.path));
            }
            Route::PutNetwork(id, dry, if_match) => match self.want_map(id, dry, if_match, request)? {
                Ok(deed) => return Ok(Step::Keep(deed)),
                Err(response) => response,
            },
            Route::DeleteNetwork(id, dry, if_match) => {
                match self.unwant_map(id, dry, if_match, request.path)? {
                    Ok(deed) => return Ok(Step::Keep(deed)),
                    Err(response) => response,
                }
            }
            Route::Host => about::host(self),
            Route::Drain(dry) => {
                let DrainRequest { drain } = documents::parse(request)?;
                if dry {
                    return Ok(Step::Answer(about::host(self)));
                }
                return Ok(Step::Keep(self.drain(drain, request.path)));
            }
            Route::Capabilities => {
                about::capabilities(self).ok_or_else(|| unanswered(&self.forward.absence()))?
            }
            Route::Events(page, patience) => {
                return Ok(Step::Listen(self.listener(page, patience.unwrap_or_default(), principal)));
            }
            Route::Audit(page) => self.audit_page(&page),
            Route::Batch(dry) => {
                let batch = documents::parse_within(request, &Bounds::ANSWER)?;
                return Ok(Step::Batch(self.batch(batch, dry, principal, now + ANSWER_TIME)?));
            }
            Route::Cancel(id, true) => {
                self.cancel(&id, true)?;
                self.shown(&id)?
            }
            Route::Cancel(id, false) => {
                self.cancel(&id, false)?;
                let (verb, object, decision) = ("cancel", request.path, Decision::Allowed);
                self.record(Entry {
                    principal,
                    verb,
                    object,
                    decision,
                    outcome: "accepted",
                    operation: Some(id.clone()),
                });
                let until = now + ANSWER_TIME;
                return Ok(Step::Wait(Wait { id, until, aim: Aim::End, path: request.path.into() }));
            }
            Route::Operations(page) => self.page(&page),
            Route::Operation(id, None) => self.shown(&id)?,
            Route::Operation(id, Some(patience)) => {
                let until = self.clock.now() + patience;
                return Ok(Step::Wait(Wait { id, until, aim: Aim::Look, path: request.path.into() }));
            }
            Route::EnrolmentRequest => return Ok(demand(Demand::Request, request.path)),
            Route::Enrol => return Ok(demand(Demand::Enrol(keys::document(request)?), request.path)),
            Route::Keys => return Ok(demand(Demand::Show, request.path)),
            Route::RotateKeys => return Ok(demand(Demand::Rotate, request.path)),
            Route::PutKeys => return Ok(demand(Demand::Install(keys::document(request)?), request.path)),
            Route::Images => {
                // Images come with any page, also the smallest.
                return Ok(self.read(Question::Inventory(1, None), Purpose::Images, request.path));
            }
            Route::Instances(mut page) => {
                page.limit = page.limit.min(page_limit(self.configuration.operations));
                let question = Question::Inventory(page.limit, page.after.clone());
                return Ok(self.read(question, Purpose::Instances(page), request.path));
            }
            Route::Instance(id) => {
                // Not the list: this one is to be looked at now.
                return Ok(self.read(self.describe(id)?, Purpose::Instance, request.path));
            }
            Route::Stats(id) => {
                self.foresee_look(Facility::Stats)?;
                return Ok(self.read(Question::Stats(id), Purpose::Stats, request.path));
            }
            Route::Console(id, after, patience) => {
                self.foresee_look(Facility::Console)?;
                let until = now + patience.min(READ_TIME);
                let continuation = Continuation { purpose: Purpose::Console, path: request.path.into() };
                let question = Question::Console(id, after, until);
                return Ok(Step::Ask(Ask { question, deadline: until + READ_TIME }, continuation));
            }
            Route::CreateInstance(dry) => {
                let order = documents::create(documents::parse(request)?)?;
                return self.command(order, dry, principal, request.path);
            }
            Route::Command(id, dry) => {
                let order = self.order(documents::parse(request)?, id, principal)?;
                return self.command(order, dry, principal, request.path);
            }
        };
        Ok(Step::Answer(answer))
    }

    fn read(&self, question: Question, purpose: Purpose, path: &str) -> Step {
        let deadline = self.clock.now() + READ_TIME;
        Step::Ask(Ask { question, deadline }, Continuation { purpose, path: path.into() })
    }

    pub(crate) fn describe(&self, id: InstanceId) -> Result<Question, Problem> {
        let op_id = self.operations.borrow_mut().name()?;
        Ok(Question::Command(Box::new(Command::new(op_id, id, Action::Describe {}))))
    }

    /// Make an operation of an order, and wait for what comes of it; or only look what would.
    fn command(&self, order: Order, dry: bool, principal: Principal, path: &str) -> Result<Step, Problem> {
        if dry {
            self.may_begin(order.action.verb())?;
            let describe = self.describe(order.instance.clone())?;
            return Ok(self.read(describe, Purpose::Forecast(Box::new(order)), path));
        }
        let aim = Aim::Command(order.action.verb() == Verb::Create);
        if self.depends(order.action.verb()) && self.forward.is_up() {
            self.may_begin(order.action.verb())?;
            let question = self.describe(order.instance.clone())?;
            let ask = Ask { question, deadline: self.clock.now() + LOOK_TIME };
            return Ok(Step::Look(Look { order: Box::new(order), principal, ask, aim, path: path.into() }));
        }
        let id = self.admit(&order, principal)?;
        let until = self.clock.now() + ANSWER_TIME;
        Ok(Step::Wait(Wait { id, until, aim, path: path.into() }))
    }

    fn target_page(&self, page: &Page) -> Response {
        let names = self.target_names();
        let after = page.after.as_ref().map(InstanceId::as_str);
        let mut later = names.iter().filter(|name| after.is_none_or(|after| name.as_str() > after));
        let shown: alloc::vec::Vec<&String> = later.by_ref().take(page.limit).collect();
        let next = if later.next().is_some() { shown.last().map(|name| (*name).clone()) } else { None };
        let targets = shown.into_iter().filter_map(|name| self.target(name).ok()).collect();
        Response::json(200, encode(&TargetPage { targets, next }))
    }

    /// Make an operation of an order, unless it came before. It may be told of once it is kept.
    pub(crate) fn admit(&self, order: &Order, principal: Principal) -> Result<OpId, Problem> {
        let verb = order.action.verb();
        self.may_begin(verb)?;
        let now = self.clock.now();
        // With luck it is sent to this run of the agent, and needs not be kept a second time.
        let peer = self.forward.peer.get().filter(|_| self.forward.is_up());
        let meant = peer.map(|peer| peer.meant(now + order.budget));
        let caller = Text::new(&principal.to_string());
        let (id, outcome) = match self.operations.borrow_mut().begin(order, caller, meant, now)? {
            Begin::New(id) => {
                log::info!("operation {id}: {verb} {}", order.instance);
                self.changed.raise();
                (id, "accepted")
            }
            Begin::Repeated(id) => (id, "repeated"),
        };
        self.record(Entry {
            principal,
            verb: verb.as_str(),
            object: &format!("/v1/instances/{}", order.instance),
            decision: Decision::Allowed,
            outcome,
            operation: Some(id.clone()),
        });
        Ok(id)
    }

    /// Whether a command of this verb can be taken at all.
    pub(crate) fn may_begin(&self, verb: Verb) -> Result<(), Problem> {
        self.may_change()?;
        if self.state.is_none() && !is_repeatable(verb) {
            let detail = format!("Without a state disk {verb} could not be told from the same once more.");
            return Err(Problem::new(Kind::NoState, detail));
        }
        self.foresee(verb)
    }

    fn page(&self, page: &Page) -> Response {
        let operations = self.operations.borrow();
        let after = page.after.as_ref().map(InstanceId::as_str);
        let mut found = operations.page(after);
        let shown: alloc::vec::Vec<&Operation> = found.by_ref().take(page.limit).collect();
        let next =
            if found.next().is_some() { shown.last().map(|operation| operation.id.clone()) } else { None };
        let operations = shown.iter().map(|operation| view(operation)).collect();
        Response::json(200, encode(&OperationPage { operations, next }))
    }
}

/// What is kept of the epoch.
#[derive(serde::Serialize, serde::Deserialize)]
struct Epoch {
    epoch: u64,
}

fn demand(demand: Demand, path: &str) -> Step {
    Step::Keys(KeysStep { demand, path: path.into() })
}
