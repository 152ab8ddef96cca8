//! A storage service over NBD that shows how one can be fenced, and that misbehaves on command.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "in a test an error is the end"))]

pub mod claim;
pub mod control;
pub mod faults;
pub mod lease;
pub mod medium;
pub mod options;
pub mod record;
pub mod server;
pub mod session;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use options::{HELP, Options};
pub use server::Server;

/// What a service says when it listens.
pub const READY: &str = "corbel-service: listening on ";

/// Runs a service with this command line until it is told to stop.
///
/// # Errors
/// With a sentence for who started it.
pub fn run(words: impl IntoIterator<Item = String>) -> Result<(), String> {
    let options = Options::parse(words)?;
    let name = options.file.display().to_string();
    let server = Server::open(&options).map_err(|error| format!("{name}: {error}"))?;
    let address = server.address().map_err(|error| error.to_string())?;
    println!("{READY}{address}");
    server.run().map_err(|error| format!("{name}: {error}"))
}
