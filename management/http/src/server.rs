//! The server's side of one connection.

use crate::fields::{self, Framing};
use crate::head::{self, Field, Scan};
use crate::limits::FIELDS_MAX;
use crate::{Limits, Method, Refusal, Request, Response, target};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

/// The peer did not read its response in time: abort the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled;

/// One connection: bytes in, one request at a time out, its response in, bytes out.
///
/// After every call the caller drains [`Server::transmit`]; when that is empty it may take a [`Server::request`],
/// and when [`Server::is_finished`] it closes the connection.
pub struct Server {
    limits: Limits,
    /// The head and the body of the current request, and what came after it.
    buffer: Vec<u8>,
    filled: usize,
    scan: Scan,
    head: Head,
    phase: Phase,
    /// The current request was already here, in part, when the one before was answered.
    queued: bool,
    output: Vec<u8>,
    sent: usize,
    closing: bool,
    /// The first byte of the current request came at this time.
    began: Duration,
    deadline: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing of a request has come.
    Idle,
    /// Its head is coming.
    Head,
    /// Its body is coming and ends at this position of the buffer.
    Body(usize),
    /// It is complete, and waits for its response.
    Ready(usize),
    /// Its response is being written; the request ends at this position.
    Answered(usize),
    /// Nothing more is read.
    Over,
}

/// Where the parts of the current request lie.
struct Head {
    method: Method,
    end: usize,
    path: Range<usize>,
    query: Option<Range<usize>>,
    fields: Vec<Field>,
    close: bool,
}

impl Server {
    /// A new connection, at `now`.
    pub fn new(limits: Limits, now: Duration) -> Self {
        Self {
            limits,
            buffer: vec![0; limits.head()],
            filled: 0,
            scan: Scan::default(),
            head: Head {
                method: Method::Get,
                end: 0,
                path: 0..0,
                query: None,
                fields: Vec::with_capacity(FIELDS_MAX),
                close: false,
            },
            phase: Phase::Idle,
            queued: false,
            output: Vec::new(),
            sent: 0,
            closing: false,
            began: now,
            deadline: Some(now + limits.idle_time),
        }
    }

    /// Where the next bytes belong. Empty while a request waits for its response: the peer's next bytes then stay in
    /// the transport, which is what holds it back.
    pub fn space(&mut self) -> &mut [u8] {
        let end = match self.phase {
            Phase::Idle | Phase::Head => self.buffer.len(),
            Phase::Body(end) => end,
            Phase::Ready(_) | Phase::Answered(_) | Phase::Over => self.filled,
        };
        &mut self.buffer[self.filled..end]
    }

    /// `count` bytes were read into [`Server::space`] at `now`.
    pub fn received(&mut self, now: Duration, count: usize) {
        let count = count.min(self.space().len());
        if count == 0 {
            return;
        }
        self.filled += count;
        if self.phase == Phase::Idle {
            self.begin(now);
        }
        self.advance(now);
    }

    /// The peer has finished sending. What it sent completely is still answered.
    pub fn end_of_input(&mut self) {
        match self.phase {
            Phase::Ready(_) | Phase::Answered(_) => self.closing = true,
            Phase::Idle | Phase::Head | Phase::Body(_) | Phase::Over => self.stop(),
        }
    }

    /// The complete request that waits for its response.
    pub fn request(&self) -> Option<Request<'_>> {
        let Phase::Ready(end) = self.phase else { return None };
        let text =
            |range: &Range<usize>| core::str::from_utf8(&self.buffer[range.clone()]).unwrap_or_default();
        Some(Request {
            method: self.head.method,
            path: text(&self.head.path),
            query: self.head.query.as_ref().map(text),
            body: &self.buffer[self.head.end..end],
            fields: &self.head.fields,
            head: &self.buffer[..self.head.end],
        })
    }

    /// Answer the request that waits; without one, nothing happens.
    pub fn respond(&mut self, now: Duration, response: &Response) {
        let Phase::Ready(end) = self.phase else { return };
        // More than one request in line is more than this server keeps: the rest is dropped with the connection,
        // and the client knows from the close that it was not looked at (RFC 9112 section 9.3.2).
        let crowded = self.queued && self.filled > end;
        self.closing |= self.head.close || response.close || crowded;
        response.encode(&mut self.output, self.head.method == Method::Head, self.closing);
        self.phase = Phase::Answered(end);
        self.deadline = Some(now + self.limits.write_time);
    }

    /// The bytes that are to be written.
    pub fn transmit(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// `count` of them were written at `now`.
    pub fn transmitted(&mut self, now: Duration, count: usize) {
        self.sent = (self.sent + count).min(self.output.len());
        if self.sent < self.output.len() {
            return;
        }
        // A long answer must not keep its room for as long as the connection lasts.
        self.output = Vec::new();
        self.sent = 0;
        if let Phase::Answered(end) = self.phase {
            if self.closing {
                self.stop();
            } else {
                self.next_request(now, end);
            }
        }
    }

    /// When [`Server::expired`] is to be called if nothing else happens before.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Time has passed, and it is `now`.
    pub fn expired(&mut self, now: Duration) -> Result<(), Stalled> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        match self.phase {
            Phase::Idle => self.stop(),
            Phase::Head | Phase::Body(_) => self.refuse(now, Refusal::Timeout),
            Phase::Ready(_) => self.deadline = None,
            Phase::Answered(_) => return Err(Stalled),
            // A refusal that nobody reads.
            Phase::Over if !self.transmit().is_empty() => return Err(Stalled),
            Phase::Over => self.deadline = None,
        }
        Ok(())
    }

    /// Whether it has nothing of a request, and all that it has answered is written.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle && self.transmit().is_empty()
    }

    /// Whether all is said, so that the connection is to be closed.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Over && self.transmit().is_empty()
    }

    fn begin(&mut self, now: Duration) {
        self.phase = Phase::Head;
        self.began = now;
        self.deadline = Some(now + self.limits.head_time.min(self.limits.total_time));
    }

    fn advance(&mut self, now: Duration) {
        if self.phase == Phase::Head {
            let outcome = match self.scan.advance(&self.buffer[..self.filled], &self.limits) {
                Ok(None) => return,
                Ok(Some(end)) => self.parse(end),
                Err(refusal) => Err(refusal),
            };
            if let Err(refusal) = outcome {
                return self.refuse(now, refusal);
            }
        }
        if let Phase::Body(end) = self.phase
            && self.filled >= end
        {
            self.phase = Phase::Ready(end);
            // How long an answer may take is for those who make it.
            self.deadline = None;
        }
    }

    /// The head is complete and ends at `end`.
    fn parse(&mut self, end: usize) -> Result<(), Refusal> {
        let base = &self.buffer[..end];
        let mut found = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut found);
        match request.parse(&base[self.scan.start..]) {
            Ok(httparse::Status::Complete(_)) => {}
            Err(httparse::Error::Version) => return Err(Refusal::Version),
            Ok(httparse::Status::Partial) | Err(_) => return Err(Refusal::Malformed),
        }
        if request.version != Some(1) {
            return Err(Refusal::Version);
        }
        let target = request.path.ok_or(Refusal::Malformed)?;
        let method = Method::parse(request.method.unwrap_or_default()).ok_or(Refusal::Method)?;
        head::locate(base, request.headers, &mut self.head.fields);
        let host = fields::single(base, &self.head.fields, "host").map_err(|_| Refusal::Host)?;
        let host = host.filter(|host| target::is_host(host)).ok_or(Refusal::Host)?;
        let (path, query) = target::parse(target, host)?;
        let framing = fields::framing(base, &self.head.fields, self.limits.body)?;
        self.head.method = method;
        self.head.end = end;
        self.head.path = head::range_of(base, path.as_bytes());
        self.head.query = query.map(|query| head::range_of(base, query.as_bytes()));
        self.head.close = framing.close;
        self.expect_body(end, framing);
        Ok(())
    }

    fn expect_body(&mut self, head_end: usize, framing: Framing) {
        let end = head_end + framing.length.unwrap_or(0);
        if end > self.buffer.len() {
            self.buffer.resize(end, 0);
        }
        if framing.expects_continue && self.filled < end {
            self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.phase = Phase::Body(end);
        self.deadline = Some(self.began + self.limits.total_time);
    }

    /// Forget the request that ends at `end`, and go on with what came after it.
    fn next_request(&mut self, now: Duration, end: usize) {
        self.buffer.copy_within(end..self.filled, 0);
        self.filled -= end;
        let room = self.limits.head();
        if self.buffer.len() > room {
            // A body larger than a head is read to its end and no further, so what is left fits.
            self.buffer.truncate(room);
            self.buffer.shrink_to_fit();
        }
        self.scan = Scan::default();
        self.queued = self.filled > 0;
        self.phase = Phase::Idle;
        self.deadline = Some(now + self.limits.idle_time);
        if self.queued {
            self.begin(now);
            self.advance(now);
        }
    }

    fn refuse(&mut self, now: Duration, refusal: Refusal) {
        let response = Response::problem(refusal.status(), refusal.document().into_bytes());
        response.encode(&mut self.output, false, true);
        self.phase = Phase::Over;
        self.deadline = Some(now + self.limits.write_time);
    }

    fn stop(&mut self) {
        self.phase = Phase::Over;
        self.deadline = None;
    }
}

#[cfg(test)]
mod tests;
