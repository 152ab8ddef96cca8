//! Callers that were not let in: counted by why, and on record without ever filling the trail.
//!
//! The first is on record at once. Those that follow are counted, and told in one record at the end of a minute, then of
//! two, and so on up to an hour: who knocks all day makes a few dozen records of it, not a million. After an hour of quiet it
//! begins anew.

use crate::Management;
use crate::audit::Entry;
use crate::policy::Principal;
use alloc::format;
use alloc::string::{String, ToString};
use core::cell::Cell;
use core::net::SocketAddrV4;
use core::time::Duration;
use kernel_runtime::Instant;
use management_api::audit::Decision;
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

/// What is counted.
#[derive(Default)]
pub(crate) struct Refusals {
    /// Since the start, by reason.
    total: [Cell<u64>; REASONS.len()],
    /// What of that is on record.
    told: [Cell<u64>; REASONS.len()],
    /// While refusals are counted and not told: until when, and how long that is.
    counting: Cell<Option<(Instant, Duration)>>,
    last: Cell<Option<SocketAddrV4>>,
}

impl Refusals {
    /// Add the figures for Prometheus to `text`.
    pub(crate) fn figures(&self, text: &mut String) {
        text.push_str("# TYPE corbel_api_refused_total counter\n");
        for (reason, count) in REASONS.iter().zip(&self.total) {
            text.push_str(&format!("corbel_api_refused_total{{reason=\"{reason}\"}} {}\n", count.get()));
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
        if refusals.counting.get().is_none() {
            refusals.told[place].update(|count| count + 1);
            refusals.counting.set(Some((now + PAUSE_FIRST, PAUSE_FIRST)));
            self.record_refused(&address(peer), refused.reason);
        }
    }

    /// For the clerk: put on record what was counted, if it is time for that. Answers when to look again.
    pub(crate) fn tell_refusals(&self) -> Option<Instant> {
        let refusals = &self.refusals;
        let (until, pause) = refusals.counting.get()?;
        let now = self.clock.now();
        if now < until {
            return Some(until);
        }
        let counted = refusals.untold();
        if let Some((count, which)) = &counted {
            let object = format!("{count} more, the last from {}", address(refusals.last.get()));
            self.record_refused(&object, which);
        }
        // Only what lasts as long as the longest pause is quiet: who comes once a minute is the same knocker still.
        let next = (counted.is_some() || pause < PAUSE_LAST).then(|| {
            let pause = (pause * 2).min(PAUSE_LAST);
            (now + pause, pause)
        });
        refusals.counting.set(next);
        next.map(|(until, _)| until)
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
