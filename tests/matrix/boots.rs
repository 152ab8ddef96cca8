//! One boot after the other: as many as it is asked for, and none may fail.

use crate::cell::{Board, Cell, Nic, Start};
use crate::fixture::Turn;
use crate::host::{Came, Host, OFF};
use crate::qemu::{self, Seen};

/// How often each machine is booted unless `CORBEL_BOOTS` says otherwise.
const FEW: usize = 2;

#[test]
fn it_boots_each_time_on_each_machine() {
    let _turn = Turn::take();
    let count = std::env::var("CORBEL_BOOTS").map_or(FEW, |count| count.parse().unwrap());
    // A storage service takes 16 connections, and still has those of machines that are gone.
    let mut host = Host::new().unwrap();
    for board in [Board::Q35, Board::Pc, Board::Microvm] {
        let cell = Cell::new(board, Start::Pvh, [Nic::Modern; 2]);
        let mut times: Vec<u128> = (0..count)
            .map(|number| {
                if number % 10 == 9 {
                    host = Host::new().unwrap();
                }
                boot(&host, &cell, number)
            })
            .collect();
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 100];
        println!(
            "{}: {count} boots, none failed; ready after {} ms at least, {} at the median, {} at the 95th percentile, {} at most",
            cell.name(),
            at(0),
            at(50),
            at(95),
            at(100)
        );
    }
}

/// Boots it, reads its disk and switches it off; answers after how many milliseconds it was ready.
fn boot(host: &Host, cell: &Cell, number: usize) -> u128 {
    let boot = || {
        let mut machine = qemu::start(host, cell, &host.config(None))?;
        let came = host.wait_for(&mut machine, true)?;
        assert_eq!(came, Came::Up, "boot {number} of {}: {}", cell.name(), machine.said());
        let took = machine.begun.elapsed().as_millis();
        host.read()?;
        let seen = qemu::press(host, &mut machine, OFF)?;
        assert_eq!(seen, Seen::All, "boot {number} of {}: {}", cell.name(), machine.said());
        Ok::<_, image_launch::Error>(took)
    };
    boot().unwrap_or_else(|error| panic!("boot {number} of {}: {error}", cell.name()))
}
