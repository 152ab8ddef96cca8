//! Unit attention conditions (SAM-5 section 5.14): what an I_T nexus has yet to be told.
//!
//! The queue of one nexus is a set of bits. A condition is in it once however often it is raised, and the order of the
//! bits is the order in which they are reported: resets hide everything, so they come first.

use crate::sense::{Sense, SenseKey, code};

/// A condition, in order of priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Attention {
    /// The target has started.
    PowerOn,
    /// The logical unit or the target was reset.
    Reset,
    /// Another disk is behind the unit, and the operator means it to be.
    MediumMayHaveChanged,
    /// The nexus was lost, and with it a reservation or a lock of the medium.
    NexusLoss,
    /// Another nexus has changed mode parameters.
    ModeParametersChanged,
    /// A persistent reservation was preempted.
    ReservationsPreempted,
    /// A persistent reservation was released.
    ReservationsReleased,
    /// The registration of this nexus was removed by another.
    RegistrationsPreempted,
    /// The unit can be used by this port in another way than before.
    AccessStateChanged,
    /// The disk has another size.
    CapacityChanged,
    /// Commands of this nexus were aborted by another.
    CommandsCleared,
    /// INQUIRY data are different.
    InquiryDataChanged,
    /// There are other logical units.
    ReportedLunsChanged,
}

impl Attention {
    const ALL: [Self; 13] = [
        Self::PowerOn,
        Self::Reset,
        Self::MediumMayHaveChanged,
        Self::NexusLoss,
        Self::ModeParametersChanged,
        Self::ReservationsPreempted,
        Self::ReservationsReleased,
        Self::RegistrationsPreempted,
        Self::AccessStateChanged,
        Self::CapacityChanged,
        Self::CommandsCleared,
        Self::InquiryDataChanged,
        Self::ReportedLunsChanged,
    ];

    const fn code(self) -> u16 {
        match self {
            Self::PowerOn => code::POWER_ON,
            Self::Reset => code::DEVICE_RESET,
            Self::MediumMayHaveChanged => code::MEDIUM_MAY_HAVE_CHANGED,
            Self::NexusLoss => code::NEXUS_LOSS,
            Self::ModeParametersChanged => code::MODE_PARAMETERS_CHANGED,
            Self::ReservationsPreempted => code::RESERVATIONS_PREEMPTED,
            Self::ReservationsReleased => code::RESERVATIONS_RELEASED,
            Self::RegistrationsPreempted => code::REGISTRATIONS_PREEMPTED,
            Self::AccessStateChanged => code::ASYMMETRIC_ACCESS_STATE_CHANGED,
            Self::CapacityChanged => code::CAPACITY_CHANGED,
            Self::CommandsCleared => code::COMMANDS_CLEARED,
            Self::InquiryDataChanged => code::INQUIRY_DATA_CHANGED,
            Self::ReportedLunsChanged => code::REPORTED_LUNS_CHANGED,
        }
    }

    /// The sense data that report it.
    pub fn sense(self) -> Sense {
        Sense::new(SenseKey::UnitAttention, self.code())
    }
}

/// What a reset does not settle.
const KEPT: u16 = 1 << Attention::ReportedLunsChanged as u8
    | 1 << Attention::CapacityChanged as u8
    | 1 << Attention::MediumMayHaveChanged as u8;

/// The conditions that one nexus has yet to be told of one logical unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attentions(u16);

impl Attentions {
    /// Add a condition. A reset makes everything raised before it meaningless except what has changed that is no state
    /// of the nexus: the disk, its size, the set of units.
    pub(crate) fn raise(&mut self, attention: Attention) {
        if matches!(attention, Attention::PowerOn | Attention::Reset) {
            self.0 &= KEPT;
        }
        self.0 |= 1 << attention as u8;
    }

    /// Take out the condition to be reported now.
    pub(crate) fn take(&mut self) -> Option<Attention> {
        if self.0 == 0 {
            return None;
        }
        let next = self.next()?;
        self.clear(next);
        Some(next)
    }

    /// The condition to be reported now.
    pub(crate) fn next(self) -> Option<Attention> {
        Attention::ALL.into_iter().find(|&attention| self.has(attention))
    }

    pub(crate) const fn count(self) -> u32 {
        self.0.count_ones()
    }

    pub(crate) fn clear(&mut self, attention: Attention) {
        self.0 &= !(1 << attention as u8);
    }

    pub(crate) const fn has(self, attention: Attention) -> bool {
        self.0 & (1 << attention as u8) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_reported_once_and_in_order_of_priority() {
        let mut queue = Attentions::default();
        for attention in
            [Attention::ReportedLunsChanged, Attention::CapacityChanged, Attention::CapacityChanged]
        {
            queue.raise(attention);
        }
        assert_eq!(queue.take(), Some(Attention::CapacityChanged));
        assert_eq!(queue.take(), Some(Attention::ReportedLunsChanged));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn a_reset_hides_what_was_before() {
        let mut queue = Attentions::default();
        queue.raise(Attention::ModeParametersChanged);
        queue.raise(Attention::CapacityChanged);
        queue.raise(Attention::Reset);
        assert_eq!(queue.take(), Some(Attention::Reset));
        assert_eq!(queue.take(), Some(Attention::CapacityChanged));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn every_condition_has_its_own_bit_and_code() {
        for (index, attention) in Attention::ALL.into_iter().enumerate() {
            assert_eq!(attention as usize, index);
            assert_eq!(Attention::ALL.iter().filter(|other| other.code() == attention.code()).count(), 1);
        }
    }
}
