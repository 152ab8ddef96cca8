//! The small services (RFC 862, RFC 863, RFC 864) on every NIC, and one that says how the NIC is doing.
//!
//! The command line has `address=A.B.C.D/P` once per NIC, in bus order, and may have `nic-memory=KIB` and
//! `socket-memory=KIB`; or `panic`.

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write;
use drivers::virtio::console::Console;
use drivers::{AnyNic, Inventory, Watchdog};
use kernel::Machine;
use kernel::power::TableWatchdog;
use log::info;
use network_nic::{Device, Nic};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr};

/// Echo, discard, character generator, and counters of the NIC as a line of text.
const ECHO: u16 = 7;
const DISCARD: u16 = 9;
const GENERATE: u16 = 19;
const COUNTERS: u16 = 99;

struct Link {
    nic: AnyNic,
    interface: Interface,
    sockets: SocketSet<'static>,
    services: Vec<(u16, SocketHandle)>,
    /// Bytes generated: the pattern goes on from here.
    generated: u64,
    /// What is under way from the counters.
    said: bool,
}

/// Serve for ever.
pub(crate) fn run(machine: Machine) -> ! {
    let line = machine.command_line();
    if line.split_ascii_whitespace().any(|word| word == "panic") {
        panic(&machine, line);
    }
    let kib = |key| item(line, key).next().and_then(|value| value.parse::<usize>().ok());
    let nic_memory = kib("nic-memory=").unwrap_or(5 << 10) << 10;
    let socket_memory = kib("socket-memory=").unwrap_or(1 << 10) << 10;
    let number = |key| item(line, key).next().and_then(|value| value.parse::<u16>().ok());
    let (watchdog, hang) = (number("watchdog="), number("hang="));
    let mut found = drivers::find(&Inventory { command_line: line, nic_memory, disk_request: None });
    let wanted = watchdog;
    let mut watchdog =
        found.watchdog.take().zip(wanted).and_then(|(found, seconds)| found.start(seconds).ok());
    if let Some(rng) = &mut found.rng {
        let mut bytes = [0; 100];
        match rng.fill(&mut bytes) {
            Ok(()) => info!("random {bytes:02x?}"),
            Err(error) => info!("{error}"),
        }
    }
    let table = wanted.filter(|_| watchdog.is_none()).and_then(TableWatchdog::start);
    let addresses = item(line, "address=").filter_map(|text| text.parse::<Ipv4Cidr>().ok());
    let mut links: Vec<Link> = found
        .nics
        .into_iter()
        .zip(addresses)
        .map(|(nic, address)| Link::new(nic, address, socket_memory))
        .collect();
    info!(
        "serving on {} NICs, {} KiB free, after {} us",
        links.len(),
        machine.free_memory() >> 10,
        machine.now()
    );
    loop {
        let mut deadline = None::<Instant>;
        if watchdog.is_some() || table.is_some() {
            if hang.is_some_and(|seconds| machine.now() > u64::from(seconds) * 1_000_000) {
                info!("hanging");
                loop {
                    machine.idle(None);
                }
            }
            watchdog.iter_mut().for_each(Watchdog::feed);
            table.iter().for_each(TableWatchdog::feed);
            deadline = Some(Instant::from_micros(machine.now() as i64 + 500_000));
        }
        for link in &mut links {
            let now = Instant::from_micros(machine.now() as i64);
            if let Some(next) = link.turn(now) {
                deadline = Some(deadline.map_or(next, |deadline| deadline.min(next)));
            }
        }
        let now = machine.now();
        if deadline.is_none_or(|deadline| deadline.total_micros() as u64 > now)
            && !links.iter_mut().fold(false, |waiting, link| link.nic.arm() | waiting)
        {
            machine.idle(deadline.map(|deadline| deadline.total_micros() as u64));
        }
    }
}

/// Panic on a machine that may have a virtio-console and nothing else that says why.
fn panic(machine: &Machine, line: &str) -> ! {
    let console = drivers::find_console(line);
    if let Some(register) = console.as_ref().and_then(Console::emergency) {
        machine.say_last_by(register);
    }
    info!("about to panic");
    panic!("as it was told to")
}

fn item<'a>(line: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    line.split_ascii_whitespace().filter_map(move |item| item.strip_prefix(key))
}

impl Link {
    fn new(mut nic: AnyNic, address: Ipv4Cidr, memory: usize) -> Self {
        let config = Config::new(EthernetAddress(nic.mac()).into());
        let mut interface = Interface::new(config, &mut nic, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::Ipv4(address));
        });
        let segmentation = nic.capabilities().segmentation.tcpv4;
        info!("{nic}: {address} mtu {} segments {segmentation:?}", nic.capabilities().ip_mtu());
        let mut sockets = SocketSet::new(vec![]);
        let mut services = Vec::new();
        for port in [ECHO, ECHO, DISCARD, GENERATE, COUNTERS] {
            let small = memory.min(4096);
            let (receive, send) = match port {
                ECHO => (memory, memory),
                DISCARD => (memory, small),
                GENERATE => (small, memory),
                _ => (small, small),
            };
            let buffer = |bytes| tcp::SocketBuffer::new(vec![0; bytes]);
            let mut socket = tcp::Socket::new(buffer(receive), buffer(send));
            socket.set_nagle_enabled(false);
            services.push((port, sockets.add(socket)));
        }
        Self { nic, interface, sockets, services, generated: 0, said: false }
    }

    /// Receive, serve, send. Answers when there is something to do again at the latest.
    fn turn(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll(now, &mut self.nic, &mut self.sockets);
        for index in 0..self.services.len() {
            self.serve(index);
        }
        let result = self.interface.poll(now, &mut self.nic, &mut self.sockets);
        self.nic.flush();
        // Sending receives as well, and what came then has not been served.
        let again = result == PollResult::SocketStateChanged;
        let due = if again { Some(now) } else { self.interface.poll_at(now, &self.sockets) };
        // While the NIC takes nothing it is no use to try before it does.
        self.nic.rests_until().or(due)
    }

    fn serve(&mut self, index: usize) {
        let (port, handle) = self.services[index];
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        if !socket.is_open() {
            self.said = self.said && port != COUNTERS;
            let _ = socket.listen(port);
            return;
        }
        match port {
            ECHO => echo(socket),
            DISCARD => while socket.can_recv() && socket.recv(|bytes| (bytes.len(), ())).is_ok() {},
            GENERATE => generate(socket, &mut self.generated),
            _ if socket.may_send() && !self.said => {
                let counters = self.nic.counters();
                let _ = writeln!(Text(socket), "{counters:?}");
                self.said = true;
                socket.close();
            }
            _ => {}
        }
        // All that came was used, and the other side is done.
        if !socket.may_recv() && !socket.can_recv() && socket.state() == tcp::State::CloseWait {
            socket.close();
        }
    }
}

/// From the receive buffer to the send buffer, as much as fits.
fn echo(socket: &mut tcp::Socket<'_>) {
    let mut piece = [0; 4096];
    while socket.can_recv() && socket.can_send() {
        let room = (socket.send_capacity() - socket.send_queue()).min(piece.len());
        let Ok(count) = socket.recv_slice(&mut piece[..room]) else { return };
        if socket.send_slice(&piece[..count]) != Ok(count) {
            socket.abort();
            return;
        }
    }
}

/// Bytes between two changes of the pattern.
const RUN: u64 = 1021;

/// Each byte is the low byte of its position divided by [`RUN`]: a piece that is lost, doubled or moved is seen.
fn generate(socket: &mut tcp::Socket<'_>, position: &mut u64) {
    if socket.state() != tcp::State::Established {
        *position = 0;
        return;
    }
    while socket.can_send() {
        let filled = socket.send(|bytes| {
            let (mut rest, mut filled) = (bytes, 0);
            while !rest.is_empty() {
                let left = usize::try_from(RUN - *position % RUN).unwrap_or(1).min(rest.len());
                let (run, after) = core::mem::take(&mut rest).split_at_mut(left);
                run.fill((*position / RUN) as u8);
                *position += left as u64;
                filled += left;
                rest = after;
            }
            (filled, ())
        });
        if filled.is_err() {
            return;
        }
    }
}

/// Text into a socket; what does not fit is lost.
struct Text<'a, 'b>(&'a mut tcp::Socket<'b>);

impl Write for Text<'_, '_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.send_slice(text.as_bytes()).map(|_| ()).map_err(|_| core::fmt::Error)
    }
}
