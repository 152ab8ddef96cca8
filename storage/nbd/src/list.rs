//! Asking a server which exports it has.

use crate::handshake::{self, Goal, Handshake, Step};
use crate::settings::{Settings, Tls};
use crate::{Fatal, Text};
use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;
use kernel_runtime::Instant;

/// One connection that asks for the list of exports. Driven like [`crate::Client`]; when it is finished the
/// connection is to be closed. Many servers refuse: that is [`Fatal::Refused`].
pub struct Listing {
    handshake: Handshake,
    deadline: Instant,
    scratch: Box<[u8]>,
}

/// One export of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name, as the handshake wants it; unchecked bytes of the server.
    pub name: &'a [u8],
    /// What the server says about it, for people; unchecked bytes, see [`Entry::description`].
    pub description: &'a [u8],
}

impl Entry<'_> {
    /// The description, made fit to be shown.
    pub fn description(&self) -> Text {
        Text::new(self.description)
    }
}

/// What bytes of the server have led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed<'a> {
    /// More are needed.
    Nothing,
    /// One more export.
    Export(Entry<'a>),
    /// There are no more.
    Finished,
}

impl Listing {
    /// Ask over a connection that stands since `now`, for at most `most` exports and for at most `time`.
    pub fn new(now: Instant, most: u32, time: Duration) -> Self {
        Self::with_tls(now, most, time, Tls::Off)
    }

    /// As [`Listing::new`], in TLS where it is required.
    pub fn with_tls(now: Instant, most: u32, time: Duration, tls: Tls) -> Self {
        let mut handshake = Handshake::new(Goal::List(most), &Settings { tls, ..Settings::of("") });
        handshake.start();
        Self { handshake, deadline: now + time, scratch: vec![0; handshake::LONGEST].into_boxed_slice() }
    }

    /// Whether TLS is to be set up now: see [`crate::Client::wants_tls`].
    pub const fn wants_tls(&self) -> bool {
        self.handshake.wants_tls()
    }

    /// TLS stands: see [`crate::Client::tls_established`].
    pub fn tls_established(&mut self) {
        self.handshake.tls_established();
    }

    /// Where the next bytes from the connection belong. Empty once the list is finished.
    pub fn space(&mut self) -> &mut [u8] {
        self.handshake.space(&mut self.scratch)
    }

    /// `count` bytes were put into [`Listing::space`].
    ///
    /// # Errors
    /// Why the connection must be dropped.
    pub fn received(&mut self, count: usize) -> Result<Listed<'_>, Fatal> {
        Ok(match self.handshake.received(&mut self.scratch, count)? {
            Step::More => Listed::Nothing,
            Step::Finished => Listed::Finished,
            Step::Listed { name, description } => {
                Listed::Export(Entry { name: &self.scratch[name], description: &self.scratch[description] })
            }
        })
    }

    /// The next bytes for the connection, if any. Behind a finished list they are a farewell, which need not be sent.
    pub fn poll_transmit(&self) -> Option<&[u8]> {
        self.handshake.outgoing()
    }

    /// The first `count` bytes of [`Listing::poll_transmit`] were taken by the connection.
    pub fn transmitted(&mut self, count: usize) {
        self.handshake.transmitted(count);
    }

    /// The server's words with its refusal.
    pub const fn remark(&self) -> &Text {
        self.handshake.remark()
    }

    /// When [`Listing::handle_timeout`] is to be called.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    /// The time has come, or any other.
    ///
    /// # Errors
    /// The server took too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Fatal> {
        if now < self.deadline || self.handshake.is_finished() {
            return Ok(());
        }
        Err(Fatal::HandshakeTimeout)
    }
}
