//! What is wanted, and what is on record, over restarts.

use super::desk::*;
use super::resets::{disk, start};
use crate::*;
use agent_protocol::{Uuid, decode};
use kernel_runtime::Instant;
use management_api::audit::{Anchor, AuditPage, Verifier, verify};
use state::Records;
use state::testing::RamDisk;

const DISK: &str = r#"{"iqn":"iqn.2026-01.example:disk","volume":"nbd://10.1.0.9/disk","initiators":["*"]}"#;

fn trail(desk: &Desk, after: u64) -> AuditPage {
    desk.clerk();
    decode(desk.answer(&format!("GET /v1/audit?after={after}&limit=200"), "").1.to_string().as_bytes())
        .unwrap()
}

#[test]
fn a_target_is_there_again_after_a_restart_as_it_was_wanted() {
    let disk = disk();
    let first = start(&disk, 1);
    let secret = DISK.replace("{", r#"{"chap":{"accounts":[{"user":"a","secret":"what the host knows"}]},"#);
    let (status, made) = first.answer("PUT /v1/targets/disk-1", &secret);
    assert_eq!((status, &made["desired"]["durable"]), (201, &true.into()), "{made}");
    drop(first);
    let second = start(&disk, 2);
    let shown = second.answer("GET /v1/targets/disk-1", "").1;
    assert_eq!(shown["desired"], serde_json::json!({"generation":1,"durable":true,"applied":true}));
    assert!(second.shelf.0.borrow()[0].exposure.chap.is_some() && shown["chap"] == true);
    assert_eq!(second.answer("DELETE /v1/targets/disk-1", "").0, 204);
    drop(second);
    let third = start(&disk, 3);
    assert_eq!(kind(&third.answer("GET /v1/targets/disk-1", "")), (404, "unknown-target"));
}

#[test]
fn a_document_counts_its_generations_and_refuses_whoever_knows_another() {
    let desk = Desk::new();
    let put = |fields: &str, body: &str| desk.answer_with("PUT /v1/targets/a", fields, body);
    let generation = |n: u64| DISK.replace("{", &format!("{{\"generation\":{n},"));
    assert_eq!(put("If-Match: \"1\"\r\n", DISK).0, 412, "there is none yet");
    assert_eq!(put("", &generation(5)).1["desired"]["generation"], 5);
    assert_eq!(put("", DISK).1["desired"]["generation"], 5, "the same again changes nothing");
    assert_eq!(kind(&put("", &generation(4))), (409, "stale-generation"));
    let standby = DISK.replace("{", r#"{"access":"standby","#);
    assert_eq!(kind(&put("If-Match: \"4\"\r\n", &standby)), (412, "generation-mismatch"));
    let other = DISK.replace("*", "iqn.2026-01.example:host");
    assert_eq!(kind(&put("If-Match: \"5\"\r\n", &other)), (409, "target-conflict"));
    assert_eq!(desk.answer("GET /v1/targets/a", "").1["desired"]["generation"], 5);
    assert_eq!(desk.answer_with("DELETE /v1/targets/a", "If-Match: \"4\"\r\n", "").0, 412);
    assert_eq!(desk.answer_with("DELETE /v1/targets/a", "If-Match: \"5\"\r\n", "").0, 204);
}

#[test]
fn what_storage_would_not_have_is_shown_with_the_reason_and_tried_again() {
    let disk = disk();
    assert_eq!(start(&disk, 1).answer("PUT /v1/targets/disk-1", DISK).0, 201);
    let mut second = start_over(&disk, 2, true);
    let shown = second.answer("GET /v1/targets/disk-1", "").1;
    assert_eq!(shown["state"], "absent");
    assert_eq!(shown["desired"]["difference"], serde_json::json!(["id"]));
    assert_eq!(shown["desired"]["problem"], "all target slots are taken");
    assert_eq!(second.answer("GET /v1/targets", "").1["targets"].as_array().unwrap().len(), 3);
    second.shelf.0.borrow_mut().clear();
    second.clerk();
    assert_eq!(second.answer("GET /v1/targets/disk-1", "").1["state"], "absent", "not before its time");
    second.wait(core::time::Duration::from_secs(6));
    second.clerk();
    assert_eq!(second.answer("GET /v1/targets/disk-1", "").1["state"], "connecting");
}

/// One whose storage has no room left from the start, if it is so told.
fn start_over(disk: &RamDisk, run: u128, full: bool) -> Desk {
    let records = Records::open(Box::new(disk.clone()), 65536, ([1; 16], run as u64), || Instant::ZERO);
    let configuration = Configuration { boot: Uuid(run), ..configuration(Some("10.0.0.1:7077")) };
    let shelf = Shelf::default();
    if full {
        let one = Desk::new();
        for id in ["x", "y"] {
            assert_eq!(one.answer(&format!("PUT /v1/targets/{id}"), DISK).0, 201);
        }
        shelf.0.borrow_mut().extend(one.shelf.0.borrow().iter().cloned());
    }
    Desk::with_shelf(configuration, Some(records.unwrap()), shelf)
}

#[test]
fn what_cannot_be_kept_is_not_done() {
    let disk = disk();
    let desk = start(&disk, 1);
    assert_eq!(desk.answer("PUT /v1/targets/disk-1", DISK).0, 201);
    disk.fail_after(Some(0));
    assert_eq!(kind(&desk.answer("PUT /v1/targets/disk-2", DISK)), (503, "no-state"));
    assert_eq!(kind(&desk.answer("GET /v1/targets/disk-2", "")), (404, "unknown-target"));
    assert_eq!(kind(&desk.answer("POST /v1/hosts/self:drain", r#"{"drain":true}"#)), (503, "no-state"));
    assert_eq!(desk.answer("GET /v1/hosts/self", "").1["drain"], false);
}

#[test]
fn a_full_state_disk_refuses_and_loses_nothing() {
    let disk = disk();
    let records = Records::open(Box::new(disk.clone()), 8192, ([1; 16], 1), || Instant::ZERO).unwrap();
    let configuration = || Configuration { operations: 8, ..configuration(Some("10.0.0.1:7077")) };
    let desk = Desk::over(configuration(), Some(records));
    let large = |n: usize| {
        DISK.replace("[\"*\"]", &format!("[\"iqn.2026-01.example:{n}\"]"))
            .replace("nbd://10.1.0.9/disk", &format!("nbd://10.1.0.9/{}", "x".repeat(1000)))
    };
    let mut kept = Vec::new();
    // Storage has room for two; the documents of those that are withdrawn in between are gone again.
    for n in 0..2 {
        let (status, _) = desk.answer(&format!("PUT /v1/targets/disk-{n}"), &large(n));
        assert_eq!(status, 201);
        kept.push(format!("disk-{n}"));
    }
    for n in 0..200 {
        desk.answer("POST /v1/hosts/self:drain", &format!("{{\"drain\":{}}}", n % 2 == 0));
    }
    let page = trail(&desk, 0);
    assert_eq!(page.records.len(), 8, "the trail has what it may have and no more");
    assert_eq!(verify(page.anchor, &page.records), Ok(page.head));
    drop(desk);
    let again = Records::open(Box::new(disk.clone()), 8192, ([1; 16], 2), || Instant::ZERO).unwrap();
    let desk = Desk::over(configuration(), Some(again));
    for id in kept {
        assert_eq!(desk.answer(&format!("GET /v1/targets/{id}"), "").0, 200, "{id}");
    }
    let small =
        Records::open(Box::new(RamDisk::new(state::LEAST_BLOCKS)), 900, ([1; 16], 3), || Instant::ZERO);
    let desk = Desk::over(configuration(), Some(small.unwrap()));
    let answer = desk.answer("PUT /v1/targets/disk-1", &large(1));
    assert_eq!(kind(&answer), (507, "state-disk-full"));
    assert!(desk.shelf.0.borrow().is_empty(), "what cannot be kept is not exposed either");
}

#[test]
fn the_trail_goes_on_over_restarts_and_has_who_was_refused() {
    let disk = disk();
    let first = start(&disk, 1);
    first.answer("PUT /v1/targets/disk-1", DISK);
    first.answer("PUT /v1/targets/disk-2", "{}");
    let page = trail(&first, 0);
    let outcomes: Vec<_> = page.records.iter().map(|record| record.outcome.as_str()).collect();
    assert_eq!(outcomes, ["accepted", "malformed-body"]);
    assert!(page.durable && page.records[0].verb.as_str() == "PUT");
    let known = page.head;
    assert_eq!(verify(Anchor::default(), &page.records), Ok(known));
    drop(first);

    let second = start(&disk, 2);
    second.answer("DELETE /v1/targets/disk-1", "");
    let mut verifier = Verifier::behind(known);
    for record in &trail(&second, known.seq).records {
        verifier.push(record).unwrap();
    }
    assert_eq!(verifier.head().seq, known.seq + 1);

    let policy = Policy { anonymous_targets: false, ..Policy::OPEN };
    let strict = Desk::with(Configuration { policy, ..configuration(None) });
    strict.answer("PUT /v1/targets/disk-1", DISK);
    let page = trail(&strict, 0);
    assert_eq!((page.records[0].decision, page.durable), (management_api::audit::Decision::Denied, false));
    assert_eq!(page.records[0].principal.as_str(), "anonymous");
}

#[test]
fn a_drain_is_remembered() {
    let disk = disk();
    assert_eq!(start(&disk, 1).answer("POST /v1/hosts/self:drain", r#"{"drain":true}"#).1["drain"], true);
    let second = start(&disk, 2);
    assert_eq!(second.answer("GET /v1/hosts/self", "").1["drain"], true);
    let create = second.answer("POST /v1/instances", r#"{"id":"web-1","image":"tiny"}"#);
    assert_eq!(kind(&create), (409, "draining"));
    assert_eq!(second.answer("POST /v1/hosts/self:drain", r#"{"drain":false}"#).1["drain"], false);
    drop(second);
    assert_eq!(start(&disk, 3).answer("GET /v1/hosts/self", "").1["drain"], false);
}
