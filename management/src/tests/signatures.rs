//! Signed requests: the form that RFC 9421 gives, by peers that are not ours, and what is no signature of a request.

use super::desk::*;
use super::door::{VM, lock};
use crate::door::Caller;
use crate::*;
use kernel_runtime::{Day, Instant};
use management_api::signature::{Signature, Terms, Unsigned};
use management_http::Method;
use network_tls::{Pin, PublicKey, Signer};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;
use tests_pki::{Authority, Issued, Kind as KeyKind, Leaf, NOW, crypto};

const BODY: &str = r#"{"verb":"terminate"}"#;
const PATH: &str = "/v1/instances/web-1/commands";

/// A desk behind a lock, and a caller with a key of this kind.
pub(super) fn world(required: bool, kind: KeyKind) -> (Desk, Caller, Issued) {
    let authority = Authority::new("provider", KeyKind::P256);
    let own = authority.issue(&Leaf::server(&["appliance.example"]));
    let lock = Lock { signatures: required, day: Some(Day::new(NOW - 5, Instant::ZERO)), ..lock(&authority) };
    let door = Door::locked(lock, vec![own.der], own.key).unwrap();
    let mut desk = Desk::with(Configuration { door, ..configuration(Some("10.0.0.1:7077")) });
    // What is signed in its first seconds may have been taken by the run before.
    desk.wait(Duration::from_secs(5));
    let issued = authority.issue(&Leaf { names: &[VM], kind, ..Leaf::client() });
    let spki = network_tls::Leaf::parse(&issued.der).unwrap().spki.to_vec();
    let caller = Caller { principal: Principal::Service(Service::Vm, Pin::of(&spki)), key: spki };
    (desk, caller, issued)
}

/// What becomes of a request with these fields in its head: the name of the problem, or that it is taken.
fn said(desk: &Desk, caller: &Caller, line: &str, fields: &str, body: &str) -> String {
    let text = format!(
        "{line} HTTP/1.1\r\nHost: appliance.example\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    with_request(text.as_bytes(), |request| match desk.management.receive(request, caller) {
        Step::Answer(response) => {
            let document: Value = serde_json::from_slice(&response.body).unwrap();
            let name = document["type"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
            format!("{name}: {}", document["detail"].as_str().unwrap())
        }
        _ => "taken".into(),
    })
}

/// Terms that are good, with a nonce of this number.
fn terms<'a>(signer: &'a Signer, keyid: &'a str, nonce: &'a str) -> Terms<'a> {
    Terms { created: NOW, expires: NOW + 120, nonce, keyid, alg: signer.algorithm() }
}

#[test]
fn every_kind_of_key_signs_once_and_what_was_changed_is_no_signature() {
    for kind in [KeyKind::P256, KeyKind::P384, KeyKind::Ed25519, KeyKind::Rsa] {
        let (mut desk, caller, issued) = world(true, kind);
        let line = format!("POST {PATH}");
        assert!(said(&desk, &caller, &line, "", BODY).starts_with("signature-required"), "{kind:?}");
        let signer = Signer::new(crypto(), &issued.identity()).unwrap();
        let keyid = signer.pin().to_string();
        let sign = |method, target: &str, body: Option<&str>, terms: &Terms<'_>| {
            let unsigned = Unsigned::new(method, target, body.map(str::as_bytes), terms);
            let signature = signer.sign(unsigned.base.as_bytes()).unwrap();
            unsigned.signed(&signature)
        };
        let good = sign(Method::Post, PATH, Some(BODY), &terms(&signer, &keyid, "one"));
        let changed = [
            (line.as_str(), r#"{"verb":"start"}"#, "another body"),
            ("POST /v1/instances/web-2/commands", BODY, "not one of this request"),
            ("PUT /v1/instances/web-1/commands", BODY, "not one of this request"),
            ("POST /v1/instances/web-1/commands?dry_run=true", BODY, "does not cover @path and @query"),
        ];
        for (line, body, why) in changed {
            let told = said(&desk, &caller, line, &good, body);
            assert!(told.starts_with("signature-invalid") && told.contains(why), "{kind:?} {line}: {told}");
        }
        assert_eq!(said(&desk, &caller, &line, &good, BODY), "taken", "{kind:?}");
        let again = said(&desk, &caller, &line, &good, BODY);
        assert!(again.contains("the nonce was used before"), "{kind:?}: {again}");
        let fresh = sign(Method::Post, PATH, Some(BODY), &terms(&signer, &keyid, "two"));
        assert_eq!(said(&desk, &caller, &line, &fresh, BODY), "taken");
        let asked = format!("{PATH}?dry_run=true");
        let fresh = sign(Method::Post, &asked, Some(BODY), &terms(&signer, &keyid, "three"));
        assert_eq!(said(&desk, &caller, &format!("POST {asked}"), &fresh, BODY), "taken");
        let none = sign(Method::Delete, "/v1/targets/a", None, &terms(&signer, &keyid, "four"));
        let told = said(&desk, &caller, "DELETE /v1/targets/a", &none, "");
        assert!(
            told.starts_with("forbidden"),
            "the signature is good, and disks are not its business: {told}"
        );
        let good = sign(Method::Post, PATH, Some(BODY), &terms(&signer, &keyid, "five"));
        let (other, _, _) = world(true, kind);
        let stranger =
            Caller { key: caller.key.clone(), principal: Principal::Service(Service::Vm, Pin([7; 32])) };
        assert!(said(&other, &stranger, &line, &good, BODY).contains("keyid is not"));
        desk.wait(Duration::from_secs(121));
        assert!(said(&desk, &caller, &line, &good, BODY).contains("has expired"));
    }
}

#[test]
fn a_signature_says_when_it_was_made_until_when_it_is_good_and_by_which_key() {
    let (desk, caller, issued) = world(false, KeyKind::P256);
    let line = format!("POST {PATH}");
    assert_eq!(said(&desk, &caller, &line, "", BODY), "taken", "where it is optional");
    let signer = Signer::new(crypto(), &issued.identity()).unwrap();
    let keyid = signer.pin().to_string();
    let good = terms(&signer, &keyid, "n");
    let sign = |terms: &Terms<'_>| {
        let unsigned = Unsigned::new(Method::Post, PATH, Some(BODY.as_bytes()), terms);
        let signature = signer.sign(unsigned.base.as_bytes()).unwrap();
        unsigned.signed(&signature)
    };
    let wrong_key = Pin([1; 32]).to_string();
    for (terms, why) in [
        (Terms { created: NOW - 1, ..good }, "before the appliance started"),
        (Terms { created: NOW + 6, expires: NOW + 100, ..good }, "in the future"),
        (Terms { expires: NOW, ..good }, "has expired"),
        (Terms { expires: NOW + 301, ..good }, "more than 300 seconds"),
        (Terms { keyid: &wrong_key, ..good }, "keyid is not"),
        (Terms { alg: "hmac-sha256", ..good }, "alg is not"),
    ] {
        let told = said(&desk, &caller, &line, &sign(&terms), BODY);
        assert!(told.starts_with("signature-invalid") && told.contains(why), "{told}");
    }
    let whole = sign(&good);
    for (from, to, why) in [
        ("Signature: sig1", "Signature: other", "differ in their label"),
        ("\"content-digest\"", "\"content-type\"", "does not cover content-digest"),
        ("(\"@method\" ", "(", "does not cover @method"),
        ("\"@path\" ", "", "does not cover @path"),
        (";nonce=\"n\"", "", "lacks created, expires or nonce"),
        (";nonce=\"n\"", ";nonce=\"m\"", "not one of this request"),
        (";nonce=\"n\"", ";nonce=\"n\";tag=\"x\"", "not known here"),
        (";nonce=\"n\"", ";nonce=\"n\";nonce=\"n\"", "malformed"),
        ("\"@path\"", "\"@path\" \"@path\"", "one thing twice"),
        ("\"@path\"", "\"@path\" \"x-not-there\"", "does not have"),
        ("\"@path\"", "\"@path\";req", "malformed"),
        ("Signature: sig1=:", "Signature: sig1=:!", "malformed"),
        ("Signature: sig1=", "Signature: sig1=:AAAA:\r\nSignature: sig1=", "stands twice"),
        ("sha-256=", "md5=", "neither sha-256 nor sha-512"),
        ("sha-256=:", "sha-256=:AAAA", "another body"),
    ] {
        assert!(whole.contains(from), "{from}");
        let told = said(&desk, &caller, &line, &whole.replacen(from, to, 1), BODY);
        assert!(told.starts_with("signature-invalid") && told.contains(why), "{from} {to}: {told}");
    }
    let told = said(&desk, &caller, &line, &format!("If-Match: \"1\"\r\n{whole}"), BODY);
    assert!(told.contains("does not cover if-match"), "{told}");
    let half =
        whole.lines().filter(|field| !field.starts_with("Signature:")).map(|field| format!("{field}\r\n"));
    assert!(said(&desk, &caller, &line, &half.collect::<String>(), BODY).contains("go together"));
    let mut figures = String::new();
    desk.management.refusals.denied_figures(&mut figures);
    let denied = "corbel_api_denied_total{principal=\"svc/vm\",reason=\"signature-invalid\"} 23\n";
    assert!(figures.contains(denied), "each counts: {figures}");
    assert_eq!(
        said(&desk, &caller, &line, &whole, BODY),
        "taken",
        "and the nonce is spent by the good one only"
    );
}

#[test]
fn an_appliance_without_a_clock_says_so_to_whoever_signs() {
    let (_, caller, issued) = world(false, KeyKind::P256);
    let lock = Lock { day: None, ..lock(&Authority::new("provider", KeyKind::P256)) };
    let own = Authority::new("own", KeyKind::P256).issue(&Leaf::server(&["appliance.example"]));
    let door = Door::locked(lock, vec![own.der], own.key).unwrap();
    let desk = Desk::with(Configuration { door, ..configuration(Some("10.0.0.1:7077")) });
    let signer = Signer::new(crypto(), &issued.identity()).unwrap();
    let keyid = signer.pin().to_string();
    let unsigned = Unsigned::new(Method::Post, PATH, Some(BODY.as_bytes()), &terms(&signer, &keyid, "n"));
    let signature = signer.sign(unsigned.base.as_bytes()).unwrap();
    let line = format!("POST {PATH}");
    let told = said(&desk, &caller, &line, &unsigned.signed(&signature), BODY);
    assert!(told.starts_with("clock-unknown"), "{told}");
    assert_eq!(said(&desk, &caller, &line, "", BODY), "taken");
}

#[test]
fn nonces_are_remembered_until_they_expire_and_no_longer_than_there_is_room() {
    let (mut desk, caller, issued) = world(true, KeyKind::Ed25519);
    let signer = Signer::new(crypto(), &issued.identity()).unwrap();
    let keyid = signer.pin().to_string();
    let send = |desk: &Desk, nonce: &str, created: u64| {
        let terms = Terms { created, expires: created + 60, ..terms(&signer, &keyid, nonce) };
        let unsigned = Unsigned::new(Method::Post, "/v1/nothing", Some(b"{}"), &terms);
        let signature = signer.sign(unsigned.base.as_bytes()).unwrap();
        said(desk, &caller, "POST /v1/nothing", &unsigned.signed(&signature), "{}")
    };
    for number in 0..256 {
        let told = send(&desk, &format!("n{number}"), NOW);
        assert!(told.starts_with("not-found"), "{told}");
    }
    assert!(send(&desk, "more", NOW).starts_with("too-busy"));
    // Another service has places of its own. (The keys are the same here; what they sign is not.)
    let net = Caller { principal: Principal::Service(Service::Net, signer.pin()), key: caller.key.clone() };
    let unsigned = Unsigned::new(Method::Post, "/v1/nothing", Some(b"{}"), &terms(&signer, &keyid, "more"));
    let signature = signer.sign(unsigned.base.as_bytes()).unwrap();
    let signed = unsigned.signed(&signature);
    assert!(said(&desk, &net, "POST /v1/nothing", &signed, "{}").starts_with("not-found"));
    desk.wait(Duration::from_secs(61));
    assert!(send(&desk, "again", NOW + 61).starts_with("not-found"));
}

/// What `openssl` makes of its standard input.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("this test needs openssl (Debian: openssl)");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    output.stdout
}

/// Two numbers of 32 bytes, of the DER of an ECDSA signature.
fn fixed(der: &[u8]) -> Vec<u8> {
    let (mut rest, mut out) = (&der[2..], Vec::new());
    while let [2, length, number @ ..] = rest {
        let (number, behind) = number.split_at((*length).into());
        let digits = &number[number.iter().take_while(|byte| **byte == 0).count()..];
        out.extend(vec![0; 32 - digits.len()]);
        out.extend(digits);
        rest = behind;
    }
    out
}

#[test]
fn a_request_that_openssl_has_signed_is_taken_and_openssl_verifies_ours() {
    let (desk, caller, issued) = world(true, KeyKind::P256);
    let folder = std::env::temp_dir().join(format!("corbel-signed-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (key, public) = (folder.join("key.pem"), folder.join("public.pem"));
    std::fs::write(&key, network_tls::pem("PRIVATE KEY", &issued.key)).unwrap();
    std::fs::write(&public, network_tls::pem("PUBLIC KEY", &caller.key)).unwrap();
    // Put together by hand, from the text of RFC 9421 section 2.5 and not by our code.
    let digest = openssl(&["dgst", "-sha256", "-binary"], BODY.as_bytes());
    let digest = String::from_utf8(openssl(&["base64", "-A"], &digest)).unwrap();
    let pin = Pin::of(&caller.key);
    let parameters = format!(
        "(\"@method\" \"@target-uri\" \"content-digest\");created={NOW};expires={};nonce=\"by-hand\";keyid=\"{pin}\"",
        NOW + 60
    );
    let base = format!(
        "\"@method\": POST\n\"@target-uri\": https://appliance.example{PATH}\n\"content-digest\": sha-256=:{digest}:\n\
         \"@signature-params\": {parameters}"
    );
    let signature = openssl(&["dgst", "-sha256", "-sign", key.to_str().unwrap()], base.as_bytes());
    let signature = String::from_utf8(openssl(&["base64", "-A"], &fixed(&signature))).unwrap();
    let fields = format!(
        "Content-Digest: sha-256=:{digest}:\r\nSignature-Input: mine={parameters}\r\nSignature: mine=:{signature}:\r\n"
    );
    assert_eq!(said(&desk, &caller, &format!("POST {PATH}"), &fields, BODY), "taken");

    let signer = Signer::new(crypto(), &issued.identity()).unwrap();
    let keyid = signer.pin().to_string();
    assert_eq!(keyid, pin.to_string());
    let unsigned = Unsigned::new(Method::Post, PATH, Some(BODY.as_bytes()), &terms(&signer, &keyid, "ours"));
    let ours = signer.sign(unsigned.base.as_bytes()).unwrap();
    let number = |half: &[u8]| {
        let mut number = half.to_vec();
        while number.len() > 1 && number[0] == 0 {
            number.remove(0);
        }
        if number[0] & 0x80 != 0 {
            number.insert(0, 0);
        }
        [vec![2, number.len() as u8], number].concat()
    };
    let inner = [number(&ours[..32]), number(&ours[32..])].concat();
    std::fs::write(folder.join("signature"), [vec![0x30, inner.len() as u8], inner].concat()).unwrap();
    let signature = folder.join("signature");
    let verify =
        ["dgst", "-sha256", "-verify", public.to_str().unwrap(), "-signature", signature.to_str().unwrap()];
    assert_eq!(openssl(&verify, unsigned.base.as_bytes()), b"Verified OK\n");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_vectors_of_the_standards_are_read_as_they_are_meant() {
    // RFC 9421, appendix B.2.6, with the key test-key-ed25519 of B.1.4 and the request of B.2.
    let text = "POST /foo?param=Value&Pet=dog HTTP/1.1\r\nHost: example.com\r\nDate: Tue, 20 Apr 2021 02:07:55 GMT\r\n\
        Content-Type: application/json\r\n\
        Content-Digest: sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:\r\n\
        Content-Length: 18\r\n\
        Signature-Input: sig-b26=(\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\");\
        created=1618884473;keyid=\"test-key-ed25519\"\r\n\
        Signature: sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:\r\n\
        \r\n{\"hello\": \"world\"}";
    let spki =
        openssl(&["base64", "-d", "-A"], b"MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=");
    let key = PublicKey::parse(&spki).unwrap();
    assert_eq!(key.algorithm(), "ed25519");
    with_request(text.as_bytes(), |request| {
        let found = Signature::of(request).unwrap().unwrap();
        assert_eq!(
            (found.created, found.keyid, found.nonce),
            (Some(1_618_884_473), Some("test-key-ed25519"), None)
        );
        assert!(key.verifies(found.base.as_bytes(), &found.signature), "{}", found.base);
        assert!(!key.verifies(found.base.replace("POST", "PUT").as_bytes(), &found.signature));
        assert_eq!(
            found.covers(request),
            Err("the signature does not cover @path and @query, nor @target-uri")
        );
    });
    // RFC 9530, appendix A, by a signature that covers it; that it is none does not matter here.
    let text = text.replace("\"date\"", "\"@query\" \"content-digest\"");
    with_request(text.as_bytes(), |request| {
        assert_eq!(Signature::of(request).unwrap().unwrap().covers(request), Ok(()));
    });
    let text = text.replace("world", "worlt");
    with_request(text.as_bytes(), |request| {
        let found = Signature::of(request).unwrap().unwrap();
        assert_eq!(found.covers(request), Err("Content-Digest is that of another body"));
    });
}
