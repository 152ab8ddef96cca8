//! Buffers taken at start and lent to requests.
//!
//! A [`Pool`] holds every payload byte the appliance can have in flight. It is filled once; afterwards taking
//! and returning a [`Buffer`] moves a pointer between two lists and allocates nothing. A [`Share`] bounds what
//! one disk may hold of it, so that a disk that hangs cannot starve the others; a part of a share bounds one of its
//! users, so that one who keeps what he has cannot starve the others.

use alloc::{rc::Rc, vec::Vec};
use core::cell::{Cell, RefCell};
use core::fmt;
use core::ops::{Deref, DerefMut, Range};

/// Padding behind each buffer, so that buffers of a power-of-two size do not lie at power-of-two distances:
/// equal low address bits alias in caches, and in an emulator's TLB they cost a factor of ten.
const STAGGER: usize = 4096 + 64;

/// How many of the largest buffers a user needs at the same time to go on: see [`Share::take_two`].
const NEEDS: usize = 2;
/// How many of them keep a long transfer going.
const IN_FLIGHT: usize = 4;

/// The store of all payload buffers.
#[derive(Clone)]
pub struct Pool(Rc<Store>);

struct Store {
    classes: Vec<Class>,
    /// The size of the last class.
    largest: usize,
    /// Counts up whenever a buffer comes back: a waiter compares it to know that a new try is worth while.
    returned: Cell<u64>,
}

struct Class {
    size: usize,
    count: usize,
    /// Reserved in full, and touched as far as they were ever used: a machine that boots does not wait for memory that
    /// nobody has asked for yet.
    free: RefCell<Vec<Vec<u8>>>,
}

impl Pool {
    /// Fill a pool with `count` buffers of each `size`, given as `(size, count)` in ascending order of size.
    ///
    /// # Panics
    /// When the sizes do not ascend, or are too large or too many for a [`Buffer`] to name.
    pub fn new(classes: &[(usize, usize)]) -> Self {
        assert!(classes.is_sorted_by(|a, b| a.0 < b.0), "buffer sizes must ascend");
        let fits = classes.last().is_none_or(|&(size, _)| size + STAGGER <= u32::MAX as usize);
        assert!(fits && classes.len() <= usize::from(u8::MAX), "a buffer knows its place by small numbers");
        let classes: Vec<_> = classes
            .iter()
            .map(|&(size, count)| Class {
                size,
                count,
                free: RefCell::new((0..count).map(|_| Vec::with_capacity(size + STAGGER)).collect()),
            })
            .collect();
        let largest = classes.last().map_or(0, |class: &Class| class.size);
        Self(Rc::new(Store { classes, largest, returned: Cell::new(0) }))
    }

    /// The largest buffer there is, in bytes.
    pub fn largest(&self) -> usize {
        self.0.largest
    }

    /// All bytes of the pool, free or lent.
    pub fn capacity(&self) -> usize {
        self.0.classes.iter().map(|class| class.size * class.count).sum()
    }

    /// How many buffers have come back so far; a change means that a [`Share::take`] which failed may succeed.
    pub fn returned(&self) -> u64 {
        self.0.returned.get()
    }

    /// A share of at most `limit` bytes for one disk.
    pub fn share(&self, limit: usize) -> Share {
        Share(Account::new(self, limit, None))
    }

    /// How many of its largest buffers are not lent.
    fn free_largest(&self) -> usize {
        self.0.classes.last().map_or(0, |class| class.free.borrow().len())
    }

    /// The smallest buffer that is large enough, and its class.
    fn pop(&self, length: usize) -> Option<(u8, &Class, Vec<u8>)> {
        let mut classes = (0..).zip(&self.0.classes).filter(|(_, class)| class.size >= length);
        classes.find_map(|(index, class)| Some((index, class, class.free.borrow_mut().pop()?)))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for class in &self.0.classes {
            list.entry(&(class.size, class.free.borrow().len(), class.count));
        }
        list.finish()
    }
}

/// One disk's share of a [`Pool`], or a part of one.
#[derive(Clone, Debug)]
pub struct Share(Rc<Account>);

/// What a share may hold and holds. A buffer keeps only this, so that to lend one counts one reference and no more.
#[derive(Debug)]
struct Account {
    pool: Pool,
    limit: Cell<usize>,
    used: Cell<usize>,
    /// Counts up whenever a buffer comes back that was lent from it or from a part of it.
    returned: Cell<u64>,
    /// Where there was no room for what somebody has tried to take, since [`Share::lack`] was asked.
    lacks: Cell<Levels>,
    /// Of what it is a part.
    whole: Option<Rc<Self>>,
}

/// Where there was no room: a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Levels(u8);

impl Levels {
    const NONE: Self = Self(0);
    const PART: Self = Self(1);
    const WHOLE: Self = Self(2);
    const POOL: Self = Self(4);
}

/// What a share had no room for: see [`Share::lack`].
#[derive(Clone, Debug)]
pub struct Lack {
    account: Rc<Account>,
    levels: Levels,
    seen: u64,
}

impl Lack {
    /// Whether a buffer has come back that may be what was lacking.
    pub fn may_be_over(&self) -> bool {
        self.account.count(self.levels) != self.seen
    }

    /// Whether `other` is over whenever this one is.
    pub fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.account, &other.account) && self.levels == other.levels
    }
}

impl Account {
    fn new(pool: &Pool, limit: usize, whole: Option<Rc<Self>>) -> Rc<Self> {
        let (limit, used, returned) = (Cell::new(limit), Cell::new(0), Cell::new(0));
        Rc::new(Self { pool: pool.clone(), limit, used, returned, lacks: Cell::new(Levels::NONE), whole })
    }

    /// Whether `length` more are within the limit.
    fn has_room(&self, length: usize) -> bool {
        self.used.get() + length <= self.limit.get()
    }

    /// There was no room.
    fn lacks(&self, level: Levels) {
        self.lacks.set(Levels(self.lacks.get().0 | level.0));
    }

    /// A number that grows with each buffer that comes back to one of these levels.
    fn count(&self, levels: Levels) -> u64 {
        let whole = self.whole.as_ref().map_or(0, |whole| whole.returned.get());
        let counts = [self.returned.get(), whole, self.pool.returned()];
        let meant = counts.into_iter().enumerate().filter(|(level, _)| levels.0 >> level & 1 != 0);
        meant.fold(0, |sum, (_, count)| sum.wrapping_add(count))
    }

    fn lend(&self, bytes: usize) {
        self.used.set(self.used.get() + bytes);
    }

    fn take_back(&self, bytes: usize) {
        self.used.set(self.used.get() - bytes);
        self.returned.set(self.returned.get().wrapping_add(1));
    }
}

impl Share {
    /// A buffer of `length` bytes with undefined content, or `None` when the share or the pool has no room now.
    pub fn take(&self, length: usize) -> Option<Buffer> {
        // One buffer is always allowed: a share smaller than a buffer must not stop its disk for ever.
        if self.used() != 0
            && let Some(level) = self.limit_for(length)
        {
            self.0.lacks(level);
            return None;
        }
        let Some((class, Class { size, .. }, mut memory)) = self.0.pool.pop(length) else {
            self.0.lacks(Levels::POOL);
            return None;
        };
        if memory.len() < length {
            memory.resize(length, 0);
        }
        self.0.lend(*size);
        if let Some(whole) = &self.0.whole {
            whole.lend(*size);
        }
        Some(Buffer { memory, start: 0, length: length as u32, class, share: self.clone() })
    }

    /// Which limit `length` more would be above, if any. What a part needs to go on at all it may have whatever the others
    /// hold: they may have had their own before there was this one.
    fn limit_for(&self, length: usize) -> Option<Levels> {
        let account = &self.0;
        if !account.has_room(length) {
            return Some(Levels::PART);
        }
        let whole = account.whole.as_ref().filter(|whole| !whole.has_room(length))?;
        let needs = self.used() + length <= NEEDS * whole.pool.largest();
        (!needs).then_some(Levels::WHOLE)
    }

    /// As [`Share::take`], for one who has had buffers of this share already: half of the share is left to those who
    /// have had none yet, and as many as `beginners` of them find room for the largest buffer each, if that leaves enough
    /// in flight.
    pub fn take_further(&self, length: usize, beginners: usize) -> Option<Buffer> {
        let (used, limit, largest) = (self.used(), self.0.limit.get(), self.largest());
        let left = limit.saturating_sub(beginners.saturating_mul(largest));
        let most = left.max(IN_FLIGHT * largest).min(limit / 2);
        if used != 0 && used + length > most {
            self.0.lacks(Levels::PART);
            return None;
        }
        self.take(length)
    }

    /// As [`Share::take`], for what is held while others are waited for who need buffers as well: it leaves them half of the
    /// share, and of both share and pool what one of them needs to go on at all.
    pub fn take_aside(&self, length: usize) -> Option<Buffer> {
        let limit = self.0.limit.get();
        let most = (limit / 2).min(limit.saturating_sub(NEEDS * self.largest()));
        if self.used() + length > most {
            self.0.lacks(Levels::PART);
            return None;
        }
        if self.0.pool.free_largest() <= NEEDS {
            self.0.lacks(Levels::POOL);
            return None;
        }
        self.take(length)
    }

    /// As [`Share::take`], if this part holds no more then than is left of the whole: so one that takes all it can get
    /// leaves as much to the next, and nobody has to count how many there are.
    pub fn take_fairly(&self, length: usize) -> Option<Buffer> {
        if self.used() + length > self.left() { None } else { self.take(length) }
    }

    /// Bytes that may be lent yet out of what this is a part of.
    pub fn left(&self) -> usize {
        let whole = self.whole();
        whole.limit.get().saturating_sub(whole.used.get())
    }

    /// Two buffers of `length` bytes, or none: who needs two must not sit on one and wait for the other. An attempt
    /// that fails leaves all counts of returned buffers as they were, so that it does not itself look like a reason to
    /// try again.
    pub fn take_two(&self, length: usize) -> Option<(Buffer, Buffer)> {
        let first = self.take(length)?;
        if let Some(second) = self.take(length) {
            return Some((first, second));
        }
        let counts = || {
            let whole = self.0.whole.as_ref().map(|whole| &whole.returned);
            [Some(&self.0.returned), whole, Some(&self.0.pool.0.returned)].into_iter().flatten()
        };
        drop(first);
        counts().for_each(|count| count.set(count.get().wrapping_sub(1)));
        None
    }

    /// What attempts to take a buffer have lacked since this was asked last: whoever waits for a buffer waits for that to
    /// be over.
    pub fn lack(&self) -> Option<Lack> {
        let levels = self.0.lacks.replace(Levels::NONE);
        let lack = || Lack { account: Rc::clone(&self.0), levels, seen: self.0.count(levels) };
        (levels != Levels::NONE).then(lack)
    }

    /// A part of this share, for one of those who use the disk; it may hold all of it until [`Share::bound`] says less.
    pub fn part(&self) -> Self {
        let whole = self.whole();
        Self(Account::new(&self.0.pool, whole.limit.get(), Some(Rc::clone(whole))))
    }

    /// That of which this is a part, if only of itself.
    fn whole(&self) -> &Rc<Account> {
        self.0.whole.as_ref().unwrap_or(&self.0)
    }

    /// Whether this is a part of `share`.
    pub fn is_part_of(&self, share: &Self) -> bool {
        self.0.whole.as_ref().is_some_and(|whole| Rc::ptr_eq(whole, &share.0))
    }

    /// Let this part be one of `parts` of equal size, though never too small to go on. What it holds it may keep.
    pub fn bound(&self, parts: usize) {
        if let Some(whole) = &self.0.whole {
            let equal = whole.limit.get() / parts.max(1);
            let least = (NEEDS * self.largest()).min(whole.limit.get());
            self.0.limit.set(equal.max(least));
        }
    }

    /// The pool this is a share of.
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// The largest buffer [`Share::take`] can ever give, in bytes.
    pub fn largest(&self) -> usize {
        self.0.pool.largest()
    }

    /// Bytes lent out of this share now.
    pub fn used(&self) -> usize {
        self.0.used.get()
    }
}

/// Memory lent from a [`Pool`]; dropping it gives it back.
pub struct Buffer {
    memory: Vec<u8>,
    share: Share,
    /// The part that is shown.
    start: u32,
    length: u32,
    class: u8,
}

impl Buffer {
    /// Let this buffer's bytes change places with those of an empty one of another share, without a copy: what was
    /// lent by one share is kept in the other, and the memory of the first is free as soon as `self` is dropped.
    /// Answers whether it was done, which it is for buffers of one size only.
    pub fn exchange(&mut self, other: &mut Self) -> bool {
        let same = self.class().size == other.class().size;
        if same {
            core::mem::swap(&mut self.memory, &mut other.memory);
            core::mem::swap(&mut self.start, &mut other.start);
            core::mem::swap(&mut self.length, &mut other.length);
        }
        same
    }

    /// Show only this part of what is shown, for as long as the buffer is not shown again with [`Buffer::show`].
    ///
    /// # Panics
    /// When there is no such part.
    pub fn narrow(&mut self, part: Range<usize>) {
        assert!(part.start <= part.end && part.end <= self.length as usize, "a buffer cannot grow");
        self.start += part.start as u32;
        self.length = (part.end - part.start) as u32;
    }

    /// Show the first `length` bytes of the memory, whatever was shown before.
    ///
    /// # Panics
    /// When that many were never in it.
    pub fn show(&mut self, length: usize) {
        assert!(length <= self.memory.len(), "a buffer cannot grow");
        self.start = 0;
        self.length = length as u32;
    }

    /// Shorten to the first `length` bytes.
    ///
    /// # Panics
    /// When `length` is more than the buffer has.
    pub fn truncate(&mut self, length: usize) {
        assert!(length <= self.length as usize, "a buffer cannot grow");
        self.length = length as u32;
    }

    fn class(&self) -> &Class {
        &self.share.0.pool.0.classes[usize::from(self.class)]
    }

    fn shown(&self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.length as usize
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.shown()]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let shown = self.shown();
        &mut self.memory[shown]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.length)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let account = &self.share.0;
        let store = &account.pool.0;
        let class = &store.classes[usize::from(self.class)];
        account.take_back(class.size);
        if let Some(whole) = &account.whole {
            whole.take_back(class.size);
        }
        // The list was full at start, so this push never grows it.
        class.free.borrow_mut().push(core::mem::take(&mut self.memory));
        store.returned.set(store.returned.get().wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_it_is_dropped() {
        let pool = Pool::new(&[(4096, 1)]);
        let share = pool.share(8192);
        let first = share.take(100).expect("the pool has one");
        assert_eq!(first.len(), 100);
        assert!(share.take(100).is_none(), "there was only one");
        let before = pool.returned();
        drop(first);
        assert_ne!(pool.returned(), before);
        assert_eq!(share.used(), 0);
        assert!(share.take(4096).is_some());
    }

    #[test]
    fn the_smallest_fitting_class_is_used_and_a_larger_one_when_it_is_empty() {
        let pool = Pool::new(&[(512, 1), (4096, 1)]);
        let share = pool.share(usize::MAX / 2);
        let small = share.take(512).expect("small");
        assert_eq!(share.used(), 512);
        let spill = share.take(512).expect("spilled into the larger class");
        assert_eq!(share.used(), 512 + 4096);
        assert!(share.take(1).is_none());
        assert!(share.take(4097).is_none());
        drop((small, spill));
    }

    #[test]
    fn a_share_stops_its_disk_and_no_other() {
        let pool = Pool::new(&[(4096, 8)]);
        let (greedy, other) = (pool.share(8192), pool.share(8192));
        let held: Vec<_> = core::iter::from_fn(|| greedy.take(4096)).collect();
        assert_eq!(held.len(), 2);
        assert!(other.take(4096).is_some());
    }

    #[test]
    fn a_part_stops_its_user_and_no_other() {
        let share = Pool::new(&[(4096, 16)]).share(8 * 4096);
        let (greedy, other) = (share.part(), share.part());
        assert!(greedy.is_part_of(&share) && !share.is_part_of(&greedy));
        greedy.bound(2);
        other.bound(2);
        let held: Vec<_> = core::iter::from_fn(|| greedy.take(4096)).collect();
        assert_eq!(held.len(), 4);
        let others: Vec<_> = core::iter::from_fn(|| other.take(4096)).collect();
        assert_eq!((others.len(), share.used()), (4, 8 * 4096));
        drop((held, others));
        assert_eq!((share.used(), greedy.used()), (0, 0));
    }

    #[test]
    fn a_part_can_go_on_although_the_others_have_had_all_before() {
        let share = Pool::new(&[(4096, 16)]).share(4 * 4096);
        let (early, late) = (share.part(), share.part());
        let held: Vec<_> = core::iter::from_fn(|| early.take(4096)).collect();
        assert_eq!(held.len(), 4);
        early.bound(9);
        late.bound(9);
        assert!(early.take(1).is_none());
        let two = late.take_two(4096);
        assert!(two.is_some() && late.take(4096).is_none());
    }

    #[test]
    fn who_has_had_a_buffer_leaves_half_to_those_who_had_none() {
        let share = Pool::new(&[(4096, 8)]).share(4 * 4096);
        let held: Vec<_> = core::iter::from_fn(|| share.take_further(4096, 0)).collect();
        assert_eq!(held.len(), 2);
        assert!(share.take(4096).is_some());
    }

    #[test]
    fn who_has_had_a_buffer_leaves_room_to_so_many_who_had_none_but_for_what_is_in_flight() {
        for (buffers, beginners, further) in
            [(20, 0, 10), (20, 12, 8), (20, 16, 4), (20, 100, 4), (6, 100, 3)]
        {
            let share = Pool::new(&[(4096, 20)]).share(buffers * 4096);
            let held: Vec<_> = core::iter::from_fn(|| share.take_further(4096, beginners)).collect();
            assert_eq!(held.len(), further, "of {buffers} with {beginners}");
            assert!(share.take_further(4096, usize::MAX).is_none());
        }
    }

    #[test]
    fn two_buffers_come_together_or_not_at_all() {
        let pool = Pool::new(&[(4096, 2)]);
        let share = pool.share(8192);
        let held = share.take(4096).expect("the pool has two");
        let before = pool.returned();
        assert!(share.take_two(4096).is_none());
        assert_eq!(pool.returned(), before, "a vain attempt is no reason for another");
        assert_eq!(share.used(), 4096);
        drop(held);
        assert!(share.take_two(4096).is_some());
    }

    #[test]
    fn who_takes_all_he_can_get_leaves_as_much_to_the_next() {
        let share = Pool::new(&[(4096, 16)]).share(12 * 4096);
        let (greedy, other) = (share.part(), share.part());
        let held: Vec<_> = core::iter::from_fn(|| greedy.take_fairly(4096)).collect();
        assert_eq!(held.len(), 6);
        let others: Vec<_> = core::iter::from_fn(|| other.take_fairly(4096)).collect();
        assert_eq!(others.len(), 3);
        drop(held);
        assert!(other.take_fairly(4096).is_some());
    }

    #[test]
    fn a_part_of_a_buffer_can_be_shown_and_the_whole_again() {
        let mut buffer = Pool::new(&[(4096, 1)]).share(4096).take(10).expect("one");
        buffer.copy_from_slice(b"0123456789");
        buffer.narrow(2..8);
        buffer.narrow(1..3);
        assert_eq!(&buffer[..], b"34");
        buffer.show(10);
        assert_eq!(&buffer[..], b"0123456789");
    }

    #[test]
    fn bytes_move_to_another_share_without_a_copy() {
        let (commands, journal) =
            (Pool::new(&[(512, 1), (4096, 1)]).share(9000), Pool::new(&[(4096, 1)]).share(4096));
        let (mut buffer, mut spare) = (commands.take(600).expect("one"), journal.take(1).expect("one"));
        buffer.fill(7);
        let address = buffer.as_ptr();
        assert!(buffer.exchange(&mut spare));
        drop(buffer);
        assert_eq!((commands.used(), spare.as_ptr(), spare.len()), (0, address, 600));
        assert!(spare.iter().all(|&byte| byte == 7));
        let mut small = commands.take(100).expect("one");
        assert!(!small.exchange(&mut spare), "of another size");
    }

    #[test]
    fn a_lack_is_over_when_something_comes_back_to_where_it_was() {
        let pool = Pool::new(&[(4096, 6)]);
        let (mine, others) = (pool.share(4 * 4096), pool.share(4 * 4096));
        let (part, other) = (mine.part(), mine.part());
        part.bound(2);
        let held: Vec<_> = core::iter::from_fn(|| part.take(4096)).collect();
        let of_part = part.lack().expect("its limit");
        let beside = [other.take(4096), other.take(4096)];
        assert!(part.lack().is_none(), "it was told already");
        assert!(other.take(4096).is_none());
        let of_whole = other.lack().expect("the disk's limit");
        let far = [others.take(4096), others.take(4096)];
        assert!(others.take(4096).is_none());
        let of_pool = others.lack().expect("there are no more");
        let over = || [&of_part, &of_whole, &of_pool].map(Lack::may_be_over);
        assert_eq!(over(), [false; 3]);
        drop(far);
        assert_eq!(over(), [false, false, true]);
        drop(beside);
        assert_eq!(over(), [false, true, true]);
        drop(held);
        assert_eq!(over(), [true; 3]);
        assert!(!of_part.is_same(&of_whole));
    }

    #[test]
    fn a_share_smaller_than_a_buffer_still_gets_one() {
        let share = Pool::new(&[(4096, 2)]).share(16);
        let one = share.take(4096).expect("one is always allowed");
        assert!(share.take(1).is_none());
        drop(one);
    }
}
