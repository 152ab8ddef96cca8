//! Logging in where something has to be proven: when it goes through, when not, and who hears of it.

use super::bench::{Bench, DISCOVERY, NORMAL};
use crate::chap::{Access, Account, Algorithms, Credentials, Nonce, RANDOM, Secret};
use crate::wire::text::pairs;
use crate::wire::{LoginRequest, ScsiCommand};
use crate::{Admission, Event, Limits, Status};
use std::rc::Rc;

const USER: &str = "host";
/// To the challenge of [`ask`]'s nonce, made by OpenSSL of the secret "what the host knows".
const RESPONSES: [(u8, &str); 4] = [
    (5, "0xb5fa07ed994506488caa685889c3ec03"),
    (6, "0x7b2dc102599c053abbd899e8a6a08e20979588e7"),
    (7, "0x90bc308a8cb1d94c2f5b4d41236b50ebd8f8cf4d7cae3115af2c70ccbba9eb5e"),
    (8, "0xb8ab2378d598ce60ba22383258fc094bbbcd2590574e2b8bff739649d103489d"),
];
/// To identifier 119 and challenge 0x0102, of "what the target knows".
const PROOFS: [(u8, &str); 4] = [
    (5, "0x7ee7c34771579ca3ccfcc181a1282215"),
    (6, "0x575de21b8031093c478a99824a2c0c6e11f57bfb"),
    (7, "0x24ab6a1bc2216f3015d13aa7a5a3cba756841927902b947a59c1f236252e323a"),
    (8, "0x108cca11bc43cef2e526219a42526adc152ec5261d7307794402b315bd07e426"),
];
/// Ours: sixteen bytes of 0x33, and their mark under a key of 0x5a.
const CHALLENGE: &str = "0x333333333333333333333333333333333f46914bf537d462";

fn access() -> Rc<Access> {
    let credentials =
        |user: &str, secret| Credentials { user: user.into(), secret: Secret::new(secret).unwrap() };
    let account = Account {
        initiator: Some("iqn.2001-04.com.example:host".into()),
        from_initiator: credentials(USER, "what the host knows"),
        from_target: Some(credentials("disk", "what the target knows")),
    };
    Rc::new(Access::new(vec![account], Algorithms::ALL).unwrap())
}

fn bench() -> Bench {
    Bench::new(&Limits::default())
}

impl Bench {
    /// The layer above wants a proof.
    fn ask(&mut self) {
        self.announced();
        let access = access();
        assert!(!self.connection.has_proven(&access));
        let nonce = Nonce::new(&[0x33; RANDOM], [0x5a; 16]);
        self.connection.admit(Admission::Authenticate { access: &access, nonce, portal_group_tag: 1 });
    }

    /// Up to the challenge.
    fn challenged(&mut self, number: u8) {
        self.say(self.login_request(0, None), &format!("{NORMAL}AuthMethod=CHAP,None\0"));
        self.ask();
        let (response, text) = self.hear_login();
        assert_eq!((response.transit, response.current_stage), (false, 0));
        assert_eq!(text, "TargetPortalGroupTag=1\0AuthMethod=CHAP\0");
        self.say(self.login_request(0, None), &format!("CHAP_A={number}\0"));
        let (response, text) = self.hear_login();
        assert!(!response.transit);
        assert_eq!(text, format!("CHAP_A={number}\0CHAP_I=51\0CHAP_C={CHALLENGE}\0"));
        self.no_event();
    }

    fn prove(&mut self, next: Option<u8>, response: &str, more: &str) {
        self.say(self.login_request(0, next), &format!("CHAP_N={USER}\0CHAP_R={response}\0{more}"));
    }
}

#[test]
fn an_initiator_proves_itself_with_each_algorithm_and_only_then_is_it_admitted() {
    for (number, response) in RESPONSES {
        let mut bench = bench();
        bench.challenged(number);
        bench.prove(Some(1), response, "");
        bench.silence();
        bench.announced();
        bench.accept();
        let (response, text) = bench.hear_login();
        assert_eq!((response.transit, response.next_stage, text.as_str()), (true, 1, ""));
        bench.say(bench.login_request(1, Some(3)), "MaxBurstLength=65536\0");
        let (response, text) = bench.hear_login();
        assert_eq!((response.status_class, response.tsih), (0, 7));
        assert!(text.starts_with("MaxBurstLength=65536\0"));
        assert!(matches!(bench.connection.poll_event(), Some(Event::LoggedIn)));
    }
}

#[test]
fn a_target_proves_itself_with_each_algorithm_when_it_is_asked_to() {
    for ((number, response), (_, proof)) in RESPONSES.into_iter().zip(PROOFS) {
        let mut bench = bench();
        bench.challenged(number);
        bench.prove(Some(3), response, "CHAP_I=119\0CHAP_C=0x0102\0");
        bench.announced();
        bench.accept();
        let (response, text) = bench.hear_login();
        assert_eq!((response.transit, response.next_stage, response.tsih), (true, 3, 7));
        assert_eq!(text, format!("CHAP_N=disk\0CHAP_R={proof}\0"));
        assert!(matches!(bench.connection.poll_event(), Some(Event::LoggedIn)));
    }
}

#[test]
fn an_initiator_may_ask_to_go_on_before_it_may_and_prove_itself_in_its_own_time() {
    let mut bench = bench();
    bench.say(bench.login_request(0, Some(1)), &format!("{NORMAL}AuthMethod=CHAP\0"));
    bench.ask();
    assert!(!bench.hear_login().0.transit, "not yet");
    bench.say(bench.login_request(0, Some(1)), "");
    assert!(!bench.hear_login().0.transit, "nor now");
    bench.say(bench.login_request(0, Some(1)), "CHAP_A=7\0");
    assert!(!bench.hear_login().0.transit);
    bench.prove(None, RESPONSES[2].1, "");
    bench.announced();
    bench.accept();
    assert!(!bench.hear_login().0.transit, "it did not ask to");
    bench.say(bench.login_request(0, Some(3)), "");
    assert!(bench.hear_login().0.transit);
}

#[test]
fn a_login_that_leaves_out_the_proof_is_refused() {
    for (stage, next, text) in [
        (1, Some(3), ""),
        (1, None, ""),
        (0, Some(1), ""),
        (0, Some(3), ""),
        (0, Some(1), "AuthMethod=None\0"),
        (0, None, "AuthMethod=None\0"),
        (0, Some(3), "AuthMethod=KRB5,SRP\0"),
    ] {
        let mut bench = bench();
        bench.say(bench.login_request(stage, next), &format!("{NORMAL}{text}"));
        bench.ask();
        bench.hear_refusal(2, 1);
    }
    // The same, after the security stage was begun in silence.
    let mut bench = bench();
    bench.say(bench.login_request(0, None), NORMAL);
    bench.ask();
    assert!(!bench.hear_login().0.transit);
    bench.say(bench.login_request(0, Some(3)), "");
    bench.hear_refusal(2, 1);
}

#[test]
fn chap_alone_where_nothing_is_to_be_proven_is_refused() {
    let mut bench = bench();
    bench.say(bench.login_request(0, Some(1)), &format!("{NORMAL}AuthMethod=CHAP\0"));
    bench.announced();
    bench.accept();
    bench.hear_refusal(2, 1);
    // And its keys mean nothing there.
    let mut bench = self::bench();
    bench.say(bench.login_request(0, None), &format!("{NORMAL}AuthMethod=None\0CHAP_A=5\0"));
    bench.announced();
    bench.accept();
    assert!(bench.hear_login().1.ends_with("AuthMethod=None\0CHAP_A=Reject\0"));
}

#[test]
fn whatever_goes_wrong_ends_the_login_with_its_status_and_nobody_is_announced() {
    let right = RESPONSES[2].1;
    let long = format!("0x{}", "00".repeat(1025));
    let own = format!("CHAP_N={USER}\0CHAP_R={right}\0CHAP_I=1\0CHAP_C={CHALLENGE}\0");
    for (text, class, detail) in [
        (format!("CHAP_N={USER}\0CHAP_R=0x{}\0", "11".repeat(32)), 2, 1),
        (format!("CHAP_N=other\0CHAP_R={right}\0"), 2, 1),
        (format!("CHAP_N={USER}\0CHAP_R={}\0", RESPONSES[3].1), 2, 1),
        (format!("CHAP_N={USER}\0CHAP_R={}\0", &right[..64]), 2, 1),
        (own, 2, 1),
        (format!("CHAP_N={USER}\0CHAP_R={}\0", &right[2..]), 2, 0),
        (format!("CHAP_N={USER}\0CHAP_R=0xqq\0"), 2, 0),
        (format!("CHAP_N={USER}\0CHAP_R=0b====\0"), 2, 0),
        (format!("CHAP_N={USER}\0CHAP_R={long}\0"), 2, 0),
        (format!("CHAP_N={USER}\0CHAP_R={right}\0CHAP_R={right}\0"), 2, 0),
        (format!("CHAP_N={USER}\0CHAP_R={right}\0CHAP_I=1\0CHAP_C={long}\0"), 2, 0),
        (format!("CHAP_N={USER}\0CHAP_R={right}\0CHAP_I=256\0CHAP_C=0x00\0"), 2, 0),
        (format!("CHAP_N={USER}\0CHAP_R={right}\0CHAP_C=0x00\0"), 2, 7),
        (format!("CHAP_N={USER}\0CHAP_R={right}\0CHAP_I=1\0"), 2, 7),
        (format!("CHAP_N={USER}\0"), 2, 7),
        (format!("CHAP_R={right}\0"), 2, 7),
        ("CHAP_A=7\0".to_string(), 2, 0),
        ("AuthMethod=CHAP\0".to_string(), 2, 0),
    ] {
        let mut bench = bench();
        bench.challenged(7);
        bench.say(bench.login_request(0, Some(1)), &text);
        bench.hear_refusal(class, detail);
        assert_eq!(bench.connection.refusal().map(|status| status.detail), Some(detail));
    }
}

#[test]
fn keys_before_their_time_end_the_login() {
    for (text, class, detail) in [
        ("CHAP_A=9\0", 2, 1),
        ("CHAP_A=\0", 2, 1),
        ("CHAP_A=7\0CHAP_A=7\0", 2, 0),
        ("CHAP_A=7\0CHAP_N=host\0", 2, 0),
        ("CHAP_N=host\0CHAP_R=0x00\0", 2, 0),
        ("CHAP_I=1\0CHAP_C=0x00\0", 2, 0),
    ] {
        let mut bench = bench();
        bench.say(bench.login_request(0, None), &format!("{NORMAL}AuthMethod=CHAP\0"));
        bench.ask();
        bench.hear_login();
        bench.say(bench.login_request(0, None), text);
        bench.hear_refusal(class, detail);
    }
    // Before the method was chosen.
    let mut bench = bench();
    bench.say(bench.login_request(0, None), &format!("{NORMAL}CHAP_A=7\0"));
    bench.ask();
    bench.hear_refusal(2, 0);
}

#[test]
fn who_has_proven_itself_may_still_be_refused_and_is_not_asked_twice() {
    let mut bench = bench();
    bench.challenged(7);
    bench.prove(Some(1), RESPONSES[2].1, "CHAP_I=119\0CHAP_C=0x0102\0");
    bench.announced();
    bench.connection.admit(Admission::Refuse(Status::OUT_OF_RESOURCES));
    bench.hear_refusal(3, 2);

    let mut bench = self::bench();
    bench.challenged(7);
    bench.prove(Some(1), RESPONSES[2].1, "");
    bench.ask_again();
    bench.hear_refusal(3, 0);
}

impl Bench {
    fn ask_again(&mut self) {
        self.announced();
        let access = access();
        let nonce = Nonce::new(&[1; RANDOM], [2; 16]);
        self.connection.admit(Admission::Authenticate { access: &access, nonce, portal_group_tag: 1 });
    }
}

#[test]
fn a_refusal_says_nothing_of_a_proof_that_was_made() {
    let mut bench = bench();
    bench.challenged(7);
    bench.prove(Some(1), RESPONSES[2].1, "CHAP_I=119\0CHAP_C=0x0102\0");
    bench.announced();
    bench.connection.admit(Admission::Refuse(Status::NOT_FOUND));
    let (response, text) = bench.hear_login();
    assert_eq!((response.status_class, response.status_detail, text.as_str()), (2, 3, ""));
}

#[test]
fn a_proof_comes_in_pieces_cut_anywhere() {
    let whole = format!("CHAP_N={USER}\0CHAP_R={}\0CHAP_I=119\0CHAP_C=0x0102\0", RESPONSES[3].1);
    for cut in 1..whole.len() {
        let mut bench = bench();
        bench.challenged(8);
        let first = LoginRequest { to_be_continued: true, ..bench.login_request(0, None) };
        bench.say(first, &whole[..cut]);
        assert_eq!(bench.hear_login().1, "");
        bench.no_event();
        bench.say(bench.login_request(0, Some(1)), &whole[cut..]);
        bench.announced();
        bench.accept();
        let (response, text) = bench.hear_login();
        assert!(response.transit);
        assert_eq!(pairs(text.as_bytes()).count(), 2);
    }
}

#[test]
fn nothing_but_a_login_is_legal_before_the_proof() {
    let mut bench = bench();
    bench.challenged(5);
    let command = ScsiCommand::default().header();
    bench.send(command, &[]);
    bench.hear_refusal(2, 11);
}

#[test]
fn discovery_may_want_a_proof_as_well() {
    let mut bench = bench();
    bench.say(bench.login_request(0, None), &format!("{DISCOVERY}AuthMethod=CHAP,None\0"));
    bench.ask();
    assert_eq!(bench.hear_login().1, "TargetPortalGroupTag=1\0AuthMethod=CHAP\0");
    bench.say(bench.login_request(0, None), "CHAP_A=5\0");
    bench.hear_login();
    bench.prove(Some(1), RESPONSES[0].1, "");
    bench.announced();
    bench.accept();
    assert!(bench.hear_login().0.transit);
}

#[test]
fn the_operational_stage_knows_no_chap() {
    let mut bench = bench();
    bench.challenged(5);
    bench.prove(Some(1), RESPONSES[0].1, "");
    bench.announced();
    bench.accept();
    bench.hear_login();
    bench.say(bench.login_request(1, None), "CHAP_A=5\0CHAP_R=0x00\0");
    let (_, text) = bench.hear_login();
    assert!(text.starts_with("CHAP_A=Reject\0CHAP_R=Reject\0"), "{text}");
}

#[test]
fn a_connection_that_failed_begins_anew_only_as_a_new_one() {
    let mut bench = bench();
    bench.challenged(5);
    bench.prove(Some(1), RESPONSES[1].1, "");
    bench.hear_refusal(2, 1);
    bench.connection.reset(bench.now);
    assert_eq!(bench.connection.refusal(), None);
    bench.challenged(6);
    bench.prove(Some(1), RESPONSES[1].1, "");
    bench.announced();
}

#[test]
fn what_was_proven_was_proven_to_these_accounts_only() {
    let mut bench = bench();
    bench.say(bench.login_request(0, None), &format!("{NORMAL}AuthMethod=CHAP\0"));
    bench.announced();
    let (asked, other) = (access(), access());
    let nonce = Nonce::new(&[0x33; RANDOM], [0x5a; 16]);
    bench.connection.admit(Admission::Authenticate { access: &asked, nonce, portal_group_tag: 1 });
    bench.hear_login();
    bench.say(bench.login_request(0, None), "CHAP_A=7\0");
    bench.hear_login();
    assert!(!bench.connection.has_proven(&asked));
    bench.prove(Some(1), RESPONSES[2].1, "");
    bench.announced();
    assert!(bench.connection.has_proven(&asked) && !bench.connection.has_proven(&other));
}

#[test]
fn no_guess_makes_it_panic_or_lets_anybody_in() {
    let keys = ["CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R", "AuthMethod", "CHAP_X", "InitiatorAlias"];
    let values =
        ["7", "5,6,7,8", "CHAP", "None", USER, "0x", "0x00", "0bAAAA", CHALLENGE, "256", "", "Reject"];
    let mut seed = 1_u64;
    let mut below = move |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % bound
    };
    for round in 0..3000 {
        let mut bench = bench();
        let method = if below(4) > 0 { "AuthMethod=CHAP\0" } else { "" };
        bench.say(bench.login_request(0, None), &format!("{NORMAL}{method}"));
        bench.ask();
        bench.hear();
        for _ in 0..below(6) {
            let text: String = (0..1 + below(5))
                .map(|_| format!("{}={}\0", keys[below(keys.len())], values[below(values.len())]))
                .collect();
            let next = [None, Some(1), Some(3)][below(3)];
            let request = LoginRequest { to_be_continued: below(8) == 0, ..bench.login_request(0, next) };
            if bench.try_send(request.header(), text.as_bytes()).is_err() || bench.try_hear().is_none() {
                break;
            }
            let event = bench.connection.poll_event();
            assert!(matches!(event, None | Some(Event::Close)), "{round}: {text:?} {event:?}");
        }
        assert!(bench.connection.state().is_before_full_feature() || bench.connection.refusal().is_some());
    }
}

#[test]
fn nothing_of_a_secret_shows_in_a_connection() {
    let mut bench = bench();
    bench.challenged(5);
    assert!(!format!("{:?}", bench.connection).contains("knows"));
}
