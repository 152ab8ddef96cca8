//! The head of a message: finding its end without reading a byte twice, and its lines as ranges.

use crate::Refusal;
use crate::limits::{FIELDS_MAX, Limits};
use alloc::vec::Vec;
use core::ops::Range;

/// One header field: where its name and its value lie in the buffer.
pub(crate) type Field = (Range<usize>, Range<usize>);

/// The search for the end of a head, continued as bytes arrive.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scan {
    /// The next byte to look at.
    at: usize,
    /// Where the current line begins.
    line: usize,
    /// Complete lines so far.
    lines: usize,
    /// Where the first line begins: 2 after an empty line before it.
    pub(crate) start: usize,
    /// Where the header fields begin, once the first line is complete.
    fields: usize,
}

impl Scan {
    /// Look at what is new in `bytes`; the end of the head once it is there.
    ///
    /// Lines end with CR LF. A bare CR or LF, or a byte that is not printable ASCII, is refused here, before any
    /// tokeniser sees it: those are what two parsers read differently.
    pub(crate) fn advance(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
        while let Some(&byte) = bytes.get(self.at) {
            let after_cr = self.at > 0 && bytes[self.at - 1] == b'\r';
            self.at += 1;
            match byte {
                b'\n' if after_cr => {
                    if self.line_end(limits)? {
                        return Ok(Some(self.at));
                    }
                }
                b'\n' => return Err(Refusal::Malformed),
                _ if after_cr => return Err(Refusal::Malformed),
                b'\r' | b'\t' | b' '..=b'~' => self.line_grew(limits, byte == b'\r')?,
                _ => return Err(Refusal::Malformed),
            }
        }
        Ok(None)
    }

    /// A line end was passed; whether it ends the head.
    fn line_end(&mut self, limits: &Limits) -> Result<bool, Refusal> {
        let empty = self.at - 2 == self.line;
        self.line = self.at;
        match (empty, self.lines) {
            // RFC 9112 section 2.2: an empty line before a request is to be ignored. One is enough.
            (true, 0) if self.start == 0 => self.start = self.at,
            (true, 0) => return Err(Refusal::Malformed),
            (true, _) => return Ok(true),
            (false, lines) => {
                self.lines += 1;
                if lines == 0 {
                    self.fields = self.at;
                } else if lines > limits.fields.min(FIELDS_MAX) {
                    return Err(Refusal::HeadTooLarge);
                }
            }
        }
        Ok(false)
    }

    /// The current line has one byte more, `cr` if that seems to be the first of its end.
    fn line_grew(&self, limits: &Limits, cr: bool) -> Result<(), Refusal> {
        if self.lines == 0 {
            let over = self.at - self.line - usize::from(cr) > limits.first_line;
            return if over { Err(Refusal::TargetTooLong) } else { Ok(()) };
        }
        // The empty line at the end does not count.
        let ends = self.at - self.line == 1 && cr;
        let over = !ends && self.at - self.fields + usize::from(cr) > limits.field_bytes;
        if over { Err(Refusal::HeadTooLarge) } else { Ok(()) }
    }
}

/// Copy the header fields that httparse found into `fields`, as ranges of `base`.
pub(crate) fn locate(base: &[u8], found: &[httparse::Header<'_>], fields: &mut Vec<Field>) {
    fields.clear();
    for header in found {
        fields.push((range_of(base, header.name.as_bytes()), range_of(base, header.value)));
    }
}

/// Where `part`, which lies in `base`, lies in it.
pub(crate) fn range_of(base: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(base.as_ptr() as usize);
    start..start + part.len()
}
