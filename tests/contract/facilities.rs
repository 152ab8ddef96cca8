//! What is asked for that is no command to an instance: what the document says is what happens.

use crate::parent::Parent;
use crate::states::{create, done};
use agent_protocol::{Action, Backend, Facility, Provision, Support, path};
use image_launch::api;
use management_http::Method;
use serde_json::Value;

/// Asks for each; and how it came, as the page has it.
pub(crate) fn play(parent: &Parent, backend: &Backend) -> Vec<(Facility, String)> {
    let told = backend.facilities.iter().map(|one| one.facility).collect::<Vec<_>>();
    assert_eq!(told, Facility::ALL, "each has one line");
    done(parent.act("looked-at", create("deaf", true)));
    let rows = backend.facilities.iter().map(|one| (one.facility, played(parent, one))).collect();
    done(parent.act("looked-at", Action::Terminate {}));
    rows
}

fn played(parent: &Parent, provision: &Provision) -> String {
    let how = match provision.support {
        Support::Impossible => "impossible",
        Support::Native => "executed",
        Support::Emulated => "emulated",
    };
    let (status, answer) = ask(parent, provision.facility);
    let detail = answer["detail"].as_str().unwrap_or_default();
    if provision.support == Support::Impossible {
        assert!(matches!(status, 422 | 501), "{provision:?}: {status} {answer}");
        assert!(detail.contains(provision.by.as_str()), "{provision:?}: {answer}");
    } else {
        assert_eq!(status, 200, "{provision:?}: {answer}");
    }
    format!("{how}: {}", provision.by)
}

/// Asks the appliance; about networks the agent, whose document it is: a map is taken by the appliance in any case.
fn ask(parent: &Parent, facility: Facility) -> (u16, Value) {
    let asked = match facility {
        Facility::List => "/v1/instances",
        Facility::Events => "/v1/events",
        Facility::Stats => "/v1/instances/looked-at/stats",
        Facility::Console => "/v1/instances/looked-at/console",
        Facility::NetworkApply => {
            let (status, body) = parent.request(Method::Get, path::NETWORKS, None).unwrap();
            return (status, serde_json::from_slice(&body).unwrap());
        }
    };
    let answer = api::ask(&parent.stage.net, "GET", asked, None).unwrap();
    let what = match facility {
        Facility::List => answer.body.pointer("/instances/0/id"),
        Facility::Events => answer.body.pointer("/events/0/seq"),
        Facility::Stats => answer.body.get("cpu_ms"),
        _ => answer.body.get("data").filter(|_| answer.status == 200),
    };
    assert!(what.is_some() || answer.status != 200, "{facility}: {}", answer.body);
    (answer.status, answer.body)
}
