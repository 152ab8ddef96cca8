//! Who is believed, and who is not.

use super::pki::{self, Authority, KINDS, Kind, Leaf, NOW, crypto};
use super::{Pair, anchors, client_config, friends, pair, server_config};
use crate::{
    Anchors, Buffers, ClientConfig, Clients, Connection, Crypto, Dates, Fatal, Identity, NoEntropy, Random,
    ServerConfig, SetupError,
};
use std::sync::atomic::{AtomicBool, Ordering};

/// What a client thinks of a server with this certificate, whose chain has `between` in it.
fn verdict(authority: &Authority, leaf: &Leaf<'_>, name: &str, now: Option<u64>, dates: Dates) -> Pair {
    let issued = authority.issue(leaf);
    let server = server_config(&issued, &Clients::Anybody);
    let client = ClientConfig::new(crypto(), &anchors(authority), None, dates).unwrap();
    let mut pair = Pair::new(
        Connection::client(&client, name, now, Buffers::default()).unwrap(),
        Connection::server(&server, None, Buffers::default()).unwrap(),
    );
    pair.settle(usize::MAX);
    pair
}

fn refused(pair: &Pair, words: &str, alert: &str) {
    let (Some(Fatal::Certificate(why)), Some(Fatal::Refused(heard))) = pair.fatals() else {
        panic!("{:?}", pair.fatals());
    };
    assert!(why.contains(words), "{why}");
    assert_eq!(heard, alert);
    assert!(!pair.client.is_established());
    assert!(Fatal::Certificate(why.clone()).needs_operator());
}

#[test]
fn every_kind_of_key_works_on_both_sides_and_for_authorities() {
    for of_authority in KINDS {
        for of_peers in KINDS {
            let authority = Authority::new("authority", of_authority);
            let server = authority.issue(&Leaf { kind: of_peers, ..Leaf::server(&["storage.example"]) });
            let client = authority.issue(&Leaf { kind: of_peers, ..Leaf::client() });
            let clients = Clients::Known(anchors(&authority));
            let mut pair =
                pair(&client_config(&authority, Some(client.identity())), &server_config(&server, &clients));
            pair.settle(usize::MAX);
            assert!(pair.established(), "{of_authority:?} {of_peers:?}: {:?}", pair.fatals());
            assert_eq!(pair.client.peer_certificate(), Some(&server.der[..]));
            assert_eq!(pair.server.peer_certificate(), Some(&client.der[..]));
        }
    }
}

#[test]
fn names_and_addresses_must_be_in_the_certificate() {
    let authority = Authority::new("authority", Kind::P256);
    let both = Leaf::server(&["storage.example", "10.1.2.3", "*.wild.example"]);
    let verdict = |leaf: &Leaf<'_>, name| verdict(&authority, leaf, name, Some(NOW), Dates::MustBeChecked);
    for name in ["storage.example", "STORAGE.example", "10.1.2.3", "a.wild.example"] {
        let pair = verdict(&both, name);
        assert!(pair.established(), "{name}: {:?}", pair.fatals());
    }
    for name in ["storage.example.org", "10.1.2.4", "wild.example", "a.b.wild.example", "::1"] {
        refused(&verdict(&both, name), "not valid for name", "BadCertificate");
    }
    let unnamed = Leaf { common_name: "storage.example", ..Leaf::server(&[]) };
    refused(&verdict(&unnamed, "storage.example"), "no subjectAltName", "BadCertificate");
}

#[test]
fn another_authority_of_the_same_name_is_not_believed() {
    let authority = Authority::new("authority", Kind::P256);
    let other = Authority::new("authority", Kind::P256);
    let issued = other.issue(&Leaf::server(&["storage.example"]));
    let mut pair = pair(&client_config(&authority, None), &server_config(&issued, &Clients::Anybody));
    pair.settle(usize::MAX);
    assert!(matches!(pair.client_fatal, Some(Fatal::Certificate(_))), "{:?}", pair.fatals());
    let stranger = Authority::new("stranger", Kind::P256);
    let mut pair = super::pair(&client_config(&stranger, None), &server_config(&issued, &Clients::Anybody));
    pair.settle(usize::MAX);
    refused(&pair, "none of the configured authorities made it", "UnknownCA");
}

#[test]
fn dates_are_checked_where_the_time_is_known() {
    let authority = Authority::new("authority", Kind::P256);
    let with = |years| Leaf { years, ..Leaf::server(&["storage.example"]) };
    for dates in [Dates::MustBeChecked, Dates::CheckedWhenTimeIsKnown] {
        let verdict = |years| verdict(&authority, &with(years), "storage.example", Some(NOW), dates);
        refused(&verdict((2024, 2026)), "expired", "CertificateExpired");
        refused(&verdict((2027, 2028)), "not valid yet", "CertificateExpired");
        let good = verdict((2026, 2027));
        assert!(good.established() && good.client.dates_checked());
    }
}

#[test]
fn without_the_time_there_is_no_connection_unless_the_operator_says_so() {
    let authority = Authority::new("authority", Kind::P256);
    let strict = client_config(&authority, None);
    let error = Connection::client(&strict, "storage.example", None, Buffers::default()).unwrap_err();
    assert_eq!(error, SetupError::NoTime);
    let dates = Dates::CheckedWhenTimeIsKnown;
    for years in [(2024, 2026), (2026, 2027), (2027, 2028)] {
        let leaf = Leaf { years, ..Leaf::server(&["storage.example"]) };
        let pair = verdict(&authority, &leaf, "storage.example", None, dates);
        assert!(pair.established() && !pair.client.dates_checked(), "{years:?}: {:?}", pair.fatals());
        let pair = verdict(&authority, &leaf, "other.example", None, dates);
        refused(&pair, "not valid for name", "BadCertificate");
    }
    // A server asks its clients' dates by the same rule; one that asks nobody needs no time.
    let issued = authority.issue(&Leaf::server(&["storage.example"]));
    let known = server_config(&issued, &Clients::Known(anchors(&authority)));
    assert_eq!(Connection::server(&known, None, Buffers::default()).unwrap_err(), SetupError::NoTime);
    let anybody = server_config(&issued, &Clients::Anybody);
    assert!(Connection::server(&anybody, None, Buffers::default()).is_ok());
}

#[test]
fn a_client_that_expired_is_let_in_only_where_nobody_knows_the_time() {
    let authority = Authority::new("authority", Kind::P256);
    let issued = authority.issue(&Leaf::server(&["storage.example"]));
    let old = authority.issue(&Leaf { years: (2023, 2024), ..Leaf::client() });
    let client = client_config(&authority, Some(old.identity()));
    let clients = Clients::Known(anchors(&authority));
    let server =
        ServerConfig::new(crypto(), issued.identity(), &clients, Dates::CheckedWhenTimeIsKnown).unwrap();
    for (now, good) in [(Some(NOW), false), (None, true)] {
        let mut pair = Pair::new(
            Connection::client(&client, "storage.example", Some(NOW), Buffers::default()).unwrap(),
            Connection::server(&server, now, Buffers::default()).unwrap(),
        );
        pair.settle(usize::MAX);
        assert_eq!(pair.established(), good, "{:?}", pair.fatals());
        assert_eq!(pair.client_fatal.is_none(), good);
    }
}

#[test]
fn chains_are_followed_and_must_have_one_moment_at_which_all_of_it_was_valid() {
    let root = Authority::new("root", Kind::P256);
    for (between, leaf, now, good) in [
        ((2021, 2030), (2026, 2028), Some(NOW), true),
        ((2021, 2025), (2026, 2028), Some(NOW), false),
        ((2021, 2030), (2026, 2028), None, true),
        ((2026, 2028), (2021, 2030), None, true),
        ((2021, 2025), (2026, 2028), None, false),
        ((2026, 2028), (2021, 2025), None, false),
    ] {
        let middle = root.below("middle", between);
        let issued = middle.issue(&Leaf { years: leaf, ..Leaf::server(&["storage.example"]) });
        let identity = Identity::from_der(vec![issued.der, middle.der], issued.key).unwrap();
        let server = ServerConfig::new(crypto(), identity, &Clients::Anybody, Dates::MustBeChecked).unwrap();
        let dates = Dates::CheckedWhenTimeIsKnown;
        let client = ClientConfig::new(crypto(), &anchors(&root), None, dates).unwrap();
        let mut pair = Pair::new(
            Connection::client(&client, "storage.example", now, Buffers::default()).unwrap(),
            Connection::server(&server, None, Buffers::default()).unwrap(),
        );
        pair.settle(usize::MAX);
        assert_eq!(pair.established(), good, "{between:?} {leaf:?} {now:?}: {:?}", pair.fatals());
    }
}

#[test]
fn a_certificate_is_good_only_for_what_it_is_for() {
    let authority = Authority::new("authority", Kind::P256);
    let verdict =
        |leaf: &Leaf<'_>| verdict(&authority, leaf, "storage.example", Some(NOW), Dates::MustBeChecked);
    let client = Leaf { names: &["storage.example"], ..Leaf::client() };
    let pair = verdict(&client);
    assert!(matches!(pair.client_fatal, Some(Fatal::Certificate(_))), "{:?}", pair.fatals());
    let itself = Leaf { authority: true, ..Leaf::server(&["storage.example"]) };
    let pair = verdict(&itself);
    let Some(Fatal::Certificate(why)) = &pair.client_fatal else { panic!("{:?}", pair.fatals()) };
    assert!(why.contains("a certificate of its own"), "{why}");
}

#[test]
fn a_server_that_knows_its_clients_refuses_all_others() {
    let authority = Authority::new("authority", Kind::P256);
    let stranger = Authority::new("stranger", Kind::P256);
    let server = authority.issue(&Leaf::server(&["storage.example"]));
    let known = server_config(&server, &Clients::Known(anchors(&authority)));
    let or_anonymous = server_config(&server, &Clients::KnownOrAnonymous(anchors(&authority)));
    let good = authority.issue(&Leaf::client());
    let bad = [
        (None, "CertificateRequired", "no-certificate"),
        (Some(stranger.issue(&Leaf::client())), "UnknownCA", "unknown-authority"),
        (Some(authority.issue(&Leaf::server(&["client"]))), "UnsupportedCertificate", "certificate"),
        (
            Some(authority.issue(&Leaf { years: (2020, 2021), ..Leaf::client() })),
            "CertificateExpired",
            "expired",
        ),
    ];
    let meet = |config: &ServerConfig, issued: &Option<pki::Issued>| {
        let identity = issued.as_ref().map(pki::Issued::identity);
        let mut pair = pair(&client_config(&authority, identity), config);
        pair.settle(usize::MAX);
        pair
    };
    for (issued, alert, name) in &bad {
        let pair = meet(&known, issued);
        assert!(!pair.server.is_established());
        assert!(matches!(pair.server_fatal, Some(Fatal::Certificate(_))), "{:?}", pair.fatals());
        assert_eq!(pair.server_fatal.as_ref().map(Fatal::name), Some(*name));
        assert_eq!(pair.client_fatal, Some(Fatal::Refused((*alert).into())));
        assert_eq!(meet(&or_anonymous, issued).established(), issued.is_none());
    }
    assert!(meet(&known, &Some(good.clone())).established());
    let pair = meet(&or_anonymous, &Some(good.clone()));
    assert_eq!(pair.server.peer_certificate(), Some(&good.der[..]));
}

#[test]
fn pem_is_taken_with_whatever_is_around_it() {
    let authority = Authority::new("authority", Kind::P256);
    let issued = authority.issue(&Leaf::server(&["storage.example"]));
    let root = pki::pem("CERTIFICATE", &authority.der);
    let chain = pki::pem("CERTIFICATE", &issued.der);
    let key = pki::pem("PRIVATE KEY", &issued.key);
    let one = format!("Bag Attributes\n{chain}{root}\nsubject=what openssl writes\n{key}");
    assert!(Anchors::from_pem(&format!("# ours\n{root}{root}")).is_ok());
    let identity = Identity::from_pem(&one, &one).unwrap();
    assert!(ServerConfig::new(crypto(), identity, &Clients::Anybody, Dates::MustBeChecked).is_ok());

    assert!(Anchors::from_pem("").is_err());
    assert!(Anchors::from_pem(&key).is_err());
    assert!(Anchors::from_pem(&pki::pem("CERTIFICATE", b"not DER")).is_err());
    assert!(Identity::from_pem(&chain, &chain).is_err());
    assert!(Identity::from_pem(&key, &key).is_err());
    let encrypted = pki::pem("ENCRYPTED PRIVATE KEY", &issued.key);
    let error = Identity::from_pem(&chain, &encrypted).unwrap_err();
    assert!(error.to_string().contains("passphrase"), "{error}");
    assert!(Identity::from_pem(&chain.replace("M", "!"), &key).is_err());
    assert!(Anchors::from_pem(&"x".repeat(2 << 20)).is_err());
}

#[test]
fn a_key_that_does_not_belong_to_the_certificate_is_found_at_once() {
    let authority = Authority::new("authority", Kind::P256);
    let [one, other] = [(); 2].map(|()| authority.issue(&Leaf::client()));
    let mixed = Identity::from_der(vec![one.der.clone()], other.key).unwrap();
    let error =
        ClientConfig::new(crypto(), &anchors(&authority), Some(mixed), Dates::MustBeChecked).unwrap_err();
    assert_eq!(error, SetupError::Material("the private key does not belong to our certificate".into()));
    let damaged = Identity::from_der(vec![one.der], one.key[..one.key.len() - 3].to_vec());
    let config = damaged.and_then(|identity| {
        ClientConfig::new(crypto(), &anchors(&authority), Some(identity), Dates::MustBeChecked)
    });
    assert!(matches!(config, Err(SetupError::Material(_))));
}

#[test]
fn names_that_are_none_and_buffers_that_are_too_small_are_refused() {
    let authority = Authority::new("authority", Kind::P256);
    let config = client_config(&authority, None);
    for name in ["", "a b", "-", "storage..example", "fe80::1%eth0"] {
        let error = Connection::client(&config, name, Some(NOW), Buffers::default()).unwrap_err();
        assert_eq!(error, SetupError::Name(name.into()));
    }
    for (receive, transmit) in [(Buffers::LEAST_RECEIVE - 1, 70_000), (70_000, Buffers::LEAST_TRANSMIT - 1)] {
        let buffers = Buffers { receive, transmit };
        let error = Connection::client(&config, "a", Some(NOW), buffers).unwrap_err();
        assert!(matches!(error, SetupError::Buffer(_)));
    }
}

/// Randomness that can run dry.
#[derive(Debug)]
struct Well(&'static AtomicBool);

impl Random for Well {
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        if self.0.load(Ordering::Relaxed) { pki::Host.fill(out) } else { Err(NoEntropy) }
    }
}

#[test]
fn without_randomness_nothing_begins() {
    static WATER: AtomicBool = AtomicBool::new(false);
    assert!(Crypto::new(Box::new(Well(&WATER))).is_err());
    WATER.store(true, Ordering::Relaxed);
    let crypto = Crypto::new(Box::new(Well(&WATER))).unwrap();
    let authority = Authority::new("authority", Kind::P256);
    let config = ClientConfig::new(&crypto, &anchors(&authority), None, Dates::MustBeChecked).unwrap();
    let begin = || Connection::client(&config, "storage.example", Some(NOW), Buffers::default());
    assert!(begin().is_ok());
    WATER.store(false, Ordering::Relaxed);
    assert_eq!(begin().unwrap_err(), SetupError::NoEntropy);
}

#[test]
fn the_processor_decides_which_cipher_comes_first() {
    let authority = Authority::new("authority", Kind::P256);
    let issued = authority.issue(&Leaf::server(&["storage.example"]));
    for (aes_first, suite) in [(true, "TLS13_AES_128_GCM_SHA256"), (false, "TLS13_CHACHA20_POLY1305_SHA256")]
    {
        let crypto = Crypto::with_preference(Box::new(pki::Host), aes_first).unwrap();
        let client = ClientConfig::new(&crypto, &anchors(&authority), None, Dates::MustBeChecked).unwrap();
        let server =
            ServerConfig::new(&crypto, issued.identity(), &Clients::Anybody, Dates::MustBeChecked).unwrap();
        let mut pair = pair(&client, &server);
        pair.settle(usize::MAX);
        assert_eq!(pair.client.suite(), Some(suite));
        assert_eq!(pair.server.suite(), Some(suite));
    }
    assert_eq!(friends().client.suite(), None);
}
