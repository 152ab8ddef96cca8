//! Signed requests: HTTP Message Signatures (RFC 9421) of what a request asks for, with the digest of its body (RFC 9530).
//!
//! Both ends make what is signed here, from the same table of components. Whose key it is and whether the signature fits is
//! for those who have the keys.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use base64ct::{Base64, Encoding};
use management_http::{Method, Request};
use sha2::{Digest, Sha256, Sha512};

/// The most components that a signature may cover.
const COMPONENTS_MAX: usize = 16;
/// The longest nonce, in bytes.
const NONCE_MAX: usize = 64;
/// The longest signature, in bytes: of RSA with 8192 bits.
const SIGNATURE_MAX: usize = 1024;
/// What corbelctl calls its signature.
const LABEL: &str = "sig1";

/// What a request says of its signature, and what that is to be a signature of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature<'a> {
    /// What it covers, in order.
    pub components: Vec<&'a str>,
    /// When it was made, in seconds since 1970.
    pub created: Option<u64>,
    /// When it ceases to be of any worth.
    pub expires: Option<u64>,
    /// What no other signature by the same key has.
    pub nonce: Option<&'a str>,
    /// The name of the key.
    pub keyid: Option<&'a str>,
    /// The name of the algorithm.
    pub alg: Option<&'a str>,
    /// What is signed (section 2.5).
    pub base: String,
    /// The signature.
    pub signature: Vec<u8>,
}

impl<'a> Signature<'a> {
    /// The signature of a request, if it has one.
    ///
    /// # Errors
    /// In words, when it is malformed, is more than one, or covers what the request does not have.
    pub fn of(request: &Request<'a>) -> Result<Option<Self>, &'static str> {
        let (input, value) = match (only(request, "signature-input")?, only(request, "signature")?) {
            (None, None) => return Ok(None),
            (Some(input), Some(value)) => (input, value),
            _ => return Err("Signature and Signature-Input go together"),
        };
        let (label, parameters) = input.split_once('=').ok_or(MALFORMED)?;
        let signature = value.strip_prefix(label).and_then(|rest| rest.strip_prefix('='));
        let signature = bytes(signature.ok_or("Signature and Signature-Input differ in their label")?)?;
        let (list, rest) =
            parameters.strip_prefix('(').and_then(|rest| rest.split_once(')')).ok_or(MALFORMED)?;
        let mut found = Self {
            components: components(list)?,
            created: None,
            expires: None,
            nonce: None,
            keyid: None,
            alg: None,
            base: String::new(),
            signature,
        };
        found.parameters(rest)?;
        found.base = base(&found.components, parameters, |name| component(request, name))?;
        Ok(Some(found))
    }

    /// What stands behind the list of components. Each parameter stands there once and is one that is known.
    fn parameters(&mut self, text: &'a str) -> Result<(), &'static str> {
        let mut pairs = text.split(';');
        // In front of the first semicolon there is nothing.
        if pairs.next() != Some("") {
            return Err(MALFORMED);
        }
        for pair in pairs {
            let (name, value) = pair.split_once('=').ok_or(MALFORMED)?;
            let twice = match name {
                "created" => self.created.replace(integer(value)?).is_some(),
                "expires" => self.expires.replace(integer(value)?).is_some(),
                "nonce" => self.nonce.replace(string(value)?).is_some(),
                "keyid" => self.keyid.replace(string(value)?).is_some(),
                "alg" => self.alg.replace(string(value)?).is_some(),
                _ => return Err("the signature has a parameter that is not known here"),
            };
            if twice {
                return Err(MALFORMED);
            }
        }
        if self.nonce.is_some_and(|nonce| nonce.len() > NONCE_MAX) {
            return Err("the nonce is longer than 64 characters");
        }
        Ok(())
    }

    /// Whether it covers all that says what is asked for: the method, the path, the query and the body, as far as there are.
    ///
    /// # Errors
    /// What is missing.
    pub fn covers(&self, request: &Request<'_>) -> Result<(), &'static str> {
        let has = |name: &str| self.components.contains(&name);
        let path = has("@path") && (request.query.is_none() || has("@query"));
        if !has("@method") {
            return Err("the signature does not cover @method");
        }
        if !(path || has("@target-uri") || has("@request-target")) {
            return Err("the signature does not cover @path and @query, nor @target-uri");
        }
        if !(request.body.is_empty() || has("content-digest")) {
            return Err("the signature does not cover content-digest");
        }
        if request.field("if-match").is_some() && !has("if-match") {
            return Err("the signature does not cover if-match");
        }
        match only(request, "content-digest")? {
            Some(digest) if has("content-digest") => check_digest(digest, request.body),
            _ => Ok(()),
        }
    }
}

const MALFORMED: &str = "the signature is malformed";

/// The value of a field that stands there once at most.
fn only<'a>(request: &Request<'a>, name: &str) -> Result<Option<&'a str>, &'static str> {
    let mut values = request.fields(name);
    let value = values.next();
    if values.next().is_some() { Err("a field of the signature stands twice") } else { Ok(value) }
}

/// A byte sequence (RFC 8941, section 3.3.5).
fn bytes(text: &str) -> Result<Vec<u8>, &'static str> {
    let text = text.strip_prefix(':').and_then(|rest| rest.strip_suffix(':')).ok_or(MALFORMED)?;
    if text.len() > SIGNATURE_MAX * 4 / 3 + 4 {
        return Err("the signature is too long");
    }
    Base64::decode_vec(text).map_err(|_| MALFORMED)
}

/// A string without anything that would have to be escaped (RFC 8941, section 3.3.3).
fn string(text: &str) -> Result<&str, &'static str> {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or(MALFORMED)?;
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if inner.bytes().all(plain) { Ok(inner) } else { Err(MALFORMED) }
}

/// A whole number that is not negative (RFC 8941, section 3.3.1).
fn integer(text: &str) -> Result<u64, &'static str> {
    let digits = !text.is_empty() && text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(MALFORMED)
}

/// The names in an inner list, none of them with parameters.
fn components(list: &str) -> Result<Vec<&str>, &'static str> {
    let mut names = Vec::new();
    for item in list.split(' ') {
        let name = string(item)?;
        if names.contains(&name) || names.len() >= COMPONENTS_MAX {
            return Err("the signature covers too much, or one thing twice");
        }
        names.push(name);
    }
    Ok(names)
}

/// The value of a component of a request (sections 2.1 and 2.2).
fn component<'a>(request: &Request<'a>, name: &str) -> Option<Cow<'a, str>> {
    let query = request.query.map_or(String::new(), |query| format!("?{query}"));
    let host = || only(request, "host").ok().flatten();
    Some(match name {
        "@method" => request.method.as_str().into(),
        "@path" => request.path.into(),
        // A query that is absent is the question mark alone.
        "@query" if query.is_empty() => "?".into(),
        "@query" => query.into(),
        "@request-target" => format!("{}{query}", request.path).into(),
        "@authority" => host()?.to_ascii_lowercase().into(),
        "@scheme" => "https".into(),
        "@target-uri" => format!("https://{}{}{query}", host()?, request.path).into(),
        _ if name.starts_with('@') || name.bytes().any(|byte| byte.is_ascii_uppercase()) => return None,
        _ => only(request, name).ok()??.into(),
    })
}

/// What is signed (section 2.5): a line for each component, and one of the parameters.
fn base<'a>(
    components: &[&str],
    parameters: &str,
    value: impl Fn(&str) -> Option<Cow<'a, str>>,
) -> Result<String, &'static str> {
    let mut base = String::new();
    for name in components {
        let value = value(name).ok_or("the signature covers what the request does not have, or has twice")?;
        base.push_str(&format!("\"{name}\": {value}\n"));
    }
    base.push_str(&format!("\"@signature-params\": {parameters}"));
    Ok(base)
}

/// Whether `Content-Digest` is of this body: at least one digest in it is known here, and each of those fits (RFC 9530,
/// section 2).
fn check_digest(field: &str, body: &[u8]) -> Result<(), &'static str> {
    let mut known = false;
    for member in field.split(',') {
        let (name, value) = member.trim().split_once('=').ok_or("Content-Digest is malformed")?;
        let fits = match name {
            "sha-256" => bytes(value)? == Sha256::digest(body).as_slice(),
            "sha-512" => bytes(value)? == Sha512::digest(body).as_slice(),
            _ => continue,
        };
        if !fits {
            return Err("Content-Digest is that of another body");
        }
        known = true;
    }
    if known { Ok(()) } else { Err("Content-Digest has neither sha-256 nor sha-512") }
}

/// What a signer says of its signature.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Now, in seconds since 1970.
    pub created: u64,
    /// When it ceases to be of any worth.
    pub expires: u64,
    /// What no other signature by this key has: letters, digits and hyphens.
    pub nonce: &'a str,
    /// The name of the key.
    pub keyid: &'a str,
    /// The name of the algorithm.
    pub alg: &'a str,
}

/// A request that is to be signed: what is signed, and the header fields that go with it but for the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsigned {
    /// What is signed.
    pub base: String,
    fields: String,
}

impl Unsigned {
    /// A request for `target`, which is a path with its query.
    pub fn new(method: Method, target: &str, body: Option<&[u8]>, terms: &Terms<'_>) -> Self {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let digest = body.map(|body| format!("sha-256=:{}:", Base64::encode_string(&Sha256::digest(body))));
        let mut components = Vec::from(["@method", "@path"]);
        components.extend(query.map(|_| "@query"));
        components.extend(digest.as_ref().map(|_| "content-digest"));
        let names: Vec<String> = components.iter().map(|name| format!("\"{name}\"")).collect();
        let Terms { created, expires, nonce, keyid, alg } = terms;
        let parameters = format!(
            "({});created={created};expires={expires};nonce=\"{nonce}\";keyid=\"{keyid}\";alg=\"{alg}\"",
            names.join(" ")
        );
        let base = base(&components, &parameters, |name| {
            Some(match name {
                "@method" => method.as_str().into(),
                "@path" => path.into(),
                "@query" => format!("?{}", query?).into(),
                _ => digest.as_deref()?.into(),
            })
        });
        let digest = digest.as_ref().map_or(String::new(), |digest| format!("Content-Digest: {digest}\r\n"));
        // Each of the components was given a value above.
        Self {
            base: base.unwrap_or_default(),
            fields: format!("{digest}Signature-Input: {LABEL}={parameters}\r\n"),
        }
    }

    /// The header fields of the request, as lines.
    pub fn signed(self, signature: &[u8]) -> String {
        format!("{}Signature: {LABEL}=:{}:\r\n", self.fields, Base64::encode_string(signature))
    }
}
