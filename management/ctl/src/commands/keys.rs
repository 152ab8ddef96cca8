//! The appliance's own key and certificate: the first by a join token, and those after it.

use super::order::json;
use super::{state, text};
use crate::api::Api;
use crate::arguments::{Enrol, KeyAction, Signing};
use crate::clock;
use crate::failure::{Exit, Failure, Outcome};
use crate::screen::{Screen, Tint};
use crate::table::{Cell, facts};
use management_api::{CertificateDocument, EnrolRequest};
use management_http::Method;
use network_tls::{Pin, Token};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What proofs are for, as the appliance has it.
const FOR_REQUEST: &str = "corbel-enrol-request";
const FOR_CERTIFICATE: &str = "corbel-enrol-certificate";
/// Larger is no chain of certificates and no token.
const FILE_LIMIT: u64 = 64 << 10;

/// The first certificate.
pub(super) fn enrol(api: &mut Api<'_>, options: &Enrol) -> Outcome<Exit> {
    let token = token(&options.token_file)?;
    let chain = match &options.install {
        Some(file) => read(file)?,
        None => {
            let request = api.get("/v1/enrol")?;
            let pem = text_of(&request, "request")?;
            let proof = text_of(&request, "proof")?.parse::<Pin>().map_err(|_| unproved())?;
            let der = blocks(&pem).into_iter().next().ok_or_else(unproved)?;
            let is_its_own = token.accepts(FOR_REQUEST, &der, &proof.0);
            if !is_its_own {
                return Err(unproved());
            }
            match signed(api.screen, &request, &pem, &options.signing)? {
                Some(chain) => chain,
                None => return Ok(Exit::Done),
            }
        }
    };
    let certificates = certificates(&chain)?;
    let proof = Pin(token.proof(FOR_CERTIFICATE, &certificates.concat())).to_string();
    let body = json(&EnrolRequest { certificates: in_base64(&certificates), proof })?;
    let keys = api.send(Method::Post, "/v1/enrol", Some(&body), "enrolling")?;
    show(api.screen, &keys);
    Ok(Exit::Done)
}

/// How it is with the keys, and a new one.
pub(super) fn run(api: &mut Api<'_>, action: Option<&KeyAction>) -> Outcome<Exit> {
    let chain = match action {
        None | Some(KeyAction::Show) => {
            let keys = api.get("/v1/keys")?;
            show(api.screen, &keys);
            return Ok(Exit::Done);
        }
        Some(KeyAction::Rotate { signing }) => {
            let request = api.send(Method::Post, "/v1/keys:rotate", None, "making a key")?;
            let pem = text_of(&request, "request")?;
            match signed(api.screen, &request, &pem, signing)? {
                Some(chain) => chain,
                None => return Ok(Exit::Done),
            }
        }
        Some(KeyAction::Install { file }) => read(file)?,
    };
    let certificates = in_base64(&certificates(&chain)?);
    let body = json(&CertificateDocument { certificates })?;
    let keys = api.send(Method::Put, "/v1/keys", Some(&body), "installing")?;
    show(api.screen, &keys);
    Ok(Exit::Done)
}

fn show(screen: &Screen, keys: &Value) {
    if screen.is_json() {
        screen.document(keys);
        return;
    }
    let date = |pointer: &str| super::number(keys, pointer).map(clock::date).unwrap_or_default();
    let left = match (text(keys, "/certificate/days_left"), text(keys, "/certificate/rotation_due").as_str())
    {
        (days, _) if days.is_empty() => Cell::from(days),
        (days, "yes") => {
            Cell::tinted(format!("{days} days: it is time for `corbelctl keys rotate`"), Tint::Warn)
        }
        (days, _) => Cell::from(format!("{days} days")),
    };
    facts(
        screen,
        &[
            ("enrolled", state(&text(keys, "/certificate/enrolled"))),
            ("valid from", date("/certificate/not_before").into()),
            ("valid until", date("/certificate/not_after").into()),
            ("left", left),
            ("key that waits", text(keys, "/waiting").into()),
        ],
    );
}

/// The chain that the operator's command makes of a request; without one the request is all there is to show.
fn signed(screen: &Screen, request: &Value, pem: &str, signing: &Signing) -> Outcome<Option<String>> {
    let Some(command) = &signing.sign else {
        if screen.is_json() {
            screen.document(request);
        } else {
            screen.put(pem);
            screen.note("have an authority make a certificate of this request, and install it");
        }
        return Ok(None);
    };
    let here = |error: &dyn std::fmt::Display| Failure::Here(format!("{command}: {error}"));
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| here(&error))?;
    if let Some(mut input) = child.stdin.take() {
        // One that does not read it says why by its exit code.
        let _it_may_not_want_it = input.write_all(pem.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| here(&error))?;
    if !output.status.success() {
        return Err(here(&output.status));
    }
    String::from_utf8(output.stdout).map(Some).map_err(|error| here(&error))
}

/// The token, which stands alone in its file.
fn token(file: &Path) -> Outcome<Token> {
    let text = read(file)?;
    let wrong =
        || Failure::Here(format!("{}: a join token has 22 to 128 printable characters", file.display()));
    Token::new(text.trim()).ok_or_else(wrong)
}

fn read(file: &Path) -> Outcome<String> {
    let here = |error: &dyn std::fmt::Display| Failure::Here(format!("{}: {error}", file.display()));
    let length = fs::metadata(file).map_err(|error| here(&error))?.len();
    if length > FILE_LIMIT {
        return Err(here(&format!("it has {length} bytes, more than {FILE_LIMIT}")));
    }
    fs::read_to_string(file).map_err(|error| here(&error))
}

fn text_of(document: &Value, member: &str) -> Outcome<String> {
    let text = document.get(member).and_then(Value::as_str).map(crate::plain::lines);
    text.ok_or_else(|| Failure::Nonsense(format!("the answer makes no sense: it has no {member}")))
}

fn unproved() -> Failure {
    let what = "whoever answers there does not know the join token".into();
    Failure::Usage(
        what,
        "is it the right appliance, and the token of its configuration? Nothing was sent to it.",
    )
}

/// The DER of each block of a PEM text.
fn blocks(pem: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for block in pem.split("-----BEGIN ").skip(1) {
        let inside = block.split_once("-----").and_then(|(_, rest)| rest.split("-----END").next());
        let base64: String = inside.unwrap_or_default().split_whitespace().collect();
        found.extend(network_tls::der(&base64));
    }
    found
}

fn certificates(pem: &str) -> Outcome<Vec<Vec<u8>>> {
    let list = blocks(pem);
    if list.is_empty() {
        return Err(Failure::Here("there is no certificate in PEM".into()));
    }
    Ok(list)
}

fn in_base64(list: &[Vec<u8>]) -> Vec<String> {
    list.iter()
        .map(|der| {
            let pem = network_tls::pem("CERTIFICATE", der);
            pem.lines().filter(|line| !line.starts_with("-----")).collect()
        })
        .collect()
}
