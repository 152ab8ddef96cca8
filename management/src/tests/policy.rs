//! The table of rights, every field of it.

use crate::policy::{Policy, Principal, Right, Service};
use network_tls::Pin;

const RIGHTS: [(Right, [bool; 3]); 12] = [
    // vm, net, storage
    (Right::About, [true, true, true]),
    (Right::Metrics, [true, true, true]),
    (Right::Read, [true, false, false]),
    (Right::Instances, [true, false, false]),
    (Right::ReadTargets, [true, false, true]),
    (Right::Targets, [false, false, true]),
    (Right::ReadNetworks, [true, true, false]),
    (Right::Networks, [false, true, false]),
    (Right::Events, [true, true, true]),
    (Right::Audit, [true, false, false]),
    (Right::Enrol, [false, false, false]),
    (Right::Keys, [true, false, false]),
];

#[test]
fn each_service_may_do_what_it_needs_and_nothing_else() {
    for (right, expected) in RIGHTS {
        for (service, may) in Service::ALL.into_iter().zip(expected) {
            let decided = Policy::OPEN.decide(Principal::Service(service, Pin([7; 32])), right);
            assert_eq!(decided.is_ok(), may, "{service:?} {right:?}");
            if let Err(why) = decided {
                assert!(why.starts_with(&format!("svc/{} may not ", service.name())), "{why}");
            }
        }
    }
}

#[test]
fn strangers_may_enrol_and_the_unknown_may_do_nothing() {
    for (right, _) in RIGHTS {
        assert_eq!(
            Policy::OPEN.decide(Principal::Stranger, right).is_ok(),
            right == Right::Enrol,
            "{right:?}"
        );
        let why = Policy::OPEN.decide(Principal::Unknown("it has two names"), right).unwrap_err();
        assert_eq!(why, "It is not known who calls: it has two names.");
    }
}

#[test]
fn an_open_door_gives_what_the_policy_gives_and_never_keys() {
    let closed = Policy { anonymous_reads: false, anonymous_instances: false, anonymous_targets: false };
    for (right, _) in RIGHTS {
        let keys = matches!(right, Right::Keys | Right::Enrol);
        assert_eq!(Policy::OPEN.decide(Principal::Anonymous, right).is_ok(), !keys, "{right:?}");
        assert_eq!(closed.decide(Principal::Anonymous, right).is_ok(), right == Right::About, "{right:?}");
    }
}
