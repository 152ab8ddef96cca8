//! NBD URIs (`doc/uri.md` of the NetworkBlockDevice project, over RFC 3986): which export of which server.

use crate::wire::{MAX_STRING, PORT};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

/// Bytes in the longest URI taken: an export's name with every byte escaped, and some for the rest.
pub const MAX_URI: usize = 3 * MAX_STRING + 1024;
/// Query parameters at most.
const MAX_PARAMETERS: usize = 8;

/// The one kind of authentication there is.
const X509: &str = "x509";

/// Which export of which server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// In TLS (`nbds://`), or else not at all: nothing is left to what the server prefers.
    pub tls: bool,
    /// The server's address.
    pub host: Ipv4Addr,
    /// Its TCP port.
    pub port: u16,
    /// The export's name; empty for the server's default export.
    pub export: String,
    /// Query parameters, as names and values; only those that are understood, which are those about TLS: `tls-type`, which
    /// is `x509`, `tls-hostname`, and `tls-verify-peer`, which is `1`.
    pub parameters: Vec<(String, String)>,
}

/// Why a text is not a URI that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UriError {
    /// It is longer than [`MAX_URI`].
    TooLong,
    /// It holds a character that must be escaped in a URI.
    Character,
    /// It does not begin with `nbd://` or `nbds://`.
    Scheme,
    /// It asks for TLS without checking who the server is, or with an authentication other than by certificate.
    Tls,
    /// It asks for a transport other than TCP.
    Transport,
    /// It has no host.
    NoHost,
    /// Its host is a name. Only IPv4 addresses can be reached: names are not looked up.
    HostName,
    /// Its host is an IPv6 address, which cannot be reached.
    Ipv6,
    /// It names a user. Who we are in TLS, our certificate says.
    UserInfo,
    /// Its port is not a number from 1 to 65535.
    Port,
    /// A `%` is not followed by two hexadecimal digits, or what is escaped is not UTF-8.
    Escape,
    /// The export's name has more than 4096 bytes, or a control character.
    ExportName,
    /// A query parameter has no name or comes twice, or there are more than eight.
    Parameter,
    /// A query parameter is not understood.
    UnknownParameter,
    /// A query parameter is about TLS, and the URI is not (`nbd://`).
    TlsParameter,
    /// It has a fragment (`#`), which no server would see.
    Fragment,
}

impl Uri {
    /// Take a URI apart.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if text.len() > MAX_URI {
            return Err(UriError::TooLong);
        }
        if !text.bytes().all(is_uri_byte) {
            return Err(UriError::Character);
        }
        let (scheme, rest) = text.split_once(':').ok_or(UriError::Scheme)?;
        let tls = parse_scheme(scheme)?;
        let rest = rest.strip_prefix("//").ok_or(UriError::NoHost)?;
        if rest.contains('#') {
            return Err(UriError::Fragment);
        }
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        // The slash that ends the authority is not part of the name; any further one is.
        let (authority, name) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = parse_authority(authority)?;
        let export = unescape(name)?;
        if export.len() > MAX_STRING || export.chars().any(char::is_control) {
            return Err(UriError::ExportName);
        }
        let parameters = query.map_or(Ok(Vec::new()), parse_query)?;
        for (name, value) in &parameters {
            check_parameter(tls, name, value)?;
        }
        Ok(Self { tls, host, port, export, parameters })
    }

    /// The name that the server's certificate has to be for, where the URI gives one; else it is the host's address.
    pub fn tls_hostname(&self) -> Option<&str> {
        self.parameter("tls-hostname")
    }

    /// The value of the first parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// RFC 3986 section 2: reserved, unreserved, and the escape sign.
const fn is_uri_byte(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b':' | b'/' | b'?' | b'#' | b'[' | b']' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*'
        )
        || matches!(byte, b'+' | b',' | b';' | b'=' | b'%')
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether the scheme asks for TLS.
fn parse_scheme(scheme: &str) -> Result<bool, UriError> {
    // Schemes are the same in either case (RFC 3986 section 3.1).
    let is = |name: &str| scheme.eq_ignore_ascii_case(name);
    if is("nbd") || is("nbds") {
        Ok(is("nbds"))
    } else if ["nbd+unix", "nbds+unix", "nbd+vsock", "nbds+vsock", "nbd+ssh"].into_iter().any(is) {
        Err(UriError::Transport)
    } else {
        Err(UriError::Scheme)
    }
}

/// Whether a parameter is understood, and asks for nothing that is not offered.
fn check_parameter(tls: bool, name: &str, value: &str) -> Result<(), UriError> {
    let offered = match name {
        "tls-type" => value == X509,
        "tls-hostname" => !value.is_empty() && value.len() <= 253 && value.bytes().all(is_unreserved),
        "tls-verify-peer" => value == "1",
        _ => return Err(UriError::UnknownParameter),
    };
    match (tls, offered) {
        (false, _) => Err(UriError::TlsParameter),
        (true, false) => Err(UriError::Tls),
        (true, true) => Ok(()),
    }
}

fn parse_authority(authority: &str) -> Result<(Ipv4Addr, u16), UriError> {
    if authority.contains('@') {
        return Err(UriError::UserInfo);
    }
    if authority.starts_with('[') {
        return Err(UriError::Ipv6);
    }
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    if host.is_empty() {
        return Err(UriError::NoHost);
    }
    let host = host.parse().map_err(|_| UriError::HostName)?;
    let port = match port {
        None => PORT,
        // `parse` alone would take a sign.
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().ok().filter(|&port| port != 0).ok_or(UriError::Port)?
        }
        Some(_) => return Err(UriError::Port),
    };
    Ok((host, port))
}

fn parse_query(query: &str) -> Result<Vec<(String, String)>, UriError> {
    let mut parameters: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name.is_empty() || parameters.len() == MAX_PARAMETERS {
            return Err(UriError::Parameter);
        }
        let name = unescape(name)?;
        if parameters.iter().any(|(other, _)| *other == name) {
            return Err(UriError::Parameter);
        }
        parameters.push((name, unescape(value)?));
    }
    Ok(parameters)
}

fn unescape(text: &str) -> Result<String, UriError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(UriError::Escape) };
        // Two digits make a byte.
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| UriError::Escape)
}

/// The text with everything escaped that is not plain.
struct Escaped<'a>(&'a str, &'static [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if is_unreserved(byte) || self.1.contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "nbds" } else { "nbd" };
        write!(f, "{scheme}://{}:{}/{}", self.host, self.port, Escaped(&self.export, b"/:@+,;=!$"))?;
        for (index, (name, value)) in self.parameters.iter().enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            write!(f, "{separator}{}={}", Escaped(name, b""), Escaped(value, b"/:"))?;
        }
        Ok(())
    }
}

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the URI is too long",
            Self::Character => "the URI holds a character that must be escaped",
            Self::Scheme => "an NBD URI begins with nbd:// or nbds://",
            Self::Tls => {
                "TLS is offered only with certificates (tls-type=x509) and a server that is checked (tls-verify-peer=1, tls-hostname=NAME)"
            }
            Self::Transport => "only NBD over TCP (nbd:// or nbds://) can be used",
            Self::NoHost => "the URI names no host",
            Self::HostName => "the host must be an IPv4 address: names are not looked up (what the certificate is for can be given as tls-hostname)",
            Self::Ipv6 => "the host must be an IPv4 address: IPv6 is not offered",
            Self::UserInfo => "a user in the URI has no meaning: in TLS our certificate says who we are",
            Self::Port => "the port is not a number from 1 to 65535",
            Self::Escape => "an escape (%) is not two hexadecimal digits of UTF-8",
            Self::ExportName => "the export's name is too long or holds a control character",
            Self::Parameter => "the query has a parameter without a name, one that comes twice, or more than eight",
            Self::UnknownParameter => {
                "the query has a parameter that is not understood: tls-type, tls-hostname and tls-verify-peer are"
            }
            Self::TlsParameter => "the query is about TLS, and the scheme is not: nbds:// is",
            Self::Fragment => "the URI has a fragment (#)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(text: &str) -> Result<String, UriError> {
        Uri::parse(text).map(|uri| uri.export)
    }

    #[test]
    fn the_examples_of_the_standard_are_understood() {
        assert_eq!(export("nbd://10.0.0.1/disk").as_deref(), Ok("disk"));
        assert_eq!(export("nbd://10.0.0.1/").as_deref(), Ok(""));
        assert_eq!(export("nbd://10.0.0.1").as_deref(), Ok(""));
        assert_eq!(export("nbd://10.0.0.1//disk").as_deref(), Ok("/disk"));
        assert_eq!(export("nbd://10.0.0.1/hello%20world").as_deref(), Ok("hello world"));
    }

    #[test]
    fn host_port_and_parameters_are_found() {
        let uri = "NBDs://192.0.2.7:4000/a/b?tls-type=x%35%30%39&&tls-hostname=storage.example&";
        let uri = Uri::parse(uri).expect("sound");
        assert_eq!((uri.host, uri.port, uri.tls), (Ipv4Addr::new(192, 0, 2, 7), 4000, true));
        assert_eq!(uri.export, "a/b");
        assert_eq!((uri.parameter("tls-type"), uri.parameter("tls-verify-peer")), (Some("x509"), None));
        assert_eq!(uri.tls_hostname(), Some("storage.example"));
        assert_eq!(Uri::parse("nbd://192.0.2.7").map(|uri| uri.tls), Ok(false));
        assert_eq!(Uri::parse("nbd://192.0.2.7").map(|uri| uri.port), Ok(10809));
    }

    #[test]
    fn what_is_not_offered_says_so() {
        let cases = [
            ("nbds://10.0.0.1/x?tls-type=anon", UriError::Tls),
            ("nbds://10.0.0.1/x?tls-type=psk", UriError::Tls),
            ("nbds://10.0.0.1/x?tls-verify-peer=0", UriError::Tls),
            ("nbds://10.0.0.1/x?tls-hostname=", UriError::Tls),
            ("nbds://10.0.0.1/x?tls-hostname=a%20b", UriError::Tls),
            ("nbds://10.0.0.1/x?tls-certificates=/etc", UriError::UnknownParameter),
            ("nbd://10.0.0.1/x?socket=/s", UriError::UnknownParameter),
            ("nbd://10.0.0.1/x?x-new=1", UriError::UnknownParameter),
            ("nbd://10.0.0.1/x?tls-type=x509", UriError::TlsParameter),
            ("nbd+unix:///x?socket=/s", UriError::Transport),
            ("nbd+vsock://1/x", UriError::Transport),
            ("nbd://storage.example/x", UriError::HostName),
            ("nbd://[::1]/x", UriError::Ipv6),
            ("nbd://me@10.0.0.1/x", UriError::UserInfo),
        ];
        for (text, error) in cases {
            assert_eq!(Uri::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let cases = [
            ("", UriError::Scheme),
            ("http://10.0.0.1/", UriError::Scheme),
            ("10.0.0.1:10809", UriError::Scheme),
            ("nbd:10.0.0.1", UriError::NoHost),
            ("nbd:///x", UriError::NoHost),
            ("nbd://:10809/x", UriError::NoHost),
            ("nbd://10.0.0.256/", UriError::HostName),
            ("nbd://010.0.0.1/", UriError::HostName),
            ("nbd://10.0.0.1:/", UriError::Port),
            ("nbd://10.0.0.1:0/", UriError::Port),
            ("nbd://10.0.0.1:65536/", UriError::Port),
            ("nbd://10.0.0.1:+80/", UriError::Port),
            ("nbd://10.0.0.1:1:2/", UriError::Port),
            ("nbd://10.0.0.1/%", UriError::Escape),
            ("nbd://10.0.0.1/%4", UriError::Escape),
            ("nbd://10.0.0.1/%4g", UriError::Escape),
            ("nbd://10.0.0.1/%ff", UriError::Escape),
            ("nbd://10.0.0.1/%c0%80", UriError::Escape),
            ("nbd://10.0.0.1/a%00b", UriError::ExportName),
            ("nbd://10.0.0.1/a%0ab", UriError::ExportName),
            ("nbd://10.0.0.1/a b", UriError::Character),
            ("nbd://10.0.0.1/ä", UriError::Character),
            ("nbd://10.0.0.1/a\nb", UriError::Character),
            ("nbd://10.0.0.1/a#b", UriError::Fragment),
            ("nbd://10.0.0.1/a?=1", UriError::Parameter),
            ("nbd://10.0.0.1/?1&2&3&4&5&6&7&8&9", UriError::Parameter),
            ("nbds://10.0.0.1/?tls-type=x509&tls-type=x509", UriError::Parameter),
        ];
        for (text, error) in cases {
            assert_eq!(Uri::parse(text), Err(error), "{text}");
        }
        let name = |length: usize| alloc::format!("nbd://10.0.0.1/{}", "%41".repeat(length));
        assert_eq!(export(&name(4096)).map(|name| name.len()), Ok(4096));
        assert_eq!(export(&name(4097)), Err(UriError::ExportName));
        assert_eq!(export(&name(8192)), Err(UriError::TooLong));
    }

    #[test]
    fn what_is_shown_is_understood_again() {
        for text in [
            "nbd://10.0.0.1",
            "nbds://1.2.3.4:5//a%25%20%E2%82%AC/?tls-hostname=h.example&tls-verify-peer=1",
            "nbd://1.2.3.4/a:b@c+d",
        ] {
            let uri = Uri::parse(text).expect(text);
            assert_eq!(Uri::parse(&alloc::format!("{uri}")), Ok(uri));
        }
    }
}
