//! The log of everything that was executed, in its order: one line each, for a checker or a reader.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

/// Bytes of a write that stand in the log: enough for a block that describes itself.
const HEAD: usize = 32;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Microseconds since 1970.
    pub at: u64,
    /// Which connection of this process, from 1; 0 is the process itself.
    pub connection: u64,
    /// `write`, `zeroes`, `trim`, `flush`; `start`, `lost`, `cut`, `late`, `admitted`, `torn`.
    pub what: String,
    /// First byte.
    pub offset: u64,
    /// Bytes, or of a loss the pages.
    pub length: u64,
    /// Whether it was durable when it was answered.
    pub durable: bool,
    /// The NBD error it was answered with, or 0.
    pub error: u32,
    /// The first bytes of a write.
    pub head: Vec<u8>,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, connection, what, offset, length, durable, error, head } = self;
        let durable = u8::from(*durable);
        write!(f, "{at} {connection} {what} {offset} {length} {durable} {error} ")?;
        if head.is_empty() {
            return f.write_str("-");
        }
        head.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Record {
    /// Understands a line; `None` for one that was cut short by the end of its process.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut word = || words.next();
        let record = Self {
            at: word()?.parse().ok()?,
            connection: word()?.parse().ok()?,
            what: word()?.to_string(),
            offset: word()?.parse().ok()?,
            length: word()?.parse().ok()?,
            durable: word()? == "1",
            error: word()?.parse().ok()?,
            head: match word()? {
                "-" => Vec::new(),
                hex => {
                    let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
                    (0..hex.len()).step_by(2).map(byte).collect::<Option<_>>()?
                }
            },
        };
        words.next().is_none().then_some(record)
    }
}

/// A log that several lives of a service append to.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    lines: Vec<u8>,
}

impl Log {
    /// Appends to `path`, or to nothing.
    ///
    /// # Errors
    /// Those of the file.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let open = |path| OpenOptions::new().create(true).append(true).open(path);
        Ok(Self { file: path.map(open).transpose()?, lines: Vec::new() })
    }

    /// Notes what happened now; of `data`, the beginning.
    pub fn note(
        &mut self,
        connection: u64,
        what: &str,
        range: (u64, u64),
        outcome: (bool, u32),
        data: &[u8],
    ) {
        if self.file.is_none() {
            return;
        }
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let record = Record {
            at: at.as_micros() as u64,
            connection,
            what: what.to_string(),
            offset: range.0,
            length: range.1,
            durable: outcome.0,
            error: outcome.1,
            head: data[..data.len().min(HEAD)].to_vec(),
        };
        let _ = writeln!(self.lines, "{record}");
    }

    /// Writes down what was noted, before anybody is told that it happened.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&mut self) -> io::Result<()> {
        let Some(file) = self.file.as_mut().filter(|_| !self.lines.is_empty()) else { return Ok(()) };
        file.write_all(&self.lines)?;
        self.lines.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn what_was_noted_is_read_again_and_a_line_cut_short_is_none() {
        let folder = Folder::new();
        let path = folder.file("log");
        for _ in 0..2 {
            let mut log = Log::open(Some(&path)).unwrap();
            log.note(3, "write", (4096, 512), (false, 0), &[0xab; 512]);
            log.note(0, "lost", (0, 7), (false, 0), &[]);
            log.write().unwrap();
        }
        let text = std::fs::read_to_string(path).unwrap();
        let records: Vec<_> = text.lines().map(|line| Record::parse(line).unwrap()).collect();
        assert_eq!(records.len(), 4);
        assert_eq!(
            (records[2].what.as_str(), records[2].offset, records[2].head.len()),
            ("write", 4096, HEAD)
        );
        assert_eq!(Record::parse("17 3 write 40"), None);
    }
}
