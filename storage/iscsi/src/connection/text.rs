//! Text after the login (11.10, 11.11), which is how targets are found; and the text buffers of either phase.

use super::Connection;
use super::receive::{Sink, Then};
use super::request::Order;
use super::transmit::Message;
use crate::event::{Event, Fatal, TargetRecord};
use crate::login::{SessionType, Stage};
use crate::name::Name;
use crate::wire::text::{Writer, pairs};
use crate::wire::{Header, RESERVED_TAG, TextRequest, reject};
use alloc::{boxed::Box, vec};

/// A question for targets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Asked {
    /// The one that is meant; empty for all.
    name: Name,
    /// So many of them have been said.
    said: usize,
}

/// The text being received and the text being sent. There is one of each: an initiator asks, and waits.
#[derive(Debug)]
pub(super) struct Exchange {
    input: Box<[u8]>,
    input_length: usize,
    output: Box<[u8]>,
    /// What of the output was cut into PDUs, what the PDU being sent has of it, and where it ends.
    said: usize,
    saying: (usize, usize),
    output_length: usize,
    /// A response with output waits to be transmitted.
    in_flight: bool,
    /// Targets are asked for, and not all have been said.
    asked: Option<Asked>,
    waiting: bool,
    /// The exchange goes on under these tags.
    initiator_task_tag: u32,
    target_transfer_tag: u32,
    lun: [u8; 8],
    /// The initiator has said all it wanted.
    last: bool,
}

impl Exchange {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            input: vec![0; limit as usize].into_boxed_slice(),
            input_length: 0,
            output: vec![0; limit as usize].into_boxed_slice(),
            said: 0,
            saying: (0, 0),
            output_length: 0,
            in_flight: false,
            asked: None,
            waiting: false,
            initiator_task_tag: RESERVED_TAG,
            target_transfer_tag: RESERVED_TAG,
            lun: [0; 8],
            last: false,
        }
    }

    pub(super) fn clear(&mut self) {
        self.input_length = 0;
        self.said = 0;
        self.output_length = 0;
        self.in_flight = false;
        self.asked = None;
        self.waiting = false;
        self.initiator_task_tag = RESERVED_TAG;
        self.target_transfer_tag = RESERVED_TAG;
    }

    /// Whether the buffers are in use, so that no further request can be taken.
    pub(super) const fn is_busy(&self) -> bool {
        self.in_flight || self.waiting
    }

    /// Make room for so many bytes more of input. Says where they begin, or `None` where they would be too many.
    pub(super) fn extend(&mut self, count: u32) -> Option<u32> {
        let begin = self.input_length;
        let end = begin.checked_add(count as usize)?;
        if end > self.input.len() {
            return None;
        }
        self.input_length = end;
        u32::try_from(begin).ok()
    }

    pub(super) fn input_space(&mut self, at: u32, left: usize) -> &mut [u8] {
        &mut self.input[at as usize..at as usize + left]
    }

    pub(super) fn input(&self) -> &[u8] {
        &self.input[..self.input_length]
    }

    /// Lend the input, all of it read, and an empty output. The input is kept until more comes.
    pub(super) fn begin_output(&mut self) -> (&[u8], &mut [u8]) {
        self.said = 0;
        self.output_length = 0;
        (&self.input[..self.input_length], &mut self.output)
    }

    /// The output has this length, and the input was dealt with.
    pub(super) fn end_output(&mut self, length: usize) {
        self.output_length = length;
        self.input_length = 0;
    }

    pub(super) const fn has_unsent_output(&self) -> bool {
        self.said < self.output_length
    }

    /// Cut the next PDU's text of at most `most` bytes off the output. Says whether there is more.
    pub(super) fn next_output(&mut self, most: u32) -> bool {
        let end = self.output_length.min(self.said + most as usize);
        self.saying = (self.said, end);
        self.said = end;
        self.in_flight = true;
        self.has_unsent_output()
    }

    /// The text of the PDU being sent.
    pub(super) fn saying(&self) -> &[u8] {
        &self.output[self.saying.0..self.saying.1]
    }

    pub(super) fn transmitted(&mut self) {
        self.in_flight = false;
    }
}

impl Connection {
    pub(super) fn text_request(&mut self, header: &Header) -> Result<(), Fatal> {
        let request = TextRequest::read(header);
        if self.order(header)? != Order::Take {
            return Ok(());
        }
        if request.initiator_task_tag == RESERVED_TAG || (request.last && request.to_be_continued) {
            self.reject(header, reject::PROTOCOL_ERROR);
            return Ok(());
        }
        if request.target_transfer_tag == RESERVED_TAG {
            // A new exchange; an older one that has not come to its end is given up with that.
            if self.text.target_transfer_tag != RESERVED_TAG {
                self.negotiation.abandon();
            }
            self.text.clear();
            self.negotiation.begin_text();
        } else if request.target_transfer_tag != self.text.target_transfer_tag
            || request.initiator_task_tag != self.text.initiator_task_tag
        {
            self.reject(header, reject::INVALID_PDU_FIELD);
            return Ok(());
        }
        let Some(offset) = self.text.extend(request.data_segment) else {
            self.text_request_failed();
            self.reject(header, reject::LONG_OPERATION);
            return Ok(());
        };
        self.arrived(header, false);
        self.text.initiator_task_tag = request.initiator_task_tag;
        self.text.lun = request.lun;
        self.text.last = request.last;
        self.incoming.direct(Sink::Text, offset, Then::Text);
        Ok(())
    }

    /// Something was wrong with a text request: the exchange is over, and nothing of it takes effect.
    pub(super) fn text_request_failed(&mut self) {
        self.text.clear();
        self.negotiation.abandon();
    }

    pub(super) fn text_request_is_whole(&mut self) {
        let header = self.incoming.header();
        let request = TextRequest::read(&header);
        let goes_on = self.text.has_unsent_output() || self.text.asked.is_some();
        if goes_on && (request.data_segment > 0 || request.to_be_continued) {
            self.text_request_failed();
            self.reject(&header, reject::PROTOCOL_ERROR);
        } else if self.text.has_unsent_output() {
            self.say_text();
        } else if self.text.asked.is_some() {
            self.text.begin_output();
            self.text.waiting = true;
            self.events.push_back(Event::SendTargets);
        } else if request.to_be_continued {
            self.text.begin_output();
            self.say_text();
        } else {
            self.answer_text(&header);
        }
    }

    fn answer_text(&mut self, header: &Header) {
        match self.write_text_answers() {
            Ok(Some(name)) => {
                self.text.asked = Some(Asked { name, said: 0 });
                self.text.waiting = true;
                self.events.push_back(Event::SendTargets);
            }
            Ok(None) => self.say_text(),
            Err(reason) => {
                self.text_request_failed();
                self.reject(header, reason);
            }
        }
    }

    /// Answer all pairs of a complete text. Says which target is asked for, if any; the empty name is for all.
    ///
    /// A text that asks for nothing we know is rejected as a whole, and so is a SendTargets with a value that it
    /// cannot have: initiators take the pairs of an answer for targets.
    fn write_text_answers(&mut self) -> Result<Option<Name>, u8> {
        let normal = self.peer.session_type == SessionType::Normal;
        let (input, output) = self.text.begin_output();
        let mut writer = Writer::new(output);
        let (mut name, mut known, mut keys) = (None, 0, 0);
        for pair in pairs(input) {
            let (key, value) = pair.map_err(|_| reject::PROTOCOL_ERROR)?;
            keys += 1;
            if key == "SendTargets" {
                name = Some(match value {
                    // Of a normal session's target only, whatever is asked for (appendix C).
                    "All" | "" if normal => self.peer.target,
                    "All" => Name::default(),
                    other => Name::new(other).map_err(|_| reject::INVALID_PDU_FIELD)?,
                });
            }
            let before = writer.length();
            let offered = self.negotiation.offer(Stage::FullFeature, key, value, &mut writer);
            offered.map_err(|_| reject::PROTOCOL_ERROR)?;
            let understood = writer.length() == before || name.is_some();
            known += usize::from(understood);
        }
        if keys > 0 && known == 0 {
            return Err(reject::COMMAND_NOT_SUPPORTED);
        }
        let length = writer.length();
        self.text.end_output(length);
        if normal && name.is_some_and(|name| name != self.peer.target) {
            return Err(reject::PROTOCOL_ERROR);
        }
        Ok(name)
    }

    /// Answer [`Event::SendTargets`] with all targets that this initiator may see. What was not asked for is left
    /// out. When not all fit into one answer the event comes again, and all are to be given again, in the same
    /// order.
    pub fn answer_send_targets<'a>(&mut self, targets: impl IntoIterator<Item = TargetRecord<'a>>) {
        if !core::mem::take(&mut self.text.waiting) {
            return;
        }
        let Some(Asked { name, said }) = self.text.asked.take() else { return };
        let begin = self.text.output_length;
        let mut writer = Writer::new(&mut self.text.output[begin..]);
        let wanted = targets.into_iter().filter(|target| name.is_empty() || name == *target.name);
        for (index, target) in wanted.enumerate().skip(said) {
            let before = writer.length();
            if write_target(&mut writer, &target).is_err() {
                writer.truncate(before);
                // One that is too long for an empty buffer is too long for ever, and is passed over.
                if begin + before > 0 {
                    self.text.asked = Some(Asked { name, said: index });
                    break;
                }
            }
        }
        self.text.output_length = begin + writer.length();
        self.say_text();
    }

    fn say_text(&mut self) {
        let more = self.text.next_output(self.negotiation.parameters.max_recv_data_segment_length());
        let more = more || self.text.asked.is_some();
        let last = self.text.last && !more;
        self.text.target_transfer_tag = if last { RESERVED_TAG } else { self.take_transfer_tag() };
        self.outgoing.say(Message::Text {
            last,
            to_be_continued: more,
            lun: self.text.lun,
            initiator_task_tag: self.text.initiator_task_tag,
            target_transfer_tag: self.text.target_transfer_tag,
        });
    }
}

fn write_target(writer: &mut Writer<'_>, target: &TargetRecord<'_>) -> Result<(), crate::wire::text::Full> {
    writer.pair("TargetName", target.name)?;
    target.portals.iter().try_for_each(|portal| writer.pair("TargetAddress", portal))
}
