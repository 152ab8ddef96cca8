//! Asking a server about one export without entering it.

use crate::export::BlockSizes;
use crate::handshake::{self, Goal, Handshake, Step};
use crate::settings::{ClientError, Settings};
use crate::{Fatal, Text, TransmissionFlags};
use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;
use kernel_runtime::Instant;

/// One short connection that asks `NBD_OPT_INFO` about an export, to learn whether it has grown or changed while others
/// serve requests. Driven like [`crate::Client`]; when it is finished the connection is to be closed. A server that does
/// not know the option refuses: that is [`Fatal::Refused`].
pub struct Probe {
    handshake: Handshake,
    deadline: Instant,
    scratch: Box<[u8]>,
}

/// What a server says of an export that it was not asked to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its canonical name, else the name asked for.
    pub name: Text,
    /// The server's description of it, for people.
    pub description: Text,
    /// Bytes; `None` when the server said none, as `nbd-server` does whatever the size.
    pub size: Option<u64>,
    /// What it offers. Without structured replies agreed on, some of it may be left out.
    pub flags: TransmissionFlags,
    /// Its size constraints, unchecked.
    pub block_sizes: Option<BlockSizes>,
}

impl Probe {
    /// Ask over a connection that stands since `now`, for at most `time`. Of the settings, only the export and whether
    /// TLS is required have a meaning here.
    ///
    /// # Errors
    /// When the settings cannot be.
    pub fn new<'a>(
        now: Instant,
        settings: impl Into<Settings<'a>>,
        time: Duration,
    ) -> Result<Self, ClientError> {
        let settings = settings.into();
        settings.check()?;
        let mut handshake = Handshake::new(Goal::Info, &settings);
        handshake.start();
        Ok(Self { handshake, deadline: now + time, scratch: vec![0; handshake::LONGEST].into_boxed_slice() })
    }

    /// Where the next bytes from the connection belong. Empty once the probe is finished.
    pub fn space(&mut self) -> &mut [u8] {
        self.handshake.space(&mut self.scratch)
    }

    /// `count` bytes were put into [`Probe::space`]. Tells what the export is, once all of that was said.
    ///
    /// # Errors
    /// Why the connection must be dropped.
    pub fn received(&mut self, count: usize) -> Result<Option<Facts>, Fatal> {
        if self.handshake.received(&mut self.scratch, count)? != Step::Finished {
            return Ok(None);
        }
        let facts = self.handshake.facts();
        let (size, flags) = facts.size_and_flags.ok_or(Fatal::ExportInfo)?;
        Ok(Some(Facts {
            name: facts.name,
            description: facts.description,
            size: (size > 0).then_some(size),
            flags,
            block_sizes: facts.block_sizes,
        }))
    }

    /// Whether TLS is to be set up now: see [`crate::Client::wants_tls`].
    pub const fn wants_tls(&self) -> bool {
        self.handshake.wants_tls()
    }

    /// TLS stands: see [`crate::Client::tls_established`].
    pub fn tls_established(&mut self) {
        self.handshake.tls_established();
    }

    /// The next bytes for the connection, if any. Behind a finished probe they are a farewell, which need not be sent.
    pub fn poll_transmit(&self) -> Option<&[u8]> {
        self.handshake.outgoing()
    }

    /// The first `count` bytes of [`Probe::poll_transmit`] were taken by the connection.
    pub fn transmitted(&mut self, count: usize) {
        self.handshake.transmitted(count);
    }

    /// The server's words with its refusal.
    pub const fn remark(&self) -> &Text {
        self.handshake.remark()
    }

    /// When [`Probe::handle_timeout`] is to be called.
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
