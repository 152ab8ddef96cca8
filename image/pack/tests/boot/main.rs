//! The kernel's promises, each under QEMU with the self-test program (`kernel/selftest`).

mod doors;
mod qemu;
mod secure;

use qemu::{BOARDS, Outcome, Run, alone};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Exit statuses; `kernel/README.md` has the table.
const SUCCESS: i32 = 33;
const FAILURE: i32 = 35;
const PANIC: i32 = 65;
const PAGE_FAULT: i32 = 67;
const STACK_OVERFLOW: i32 = 69;
const DOUBLE_FAULT: i32 = 71;
const MACHINE_CHECK: i32 = 73;
const NMI: i32 = 75;
const EXCEPTION: i32 = 77;
const PANIC_IN_PANIC: i32 = 79;

fn expect(outcome: &Outcome, status: i32, what: &str) {
    assert_eq!(outcome.status, status, "{what}:\n{}", outcome.text());
}

#[test]
fn it_boots_on_every_board_with_an_old_and_a_current_cpu() {
    for board in BOARDS {
        for cpu in ["max", "qemu64"] {
            let outcome = Run::case(board, "boot").cpu(cpu).finish();
            expect(&outcome, SUCCESS, &format!("{board} {cpu}"));
            assert!(outcome.text().contains("clock: "), "{}", outcome.text());
        }
    }
}

#[test]
fn it_boots_with_several_cpus_and_with_memory_above_four_gib() {
    expect(&Run::case("q35", "boot").arguments(&["-smp", "4"]).finish(), SUCCESS, "four CPUs");
    expect(&Run::case("q35", "boot").memory(6144).finish(), SUCCESS, "6 GiB");
    expect(&Run::case("pc", "boot").memory(6144).finish(), SUCCESS, "6 GiB");
}

#[test]
fn it_boots_without_a_serial_port() {
    expect(&Run::case("q35", "boot").without_serial().finish(), SUCCESS, "no serial port");
    expect(&Run::case("microvm", "boot").without_serial().finish(), SUCCESS, "no serial port");
}

#[test]
fn without_a_serial_port_it_is_heard_on_a_debug_console() {
    for (board, port) in [("q35", "0xe9"), ("microvm", "0x402")] {
        let device = format!("isa-debugcon,iobase={port},chardev=debug");
        let arguments = ["-chardev", "stdio,id=debug", "-device", &device];
        let run = Run::case(board, "boot").without_serial().arguments(&arguments);
        let outcome = run.finish();
        expect(&outcome, SUCCESS, port);
        assert!(outcome.text().contains("clock: "), "{board}: {}", outcome.text());
        let outcome = run.told("selftest=panic").finish();
        assert!(outcome.text().contains("on purpose"), "{board}: {}", outcome.text());
    }
}

#[test]
fn without_an_acpi_timer_the_clock_is_set_by_the_hpet() {
    // A table of fixed hardware in place of the machine's own, in which there is none; 36 bytes of header come before this.
    let table = std::env::temp_dir().join(format!("corbel-fadt-{}", std::process::id()));
    fs::write(&table, [0; 116 - 36]).expect("a place for a file");
    let file = format!("sig=FACP,rev=1,data={}", table.display());
    let by = |name: &str, arguments: &[&str]| {
        let outcome = Run::case("q35", "boot").arguments(arguments).finish();
        expect(&outcome, SUCCESS, name);
        let text = outcome.text();
        let rate =
            text.split_once(&format!(" kHz by {name}")).and_then(|(before, _)| before.rsplit(' ').next());
        rate.and_then(|rate| rate.parse::<f64>().ok()).unwrap_or_else(|| panic!("not by {name}: {text}"))
    };
    let rates = [by("the ACPI timer", &[]), by("the HPET", &["-acpitable", &file])];
    fs::remove_file(table).expect("it is there");
    assert!((rates[1] / rates[0] - 1.0).abs() < 0.02, "{rates:?} kHz");
}

#[test]
fn it_boots_and_ends_with_the_quick_firmware_as_with_the_usual_one() {
    for board in ["q35", "pc"] {
        for more in [[].as_slice(), &["-smp", "4"], &["-m", "6144"]] {
            let outcome =
                Run::case(board, "boot").arguments(&[&["-bios", "qboot.rom"], more].concat()).finish();
            expect(&outcome, SUCCESS, &format!("{board} {more:?}"));
            assert!(outcome.text().contains("by the ACPI timer"), "{}", outcome.text());
        }
        for (case, reason) in [("off", "guest-shutdown"), ("reset", "guest-reset")] {
            let outcome = Run::case(board, case).arguments(&["-bios", "qboot.rom"]).finish();
            assert_eq!(outcome.reason.as_deref(), Some(reason), "{board}: {}", outcome.text());
        }
    }
}

#[test]
fn it_boots_without_the_chips_of_a_pc() {
    for board in ["microvm,pit=off,pic=off,rtc=off", "microvm,acpi=off,pit=off,pic=off,rtc=off"] {
        let outcome = Run::case(board, "boot").finish();
        expect(&outcome, SUCCESS, board);
        assert!(outcome.text().contains("by the APIC timer"), "{}", outcome.text());
    }
}

#[test]
fn two_mib_are_enough_to_boot_and_all_memory_can_be_used() {
    for board in BOARDS {
        for memory in [2, 4, 64] {
            let outcome = Run::case(board, "memory").memory(memory).finish();
            expect(&outcome, SUCCESS, &format!("{board} with {memory} MiB"));
            assert!(outcome.text().contains("intact: true"), "{}", outcome.text());
        }
    }
}

/// Where a boot has put the image, and that the addresses of its panic are those of lines all the same.
fn moved(outcome: &Outcome) -> u64 {
    expect(outcome, PANIC, "place");
    let text = outcome.text();
    let number = |before: &str| {
        let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no `{before}`: {text}"));
        let digits: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
        u64::from_str_radix(&digits, 16).expect("a number")
    };
    let (runs, moved) = (number("run at 0x"), number("moved by 0x"));
    assert!(moved.is_multiple_of(2 << 20) && moved < 1 << 30, "{moved:#x}");
    assert!((0xffff_ffff_8010_0000..0xffff_ffff_8040_0000).contains(&(runs - moved)), "{runs:#x} {moved:#x}");
    let program = qemu::selftest().with_extension("debug");
    let mut lines = Command::new("/usr/bin/addr2line");
    lines.arg("-e").arg(program).args(text.lines().filter_map(|line| line.strip_prefix("  at ")));
    let lines = lines.output().expect("addr2line").stdout;
    let lines = String::from_utf8_lossy(&lines);
    assert!(lines.contains("selftest/src/cases.rs:") && lines.contains("kernel/src/panic.rs:"), "{lines}");
    moved
}

#[test]
fn each_boot_puts_the_image_elsewhere_whatever_began_it() {
    // By the CPU's dice, and by its clock.
    for cpu in ["max", "qemu64"] {
        let direct = Run::case("q35", "place").cpu(cpu);
        let by_bios = Run::case("pc", "place").cpu(cpu).on_disk(qemu::Firmware::SeaBios, doors::IDE);
        for run in [direct, by_bios] {
            // Of some five hundred places four times the same would be more than chance.
            let places: BTreeSet<_> = (0..4).map(|_| moved(&run.finish())).collect();
            assert!(places.len() > 1, "{cpu}: {places:x?}");
        }
    }
    // A debugger's image stays where it is linked.
    let program = qemu::selftest().with_extension("plain");
    assert_eq!(moved(&Run::case("microvm", "place").program(&program).finish()), 0);
}

#[test]
fn what_must_not_be_done_ends_the_machine_with_a_code_of_its_own() {
    let cases = [
        ("panic", PANIC, "PANIC at "),
        ("no-such-case", PANIC, "no case"),
        ("stack-overflow", STACK_OVERFLOW, "the program's stack has overflown"),
        ("write-text", PAGE_FAULT, "write to 0xffffffff"),
        ("write-constant", PAGE_FAULT, "write to 0xffffffff"),
        ("execute-data", PAGE_FAULT, "execution of 0xffffffff"),
        ("execute-stack", PAGE_FAULT, "execution of 0xffffffff"),
        ("execute-heap", PAGE_FAULT, "execution of 0x"),
        ("null", PAGE_FAULT, "read from 0x0"),
        ("write-image-by-ram", PAGE_FAULT, "nothing is mapped there"),
        ("double-fault", DOUBLE_FAULT, "double fault"),
        ("divide", EXCEPTION, "division by zero"),
        ("invalid", EXCEPTION, "invalid instruction"),
    ];
    for (index, (case, status, says)) in cases.into_iter().enumerate() {
        // Every case on one board, each board and CPU with some of them.
        let (board, cpu) = (BOARDS[index % BOARDS.len()], ["max", "qemu64"][index % 2]);
        for run in [Run::case("q35", case), Run::case(board, case).cpu(cpu)] {
            let outcome = run.finish();
            expect(&outcome, status, case);
            assert!(outcome.text().contains(says), "{case}: {}", outcome.text());
            assert!(outcome.text().contains("  at 0xffffffff80"), "no backtrace: {}", outcome.text());
            assert!(!outcome.text().contains("came back"), "{case} came back");
        }
    }
}

#[test]
fn an_interrupt_that_cannot_be_masked_is_reported_on_a_stack_of_its_own() {
    // On a crowded host a tick of the timer chip falls between firmware and kernel now and then; what it leaves behind
    // must not become an interrupt when the machine begins to idle.
    for board in BOARDS {
        let mut machines: Vec<_> = (0..6).map(|_| Run::case(board, "wait-for-nmi").start()).collect();
        for machine in &mut machines {
            machine.wait_for("waiting");
        }
        std::thread::sleep(Duration::from_millis(100));
        for mut machine in machines {
            machine.tell("inject-nmi");
            let outcome = machine.finish();
            expect(&outcome, NMI, board);
            assert!(outcome.text().contains("non-maskable interrupt"), "{}", outcome.text());
        }
    }
}

#[test]
fn a_machine_check_is_reported_on_a_stack_of_its_own() {
    for board in BOARDS {
        let mut machine = Run::case(board, "wait-for-nmi").start();
        machine.wait_for("waiting");
        // CPU 0, bank 0: valid, uncorrected, enabled.
        machine.tell_human("mce 0 0 0xb000000000000000 0 0 0");
        let outcome = machine.finish();
        expect(&outcome, MACHINE_CHECK, board);
        assert!(outcome.text().contains("FAULT: machine check"), "{}", outcome.text());
    }
}

#[test]
fn a_panic_while_one_is_reported_ends_the_machine_at_once() {
    for board in BOARDS {
        let outcome = Run::case(board, "panic-in-panic").finish();
        expect(&outcome, PANIC_IN_PANIC, board);
        assert!(!outcome.text().contains("in a panic"), "{}", outcome.text());
    }
}

#[test]
fn a_panic_resets_the_machine() {
    for board in BOARDS {
        let outcome = Run::case(board, "panic").without_debug_exit().finish();
        expect(&outcome, 0, board);
        assert_eq!(outcome.reason.as_deref(), Some("guest-reset"), "{board}");
    }
}

#[test]
fn off_is_off_where_the_machine_can_be_switched_off() {
    for (board, reason) in BOARDS.into_iter().zip(["shutdown", "shutdown", "shutdown", "reset"]) {
        let outcome = Run::case(board, "off").finish();
        expect(&outcome, 0, board);
        assert_eq!(outcome.reason, Some(format!("guest-{reason}")), "{board}");
        let outcome = Run::case(board, "reset").finish();
        assert_eq!(outcome.reason.as_deref(), Some("guest-reset"), "{board}");
    }
}

#[test]
fn a_second_takes_a_second_on_every_board() {
    let _alone = alone();
    for board in BOARDS {
        // On a crowded host a line may come late once; the clock does not get better by trying again.
        let mut errors = Vec::new();
        while errors.last().is_none_or(|error| *error >= 0.02) {
            assert!(errors.len() < 3, "{board}: off by {errors:?}");
            errors.push(clock_error(board));
        }
    }
}

/// By how much of itself a span of three seconds differs between the guest's clock and ours.
fn clock_error(board: &'static str) -> f64 {
    let mut machine = Run::case(board, "clock").start();
    let (start, _) = machine.wait_for("tick 0");
    let (end, _) = machine.wait_for("tick 6");
    expect(&machine.finish(), SUCCESS, board);
    ((end - start).as_secs_f64() / 3.0 - 1.0).abs()
}

#[test]
fn idling_takes_no_time_of_the_host() {
    let _alone = alone();
    for board in BOARDS {
        let mut machine = Run::case(board, "idle").start();
        let (start, _) = machine.wait_for("idle from here");
        let before = (processor_time(machine.pid()), wake_ups(machine.pid()));
        let (end, _) = machine.wait_for("idle to here");
        let used = processor_time(machine.pid()) - before.0;
        let share = used.as_secs_f64() / (end - start).as_secs_f64();
        assert!(share < 0.03, "{board}: {used:?} of {:?}", end - start);
        // The program wakes twice a second, and for each time some of QEMU's threads do.
        let rate = (wake_ups(machine.pid()) - before.1) as f64 / (end - start).as_secs_f64();
        assert!(rate < 16.0, "{board}: QEMU wakes {rate:.1} times a second");
    }
}

/// How often a thread of the process has begun to wait, and so was woken but for the last time.
fn wake_ups(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("QEMU runs");
    let status = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
    let waits = status.filter_map(|status| {
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        count.trim().parse::<u64>().ok()
    });
    waits.sum()
}

/// What the process has used of processors, in user and system mode.
fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("QEMU runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    // Fields 14 and 15 of proc(5), in hundredths of a second on Linux.
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn randomness_never_repeats_and_its_absence_is_said() {
    let random = |outcome: &Outcome| {
        let text = outcome.text();
        text.split_once("random ").map(|(_, number)| number.split_whitespace().next().unwrap().to_string())
    };
    let numbers: BTreeSet<_> = (0..4).filter_map(|_| random(&Run::case("pc", "entropy").finish())).collect();
    assert_eq!(numbers.len(), 4, "{numbers:?}");
    let without = Run::case("pc", "entropy").cpu("qemu64").finish();
    assert!(without.text().contains("the machine needs RDRAND or a virtio-rng device"), "{}", without.text());
}

#[test]
fn a_file_from_qemu_reaches_the_program() {
    let path = std::env::temp_dir().join(format!("corbel-fw-cfg-{}", std::process::id()));
    for (length, says) in [
        (0, "file of 0 bytes"),
        (20, "file of 20 bytes"),
        (65536, "file of 65536 bytes"),
        (65537, "longer than 64 KiB"),
    ] {
        fs::write(&path, vec![b'x'; length]).expect("a file");
        let option = format!("name=opt/corbel/config,file={}", path.display());
        let outcome = Run::case("microvm", "fw-cfg").arguments(&["-fw_cfg", &option]).finish();
        assert!(outcome.text().contains(says), "{length}: {}", outcome.text());
    }
    let _ = fs::remove_file(&path);
    assert!(Run::case("pc", "fw-cfg").finish().text().contains("no file"));
}

#[test]
fn packed_it_is_half_as_large_and_says_the_same() {
    let length = |path| fs::metadata(path).expect("it is built").len();
    let (packed, unpacked) = (length(image_pack::elf()), length(image_pack::elf_unpacked()));
    assert!(packed * 100 < unpacked * 60, "{packed} of {unpacked} bytes");
    // A fourteenth of a Linux guest that has the data path alone (tests/bench); it must not grow unseen.
    assert!(packed <= 1440 << 10, "{packed} bytes");
    for board in BOARDS {
        let line = "host.address=10.77.0.2/24 service.address=10.78.0.2/24 colour=blue";
        // The smallest machine that serves has as much.
        let run = Run::product(board, line).memory(5);
        for run in [run.clone(), run.unpacked()] {
            let outcome = run.finish();
            expect(&outcome, FAILURE, board);
            assert!(outcome.text().contains("command line: colour: unknown key"), "{}", outcome.text());
        }
    }
}

#[test]
fn the_appliance_stops_with_a_line_that_names_what_is_wrong() {
    const NETWORKS: &str = "host.address=10.77.0.2/24 service.address=10.78.0.2/24";
    let cases = [
        (String::new(), "host.address: missing"),
        (format!("{NETWORKS} colour=blue"), "command line: colour: unknown key"),
        (format!("{NETWORKS} api=many"), "command line: api: "),
        (NETWORKS.to_string(), "needs two NICs; there are none"),
    ];
    for ((line, says), board) in cases.into_iter().zip(BOARDS) {
        let outcome = Run::product(board, &line).finish();
        expect(&outcome, FAILURE, &line);
        assert!(outcome.text().contains(says), "{line}: {}", outcome.text());
        // Another start would go no better, so it is no reset where the machine can be switched off.
        if board != "microvm,acpi=off" {
            let outcome = Run::product(board, &line).without_debug_exit().finish();
            assert_eq!(outcome.reason.as_deref(), Some("guest-shutdown"), "{board}");
        }
    }
}

#[test]
fn the_image_holds_neither_symbols_nor_paths_of_the_machine_that_built_it() {
    let image = fs::read(image_pack::elf_unpacked()).expect("the image");
    let symbols = fs::read(image_pack::elf_with_symbols()).expect("the image with symbols");
    assert!(image.len() < symbols.len() / 2, "{} of {} bytes", image.len(), symbols.len());
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    for path in [root, &format!("{home}/")] {
        let found = image.windows(path.len()).any(|bytes| bytes == path.as_bytes());
        assert!(!found, "{path} is in the image");
    }
}
