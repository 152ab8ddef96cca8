//! The matrix: the image on each machine, started by each firmware from each kind of disk, with each pair of NICs.
//!
//! In each cell it boots, a disk is read over iSCSI, a command goes by the API to the agent and is carried out, and the power
//! button ends the machine. README.md beside this file says what is tried when, and has what was seen.
#![allow(clippy::unwrap_used, reason = "in a test an error is the end, and its sentence is printed")]

#[path = "../interop/fixture.rs"]
#[allow(dead_code, reason = "the turns of it are all that is needed here")]
mod fixture;

mod boots;
mod cell;
mod host;
mod monitors;
mod platforms;
mod qemu;
mod table;
mod times;
mod xen;

use crate::cell::{Cell, PAIRS, pair, rows};
use crate::fixture::Turn;
use crate::host::Host;
use crate::monitors::Monitor;
use crate::platforms::PLATFORMS;
use crate::qemu::Seen;
use crate::table::Table;
use std::sync::Mutex;

const SEEN: &str = "seen";
const README: &str = "tests/matrix/README.md";

/// What of the matrix is to be tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Much {
    /// One machine for each hypervisor, and a diagonal through the matrix.
    Some,
    /// All there are.
    All,
    /// All, and the tables are made anew.
    Write,
}

impl Much {
    fn asked() -> Self {
        match std::env::var("CORBEL_MATRIX").as_deref() {
            Ok("all") => Self::All,
            Ok("write") => Self::Write,
            Ok("") | Err(_) => Self::Some,
            Ok(other) => panic!("CORBEL_MATRIX={other}: there are `all` and `write`"),
        }
    }
}

/// What is tried.
#[derive(Clone, Copy)]
enum Subject {
    Cell(Cell),
    Monitor(Monitor),
}

/// Something to be tried, and where in a table it is.
struct Place {
    subject: Subject,
    row: String,
    column: String,
}

impl Place {
    fn name(&self) -> String {
        format!("{}, {}", self.row, self.column)
    }
}

/// Whether `CORBEL_CELLS` asks for the cell: one of the texts in it, between semicolons, is in the cell's name.
fn is_asked_for(name: &str) -> bool {
    let texts = std::env::var("CORBEL_CELLS").unwrap_or_default();
    texts.split(';').any(|text| name.contains(text))
}

/// What is not as the tables say.
enum Difference {
    /// Something else was seen.
    Seen(String),
    /// The cell came to nothing.
    Failed(String),
}

/// Carries cells out, as many at once as this machine bears; answers what differs from the table.
fn carry_out(places: &[Place], table: &mut Table, much: Much) -> Vec<Difference> {
    let _turn = Turn::take();
    let wanted = places.iter().filter(|place| is_asked_for(&place.name()));
    let queue = Mutex::new(wanted.collect::<Vec<_>>().into_iter());
    let (table, differences) = (Mutex::new(table), Mutex::new(Vec::new()));
    let work = || {
        let host = Host::new().unwrap();
        loop {
            let Some(place) = queue.lock().unwrap().next() else { break };
            let name = place.name();
            let came = match &place.subject {
                Subject::Cell(cell) => qemu::run(&host, cell),
                Subject::Monitor(monitor) => monitor.run(&host),
            };
            let difference = match came {
                Ok((seen, took)) => {
                    println!("{name}: {seen}, ready after {} ms", took.as_millis());
                    // What is not here now may have been when the table was written.
                    let mut table = table.lock().unwrap();
                    let seen = (seen != Seen::NotHere).then(|| seen.to_string());
                    seen.and_then(|seen| table.see(&place.row, &place.column, &seen)).map(Difference::Seen)
                }
                Err(error) => Some(Difference::Failed(format!("{name}: {error}"))),
            };
            differences.lock().unwrap().extend(difference);
        }
    };
    let workers = if much == Much::Some { 1 } else { 2 };
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    differences.into_inner().unwrap()
}

/// Shows the table. It is to be what the README has, or becomes that.
fn judge(table: &Table, differences: Vec<Difference>, much: Much) {
    println!("\n{}", table.text());
    if much == Much::Write {
        table.write().unwrap();
    }
    let counts = |difference| match difference {
        Difference::Seen(_) if much == Much::Write => None,
        Difference::Seen(said) | Difference::Failed(said) => Some(said),
    };
    let failed: Vec<_> = differences.into_iter().filter_map(counts).collect();
    assert!(failed.is_empty(), "{}\n\nCORBEL_MATRIX=write makes the tables anew", failed.join("\n\n"));
    assert!(
        table.is_written().unwrap(),
        "the table has other rows or columns: CORBEL_MATRIX=write makes it anew"
    );
}

#[test]
fn on_the_machine_that_is_nearest_to_each_hypervisors_it_does_what_the_readme_says() {
    let much = Much::asked();
    let mut all = Vec::new();
    for platform in PLATFORMS {
        all.extend(platform.cells.iter().enumerate().map(|(number, cell)| {
            let row = format!("{}: {}", platform.name, cell.name());
            let place = Place { subject: Subject::Cell(*cell), row, column: SEEN.into() };
            (number == 0, place)
        }));
    }
    all.extend(Monitor::ALL.map(|monitor| {
        let place =
            Place { subject: Subject::Monitor(monitor), row: monitor.name().into(), column: SEEN.into() };
        (true, place)
    }));
    let rows = all.iter().map(|(_, place)| place.row.clone()).collect();
    let mut table = Table::new("README.md", "platforms", vec![SEEN.into()], rows).unwrap();
    let tried = all.into_iter().filter(|(first, _)| much != Much::Some || *first);
    let places: Vec<_> = tried.map(|(_, place)| place).collect();
    let differences = carry_out(&places, &mut table, much);
    judge(&table, differences, much);
}

/// What a row of the matrix is called.
fn row_name((board, start): (cell::Board, cell::Start)) -> String {
    format!("{}, {}", board.name(), start.name())
}

/// Whether a cell is tried without being asked for: in every second row one, with the next pair each time, so that each firmware
/// starts from each kind of disk on one board or the other, and each pair serves.
fn is_of_the_diagonal(row: usize, pair: usize) -> bool {
    row.is_multiple_of(2) && row % PAIRS.len() == pair
}

#[test]
fn what_is_tried_without_being_asked_for_has_every_firmware_every_disk_and_every_pair() {
    let mut tried = Vec::new();
    for (number, (board, start)) in rows().into_iter().enumerate() {
        let cells = PAIRS.iter().enumerate().map(|(pair, nics)| (pair, Cell::new(board, start, *nics)));
        let cells = cells.filter(|(pair, cell)| cell.exists() && is_of_the_diagonal(number, *pair));
        tried.extend(cells.map(|(pair, _)| (start.name(), pair)));
    }
    for (_, start) in rows() {
        assert!(tried.iter().any(|(tried, _)| *tried == start.name()), "{}", start.name());
    }
    for (number, nics) in PAIRS.iter().enumerate() {
        assert!(tried.iter().any(|(_, tried)| *tried == number), "{}", pair(Some(*nics)));
    }
}

#[test]
fn each_cell_does_what_its_table_says() {
    let much = Much::asked();
    let columns = PAIRS.iter().map(|nics| pair(Some(*nics))).collect();
    let labels = rows().into_iter().map(row_name).collect();
    let mut table = Table::new(README, "matrix", columns, labels).unwrap();
    let mut places = Vec::new();
    for (number, row) in rows().into_iter().enumerate() {
        let cells = PAIRS.iter().enumerate().map(|(pair, nics)| (pair, Cell::new(row.0, row.1, *nics)));
        // Those that are nowhere cost nothing.
        let cells = cells
            .filter(|(pair, cell)| much != Much::Some || !cell.exists() || is_of_the_diagonal(number, *pair));
        places.extend(cells.map(|(number, cell)| Place {
            subject: Subject::Cell(cell),
            row: row_name(row),
            column: pair(Some(PAIRS[number])),
        }));
    }
    let differences = carry_out(&places, &mut table, much);
    judge(&table, differences, much);
}
