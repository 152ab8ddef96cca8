//! How long each cell takes from the start of QEMU to the first INQUIRY that is answered: a figure, not a test.

use crate::cell::{Cell, PAIRS, pair, rows};
use crate::fixture::Turn;
use crate::host::Host;
use crate::table::Table;
use crate::{README, is_asked_for, qemu, row_name};
use image_launch::initiator::Unit;
use image_launch::net::Wire;
use image_launch::process::{self, Process};
use image_launch::scratch::Scratch;
use image_launch::{Error, Result, setup};
use std::path::Path;
use std::time::{Duration, Instant};

const BENCH: &str = "tests/bench/README.md";
/// Boots of a cell, of which the median is told.
const BOOTS: usize = 3;
/// What OVMF takes on a crowded host.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
#[ignore = "a figure, by which nothing can fail: cargo test --release --test matrix -- --ignored"]
fn figure_of_each_cell() {
    let _turn = Turn::take();
    setup::ensure(setup::BENCH).unwrap();
    let columns = || PAIRS.iter().map(|nics| pair(Some(*nics))).collect();
    let labels = || rows().into_iter().map(row_name).collect();
    let seen = Table::new(README, "matrix", columns(), labels()).unwrap();
    let mut table = Table::new(BENCH, "boots", columns(), labels()).unwrap();
    let scratch = Scratch::new().unwrap();
    let probe = scratch.file("ibench");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/bench/peer");
    let mut make = process::command("make");
    make.arg("-s").arg("-C").arg(folder).arg(format!("OUT={}", scratch.path().display())).arg(&probe);
    process::check(make, LIMIT).unwrap();
    for (row, nics) in rows().into_iter().flat_map(|row| PAIRS.map(|nics| (row, nics))) {
        let (label, column) = (row_name(row), pair(Some(nics)));
        let said = seen.says(&label, &column);
        if !is_asked_for(&format!("{label}, {column}")) {
            continue;
        }
        if !["all", "serves"].contains(&said) {
            table.see(&label, &column, said);
            continue;
        }
        let cell = Cell::new(row.0, row.1, nics);
        // A storage service still has the connections of machines that are gone.
        let host = host().unwrap();
        let mut times: Vec<u128> =
            (0..BOOTS).map(|_| time(&host, &probe, &cell).unwrap().as_millis()).collect();
        times.sort_unstable();
        println!("{label}, {column}: {times:?} ms");
        table.see(&label, &column, &times[BOOTS / 2].to_string());
    }
    table.write().unwrap();
    println!("{}", table.text());
}

/// A host that asks nobody where the appliance is, for it would ask again after a second only; and that keeps no queue of what
/// it asked before, which a boot would be met by.
fn host() -> Result<Host> {
    let host = Host::new()?;
    let (address, mac) = (Wire::Host.appliance().to_string(), Wire::Host.mac());
    for words in [
        &["link", "set", "host", "txqueuelen", "8"][..],
        &["neighbour", "replace", &address, "lladdr", &mac, "dev", "host", "nud", "permanent"],
    ] {
        let mut ip = host.net.command("ip");
        ip.args(words);
        process::check(ip, LIMIT)?;
    }
    Ok(host)
}

fn time(host: &Host, probe: &Path, cell: &Cell) -> Result<Duration> {
    let Unit { portal, iqn, lun } = host.unit();
    let mut asking = host.net.command(probe);
    asking.args(["probe", &format!("iscsi://{portal}/{iqn}/{lun}"), &LIMIT.as_secs().to_string()]);
    let mut asking = Process::start("probe", asking, &host.scratch.file("probe.log"))?;
    // Until it asks.
    std::thread::sleep(Duration::from_millis(100));
    let mut machine = qemu::start(host, cell, &host.config(None))?;
    let end = loop {
        if let Some(end) = asking.ended()? {
            break end;
        }
        machine.process.must_run()?;
        std::thread::sleep(Duration::from_millis(1));
    };
    let took = Instant::now() - machine.begun;
    if end.success() {
        Ok(took)
    } else {
        Error::because(format!("no answer: {}\n{}", asking.tail(), machine.said()))
    }
}
