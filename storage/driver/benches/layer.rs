//! What the driver with its journal and the NBD engine cost of a CPU, for each 4 KiB read and written at queue depth 32:
//! by themselves, with a service in memory; with a real one (nbdkit) over a local socket, all system calls included; and
//! beside them libnbd's tool at the same service. Each is measured several times, in turn with the others, because a
//! machine that is shared is not the same for two of them.

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
/// Full queues that are measured together: several times as many as the journal has room for between two flushes.
const TOGETHER: usize = 32;
/// How often that is measured.
const ROUNDS: usize = 640;
/// Requests to the real service, whose medium has as many blocks.
const REQUESTS: usize = 65_536;
/// How often all of it is measured. Odd, so that one of them is the median.
const RUNS: usize = 9;
/// Ticks of the kernel's accounts in a second.
const TICKS: f64 = 100.0;

/// What one measurement tells of each request.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// Microseconds of a CPU.
    time: f64,
    allocations: f64,
    system_calls: f64,
}

fn main() {
    let mut rows: Vec<(String, Vec<Cost>)> = Vec::new();
    let service = Service::start();
    for _ in 0..RUNS {
        let mut note = |name: String, cost| match rows.iter_mut().find(|(known, _)| *known == name) {
            Some((_, costs)) => costs.push(cost),
            None => rows.push((name, vec![cost])),
        };
        for (name, operation) in [("read", READ), ("write, journalled and flushed", WRITE)] {
            for (form, structured) in [("simple", false), ("structured", true)] {
                note(format!("{name}, engine alone, {form} replies"), in_memory(operation, structured));
            }
        }
        let Some(service) = &service else { continue };
        for (name, operation) in [("write, journalled and flushed", WRITE), ("read", READ)] {
            let cost = over_a_socket(&service.socket, operation);
            note(format!("{name}, nbdkit over a local socket"), cost);
        }
        if let Some(time) = nbdcopy(&service.socket) {
            let name = "read, libnbd (nbdcopy) at the same service";
            note(name.to_string(), Cost { time, ..Cost::default() });
        }
    }
    print(&rows);
    if service.is_none() {
        println!("nbdkit is not installed: nothing was measured against a real service");
    }
}

fn print(rows: &[(String, Vec<Cost>)]) {
    let title = format!("{BLOCK} bytes, {DEPTH} in flight, {RUNS} runs");
    let columns = ["CPU us/I/O", "from", "to", "calls/I/O", "allocations"];
    let [time, from, to, calls, allocations] = columns;
    println!("{title:<56} {time:>10} {from:>7} {to:>7} {calls:>10} {allocations:>12}");
    for (name, costs) in rows {
        let sorted = |of: fn(&Cost) -> f64| {
            let mut values: Vec<_> = costs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let (times, calls) = (sorted(|cost| cost.time), sorted(|cost| cost.system_calls));
        let (median, last) = (costs.len() / 2, costs.len() - 1);
        let (time, from, to, calls) = (times[median], times[0], times[last], calls[median]);
        let allocations = sorted(|cost| cost.allocations)[last];
        println!("{name:<56} {time:>10.2} {from:>7.2} {to:>7.2} {calls:>10.2} {allocations:>12.3}");
    }
}

/// Of what the driver does.
fn in_memory(operation: Operation, structured: bool) -> Cost {
    let mut memory = Memory::new(structured);
    for _ in 0..ROUNDS * TOGETHER / 10 {
        memory.round(operation, |_| ());
    }
    let (mut rounds, mut looks) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    let measured = measure(|| {
        for _ in 0..ROUNDS {
            let (mut sum, mut since) = (Duration::ZERO, std::time::Instant::now());
            for _ in 0..TOGETHER {
                memory.round(operation, |begins| {
                    if begins {
                        since = std::time::Instant::now();
                    } else {
                        sum += since.elapsed();
                    }
                });
            }
            rounds.push(sum);
        }
    });
    let allocations = measured.count_total as f64 / (ROUNDS * TOGETHER * DEPTH) as f64;
    // Between two looks at the clock lies about one look, and there are three pairs for every full queue beside one for
    // each request that is taken over.
    for _ in 0..ROUNDS {
        let clock = std::time::Instant::now();
        for _ in 0..TOGETHER * (DEPTH + 3) {
            std::hint::black_box(std::time::Instant::now());
        }
        looks.push(clock.elapsed());
    }
    // Where another process has had the CPU meanwhile, that is above the median.
    let [round, looks] = [rounds, looks].map(|mut times| {
        times.sort_unstable();
        times[ROUNDS / 2]
    });
    let time = round.saturating_sub(looks).as_secs_f64() * 1e6 / (TOGETHER * DEPTH) as f64;
    Cost { time, allocations, system_calls: 0.0 }
}

/// Of a whole thread that serves a connection to a real service.
fn over_a_socket(socket: &Path, operation: Operation) -> Cost {
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
    let (mut pushed, mut ended, mut calls) = (0, 0, 0);
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
            calls += turn(&mut side, &mut stream, &mut bytes, moment);
            ended += side.completions();
        }
    });
    let count = REQUESTS as f64;
    let time = (cpu_seconds() - cpu) * 1e6 / count;
    Cost { time, allocations: measured.count_total as f64 / count, system_calls: f64::from(calls) / count }
}

/// Send all there is, and wait for something to come. Answers how many system calls that took.
fn turn(side: &mut Side, stream: &mut UnixStream, bytes: &mut [u8], now: Instant) -> u32 {
    let mut calls = 1;
    loop {
        let count = side.driver.fill(0, now, bytes).expect("a sound service");
        if count == 0 {
            break;
        }
        stream.write_all(&bytes[..count]).expect("the service listens");
        calls += 1;
    }
    let count = stream.read(bytes).expect("the service answers");
    assert!(count > 0, "the service stays");
    let taken = side.driver.take(0, now, &bytes[..count], &mut ()).expect("a sound service");
    assert_eq!(taken, count);
    calls
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
