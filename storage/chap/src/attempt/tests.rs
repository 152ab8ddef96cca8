//! An initiator that types by hand: the order of things, and everything it can do wrong.

use super::*;
use crate::access::tests::{account, credentials};
use crate::hash::{Algorithms, Secret};

const KEY: [u8; 16] = [0x5a; 16];
const USER: &str = "host";
const SECRET: &str = "what the host knows";
const TARGET_SECRET: &str = "what the target knows";
const INITIATOR: &str = "iqn.2001-04.com.example:host";

fn access() -> Rc<Access> {
    let account = Account {
        from_target: Some(credentials("target", TARGET_SECRET)),
        ..account(Some(INITIATOR), USER, SECRET)
    };
    let one_way = crate::access::tests::account(None, "guest", "what the guest knows");
    Rc::new(Access::new(vec![account, one_way], Algorithms::ALL).unwrap())
}

fn attempt(seed: u8) -> Attempt {
    Attempt::new(access(), Nonce::new(&[seed; RANDOM], KEY))
}

fn algorithms(list: &str) -> Said<'_> {
    [Some(list), None, None, None, None]
}

fn bytes(text: &str) -> Vec<u8> {
    let mut place = [0; 2048];
    decode(text, &mut place).expect("bytes").to_vec()
}

fn hash(number: u8) -> Hash {
    [Hash::Md5, Hash::Sha1, Hash::Sha256, Hash::Sha3][usize::from(number) - 5]
}

/// Begin with an algorithm; the identifier and challenge that come back.
fn begin(attempt: &mut Attempt, number: u8) -> (u8, Vec<u8>) {
    match attempt.take(INITIATOR, &algorithms(&number.to_string())) {
        Ok(Answer::Challenge { algorithm, identifier, challenge }) => {
            assert_eq!(algorithm, number);
            (identifier, challenge.0.to_vec())
        }
        other => panic!("{other:?}"),
    }
}

fn respond(number: u8, identifier: u8, secret: &str, challenge: &[u8]) -> Vec<u8> {
    let hash = hash(number);
    hash.respond(identifier, Secret::new(secret).unwrap().bytes(), challenge)[..hash.length()].to_vec()
}

/// Begin, and answer as `secret` makes it.
fn prove(
    attempt: &mut Attempt,
    number: u8,
    initiator: &str,
    user: &str,
    secret: &str,
) -> Result<(), Failure> {
    let (identifier, challenge) = begin(attempt, number);
    let response = Hex(&respond(number, identifier, secret, &challenge)).to_string();
    attempt.take(initiator, &[None, None, None, Some(user), Some(&response)]).map(|answer| {
        assert_eq!(answer, Answer::Nothing);
    })
}

#[test]
fn each_algorithm_proves_the_initiator() {
    for number in 5..=8 {
        let mut attempt = attempt(1);
        assert_eq!(attempt.take(INITIATOR, &[None; 5]), Ok(Answer::Nothing), "it may be silent");
        assert_eq!(prove(&mut attempt, number, INITIATOR, USER, SECRET), Ok(()));
        assert!(attempt.is_proven());
    }
}

#[test]
fn each_algorithm_proves_the_target_once_the_initiator_has_proven_itself() {
    for number in 5..=8 {
        for encode in [|bytes: &[u8]| Hex(bytes).to_string(), base64] {
            let mut attempt = attempt(1);
            let (identifier, challenge) = begin(&mut attempt, number);
            let response = encode(&respond(number, identifier, SECRET, &challenge));
            let own: Vec<u8> = (0..1024).map(|at| at as u8).collect();
            let said = [None, Some("0x77"), Some(&*encode(&own)), Some(USER), Some(&*response)];
            let expected = respond(number, 0x77, TARGET_SECRET, &own);
            let proof = Answer::Proof { user: "target", response: Hex(&expected) };
            assert_eq!(attempt.take(INITIATOR, &said), Ok(proof));
            assert!(attempt.is_proven());
        }
    }
}

/// As an initiator may send it.
fn base64(bytes: &[u8]) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("0b");
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let shown = digit <= chunk.len();
            let value = (word >> (18 - 6 * digit) & 63) as usize;
            text.push(if shown { alphabet[value] as char } else { '=' });
        }
    }
    text
}

#[test]
fn wrong_secrets_users_and_initiators_are_all_refused_alike() {
    for (initiator, user, secret) in [
        (INITIATOR, USER, "what the host knew!"),
        (INITIATOR, USER, TARGET_SECRET),
        (INITIATOR, "nobody", SECRET),
        (INITIATOR, "Host", SECRET),
        (INITIATOR, "", SECRET),
        ("iqn.2001-04.com.example:other", USER, SECRET),
        (INITIATOR, "guest", SECRET),
        (INITIATOR, "target", TARGET_SECRET),
    ] {
        let mut attempt = attempt(1);
        let refused = prove(&mut attempt, 7, initiator, user, secret);
        assert_eq!(refused, Err(Failure::Authentication), "{initiator} {user}");
        assert!(!attempt.is_proven());
    }
}

#[test]
fn a_failed_attempt_stays_failed() {
    let mut attempt = attempt(1);
    let (identifier, challenge) = begin(&mut attempt, 7);
    let right = Hex(&respond(7, identifier, SECRET, &challenge)).to_string();
    let wrong = Hex(&respond(7, identifier, "wrong wrong wrong", &challenge)).to_string();
    let say = |response| [None, None, None, Some(USER), Some(response)];
    assert_eq!(attempt.take(INITIATOR, &say(&wrong)), Err(Failure::Authentication));
    assert_eq!(attempt.take(INITIATOR, &say(&right)), Err(Failure::Protocol));
    assert_eq!(attempt.take(INITIATOR, &algorithms("7")), Err(Failure::Protocol));
    assert!(!attempt.is_proven());
}

#[test]
fn a_response_to_another_challenge_is_worth_nothing() {
    let (mut before, mut now) = (attempt(1), attempt(2));
    let (identifier, challenge) = begin(&mut before, 5);
    let overheard = Hex(&respond(5, identifier, SECRET, &challenge)).to_string();
    let (other, fresh) = begin(&mut now, 5);
    assert_ne!((identifier, challenge), (other, fresh), "each attempt has its own");
    let said = [None, None, None, Some(USER), Some(&*overheard)];
    assert_eq!(now.take(INITIATOR, &said), Err(Failure::Authentication));
}

#[test]
fn no_challenge_of_ours_is_ever_answered() {
    // Its own, one that is outstanding on another connection, and one of long ago.
    let own = Nonce::new(&[1; RANDOM], KEY).challenge;
    let other = Nonce::new(&[2; RANDOM], KEY).challenge;
    let foreign = Nonce::new(&[2; RANDOM], [7; 16]).challenge;
    for (challenge, is_refused) in [(own, true), (other, true), (foreign, false)] {
        let mut attempt = attempt(1);
        let (identifier, ours) = begin(&mut attempt, 8);
        let response = Hex(&respond(8, identifier, SECRET, &ours)).to_string();
        let said = [None, Some("1"), Some(&*Hex(&challenge).to_string()), Some(USER), Some(&*response)];
        let answer = attempt.take(INITIATOR, &said);
        assert_eq!(answer == Err(Failure::Authentication), is_refused, "{answer:?}");
        assert_eq!(attempt.is_proven(), !is_refused);
    }
}

#[test]
fn a_target_without_a_secret_of_its_own_cannot_be_asked_for_a_proof() {
    let mut attempt = attempt(1);
    let (identifier, challenge) = begin(&mut attempt, 6);
    let response = Hex(&respond(6, identifier, "what the guest knows", &challenge)).to_string();
    let said = [None, Some("1"), Some("0x0102"), Some("guest"), Some(&*response)];
    assert_eq!(attempt.take(INITIATOR, &said), Err(Failure::Authentication));
}

#[test]
fn a_target_proves_nothing_to_who_has_not_proven_himself() {
    let mut attempt = attempt(1);
    begin(&mut attempt, 5);
    let said = [None, Some("1"), Some("0x0102"), Some(USER), Some("0x00112233445566778899aabbccddeeff")];
    assert_eq!(attempt.take(INITIATOR, &said), Err(Failure::Authentication));
    assert_eq!(attempt.response, [0; 32], "it was not even made");
}

#[test]
fn an_algorithm_that_is_not_allowed_or_not_known_ends_it() {
    for list in ["", "9", "1,2,3", "md5", "5;6", "+5"] {
        assert_eq!(attempt(1).take(INITIATOR, &algorithms(list)), Err(Failure::Authentication), "{list}");
    }
    let some = Access::new(access_list(), Algorithms::parse("sha3-256").unwrap()).unwrap();
    let mut attempt = Attempt::new(Rc::new(some), Nonce::new(&[1; RANDOM], KEY));
    assert_eq!(attempt.take(INITIATOR, &algorithms("5,6,7")), Err(Failure::Authentication));
}

fn access_list() -> Vec<Account> {
    vec![account(None, USER, SECRET)]
}

#[test]
fn keys_out_of_place_or_with_half_of_what_belongs_together_end_it() {
    let (a, i, c, n) = (Some("5"), Some("1"), Some("0x01"), Some(USER));
    let wrong_first: [(Said<'_>, Failure); 5] = [
        ([a, i, None, None, None], Failure::Protocol),
        ([None, i, c, None, None], Failure::Protocol),
        ([None, None, None, n, None], Failure::Protocol),
        ([a, None, None, n, Some("0x00")], Failure::Protocol),
        ([None, None, None, n, Some("0x00")], Failure::Protocol),
    ];
    for (said, failure) in wrong_first {
        assert_eq!(attempt(1).take(INITIATOR, &said), Err(failure), "{said:?}");
    }
    let mut right = attempt(1);
    let (identifier, challenge) = begin(&mut right, 5);
    let response = Hex(&respond(5, identifier, SECRET, &challenge)).to_string();
    let r = Some(response.as_str());
    for (said, failure) in [
        ([a, None, None, n, r], Failure::Protocol),
        ([None, None, None, n, None], Failure::Missing),
        ([None, None, None, None, r], Failure::Missing),
        ([None, i, None, n, r], Failure::Missing),
        ([None, None, c, n, r], Failure::Missing),
    ] {
        let mut attempt = attempt(1);
        begin(&mut attempt, 5);
        assert_eq!(attempt.take(INITIATOR, &said), Err(failure), "{said:?}");
        assert!(!attempt.is_proven());
    }
}

#[test]
fn binary_values_that_are_none_or_too_long_end_it() {
    let long = Hex(&[7; 1025]).to_string();
    let (right_identifier, right_challenge) = (Some("1"), Some("0x01"));
    for (identifier, challenge, response, failure) in [
        (None, None, Some("0x"), Failure::Protocol),
        (None, None, Some("0xzz"), Failure::Protocol),
        (None, None, Some("00112233"), Failure::Protocol),
        (None, None, Some("0b!"), Failure::Protocol),
        (None, None, Some(long.as_str()), Failure::Protocol),
        (None, None, Some("0x00"), Failure::Authentication),
        (right_identifier, Some("0x"), None, Failure::Protocol),
        (right_identifier, Some("0b===="), None, Failure::Protocol),
        (right_identifier, Some(long.as_str()), None, Failure::Protocol),
        (Some("256"), right_challenge, None, Failure::Protocol),
        (Some("-1"), right_challenge, None, Failure::Protocol),
        (Some(""), right_challenge, None, Failure::Protocol),
    ] {
        let mut attempt = attempt(1);
        let (id, ours) = begin(&mut attempt, 5);
        let right = Hex(&respond(5, id, SECRET, &ours)).to_string();
        let said = [None, identifier, challenge, Some(USER), response.or(Some(&right))];
        assert_eq!(attempt.take(INITIATOR, &said), Err(failure), "{said:?}");
        assert!(!attempt.is_proven());
    }
}

#[test]
fn nothing_of_an_attempt_is_shown() {
    let attempt = attempt(0xab);
    let shown = format!("{attempt:?}");
    assert!(!shown.contains("171") && !shown.contains("knows"), "{shown}");
}

#[test]
fn no_values_make_it_panic() {
    let pieces = ["0x", "0b", "5", ",", "=", "é", "AAAA", "ff", USER, "7"];
    let mut seed = 1_u64;
    let mut next = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for _ in 0..20_000 {
        let mut attempt = attempt(1);
        if next(2) == 0 {
            begin(&mut attempt, 5);
        }
        let texts: Vec<String> =
            (0..5).map(|_| (0..next(6)).map(|_| pieces[next(pieces.len())]).collect()).collect();
        let said: Said<'_> = core::array::from_fn(|at| (next(3) > 0).then(|| texts[at].as_str()));
        let _answered = attempt.take(INITIATOR, &said).is_ok();
        assert!(!attempt.is_proven());
    }
    assert_eq!(bytes("0x0102"), [1, 2]);
}
