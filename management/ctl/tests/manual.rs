//! The manual page and the completions, looked at by the programs that read them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod canned;

use std::fs;
use std::process::Command;

#[test]
fn the_manual_page_has_every_command_and_no_fault_of_form() {
    let run = canned::run(canned::command(&["man"]));
    assert_eq!(run.code, 0);
    for word in [
        "CORBELCTL INSTANCES",
        "CORBELCTL TARGETS EXPOSE",
        "CORBELCTL NETWORKS APPLY",
        "CORBELCTL VOLUME ATTACH",
        "Exit codes",
    ] {
        assert!(run.out.contains(word), "{word}");
    }
    let page = canned::folder().join("corbelctl.1");
    fs::write(&page, &run.out).unwrap();
    let lint = Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&page).output().unwrap();
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
    let shown = Command::new("mandoc").args(["-T", "utf8"]).arg(&page).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("corbelctl"), "{shown}");
}

#[test]
fn completions_are_scripts_that_their_shells_understand() {
    let folder = canned::folder();
    for (shell, program) in [("bash", Some("bash")), ("zsh", None), ("fish", None), ("elvish", None)] {
        let run = canned::run(canned::command(&["completion", shell]));
        assert_eq!(run.code, 0);
        assert!(run.out.contains("terminate"), "{shell}");
        let script = folder.join(shell);
        fs::write(&script, &run.out).unwrap();
        if let Some(program) = program {
            let check = Command::new(program).arg("-n").arg(&script).output().unwrap();
            assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
        }
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let script = canned::folder().join("bash");
    fs::write(&script, canned::run(canned::command(&["completion", "bash"])).out).unwrap();
    let complete = |words: &[&str]| {
        let line = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; _corbelctl corbelctl '{}' '{}'; echo \"${{COMPREPLY[*]}}\"",
            script.display(),
            words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let output = Command::new("bash").args(["-c", &line]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete(&["corbelctl", "term"]).trim(), "terminate");
    assert_eq!(complete(&["corbelctl", "targets", "ex"]).trim(), "expose");
    assert!(complete(&["corbelctl", "stop", "--"]).contains("--timeout"));
}

#[test]
fn every_command_says_what_it_is_for_within_a_hundred_columns() {
    let mut waiting = vec![Vec::<String>::new()];
    let mut seen = 0;
    while let Some(path) = waiting.pop() {
        let mut command = canned::command(&[]);
        command.args(&path).arg("--help").env("COLUMNS", "100");
        let help = canned::run(command);
        assert_eq!(help.code, 0, "{path:?}");
        assert!(help.out.lines().all(|line| line.chars().count() <= 100), "{path:?}\n{}", help.out);
        let about = help.out.lines().next().unwrap_or_default();
        assert!(about.len() > 10 && !about.starts_with("Usage"), "{path:?} has no words: {about}");
        seen += 1;
        let commands = help.out.split("\nCommands:\n").nth(1).unwrap_or_default();
        for line in commands.lines().take_while(|line| !line.is_empty()) {
            // Lines that go on are set further in.
            let Some(name) = line.strip_prefix("  ").filter(|line| !line.starts_with(' ')) else { continue };
            let name = name.split_whitespace().next().unwrap_or_default();
            if name != "help" {
                waiting.push([&path[..], &[name.to_string()]].concat());
            }
        }
    }
    assert!(seen > 30, "only {seen}");
}
