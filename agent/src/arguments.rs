//! The command line.

use network_tls::{NoPin, Pin};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The most keys that the appliance may have: the one it has, the next, and those of others that may take its place.
const PINS_MAX: usize = 8;

/// How the agent is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The one address and port it listens on. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The operator's file of images.
    pub images: PathBuf,
    /// What must outlive the agent.
    pub run_directory: PathBuf,
    /// Terminate every instance before the agent ends.
    pub end_guests: bool,
    /// The keys that the appliance may have.
    pub pins: Vec<Pin>,
    /// Where our own key is, if not in the run directory.
    pub key: Option<PathBuf>,
    /// Nobody has to prove anything, and nothing is encrypted.
    pub insecure: bool,
}

/// What `--help` says.
pub const USAGE: &str = "\
Usage: agent --listen ADDRESS:PORT --config FILE --run-dir DIRECTORY --pin PIN [--key FILE] [--end-guests]

  --listen ADDRESS:PORT  the address on the host-only network to listen on
  --config FILE          the table of images, as JSON
  --run-dir DIRECTORY    where the agent keeps what must outlive it; one agent per directory
  --pin PIN              the name of the appliance's key, which its log tells: the SHA-256 of its public key in
                         hexadecimal; up to 8 times. Whoever has no such key is refused
  --key FILE             our own private key in PEM; made if there is none (else: key.pem in the run directory).
                         Its name, for the appliance's agent.pin, is said at the start
  --insecure             in clear, and nobody is asked who it is: for development
  --end-guests           terminate every instance before the agent ends; else they go on running
";

/// Read the command line, the program's name excluded.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Config, String> {
    let mut arguments = arguments.into_iter();
    let (mut listen, mut images, mut run_directory, mut end_guests) = (None, None, None, false);
    let (mut pins, mut key, mut insecure) = (Vec::new(), None, false);
    while let Some(argument) = arguments.next() {
        let name = argument.to_string_lossy().into_owned();
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        let taken = match name.as_str() {
            "--listen" => listen.replace(address(value()?)?).is_some(),
            "--config" => images.replace(PathBuf::from(value()?)).is_some(),
            "--run-dir" => run_directory.replace(PathBuf::from(value()?)).is_some(),
            "--end-guests" => std::mem::replace(&mut end_guests, true),
            "--pin" => {
                let pin: Pin = text(value()?)?.parse().map_err(|error: NoPin| format!("--pin: {error}"))?;
                let twice = pins.contains(&pin);
                pins.push(pin);
                twice || pins.len() > PINS_MAX
            }
            "--key" => key.replace(PathBuf::from(value()?)).is_some(),
            "--insecure" => std::mem::replace(&mut insecure, true),
            _ => return Err(format!("{name} is not an option of the agent")),
        };
        if taken {
            return Err(format!("{name} stands twice, or too often"));
        }
    }
    if insecure && !(pins.is_empty() && key.is_none()) {
        return Err("--insecure contradicts --pin and --key".into());
    }
    Ok(Config {
        pins,
        key,
        insecure,
        listen: listen.ok_or("--listen is missing")?,
        images: images.ok_or("--config is missing")?,
        run_directory: run_directory.ok_or("--run-dir is missing")?,
        end_guests,
    })
}

fn text(value: OsString) -> Result<String, String> {
    value.into_string().map_err(|value| format!("{} is not text", value.to_string_lossy()))
}

fn address(value: OsString) -> Result<SocketAddr, String> {
    let text = value.to_string_lossy().into_owned();
    let address: SocketAddr = text.parse().map_err(|_| format!("{text} is not ADDRESS:PORT"))?;
    if address.ip().is_unspecified() {
        // Whoever commands the agent commands the host's guests: it must not be offered to every network by accident.
        return Err("the agent listens on one address of the host-only network, never on all of them".into());
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Config, String> {
        parse(line.split_ascii_whitespace().map(OsString::from))
    }

    #[test]
    fn the_command_line_is_read_whole_or_not_at_all() {
        let config = parsed("--listen 127.0.0.1:7077 --run-dir /run/x --config /etc/x --end-guests").unwrap();
        assert_eq!(config.listen.port(), 7077);
        assert!(config.end_guests);
        for line in [
            "",
            "--listen 127.0.0.1:1 --config a",
            "--listen 127.0.0.1:1 --config a --run-dir",
            "--listen 127.0.0.1:1 --listen 127.0.0.1:1 --config a --run-dir b",
            "--listen 127.0.0.1:1 --config a --run-dir b --verbose",
            "--listen localhost --config a --run-dir b",
            "--listen 0.0.0.0:1 --config a --run-dir b",
            "--listen [::]:1 --config a --run-dir b",
            "--listen 127.0.0.1:1 --config a --run-dir b --pin 12",
            "--listen 127.0.0.1:1 --config a --run-dir b --insecure --key k",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
