//! What the engine itself answers to a request that it does not hand on.

use alloc::format;
use alloc::string::String;

/// The media type of RFC 9457.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What the type of every problem begins with.
pub const PROBLEM_NAMESPACE: &str = "urn:corbel:problem:";

/// Why a request was refused before anyone looked at what it asks for. The connection is closed after each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The head is not that of an HTTP/1.1 request.
    Malformed,
    /// The target is not one of the few shapes this server uses.
    Target,
    /// `Host` is missing, repeated, malformed, or contradicts the target.
    Host,
    /// The length of the body is not clear.
    Framing,
    /// The request did not arrive in time.
    Timeout,
    /// The body is too long.
    BodyTooLarge,
    /// The first line is too long.
    TargetTooLong,
    /// There are too many header fields, or they are too long.
    HeadTooLarge,
    /// An expectation other than `100-continue`.
    Expectation,
    /// A transfer coding.
    TransferCoding,
    /// A method that this server knows for no resource.
    Method,
    /// A version other than HTTP/1.1.
    Version,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::Target,
        Self::Host,
        Self::Framing,
        Self::Timeout,
        Self::BodyTooLarge,
        Self::TargetTooLong,
        Self::HeadTooLarge,
        Self::Expectation,
        Self::TransferCoding,
        Self::Method,
        Self::Version,
    ];

    /// Name, status, title and detail.
    pub const fn describe(self) -> (&'static str, u16, &'static str, &'static str) {
        match self {
            Self::Malformed => (
                "malformed-request",
                400,
                "Malformed request",
                "The head of the request breaks the grammar of HTTP/1.1; lines end with CR LF, are not folded, and \
                 hold printable ASCII.",
            ),
            Self::Target => (
                "malformed-target",
                400,
                "Malformed request target",
                "The target is a path of plain segments with an optional query; this API uses no percent-encoding, \
                 dot segments or empty segments.",
            ),
            Self::Host => (
                "malformed-host",
                400,
                "Missing or malformed Host",
                "A request carries exactly one Host field, and an absolute target names the same host.",
            ),
            Self::Framing => (
                "ambiguous-length",
                400,
                "Ambiguous body length",
                "A body is announced by one Content-Length of decimal digits and by nothing else.",
            ),
            Self::Timeout => {
                ("request-timeout", 408, "Request timeout", "The request did not arrive completely in time.")
            }
            Self::BodyTooLarge => {
                ("body-too-large", 413, "Body too large", "The body is longer than this server accepts.")
            }
            Self::TargetTooLong => (
                "target-too-long",
                414,
                "Target too long",
                "The request line is longer than this server accepts.",
            ),
            Self::HeadTooLarge => (
                "head-too-large",
                431,
                "Head too large",
                "There are more header fields, or more bytes of them, than this server accepts.",
            ),
            Self::Expectation => {
                ("unknown-expectation", 417, "Unknown expectation", "Only 100-continue can be expected.")
            }
            Self::TransferCoding => (
                "transfer-coding",
                501,
                "Transfer codings are not supported",
                "Send the body with a Content-Length.",
            ),
            Self::Method => {
                ("unknown-method", 501, "Unknown method", "No resource of this server has this method.")
            }
            Self::Version => {
                ("http-version", 505, "HTTP version not supported", "This server speaks HTTP/1.1 only.")
            }
        }
    }

    /// The status code.
    pub const fn status(self) -> u16 {
        self.describe().1
    }

    /// The problem document. All of it is fixed text without a character that JSON would escape.
    pub fn document(self) -> String {
        let (name, status, title, detail) = self.describe();
        format!(
            r#"{{"type":"{PROBLEM_NAMESPACE}{name}","title":"{title}","status":{status},"detail":"{detail}"}}"#
        )
    }
}
