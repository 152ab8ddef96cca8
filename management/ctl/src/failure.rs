//! What can go wrong, what it means for the exit code, and what to do about it.

use crate::{advice, plain, screen::Screen};
use serde_json::Value;
use std::process::ExitCode;

/// The exit codes, which scripts may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// What was asked for is so, or has been accepted.
    Done = 0,
    /// It was refused, or was tried and has failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Nobody knows yet, or nobody can know, whether it was done.
    Unknown = 3,
    /// The appliance could not be asked; nothing was done.
    Unreachable = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ends without what was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line, or the file it names, is wrong; and what would be right.
    Usage(String, &'static str),
    /// Something on this machine: a file, a clock.
    Here(String),
    /// The appliance could not be asked.
    Unreachable(String, &'static str),
    /// It was asked to change something, and the answer was lost or makes no sense.
    Lost(String, String),
    /// It answered with a problem.
    Problem(Box<Problem>),
    /// It was asked something, and what it answered is not its API.
    Nonsense(String),
    /// The user wanted to wait no longer.
    Interrupted,
    /// All has been said; only the exit code is left.
    Said(Exit),
}

pub(crate) type Outcome<T> = Result<T, Failure>;

/// A problem document (RFC 9457).
#[derive(Debug)]
pub(crate) struct Problem {
    /// The last part of its type.
    pub(crate) name: String,
    /// The document itself.
    pub(crate) document: Value,
}

impl Problem {
    /// `document`, if it is one.
    pub(crate) fn of(document: Value) -> Option<Self> {
        let name = document.get("type")?.as_str()?.rsplit([':', '/']).next()?;
        Some(Self { name: plain::line(name), document })
    }

    /// A member of the document as plain text.
    pub(crate) fn text(&self, member: &str) -> String {
        plain::line(self.document.get(member).and_then(Value::as_str).unwrap_or_default())
    }

    /// What happened, on one line.
    pub(crate) fn words(&self) -> String {
        let (title, detail) = (self.text("title"), self.text("detail"));
        let what = match (title.as_str(), detail.as_str()) {
            ("", "") => "the appliance gives no reason".into(),
            (title, "") => title.to_string(),
            ("", detail) => detail.to_string(),
            (title, detail) => format!("{title}: {detail}"),
        };
        format!("{what} [{}]", self.name)
    }

    /// The exit code that it stands for.
    pub(crate) fn exit(&self) -> Exit {
        match self.name.as_str() {
            "outcome-unknown" => Exit::Unknown,
            _ => Exit::Failed,
        }
    }
}

impl Failure {
    /// The exit code it ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(..) => Exit::Usage,
            Self::Here(_) | Self::Nonsense(_) => Exit::Failed,
            Self::Unreachable(..) => Exit::Unreachable,
            Self::Lost(..) | Self::Interrupted => Exit::Unknown,
            Self::Problem(problem) => problem.exit(),
            Self::Said(exit) => *exit,
        }
    }

    /// Say it to standard error, and with `--json` the problem document to standard output.
    pub(crate) fn report(&self, screen: &Screen) {
        match self {
            Self::Usage(what, advice) | Self::Unreachable(what, advice) => screen.error(what, Some(advice)),
            Self::Here(what) => screen.error(what, None),
            Self::Lost(what, advice) => screen.error(what, Some(advice)),
            Self::Nonsense(what) => screen.error(
                what,
                Some(
                    "is this the management API of a Corbel appliance? `corbelctl status` tells its version.",
                ),
            ),
            Self::Problem(problem) => {
                if screen.is_json() {
                    screen.document(&problem.document);
                }
                screen.error(&problem.words(), advice::of(&problem.name));
            }
            Self::Interrupted => screen.note("interrupted"),
            Self::Said(_) => {}
        }
    }
}
