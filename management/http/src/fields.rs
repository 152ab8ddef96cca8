//! The fields that frame a message. Whatever leaves two readings open is refused.

use crate::Refusal;
use crate::head::Field;

/// How a message is framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Framing {
    /// `Content-Length`, if there is one.
    pub(crate) length: Option<usize>,
    /// `Connection` holds `close`.
    pub(crate) close: bool,
    /// `Expect: 100-continue`.
    pub(crate) expects_continue: bool,
}

/// Read the framing from the fields of a head; a body longer than `limit` is refused.
pub(crate) fn framing(head: &[u8], fields: &[Field], limit: usize) -> Result<Framing, Refusal> {
    let mut framing = Framing::default();
    let mut coded = false;
    for (name, value) in fields {
        let (name, value) = (text(head, name.clone()), text(head, value.clone()));
        if name.eq_ignore_ascii_case("content-length") {
            let length = content_length(value, limit);
            if framing.length.is_some() || coded {
                return Err(Refusal::Framing);
            }
            framing.length = Some(length?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if framing.length.is_some() || coded {
                return Err(Refusal::Framing);
            }
            coded = true;
        } else if name.eq_ignore_ascii_case("connection") {
            framing.close |= value.split(',').any(|option| option.trim().eq_ignore_ascii_case("close"));
        } else if name.eq_ignore_ascii_case("expect") {
            if framing.expects_continue || !value.eq_ignore_ascii_case("100-continue") {
                return Err(Refusal::Expectation);
            }
            framing.expects_continue = true;
        }
    }
    if coded { Err(Refusal::TransferCoding) } else { Ok(framing) }
}

/// The one field called `name`; an error when it is there twice.
pub(crate) fn single<'a>(head: &'a [u8], fields: &[Field], name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut found = None;
    for (field, value) in fields {
        if text(head, field.clone()).eq_ignore_ascii_case(name)
            && found.replace(text(head, value.clone())).is_some()
        {
            return Err(Refusal::Malformed);
        }
    }
    Ok(found)
}

/// Decimal digits and nothing else: no sign, no list, no other base.
fn content_length(value: &str, limit: usize) -> Result<usize, Refusal> {
    if value.is_empty() || value.len() > 10 || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::Framing);
    }
    match value.parse() {
        Ok(length) if length <= limit => Ok(length),
        _ => Err(Refusal::BodyTooLarge),
    }
}

/// The head holds printable ASCII only, so this is never empty for want of UTF-8.
fn text(head: &[u8], range: core::ops::Range<usize>) -> &str {
    head.get(range).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
}
