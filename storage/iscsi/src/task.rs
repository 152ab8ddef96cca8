//! Tasks and the buffers that are with them: slots and list nodes taken at construction.

use crate::limits::{Limits, MAX_OUTSTANDING_R2T, MAX_SENSE};
use crate::tags::Tags;
use alloc::vec::Vec;
use core::ops::{Index, IndexMut};
use storage_block::Buffer;

/// A command or a task management request that the layer above is to answer. It goes stale with its answer; a
/// stale one names nothing and does no harm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Task {
    slot: u16,
    generation: u32,
}

impl Task {
    /// The task's slot, below [`Limits::commands`] + [`Limits::immediate`]: an index for tables of the layer above.
    pub const fn slot(self) -> usize {
        self.slot as usize
    }
}

/// Where a slot's answer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Free,
    /// With the layer above.
    Running,
    /// Answered; the response waits for data still to come or to be sent.
    Ending,
}

/// What a slot is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Command,
    TaskManagement,
}

/// A Ready To Transfer that was sent and is not wholly answered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Solicited {
    pub(crate) target_transfer_tag: u32,
    /// The next byte expected, and the byte after the last.
    pub(crate) next: u32,
    pub(crate) end: u32,
    pub(crate) data_sn: u32,
    /// Something was wrong with a PDU of this sequence; the rest is swallowed.
    pub(crate) spoilt: bool,
}

/// For how long the initiator has kept data of a task back, in units of the clock that looks after it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Owed {
    /// Some came since the clock looked last.
    pub(crate) has_progressed: bool,
    /// Since some came.
    pub(crate) quiet: u16,
    /// Since a whole sequence had come.
    pub(crate) unfinished: u16,
}

/// A list of [`Piece`]s, ascending by offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct List {
    pub(crate) first: u32,
}

/// The end of a list.
pub(crate) const NONE: u32 = u32::MAX;

impl List {
    pub(crate) const EMPTY: Self = Self { first: NONE };

    pub(crate) const fn is_empty(self) -> bool {
        self.first == NONE
    }
}

/// All that is known of one task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    generation: u32,
    pub(crate) phase: Phase,
    pub(crate) purpose: Purpose,
    /// It holds one of the immediate slots, not one of the window.
    pub(crate) immediate: bool,
    /// It stands in the queue of the transmitter.
    pub(crate) queued: bool,
    pub(crate) initiator_task_tag: u32,
    pub(crate) cmd_sn: u32,
    pub(crate) lun: [u8; 8],
    /// Bytes expected from and by the initiator.
    pub(crate) expected_out: u32,
    pub(crate) expected_in: u32,
    pub(crate) bidirectional: bool,
    /// Bytes of Data-Out the layer above is interested in.
    pub(crate) wanted: u32,
    /// Unsolicited Data-Out is still to come.
    pub(crate) unsolicited: bool,
    /// The next unsolicited byte, and with the end of unsolicited data the first byte to be solicited.
    pub(crate) next_out: u32,
    pub(crate) unsolicited_data_sn: u32,
    pub(crate) solicited: [Solicited; MAX_OUTSTANDING_R2T],
    pub(crate) solicited_count: u8,
    pub(crate) owed: Owed,
    /// Places for Data-Out, and Data-In to be sent.
    pub(crate) places: List,
    pub(crate) data: List,
    /// Data-Ins and R2Ts so far, which share a sequence where a command has both (4.2.2.4).
    pub(crate) data_sn: u32,
    /// The next byte of Data-In to be sent.
    pub(crate) next_in: u32,
    /// Bytes of the current Data-In sequence.
    pub(crate) burst: u32,
    pub(crate) answer: Answer,
}

/// What the layer above said in the end, but for sense data: see [`Tasks::sense`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// SCSI status, or the response of a task management function.
    pub(crate) status: u8,
    /// Bytes; of a task management function its additional response information.
    pub(crate) transferred: u64,
    pub(crate) bidirectional_read: u64,
    pub(crate) sense_length: u8,
}

impl Answer {
    const NONE: Self = Self { status: 0, transferred: 0, bidirectional_read: 0, sense_length: 0 };
}

impl Slot {
    const FREE: Self = Self {
        generation: 0,
        phase: Phase::Free,
        purpose: Purpose::Command,
        immediate: false,
        queued: false,
        initiator_task_tag: 0,
        cmd_sn: 0,
        lun: [0; 8],
        expected_out: 0,
        expected_in: 0,
        bidirectional: false,
        wanted: 0,
        unsolicited: false,
        next_out: 0,
        unsolicited_data_sn: 0,
        solicited: [Solicited { target_transfer_tag: 0, next: 0, end: 0, data_sn: 0, spoilt: false };
            MAX_OUTSTANDING_R2T],
        solicited_count: 0,
        owed: Owed { has_progressed: false, quiet: 0, unfinished: 0 },
        places: List::EMPTY,
        data: List::EMPTY,
        data_sn: 0,
        next_in: 0,
        burst: 0,
        answer: Answer::NONE,
    };

    /// Make it a free one, but for its generation. R2Ts that do not count are left where they are.
    fn clear(&mut self) {
        *self = Self { generation: self.generation, solicited: self.solicited, ..Self::FREE };
    }

    /// The R2Ts outstanding.
    pub(crate) fn solicited(&self) -> &[Solicited] {
        &self.solicited[..usize::from(self.solicited_count)]
    }

    /// Remember an R2T. The caller has looked that there is room.
    pub(crate) fn solicit(&mut self, solicited: Solicited) {
        if let Some(place) = self.solicited.get_mut(usize::from(self.solicited_count)) {
            *place = solicited;
            self.solicited_count += 1;
        }
    }

    /// Forget the R2T at `index`.
    pub(crate) fn answered(&mut self, index: usize) {
        let count = usize::from(self.solicited_count);
        self.solicited.copy_within(index + 1..count, index);
        self.solicited_count -= 1;
        self.owed = Owed::default();
    }

    /// Whether Data-Out is on its way that the initiator will send whatever we say.
    pub(crate) const fn awaits_data(&self) -> bool {
        self.unsolicited || self.solicited_count > 0
    }
}

/// A buffer and its place in a task's data.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) buffer: Option<Buffer>,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    /// Bytes received into it, or sent from it.
    pub(crate) done: u32,
    next: u32,
}

impl Piece {
    /// Whether it is the last of its list.
    pub(crate) const fn is_last(&self) -> bool {
        self.next == NONE
    }
}

/// The slots and the pieces of a connection.
#[derive(Debug)]
pub(crate) struct Tasks {
    slots: Vec<Slot>,
    free_slots: Vec<u16>,
    /// The sense data of each slot, rarely looked at.
    sense: Vec<[u8; MAX_SENSE]>,
    tags: Tags,
    commands: u16,
    immediate: u16,
    immediate_used: u16,
    pieces: Vec<Piece>,
    free_pieces: u32,
}

impl Tasks {
    pub(crate) fn new(limits: &Limits) -> Self {
        let slots = limits.slots();
        let mut tasks = Self {
            slots: alloc::vec![Slot::FREE; slots],
            free_slots: Vec::with_capacity(slots),
            sense: alloc::vec![[0; MAX_SENSE]; slots],
            tags: Tags::new(slots),
            commands: limits.commands,
            immediate: limits.immediate,
            immediate_used: 0,
            pieces: Vec::with_capacity(usize::from(limits.buffers)),
            free_pieces: NONE,
        };
        tasks.clear();
        tasks
    }

    /// Forget all tasks and give back all buffers.
    pub(crate) fn clear(&mut self) {
        for slot in &mut self.slots {
            *slot = Slot { generation: slot.generation.wrapping_add(1), ..Slot::FREE };
        }
        self.tags.clear();
        self.free_slots.clear();
        self.free_slots.extend((0..self.commands + self.immediate).rev());
        self.immediate_used = 0;
        self.pieces.clear();
        self.free_pieces = NONE;
    }

    /// A slot for a request, or `None` when those of its kind are in use.
    pub(crate) fn begin(&mut self, purpose: Purpose, immediate: bool, tag: u32) -> Option<u16> {
        if immediate && self.immediate_used == self.immediate {
            return None;
        }
        let index = self.free_slots.pop()?;
        self.immediate_used += u16::from(immediate);
        let slot = &mut self.slots[usize::from(index)];
        slot.clear();
        slot.phase = Phase::Running;
        slot.purpose = purpose;
        slot.immediate = immediate;
        slot.initiator_task_tag = tag;
        self.tags.add(index, tag);
        Some(index)
    }

    /// Give a slot back. Says whether it was one of the immediate ones. Its Data-In is gone already.
    pub(crate) fn end(&mut self, index: u16) -> bool {
        if !self[index].places.is_empty() {
            self.drop_places(index);
        }
        let slot = &mut self.slots[usize::from(index)];
        slot.phase = Phase::Free;
        slot.generation = slot.generation.wrapping_add(1);
        let immediate = slot.immediate;
        self.immediate_used -= u16::from(immediate);
        self.tags.remove(index, slot.initiator_task_tag);
        self.free_slots.push(index);
        immediate
    }

    /// The slot that `task` names, unless it is stale.
    pub(crate) fn find(&self, task: Task) -> Option<u16> {
        let slot = self.slots.get(usize::from(task.slot))?;
        (slot.generation == task.generation && slot.phase != Phase::Free).then_some(task.slot)
    }

    /// The same, if the layer above has not answered yet.
    pub(crate) fn find_running(&self, task: Task) -> Option<u16> {
        self.find(task).filter(|&index| self[index].phase == Phase::Running)
    }

    /// The slot with this initiator task tag.
    pub(crate) fn find_tag(&self, tag: u32) -> Option<u16> {
        if tag == crate::wire::RESERVED_TAG {
            return None;
        }
        self.tags.with_hash_of(tag).find(|&index| self[index].initiator_task_tag == tag)
    }

    /// Whether the task with this tag is a task management function.
    pub(crate) fn is_management(&self, tag: u32) -> bool {
        self.find_tag(tag).is_some_and(|index| self[index].purpose == Purpose::TaskManagement)
    }

    /// Whether a task management function is still to be answered.
    pub(crate) fn has_management(&self) -> bool {
        self.slots.iter().any(|slot| slot.phase != Phase::Free && slot.purpose == Purpose::TaskManagement)
    }

    /// The sense data that a slot's answer comes with.
    pub(crate) fn sense(&self, index: u16) -> &[u8] {
        &self.sense[usize::from(index)][..usize::from(self[index].answer.sense_length)]
    }

    /// The layer above, or the engine itself, has said how a slot's command ends. What is too long of its sense data is cut
    /// off.
    pub(crate) fn answer(&mut self, index: u16, mut answer: Answer, sense: &[u8]) {
        let length = sense.len().min(MAX_SENSE);
        if length > 0 {
            self.sense[usize::from(index)][..length].copy_from_slice(&sense[..length]);
        }
        answer.sense_length = length as u8;
        let slot = &mut self[index];
        slot.phase = Phase::Ending;
        slot.answer = answer;
    }

    /// The name for a slot.
    pub(crate) fn task(&self, index: u16) -> Task {
        Task { slot: index, generation: self[index].generation }
    }

    /// The commands that are not answered yet, with their logical units.
    pub(crate) fn running(&self) -> impl Iterator<Item = (Task, [u8; 8])> + '_ {
        let commands = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.phase == Phase::Running && slot.purpose == Purpose::Command);
        commands.map(|(index, slot)| (Task { slot: index as u16, generation: slot.generation }, slot.lun))
    }

    /// How much memory the lists have taken.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> [usize; 3] {
        [self.slots.capacity(), self.free_slots.capacity(), self.pieces.capacity()]
    }

    /// Let `units` of time pass for the tasks whose data the initiator owes. Answers what the one has that it has kept
    /// back the longest, or `None` when it owes none.
    pub(crate) fn age_owed(&mut self, units: u16) -> Option<Owed> {
        let owing = self.slots.iter_mut().filter(|slot| slot.phase != Phase::Free && slot.awaits_data());
        owing.fold(None, |worst: Option<Owed>, slot| {
            let Owed { has_progressed, quiet, unfinished } = slot.owed;
            let quiet = if has_progressed { 0 } else { quiet.saturating_add(units) };
            slot.owed = Owed { has_progressed: false, quiet, unfinished: unfinished.saturating_add(units) };
            let worst = worst.unwrap_or_default();
            Some(Owed {
                has_progressed: false,
                quiet: worst.quiet.max(slot.owed.quiet),
                unfinished: worst.unfinished.max(slot.owed.unfinished),
            })
        })
    }

    /// How many of the slots in use are the window's.
    pub(crate) fn in_window(&self) -> u32 {
        self.in_use() as u32 - u32::from(self.immediate_used)
    }

    /// How many slots are in use.
    pub(crate) fn in_use(&self) -> usize {
        self.slots.len() - self.free_slots.len()
    }
}

/// Pieces and their lists.
impl Tasks {
    pub(crate) fn piece(&self, index: u32) -> Option<&Piece> {
        self.pieces.get(index as usize)
    }

    pub(crate) fn piece_mut(&mut self, index: u32) -> Option<&mut Piece> {
        self.pieces.get_mut(index as usize)
    }

    /// A node for `buffer`. The vector grows only if more buffers come than [`Limits::buffers`] said.
    fn store(&mut self, buffer: Buffer, offset: u32) -> u32 {
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let piece = Piece { buffer: Some(buffer), offset, length, done: 0, next: NONE };
        if let Some(free) = self.pieces.get_mut(self.free_pieces as usize) {
            let index = core::mem::replace(&mut self.free_pieces, free.next);
            *free = piece;
            return index;
        }
        self.pieces.push(piece);
        self.pieces.len() as u32 - 1
    }

    /// Forget a node that is in no list and hand out its buffer.
    pub(crate) fn take(&mut self, index: u32) -> Option<Buffer> {
        let next = core::mem::replace(&mut self.free_pieces, index);
        let piece = &mut self.pieces[index as usize];
        piece.next = next;
        piece.buffer.take()
    }

    /// Put a buffer into a list, behind those of the same or a lower offset.
    fn insert(&mut self, mut list: List, buffer: Buffer, offset: u32) -> List {
        let index = self.store(buffer, offset);
        let (mut before, mut after) = (NONE, list.first);
        while let Some(piece) = self.pieces.get(after as usize).filter(|piece| piece.offset <= offset) {
            (before, after) = (after, piece.next);
        }
        self.pieces[index as usize].next = after;
        match self.pieces.get_mut(before as usize) {
            Some(piece) => piece.next = index,
            None => list.first = index,
        }
        list
    }

    /// Take the node `index` out of a list; it stays stored.
    fn unlink(&mut self, mut list: List, index: u32) -> List {
        let next = self.pieces[index as usize].next;
        if list.first == index {
            list.first = next;
            return list;
        }
        let mut at = list.first;
        while let Some(piece) = self.pieces.get_mut(at as usize) {
            if piece.next == index {
                piece.next = next;
                break;
            }
            at = piece.next;
        }
        list
    }

    /// Give a task a place for Data-Out.
    pub(crate) fn add_place(&mut self, index: u16, buffer: Buffer, offset: u32) {
        let list = self[index].places;
        self[index].places = self.insert(list, buffer, offset);
    }

    /// Give a task Data-In.
    pub(crate) fn add_data(&mut self, index: u16, buffer: Buffer, offset: u32) {
        let list = self[index].data;
        self[index].data = self.insert(list, buffer, offset);
    }

    /// The place that holds the byte at `offset`.
    pub(crate) fn place_at(&self, index: u16, offset: u32) -> Option<u32> {
        self.iterate(self[index].places)
            .find(|(_, piece)| piece.offset <= offset && offset - piece.offset < piece.length)
            .map(|(at, _)| at)
    }

    /// The byte after the last that places from `offset` on hold without a gap.
    pub(crate) fn covered_until(&self, index: u16, offset: u32) -> u32 {
        self.iterate(self[index].places).fold(offset, |until, (_, piece)| {
            if piece.offset <= until { until.max(piece.offset.saturating_add(piece.length)) } else { until }
        })
    }

    /// Take the first place that is full out of the task.
    pub(crate) fn take_full_place(&mut self, index: u16) -> Option<(u32, Buffer)> {
        let list = self[index].places;
        let (at, offset) = self
            .iterate(list)
            .find(|(_, piece)| piece.done >= piece.length)
            .map(|(at, piece)| (at, piece.offset))?;
        self[index].places = self.unlink(list, at);
        self.take(at).map(|buffer| (offset, buffer))
    }

    /// Take a place that is in the task's list, and full, out of it.
    pub(crate) fn take_place(&mut self, index: u16, at: u32) -> Option<Buffer> {
        let list = self[index].places;
        self[index].places = self.unlink(list, at);
        self.take(at)
    }

    /// Take the first piece of Data-In out of the task's list; it stays stored until it is sent.
    pub(crate) fn unlink_data(&mut self, index: u16, at: u32) {
        let list = self[index].data;
        self[index].data = self.unlink(list, at);
    }

    /// Give back the buffers of all places of a task.
    pub(crate) fn drop_places(&mut self, index: u16) {
        let list = core::mem::replace(&mut self[index].places, List::EMPTY);
        self.drop_list(list, None);
    }

    /// Give back the buffers of all Data-In of a task, except the one `kept`, which is being sent. Says whether
    /// that was among them: it is in no list now.
    pub(crate) fn drop_data(&mut self, index: u16, kept: Option<u32>) -> bool {
        let list = core::mem::replace(&mut self[index].data, List::EMPTY);
        self.drop_list(list, kept)
    }

    fn drop_list(&mut self, list: List, kept: Option<u32>) -> bool {
        let mut at = list.first;
        let mut found = false;
        while let Some(next) = self.pieces.get(at as usize).map(|piece| piece.next) {
            if kept == Some(at) {
                found = true;
            } else {
                drop(self.take(at));
            }
            at = next;
        }
        found
    }

    fn iterate(&self, list: List) -> impl Iterator<Item = (u32, &Piece)> + '_ {
        let mut at = list.first;
        core::iter::from_fn(move || {
            let piece = self.pieces.get(at as usize)?;
            Some((core::mem::replace(&mut at, piece.next), piece))
        })
    }
}

impl Index<u16> for Tasks {
    type Output = Slot;
    fn index(&self, index: u16) -> &Slot {
        &self.slots[usize::from(index)]
    }
}

impl IndexMut<u16> for Tasks {
    fn index_mut(&mut self, index: u16) -> &mut Slot {
        &mut self.slots[usize::from(index)]
    }
}
