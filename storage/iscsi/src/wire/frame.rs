//! Whole PDUs in a stream of bytes, for the peers that tests are made with. The target itself cuts its stream in
//! [`crate::Connection::space`], where payload lands in the place it is used.

use super::{BASIC_HEADER, DIGEST, Header, crc32c, padding};
use alloc::vec::Vec;

/// Which digests stand behind headers and behind data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digests {
    /// CRC32C behind the headers.
    pub header: bool,
    /// CRC32C behind data and padding.
    pub data: bool,
}

/// A PDU cut out of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pdu<'a> {
    /// The basic header.
    pub header: Header,
    /// The additional headers.
    pub additional: &'a [u8],
    /// The data, without padding.
    pub data: &'a [u8],
    /// Bytes of the stream that it took.
    pub length: usize,
}

/// A digest does not match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damaged {
    /// That of the headers.
    Header,
    /// That of the data.
    Data,
}

impl Digests {
    /// Put a PDU behind `out`, with its lengths, padding and digests. `additional` is a multiple of four bytes.
    pub fn write(self, header: Header, additional: &[u8], data: &[u8], out: &mut Vec<u8>) {
        let begin = out.len();
        let header = header.with_additional_headers(additional.len()).with_data_segment(data.len() as u32);
        out.extend(header.0);
        out.extend(additional);
        if self.header {
            out.extend(crc32c(0, &out[begin..]).to_le_bytes());
        }
        let begin = out.len();
        out.extend(data);
        out.extend(&[0; 3][..padding(data.len() as u32)]);
        if self.data && !data.is_empty() {
            out.extend(crc32c(0, &out[begin..]).to_le_bytes());
        }
    }

    /// Cut the first PDU off `bytes`, or say that it is not whole yet.
    ///
    /// # Errors
    /// When a digest does not match.
    pub fn read(self, bytes: &[u8]) -> Result<Option<Pdu<'_>>, Damaged> {
        let Some((header, rest)) = bytes.split_first_chunk::<BASIC_HEADER>() else { return Ok(None) };
        let header = Header(*header);
        let Some((additional, rest)) = rest.split_at_checked(header.additional_headers()) else {
            return Ok(None);
        };
        let covered = BASIC_HEADER + additional.len();
        let Some(rest) = checked(&bytes[..covered], rest, self.header).ok_or(Damaged::Header)? else {
            return Ok(None);
        };
        let data_length = header.data_segment() as usize;
        let padded = data_length + padding(header.data_segment());
        let Some((data, rest)) = rest.split_at_checked(padded) else { return Ok(None) };
        let digest = self.data && data_length > 0;
        let Some(rest) = checked(data, rest, digest).ok_or(Damaged::Data)? else { return Ok(None) };
        let length = bytes.len() - rest.len();
        Ok(Some(Pdu { header, additional, data: &data[..data_length], length }))
    }
}

/// What follows the digest of `covered`: none where it does not match, none in that where it is not there yet.
fn checked<'a>(covered: &[u8], rest: &'a [u8], digest: bool) -> Option<Option<&'a [u8]>> {
    if !digest {
        return Some(Some(rest));
    }
    match rest.split_first_chunk::<DIGEST>() {
        None => Some(None),
        Some((stated, rest)) => (crc32c(0, covered).to_le_bytes() == *stated).then_some(Some(rest)),
    }
}
