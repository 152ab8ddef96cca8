//! Connections: one bounded thread each, around the HTTP engine.

use crate::line::{Line, Security};
use crate::locked;
use crate::refusals::Refusals;
use crate::service::{Service, problem};
use agent_protocol::Text;
use management_http::{Limits, Server};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::sockopt;
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The most connections at once.
const CONNECTIONS_MAX: usize = 32;
/// How long a peer may be silent before it is asked whether it is still there, how often it is asked again, and how many
/// times. An appliance that lost its power says no goodbye, and must find room when it is back.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(2), Duration::from_secs(1), 3);
/// How often a waiting thread looks whether the agent is to end.
const TICK: Duration = Duration::from_millis(100);

/// Told to an agent that is to end. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<AtomicBool>);

impl Shutdown {
    /// Ask for it.
    pub fn request(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was asked for.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The flag itself, for a signal handler.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

/// Accept connections until told to end.
pub(crate) fn serve(listener: &TcpListener, service: &Service, security: &Security, shutdown: &Shutdown) {
    let open = AtomicUsize::new(0);
    let refusals = Mutex::new(Refusals::default());
    std::thread::scope(|scope| {
        while !shutdown.is_requested() {
            tell(locked(&refusals).over(Instant::now()));
            if !readable(listener) {
                continue;
            }
            let Ok((stream, peer)) = listener.accept() else {
                // Out of descriptors, most likely: trying again at once would not help.
                std::thread::sleep(TICK);
                continue;
            };
            if open.load(Ordering::Acquire) >= CONNECTIONS_MAX {
                // In TLS nothing can be said before the handshake, for which there is no room.
                if security.is_none() {
                    turn_away(stream);
                }
                continue;
            }
            let (place, refusals) = (Place::take(&open), &refusals);
            // If there is no thread, the place is free again with what it was to do.
            let _ = std::thread::Builder::new().name("connection".into()).spawn_scoped(scope, move || {
                let _place = place;
                let _ = stream.set_nodelay(true);
                let _ = ask_now_and_then(&stream);
                let opened = stream
                    .set_write_timeout(Some(Limits::SERVER.write_time))
                    .and_then(|()| Line::open(stream, security));
                match opened {
                    Ok(line) => connection(line, service, shutdown),
                    Err(why) if locked(refusals).add(Instant::now()) => {
                        log::warn!("{peer} is refused: {why}");
                    }
                    Err(_) => {}
                }
            });
        }
    });
    tell(locked(&refusals).rest());
}

/// Of peers that were refused and have no line of their own.
fn tell(more: Option<u64>) {
    if let Some(more) = more {
        log::warn!("{more} more were refused within a minute");
    }
}

/// The place of a connection, free again whatever ends it.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(open: &'a AtomicUsize) -> Self {
        open.fetch_add(1, Ordering::AcqRel);
        Self(open)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn readable(listener: &TcpListener) -> bool {
    let mut entry = [PollFd::new(listener, PollFlags::IN)];
    let tick = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
    rustix::event::poll(&mut entry, Some(&tick)).is_ok_and(|count| count > 0)
}

/// More connections than there is room for: say so, without reading.
fn turn_away(mut stream: TcpStream) {
    let mut engine = Server::new(Limits::SERVER, Duration::ZERO);
    // The engine answers requests; this one stands for the one that will not be read.
    let request = b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n";
    engine.space()[..request.len()].copy_from_slice(request);
    engine.received(Duration::ZERO, request.len());
    let mut response = problem(503, "busy", "All connections of the agent are taken.");
    response.retry_after = Some(1);
    response.close = true;
    engine.respond(Duration::ZERO, &response);
    let _ = stream.set_write_timeout(Some(TICK));
    let _ = stream.write_all(engine.transmit());
}

fn connection(mut line: Line, service: &Service, shutdown: &Shutdown) {
    let began = Instant::now();
    let mut engine = Server::new(Limits::SERVER, Duration::ZERO);
    let key = line.key().map(|key| Text::new(&key.to_string()));
    while !engine.is_finished() {
        let bytes = engine.transmit();
        if !bytes.is_empty() {
            let count = bytes.len();
            if line.write_all(bytes).is_err() {
                return;
            }
            engine.transmitted(began.elapsed(), count);
            continue;
        }
        if let Some(request) = engine.request() {
            let response = service.answer(&request, key.as_ref());
            engine.respond(began.elapsed(), &response);
            continue;
        }
        if shutdown.is_requested() || !read(&mut line, &mut engine, began) {
            return;
        }
    }
    line.finish();
    drain(&mut line);
}

/// Have the system notice a peer that is gone without a word (RFC 9293 section 3.8.4).
fn ask_now_and_then(stream: &TcpStream) -> rustix::io::Result<()> {
    let (idle, interval, count) = KEEP_ALIVE;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, count)?;
    sockopt::set_socket_keepalive(stream, true)
}

/// Read what there is, or let the time go by; whether the connection is still of use.
fn read(line: &mut Line, engine: &mut Server, began: Instant) -> bool {
    let left = engine.deadline().map_or(TICK, |deadline| deadline.saturating_sub(began.elapsed()));
    let patience = left.clamp(Duration::from_millis(1), TICK);
    match line.read(engine.space(), patience) {
        Ok(0) => engine.end_of_input(),
        Ok(count) => engine.received(began.elapsed(), count),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            return engine.expired(began.elapsed()).is_ok();
        }
        Err(error) if error.kind() == ErrorKind::Interrupted => {}
        Err(_) => return false,
    }
    true
}

/// Let the peer read the last answer: closing while it still sends would reset the connection and lose it.
fn drain(line: &mut Line) {
    let mut scratch = [0; 4096];
    for _ in 0..32 {
        if !matches!(line.read(&mut scratch, TICK), Ok(1..)) {
            return;
        }
    }
}
