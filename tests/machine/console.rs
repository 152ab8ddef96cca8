//! A machine without a serial port says what it has to say on a virtio-console.

use crate::fixture::{Turn, script};
use image_launch::appliance::{Kind, READY, REFUSED};
use image_launch::disk::Server;
use image_launch::machine::Board;
use image_launch::stage::{Script, Stage};
use image_launch::wait;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// An image whose serial port is not where the first one is, and that has a console of `device`'s instead.
fn silent(board: Board, text: &str) -> Script {
    let mut script = script(Kind::Image(board), 1 << 20, Server::QemuNbd);
    let bus = board.device("serial", "");
    let words =
        ["-global", "isa-serial.iobase=0x2f8", "-device", &bus, "-device", "virtconsole,chardev=text"];
    script.arguments = words.map(String::from).to_vec();
    script.arguments.extend(["-chardev".into(), format!("file,id=text,path={text}")]);
    script
}

/// Waits for a line, and returns all.
fn line(file: &PathBuf, what: &str) -> String {
    wait::until(what, LIMIT, || {
        let text = fs::read_to_string(file).unwrap_or_default();
        Ok(text.contains(what).then_some(text))
    })
    .unwrap()
}

#[test]
fn a_machine_without_a_serial_port_is_heard_on_a_virtio_console_from_the_first_line_to_the_last() {
    let _turn = Turn::take();
    let file = std::env::temp_dir().join(format!("corbel-console-{}", std::process::id()));
    for board in [Board::Q35, Board::Microvm] {
        let mut stage = Stage::set(&silent(board, &file.display().to_string())).unwrap();
        let text = line(&file, READY);
        assert!(text.contains("KiB of memory") && text.contains("network HostOnly"), "{text}");
        assert_eq!(stage.appliance.console(), "", "{board:?}");
        if board == Board::Q35 {
            let mut qmp = stage.appliance.machine().unwrap().qmp().unwrap();
            qmp.execute("system_powerdown", &serde_json::json!({})).unwrap();
            assert!(stage.appliance.process().wait(LIMIT).unwrap().success());
            line(&file, "corbel: ended");
        }
        drop(stage);
        // One that cannot be what it is told to be says why.
        let mut script = silent(board, &file.display().to_string());
        script.config = vec![("colour".into(), "blue".into())];
        let _stage = Stage::set(&script).unwrap();
        line(&file, &format!("{REFUSED}fw_cfg opt/corbel/config: colour: unknown key"));
    }
    fs::remove_file(file).unwrap();
}
