//! What a case is, and where cases come from.

use storage_iscsi::wire::Header;

/// The target that a table is for.
#[derive(Clone, Debug)]
pub struct Place {
    /// Who logs in.
    pub initiator: String,
    /// The target's name. It has one disk, LUN 0, of blocks of 512 bytes that can be given back.
    pub target: String,
    /// Blocks of that disk.
    pub blocks: u64,
}

/// Where a case is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// On a new connection.
    TransportUp,
    /// In a login, after a request of the security stage was answered.
    Security,
    /// In a login, after a request of the operational stage was answered.
    Operational,
    /// In a normal session, negotiated with these keys besides the names.
    FullFeature(&'static str),
    /// In a discovery session.
    Discovery,
}

/// A PDU. CmdSN and ExpStatSN are put in by the player, which knows what is next.
#[derive(Clone, Debug)]
pub struct Said {
    /// The basic header, its lengths apart.
    pub header: Header,
    /// Additional headers, a multiple of four bytes.
    pub additional: Vec<u8>,
    /// The data segment.
    pub data: Vec<u8>,
    /// What is done to it, in order.
    pub edits: Vec<Edit>,
    /// The target takes it, so that its number, if it has one, is used up.
    pub is_taken: bool,
}

/// What is done to a PDU that would be right without.
#[derive(Clone, Debug)]
pub enum Edit {
    /// These bytes at that byte of the header.
    Put(usize, Vec<u8>),
    /// So much more, or less, in the four bytes of the header that begin there.
    Add(usize, u32),
    /// The four bytes of the header that begin there, copied to where the others begin.
    Copy(usize, usize),
    /// Tag, transfer tag and offset of the last R2T, and all the data it asks for.
    AnswerR2t,
    /// So many bytes of data more, or less.
    Resize(i32),
    /// The length of a data segment that is this much longer than the target has declared to take, and no data.
    Beyond(u32),
    /// These bits of that byte are flipped on the wire, when all digests are made.
    Damage(usize, u8),
    /// The PDU has no digests.
    Bare,
    /// Nothing is said after so many bytes, ever.
    Cut(usize),
}

/// Sense data in fixed format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code and its qualifier.
    pub code: u16,
    /// The three sense-key specific bytes.
    pub specific: [u8; 3],
    /// How much was transferred.
    pub transferred: Transferred,
}

/// How much of its expected data transfer length a refused command has transferred.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transferred {
    /// Nothing: all of it is residual.
    Nothing,
    /// All of it: what was wrong was in the data.
    All,
    /// It wanted so many bytes beyond it.
    Beyond(u32),
}

/// What the target has to say.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Nothing: it closes the connection.
    Closed,
    /// A Login Response of this status class and detail, and then the end.
    Refused(u8, u8),
    /// A Login Response by which the login goes on, whose text has this pair in answer to what was said, or no text at
    /// all.
    Settled(String),
    /// A Reject for this reason, with the header of what was said last.
    Reject(u8),
    /// CHECK CONDITION with this sense data.
    Condition(Sense),
    /// Another status, without sense data.
    Status(u8),
    /// RESERVATION CONFLICT, told when the parameter list was in.
    Conflict,
    /// A Task Management Function Response with this code.
    Managed(u8),
    /// A Logout Response with this code.
    LoggedOut(u8),
    /// An R2T, which the case goes on from.
    Wanted,
    /// Nothing, as if it had never come.
    Nothing,
}

impl Answer {
    /// Whether it refuses something: what every case has to end in, but for those that are to be passed over.
    pub fn refuses(&self) -> bool {
        match self {
            Self::Closed | Self::Refused(..) | Self::Reject(_) | Self::Condition(_) | Self::Conflict => true,
            Self::Settled(pair) => !pair.is_empty(),
            Self::Status(status) => *status != 0,
            Self::Managed(code) | Self::LoggedOut(code) => *code != 0,
            Self::Wanted | Self::Nothing => false,
        }
    }

    /// Whether the connection is over with it.
    pub fn ends(&self) -> bool {
        matches!(self, Self::Closed | Self::Refused(..))
    }
}

/// One thing that is done.
#[derive(Clone, Debug)]
pub enum Step {
    /// A PDU is sent.
    Say(Said),
    /// An answer has to come.
    Hear(Answer),
}

/// One case. If its last answer does not end the connection, a ping and a command prove that the session goes on.
#[derive(Clone, Debug)]
pub struct Case {
    /// One of [`SOURCES`].
    pub source: &'static str,
    /// What is wrong.
    pub name: String,
    /// Where it is said.
    pub state: State,
    /// What is said and heard.
    pub steps: Vec<Step>,
}

impl Case {
    /// Whether something of it is refused.
    pub fn is_refused(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Hear(answer) if answer.refuses()))
    }
}

impl Said {
    /// A PDU that is taken.
    pub fn new(header: Header, data: &[u8]) -> Self {
        Self { header, additional: Vec::new(), data: data.to_vec(), edits: Vec::new(), is_taken: true }
    }

    /// With one more edit.
    #[must_use]
    pub fn with(mut self, edit: Edit) -> Self {
        self.edits.push(edit);
        self
    }

    /// With these bytes at that byte of the header.
    #[must_use]
    pub fn put(self, at: usize, bytes: &[u8]) -> Self {
        self.with(Edit::Put(at, bytes.to_vec()))
    }

    /// With additional headers.
    #[must_use]
    pub fn and_headers(self, additional: &[u8]) -> Self {
        Self { additional: additional.to_vec(), ..self }
    }

    /// The target does not take it.
    #[must_use]
    pub fn untaken(self) -> Self {
        Self { is_taken: false, ..self }
    }
}

/// A case of one PDU and one answer.
pub(crate) fn case(
    source: &'static str,
    name: impl Into<String>,
    state: State,
    said: Said,
    answer: Answer,
) -> Case {
    let is_taken = said.is_taken && !matches!(answer, Answer::Reject(_) | Answer::Nothing);
    let steps = vec![Step::Say(Said { is_taken, ..said }), Step::Hear(answer)];
    Case { source, name: name.into(), state, steps }
}

/// Where cases come from, in words: the list of bad inputs (L), the failures of other targets by their CVE number or by
/// what was at fault, and the standards.
pub const SOURCES: &[(&str, &str)] = &[
    ("L12", "first PDUs that are no Login Requests; codes of targets; codes of nobody; 16 MiB at once"),
    ("L13", "login text that fills its segment, is longer, or is cut at any byte"),
    ("L14", "additional headers: too long, too short, unknown, where none belong"),
    ("L15", "text without an equals sign, without a key, without an end; keys too long, twice, too many"),
    ("L16", "text that goes on: for ever, with nothing, as something else"),
    ("L17", "stages that are not, stages in the wrong order, sessions that are not, a login after the login"),
    ("L19", "values out of range, of the wrong form, in the wrong stage, from the wrong side"),
    ("L20", "blocks that are not there, lengths that do not match, data that was not agreed on"),
    ("L21", "Data-Out: unknown tags, other offsets, numbers, lengths, ends"),
    ("L22", "command numbers beside the window and in gaps; task tags that are reserved or in use"),
    ("L23", "task management of nothing, of nowhere, by codes of nobody"),
    ("L24", "digests that do not match or are not there"),
    ("L25", "SNACK, logout for others, text that nobody asked for, a ping that is too long"),
    ("L26", "logical units that are not there, in every form of addressing"),
    ("L27", "CDBs: unknown, reserved bits, services that are not there, parameter lists that are wrong"),
    ("CVE-2026-90011", "login text of exactly the length of its buffer, without an end"),
    ("CVE-2026-53176", "login requests shorter than their header"),
    ("CVE-2013-2850", "keys whose answer would have to be longer than the place for it"),
    ("CVE-2021-28361", "Text Requests without data, in every combination of C, F and a transfer tag"),
    ("CVE-2020-28374", "descriptors that would lead from one unit to another"),
    ("CVE-2024-26845", "an abort, and a reset behind it, of a write that waits for its data"),
    ("CVE-2024-8178", "services that other targets answer with memory of theirs"),
];

/// The table.
pub fn cases(place: &Place) -> Vec<Case> {
    [
        crate::login::cases(place),
        crate::stages::cases(place),
        crate::session::cases(place),
        crate::data::cases(),
        crate::commands::cases(place),
        crate::lists::cases(place),
    ]
    .concat()
}
