//! The contexts of the `x-corbel` namespace, as text (README.md).

/// Begins the context of a writer.
pub const WRITER: &str = "x-corbel:writer:";
/// Is, and begins the answer to, the query for the incarnation.
pub const INCARNATION: &str = "x-corbel:incarnation:";
/// Characters of the longest owner.
const MAX_OWNER: usize = 32;
/// Other connections that a claim may name.
const MAX_ALIVE: usize = 64;

/// `x-corbel:writer:<generation>:<owner>:<session>:<connection>[:<alive>,<alive>...]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Highest wins.
    pub generation: u64,
    /// Who has this generation.
    pub owner: String,
    /// One life of one driver.
    pub session: u64,
    /// One of its connections.
    pub connection: u32,
    /// Those of its connections that it still counts on.
    pub alive: Vec<u32>,
}

impl Claim {
    /// Understands a context's name; `None` if it is malformed in any way.
    #[must_use]
    pub fn parse(context: &str) -> Option<Self> {
        let mut parts = context.strip_prefix(WRITER)?.split(':');
        let generation = number(parts.next()?, 16)?;
        let owner = parts.next()?;
        let is_legal = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() || byte == b'-';
        if owner.is_empty() || owner.len() > MAX_OWNER || !owner.bytes().all(is_legal) {
            return None;
        }
        let session = number(parts.next()?, 16)?;
        let connection = u32::try_from(number(parts.next()?, 8)?).ok()?;
        let alive = parts.next().map_or(Some(Vec::new()), |list| {
            let numbers = list.split(',').map(|word| u32::try_from(number(word, 8)?).ok());
            numbers.collect::<Option<Vec<u32>>>().filter(|alive| alive.len() <= MAX_ALIVE)
        })?;
        let claim = Self { generation, owner: owner.to_string(), session, connection, alive };
        parts.next().is_none().then_some(claim)
    }

    /// Whether it comes from the same life of the same driver.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        (self.generation, &self.owner, self.session) == (other.generation, &other.owner, other.session)
    }
}

/// Lower-case hexadecimal of 1 to `digits` digits.
fn number(word: &str, digits: usize) -> Option<u64> {
    let is_legal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if word.is_empty() || word.len() > digits || !word.bytes().all(is_legal) {
        return None;
    }
    u64::from_str_radix(word, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_to_its_last_letter_or_not_at_all() {
        let claim = Claim::parse("x-corbel:writer:1f:host-a:ffffffffffffffff:2:0,1,a").unwrap();
        assert_eq!((claim.generation, claim.owner.as_str()), (31, "host-a"));
        assert_eq!((claim.session, claim.connection, claim.alive.as_slice()), (u64::MAX, 2, &[0, 1, 10][..]));
        assert!(Claim::parse("x-corbel:writer:0:a:0:0").unwrap().alive.is_empty());
        let long = format!("x-corbel:writer:0:{}:0:0", "a".repeat(33));
        for wrong in [
            "x-corbel:writer:",
            "x-corbel:writer:0:a:0",
            "x-corbel:writer:0:a:0:0:",
            "x-corbel:writer:0:a:0:0:1,",
            "x-corbel:writer:0:a:0:0:1:2",
            "x-corbel:writer:0::0:0",
            "x-corbel:writer:0:A:0:0",
            "x-corbel:writer:F:a:0:0",
            "x-corbel:writer:+1:a:0:0",
            "x-corbel:writer:0:a:0:123456789",
            "x-corbel:writer:10000000000000000:a:0:0",
            "x-corbel:reader:0:a:0:0",
            &long,
        ] {
            assert_eq!(Claim::parse(wrong), None, "{wrong}");
        }
    }
}
