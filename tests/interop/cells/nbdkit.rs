//! A row behind nbdkit: its error, delay and pause filters, and its eval plugin for a flush that fails, as no filter can.

use super::rows;
use super::worker::Column;
use super::world::{SIZE, World};
use crate::service::{Inside, PORT, Place};
use image_launch::net::Wire;
use image_launch::process::{self, Process};
use image_launch::wait;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);
/// How long it fails or pauses: less than a client waits before it gives a connection up, because nbdkit of Debian 12
/// fails an assertion of its own when it is left with requests under way.
const TIME: Duration = Duration::from_secs(4);

/// Filters, plugin and parameters of the disk of a column; `trigger` is there while it is to fail.
fn words(column: Column, file: &Path, trigger: &Path) -> Vec<String> {
    let (file, trigger) = (file.display(), trigger.display());
    let failing = |what: &str, errno: &str| {
        let filter = ["--filter=error".to_string(), "file".into(), format!("file={file}")];
        let parameters = [
            format!("error-{what}={errno}"),
            format!("error-{what}-rate=100%"),
            format!("error-{what}-file={trigger}"),
        ];
        [&filter[..], &parameters].concat()
    };
    match column {
        Column::Read => failing("pread", "EIO"),
        Column::Write => failing("pwrite", "ENOSPC"),
        Column::Flush => vec![
            "eval".into(),
            format!("get_size=echo {SIZE}"),
            format!("pread=dd if={file} iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none"),
            format!("pwrite=dd of={file} oflag=seek_bytes conv=notrunc seek=$4 status=none"),
            "can_write=exit 0".into(),
            "can_flush=exit 0".into(),
            format!("flush=if [ -e {trigger} ]; then echo EIO no flush now >&2; exit 1; fi; sync {file}"),
        ],
        Column::Abort => {
            vec!["--filter=delay".into(), "file".into(), format!("file={file}"), "delay-write=100ms".into()]
        }
        Column::Idle | Column::Unflushed | Column::Login => {
            let control = format!("pause-control={trigger}");
            vec!["--filter=pause".into(), "file".into(), format!("file={file}"), control]
        }
    }
}

pub(crate) fn play() {
    let trigger = |column: Column| Inside.file(&format!("nbdkit.{}", column.name()));
    let (mut files, mut processes) = (Vec::new(), Vec::new());
    for (n, column) in (0..).zip(Column::ALL) {
        let file = Inside.file(&format!("nbdkit.disk{n}"));
        image_launch::disk::empty(&file, SIZE).unwrap();
        processes.push(start(PORT + n, &words(column, &file, &trigger(column))));
        files.push(file);
    }
    World::play_behind(files, rows::row("nbdkit"), |_| {
        for column in [Column::Read, Column::Write, Column::Flush] {
            fs::write(trigger(column), "").unwrap();
        }
        let pausing = [Column::Idle, Column::Unflushed, Column::Login];
        pausing.iter().for_each(|column| pause(&trigger(*column), *b"pP"));
        sleep(TIME);
        pausing.iter().for_each(|column| pause(&trigger(*column), *b"rR"));
        for column in [Column::Read, Column::Write, Column::Flush] {
            fs::remove_file(trigger(column)).unwrap();
        }
        sleep(Duration::from_secs(1));
    });
    for process in &mut processes {
        process.must_run().unwrap();
    }
}

fn start(port: u16, words: &[String]) -> Process {
    let mut command = process::command("nbdkit");
    let address = Wire::Service.here();
    command.args(["-f", "-i", &address.to_string(), "-p", &port.to_string()]).args(words);
    let log: PathBuf = Inside.file(&format!("nbdkit.{port}.log"));
    let mut process = Process::start("nbdkit", command, &log).unwrap();
    wait::until("nbdkit", LIMIT, || {
        process.must_run()?;
        Ok(TcpStream::connect((address, port)).ok())
    })
    .unwrap();
    process
}

/// Says one letter to the pause filter, which answers another.
fn pause(control: &Path, [say, hear]: [u8; 2]) {
    let mut stream = UnixStream::connect(control).unwrap();
    stream.write_all(&[say]).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [hear]);
}
