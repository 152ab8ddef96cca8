//! A stream that may be in TLS 1.3: as a server to the provider's services, as a client to the agent.
//!
//! Memory of a connection is bounded: the two buffers of [`Buffers`] beside those of the stream, and what rustls needs
//! while the handshake goes on. It is taken when a peer is there and given back when it leaves.

use crate::door::{Caller, Door};
use crate::policy::Principal;
use crate::refusals::{HERE, LEFT, Refused, TOO_SLOW};
use crate::slots::Slots;
use crate::wire::Wire;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::net::SocketAddrV4;
use core::pin::pin;
use core::time::Duration;
use kernel_runtime::{Clock, with_deadline};
use network::{ConnectError, Reset};
use network_tls::{Buffers, ClientConfig, Connection};

/// How long a peer may take over its handshake, and for how long it may say nothing in the middle of it before somebody makes it
/// leave: when no connection is left for others, the one that has been silent for longest gives way.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
const HANDSHAKE_LEAST: Duration = Duration::from_millis(500);

/// How the agent is dialled in TLS: whom to believe, who we are, and the memory of each connection.
#[derive(Clone, Debug)]
pub struct Dialling {
    /// The agent's key, and ours.
    pub config: ClientConfig,
    /// What each connection takes.
    pub buffers: Buffers,
}

/// A slot for one connection at a time, in TLS where that is wanted.
pub(crate) struct Secure<W> {
    wire: W,
    /// The connection in TLS, while there is one.
    tls: Option<Box<Connection>>,
    /// How to dial in TLS.
    dialling: Option<Rc<Dialling>>,
    /// What TLS had to say of the last connection that it ended.
    words: Option<Refused>,
}

impl<W: Wire> Secure<W> {
    /// A slot that accepts, in TLS or not as the door says, or dials in clear.
    pub(crate) fn new(wire: W) -> Self {
        Self { wire, tls: None, dialling: None, words: None }
    }

    /// A slot that dials, in TLS if it is told how.
    pub(crate) fn dialling(wire: W, dialling: Option<Rc<Dialling>>) -> Self {
        Self { dialling, ..Self::new(wire) }
    }

    /// Find out who it is that has been accepted.
    ///
    /// # Errors
    /// Why it is not let in; the alert that tells it so has been sent if that cost no waiting.
    pub(crate) async fn admit(
        &mut self,
        door: &Door,
        clock: &Clock,
        slots: &Slots,
    ) -> Result<Caller, Refused> {
        let start = clock.now();
        let Some(begun) = door.greet(clock) else {
            return Ok(Caller::unproved(Principal::Anonymous));
        };
        self.tls = Some(Box::new(begun.map_err(|error| Refused::new(HERE, error))?));
        {
            let unproved = slots.unproved(start);
            let mut shaking = pin!(self.shake_hands(|| unproved.heard(clock.now())));
            let last = start + HANDSHAKE_TIME;
            let mut until = start + HANDSHAKE_LEAST;
            loop {
                match with_deadline(clock, until.min(last), shaking.as_mut()).await {
                    Ok(done) => break done?,
                    Err(_) if until < last && !unproved.is_in_the_way(until, HANDSHAKE_LEAST) => {}
                    Err(_) => return Err(Refused::new(TOO_SLOW, "it did not finish the handshake in time")),
                }
                // What it has said meanwhile gives it as long again.
                let silent = unproved.silent_since() + HANDSHAKE_LEAST;
                until = if silent > until { silent } else { until + HANDSHAKE_LEAST };
            }
        }
        let certificate = self.tls.as_ref().and_then(|tls| tls.peer_certificate());
        Ok(door.identify(certificate))
    }

    /// Shake hands, and say so whenever something has come from the peer.
    async fn shake_hands(&mut self, heard: impl Fn()) -> Result<(), Refused> {
        let said = |this: &mut Self| this.words.take().unwrap_or_else(|| Refused::new(LEFT, Reset));
        while self.tls.as_ref().is_some_and(|tls| !tls.is_established()) {
            if self.flush().await.is_err() || self.fill().await.is_err() {
                return Err(said(self));
            }
            heard();
        }
        self.flush().await.map_err(|Reset| said(self))
    }

    /// Whether the beginning of a record has come, of which nothing can be read yet: as good as the first byte of a request.
    pub(crate) fn is_within_record(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_within_record())
    }

    /// As [`Wire::read`], but answers `None` once the beginning of a record has come.
    pub(crate) async fn hear(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Reset> {
        if self.tls.is_none() {
            return self.wire.read(buffer).await.map(Some);
        }
        loop {
            let count = self.take(buffer).await?;
            if count.is_some() || self.is_within_record() {
                return Ok(count);
            }
            self.flush().await?;
            self.fill().await?;
        }
    }

    /// What TLS has that can be read; zero when the peer has finished, `None` when there is nothing.
    async fn take(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Reset> {
        let Some(tls) = &mut self.tls else { return Err(Reset) };
        match tls.read(buffer) {
            Ok(0) => Ok(tls.peer_closed().then_some(0)),
            Ok(count) => Ok(Some(count)),
            Err(fatal) => {
                self.words = Some((&fatal).into());
                let _ = self.flush().await;
                Err(Reset)
            }
        }
    }

    /// Send what TLS has to send.
    async fn flush(&mut self) -> Result<(), Reset> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        loop {
            let bytes = tls.poll_transmit();
            if bytes.is_empty() {
                return Ok(());
            }
            let count = self.wire.write(bytes).await?;
            tls.transmitted(count);
        }
    }

    /// Give TLS what arrives next.
    async fn fill(&mut self) -> Result<(), Reset> {
        let Some(tls) = &mut self.tls else { return Err(Reset) };
        let count = self.wire.read(tls.space()).await?;
        let taken = if count == 0 { tls.end_of_stream() } else { tls.received(count) };
        if let Err(fatal) = taken {
            self.words = Some((&fatal).into());
            // The alert, if there is room for it: whoever breaks the rules is not waited for.
            let bytes = tls.poll_transmit();
            if !bytes.is_empty() {
                let _ = self.wire.write(bytes).await;
            }
            return Err(Reset);
        }
        Ok(())
    }
}

impl<W: Wire> Wire for Secure<W> {
    async fn accept(&mut self, port: u16) {
        self.tls = None;
        self.words = None;
        self.wire.accept(port).await;
    }

    async fn connect(&mut self, to: SocketAddrV4) -> Result<(), ConnectError> {
        self.tls = None;
        self.words = None;
        self.wire.connect(to).await?;
        let Some(dialling) = &self.dialling else { return Ok(()) };
        let begun = Connection::client(&dialling.config, &to.ip().to_string(), None, dialling.buffers);
        let done = match begun {
            Ok(connection) => {
                self.tls = Some(Box::new(connection));
                self.shake_hands(|| {}).await
            }
            Err(error) => Err(Refused::new(HERE, error)),
        };
        // The connection stays: the alert is still on its way.
        done.map_err(|words| {
            self.tls = None;
            self.words = Some(words);
            ConnectError::Refused
        })
    }

    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Reset> {
        if self.tls.is_none() {
            return self.wire.read(buffer).await;
        }
        loop {
            if let Some(count) = self.take(buffer).await? {
                return Ok(count);
            }
            self.flush().await?;
            self.fill().await?;
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Reset> {
        self.flush().await?;
        let Some(tls) = &mut self.tls else { return self.wire.write(bytes).await };
        let count = tls.write(bytes).map_err(|_| Reset)?;
        self.flush().await?;
        // There was room for all that TLS would ever take.
        if count == 0 && !bytes.is_empty() { Err(Reset) } else { Ok(count) }
    }

    async fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close();
            let _ = self.flush().await;
        }
        self.wire.finish().await;
        self.tls = None;
    }

    fn abort(&mut self) {
        self.tls = None;
        self.wire.abort();
    }

    fn peer(&self) -> Option<SocketAddrV4> {
        self.wire.peer()
    }

    fn words(&mut self) -> Option<String> {
        self.words.take().map(|refused| refused.words)
    }
}
