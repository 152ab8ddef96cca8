//! Who is who: TLS to an appliance, certificates made by OpenSSL, and the configuration file that names them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod canned;

use canned::{Asked, Reply, Run, Server};
use management_api::signature::Signature;
use network_tls::{
    Anchors, Clients, Crypto, Dates, Identity, Leaf, NoEntropy, PublicKey, Random, ServerConfig,
};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Authorities, and certificates that they made.
struct Pki(PathBuf);

impl Pki {
    fn new() -> Self {
        let pki = Self(canned::folder());
        for authority in ["ca", "other"] {
            let subject = format!("/CN={authority}");
            pki.openssl(&[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                &subject,
                "-keyout",
                &pki.file(authority, "key"),
                "-out",
                &pki.file(authority, "pem"),
            ]);
        }
        pki.issue("ca", "appliance", "IP:127.0.0.1");
        pki.issue("ca", "vm", "URI:spiffe://example.com/svc/vm");
        pki.issue("other", "stranger", "URI:spiffe://example.com/svc/vm");
        pki
    }

    fn file(&self, name: &str, kind: &str) -> String {
        self.0.join(format!("{name}.{kind}")).display().to_string()
    }

    fn text(&self, name: &str, kind: &str) -> String {
        fs::read_to_string(self.file(name, kind)).unwrap()
    }

    fn openssl(&self, words: &[&str]) {
        let output = Command::new("openssl").args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn issue(&self, authority: &str, name: &str, names: &str) {
        let (key, request) = (self.file(name, "key"), self.file(name, "csr"));
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/",
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        let extensions = self.file(name, "ext");
        fs::write(&extensions, format!("subjectAltName=critical,{names}\nbasicConstraints=CA:FALSE\n"))
            .unwrap();
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &self.file(authority, "pem"),
            "-CAkey",
            &self.file(authority, "key"),
            "-CAcreateserial",
            "-days",
            "1",
            "-extfile",
            &extensions,
            "-out",
            &self.file(name, "pem"),
        ]);
    }

    /// An appliance with one image that talks to those whom `ca` knows.
    fn appliance(&self) -> Server {
        self.appliance_that(|_, _| Reply::Json(200, r#"{"images":["tiny"]}"#.into()))
    }

    fn appliance_that(&self, answers: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Server {
        let crypto = Crypto::new(Box::new(System)).unwrap();
        let identity =
            Identity::from_pem(&self.text("appliance", "pem"), &self.text("appliance", "key")).unwrap();
        let clients = Clients::Known(Anchors::from_pem(&self.text("ca", "pem")).unwrap());
        let config = ServerConfig::new(&crypto, identity, &clients, Dates::MustBeChecked).unwrap();
        Server::with(Some(config), answers)
    }

    fn images(&self, server: &Server, ca: &str, who: Option<&str>, more: &[&str]) -> Run {
        let mut command = server.command(&["images"]);
        command.args(more).env("CORBEL_CA", self.file(ca, "pem"));
        if let Some(who) = who {
            command.env("CORBEL_CERT", self.file(who, "pem")).env("CORBEL_KEY", self.file(who, "key"));
        }
        canned::run(command)
    }
}

#[derive(Debug)]
struct System;

impl Random for System {
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(out)).map_err(|_| NoEntropy)
    }
}

#[test]
fn a_farewell_in_place_of_an_answer_has_lost_nothing_and_a_cut_may_have() {
    let pki = Pki::new();
    for (cut, code, asks) in [(false, 0, 5), (true, 3, 3)] {
        let server = pki.appliance_that(move |_, index| match index {
            0 => Reply::Problem(
                404,
                r#"{"type":"urn:corbel:problem:not-found","title":"","status":404,"detail":""}"#.into(),
            ),
            1 if !cut => Reply::Farewell,
            1 | 2 => Reply::Hangup,
            _ => Reply::Json(
                202,
                r#"{"id":"a-1","verb":"stop","instance":"db-1","state":"running","kept":true,"accepted_ms":1}"#.into(),
            ),
        });
        let mut command = server.command(&["stop", "db-1", "b"]);
        command.env("CORBEL_CA", pki.file("ca", "pem"));
        command.env("CORBEL_CERT", pki.file("vm", "pem")).env("CORBEL_KEY", pki.file("vm", "key"));
        let run = canned::run(command);
        assert_eq!((run.code, server.asked().len()), (code, asks), "{}{}", run.out, run.err);
    }
}

#[test]
fn requests_that_change_something_are_signed_by_the_key_of_the_certificate_each_time_anew() {
    let pki = Pki::new();
    // The first answer is lost, so that the request is sent once more.
    let lost = |asked: &Asked, index: usize| match asked.line.starts_with("POST") {
        true if index == 0 => Reply::Hangup,
        true => Reply::Problem(
            403,
            r#"{"type":"urn:corbel:problem:forbidden","title":"","status":403,"detail":""}"#.into(),
        ),
        false => Reply::Json(200, r#"{"images":["tiny"]}"#.into()),
    };
    let server = pki.appliance_that(lost);
    let run = |words: &[&str]| {
        let mut command = server.command(words);
        command.env("CORBEL_CA", pki.file("ca", "pem"));
        command.env("CORBEL_CERT", pki.file("vm", "pem")).env("CORBEL_KEY", pki.file("vm", "key"));
        canned::run(command)
    };
    run(&["drain", "--sign-requests"]);
    run(&["images", "--sign-requests"]);
    run(&["drain"]);
    let asked = server.asked();
    assert_eq!(asked.len(), 4, "{asked:?}");
    let der = pki.file("vm", "der");
    pki.openssl(&["x509", "-in", &pki.file("vm", "pem"), "-outform", "der", "-out", &der]);
    let certificate = fs::read(der).unwrap();
    let leaf = Leaf::parse(&certificate).unwrap();
    let key = PublicKey::parse(leaf.spki).unwrap();
    let signatures: Vec<_> = asked.iter().map(|asked| signature(asked, &key)).collect();
    let [Some(first), Some(second), None, None] = &signatures[..] else { panic!("{signatures:?}") };
    assert_ne!(first.0, second.0, "each has a nonce of its own");
    assert_eq!((&first.1, &second.1), (&leaf.pin.to_string(), &leaf.pin.to_string()));
    let unsigned = canned::run(server.command(&["--sign-requests", "--pin", &"a5".repeat(32), "drain"]));
    assert_eq!(unsigned.code, 2, "there is nothing to sign with: {}", unsigned.err);
}

/// Nonce and key of a request's signature, which has to be one by `key`.
fn signature(asked: &Asked, key: &PublicKey<'_>) -> Option<(String, String)> {
    let text = format!("{}\r\n{}\r\n\r\n{}", asked.line, asked.fields, asked.body);
    let mut engine = management_http::Server::new(management_http::Limits::SERVER, std::time::Duration::ZERO);
    engine.space()[..text.len()].copy_from_slice(text.as_bytes());
    engine.received(std::time::Duration::ZERO, text.len());
    let request = engine.request().unwrap();
    let found = Signature::of(&request).unwrap()?;
    found.covers(&request).unwrap();
    assert!(key.verifies(found.base.as_bytes(), &found.signature), "{}", found.base);
    Some((found.nonce.unwrap().into(), found.keyid.unwrap().into()))
}

#[test]
fn both_sides_prove_who_they_are() {
    let pki = Pki::new();
    let server = pki.appliance();
    let good = pki.images(&server, "ca", Some("vm"), &[]);
    assert_eq!((good.code, good.out.as_str(), good.err.as_str()), (0, "tiny\n", ""));
    let asked = server.asked().len();

    for (ca, who, more, says, advice) in [
        (
            "other",
            Some("vm"),
            &[][..],
            "none of the configured authorities made it",
            "--ca (or --pin) names another",
        ),
        (
            "ca",
            Some("vm"),
            &["--server-name", "192.0.2.1"],
            "not valid for name 192.0.2.1",
            "--server-name says",
        ),
        ("ca", Some("stranger"), &[], "the peer refuses", "does not accept your certificate"),
        ("ca", None, &[], "the peer refuses", "there is none; see --cert"),
    ] {
        let run = pki.images(&server, ca, who, more);
        assert_eq!((run.code, run.out.as_str()), (4, ""), "{ca} {who:?} {run:?}");
        assert!(run.err.contains(says) && run.err.contains(advice), "{}", run.err);
    }
    assert_eq!(server.asked().len(), asked, "nobody else was heard");
}

#[test]
fn a_key_that_is_known_takes_the_place_of_an_authority() {
    let pki = Pki::new();
    let server = pki.appliance();
    let of_key = |name: &str| {
        let pipe = "openssl pkey -in \"$1\" -pubout -outform der | sha256sum | cut -c1-64";
        let output = Command::new("sh").args(["-c", pipe, "sh", &pki.file(name, "key")]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    let images = |pin: &str| {
        let mut command = server.command(&["images", "--pin", pin]);
        command.env("CORBEL_CERT", pki.file("vm", "pem")).env("CORBEL_KEY", pki.file("vm", "key"));
        canned::run(command)
    };
    assert_eq!(images(&of_key("appliance")).out, "tiny\n");
    let other = images(&of_key("vm"));
    assert_eq!((other.code, other.out.as_str()), (4, ""), "{}", other.err);
    assert_eq!(images("00").code, 2);
}

#[test]
fn a_command_that_is_refused_at_the_door_has_a_known_outcome() {
    let pki = Pki::new();
    let server = pki.appliance();
    let mut command = server.command(&["terminate", "web-1"]);
    command.env("CORBEL_CA", pki.file("ca", "pem"));
    let run = canned::run(command);
    assert_eq!(run.code, 4, "it was not done, and that is known: {}", run.err);
}

#[test]
fn plain_http_where_tls_is_expected_is_told_in_words() {
    let pki = Pki::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let mut command = canned::command(&["images", "--url", &url]);
    command.env("CORBEL_CA", pki.file("ca", "pem"));
    let run = canned::run(command);
    assert_eq!(run.code, 4);
    assert!(run.err.contains("http:// in the URL"), "{}", run.err);
}

/// A configuration folder with `text` in it.
fn configured(pki: &Pki, text: &str) -> PathBuf {
    let folder = pki.0.join("config");
    fs::create_dir_all(folder.join("corbel")).unwrap();
    fs::write(folder.join("corbel/ctl.toml"), text).unwrap();
    for name in ["ca.pem", "vm.pem", "vm.key"] {
        fs::copy(pki.0.join(name), folder.join("corbel").join(name)).unwrap();
    }
    folder
}

fn images(folder: &Path, words: &[&str]) -> Run {
    let mut command = canned::command(words);
    command.arg("images").env("XDG_CONFIG_HOME", folder);
    canned::run(command)
}

#[test]
fn the_file_names_hosts_and_what_they_need() {
    let pki = Pki::new();
    let server = pki.appliance();
    let (url, who) = (server.url(), "ca = \"ca.pem\"\ncert = \"vm.pem\"\nkey = \"vm.key\"\n");
    let lab = format!("[hosts.lab]\nurl = \"{url}\"\n{who}");
    let gone = "[hosts.gone]\nurl = \"http://127.0.0.1:1\"\n";

    let only = configured(&pki, &lab);
    assert_eq!(images(&only, &[]).out, "tiny\n", "the only host needs no name");
    let two = configured(&pki, &format!("{lab}{gone}"));
    assert_eq!(images(&two, &[]).code, 2, "which of two is meant is not guessed");
    assert_eq!(images(&two, &["--host", "lab"]).out, "tiny\n");
    assert_eq!(images(&two, &["--host", "gone"]).code, 4);
    let unknown = images(&two, &["--host", "nowhere"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("it has gone, lab"), "{}", unknown.err);
    let default = configured(&pki, &format!("default = \"lab\"\n{lab}{gone}"));
    assert_eq!(images(&default, &[]).out, "tiny\n");

    let broken = configured(&pki, "[hosts.lab]\nurl = 7\n");
    let run = images(&broken, &[]);
    assert_eq!(run.code, 1);
    assert!(run.err.contains("ctl.toml"), "{}", run.err);
}

#[test]
fn a_key_that_others_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let pki = Pki::new();
    let server = pki.appliance();
    fs::set_permissions(pki.file("vm", "key"), fs::Permissions::from_mode(0o644)).unwrap();
    let run = pki.images(&server, "ca", Some("vm"), &[]);
    assert_eq!(run.code, 0);
    assert!(run.err.starts_with("corbelctl: warning: others can read"), "{}", run.err);
}
