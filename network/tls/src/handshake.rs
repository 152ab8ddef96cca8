//! The handshake: rustls does it, this hands it records and takes what it says.

use crate::fatal::Fatal;
use crate::incoming::{Incoming, Record};
use crate::outgoing::Outgoing;
use crate::record::{HEADER, Half, LONGEST_SEALED};
use crate::traffic::{Side, Traffic};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use rustls::client::UnbufferedClientConnection;
use rustls::kernel::KernelConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{CommonState, ConnectionTrafficSecrets, Error, ExtractedSecrets};

/// One side of a handshake that is not over.
pub(crate) struct Handshake {
    rustls: Rustls,
    /// Bytes from the front of what came in that rustls was shown. It sees one record more only when it asks for one,
    /// so that it never gets to see a record that comes after the handshake.
    shown: usize,
}

enum Rustls {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What one look of rustls at the bytes came to.
enum Step {
    /// Look again.
    Again,
    /// Nothing to do with what it was shown.
    Idle,
}

/// What came of the bytes that are there.
pub(crate) enum Progress {
    /// The peer's turn, or room is needed for what goes out.
    Waiting,
    /// The handshake is over.
    Done,
}

impl Handshake {
    pub(crate) fn client(rustls: UnbufferedClientConnection) -> Self {
        Self { rustls: Rustls::Client(Box::new(rustls)), shown: 0 }
    }

    pub(crate) fn server(rustls: UnbufferedServerConnection) -> Self {
        Self { rustls: Rustls::Server(Box::new(rustls)), shown: 0 }
    }

    /// Go on as far as the bytes go.
    pub(crate) fn advance(
        &mut self,
        incoming: &mut Incoming,
        outgoing: &mut Outgoing,
    ) -> Result<Progress, Fatal> {
        loop {
            // What rustls cannot put down at once, it forgets.
            if outgoing.room().len() < LONGEST_SEALED + HEADER && !outgoing.is_empty() {
                return Ok(Progress::Waiting);
            }
            match self.look(incoming, outgoing).inspect_err(|_| self.last_words(incoming, outgoing))? {
                Step::Again => {}
                Step::Idle if !self.common().is_handshaking() => return Ok(Progress::Done),
                Step::Idle => match incoming.record(self.shown) {
                    Record::Whole(length) => self.shown += length,
                    Record::Bad => return Err(Fatal::Protocol("what came is not TLS".into())),
                    Record::Part if incoming.is_full() => return Err(Fatal::TooLong),
                    Record::Part => return Ok(Progress::Waiting),
                },
            }
        }
    }

    /// Let rustls look once at what it is shown.
    fn look(&mut self, incoming: &mut Incoming, outgoing: &mut Outgoing) -> Result<Step, Fatal> {
        let bytes = &mut incoming.bytes()[..self.shown];
        let (discard, step) = match &mut self.rustls {
            Rustls::Client(rustls) => step(rustls.process_tls_records(bytes), outgoing),
            Rustls::Server(rustls) => step(rustls.process_tls_records(bytes), outgoing),
        };
        incoming.consume(discard);
        self.shown = self.shown.saturating_sub(discard);
        step
    }

    /// The alert that rustls has for the peer after an error. It stops at the first thing that is no record to send:
    /// before rustls would look again at what was wrong.
    fn last_words(&mut self, incoming: &mut Incoming, outgoing: &mut Outgoing) {
        let _no_alert = self.look(incoming, outgoing);
    }

    fn common(&self) -> &CommonState {
        match &self.rustls {
            Rustls::Client(rustls) => rustls,
            Rustls::Server(rustls) => rustls,
        }
    }

    /// Take the keys out of it.
    pub(crate) fn into_traffic(self) -> Result<Traffic, Fatal> {
        let peer = self.common().peer_certificates().and_then(|chain| chain.first());
        let peer: Option<Vec<u8>> = peer.map(|certificate| certificate.to_vec());
        let (secrets, side): (ExtractedSecrets, Side) = match self.rustls {
            Rustls::Client(rustls) => {
                let (secrets, keys) = rustls.dangerous_into_kernel_connection()?;
                (secrets, Side::Client(keys.into()))
            }
            Rustls::Server(rustls) => {
                let (secrets, keys) = rustls.dangerous_into_kernel_connection()?;
                (secrets, Side::Server(keys.into()))
            }
        };
        let unknown = || Fatal::Here("a cipher that is not ours was agreed on".into());
        let receive = Half::new(secrets.rx).ok_or_else(unknown)?;
        let transmit = Half::new(secrets.tx).ok_or_else(unknown)?;
        Ok(Traffic::new(side, receive, transmit, peer))
    }
}

/// Do what rustls says, once.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Outgoing,
) -> (usize, Result<Step, Fatal>) {
    let step = match status.state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::EncodeTlsData(mut data)) => match data.encode(outgoing.room()) {
            Ok(count) => {
                outgoing.made(count);
                Ok(Step::Again)
            }
            Err(error) => Err(Fatal::Here(format!("{error}"))),
        },
        // What was encoded lies in order in a buffer that is sent in order; that is as good as sent.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Step::Idle),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Err(Fatal::Truncated),
        Ok(other) => Err(Fatal::Protocol(format!("{other:?} in the middle of the handshake"))),
    };
    (status.discard, step)
}

/// New keys from the old ones, for either kind of connection (RFC 8446, section 7.2).
pub(crate) trait Successors {
    fn next_receive(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error>;
    fn next_transmit(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error>;
}

impl<Data> Successors for KernelConnection<Data> {
    fn next_receive(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        self.update_rx_secret()
    }

    fn next_transmit(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        self.update_tx_secret()
    }
}
