//! The fixed newstyle negotiation, from the server's greeting to transmission, to the facts of one export, or to a
//! list of exports.
//!
//! Options are asked strictly one at a time. What is merely good to have (extended headers, structured replies,
//! contexts) is done without when the server refuses it; what is needed ends the connection when refused. TLS, where it
//! is wanted, is the first thing asked for, and nothing else is said before it stands.

mod ask;

use crate::contexts::{Contexts, Granted, MAX_CONTEXTS};
use crate::export::{BlockSizes, Facts};
use crate::settings::{Headers, Settings, Tls};
use crate::wire::{self, MAX_STRING, OPTION_REPLY_HEADER, handshake_flag, info, option, option_reply};
use crate::wire::{u16_at, u32_at, u64_at};
use crate::{Fatal, Refusal, Text, TransmissionFlags};
use alloc::vec::Vec;

/// Bytes the longest reply may have: two strings, the length of one, and the header.
pub(crate) const LONGEST: usize = OPTION_REPLY_HEADER + 4 + 2 * MAX_STRING;
/// What an export's final answer is followed by when the server does not leave it out.
const ZEROES: usize = 124;
/// A server has a handful of facts to tell about one export.
const MAX_INFOS: u32 = 64;

/// What the negotiation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Transmission with the named export.
    Transmission,
    /// The facts of the named export.
    Info,
    /// The names of up to this many exports.
    List(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waiting for the server's first words.
    Greeting,
    /// Waiting for replies to this option.
    Option(u32),
    /// Waiting until TLS stands.
    Tls,
    /// Waiting for the answer to `NBD_OPT_EXPORT_NAME`, which has no header.
    ExportName,
    /// Nothing more to come.
    Finished,
}

/// What the bytes so far have led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// More are needed.
    More,
    /// One export of a list: its name and description are these parts of the scratch memory.
    Listed { name: core::ops::Range<usize>, description: core::ops::Range<usize> },
    /// The goal is reached.
    Finished,
}

/// A negotiation. It collects one element of the server's words at a time in scratch memory of [`LONGEST`] bytes.
pub(crate) struct Handshake {
    goal: Goal,
    stage: Stage,
    name: Vec<u8>,
    tls: Tls,
    headers: Headers,
    contexts: Contexts,
    /// Only the contexts that every server understands are asked for: with the others it refused them all.
    plain: bool,
    have: usize,
    no_zeroes: bool,
    replies: u32,
    facts: Facts,
    output: Vec<u8>,
    sent: usize,
    remark: Text,
}

impl Handshake {
    /// A negotiation with these settings, which were checked.
    pub(crate) fn new(goal: Goal, settings: &Settings<'_>) -> Self {
        Self {
            goal,
            stage: Stage::Finished,
            name: settings.export.as_bytes().to_vec(),
            tls: settings.tls,
            headers: settings.headers,
            contexts: Contexts::new(settings.writer),
            plain: false,
            have: 0,
            no_zeroes: false,
            replies: 0,
            facts: Facts::NONE,
            output: Vec::with_capacity(ask::longest(settings.export.len())),
            sent: 0,
            remark: Text::EMPTY,
        }
    }

    /// See [`crate::Client::set_place`].
    pub(crate) fn set_place(&mut self, session: u64, connection: u32, alive: &[u32]) {
        self.contexts.set_place(session, connection, alive);
    }

    /// Begin anew.
    pub(crate) fn start(&mut self) {
        self.stage = Stage::Greeting;
        self.plain = false;
        self.have = 0;
        self.no_zeroes = false;
        self.replies = 0;
        self.facts = Facts { name: Text::new(&self.name), ..Facts::NONE };
        self.output.clear();
        self.sent = 0;
        self.remark = Text::EMPTY;
    }

    /// Whether TLS is to be set up now, and [`Handshake::tls_established`] to be called.
    pub(crate) const fn wants_tls(&self) -> bool {
        matches!(self.stage, Stage::Tls)
    }

    /// TLS stands: from here on all bytes are those inside of it.
    pub(crate) fn tls_established(&mut self) {
        if self.wants_tls() {
            self.facts.tls = true;
            self.begin();
        }
    }

    /// What was found out.
    pub(crate) const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The server's words with its last error.
    pub(crate) const fn remark(&self) -> &Text {
        &self.remark
    }

    /// Whether the goal was reached.
    pub(crate) const fn is_finished(&self) -> bool {
        matches!(self.stage, Stage::Finished)
    }

    /// Bytes to be sent.
    pub(crate) fn outgoing(&self) -> Option<&[u8]> {
        Some(&self.output[self.sent..]).filter(|rest| !rest.is_empty())
    }

    /// `count` of the bytes to be sent were.
    pub(crate) fn transmitted(&mut self, count: usize) {
        self.sent = self.output.len().min(self.sent + count);
    }

    /// Where the next bytes belong.
    pub(crate) fn space<'a>(&self, scratch: &'a mut [u8]) -> &'a mut [u8] {
        let want = self.want(scratch);
        &mut scratch[self.have..want]
    }

    /// `count` bytes were put there.
    pub(crate) fn received(&mut self, scratch: &mut [u8], count: usize) -> Result<Step, Fatal> {
        let before = self.have;
        self.have = self.want(scratch).min(before + count);
        let input = &scratch[..self.have];
        match self.stage {
            Stage::Greeting => self.greeting(input),
            Stage::Option(option) => self.reply(option, input),
            Stage::Tls => Err(Fatal::ClearBytes),
            Stage::ExportName => self.export_name(input),
            Stage::Finished => Ok(Step::Finished),
        }
    }

    /// Bytes of the element under way. The length in a reply's header was checked before it is used here.
    fn want(&self, scratch: &[u8]) -> usize {
        match self.stage {
            Stage::Greeting => wire::GREETING,
            Stage::Option(_) if self.have < OPTION_REPLY_HEADER => OPTION_REPLY_HEADER,
            Stage::Option(_) => OPTION_REPLY_HEADER + u32_at(scratch, 16) as usize,
            Stage::Tls => 1,
            Stage::ExportName if self.no_zeroes => 10,
            Stage::ExportName => 10 + ZEROES,
            Stage::Finished => self.have,
        }
    }

    fn greeting(&mut self, input: &[u8]) -> Result<Step, Fatal> {
        // Another protocol's server is recognised by its first words, however few.
        let known = input.len().min(8);
        if input[..known] != wire::GREETING_MAGIC.to_be_bytes()[..known] {
            return Err(Fatal::NotNbd);
        }
        if input.len() >= 16 {
            match u64_at(input, 8) {
                wire::OPTION_MAGIC => {}
                wire::OLDSTYLE_MAGIC => return Err(Fatal::Oldstyle),
                _ => return Err(Fatal::NotNbd),
            }
        }
        if input.len() < wire::GREETING {
            return Ok(Step::More);
        }
        let flags = u16_at(input, 16);
        if flags & handshake_flag::FIXED_NEWSTYLE == 0 {
            return Err(Fatal::NotFixedNewstyle);
        }
        // The client's flags have the same numbers; only what was offered may be echoed.
        let echoed = flags & (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        self.no_zeroes = flags & handshake_flag::NO_ZEROES != 0;
        self.output.extend_from_slice(&u32::from(echoed).to_be_bytes());
        match self.tls {
            Tls::Off => self.begin(),
            Tls::Required => self.ask(option::STARTTLS),
        }
        Ok(Step::More)
    }

    /// Ask the first option that is about the goal.
    fn begin(&mut self) {
        self.ask(match (self.goal, self.headers) {
            (Goal::List(_), _) => option::LIST,
            (Goal::Info, _) => option::INFO,
            (Goal::Transmission, Headers::Extended) => option::EXTENDED_HEADERS,
            (Goal::Transmission, Headers::Structured) => option::STRUCTURED_REPLY,
            (Goal::Transmission, Headers::Simple) => option::GO,
        });
    }

    fn reply(&mut self, asked: u32, input: &[u8]) -> Result<Step, Fatal> {
        if input.len() < OPTION_REPLY_HEADER {
            return Ok(Step::More);
        }
        let (answered, reply, length) = (u32_at(input, 8), u32_at(input, 12), u32_at(input, 16));
        if input.len() == OPTION_REPLY_HEADER {
            if u64_at(input, 0) != wire::OPTION_REPLY_MAGIC {
                return Err(Fatal::OptionReplyMagic);
            }
            if answered != asked {
                return Err(Fatal::WrongOption { asked, answered });
            }
            self.admit(asked, reply, length)?;
        }
        let payload = &input[OPTION_REPLY_HEADER..];
        if payload.len() < length as usize {
            return Ok(Step::More);
        }
        self.have = 0;
        match reply {
            option_reply::ACK => self.acknowledged(asked),
            option_reply::INFO => self.info(asked, payload),
            option_reply::META_CONTEXT => {
                let number = u32_at(payload, 0);
                let sound = self.facts.contexts.add(&self.contexts, number, &payload[4..]);
                if sound { Ok(Step::More) } else { Err(Fatal::ContextTwice(number)) }
            }
            option_reply::SERVER => {
                let name = u32_at(payload, 0) as usize;
                if name > MAX_STRING || name > payload.len() - 4 {
                    return Err(Fatal::ReplyLength { option: asked, reply, length: name as u32 });
                }
                let start = OPTION_REPLY_HEADER + 4;
                Ok(Step::Listed { name: start..start + name, description: start + name..input.len() })
            }
            error => {
                self.remark = Text::new(payload);
                self.refused(asked, Refusal::of(error))
            }
        }
    }

    /// Whether a reply of this type and length can be meant.
    fn admit(&mut self, option: u32, reply: u32, length: u32) -> Result<(), Fatal> {
        let string = MAX_STRING as u32;
        let (lengths, most) = match (option, reply) {
            (_, option_reply::ACK) => (0..=0, 1),
            (option::GO | option::INFO, option_reply::INFO) => (2..=2 + string, MAX_INFOS),
            (option::SET_META_CONTEXT, option_reply::META_CONTEXT) => (4..=4 + string, MAX_CONTEXTS as u32),
            (option::LIST, option_reply::SERVER) => {
                let Goal::List(most) = self.goal else {
                    return Err(Fatal::UnexpectedReply { option, reply });
                };
                (4..=4 + 2 * string, most)
            }
            (_, error) if error & option_reply::ERROR != 0 => (0..=string, u32::MAX),
            _ => return Err(Fatal::UnexpectedReply { option, reply }),
        };
        if !lengths.contains(&length) {
            return Err(Fatal::ReplyLength { option, reply, length });
        }
        if reply == option_reply::ACK || reply & option_reply::ERROR != 0 {
            return Ok(());
        }
        self.replies += 1;
        if self.replies > most { Err(Fatal::TooManyReplies { option }) } else { Ok(()) }
    }

    fn acknowledged(&mut self, option: u32) -> Result<Step, Fatal> {
        match option {
            // What is still to be sent would be sent in clear, or not at all.
            option::STARTTLS if self.outgoing().is_some() => return Err(Fatal::AnsweredTooEarly),
            option::STARTTLS => self.stage = Stage::Tls,
            option::EXTENDED_HEADERS | option::STRUCTURED_REPLY => {
                self.facts.structured = true;
                self.facts.extended = option == option::EXTENDED_HEADERS;
                self.ask(option::SET_META_CONTEXT);
            }
            option::SET_META_CONTEXT => self.ask(option::GO),
            option::GO | option::INFO if self.facts.size_and_flags.is_none() => {
                return Err(Fatal::ExportInfo);
            }
            option::GO => return Ok(self.finish()),
            // A server may close without a reply, so nobody waits for it.
            _ => {
                self.ask(option::ABORT);
                return Ok(self.finish());
            }
        }
        Ok(Step::More)
    }

    fn finish(&mut self) -> Step {
        self.stage = Stage::Finished;
        Step::Finished
    }

    fn refused(&mut self, option: u32, reason: Refusal) -> Result<Step, Fatal> {
        let hopeless = matches!(reason, Refusal::TlsRequired | Refusal::ShuttingDown);
        match option {
            option::STARTTLS => return Err(Fatal::TlsRefused(reason)),
            option::EXTENDED_HEADERS if !hopeless => self.ask(option::STRUCTURED_REPLY),
            option::STRUCTURED_REPLY if !hopeless => self.ask(option::GO),
            option::SET_META_CONTEXT if !hopeless => self.contexts_refused(reason)?,
            option::GO if reason == Refusal::Unsupported && !self.facts.extended => {
                // What was said in reply to GO was said about nothing.
                self.facts.size_and_flags = None;
                self.facts.block_sizes = None;
                self.ask(option::EXPORT_NAME);
            }
            _ => return Err(Fatal::Refused { option, reason }),
        }
        Ok(Step::More)
    }

    fn contexts_refused(&mut self, reason: Refusal) -> Result<(), Fatal> {
        self.facts.contexts = Granted::NONE;
        if self.plain || reason == Refusal::Unsupported {
            self.ask(option::GO);
            return Ok(());
        }
        // A claim that was heard and rejected: to go on without it would be to write behind the back of its owner.
        if reason == Refusal::Policy && self.contexts.claims() {
            return Err(Fatal::Fenced);
        }
        // Some servers take a namespace that they do not know for an error.
        self.plain = true;
        self.ask(option::SET_META_CONTEXT);
        Ok(())
    }

    fn info(&mut self, asked: u32, payload: &[u8]) -> Result<Step, Fatal> {
        let (fact, rest) = (u16_at(payload, 0), &payload[2..]);
        let expect = |length: usize| {
            if rest.len() == length {
                return Ok(());
            }
            let (option, reply) = (asked, option_reply::INFO);
            Err(Fatal::ReplyLength { option, reply, length: payload.len() as u32 })
        };
        match fact {
            info::EXPORT => {
                expect(10)?;
                let told = (u64_at(rest, 0), TransmissionFlags(u16_at(rest, 8)));
                if self.facts.size_and_flags.replace(told).is_some() {
                    return Err(Fatal::ExportInfo);
                }
            }
            info::NAME => self.facts.name = Text::new(rest),
            info::DESCRIPTION => self.facts.description = Text::new(rest),
            info::BLOCK_SIZE => {
                expect(12)?;
                self.facts.block_sizes = Some(BlockSizes {
                    minimum: u32_at(rest, 0),
                    preferred: u32_at(rest, 4),
                    maximum: u32_at(rest, 8),
                });
            }
            // A client must ignore what it does not know.
            _ => {}
        }
        Ok(Step::More)
    }

    fn export_name(&mut self, input: &[u8]) -> Result<Step, Fatal> {
        let padding = if self.no_zeroes { 0 } else { ZEROES };
        if input.len() < 10 + padding {
            return Ok(Step::More);
        }
        self.facts.size_and_flags = Some((u64_at(input, 0), TransmissionFlags(u16_at(input, 8))));
        Ok(self.finish())
    }
}
