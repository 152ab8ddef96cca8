//! What is heard of a link between appliance and agent that does not come about, each within a limit. Programs that have such
//! a link include it.

use image_launch::stage::Stage;
use image_launch::{api, wait};
use serde_json::Value;
use std::time::Duration;

/// The appliance says by these words, in its health, in its log and to who gives one of these orders, why it does not reach the
/// agent.
pub(crate) fn is_cut(stage: &Stage, limit: Duration, words: &str, orders: &[(&str, Value)]) {
    let ask = |method, path, body| api::ask(&stage.net, method, path, body).unwrap();
    let mut health = None;
    wait::until(format!("a health and a log that say {words}"), limit, || {
        // Somebody who wants to know is a reason to dial at once.
        ask("GET", "/v1/instances", None);
        let answer = ask("GET", "/readyz", None);
        let says = answer.status == 503 && answer.text("/agent/reason").contains(words);
        health = Some(answer);
        Ok((says && stage.appliance.console().contains(words)).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}: {health:?}\n{}", stage.appliance.console()));
    for (path, body) in orders {
        // Each dials anew. On a host that is slow just then one may take too long to hear why.
        wait::until(format!("a refusal that says {words}"), limit, || {
            let answer = ask("POST", path, Some(body));
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(answer.text("/type").ends_with(":agent-unavailable"), "{answer:?}");
            Ok(answer.text("/detail").contains(words).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", stage.appliance.console()));
    }
}

/// The appliance reaches the agent.
pub(crate) fn is_whole(stage: &Stage, limit: Duration) {
    let ask = |path| api::ask(&stage.net, "GET", path, None).unwrap();
    wait::until("the appliance reaching the agent", limit, || {
        // Somebody who wants to know is a reason to dial at once.
        let listed = ask("/v1/instances");
        Ok((listed.status == 200 && ask("/readyz").status == 200).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", stage.appliance.console()));
}

/// Who has this log has said these words.
pub(crate) fn said(limit: Duration, log: impl Fn() -> String, words: &str) {
    wait::until(format!("a log that says `{words}`"), limit, || Ok(log().contains(words).then_some(())))
        .unwrap_or_else(|error| panic!("{error}\n{}", log()));
}
