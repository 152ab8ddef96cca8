//! CHAP: libiscsi proves itself, believes the appliance or not, and is kept out where it cannot.

use crate::fixture::{script, stage, target};
use image_launch::disk::{NbdServer, Server, empty};
use image_launch::initiator;
use image_launch::stage::{IQN, Stage};
use image_launch::{api, process};
use serde_json::json;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// The secrets of the configuration and of the API, none of which may be seen anywhere.
const SECRETS: [&str; 4] = ["open-sesame-open", "sesame-is-open", "discover-us-all", "given-by-the-api"];

/// What a tool of libiscsi says of a URL, and whether it was let in.
fn ask(stage: &Stage, tool: &str, before: &str, path: &str) -> (bool, String) {
    let mut command = stage.net.command(tool);
    command.arg(format!("iscsi://{before}{}{path}", stage.net.portal()));
    match process::check(command, LIMIT) {
        Ok(said) => (true, said),
        Err(error) => (false, error.to_string()),
    }
}

#[test]
fn libiscsi_is_let_in_with_the_right_secrets_only_one_way_and_mutually() {
    let mut script = script(target(), 8 << 20, Server::QemuNbd);
    script.config = [
        ("target.0.chap.0.user", "host"),
        ("target.0.chap.0.secret", SECRETS[0]),
        ("target.0.chap.0.target-user", "corbel"),
        ("target.0.chap.0.target-secret", SECRETS[1]),
        ("discovery.chap.0.user", "anybody"),
        ("discovery.chap.0.secret", SECRETS[2]),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string()))
    .to_vec();
    let (stage, _turn) = stage(&script);
    let disk = format!("/{IQN}:disk0/0");
    let mutual = |user: &str, secret: &str| format!("{disk}?target_user={user}&target_password={secret}");
    for (before, path, enters) in [
        ("host%open-sesame-open@", disk.clone(), true),
        ("host%open-sesame-open@", mutual("corbel", "sesame-is-open"), true),
        ("", disk.clone(), false),
        ("host%open-sesame-shut@", disk.clone(), false),
        ("anybody%discover-us-all@", disk.clone(), false),
        ("host%open-sesame-open@", mutual("corbel", "sesame-is-shut"), false),
        ("host%open-sesame-open@", mutual("lebroc", "sesame-is-open"), false),
    ] {
        let (entered, said) = ask(&stage, "iscsi-inq", before, &path);
        assert_eq!(entered && said.contains("DIRECT_ACCESS"), enters, "{before} {path}: {said}");
    }
    let found = ask(&stage, "iscsi-ls", "anybody%discover-us-all@", "");
    assert!(found.0 && found.1.contains(&format!("Target:{IQN}:disk0")), "{found:?}");
    let unknown = ask(&stage, "iscsi-ls", "host%open-sesame-open@", "");
    assert!(!unknown.1.contains("Target:"), "{unknown:?}");
    let silent = initiator::discover(&stage.net, stage.net.portal());
    assert!(silent.is_err(), "{silent:?}");

    by_the_api(&stage);
    let console = stage.appliance.console();
    assert!(console.contains("refused"), "{console}");
    for secret in SECRETS {
        assert!(!console.contains(secret), "{console}");
    }
    assert!(!stage.appliance.has_panicked(), "{console}");
}

/// A target that the API makes, with an account.
fn by_the_api(stage: &Stage) {
    let file = stage.scratch.file("api.raw");
    empty(&file, 1 << 20).unwrap();
    let server = NbdServer::start(&stage.net, &stage.scratch, &Server::QemuNbd, &file, 10_999).unwrap();
    let volume = server.uri();
    let account = json!({ "user": "guest", "secret": SECRETS[3] });
    let put = |chap: &serde_json::Value| {
        let body =
            json!({ "iqn": format!("{IQN}:api"), "volume": volume, "initiators": ["*"], "chap": chap });
        api::ask(&stage.net, "PUT", "/v1/targets/api", Some(&body)).unwrap()
    };
    let short = put(&json!({ "accounts": [{ "user": "guest", "secret": "short" }] }));
    assert_eq!(short.status, 422, "{short:?}");
    let made = put(&json!({ "accounts": [account], "algorithms": "sha3-256,md5" }));
    assert_eq!(made.status, 201, "{made:?}");
    let again = put(&json!({ "accounts": [account], "algorithms": "md5,sha3-256" }));
    assert_eq!(again.status, 200, "{again:?}");
    let other = put(&json!({ "accounts": [{ "user": "guest", "secret": "another-secret" }] }));
    assert_eq!(other.status, 409, "{other:?}");
    let shown = api::ask(&stage.net, "GET", "/v1/targets", None).unwrap();
    let said = format!("{made:?} {again:?} {other:?} {shown:?}");
    assert!(said.contains("chap"), "{said}");
    assert!(
        SECRETS.iter().all(|secret| !said.contains(secret)) && !said.contains("another-secret"),
        "{said}"
    );
    let path = format!("/{IQN}:api/0");
    let wrong = ask(stage, "iscsi-inq", "guest%given-by-anyone@", &path);
    assert!(!wrong.0, "{wrong:?}");
    let right = ask(stage, "iscsi-inq", "guest%given-by-the-api@", &path);
    assert!(right.0 && right.1.contains("DIRECT_ACCESS"), "{right:?}");
}
