//! Who did what: the trail of audit records, chained by hashes, on the state disk within a bound.
//!
//! A record is made of each request that would change something, and of each that was refused because of who asked; and
//! one more of the end of each operation. The clerk keeps them, several at once, and the request is not answered before
//! its own is kept. When there are more than the trail may have, the oldest goes, and what it is chained to stays known.

use crate::Management;
use crate::operations::Operation;
use crate::policy::Principal;
use crate::route::SeqPage;
use agent_protocol::{OpId, Text, decode, encode};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use kernel_runtime::{Instant, with_deadline};
use management_api::audit::{Anchor, AuditPage, AuditRecord, Decision, Hash, verify};
use management_http::Response;
use state::{Change, Records};

/// What the keys begin with.
const OWNER: &str = "audit/";
/// So many records are written at once.
const AT_ONCE: usize = 8;
/// How long an answer waits for its record to be kept.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many audit records are kept where so many operations are remembered: as many, up to what the state disk has room
/// for beside the rest.
pub const fn audit_records(operations: usize) -> usize {
    if operations > 512 { 512 } else { operations }
}

/// The records of late.
pub(crate) struct Trail {
    ring: VecDeque<AuditRecord>,
    capacity: usize,
    /// What the first record is chained to.
    anchor: Anchor,
    /// So many at the end are not kept yet.
    unkept: usize,
    /// Records whose keys may go.
    gone: Vec<u64>,
    requests: u64,
    /// The disk has not taken the last ones.
    failing: bool,
}

/// What is told of one request.
pub(crate) struct Entry<'a> {
    pub(crate) principal: Principal,
    pub(crate) verb: &'a str,
    pub(crate) object: &'a str,
    pub(crate) decision: Decision,
    pub(crate) outcome: &'a str,
    pub(crate) operation: Option<OpId>,
}

fn key(seq: u64) -> String {
    format!("{OWNER}{seq:016x}")
}

impl Trail {
    /// The trail as it was kept; a part of it that does not hold together is not taken for one.
    pub(crate) fn new(records: Option<&Records>, capacity: usize) -> Self {
        let mut ring = VecDeque::new();
        let mut gone = Vec::new();
        if let Some(records) = records {
            records.each(OWNER.as_bytes(), |_, value| match decode::<AuditRecord>(value) {
                Ok(record) => ring.push_back(record),
                Err(_) => log::error!("an audit record cannot be read; it is left as it is"),
            });
        }
        while ring.len() > capacity {
            gone.extend(ring.pop_front().map(|record| record.seq));
        }
        let anchor = ring.front().map_or_else(Anchor::default, before);
        if let Err(broken) = verify(anchor, &ring) {
            log::error!("the audit trail is broken: {broken}");
        }
        Self { ring, capacity, anchor, unkept: 0, gone, requests: 0, failing: false }
    }

    fn head(&self) -> Anchor {
        self.ring.back().map_or(self.anchor, AuditRecord::anchor)
    }

    fn push(&mut self, record: AuditRecord) {
        self.ring.push_back(record.chained(self.head()));
        self.unkept += 1;
        if self.ring.len() > self.capacity
            && let Some(oldest) = self.ring.pop_front()
        {
            self.anchor = oldest.anchor();
            self.unkept = self.unkept.min(self.ring.len());
            self.gone.push(oldest.seq);
            // A key that was never written may be removed as well; a disk that has failed must not let the list grow.
            self.gone.truncate(4 * self.capacity);
        }
    }

    /// The number of the last.
    pub(crate) fn last(&self) -> u64 {
        self.head().seq
    }

    fn page(&self, page: &SeqPage, durable: bool) -> AuditPage {
        let after = page.after.unwrap_or(0);
        let mut later = self.ring.iter().filter(|record| record.seq > after);
        let records: Vec<_> = later.by_ref().take(page.limit).cloned().collect();
        let next = if later.next().is_some() { records.last().map(|record| record.seq) } else { None };
        AuditPage { records, anchor: self.anchor, head: self.head(), durable, next }
    }
}

/// What a record is chained to.
fn before(record: &AuditRecord) -> Anchor {
    Anchor { seq: record.seq.saturating_sub(1), hash: record.prev_hash }
}

impl Management {
    /// Put a request on record.
    pub(crate) fn record(&self, entry: Entry<'_>) {
        let who = (Text::new(&entry.principal.to_string()), entry.principal.key().map(|pin| Hash(pin.0)));
        self.put(who, [entry.verb, entry.object, entry.outcome], entry.decision, entry.operation);
    }

    /// Put the end of an operation on record.
    pub(crate) fn record_end(&self, operation: &Operation) {
        let object = format!("/v1/instances/{}", operation.instance);
        let what = [operation.action.verb().as_str(), &object, operation.stage.as_str()];
        self.put((operation.caller.clone(), None), what, Decision::Allowed, Some(operation.id.clone()));
    }

    fn put(
        &self,
        (principal, peer_key): (Text, Option<Hash>),
        [verb, object, outcome]: [&str; 3],
        decision: Decision,
        operation: Option<OpId>,
    ) {
        let mut trail = self.trail.borrow_mut();
        trail.requests += 1;
        let record = AuditRecord {
            // The place in the chain is given by the trail.
            seq: 0,
            prev_hash: Hash::default(),
            boot: self.configuration.boot,
            at_ms: self.clock.now().as_micros() / 1000,
            unix_time: self.configuration.door.time(&self.clock),
            request: trail.requests,
            principal,
            peer_key,
            verb: Text::new(verb),
            object: Text::new(object),
            decision,
            outcome: Text::new(outcome),
            operation,
            hash: Hash::default(),
        };
        trail.push(record);
        drop(trail);
        self.changed.raise();
    }

    /// For the clerk: keep some of what is on record; whether there may be more.
    pub(crate) async fn keep_records(&self) -> bool {
        let Some(records) = &self.state else {
            self.trail.borrow_mut().unkept = 0;
            return false;
        };
        let (written, removed) = {
            let trail = self.trail.borrow();
            let first = trail.ring.len() - trail.unkept;
            let unkept = trail.ring.iter().skip(first).take(AT_ONCE);
            let written: Vec<_> =
                unkept.map(|record| (record.seq, key(record.seq), encode(record))).collect();
            let removed: Vec<_> = trail.gone.iter().take(2 * AT_ONCE).map(|seq| (*seq, key(*seq))).collect();
            (written, removed)
        };
        let Some((last, ..)) = written.last() else { return false };
        let last = *last;
        let removing = removed.iter().map(|(_, key)| Change::Delete(key.as_bytes()));
        let writing = written.iter().map(|(_, key, value)| Change::Put(key.as_bytes(), value));
        let changes: Vec<_> = removing.chain(writing).collect();
        if let Err(error) = records.keep(&changes).await {
            if !core::mem::replace(&mut self.trail.borrow_mut().failing, true) {
                log::warn!("audit records cannot be kept: the state disk: {error}");
            }
            self.news.ring();
            return false;
        }
        let mut trail = self.trail.borrow_mut();
        trail.failing = false;
        trail.unkept = trail.ring.iter().rev().take_while(|record| record.seq > last).count();
        trail.gone.retain(|seq| !removed.iter().any(|(gone, _)| gone == seq));
        drop(trail);
        self.news.ring();
        true
    }

    /// When the clerk is to try again to keep what it could not.
    pub(crate) fn records_due(&self) -> Option<Instant> {
        self.trail.borrow().failing.then(|| self.clock.now() + PATIENCE)
    }

    /// Wait until all that is on record is kept, or cannot be within a while: then it is kept later, and the trail says
    /// meanwhile that it is not durable.
    pub(crate) async fn recorded(&self) {
        let until = self.clock.now() + PATIENCE;
        let last = self.trail.borrow().last();
        let is_kept = || {
            let trail = self.trail.borrow();
            trail.failing || last + trail.unkept as u64 <= trail.last()
        };
        while self.state.is_some() && !is_kept() {
            if with_deadline(&self.clock, until, self.news.heard()).await.is_err() {
                return;
            }
        }
    }

    /// Add what is on record and what is wanted to the figures for Prometheus.
    pub(crate) fn figures(&self, text: &mut String) {
        let trail = self.trail.borrow();
        let figures = [
            ("corbel_audit_records_total", "counter", trail.last()),
            ("corbel_audit_records_not_kept", "gauge", trail.unkept as u64),
            ("corbel_events_total", "counter", self.events.borrow().count()),
            ("corbel_targets_not_applied", "gauge", self.desired.borrow().not_applied()),
            ("corbel_host_drain", "gauge", u64::from(self.drain.get())),
        ];
        for (name, kind, value) in figures {
            text.push_str(&format!("# TYPE {name} {kind}\n{name} {value}\n"));
        }
        self.network_figures(text);
    }

    /// `GET /v1/audit`
    pub(crate) fn audit_page(&self, page: &SeqPage) -> Response {
        let trail = self.trail.borrow();
        let durable = self.state.is_some() && trail.unkept == 0;
        Response::json(200, encode(&trail.page(page, durable)))
    }
}
