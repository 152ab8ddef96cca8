//! Distributed engines behind the appliance, by the recipes of `storage/nbd/ENGINES.md`.
//!
//! The scripts here *are* the recipes: the document names their parts, and these tests run them. Each test makes a host
//! ([`image_launch::stage`]), puts an engine of several daemons on its service network, lets an initiator write through
//! the appliance while a gateway and a storage daemon are killed, and looks at every block afterwards: through the
//! appliance, and past it.
#![allow(clippy::unwrap_used, reason = "in a test an error is the end, and its sentence is printed")]

mod ceph;
mod engine;
#[path = "../fixture.rs"]
mod fixture;
mod gluster;
mod load;

/// The page's commands for a provider, word by word: each option must be one that a script here uses.
#[test]
fn the_page_says_what_the_scripts_do() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| std::fs::read_to_string(folder.join(path)).unwrap();
    let page = read("storage/nbd/ENGINES.md");
    let scripts = ["ceph.sh", "gluster.sh", "rbd-gateway.py"]
        .map(|name| read(&format!("tests/interop/engines/{name}")));
    let blocks = page.split("```").skip(1).step_by(2).filter(|block| !block.contains("cargo test"));
    let mut options = 0;
    for word in blocks.flat_map(str::split_whitespace).flat_map(|word| word.split(',')) {
        // What stands behind a place to be filled in is the reader's; the verbs of a script are looked up as they are.
        let option = match word.split_once('=') {
            Some((name, value)) if value.contains(char::is_uppercase) || value.starts_with('/') => {
                format!("{name}=")
            }
            _ => word.to_string(),
        };
        let is_option =
            option.starts_with('-') || option.starts_with("file.") || option.starts_with("driver=");
        if is_option {
            options += 1;
            assert!(scripts.iter().any(|script| script.contains(&option)), "no script has `{option}`");
        }
    }
    assert!(options > 20, "only {options} options found");
}
