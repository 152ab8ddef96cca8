//! State machines as tables of arrows, for the engines on either side of the waist.

use alloc::string::String;
use core::fmt::{Debug, Write};

/// Makes a table of arrows what the states of an enumeration go by: `after`, and for tests the arrows with their names.
///
/// ```
/// #[derive(Clone, Copy)]
/// enum Door { Open, Shut }
/// #[derive(Clone, Copy)]
/// enum Hand { Pull, Push }
/// storage_block::arrows! {
///     pub(crate) Door by Hand;
///     "D1" Open --Pull--> Shut;
///     "D2" Shut --Push--> Open;
/// }
/// assert!(matches!(Door::Open.after(Hand::Pull), Some(Door::Shut)));
/// assert!(Door::Open.after(Hand::Push).is_none());
/// ```
#[macro_export]
macro_rules! arrows {
    ($visible:vis $state:ident by $trigger:ident; $($name:literal $from:ident --$cause:ident--> $to:ident;)*) => {
        impl $state {
            /// The state after `trigger`, or `None` where no such arrow is drawn.
            $visible const fn after(self, trigger: $trigger) -> Option<Self> {
                match (self, trigger) {
                    $(($state::$from, $trigger::$cause) => Some($state::$to),)*
                    _ => None,
                }
            }

            /// The arrows in the order of the table.
            #[cfg(test)]
            pub(crate) const ARROWS: &'static [(&'static str, $state, $trigger, $state)] =
                &[$(($name, $state::$from, $trigger::$cause, $state::$to),)*];
        }
    };
}

/// Compares what [`draw`] has drawn with `STATES.txt` in the folder of the package whose test calls it, and writes it there
/// first when `CORBEL_WRITE_STATES` is set.
#[macro_export]
macro_rules! assert_states_shown {
    ($drawn:expr) => {
        let drawn = std::string::String::from($drawn.trim_end()) + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/STATES.txt");
        if std::env::var_os("CORBEL_WRITE_STATES").is_some() {
            std::fs::write(path, &drawn).expect("written");
        }
        let shown = std::fs::read_to_string(path).expect("the text");
        assert!(shown == drawn, "STATES.txt is not what is drawn; look at what has changed:\n{drawn}");
    };
}

/// Shows one machine for people: a row for each state and a column for each, in the cells the names of the arrows from the
/// one to the other; then the arrows with their triggers. A state's name begins with a short one for the columns.
pub fn draw<S: Copy + PartialEq + Debug, T: Copy + Debug>(
    title: &str,
    states: &[(S, &str)],
    arrows: &[(&str, S, T, S)],
) -> String {
    let mut text = String::from(title);
    // What is written to a text cannot fail.
    let _ = write!(text, "\n\n    {:22}", "");
    let columns = || states.iter().map(|(_, name)| name.split(' ').next().unwrap_or_default());
    let width = columns().map(|name| name.len() + 2).max().unwrap_or_default().max(8);
    for name in columns() {
        let _ = write!(text, "{name:width$}");
    }
    for &(from, name) in states {
        text.truncate(text.trim_end().len());
        let _ = write!(text, "\n    {name:22}");
        for &(to, _) in states {
            let mut cell = String::new();
            let mut last = "";
            for &(name, ..) in arrows.iter().filter(|arrow| (arrow.1, arrow.3) == (from, to)) {
                if name != last {
                    cell.push_str(if last.is_empty() { "" } else { "," });
                    cell.push_str(name);
                    last = name;
                }
            }
            let _ = write!(text, "{:width$}", if cell.is_empty() { "-" } else { &cell });
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    for (name, from, trigger, to) in arrows {
        // The names of variants, which know no widths.
        let _ = write!(text, "\n    {name:5} {from:?} --{trigger:?}--> {to:?}");
    }
    text + "\n\n"
}
