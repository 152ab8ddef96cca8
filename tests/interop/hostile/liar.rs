//! A storage service that lies as it is told to, and is honest the moment it is told so.

use image_launch::net::Wire;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use storage_nbd::BlockSizes;
use storage_nbd::testing::{Disk, Session, Settings, Shape, option_reply_bytes};
use storage_nbd::wire::{self, Request, TransmissionFlags, option, option_reply};

/// Bytes of its disk.
pub(crate) const SIZE: usize = 1 << 20;
/// How often a connection looks whether the trick has changed.
const TICK: Duration = Duration::from_millis(10);

/// What a reply to an option may be: type and payload.
type OptionReply = (u32, Vec<u8>);

/// What it does.
#[derive(Clone)]
pub(crate) enum Trick {
    /// All that is asked for, at once.
    Honest,
    /// All that is asked for, in pieces of odd sizes and in an order of its own.
    Odd,
    /// These bytes instead of a greeting; then it closes, or keeps the connection and is silent.
    Greet(Vec<u8>, Then),
    /// A greeting cut after ever more bytes, beginning with so many.
    Cut(usize),
    /// These bytes in answer to the first option.
    Answer(Vec<u8>),
    /// These replies to `NBD_OPT_GO`; every other option is unknown to it.
    Go(Vec<OptionReply>),
    /// The export is another one now.
    Export(fn(&mut Settings), usize),
    /// What this makes of the first command, in place of a reply.
    Reply(fn(&Request) -> Vec<u8>, Then),
    /// This error for each of these commands.
    Fail(u16, u32),
    /// This error for the first of these commands only.
    FailOnce(u16, u32),
    /// Commands of this kind are received and never executed; the connection dies of the first after a while.
    Swallow(u16),
}

/// What follows a lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Close,
    Silence,
}

struct State {
    trick: Trick,
    /// Of the trick: a connection that began under another one ends.
    generation: u32,
    disk: Disk,
    violations: Vec<String>,
}

struct Shared {
    state: Mutex<State>,
    connections: AtomicU32,
    /// Those that are open.
    open: AtomicU32,
    commands: AtomicU32,
    stop: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The service. It ends when dropped.
pub(crate) struct Liar {
    shared: Arc<Shared>,
}

impl Liar {
    /// Listens on `port` of the service network.
    pub(crate) fn start(port: u16, trick: Trick) -> Self {
        let listener = TcpListener::bind(SocketAddr::from((Wire::Service.here(), port))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let disk = Disk::new(SIZE);
        let state = Mutex::new(State { trick, generation: 0, disk, violations: Vec::new() });
        let shared = Arc::new(Shared {
            state,
            connections: AtomicU32::new(0),
            open: AtomicU32::new(0),
            commands: AtomicU32::new(0),
            stop: AtomicBool::new(false),
        });
        let served = Arc::clone(&shared);
        thread::spawn(move || {
            while !served.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let shared = Arc::clone(&served);
                        thread::spawn(move || Connection::new(stream, &shared).serve());
                    }
                    Err(_) => thread::sleep(TICK),
                }
            }
        });
        Self { shared }
    }

    /// Changes its ways; connections of before are closed. Until they are, nobody is let in.
    pub(crate) fn turn(&self, trick: Trick) {
        let mut state = self.shared.state();
        state.generation += 1;
        while self.shared.open.load(Ordering::Relaxed) > 0 {
            drop(state);
            thread::sleep(Duration::from_millis(1));
            state = self.shared.state();
            // Who came in between was told the old ways.
            state.generation += 1;
        }
        state.trick = trick;
        self.shared.connections.store(0, Ordering::Relaxed);
        self.shared.commands.store(0, Ordering::Relaxed);
    }

    /// Connections since it changed its ways.
    pub(crate) fn connections(&self) -> u32 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Commands since it changed its ways.
    pub(crate) fn commands(&self) -> u32 {
        self.shared.commands.load(Ordering::Relaxed)
    }

    /// Puts bytes on its disk.
    pub(crate) fn fill(&self, offset: usize, bytes: &[u8]) {
        let state = &mut *self.shared.state();
        // The way to a disk's content is a session's.
        let mut session = Session::new(&settings(), &state.disk);
        let name = settings().name;
        let mut input = 3_u32.to_be_bytes().to_vec();
        input.extend(wire::OPTION_MAGIC.to_be_bytes());
        input.extend(option::EXPORT_NAME.to_be_bytes());
        input.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
        input.extend(name.as_bytes());
        let length = u32::try_from(bytes.len()).unwrap();
        let request =
            Request { flags: 0, command: wire::command::WRITE, cookie: 1, offset: offset as u64, length };
        input.extend(request.to_bytes());
        input.extend(bytes);
        session.receive(&input);
        session.execute(&mut state.disk, 0, Shape::Plain);
    }

    /// What is on its disk.
    pub(crate) fn content(&self, offset: usize, length: usize) -> Vec<u8> {
        self.shared.state().disk.content()[offset..offset + length].to_vec()
    }

    /// What the appliance did that no client may.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.shared.state().violations.clone()
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        // The peer hears of the end before anybody can believe in it.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// How the export presents itself when it is honest.
fn settings() -> Settings {
    Settings::default()
}

struct Connection<'a> {
    stream: TcpStream,
    shared: &'a Shared,
    trick: Trick,
    generation: u32,
    /// How many connections there were since the trick began.
    number: u32,
}

impl<'a> Connection<'a> {
    fn new(stream: TcpStream, shared: &'a Shared) -> Self {
        let state = shared.state();
        let (trick, generation) = (state.trick.clone(), state.generation);
        let number = shared.connections.fetch_add(1, Ordering::Relaxed);
        shared.open.fetch_add(1, Ordering::Relaxed);
        drop(state);
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, shared, trick, generation, number }
    }

    /// The peer may be gone at any moment, which is no news.
    fn serve(mut self) {
        let _ = match self.trick.clone() {
            Trick::Greet(bytes, then) => self.say(&bytes, then),
            Trick::Cut(first) => {
                let greeting = Session::new(&settings(), &Disk::new(0)).output;
                let cut = (first + self.number as usize) % greeting.len();
                self.say(&greeting[..cut], Then::Close)
            }
            Trick::Answer(bytes) => self.answer(&bytes),
            Trick::Go(replies) => self.go(&replies),
            _ => self.session(),
        };
    }

    /// More bytes; `None` when the connection is over.
    fn hear(&mut self) -> Option<Vec<u8>> {
        self.stream.set_read_timeout(Some(TICK)).ok()?;
        let mut chunk = [0; 65536];
        loop {
            if self.shared.state().generation != self.generation || self.shared.stop.load(Ordering::Relaxed) {
                return None;
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(_) if self.shared.state().generation != self.generation => return None,
                Ok(count) => return Some(chunk[..count].to_vec()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return None,
            }
        }
    }

    fn hear_exactly(&mut self, input: &mut Vec<u8>, count: usize) -> Option<Vec<u8>> {
        while input.len() < count {
            input.extend(self.hear()?);
        }
        Some(input.drain(..count).collect())
    }

    fn say(&mut self, bytes: &[u8], then: Then) -> Option<()> {
        self.stream.write_all(bytes).ok()?;
        if then == Then::Silence {
            // Until the peer has had enough.
            loop {
                self.hear()?;
            }
        }
        Some(())
    }

    fn greet(&mut self, input: &mut Vec<u8>) -> Option<()> {
        let greeting = Session::new(&settings(), &Disk::new(0)).output;
        self.stream.write_all(&greeting).ok()?;
        self.hear_exactly(input, 4).map(drop)
    }

    /// The next option: its code.
    fn option(&mut self, input: &mut Vec<u8>) -> Option<u32> {
        let header = self.hear_exactly(input, 16)?;
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        self.hear_exactly(input, word(12) as usize)?;
        Some(word(8))
    }

    fn answer(&mut self, bytes: &[u8]) -> Option<()> {
        let mut input = Vec::new();
        self.greet(&mut input)?;
        self.option(&mut input)?;
        self.say(bytes, Then::Silence)
    }

    fn go(&mut self, replies: &[OptionReply]) -> Option<()> {
        let mut input = Vec::new();
        self.greet(&mut input)?;
        loop {
            let code = self.option(&mut input)?;
            let bytes = if code == option::GO {
                replies.iter().flat_map(|(kind, payload)| option_reply_bytes(code, *kind, payload)).collect()
            } else {
                option_reply_bytes(code, option_reply::ERR_UNSUP, b"")
            };
            self.stream.write_all(&bytes).ok()?;
        }
    }

    /// An honest handshake, and then whatever the trick is about commands.
    fn session(&mut self) -> Option<()> {
        let mut settings = settings();
        let mut session = {
            let state = self.shared.state();
            match self.trick {
                Trick::Export(change, size) => {
                    change(&mut settings);
                    Session::new(&settings, &Disk::new(size))
                }
                _ => Session::new(&settings, &state.disk),
            }
        };
        loop {
            self.stream.write_all(&std::mem::take(&mut session.output)).ok()?;
            if session.has_ended() {
                return Some(());
            }
            let bytes = self.hear()?;
            let before = session.waiting.len();
            session.receive(&bytes);
            let new = u32::try_from(session.waiting.len() - before).unwrap();
            self.shared.commands.fetch_add(new, Ordering::Relaxed);
            self.shared.state().violations.append(&mut session.violations);
            self.execute(&mut session)?;
        }
    }

    fn execute(&mut self, session: &mut Session) -> Option<()> {
        while !session.waiting.is_empty() {
            let request = session.waiting[0].request;
            match self.trick.clone() {
                Trick::Reply(lie, then) => return self.say(&lie(&request), then).and(None),
                Trick::Swallow(command) if request.command == command => {
                    thread::sleep(Duration::from_millis(300));
                    return None;
                }
                trick => {
                    let state = &mut *self.shared.state();
                    let last = session.waiting.len() - 1;
                    let (index, shape) = match trick {
                        Trick::Odd => (last, Shape::Pieces(request.cookie ^ request.offset)),
                        Trick::Fail(command, code) if request.command == command => (0, Shape::Error(code)),
                        Trick::FailOnce(command, code) if request.command == command => {
                            self.trick = Trick::Honest;
                            (0, Shape::Error(code))
                        }
                        _ => (0, Shape::Plain),
                    };
                    session.execute(&mut state.disk, index, shape);
                }
            }
        }
        Some(())
    }
}

/// Makes an export read-only.
pub(crate) fn read_only(settings: &mut Settings) {
    settings.flags.0 |= TransmissionFlags::READ_ONLY.0;
}

/// Takes FLUSH from an export.
pub(crate) fn without_flush(settings: &mut Settings) {
    settings.flags.0 &= !TransmissionFlags::SEND_FLUSH.0;
}

/// Makes an export's blocks larger.
pub(crate) fn large_blocks(settings: &mut Settings) {
    settings.block_sizes = Some(BlockSizes { minimum: 4096, preferred: 4096, maximum: 1 << 20 });
}
