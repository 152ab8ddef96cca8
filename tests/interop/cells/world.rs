//! What goes wrong in a row: services, networks and the appliance, as they are reached from inside the networks.

use super::rows::Row as Cells;
use super::worker::{BLOCKS, Column, Row, Seen, Worker};
use crate::kills::block::{BLOCK, write_of};
use crate::service::{Inside, Place, Service};
use image_launch::net::Wire;
use image_launch::process;
use image_launch::qmp::Qmp;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use tests_service::Options;

/// Bytes of each disk.
pub(crate) const SIZE: u64 = 1 << 20;
/// Until everybody is at work, on a busy machine.
const START: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(20);
/// Longest that a ping or a login may take: a second, and another for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);

/// What must come of a cell: the letters of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Passes: it takes longer, perhaps; no BUSY, no error, no lost connection.
    Pass,
    /// Recovers: BUSY for a time, or a lost connection; no error, and nothing lost.
    Recover,
    /// Ends with one of these errors, which are told; nothing is lost that was acknowledged.
    Error(&'static [(u8, u8, u8)]),
    /// A damage that is not ours, and that only the initiator can find.
    Damage,
}

/// Which way frames go, seen from the storage service and the initiators.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    In,
    Out,
}

/// The seven disks of a row, each with a service and a worker.
pub(crate) struct World {
    pub(crate) services: Vec<Service>,
    /// What is behind them.
    files: Vec<PathBuf>,
    pub(crate) row: Arc<Row>,
}

impl World {
    /// Starts the services, lets workers work for the cells that there are, makes it go wrong, and looks at what comes of it.
    pub(crate) fn play(cells: &Cells, change: impl Fn(&mut Options), fault: impl FnOnce(&mut Self)) {
        let mut services = Vec::new();
        for n in 0..7 {
            services.push(Service::start(&Inside, n, SIZE, |options| {
                options.name = "disk".into();
                change(options);
            }));
        }
        let files = services.iter().map(|service| service.options.file.clone()).collect();
        let world = Self { services, files, row: Arc::default() };
        world.slow_aborts();
        world.run(cells, fault);
    }

    /// The same with storage services of others, which have these files.
    pub(crate) fn play_behind(files: Vec<PathBuf>, cells: &Cells, fault: impl FnOnce(&mut Self)) {
        Self { services: Vec::new(), files, row: Arc::default() }.run(cells, fault);
    }

    fn run(mut self, cells: &Cells, fault: impl FnOnce(&mut Self)) {
        let world = &mut self;
        let columns = Column::ALL.into_iter().zip(cells.cells).enumerate();
        let workers: Vec<_> = columns
            .filter_map(|(n, (column, expect))| {
                let expect = expect?;
                let mut worker = Worker::new(&world.row, column, n);
                let thread = thread::spawn(move || {
                    let outcome = worker.work();
                    (worker, outcome)
                });
                Some((n, column, expect, thread))
            })
            .collect();
        let start = Instant::now();
        while (world.row.ready.load(Ordering::SeqCst) as usize) < workers.len() {
            assert!(start.elapsed() < START, "not everybody began to work");
            sleep(Duration::from_millis(5));
        }
        sleep(Duration::from_millis(300));
        fault(world);
        world.row.is_over.store(true, Ordering::SeqCst);
        let mut wrong = Vec::new();
        for (n, column, expect, thread) in workers {
            let (worker, outcome) = thread.join().expect("a worker does not panic");
            println!("{}, {}: {:?}", cells.scenario, column.name(), worker.seen);
            let judged = outcome
                .and_then(|()| judge(&worker.seen, expect, cells.answers_at_once))
                .and_then(|()| world.compare(n, &worker));
            wrong.extend(
                judged.err().map(|reason| format!("{}: {reason}\n  {:?}", column.name(), worker.seen)),
            );
        }
        assert!(wrong.is_empty(), "{}:\n{}", cells.scenario, wrong.join("\n"));
    }

    /// In the column "abort", writes take a while, so that they are there to be aborted.
    fn slow_aborts(&self) {
        self.services[Column::Abort as usize].order("delay write 100");
    }

    /// All processes die at once and are back after a time.
    pub(crate) fn kill_services(&mut self, down: Duration) {
        self.services.iter_mut().for_each(Service::kill);
        sleep(down);
        self.services.iter_mut().for_each(|service| service.restart(&Inside));
        self.slow_aborts();
    }

    /// The same order for all.
    pub(crate) fn order(&self, line: &str) {
        for service in &self.services {
            service.order(line);
        }
    }

    /// An order for one.
    pub(crate) fn order_of(&self, column: Column, line: &str) {
        self.services[column as usize].order(line);
    }

    /// No frame gets through this way for a time.
    pub(crate) fn cut(&self, wire: Wire, ways: &[Way], time: Duration) {
        let rules: Vec<_> = ways.iter().map(|way| rule(wire, *way, &[])).collect();
        blocked(&rules, time);
    }

    /// Talks to the appliance's hypervisor.
    pub(crate) fn qmp(&self, commands: &[&str]) {
        let mut qmp = Qmp::connect(&Inside.file("appliance.qmp"), LIMIT).unwrap();
        for command in commands {
            qmp.execute(command, &json!({})).unwrap();
        }
    }

    /// With the service's cache gone, each block must be as new as the last flush has made it.
    fn compare(&mut self, n: usize, worker: &Worker) -> Result<(), String> {
        if let Some(service) = self.services.get_mut(n) {
            service.kill();
        }
        let bytes = std::fs::read(&self.files[n]).map_err(|error| error.to_string())?;
        let blocks = bytes.chunks_exact(BLOCK).take(BLOCKS).zip(&worker.floor).zip(0..);
        for ((bytes, floor), number) in blocks {
            let found = write_of(bytes, number)?;
            if found < *floor {
                return Err(format!(
                    "on the medium block {number} holds write {found}, and {floor} was flushed"
                ));
            }
        }
        Ok(())
    }
}

fn judge(seen: &Seen, expect: Expect, answers_at_once: bool) -> Result<(), String> {
    let is_quiet = seen.busy == 0 && seen.reconnects == 0;
    let kept = match expect {
        Expect::Pass => is_quiet && seen.errors.is_empty() && seen.damaged == 0,
        Expect::Recover => seen.errors.is_empty() && seen.damaged == 0,
        Expect::Error(allowed) => {
            seen.errors.iter().all(|error| allowed.contains(error)) && seen.damaged == 0
        }
        Expect::Damage => is_quiet && seen.damaged > 0,
    };
    if !kept {
        return Err(format!("not {expect:?}"));
    }
    if answers_at_once && seen.longest_ping > AT_ONCE {
        return Err(format!("a ping or a login took {:?}", seen.longest_ping));
    }
    if seen.recovery > Duration::from_secs(30) {
        return Err(format!("{:?} from the end of the fault to the first answer", seen.recovery));
    }
    Ok(())
}

/// So many of a hundred frames are lost each way on both networks, for a time. Answers how many were.
pub(crate) fn lose(percent: u32, time: Duration) -> u64 {
    let chance = format!("{:.2}", f64::from(percent) / 100.0);
    let statistic = ["-m", "statistic", "--mode", "random", "--probability", &chance];
    let wires = [Wire::Host, Wire::Service];
    let rules: Vec<_> =
        wires.iter().flat_map(|wire| [Way::In, Way::Out].map(|way| rule(*wire, way, &statistic))).collect();
    blocked(&rules, time)
}

fn rule(wire: Wire, way: Way, condition: &[&str]) -> Vec<String> {
    let (chain, interface) = match way {
        Way::In => ("INPUT", "-i"),
        Way::Out => ("OUTPUT", "-o"),
    };
    let mut words = [chain, interface, wire.name()].map(str::to_string).to_vec();
    words.extend(condition.iter().map(|word| (*word).to_string()));
    words.extend(["-j", "DROP"].map(str::to_string));
    words
}

/// Puts rules in the way for a time. Answers how many frames they have taken.
fn blocked(rules: &[Vec<String>], time: Duration) -> u64 {
    let iptables = |words: &[&str], rule: &[String]| {
        let mut command = process::command("iptables");
        command.arg("-w").args(words).args(rule);
        process::check(command, LIMIT).unwrap()
    };
    for rule in rules {
        iptables(&["-A"], rule);
    }
    sleep(time);
    let list = iptables(&["-n", "-v", "-x", "-L"], &[]);
    for rule in rules {
        iptables(&["-D"], rule);
    }
    let taken = list.lines().filter(|line| line.contains("DROP")).map(str::split_whitespace);
    taken.filter_map(|mut words| words.next()?.parse::<u64>().ok()).sum()
}
