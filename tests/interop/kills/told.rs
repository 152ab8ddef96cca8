//! What the load in a guest tells by its port.

use super::block::{BLOCK, write_of};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The test's end of the port.
pub(crate) struct Port {
    pub(crate) stream: UnixStream,
    input: Vec<u8>,
}

impl Port {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, input: Vec::new() }
    }

    /// The lines that are whole after what came next, or after so long a time without anything.
    pub(crate) fn lines(&mut self, wait: Duration) -> Vec<String> {
        self.stream.set_read_timeout(Some(wait)).unwrap();
        let mut bytes = [0; 65536];
        match self.stream.read(&mut bytes) {
            Ok(0) => std::thread::sleep(wait.min(Duration::from_millis(10))),
            Ok(count) => self.input.extend(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("the guest's port: {error}"),
        }
        let mut lines = Vec::new();
        while let Some(length) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=length).collect();
            lines.push(String::from_utf8_lossy(&line).trim().to_string());
        }
        lines
    }
}

/// What each block must at least hold, by all that was told after syncs.
pub(crate) struct Floor(Vec<u64>);

impl Floor {
    pub(crate) fn new() -> Self {
        Self(vec![0; 4096])
    }

    /// Another sync has told of blocks.
    pub(crate) fn raise(&mut self, told: &str) {
        for entry in told.split_whitespace() {
            let (block, write) = entry.split_once(':').unwrap();
            let floor = &mut self.0[block.parse::<usize>().unwrap()];
            *floor = (*floor).max(write.parse().unwrap());
        }
    }

    /// A file has in each block what was told to be durable, or something newer.
    pub(crate) fn must_be_in(&self, file: &Path) {
        let bytes = fs::read(file).unwrap();
        let blocks = bytes.chunks_exact(BLOCK).zip(&self.0).zip(0..);
        let wrong: Vec<String> = blocks
            .filter_map(|((bytes, floor), number)| match write_of(bytes, number) {
                Ok(found) if found >= *floor => None,
                Ok(found) => Some(format!("block {number} holds write {found}, and {floor} was synced")),
                Err(reason) => Some(reason),
            })
            .collect();
        assert!(wrong.is_empty(), "{} blocks, the first: {}", wrong.len(), wrong[0]);
        assert!(self.0.iter().any(|floor| *floor > 0), "nothing was synced");
    }
}
