//! Who calls, and what the caller may do.
//!
//! Identity comes from the door: the kernel's word about the peer of a unix socket, or a bearer token over TCP. There
//! are two rights, [`Access::Read`] and [`Access::Full`]; full access is as much as being root on this host. Whether a
//! call reads is told from its name alone, so a new handler cannot forget to ask.
//!
//! Tokens are known by their SHA-256 only, never logged and never part of an error.

use std::fmt::Write as _;
use std::fs::File;
use std::hint::black_box;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};
use sha2::{Digest as _, Sha256};

use crate::config::TokenAccess;

/// Who is at the other end; an extension of every request that was let in, on both doors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// For the audit: `uid:0` or `token:ci`.
    pub actor: String,
    /// What the caller may do.
    pub access: Access,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Calls that change nothing.
    Read,
    /// All calls.
    Full,
}

impl From<TokenAccess> for Access {
    fn from(access: TokenAccess) -> Self {
        match access {
            TokenAccess::Read => Access::Read,
            TokenAccess::Full => Access::Full,
        }
    }
}

/// The callers of the TCP listeners.
#[derive(Debug)]
pub struct Tokens(Vec<Token>);

#[derive(Debug)]
struct Token {
    name: String,
    hash: Hash,
    access: Access,
}

type Hash = [u8; 32];

/// Why there are no tokens, or none can be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
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
    /// A line that is no token.
    #[error("line {line} of the token file {}: {reason}; `netloomd hash-token NAME` makes such lines", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// What is wrong with it; never its content.
        reason: &'static str,
    },
    /// A file without tokens lets nobody in.
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

/// A file of this size holds some ten thousand tokens.
const LARGEST_TOKEN_FILE: u64 = 1 << 20;
/// Sixteen random bytes in base64 are 22 characters.
const SHORTEST_TOKEN: usize = 22;

impl Tokens {
    /// Reads a token file: a line is `name sha256-in-hex [read|full]`, read if not said; `#` begins a comment.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        let exposed = |reason: String| Err(TokenError::Exposed { path: path.to_owned(), reason });
        if meta.mode() & 0o077 != 0 {
            return exposed(format!("has mode {:04o} and so is open to others", meta.mode() & 0o7777));
        }
        if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
            return exposed(format!("belongs to uid {}", meta.uid()));
        }
        let mut text = String::new();
        file.take(LARGEST_TOKEN_FILE).read_to_string(&mut text).map_err(unreadable)?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, TokenError> {
        let mut tokens: Vec<Token> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let fault = |reason| TokenError::Line { path: path.to_owned(), line: index + 1, reason };
            let token = Token::parse(line).map_err(fault)?;
            if tokens.iter().any(|other| other.name == token.name) {
                return Err(fault("the name is taken by a line above"));
            }
            tokens.push(token);
        }
        if tokens.is_empty() { Err(TokenError::Empty { path: path.to_owned() }) } else { Ok(Tokens(tokens)) }
    }

    /// The caller who has this token. Takes as long for every token, right or wrong.
    pub fn caller(&self, token: &str) -> Option<Caller> {
        let hash: Hash = Sha256::digest(token).into();
        let mut found = None;
        for known in &self.0 {
            if same(&hash, &known.hash) {
                found = Some(known);
            }
        }
        found.map(|token| Caller { actor: format!("token:{}", token.name), access: token.access })
    }
}

impl Token {
    fn parse(line: &str) -> Result<Self, &'static str> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().filter(|name| is_token_name(name)).ok_or("the name is not valid")?;
        let hash = words.next().and_then(unhex).ok_or("the second word is not 64 hexadecimal digits")?;
        let access = match words.next() {
            None | Some("read") => Access::Read,
            Some("full") => Access::Full,
            Some(_) => return Err("the third word is neither read nor full"),
        };
        match words.next() {
            None => Ok(Token { name: name.to_owned(), hash, access }),
            Some(_) => Err("there are more than three words"),
        }
    }
}

/// The line of a token file for `token`.
pub fn token_line(name: &str, token: &str, access: Access) -> Result<String, TokenError> {
    if !is_token_name(name) {
        return Err(TokenError::Name { name: name.to_owned() });
    }
    let token = token.trim();
    if token.len() < SHORTEST_TOKEN {
        return Err(TokenError::Weak("is so short that it could be guessed"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(TokenError::Weak("has characters that cannot stand in a header"));
    }
    let mut line = format!("{name} ");
    for byte in Sha256::digest(token) {
        // Writing to a String cannot fail.
        let _ = write!(line, "{byte:02x}");
    }
    line.push_str(match access {
        Access::Read => " read",
        Access::Full => " full",
    });
    Ok(line)
}

/// The one bearer token of a request.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether anybody may make this call: only "are you alive", which tells nothing else.
pub fn is_open(method: &Method, path: &str, grpc: bool) -> bool {
    if grpc { path.starts_with("/grpc.health.v1.Health/") } else { path == "/healthz" && is_safe(method) }
}

/// Whether a call changes nothing, by its name. What is not known to read is a write; so are plans and dry runs.
pub fn is_read(method: &Method, path: &str, grpc: bool) -> bool {
    if !grpc {
        // Its probe is a write: the controller sees to that.
        return is_safe(method) || method == Method::POST && path == "/v1/diagnose";
    }
    let Some((service, verb)) = path.trim_start_matches('/').split_once('/') else { return false };
    let begins = |text: &str, known: &[&str]| known.iter().any(|known| text.starts_with(known));
    begins(service, &["grpc.health.", "grpc.reflection."])
        || begins(service, &["netloom."]) && begins(verb, &["Get", "List", "Watch", "Export", "Diagnose"])
}

fn is_safe(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn is_token_name(name: &str) -> bool {
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

    fn parse(text: &str) -> Result<Tokens, TokenError> {
        Tokens::parse(Path::new("tokens"), text)
    }

    #[test]
    fn a_hashed_token_is_found_again_under_its_name_and_no_other_is() {
        let ci = token_line("ci", TOKEN, Access::Full).unwrap();
        let eye = token_line("eye", &TOKEN.to_uppercase(), Access::Read).unwrap();
        let tokens = parse(&format!("# who\n\n{ci} # the build\n{eye}\n")).unwrap();
        assert_eq!(tokens.caller(TOKEN), Some(Caller { actor: "token:ci".into(), access: Access::Full }));
        assert_eq!(tokens.caller(&TOKEN.to_uppercase()).unwrap().access, Access::Read);
        assert_eq!(tokens.caller(""), None);
        assert_eq!(tokens.caller(&format!("{TOKEN} ")), None);
        // A hash is no token: who reads the file cannot call.
        assert_eq!(tokens.caller(ci.split(' ').nth(1).unwrap()), None);
    }

    #[test]
    fn a_line_without_a_right_may_only_read() {
        let line = token_line("ci", TOKEN, Access::Full).unwrap();
        let tokens = parse(line.trim_end_matches(" full")).unwrap();
        assert_eq!(tokens.caller(TOKEN).unwrap().access, Access::Read);
    }

    #[test]
    fn a_bad_line_is_named_by_number_and_never_shown() {
        let line = token_line("ci", TOKEN, Access::Full).unwrap();
        for bad in
            [format!("{line} more"), "ci secret".into(), format!("c/i{line}"), line.replace("full", "root")]
        {
            let error = parse(&format!("\n{bad}")).unwrap_err().to_string();
            assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
        }
        assert!(parse(&format!("{line}\n{line}")).unwrap_err().to_string().contains("taken"));
        assert!(parse("# nobody\n").unwrap_err().to_string().contains("no tokens"));
    }

    #[test]
    fn a_token_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, token_line("ci", TOKEN, Access::Full).unwrap()).unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Tokens::load(&path).is_ok(), good, "{mode:o}");
        }
        assert!(matches!(Tokens::load(&dir.path().join("none")), Err(TokenError::Unreadable { .. })));
    }

    #[test]
    fn whatever_stands_in_a_token_file_is_read_or_refused() {
        let lines = format!("{}\n# who\n", token_line("ci", TOKEN, Access::Full).unwrap());
        netloom_fuzz::withstands_text(&[&lines], |text| drop(parse(text)));
    }

    #[test]
    fn tokens_that_could_be_guessed_or_not_be_sent_are_not_made() {
        assert!(token_line("ci", "secret", Access::Full).is_err());
        assert!(token_line("ci", "0123456789 0123456789 0123456789", Access::Full).is_err());
        assert!(token_line("c i", TOKEN, Access::Full).is_err());
        assert_eq!(
            token_line("ci", TOKEN, Access::Full).unwrap(),
            token_line("ci", &format!("{TOKEN}\n"), Access::Full).unwrap()
        );
    }

    #[test]
    fn one_bearer_header_counts_and_two_do_not() {
        let headers = |values: &[&str]| {
            let mut map = HeaderMap::new();
            for value in values {
                map.append(AUTHORIZATION, value.parse().unwrap());
            }
            map
        };
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer abc "])), Some("abc"));
        for none in [&[][..], &["Basic abc"], &["abc"], &["Bearer a", "Bearer a"]] {
            assert_eq!(bearer(&headers(none)), None);
        }
    }

    #[test]
    fn what_is_not_known_to_read_is_a_write() {
        let grpc = |path: &str| is_read(&Method::POST, path, true);
        assert!(grpc("/netloom.v1.NetworkService/ListNetworks"));
        assert!(grpc("/netloom.v1.ControlService/WatchEvents"));
        assert!(grpc("/netloom.v1.ControlService/Export"));
        assert!(grpc("/netloom.v1.ControlService/Diagnose"));
        assert!(is_read(&Method::POST, "/v1/diagnose", false));
        assert!(grpc("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"));
        assert!(grpc("/grpc.health.v1.Health/Check"));
        assert!(!grpc("/netloom.v1.ControlService/Apply"));
        assert!(!grpc("/netloom.v1.NetworkService/CreateNetwork"));
        assert!(!grpc("/List"));
        assert!(!grpc("/v1/ListOfMine"));
        assert!(is_read(&Method::GET, "/v1/networks", false) && is_read(&Method::HEAD, "/", false));
        for method in [Method::POST, Method::PATCH, Method::DELETE, Method::PUT, Method::OPTIONS] {
            assert!(!is_read(&method, "/v1/plan", false));
        }
    }

    #[test]
    fn only_health_is_open_to_strangers() {
        assert!(is_open(&Method::GET, "/healthz", false));
        assert!(!is_open(&Method::POST, "/healthz", false));
        assert!(is_open(&Method::POST, "/grpc.health.v1.Health/Check", true));
        for path in ["/readyz", "/metrics", "/v1/version", "/v1/openapi.json", "/docs", "/healthz/", "/"] {
            assert!(!is_open(&Method::GET, path, false), "{path}");
        }
        assert!(!is_open(&Method::POST, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true));
    }
}
