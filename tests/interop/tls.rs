//! Storage services of other people in TLS: nbdkit and qemu-nbd, which both have GnuTLS, with certificates that OpenSSL
//! made a moment ago.

use crate::fixture::{script, stage, target};
use image_launch::appliance::Kind;
use image_launch::disk::{Pattern, Server, empty};
use image_launch::initiator::{self, Unit};
use image_launch::net::Wire;
use image_launch::process::{self, Process};
use image_launch::scratch::Scratch;
use image_launch::stage::{IQN, Stage};
use image_launch::{api, wait};
use serde_json::json;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SIZE: u64 = 16 << 20;
const LIMIT: Duration = Duration::from_secs(60);
/// The name that the services' certificates are for.
const NAME: &str = "storage.example";
/// What the appliance says of a certificate by an authority that it does not know.
const STRANGER: &str = "none of the configured authorities made it";

/// Authorities and certificates, in a folder as both programs want it.
struct Pki {
    scratch: Scratch,
}

impl Pki {
    /// An authority, another one that nobody knows, a service's certificate and an appliance's.
    fn new() -> Self {
        let pki = Self { scratch: Scratch::new().unwrap() };
        for name in ["ca", "stranger"] {
            let (key, certificate) = pki.names(name);
            let mut command = pki.request(name, &key);
            command.args(["-x509", "-days", "30", "-out", &certificate]);
            command.args(["-addext", "basicConstraints=critical,CA:TRUE"]);
            command.args(["-addext", "keyUsage=critical,keyCertSign"]);
            process::check(command, LIMIT).unwrap();
        }
        pki.issue("server", &format!("subjectAltName=DNS:{NAME}\nextendedKeyUsage=serverAuth\n"));
        pki.issue("client", "extendedKeyUsage=clientAuth\n");
        pki
    }

    /// What a key and a certificate are called.
    fn names(&self, name: &str) -> (String, String) {
        let file = |what| self.scratch.file(&format!("{name}-{what}.pem")).display().to_string();
        (file("key"), file("cert"))
    }

    /// OpenSSL, about to make a key on P-256 and to ask for a certificate.
    fn request(&self, name: &str, key: &str) -> Command {
        let mut command = process::command("openssl");
        command.args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        command.args(["-keyout", key, "-subj", &format!("/CN={name}")]);
        command
    }

    fn issue(&self, name: &str, extensions: &str) {
        let ((key, certificate), (ca_key, ca)) = (self.names(name), self.names("ca"));
        let (asked, says) = (self.file(&format!("{name}.csr")), self.file(&format!("{name}.ext")));
        let mut command = self.request(name, &key);
        command.arg("-out").arg(&asked);
        process::check(command, LIMIT).unwrap();
        std::fs::write(&says, extensions).unwrap();
        let mut command = process::command("openssl");
        command.args(["x509", "-req", "-days", "30", "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"]);
        command.args(["-out", &certificate, "-in"]).arg(asked).arg("-extfile").arg(says);
        process::check(command, LIMIT).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.file(name)
    }

    /// The base64 of a certificate or key, as the appliance is told it.
    fn base64(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.file(&format!("{name}.pem"))).unwrap();
        let begin = text.find("-----BEGIN").unwrap();
        text[begin..].lines().skip(1).take_while(|line| !line.starts_with('-')).collect()
    }

    /// What an appliance is told that believes `authority`, and has a certificate or none.
    fn config(&self, authority: &str, own: bool) -> Vec<(String, String)> {
        let anchors = self.base64(&format!("{authority}-cert"));
        let mut config = vec![("tls.anchors", anchors), ("tls.dates", "if-known".to_string())];
        if own {
            config.push(("tls.certificate", self.base64("client-cert")));
            config.push(("tls.key", self.base64("client-key")));
        }
        config.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
    }
}

/// A program that serves a disk to those in TLS with a certificate.
#[derive(Clone, Copy)]
enum Program {
    Nbdkit,
    QemuNbd,
    /// nbdkit without TLS.
    Clear,
}

/// Starts a program on a file.
fn serve(
    stage: &Stage,
    pki: &Pki,
    program: Program,
    file: &Path,
    listen: SocketAddrV4,
    name: &str,
) -> Process {
    let (address, port) = (listen.ip().to_string(), listen.port().to_string());
    let folder = pki.scratch.path();
    let mut command = match program {
        Program::Nbdkit | Program::Clear => stage.net.command("nbdkit"),
        Program::QemuNbd => stage.net.command("qemu-nbd"),
    };
    match program {
        Program::Nbdkit | Program::Clear => {
            command.args(["-f", "-i", &address, "-p", &port]);
            if matches!(program, Program::Nbdkit) {
                command.args(["--tls=require", "--tls-verify-peer"]);
                command.arg(format!("--tls-certificates={}", folder.display()));
            }
            command.arg("file").arg(file);
        }
        Program::QemuNbd => {
            let credentials =
                format!("tls-creds-x509,id=tls,endpoint=server,verify-peer=yes,dir={}", folder.display());
            command.args(["--object", &credentials, "--tls-creds", "tls", "-t", "-e", "16", "-f", "raw"]);
            command.args(["-b", &address, "-p", &port]).arg(file);
        }
    }
    Process::start(name, command, &stage.scratch.file(&format!("{name}.log"))).unwrap()
}

/// Starts it, and exposes its disk as `IQN:NAME`.
fn expose(stage: &Stage, pki: &Pki, program: Program, name: &str, port: u16) -> (Process, PathBuf, Unit) {
    let file = stage.scratch.file(&format!("{name}.raw"));
    empty(&file, SIZE).unwrap();
    let (listen, seen) = stage.net.server(Wire::Service, port).unwrap();
    let mut process = serve(stage, pki, program, &file, listen, name);
    stage.net.listening(&mut process, listen, LIMIT).unwrap();
    let iqn = format!("{IQN}:{name}");
    let volume = format!("nbds://{seen}/?tls-hostname={NAME}");
    let target = json!({ "iqn": iqn, "volume": volume, "initiators": ["*"] });
    let answer = api::ask(&stage.net, "PUT", &format!("/v1/targets/{name}"), Some(&target)).unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    (process, file, Unit { portal: stage.net.portal(), iqn, lun: 0 })
}

/// Waits until a target is in a state, and answers why.
fn becomes(stage: &Stage, name: &str, state: &str) -> String {
    let path = format!("/v1/targets/{name}");
    let reached = wait::until(format!("{name} {state}"), LIMIT, || {
        let answer = api::ask(&stage.net, "GET", &path, None)?;
        let is_there = answer.text("/state") == state;
        Ok(is_there.then(|| answer.text("/reason").to_string()))
    });
    reached.unwrap_or_else(|error| panic!("{error}\n{}", stage.appliance.console()))
}

/// Writes a pattern, finds it in the file and reads it again.
fn carries(stage: &Stage, unit: &Unit, file: &Path, seed: u64) {
    let pattern = Pattern::write(stage.scratch.file("pattern"), seed, SIZE).unwrap();
    initiator::write(&stage.net, pattern.path(), unit).unwrap();
    pattern.must_equal(file).unwrap();
    let back = stage.scratch.file("back");
    initiator::read(&stage.net, unit, &back).unwrap();
    pattern.must_equal(&back).unwrap();
    std::fs::remove_file(back).unwrap();
}

fn world(kind: Kind, pki: &Pki, authority: &str, own: bool) -> (Stage, crate::fixture::Turn) {
    let mut script = script(kind, 1 << 20, Server::QemuNbd);
    script.config = pki.config(authority, own);
    stage(&script)
}

/// The image and the process: the one has no time of day, the other has.
fn bodies() -> Vec<Kind> {
    match std::env::var("CORBEL_TARGET") {
        Ok(_) => vec![target()],
        Err(_) => vec![target(), Kind::Hosted],
    }
}

#[test]
fn disks_of_nbdkit_and_qemu_nbd_are_written_and_read_over_tls_by_who_has_a_certificate() {
    let pki = Pki::new();
    for (seed, kind) in (1..).zip(bodies()) {
        let (stage, _turn) = world(kind, &pki, "ca", true);
        let nbdkit = expose(&stage, &pki, Program::Nbdkit, "nbdkit", 10_950);
        let mut qemu = expose(&stage, &pki, Program::QemuNbd, "qemu", 10_951);
        for ((_, file, unit), name) in [(&nbdkit, "nbdkit"), (&qemu, "qemu")] {
            becomes(&stage, name, "ready");
            carries(&stage, unit, file, seed);
        }
        // And once more over a connection that was lost meanwhile.
        qemu.0.stop();
        becomes(&stage, "qemu", "connecting");
        let program = expose_again(&stage, &pki, &qemu.1, 10_951);
        becomes(&stage, "qemu", "ready");
        carries(&stage, &qemu.2, &qemu.1, seed + 100);
        drop(program);
        no_panic(&stage);
    }
}

#[test]
fn who_is_not_believed_or_does_not_believe_us_is_down_with_the_reason() {
    let pki = Pki::new();
    for kind in bodies() {
        let (stage, turn) = world(kind, &pki, "stranger", true);
        let _programs = [
            expose(&stage, &pki, Program::Nbdkit, "nbdkit", 10_950),
            expose(&stage, &pki, Program::QemuNbd, "qemu", 10_951),
            expose(&stage, &pki, Program::Clear, "clear", 10_952),
        ];
        for (name, words) in [("nbdkit", STRANGER), ("qemu", STRANGER), ("clear", "TLS")] {
            let reason = becomes(&stage, name, "down");
            assert!(reason.contains(words), "{name}: {reason}");
            println!("{}: {name}: {reason}", stage.describe());
        }
        no_panic(&stage);
        drop((stage, turn));

        let (stage, _turn) = world(kind, &pki, "ca", false);
        let _nbdkit = expose(&stage, &pki, Program::Nbdkit, "nbdkit", 10_950);
        let reason = becomes(&stage, "nbdkit", "down");
        println!("{}: without a certificate: {reason}", stage.describe());
        // Some versions say so, others only hang up.
        assert!(reason.contains("ertificate"), "{reason}");
        no_panic(&stage);
    }
}

/// Starts qemu-nbd once more on a file that is exposed already.
fn expose_again(stage: &Stage, pki: &Pki, file: &Path, port: u16) -> Process {
    let (listen, _) = stage.net.server(Wire::Service, port).unwrap();
    let mut process = serve(stage, pki, Program::QemuNbd, file, listen, "qemu");
    stage.net.listening(&mut process, listen, LIMIT).unwrap();
    process
}

fn no_panic(stage: &Stage) {
    assert!(!stage.appliance.has_panicked(), "{}", stage.appliance.console());
}
