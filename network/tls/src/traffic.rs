//! What happens to records after the handshake: data, changes of keys, alerts.

use crate::fatal::Fatal;
use crate::handshake::Successors;
use crate::incoming::{Incoming, Record};
use crate::outgoing::Outgoing;
use crate::record::{ALERT, DATA, HANDSHAKE, HEADER, Half, LONGEST_PLAIN};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use rustls::AlertDescription;
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;

/// Changes of keys in a row, without a byte of data between, that a peer may ask for.
const MOST_UPDATES: u32 = 32;

/// Types of messages of the handshake that may come after it (RFC 8446, section 4).
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Where the keys come from, and which messages may come.
pub(crate) enum Side {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

impl Side {
    fn successors(&mut self) -> &mut dyn Successors {
        match self {
            Self::Client(keys) => &mut **keys,
            Self::Server(keys) => &mut **keys,
        }
    }

    /// The name of the suite that was agreed on.
    pub(crate) fn suite(&self) -> Option<&'static str> {
        let suite = match self {
            Self::Client(keys) => keys.negotiated_cipher_suite(),
            Self::Server(keys) => keys.negotiated_cipher_suite(),
        };
        suite.suite().as_str()
    }
}

/// The part of a connection after the handshake.
pub(crate) struct Traffic {
    pub(crate) side: Side,
    receive: Half,
    transmit: Half,
    /// The peer's own certificate, in DER.
    pub(crate) peer: Option<Vec<u8>>,
    /// Data that was opened and not read: it lies `plain_at` bytes from the front of what came in, in a record of
    /// `record` bytes.
    plain_at: usize,
    plain: usize,
    record: usize,
    messages: Messages,
    updates: u32,
    /// The peer has asked for our next key; one answer is enough for any number of questions.
    update_owed: bool,
    /// Our farewell: owed, and put into the buffer.
    farewell_owed: bool,
    farewell_said: bool,
    /// The peer's.
    pub(crate) peer_closed: bool,
}

/// Where the messages of the handshake have stopped, whatever records they are cut into.
#[derive(Default)]
struct Messages {
    header: [u8; 4],
    have: usize,
    /// Bytes of a message that are not looked at.
    skip: usize,
}

/// A message that means something.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    /// None: the bytes are used up.
    None,
    /// The peer's key changes, and whether it asks that ours does.
    KeyUpdate(bool),
}

/// What is wrong, the alert to say so, and the words.
type Wrong = (AlertDescription, Fatal);

fn wrong(alert: AlertDescription, words: &str) -> Wrong {
    (alert, Fatal::Protocol(words.into()))
}

impl Traffic {
    pub(crate) fn new(side: Side, receive: Half, transmit: Half, peer: Option<Vec<u8>>) -> Self {
        Self {
            side,
            receive,
            transmit,
            peer,
            plain_at: 0,
            plain: 0,
            record: 0,
            messages: Messages::default(),
            updates: 0,
            update_owed: false,
            farewell_owed: false,
            farewell_said: false,
            peer_closed: false,
        }
    }

    /// Open records until there is data to read, or no whole record.
    pub(crate) fn advance(&mut self, incoming: &mut Incoming, outgoing: &mut Outgoing) -> Result<(), Fatal> {
        self.open(incoming).map_err(|(alert, fatal)| {
            self.alert(outgoing, alert);
            fatal
        })
    }

    fn open(&mut self, incoming: &mut Incoming) -> Result<(), Wrong> {
        while self.plain == 0 {
            if self.peer_closed {
                incoming.consume(usize::MAX);
                return Ok(());
            }
            let length = match incoming.record(0) {
                Record::Part => return Ok(()),
                Record::Bad => return Err(wrong(AlertDescription::RecordOverflow, "what came is no record")),
                Record::Whole(length) => length,
            };
            let record = &mut incoming.bytes()[..length];
            if record[0] != DATA {
                return Err(wrong(
                    AlertDescription::UnexpectedMessage,
                    "a record in the clear after the handshake",
                ));
            }
            let opened =
                self.receive.open(record).map_err(|_| (AlertDescription::BadRecordMac, Fatal::Forged))?;
            if opened.length > LONGEST_PLAIN {
                return Err(wrong(AlertDescription::RecordOverflow, "a record carries too much"));
            }
            if opened.carries == DATA && !self.messages.between() && opened.length > 0 {
                (self.plain_at, self.plain, self.record) = (HEADER, opened.length, length);
                self.updates = 0;
                return Ok(());
            }
            let carried = &record[HEADER..HEADER + opened.length];
            match opened.carries {
                DATA if !self.messages.between() => {}
                ALERT => self.heed(carried)?,
                HANDSHAKE => self.listen(carried)?,
                _ => {
                    return Err(wrong(
                        AlertDescription::UnexpectedMessage,
                        "a record of a kind that cannot be here",
                    ));
                }
            }
            incoming.consume(length);
        }
        Ok(())
    }

    /// An alert (RFC 8446, section 6).
    fn heed(&mut self, alert: &[u8]) -> Result<(), Wrong> {
        let [_, alert] = alert else {
            return Err(wrong(AlertDescription::DecodeError, "an alert is two bytes long"));
        };
        match AlertDescription::from(*alert) {
            AlertDescription::CloseNotify => self.peer_closed = true,
            // It announces a close_notify.
            AlertDescription::UserCanceled => {}
            other => return Err((AlertDescription::CloseNotify, Fatal::Refused(format!("{other:?}")))),
        }
        Ok(())
    }

    /// Messages of the handshake: tickets, which are of no use here, and changes of keys.
    fn listen(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        if bytes.is_empty() {
            return Err(wrong(AlertDescription::UnexpectedMessage, "a message of the handshake of no bytes"));
        }
        let client = matches!(self.side, Side::Client(_));
        let Message::KeyUpdate(ours_too) = self.messages.take(bytes, client)? else { return Ok(()) };
        self.updates += 1;
        if self.updates > MOST_UPDATES {
            return Err(wrong(
                AlertDescription::UnexpectedMessage,
                "keys that change and change without any data",
            ));
        }
        self.update_owed |= ours_too;
        let next = self.side.successors().next_receive().map_err(Fatal::from);
        let next =
            next.and_then(|secrets| Half::new(secrets).ok_or(Fatal::Here("a key of another cipher".into())));
        self.receive = next.map_err(|fatal| (AlertDescription::InternalError, fatal))?;
        Ok(())
    }

    /// Data that can be read.
    pub(crate) fn readable<'b>(&self, incoming: &'b mut Incoming) -> &'b [u8] {
        incoming.bytes().get(self.plain_at..self.plain_at + self.plain).unwrap_or_default()
    }

    /// Whether there is any.
    pub(crate) fn is_readable(&self) -> bool {
        self.plain > 0
    }

    /// So much of it was read.
    pub(crate) fn consume(&mut self, count: usize, incoming: &mut Incoming) {
        let count = count.min(self.plain);
        self.plain_at += count;
        self.plain -= count;
        if self.plain == 0 {
            incoming.consume(core::mem::take(&mut self.record));
            self.plain_at = 0;
        }
    }

    /// Take data; answers how many bytes found room.
    pub(crate) fn write(&mut self, mut plain: &[u8], outgoing: &mut Outgoing) -> Result<usize, Fatal> {
        let all = plain.len();
        while !plain.is_empty() && !self.farewell_owed {
            let count = outgoing.append(plain);
            plain = &plain[count..];
            if outgoing.is_full() {
                self.seal(outgoing)?;
            } else if count == 0 {
                break;
            }
        }
        Ok(all - plain.len())
    }

    /// Seal what is open, and change the key when it has sealed as many records as it may.
    fn seal(&mut self, outgoing: &mut Outgoing) -> Result<(), Fatal> {
        if outgoing.open() == 0 {
            return Ok(());
        }
        outgoing.seal(&mut self.transmit).ok_or_else(cannot_seal)?;
        // The change of keys is itself a record under the old key, and so is an alert.
        if self.transmit.records_left() <= 2 { self.update(outgoing) } else { Ok(()) }
    }

    fn update(&mut self, outgoing: &mut Outgoing) -> Result<(), Fatal> {
        let message = [KEY_UPDATE, 0, 0, 1, 0];
        if outgoing.control(&mut self.transmit, HANDSHAKE, &message).is_some() {
            self.update_owed = false;
            let next = self.side.successors().next_transmit()?;
            self.transmit = Half::new(next).ok_or_else(cannot_seal)?;
        } else {
            self.update_owed = true;
        }
        Ok(())
    }

    /// Make everything ready to be sent.
    pub(crate) fn flush(&mut self, outgoing: &mut Outgoing) -> Result<(), Fatal> {
        self.seal(outgoing)?;
        if self.update_owed && !self.farewell_said {
            self.update(outgoing)?;
        }
        if self.farewell_owed && !self.farewell_said {
            self.farewell_said = self.alert(outgoing, AlertDescription::CloseNotify);
        }
        Ok(())
    }

    /// Say farewell after all data that was taken.
    pub(crate) fn close(&mut self) {
        self.farewell_owed = true;
    }

    /// Put an alert behind the data; answers whether it found room.
    fn alert(&mut self, outgoing: &mut Outgoing, alert: AlertDescription) -> bool {
        let level = if alert == AlertDescription::CloseNotify { 1 } else { 2 };
        self.farewell_owed = true;
        outgoing.seal(&mut self.transmit).is_some()
            && outgoing.control(&mut self.transmit, ALERT, &[level, alert.into()]).is_some()
    }

    /// Pretend that the ciphers allow fewer records.
    #[cfg(test)]
    pub(crate) fn limit(&mut self, records: u64) {
        self.transmit.limit(records);
    }

    /// Send any bytes as any kind of record, as only a hostile peer does.
    #[cfg(test)]
    pub(crate) fn forge(&mut self, carries: u8, bytes: &[u8], outgoing: &mut Outgoing) {
        self.seal(outgoing).unwrap();
        outgoing.control(&mut self.transmit, carries, bytes).unwrap();
    }

    /// Change our key, and ask the peer to change its own.
    #[cfg(test)]
    pub(crate) fn ask_for_update(&mut self, outgoing: &mut Outgoing) {
        self.forge(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 1], outgoing);
        self.transmit = Half::new(self.side.successors().next_transmit().unwrap()).unwrap();
    }
}

fn cannot_seal() -> Fatal {
    Fatal::Here("a record could not be sealed".into())
}

impl Messages {
    /// Whether a message has begun and not ended.
    fn between(&self) -> bool {
        self.have > 0 || self.skip > 0
    }

    /// Go through the bytes of one record.
    fn take(&mut self, mut bytes: &[u8], client: bool) -> Result<Message, Wrong> {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len());
                self.skip -= count;
                bytes = &bytes[count..];
                continue;
            }
            bytes = rest;
            if self.have < self.header.len() {
                self.header[self.have] = *byte;
                self.have += 1;
                if self.have == self.header.len() {
                    self.begin(client)?;
                }
                continue;
            }
            self.have = 0;
            // The rest would be under the old key, where nobody can tell whose it is (RFC 8446, section 5.1).
            if !bytes.is_empty() {
                return Err(wrong(AlertDescription::UnexpectedMessage, "a message after a change of keys"));
            }
            return match byte {
                0 => Ok(Message::KeyUpdate(false)),
                1 => Ok(Message::KeyUpdate(true)),
                _ => Err(wrong(AlertDescription::IllegalParameter, "a change of keys of an unknown kind")),
            };
        }
        Ok(Message::None)
    }

    /// A header is complete.
    fn begin(&mut self, client: bool) -> Result<(), Wrong> {
        let [kind, high, middle, low] = self.header;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        match (kind, length) {
            (KEY_UPDATE, 1) => Ok(()),
            (KEY_UPDATE, _) => Err(wrong(AlertDescription::DecodeError, "a change of keys has one byte")),
            (NEW_SESSION_TICKET, _) if client => {
                (self.have, self.skip) = (0, length);
                Ok(())
            }
            _ => Err(wrong(AlertDescription::UnexpectedMessage, "a message that belongs into a handshake")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_understood_however_they_are_cut() {
        // A ticket of six bytes, an empty one, and a change of keys.
        let all = [4, 0, 0, 6, 9, 9, 9, 9, 9, 9, 4, 0, 0, 0, 24, 0, 0, 1, 1];
        for cut in 1..all.len() {
            let mut messages = Messages::default();
            assert_eq!(messages.take(&all[..cut], true).unwrap(), Message::None);
            assert_eq!(messages.take(&all[cut..], true).unwrap(), Message::KeyUpdate(true), "{cut}");
            assert!(!messages.between());
        }
        let mut messages = Messages::default();
        for byte in &all[..all.len() - 1] {
            assert_eq!(messages.take(&[*byte], true).unwrap(), Message::None);
        }
        assert!(messages.between());
        assert_eq!(messages.take(&[0], true).unwrap(), Message::KeyUpdate(false));
    }

    #[test]
    fn messages_that_do_not_belong_here_are_refused() {
        for bytes in [
            &[24, 0, 0, 1, 2][..],
            &[24, 0, 0, 2][..],
            &[24, 0, 0, 0][..],
            &[24, 0, 0, 1, 0, 4][..],
            &[13, 0, 0, 5][..],
            &[20, 0, 0, 32][..],
            &[1, 0, 0, 1][..],
        ] {
            assert!(Messages::default().take(bytes, true).is_err(), "{bytes:?}");
        }
        assert!(Messages::default().take(&[4, 0, 0, 0], false).is_err(), "a ticket for a server");
    }
}
