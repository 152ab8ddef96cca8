//! Interrupt lines of PCI: by level, and shared by whoever hangs on them.
//!
//! A handler can do nothing about the device that keeps the line up, so it leaves the interrupt unacknowledged: the local APIC
//! holds back what comes on that vector until [`acknowledge`], which comes before the machine idles, when the drivers have
//! looked at their devices. A line that is still up then is raised at once: nothing is lost, however many share it.
//!
//! Firmware may have noted another line than a device has, and then somebody else's interrupts are heard on it. So each user
//! of a line is looked at each millisecond until it is known that the line is its own: it was tried out ([`try_out`]), or the
//! line was raised while of all its users only this one had a cause. A line that is raised again and again while none has
//! is somebody's whom nobody drives: it is not heard any more.

use super::{APIC, Line, TICKING, ioapic};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// Bits of the vectors that are raised by level, for the handlers.
pub(super) static LEVEL: AtomicU64 = AtomicU64::new(0);
/// Those of them that have been raised and not acknowledged.
pub(super) static RAISED: AtomicU64 = AtomicU64::new(0);
/// Users whose devices have had a cause since the machine last idled, and the time before that.
static CLAIMED: AtomicU64 = AtomicU64::new(0);
static CLAIMED_BEFORE: AtomicU64 = AtomicU64::new(0);

/// How often a user must have been the only one with a cause when its line was raised. Once may be chance: a stranger's interrupt,
/// at a moment when the device has something as well.
const CONVINCING: u8 = 3;
/// How often a line may be raised for nobody before it is not heard any more, and how often that is forgotten for each time
/// that it was for somebody: an interrupt may be on its way when its cause is taken already.
const MOST_STRAY: u32 = 1000;
const FORGIVEN: u32 = 8;
/// How long a line that is tried out is listened to, in microseconds.
const LISTEN: u64 = 200;

/// A line of PCI in use.
struct Shared {
    number: u8,
    line: Line,
    users: Vec<User>,
    /// How often it was raised for nobody.
    stray: u32,
}

/// Who hangs on it: its own bit, and how often it alone had a cause.
struct User {
    own: Line,
    alone: u8,
}

/// What was found out about a line that was raised.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// It is this user's.
    Heard(Line),
    /// Nobody drives who raises it.
    Stray,
}

static SHARED: Mutex<Vec<Shared>> = Mutex::new(Vec::new());

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    NoVector,
    NoLine,
}

/// The line that firmware calls `number`, for one more: a bit of its own, which no interrupt sets, and the vector of the line.
pub(crate) fn share(number: u8) -> Result<(Line, Line), Refused> {
    let mut shared = SHARED.lock();
    let known = shared.iter().position(|shared| shared.number == number);
    if known.is_none() && !ioapic::is_free(number) {
        return Err(Refused::NoLine);
    }
    let own = Line::take_tick().ok_or(Refused::NoVector)?;
    let place = match known {
        Some(place) => place,
        None => {
            let Some(line) = Line::take() else {
                own.forget();
                return Err(Refused::NoVector);
            };
            LEVEL.fetch_or(1 << line.bit(), Ordering::Relaxed);
            ioapic::route_pci(number, line);
            shared.push(Shared { number, line, users: Vec::new(), stray: 0 });
            shared.len() - 1
        }
    };
    let shared = &mut shared[place];
    shared.users.push(User { own, alone: 0 });
    Ok((own, shared.line))
}

/// Whether that global interrupt is such a line.
pub(super) fn has(global: u32) -> bool {
    SHARED.lock().iter().any(|shared| ioapic::of_line(shared.number).0 == global)
}

/// Whoever has this bit of its own needs its line no longer. The last one's is masked, for nobody would bring it down.
pub(super) fn leave(own: Line) {
    let mut shared = SHARED.lock();
    let of = |shared: &Shared| shared.users.iter().position(|user| user.own == own);
    let Some((place, user)) =
        shared.iter().enumerate().find_map(|(place, shared)| Some((place, of(shared)?)))
    else {
        return;
    };
    shared[place].users.swap_remove(user);
    if shared[place].users.is_empty() {
        let Shared { number, line, .. } = shared.swap_remove(place);
        ioapic::mask_pci(number);
        line.forget();
    }
}

/// The device of this user has had a cause.
pub(crate) fn claim(own: Line) {
    CLAIMED.fetch_or(1 << own.bit(), Ordering::Relaxed);
}

/// See whether the line of this user is its own: silent until `raise`, and heard after.
pub(crate) fn try_out(own: Line, raise: &mut dyn FnMut()) {
    let shared = SHARED.lock();
    let of = shared.iter().find(|shared| shared.users.iter().any(|user| user.own == own));
    let Some((number, line)) = of.map(|shared| (shared.number, shared.line)) else { return };
    drop(shared);
    acknowledge();
    let is_raised = || RAISED.load(Ordering::Relaxed) >> line.bit() & 1 != 0;
    if super::listen(LISTEN, is_raised) {
        return;
    }
    raise();
    if super::listen(LISTEN, is_raised) {
        claim(own);
        hear(own);
    } else {
        log::info!(
            "interrupt line {number}: not heard when tried out: its device is looked at each millisecond"
        );
    }
}

/// This user is heard: it need not be looked at any more.
fn hear(own: Line) {
    TICKING.fetch_and(!(1 << own.bit()), Ordering::Relaxed);
}

/// Let the lines be heard again that have been raised.
pub(super) fn acknowledge() {
    // Loads are cheaper than locked writes, and mostly there is none.
    if [&RAISED, &CLAIMED, &CLAIMED_BEFORE].into_iter().all(|word| word.load(Ordering::Relaxed) == 0) {
        return;
    }
    let raised = RAISED.swap(0, Ordering::Relaxed);
    let claimed = CLAIMED.swap(0, Ordering::Relaxed);
    // What was raised may have been on its way when its cause was taken, before the machine idled.
    let claimed = claimed | CLAIMED_BEFORE.swap(claimed, Ordering::Relaxed);
    if raised == 0 {
        return;
    }
    let mut lines = SHARED.lock();
    for shared in lines.iter_mut().filter(|shared| raised >> shared.line.bit() & 1 != 0) {
        match shared.judge(claimed) {
            Found::Nothing => {}
            Found::Heard(own) => hear(own),
            Found::Stray => shared.give_up(),
        }
    }
    // The local APIC takes the highest first; all others have been acknowledged by their handlers.
    if let Some(apic) = APIC.get() {
        (0..raised.count_ones()).for_each(|_| apic.end());
    }
}

impl Shared {
    /// It was raised, and those of its users in `claimed` had a cause.
    fn judge(&mut self, claimed: u64) -> Found {
        let mut with_cause = self.users.iter_mut().filter(|user| claimed >> user.own.bit() & 1 != 0);
        let (first, second) = (with_cause.next(), with_cause.next());
        let Some(first) = first else {
            self.stray += 1;
            return if self.stray == MOST_STRAY { Found::Stray } else { Found::Nothing };
        };
        self.stray = self.stray.saturating_sub(FORGIVEN);
        if second.is_some() {
            return Found::Nothing;
        }
        first.alone = first.alone.saturating_add(1);
        if first.alone == CONVINCING { Found::Heard(first.own) } else { Found::Nothing }
    }

    /// Do not hear it any more, and look at its users instead.
    fn give_up(&self) {
        log::warn!(
            "interrupt line {}: raised by nobody that is driven: its devices are looked at each millisecond",
            self.number
        );
        ioapic::mask_pci(self.number);
        let users = self.users.iter().fold(0, |users, user| users | 1 << user.own.bit());
        TICKING.fetch_or(users, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(bits: &[u8]) -> Shared {
        let users = bits.iter().map(|bit| User { own: Line { bit: *bit }, alone: 0 }).collect();
        Shared { number: 11, line: Line { bit: 9 }, users, stray: 0 }
    }

    #[test]
    fn a_user_is_heard_by_a_line_that_is_raised_when_it_alone_has_a_cause() {
        let mut shared = shared(&[20, 21]);
        // Both at once tell nothing, nor does what another's line may tell.
        for _ in 0..100 {
            assert_eq!(shared.judge(1 << 20 | 1 << 21 | 1 << 30), Found::Nothing);
        }
        for _ in 1..CONVINCING {
            assert_eq!(shared.judge(1 << 21 | 1 << 30), Found::Nothing);
            assert_eq!(shared.judge(1 << 30), Found::Nothing);
        }
        assert_eq!(shared.judge(1 << 21), Found::Heard(Line { bit: 21 }));
        // The one that is heard does not make the other be so.
        for _ in 0..500 {
            assert_eq!(shared.judge(1 << 21), Found::Nothing);
            assert_eq!(shared.judge(1 << 20 | 1 << 21), Found::Nothing);
        }
        assert_eq!([0, 1].map(|user| shared.users[user].alone), [0, u8::MAX]);
    }

    #[test]
    fn a_line_that_is_raised_for_nobody_all_the_time_is_given_up_and_one_that_is_at_times_is_not() {
        let mut storm = shared(&[20]);
        let raised = (1..).find(|_| storm.judge(0) == Found::Stray);
        assert_eq!(raised, Some(MOST_STRAY));
        let mut busy = shared(&[20]);
        for _ in 0..10 * MOST_STRAY {
            assert!(busy.judge(0) == Found::Nothing && busy.judge(1 << 20) != Found::Stray);
        }
        // What one claims now and then does not let a storm go on.
        let mut storm = shared(&[20]);
        let raised = (1..).find(|turn| storm.judge(u64::from(turn % 50 == 0) << 20) == Found::Stray);
        assert!(raised.is_some_and(|raised| raised < 2 * MOST_STRAY));
    }
}
