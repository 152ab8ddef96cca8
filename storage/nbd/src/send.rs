//! Requests on their way to the server: a header, and behind that of a write the request's buffer itself.

use crate::requests::{Key, Requests};
use crate::wire::{EXTENDED_HEADER, ExtendedRequest, REQUEST_HEADER, Request, command, command_flag};

/// Bytes of a header and of the list that may follow that of a BLOCK_STATUS: a length, and one context.
const LONGEST: usize = EXTENDED_HEADER + 8 + 4;

/// The command being sent. One that was begun is sent to its end, whatever its answer: half a request would put the
/// stream out of step.
#[derive(Debug)]
pub(crate) struct Sender {
    /// Its header, with a list that follows it: so many bytes of it.
    header: [u8; LONGEST],
    length: usize,
    extended: bool,
    /// Bytes of header and payload sent.
    sent: usize,
    current: Current,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Current {
    Nothing,
    Command(Key),
    Disconnect,
}

/// As it is said in a compact header. No command is made longer than that can say.
const fn compact(request: &ExtendedRequest) -> Request {
    let ExtendedRequest { flags, command, cookie, offset, length } = *request;
    Request { flags, command, cookie, offset, length: length as u32 }
}

/// What sending some bytes has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Going,
    /// The farewell was sent; nothing may follow.
    Disconnected,
}

impl Sender {
    pub(crate) fn new() -> Self {
        Self { header: [0; LONGEST], length: 0, extended: false, sent: 0, current: Current::Nothing }
    }

    /// The first command of a connection is to be sent, with an extended header or a compact one.
    pub(crate) fn start(&mut self, extended: bool) {
        *self = Self { extended, ..Self::new() };
    }

    /// Begin a command; a BLOCK_STATUS is about the context `only`, if there is one, and else about all.
    fn begin(&mut self, request: ExtendedRequest, only: Option<u32>, current: Current) {
        (self.sent, self.current) = (0, current);
        if !self.extended {
            return self.put(&compact(&request).to_bytes());
        }
        let ExtendedRequest { flags, command, length, .. } = request;
        let with_payload = ExtendedRequest { flags: flags | command_flag::PAYLOAD_LEN, ..request };
        match (command, only) {
            (command::WRITE, _) => self.put(&with_payload.to_bytes()),
            (command::BLOCK_STATUS, Some(context)) => {
                self.put(&ExtendedRequest { length: 8 + 4, ..with_payload }.to_bytes());
                self.header[EXTENDED_HEADER..EXTENDED_HEADER + 8].copy_from_slice(&length.to_be_bytes());
                self.header[EXTENDED_HEADER + 8..].copy_from_slice(&context.to_be_bytes());
                self.length = LONGEST;
            }
            _ => self.put(&request.to_bytes()),
        }
    }

    fn put(&mut self, header: &[u8]) {
        self.header[..header.len()].copy_from_slice(header);
        self.length = header.len();
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.current == Current::Nothing
    }

    /// Take up the next command, if there is none under way.
    pub(crate) fn load(&mut self, requests: &mut Requests) {
        if self.is_idle()
            && let Some((key, request)) = requests.next_command()
        {
            self.begin(request, requests.only_context(), Current::Command(key));
        }
    }

    /// Take up the farewell.
    pub(crate) fn load_disconnect(&mut self) {
        let request = ExtendedRequest { flags: 0, command: command::DISC, cookie: 0, offset: 0, length: 0 };
        self.begin(request, None, Current::Disconnect);
    }

    /// Put commands with their payload into `room`, as many as there are and fit as a whole; the next one may have been
    /// begun then. Where none is under way.
    pub(crate) fn fill(&mut self, requests: &mut Requests, room: &mut [u8]) -> usize {
        let mut filled = 0;
        while self.is_idle()
            && let Some((header, rest)) = room[filled..].split_first_chunk_mut::<REQUEST_HEADER>()
            && let Some((key, request)) = requests.next_command()
        {
            let payload = requests.payload(key);
            if self.extended || rest.len() < payload.len() {
                self.begin(request, requests.only_context(), Current::Command(key));
                break;
            }
            *header = compact(&request).to_bytes();
            rest[..payload.len()].copy_from_slice(payload);
            filled += REQUEST_HEADER + payload.len();
            requests.touch(key);
            requests.sent(key);
        }
        filled
    }

    /// The next bytes to be sent.
    pub(crate) fn outgoing<'a>(&'a self, requests: &'a Requests) -> Option<&'a [u8]> {
        let key = match self.current {
            Current::Nothing => return None,
            Current::Command(key) if self.sent >= self.length => key,
            Current::Command(_) | Current::Disconnect => {
                return Some(&self.header[self.sent..self.length]);
            }
        };
        Some(&requests.payload(key)[self.sent - self.length..])
    }

    /// `count` of those bytes were sent.
    pub(crate) fn transmitted(&mut self, requests: &mut Requests, count: usize) -> Progress {
        let total = match self.current {
            Current::Nothing => return Progress::Going,
            Current::Command(key) => self.length + requests.payload(key).len(),
            Current::Disconnect => self.length,
        };
        self.sent = total.min(self.sent + count);
        let current = self.current;
        if self.sent == total {
            self.current = Current::Nothing;
        }
        match current {
            Current::Command(key) => {
                if count > 0 {
                    requests.touch(key);
                }
                if self.sent == total {
                    requests.sent(key);
                }
                Progress::Going
            }
            Current::Disconnect if self.sent == total => Progress::Disconnected,
            Current::Disconnect | Current::Nothing => Progress::Going,
        }
    }
}
