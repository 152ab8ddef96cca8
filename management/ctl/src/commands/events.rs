//! Events: what has happened, and what happens.

use super::{items, number, state, text};
use crate::api::Api;
use crate::arguments::Events;
use crate::clock::Clock;
use crate::failure::{Exit, Failure, Outcome};
use crate::screen::Screen;
use serde_json::{Value, json};

/// The most events that are asked for at once.
const PAGE: usize = 200;
/// How long the appliance may hold back an answer without news.
const HELD: &str = "25s";

/// Show what is kept, and with `--follow` what comes.
pub(super) fn run(api: &mut Api<'_>, options: &Events) -> Outcome<Exit> {
    if options.follow {
        // The end of following is no failure.
        api.interrupt.hold();
    }
    let mut listener = Listener::new(api, options.after)?;
    loop {
        let page = match listener.next(api, false) {
            Ok(page) if items(&page, "/events").is_empty() && options.follow => listener.next(api, true),
            other => other,
        };
        let page = match page {
            Err(Failure::Interrupted) if options.follow => return Ok(Exit::Done),
            other => other?,
        };
        let events = items(&page, "/events");
        for event in events.iter().filter(|event| is_wanted(event, options)) {
            print(api.screen, event, listener.clock);
        }
        if (events.is_empty() && !options.follow) || api.screen.is_gone() {
            return Ok(Exit::Done);
        }
    }
}

fn is_wanted(event: &Value, options: &Events) -> bool {
    options.of.as_ref().is_none_or(|name| text(event, "/object") == name.as_str())
}

/// Somebody who reads events in order and is told when some were missed.
pub(super) struct Listener {
    /// The last that was told; `None` to ask for all that are kept, of which none can have been missed. Zero would not
    /// do: a run's numbers begin anywhere.
    after: Option<u64>,
    boot: String,
    pub(super) clock: Clock,
}

impl Listener {
    pub(super) fn new(api: &mut Api<'_>, after: Option<u64>) -> Outcome<Self> {
        let about = api.get("/v1")?;
        let clock = Clock::new(number(&about, "/clock_ms").unwrap_or(0));
        Ok(Self { after, boot: text(&about, "/boot"), clock })
    }

    /// The next page, at once or when there is something in it.
    pub(super) fn next(&mut self, api: &mut Api<'_>, wait: bool) -> Outcome<Value> {
        let wait = if wait { format!("&wait={HELD}") } else { String::new() };
        let after = self.after.map(|after| format!("&after={after}")).unwrap_or_default();
        let page = api.get(&format!("/v1/events?limit={PAGE}{after}{wait}"))?;
        let boot = text(&page, "/boot");
        if boot != self.boot {
            api.screen.warn("the appliance has started anew; its events begin from the first");
            *self = Self::new(api, None)?;
            return self.next(api, false);
        }
        if text(&page, "/missed") == "yes" && self.after.is_some() {
            api.screen.warn("events were missed; `corbelctl instances` tells how things stand now");
            if api.screen.is_json() {
                api.screen.record(&json!({ "missed": true, "next": page["next"] }));
            }
            // Such a page is empty; what is kept is told all the same.
            self.after = None;
            return self.next(api, false);
        }
        self.after = number(&page, "/next").or(self.after);
        Ok(page)
    }
}

/// One event on one line.
pub(super) fn print(screen: &Screen, event: &Value, clock: Clock) {
    if screen.is_json() {
        screen.record(event);
        return;
    }
    screen.say(&line(screen, event, clock));
}

/// In words: number, time, kind, and whatever it is about.
pub(super) fn line(screen: &Screen, event: &Value, clock: Clock) -> String {
    let when = number(event, "/at_ms").map(|at| clock.show(at)).unwrap_or_default();
    let mut line = format!("{:>6}  {when}  {:<20}", text(event, "/seq"), text(event, "/kind"));
    let words = [text(event, "/object"), text(event, "/operation")];
    for word in words.iter().filter(|word| !word.is_empty()) {
        line += &format!(" {word}");
    }
    let name = text(event, "/state");
    if !name.is_empty() {
        line += &format!(" {}", state(&name).shown(screen));
    }
    let detail = text(event, "/detail");
    if detail.is_empty() { line } else { format!("{line}: {detail}") }
}
