//! A Linux guest made of Debian's own packages: its cloud kernel, open-iscsi, e2fsprogs and busybox in an initramfs, and
//! if asked for the tools of SCSI and of multipath.

use image_launch::{process, setup};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Kernel and initial file system.
pub(crate) struct Guest {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
}

/// What the guest's programs come in, and the libraries they need.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "open-iscsi",
    "libopeniscsiusr",
    "libisns0",
    "e2fsprogs",
    "libext2fs2",
    "libcom-err2",
    "libss2",
    "libblkid1",
    "libc6",
    "libcap2",
    "libgcrypt20",
    "libgpg-error0",
    "libkmod2",
    "liblz4-1",
    "liblzma5",
    "libmount1",
    "libpcre2-8-0",
    "libselinux1",
    "libssl3",
    "libsystemd0",
    "libuuid1",
    "libzstd1",
];
const PROGRAMS: &[&str] =
    &["sbin/iscsid", "sbin/iscsiadm", "sbin/mke2fs", "sbin/e2fsck", "sbin/mkfs.ext4", "sbin/fsck.ext4"];
const APPLETS: &[&str] = &[
    "cat",
    "cut",
    "dd",
    "dmesg",
    "du",
    "find",
    "grep",
    "insmod",
    "ip",
    "ln",
    "mkdir",
    "mount",
    "poweroff",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "tail",
    "umount",
    "uname",
    "wc",
    "xargs",
];
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_net",
    "virtio_console",
    "iscsi_tcp",
    "sd_mod",
    "crc32c_intel",
    "crct10dif_pclmul",
];
/// What a guest with tools has beyond that.
const TOOL_PACKAGES: &[&str] = &[
    "dmsetup",
    "libacl1",
    "libaio1",
    "libbsd0",
    "libdevmapper1.02.1",
    "libedit2",
    "libgcc-s1",
    "libjson-c5",
    "libmd0",
    "libsgutils2-1.46-2",
    "libtinfo6",
    "libudev1",
    "liburcu8",
    "multipath-tools",
    "sg3-utils",
    "udev",
];
const TOOL_PROGRAMS: &[&str] = &[
    "sbin/dmsetup",
    "sbin/mpathpersist",
    "sbin/multipath",
    "sbin/multipathd",
    "bin/udevadm",
    "usr/bin/sg_compare_and_write",
    "usr/bin/sg_copy_results",
    "usr/bin/sg_get_lba_status",
    "usr/bin/sg_inq",
    "usr/bin/sg_logs",
    "usr/bin/sg_luns",
    "usr/bin/sg_modes",
    "usr/bin/sg_opcodes",
    "usr/bin/sg_persist",
    "usr/bin/sg_raw",
    "usr/bin/sg_readcap",
    "usr/bin/sg_requests",
    "usr/bin/sg_reset",
    "usr/bin/sg_rtpg",
    "usr/bin/sg_sync",
    "usr/bin/sg_turs",
    "usr/bin/sg_unmap",
    "usr/bin/sg_verify",
    "usr/bin/sg_vpd",
    "usr/bin/sg_write_same",
    "usr/bin/sg_xcopy",
];
const TOOL_APPLETS: &[&str] =
    &["awk", "chmod", "cmp", "head", "hexdump", "kill", "od", "ps", "sed", "sync", "tr", "true"];
const TOOL_MODULES: &[&str] = &["sg", "dm_multipath", "dm_service_time", "dm_round_robin"];
/// Folders of them that go in as they are, and where.
const TOOL_FOLDERS: &[(&str, &str, &str)] = &[
    ("multipath-tools", "lib/multipath", "lib/multipath"),
    ("multipath-tools", "lib/udev/rules.d", "lib/udev/rules.d"),
    ("udev", "lib/udev/rules.d", "lib/udev/rules.d"),
    ("udev", "lib/udev", "lib/udev"),
    ("dmsetup", "lib/udev/rules.d", "lib/udev/rules.d"),
    ("multipath-tools", "lib", "lib"),
];
/// The cloud kernel, by the name that always means the newest one.
const KERNEL: &str = "linux-image-cloud-amd64";

impl Guest {
    /// The guest, from `cache` where an earlier run left it.
    pub(crate) fn build(cache: &Path) -> Self {
        Self::with_program(cache, None)
    }

    /// The same with a program of this machine: `/host/run NAME ARGUMENTS` runs it.
    pub(crate) fn with_program(cache: &Path, program: Option<&Path>) -> Self {
        let parts = Parts::get(cache, PACKAGES);
        let name = program.and_then(|program| program.file_name()?.to_str());
        let initrd = cache.join(name.map_or("initrd".into(), |name| format!("initrd-{name}")));
        let mut archive = parts.archive(PROGRAMS, APPLETS, MODULES);
        if let Some(program) = program {
            host(&mut archive, program);
        }
        parts.guest(&archive, initrd)
    }

    /// A guest with sg3-utils, multipath-tools and udev, programs of this machine, and files of the test.
    pub(crate) fn with_tools(cache: &Path, programs: &[&Path], files: &[(&str, &[u8])]) -> Self {
        let parts = Parts::get(cache, &[PACKAGES, TOOL_PACKAGES].concat());
        let mut archive = parts.archive(
            &[PROGRAMS, TOOL_PROGRAMS].concat(),
            &[APPLETS, TOOL_APPLETS].concat(),
            &[MODULES, TOOL_MODULES].concat(),
        );
        for (package, from, to) in TOOL_FOLDERS {
            let entries = fs::read_dir(parts.tree.join(package).join(from)).unwrap().flatten();
            for entry in entries.filter(|entry| !entry.path().is_dir()) {
                archive.file(&format!("{to}/{}", entry.file_name().to_str().unwrap()), &entry.path());
            }
        }
        for program in programs {
            host(&mut archive, program);
        }
        for (name, bytes) in files {
            archive.program(name, bytes);
        }
        parts.guest(&archive, cache.join("initrd-tools"))
    }
}

impl Guest {
    /// A guest that has busybox, these modules, and this program as its first process, and no more: it is up soonest.
    #[allow(dead_code, reason = "another program of tests has this file as well, and needs it")]
    pub(crate) fn small(cache: &Path, name: &str, init: &[u8], modules: &[&str]) -> Self {
        let parts = Parts::get(cache, &["busybox-static"]);
        let mut archive = Archive::default();
        for folder in ["proc", "sys", "dev", "m"] {
            archive.folder(folder);
        }
        archive.program("init", init);
        archive.file("bin/busybox", &parts.find("bin/busybox"));
        for applet in APPLETS {
            archive.link(&format!("bin/{applet}"), "busybox");
        }
        self::modules(&mut archive, &parts.kernel, modules);
        parts.guest(&archive, cache.join(format!("initrd-{name}")))
    }
}

/// What a guest is made of, unpacked.
struct Parts {
    tree: PathBuf,
    packages: Vec<&'static str>,
    kernel: PathBuf,
}

impl Parts {
    fn get(cache: &Path, packages: &[&'static str]) -> Self {
        let kernel = setup::provider(KERNEL).unwrap();
        let tree = cache.join("packages");
        let all: Vec<_> = packages.iter().copied().chain([kernel.as_str()]).collect();
        setup::unpacked(&all, &tree).unwrap();
        Self { kernel: tree.join(kernel), packages: packages.to_vec(), tree }
    }

    fn archive(&self, programs: &[&str], applets: &[&str], names: &[&str]) -> Archive {
        let mut archive = Archive::default();
        fill(&mut archive, self, programs);
        for applet in applets {
            archive.link(&format!("bin/{applet}"), "busybox");
        }
        modules(&mut archive, &self.kernel, names);
        archive
    }

    /// The initial file system is always made anew: it is quick, and then it cannot be that of an older script.
    fn guest(&self, archive: &Archive, initrd: PathBuf) -> Guest {
        archive.write(&initrd);
        Guest { kernel: entry(&self.kernel.join("boot"), |name| name.starts_with("vmlinuz-")), initrd }
    }

    fn find(&self, file: &str) -> PathBuf {
        let mut candidates = self.packages.iter().map(|package| self.tree.join(package).join(file));
        candidates.find(|path| path.exists()).unwrap_or_else(|| panic!("{file} is in none of the packages"))
    }
}

fn entry(folder: &Path, wanted: impl Fn(&str) -> bool) -> PathBuf {
    let mut entries = fs::read_dir(folder).unwrap().flatten();
    entries.find(|entry| entry.file_name().to_str().is_some_and(&wanted)).unwrap().path()
}

fn fill(archive: &mut Archive, parts: &Parts, programs: &[&str]) {
    for folder in ["proc", "sys", "dev", "run/lock/iscsi", "mnt", "tmp", "etc/iscsi", "var/lib/iscsi", "m"] {
        archive.folder(folder);
    }
    archive.program("init", include_bytes!("init.sh"));
    archive.file("bin/busybox", &parts.tree.join("busybox-static/bin/busybox"));
    for program in programs {
        let name = Path::new(program).file_name().unwrap().to_str().unwrap();
        archive.file(&format!("sbin/{name}"), &parts.find(program));
    }
    archive.program("etc/mke2fs.conf", &fs::read(parts.find("etc/mke2fs.conf")).unwrap());
    archive.program("etc/iscsi/iscsid.conf", &fs::read(parts.find("etc/iscsi/iscsid.conf")).unwrap());
    archive.program("etc/iscsi/initiatorname.iscsi", b"InitiatorName=iqn.2026-11.example.guest:linux\n");
    archive.program("etc/passwd", b"root::0:0::/:/bin/sh\n");
    for package in &parts.packages {
        for folder in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"] {
            let Ok(entries) = fs::read_dir(parts.tree.join(package).join(folder)) else { continue };
            for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains(".so"))
            {
                archive.file(&format!("lib/{}", entry.file_name().to_str().unwrap()), &entry.path());
            }
        }
    }
    archive.link("lib64", "lib");
}

/// Puts a program of this machine in, with the libraries and the loader of this machine: the guest's may be older.
fn host(archive: &mut Archive, program: &Path) {
    let mut ldd = process::command("ldd");
    ldd.arg(program);
    let listed = process::check(ldd, Duration::from_secs(20)).unwrap();
    let paths = listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let mut loader = None;
    for path in paths {
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        // The file behind the link, under the name that is asked for.
        archive.program(&format!("host/{name}"), &fs::read(path).unwrap());
        loader = loader.or_else(|| name.starts_with("ld-").then(|| name.to_string()));
    }
    let name = program.file_name().unwrap().to_str().unwrap();
    archive.program(&format!("host/{name}"), &fs::read(program).unwrap());
    let loader = loader.expect("the program has a loader");
    let run =
        format!("#!/bin/sh\nname=$1; shift\nexec /host/{loader} --library-path /host /host/$name \"$@\"\n");
    archive.program("host/run", run.as_bytes());
}

/// Puts the modules in, and their names in the order in which they must be loaded.
fn modules(archive: &mut Archive, kernel: &Path, names: &[&str]) {
    let mut all = BTreeMap::new();
    let mut folders = vec![kernel.join("lib/modules")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ko")) {
                all.insert(name.replace('-', "_"), path);
            }
        }
    }
    let mut order = Vec::new();
    for module in names {
        load(module, &all, &mut order);
    }
    let mut list = String::new();
    for name in order {
        archive.file(&format!("m/{name}.ko"), &all[&name]);
        let _ = writeln!(list, "{name}");
    }
    archive.program("modules", list.as_bytes());
}

/// Puts what `name` depends on, then itself, into `order`. What is not a module is part of the kernel.
fn load(name: &str, all: &BTreeMap<String, PathBuf>, order: &mut Vec<String>) {
    let Some(file) = all.get(name).filter(|_| !order.iter().any(|known| known == name)) else { return };
    let bytes = fs::read(file).unwrap();
    let key = b"\0depends=";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len();
    let value = bytes[at..].split(|byte| *byte == 0).next().unwrap();
    for needed in std::str::from_utf8(value).unwrap().split(',').filter(|needed| !needed.is_empty()) {
        load(&needed.replace('-', "_"), all, order);
    }
    order.push(name.to_string());
}

/// A cpio archive in the "newc" form, which the kernel unpacks at boot. Folders come before what they hold.
#[derive(Default)]
struct Archive {
    entries: BTreeMap<String, (u32, Vec<u8>)>,
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

impl Archive {
    fn put(&mut self, name: &str, mode: u32, data: Vec<u8>) {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.folder(parent);
        }
        self.entries.insert(name.to_string(), (mode, data));
    }

    fn folder(&mut self, name: &str) {
        if !self.entries.contains_key(name) {
            self.put(name, FOLDER, Vec::new());
        }
    }

    fn program(&mut self, name: &str, data: &[u8]) {
        self.put(name, PROGRAM, data.to_vec());
    }

    fn link(&mut self, name: &str, to: &str) {
        self.put(name, LINK, to.as_bytes().to_vec());
    }

    /// A copy of a file, or of a link as a link.
    fn file(&mut self, name: &str, from: &Path) {
        match fs::read_link(from) {
            Ok(to) if !to.has_root() && to.components().count() == 1 => self.link(name, to.to_str().unwrap()),
            _ => self.put(
                name,
                PROGRAM,
                fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())),
            ),
        }
    }

    fn write(&self, to: &Path) {
        let mut bytes = Vec::new();
        for (number, (name, (mode, data))) in self.entries.iter().enumerate() {
            record(&mut bytes, number + 1, name, *mode, data);
        }
        record(&mut bytes, 0, "TRAILER!!!", 0, &[]);
        File::create(to).and_then(|mut file| file.write_all(&bytes)).unwrap();
    }
}

fn record(bytes: &mut Vec<u8>, inode: usize, name: &str, mode: u32, data: &[u8]) {
    let mode = usize::try_from(mode).unwrap();
    let fields = [inode, mode, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
    bytes.extend(b"070701");
    for field in fields {
        bytes.extend(format!("{field:08X}").as_bytes());
    }
    bytes.extend(name.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[test]
fn an_archive_has_every_folder_before_its_files() {
    let mut archive = Archive::default();
    archive.program("a/b/c", b"x");
    archive.link("a/d", "b");
    let names: Vec<&String> = archive.entries.keys().collect();
    assert_eq!(names, ["a", "a/b", "a/b/c", "a/d"]);
    let mut bytes = Vec::new();
    record(&mut bytes, 1, "a", FOLDER, &[1]);
    assert_eq!(bytes.len(), 110 + 2 + 4);
    assert_eq!(archive.entries["a/d"], (LINK, b"b".to_vec()));
}
