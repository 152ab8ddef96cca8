//! The store: paths, what they hold, and who watches them.

use super::Misbehaviour;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Types of messages.
const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const WATCH: u32 = 4;
const WRITE: u32 = 11;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;

#[derive(Default)]
pub(super) struct Tree {
    nodes: BTreeMap<String, String>,
    watches: Vec<(String, String)>,
    /// Something has changed since backends looked at it.
    pub(super) is_news: bool,
    /// What is to be sent to the guest.
    pub(super) outgoing: Vec<u8>,
}

impl Tree {
    pub(super) fn read(&self, path: &str) -> Option<&str> {
        self.nodes.get(path).map(String::as_str)
    }

    pub(super) fn write(&mut self, path: &str, value: &str) {
        self.nodes.insert(path.to_string(), value.to_string());
        self.changed(path);
    }

    pub(super) fn remove(&mut self, path: &str) {
        self.nodes.retain(|node, _| !node.starts_with(path));
        self.changed(path);
    }

    fn changed(&mut self, path: &str) {
        self.is_news = true;
        let concerns = |of: &str| of.starts_with(path) || path.starts_with(of);
        let tokens: Vec<_> =
            self.watches.iter().filter(|(of, _)| concerns(of)).map(|(_, token)| token.clone()).collect();
        tokens.iter().for_each(|token| self.tell(path, token));
    }

    fn tell(&mut self, path: &str, token: &str) {
        let body = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"].concat();
        self.send(WATCH_EVENT, 0, &body, None);
    }

    fn send(&mut self, kind: u32, number: u32, body: &[u8], length: Option<u32>) {
        let length = length.unwrap_or(body.len() as u32);
        [kind, number, 0, length].iter().for_each(|word| self.outgoing.extend(word.to_le_bytes()));
        self.outgoing.extend(body);
    }

    fn names(&self, path: &str) -> Option<Vec<u8>> {
        let below = alloc::format!("{path}/");
        let name = |node: &String| node.strip_prefix(&below)?.split('/').next().map(ToString::to_string);
        let mut names: Vec<_> = self.nodes.keys().filter_map(name).collect();
        names.dedup();
        (!names.is_empty()).then(|| names.join("\0").into_bytes())
    }

    pub(super) fn answer(&mut self, kind: u32, number: u32, body: &[u8], wrong: &Misbehaviour) {
        let mut parts = body.split(|byte| *byte == 0).map(|part| core::str::from_utf8(part).expect("text"));
        let path = parts.next().expect("a path");
        let done = || Some(b"OK\0".to_vec());
        let answer: Option<Vec<u8>> = match kind {
            READ if wrong.error.is_some() => None,
            READ => self.read(path).map(|value| value.as_bytes().to_vec()),
            DIRECTORY => self.names(path),
            WATCH => {
                self.watches.push((path.to_string(), parts.next().expect("a token").to_string()));
                done()
            }
            WRITE if wrong.refuses => None,
            WRITE => {
                self.write(path, parts.next().expect("a value"));
                done()
            }
            kind => panic!("a request of type {kind}"),
        };
        let error = || [wrong.error.unwrap_or("ENOENT").as_bytes(), b"\0"].concat();
        let (said, body) = answer.map_or_else(|| (ERROR, error()), |body| (kind, body));
        self.send(wrong.kind.unwrap_or(said), number, &body, wrong.length);
        if kind == WATCH {
            let (path, token) = self.watches.last().cloned().expect("it was just pushed");
            self.tell(&path, &token);
        }
    }
}
