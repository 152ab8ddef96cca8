//! A request as the server hands it on, and a response as it is given back.

use crate::refusal::PROBLEM_JSON;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The methods that some resource here may have (RFC 9110 section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Read.
    Get,
    /// Read, without the body.
    Head,
    /// Act, or make something that the server names.
    Post,
    /// Make or replace what the client names.
    Put,
    /// Change a part.
    Patch,
    /// Remove.
    Delete,
}

impl Method {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            _ => return None,
        })
    }

    /// The token on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A complete request, lent by the engine.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The path: begins with `/`, without percent-encoding, dot segments and empty segments inside.
    pub path: &'a str,
    /// What follows `?`, if there was one.
    pub query: Option<&'a str>,
    /// The body; empty when there is none.
    pub body: &'a [u8],
    pub(crate) fields: &'a [(core::ops::Range<usize>, core::ops::Range<usize>)],
    pub(crate) head: &'a [u8],
}

impl<'a> Request<'a> {
    /// The value of the header field `name` (any case), the first if there are several.
    pub fn field(&self, name: &str) -> Option<&'a str> {
        self.fields(name).next()
    }

    /// The values of all header fields `name` (any case), in their order.
    pub fn fields<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        let (head, fields) = (self.head, self.fields);
        fields.iter().filter_map(move |(field, value)| {
            let found = head.get(field.clone())?.eq_ignore_ascii_case(name.as_bytes());
            if found { core::str::from_utf8(head.get(value.clone())?).ok() } else { None }
        })
    }

    /// The media type of the body in lower case, without parameters.
    pub fn media_type(&self) -> Option<String> {
        let value = self.field("content-type")?;
        Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
    }
}

/// A response; the engine adds what frames it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The status code, 200 to 599.
    pub status: u16,
    /// The media type of the body.
    pub media_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
    /// `Location`: where what was made can be found.
    pub location: Option<String>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
    /// `Allow`: the methods that the resource has, with a 405.
    pub allow: Option<&'static str>,
    /// Close the connection after it.
    pub close: bool,
}

impl Response {
    /// A response with a JSON body.
    pub fn json(status: u16, body: Vec<u8>) -> Self {
        Self { status, media_type: "application/json", body, ..Self::default() }
    }

    /// A response with a problem document as its body.
    pub fn problem(status: u16, body: Vec<u8>) -> Self {
        Self { status, media_type: PROBLEM_JSON, body, ..Self::default() }
    }

    /// A response with plain text.
    pub fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, media_type: "text/plain; charset=utf-8", body: body.into(), ..Self::default() }
    }

    /// A response without a body.
    pub fn no_content() -> Self {
        Self { status: 204, ..Self::default() }
    }

    /// Append the encoded response to `output`; without its body when it answers a `HEAD`.
    pub(crate) fn encode(&self, output: &mut Vec<u8>, to_head: bool, close: bool) {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        // RFC 9110 section 8.6: a 204 has no Content-Length.
        if self.status != 204 {
            head += &format!("Content-Type: {}\r\nContent-Length: {}\r\n", self.media_type, self.body.len());
        }
        head += "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n";
        if let Some(location) = self.location.as_deref().filter(|text| is_field_value(text)) {
            head += &format!("Location: {location}\r\n");
        }
        if let Some(seconds) = self.retry_after {
            head += &format!("Retry-After: {seconds}\r\n");
        }
        if let Some(methods) = self.allow {
            head += &format!("Allow: {methods}\r\n");
        }
        if close {
            head += "Connection: close\r\n";
        }
        head += "\r\n";
        output.extend_from_slice(head.as_bytes());
        if !to_head && self.status != 204 {
            output.extend_from_slice(&self.body);
        }
    }
}

/// Whether `text` can be the value of a field without ending it.
fn is_field_value(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The reason phrase of a status code (RFC 9110 section 15).
pub const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Status",
    }
}
