//! The service's side of the negotiation.

use super::answers::option_reply_bytes;
use super::session::{Selected, State};
use super::{Encryption, Fence, Session};
use crate::contexts::{ALLOCATION, INCARNATION, WRITER};
use crate::settings::Headers;
use crate::wire::{TransmissionFlags, info, option, option_reply, u16_at, u32_at};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// The numbers of the contexts.
pub(super) const ALLOCATION_NUMBER: u32 = 7;
pub(super) const INCARNATION_NUMBER: u32 = 8;
pub(super) const WRITER_NUMBER: u32 = 9;
/// Queries of one option at most.
const MAX_QUERIES: u32 = 64;

/// Takes an option's data apart; `None` where it ends too early.
struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number(&mut self) -> Option<u32> {
        self.bytes(4).map(|bytes| u32_at(bytes, 0))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.bytes(length as usize)
    }
}

impl Session {
    pub(super) fn option(&mut self, code: u32, data: &[u8]) {
        let settings = &self.exports[0].0;
        let (structured, extended, go, list) =
            (settings.structured, settings.extended, settings.go, settings.list);
        let wants_nothing = matches!(
            code,
            option::LIST | option::STARTTLS | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS
        );
        if self.needs_tls() && !matches!(code, option::STARTTLS | option::ABORT) {
            return match code {
                option::EXPORT_NAME => self.state = State::Ended,
                _ => self.reply(code, option_reply::ERR_TLS_REQD, b"not in clear"),
            };
        }
        if wants_nothing && !data.is_empty() {
            self.require(false, "data with an option that has none");
            return self.reply(code, option_reply::ERR_INVALID, b"no data is due");
        }
        match code {
            option::STARTTLS => self.start_tls(),
            option::EXTENDED_HEADERS if extended => {
                self.headers = Headers::Extended;
                self.reply(code, option_reply::ACK, &[]);
            }
            option::STRUCTURED_REPLY if structured && self.headers == Headers::Extended => {
                self.reply(code, option_reply::ERR_EXT_HEADER_REQD, b"extended headers were agreed on");
            }
            option::STRUCTURED_REPLY if structured => {
                self.headers = Headers::Structured;
                self.reply(code, option_reply::ACK, &[]);
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT if self.headers != Headers::Simple => {
                if self.contexts(code, data).is_none() {
                    self.reply(code, option_reply::ERR_INVALID, b"not well formed");
                }
            }
            option::GO | option::INFO if go => {
                if self.describe(code, data).is_none() {
                    self.reply(code, option_reply::ERR_INVALID, b"not well formed");
                }
            }
            option::EXPORT_NAME => self.export_name(data),
            option::LIST if list => self.list(),
            option::LIST => self.reply(code, option_reply::ERR_POLICY, b"not told"),
            option::ABORT => {
                self.reply(code, option_reply::ACK, &[]);
                self.state = State::Ended;
            }
            _ => self.reply(code, option_reply::ERR_UNSUP, b"not known here"),
        }
    }

    fn reply(&mut self, code: u32, kind: u32, payload: &[u8]) {
        self.output.extend_from_slice(&option_reply_bytes(code, kind, payload));
    }

    fn start_tls(&mut self) {
        let code = option::STARTTLS;
        if self.in_tls {
            self.require(false, "STARTTLS in TLS");
            self.reply(code, option_reply::ERR_INVALID, b"it stands");
        } else if self.exports[0].0.tls == Encryption::Off {
            self.reply(code, option_reply::ERR_UNSUP, b"no TLS here");
        } else {
            // Nothing that was agreed on in clear counts.
            (self.headers, self.selected, self.claim) = (Headers::Simple, Selected::default(), None);
            self.reply(code, option_reply::ACK, &[]);
            self.state = State::Tls;
        }
    }

    fn list(&mut self) {
        let code = option::LIST;
        let entries: Vec<Vec<u8>> = self
            .exports
            .iter()
            .map(|(settings, _)| {
                let (name, description) = (settings.name.as_bytes(), settings.description.as_bytes());
                [&(name.len() as u32).to_be_bytes()[..], name, description].concat()
            })
            .collect();
        for entry in entries {
            self.reply(code, option_reply::SERVER, &entry);
        }
        self.reply(code, option_reply::ACK, &[]);
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        self.exports.iter().position(|(settings, _)| settings.name.as_bytes() == name)
    }

    /// Transmission flags, without those that need what was not agreed on.
    fn flags(&self) -> TransmissionFlags {
        let settings = self.settings();
        let mut flags = settings.flags;
        if self.headers == Headers::Simple {
            flags = flags.without(TransmissionFlags::SEND_DF);
        }
        if self.headers != Headers::Extended {
            flags = flags.without(TransmissionFlags::BLOCK_STATUS_PAYLOAD);
        }
        if settings.claimed_only && self.claim.is_none() {
            flags.0 |= TransmissionFlags::READ_ONLY.0;
        }
        flags
    }

    /// The export was entered: what commands are checked against is settled.
    fn enter(&mut self) {
        if self.selected.export != self.at {
            // They were selected for another.
            self.selected = Selected { export: self.at, ..Selected::default() };
        }
        let flags = self.flags();
        self.exports[self.at].0.flags = flags;
        self.state = State::Transmission;
    }

    fn export_name(&mut self, name: &[u8]) {
        let is_due = self.headers != Headers::Extended;
        self.require(is_due, "EXPORT_NAME with extended headers");
        self.state = State::Ended;
        let Some(export) = self.find(name).filter(|_| is_due) else { return };
        self.at = export;
        let (size, flags) = (self.exports[export].1, self.flags());
        self.enter();
        self.output.extend_from_slice(&size.to_be_bytes());
        self.output.extend_from_slice(&flags.0.to_be_bytes());
        self.output.resize(self.output.len() + if self.no_zeroes { 0 } else { 124 }, 0);
    }

    /// `NBD_OPT_GO` or `NBD_OPT_INFO`; `None` when it is not well formed.
    fn describe(&mut self, code: u32, data: &[u8]) -> Option<()> {
        let mut data = Data(data);
        let name = data.string()?;
        let count = u16_at(data.bytes(2)?, 0);
        let facts = data.bytes(2 * usize::from(count))?;
        if !data.0.is_empty() {
            return None;
        }
        let wants = |fact| facts.chunks(2).any(|wanted| u16_at(wanted, 0) == fact);
        let Some(export) = self.find(name) else {
            self.reply(code, option_reply::ERR_UNKNOWN, b"no such export");
            return Some(());
        };
        self.require(wants(info::BLOCK_SIZE), "GO without asking for the block size");
        self.at = export;
        let (settings, size) = self.exports[export].clone();
        let size = if code == option::GO || settings.info_size { size } else { 0 };
        let fact = |kind: u16, payload: &[u8]| [&kind.to_be_bytes(), payload].concat();
        let mut told = [size.to_be_bytes().as_slice(), &self.flags().0.to_be_bytes()].concat();
        self.reply(code, option_reply::INFO, &fact(info::EXPORT, &told));
        if let Some(sizes) = settings.block_sizes {
            told = [sizes.minimum, sizes.preferred, sizes.maximum].map(u32::to_be_bytes).concat();
            self.reply(code, option_reply::INFO, &fact(info::BLOCK_SIZE, &told));
        }
        if wants(info::NAME) {
            self.reply(code, option_reply::INFO, &fact(info::NAME, settings.name.as_bytes()));
        }
        if wants(info::DESCRIPTION) {
            self.reply(code, option_reply::INFO, &fact(info::DESCRIPTION, settings.description.as_bytes()));
        }
        self.reply(code, option_reply::ACK, &[]);
        if code == option::GO {
            self.enter();
        }
        Some(())
    }
}

/// Metadata contexts.
impl Session {
    /// `NBD_OPT_LIST_META_CONTEXT` or `NBD_OPT_SET_META_CONTEXT`; `None` when it is not well formed.
    fn contexts(&mut self, code: u32, data: &[u8]) -> Option<()> {
        let mut data = Data(data);
        let name = data.string()?;
        let count = data.number().filter(|count| *count <= MAX_QUERIES)?;
        let queries = (0..count).map(|_| data.string()).collect::<Option<Vec<_>>>()?;
        let queries =
            queries.iter().map(|query| core::str::from_utf8(query).ok()).collect::<Option<Vec<_>>>()?;
        if !data.0.is_empty() || queries.iter().any(|query| !query.contains(':')) {
            return None;
        }
        if code == option::SET_META_CONTEXT {
            self.selected = Selected::default();
        }
        let Some(export) = self.find(name) else {
            self.reply(code, option_reply::ERR_UNKNOWN, b"no such export");
            return Some(());
        };
        let is_known = |query: &str| {
            let namespace = query.split(':').next();
            namespace == Some("base") || (namespace == Some("x-corbel") && self.knows_extensions(export))
        };
        if self.exports[export].0.refuses_unknown_contexts && !queries.iter().all(|query| is_known(query)) {
            self.reply(code, option_reply::ERR_INVALID, b"an unknown namespace");
            return Some(());
        }
        if code == option::LIST_META_CONTEXT {
            self.list_contexts(export, &queries);
            return Some(());
        }
        self.select_contexts(export, &queries)
    }

    fn knows_extensions(&self, export: usize) -> bool {
        let settings = &self.exports[export].0;
        settings.fencing || settings.incarnation.is_some()
    }

    fn list_contexts(&mut self, export: usize, queries: &[&str]) {
        let settings = &self.exports[export].0;
        let known = [
            settings.allocation.then_some(ALLOCATION),
            settings.incarnation.as_ref().map(|_| INCARNATION),
            settings.fencing.then_some(WRITER),
        ];
        let matches = |name: &str| queries.iter().any(|query| name == *query || is_wildcard(query, name));
        for name in known.into_iter().flatten().filter(|name| queries.is_empty() || matches(name)) {
            self.context(option::LIST_META_CONTEXT, 0, name);
        }
        self.reply(option::LIST_META_CONTEXT, option_reply::ACK, &[]);
    }

    fn select_contexts(&mut self, export: usize, queries: &[&str]) -> Option<()> {
        let settings = &self.exports[export].0;
        let claims: Vec<_> = queries.iter().filter(|query| query.starts_with(WRITER)).collect();
        let selected = Selected {
            export,
            allocation: settings.allocation && queries.contains(&ALLOCATION),
            incarnation: settings.incarnation.is_some() && queries.contains(&INCARNATION),
            writer: settings.fencing && !claims.is_empty(),
        };
        if selected.writer {
            let [claim] = claims[..] else { return None };
            self.fence = Some((Fence::parse(export, claim)?, selected));
        } else {
            self.answer_contexts(selected, None);
        }
        Some(())
    }

    /// The claim is good.
    pub(super) fn grant(&mut self, fence: Fence, selected: Selected) {
        let alive: Vec<_> = fence.alive.iter().map(|alive| format!("{alive:x}")).collect();
        let Fence { generation, owner, session, connection, .. } = &fence;
        let mut context = format!("{WRITER}{generation:x}:{owner}:{session:x}:{connection:x}");
        if !alive.is_empty() {
            context.push(':');
            context.push_str(&alive.join(","));
        }
        self.answer_contexts(selected, Some(context));
        self.claim = Some(fence);
    }

    pub(super) fn refuse_claim(&mut self) {
        self.reply(option::SET_META_CONTEXT, option_reply::ERR_POLICY, b"a newer generation writes here");
    }

    fn answer_contexts(&mut self, selected: Selected, claim: Option<String>) {
        let code = option::SET_META_CONTEXT;
        self.selected = selected;
        if selected.allocation {
            self.context(code, ALLOCATION_NUMBER, ALLOCATION);
        }
        if selected.incarnation {
            let token = self.exports[selected.export].0.incarnation.clone().unwrap_or_default();
            self.context(code, INCARNATION_NUMBER, &format!("{INCARNATION}{token}"));
        }
        if let Some(claim) = claim {
            self.context(code, WRITER_NUMBER, &claim);
        }
        self.reply(code, option_reply::ACK, &[]);
    }

    fn context(&mut self, code: u32, number: u32, name: &str) {
        self.reply(code, option_reply::META_CONTEXT, &[&number.to_be_bytes(), name.as_bytes()].concat());
    }
}

/// Whether a query is a namespace alone, and the name in it.
fn is_wildcard(query: &str, name: &str) -> bool {
    query.ends_with(':') && query.matches(':').count() == 1 && name.starts_with(query)
}
