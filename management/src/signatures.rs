//! Requests that their callers have signed (RFC 9421), each once: by the key of the certificate with which they came.
//!
//! A signature is of worth for five minutes at most and for one request: its nonce is remembered until it expires. What was
//! signed before the appliance started, or in its first seconds, is refused, so that a reset, which forgets the nonces, lets
//! nobody say again what the run before may have taken.

use crate::Management;
use crate::door::Caller;
use crate::plane::Step;
use crate::policy::{Principal, Service};
use crate::problem::{Kind, Problem};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::ToString;
use core::cell::RefCell;
use kernel_runtime::Day;
use management_api::signature::Signature;
use management_api::{Headers, find};
use management_http::{Method, Request};
use network_tls::{Pin, PublicKey};

/// For how many seconds a signature may be of worth.
const LIFE_MAX: u64 = 300;
/// By how many seconds the caller's clock may be ahead of ours. For as long behind a start nothing signed is taken: the run
/// before may have taken what says that it was signed in them.
const AHEAD_MAX: u64 = 5;

/// The nonces of signatures that are still of worth.
pub(crate) struct Nonces {
    /// Until when, whose, and the SHA-256 of key and nonce, or half of it.
    seen: RefCell<VecDeque<(u64, Service, [u8; 16])>>,
    /// How many of each service: one that sends too many stands in nobody else's way.
    capacity: usize,
}

impl Nonces {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { seen: RefCell::default(), capacity }
    }

    /// Take a nonce that was not there before.
    fn take(&self, (of, key): (Service, Pin), nonce: &str, expires: u64, now: u64) -> Result<(), Problem> {
        let Pin(hash) = Pin::of(format!("{key} {nonce}").as_bytes());
        let mut name = [0; 16];
        name.copy_from_slice(&hash[..16]);
        let mut seen = self.seen.borrow_mut();
        seen.retain(|(until, ..)| *until > now);
        if seen.iter().any(|(.., other)| *other == name) {
            return Err(invalid(
                "the nonce was used before: the request was sent twice, or is said again by somebody else",
            ));
        }
        if seen.iter().filter(|(_, other, _)| *other == of).count() >= self.capacity {
            return Err(Problem::new(Kind::TooBusy, "Too many signed requests within a few minutes."));
        }
        seen.push_back((expires, of, name));
        Ok(())
    }
}

fn invalid(why: &str) -> Problem {
    Problem::new(Kind::SignatureInvalid, format!("The request is refused: {why}."))
}

impl Management {
    /// Decide on a request of `caller`, if it is signed as it has to be.
    pub(crate) fn receive(&self, request: &Request<'_>, caller: &Caller) -> Step {
        let principal = caller.principal;
        let Err(problem) = self.check_signature(request, caller) else {
            return self.begin(request, principal);
        };
        self.deny(request, principal, problem.kind.name());
        let response = problem.at(request.path).response();
        self.metrics.response(response.status);
        Step::Answer(response)
    }

    /// Whether a request that would change something is signed as it has to be.
    fn check_signature(&self, request: &Request<'_>, caller: &Caller) -> Result<(), Problem> {
        // Nobody else has a key by which anything could be signed; policy says what they may.
        let (Principal::Service(service, key), Some(lock)) =
            (caller.principal, self.configuration.door.lock())
        else {
            return Ok(());
        };
        // What leads nowhere is not told of to whoever cannot sign.
        let is_read = matches!(request.method, Method::Get | Method::Head);
        let row = find(request.method, request.path);
        if row.map_or(is_read, |(row, _)| !row.headers.has(Headers::SIGNED)) {
            return Ok(());
        }
        let Some(signature) = Signature::of(request).map_err(invalid)? else {
            let detail = "Requests that change something have to be signed (RFC 9421).";
            return if lock.signatures { Err(Problem::new(Kind::SignatureRequired, detail)) } else { Ok(()) };
        };
        signature.covers(request).map_err(invalid)?;
        let (Some(created), Some(expires), Some(nonce)) =
            (signature.created, signature.expires, signature.nonce)
        else {
            return Err(invalid("the signature lacks created, expires or nonce"));
        };
        if signature.keyid != Some(key.to_string().as_str()) {
            return Err(invalid("keyid is not the SHA-256 of the public key with which the caller came"));
        }
        let (Some(start), Some(now)) = (lock.day.as_ref().map(Day::start), lock.time(&self.clock)) else {
            let detail = "This appliance does not know the time, so it can check no signature: send the request unsigned.";
            return Err(Problem::new(Kind::ClockUnknown, detail));
        };
        if created < start.saturating_add(AHEAD_MAX) {
            return Err(invalid(
                "it was signed before the appliance started, or in its first 5 seconds; sign it anew",
            ));
        }
        if created > now.saturating_add(AHEAD_MAX) {
            return Err(invalid("it was signed in the future"));
        }
        if expires <= now {
            return Err(invalid("the signature has expired"));
        }
        if expires.saturating_sub(created) > LIFE_MAX {
            return Err(invalid("the signature is of worth for more than 300 seconds"));
        }
        let public =
            PublicKey::parse(&caller.key).ok_or_else(|| invalid("the caller's key signs nothing here"))?;
        if signature.alg.is_some_and(|alg| alg != public.algorithm()) {
            return Err(invalid("alg is not what the caller's key signs by"));
        }
        if !public.verifies(signature.base.as_bytes(), &signature.signature) {
            return Err(invalid("the signature is not one of this request"));
        }
        self.nonces.take((service, key), nonce, expires, now)
    }
}
