//! Plans as text: one line for the world and one for each fault, each a name and `field=value` words, so that a plan
//! that found something outlives the generator that made it.

use crate::wire::Quality;
use kernel_runtime::Instant;
use std::fmt::Write;
use std::time::Duration;

/// A value in a word. A field that a text does not name has its default, so that old plans stay what they were when a
/// field is added.
pub(crate) trait Word: Sized + Default {
    fn show(&self) -> String;
    fn parse(text: &str) -> Option<Self>;
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Word for $type {
            fn show(&self) -> String {
                self.to_string()
            }
            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}
numbers!(u32 u64 usize);

impl Word for bool {
    fn show(&self) -> String {
        (if *self { "yes" } else { "no" }).to_string()
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        }
    }
}

/// Microseconds.
impl Word for Duration {
    fn show(&self) -> String {
        self.as_micros().to_string()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self::from_micros)
    }
}

/// Microseconds since the world began.
impl Word for Instant {
    fn show(&self) -> String {
        self.as_micros().to_string()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self::from_micros)
    }
}

impl Word for [bool; 2] {
    fn show(&self) -> String {
        format!("{},{}", self[0].show(), self[1].show())
    }

    fn parse(text: &str) -> Option<Self> {
        let (first, second) = text.split_once(',')?;
        Some([bool::parse(first)?, bool::parse(second)?])
    }
}

impl Word for Quality {
    fn show(&self) -> String {
        let Self { loss, duplication, corruption, forgery, reordering, latency, jitter } = self;
        format!("{loss},{duplication},{corruption},{forgery},{reordering},{latency},{jitter}")
    }

    fn parse(text: &str) -> Option<Self> {
        let numbers: Option<Vec<u64>> = text.split(',').map(|number| number.parse().ok()).collect();
        let numbers = numbers?;
        let share = |index: usize| numbers.get(index).map(|&number| number as u32);
        Some(Self {
            loss: share(0)?,
            duplication: share(1)?,
            corruption: share(2)?,
            forgery: share(3)?,
            reordering: share(4)?,
            latency: *numbers.get(5)?,
            jitter: *numbers.get(6)?,
        })
    }
}

/// The words of a line, apart.
pub(crate) struct Words<'a> {
    words: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    pub(crate) fn new(text: &'a str) -> Option<Self> {
        let words: Option<Vec<_>> = text.split_whitespace().map(|word| word.split_once('=')).collect();
        words.map(|words| Self { words })
    }

    /// The value of a field, which is used up.
    pub(crate) fn take<T: Word>(&mut self, field: &str) -> Option<T> {
        match self.words.iter().position(|(name, _)| *name == field) {
            None => Some(T::default()),
            Some(place) => T::parse(self.words.swap_remove(place).1),
        }
    }

    /// Whether every word was known.
    pub(crate) fn are_used_up(&self) -> bool {
        self.words.is_empty()
    }
}

/// A field at the end of a line.
pub(crate) fn put<T: Word>(line: &mut String, field: &str, value: &T) {
    let _ = write!(line, " {field}={}", value.show());
}

/// An enum without data whose variants are words.
macro_rules! choice {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[$doc:meta])* $variant:ident),+ $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) enum $name {
            #[default]
            $($(#[$doc])* $variant),+
        }

        impl $name {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),+];
        }

        impl $crate::plan::words::Word for $name {
            fn show(&self) -> String {
                format!("{self:?}")
            }

            fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|choice| format!("{choice:?}") == text)
            }
        }
    };
}

/// A struct that is a line of words.
macro_rules! line {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty),+ $(,)? }
    ) => {
        $(#[$meta])*
        pub(crate) struct $name {
            $($(#[$doc])* pub(crate) $field: $type),+
        }

        impl $name {
            pub(crate) fn show(&self, line: &mut String) {
                $($crate::plan::words::put(line, stringify!($field), &self.$field);)+
            }

            pub(crate) fn parse(words: &mut $crate::plan::words::Words<'_>) -> Option<Self> {
                Some(Self { $($field: words.take(stringify!($field))?),+ })
            }
        }
    };
}

/// An enum whose variants are lines of words.
macro_rules! lines {
    (
        $(#[$meta:meta])*
        $name:ident {
            $($(#[$doc:meta])* $variant:ident { $($field:ident: $type:ty),* $(,)? }),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        pub(crate) enum $name {
            $($(#[$doc])* $variant { $($field: $type),* }),+
        }

        impl $name {
            /// The names of all kinds.
            #[cfg(test)]
            pub(crate) const KINDS: &[&str] = &[$(stringify!($variant)),+];

            /// The name of its kind.
            pub(crate) const fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => stringify!($variant)),+
                }
            }

            pub(crate) fn show(&self, line: &mut String) {
                line.push_str(self.kind());
                match self {
                    $(Self::$variant { $($field),* } => {
                        $($crate::plan::words::put(line, stringify!($field), $field);)*
                    }),+
                }
            }

            pub(crate) fn parse(kind: &str, words: &mut $crate::plan::words::Words<'_>) -> Option<Self> {
                match kind {
                    $(stringify!($variant) => Some(Self::$variant {
                        $($field: words.take(stringify!($field))?),*
                    }),)+
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use {choice, line, lines};
