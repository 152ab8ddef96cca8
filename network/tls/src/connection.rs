//! `Connection`: one TLS connection, from the first byte to the farewell.

use crate::config::{ClientConfig, ServerConfig, SetupError};
use crate::fatal::Fatal;
use crate::handshake::{Handshake, Progress};
use crate::incoming::{self, Incoming};
use crate::outgoing::{self, Outgoing};
use crate::traffic::Traffic;
use alloc::boxed::Box;
use alloc::string::ToString;
use core::fmt;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;

/// Sizes of the two buffers of a connection, in bytes. They are taken when it is made and never grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// For what comes in: at least [`Buffers::LEAST_RECEIVE`]. A message of the handshake, such as the peer's
    /// certificates, must fit into it.
    pub receive: usize,
    /// For what goes out: at least [`Buffers::LEAST_TRANSMIT`].
    pub transmit: usize,
}

impl Buffers {
    /// One record and its header.
    pub const LEAST_RECEIVE: usize = incoming::LEAST;
    /// One record, its header, and room for an alert.
    pub const LEAST_TRANSMIT: usize = outgoing::LEAST;
}

impl Default for Buffers {
    /// Three records and a bit each way, which keeps moving bytes inside of the buffers cheap.
    fn default() -> Self {
        Self { receive: 64 * 1024, transmit: 64 * 1024 }
    }
}

/// One TLS connection.
///
/// An engine: bytes of the network go in at [`space`](Self::space) and [`received`](Self::received) and come out at
/// [`poll_transmit`](Self::poll_transmit) and [`transmitted`](Self::transmitted); data goes in at
/// [`write`](Self::write) and comes out at [`read`](Self::read). After each of them look at what there is to transmit.
/// Any error ends the connection; the same one is told ever after.
pub struct Connection {
    phase: Phase,
    incoming: Incoming,
    outgoing: Outgoing,
    dates_checked: bool,
}

enum Phase {
    Handshake(Box<Handshake>),
    Open(Box<Traffic>),
    Over(Fatal),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Phase::Handshake(_) => "in its handshake",
            Phase::Open(_) => "open",
            Phase::Over(_) => "over",
        };
        write!(f, "Connection {phase}")
    }
}

impl Connection {
    /// Begin as a client. `name` is who the server's certificate must be for: a DNS name or an IP address, by its
    /// subjectAltName. `now` is the time in seconds since 1970, as far as anybody knows it; it is used for this
    /// handshake and not after.
    ///
    /// # Errors
    /// [`SetupError`], also when there is no time or no randomness where there must be.
    pub fn client(
        config: &ClientConfig,
        name: &str,
        now: Option<u64>,
        buffers: Buffers,
    ) -> Result<Self, SetupError> {
        let server =
            ServerName::try_from(name.to_string()).map_err(|_| SetupError::Name(name.to_string()))?;
        let rustls = UnbufferedClientConnection::new(config.at(now)?, server);
        let rustls = rustls.map_err(|error| SetupError::Material(error.to_string()))?;
        let mut connection = Self::new(Handshake::client(rustls), buffers, now)?;
        // The first flight is a few hundred bytes into an empty buffer.
        connection.advance().map_err(|fatal| SetupError::Material(fatal.to_string()))?;
        Ok(connection)
    }

    /// Begin as a server. `now` as for a client; without clients that show certificates it does not matter.
    ///
    /// # Errors
    /// [`SetupError`], also when there is no time or no randomness where there must be.
    pub fn server(config: &ServerConfig, now: Option<u64>, buffers: Buffers) -> Result<Self, SetupError> {
        let rustls = UnbufferedServerConnection::new(config.at(now)?);
        let rustls = rustls.map_err(|error| SetupError::Material(error.to_string()))?;
        Self::new(Handshake::server(rustls), buffers, now)
    }

    fn new(handshake: Handshake, buffers: Buffers, now: Option<u64>) -> Result<Self, SetupError> {
        if buffers.receive < Buffers::LEAST_RECEIVE {
            return Err(SetupError::Buffer(Buffers::LEAST_RECEIVE));
        }
        if buffers.transmit < Buffers::LEAST_TRANSMIT {
            return Err(SetupError::Buffer(Buffers::LEAST_TRANSMIT));
        }
        Ok(Self {
            phase: Phase::Handshake(Box::new(handshake)),
            incoming: Incoming::new(buffers.receive),
            outgoing: Outgoing::new(buffers.transmit),
            dates_checked: now.is_some(),
        })
    }

    /// Where the next bytes of the network belong. Empty when the buffer is full of what was not read yet: the peer
    /// has to wait, until something is read.
    pub fn space(&mut self) -> &mut [u8] {
        self.incoming.space()
    }

    /// So many bytes of the network were put into [`space`](Self::space).
    ///
    /// # Errors
    /// [`Fatal`] ends the connection; there may be an alert to transmit.
    pub fn received(&mut self, count: usize) -> Result<(), Fatal> {
        self.incoming.received(count);
        self.advance()
    }

    /// The stream of the network has ended.
    ///
    /// # Errors
    /// [`Fatal::Truncated`] when the peer has not said farewell; the connection's own error if it has one.
    pub fn end_of_stream(&mut self) -> Result<(), Fatal> {
        match &self.phase {
            Phase::Over(fatal) => Err(fatal.clone()),
            Phase::Open(traffic) if traffic.peer_closed => Ok(()),
            _ => Err(self.end(Fatal::Truncated)),
        }
    }

    /// Bytes for the network, sealed now if they were not. Sealing closes a record that small writes could still
    /// share: ask when the caller has nothing more to write for the moment.
    pub fn poll_transmit(&mut self) -> &[u8] {
        match &mut self.phase {
            Phase::Handshake(_) => {
                // It may have waited for room.
                let _told_by_the_next_call = self.advance();
            }
            Phase::Open(traffic) => {
                if let Err(fatal) = traffic.flush(&mut self.outgoing) {
                    self.end(fatal);
                }
            }
            Phase::Over(_) => {}
        }
        self.outgoing.pending()
    }

    /// So many bytes of [`poll_transmit`](Self::poll_transmit) were sent.
    pub fn transmitted(&mut self, count: usize) {
        self.outgoing.transmitted(count);
    }

    /// Whether the handshake is over and data may be written. For a client: the server is who it should be. Whether
    /// the server likes the client's certificate is told later, if it does not.
    #[must_use]
    pub fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Copy data out; answers how many bytes. None means that there is none now, or that `out` is empty.
    ///
    /// # Errors
    /// [`Fatal`] ends the connection.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, Fatal> {
        let mut count = 0;
        while count < out.len() {
            let plain = match self.readable() {
                Ok(plain) => plain,
                // What was read before is read.
                Err(_) if count > 0 => break,
                Err(fatal) => return Err(fatal),
            };
            if plain.is_empty() {
                break;
            }
            let some = plain.len().min(out.len() - count);
            out[count..count + some].copy_from_slice(&plain[..some]);
            self.consume(some);
            count += some;
        }
        Ok(count)
    }

    /// Data where it lies, at most one record of it; take it by [`consume`](Self::consume).
    ///
    /// # Errors
    /// [`Fatal`] ends the connection.
    pub fn readable(&mut self) -> Result<&[u8], Fatal> {
        self.advance()?;
        match &self.phase {
            Phase::Open(traffic) => Ok(traffic.readable(&mut self.incoming)),
            _ => Ok(&[]),
        }
    }

    /// So much of what [`readable`](Self::readable) gave is done with.
    pub fn consume(&mut self, count: usize) {
        if let Phase::Open(traffic) = &mut self.phase {
            traffic.consume(count, &mut self.incoming);
        }
    }

    /// Whether something has come of which nothing can be read before more comes: the beginning of a record. Ask when all
    /// was read.
    #[must_use]
    pub fn is_within_record(&self) -> bool {
        matches!(&self.phase, Phase::Open(traffic) if !traffic.is_readable()) && !self.incoming.is_empty()
    }

    /// Take data; answers how many bytes found room. None before the handshake is over and after
    /// [`close`](Self::close).
    ///
    /// # Errors
    /// [`Fatal`] ends the connection.
    pub fn write(&mut self, data: &[u8]) -> Result<usize, Fatal> {
        match &mut self.phase {
            Phase::Handshake(_) => Ok(0),
            Phase::Over(fatal) => Err(fatal.clone()),
            Phase::Open(traffic) => match traffic.write(data, &mut self.outgoing) {
                Ok(count) => Ok(count),
                Err(fatal) => Err(self.end(fatal)),
            },
        }
    }

    /// Say farewell behind the data that was taken. Data may still come in.
    pub fn close(&mut self) {
        if let Phase::Open(traffic) = &mut self.phase {
            traffic.close();
        }
    }

    /// Whether the peer has said farewell and all it sent before was read.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        matches!(&self.phase, Phase::Open(traffic) if traffic.peer_closed)
    }

    /// Whether dates of the peer's certificates were, or would be, compared with the time. An operator should see it
    /// when not.
    #[must_use]
    pub fn dates_checked(&self) -> bool {
        self.dates_checked
    }

    /// The peer's own certificate in DER, once the connection is established and if it showed one.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        match &self.phase {
            Phase::Open(traffic) => traffic.peer.as_deref(),
            _ => None,
        }
    }

    /// The name of the cipher suite, such as `TLS13_AES_128_GCM_SHA256`, once the connection is established.
    #[must_use]
    pub fn suite(&self) -> Option<&'static str> {
        match &self.phase {
            Phase::Open(traffic) => traffic.side.suite(),
            _ => None,
        }
    }

    fn advance(&mut self) -> Result<(), Fatal> {
        if let Phase::Handshake(handshake) = &mut self.phase {
            match handshake.advance(&mut self.incoming, &mut self.outgoing) {
                Ok(Progress::Waiting) => return Ok(()),
                Ok(Progress::Done) => self.open()?,
                Err(fatal) => return Err(self.end(fatal)),
            }
        }
        match &mut self.phase {
            Phase::Over(fatal) => Err(fatal.clone()),
            Phase::Handshake(_) => Ok(()),
            Phase::Open(traffic) => match traffic.advance(&mut self.incoming, &mut self.outgoing) {
                Ok(()) => Ok(()),
                Err(fatal) => Err(self.end(fatal)),
            },
        }
    }

    /// The handshake is over: from here on records are ours.
    fn open(&mut self) -> Result<(), Fatal> {
        let over = Phase::Over(Fatal::Here("the keys could not be taken out of the handshake".into()));
        if let Phase::Handshake(handshake) = core::mem::replace(&mut self.phase, over) {
            match handshake.into_traffic() {
                Ok(traffic) => self.phase = Phase::Open(Box::new(traffic)),
                Err(fatal) => return Err(self.end(fatal)),
            }
        }
        Ok(())
    }

    fn end(&mut self, fatal: Fatal) -> Fatal {
        self.phase = Phase::Over(fatal.clone());
        fatal
    }

    /// What only tests do to a connection.
    #[cfg(test)]
    pub(crate) fn traffic(&mut self) -> (&mut Traffic, &mut Outgoing) {
        match &mut self.phase {
            Phase::Open(traffic) => (traffic, &mut self.outgoing),
            _ => panic!("not open"),
        }
    }
}
