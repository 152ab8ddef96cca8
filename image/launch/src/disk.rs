//! Disks with known content, and the NBD servers that export them.

use crate::net::{Net, Wire};
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{Context, Error, Result};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// The standard port of NBD.
pub const NBD: u16 = 10809;

/// Which program serves a disk over NBD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Server {
    /// QEMU's.
    #[default]
    QemuNbd,
    /// nbdkit with a plugin behind these filters, each with its parameters at the end of the command line.
    Nbdkit {
        /// What serves the file: `file`, or `split`, which can give no space back.
        plugin: &'static str,
        /// Names of filters, the outermost first.
        filters: Vec<String>,
        /// `key=value` parameters.
        parameters: Vec<String>,
    },
}

impl Server {
    /// nbdkit without any filter.
    #[must_use]
    pub fn nbdkit() -> Self {
        Self::Nbdkit { plugin: "file", filters: Vec::new(), parameters: Vec::new() }
    }
}

/// A running NBD server on the service network, exporting one file under the default name.
#[derive(Debug)]
pub struct NbdServer {
    process: Process,
    uri: String,
}

impl NbdServer {
    /// Serves `file` on `port` of the service network and waits until it listens.
    ///
    /// # Errors
    /// When the program is missing, refuses its arguments or does not listen.
    pub fn start(net: &Net, scratch: &Scratch, server: &Server, file: &Path, port: u16) -> Result<Self> {
        let (listen, seen) = net.server(Wire::Service, port)?;
        let name = match server {
            Server::QemuNbd => "qemu-nbd",
            Server::Nbdkit { .. } => "nbdkit",
        };
        let command = command(net, name, server, file, listen);
        let mut process = Process::start(name, command, &scratch.file(&format!("{name}-{port}.log")))?;
        net.listening(&mut process, listen, LIMIT)?;
        Ok(Self { process, uri: format!("nbd://{seen}/") })
    }

    /// Its export as an NBD URI, as the appliance reaches it.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The process, to end it or to read what it said.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn command(
    net: &Net,
    name: &str,
    server: &Server,
    file: &Path,
    listen: SocketAddrV4,
) -> std::process::Command {
    let (address, port) = (listen.ip().to_string(), listen.port().to_string());
    let mut command = net.command(name);
    match server {
        Server::QemuNbd => {
            // -t: stay after the last client. -e: clients at once. Discard reaches the file.
            command.args(["-t", "-e", "16", "-f", "raw", "--discard=unmap", "--detect-zeroes=off"]);
            command.args(["-b", &address, "-p", &port]).arg(file);
        }
        Server::Nbdkit { plugin, filters, parameters } => {
            command.args(["-f", "-i", &address, "-p", &port]);
            command.args(filters.iter().map(|filter| format!("--filter={filter}")));
            command.arg(plugin).arg(file).args(parameters);
        }
    }
    command
}

/// A file filled with bytes that depend on `seed` and on their place only, so that a byte at a wrong place shows.
#[derive(Debug)]
pub struct Pattern {
    path: PathBuf,
    bytes: u64,
}

impl Pattern {
    /// Writes `bytes` of the pattern of `seed` to `path`.
    ///
    /// # Errors
    /// When the file cannot be written, or `bytes` is no multiple of 8.
    pub fn write(path: PathBuf, seed: u64, bytes: u64) -> Result<Self> {
        if !bytes.is_multiple_of(8) {
            return Error::because("a pattern is made of 8-byte words");
        }
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&path).context(path.display())?);
        for word in 0..bytes / 8 {
            file.write_all(&mix(seed, word).to_le_bytes()).context(path.display())?;
        }
        file.flush().context(path.display())?;
        Ok(Self { path, bytes })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fails unless `other` begins with the same bytes; the sentence names the first byte that differs.
    ///
    /// # Errors
    /// When it differs, is shorter or cannot be read.
    pub fn must_equal(&self, other: &Path) -> Result<()> {
        let mut ours = File::open(&self.path).context(self.path.display())?;
        let mut theirs = File::open(other).context(other.display())?;
        let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut at = 0;
        while at < self.bytes {
            let step = usize::try_from((self.bytes - at).min(1 << 20)).context("length")?;
            ours.read_exact(&mut a[..step]).context(self.path.display())?;
            theirs.read_exact(&mut b[..step]).context(other.display())?;
            if let Some(first) = a[..step].iter().zip(&b[..step]).position(|(a, b)| a != b) {
                let byte = at + first as u64;
                return Error::because(format!(
                    "{} differs from what was written, first at byte {byte}",
                    other.display()
                ));
            }
            at += step as u64;
        }
        Ok(())
    }
}

/// A well-mixed word for place `n` (the finalizer of SplitMix64).
fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Makes an empty disk of `bytes` at `path` that takes no room until it is written.
///
/// # Errors
/// When it cannot be made.
pub fn empty(path: &Path, bytes: u64) -> Result<()> {
    process::sparse_file(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_byte_is_found_and_its_place_named() {
        let scratch = Scratch::new().unwrap();
        let pattern = Pattern::write(scratch.file("a"), 7, 3 << 20).unwrap();
        let copy = scratch.file("b");
        let mut bytes = std::fs::read(pattern.path()).unwrap();
        std::fs::write(&copy, &bytes).unwrap();
        pattern.must_equal(&copy).unwrap();
        bytes[(2 << 20) + 5] ^= 1;
        std::fs::write(&copy, &bytes).unwrap();
        let error = pattern.must_equal(&copy).unwrap_err().to_string();
        assert!(error.ends_with(&format!("byte {}", (2 << 20) + 5)), "{error}");
    }
}
