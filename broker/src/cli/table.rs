//! Aligned tables for people.

use std::io::{self, Write};

/// A table: columns of numbers are aligned to the right, all others to the left.
pub(super) struct Table {
    header: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) const fn new(header: &'static [&'static str]) -> Self {
        Self { header, rows: Vec::new() }
    }

    /// Adds a row, with a cell for each column.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes the header and all rows.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(super) fn write(&self, output: &mut dyn Write) -> io::Result<()> {
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let columns: Vec<(usize, bool)> = self
            .header
            .iter()
            .enumerate()
            .map(|(column, title)| {
                let widths = cells(column).map(|cell| cell.chars().count());
                let width = widths.max().unwrap_or(0).max(title.len());
                (width, cells(column).all(|cell| is_number(cell)))
            })
            .collect();
        let header: Vec<String> = self.header.iter().map(|title| (*title).to_owned()).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for (cell, (width, is_number)) in row.iter().zip(&columns) {
                let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (before, after) = if *is_number { (gap.as_str(), "") } else { ("", gap.as_str()) };
                line.push_str(&format!("{before}{cell}{after}  "));
            }
            writeln!(output, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn is_number(cell: &str) -> bool {
    cell == "-" || cell.parse::<i64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["TOPIC", "END", "LEADER"]);
        table.row(["a".to_owned(), "5".to_owned(), "1".to_owned()]);
        table.row(["größer".to_owned(), "1200".to_owned(), "-".to_owned()]);
        let mut output = Vec::new();
        table.write(&mut output).unwrap();
        let expected = "TOPIC    END  LEADER\na          5       1\ngrößer  1200       -\n";
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }
}
