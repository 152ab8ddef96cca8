//! The appliance's API as questions and answers: JSON in and out, problems as failures, a lost answer asked for once more.

use crate::failure::{Failure, Outcome, Problem};
use crate::link::{self, Answer, Ask, Broken, Link};
use crate::plain;
use crate::progress::{Interrupt, Progress};
use crate::screen::Screen;
use management_http::Method;
use serde_json::Value;
use std::time::Duration;

/// How long an answer may take: longer than the longest question of the appliance to its agent.
const PATIENCE: Duration = Duration::from_secs(70);
/// The most pages of a list: ten thousand instances are fifty.
const PAGES: usize = 1000;

/// A client of one appliance.
pub(crate) struct Api<'a> {
    pub(crate) screen: &'a Screen,
    pub(crate) interrupt: Interrupt,
    link: Link,
}

impl<'a> Api<'a> {
    pub(crate) fn new(link: Link, screen: &'a Screen, interrupt: Interrupt) -> Self {
        Self { screen, interrupt, link }
    }

    /// The document at `path`.
    pub(crate) fn get(&mut self, path: &str) -> Outcome<Value> {
        let mut progress = Progress::new(self.screen, "asking");
        self.get_showing(path, &mut progress)
    }

    /// The same, while a line says what is waited for.
    pub(crate) fn get_showing(&mut self, path: &str, progress: &mut Progress<'_>) -> Outcome<Value> {
        self.ask(Method::Get, path, None, progress).and_then(document)
    }

    /// What is at `path` as text, whatever its status.
    pub(crate) fn text(&mut self, path: &str) -> Outcome<(u16, String)> {
        let mut progress = Progress::new(self.screen, "asking");
        let answer = self.exchange(Method::Get, path, None, &mut progress)?;
        let text = String::from_utf8(answer.body).map_err(|_| nonsense("it is no text"))?;
        Ok((answer.status, text))
    }

    /// The document at `path`, whatever its status.
    pub(crate) fn any(&mut self, path: &str) -> Outcome<(u16, Value)> {
        let (status, text) = self.text(path)?;
        let value = serde_json::from_str(&text).map_err(|_| nonsense("it is no JSON"))?;
        Ok((status, value))
    }

    /// Change something. The body is sent once more when the answer is lost: it carries a token by which the appliance
    /// knows it again, or says how a thing is to be, which is the same said twice. An answer that makes no sense is as
    /// good as lost.
    pub(crate) fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        label: &str,
    ) -> Outcome<Value> {
        let body = body.map(Value::to_string);
        let mut progress = Progress::new(self.screen, label);
        let answer = self.ask(method, path, body.as_deref().map(str::as_bytes), &mut progress);
        answer.and_then(document).map_err(|failure| match failure {
            Failure::Nonsense(what) => Failure::Lost(
                what,
                "nobody knows whether it was done. Is this the management API of a Corbel appliance? `corbelctl \
                 status` tells its version."
                    .into(),
            ),
            other => other,
        })
    }

    /// All pages of a list, as one document with `member` whole.
    pub(crate) fn list(&mut self, path: &str, member: &str, most: usize) -> Outcome<Value> {
        let mut whole: Vec<Value> = Vec::new();
        let mut after: Option<String> = None;
        let mut document = Value::Null;
        let separator = if path.contains('?') { '&' } else { '?' };
        for _ in 0..PAGES {
            let limit = (most - whole.len()).min(200);
            let mut page = format!("{path}{separator}limit={limit}");
            if let Some(after) = &after {
                page += &format!("&after={after}");
            }
            document = self.get(&page)?;
            let Some(Value::Array(items)) = document.get_mut(member).map(Value::take) else {
                return Err(nonsense(&format!("it has no list of {member}")));
            };
            whole.extend(items);
            after = document.get("next").and_then(next);
            if after.is_none() || whole.len() >= most {
                break;
            }
        }
        document[member] = Value::Array(whole);
        if let Some(document) = document.as_object_mut()
            && after.is_none()
        {
            document.remove("next");
        }
        Ok(document)
    }

    fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&[u8]>,
        progress: &mut Progress<'_>,
    ) -> Outcome<Answer> {
        let answer = self.exchange(method, path, body, progress)?;
        if answer.status < 400 {
            return Ok(answer);
        }
        let problem = serde_json::from_slice(&answer.body).ok().and_then(Problem::of);
        Err(match problem.filter(|_| answer.media_type.starts_with(management_http::PROBLEM_JSON)) {
            Some(problem) => Failure::Problem(Box::new(problem)),
            None => nonsense(&format!("status {} comes without a problem document", answer.status)),
        })
    }

    fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&[u8]>,
        progress: &mut Progress<'_>,
    ) -> Outcome<Answer> {
        let ask = Ask { method, path, body, patience: PATIENCE };
        let sent = body.map(shown).unwrap_or_default();
        self.screen.detail(&format!("> {method} {}{path} {sent}", self.link.url()));
        let reads = matches!(method, Method::Get | Method::Head);
        if !reads {
            self.interrupt.hold();
        }
        let interrupt = self.interrupt.clone();
        let mut tick = || {
            progress.tick();
            !interrupt.is_set()
        };
        let mut answer = self.link.ask(&ask, &mut tick);
        if let Err(Broken::Lost(why)) = &answer {
            self.screen.detail(&format!("! {why}; asking once more"));
            answer = match self.link.ask(&ask, &mut tick) {
                // The first time it may have been heard.
                Err(Broken::Unsent(why, _)) => Err(Broken::Lost(why)),
                other => other,
            };
        }
        match answer {
            Ok(answer) => {
                self.screen.detail(&format!("< {} {}", answer.status, shown(&answer.body)));
                Ok(answer)
            }
            Err(Broken::Unsent(why, advice)) => Err(Failure::Unreachable(why, advice)),
            Err(Broken::Lost(why)) if reads => {
                Err(Failure::Unreachable(why, "nothing was changed by asking; try again."))
            }
            Err(Broken::Lost(why)) => Err(Failure::Lost(
                format!("the answer was lost: {why}"),
                "nobody knows whether it was done; look at it, or say the same again with the same --token."
                    .into(),
            )),
            Err(Broken::Nonsense(why)) => Err(nonsense(&why)),
            Err(Broken::Interrupted) => Err(Failure::Interrupted),
        }
    }
}

/// A body for `--verbose`, without secrets: what is shown ends in logs and tickets.
fn shown(body: &[u8]) -> String {
    let Ok(mut document) = serde_json::from_slice(body) else {
        return plain::line(&String::from_utf8_lossy(body));
    };
    hide(&mut document);
    plain::json(&document.to_string())
}

fn hide(document: &mut Value) {
    match document {
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(members) => {
            for (name, value) in members {
                if name.ends_with("secret") || name == "join_token" {
                    *value = "(hidden)".into();
                } else {
                    hide(value);
                }
            }
        }
        _ => {}
    }
}

/// A list's `next`: a name, or a number.
fn next(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    // It goes into the next request.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    Some(text).filter(|text| !text.is_empty() && text.bytes().all(plain))
}

fn document(answer: Answer) -> Outcome<Value> {
    if answer.body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&answer.body).map_err(|_| nonsense("it is no JSON"))
}

fn nonsense(why: &str) -> Failure {
    Failure::Nonsense(format!("the answer makes no sense: {why}"))
}

/// A name for one request that no other has.
pub(crate) fn token() -> Outcome<String> {
    let bytes = link::random().map_err(|error| Failure::Here(error.to_string()))?;
    Ok(format!("ctl-{:032x}", u128::from_be_bytes(bytes)))
}
