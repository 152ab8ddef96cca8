//! The lines of a trace. `README.md` has the grammar.

use super::data::Data;

/// One step of a trace, and the line it stands on.
pub(super) struct Step {
    pub(super) line: usize,
    /// Which of the trace's initiators takes it.
    pub(super) who: char,
    pub(super) act: Act,
}

/// What is done, and what has to come of it.
pub(super) enum Act {
    /// A TCP connection of the initiator of this name, port and unit.
    Connect { name: String, isid: [u8; 6], lun: u8 },
    /// A login request from one stage to the next, and the keys of its answer.
    Login { stages: (u8, u8), keys: Vec<(String, String)>, answer: Vec<(String, String)> },
    /// A text request, and the keys of its answer.
    Text { keys: Vec<(String, String)>, answer: Vec<(String, String)> },
    /// From here on it asks this logical unit.
    Unit(u8),
    /// A SCSI command.
    Command(Command),
    /// A ping, which is answered.
    Ping,
    /// A task management function about the last command, and its response.
    Manage { function: u8, response: u8 },
    /// A logout for this reason, which closes the connection.
    Logout { reason: u8 },
    /// The connection goes without a word.
    Drop,
}

/// A SCSI command.
pub(super) struct Command {
    pub(super) cdb: Data,
    /// Bytes that may come.
    pub(super) expected: u32,
    /// Bytes that go.
    pub(super) out: Data,
    pub(super) outcome: Outcome,
}

/// How a command ends.
pub(super) enum Outcome {
    /// GOOD, with this data.
    Good(Data),
    /// CHECK CONDITION with this sense key, code and qualifier.
    Sense(u8, u8, u8),
    /// Another status.
    Status(u8),
}

/// Reads a trace.
pub(super) fn parse(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut whole = (0, String::new());
    for (number, line) in (1..).zip(text.lines().chain([""])) {
        let line = line.trim_end();
        if line.starts_with('#') {
            continue;
        }
        // A line that is indented goes on with the one before it.
        if line.starts_with(' ') {
            whole.1.push_str(line);
            continue;
        }
        if !whole.1.is_empty() {
            let (line, text) = &whole;
            steps.push(step(*line, text).map_err(|error| format!("line {line}: {error}"))?);
        }
        whole = (number, line.to_string());
    }
    Ok(steps)
}

fn step(line: usize, text: &str) -> Result<Step, String> {
    let words = words(text);
    let mut sides = words.splitn(2, |word| word == "->");
    let (ask, answer) = (sides.next().unwrap_or_default(), sides.next().unwrap_or_default());
    let [who, verb, rest @ ..] = ask else { return Err("expected an initiator and what it does".into()) };
    let mut letters = who.chars();
    let (Some(who), None) = (letters.next(), letters.next()) else {
        return Err(format!("{who} is no letter"));
    };
    let act = match verb.as_str() {
        "connect" => connect(rest)?,
        "login" => {
            let (stages, keys) = rest.split_first().ok_or("expected stages")?;
            Act::Login { stages: stages_of(stages)?, keys: pairs(keys)?, answer: pairs(answer)? }
        }
        "text" => Act::Text { keys: pairs(rest)?, answer: pairs(answer)? },
        "cdb" => Act::Command(command(rest, answer)?),
        "unit" => Act::Unit(number(rest.first())?),
        "ping" => Act::Ping,
        "manage" => Act::Manage { function: number(rest.first())?, response: number(answer.first())? },
        "logout" => Act::Logout { reason: number(rest.first())? },
        "drop" => Act::Drop,
        other => return Err(format!("nobody can {other}")),
    };
    Ok(Step { line, who, act })
}

fn connect(words: &[String]) -> Result<Act, String> {
    let [name, isid, lun] = words else { return Err("expected a name, an ISID and a unit".into()) };
    let bytes = u64::from_str_radix(isid, 16).map_err(|_| format!("{isid} is no ISID"))?.to_be_bytes();
    let mut isid = [0; 6];
    isid.copy_from_slice(&bytes[2..]);
    Ok(Act::Connect { name: name.clone(), isid, lun: number(Some(lun))? })
}

fn stages_of(word: &str) -> Result<(u8, u8), String> {
    let parsed = word.split_once('>').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    parsed.ok_or(format!("{word} are no stages"))
}

fn pairs(words: &[String]) -> Result<Vec<(String, String)>, String> {
    let pair = |word: &String| {
        let (key, value) = word.split_once('=')?;
        Some((key.to_string(), value.to_string()))
    };
    words.iter().map(|word| pair(word).ok_or(format!("{word} is no key with a value"))).collect()
}

fn command(words: &[String], answer: &[String]) -> Result<Command, String> {
    let way = words.iter().position(|word| word == "in" || word == "out").unwrap_or(words.len());
    let (cdb, rest) = words.split_at(way);
    let (mut expected, mut out) = (0, Data::default());
    match rest.split_first() {
        Some((way, words)) if way == "out" => out = Data::parse(words)?,
        Some((_, words)) => expected = number(words.first())?,
        None => {}
    }
    let (status, data) = answer.split_first().ok_or("expected a status")?;
    let outcome = match status.as_str() {
        "good" => Outcome::Good(Data::parse(data)?),
        "sense" => {
            let word = data.first().ok_or("expected sense")?;
            let parts: Vec<_> = word.split('/').map(|part| u8::from_str_radix(part, 16)).collect();
            let [Ok(key), Ok(code), Ok(qualifier)] = parts[..] else {
                return Err(format!("{word} is no sense"));
            };
            Outcome::Sense(key, code, qualifier)
        }
        "conflict" => Outcome::Status(0x18),
        other => return Err(format!("{other} is no status")),
    };
    Ok(Command { cdb: Data::parse(cdb)?, expected, out, outcome })
}

fn number<T: std::str::FromStr>(word: Option<&String>) -> Result<T, String> {
    let word = word.ok_or("expected a number")?;
    word.parse().map_err(|_| format!("{word} is no number"))
}

/// The words of a line; what stands in quotes is one, with them.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted) = (String::new(), false);
    for sign in text.chars().chain([' ']) {
        quoted ^= sign == '"';
        if sign != ' ' || quoted {
            word.push(sign);
        } else if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_may_go_on_in_the_lines_below() {
        let steps = parse("# why\nA cdb 12 00*5 in 36\n  -> good 00\n  ...\n\nB drop\n").unwrap();
        assert_eq!(steps.iter().map(|step| (step.line, step.who)).collect::<Vec<_>>(), [(2, 'A'), (6, 'B')]);
        let Act::Command(command) = &steps[0].act else { panic!("it is a command") };
        assert_eq!(command.expected, 36);
        assert!(matches!(&command.outcome, Outcome::Good(data) if *data != Data::default()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_line() {
        for line in [
            "A",
            "AB drop",
            "A jump",
            "A login 01",
            "A login 0>1 Key",
            "A cdb 12",
            "A cdb 12 -> fine",
            "A cdb 12 -> sense 5/24",
            "A connect name 1",
        ] {
            let error = parse(&format!("\n{line}\n")).map(drop).unwrap_err();
            assert!(error.starts_with("line 2: "), "{error}");
        }
    }

    #[test]
    fn a_text_with_spaces_is_one_word() {
        assert_eq!(words("a  \"b c\"*2 d"), ["a", "\"b c\"*2", "d"]);
    }
}
