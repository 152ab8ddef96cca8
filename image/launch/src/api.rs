//! The management API, asked with `curl` as anybody would.

use crate::net::Net;
use crate::{Context, Error, Result, process};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(40);

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The media type.
    pub media: String,
    /// The body; `null` when it was empty.
    pub body: Value,
}

impl Answer {
    /// The field at `pointer` (RFC 6901) as text; empty when there is none.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether it is an operation that has been carried out.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.status) && self.text("/state") == "succeeded"
    }
}

/// One request; `body` is sent as JSON unless it is `None`.
///
/// # Errors
/// When there is no answer, or one that is not JSON.
pub fn ask(net: &Net, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
    ask_within(net, method, path, body, 30)
}

/// The same of an appliance that may be killed meanwhile: nobody ends its connections then, so that an answer is waited for
/// until these `seconds` are over.
///
/// # Errors
/// When there is no answer, or one that is not JSON.
pub fn ask_within(net: &Net, method: &str, path: &str, body: Option<&Value>, seconds: u32) -> Result<Answer> {
    let curl = request(net, method, path, body, seconds);
    let text = process::check(curl, LIMIT)?;
    let (body, last) = text.rsplit_once('\n').ok_or_else(|| Error::new("curl printed no status"))?;
    let (status, media) = last.split_once(' ').unwrap_or((last, ""));
    let body = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(body).context(format!("{path}: {body}"))?
    };
    Ok(Answer { status: status.parse().context("curl's status")?, media: media.into(), body })
}

/// The program that makes a request, and prints the answer with its status and media type in a last line.
#[must_use]
pub fn request(net: &Net, method: &str, path: &str, body: Option<&Value>, seconds: u32) -> Command {
    let mut curl = net.command("curl");
    curl.args(["-sS", "--noproxy", "*", "-X", method, "-w", "\n%{http_code} %{content_type}"]);
    curl.args(["--max-time", &seconds.to_string()]);
    if let Some(body) = body {
        curl.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
    }
    curl.arg(format!("http://{}{path}", net.api()));
    curl
}
