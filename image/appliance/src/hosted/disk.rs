//! The state disk as a file or a block device. A thread waits for it, so that the appliance does not.
//!
//! It is read and written past the host's page cache: after a sync that failed Linux takes the pages for written, and a
//! restart would read in them what the disk does not have.

use core::task::Poll;
use core::time::Duration;
use kernel_runtime::Instant;
use rustix::fs::OFlags;
use state::{BLOCK, Disk, DiskFailed, Request};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// How often the thread is asked whether it is done, by an appliance that is idle.
const LOOK: Duration = Duration::from_millis(1);
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the thread does.
enum Job {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Flush,
}

/// A disk that is a file.
pub(super) struct FileDisk {
    blocks: u64,
    jobs: Sender<Job>,
    done: Receiver<io::Result<Vec<u8>>>,
    /// When the request that is under way was given to the thread, and when it is next to be asked for.
    since: Option<(Instant, Instant)>,
    /// A request was given up and may yet end; until it has the thread is not given another.
    stray: bool,
}

impl FileDisk {
    /// Open the file, which nobody else may have.
    pub(super) fn open(path: &str) -> io::Result<Self> {
        let mut file = open(path)?;
        file.try_lock().map_err(|error| io::Error::other(error.to_string()))?;
        let blocks = file.seek(SeekFrom::End(0))? / BLOCK as u64;
        let (jobs, given) = channel();
        let (answers, done) = channel();
        thread::Builder::new().name("state disk".to_string()).spawn(move || {
            // Until the other side is no more.
            while let Ok(job) = given.recv() {
                if answers.send(carry_out(&file, job)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { blocks, jobs, done, since: None, stray: false })
    }
}

fn open(path: &str) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true);
    let direct = options.clone().custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path);
    match direct {
        // A file system that has no such thing.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            log::warn!(
                "the state disk: {path}: only through the host's page cache, which hides what a failed sync lost"
            );
            options.open(path)
        }
        direct => direct,
    }
}

fn carry_out(file: &File, job: Job) -> io::Result<Vec<u8>> {
    match job {
        Job::Read(at, length) => {
            let mut aligned = Aligned::new(length);
            let bytes = aligned.bytes();
            file.read_exact_at(bytes, at)?;
            Ok(bytes.to_vec())
        }
        Job::Write(at, bytes) => {
            let mut aligned = Aligned::new(bytes.len());
            aligned.bytes().copy_from_slice(&bytes);
            file.write_all_at(aligned.bytes(), at).map(|()| Vec::new())
        }
        Job::Flush => file.sync_data().map(|()| Vec::new()),
    }
}

/// Bytes in memory from where the kernel lets a disk read and write them itself.
struct Aligned {
    bytes: Vec<u8>,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        Self { bytes: vec![0; length + BLOCK], length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let start = self.bytes.as_ptr().addr().next_multiple_of(BLOCK) - self.bytes.as_ptr().addr();
        &mut self.bytes[start..start + self.length]
    }
}

impl Disk for FileDisk {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn carry(&mut self, request: Request<'_>, now: Instant) -> Poll<Result<(), DiskFailed>> {
        if self.stray {
            self.stray = self.done.try_recv().is_err();
            if self.stray {
                return Poll::Ready(Err(DiskFailed));
            }
        }
        let Some((since, _)) = self.since else {
            let job = match request {
                Request::Read { block, into } => Job::Read(block * BLOCK as u64, into.len()),
                Request::Write { block, bytes } => Job::Write(block * BLOCK as u64, bytes.to_vec()),
                Request::Flush => Job::Flush,
            };
            self.since = Some((now, now + LOOK));
            return if self.jobs.send(job).is_ok() { Poll::Pending } else { Poll::Ready(Err(DiskFailed)) };
        };
        let Ok(result) = self.done.try_recv() else {
            self.since = Some((since, now + LOOK));
            if now < since + PATIENCE {
                return Poll::Pending;
            }
            (self.since, self.stray) = (None, true);
            return Poll::Ready(Err(DiskFailed));
        };
        self.since = None;
        Poll::Ready(match (result, request) {
            (Ok(bytes), Request::Read { into, .. }) if bytes.len() == into.len() => {
                into.copy_from_slice(&bytes);
                Ok(())
            }
            (Ok(_), Request::Read { .. }) => Err(DiskFailed),
            (Ok(_), _) => Ok(()),
            (Err(error), _) => {
                log::error!("the state disk: {error}");
                Err(DiskFailed)
            }
        })
    }

    fn arm(&mut self) -> bool {
        // It is asked soon anyway.
        false
    }

    fn deadline(&self) -> Option<Instant> {
        self.since.map(|(_, look)| look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(disk: &mut FileDisk, mut request: Request<'_>) -> Result<(), DiskFailed> {
        loop {
            let again = match &mut request {
                Request::Read { block, into } => Request::Read { block: *block, into },
                Request::Write { block, bytes } => Request::Write { block: *block, bytes },
                Request::Flush => Request::Flush,
            };
            match disk.carry(again, Instant::ZERO) {
                Poll::Ready(result) => return result,
                Poll::Pending => thread::sleep(LOOK),
            }
        }
    }

    #[test]
    fn what_is_written_is_read_past_the_page_cache_where_the_file_system_can() {
        let path = std::env::temp_dir().join(format!("corbel-state-{}", std::process::id()));
        std::fs::write(&path, vec![0; 8 * BLOCK]).expect("a file");
        let name = path.to_str().expect("a name");
        let mut disk = FileDisk::open(name).expect("a disk");
        let is_direct = std::fs::read_dir("/proc/self/fd").expect("descriptors").any(|entry| {
            let entry = entry.expect("a descriptor");
            let info = format!("/proc/self/fdinfo/{}", entry.file_name().display());
            std::fs::read_link(entry.path()).is_ok_and(|file| file == path)
                && std::fs::read_to_string(info).is_ok_and(|info| {
                    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
                    let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
                    flags & OFlags::DIRECT.bits() != 0
                })
        });
        let can = File::options().read(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(&path);
        assert_eq!(is_direct, can.is_ok());
        for blocks in [1, 6] {
            let written = vec![blocks as u8; blocks * BLOCK];
            run(&mut disk, Request::Write { block: 2, bytes: &written }).expect("written");
            run(&mut disk, Request::Flush).expect("flushed");
            let mut read = vec![0; blocks * BLOCK];
            run(&mut disk, Request::Read { block: 2, into: &mut read }).expect("read");
            assert!(read == written);
        }
        std::fs::remove_file(path).expect("removed");
    }
}
