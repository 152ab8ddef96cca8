//! Carries the bytes of one connection to a storage service: as they are, or in TLS.
//!
//! In clear the engine takes bytes from where the connection has them, and puts its own where they are sent from. With TLS the connection begins
//! in clear as well (protocol section "TLS support"); once the server has agreed to STARTTLS there is no way back:
//! whatever comes then is a record of TLS or the end.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::net::SocketAddrV4;
use core::task::Context;
use kernel_runtime::{Day, Instant};
use network::{Stream, TryRead};
use network_tls::{Buffers, ClientConfig, Connection, Fatal, SetupError};
use storage_nbd::Retry;

/// Bytes taken from one connection in clear in a turn: not more than initiators' connections are likely to have room for,
/// which is made in between, so that what is read goes on in one step. The rest is as well off where it is.
const BYTES_PER_TURN: usize = 256 << 10;

/// The server ended the connection as it should.
const CLOSED: &str = "the server closed the connection";

/// What it takes to speak TLS to storage services.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Whom to believe, and who we are.
    pub config: ClientConfig,
    /// The memory of each connection in TLS. It is taken when there is one.
    pub buffers: Buffers,
    /// The time of day; `None` where nobody knows it.
    pub day: Option<Day>,
}

/// An engine whose bytes are carried.
pub(crate) trait Engine {
    /// Where the next bytes belong.
    fn space(&mut self) -> &mut [u8];
    /// So many were put there.
    fn received(&mut self, count: usize) -> Result<(), Lost>;
    /// Take of these bytes what it can, at least one; not more than up to where TLS is to be set up.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Lost> {
        let space = self.space();
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        self.received(count).map(|()| count)
    }
    /// Whether there may be any.
    fn may_transmit(&self) -> bool {
        true
    }
    /// The next bytes to be sent.
    fn poll_transmit(&mut self) -> Option<&[u8]>;
    /// So many of them were taken.
    fn transmitted(&mut self, count: usize) -> Result<(), Lost>;
    /// Put the next bytes into `room`, which counts as sending them.
    fn fill(&mut self, room: &mut [u8]) -> Result<usize, Lost> {
        let mut filled = 0;
        while filled < room.len()
            && let Some(bytes) = self.poll_transmit()
        {
            let count = bytes.len().min(room.len() - filled);
            room[filled..filled + count].copy_from_slice(&bytes[..count]);
            filled += count;
            self.transmitted(count)?;
        }
        Ok(filled)
    }
    /// Whether TLS is to be set up now.
    fn wants_tls(&self) -> bool;
    /// It stands.
    fn tls_established(&mut self);
}

/// Whose certificate is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) tls: Rc<Tls>,
    /// A name of DNS or an address.
    pub(crate) name: String,
}

impl Peer {
    /// Who `name` is, or else whoever has the address of `to`.
    pub(crate) fn new(tls: &Rc<Tls>, name: Option<&str>, to: SocketAddrV4) -> Self {
        Self { tls: tls.clone(), name: name.map_or_else(|| to.ip().to_string(), ToString::to_string) }
    }
}

/// One connection.
pub(crate) struct Carrier {
    /// Who is to be at the other end, if TLS is wanted.
    peer: Option<Peer>,
    secured: Option<Secured>,
    /// Something may wait for room on the connection.
    lacks_room: bool,
    /// Bytes taken from the connection in this turn.
    taken: usize,
}

/// What was begun in TLS.
struct Secured {
    connection: Box<Connection>,
    /// The engine knows that it stands.
    told: bool,
    /// The server has said something in TLS, so it accepts who we are: it learns that last, and then need not say a word.
    heard: bool,
}

impl Carrier {
    /// A connection in clear, or with this peer in TLS.
    pub(crate) fn new(peer: Option<Peer>) -> Self {
        Self { peer, secured: None, lacks_room: false, taken: 0 }
    }

    /// Wake the task of `cx` when the connection brings something or has ended, and when there is room again if that is
    /// waited for: each acknowledgement of the server's would be news otherwise.
    pub(crate) fn register(&self, cx: &mut Context<'_>, stream: &Stream) {
        if self.lacks_room {
            stream.register(cx);
        } else {
            stream.register_read(cx);
        }
    }

    /// Another turn begins.
    pub(crate) fn begin_turn(&mut self) {
        self.taken = 0;
    }

    /// Whether as much was taken in this turn as there may be: there may be more, and it is for the next.
    pub(crate) fn has_had_its_turn(&self) -> bool {
        self.taken >= BYTES_PER_TURN
    }

    /// Give the engine what has arrived. Answers whether there was anything.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        engine: &mut impl Engine,
        stream: &Stream,
    ) -> Result<bool, Lost> {
        let mut moved = false;
        while self.secured.is_none() && !self.has_had_its_turn() {
            if engine.wants_tls() {
                self.secured = Some(self.begin(now)?);
                moved = true;
                break;
            }
            let mut taken = Ok(0);
            let read = stream.read_with(|bytes| {
                taken = engine.take(bytes);
                *taken.as_ref().unwrap_or(&0)
            });
            match read.map_err(Lost::soon)? {
                TryRead::Bytes(count) => {
                    self.taken += count;
                    taken.map(drop)?;
                }
                TryRead::Empty => return Ok(moved),
                TryRead::Finished => return Err(Lost::soon(CLOSED)),
            }
            moved = true;
        }
        match &mut self.secured {
            Some(secured) => Ok(secured.receive(engine, stream)? | moved),
            None => Ok(moved),
        }
    }

    /// Send what the engine has to say. Answers whether anything found room.
    pub(crate) fn transmit(&mut self, engine: &mut impl Engine, stream: &Stream) -> Result<bool, Lost> {
        self.lacks_room = self.secured.is_some();
        if let Some(secured) = &mut self.secured {
            return secured.transmit(engine, stream);
        }
        let mut moved = false;
        while engine.may_transmit() {
            let (mut room, mut filled) = (0, Ok(0));
            let count = stream.write_with(|bytes| {
                room = bytes.len();
                filled = engine.fill(bytes);
                *filled.as_ref().unwrap_or(&0)
            });
            count.map_err(Lost::soon)?;
            let count = filled?;
            moved |= count > 0;
            // The room may go on elsewhere.
            if count == 0 || count < room {
                self.lacks_room = room == 0;
                break;
            }
        }
        Ok(moved)
    }

    /// The server has agreed: from here on nothing is sent or believed but records of TLS.
    fn begin(&self, now: Instant) -> Result<Secured, Lost> {
        let Some(Peer { tls, name }) = &self.peer else {
            return Err(Lost::slowly("TLS is not set up here"));
        };
        let time = tls.day.as_ref().map(|day| day.at(now));
        let connection = Connection::client(&tls.config, name, time, tls.buffers).map_err(|error| {
            let lost = format!("TLS: {error}");
            // Randomness may still come in; all else stays as it is.
            if error == SetupError::NoEntropy { Lost::soon(lost) } else { Lost::slowly(lost) }
        })?;
        Ok(Secured { connection: Box::new(connection), told: false, heard: false })
    }
}

impl Secured {
    fn receive(&mut self, engine: &mut impl Engine, stream: &Stream) -> Result<bool, Lost> {
        let mut moved = false;
        loop {
            moved |= self.hand_over(engine, stream)?;
            if self.connection.peer_closed() {
                return Err(self.cut_off(CLOSED));
            }
            let space = self.connection.space();
            if space.is_empty() {
                return Ok(moved);
            }
            match stream.try_read(space).map_err(|reset| self.cut_off(reset))? {
                TryRead::Bytes(count) => {
                    moved = true;
                    let received = self.connection.received(count);
                    received.map_err(|fatal| self.over(&fatal, stream))?;
                }
                TryRead::Empty => return Ok(moved),
                TryRead::Finished => {
                    let ended = self.connection.end_of_stream();
                    let words = ended.map_or_else(|fatal| format!("TLS: {fatal}"), |()| CLOSED.to_string());
                    return Err(self.cut_off(words));
                }
            }
        }
    }

    /// Give the engine all data that has arrived.
    fn hand_over(&mut self, engine: &mut impl Engine, stream: &Stream) -> Result<bool, Lost> {
        if !self.connection.is_established() {
            return Ok(false);
        }
        let mut moved = !core::mem::replace(&mut self.told, true);
        if moved {
            engine.tls_established();
        }
        loop {
            match self.connection.read(engine.space()) {
                Ok(0) => return Ok(moved),
                Ok(count) => {
                    self.heard = true;
                    engine.received(count)?;
                }
                Err(fatal) => return Err(self.over(&fatal, stream)),
            }
            moved = true;
        }
    }

    fn transmit(&mut self, engine: &mut impl Engine, stream: &Stream) -> Result<bool, Lost> {
        let mut moved = false;
        loop {
            let taken = self.take(engine, stream)?;
            let sent = self.send(stream)?;
            if !taken && !sent {
                return Ok(moved);
            }
            moved = true;
        }
    }

    /// Take data of the engine, as much as there is room for.
    fn take(&mut self, engine: &mut impl Engine, stream: &Stream) -> Result<bool, Lost> {
        let mut moved = false;
        while self.told {
            let Some(bytes) = engine.poll_transmit() else { break };
            let count = self.connection.write(bytes).map_err(|fatal| self.over(&fatal, stream))?;
            if count == 0 {
                break;
            }
            moved = true;
            if let Err(lost) = engine.transmitted(count) {
                // That was the last word: it is to be heard.
                self.connection.close();
                self.send(stream)?;
                return Err(Lost { says_farewell: true, ..lost });
            }
        }
        Ok(moved)
    }

    /// Send records, as many as there is room for.
    fn send(&mut self, stream: &Stream) -> Result<bool, Lost> {
        let mut moved = false;
        loop {
            let sealed = self.connection.poll_transmit();
            if sealed.is_empty() {
                return Ok(moved);
            }
            let count = match stream.try_write(sealed) {
                Ok(0) => return Ok(moved),
                Ok(count) => count,
                Err(reset) => return Err(self.cut_off(reset)),
            };
            self.connection.transmitted(count);
            moved = true;
        }
    }

    /// The server is gone, and why is for people to guess while it never said anything.
    fn cut_off(&self, reason: impl ToString) -> Lost {
        let reason = reason.to_string();
        if self.heard {
            return Lost::soon(reason);
        }
        let guess =
            if self.told { "it may not accept our certificate" } else { "it may have TLS in another way" };
        Lost::slowly(format!("{reason} without an answer in TLS: {guess}"))
    }

    /// The end, in words for people, after the alert for the server.
    fn over(&mut self, fatal: &Fatal, stream: &Stream) -> Lost {
        // An alert that finds no room is not worth waiting for.
        let _ = stream.try_write(self.connection.poll_transmit());
        let reason = format!("TLS: {fatal}");
        // Whoever speaks something else will next time.
        let is_another = matches!(fatal, Fatal::Protocol(_) | Fatal::TooLong);
        let is_hopeless = fatal.needs_operator() || is_another;
        let lost = if is_hopeless { Lost::slowly(reason) } else { Lost::soon(reason) };
        Lost { says_farewell: true, ..lost }
    }
}

/// Why a connection is over.
pub(crate) struct Lost {
    pub(crate) reason: String,
    pub(crate) retry: Retry,
    /// What is there is not the disk that went.
    pub(crate) is_another_disk: bool,
    /// Something was sent that the server should still hear.
    pub(crate) says_farewell: bool,
}

impl Lost {
    pub(crate) fn soon(reason: impl ToString) -> Self {
        let reason = reason.to_string();
        Self { reason, retry: Retry::Soon, is_another_disk: false, says_farewell: false }
    }

    pub(crate) fn slowly(reason: impl ToString) -> Self {
        Self { retry: Retry::Slowly, ..Self::soon(reason) }
    }
}
