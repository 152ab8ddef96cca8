//! The journal: a file of lines, each with a checksum, that only grows until it is written anew.
//!
//! A line is eight hexadecimal digits (CRC-32 as in IEEE 802.3, of what follows the space), a space, and a batch of
//! entries as JSON. The first says which format it is. A line that a crash has left unfinished at the end is cut off; it
//! was never acted on. One that is damaged in the middle is told of, and what the rest says is doubted.

use agent_engine::{Batch, Entry};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What stands in the first line.
const FORMAT: &str = "corbel-agent-journal-1";
/// Below this many bytes it is not written anew.
const SMALL: u64 = 4 * 1024 * 1024;
/// How many entries stand in one line when it is written anew: no more are lost with it.
const TOGETHER: usize = 64;

/// The file, open for more.
pub(crate) struct Journal {
    path: PathBuf,
    /// Where it lies, open so that making its name durable takes no further descriptor.
    directory: File,
    file: File,
    /// Its length, up to the end of the last whole line.
    bytes: u64,
    /// Its length when it was written anew.
    fresh: u64,
    /// That it has its name may not be durable.
    unsettled: bool,
    /// Something in it cannot be read.
    damaged: bool,
}

/// What was read back.
pub(crate) struct Found {
    pub(crate) batches: Vec<Line>,
    /// Lines in the middle that cannot be read, by their numbers.
    pub(crate) damaged: Vec<usize>,
}

/// One line.
#[derive(Serialize, Deserialize)]
pub(crate) struct Line {
    /// The number of its last entry.
    pub(crate) last: u64,
    pub(crate) entries: Vec<Entry>,
}

impl Journal {
    /// Open it, making it if there is none, with all that stands in it.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Found)> {
        let mut file = options().read(true).truncate(false).open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let directory = File::open(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        // It may just have been made, or have got its name from a run that ended right after.
        let (bytes, fresh, unsettled, damaged) = (0, 0, true, false);
        let mut journal = Self { path: path.to_owned(), directory, file, bytes, fresh, unsettled, damaged };
        if text.is_empty() {
            journal.write(&line(&FORMAT))?;
            return Ok((journal, Found { batches: Vec::new(), damaged: Vec::new() }));
        }
        let found = read(&text).map_err(|what| io::Error::other(format!("{}: {what}", path.display())))?;
        let (found, whole) = found;
        if whole < text.len() {
            log::warn!(
                "{}: the last {} bytes were left unfinished and are cut off",
                path.display(),
                text.len() - whole
            );
            journal.file.set_len(whole as u64)?;
        }
        if !found.damaged.is_empty() {
            let kept = path.with_extension("damaged");
            std::fs::copy(path, &kept)?;
            journal.damaged = true;
            log::error!(
                "{}: lines {:?} are damaged; a copy is kept as {}, and what is under way is looked for",
                path.display(),
                found.damaged,
                kept.display()
            );
        }
        // How much of it is history nobody knows: what is long is written anew, so that no number of short runs adds up.
        journal.bytes = whole as u64;
        Ok((journal, found))
    }

    /// Whether it should be written anew: it has grown so far, or is damaged.
    pub(crate) fn is_due(&self) -> bool {
        self.damaged || self.bytes > SMALL.max(self.fresh.saturating_mul(2))
    }

    /// Make a batch durable. After an error it is as before.
    pub(crate) fn append(&mut self, batch: &Batch) -> io::Result<()> {
        self.write(&line(&Line { last: batch.last, entries: batch.entries.clone() }))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // What stands in a file that has lost its name, or may, is not kept.
        self.settle()?;
        self.file.seek(SeekFrom::Start(self.bytes))?;
        match self.file.write_all(bytes).and_then(|()| self.file.sync_data()) {
            Ok(()) => {
                self.bytes += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a line in the middle would be damage.
                let _ = self.file.set_len(self.bytes);
                Err(error)
            }
        }
    }

    fn settle(&mut self) -> io::Result<()> {
        if self.unsettled {
            self.directory.sync_all()?;
        }
        self.unsettled = false;
        Ok(())
    }

    /// Write it anew: these entries are all that it is to say, up to number `last`. A crash leaves the old one or the new
    /// one, whole. After an error it is one of both as well, and says nothing to be durable before it is known which.
    pub(crate) fn rewrite(&mut self, last: u64, entries: Vec<Entry>) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut text = line(&FORMAT);
        let mut rest = entries.into_iter().peekable();
        while rest.peek().is_some() {
            text.extend(line(&Line { last, entries: rest.by_ref().take(TOGETHER).collect() }));
        }
        let mut file = options().read(true).truncate(true).open(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        // From here on the old file is nobody's, whatever else fails.
        (self.file, self.bytes, self.fresh) = (file, text.len() as u64, text.len() as u64);
        (self.unsettled, self.damaged) = (true, false);
        self.settle()
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

fn line<T: Serialize>(value: &T) -> Vec<u8> {
    let body = agent_protocol::encode(value);
    let mut line = format!("{:08x} ", crc32(&body)).into_bytes();
    line.extend(body);
    line.push(b'\n');
    line
}

const STRANGE: &str = "it is not a journal of this version of the agent";

/// The lines, and how many bytes are whole.
fn read(text: &[u8]) -> Result<(Found, usize), &'static str> {
    let mut found = Found { batches: Vec::new(), damaged: Vec::new() };
    let mut whole = 0;
    let mut place = 0;
    for (number, piece) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        place += piece.len();
        let body = piece.strip_suffix(b"\n").and_then(checked);
        if number == 0 {
            let format = body.and_then(|body| serde_json::from_slice::<String>(body).ok());
            match format.as_deref() {
                Some(FORMAT) => whole = place,
                // It was interrupted while it was made.
                None if place == text.len() => break,
                // What follows tells whether it is one.
                None => found.damaged.push(1),
                Some(_) => return Err(STRANGE),
            }
            continue;
        }
        match body.map(serde_json::from_slice::<Line>) {
            Some(Ok(line)) => {
                whole = place;
                found.batches.push(line);
            }
            // What is whole and cannot be understood was not written by this version.
            Some(Err(_)) => return Err("it has an entry that this version of the agent does not know"),
            None => found.damaged.push(number + 1),
        }
    }
    if found.damaged.first() == Some(&1) && found.batches.is_empty() {
        return Err(STRANGE);
    }
    // Damage that nothing follows is an unfinished end.
    let lines = text[..whole].iter().filter(|byte| **byte == b'\n').count();
    found.damaged.retain(|number| *number <= lines);
    Ok((found, whole))
}

/// What follows the checksum of a line, if it is right.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let (sum, body) = line.split_at_checked(8)?;
    let body = body.strip_prefix(b" ")?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (crc32(body) == sum).then_some(body)
}

/// CRC-32 of IEEE 802.3 section 3.2.9, a nibble at a time.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut index = 0;
        while index < 16 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 4 {
                value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |sum, byte| {
        let sum = sum ^ u32::from(*byte);
        let sum = TABLE[(sum & 15) as usize] ^ sum >> 4;
        TABLE[(sum & 15) as usize] ^ sum >> 4
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::Uuid;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("corbel-journal-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("journal")
        }

        fn lasts(&self) -> (Vec<u64>, Vec<usize>) {
            let (_, found) = Journal::open(&self.file()).unwrap();
            (found.batches.iter().map(|line| line.last).collect(), found.damaged)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn batch(last: u64) -> Batch {
        Batch { last, entries: vec![Entry::Epoch { epoch: last, holder: Uuid(7), key: None }] }
    }

    fn filled(place: &Place) -> Vec<u8> {
        let (mut journal, _) = Journal::open(&place.file()).unwrap();
        (1..=3).for_each(|last| journal.append(&batch(last)).unwrap());
        std::fs::read(place.file()).unwrap()
    }

    #[test]
    fn the_checksum_is_the_one_everybody_has() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_journal_cut_off_anywhere_says_what_was_whole_and_goes_on() {
        let place = Place::new("torn");
        let text = filled(&place);
        let ends: Vec<usize> = (0..text.len()).filter(|at| text[*at] == b'\n').map(|at| at + 1).collect();
        for length in 0..=text.len() {
            std::fs::write(place.file(), &text[..length]).unwrap();
            let whole = ends.iter().filter(|end| **end <= length).count().saturating_sub(1) as u64;
            assert_eq!(place.lasts(), ((1..=whole).collect(), vec![]), "cut at {length}");
            let (mut journal, _) = Journal::open(&place.file()).unwrap();
            journal.append(&batch(9)).unwrap();
            assert_eq!(place.lasts().0.last(), Some(&9), "cut at {length}");
        }
    }

    #[test]
    fn damage_in_the_middle_is_told_and_a_copy_kept() {
        let place = Place::new("damaged");
        let text = filled(&place);
        let second = text.iter().position(|byte| *byte == b'\n').unwrap() + 20;
        let mut damaged = text.clone();
        damaged[second] ^= 1;
        std::fs::write(place.file(), &damaged).unwrap();
        assert_eq!(place.lasts(), (vec![2, 3], vec![2]));
        assert_eq!(std::fs::read(place.0.join("journal.damaged")).unwrap(), damaged);
        let mut damaged = text.clone();
        damaged[3] ^= 1;
        std::fs::write(place.file(), &damaged).unwrap();
        assert_eq!(place.lasts(), (vec![1, 2, 3], vec![1]), "what follows shows what it is");
        std::fs::write(place.file(), b"somebody else's file\nof two lines\n").unwrap();
        assert!(Journal::open(&place.file()).is_err());
    }

    #[test]
    fn what_is_said_to_be_durable_stands_in_the_file_that_has_the_name() {
        let place = Place::new("unsettled");
        filled(&place);
        let (mut journal, _) = Journal::open(&place.file()).unwrap();
        journal.append(&batch(4)).unwrap();
        // A pipe cannot be synchronised.
        let (pipe, _other) = std::io::pipe().unwrap();
        let directory =
            std::mem::replace(&mut journal.directory, File::from(std::os::fd::OwnedFd::from(pipe)));
        assert!(journal.rewrite(4, batch(4).entries).is_err());
        assert!(journal.append(&batch(5)).is_err(), "its name may be that of another after a crash");
        journal.directory = directory;
        journal.append(&batch(6)).unwrap();
        assert_eq!(place.lasts(), (vec![4, 6], vec![]));
    }

    #[test]
    fn one_that_is_damaged_is_written_anew_until_that_has_come_about() {
        let place = Place::new("due");
        let mut text = filled(&place);
        let second = text.iter().position(|byte| *byte == b'\n').unwrap() + 20;
        text[second] ^= 1;
        std::fs::write(place.file(), &text).unwrap();
        let (mut journal, _) = Journal::open(&place.file()).unwrap();
        std::fs::create_dir(place.0.join("journal.new")).unwrap();
        assert!(journal.is_due() && journal.rewrite(3, batch(3).entries).is_err());
        journal.append(&batch(4)).unwrap();
        assert!(journal.is_due(), "it still is damaged");
        std::fs::remove_dir(place.0.join("journal.new")).unwrap();
        journal.rewrite(4, batch(4).entries).unwrap();
        assert!(!journal.is_due());
        assert_eq!(place.lasts(), (vec![4], vec![]));
    }

    #[test]
    fn many_short_runs_do_not_add_up() {
        let place = Place::new("runs");
        filled(&place);
        let entries = (0..SMALL / 100).flat_map(|_| batch(3).entries).collect();
        let long = Batch { last: 3, entries };
        let mut lengths = Vec::new();
        for _ in 0..6 {
            let (mut journal, _) = Journal::open(&place.file()).unwrap();
            if journal.is_due() {
                journal.rewrite(3, batch(3).entries).unwrap();
            }
            journal.append(&long).unwrap();
            lengths.push(journal.bytes);
        }
        assert!(lengths.iter().all(|length| *length < 3 * SMALL), "{lengths:?}");
    }

    #[test]
    fn damage_to_one_written_anew_costs_a_line_and_no_more() {
        let place = Place::new("chunks");
        let (mut journal, _) = Journal::open(&place.file()).unwrap();
        let entries: Vec<Entry> = (0..1000).flat_map(|last| batch(last).entries).collect();
        journal.rewrite(1000, entries).unwrap();
        let mut text = std::fs::read(place.file()).unwrap();
        let middle = text.len() / 2;
        text[middle] ^= 1;
        std::fs::write(place.file(), &text).unwrap();
        let (_, found) = Journal::open(&place.file()).unwrap();
        let left: usize = found.batches.iter().map(|line| line.entries.len()).sum();
        assert_eq!((left, found.damaged.len()), (1000 - TOGETHER, 1));
        assert!(found.batches.iter().all(|line| line.last == 1000));
    }

    #[test]
    fn written_anew_it_is_short_and_goes_on() {
        let place = Place::new("anew");
        filled(&place);
        let (mut journal, _) = Journal::open(&place.file()).unwrap();
        assert!(!journal.is_due());
        journal.rewrite(3, batch(3).entries).unwrap();
        journal.append(&batch(4)).unwrap();
        assert_eq!(place.lasts(), (vec![3, 4], vec![]));
        // A crash between the new file and its name leaves the old one.
        std::fs::write(place.0.join("journal.new"), b"half").unwrap();
        assert_eq!(place.lasts(), (vec![3, 4], vec![]));
    }
}
