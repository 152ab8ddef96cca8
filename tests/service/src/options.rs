//! The command line.

use crate::medium::Cache;
use std::net::SocketAddr;
use std::path::PathBuf;

/// How the service is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens for NBD.
    pub listen: SocketAddr,
    /// The disk.
    pub file: PathBuf,
    /// Its size, if it is to be made.
    pub size: Option<u64>,
    /// The export's name.
    pub name: String,
    /// What it tells people of the export.
    pub description: String,
    /// Where writes may stay until a FLUSH.
    pub cache: Cache,
    /// Whether clients are told of incarnations.
    pub tells_incarnation: bool,
    /// The token that is told whatever happens: a lie, for tests that have to find it out.
    pub incarnation: Option<String>,
    /// Whether writers are told apart.
    pub knows_writers: bool,
    /// The socket for lines of control.
    pub control: Option<PathBuf>,
    /// The log of what was executed.
    pub log: Option<PathBuf>,
    /// Minimum, preferred and maximum sizes of a request.
    pub block_sizes: [u32; 3],
    /// Nobody may write.
    pub read_only: bool,
    /// Whether FUA is offered.
    pub fua: bool,
    /// Whether FLUSH is offered.
    pub flush: bool,
    /// The best form of replies: 0 simple, 1 structured, 2 extended.
    pub headers: u8,
}

/// What `--help` prints.
pub const HELP: &str = "\
corbel-service --listen ADDRESS:PORT --file PATH [options]

  --size BYTES            make the file if it is not there
  --name NAME             the export's name (the empty name means it too)
  --description TEXT      what people are told of it
  --cache none|volatile   where writes may stay until a FLUSH (volatile)
  --spill PERCENT         of the writes into a volatile cache, so many are on the medium at once
  --contexts LIST         of incarnation,writer; or none (both)
  --incarnation TOKEN     tell this one for ever: a lie, for tests that have to find it out
  --control SOCKET        take orders there (README.md)
  --log FILE              note every change and every flush there
  --block-sizes MIN,PREFERRED,MAX
  --headers simple|structured|extended
  --read-only  --no-fua  --no-flush
";

impl Options {
    /// Options for a disk at an address, the rest as `--help` says.
    #[must_use]
    pub fn new(listen: SocketAddr, file: PathBuf) -> Self {
        Self {
            listen,
            file,
            size: None,
            name: String::new(),
            description: String::new(),
            cache: Cache::Volatile { spill: 0 },
            tells_incarnation: true,
            incarnation: None,
            knows_writers: true,
            control: None,
            log: None,
            block_sizes: [512, 4096, 32 << 20],
            read_only: false,
            fua: true,
            flush: true,
            headers: 2,
        }
    }

    /// Understands a command line.
    ///
    /// # Errors
    /// With a sentence for who typed it.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let (mut listen, mut file) = (None, None);
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 10809));
        let mut options = Self::new(anywhere, PathBuf::new());
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} what?"));
            match word.as_str() {
                "--listen" => listen = Some(parsed(&value()?)?),
                "--file" => file = Some(PathBuf::from(value()?)),
                "--size" => options.size = Some(parsed(&value()?)?),
                "--name" => options.name = value()?,
                "--description" => options.description = value()?,
                "--cache" => {
                    options.cache = match value()?.as_str() {
                        "none" => Cache::None,
                        "volatile" => Cache::Volatile { spill: 0 },
                        other => return Err(format!("no such cache: {other}")),
                    }
                }
                "--spill" => options.cache = Cache::Volatile { spill: parsed::<u8>(&value()?)?.min(100) },
                "--contexts" => {
                    let list = value()?;
                    let has = |name| list.split(',').any(|word| word == name);
                    options.tells_incarnation = has("incarnation");
                    options.knows_writers = has("writer");
                }
                "--incarnation" => options.incarnation = Some(value()?),
                "--control" => options.control = Some(PathBuf::from(value()?)),
                "--log" => options.log = Some(PathBuf::from(value()?)),
                "--block-sizes" => options.block_sizes = sizes(&value()?)?,
                "--headers" => {
                    let forms = ["simple", "structured", "extended"];
                    let form = value()?;
                    let found = forms.iter().position(|known| *known == form);
                    options.headers = found.ok_or_else(|| format!("no such headers: {form}"))? as u8;
                }
                "--read-only" => options.read_only = true,
                "--no-fua" => options.fua = false,
                "--no-flush" => options.flush = false,
                other => return Err(format!("no such option: {other}")),
            }
        }
        options.listen = listen.ok_or("--listen is needed")?;
        options.file = file.ok_or("--file is needed")?;
        Ok(options)
    }

    /// The command line that says all this.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words = vec!["--listen".to_string(), self.listen.to_string()];
        let mut say = |key: &str, value: String| words.extend([format!("--{key}"), value]);
        say("file", self.file.display().to_string());
        if let Some(size) = self.size {
            say("size", size.to_string());
        }
        say("name", self.name.clone());
        say("description", self.description.clone());
        match self.cache {
            Cache::None => say("cache", "none".into()),
            Cache::Volatile { spill } => say("spill", spill.to_string()),
        }
        let contexts = [("incarnation", self.tells_incarnation), ("writer", self.knows_writers)];
        let contexts = contexts.iter().filter(|(_, is_known)| *is_known).map(|(name, _)| *name);
        say("contexts", contexts.collect::<Vec<_>>().join(","));
        if let Some(token) = &self.incarnation {
            say("incarnation", token.clone());
        }
        for (key, path) in [("control", &self.control), ("log", &self.log)] {
            if let Some(path) = path {
                say(key, path.display().to_string());
            }
        }
        say("block-sizes", self.block_sizes.map(|size| size.to_string()).join(","));
        say("headers", ["simple", "structured", "extended"][usize::from(self.headers.min(2))].into());
        let switches = [("read-only", self.read_only), ("no-fua", !self.fua), ("no-flush", !self.flush)];
        words.extend(switches.iter().filter(|(_, is_on)| *is_on).map(|(name, _)| format!("--{name}")));
        words
    }
}

fn sizes(text: &str) -> Result<[u32; 3], String> {
    let sizes = text.split(',').map(parsed).collect::<Result<Vec<u32>, _>>()?;
    let sizes: [u32; 3] = sizes.try_into().map_err(|_| "three sizes are needed".to_string())?;
    let [minimum, preferred, maximum] = sizes;
    let is_legal =
        minimum.is_power_of_two() && preferred >= minimum && maximum >= preferred && minimum <= 64 << 10;
    if is_legal { Ok(sizes) } else { Err(format!("these sizes make no sense: {text}")) }
}

fn parsed<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("not understood: {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_what_it_says() {
        let mut options = Options::new("10.0.0.1:7".parse().unwrap(), "/disk".into());
        options.size = Some(1 << 20);
        options.cache = Cache::Volatile { spill: 30 };
        options.knows_writers = false;
        options.control = Some("/control".into());
        options.headers = 0;
        options.incarnation = Some("for-ever".into());
        options.fua = false;
        let again = Options::parse(options.words()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{options:?}"));
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let error = |line: &str| Options::parse(line.split(' ').map(str::to_string)).unwrap_err();
        assert_eq!(error("--file /disk"), "--listen is needed");
        assert_eq!(error("--listen 127.0.0.1:1 --file"), "--file what?");
        assert_eq!(error("--wings"), "no such option: --wings");
        assert!(error("--block-sizes 3,4096,8192").contains("no sense"));
    }
}
