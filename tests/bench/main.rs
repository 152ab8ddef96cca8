//! The benchmark: our image and, beside it in the same run, the Linux peers, under the same QEMU; and the appliance as
//! a process beside tgtd.
//!
//! This builds and installs what is needed; `peer/bench.py report` measures, and writes the table and the plot. Ratios
//! hold on a noisy machine, absolute figures do not.
#![forbid(unsafe_code)]

use image_launch::machine::Board;
use image_launch::{Context, Error, Result, process, setup};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::SystemTime;

const HELP: &str = "\
cargo bench-peer [OPTIONS] [-- OPTIONS OF bench.py report]

  --quick             one short sample of each figure, MTU 9000 alone, about 5 minutes; without it 40
  --only PART         size, boot, insn, floor, load, scale or memory instead of all
  --pairs N           pairs of samples of each figure under load (default 5)
  --mtu LIST          MTUs (default 1500,9000, quick 9000)
  --machine NAME      q35 (default), pc or microvm for our image; the peers stay on q35
  --memory MIB        memory of our image (default 64)
  --image FILE        another image than the one built here
  --deadline MINUTES  after which it ends with what it has; samples are as long as it allows (default 40, quick 10)
  --results DIR       where results.json, results.md and ratios.svg go (default: bench in the target directory)
  --publish           into tests/bench/results, and the tables into tests/bench/README.md
";

const BEGIN: &str = "<!-- results: written by `cargo bench-peer --publish` -->";
const END: &str = "<!-- end of the results -->";

struct Options {
    /// What bench.py is told as it was told here.
    words: Vec<String>,
    board: Board,
    image: Option<PathBuf>,
    results: Option<PathBuf>,
    publish: bool,
}

fn main() -> ExitCode {
    match options().and_then(|options| options.map_or(Ok(()), |options| bench(&options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Option<Options>> {
    let mut options =
        Options { words: Vec::new(), board: Board::Q35, image: None, results: None, publish: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| Error::new(format!("{word} wants a value")));
        match word.as_str() {
            "--quick" => options.words.push(word),
            "--only" => options.words.extend(["--part".into(), value()?]),
            "--pairs" => options.words.extend(["--reps".into(), value()?]),
            "--mtu" => options.words.extend(["--mtus".into(), value()?]),
            "--memory" | "--deadline" => {
                let value = value()?;
                options.words.extend([word, value]);
            }
            "--machine" => options.board = value()?.parse()?,
            "--image" => options.image = Some(value()?.into()),
            "--results" => options.results = Some(value()?.into()),
            "--publish" => options.publish = true,
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(None);
            }
            "--" => options.words.extend(words.by_ref()),
            other => return Error::because(format!("unknown option {other}\n\n{HELP}")),
        }
    }
    Ok(Some(options))
}

fn bench(options: &Options) -> Result<()> {
    setup::ensure(setup::RUN)?;
    setup::ensure(setup::BENCH)?;
    if !rustix::process::geteuid().is_root() {
        return Error::because("the benchmark lays TAP devices: run it as root");
    }
    let image = match &options.image {
        Some(image) => image.clone(),
        None => image_launch::image()?,
    };
    let target = target()?;
    let hosted = hosted(&target)?;
    let out = std::env::temp_dir().join("corbel-peer");
    fs::create_dir_all(&out).context(out.display())?;
    if is_stale(&out.join("img/tool.img")) {
        println!("building the Linux peers from Debian packages");
        run(python("mkpeer.py").arg("--out").arg(&out))?;
    }
    let results = match &options.results {
        _ if options.publish => here("results"),
        Some(folder) => folder.clone(),
        None => target.join("bench"),
    };
    clear_stale();
    let mut command = python("bench.py");
    command.arg("report").args(["--board", options.board.machine()]).arg("--image").arg(&image);
    command.arg("--hosted").arg(&hosted).arg("--results").arg(&results).arg("--out").arg(&out);
    if image == image_pack::elf() {
        command.arg("--symbols").arg(image_pack::elf_with_symbols());
    }
    let result = run(command.args(&options.words));
    clear(&namespace());
    // Whatever has failed, what was measured is told.
    if options.publish {
        publish(&results)?;
    }
    result
}

/// The target directory that this program was built into.
fn target() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding this program")?;
    let target = program.parent().and_then(Path::parent);
    target.map(Path::to_path_buf).ok_or_else(|| Error::new("this program lies in no target directory"))
}

/// The appliance as a Linux program, built as what ships is.
fn hosted(target: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--release", "-p", "image_appliance", "--target-dir"]).arg(target);
    run(command.current_dir(env!("CARGO_MANIFEST_DIR")))?;
    Ok(target.join("release/appliance"))
}

/// Whether the guests were built from other scripts than those here.
fn is_stale(built: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let built = modified(built).unwrap_or(SystemTime::UNIX_EPOCH);
    ["mkpeer.py", "guest-init.sh"].iter().any(|script| modified(&here("peer").join(script)) > Some(built))
}

/// Puts the tables into the README, in the place of those before.
fn publish(results: &Path) -> Result<()> {
    let readme = here("README.md");
    let text = fs::read_to_string(&readme).context(readme.display())?;
    let tables = fs::read_to_string(results.join("results.md")).context(results.display())?;
    let parts = text.split_once(BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let Some((head, tail)) = parts else {
        return Error::because(format!("{}: no place for the results", readme.display()));
    };
    let plot = "![How many times better than the Linux peer](results/ratios.svg)";
    fs::write(&readme, format!("{head}{BEGIN}\n\n{plot}\n\n{tables}\n{END}{tail}"))
        .context(readme.display())?;
    println!("{} has the tables", readme.display());
    Ok(())
}

/// A file of the benchmark.
fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/bench").join(name)
}

fn python(script: &str) -> Command {
    let mut command = process::command("python3");
    command.arg(here("peer").join(script)).env("PEER_NS", namespace());
    // What it starts ends with it, and it ends with us.
    command.env("BENCH_PARENT", std::process::id().to_string());
    command
}

/// Runs a command that speaks for itself.
fn run(command: &mut Command) -> Result<()> {
    let shown = process::show(command);
    let status = command.status().context(&shown)?;
    if status.success() { Ok(()) } else { Error::because(format!("`{shown}`: {status}")) }
}

/// The network namespace of this run, by which bench.py also names its disk.
fn namespace() -> String {
    format!("bench-{}", std::process::id())
}

/// Takes away what bench.py may leave: a namespace, what runs in it, and a disk in memory.
fn clear(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = Command::new("ip").args(["netns", "delete", name]).status();
    for leftover in ["raw", "map"] {
        let _ = fs::remove_file(format!("/dev/shm/{name}.{leftover}"));
    }
    let _ = fs::remove_dir_all(format!("/dev/shm/{name}.raw.d"));
}

/// The same for runs that were killed.
fn clear_stale() {
    let Ok(namespaces) = fs::read_dir("/run/netns") else { return };
    for name in namespaces.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix("bench-").and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            clear(&name);
        }
    }
}
