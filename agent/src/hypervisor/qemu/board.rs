//! The board of a machine, as its image's arguments name it, and where on it disks and interfaces go.
//!
//! Each has a slot, which stays its own while it is attached: a machine that is restored, or goes back to a snapshot,
//! must find every device where it was.

use agent_protocol::{NICS_MAX, VOLUMES_MAX};
use serde_json::{Map, Value, json};

/// How many slots a board has at most.
pub(crate) const SLOTS: u8 = (VOLUMES_MAX + NICS_MAX) as u8;

/// What kind of board it is, as far as that matters to its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Board {
    /// i440FX: a device goes straight on the PCI bus while it runs.
    Pc,
    /// Q35: a device goes into a PCI Express root port while it runs. The ports are there from the start.
    Q35,
    /// MMIO transports, which are what they are from the start.
    Microvm,
    /// One without devices, or one that this backend knows nothing of.
    Other,
}

impl Board {
    /// The board that these arguments of QEMU make.
    pub(crate) fn of(arguments: &[String]) -> Self {
        let mut kind = "pc";
        for pair in arguments.windows(2) {
            if matches!(pair[0].trim_start_matches('-'), "machine" | "M") && pair[0].starts_with('-') {
                let first = pair[1].split(',').next().unwrap_or_default();
                let named = pair[1].split(',').find_map(|item| item.strip_prefix("type="));
                kind = named.unwrap_or(if first.contains('=') { kind } else { first });
            }
        }
        match kind {
            "pc" => Self::Pc,
            "q35" => Self::Q35,
            "microvm" => Self::Microvm,
            versioned if versioned.starts_with("pc-i440fx-") => Self::Pc,
            versioned if versioned.starts_with("pc-q35-") => Self::Q35,
            _ => Self::Other,
        }
    }

    /// Why devices cannot come and go while it runs, if they cannot.
    pub(crate) const fn fixed(self) -> Option<&'static str> {
        match self {
            Self::Pc | Self::Q35 => None,
            Self::Microvm => {
                Some("the microvm board has no bus that devices could be plugged into while it runs")
            }
            Self::Other => Some("its board has no bus for disks and interfaces that this agent knows of"),
        }
    }

    /// The arguments that make its slots.
    pub(crate) fn slots(self) -> Vec<String> {
        if self != Self::Q35 {
            return Vec::new();
        }
        let port = |slot: u8| {
            json!({
                "driver": "pcie-root-port",
                "id": port(slot),
                "bus": "pcie.0",
                // Eight functions of each of three devices that nobody else is given by himself.
                "addr": format!("{:#x}.{}", 0x1c + slot / 8, slot % 8),
                "multifunction": true,
                "chassis": slot + 1,
            })
        };
        (0..SLOTS).flat_map(|slot| ["-device".to_owned(), port(slot).to_string()]).collect()
    }

    /// What a device of the `kind` "blk" or "net" is called here, and where one in `slot` is.
    pub(super) fn device(self, kind: &str, slot: u8) -> Map<String, Value> {
        let mut device = Map::new();
        let bus = if self == Self::Microvm { "device" } else { "pci" };
        device.insert("driver".into(), format!("virtio-{kind}-{bus}").into());
        match self {
            Self::Pc => {
                device.insert("bus".into(), "pci.0".into());
                // From the far end, since the image's own are given theirs from the near one.
                device.insert("addr".into(), format!("{:#x}", 0x1f_u8.saturating_sub(slot)).into());
            }
            Self::Q35 => {
                device.insert("bus".into(), port(slot).into());
            }
            Self::Microvm | Self::Other => {}
        }
        device
    }
}

fn port(slot: u8) -> String {
    format!("corbel-port{slot}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_is_the_one_the_arguments_name() {
        let board = |line: &str| {
            let words: Vec<String> = line.split_ascii_whitespace().map(str::to_owned).collect();
            Board::of(&words)
        };
        assert_eq!(board("-m 16"), Board::Pc, "QEMU's own choice");
        assert_eq!(board("-machine pc,accel=tcg"), Board::Pc);
        assert_eq!(board("--machine accel=tcg,type=pc-q35-7.2"), Board::Q35);
        assert_eq!(board("-M q35"), Board::Q35);
        assert_eq!(board("-machine q35 -machine accel=tcg"), Board::Q35);
        assert_eq!(board("-machine microvm,accel=tcg"), Board::Microvm);
        assert_eq!(board("-machine none"), Board::Other);
        assert_eq!(board("-append q35 -M pc-i440fx-7.2"), Board::Pc);
    }

    #[test]
    fn no_two_slots_are_at_one_place() {
        for board in [Board::Pc, Board::Q35] {
            let places: std::collections::BTreeSet<String> =
                (0..SLOTS).map(|slot| Value::Object(board.device("blk", slot)).to_string()).collect();
            assert_eq!(places.len(), usize::from(SLOTS));
        }
    }
}
