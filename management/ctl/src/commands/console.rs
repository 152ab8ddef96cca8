//! A console: what a guest wrote lately, and what it writes.

use crate::api::Api;
use crate::arguments::Console;
use crate::failure::{Exit, Failure, Outcome};
use crate::plain;
use agent_protocol::{CONSOLE_BYTES_MAX, ConsolePage};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How long the appliance may hold back an answer without news.
const HELD: &str = "5s";
/// How much of a console the agent keeps.
const KEPT: usize = 16 << 10;
/// How long is waited where the appliance answers at once because too many wait there.
const PAUSE: Duration = Duration::from_millis(250);

/// Show what is kept, and with `--follow` what comes.
pub(super) fn run(api: &mut Api<'_>, options: &Console) -> Outcome<Exit> {
    if options.follow {
        // The end of following is no failure.
        api.interrupt.hold();
    }
    let name = &options.of.name;
    let (mut after, mut pending, mut shown_bytes) = (0, Vec::new(), 0);
    loop {
        let wait = if options.follow { format!("&wait={HELD}") } else { String::new() };
        let asked = Instant::now();
        let document = match api.get(&format!("/v1/instances/{name}/console?after={after}{wait}")) {
            Err(Failure::Interrupted) if options.follow => break,
            other => other?,
        };
        let page = read(&document)?;
        if page.from > after && after > 0 {
            api.screen.note(&format!("{} bytes are not kept any more", page.from - after));
        }
        let is_idle = page.next == after;
        // A guest that writes on and on is not listened to for ever: what is kept has been shown by then.
        shown_bytes += page.data.0.len();
        let is_over = page.data.0.len() < CONSOLE_BYTES_MAX || shown_bytes >= KEPT;
        after = page.next;
        if api.screen.is_json() {
            if !page.data.0.is_empty() {
                api.screen.record(&document);
            }
        } else {
            pending.extend(page.data.0);
            show(api, &mut pending);
        }
        if (is_over && !options.follow) || api.screen.is_gone() {
            break;
        }
        if is_idle && asked.elapsed() < PAUSE {
            api.interrupt.sleep(PAUSE);
        }
    }
    if !pending.is_empty() {
        api.screen.say(&shown(&pending));
    }
    Ok(Exit::Done)
}

fn read(document: &Value) -> Outcome<ConsolePage> {
    serde_json::from_value(document.clone())
        .map_err(|_| Failure::Nonsense("the answer makes no sense: it is no page of a console".into()))
}

/// Whole lines; the rest waits for its end, unless it has none for long.
fn show(api: &mut Api<'_>, pending: &mut Vec<u8>) {
    while let Some(end) =
        pending.iter().position(|byte| *byte == b'\n').or((pending.len() > 4096).then_some(4096))
    {
        let line: Vec<u8> = pending.drain(..=end).collect();
        api.screen.say(&shown(&line));
    }
}

/// A line as a terminal may be shown it.
fn shown(line: &[u8]) -> String {
    plain::lines(&String::from_utf8_lossy(line).replace(['\r', '\n'], "")).trim_end().into()
}
