//! One connection to the appliance: TCP, TLS 1.3 and HTTP/1.1, each request and its answer.

use crate::settings::{Credentials, Endpoint, Whom};
use management_api::signature::{Terms, Unsigned};
use management_http::{Client, Limits, Method};
use network_tls::{
    Algorithm, Anchors, Buffers, ClientConfig, Connection, Crypto, Dates, Fatal, Identity, NoEntropy,
    PrivateKey, Random, SetupError, Signer,
};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long an appliance may take to accept a connection, and to end the handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How often somebody who waits is told so.
const TICK: Duration = Duration::from_millis(100);
/// The largest answer: metrics of an appliance with all its disks are far below it.
const LIMITS: Limits = Limits { body: 16 << 20, ..Limits::CLIENT };

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The appliance has not seen the request, and why.
    Unsent(String, &'static str),
    /// It may have.
    Lost(String),
    /// It answered something that is not HTTP.
    Nonsense(String),
    /// The caller did not want to wait any longer.
    Interrupted,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) body: Option<&'a [u8]>,
    /// How long the appliance may take to answer.
    pub(crate) patience: Duration,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) media_type: String,
    pub(crate) body: Vec<u8>,
}

/// The way to one appliance; it connects when first asked, and again when the connection has ended.
pub(crate) struct Link {
    endpoint: Endpoint,
    config: Option<ClientConfig>,
    /// What requests that change something are signed by.
    signer: Option<Signer>,
    open: Option<Open>,
}

/// An open connection.
struct Open {
    tcp: TcpStream,
    tls: Option<Connection>,
    http: Client,
    /// Something of an answer to the last request has come.
    answered: bool,
    /// The appliance has closed the connection in order.
    ended: bool,
}

#[derive(Debug)]
struct System;

impl Random for System {
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        let mut filled = 0;
        while filled < out.len() {
            match rustix::rand::getrandom(&mut out[filled..], rustix::rand::GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(NoEntropy),
            }
        }
        Ok(())
    }
}

/// Random bytes of the system.
pub(crate) fn random() -> Result<[u8; 16], NoEntropy> {
    let mut bytes = [0; 16];
    System.fill(&mut bytes)?;
    Ok(bytes)
}

/// For how many seconds a signature is good: the clocks of two machines differ.
const SIGNED_FOR: u64 = 120;
const CHECK_FILES: &str = "look at the files that --cert, --key and --ca name.";

impl Link {
    /// The way to `endpoint`; nothing is connected yet.
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self, SetupError> {
        let config = endpoint.tls.as_ref().map(configuration).transpose()?;
        let signer = endpoint.tls.as_ref().filter(|credentials| credentials.sign).map(signer).transpose()?;
        Ok(Self { endpoint, config, signer, open: None })
    }

    /// Where it leads, as the user wrote it.
    pub(crate) fn url(&self) -> &str {
        &self.endpoint.url
    }

    /// Ask, and wait for the answer. `tick` is called all the while and ends the waiting by `false`.
    pub(crate) fn ask(&mut self, ask: &Ask<'_>, tick: &mut dyn FnMut() -> bool) -> Result<Answer, Broken> {
        if let Some(mut open) = self.open.take().filter(|open| open.http.is_reusable()) {
            let signed = self.signed(ask)?;
            let answer = open.exchange(ask, &signed, tick);
            // It was closed while nobody asked for anything: the appliance has not looked at what it found there.
            if !matches!(answer, Err(Broken::Lost(_)) if open.is_unheard()) {
                return self.kept(open, answer);
            }
        }
        let mut open = self.connect(tick)?;
        let signed = self.signed(ask)?;
        let answer = open.exchange(ask, &signed, tick);
        self.kept(open, answer)
    }

    /// The answer, and the connection for the next question if it is good for one.
    fn kept(&mut self, open: Open, answer: Result<Answer, Broken>) -> Result<Answer, Broken> {
        if answer.is_ok() && open.http.is_reusable() {
            self.open = Some(open);
        }
        answer
    }

    /// The header fields of a signature, where the request is to have one. Each is new: one that is sent again after an answer
    /// was lost is not refused as said twice.
    fn signed(&self, ask: &Ask<'_>) -> Result<String, Broken> {
        let is_read = matches!(ask.method, Method::Get | Method::Head);
        let Some(signer) = self.signer.as_ref().filter(|_| !is_read) else { return Ok(String::new()) };
        let unsent = |what: String| Broken::Unsent(what, "nothing was sent.");
        let nonce = random().map_err(|error| unsent(error.to_string()))?;
        let nonce = format!("{:032x}", u128::from_be_bytes(nonce));
        let created = now().ok_or_else(|| unsent("this machine does not know the time".into()))?;
        let keyid = signer.pin().to_string();
        let terms = Terms {
            created,
            expires: created + SIGNED_FOR,
            nonce: &nonce,
            keyid: &keyid,
            alg: signer.algorithm(),
        };
        let unsigned = Unsigned::new(ask.method, ask.path, ask.body, &terms);
        let signature = signer.sign(unsigned.base.as_bytes()).map_err(|error| unsent(error.to_string()))?;
        Ok(unsigned.signed(&signature))
    }

    fn connect(&self, tick: &mut dyn FnMut() -> bool) -> Result<Open, Broken> {
        let tcp = self.dial()?;
        let setup = |error: SetupError| Broken::Unsent(error.to_string(), CHECK_FILES);
        let tls = match (&self.config, &self.endpoint.tls) {
            (Some(config), Some(credentials)) => Some(
                Connection::client(config, &credentials.server_name, now(), Buffers::default())
                    .map_err(setup)?,
            ),
            _ => None,
        };
        let http = Client::new(LIMITS, &self.endpoint.authority);
        let mut open = Open { tcp, tls, http, answered: false, ended: false };
        open.shake_hands(tick)?;
        Ok(open)
    }

    fn dial(&self) -> Result<TcpStream, Broken> {
        let (host, port) = (self.endpoint.host.as_str(), self.endpoint.port);
        let advice =
            "is the address right, and the appliance up? Its console says `corbel: ready` when it serves.";
        let unsent = |error: io::Error| {
            Broken::Unsent(format!("{} cannot be reached: {}", self.endpoint.url, in_words(&error)), advice)
        };
        let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(unsent)?.collect();
        let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
                Ok(tcp) => {
                    let prepared = tcp
                        .set_nodelay(true)
                        .and_then(|()| tcp.set_read_timeout(Some(TICK)))
                        .and_then(|()| tcp.set_write_timeout(Some(HANDSHAKE_LIMIT)));
                    return prepared.map(|()| tcp).map_err(unsent);
                }
                Err(error) => last = error,
            }
        }
        Err(unsent(last))
    }
}

/// The time of day, in seconds since 1970.
fn now() -> Option<u64> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn signer(credentials: &Credentials) -> Result<Signer, SetupError> {
    let (chain, key) =
        credentials.identity.as_ref().ok_or_else(|| SetupError::Material("there is no key".into()))?;
    Signer::new(&Crypto::new(Box::new(System))?, &Identity::from_pem(chain, key)?)
}

fn configuration(credentials: &Credentials) -> Result<ClientConfig, SetupError> {
    let crypto = Crypto::new(Box::new(System))?;
    let identity = credentials.identity.as_ref();
    let identity = identity.map(|(chain, key)| Identity::from_pem(chain, key)).transpose()?;
    match &credentials.whom {
        Whom::Ca(pem) => ClientConfig::new(&crypto, &Anchors::from_pem(pem)?, identity, Dates::MustBeChecked),
        Whom::Pin(pin) => {
            // An appliance that is not enrolled does not ask who we are.
            let anybody = || PrivateKey::generate(&crypto, Algorithm::P256)?.self_signed("corbelctl");
            ClientConfig::pinned(&crypto, &[*pin], identity.map_or_else(anybody, Ok)?)
        }
    }
}

/// The operating system's words without its numbers.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "nothing listens there".into(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "it does not answer".into(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or_default().to_string()
        }
    }
}

/// What came of one look at the socket.
enum Arrived {
    Bytes,
    Nothing,
    End,
}

impl Open {
    /// For as long as TLS takes.
    fn shake_hands(&mut self, tick: &mut dyn FnMut() -> bool) -> Result<(), Broken> {
        let began = Instant::now();
        while self.tls.as_ref().is_some_and(|tls| !tls.is_established()) {
            let unsent = |what: String| {
                Broken::Unsent(
                    what,
                    "does it speak TLS there? A port for plain HTTP wants http:// in the URL.",
                )
            };
            self.flush().map_err(|error| unsent(in_words(&error)))?;
            match self.receive() {
                Ok(Arrived::Bytes) => {}
                Ok(Arrived::Nothing) if began.elapsed() > HANDSHAKE_LIMIT => {
                    return Err(unsent("the appliance accepts the connection and does not answer".into()));
                }
                Ok(Arrived::Nothing) => {}
                Ok(Arrived::End) => return Err(unsent("the appliance closed the connection at once".into())),
                Err(Stopped::Io(error)) => return Err(unsent(in_words(&error))),
                Err(Stopped::Tls(fatal)) => {
                    let _the_alert_is_a_courtesy = self.flush();
                    return Err(refused(&fatal));
                }
                Err(Stopped::Http(fatal)) => return Err(Broken::Nonsense(fatal.to_string())),
            }
            if !tick() {
                return Err(Broken::Interrupted);
            }
        }
        Ok(())
    }

    /// One request and its answer.
    fn exchange(
        &mut self,
        ask: &Ask<'_>,
        fields: &str,
        tick: &mut dyn FnMut() -> bool,
    ) -> Result<Answer, Broken> {
        self.http.request_with(ask.method, ask.path, fields, ask.body);
        self.answered = false;
        let began = Instant::now();
        loop {
            if let Err(error) = self.flush() {
                // What it had to say before it closed is still to be read.
                while let Ok(Arrived::Bytes) = self.receive() {}
                return Err(Broken::Lost(in_words(&error)));
            }
            if let Some(reply) = self.http.reply() {
                let media_type = reply.media_type.unwrap_or_default().into();
                return Ok(Answer { status: reply.status, media_type, body: reply.body.to_vec() });
            }
            match self.receive() {
                Ok(Arrived::Bytes) => {}
                Ok(Arrived::Nothing) if began.elapsed() > ask.patience => {
                    return Err(Broken::Lost("the appliance does not answer".into()));
                }
                Ok(Arrived::Nothing) => {}
                Ok(Arrived::End) => return Err(Broken::Lost("the appliance closed the connection".into())),
                Err(Stopped::Io(error)) => return Err(Broken::Lost(in_words(&error))),
                // With the handshake refused, nothing of the request was read.
                Err(Stopped::Tls(fatal)) if fatal.needs_operator() => return Err(refused(&fatal)),
                Err(Stopped::Tls(fatal)) => return Err(Broken::Lost(fatal.to_string())),
                Err(Stopped::Http(fatal @ management_http::Fatal::Truncated)) => {
                    return Err(Broken::Lost(fatal.to_string()));
                }
                Err(Stopped::Http(fatal)) => return Err(Broken::Nonsense(fatal.to_string())),
            }
            if !tick() {
                return Err(Broken::Interrupted);
            }
        }
    }

    /// Whether the appliance has ended the connection in order and without a byte of an answer to the last request.
    fn is_unheard(&self) -> bool {
        self.ended && !self.answered
    }

    /// Write all there is to write.
    fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            let count = self.http.transmit().len();
            self.tcp.write_all(self.http.transmit())?;
            self.http.transmitted(count);
            return Ok(());
        };
        loop {
            // An error is told by the next look at what came.
            let taken = tls.write(self.http.transmit()).unwrap_or_default();
            self.http.transmitted(taken);
            let count = tls.poll_transmit().len();
            self.tcp.write_all(tls.poll_transmit())?;
            tls.transmitted(count);
            if count == 0 && taken == 0 {
                return Ok(());
            }
        }
    }

    /// Take what has come, or wait for it for the length of a tick.
    fn receive(&mut self) -> Result<Arrived, Stopped> {
        let space = match &mut self.tls {
            Some(tls) => tls.space(),
            None => self.http.space(),
        };
        let count = match self.tcp.read(space) {
            Ok(count) => count,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                return Ok(Arrived::Nothing);
            }
            Err(error) => return Err(Stopped::Io(error)),
        };
        match &mut self.tls {
            None if count == 0 => {
                self.ended = true;
                self.http.end_of_input().map_err(Stopped::Http)?;
            }
            None => {
                self.answered = true;
                self.http.received(count).map_err(Stopped::Http)?;
            }
            Some(tls) => {
                if count == 0 {
                    tls.end_of_stream().map_err(Stopped::Tls)?;
                } else {
                    tls.received(count).map_err(Stopped::Tls)?;
                }
                loop {
                    let read = tls.read(self.http.space()).map_err(Stopped::Tls)?;
                    if read == 0 {
                        break;
                    }
                    self.answered = true;
                    self.http.received(read).map_err(Stopped::Http)?;
                }
                if tls.peer_closed() {
                    self.ended = true;
                    self.http.end_of_input().map_err(Stopped::Http)?;
                }
            }
        }
        Ok(if count == 0 { Arrived::End } else { Arrived::Bytes })
    }
}

/// Why nothing more can come.
enum Stopped {
    Io(io::Error),
    Tls(Fatal),
    Http(management_http::Fatal),
}

/// TLS says no, on either side.
fn refused(fatal: &Fatal) -> Broken {
    let advice = match fatal {
        Fatal::Certificate(_) => {
            "the appliance is not who it should be, or --ca (or --pin) names another; --server-name says for whom its \
             certificate is to be."
        }
        Fatal::Refused(_) => {
            "the appliance does not accept your certificate: it has expired, another authority made it, or there is \
             none; see --cert and --key."
        }
        _ => "does it speak TLS 1.3 there? A port for plain HTTP wants http:// in the URL.",
    };
    Broken::Unsent(fatal.to_string(), advice)
}
