//! Who may prove what: accounts, as an operator makes them.

use crate::hash::{Algorithms, Secret};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use subtle::ConstantTimeEq;

/// Most accounts that one target, or discovery, can have.
pub const MAX_ACCOUNTS: usize = 32;
/// Most bytes of a user's name: what a text value may have (RFC 7143 section 6.1).
pub const MAX_USER: usize = 255;

/// A user's name and secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// The name: CHAP_N.
    pub user: Box<str>,
    /// The secret.
    pub secret: Secret,
}

/// One initiator's account, or that of several that are not told apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// The iSCSI name of the one initiator that may use it; without it any that may log in at all.
    pub initiator: Option<Box<str>>,
    /// What the initiator proves itself by.
    pub from_initiator: Credentials,
    /// What the target proves itself by, to an initiator that asks for it and has proven itself.
    pub from_target: Option<Credentials>,
}

/// The accounts of a target or of discovery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    accounts: Vec<Account>,
    pub(crate) algorithms: Algorithms,
}

/// Why accounts are not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotSafe {
    /// There are none, or more than [`MAX_ACCOUNTS`].
    Number,
    /// A user's name is empty, longer than [`MAX_USER`], or has control characters.
    User,
    /// Two accounts have the same user, and not each an initiator of its own.
    Twice,
    /// A secret serves in both directions (9.2.1): who hears one end prove itself could prove to be the other.
    BothDirections,
}

impl fmt::Display for NotSafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "1 to 32 accounts",
            Self::User => "a user's name has 1 to 255 bytes and no control characters",
            Self::Twice => "two accounts have the same user",
            Self::BothDirections => "a secret of an initiator is also one of a target",
        })
    }
}

impl Access {
    /// Accounts, and the algorithms they may be used with.
    ///
    /// # Errors
    /// When they are not safe to use together.
    pub fn new(mut accounts: Vec<Account>, algorithms: Algorithms) -> Result<Self, NotSafe> {
        for name in accounts.iter_mut().filter_map(|account| account.initiator.as_mut()) {
            name.make_ascii_lowercase();
        }
        if accounts.is_empty() || accounts.len() > MAX_ACCOUNTS {
            return Err(NotSafe::Number);
        }
        for (index, account) in accounts.iter().enumerate() {
            let users = [Some(&account.from_initiator), account.from_target.as_ref()];
            let is_name =
                |user: &str| (1..=MAX_USER).contains(&user.len()) && !user.chars().any(char::is_control);
            if !users.iter().flatten().all(|credentials| is_name(&credentials.user)) {
                return Err(NotSafe::User);
            }
            let same = accounts[..index].iter().any(|other| {
                other.from_initiator.user == account.from_initiator.user
                    && (other.initiator == account.initiator
                        || other.initiator.is_none()
                        || account.initiator.is_none())
            });
            if same {
                return Err(NotSafe::Twice);
            }
        }
        let access = Self { accounts, algorithms };
        if access.clashes_with(&access) { Err(NotSafe::BothDirections) } else { Ok(access) }
    }

    /// The initiators that accounts are for.
    pub fn initiators(&self) -> impl Iterator<Item = &str> {
        self.accounts.iter().filter_map(|account| account.initiator.as_deref())
    }

    /// Whether a secret of an initiator in one is a secret of a target in the other.
    pub fn clashes_with(&self, other: &Self) -> bool {
        self.shows(other) || other.shows(self)
    }

    /// Whether a target proves itself here by what an initiator of `other` proves itself by.
    fn shows(&self, other: &Self) -> bool {
        let shown = self.accounts.iter().filter_map(|account| account.from_target.as_ref());
        let mut pairs = shown
            .flat_map(|target| other.accounts.iter().map(move |account| (target, &account.from_initiator)));
        pairs.any(|(target, initiator)| target.secret == initiator.secret)
    }

    /// The account of a user that says to be this initiator, if there is one; and one whose secret takes as long to try.
    pub(crate) fn find(&self, initiator: &str, user: &str) -> (Option<&Account>, &Account) {
        let found = self.accounts.iter().find(|account| {
            let is_meant = account.initiator.as_deref().is_none_or(|name| name == initiator);
            let is_user = account.from_initiator.user.as_bytes().ct_eq(user.as_bytes());
            is_meant & bool::from(is_user)
        });
        (found, found.unwrap_or(&self.accounts[0]))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn credentials(user: &str, secret: &str) -> Credentials {
        Credentials { user: user.into(), secret: Secret::new(secret).unwrap() }
    }

    pub(crate) fn account(initiator: Option<&str>, user: &str, secret: &str) -> Account {
        Account {
            initiator: initiator.map(Into::into),
            from_initiator: credentials(user, secret),
            from_target: None,
        }
    }

    fn access(accounts: &[Account]) -> Result<Access, NotSafe> {
        Access::new(accounts.to_vec(), Algorithms::ALL)
    }

    #[test]
    fn accounts_are_found_by_user_and_initiator() {
        let access = access(&[
            account(Some("iqn.a"), "host", "secret number one"),
            account(Some("iqn.B"), "host", "secret number two"),
            account(None, "guest", "secret number three"),
        ])
        .unwrap();
        let find = |initiator, user| {
            access.find(initiator, user).0.map(|account| account.from_initiator.secret.bytes().len())
        };
        assert_eq!(access.find("iqn.b", "host").0, Some(&access.accounts[1]));
        assert_eq!(find("iqn.c", "host"), None, "another initiator's account");
        assert_eq!(find("iqn.c", "guest"), Some(19));
        assert_eq!(find("iqn.a", "Host"), None);
        assert_eq!(find("iqn.a", ""), None);
    }

    #[test]
    fn accounts_that_are_not_safe_together_are_refused() {
        let one = account(None, "one", "secret number one");
        let mutual = |secret| Account { from_target: Some(credentials("target", secret)), ..one.clone() };
        assert_eq!(access(&[]), Err(NotSafe::Number));
        let many: Vec<Account> =
            (0..33).map(|n| account(None, &n.to_string(), "secret of all of them")).collect();
        assert_eq!(access(&many), Err(NotSafe::Number));
        assert!(access(&many[..32]).is_ok());
        assert_eq!(access(&[account(None, "", "secret number one")]), Err(NotSafe::User));
        assert_eq!(access(&[account(None, "a\nb", "secret number one")]), Err(NotSafe::User));
        assert_eq!(access(&[account(None, &"x".repeat(256), "secret number one")]), Err(NotSafe::User));
        assert_eq!(access(&[one.clone(), one.clone()]), Err(NotSafe::Twice));
        assert_eq!(
            access(&[one.clone(), account(Some("iqn.a"), "one", "secret of two")]),
            Err(NotSafe::Twice)
        );
        assert_eq!(access(&[mutual("secret number one")]), Err(NotSafe::BothDirections));
        let two = account(None, "two", "secret number two");
        assert_eq!(access(&[mutual("secret number two"), two.clone()]), Err(NotSafe::BothDirections));
        let (first, second) = (access(&[mutual("secret number two")]).unwrap(), access(&[two]).unwrap());
        assert!(first.clashes_with(&second) && second.clashes_with(&first));
        assert!(!first.clashes_with(&first));
    }

    #[test]
    fn nothing_of_a_secret_is_in_what_is_shown() {
        let mutual = Account {
            from_target: Some(credentials("target", "hidden as well")),
            ..account(None, "one", "hidden and unseen")
        };
        assert!(!format!("{:?}", access(&[mutual]).unwrap()).contains("hidden"));
    }
}
