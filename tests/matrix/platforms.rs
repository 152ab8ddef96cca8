//! The hypervisors that people have, and the machine of QEMU's that is the nearest to what each of them makes.

use crate::cell::{Board, Bus, Cell, Nic, Start};

/// A hypervisor, and what stands for it: the first is what is tried each time.
pub(crate) struct Platform {
    pub(crate) name: &'static str,
    pub(crate) cells: &'static [Cell],
}

const MODERN: [Nic; 2] = [Nic::Modern; 2];
const TRANSITIONAL: [Nic; 2] = [Nic::Transitional; 2];

pub(crate) const PLATFORMS: &[Platform] = &[
    Platform { name: "Firecracker", cells: &[Cell::new(Board::Bare, Start::Pvh, MODERN)] },
    Platform {
        name: "Firecracker with PCI, Cloud Hypervisor",
        cells: &[Cell::new(Board::Q35, Start::Pvh, MODERN)],
    },
    Platform {
        name: "Cloud Hypervisor with firmware",
        cells: &[Cell::new(Board::Q35, Start::Small, MODERN)],
    },
    Platform {
        name: "KVM with a BIOS, as Proxmox VE has it",
        cells: &[
            Cell::new(Board::Pc, Start::SeaBios(Bus::Ide), TRANSITIONAL),
            Cell::new(Board::Pc, Start::SeaBios(Bus::Virtio), TRANSITIONAL),
        ],
    },
    Platform {
        name: "KVM with UEFI",
        cells: &[
            Cell::new(Board::Q35, Start::Ovmf(Bus::Virtio), TRANSITIONAL),
            Cell::new(Board::Q35, Start::Ovmf(Bus::Ahci), TRANSITIONAL),
        ],
    },
    Platform {
        name: "VMware with EFI",
        cells: &[
            Cell { more: ",vmport=on", ..Cell::new(Board::Q35, Start::Ovmf(Bus::Nvme), [Nic::Vmxnet3; 2]) },
            Cell { more: ",vmport=on", ..Cell::new(Board::Q35, Start::Ovmf(Bus::Ahci), [Nic::E1000e; 2]) },
        ],
    },
    Platform {
        name: "VMware with a BIOS",
        cells: &[
            Cell::new(Board::Pc, Start::SeaBios(Bus::Ide), [Nic::E1000; 2]),
            Cell::new(Board::Pc, Start::SeaBios(Bus::Ide), [Nic::Vmxnet3; 2]),
        ],
    },
    Platform {
        name: "VirtualBox",
        cells: &[
            Cell::new(Board::Pc, Start::SeaBios(Bus::Ahci), [Nic::E1000; 2]),
            Cell::new(Board::Pc, Start::SeaBios(Bus::Ahci), [Nic::ByLine; 2]),
            Cell::new(Board::Pc, Start::Ovmf(Bus::Ahci), [Nic::ByLine; 2]),
        ],
    },
    Platform {
        name: "bhyve",
        cells: &[
            Cell::new(Board::Q35, Start::Ovmf(Bus::Ahci), [Nic::Legacy; 2]),
            Cell::new(Board::Q35, Start::Ovmf(Bus::Ahci), [Nic::E82545em; 2]),
        ],
    },
    Platform {
        name: "Xen HVM",
        cells: &[
            Cell::new(Board::Pc, Start::SeaBios(Bus::Ide), [Nic::Rtl8139; 2]),
            Cell::new(Board::Pc, Start::SeaBios(Bus::Ide), [Nic::E1000; 2]),
        ],
    },
    Platform {
        name: "Xen PVH, but for its NICs",
        cells: &[Cell { serial: false, ..Cell::new(Board::Microvm, Start::Pvh, MODERN) }],
    },
    Platform {
        name: "Hyper-V, generation 1, but for its NICs",
        cells: &[Cell::new(Board::Pc, Start::SeaBios(Bus::Ide), [Nic::Tulip; 2])],
    },
    Platform {
        name: "Hyper-V, generation 2, but for its NICs",
        cells: &[
            Cell { nics: None, ..Cell::new(Board::Q35, Start::Ovmf(Bus::Ahci), MODERN) },
            Cell { nics: None, ..Cell::new(Board::Q35, Start::Ovmf(Bus::Cd), MODERN) },
        ],
    },
];
