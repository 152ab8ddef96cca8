//! One TCP connection after another, in a slot with buffers of its own.

use crate::Stack;
use crate::sockets::Place;
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::net::SocketAddrV4;
use core::task::{Context, Poll};
use smoltcp::socket::tcp::{
    ConnectError as TcpConnectError, RecvError, SendError, Socket, SocketBuffer, State,
};
use smoltcp::time::Duration;
use smoltcp::wire::{IpAddress, IpEndpoint};

/// A peer that neither acknowledges nor answers a keep-alive for so long is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// How often an idle connection asks whether its peer is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Turns in which a reset may go out: the NIC may be full in one, and a peer whose MAC address nobody knows any more
/// gets none.
const FAREWELL_TURNS: usize = 4;

/// A slot for one TCP connection at a time.
///
/// `accept` or `connect` begins a connection, whatever was in the slot before; `finish` or `abort` ends it.
/// Dropping a `Stream` does not free the slot: slots live as long as the stack.
pub struct Stream {
    stack: Stack,
    slot: Slot,
}

enum Slot {
    /// Nobody has connected yet: receive and send buffer.
    Reserved(Vec<u8>, Vec<u8>),
    Open(Place),
}

/// The connection is no more: reset, timed out or never there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset;

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection reset")
    }
}

/// Why no connection came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The stack has no address yet, or the destination is none it could reach.
    Unroutable,
    /// The peer refused, or did not answer for half a minute.
    Refused,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unroutable => "no route",
            Self::Refused => "refused or unanswered",
        })
    }
}

/// What [`Stream::try_read`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRead {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now; [`Stream::register`] wakes when that changes.
    Empty,
    /// The peer has finished sending.
    Finished,
}

impl Stream {
    pub(crate) fn new(stack: Stack, receive: Vec<u8>, send: Vec<u8>) -> Self {
        Self { stack, slot: Slot::Reserved(receive, send) }
    }

    /// The slot's socket, made when it is first needed.
    fn open(&mut self) -> Place {
        let (receive, send) = match &mut self.slot {
            Slot::Open(place) => return *place,
            Slot::Reserved(receive, send) => (receive, send),
        };
        let [receive, send] = [receive, send].map(|reserved| {
            let mut buffer = core::mem::take(reserved);
            buffer.resize(buffer.capacity(), 0);
            SocketBuffer::new(buffer)
        });
        let mut socket = Socket::new(receive, send);
        socket.set_nagle_enabled(false);
        let place = self.stack.0.borrow_mut().sockets.add(socket);
        self.slot = Slot::Open(place);
        place
    }

    /// What `f` says of the socket, or `closed` while there is none. It may have no more to send afterwards than before.
    fn with<T>(&self, closed: T, f: impl FnOnce(&mut Socket<'static>) -> T) -> T {
        match self.slot {
            Slot::Open(place) => f(self.stack.0.borrow_mut().sockets.get_mut(place)),
            Slot::Reserved(..) => closed,
        }
    }

    /// Begin or end a connection by `f`, if there is a socket.
    fn change(&self, f: impl FnOnce(&mut Socket<'static>)) {
        if let Slot::Open(place) = self.slot {
            let sockets = &mut self.stack.0.borrow_mut().sockets;
            f(sockets.get_mut(place));
            sockets.changed(place);
        }
    }

    /// Move bytes by `f`, which says how many they were; if any, there may be something to send: they, or a larger window.
    fn transfer<E>(
        &self,
        closed: E,
        f: impl FnOnce(&mut Socket<'static>) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let Slot::Open(place) = self.slot else { return Err(closed) };
        let sockets = &mut self.stack.0.borrow_mut().sockets;
        let count = f(sockets.get_mut(place))?;
        if count > 0 {
            sockets.touch(place);
        }
        Ok(count)
    }

    /// Listen on `port` and wait for a peer. Several slots may listen on the same port; each takes one peer. Nobody
    /// ever comes to port zero.
    pub async fn accept(&mut self, port: u16) {
        if port == 0 {
            return core::future::pending().await;
        }
        let place = self.open();
        self.stack.0.borrow_mut().backlog.add(place, port);
        loop {
            self.let_go().await;
            self.change(|socket| {
                configure(socket);
                // Fails only for port zero and for an open socket, and this one was just closed.
                let _ = socket.listen(port);
            });
            if self.established().await {
                return;
            }
        }
    }

    /// Connect to `to`.
    pub async fn connect(&mut self, to: SocketAddrV4) -> Result<(), ConnectError> {
        let place = self.open();
        self.let_go().await;
        {
            let mut inner = self.stack.0.borrow_mut();
            inner.backlog.remove(place);
            let port = inner.ephemeral_port();
            let inner = &mut *inner;
            let socket = inner.sockets.get_mut(place);
            configure(socket);
            let remote = IpEndpoint::new(IpAddress::Ipv4(*to.ip()), to.port());
            socket.connect(inner.interface.context(), remote, port).map_err(|error| match error {
                TcpConnectError::InvalidState | TcpConnectError::Unaddressable => ConnectError::Unroutable,
            })?;
            inner.sockets.changed(place);
        }
        if self.established().await { Ok(()) } else { Err(ConnectError::Refused) }
    }

    /// End whatever was in the slot, and stay until its peer was told: a new beginning would forget that.
    async fn let_go(&self) {
        self.change(|socket| {
            if socket.state() != State::TimeWait {
                socket.abort();
            }
        });
        let mut turns = 0;
        poll_fn(|cx| {
            let owes_reset = |socket: &mut Socket<'static>| {
                socket.state() == State::Closed && socket.remote_endpoint().is_some()
            };
            if turns == FAREWELL_TURNS || !self.with(false, owes_reset) {
                return Poll::Ready(());
            }
            turns += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Wait until the handshake has succeeded, or failed.
    async fn established(&self) -> bool {
        poll_fn(|cx| {
            self.with(Poll::Ready(false), |socket| match socket.state() {
                State::Listen | State::SynSent | State::SynReceived => {
                    socket.register_recv_waker(cx.waker());
                    Poll::Pending
                }
                State::Closed => Poll::Ready(false),
                State::Established
                | State::FinWait1
                | State::FinWait2
                | State::CloseWait
                | State::Closing
                | State::LastAck
                | State::TimeWait => Poll::Ready(true),
            })
        })
        .await
    }

    /// The peer's address while there is one.
    pub fn peer(&self) -> Option<SocketAddrV4> {
        self.with(None, |socket| socket.remote_endpoint()).and_then(address)
    }

    /// Our own address and port while there is a peer.
    pub fn local(&self) -> Option<SocketAddrV4> {
        self.with(None, |socket| socket.local_endpoint()).and_then(address)
    }

    /// Read at least one byte; zero means that the peer has finished sending.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Reset> {
        poll_fn(|cx| match self.try_read(buffer) {
            Ok(TryRead::Bytes(count)) => Poll::Ready(Ok(count)),
            Ok(TryRead::Finished) => Poll::Ready(Ok(0)),
            Ok(TryRead::Empty) => {
                self.with((), |socket| socket.register_recv_waker(cx.waker()));
                Poll::Pending
            }
            Err(reset) => Poll::Ready(Err(reset)),
        })
        .await
    }

    /// Write as much of `bytes` as there is room for, waiting until there is some.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, Reset> {
        poll_fn(|cx| match self.try_write(bytes) {
            Ok(0) if !bytes.is_empty() => {
                self.with((), |socket| socket.register_send_waker(cx.waker()));
                Poll::Pending
            }
            written => Poll::Ready(written),
        })
        .await
    }

    /// Write all of `bytes` into the send buffer, waiting for room as often as needed.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Reset> {
        poll_fn(|cx| {
            while !bytes.is_empty() {
                let count = match self.try_write(bytes) {
                    Ok(count) => count,
                    Err(reset) => return Poll::Ready(Err(reset)),
                };
                if count == 0 {
                    self.with((), |socket| socket.register_send_waker(cx.waker()));
                    return Poll::Pending;
                }
                bytes = &bytes[count..];
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Read what is there now.
    pub fn try_read(&self, buffer: &mut [u8]) -> Result<TryRead, Reset> {
        if buffer.is_empty() {
            return Ok(TryRead::Empty);
        }
        match self.transfer(RecvError::InvalidState, |socket| receive_into(socket, buffer)) {
            Ok(0) => Ok(TryRead::Empty),
            Ok(count) => Ok(TryRead::Bytes(count)),
            Err(RecvError::Finished) => Ok(TryRead::Finished),
            Err(RecvError::InvalidState) => Err(Reset),
        }
    }

    /// Write as much of `bytes` as there is room for now, possibly nothing.
    pub fn try_write(&self, bytes: &[u8]) -> Result<usize, Reset> {
        self.transfer(Reset, |socket| send_from(socket, bytes).map_err(|_| Reset))
    }

    /// Let `f` take of the bytes that are there, as they lie, and answer how many it took: not all of them may be shown at
    /// once. [`TryRead::Bytes`] of zero says that there are some and `f` took none.
    pub fn read_with(&self, f: impl FnOnce(&[u8]) -> usize) -> Result<TryRead, Reset> {
        let mut shown = false;
        let received = |socket: &mut Socket<'static>| {
            socket.recv(|bytes| {
                shown = !bytes.is_empty();
                let count = if shown { f(bytes) } else { 0 };
                (count, count)
            })
        };
        match self.transfer(RecvError::InvalidState, received) {
            Ok(count) if shown => Ok(TryRead::Bytes(count)),
            Ok(_) => Ok(TryRead::Empty),
            Err(RecvError::Finished) => Ok(TryRead::Finished),
            Err(RecvError::InvalidState) => Err(Reset),
        }
    }

    /// Let `f` put bytes into the room that is left, and answer how many it put: not all of the room may be shown at once.
    /// `f` is not asked where there is none.
    pub fn write_with(&self, f: impl FnOnce(&mut [u8]) -> usize) -> Result<usize, Reset> {
        self.transfer(Reset, |socket| {
            socket
                .send(|room| {
                    let count = if room.is_empty() { 0 } else { f(room) };
                    (count, count)
                })
                .map_err(|_| Reset)
        })
    }

    /// How many bytes there is room for now: none while another stream of the same stack is being read or written.
    pub fn room(&self) -> usize {
        let Slot::Open(place) = self.slot else { return 0 };
        let Ok(mut inner) = self.stack.0.try_borrow_mut() else { return 0 };
        let socket = inner.sockets.get_mut(place);
        if socket.may_send() { socket.send_capacity() - socket.send_queue() } else { 0 }
    }

    /// Write all of `parts`, one behind the other, or nothing if there is not room for all of them. Answers which.
    pub fn try_write_all<const N: usize>(&self, parts: [&[u8]; N]) -> Result<bool, Reset> {
        let length = parts.iter().map(|part| part.len()).sum();
        let written = self.transfer(Reset, |socket| {
            if socket.send_capacity() - socket.send_queue() < length {
                return Ok(0);
            }
            let whole = socket.send(|room| {
                let Some(room) = room.get_mut(..length) else { return (0, 0) };
                let mut filled = 0;
                for part in parts {
                    room[filled..filled + part.len()].copy_from_slice(part);
                    filled += part.len();
                }
                (length, length)
            });
            match whole.map_err(|_| Reset)? {
                // The room goes on elsewhere.
                0 => parts
                    .iter()
                    .try_fold(0, |sum, part| Ok(sum + send_from(socket, part).map_err(|_| Reset)?)),
                written => Ok(written),
            }
        })?;
        Ok(written == length)
    }

    /// Wake the task of `cx` when there is something to read, room to write, or the connection has ended.
    pub fn register(&self, cx: &mut Context<'_>) {
        self.with((), |socket| {
            socket.register_recv_waker(cx.waker());
            socket.register_send_waker(cx.waker());
        });
    }

    /// Wake the task of `cx` when there is something to read or the connection has ended: for one who has nothing to write,
    /// and to whom it is no news that there is more room.
    pub fn register_read(&self, cx: &mut Context<'_>) {
        self.with((), |socket| socket.register_recv_waker(cx.waker()));
    }

    /// Whether all that was written has been acknowledged by the peer.
    pub fn is_drained(&self) -> bool {
        self.with(true, |socket| socket.send_queue() == 0)
    }

    /// Finish sending: the peer sees the end of the stream after all that was written. Waits until the connection
    /// is closed on both sides, which a peer can delay for ever: bound it with a deadline, then
    /// [`Stream::abort`].
    pub async fn finish(&mut self) {
        self.change(Socket::close);
        let mut scratch = [0; 512];
        poll_fn(|cx| {
            // What still arrives is of no interest, but must not hold the connection open.
            while matches!(self.try_read(&mut scratch), Ok(TryRead::Bytes(_))) {}
            self.with(Poll::Ready(()), |socket| match socket.state() {
                State::Closed | State::TimeWait | State::Listen => Poll::Ready(()),
                _ => {
                    socket.register_recv_waker(cx.waker());
                    socket.register_send_waker(cx.waker());
                    Poll::Pending
                }
            })
        })
        .await;
    }

    /// End the connection at once; the peer sees a reset.
    pub fn abort(&mut self) {
        self.change(Socket::abort);
    }
}

/// Move what fits into `buffer`. Seldom in two pieces, so the second is looked for only when there is one: smoltcp's own
/// way for slices goes through all of it twice.
fn receive_into(socket: &mut Socket<'static>, buffer: &mut [u8]) -> Result<usize, RecvError> {
    let mut moved = 0;
    loop {
        let rest = &mut buffer[moved..];
        let piece = socket.recv(|bytes| {
            let count = bytes.len().min(rest.len());
            rest[..count].copy_from_slice(&bytes[..count]);
            (count, count)
        })?;
        moved += piece;
        if piece == 0 || moved == buffer.len() || socket.recv_queue() == 0 {
            return Ok(moved);
        }
    }
}

/// Move as much of `bytes` as there is room for.
fn send_from(socket: &mut Socket<'static>, bytes: &[u8]) -> Result<usize, SendError> {
    let mut moved = 0;
    loop {
        let rest = &bytes[moved..];
        let piece = socket.send(|room| {
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            (count, count)
        })?;
        moved += piece;
        if piece == 0 || moved == bytes.len() || socket.send_queue() == socket.send_capacity() {
            return Ok(moved);
        }
    }
}

fn configure(socket: &mut Socket<'static>) {
    socket.set_timeout(Some(SILENCE_LIMIT));
    socket.set_keep_alive(Some(KEEP_ALIVE));
}

fn address(endpoint: IpEndpoint) -> Option<SocketAddrV4> {
    match endpoint.addr {
        IpAddress::Ipv4(ip) => Some(SocketAddrV4::new(ip, endpoint.port)),
        IpAddress::Ipv6(_) => None,
    }
}
