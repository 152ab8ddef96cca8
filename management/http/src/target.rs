//! The request target (RFC 9112 section 3.2), narrowed to what this API uses.

use crate::Refusal;

/// The path and the query of `target`, sent to `host`.
///
/// Origin form is what clients send. Absolute form must be accepted from proxies, and is when it names the same
/// host. Percent-encoding, dot segments and empty segments are refused: nothing here is named by them, and each
/// has led some server to look at another path than the one it had checked.
pub(crate) fn parse<'a>(target: &'a str, host: &str) -> Result<(&'a str, Option<&'a str>), Refusal> {
    let local = match target.split_once("://") {
        Some((scheme, rest)) if !target.starts_with('/') => {
            if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
                return Err(Refusal::Target);
            }
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if !authority.eq_ignore_ascii_case(host) {
                return Err(Refusal::Host);
            }
            if path.is_empty() { "/" } else { path }
        }
        _ => target,
    };
    let (path, query) = match local.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (local, None),
    };
    if is_path(path) && query.is_none_or(is_query) { Ok((path, query)) } else { Err(Refusal::Target) }
}

/// Whether `host` can be the value of `Host`: a name or an address, and perhaps a port.
pub(crate) fn is_host(host: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    (1..=255).contains(&host.len()) && host.bytes().all(plain)
}

fn is_path(path: &str) -> bool {
    let Some(segments) = path.strip_prefix('/') else { return false };
    let plain = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~' | b':' | b'@' | b',')
    };
    let mut parts = segments.split('/').peekable();
    let mut sound = segments.bytes().all(plain);
    while let Some(segment) = parts.next() {
        // The last segment may be empty: `/` itself, or a path that the router will not know.
        let last = parts.peek().is_none();
        sound &= !matches!(segment, "." | "..") && (last || !segment.is_empty());
    }
    sound
}

fn is_query(query: &str) -> bool {
    let plain = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~' | b':' | b'@' | b',' | b'=' | b'&' | b'+')
    };
    query.bytes().all(plain)
}
