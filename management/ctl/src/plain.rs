//! What a server wrote, made safe to show: nothing in it can move the cursor, change colours or hide other text.

/// Whether a terminal shows `character` and does nothing else.
fn is_plain(character: char) -> bool {
    let invisible = matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !character.is_control() && !invisible
}

/// `text` on one line, with each character that a terminal would act on replaced by a space.
pub(crate) fn line(text: &str) -> String {
    let kept = text.chars().map(|character| if is_plain(character) { character } else { ' ' });
    kept.collect::<String>().trim().to_string()
}

/// The same for text of several lines.
pub(crate) fn lines(text: &str) -> String {
    let keep = |character: char| if is_plain(character) || character == '\n' { character } else { ' ' };
    text.chars().map(keep).collect()
}

/// JSON without such characters: they stand only inside strings there, where they have another spelling.
pub(crate) fn json(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for character in text.chars() {
        if is_plain(character) || character == '\n' {
            kept.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                kept += &format!("\\u{unit:04x}");
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_on_a_terminal_passes() {
        let evil = "a\x1b[2Jb\u{9b}31mc\rd\u{202e}e\u{200b}f\x07g\nh\tz";
        assert_eq!(line(evil), "a [2Jb 31mc d e f g h z");
        assert_eq!(lines("a\nb\x1bc"), "a\nb c");
        for code in 0..=0x10_ffff {
            let Some(character) = char::from_u32(code) else { continue };
            let shown = line(&character.to_string());
            assert!(shown.chars().all(|shown| !shown.is_control()), "{code:x}");
        }
    }

    #[test]
    fn json_says_the_same_in_other_words() {
        let value = serde_json::json!({ "a": "x\u{9b}y\u{202e}z\u{1b}\u{e0041}\u{7f}", "b": ["\n"] });
        let text = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(text.chars().all(|character| character == '\n' || is_plain(character)));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
