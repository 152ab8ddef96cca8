//! The tables: what was seen, held against what the READMEs say.

use image_launch::{Context, Error, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const END: &str = "<!-- end of the table -->";

/// A table in a file of the repository, between two lines that nobody sees: the first names the table.
pub(crate) struct Table {
    file: PathBuf,
    begin: String,
    columns: Vec<String>,
    rows: Vec<String>,
    said: BTreeMap<(String, String), String>,
}

impl Table {
    /// The table `name` of `file`, which is to have these rows and columns; what it says of others is forgotten.
    pub(crate) fn new(file: &str, name: &str, columns: Vec<String>, rows: Vec<String>) -> Result<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
        let begin = format!("<!-- {name}: written by `CORBEL_MATRIX=write cargo test --test matrix` -->");
        let text = fs::read_to_string(&file).context(file.display())?;
        let (_, old, _) = parts(&file, &text, &begin)?;
        let said = parse(old);
        Ok(Self { begin, columns, rows, said, file })
    }

    /// What it says of a cell.
    pub(crate) fn says(&self, row: &str, column: &str) -> &str {
        self.said.get(&(row.into(), column.into())).map_or("not run", String::as_str)
    }

    /// Takes in what was seen; answers a sentence if that is something else than the table says.
    pub(crate) fn see(&mut self, row: &str, column: &str, seen: &str) -> Option<String> {
        let said = self.says(row, column).to_string();
        if said == seen {
            return None;
        }
        self.said.insert((row.into(), column.into()), seen.into());
        Some(format!("{row}, {column}: `{seen}`, and {} says `{said}`", self.file.display()))
    }

    /// As it stands in the file.
    pub(crate) fn text(&self) -> String {
        let mut text =
            format!("| | {} |\n|---|{}\n", self.columns.join(" | "), "---|".repeat(self.columns.len()));
        for row in &self.rows {
            let cells: Vec<&str> = self.columns.iter().map(|column| self.says(row, column)).collect();
            let _ = writeln!(text, "| {row} | {} |", cells.join(" | "));
        }
        text
    }

    /// Whether the file has exactly this.
    pub(crate) fn is_written(&self) -> Result<bool> {
        let text = fs::read_to_string(&self.file).context(self.file.display())?;
        Ok(parts(&self.file, &text, &self.begin)?.1.trim() == self.text().trim())
    }

    /// Puts it into the file.
    pub(crate) fn write(&self) -> Result<()> {
        let text = fs::read_to_string(&self.file).context(self.file.display())?;
        let (head, _, tail) = parts(&self.file, &text, &self.begin)?;
        let whole = format!("{head}{}\n\n{}\n{END}{tail}", self.begin, self.text());
        fs::write(&self.file, whole).context(self.file.display())
    }
}

/// What a table says, by row and column.
fn parse(text: &str) -> BTreeMap<(String, String), String> {
    let fields = |line: &str| {
        let inside = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(inside.split('|').map(|field| field.trim().to_string()).collect::<Vec<_>>())
    };
    let mut lines = text.lines().filter_map(fields);
    let heads = lines.next().unwrap_or_default();
    let cells = lines.flat_map(|line| {
        let row = line.first().cloned().unwrap_or_default();
        let cells: Vec<_> = heads.iter().cloned().zip(line).skip(1).collect();
        cells.into_iter().map(move |(column, seen)| ((row.clone(), column), seen))
    });
    cells.filter(|((row, _), _)| !row.starts_with("---")).collect()
}

/// What stands before the table, the table, and what stands behind.
fn parts<'a>(file: &Path, text: &'a str, begin: &str) -> Result<(&'a str, &'a str, &'a str)> {
    let parts = text.split_once(begin).and_then(|(head, rest)| {
        let (table, tail) = rest.split_once(END)?;
        Some((head, table, tail))
    });
    parts.ok_or_else(|| Error::new(format!("{}: no place for a table: {begin} … {END}", file.display())))
}

#[test]
fn a_table_is_read_as_it_is_written() {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut table = Table {
        file: PathBuf::new(),
        begin: String::new(),
        columns: names(&["one", "two"]),
        rows: names(&["a, b", "c"]),
        said: BTreeMap::new(),
    };
    assert!(table.see("a, b", "two", "all").is_some_and(|said| said.starts_with("a, b, two: `all`")));
    assert_eq!(table.see("a, b", "two", "all"), None);
    let read = parse(&table.text());
    assert_eq!(read.len(), 4, "{read:?}");
    table.said = read;
    assert_eq!(
        [table.says("a, b", "two"), table.says("a, b", "one"), table.says("c", "two")],
        ["all", "not run", "not run"]
    );
}
