//! The audit trail: shown, and followed from hash to hash.

use super::{items, number, text};
use crate::api::Api;
use crate::arguments::{Audit, AuditAction, AuditList, AuditVerify};
use crate::clock::{self, Clock};
use crate::failure::{Exit, Failure, Outcome};
use crate::screen::{Screen, Tint};
use crate::table::{Cell, Table};
use management_api::audit::{Anchor, AuditRecord, Verifier};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// The most records that are asked for at once.
const PAGE: usize = 200;
/// No trail is larger.
const FILE_LIMIT: u64 = 256 << 20;

pub(super) fn run(api: &mut Api<'_>, options: &Audit) -> Outcome<Exit> {
    match &options.action {
        None => list(api, &options.list),
        Some(AuditAction::List(list)) => self::list(api, list),
        Some(AuditAction::Verify(verify)) => {
            let trail = fetch(api, 0)?;
            self::verify(api.screen, &trail, verify)
        }
    }
}

/// Verification of a file needs no appliance.
pub(crate) fn verify_file(screen: &Screen, file: &Path, options: &AuditVerify) -> Outcome<Exit> {
    verify(screen, &read(file)?, options)
}

/// All records after `after` in one document.
fn fetch(api: &mut Api<'_>, after: u64) -> Outcome<Value> {
    let mut whole: Option<Value> = None;
    let mut after = after;
    loop {
        let mut page = api.get(&format!("/v1/audit?after={after}&limit={PAGE}"))?;
        let next = number(&page, "/next");
        match &mut whole {
            None => whole = Some(page),
            Some(document) => {
                document["head"] = page["head"].take();
                if let (Some(Value::Array(all)), Value::Array(more)) =
                    (document.get_mut("records"), page["records"].take())
                {
                    all.extend(more);
                }
            }
        }
        match next {
            // One that does not move on would be asked for for ever.
            Some(next) if next > after => after = next,
            _ => break,
        }
    }
    let mut document = whole.unwrap_or_default();
    document["next"] = Value::Null;
    Ok(document)
}

fn list(api: &mut Api<'_>, options: &AuditList) -> Outcome<Exit> {
    let document = fetch(api, options.after)?;
    let screen = api.screen;
    if screen.is_json() {
        screen.document(&document);
        return Ok(Exit::Done);
    }
    let about = api.get("/v1")?;
    let (boot, clock) = (text(&about, "/boot"), Clock::new(number(&about, "/clock_ms").unwrap_or(0)));
    let mut table = Table::new(&["NO", "TIME", "WHO", "VERB", "WHAT", "DECISION", "OUTCOME", "OPERATION"]);
    for record in items(&document, "/records").iter().filter(|record| is_wanted(record, options)) {
        let decision = text(record, "/decision");
        let tint = if decision == "denied" { Tint::Bad } else { Tint::Plain };
        table.row(vec![
            text(record, "/seq").into(),
            when(record, &boot, clock).into(),
            text(record, "/principal").into(),
            text(record, "/verb").into(),
            text(record, "/object").into(),
            Cell::tinted(decision, tint),
            text(record, "/outcome").into(),
            text(record, "/operation").into(),
        ]);
    }
    if table.is_empty() {
        screen.note("no records");
    } else {
        table.print(screen);
    }
    if text(&document, "/durable") == "no" {
        screen.warn("without a state disk the trail begins anew when the appliance does");
    }
    Ok(Exit::Done)
}

fn is_wanted(record: &Value, options: &AuditList) -> bool {
    let by = options.by.as_ref().is_none_or(|who| text(record, "/principal") == *who);
    by && (!options.denied || text(record, "/decision") == "denied")
}

/// The time of day, as the appliance knew it; of this run it can be told without.
fn when(record: &Value, boot: &str, clock: Clock) -> String {
    match (number(record, "/unix_time"), number(record, "/at_ms")) {
        (Some(seconds), _) => clock::date(seconds),
        (None, Some(at)) if text(record, "/boot") == boot => clock.show(at),
        _ => String::new(),
    }
}

/// Follow the chain, and tell where it ends or breaks.
fn verify(screen: &Screen, trail: &Value, options: &AuditVerify) -> Outcome<Exit> {
    let place = |member: &str| trail.get(member).cloned().map(serde_json::from_value::<Anchor>);
    let wrong = |what: &str| Failure::Here(format!("this is no audit trail: {what}"));
    let begin = match place("anchor") {
        Some(anchor) => anchor.map_err(|error| wrong(&format!("its anchor: {error}")))?,
        None => return Err(wrong("it has no anchor")),
    };
    let mut verifier = Verifier::behind(begin);
    let mut known = options.since.filter(|since| *since != begin);
    for (index, record) in items(trail, "/records").iter().enumerate() {
        let record: AuditRecord = serde_json::from_value(record.clone())
            .map_err(|error| wrong(&format!("record {} of the list: {error}", index + 1)))?;
        if let Err(broken) = verifier.push(&record) {
            let advice = format!("up to record {} all is in order.", verifier.head().seq);
            screen.error(&format!("the audit trail is broken: {broken}"), Some(&advice));
            return Ok(Exit::Failed);
        }
        known = known.filter(|known| *known != verifier.head());
    }
    let head = verifier.head();
    if let Some(known) = known {
        let what = if known.seq < begin.seq {
            format!("record {} is not kept any more, so the trail cannot be tied to it", known.seq)
        } else {
            format!(
                "the audit trail was made anew: record {} is not the one that was verified before",
                known.seq
            )
        };
        screen.error(&what, Some("keep trails by `corbelctl audit list --json` before old records go."));
        return Ok(Exit::Failed);
    }
    if let Some(told) = place("head") {
        let told = told.map_err(|error| wrong(&format!("its head: {error}")))?;
        if told != head {
            let what = format!(
                "the end of the audit trail is missing: it tells of record {}, and ends with {}",
                told.seq, head.seq
            );
            screen.error(&what, None);
            return Ok(Exit::Failed);
        }
    }
    report(screen, begin, head);
    Ok(Exit::Done)
}

fn report(screen: &Screen, begin: Anchor, head: Anchor) {
    if screen.is_json() {
        screen.document(&serde_json::json!({ "verified": true, "anchor": begin, "head": head }));
        return;
    }
    let count = head.seq.saturating_sub(begin.seq);
    let span = if count == 0 { String::new() } else { format!(", {} to {}", begin.seq + 1, head.seq) };
    screen.say(&format!("{}: {count} records{span}", screen.tint(Tint::Good, "the audit trail is whole")));
    screen.say(&format!("next time: corbelctl audit verify --since {}:{}", head.seq, head.hash));
}

/// What `audit list --json` has written.
fn read(file: &Path) -> Outcome<Value> {
    let here = |error: &dyn std::fmt::Display| Failure::Here(format!("{}: {error}", file.display()));
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(|error| here(&error))?)
    };
    let mut bytes = Vec::new();
    let read = source.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(|error| here(&error))?;
    if read as u64 > FILE_LIMIT {
        return Err(here(&format!("it has more than {FILE_LIMIT} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|error| here(&error))
}
