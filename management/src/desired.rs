//! What is wanted of the appliance, kept on the state disk and brought about again after each restart.

use crate::Management;
use crate::documents::{self, policy_document};
use crate::networks::NetworkDeed;
use crate::problem::{Kind, Problem};
use crate::route::IfMatch;
use crate::targets::{Targets, may_become, same_name, same_names};
use crate::views;
use agent_protocol::{Object, Text, decode, encode};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use kernel_runtime::Instant;
use management_api::{EventKind, TargetDesired, TargetDocument, TargetId, TargetView};
use management_http::{Request, Response};
use state::{Change, Error, Records};
use storage::{Exposed, Exposure};

/// What the keys of targets begin with.
const TARGETS: &str = "targets/";
/// The record of the drain.
const DRAIN: &str = "management/drain";
/// The longest document of a target, in bytes as it is kept.
const DOCUMENT_MAX: usize = 4096;
/// How long to wait before what could not be applied is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// The targets that are wanted.
#[derive(Default)]
pub(crate) struct Desired {
    targets: BTreeMap<TargetId, Wanted>,
    /// When to try again.
    due: Option<Instant>,
}

/// A target that is wanted.
struct Wanted {
    document: TargetDocument,
    generation: u64,
    durable: bool,
    /// Why storage would not have it, when it was last tried.
    problem: Option<Text>,
}

/// Something that is done and answered once it is kept.
#[derive(Debug)]
pub struct Deed {
    key: String,
    /// `None` takes the record away.
    value: Option<Vec<u8>>,
    what: What,
    path: String,
}

#[derive(Debug)]
pub(crate) enum What {
    Drain(bool),
    /// It is exposed already; and whether it was before, which it is not any more if it cannot be kept.
    Put(TargetId, Box<TargetDocument>, u64, bool),
    Delete(TargetId),
    Network(Box<NetworkDeed>),
}

impl Deed {
    /// Keep this `value` under this key; then `what` counts.
    pub(crate) fn new(key: String, value: Vec<u8>, what: What, path: &str) -> Self {
        Self { key, value: Some(value), what, path: path.into() }
    }
}

impl Desired {
    /// What was kept.
    pub(crate) fn new(records: Option<&Records>) -> (Self, bool) {
        let mut desired = Self::default();
        let Some(records) = records else { return (desired, false) };
        records.each(TARGETS.as_bytes(), |key, value| {
            let id = core::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(TARGETS)?.parse().ok());
            match (id, decode::<TargetDocument>(value)) {
                (Some(id), Ok(document)) => {
                    let generation = document.generation.unwrap_or(1);
                    let wanted = Wanted { document, generation, durable: true, problem: None };
                    desired.targets.insert(id, wanted);
                }
                _ => log::error!("a record of a target cannot be read; it is left as it is"),
            }
        });
        (desired, records.get(DRAIN.as_bytes()).is_some())
    }

    /// How many targets storage would not have when that was last tried.
    pub(crate) fn not_applied(&self) -> u64 {
        self.targets.values().map(|wanted| u64::from(wanted.problem.is_some())).sum()
    }

    /// Have storage have what is wanted. Answers whether all is as it is wanted.
    fn apply(&mut self, targets: &dyn Targets) -> bool {
        let mut all = true;
        for (id, wanted) in &mut self.targets {
            if targets.get(id.as_str()).is_some_and(|exposed| difference(wanted, Some(&exposed)).is_empty()) {
                wanted.problem = None;
                continue;
            }
            let exposure = documents::exposure(wanted.document.clone(), id).map_err(|problem| problem.detail);
            let applied = exposure
                .and_then(|exposure| targets.expose(exposure).map_err(|error| Text::new(&error.to_string())));
            wanted.problem = applied.err();
            if let Some(problem) = &wanted.problem {
                log::warn!("target {id} cannot be exposed as it is wanted: {problem}");
                all = false;
            }
        }
        all
    }
}

impl Wanted {
    /// It beside what storage has.
    fn shown(&self, exposed: Option<&Exposed>) -> TargetDesired {
        let difference = difference(self, exposed);
        TargetDesired {
            generation: self.generation,
            durable: self.durable,
            applied: difference.is_empty(),
            difference,
            problem: self.problem.clone(),
        }
    }
}

/// What a document would come to for what storage has: of one that is there only who may use it how can be changed.
fn would_be(
    id: &TargetId,
    exposure: &Exposure,
    there: Option<&Exposed>,
    wanted: &Wanted,
) -> Result<Response, Problem> {
    let mut view = views::absent(id.as_str(), &wanted.document);
    if let Some(there) = there {
        may_become(exposure, &there.exposure)?;
        view = views::target(there);
    }
    view.desired = Some(wanted.shown(there));
    Ok(Response::json(200, encode(&view)))
}

/// The names of the fields in which storage differs from what is wanted.
fn difference(wanted: &Wanted, exposed: Option<&Exposed>) -> Vec<Text> {
    let Some(Exposed { exposure, .. }) = exposed else { return [Text::new("id")].into() };
    let document = &wanted.document;
    let policy = document.policy.as_ref().map(|Object(policy)| policy.clone()).unwrap_or_default();
    let chap = document.chap.is_some();
    let fields = [
        ("iqn", same_name(&document.iqn, &exposure.iqn)),
        ("lun", document.lun == exposure.lun),
        ("volume", document.volume == exposure.volume),
        ("initiators", same_names(&document.initiators, &exposure.initiators)),
        ("chap", chap == exposure.chap.is_some()),
        ("read_only", document.read_only == exposure.read_only),
        ("removable", document.removable == exposure.removable),
        ("access", document.access.unwrap_or_default() == views::access(exposure.access).unwrap_or_default()),
        ("policy", documents::policy(policy) == documents::policy(policy_document(&exposure.policy))),
    ];
    fields.into_iter().filter(|(_, same)| !same).map(|(name, _)| Text::new(name)).collect()
}

/// Why something cannot be kept, to a client.
fn unkept(error: Error) -> Problem {
    match error {
        Error::Full => {
            Problem::new(Kind::StateDiskFull, "The state disk has no room for it; nothing was changed.")
        }
        error => Problem::new(Kind::NoState, format!("The state disk: {error}; nothing was changed.")),
    }
}

impl Management {
    /// For the clerk: try again what could not be applied. Answers when to come again.
    pub(crate) fn reconcile(&self) -> Option<Instant> {
        let now = self.clock.now();
        let mut desired = self.desired.borrow_mut();
        if desired.due.is_some_and(|due| due <= now) {
            desired.due = None;
            if !desired.apply(&*self.targets) {
                desired.due = Some(now + AGAIN);
            }
        }
        desired.due
    }

    /// Bring about at the start what was kept.
    pub(crate) fn bring_about(&self) {
        let mut desired = self.desired.borrow_mut();
        if !desired.apply(&*self.targets) {
            desired.due = Some(self.clock.now() + AGAIN);
        }
    }

    /// `POST /v1/hosts/self:drain`
    pub(crate) fn drain(&self, drain: bool, path: &str) -> Deed {
        let value = drain.then(|| Vec::from(*b"drain"));
        Deed { key: DRAIN.into(), value, what: What::Drain(drain), path: path.into() }
    }

    /// `PUT /v1/targets/{id}`: storage has it from here on, unless it cannot be kept; or, of a dry run, how it would be.
    pub(crate) fn want(
        &self,
        id: TargetId,
        dry: bool,
        if_match: IfMatch,
        request: &Request<'_>,
    ) -> Result<Result<Deed, Response>, Problem> {
        let mut document: TargetDocument = documents::parse(request)?;
        let generation = self.next_generation(&id, &document, if_match)?;
        let exposure = documents::exposure(document.clone(), &id)?;
        document.generation = Some(generation);
        let value = encode(&document);
        if value.len() > DOCUMENT_MAX {
            return Err(Problem::new(Kind::InvalidField, "The document is longer than 4096 bytes."));
        }
        let there = self.targets.get(id.as_str());
        if dry {
            let durable = self.state.is_some();
            let wanted = Wanted { document, generation, durable, problem: None };
            return Ok(Err(would_be(&id, &exposure, there.as_ref(), &wanted)?));
        }
        let was_there = there.is_some();
        let refused = match &there {
            // Which of it storage minds is what the client has to know.
            Some(there) => may_become(&exposure, &there.exposure),
            None => Ok(()),
        };
        crate::targets::put(&*self.targets, exposure).map_err(|problem| match problem.kind {
            Kind::TargetConflict => refused.err().unwrap_or(problem),
            _ => problem,
        })?;
        let key = format!("{TARGETS}{id}");
        let what = What::Put(id, Box::new(document), generation, was_there);
        Ok(Ok(Deed { key, value: Some(value), what, path: request.path.into() }))
    }

    /// The generation that a document is to have.
    fn next_generation(
        &self,
        id: &TargetId,
        document: &TargetDocument,
        if_match: IfMatch,
    ) -> Result<u64, Problem> {
        let desired = self.desired.borrow();
        let there = desired.targets.get(id);
        let current = there.map_or(0, |wanted| wanted.generation);
        self.matches(current, if_match)?;
        let same = there.is_some_and(|wanted| {
            let generation = wanted.document.generation;
            TargetDocument { generation, ..document.clone() } == wanted.document
        });
        match document.generation {
            None if same => Ok(current),
            None => Ok(current.saturating_add(1)),
            Some(generation) if generation > current || generation == current && same => Ok(generation),
            Some(_) => {
                let detail = format!("The document that is there has generation {current}.");
                Err(Problem::new(Kind::StaleGeneration, detail))
            }
        }
    }

    /// Refuse what expects another generation than the one that is there.
    pub(crate) fn matches(&self, current: u64, if_match: IfMatch) -> Result<(), Problem> {
        if if_match.holds(current) {
            return Ok(());
        }
        let detail = format!("The document that is there has generation {current}.");
        Err(Problem::new(Kind::GenerationMismatch, detail))
    }

    /// `DELETE /v1/targets/{id}`: it is withdrawn from here on.
    pub(crate) fn unwant(
        &self,
        id: TargetId,
        grace: Option<u16>,
        if_match: IfMatch,
        path: &str,
    ) -> Result<Deed, Problem> {
        let current = self.desired.borrow().targets.get(&id).map(|wanted| wanted.generation);
        self.matches(current.unwrap_or(0), if_match)?;
        match crate::targets::delete(&*self.targets, id.as_str(), grace) {
            Err(problem) if problem.kind != Kind::UnknownTarget || current.is_none() => return Err(problem),
            _ => {}
        }
        let key = format!("{TARGETS}{id}");
        Ok(Deed { key, value: None, what: What::Delete(id), path: path.into() })
    }

    /// The same of a dry run: what would be withdrawn, as it is.
    pub(crate) fn would_go(
        &self,
        id: &TargetId,
        grace: Option<u16>,
        if_match: IfMatch,
    ) -> Result<Response, Problem> {
        let current = self.desired.borrow().targets.get(id).map(|wanted| wanted.generation);
        self.matches(current.unwrap_or(0), if_match)?;
        let target = self.target(id.as_str())?;
        if target.sessions > 0 && grace.is_none() {
            return Err(crate::targets::in_use(id.as_str()));
        }
        Ok(Response::json(200, encode(&target)))
    }

    /// Keep what was done, and answer.
    pub async fn carry_out(&self, deed: Deed) -> Response {
        let Deed { key, value, what, path } = deed;
        let kept = match &self.state {
            Some(records) => {
                let change = match &value {
                    Some(value) => Change::Put(key.as_bytes(), value),
                    None => Change::Delete(key.as_bytes()),
                };
                // What is there already needs not be written again.
                if records.get(key.as_bytes()) == value { Ok(()) } else { records.keep(&[change]).await }
            }
            None => Ok(()),
        };
        let response = kept.map_err(unkept).and_then(|()| self.kept(&what)).unwrap_or_else(|problem| {
            self.undo(what);
            problem.at(&path).response()
        });
        self.recorded().await;
        self.metrics.response(response.status);
        response
    }

    /// It is kept: now it counts.
    fn kept(&self, what: &What) -> Result<Response, Problem> {
        match what {
            What::Drain(drain) => {
                if self.drain.replace(*drain) != *drain {
                    self.happened(self.event(EventKind::Drain, None));
                }
                Ok(crate::about::host(self))
            }
            What::Put(id, document, generation, was_there) => {
                let document = TargetDocument::clone(document);
                let durable = self.state.is_some();
                let wanted = Wanted { document, generation: *generation, durable, problem: None };
                self.desired.borrow_mut().targets.insert(id.clone(), wanted);
                let event = self.event(EventKind::Target, Some(id.clone()));
                self.happened(management_api::ApiEvent { generation: Some(*generation), ..event });
                let body = encode(&self.target(id.as_str())?);
                if *was_there {
                    return Ok(Response::json(200, body));
                }
                Ok(Response { location: Some(format!("/v1/targets/{id}")), ..Response::json(201, body) })
            }
            What::Network(deed) => Ok(self.network_kept(deed)),
            What::Delete(id) => {
                self.desired.borrow_mut().targets.remove(id);
                self.happened(self.event(EventKind::Target, Some(id.clone())));
                Ok(match self.targets.get(id.as_str()) {
                    None => Response::no_content(),
                    Some(leaving) => Response::json(202, encode(&views::target(&leaving))),
                })
            }
        }
    }

    /// It could not be kept: storage is to be as it was.
    fn undo(&self, what: What) {
        match what {
            What::Put(id, _, _, false) => {
                if let Err(error) = self.targets.withdraw(id.as_str()) {
                    log::error!("target {id} cannot be kept, nor withdrawn: {error}");
                }
            }
            // What was wanted before is wanted still.
            What::Put(..) | What::Delete(_) => self.bring_about(),
            What::Drain(_) => {}
            What::Network(deed) => self.network_undone(&deed),
        }
    }

    /// One target: what is applied, and what is wanted.
    pub(crate) fn target(&self, id: &str) -> Result<TargetView, Problem> {
        let exposed = self.targets.get(id);
        let desired = self.desired.borrow();
        let wanted = desired.targets.iter().find(|(name, _)| name.as_str() == id).map(|(_, wanted)| wanted);
        let mut view = match (&exposed, wanted) {
            (Some(exposed), _) => views::target(exposed),
            (None, Some(wanted)) => views::absent(id, &wanted.document),
            (None, None) => {
                return Err(Problem::new(Kind::UnknownTarget, format!("There is no target {id}.")));
            }
        };
        view.desired = wanted.map(|wanted| wanted.shown(exposed.as_ref()));
        Ok(view)
    }

    /// The names of all targets that there are or are wanted, sorted.
    pub(crate) fn target_names(&self) -> Vec<String> {
        let applied = self.targets.list().into_iter().map(|Exposed { exposure: Exposure { id, .. }, .. }| id);
        let desired = self.desired.borrow();
        let mut names: Vec<String> =
            applied.chain(desired.targets.keys().map(|id| id.as_str().to_string())).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
