//! What a cell is: a machine, what starts it, and the two NICs that it has; and how QEMU is told.

use std::path::Path;

/// A machine of QEMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Board {
    Q35,
    Pc,
    /// Its devices are named in tables.
    Microvm,
    /// Its devices are named on the command line.
    Bare,
}

impl Board {
    pub(crate) const ALL: [Self; 4] = [Self::Q35, Self::Pc, Self::Microvm, Self::Bare];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Pc => "pc",
            Self::Microvm => "microvm",
            Self::Bare => "microvm without ACPI",
        }
    }

    pub(crate) fn machine(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Pc => "pc",
            Self::Microvm => "microvm,acpi=on,isa-serial=on",
            Self::Bare => "microvm,acpi=off,isa-serial=on",
        }
    }

    pub(crate) fn has_pci(self) -> bool {
        matches!(self, Self::Q35 | Self::Pc)
    }

    /// Whether there is a table that tells of QEMU's power button.
    pub(crate) fn has_button(self) -> bool {
        self != Self::Bare
    }
}

/// What a disk hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bus {
    Ide,
    Ahci,
    Virtio,
    Nvme,
    Usb,
    Cd,
}

impl Bus {
    pub(crate) const ALL: [Self; 6] = [Self::Ide, Self::Ahci, Self::Virtio, Self::Nvme, Self::Usb, Self::Cd];

    fn name(self) -> &'static str {
        match self {
            Self::Ide => "IDE",
            Self::Ahci => "AHCI",
            Self::Virtio => "virtio-blk",
            Self::Nvme => "NVMe",
            Self::Usb => "USB",
            Self::Cd => "CD",
        }
    }

    /// QEMU's arguments for the drive `disk` there.
    fn arguments(self, board: Board) -> Vec<&'static str> {
        let of = |controller: &'static str, device| {
            if controller.is_empty() {
                vec!["-device", device]
            } else {
                vec!["-device", controller, "-device", device]
            }
        };
        match (self, board) {
            // Each board has one of the two already.
            (Self::Ide, Board::Q35) => of("piix3-ide,id=pata", "ide-hd,bus=pata.0,drive=disk,bootindex=0"),
            (Self::Ahci, Board::Pc) => of("ich9-ahci,id=sata", "ide-hd,bus=sata.0,drive=disk,bootindex=0"),
            (Self::Ide | Self::Ahci, _) => of("", "ide-hd,drive=disk,bootindex=0"),
            (Self::Virtio, _) => of("", "virtio-blk-pci,drive=disk,bootindex=0"),
            (Self::Nvme, _) => of("", "nvme,serial=1,drive=disk,bootindex=0"),
            (Self::Usb, _) => of("qemu-xhci", "usb-storage,drive=disk,bootindex=0"),
            (Self::Cd, _) => of("", "ide-cd,drive=disk,bootindex=0"),
        }
    }
}

/// What starts the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// QEMU itself, as a kernel.
    Pvh,
    /// UEFI firmware: Debian's OVMF, with variables that are as new each time.
    Ovmf(Bus),
    /// QEMU's BIOS.
    SeaBios(Bus),
    /// rust-hypervisor-firmware, which QEMU starts as a kernel.
    Small,
}

impl Start {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Pvh => "PVH".into(),
            Self::Ovmf(bus) => format!("OVMF, {}", bus.name()),
            Self::SeaBios(bus) => format!("SeaBIOS, {}", bus.name()),
            Self::Small => "rust-hypervisor-firmware, virtio-blk".into(),
        }
    }

    pub(crate) fn bus(self) -> Option<Bus> {
        match self {
            Self::Pvh => None,
            Self::Ovmf(bus) | Self::SeaBios(bus) => Some(bus),
            Self::Small => Some(Bus::Virtio),
        }
    }

    /// Memory in MiB: of less OVMF makes nothing.
    pub(crate) fn memory(self) -> &'static str {
        if matches!(self, Self::Ovmf(_) | Self::Small) { "256" } else { "64" }
    }

    /// QEMU's arguments for it, and for the drive `disk` if it starts from one.
    pub(crate) fn arguments(self, board: Board) -> Vec<&'static str> {
        match self {
            Self::Pvh => Vec::new(),
            Self::SeaBios(bus) => bus.arguments(board),
            Self::Small => vec!["-device", "virtio-blk-pci,drive=disk,disable-legacy=on"],
            Self::Ovmf(bus) => {
                let mut words = vec![
                    "-drive",
                    "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
                    "-drive",
                    "if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd",
                ];
                words.extend(bus.arguments(board));
                words
            }
        }
    }
}

/// A NIC of QEMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nic {
    Modern,
    Transitional,
    Legacy,
    /// As VirtualBox has it: without messages, so that its line is what is heard.
    ByLine,
    E1000,
    E1000e,
    E82545em,
    Vmxnet3,
    Rtl8139,
    /// The DEC 21143, in whose like's place a VMBus is what Hyper-V's machines really have.
    Tulip,
}

impl Nic {
    fn name(self) -> &'static str {
        match self {
            Self::Modern => "virtio",
            Self::Transitional => "virtio transitional",
            Self::Legacy => "virtio legacy",
            Self::ByLine => "virtio by line",
            Self::E1000 => "e1000",
            Self::E1000e => "e1000e",
            Self::E82545em => "82545em",
            Self::Vmxnet3 => "vmxnet3",
            Self::Rtl8139 => "rtl8139",
            Self::Tulip => "tulip",
        }
    }

    /// QEMU's device; `None` where the board cannot have it.
    fn device(self, board: Board) -> Option<&'static str> {
        if !board.has_pci() {
            // Which registers they have is said of all of them (`globals`).
            return matches!(self, Self::Modern | Self::Legacy).then_some("virtio-net-device");
        }
        Some(match self {
            Self::Modern => "virtio-net-pci,romfile=,disable-legacy=on,disable-modern=off",
            Self::Transitional => "virtio-net-pci,romfile=,disable-legacy=off,disable-modern=off",
            Self::Legacy => "virtio-net-pci,romfile=,disable-legacy=off,disable-modern=on",
            Self::ByLine => "virtio-net-pci,romfile=,disable-legacy=off,disable-modern=off,vectors=0",
            Self::E1000 => "e1000,romfile=",
            Self::E1000e => "e1000e,romfile=",
            Self::E82545em => "e1000-82545em,romfile=",
            Self::Vmxnet3 => "vmxnet3,romfile=",
            Self::Rtl8139 => "rtl8139,romfile=",
            Self::Tulip => "tulip",
        })
    }
}

/// The NICs on the host-only and on the service network.
pub(crate) type Nics = [Nic; 2];

/// Two alike, and some that are not.
pub(crate) const PAIRS: [Nics; 11] = [
    [Nic::Modern; 2],
    [Nic::Transitional; 2],
    [Nic::Legacy; 2],
    [Nic::E1000; 2],
    [Nic::E1000e; 2],
    [Nic::E82545em; 2],
    [Nic::Vmxnet3; 2],
    [Nic::Rtl8139; 2],
    [Nic::Modern, Nic::E1000e],
    [Nic::Vmxnet3, Nic::Legacy],
    [Nic::E1000, Nic::Rtl8139],
];

/// What a pair is called.
pub(crate) fn pair(nics: Option<Nics>) -> String {
    match nics {
        None => "none".into(),
        Some([one, other]) if one == other => one.name().into(),
        Some([one, other]) => format!("{} and {}", one.name(), other.name()),
    }
}

/// A machine to be tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) board: Board,
    pub(crate) start: Start,
    /// None is what some hypervisors have that QEMU knows.
    pub(crate) nics: Option<Nics>,
    /// Whether it has a serial port, and so says anything.
    pub(crate) serial: bool,
    /// More of QEMU's `-machine`.
    pub(crate) more: &'static str,
}

impl Cell {
    pub(crate) const fn new(board: Board, start: Start, nics: Nics) -> Self {
        Self { board, start, nics: Some(nics), serial: true, more: "" }
    }

    /// Whether QEMU can be told of such a machine.
    pub(crate) fn exists(&self) -> bool {
        let nics = self.nics.into_iter().flatten();
        let boots = self.board.has_pci() || self.start == Start::Pvh;
        // Which registers memory-mapped devices have is the same for all.
        let alike = self.board.has_pci() || self.nics.is_none_or(|[one, other]| one == other);
        boots && alike && nics.into_iter().all(|nic| nic.device(self.board).is_some())
    }

    pub(crate) fn name(&self) -> String {
        format!("{}, {}, {}", self.board.name(), self.start.name(), pair(self.nics))
    }

    /// QEMU's arguments that say what machine it is.
    pub(crate) fn arguments(&self, disk: &Path) -> Vec<String> {
        let machine = self.board.machine().to_string() + self.more;
        let serial = if self.serial { "on" } else { "off" };
        let mut words =
            vec!["-machine".to_string(), machine.replace("isa-serial=on", &format!("isa-serial={serial}"))];
        words.extend(["-m".into(), self.start.memory().into()]);
        if self.start.bus().is_some() {
            let medium = if self.start.bus() == Some(Bus::Cd) { ",media=cdrom" } else { "" };
            let drive = format!("if=none,id=disk,format=raw,snapshot=on,file={}{medium}", disk.display());
            words.extend(["-drive".into(), drive]);
        }
        words.extend(self.start.arguments(self.board).into_iter().map(String::from));
        let legacy = self.nics.is_some_and(|nics| nics.contains(&Nic::Legacy));
        if !self.board.has_pci() {
            let legacy = if legacy { "on" } else { "off" };
            words.extend(["-global".into(), format!("virtio-mmio.force-legacy={legacy}")]);
        }
        let rng = if self.board.has_pci() { "virtio-rng-pci" } else { "virtio-rng-device" };
        words.extend(["-device".into(), rng.into()]);
        words
    }

    /// The device on the host-only or the service network.
    pub(crate) fn device(&self, index: usize) -> Option<&'static str> {
        self.nics?.get(index)?.device(self.board)
    }
}

/// The whole matrix: each row a board and what starts it.
pub(crate) fn rows() -> Vec<(Board, Start)> {
    let mut rows = Vec::new();
    for board in Board::ALL {
        rows.push((board, Start::Pvh));
        if board.has_pci() {
            rows.extend(Bus::ALL.map(|bus| (board, Start::Ovmf(bus))));
            rows.extend(Bus::ALL.map(|bus| (board, Start::SeaBios(bus))));
        }
    }
    rows
}
