//! The agent's document of what can be done has a line for whatever this API lets one ask of the agent.

use agent_protocol::{Facility, Verb};
use management_api::{Call, ENDPOINTS};
use std::collections::BTreeSet;

/// What of the agent's document says whether a request can be answered.
#[derive(Clone, Copy)]
enum Line {
    /// The appliance answers by itself, or out of what the agent needs no hypervisor for.
    None,
    Facility(Facility),
    Verb(Verb),
    /// Whichever verb the body names.
    AnyVerb,
}

/// A request that is added has to be answered for here before this compiles.
const fn line(call: Call) -> Line {
    match call {
        Call::Health
        | Call::Ready
        | Call::About
        | Call::Problems
        | Call::Metrics
        | Call::Scrape
        | Call::Host
        | Call::Drain
        | Call::Capabilities
        | Call::Images
        | Call::Operations
        | Call::Operation
        | Call::Cancel
        | Call::Targets
        | Call::Target
        | Call::PutTarget
        | Call::DeleteTarget
        | Call::EnrolmentRequest
        | Call::Enrol
        | Call::Keys
        | Call::RotateKeys
        | Call::PutKeys
        | Call::Audit => Line::None,
        Call::Instances => Line::Facility(Facility::List),
        Call::Events => Line::Facility(Facility::Events),
        Call::Stats => Line::Facility(Facility::Stats),
        Call::Console => Line::Facility(Facility::Console),
        Call::Networks | Call::Network | Call::PutNetwork | Call::DeleteNetwork | Call::NetworkCounters => {
            Line::Facility(Facility::NetworkApply)
        }
        Call::CreateInstance => Line::Verb(Verb::Create),
        Call::Instance => Line::Verb(Verb::Describe),
        Call::Command | Call::Batch => Line::AnyVerb,
    }
}

#[test]
fn every_request_has_its_line_and_every_line_a_request() {
    let (mut facilities, mut verbs) = (BTreeSet::new(), BTreeSet::new());
    for endpoint in ENDPOINTS {
        match line(endpoint.call) {
            Line::None => {}
            Line::Facility(facility) => drop(facilities.insert(facility)),
            Line::Verb(verb) => drop(verbs.insert(verb)),
            Line::AnyVerb => verbs.extend(Verb::ALL),
        }
    }
    assert_eq!(facilities, Facility::ALL.iter().copied().collect());
    assert_eq!(verbs, Verb::ALL.iter().copied().collect());
    // The two lists have no name in common, so that a table of both can be read.
    assert!(Facility::ALL.iter().all(|one| Verb::ALL.iter().all(|verb| verb.as_str() != one.as_str())));
}
