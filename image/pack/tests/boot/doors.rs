//! The doors: the image started from its disk by real firmware, on each kind of disk that this firmware can start from.

use crate::qemu::{Bus, Firmware, Run};
use crate::{FAILURE, SUCCESS, expect};
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) const VIRTIO: Bus = ("virtio-blk", &["-device", "virtio-blk-pci,drive=disk,bootindex=0"]);
const SCSI: Bus =
    ("virtio-scsi", &["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk,bootindex=0"]);
const NVME: Bus = ("NVMe", &["-device", "nvme,serial=1,drive=disk,bootindex=0"]);
const USB: Bus = ("USB", &["-device", "qemu-xhci", "-device", "usb-storage,drive=disk,bootindex=0"]);
/// IDE on the board pc, AHCI on q35.
pub(crate) const IDE: Bus = ("IDE or AHCI", &["-device", "ide-hd,drive=disk,bootindex=0"]);
const BUSES: [Bus; 5] = [VIRTIO, SCSI, NVME, USB, IDE];

/// Whether all there is is to be tried: minutes, for UEFI firmware takes its time under translation.
fn all() -> bool {
    std::env::var_os("CORBEL_DOORS").is_some_and(|value| value == "all")
}

fn starts(board: &'static str, firmware: Firmware, bus: Bus) {
    let outcome = Run::case(board, "boot").on_disk(firmware, bus).finish();
    expect(&outcome, SUCCESS, &format!("{board} {firmware:?} {}", bus.0));
}

/// The appliance, told in one line too much to start, says where it has read that.
fn reads_its_configuration(board: &'static str, firmware: Firmware, bus: Bus, padding: usize) {
    let networks = "host.address=10.77.0.2/24 service.address=10.78.0.2/24\n# but not this:\n";
    let line = format!("{networks}#{}\ncolour=blue\n", "-".repeat(padding));
    let outcome = Run::product(board, &line).on_disk(firmware, bus).finish();
    let what = format!("{board} {firmware:?} {}", bus.0);
    expect(&outcome, FAILURE, &what);
    let text = outcome.text();
    assert!(text.contains("configuration: corbel.cfg: colour: unknown key"), "{what}: {text}");
}

#[test]
fn uefi_firmware_starts_it() {
    starts("pc", Firmware::Ovmf, IDE);
    if all() {
        for board in ["q35", "pc"] {
            BUSES.into_iter().for_each(|bus| starts(board, Firmware::Ovmf, bus));
        }
    }
}

#[test]
fn uefi_firmware_starts_the_appliance_with_the_file_beside_it() {
    serves("q35", Firmware::Ovmf, VIRTIO);
    if all() {
        reads_its_configuration("pc", Firmware::Ovmf, IDE, 65_400);
    }
}

/// The appliance with two NICs, and an initiator that asks it for targets.
fn serves(board: &'static str, firmware: Firmware, bus: Bus) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    // As QEMU numbers NICs. Nobody there would answer who could tell one network from the other.
    let macs = "host.mac=52:54:00:12:34:56\nservice.mac=52:54:00:12:34:57\n";
    let networks = format!("{macs}host.address=10.77.0.15/24\nservice.address=10.78.0.15/24\n");
    let target = "target.0.iqn=iqn.2026-11.example.corbel:door target.0.volume=nbd://10.78.0.9/disk\n";
    let portal = format!("iscsi.portal=127.0.0.1:{port}\n");
    // More comes by SMBIOS; and from a CD in a drive of which only UEFI firmware knows anything, or in a disk that is read by whole
    // blocks of 4 KiB. One that cannot be read at all is beside it.
    let strings = ["-smbios", "type=11,value=corbel.config=target.0.initiators=*"];
    let cd = Disk::cidata(&format!("#corbel\n{target}"));
    let start = Run::product(board, "").arguments(&strings).arguments(&UNREADABLE);
    let start = if firmware == Firmware::Ovmf {
        let drive = format!("if=none,id=cd,format=raw,readonly=on,media=cdrom,file={}", cd.0.display());
        start.arguments(&["-drive", &drive, "-device", "ide-cd,drive=cd"])
    } else {
        let drive = format!("if=none,id=cd,format=raw,readonly=on,file={}", cd.0.display());
        let blocks = "virtio-blk-pci,drive=cd,logical_block_size=4096,physical_block_size=4096";
        start.arguments(&["-drive", &drive, "-device", blocks])
    };
    let document = format!("{networks}{portal}");
    let host = format!("user,id=host,net=10.77.0.0/24,hostfwd=tcp:127.0.0.1:{port}-10.77.0.15:3260");
    let nics = ["-netdev", &host, "-device", "virtio-net-pci,netdev=host,romfile="];
    let more =
        ["-netdev", "user,id=service,net=10.78.0.0/24", "-device", "virtio-net-pci,netdev=service,romfile="];
    let mut machine = start.told(&document).on_disk(firmware, bus).arguments(&nics).arguments(&more).start();
    if firmware == Firmware::Ovmf {
        machine.wait_for("corbel: a disk of 2048 blocks cannot be read, and has not shown the label cidata");
    }
    machine.wait_for("cannot be read, and has not shown the label cidata: what is on it is not looked at");
    machine.wait_for("corbel: ready");
    let (good, said) = run("/usr/bin/iscsi-ls", &[&format!("iscsi://127.0.0.1:{port}")]);
    assert!(good && said.contains("iqn.2026-11.example.corbel:door"), "{board} {firmware:?}: {said}");
}

/// A disk of which nothing can be read.
const UNREADABLE: [&str; 4] = [
    "-blockdev",
    "driver=blkdebug,node-name=bad,image.driver=null-co,image.size=1048576,inject-error.0.event=none,inject-error.0.errno=5",
    "-device",
    "virtio-blk-pci,drive=bad",
];

#[test]
fn a_labelled_volume_of_which_a_file_cannot_be_read_stops_the_boot() {
    let text = "#corbel\n# what is here nobody will know\n";
    let cd = Disk::cidata(text);
    let bytes = fs::read(&cd.0).expect("the CD");
    let place = bytes.windows(text.len()).position(|window| window == text.as_bytes()).expect("it is there");
    let node = format!(
        "driver=blkdebug,node-name=bad,read-only=on,image.driver=file,image.filename={},image.read-only=on,\
         inject-error.0.event=none,inject-error.0.errno=5,inject-error.0.sector={}",
        cd.0.display(),
        place / 512
    );
    let line = "host.address=10.77.0.2/24 service.address=10.78.0.2/24";
    // By the image's own driver, and by that of firmware in a drive that the image has none for.
    let run =
        Run::product("q35", line).arguments(&["-blockdev", &node, "-device", "virtio-blk-pci,drive=bad"]);
    let outcome = run.finish();
    expect(&outcome, FAILURE, "by the image");
    let said = outcome.text();
    assert!(said.contains("configuration: cidata: ") && said.contains(": the disk cannot be read"), "{said}");
    let scsi = ["-blockdev", &node, "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=bad"];
    let run = Run::product("q35", line).arguments(&scsi);
    let run = run.on_disk(Firmware::Ovmf, VIRTIO);
    run.start().wait_for("corbel: cidata: the disk cannot be read");
    // Where corbel.cfg says that there is no such volume nobody looks.
    let mut machine = run.told(&format!("{line} config.cidata=no")).start();
    machine.wait_for("needs two NICs; there are none");
}

/// The UEFI door's image takes all up to 12 MiB: there OVMF has memory of its own, which boot services need alone if the
/// machine cannot sleep, and ACPI if it can.
#[test]
fn memory_that_firmware_needs_until_it_ends_is_as_good_as_free_memory() {
    crate::qemu::selftest();
    let disk = Disk::made("large", "selftest=boot", image_pack::write_selftest_disk);
    let mut bytes = fs::read(&disk.0).expect("the disk");
    let elf =
        10240 + bytes[10240 * 512..].chunks(512).position(|sector| sector.starts_with(b"\x7fELF")).unwrap();
    let header = |index: usize| elf * 512 + 64 + index * 56;
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let loaded = (0..usize::from(bytes[elf * 512 + 56])).filter(|index| bytes[header(*index)] == 1);
    let last = header(loaded.max_by_key(|index| number(&bytes, header(*index) + 24)).expect("a segment"));
    let size = (12 << 20) - number(&bytes, last + 24);
    bytes[last + 40..last + 48].copy_from_slice(&size.to_le_bytes());
    fs::write(&disk.0, bytes).expect("the disk");

    let run = Run::case("q35", "boot").on_disk(Firmware::Ovmf, IDE).image(&disk.0);
    let mut machine = run.start();
    machine.wait_for("corbel: the firmware keeps memory that the image needs, 0x100000 to 0xc00000");
    let outcome = run.arguments(&["-global", "ICH9-LPC.disable_s3=1"]).finish();
    expect(&outcome, SUCCESS, "boot services data where the image goes");
}

#[test]
fn firmware_is_told_that_the_door_runs_what_it_has_written() {
    let file = fs::read(image_pack::efi()).expect("it is built");
    let signature = u32::from_le_bytes(file[0x3c..0x40].try_into().unwrap()) as usize;
    // DllCharacteristics of PE32+, and NX_COMPAT in it.
    let flags = u16::from_le_bytes(file[signature + 24 + 70..][..2].try_into().unwrap());
    assert_eq!(flags & 0x100, 0, "{flags:#x}");
}

#[test]
fn a_bios_starts_it_on_q35() {
    BUSES.into_iter().for_each(|bus| starts("q35", Firmware::SeaBios, bus));
}

#[test]
fn a_bios_starts_it_on_pc() {
    BUSES.into_iter().for_each(|bus| starts("pc", Firmware::SeaBios, bus));
}

#[test]
fn a_bios_starts_the_appliance_with_the_file_beside_it() {
    reads_its_configuration("pc", Firmware::SeaBios, IDE, 0);
    serves("q35", Firmware::SeaBios, NVME);
    // As long as it may be: many clusters.
    reads_its_configuration("q35", Firmware::SeaBios, VIRTIO, 65_400);
}

#[test]
fn what_the_bios_door_cannot_do_it_says() {
    let long = format!("#{}\n", "-".repeat(65_536));
    let mut machine = Run::product("pc", &long).on_disk(Firmware::SeaBios, IDE).start();
    machine.wait_for("corbel: corbel.cfg is longer than 64 KiB");
    let mut machine = Run::product("pc", "").on_disk(Firmware::SeaBios, IDE).memory(3).start();
    machine.wait_for("corbel: memory that the image needs is not there");
    let disk = Disk::new("moved", "");
    let mut file = fs::OpenOptions::new().write(true).open(&disk.0).expect("the disk");
    file.seek(SeekFrom::Start(2048 * 512)).and_then(|_| file.write_all(&[0xf4; 512])).expect("the disk");
    let mut machine = Run::product("pc", "").on_disk(Firmware::SeaBios, IDE).image(&disk.0).start();
    machine.wait_for("corbel: the rest of the door is not where it was");
}

#[test]
fn a_file_that_another_program_has_put_there_is_read_as_well() {
    let disk = Disk::new("edited", &"# as it was\n".repeat(400));
    let config = disk.0.with_extension("cfg");
    // Longer than it was, so that it does not lie in one piece.
    let networks = "host.address=10.77.0.2/24 service.address=10.78.0.2/24\n";
    fs::write(&config, "# as it is\n".repeat(800) + networks + "colour=blue\n").expect("a file");
    let volume = format!("{}@@5242880", disk.0.display());
    let words = ["-o", "-i", &volume, config.to_str().expect("a path"), "::corbel.cfg"];
    let (good, said) = run("/usr/bin/mcopy", &words);
    let _ = fs::remove_file(&config);
    assert!(good, "{said}");
    let outcome = Run::product("pc", "").on_disk(Firmware::SeaBios, IDE).image(&disk.0).finish();
    expect(&outcome, FAILURE, "edited");
    assert!(outcome.text().contains("corbel.cfg: colour: unknown key"), "{}", outcome.text());
}

/// A disk in a file that goes away.
pub(crate) struct Disk(pub(crate) PathBuf);

impl Disk {
    fn new(name: &str, document: &str) -> Self {
        Self::made(name, document, image_pack::write_disk)
    }

    pub(crate) fn made(
        name: &str,
        document: &str,
        write: impl Fn(&str, &Path) -> Result<(), String>,
    ) -> Self {
        let path = std::env::temp_dir().join(format!("corbel-disk-{}-{name}", std::process::id()));
        write(document, &path).expect("a disk");
        Self(path)
    }

    /// A CD labelled `cidata` with the file `user-data`.
    fn cidata(document: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("corbel-cidata-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let (file, cd) = (folder.join("user-data"), folder.with_extension("iso"));
        fs::write(&file, document).expect("a file");
        let words = ["-quiet", "-volid", "cidata", "-joliet", "-rock", "-output"].map(PathBuf::from);
        let output = Command::new("/usr/bin/genisoimage").args(words).arg(&cd).arg(&file).output();
        let output = output.expect("genisoimage");
        let _ = fs::remove_dir_all(&folder);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // A disk has whole blocks, however long they are.
        let file = fs::OpenOptions::new().write(true).open(&cd).expect("the CD");
        let length = file.metadata().expect("it is there").len();
        file.set_len(length.next_multiple_of(4096)).expect("there is room");
        Self(cd)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_disk_is_what_other_programs_take_for_one() {
    let disk = Disk::new("whole", "host.address=dhcp\n");
    let path = disk.0.to_str().expect("a path");
    let (good, said) = run("/usr/sbin/sfdisk", &["--verify", path]);
    assert!(good && said.contains("No errors detected"), "{said}");
    let (good, said) = run("/usr/sbin/sfdisk", &["--dump", path]);
    assert!(good && said.contains("type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B"), "{said}");
    assert!(said.contains("type=21686148-6449-6E6F-744E-656564454649"), "{said}");
    // The file system alone, for who knows no partitions.
    let bytes = fs::read(&disk.0).expect("the disk");
    let volume = disk.0.with_extension("fat");
    fs::write(&volume, &bytes[10240 * 512..(10240 + 65536) * 512]).expect("a file");
    let name = volume.to_str().expect("a path");
    let (good, said) = run("/usr/sbin/fsck.fat", &["-n", "-v", name]);
    let read = |file: &str| Command::new("/usr/bin/mcopy").args(["-n", "-i", name, file, "-"]).output();
    let (config, efi) = (read("::corbel.cfg"), read("::EFI/BOOT/BOOTX64.EFI"));
    let _ = fs::remove_file(&volume);
    assert!(good && !said.contains("differences"), "{said}");
    assert_eq!(config.expect("mcopy").stdout, b"host.address=dhcp\n");
    assert!(efi.expect("mcopy").stdout == fs::read(image_pack::efi()).expect("it is built"), "another file");
}

#[test]
fn the_disk_that_ships_differs_in_nothing_but_what_it_is_told() {
    let told = Disk::new("told", "host.address=dhcp\n");
    let (told, shipped) =
        (fs::read(&told.0).expect("a disk"), fs::read(image_pack::disk()).expect("it is built"));
    assert_eq!(told.len(), shipped.len());
    let differ = told.chunks(512).zip(shipped.chunks(512)).filter(|(one, other)| one != other).count();
    // The file itself, and the folder that says how long it is.
    assert!((1..=2).contains(&differ), "{differ} sectors");
}
