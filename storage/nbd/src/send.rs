//! Requests on their way to the server: a header, and behind that of a write the request's buffer itself.

use crate::requests::{Key, Requests};
use crate::wire::{self, REQUEST_HEADER, command};

/// The command being sent. One that was begun is sent to its end, whatever its answer: half a request would put the
/// stream out of step.
#[derive(Debug)]
pub(crate) struct Sender {
    header: [u8; REQUEST_HEADER],
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
        Self { header: [0; REQUEST_HEADER], sent: 0, current: Current::Nothing }
    }

    /// The first command of a connection is to be sent.
    pub(crate) fn start(&mut self) {
        *self = Self::new();
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.current == Current::Nothing
    }

    /// Take up the next command, if there is none under way.
    pub(crate) fn load(&mut self, requests: &mut Requests) {
        if self.is_idle()
            && let Some((key, request)) = requests.next_command()
        {
            *self = Self { header: request.to_bytes(), sent: 0, current: Current::Command(key) };
        }
    }

    /// Take up the farewell.
    pub(crate) fn load_disconnect(&mut self) {
        let request = wire::Request { flags: 0, command: command::DISC, cookie: 0, offset: 0, length: 0 };
        *self = Self { header: request.to_bytes(), sent: 0, current: Current::Disconnect };
    }

    /// The next bytes to be sent.
    pub(crate) fn outgoing<'a>(&'a self, requests: &'a Requests) -> Option<&'a [u8]> {
        let key = match self.current {
            Current::Nothing => return None,
            Current::Command(key) if self.sent >= REQUEST_HEADER => key,
            Current::Command(_) | Current::Disconnect => return Some(&self.header[self.sent..]),
        };
        Some(&requests.payload(key)[self.sent - REQUEST_HEADER..])
    }

    /// `count` of those bytes were sent.
    pub(crate) fn transmitted(&mut self, requests: &mut Requests, count: usize) -> Progress {
        let total = match self.current {
            Current::Nothing => return Progress::Going,
            Current::Command(key) => REQUEST_HEADER + requests.payload(key).len(),
            Current::Disconnect => REQUEST_HEADER,
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
