//! Callers that were not let in, and requests that were not: counted by why, and on record without ever filling the trail.
//!
//! The first is on record at once. Those that follow are counted, and told in one record at the end of a minute, then of
//! two, and so on up to an hour: who knocks all day makes a few dozen records of it, not a million. After an hour of quiet it
//! begins anew. Requests are counted for each principal and reason by itself, so that one that asks for what it may not have
//! moves nobody else's records out of the trail, nor hides what another is denied.

use crate::Management;
use crate::audit::Entry;
use crate::policy::Principal;
use agent_protocol::Text;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use core::cell::{Cell, RefCell};
use core::net::SocketAddrV4;
use core::time::Duration;
use kernel_runtime::{Instant, earliest};
use management_api::audit::Decision;
use management_http::Request;
use network_tls::Fatal;

/// How long refusals are counted before they are told, at first and at most.
const PAUSE_FIRST: Duration = Duration::from_secs(60);
const PAUSE_LAST: Duration = Duration::from_secs(64 * 60);

/// Why a caller is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// One of [`REASONS`].
    pub(crate) reason: &'static str,
    /// The same for people.
    pub(crate) words: String,
}

impl Refused {
    pub(crate) fn new(reason: &'static str, words: impl ToString) -> Self {
        Self { reason, words: words.to_string() }
    }
}

impl From<&Fatal> for Refused {
    fn from(fatal: &Fatal) -> Self {
        Self::new(fatal.name(), fatal)
    }
}

/// It did not finish the handshake in time.
pub(crate) const TOO_SLOW: &str = "too-slow";
/// It has left in the middle of it.
pub(crate) const LEFT: &str = "left";
/// Its certificate is good, and names none of the provider's services.
pub(crate) const NO_SERVICE: &str = "no-service";
/// The fault is here.
pub(crate) const HERE: &str = "here";
/// All reasons: those of TLS ([`Fatal::name`]) and ours.
const REASONS: [&str; 12] = [
    "no-certificate",
    "expired",
    "not-yet-valid",
    "unknown-authority",
    "certificate",
    "incompatible",
    "not-tls",
    "refused-by-peer",
    LEFT,
    TOO_SLOW,
    NO_SERVICE,
    HERE,
];

/// While refusals are counted and not told: until when, and how long that is.
#[derive(Clone, Copy, Default)]
struct Counting(Option<(Instant, Duration)>);

impl Counting {
    /// There is one. Whether it is the first, which is told at once.
    fn begin(&mut self, now: Instant) -> bool {
        let is_first = self.0.is_none();
        if is_first {
            self.0 = Some((now + PAUSE_FIRST, PAUSE_FIRST));
        }
        is_first
    }

    /// Whether what was counted is to be told now.
    fn is_due(&self, now: Instant) -> bool {
        self.0.is_some_and(|(until, _)| until <= now)
    }

    /// It is: there was something to tell or not.
    fn go_on(&mut self, now: Instant, counted: bool) {
        // Only what lasts as long as the longest pause is quiet: who comes once a minute is the same knocker still.
        self.0 = self.0.filter(|(_, pause)| counted || *pause < PAUSE_LAST).map(|(_, pause)| {
            let pause = (pause * 2).min(PAUSE_LAST);
            (now + pause, pause)
        });
    }

    fn until(&self) -> Option<Instant> {
        self.0.map(|(until, _)| until)
    }
}

/// The requests that one principal was denied for one reason.
struct Denied {
    /// Since the start.
    total: u64,
    /// What of that is on record.
    told: u64,
    counting: Counting,
    /// The last: whose, and what it asked for.
    last: (Principal, &'static str, Text),
}

/// What is counted.
#[derive(Default)]
pub(crate) struct Refusals {
    /// Callers since the start, by reason.
    total: [Cell<u64>; REASONS.len()],
    /// What of that is on record.
    told: [Cell<u64>; REASONS.len()],
    counting: Cell<Counting>,
    last: Cell<Option<SocketAddrV4>>,
    /// Requests, by the name of the principal and that of the problem. There are few of both, however many keys prove the
    /// same service.
    denied: RefCell<BTreeMap<(String, &'static str), Denied>>,
}

impl Refusals {
    /// Add the figures for Prometheus to `text`.
    pub(crate) fn figures(&self, text: &mut String) {
        text.push_str("# TYPE corbel_api_refused_total counter\n");
        for (reason, count) in REASONS.iter().zip(&self.total) {
            text.push_str(&format!("corbel_api_refused_total{{reason=\"{reason}\"}} {}\n", count.get()));
        }
    }

    /// The same of requests, where callers are told apart or not.
    pub(crate) fn denied_figures(&self, text: &mut String) {
        text.push_str("# TYPE corbel_api_denied_total counter\n");
        for ((principal, reason), denied) in self.denied.borrow().iter() {
            text.push_str(&format!(
                "corbel_api_denied_total{{principal=\"{principal}\",reason=\"{reason}\"}} {}\n",
                denied.total
            ));
        }
    }

    /// How many are not on record yet, and which, in words; they count as told from here on.
    fn untold(&self) -> Option<(u64, String)> {
        let (mut sum, mut words) = (0, String::new());
        for ((reason, total), told) in REASONS.iter().zip(&self.total).zip(&self.told) {
            let count = total.get() - told.replace(total.get());
            if count > 0 {
                sum += count;
                let comma = if words.is_empty() { "" } else { ", " };
                words.push_str(&format!("{comma}{reason} {count}"));
            }
        }
        (sum > 0).then_some((sum, words))
    }
}

fn address(peer: Option<SocketAddrV4>) -> String {
    peer.map_or_else(|| "a peer".to_string(), |peer| peer.to_string())
}

impl Management {
    /// Somebody was not let in, or is not who it should be.
    pub(crate) fn refuse(&self, peer: Option<SocketAddrV4>, refused: &Refused) {
        let now = self.clock.now();
        self.configuration.door.refused(peer, &refused.words, now);
        let refusals = &self.refusals;
        let Some(place) = REASONS.iter().position(|reason| *reason == refused.reason) else { return };
        refusals.total[place].update(|count| count + 1);
        refusals.last.set(peer);
        let mut counting = refusals.counting.get();
        if counting.begin(now) {
            refusals.told[place].update(|count| count + 1);
            self.record_refused(&address(peer), refused.reason);
        }
        refusals.counting.set(counting);
    }

    /// A request of `principal` is not even looked at, for the reason of this name.
    pub(crate) fn deny(&self, request: &Request<'_>, principal: Principal, reason: &'static str) {
        let (verb, object) = (request.method.as_str(), Text::new(request.path));
        let mut all = self.refusals.denied.borrow_mut();
        let denied = all.entry((principal.to_string(), reason)).or_insert_with(|| Denied {
            total: 0,
            told: 0,
            counting: Counting::default(),
            last: (principal, verb, Text::default()),
        });
        denied.total += 1;
        let is_first = denied.counting.begin(self.clock.now());
        if is_first {
            denied.told += 1;
        }
        denied.last = (principal, verb, object);
        drop(all);
        if is_first {
            self.record_denied(principal, verb, request.path, reason);
        }
    }

    /// For the clerk: put on record what was counted, if it is time for that. Answers when to look again.
    pub(crate) fn tell_refusals(&self) -> Option<Instant> {
        let now = self.clock.now();
        let refusals = &self.refusals;
        let mut counting = refusals.counting.get();
        if counting.is_due(now) {
            let counted = refusals.untold();
            if let Some((count, which)) = &counted {
                let object = format!("{count} more, the last from {}", address(refusals.last.get()));
                self.record_refused(&object, which);
            }
            counting.go_on(now, counted.is_some());
            refusals.counting.set(counting);
        }
        let mut next = counting.until();
        for ((_, reason), denied) in refusals.denied.borrow_mut().iter_mut() {
            if denied.counting.is_due(now) {
                let count = denied.total - core::mem::replace(&mut denied.told, denied.total);
                denied.counting.go_on(now, count > 0);
                if count > 0 {
                    let (principal, verb, object) = &denied.last;
                    let object = format!("{count} more, the last of {object}");
                    self.record_denied(*principal, verb, &object, reason);
                }
            }
            next = earliest(next, denied.counting.until());
        }
        next
    }

    fn record_denied(&self, principal: Principal, verb: &str, object: &str, outcome: &str) {
        self.record(Entry { principal, verb, object, decision: Decision::Denied, outcome, operation: None });
    }

    fn record_refused(&self, object: &str, outcome: &str) {
        let principal = Principal::Unknown("");
        self.record(Entry {
            principal,
            verb: "handshake",
            object,
            decision: Decision::Denied,
            outcome,
            operation: None,
        });
    }
}
