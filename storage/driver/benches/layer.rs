//! What the driver with its journal and the NBD engine cost of a CPU, for each 4 KiB read and written at queue depth 32:
//! by themselves, with a service in memory; with a real one (nbdkit) over a local socket, all system calls included; and
//! beside them libnbd's tool at the same service.

#[path = "../tests/peer/mod.rs"]
mod peer;

use allocation_counter::measure;
use kernel_runtime::Instant;
use peer::{BLOCK, DEPTH, Memory, Side};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use storage_block::Operation;
use storage_driver::Dial;

const READ: Operation = Operation::Read;
const WRITE: Operation = Operation::Write { fua: false };
/// Full queues that are measured.
const ROUNDS: usize = 20_000;
/// Requests to the real service, whose medium has as many blocks.
const REQUESTS: usize = 65_536;
/// Ticks of the kernel's accounts in a second.
const TICKS: f64 = 100.0;

fn main() {
    println!(
        "{:<64} {:>12} {:>12}",
        format!("{BLOCK} bytes, {DEPTH} in flight"),
        "CPU us/I/O",
        "allocations"
    );
    for (name, operation) in [("read", READ), ("write, journalled and flushed", WRITE)] {
        for (form, structured) in [("simple", false), ("structured", true)] {
            let (time, allocated) = in_memory(operation, structured);
            row(&format!("{name}, engine alone, {form} replies"), time, Some(allocated));
        }
    }
    let Some(service) = Service::start() else {
        println!("nbdkit is not installed: nothing is measured against a real service");
        return;
    };
    for (name, operation) in [("write, journalled and flushed", WRITE), ("read", READ)] {
        let (time, allocated) = over_a_socket(&service.socket, operation);
        row(&format!("{name}, nbdkit over a local socket"), time, Some(allocated));
    }
    match nbdcopy(&service.socket) {
        Some(time) => row("read, libnbd (nbdcopy) at the same service", time, None),
        None => println!("nbdcopy is not installed: nothing to compare with"),
    }
}

fn row(name: &str, time: f64, allocated: Option<f64>) {
    let allocated = allocated.map_or_else(|| "-".to_string(), |count| format!("{count:.3}"));
    println!("{name:<64} {time:>12.2} {allocated:>12}");
}

/// Microseconds and allocations for each request, of what the driver does.
fn in_memory(operation: Operation, structured: bool) -> (f64, f64) {
    let mut memory = Memory::new(structured);
    for _ in 0..ROUNDS / 10 {
        memory.round(operation, |_| ());
    }
    let (mut sum, mut since) = (Duration::ZERO, std::time::Instant::now());
    let measured = measure(|| {
        for _ in 0..ROUNDS {
            memory.round(operation, |begins| {
                if begins {
                    since = std::time::Instant::now();
                } else {
                    sum += since.elapsed();
                }
            });
        }
    });
    let count = (ROUNDS * DEPTH) as f64;
    let allocated = measured.count_total as f64 / count;
    // Between two looks at the clock lies about one look, and there are three pairs for every full queue beside one for
    // each request that is taken over.
    let clock = std::time::Instant::now();
    for _ in 0..ROUNDS * (DEPTH + 3) {
        std::hint::black_box(std::time::Instant::now());
    }
    let looks = clock.elapsed().as_secs_f64();
    let time = (sum.as_secs_f64() - looks).max(0.0) * 1e6 / count;
    (time, allocated)
}

/// The same of a whole thread that serves a connection to a real service.
fn over_a_socket(socket: &Path, operation: Operation) -> (f64, f64) {
    let mut stream = UnixStream::connect(socket).expect("the service listens");
    let mut side = Side::new("", (REQUESTS * BLOCK) as u64);
    let mut bytes = vec![0; 256 << 10];
    let start = std::time::Instant::now();
    let now = || Instant::from_micros(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    assert_eq!(side.driver.dial(0, now()), Dial::Now(0));
    side.driver.connected(0, now());
    while !side.driver.is_up() {
        turn(&mut side, &mut stream, &mut bytes, now());
    }
    side.completions();
    let (mut pushed, mut ended) = (0, 0);
    let cpu = cpu_seconds();
    let measured = measure(|| {
        while ended < REQUESTS {
            let moment = now();
            while pushed < REQUESTS && pushed - ended < DEPTH {
                let request = side.request(operation);
                side.driver.push(moment, request);
                pushed += 1;
            }
            side.driver.dispatch(moment);
            turn(&mut side, &mut stream, &mut bytes, moment);
            ended += side.completions();
        }
    });
    let count = REQUESTS as f64;
    ((cpu_seconds() - cpu) * 1e6 / count, measured.count_total as f64 / count)
}

/// Send all there is, and wait for something to come.
fn turn(side: &mut Side, stream: &mut UnixStream, bytes: &mut [u8], now: Instant) {
    loop {
        let count = side.driver.fill(0, now, bytes).expect("a sound service");
        if count == 0 {
            break;
        }
        stream.write_all(&bytes[..count]).expect("the service listens");
    }
    let count = stream.read(bytes).expect("the service answers");
    assert!(count > 0, "the service stays");
    let taken = side.driver.take(0, now, &bytes[..count]).expect("a sound service");
    assert_eq!(taken, count);
}

/// What this thread has had of a CPU.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux keeps accounts");
    let nanos = text.split_whitespace().next().and_then(|field| field.parse::<f64>().ok());
    nanos.expect("the first field is a number") / 1e9
}

/// What all children that have ended had.
fn cpu_seconds_of_children() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux keeps accounts");
    let (_, fields) = text.rsplit_once(')').expect("a name in parentheses");
    // cutime and cstime: proc(5) counts from one, and two fields lie before.
    let ticks = fields.split_whitespace().skip(13).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS
}

/// What libnbd's own tool takes for each read of the whole medium.
fn nbdcopy(socket: &Path) -> Option<f64> {
    let before = cpu_seconds_of_children();
    let status = Command::new("nbdcopy")
        .args(["--no-extents", "--connections=1", "--threads=1"])
        .args([format!("--requests={DEPTH}"), format!("--request-size={BLOCK}")])
        .arg(format!("nbd+unix:///?socket={}", socket.display()))
        .arg("null:")
        .status()
        .ok()?;
    assert!(status.success(), "nbdcopy has failed");
    Some((cpu_seconds_of_children() - before) * 1e6 / REQUESTS as f64)
}

/// nbdkit with a medium in memory.
struct Service {
    process: Child,
    socket: PathBuf,
}

impl Service {
    fn start() -> Option<Self> {
        let socket = std::env::temp_dir().join(format!("corbel-layer-{}", std::process::id()));
        let process = Command::new("nbdkit")
            .args(["--foreground", "--exit-with-parent", "--unix"])
            .arg(&socket)
            .args(["memory", &format!("size={}", REQUESTS * BLOCK)])
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let service = Self { process, socket };
        let begins = std::time::Instant::now();
        while UnixStream::connect(&service.socket).is_err() {
            assert!(begins.elapsed() < Duration::from_secs(10), "nbdkit does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
