//! Which hypervisor this is, by the leaves of CPUID that are hypervisors'.
//!
//! Each set of leaves begins with a name and says which is its last. One that passes for another as well has its own set behind the
//! other's: KVM with the interface of Hyper-V is found at 0x4000_0100, and its clock with it.

use crate::cpu;
use core::arch::x86_64::CpuidResult;
use spin::Once;

/// One whose own interface something here makes use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hypervisor {
    /// QEMU's translator.
    Tcg,
    Kvm,
    Xen,
    Vmware,
    /// Any other; Hyper-V's interface is asked for by its own name (`hyperv.rs`).
    Other,
}

const KNOWN: [([u8; 12], Hypervisor); 4] = [
    (*b"TCGTCGTCGTCG", Hypervisor::Tcg),
    (*b"KVMKVMKVM\0\0\0", Hypervisor::Kvm),
    (*b"XenVMMXenVMM", Hypervisor::Xen),
    (*b"VMwareVMware", Hypervisor::Vmware),
];
/// The first leaf, how far apart sets of them lie, and where there are none any more.
const FIRST: u32 = 0x4000_0000;
const STEP: u32 = 0x100;
const END: u32 = 0x4001_0000;

impl Hypervisor {
    /// The hypervisor, and the first leaf of its own set; `None` on a machine that says that it has none.
    pub(crate) fn find() -> Option<(Self, u32)> {
        static FOUND: Once<Option<(Hypervisor, u32)>> = Once::new();
        *FOUND.call_once(|| if cpu::has_hypervisor() { Some(find(cpu::leaf)) } else { None })
    }

    /// The hypervisor; `None` on a machine that says that it has none.
    pub(crate) fn of_machine() -> Option<Self> {
        Self::find().map(|(hypervisor, _)| hypervisor)
    }

    /// Its leaf of that number, if this is the hypervisor and it has one.
    pub(crate) fn leaf(self, number: u32) -> Option<CpuidResult> {
        let (_, first) = Self::find().filter(|(found, _)| *found == self)?;
        leaf_in(cpu::leaf, first, number)
    }

    /// Whether its machines may have what QEMU's have: of KVM's it cannot be told whose they are.
    pub(crate) fn may_be_qemu(self) -> bool {
        matches!(self, Self::Tcg | Self::Kvm)
    }
}

/// Leaf 0x4000_0000 + `number` of whatever hypervisor there is.
pub(crate) fn first_leaf(number: u32) -> Option<CpuidResult> {
    if cpu::has_hypervisor() { leaf_in(cpu::leaf, FIRST, number) } else { None }
}

fn find(read: impl Fn(u32) -> CpuidResult + Copy) -> (Hypervisor, u32) {
    let known = |first| {
        let leaf = leaf_in(read, first, 0)?;
        let words = [leaf.ebx, leaf.ecx, leaf.edx];
        let is_it = |name: &[u8; 12]| name.as_chunks::<4>().0.iter().eq(words.map(u32::to_le_bytes).iter());
        KNOWN.iter().find(|(name, _)| is_it(name)).map(|(_, hypervisor)| (*hypervisor, first))
    };
    (FIRST..END).step_by(STEP as usize).find_map(known).unwrap_or((Hypervisor::Other, FIRST))
}

/// A leaf of the set that begins with `first`; `None` where there is no such set, or it ends before.
fn leaf_in(read: impl Fn(u32) -> CpuidResult, first: u32, number: u32) -> Option<CpuidResult> {
    let head = read(first);
    // Old versions of KVM leave it at zero and mean one.
    let last = if head.eax == 0 { first + 1 } else { head.eax };
    let is_there = (first..first + 0x1000).contains(&last) && first + number <= last;
    is_there.then(|| if number == 0 { head } else { read(first + number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with a set of leaves at each of the places: how many are behind the first, and the name.
    fn machine(sets: &[(u32, u32, [u8; 12])]) -> impl Fn(u32) -> CpuidResult + Copy {
        move |leaf| {
            let none = CpuidResult { eax: 7, ebx: 7, ecx: 7, edx: 7 };
            let Some((first, more, name)) = sets.iter().find(|(first, ..)| *first == leaf & !0xff) else {
                return none;
            };
            let word = |at: usize| u32::from_le_bytes(*name[at..].first_chunk().unwrap());
            match leaf - first {
                0 if *more == 0 => CpuidResult { eax: 0, ebx: word(0), ecx: word(4), edx: word(8) },
                0 => CpuidResult { eax: first + more, ebx: word(0), ecx: word(4), edx: word(8) },
                number => CpuidResult { eax: first + number, ..none },
            }
        }
    }

    const KVM: [u8; 12] = *b"KVMKVMKVM\0\0\0";
    const HYPER_V: [u8; 12] = *b"Microsoft Hv";

    #[test]
    fn one_that_passes_for_another_is_found_behind_that() {
        assert_eq!(find(machine(&[(FIRST, 1, KVM)])), (Hypervisor::Kvm, FIRST));
        let both = [(FIRST, 11, HYPER_V), (FIRST + 0x100, 1, KVM)];
        assert_eq!(find(machine(&both)), (Hypervisor::Kvm, FIRST + 0x100));
        // Under whatever name it passes for the other, and however far behind.
        let renamed = [(FIRST, 11, *b"any name you"), (0x4000_ff00, 1, KVM)];
        assert_eq!(find(machine(&renamed)), (Hypervisor::Kvm, 0x4000_ff00));
        let xen = [(FIRST, 11, HYPER_V), (FIRST + 0x100, 5, *b"XenVMMXenVMM")];
        assert_eq!(find(machine(&xen)), (Hypervisor::Xen, FIRST + 0x100));
        assert_eq!(find(machine(&[(FIRST, 11, HYPER_V)])), (Hypervisor::Other, FIRST));
        assert_eq!(find(machine(&[])), (Hypervisor::Other, FIRST));
    }

    #[test]
    fn leaves_are_had_as_far_as_their_set_goes() {
        let machine = machine(&[(FIRST, 11, HYPER_V), (FIRST + 0x100, 0, KVM)]);
        let number = |first, number| leaf_in(machine, first, number).map(|leaf| leaf.eax);
        assert_eq!(number(FIRST, 11), Some(FIRST + 11));
        assert_eq!(number(FIRST, 12), None);
        assert_eq!(number(FIRST + 0x100, 1), Some(FIRST + 0x101), "old KVMs say zero and mean one");
        assert_eq!((number(FIRST + 0x100, 2), number(FIRST + 0x200, 0)), (None, None));
    }
}
