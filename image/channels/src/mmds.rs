//! A metadata service, as Firecracker's MMDS is one: HTTP/1.1 (RFC 9112) at an address of the link. Version 2 wants a token
//! to be asked for first; version 1 knows none, and refuses to be asked or does not mind what it is shown.
//!
//! Here are the questions, and what an answer says; whoever calls carries the bytes.

use crate::LONGEST;

/// Where it is unless told otherwise.
pub const ADDRESS: [u8; 4] = [169, 254, 169, 254];
/// Its port.
pub const PORT: u16 = 80;
/// What asks for a token that is good for a minute.
pub const TOKEN_QUESTION: &[u8] = b"PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n\
    X-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n";
/// What asks for the document, the value of `latest/user-data`; [`TOKEN`] goes behind it, if there is one, and then [`END`].
pub const QUESTION: &[u8] =
    b"GET /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\nAccept: text/plain\r\n";
/// What goes before a token, and [`END`] behind it.
pub const TOKEN: &[u8] = b"X-metadata-token: ";
/// What ends a question; a line's end more where there is a token.
pub const END: &[u8] = b"\r\n";
/// The longest token that is believed.
pub const LONGEST_TOKEN: usize = 256;
/// The longest head of an answer, and the longest answer.
const LONGEST_HEAD: usize = 4096;
/// See there.
pub const LONGEST_ANSWER: usize = LONGEST_HEAD + LONGEST;

/// An answer, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Its status; 200 is the one that is good.
    pub status: u16,
    /// What it brings.
    pub body: &'a [u8],
}

/// What came is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It is not HTTP, or of a kind that no metadata service has.
    Nonsense,
    /// It is longer than may be.
    TooLong,
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Nonsense => "what it answers is not HTTP",
            Self::TooLong => "longer than 64 KiB",
        })
    }
}

impl core::error::Error for Malformed {}

impl<'a> Answer<'a> {
    /// What the bytes that have come so far say; `None` while there is more to come.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let head = bytes.get(..LONGEST_HEAD).unwrap_or(bytes);
        let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else {
            return if bytes.len() >= LONGEST_HEAD { Err(Malformed::TooLong) } else { Ok(None) };
        };
        let mut lines = head[..end].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let status = lines.next().and_then(status).ok_or(Malformed::Nonsense)?;
        let mut length = None;
        for line in lines {
            let colon = line.iter().position(|byte| *byte == b':').ok_or(Malformed::Nonsense)?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"transfer-encoding") {
                return Err(Malformed::Nonsense);
            }
            if name.eq_ignore_ascii_case(b"content-length") {
                let value = decimal(value).ok_or(Malformed::Nonsense)?;
                if length.replace(value).is_some_and(|before| before != value) {
                    return Err(Malformed::Nonsense);
                }
            }
        }
        let length = match length {
            Some(length) => length,
            None if status == 200 => return Err(Malformed::Nonsense),
            None => 0,
        };
        if length > LONGEST {
            return Err(Malformed::TooLong);
        }
        let body = &bytes[end + 4..];
        Ok(body.get(..length).map(|body| Self { status, body }))
    }

    /// The token that this is the answer with, if it is one that can be shown again.
    pub fn token(&self) -> Option<&'a [u8]> {
        let is_one =
            (1..=LONGEST_TOKEN).contains(&self.body.len()) && self.body.iter().all(u8::is_ascii_graphic);
        (self.status == 200 && is_one).then_some(self.body)
    }
}

/// A status line's status.
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.0 ").or_else(|| line.strip_prefix(b"HTTP/1.1 "))?;
    let number = decimal(rest.get(..3)?)?;
    let is_alone = rest.get(3).is_none_or(|byte| *byte == b' ');
    u16::try_from(number).ok().filter(|_| is_alone)
}

/// A number of at most nine digits.
fn decimal(digits: &[u8]) -> Option<usize> {
    let is_one = (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_one.then(|| digits.iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_when_all_of_it_is_there() {
        let whole = b"HTTP/1.1 200 \r\nServer: Firecracker API\r\nContent-type: text/plain\r\ncontent-Length: 5\r\n\r\na=b\n\n";
        for length in 0..whole.len() {
            assert_eq!(Answer::parse(&whole[..length]), Ok(None), "{length}");
        }
        assert_eq!(Answer::parse(whole), Ok(Some(Answer { status: 200, body: b"a=b\n\n" })));
        let refused = b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\n\r\n";
        assert_eq!(Answer::parse(refused), Ok(Some(Answer { status: 405, body: b"" })));
    }

    #[test]
    fn what_is_no_answer_of_a_metadata_service_is_refused() {
        for bad in [
            &b"SSH-2.0-x\r\n\r\n"[..],
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nnothing\r\n\r\n",
        ] {
            assert_eq!(Answer::parse(bad), Err(Malformed::Nonsense), "{}", bad.escape_ascii());
        }
        let long = b"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n";
        assert_eq!(Answer::parse(long), Err(Malformed::TooLong));
        assert_eq!(Answer::parse(&[b'a'; LONGEST_HEAD]), Err(Malformed::TooLong));
    }

    #[test]
    fn a_token_is_what_can_be_shown_again() {
        let token = |status, body| Answer { status, body }.token();
        assert_eq!(token(200, b"abc="), Some(&b"abc="[..]));
        assert_eq!(token(404, b"abc="), None);
        for bad in [&b""[..], b"a b", b"a\r\nX: y", &[b'a'; 257]] {
            assert_eq!(token(200, bad), None);
        }
    }
}
