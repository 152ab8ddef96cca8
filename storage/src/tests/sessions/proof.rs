//! Who has to prove who he is, and what he gets and breaks before he has.

use super::*;
use crate::ControlError;
use crate::chap::{Access, Account, Algorithms, Credentials, Secret};
use alloc::sync::Arc;
use network_tls::{NoEntropy, Random};
use storage_iscsi::wire::TextRequest;

/// Not random at all, so that responses can be made beforehand.
#[derive(Debug)]
struct Threes;

impl Random for Threes {
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        out.fill(0x33);
        Ok(())
    }
}

/// By SHA-256, to the challenge that threes make, of "what the host knows"; by OpenSSL.
const RESPONSE: &str = "0x71ed73f3c0ab75097f32fc77cb884eb0a9104a46d975f4cfc90f402c17a70ac0";

fn credentials(user: &str, secret: &str) -> Credentials {
    Credentials { user: user.into(), secret: Secret::new(secret).expect("long enough") }
}

fn access(user: &str, secret: &str, target: Option<&str>) -> Access {
    let account = Account {
        initiator: None,
        from_initiator: credentials(user, secret),
        from_target: target.map(|secret| credentials("target", secret)),
    };
    Access::new(vec![account], Algorithms::ALL).expect("safe")
}

fn guarded(id: &str, access: Access) -> Exposure {
    let volume = format!("nbd://10.78.0.2:10809/{id}");
    Exposure { chap: Some(access), ..exposure(id, &volume) }
}

/// A world with randomness, and a disk that `host` may have with his secret.
fn stage() -> World {
    let mut world = world();
    world.storage.make_challenges_of(Arc::new(Threes)).expect("for the first time");
    world.service(10809, "disk", Manner::Serve);
    world.control().expose(guarded("disk", access("host", "what the host knows", None))).expect("exposed");
    world.run(Duration::from_secs(1));
    world
}

impl Initiator {
    async fn connect(mut stream: Stream) -> Self {
        stream.connect(format!("10.78.0.1:{PORT}").parse().expect("address")).await.expect("connected");
        Self { stream, input: Vec::new(), cmd_sn: 1, tag: 0 }
    }

    /// One request of a login, and its answer.
    async fn login(&mut self, stage: u8, next: Option<u8>, text: &str) -> (LoginResponse, String) {
        let request = LoginRequest {
            immediate: true,
            transit: next.is_some(),
            current_stage: stage,
            next_stage: next.unwrap_or_default(),
            isid: [0x80, 0, 0, 0, 0, 1],
            cmd_sn: 1,
            ..LoginRequest::default()
        };
        self.say(request.header(), text.as_bytes()).await;
        let (header, data) = self.hear_all().await;
        (LoginResponse::read(&header), String::from_utf8(data).expect("text"))
    }

    /// A whole login with CHAP; answers its status.
    async fn prove(&mut self, names: &str, response: &str) -> (u8, u8) {
        let (first, text) = self.login(0, None, &format!("{names}AuthMethod=CHAP,None\0")).await;
        assert!(text.ends_with("AuthMethod=CHAP\0"), "{first:?} {text}");
        let (_, text) = self.login(0, None, "CHAP_A=7,5\0").await;
        assert!(text.starts_with("CHAP_A=7\0CHAP_I=51\0CHAP_C=0x33"), "{text}");
        let text = format!("CHAP_N=host\0CHAP_R={response}\0");
        let (last, _) = self.login(0, Some(3), &text).await;
        (last.status_class, last.status_detail)
    }

    async fn ask_for_targets(&mut self) -> String {
        let request = TextRequest {
            last: true,
            initiator_task_tag: 7,
            target_transfer_tag: wire::RESERVED_TAG,
            cmd_sn: self.cmd_sn,
            ..TextRequest::default()
        };
        self.cmd_sn += 1;
        self.say(request.header(), b"SendTargets=All\0").await;
        let (header, data) = self.hear_all().await;
        assert_eq!(header.opcode(), opcode::TEXT_RESPONSE);
        String::from_utf8(data).expect("text")
    }
}

const NAMES: &str = "InitiatorName=iqn.2026-01.test:one\0TargetName=iqn.2026-01.test:disk\0";
const DISCOVERY: &str = "InitiatorName=iqn.2026-01.test:one\0SessionType=Discovery\0";

#[test]
fn who_has_not_proven_himself_ends_nobody_s_session() {
    let mut world = stage();
    let [one, two, three] = [(); 3].map(|()| world.host.stream(65536, 65536));
    let clock = world.executor.clock();
    finish(&mut world, Duration::from_secs(5), async move {
        let mut one = Initiator::connect(one).await;
        assert_eq!(one.prove(NAMES, RESPONSE).await, (0, 0));
        one.test_unit_ready().await;
        one.hear().await;
        // The same names and ISID, which would replace it.
        let mut two = Initiator::connect(two).await;
        let (refused, _) = two.login(1, Some(3), NAMES).await;
        assert_eq!((refused.status_class, refused.status_detail), (2, 1));
        two.stream.abort();
        clock.sleep(Duration::from_millis(100)).await;
        let mut three = Initiator::connect(three).await;
        let wrong = format!("0x{}", "00".repeat(32));
        assert_eq!(three.prove(NAMES, &wrong).await, (2, 1));
        one.write(1).await;
        assert_eq!(ScsiResponse::read(&one.hear().await).status, GOOD);
    });
}

#[test]
fn who_has_proven_himself_replaces_the_session_he_had() {
    let mut world = stage();
    let [one, two] = [(); 2].map(|()| world.host.stream(65536, 65536));
    finish(&mut world, Duration::from_secs(5), async move {
        let mut one = Initiator::connect(one).await;
        assert_eq!(one.prove(NAMES, RESPONSE).await, (0, 0));
        let mut two = Initiator::connect(two).await;
        assert_eq!(two.prove(NAMES, RESPONSE).await, (0, 0));
        let gone = one.stream.read(&mut [0; 16]).await;
        assert!(matches!(gone, Ok(0) | Err(_)), "{gone:?}");
        two.test_unit_ready().await;
        two.hear().await;
        two.write(1).await;
        assert_eq!(ScsiResponse::read(&two.hear().await).status, GOOD);
    });
}

#[test]
fn an_initiator_is_told_of_the_targets_that_it_may_log_in_to() {
    let mut world = stage();
    let other = Exposure {
        initiators: vec!["iqn.2026-01.test:two".into()],
        ..exposure("other", "nbd://10.78.0.2:10810/x")
    };
    world.control().expose(other).expect("exposed");
    let [one, two] = [(); 2].map(|()| world.host.stream(65536, 65536));
    finish(&mut world, Duration::from_secs(5), async move {
        for (stream, name, targets) in [(one, "one", 1), (two, "two", 2)] {
            let mut initiator = Initiator::connect(stream).await;
            let names = format!("InitiatorName=iqn.2026-01.test:{name}\0SessionType=Discovery\0");
            assert_eq!(initiator.login(1, Some(3), &names).await.0.status_class, 0);
            let told = initiator.ask_for_targets().await;
            assert_eq!(told.matches("TargetName=").count(), targets, "{told}");
            assert_eq!(told.contains("iqn.2026-01.test:other"), targets == 2, "{told}");
            assert_eq!(told.matches("TargetAddress=10.78.0.1:3260,1\0").count(), targets, "{told}");
        }
    });
}

#[test]
fn discovery_is_for_those_who_prove_themselves_where_that_is_wanted() {
    let mut world = stage();
    world.control().guard_discovery(access("host", "what the host knows", None)).expect("safe");
    let [one, two] = [(); 2].map(|()| world.host.stream(65536, 65536));
    finish(&mut world, Duration::from_secs(5), async move {
        let mut one = Initiator::connect(one).await;
        let (refused, _) = one.login(1, Some(3), DISCOVERY).await;
        assert_eq!((refused.status_class, refused.status_detail), (2, 1));
        let mut two = Initiator::connect(two).await;
        assert_eq!(two.prove(DISCOVERY, RESPONSE).await, (0, 0));
        assert!(two.ask_for_targets().await.contains("TargetName=iqn.2026-01.test:disk\0"));
    });
}

#[test]
fn accounts_that_are_not_safe_beside_others_are_refused() {
    let invalid = |result: Result<_, ControlError>| match result {
        Err(ControlError::Invalid { field: "chap", reason }) => reason,
        other => panic!("{other:?}"),
    };
    let without = world();
    let exposed = without.control().expose(guarded("disk", access("host", "what the host knows", None)));
    assert!(invalid(exposed.map(drop)).contains("no randomness"));

    let world = stage();
    let control = world.control();
    let shows = |id| guarded(id, access("other", "what the other knows", Some("what the host knows")));
    assert!(invalid(control.expose(shows("other")).map(drop)).contains("also one of a target"));
    let guard = control.guard_discovery(access("other", "another secret", Some("what the host knows")));
    assert!(invalid(guard).contains("also one of a target"));
    let nobody = Account { initiator: Some("host".into()), ..account() };
    let nobody = Access::new(vec![nobody], Algorithms::ALL).expect("safe");
    assert!(invalid(control.expose(guarded("other", nobody)).map(drop)).contains("no iSCSI name"));

    // Once more the same is the same, and a target has one set of accounts.
    let same = guarded("disk", access("host", "what the host knows", None));
    assert!(control.expose(same.clone()).is_ok());
    let changed = guarded("disk", access("host", "what the host knew!", None));
    assert!(matches!(control.expose(changed), Err(ControlError::Conflict(_))));
    let unit = Exposure { id: "unit".into(), lun: 1, volume: "nbd://10.78.0.2:10810/u".into(), ..same };
    let open = Exposure { chap: None, ..unit.clone() };
    assert!(matches!(control.expose(open), Err(ControlError::Conflict(_))));
    assert!(control.expose(unit).is_ok());
    assert!(!format!("{:?}", control.list()).contains("knows"));
}

fn account() -> Account {
    Account { initiator: None, from_initiator: credentials("x", "a secret of x"), from_target: None }
}
