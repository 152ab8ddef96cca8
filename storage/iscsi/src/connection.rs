//! One TCP connection of an initiator: the doors in and out.
//!
//! What stands behind them: [`receive`] cuts bytes into PDUs, [`request`] sends each kind to its place, and
//! [`transmit`] makes PDUs of what is to be said. The rest is a file for each conversation.

mod command;
mod data_out;
mod liveness;
mod login;
mod logout;
mod owed;
mod receive;
mod request;
mod task_management;
mod text;
mod transmit;

use crate::event::{Counters, Event, Outcome};
use crate::limits::Limits;
use crate::login::{Login, Peer};
use crate::negotiation::{Negotiation, Parameters};
use crate::session::{Sequence, Session};
use crate::state::{State, Trigger};
use crate::task::{Task, Tasks};
use alloc::collections::VecDeque;
use kernel_runtime::Instant;
use liveness::Liveness;
use owed::Watch;
use receive::Incoming;
use storage_block::Buffer;
use text::Exchange;
use transmit::Outgoing;
pub use transmit::Passage;

/// The target's end of one TCP connection.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    state: State,
    peer: Peer,
    login: Login,
    negotiation: Negotiation,
    sequence: Sequence,
    tasks: Tasks,
    /// Initiator task tags of commands that ended while unsolicited data for them was on its way.
    swallowed: VecDeque<u32>,
    /// Transfer tags are given out one after the other, so that an old one can be told from an invented one.
    next_transfer_tag: u32,
    transfer_tags_given: u64,
    incoming: Incoming,
    outgoing: Outgoing,
    text: Exchange,
    liveness: Liveness,
    owed: Watch,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Connection {
    /// A slot for connections, and in it a first one that stands since `now`.
    pub fn new(limits: &Limits, now: Instant) -> Self {
        let limits = limits.checked();
        let mut connection = Self {
            limits,
            state: State::Free,
            peer: Peer::default(),
            login: Login::new(now),
            negotiation: Negotiation::new(&limits),
            sequence: Sequence::default(),
            tasks: Tasks::new(&limits),
            swallowed: VecDeque::with_capacity(limits.slots()),
            next_transfer_tag: 0,
            transfer_tags_given: 0,
            incoming: Incoming::new(),
            outgoing: Outgoing::new(&limits),
            text: Exchange::new(limits.text),
            liveness: Liveness::new(now),
            owed: Watch::default(),
            events: VecDeque::with_capacity(limits.slots() + usize::from(limits.buffers)),
            counters: Counters::default(),
        };
        connection.reset(now);
        connection
    }

    /// Forget everything, give back all buffers and begin with a TCP connection that stands since `now`.
    pub fn reset(&mut self, now: Instant) {
        self.close();
        self.state = State::Free;
        self.peer = Peer::default();
        self.login = Login::new(now + self.limits.login_deadline);
        self.negotiation = Negotiation::new(&self.limits);
        self.swallowed.clear();
        self.next_transfer_tag = 0;
        self.transfer_tags_given = 0;
        self.incoming.clear();
        self.text.clear();
        self.liveness = Liveness::new(now);
        self.owed = Watch::default();
        self.counters = Counters::default();
        self.step(Trigger::TransportUp);
    }

    /// The TCP connection is no more: give back all buffers and wait for [`Self::reset`]. The layer above ends its
    /// own tasks by itself. Nobody can clean up later what is left (error recovery level 0), so it is given up at once.
    pub fn close(&mut self) {
        self.step(Trigger::TransportDown);
        self.clear();
        self.step(Trigger::StateTimeout);
    }

    /// The session was closed by way of another connection, or another login has taken its or this connection's place:
    /// the same as [`Self::close`], by another arrow of the table.
    pub fn close_for_reinstatement(&mut self) {
        self.step(Trigger::SessionEnded);
        self.close();
    }

    /// Another connection of the session has asked to log this one out: the same as [`Self::close`], by the arrows of an
    /// explicit cleanup.
    pub fn close_for_cleanup(&mut self) {
        self.step(Trigger::TransportDown);
        self.step(Trigger::CleanupBegun);
        self.clear();
        self.step(Trigger::CleanedUp);
    }

    fn clear(&mut self) {
        // Of the window only what is its own, and as long as it is somebody's.
        self.sequence.release_all(self.tasks.in_window());
        self.tasks.clear();
        self.outgoing.clear();
        self.events.clear();
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What [`Self::poll_event`] answers next.
    pub fn peek_event(&self) -> Option<&Event> {
        self.events.front()
    }

    /// The state in the terms of RFC 7143, 8.1.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Who is at the other end; meaningful from [`Event::Login`] on.
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What was agreed upon so far.
    pub const fn parameters(&self) -> &Parameters {
        &self.negotiation.parameters
    }

    /// What its session is to connections that join it; meaningful from [`Event::LoggedIn`] on.
    pub fn session(&self) -> Session {
        self.sequence.session(self.negotiation.parameters)
    }

    /// The login is one of a further connection of this session: to be said before it is accepted.
    pub fn join(&mut self, session: &Session) {
        self.sequence.join(session);
        self.negotiation.join(&session.parameters);
    }

    /// The commands that are with the layer above, with their logical units.
    pub fn tasks(&self) -> impl Iterator<Item = (Task, [u8; 8])> + '_ {
        self.tasks.running()
    }

    /// How many tasks have not been answered to the last byte.
    pub fn tasks_in_use(&self) -> usize {
        self.tasks.in_use()
    }

    /// What was counted.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Lend a place for the task's data from the initiator, `[offset, offset + buffer.len())`; it comes back in
    /// [`Event::Received`]. Data that the initiator did not send by itself is asked for. While the data that
    /// stands next on the connection has no place, nothing is read; with data digests a place comes back only
    /// when its PDU is whole, so that places for MaxRecvDataSegmentLength bytes may be needed at a time.
    ///
    /// Without the task the buffer is dropped, which returns it to its pool.
    pub fn receive(&mut self, task: Task, offset: u32, mut buffer: Buffer) {
        let Some(index) = self.tasks.find_running(task) else { return };
        let available = self.tasks[index].expected_out.saturating_sub(offset);
        buffer.truncate(buffer.len().min(available as usize));
        if buffer.is_empty() {
            self.events.push_back(Event::Received { task, offset, buffer });
            return;
        }
        self.tasks.add_place(index, buffer, offset);
        self.queue(index);
    }

    /// Say that of the task's data from the initiator only the first `length` bytes matter. The others are
    /// swallowed where they come unasked, so that they need no place.
    pub fn want(&mut self, task: Task, length: u32) {
        if let Some(index) = self.tasks.find_running(task) {
            self.tasks[index].wanted = length;
        }
    }

    /// Give data for the initiator, to be sent in the order of offsets. What the initiator has no place for is not
    /// sent. The buffer is dropped, which returns it to its pool, when its last byte was transmitted.
    pub fn send(&mut self, task: Task, offset: u32, buffer: Buffer) {
        let Some(index) = self.tasks.find_running(task) else { return };
        if self.add_data(index, offset, buffer) {
            self.queue(index);
        }
    }

    /// What [`Self::send`] does with all the data of a command, and then [`Self::finish`].
    pub fn send_all(&mut self, task: Task, buffer: Buffer, outcome: Outcome<'_>) {
        if let Some(index) = self.tasks.find_running(task) {
            self.add_data(index, 0, buffer);
            self.end_command(index, outcome);
        }
    }

    /// Put Data-In to a task's. Answers whether anything of it is to be sent.
    fn add_data(&mut self, index: u16, offset: u32, mut buffer: Buffer) -> bool {
        let room = self.tasks[index].expected_in.saturating_sub(offset);
        buffer.truncate(buffer.len().min(room as usize));
        let is_wanted = !buffer.is_empty();
        if is_wanted {
            self.tasks.add_data(index, buffer, offset);
        }
        is_wanted
    }

    /// End a command. The response leaves when its data is sent and all Data-Out that the initiator owes has come;
    /// places that are still with the command are given back.
    pub fn finish(&mut self, task: Task, outcome: Outcome<'_>) {
        if let Some(index) = self.tasks.find_running(task) {
            self.end_command(index, outcome);
        }
    }

    /// End a command without a response. Data for it that is still on its way will be swallowed.
    pub fn abort(&mut self, task: Task) {
        if let Some(index) = self.tasks.find(task) {
            let was_closed = self.sequence.is_closed();
            self.forget(index);
            if was_closed && !self.sequence.is_closed() {
                self.tell_window();
            }
        }
    }

    /// The window has opened without a response. Unless a function is still to be answered, which tells so, an initiator that
    /// waits for the window would hear of it from nothing else (11.4.11).
    #[cold]
    fn tell_window(&mut self) {
        // What waits to be transmitted takes its numbers when it is.
        if !self.tasks.has_management() && !self.outgoing.is_congested() {
            self.outgoing.say(transmit::Message::Ping { target_transfer_tag: crate::wire::RESERVED_TAG });
        }
    }

    fn step(&mut self, trigger: Trigger) {
        if let Some(state) = self.state.after(trigger) {
            self.state = state;
        }
    }

    fn take_transfer_tag(&mut self) -> u32 {
        let tag = self.next_transfer_tag;
        self.next_transfer_tag = match tag.wrapping_add(1) {
            crate::wire::RESERVED_TAG => 0,
            next => next,
        };
        self.transfer_tags_given += 1;
        tag
    }

    /// Whether a transfer tag was given out on this connection, so far as 32 bits can tell.
    const fn gave_transfer_tag(&self, tag: u32) -> bool {
        tag != crate::wire::RESERVED_TAG && (tag as u64) < self.transfer_tags_given
    }
}

#[cfg(test)]
mod tests;
