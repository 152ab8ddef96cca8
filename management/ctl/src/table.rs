//! Tables, as wide as they must be and no wider than the terminal.

use crate::screen::{Screen, Tint};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Between two columns.
const GAP: usize = 2;
/// No column becomes narrower than this.
const NARROWEST: usize = 6;

/// One value: text without control characters, and how it is coloured.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tint: Tint,
}

impl Cell {
    pub(crate) fn tinted(text: impl Into<String>, tint: Tint) -> Self {
        Self { text: text.into(), tint }
    }

    /// As it stands in a line.
    pub(crate) fn shown(&self, screen: &Screen) -> String {
        screen.tint(self.tint, &self.text)
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::tinted(text, Tint::Plain)
    }
}

/// Rows under a head.
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.head.len());
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines of it, head first. A column in which no row has anything is left away.
    pub(crate) fn lines(&self, screen: &Screen) -> Vec<String> {
        let used = |column: &usize| self.rows.iter().any(|row| !row[*column].text.is_empty());
        let columns: Vec<usize> = (0..self.head.len()).filter(used).collect();
        let widest = |column: &usize| {
            let cells = self.rows.iter().map(|row| row[*column].text.width());
            cells.chain([self.head[*column].len()]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = columns.iter().map(widest).collect();
        if let Some(width) = screen.width() {
            fit(&mut widths, width);
        }
        let head: Vec<Cell> = self.head.iter().map(|name| Cell::tinted(*name, Tint::Head)).collect();
        let line = |row: &Vec<Cell>| {
            let cells: Vec<&Cell> = columns.iter().map(|column| &row[*column]).collect();
            laid_out(&cells, &widths, screen)
        };
        std::iter::once(&head).chain(&self.rows).map(line).collect()
    }

    pub(crate) fn print(&self, screen: &Screen) {
        for line in self.lines(screen) {
            screen.say(&line);
        }
    }
}

/// Take from the widest column until all fit into `width`, or nothing can be taken any more.
fn fit(widths: &mut [usize], width: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > width {
        let Some(widest) = widths.iter_mut().max() else { return };
        if *widest <= NARROWEST {
            return;
        }
        *widest -= 1;
    }
}

fn laid_out(cells: &[&Cell], widths: &[usize], screen: &Screen) -> String {
    let mut line = String::new();
    let mut owed = 0;
    for (cell, width) in cells.iter().zip(widths) {
        let text = cut(&cell.text, *width);
        if !text.is_empty() {
            line.extend(std::iter::repeat_n(' ', owed));
            owed = 0;
            line += &screen.tint(cell.tint, &text);
        }
        // Spaces are only written before something.
        owed += width - text.width() + GAP;
    }
    line
}

/// `text` in at most `width` columns; what does not fit ends in an ellipsis.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.into();
    }
    let mut kept = String::new();
    let mut taken = 0;
    for character in text.chars() {
        let more = character.width().unwrap_or(0);
        if taken + more + 1 > width {
            break;
        }
        kept.push(character);
        taken += more;
    }
    kept.push('…');
    kept
}

/// Names and values under each other; an empty value leaves its name away.
pub(crate) fn facts(screen: &Screen, facts: &[(&str, Cell)]) {
    let shown = facts.iter().filter(|(_, cell)| !cell.text.is_empty());
    let width = shown.clone().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, cell) in shown {
        let label = screen.tint(Tint::Head, name);
        let space = " ".repeat(width - name.len() + GAP);
        screen.say(&format!("{label}{space}{}", screen.tint(cell.tint, &cell.text)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "STATE", "NEVER", "REASON"]);
        table.row(vec!["web-1".into(), "running".into(), "".into(), "".into()]);
        table.row(vec![
            "a-name-that-is-long".into(),
            "failed".into(),
            "".into(),
            "the guest’s 仮想 disk is gone".into(),
        ]);
        table
    }

    #[test]
    fn columns_stand_under_each_other_and_empty_ones_are_left_away() {
        let lines = table().lines(&Screen::fixed(None));
        assert_eq!(
            lines,
            [
                "NAME                 STATE    REASON",
                "web-1                running",
                "a-name-that-is-long  failed   the guest’s 仮想 disk is gone",
            ]
        );
    }

    #[test]
    fn the_widest_gives_way_to_the_terminal() {
        let lines = table().lines(&Screen::fixed(Some(40)));
        assert!(lines.iter().all(|line| line.width() <= 40), "{lines:#?}");
        assert_eq!(lines[2], "a-name-that-is…  failed   the guest’s …");
        let narrow = table().lines(&Screen::fixed(Some(1)));
        assert_eq!(narrow[2], "a-nam…  failed  the g…");
        assert_eq!(cut("仮想", 3), "仮…");
    }
}
