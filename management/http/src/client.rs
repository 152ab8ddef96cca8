//! The client's side of one connection: one request at a time, and its response.

use crate::fields;
use crate::head::{self, Field, Scan};
use crate::limits::FIELDS_MAX;
use crate::{Limits, Method, Refusal};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// Why the connection can be used no more: the peer does not speak HTTP/1.1 as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// The head of the response is malformed, of another version, or too large.
    Head,
    /// Its body has no clear length, or one that is too large.
    Framing,
    /// Bytes came that answer no request.
    Unsolicited,
    /// The peer closed in the middle of a response.
    Truncated,
    /// There is no memory for the rest of the body.
    NoMemory,
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head => "the head of the response is malformed or too large",
            Self::Framing => "the body of the response has no clear length or is too large",
            Self::Unsolicited => "the peer sent bytes that answer no request",
            Self::Truncated => "the peer closed the connection in the middle of a response",
            Self::NoMemory => "there is no memory for the body of the response",
        })
    }
}

impl core::error::Error for Fatal {}

/// A complete response, lent by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The status code.
    pub status: u16,
    /// The value of `Content-Type`, if there is one.
    pub media_type: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// One connection: a request in, bytes out and in, its response out.
pub struct Client {
    limits: Limits,
    /// The value of `Host`.
    host: String,
    buffer: Vec<u8>,
    filled: usize,
    scan: Scan,
    fields: Vec<Field>,
    media_type: Option<Range<usize>>,
    phase: Phase,
    /// The peer closes after the current response.
    closing: bool,
    output: Vec<u8>,
    sent: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No request is under way.
    Idle,
    /// The head of its response is coming.
    Head,
    /// The body of its response is coming, from the first position to the second.
    Body(u16, usize, usize),
    /// Its response is complete.
    Ready(u16, usize, usize),
}

/// Interim responses that are skipped before one response, at most.
const INTERIM_MAX: usize = 4;

impl Client {
    /// A new connection to `host`, which is what `Host` will say.
    pub fn new(limits: Limits, host: &str) -> Self {
        Self {
            limits,
            host: host.into(),
            buffer: vec![0; limits.head()],
            filled: 0,
            scan: Scan::default(),
            fields: Vec::with_capacity(FIELDS_MAX),
            media_type: None,
            phase: Phase::Idle,
            closing: false,
            output: Vec::new(),
            sent: 0,
        }
    }

    /// Begin a request; whatever is known of the one before is forgotten. `path` is one of the program's own, and
    /// a body is JSON.
    pub fn request(&mut self, method: Method, path: &str, body: Option<&[u8]>) {
        self.request_with(method, path, "", body);
    }

    /// The same with more header fields: the program's own, each a line with its end.
    pub fn request_with(&mut self, method: Method, path: &str, fields: &str, body: Option<&[u8]>) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{fields}", self.host);
        if let Some(body) = body {
            head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        self.output.clear();
        self.sent = 0;
        self.output.extend_from_slice(head.as_bytes());
        self.output.extend_from_slice(body.unwrap_or_default());
        self.buffer.resize(self.limits.head(), 0);
        self.buffer.shrink_to_fit();
        self.filled = 0;
        self.scan = Scan::default();
        self.phase = Phase::Head;
    }

    /// The bytes that are to be written.
    pub fn transmit(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// `count` of them were written.
    pub fn transmitted(&mut self, count: usize) {
        self.sent = (self.sent + count).min(self.output.len());
        if self.sent == self.output.len() {
            // It is not kept for nothing: some bodies are long.
            (self.output, self.sent) = (Vec::new(), 0);
        }
    }

    /// Where the next bytes belong. Never empty, so that what was not asked for is seen.
    pub fn space(&mut self) -> &mut [u8] {
        if self.filled == self.buffer.len() {
            // Full, and more is expected only by a peer that breaks the rules: one byte is enough to notice.
            self.buffer.push(0);
        }
        &mut self.buffer[self.filled..]
    }

    /// `count` bytes were read into [`Client::space`].
    pub fn received(&mut self, count: usize) -> Result<(), Fatal> {
        self.filled = (self.filled + count).min(self.buffer.len());
        let mut interim = 0;
        while self.phase == Phase::Head {
            match self.scan.advance(&self.buffer[..self.filled], &self.limits) {
                Ok(None) => return Ok(()),
                Ok(Some(end)) => self.parse(end)?,
                Err(_) => return Err(Fatal::Head),
            }
            interim += 1;
            if interim > INTERIM_MAX {
                return Err(Fatal::Head);
            }
        }
        match self.phase {
            Phase::Body(status, start, end) if self.filled == end => {
                self.phase = Phase::Ready(status, start, end);
            }
            Phase::Body(_, _, end) if self.filled < end => self.grow(end)?,
            _ if count == 0 => {}
            _ => return Err(Fatal::Unsolicited),
        }
        Ok(())
    }

    /// The peer has finished sending.
    pub fn end_of_input(&mut self) -> Result<(), Fatal> {
        self.closing = true;
        match self.phase {
            Phase::Idle | Phase::Ready(..) => Ok(()),
            Phase::Head | Phase::Body(..) => Err(Fatal::Truncated),
        }
    }

    /// The response, once it is complete.
    pub fn reply(&self) -> Option<Reply<'_>> {
        let Phase::Ready(status, start, end) = self.phase else { return None };
        let media_type =
            self.media_type.clone().and_then(|range| core::str::from_utf8(&self.buffer[range]).ok());
        Some(Reply { status, media_type, body: &self.buffer[start..end] })
    }

    /// Whether another request may follow on this connection.
    pub fn is_reusable(&self) -> bool {
        !self.closing && matches!(self.phase, Phase::Idle | Phase::Ready(..)) && self.transmit().is_empty()
    }

    /// The head of a response is complete and ends at `end`.
    fn parse(&mut self, end: usize) -> Result<(), Fatal> {
        let base = &self.buffer[..end];
        let mut found = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut found);
        match response.parse(&base[self.scan.start..]) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) | Err(_) => return Err(Fatal::Head),
        }
        let status = response.code.filter(|code| (100..600).contains(code)).ok_or(Fatal::Head)?;
        if response.version != Some(1) {
            return Err(Fatal::Head);
        }
        if status < 200 {
            // RFC 9110 section 15.2: an interim response is followed by the final one. Nothing here upgrades.
            if status == 101 {
                return Err(Fatal::Head);
            }
            self.buffer.copy_within(end..self.filled, 0);
            self.filled -= end;
            self.scan = Scan::default();
            return Ok(());
        }
        head::locate(base, response.headers, &mut self.fields);
        let framing = fields::framing(base, &self.fields, self.limits.body).map_err(|_| Fatal::Framing)?;
        let media_type =
            fields::single(base, &self.fields, "content-type").map_err(|_: Refusal| Fatal::Head)?;
        self.media_type = media_type.map(|value| head::range_of(base, value.as_bytes()));
        self.closing |= framing.close;
        let length = match framing.length {
            // A body that lasts until the connection ends could be cut short without anyone noticing.
            None if status != 204 => return Err(Fatal::Framing),
            None => 0,
            Some(length) => length,
        };
        self.phase = Phase::Body(status, end, end + length);
        Ok(())
    }

    /// Make room for more of a body that ends at `end`, if there is none: for half as much as has come. What the peer only
    /// says that it will send takes no memory.
    fn grow(&mut self, end: usize) -> Result<(), Fatal> {
        let there = self.buffer.len();
        if self.filled < there {
            return Ok(());
        }
        let room = (there + there / 2).min(end);
        self.buffer.try_reserve_exact(room - there).map_err(|_| Fatal::NoMemory)?;
        self.buffer.resize(room, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
