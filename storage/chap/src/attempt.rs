//! One attempt to log in, from the list of algorithms to the last response (12.1.3).

use crate::access::{Access, Account, Credentials};
use crate::binary::{Hex, decode, number};
use crate::hash::{Hash, MAX_CHALLENGE, MAX_HASH};
use alloc::rc::Rc;
use core::fmt;
use subtle::ConstantTimeEq;

/// Random bytes that an attempt takes.
pub const RANDOM: usize = 1 + FRESH;
/// Bytes of a challenge of ours that are new, and those behind them that tell it from all others.
const FRESH: usize = 16;
const MARK: usize = 8;

/// The keys of CHAP (12.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Key {
    /// CHAP_A: algorithms, or the one.
    Algorithm,
    /// CHAP_I: the identifier.
    Identifier,
    /// CHAP_C: the challenge.
    Challenge,
    /// CHAP_N: the name.
    Name,
    /// CHAP_R: the response.
    Response,
}

impl Key {
    /// The key's name, in the order of the keys.
    pub const NAMES: [&'static str; 5] = ["CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"];

    /// Its place among them.
    pub fn place(name: &str) -> Option<usize> {
        Self::NAMES.iter().position(|known| *known == name)
    }

    /// What it is called.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// The values an initiator gave in one request, in the order of [`Key::NAMES`].
pub type Said<'a> = [Option<&'a str>; 5];

/// What makes an attempt unlike all others: it is used for one.
#[derive(Clone, Copy)]
pub struct Nonce {
    identifier: u8,
    challenge: [u8; FRESH + MARK],
    /// What marks challenges as ours.
    key: [u8; FRESH],
}

impl Nonce {
    /// Of fresh random bytes, and of a key that is random, secret, and the same for all attempts on this appliance.
    ///
    /// The key marks our challenges, so that whichever connection it comes back on, and whenever, one is known for ours
    /// and never answered: nobody gets us to answer ourselves.
    pub fn new(random: &[u8; RANDOM], key: [u8; FRESH]) -> Self {
        let mut challenge = [0; FRESH + MARK];
        challenge[..FRESH].copy_from_slice(&random[1..]);
        let mark = mark(&key, &random[1..]);
        challenge[FRESH..].copy_from_slice(&mark);
        Self { identifier: random[0], challenge, key }
    }

    /// Whether a challenge is one of ours.
    fn is_ours(&self, challenge: &[u8]) -> bool {
        challenge.split_at_checked(FRESH).is_some_and(|(fresh, behind)| behind == mark(&self.key, fresh))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce")
    }
}

fn mark(key: &[u8], fresh: &[u8]) -> [u8; MARK] {
    let mut mark = [0; MARK];
    mark.copy_from_slice(&Hash::Sha256.respond(0, key, fresh)[..MARK]);
    mark
}

/// What is to be said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<'a> {
    /// Nothing: the initiator has said nothing yet, or all is proven.
    Nothing,
    /// CHAP_A, CHAP_I and CHAP_C.
    Challenge {
        /// The algorithm's number.
        algorithm: u8,
        /// The identifier.
        identifier: u8,
        /// The challenge.
        challenge: Hex<'a>,
    },
    /// CHAP_N and CHAP_R: the target proves itself.
    Proof {
        /// The target's user.
        user: &'a str,
        /// The response.
        response: Hex<'a>,
    },
}

/// Why an attempt has failed. There is no other on the same connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// A key that is out of place or has a value that it cannot have.
    Protocol,
    /// A key is missing.
    Missing,
    /// The initiator has not proven what it says, wants a proof that there is none of, or plays our own challenge back.
    Authentication,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// A list of algorithms is to come.
    Algorithms,
    /// A response is to come, made with this.
    Response(Hash),
    Proven,
    Failed,
}

/// The target's end of one attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    access: Rc<Access>,
    nonce: Nonce,
    step: Step,
    /// The target's response.
    response: [u8; MAX_HASH],
}

impl Attempt {
    /// An attempt to prove one of these accounts.
    pub const fn new(access: Rc<Access>, nonce: Nonce) -> Self {
        Self { access, nonce, step: Step::Algorithms, response: [0; MAX_HASH] }
    }

    /// Whether the initiator has proven itself.
    pub fn is_proven(&self) -> bool {
        self.step == Step::Proven
    }

    /// Whether it has, to these accounts and no others of the same look.
    pub fn has_proven(&self, access: &Rc<Access>) -> bool {
        self.is_proven() && Rc::ptr_eq(&self.access, access)
    }

    /// Take what an initiator of this name said in one request, and answer.
    ///
    /// # Errors
    /// The attempt has failed, for good.
    pub fn take(&mut self, initiator: &str, said: &Said<'_>) -> Result<Answer<'_>, Failure> {
        if *said == [None; 5] {
            return Ok(Answer::Nothing);
        }
        let step = core::mem::replace(&mut self.step, Step::Failed);
        match (step, *said) {
            (Step::Algorithms, [Some(offered), None, None, None, None]) => {
                let hash = self.access.algorithms.choose(offered).ok_or(Failure::Authentication)?;
                self.step = Step::Response(hash);
                let Nonce { identifier, challenge, .. } = &self.nonce;
                Ok(Answer::Challenge {
                    algorithm: hash.number(),
                    identifier: *identifier,
                    challenge: Hex(challenge),
                })
            }
            (Step::Response(hash), [None, identifier, challenge, name, response]) => {
                let (Some(name), Some(response)) = (name, response) else { return Err(Failure::Missing) };
                let asked = match (identifier, challenge) {
                    (None, None) => None,
                    (Some(identifier), Some(challenge)) => Some((identifier, challenge)),
                    _ => return Err(Failure::Missing),
                };
                self.verify(hash, initiator, name, response, asked)
            }
            _ => Err(Failure::Protocol),
        }
    }

    fn verify(
        &mut self,
        hash: Hash,
        initiator: &str,
        name: &str,
        response: &str,
        asked: Option<(&str, &str)>,
    ) -> Result<Answer<'_>, Failure> {
        let mut place = [0; MAX_HASH];
        let response = decode(response, &mut place).ok_or(Failure::Protocol)?;
        let (account, tried) = self.access.find(initiator, name);
        // As much work for a user that is not there as for one that is.
        let secret = tried.from_initiator.secret.bytes();
        let expected = hash.respond(self.nonce.identifier, secret, &self.nonce.challenge);
        let is_right: bool = expected[..hash.length()].ct_eq(response).into();
        let Some(Account { from_target, .. }) = account.filter(|_| is_right) else {
            return Err(Failure::Authentication);
        };
        let Some((identifier, challenge)) = asked else {
            self.step = Step::Proven;
            return Ok(Answer::Nothing);
        };
        let mut place = [0; MAX_CHALLENGE];
        let identifier = number(identifier).ok_or(Failure::Protocol)?;
        let challenge = decode(challenge, &mut place).ok_or(Failure::Protocol)?;
        // The same secrets cannot be on both sides; but who answers his own question has been made to.
        let Some(Credentials { user, secret }) = from_target else { return Err(Failure::Authentication) };
        if self.nonce.is_ours(challenge) {
            return Err(Failure::Authentication);
        }
        self.response = hash.respond(identifier, secret.bytes(), challenge);
        self.step = Step::Proven;
        Ok(Answer::Proof { user, response: Hex(&self.response[..hash.length()]) })
    }
}

#[cfg(test)]
mod tests;
