//! The file of those who may call over TCP: one a line, with a proof and rights.
//!
//! ```text
//! NAME  PROOF  [RIGHT…]  [expires=TIME]
//! ```
//!
//! PROOF is the SHA-256 of a token in hex, `cert:` and the SHA-256 of a client certificate, or `cn:` and the common name
//! of one that the configured authority has signed. RIGHT is `full`, `read` (as if none were there) or
//! `VERBS:KINDS[@OWNER]`. `#` begins a comment.
//!
//! An expiry is a date, and is counted down on the monotonic clock from when the file was read: a wall clock that jumps
//! meanwhile makes no token old or young.

use std::fmt::Write as _;
use std::fs::File;
use std::hint::black_box;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netloom_api::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{Caller, Certificate};
use crate::controller::Rights;

/// The callers of the TCP listeners.
#[derive(Debug)]
pub struct Callers(Vec<Known>);

#[derive(Debug)]
struct Known {
    name: String,
    proof: Proof,
    rights: Rights,
    until: Option<Instant>,
}

/// How a caller shows who it is.
#[derive(Debug, PartialEq, Eq)]
enum Proof {
    /// It has the token with this hash.
    Token(Hash),
    /// It has the key of the certificate with this hash.
    Certificate(Hash),
    /// It has the key of a certificate of this common name.
    CommonName(String),
}

pub(super) type Hash = [u8; 32];

/// Why there are no callers, or no token can be made.
#[derive(Debug, thiserror::Error)]
pub enum CallersError {
    /// The file cannot be read.
    #[error("cannot read the token file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others could read the hashes or add their own.
    #[error("the token file {} {reason}; make it root's own: chown root, chmod 0600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Who could.
        reason: String,
    },
    /// A line that says nobody.
    #[error("line {line} of the token file {}: {reason}; `netloomd hash-token NAME` makes such lines", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// What is wrong with it; never its content.
        reason: String,
    },
    /// A file without lines lets nobody in.
    #[error("the token file {} has no tokens; add a line with `netloomd hash-token NAME`", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A name that cannot stand in the file.
    #[error("{name:?} is no name for a token: use up to 63 of a-z, A-Z, 0-9, dot, dash and underscore")]
    Name {
        /// As typed.
        name: String,
    },
    /// A token that could be guessed or cannot be sent.
    #[error("the token {0}; make one with `head -c 32 /dev/urandom | base64`")]
    Weak(&'static str),
}

/// A file of this size holds some ten thousand callers.
const LARGEST_FILE: u64 = 1 << 20;
/// Sixteen random bytes in base64 are 22 characters.
const SHORTEST_TOKEN: usize = 22;

impl Callers {
    /// Reads the file, which must be root's own.
    pub fn load(path: &Path) -> Result<Self, CallersError> {
        let unreadable = |source| CallersError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        let exposed = |reason: String| Err(CallersError::Exposed { path: path.to_owned(), reason });
        if meta.mode() & 0o077 != 0 {
            return exposed(format!("has mode {:04o} and so is open to others", meta.mode() & 0o7777));
        }
        if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
            return exposed(format!("belongs to uid {}", meta.uid()));
        }
        let mut text = String::new();
        file.take(LARGEST_FILE).read_to_string(&mut text).map_err(unreadable)?;
        Self::parse(path, &text, Timestamp::now(), Instant::now())
    }

    fn parse(path: &Path, text: &str, today: Timestamp, now: Instant) -> Result<Self, CallersError> {
        let mut all: Vec<Known> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let fault = |reason| CallersError::Line { path: path.to_owned(), line: index + 1, reason };
            let known = Known::parse(line, today, now).map_err(fault)?;
            if all.iter().any(|other| other.name == known.name) {
                return Err(fault("the name is taken by a line above".to_owned()));
            }
            if all.iter().any(|other| other.proof == known.proof) {
                return Err(fault("the token or certificate is that of a line above".to_owned()));
            }
            all.push(known);
        }
        if all.is_empty() { Err(CallersError::Empty { path: path.to_owned() }) } else { Ok(Callers(all)) }
    }

    /// The caller who has this token. Takes as long for every token, right or wrong.
    pub fn by_token(&self, token: &str) -> Option<Caller> {
        let hash: Hash = Sha256::digest(token).into();
        let mut found = None;
        for known in &self.0 {
            if let Proof::Token(right) = &known.proof
                && same(&hash, right)
            {
                found = Some(known);
            }
        }
        found.and_then(|known| known.caller("token"))
    }

    /// The caller who has the key of this certificate. One that is named by its hash is known whoever signed it.
    pub(in crate::api) fn by_certificate(&self, certificate: &Certificate) -> Option<Caller> {
        if !certificate.is_valid(Timestamp::now()) {
            return None;
        }
        let by_hash = self.0.iter().find(|known| known.proof == Proof::Certificate(certificate.hash));
        let named = |known: &&Known| match (&known.proof, &certificate.signed_name) {
            (Proof::CommonName(name), Some(signed)) => name == signed,
            (Proof::CommonName(_), None) | (Proof::Token(_) | Proof::Certificate(_), _) => false,
        };
        by_hash.or_else(|| self.0.iter().find(named)).and_then(|known| known.caller("cert"))
    }

    /// Whether a certificate is named by its hash.
    pub(in crate::api) fn has_certificate(&self, hash: &Hash) -> bool {
        self.0.iter().any(|known| matches!(&known.proof, Proof::Certificate(other) if other == hash))
    }
}

impl Known {
    fn parse(line: &str, today: Timestamp, now: Instant) -> Result<Self, String> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().filter(|name| is_name(name)).ok_or("the name is not valid")?;
        let proof = Proof::parse(words.next().unwrap_or_default())?;
        let (mut rights, mut until) = (Vec::new(), None);
        for word in words {
            match word.strip_prefix("expires=") {
                None => rights.push(word),
                Some(_) if until.is_some() => return Err("it expires twice".to_owned()),
                Some(time) => {
                    let end: Timestamp =
                        time.parse().map_err(|_| "the expiry is no time like 2027-01-31T00:00:00Z")?;
                    let left = u64::try_from(end.as_micros().saturating_sub(today.as_micros())).unwrap_or(0);
                    // What is further away than clocks reach never comes.
                    until = now.checked_add(Duration::from_micros(left));
                }
            }
        }
        let rights = if rights.is_empty() { Rights::read() } else { Rights::parse(rights.into_iter())? };
        Ok(Known { name: name.to_owned(), proof, rights, until })
    }

    fn caller(&self, sort: &str) -> Option<Caller> {
        let lives = self.until.is_none_or(|until| Instant::now() < until);
        lives.then(|| Caller { actor: format!("{sort}:{}", self.name), rights: self.rights.clone() })
    }
}

impl Proof {
    fn parse(word: &str) -> Result<Self, String> {
        if let Some(hex) = word.strip_prefix("cert:") {
            let hash = unhex(&hex.replace(':', ""));
            return Ok(Proof::Certificate(hash.ok_or("after cert: there are no 64 hexadecimal digits")?));
        }
        if let Some(name) = word.strip_prefix("cn:") {
            let plain = !name.is_empty() && name.len() <= 64;
            return plain
                .then(|| Proof::CommonName(name.to_owned()))
                .ok_or_else(|| "after cn: there is no name".to_owned());
        }
        let hash = unhex(word).ok_or("the second word is neither 64 hexadecimal digits nor cert: or cn:")?;
        Ok(Proof::Token(hash))
    }
}

/// The line of the file for `token`.
pub fn token_line(
    name: &str,
    token: &str,
    rights: &Rights,
    expires: Option<Timestamp>,
) -> Result<String, CallersError> {
    if !is_name(name) {
        return Err(CallersError::Name { name: name.to_owned() });
    }
    let token = token.trim();
    if token.len() < SHORTEST_TOKEN {
        return Err(CallersError::Weak("is so short that it could be guessed"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(CallersError::Weak("has characters that cannot stand in a header"));
    }
    let mut line = format!("{name} ");
    for byte in Sha256::digest(token) {
        // Writing to a String cannot fail.
        let _ = write!(line, "{byte:02x}");
    }
    let _ = if *rights == Rights::read() { write!(line, " read") } else { write!(line, " {rights}") };
    if let Some(expires) = expires {
        let _ = write!(line, " expires={expires}");
    }
    Ok(line)
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=63).contains(&name.len()) && name.bytes().all(plain)
}

/// Compares without an early end that would tell how much was right.
fn same(a: &Hash, b: &Hash) -> bool {
    let difference = a.iter().zip(b).fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
    black_box(difference) == 0
}

fn unhex(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != 2 * hash.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn parse(text: &str) -> Result<Callers, CallersError> {
        Callers::parse(Path::new("tokens"), text, Timestamp::now(), Instant::now())
    }

    fn line(name: &str, token: &str, rights: &Rights) -> String {
        token_line(name, token, rights, None).unwrap()
    }

    #[test]
    fn a_hashed_token_is_found_again_under_its_name_and_no_other_is() {
        let ci = line("ci", TOKEN, &Rights::Full);
        let eye = line("eye", &TOKEN.to_uppercase(), &Rights::read());
        let callers = parse(&format!("# who\n\n{ci} # the build\n{eye}\n")).unwrap();
        assert_eq!(callers.by_token(TOKEN), Some(Caller { actor: "token:ci".into(), rights: Rights::Full }));
        assert_eq!(callers.by_token(&TOKEN.to_uppercase()).unwrap().rights, Rights::read());
        assert_eq!(callers.by_token(""), None);
        assert_eq!(callers.by_token(&format!("{TOKEN} ")), None);
        // A hash is no token: who reads the file cannot call.
        assert_eq!(callers.by_token(ci.split(' ').nth(1).unwrap()), None);
    }

    #[test]
    fn a_line_without_a_right_may_only_read() {
        let line = line("ci", TOKEN, &Rights::Full);
        let callers = parse(line.trim_end_matches(" full")).unwrap();
        assert_eq!(callers.by_token(TOKEN).unwrap().rights, Rights::read());
    }

    #[test]
    fn a_line_has_as_many_scopes_as_it_likes() {
        let scopes = Rights::parse("read:networks write:attachments@ci-7".split(' ')).unwrap();
        let callers = parse(&line("ci", TOKEN, &scopes)).unwrap();
        assert_eq!(callers.by_token(TOKEN).unwrap().rights, scopes);
    }

    #[test]
    fn a_token_is_good_until_it_expires_whatever_the_wall_clock_says_meanwhile() {
        let today = Timestamp::now();
        let at = |seconds: i64| Timestamp::from_micros(today.as_micros() + seconds * 1_000_000);
        let read = |expires: i64, now: Instant| {
            let line = token_line("ci", TOKEN, &Rights::Full, Some(at(expires))).unwrap();
            Callers::parse(Path::new("tokens"), &line, today, now).unwrap().by_token(TOKEN).is_some()
        };
        let now = Instant::now();
        assert!(read(3600, now) && !read(0, now) && !read(-3600, now));
        // Read two hours ago, by a clock that only goes forward.
        if let Some(before) = now.checked_sub(Duration::from_secs(7200)) {
            assert!(!read(3600, before) && read(10_800, before));
        }
        assert!(parse(&format!("{} expires=soon", line("ci", TOKEN, &Rights::Full))).is_err());
    }

    #[test]
    fn a_bad_line_is_named_by_number_and_never_shown() {
        let line = line("ci", TOKEN, &Rights::Full);
        for bad in [
            format!("{line} more"),
            "ci secret".into(),
            "ci cert:secret".into(),
            "ci cn:".into(),
            format!("c/i{line}"),
            line.replace("full", "root"),
        ] {
            let error = parse(&format!("\n{bad}")).unwrap_err().to_string();
            assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
        }
        assert!(parse(&format!("{line}\n{line}")).unwrap_err().to_string().contains("taken"));
        let twin = line.replace("ci ", "ci2 ");
        assert!(parse(&format!("{line}\n{twin}")).unwrap_err().to_string().contains("line above"));
        assert!(parse("# nobody\n").unwrap_err().to_string().contains("no tokens"));
    }

    #[test]
    fn a_token_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, line("ci", TOKEN, &Rights::Full)).unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Callers::load(&path).is_ok(), good, "{mode:o}");
        }
        assert!(matches!(Callers::load(&dir.path().join("none")), Err(CallersError::Unreadable { .. })));
    }

    #[test]
    fn whatever_stands_in_a_token_file_is_read_or_refused() {
        let scopes = Rights::parse("read:* write:port-forwards,links@ci-7".split(' ')).unwrap();
        let expires = Some(Timestamp::from_micros(1_900_000_000_000_000));
        let lines = format!(
            "{}\n# who\neye cert:{} read\nnose cn:nose.example full\n",
            token_line("ci", TOKEN, &scopes, expires).unwrap(),
            "ab:".repeat(32).trim_end_matches(':')
        );
        assert!(parse(&lines).is_ok());
        netloom_fuzz::withstands_text(&[&lines], |text| drop(parse(text)));
    }

    #[test]
    fn tokens_that_could_be_guessed_or_not_be_sent_are_not_made() {
        let made = |name: &str, token: &str| token_line(name, token, &Rights::Full, None);
        assert!(made("ci", "secret").is_err());
        assert!(made("ci", "0123456789 0123456789 0123456789").is_err());
        assert!(made("c i", TOKEN).is_err());
        assert_eq!(made("ci", TOKEN).unwrap(), made("ci", &format!("{TOKEN}\n")).unwrap());
    }
}
