//! I_T nexuses: which initiator ports this target knows, attached now or before.

use alloc::vec::Vec;

/// One I_T nexus of a [`crate::Target`], from [`crate::Target::attach`] on.
///
/// It names a place in a table. The place keeps the initiator port's name after [`crate::Target::detach`], so that
/// an initiator that comes back is known: its registrations are its own again, and it is not told of a power on that
/// it was told of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nexus(pub(crate) u16);

impl Nexus {
    /// Its place in tables of [`crate::Limits::nexuses`] entries.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The most nexuses a target can have room for.
pub const MAX_NEXUSES: u16 = 256;

/// A set of nexuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NexusSet([u64; MAX_NEXUSES as usize / 64]);

impl NexusSet {
    pub(crate) fn add(&mut self, nexus: Nexus) {
        if let Some(word) = self.0.get_mut(nexus.index() / 64) {
            *word |= 1 << (nexus.index() % 64);
        }
    }

    pub(crate) fn remove(&mut self, nexus: Nexus) {
        if let Some(word) = self.0.get_mut(nexus.index() / 64) {
            *word &= !(1 << (nexus.index() % 64));
        }
    }

    pub(crate) fn contains(&self, nexus: Nexus) -> bool {
        self.0.get(nexus.index() / 64).is_some_and(|word| word >> (nexus.index() % 64) & 1 != 0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Nexus> {
        (0..MAX_NEXUSES).map(Nexus).filter(move |nexus| self.contains(*nexus))
    }
}

/// The name of an initiator port: a TransportID (SPC-4 section 7.6.4), compared byte by byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TransportId {
    bytes: [u8; Self::MAX],
    length: u16,
}

impl TransportId {
    /// The longest TransportID: four bytes, a name of 223 bytes, `,i,0x`, twelve digits, a NUL, and padding.
    pub const MAX: usize = 4 + 244;

    /// The bytes of a TransportID, or `None` if they are too long, too short or of a length that is no multiple of
    /// four.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > Self::MAX || bytes.len() < 24 || !bytes.len().is_multiple_of(4) {
            return None;
        }
        let mut id = Self { bytes: [0; Self::MAX], length: bytes.len() as u16 };
        id.bytes[..bytes.len()].copy_from_slice(bytes);
        Some(id)
    }

    /// The TransportID of an iSCSI initiator port, that is of a name and an initiator session identifier (SPC-4
    /// section 7.6.4.6, format 01b), or `None` if the name is empty, too long or holds a NUL.
    pub fn iscsi(name: &str, isid: [u8; 6]) -> Option<Self> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        if name.is_empty() || name.len() > 223 || name.contains('\0') {
            return None;
        }
        let mut bytes = [0; Self::MAX];
        bytes[0] = 0x45;
        let mut end = 4;
        let mut put = |text: &[u8]| {
            bytes[end..end + text.len()].copy_from_slice(text);
            end += text.len();
        };
        put(name.as_bytes());
        put(b",i,0x");
        for byte in isid {
            put(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        // At least one NUL, and at least the 24 bytes that every TransportID has.
        let length = (end + 1).next_multiple_of(4).max(24);
        let additional = (length - 4) as u16;
        bytes[2..4].copy_from_slice(&additional.to_be_bytes());
        Some(Self { bytes, length: length as u16 })
    }

    /// The TransportID as it stands in parameter data.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl core::fmt::Debug for TransportId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "TransportId({})", self.as_bytes().get(4..).unwrap_or_default().escape_ascii())
    }
}

/// All places for nexuses.
#[derive(Debug)]
pub(crate) struct Nexuses {
    places: Vec<Option<Place>>,
    clock: u64,
}

#[derive(Debug)]
struct Place {
    id: TransportId,
    attached: bool,
    /// When it was last attached or detached, in steps of a counter.
    touched: u64,
}

/// What [`Nexuses::claim`] found.
pub(crate) enum Claim {
    /// The port has been here before.
    Known(Nexus),
    /// A place that nobody had, or that was taken from a port long gone.
    New(Nexus),
}

impl Nexuses {
    pub(crate) fn new(capacity: u16) -> Self {
        Self { places: (0..capacity).map(|_| None).collect(), clock: 0 }
    }

    /// A place for `id`. The place of a detached port is taken for a new one when there is no other and `may_forget`
    /// agrees; the longest unused goes first.
    pub(crate) fn claim(&mut self, id: &TransportId, may_forget: impl Fn(Nexus) -> bool) -> Option<Claim> {
        self.clock += 1;
        if let Some(known) = self.find(id) {
            return Some(Claim::Known(known));
        }
        let empty = self.places.iter().position(Option::is_none);
        let index = empty.or_else(|| self.longest_unused(may_forget))?;
        self.places[index] = Some(Place { id: *id, attached: false, touched: self.clock });
        Some(Claim::New(Nexus(index as u16)))
    }

    fn longest_unused(&self, may_forget: impl Fn(Nexus) -> bool) -> Option<usize> {
        self.places
            .iter()
            .enumerate()
            .filter_map(|(index, place)| place.as_ref().map(|place| (index, place)))
            .filter(|(index, place)| !place.attached && may_forget(Nexus(*index as u16)))
            .min_by_key(|(_, place)| place.touched)
            .map(|(index, _)| index)
    }

    pub(crate) fn find(&self, id: &TransportId) -> Option<Nexus> {
        let matches = |place: &Option<Place>| place.as_ref().is_some_and(|place| place.id == *id);
        self.places.iter().position(matches).map(|index| Nexus(index as u16))
    }

    pub(crate) fn set_attached(&mut self, nexus: Nexus, attached: bool) {
        self.clock += 1;
        let clock = self.clock;
        if let Some(place) = self.places.get_mut(nexus.index()).and_then(Option::as_mut) {
            place.attached = attached;
            place.touched = clock;
        }
    }

    pub(crate) fn is_attached(&self, nexus: Nexus) -> bool {
        self.places.get(nexus.index()).and_then(Option::as_ref).is_some_and(|place| place.attached)
    }

    pub(crate) fn id(&self, nexus: Nexus) -> Option<&TransportId> {
        self.places.get(nexus.index()).and_then(Option::as_ref).map(|place| &place.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> TransportId {
        TransportId::iscsi(name, [0x80, 0, 0, 0, 0, 1]).expect("a name")
    }

    #[test]
    fn an_iscsi_transport_id_is_laid_out_as_spc_says() {
        let id = id("iqn.a");
        assert_eq!(id.as_bytes(), b"\x45\0\0\x18iqn.a,i,0x800000000001\0\0");
        assert!(TransportId::iscsi(&"x".repeat(224), [0; 6]).is_none());
        let longest = TransportId::iscsi(&"x".repeat(223), [0; 6]).expect("fits");
        assert_eq!(longest.as_bytes().len(), TransportId::MAX);
        assert_eq!(TransportId::new(longest.as_bytes()), Some(longest));
        assert_eq!(TransportId::new(&[0; 25]), None);
    }

    #[test]
    fn a_set_holds_what_was_added() {
        let mut set = NexusSet::default();
        for index in [0, 63, 64, 255] {
            set.add(Nexus(index));
        }
        set.add(Nexus(256));
        set.remove(Nexus(63));
        assert_eq!(set.iter().map(|nexus| nexus.0).collect::<Vec<_>>(), [0, 64, 255]);
        assert!(!set.is_empty() && !set.contains(Nexus(u16::MAX)));
    }

    #[test]
    fn a_port_that_comes_back_finds_its_place() {
        let mut nexuses = Nexuses::new(2);
        let Some(Claim::New(first)) = nexuses.claim(&id("iqn.a"), |_| true) else { panic!("new") };
        nexuses.set_attached(first, true);
        nexuses.set_attached(first, false);
        assert!(matches!(nexuses.claim(&id("iqn.a"), |_| true), Some(Claim::Known(known)) if known == first));
    }

    #[test]
    fn the_longest_unused_place_is_taken_and_never_one_in_use() {
        let mut nexuses = Nexuses::new(2);
        for name in ["iqn.a", "iqn.b"] {
            let Some(Claim::New(nexus)) = nexuses.claim(&id(name), |_| true) else { panic!("new") };
            nexuses.set_attached(nexus, true);
        }
        assert!(nexuses.claim(&id("iqn.c"), |_| true).is_none(), "both are in use");
        nexuses.set_attached(Nexus(1), false);
        nexuses.set_attached(Nexus(0), false);
        assert!(nexuses.claim(&id("iqn.c"), |_| false).is_none(), "neither may be forgotten");
        assert!(matches!(nexuses.claim(&id("iqn.c"), |_| true), Some(Claim::New(Nexus(1)))));
    }
}
