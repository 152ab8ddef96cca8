//! The state disk as a file or a block device. A thread waits for it, so that the appliance does not.

use core::task::Poll;
use core::time::Duration;
use kernel_runtime::Instant;
use state::{BLOCK, Disk, DiskFailed, Request};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
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
        let mut file = File::options().read(true).write(true).open(path)?;
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

fn carry_out(file: &File, job: Job) -> io::Result<Vec<u8>> {
    match job {
        Job::Read(at, length) => {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at)?;
            Ok(bytes)
        }
        Job::Write(at, bytes) => file.write_all_at(&bytes, at).map(|()| Vec::new()),
        Job::Flush => file.sync_data().map(|()| Vec::new()),
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
