//! `FAULTS.md` against what there is: each of its cells names what runs it, and that must exist.

use super::rows::ROWS;
use super::worker::Column;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Cells of the table, and of these on the real image at least.
const CELLS: usize = 105;
const ON_IMAGE: usize = 35;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// One line of the table: fault, column, expected, tests on the image, tests in simulation.
fn lines(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with("| ") && line.matches('|').count() == 6);
    let cells =
        rows.map(|line| line.split('|').skip(1).take(5).map(|cell| cell.trim().to_string()).collect());
    cells.filter(|cells: &Vec<String>| Column::ALL.iter().any(|column| column.name() == cells[1])).collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_cell_of_the_table_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("tests/interop/FAULTS.md")).unwrap();
    let lines = lines(&text);
    assert_eq!(lines.len(), CELLS);
    let faults: BTreeSet<_> = lines.iter().map(|cells| &cells[0]).collect();
    assert_eq!(faults.len(), CELLS / Column::ALL.len());
    let simulated = fs::read_to_string(root().join("tests/sim/src/plan/fault.rs")).unwrap();
    let mut on_image = 0;
    for cells in &lines {
        let [fault, column, expected, image, simulation] = &cells[..] else { unreachable!() };
        let cell = format!("{fault}, {column}");
        let makes_sense = expected != "–";
        let tests: Vec<_> = quoted(image).collect();
        on_image += usize::from(!tests.is_empty());
        for test in &tests {
            assert!(exists(test), "{cell}: there is no test {test}");
        }
        for kind in quoted(simulation) {
            let variant = kind.split([' ', '{']).next().unwrap_or_default();
            let is_there =
                simulated.lines().any(|line| line.trim_start().starts_with(&format!("{variant} {{")));
            assert!(is_there, "{cell}: the simulation knows no {kind}");
        }
        let is_run = !tests.is_empty() || quoted(simulation).next().is_some();
        assert_eq!(is_run, makes_sense, "{cell}: {expected}, and it is run by {image} and {simulation}");
    }
    assert!(on_image >= ON_IMAGE, "{on_image} cells on the image");
    println!("{on_image} cells on the image");
}

/// Whether a test of this name stands in a file of this folder; one of `cells` must play the cell's row too.
fn exists(test: &str) -> bool {
    let Some((module, name)) = test.rsplit_once("::") else { return false };
    let file = root().join("tests/interop").join(format!("{}.rs", module.replace("::", "/")));
    fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("#[test]\nfn {name}()")))
}

#[test]
fn what_the_table_says_of_a_row_is_what_the_row_plays() {
    let text = fs::read_to_string(root().join("tests/interop/FAULTS.md")).unwrap();
    let source = fs::read_to_string(root().join("tests/interop/cells.rs")).unwrap();
    for row in ROWS {
        let before = source.split(&format!("row(\"{}\")", row.scenario)).next().unwrap();
        let test = before.rsplit("fn ").next().unwrap().split('(').next().unwrap();
        let name = format!("cells::{test}");
        let told: BTreeSet<_> = lines(&text)
            .iter()
            .filter(|cells| quoted(&cells[3]).any(|test| test == name))
            .map(|cells| cells[1].clone())
            .collect();
        let played: BTreeSet<_> = Column::ALL
            .into_iter()
            .zip(row.cells)
            .filter(|(_, cell)| cell.is_some())
            .map(|(column, _)| column.name().to_string())
            .collect();
        assert_eq!(told, played, "{name}");
    }
}
