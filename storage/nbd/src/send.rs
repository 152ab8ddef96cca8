//! Requests on their way to the server: a header, and behind that of a write the request's buffer itself.

use crate::requests::{Key, Requests};
use crate::wire::{self, EXTENDED_HEADER, ExtendedRequest, REQUEST_HEADER, command, command_flag};

/// The command being sent. One that was begun is sent to its end, whatever its answer: half a request would put the
/// stream out of step.
#[derive(Debug)]
pub(crate) struct Sender {
    header: [u8; EXTENDED_HEADER],
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

/// What sending some bytes has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Going,
    /// The farewell was sent; nothing may follow.
    Disconnected,
}

impl Sender {
    pub(crate) fn new() -> Self {
        Self { header: [0; EXTENDED_HEADER], extended: false, sent: 0, current: Current::Nothing }
    }

    /// The first command of a connection is to be sent, with an extended header or a compact one.
    pub(crate) fn start(&mut self, extended: bool) {
        *self = Self { extended, ..Self::new() };
    }

    /// Bytes of a header.
    const fn header(&self) -> usize {
        if self.extended { EXTENDED_HEADER } else { REQUEST_HEADER }
    }

    fn begin(&mut self, request: ExtendedRequest, current: Current) {
        let ExtendedRequest { mut flags, command, cookie, offset, length } = request;
        if self.extended {
            if command == command::WRITE {
                flags |= command_flag::PAYLOAD_LEN;
            }
            self.header = ExtendedRequest { flags, ..request }.to_bytes();
        } else {
            // No command is made longer than its header can say.
            let length = length as u32;
            let request = wire::Request { flags, command, cookie, offset, length };
            self.header[..REQUEST_HEADER].copy_from_slice(&request.to_bytes());
        }
        (self.sent, self.current) = (0, current);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.current == Current::Nothing
    }

    /// Take up the next command, if there is none under way.
    pub(crate) fn load(&mut self, requests: &mut Requests) {
        if self.is_idle()
            && let Some((key, request)) = requests.next_command()
        {
            self.begin(request, Current::Command(key));
        }
    }

    /// Take up the farewell.
    pub(crate) fn load_disconnect(&mut self) {
        let request = ExtendedRequest { flags: 0, command: command::DISC, cookie: 0, offset: 0, length: 0 };
        self.begin(request, Current::Disconnect);
    }

    /// The next bytes to be sent.
    pub(crate) fn outgoing<'a>(&'a self, requests: &'a Requests) -> Option<&'a [u8]> {
        let key = match self.current {
            Current::Nothing => return None,
            Current::Command(key) if self.sent >= self.header() => key,
            Current::Command(_) | Current::Disconnect => {
                return Some(&self.header[self.sent..self.header()]);
            }
        };
        Some(&requests.payload(key)[self.sent - self.header()..])
    }

    /// `count` of those bytes were sent.
    pub(crate) fn transmitted(&mut self, requests: &mut Requests, count: usize) -> Progress {
        let total = match self.current {
            Current::Nothing => return Progress::Going,
            Current::Command(key) => self.header() + requests.payload(key).len(),
            Current::Disconnect => self.header(),
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
