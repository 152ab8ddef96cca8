//! Keys made here, what is written about them, and peers that are known by nothing else.

use super::*;
use crate::{Algorithm, Leaf as Words, Name, Pin, PrivateKey};
use std::io::Write as _;
use std::process::{Command, Stdio};

const ALGORITHMS: [Algorithm; 2] = [Algorithm::P256, Algorithm::Ed25519];

fn key(algorithm: Algorithm) -> PrivateKey {
    PrivateKey::generate(crypto(), algorithm).unwrap()
}

/// A client and a server that believe these pins.
fn link(client: &PrivateKey, server: &PrivateKey, of_server: Pin, of_client: Pin) -> Pair {
    let ours = ClientConfig::pinned(crypto(), &[of_server], client.self_signed("c").unwrap()).unwrap();
    let clients = Clients::Pinned(vec![Pin([1; 32]), of_client]);
    let theirs =
        ServerConfig::new(crypto(), server.self_signed("s").unwrap(), &clients, Dates::MustBeChecked);
    let mut pair = Pair::new(
        Connection::client(&ours, "10.77.0.1", None, Buffers::default()).unwrap(),
        Connection::server(&theirs.unwrap(), None, Buffers::default()).unwrap(),
    );
    pair.settle(usize::MAX);
    pair
}

#[test]
fn two_that_pin_each_other_need_no_authority_and_no_time() {
    for (one, other) in ALGORITHMS.into_iter().flat_map(|one| ALGORITHMS.map(|other| (one, other))) {
        let (client, server) = (key(one), key(other));
        let pair = link(&client, &server, server.pin(), client.pin());
        assert!(pair.established(), "{:?}", pair.fatals());
        let shown = pair.server.peer_certificate().expect("it showed one");
        assert_eq!(Words::parse(shown).unwrap().pin, client.pin());
    }
}

#[test]
fn any_other_key_is_refused_by_either_side() {
    const KEY: &str = "the peer's certificate is not accepted: its key is not one that is believed here";
    let said = |fatal: &Option<Fatal>| fatal.as_ref().map(Fatal::to_string).unwrap_or_default();
    let (client, server, third) = (key(Algorithm::P256), key(Algorithm::P256), key(Algorithm::P256));
    let pair = link(&client, &server, third.pin(), client.pin());
    assert_eq!(said(&pair.client_fatal), KEY);
    assert_eq!(pair.server_fatal, Some(Fatal::Refused("AccessDenied".into())));
    let pair = link(&client, &server, server.pin(), third.pin());
    assert_eq!(said(&pair.server_fatal), KEY);
    assert_eq!(pair.client_fatal, Some(Fatal::Refused("AccessDenied".into())));
}

#[test]
fn a_pinned_server_lets_nobody_in_without_a_certificate() {
    let (authority, server) = (Authority::new("authority", pki::Kind::P256), key(Algorithm::P256));
    let clients = Clients::Pinned(vec![server.pin()]);
    let theirs =
        ServerConfig::new(crypto(), server.self_signed("s").unwrap(), &clients, Dates::MustBeChecked);
    let mut pair = pair(&client_config(&authority, None), &theirs.unwrap());
    pair.settle(usize::MAX);
    assert!(!pair.established());
}

#[test]
fn a_stolen_certificate_is_of_no_use_without_its_key() {
    let (client, thief) = (key(Algorithm::P256), key(Algorithm::P256));
    let server = key(Algorithm::P256);
    let theirs = ServerConfig::new(
        crypto(),
        server.self_signed("s").unwrap(),
        &Clients::Pinned(vec![client.pin()]),
        Dates::MustBeChecked,
    );
    let connected = link(&client, &server, server.pin(), client.pin());
    let stolen = connected.server.peer_certificate().unwrap().to_vec();
    // Whoever builds a configuration of the two is told that they do not belong together.
    let identity = Identity::from_der(vec![stolen], thief.pkcs8().to_vec()).unwrap();
    assert!(ClientConfig::pinned(crypto(), &[server.pin()], identity).is_err());
    drop(theirs);
}

#[test]
fn a_key_that_was_kept_is_the_same_key() {
    for algorithm in ALGORITHMS {
        let made = key(algorithm);
        let again = PrivateKey::from_pkcs8(crypto(), made.pkcs8().to_vec().into()).unwrap();
        assert_eq!(again.pin(), made.pin());
        assert_ne!(key(algorithm).pin(), made.pin());
    }
    let rsa = pki::Pair::new(pki::Kind::Rsa).der();
    assert!(PrivateKey::from_pkcs8(crypto(), rsa.into()).is_err());
    assert!(PrivateKey::from_pkcs8(crypto(), vec![0x30, 0x41].into()).is_err());
}

#[test]
fn a_pin_is_what_openssl_and_sha256sum_say() {
    let pin = Pin([0xa5; 32]);
    assert_eq!(pin.to_string().parse(), Ok(pin));
    assert_eq!(pin.to_string().to_uppercase().parse(), Ok(pin));
    for text in ["", "a5", &"g5".repeat(32), &"a5".repeat(33), &"é".repeat(32)] {
        assert!(text.parse::<Pin>().is_err(), "{text}");
    }
}

/// What openssl makes of some bytes.
fn openssl(arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed (Debian: openssl)");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn openssl_reads_what_is_written_here() {
    for algorithm in ALGORITHMS {
        let key = key(algorithm);
        let names = [Name::Uri("spiffe://example.org/appliance/1"), Name::Address([10, 77, 1, 2].into())];
        let request = key.request("corbel 1", &names).unwrap();
        let text = openssl(&["req", "-inform", "der", "-verify", "-noout", "-text"], &request);
        assert!(text.contains("verify OK"), "{text}");
        for part in ["CN = corbel 1", "URI:spiffe://example.org/appliance/1", "IP Address:10.77.1.2"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let bare = openssl(&["req", "-inform", "der", "-verify", "-noout"], &key.request("a", &[]).unwrap());
        assert!(bare.contains("verify OK"), "{bare}");
        let public = openssl(&["pkey", "-inform", "der", "-pubout"], key.pkcs8());
        let of_request = openssl(&["req", "-inform", "der", "-pubkey", "-noout"], &request);
        assert_eq!(public, of_request);
        let pem = crate::pem("CERTIFICATE REQUEST", &request);
        assert!(openssl(&["req", "-verify", "-noout"], pem.as_bytes()).contains("verify OK"), "{pem}");
    }
}

#[test]
fn a_certificate_says_whose_it_is_and_until_when() {
    let authority = Authority::new("authority", pki::Kind::P256);
    let names = &["spiffe://example.org/svc/vm", "vm.example.org"];
    let issued = authority.issue(&Leaf { names, ..Leaf::client() });
    let words = Words::parse(&issued.der).unwrap();
    assert_eq!(words.uri(), Ok(names[0]));
    // The first moments of 2026 and of 2028.
    assert_eq!((words.not_before, words.not_after), (1_767_225_600, 1_830_297_600));
    let far = authority.issue(&Leaf { years: (2026, 2055), ..Leaf::client() });
    assert_eq!(Words::parse(&far.der).unwrap().not_after, 2_682_374_400, "a GeneralizedTime");
    let own = key(Algorithm::P256).self_signed("x").unwrap();
    assert!(Words::parse(&own.chain[0]).unwrap().not_after > 200_000_000_000);
    assert!(Words::parse(&own.chain[0]).unwrap().uri().is_err());
}

#[test]
fn no_bytes_make_a_certificate_panic() {
    let authority = Authority::new("authority", pki::Kind::P256);
    let der = authority.issue(&Leaf { names: &["spiffe://example.org/svc/vm"], ..Leaf::client() }).der;
    for cut in 0..der.len() {
        assert!(Words::parse(&der[..cut]).is_err());
        for bit in 0..8 {
            let mut changed = der.clone();
            changed[cut] ^= 1 << bit;
            let _ = Words::parse(&changed).map(|words| words.uri().is_ok());
        }
    }
}
