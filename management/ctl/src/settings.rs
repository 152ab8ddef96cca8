//! Which appliance is meant, and who is asking: from the command line, the environment, or a file with named hosts.

use crate::failure::{Failure, Outcome};
use crate::screen::Screen;
use network_tls::Pin;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Larger is no configuration file, certificate or key.
const FILE_LIMIT: u64 = 1 << 20;

/// What the command line and the environment say.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Connection {
    /// The appliance, by its name in the configuration file [CORBEL_HOST]
    #[arg(
        short = 'H',
        long,
        global = true,
        env = "CORBEL_HOST",
        hide_env = true,
        value_name = "NAME",
        help_heading = "Connection"
    )]
    host: Option<String>,
    /// The appliance's address, such as https://192.0.2.7:8443 [CORBEL_URL]
    #[arg(long, global = true, env = "CORBEL_URL", hide_env = true, help_heading = "Connection")]
    url: Option<String>,
    /// Your certificate, and those up to the authority (PEM) [CORBEL_CERT]
    #[arg(
        long,
        global = true,
        env = "CORBEL_CERT",
        hide_env = true,
        value_name = "FILE",
        help_heading = "Connection"
    )]
    cert: Option<PathBuf>,
    /// Your private key (PEM) [CORBEL_KEY]
    #[arg(
        long,
        global = true,
        env = "CORBEL_KEY",
        hide_env = true,
        value_name = "FILE",
        help_heading = "Connection"
    )]
    key: Option<PathBuf>,
    /// The authorities that vouch for the appliance (PEM) [CORBEL_CA]
    #[arg(
        long,
        global = true,
        env = "CORBEL_CA",
        hide_env = true,
        value_name = "FILE",
        help_heading = "Connection"
    )]
    ca: Option<PathBuf>,
    /// Its key, as the appliance's log tells it, in place of --ca: before it is enrolled [CORBEL_PIN]
    #[arg(
        long,
        global = true,
        env = "CORBEL_PIN",
        hide_env = true,
        value_name = "SHA256",
        help_heading = "Connection",
        value_parser = pin
    )]
    pin: Option<Pin>,
    /// Whom its certificate is for, when not the URL's address [CORBEL_SERVER_NAME]
    #[arg(
        long,
        global = true,
        env = "CORBEL_SERVER_NAME",
        hide_env = true,
        value_name = "NAME",
        help_heading = "Connection"
    )]
    server_name: Option<String>,
    /// Sign each request that changes something by your key (RFC 9421) [CORBEL_SIGN_REQUESTS]
    #[arg(
        long,
        global = true,
        env = "CORBEL_SIGN_REQUESTS",
        hide_env = true,
        help_heading = "Connection",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    sign_requests: bool,
    /// In place of ~/.config/corbel/ctl.toml [CORBEL_CONFIG]
    #[arg(
        long,
        global = true,
        env = "CORBEL_CONFIG",
        hide_env = true,
        value_name = "FILE",
        help_heading = "Connection"
    )]
    config: Option<PathBuf>,
}

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The host that is meant when none is named.
    default: Option<String>,
    #[serde(default)]
    hosts: BTreeMap<String, Host>,
}

/// One named host. Files are relative to the folder of the configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    url: Option<String>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
    server_name: Option<String>,
    #[serde(default)]
    sign_requests: bool,
}

/// Where to connect to, and with what.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// As the user wrote it.
    pub(crate) url: String,
    /// Host and port, as `Host` says them.
    pub(crate) authority: String,
    /// A name or an address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Absent for plain HTTP.
    pub(crate) tls: Option<Credentials>,
}

/// What TLS needs, as PEM texts.
pub(crate) struct Credentials {
    pub(crate) whom: Whom,
    pub(crate) identity: Option<(String, String)>,
    pub(crate) server_name: String,
    /// Requests that change something are signed.
    pub(crate) sign: bool,
}

/// Which appliance is believed.
pub(crate) enum Whom {
    /// One that these authorities vouch for.
    Ca(String),
    /// The one with this key.
    Pin(Pin),
}

fn pin(text: &str) -> Result<Pin, String> {
    text.parse().map_err(|error: network_tls::NoPin| error.to_string())
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials for {}", self.server_name)
    }
}

const WHERE: &str = "say which appliance: --url https://ADDRESS:PORT, CORBEL_URL, or a host in \
                     ~/.config/corbel/ctl.toml (`corbelctl --help` shows one).";

impl Connection {
    /// Put together what is said where: the command line and the environment go before the file.
    pub(crate) fn endpoint(&self, screen: &Screen) -> Outcome<Endpoint> {
        let host = self.named()?;
        let url = self
            .url
            .clone()
            .or(host.url)
            .ok_or_else(|| Failure::Usage("no appliance is named".into(), WHERE))?;
        let (secure, authority, name, port) = parse(&url)?;
        let tls = if secure {
            let pick = |said: &Option<PathBuf>, file: Option<PathBuf>| said.clone().or(file);
            let (cert, key) = (pick(&self.cert, host.cert), pick(&self.key, host.key));
            let sign = self.sign_requests || host.sign_requests;
            let identity = identity(cert, key, screen)?;
            if sign && identity.is_none() {
                let what = "requests are to be signed, and there is no key".into();
                return Err(Failure::Usage(what, "name yours: --cert FILE and --key FILE."));
            }
            Some(Credentials {
                sign,
                whom: match self.pin {
                    Some(pin) => Whom::Pin(pin),
                    None => Whom::Ca(authorities(pick(&self.ca, host.ca))?),
                },
                identity,
                server_name: self.server_name.clone().or(host.server_name).unwrap_or_else(|| name.clone()),
            })
        } else {
            None
        };
        Ok(Endpoint { url, authority, host: name, port, tls })
    }

    /// The host of the file that is meant; an empty one when none is.
    fn named(&self) -> Outcome<Host> {
        let Some(path) = self.config.clone().or_else(default_file) else { return Ok(Host::default()) };
        let file = match (read(&path), &self.config) {
            (Ok(text), _) => toml::from_str::<File>(&text).map_err(|error| {
                Failure::Here(format!("{}: {}", path.display(), error.to_string().trim()))
            })?,
            (Err(error), None) if error.kind() == std::io::ErrorKind::NotFound => File::default(),
            (Err(error), _) => return Err(Failure::Here(format!("{}: {error}", path.display()))),
        };
        // A URL on the command line or in the environment is whole: a default host has no part in it.
        let default = if self.url.is_some() { None } else { file.default };
        let Some(name) = self.host.clone().or(default) else {
            // The only host there is needs no name.
            let only = if file.hosts.len() == 1 && self.url.is_none() {
                file.hosts.into_values().next()
            } else {
                None
            };
            return Ok(only.unwrap_or_default().beside(&path));
        };
        let known: Vec<&str> = file.hosts.keys().map(String::as_str).collect();
        let Some(host) = file.hosts.get(&name) else {
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            let what = format!("{} has no host {name:?}; it has {known}", path.display());
            return Err(Failure::Usage(what, "name one of them by --host, or add it."));
        };
        Ok(host.clone().beside(&path))
    }
}

impl Host {
    /// Its files seen from where we are.
    fn beside(self, file: &Path) -> Self {
        let folder = file.parent().unwrap_or(Path::new(""));
        let beside = |path: Option<PathBuf>| path.map(|path| folder.join(path));
        Self { cert: beside(self.cert), key: beside(self.key), ca: beside(self.ca), ..self }
    }
}

/// XDG Base Directory Specification: `$XDG_CONFIG_HOME`, or `~/.config`.
fn default_file() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let folder = folder.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    Some(folder?.join("corbel/ctl.toml"))
}

fn read(path: &Path) -> std::io::Result<String> {
    let length = fs::metadata(path)?.len();
    if length > FILE_LIMIT {
        return Err(std::io::Error::other(format!("it has {length} bytes, more than {FILE_LIMIT}")));
    }
    fs::read_to_string(path)
}

fn read_named(path: &Path) -> Outcome<String> {
    read(path).map_err(|error| Failure::Here(format!("{}: {error}", path.display())))
}

fn authorities(file: Option<PathBuf>) -> Outcome<String> {
    let Some(file) = file else {
        return Err(Failure::Usage(
            "nobody vouches for the appliance".into(),
            "name the authority's certificate: --ca FILE, CORBEL_CA, or `ca` in the configuration file.",
        ));
    };
    read_named(&file)
}

fn identity(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    screen: &Screen,
) -> Outcome<Option<(String, String)>> {
    let (cert, key) = match (cert, key) {
        (None, None) => return Ok(None),
        (Some(cert), Some(key)) => (cert, key),
        (Some(cert), None) => (cert.clone(), cert),
        (None, Some(_)) => {
            let what = "there is a private key and no certificate".into();
            return Err(Failure::Usage(what, "name the certificate that belongs to it: --cert FILE."));
        }
    };
    let open = fs::metadata(&key).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0);
    if open {
        screen.warn(&format!("others can read {}; `chmod 600` it", key.display()));
    }
    Ok(Some((read_named(&cert)?, read_named(&key)?)))
}

/// Whether it is secure, the authority, the host alone, and the port.
fn parse(url: &str) -> Outcome<(bool, String, String, u16)> {
    let wrong = || {
        let advice = "an address is written like https://192.0.2.7:8443 or https://[2001:db8::7]:8443.";
        Failure::Usage(format!("{:?} is no address of an appliance", crate::plain::line(url)), advice)
    };
    let (secure, rest) = match url.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        _ => return Err(wrong()),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    if authority.is_empty() || !authority.bytes().all(plain) {
        return Err(wrong());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(wrong)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(wrong)?) };
            (address, port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
        None if secure => 443,
        None => 80,
    };
    if host.is_empty() || host.contains(['[', ']']) || (host.contains(':') && !authority.starts_with('[')) {
        return Err(wrong());
    }
    Ok((secure, authority.into(), host.into(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_a_host_and_perhaps_a_port() {
        let good = [
            ("https://192.0.2.7:8443", (true, "192.0.2.7:8443", "192.0.2.7", 8443)),
            ("https://[2001:db8::7]:1/", (true, "[2001:db8::7]:1", "2001:db8::7", 1)),
            ("https://[::1]", (true, "[::1]", "::1", 443)),
            ("http://localhost", (false, "localhost", "localhost", 80)),
        ];
        for (url, (secure, authority, host, port)) in good {
            assert_eq!(parse(url).unwrap(), (secure, authority.into(), host.into(), port), "{url}");
        }
    }

    #[test]
    fn what_could_end_a_line_of_a_request_is_no_address() {
        for url in [
            "192.0.2.7",
            "ftp://a",
            "https://",
            "https://a/b",
            "https://a:0",
            "https://a:99999",
            "https://u@a",
            "https://a\r\nx:",
            "https://[::1",
            "https://[::1]x",
            "https://a:b:c",
            "https://[zz]",
            "https:// a",
            "https://a?x",
            "https://:80",
            "https://a]:80",
        ] {
            assert!(parse(url).is_err(), "{url:?}");
        }
    }
}
