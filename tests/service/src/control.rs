//! Lines of control: how a test, or a human with `nc -U`, makes the service misbehave (README.md lists them).

use crate::faults::{Aim, Failure, Lie, Torn};
use std::time::Duration;
use storage_nbd::wire::error;

/// What one line orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Some commands fail.
    Fail(Failure),
    /// Commands take long.
    Delay(Aim, Duration),
    /// As if stopped, so long.
    Hang(Duration),
    /// Everything is accepted and nothing executed, so long.
    Stall(Duration),
    /// What dead connections brought is executed so long after their death, or never.
    Late(Option<Duration>),
    /// A write is torn, and the process dies of it.
    Torn(Torn),
    /// The next replies to such commands are lies.
    Lie(Aim, Lie, u32),
    /// Another size.
    Size(u64),
    /// The size that those are told who connect from now on; the disk stays as it is.
    Pretend(u64),
    /// Read-only, or not, for those that connect from now on.
    ReadOnly(bool),
    /// Another name, for those that connect from now on.
    Name(String),
    /// Another description.
    Description(String),
    /// Forget what is not flushed, and be another incarnation.
    Lose,
    /// Cut all connections.
    Drop,
    /// Say how it is.
    Stats,
    /// No faults any more, and no delays.
    Heal,
    /// Flush, and end well.
    Stop,
    /// End at once, with what the cache holds lost.
    Exit,
}

impl Order {
    /// Understands a line.
    ///
    /// # Errors
    /// With a sentence for who wrote it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let order = match words.as_slice() {
            ["fail", what, count, errno, rest @ ..] => fail(what, count, errno, rest)?,
            ["delay", what, time] => Self::Delay(aim(what)?, millis(time)?),
            ["hang", time] => Self::Hang(millis(time)?),
            ["stall", time] => Self::Stall(millis(time)?),
            ["late", "never"] => Self::Late(None),
            ["late", time] => Self::Late(Some(millis(time)?)),
            ["torn", sectors] => Self::Torn(Torn { sectors: number(sectors)?, after: 0 }),
            ["torn", sectors, after] => Self::Torn(Torn { sectors: number(sectors)?, after: number(after)? }),
            ["lie", what, lie] => Self::Lie(aim(what)?, self::lie(lie)?, 1),
            ["lie", what, lie, count] => Self::Lie(aim(what)?, self::lie(lie)?, number(count)?),
            ["size", bytes] => Self::Size(number(bytes)?),
            ["pretend", bytes] => Self::Pretend(number(bytes)?),
            ["readonly", "on"] => Self::ReadOnly(true),
            ["readonly", "off"] => Self::ReadOnly(false),
            ["name", name] => Self::Name((*name).to_string()),
            ["description", words @ ..] => Self::Description(words.join(" ")),
            ["lose"] => Self::Lose,
            ["drop"] => Self::Drop,
            ["stats"] => Self::Stats,
            ["heal"] => Self::Heal,
            ["stop"] => Self::Stop,
            ["exit"] => Self::Exit,
            _ => return Err(format!("not understood: {line}")),
        };
        Ok(order)
    }
}

fn fail(what: &str, count: &str, code: &str, rest: &[&str]) -> Result<Order, String> {
    let (mut after, mut drops) = (0, false);
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        match *word {
            "drop" => drops = true,
            "after" => after = number(rest.next().ok_or("after how many?")?)?,
            other => return Err(format!("not understood: {other}")),
        }
    }
    Ok(Order::Fail(Failure { aim: aim(what)?, after, count: number(count)?, errno: errno(code)?, drops }))
}

fn aim(word: &str) -> Result<Aim, String> {
    let found = Aim::NAMES.iter().find(|(name, _)| *name == word);
    found.map(|(_, aim)| *aim).ok_or_else(|| format!("no such kind of command: {word}"))
}

fn lie(word: &str) -> Result<Lie, String> {
    Ok(match word {
        "short" => Lie::Short,
        "extra" => Lie::Extra,
        "cookie" => Lie::Cookie,
        "nothing" => Lie::Nothing,
        "misdirected" => Lie::Misdirected,
        "flipped" => Lie::Flipped,
        _ => return Err(format!("no such lie: {word}")),
    })
}

fn errno(word: &str) -> Result<u32, String> {
    Ok(match word {
        "EPERM" => error::EPERM,
        "EIO" => error::EIO,
        "ENOMEM" => error::ENOMEM,
        "EINVAL" => error::EINVAL,
        "ENOSPC" => error::ENOSPC,
        "EOVERFLOW" => error::EOVERFLOW,
        "ENOTSUP" => error::ENOTSUP,
        "ESHUTDOWN" => error::ESHUTDOWN,
        other => number(other)?,
    })
}

fn millis(word: &str) -> Result<Duration, String> {
    Ok(Duration::from_millis(number(word)?))
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("not a number: {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_understood_or_answered_with_a_reason() {
        let failure = Failure {
            aim: Aim::Only(storage_nbd::wire::command::FLUSH),
            after: 3,
            count: 2,
            errno: error::EIO,
            drops: true,
        };
        assert_eq!(Order::parse("fail flush 2 EIO drop after 3"), Ok(Order::Fail(failure)));
        assert_eq!(Order::parse(" delay any 20 "), Ok(Order::Delay(Aim::Any, Duration::from_millis(20))));
        assert_eq!(Order::parse("late never"), Ok(Order::Late(None)));
        for wrong in
            ["", "fail", "fail flush x EIO", "fail flood 1 EIO", "fail flush 1 EWHAT", "torn", "hang -1"]
        {
            assert!(Order::parse(wrong).is_err(), "{wrong}");
        }
    }
}
