//! `corbelctl` against a real appliance, a real agent and QEMU: a life of an instance as an operator leads it.

use crate::fixture;
use image_launch::agent::IMAGE;
use image_launch::appliance::Kind;
use image_launch::disk::Server;
use image_launch::machine::Board;
use image_launch::net::Wire;
use image_launch::process::{self, Output};
use image_launch::scratch::Scratch;
use image_launch::stage::Stage;
use serde_json::Value;
use std::fs;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// The program, from where the provider's services are.
fn ctl(stage: &Stage, words: &[&str]) -> Output {
    let mut command = stage.net.command(env!("CARGO_BIN_EXE_corbel"));
    command.arg("ctl").args(words).env("CORBEL_URL", format!("http://{}", stage.net.api()));
    process::run(command, LIMIT).unwrap()
}

/// What it prints when all is well.
#[track_caller]
fn says(stage: &Stage, words: &[&str]) -> String {
    let output = ctl(stage, words);
    assert_eq!(output.code, 0, "{words:?}: {}", output.text());
    output.stdout
}

#[track_caller]
fn document(stage: &Stage, words: &[&str]) -> Value {
    let text = says(stage, &[words, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}\n{text}"))
}

/// What it complains of, and its exit code.
fn complains(stage: &Stage, words: &[&str]) -> (i32, String) {
    let output = ctl(stage, words);
    (output.code, output.stderr)
}

fn script(kind: Kind) -> image_launch::stage::Script {
    let mut script = fixture::script(kind, 8 << 20, Server::QemuNbd);
    script.agent = true;
    script.state = true;
    script
}

#[test]
fn an_operator_leads_an_instance_through_its_life() {
    let (stage, _turn) = fixture::stage(&script(Kind::Hosted));
    let status = says(&stage, &["status"]);
    assert!(status.contains("ready           yes\n") && status.contains("hypervisors     qemu "), "{status}");
    assert_eq!(says(&stage, &["images"]), format!("{IMAGE}\n"));

    let made = says(&stage, &["create", "web-1", "--image", IMAGE, "--start", "--wait"]);
    assert_eq!(made, "web-1: create succeeded; it is running\n");
    assert_eq!(stage.agent.as_ref().unwrap().guests().len(), 1, "and there is a process of QEMU");
    let list = says(&stage, &["instances"]);
    assert!(list.lines().nth(1).unwrap().starts_with("web-1  running"), "{list}");
    assert_eq!(says(&stage, &["pause", "web-1"]), "web-1: pause succeeded; it is paused\n");
    let again = "web-1: pause succeeded, nothing had to be done; it is paused\n";
    assert_eq!(says(&stage, &["pause", "web-1"]), again);
    let (code, words) = complains(&stage, &["stop", "web-1"]);
    assert_eq!(code, 1);
    assert!(words.contains("[wrong-state]") && words.contains("corbelctl instance NAME"), "{words}");
    assert_eq!(complains(&stage, &["resume", "web-1", "--if-state", "running"]).0, 1);
    says(&stage, &["resume", "web-1", "--if-state", "paused", "--token", "resume-1"]);
    // The same token is the same operation, whatever has happened since.
    let first = document(&stage, &["resume", "web-1", "--if-state", "paused", "--token", "resume-1"]);
    let second = document(&stage, &["operation", first["id"].as_str().unwrap(), "--wait"]);
    assert_eq!((&first["id"], second["state"].as_str()), (&second["id"], Some("succeeded")));

    // A guest of two hundred bytes hears nothing of a shutdown.
    let (code, words) = complains(&stage, &["stop", "web-1", "--timeout", "1s", "--wait"]);
    assert_eq!(code, 1, "{words}");
    assert!(words.contains("[guest-ignored]") && words.contains("--force"), "{words}");
    assert_eq!(ctl(&stage, &["terminate", "web-1", "--wait"]).code, 0);
}

#[test]
fn an_appliance_that_is_not_there_is_told_from_one_that_says_no() {
    let (mut stage, _turn) = fixture::stage(&script(Kind::Hosted));
    stage.appliance.process().kill();
    let (code, words) = complains(&stage, &["terminate", "web-1"]);
    assert_eq!(code, 4, "{words}");
}

/// Makes an authority, a certificate of the appliance, and one of each of two services, by OpenSSL.
const CERTIFICATES: &str = "\
set -e
new() { openssl genpkey -quiet -algorithm ec -pkeyopt ec_paramgen_curve:P-256 -out $1.key; }
new ca; openssl req -x509 -key ca.key -subj /CN=provider -days 2 -out ca.pem
issue() {
    new $1; printf 'basicConstraints=CA:FALSE\\nsubjectAltName=%s\\nextendedKeyUsage=%s\\n' $2 $3 >$1.ext
    openssl req -new -key $1.key -subj /CN=$1 |
        openssl x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -extfile $1.ext -out $1.pem
}
issue appliance IP:$ADDRESS serverAuth
issue vm URI:spiffe://example.org/svc/vm clientAuth
issue storage URI:spiffe://example.org/svc/storage clientAuth
for name in ca appliance; do openssl x509 -in $name.pem -outform der | base64 -w0 >$name.crt64; done
openssl pkey -in appliance.key -outform der | base64 -w0 >appliance.key64
chmod 600 *.key
";

#[test]
fn each_service_proves_who_it_is_and_may_do_its_own_work() {
    proves(Kind::Hosted, false);
}

#[test]
fn a_bare_machine_knows_the_time_and_so_checks_dates_and_signatures() {
    proves(Kind::Image(Board::Q35), true);
}

/// What was signed in the first seconds of the appliance is refused.
const FIRST_SECONDS: Duration = Duration::from_secs(6);

fn proves(kind: Kind, signed: bool) {
    let scratch = Scratch::new().unwrap();
    let mut make = process::command("sh");
    make.args(["-c", CERTIFICATES])
        .current_dir(scratch.path())
        .env("ADDRESS", Wire::Service.appliance().to_string());
    process::check(make, LIMIT).unwrap();
    let text = |name: &str| fs::read_to_string(scratch.file(name)).unwrap();
    let mut script = script(kind);
    let signatures = if signed { "required" } else { "optional" };
    script.config = vec![
        ("api.signatures".into(), signatures.into()),
        ("api.tls.anchors".into(), text("ca.crt64")),
        ("api.tls.certificate".into(), text("appliance.crt64")),
        ("api.tls.key".into(), text("appliance.key64")),
        ("api.tls.dates".into(), "checked".into()),
        ("api.trust-domain".into(), "example.org".into()),
    ];
    let (stage, _turn) = fixture::stage(&script);
    if signed {
        std::thread::sleep(FIRST_SECONDS);
    }
    let as_service = |who: &str, words: &[&str]| {
        let mut command = stage.net.command(env!("CARGO_BIN_EXE_corbel"));
        command.arg("ctl").args(if signed && !who.is_empty() { &["--sign-requests"][..] } else { &[] });
        command.args(words).env("CORBEL_URL", format!("https://{}", stage.net.api()));
        command.env("CORBEL_CA", scratch.file("ca.pem"));
        if !who.is_empty() {
            command.env("CORBEL_CERT", scratch.file(&format!("{who}.pem")));
            command.env("CORBEL_KEY", scratch.file(&format!("{who}.key")));
        }
        process::run(command, LIMIT).unwrap()
    };
    let made = as_service("vm", &["create", "web-1", "--image", IMAGE, "--start", "--wait"]);
    assert_eq!(
        (made.code, made.stdout.as_str()),
        (0, "web-1: create succeeded; it is running\n"),
        "{}",
        made.text()
    );
    let refused = as_service("storage", &["terminate", "web-1"]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("svc/storage may not") && refused.stderr.contains("--cert"),
        "{}",
        refused.text()
    );
    assert_eq!(as_service("storage", &["targets"]).code, 0);
    // Whoever proves nothing is not heard, and knows it.
    let nobody = as_service("", &["terminate", "web-1"]);
    assert_eq!(nobody.code, 4, "{}", nobody.text());
    assert!(as_service("vm", &["instances"]).stdout.contains("web-1  running"));
    assert_eq!(as_service("vm", &["terminate", "web-1", "--wait"]).code, 0);
}
