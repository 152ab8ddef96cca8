//! XML that is well-formed whatever stands in it.

use std::fmt::Write;

/// A document as it is written.
#[derive(Default)]
pub(super) struct Xml(String);

type Attributes<'a> = &'a [(&'a str, &'a str)];

impl Xml {
    fn begin(&mut self, name: &str, attributes: Attributes<'_>) {
        self.0.push('<');
        self.0.push_str(name);
        for (key, value) in attributes {
            self.0.push(' ');
            self.0.push_str(key);
            self.0.push_str("='");
            self.escaped(value);
            self.0.push('\'');
        }
    }

    /// An element that holds nothing.
    pub(super) fn empty(&mut self, name: &str, attributes: Attributes<'_>) {
        self.begin(name, attributes);
        self.0.push_str("/>");
    }

    /// An element that holds text.
    pub(super) fn text(&mut self, name: &str, attributes: Attributes<'_>, text: &str) {
        self.within(name, attributes, |xml| xml.escaped(text));
    }

    /// An element that holds others.
    pub(super) fn within(&mut self, name: &str, attributes: Attributes<'_>, inside: impl FnOnce(&mut Self)) {
        self.begin(name, attributes);
        self.0.push('>');
        inside(self);
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
    }

    /// What another document of this kind holds.
    pub(super) fn already_written(&mut self, other: &str) {
        self.0.push_str(other);
    }

    /// A character that means something is written as a reference; one that no XML document can hold (XML 1.0 section
    /// 2.2) is replaced.
    fn escaped(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '&' | '<' | '>' | '"' | '\'' | '\t' | '\n' | '\r' => {
                    // Writing to a string does not fail.
                    let _ = write!(self.0, "&#{};", u32::from(character));
                }
                '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => self.0.push('\u{fffd}'),
                other => self.0.push(other),
            }
        }
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_put_in_it_stays_inside() {
        // Every character that could do harm, alone and beside each other one.
        let evil: Vec<char> =
            (0..=0xff).chain([0xfffd, 0xfffe, 0xffff, 0x1_0000]).filter_map(char::from_u32).collect();
        for first in &evil {
            for second in &evil {
                let text = format!("{first}{second}]]>");
                let mut xml = Xml::default();
                xml.within("a", &[("b", &text)], |xml| xml.text("c", &[], &text));
                let written = xml.finish();
                let document = roxmltree::Document::parse(&written).unwrap();
                let root = document.root_element();
                assert_eq!(root.children().count(), 1);
                let held = |c: &char| !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
                if held(first) && held(second) {
                    assert_eq!(root.attribute("b"), Some(text.as_str()));
                    assert_eq!(root.first_child().unwrap().text(), Some(text.as_str()));
                }
            }
        }
    }
}
