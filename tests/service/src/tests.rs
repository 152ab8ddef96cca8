//! The service over real sockets, with a client that says what it is told to.

mod client;
mod fencing;
mod misbehaviour;
mod protocol;

use crate::testing::Folder;
use crate::{Options, Server};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;

const SIZE: u64 = 1 << 20;

/// A service that runs in a thread; `stop` ends it.
struct Service {
    address: SocketAddr,
    control: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// One of the disk in `folder`, with a control socket of that name.
    fn start(folder: &Folder, name: &str, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new("127.0.0.1:0".parse().unwrap(), folder.file("disk"));
        options.size = Some(SIZE);
        options.control = Some(folder.file(name));
        options.log = Some(folder.file("log"));
        change(&mut options);
        let server = Server::open(&options).unwrap();
        let address = server.address().unwrap();
        let thread = std::thread::spawn(|| server.run().unwrap());
        Self { address, control: folder.file(name), thread: Some(thread) }
    }

    /// Gives an order, which must be obeyed.
    fn order(&self, line: &str) -> String {
        let answer = self.try_order(line);
        answer.strip_prefix("ok ").unwrap_or_else(|| panic!("{line}: {answer}")).trim().to_string()
    }

    fn try_order(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(&self.control).unwrap();
        writeln!(stream, "{line}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    }

    /// One of its figures.
    fn figure(&self, name: &str) -> String {
        let stats = self.order("stats");
        let found = stats.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {name} in {stats}")).to_string()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Ok(mut stream) = UnixStream::connect(&self.control) {
            let _ = writeln!(stream, "stop");
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }
}
