//! Where the daemon is and who calls it.
//!
//! A token is only ever sent to this host or over TLS: plain `http` to anything but loopback is refused here, before
//! a connection is made.

use std::{fmt, net::IpAddr, path::Path, path::PathBuf, str::FromStr, time::Duration};

use tonic::transport::Uri;

use crate::error::ClientError;

/// Where the daemon listens when nothing is configured.
pub const DEFAULT_SOCKET: &str = "/run/netloom/netloom.sock";

/// Where the daemon is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket: `unix:///run/netloom/netloom.sock`, or the path alone.
    Unix(PathBuf),
    /// TCP without TLS, on this host only: `http://127.0.0.1:port`.
    Http {
        /// `localhost` or a loopback address.
        host: String,
        /// The port.
        port: u16,
    },
    /// TCP with TLS: `https://host:port`.
    Https {
        /// A name or an address, as in the certificate.
        host: String,
        /// The port; 443 when none is said.
        port: u16,
    },
}

/// A bearer token. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// How to reach the daemon.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Who calls; a unix socket needs none.
    pub token: Option<Token>,
    /// Certificates (PEM) that may have signed the server's; needed for `https`.
    pub ca: Option<Vec<u8>>,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long a reply may take, beside what a write is asked to wait.
    pub call_timeout: Duration,
}

impl ConnectOptions {
    /// The defaults for a daemon at `endpoint`.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            token: None,
            ca: None,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(30),
        }
    }

    /// The defaults for a daemon at an address such as `unix:///run/netloom/netloom.sock`.
    pub fn parse(endpoint: &str) -> Result<Self, ClientError> {
        endpoint.parse().map(Self::new).map_err(ClientError::options)
    }

    /// Reads the token from the first line of a file.
    pub fn token_file(mut self, path: &Path) -> Result<Self, ClientError> {
        let text = String::from_utf8(read(path, "token file")?).unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        let token = first.parse().map_err(|why| {
            ClientError::options(format!("the first line of the token file {} {why}", path.display()))
        });
        self.token = Some(token?);
        Ok(self)
    }

    /// Reads the certificates of the server's authority from a PEM file.
    pub fn ca_file(mut self, path: &Path) -> Result<Self, ClientError> {
        self.ca = Some(read(path, "CA file")?);
        Ok(self)
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Endpoint::Unix(DEFAULT_SOCKET.into())
    }
}

impl FromStr for Endpoint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once(':').filter(|_| !text.starts_with(['/', '.'])) else {
            return unix(text);
        };
        match (scheme, rest.strip_prefix("//")) {
            ("unix", Some(path)) => unix(path),
            ("unix", None) => unix(rest),
            ("http", Some(authority)) => {
                let (host, port) = host_and_port(authority)?;
                let port = port.ok_or("the port is missing, as in http://127.0.0.1:8080")?;
                let is_loopback = host.parse().map_or(host == "localhost", |ip: IpAddr| ip.is_loopback());
                if !is_loopback {
                    return Err(format!("plain http goes to this host only; use https://{authority}"));
                }
                Ok(Endpoint::Http { host, port })
            }
            ("https", Some(authority)) => {
                let (host, port) = host_and_port(authority)?;
                Ok(Endpoint::Https { host, port: port.unwrap_or(443) })
            }
            (_, _) => Err("is not a path, unix://PATH, http://127.0.0.1:PORT or https://HOST:PORT".into()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Http { host, port } => write!(f, "http://{}:{port}", bracketed(host)),
            Endpoint::Https { host, port } => write!(f, "https://{}:{port}", bracketed(host)),
        }
    }
}

impl Token {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("must be a token of visible ASCII characters".into());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// An IPv6 address needs brackets in a URL.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn unix(path: &str) -> Result<Endpoint, String> {
    match path {
        "" => Err("the path of the socket is missing".into()),
        path => Ok(Endpoint::Unix(path.into())),
    }
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let wrong = || format!("{text:?} is not HOST:PORT");
    let uri: Uri = format!("http://{text}").parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    let port = authority.as_str().strip_prefix(authority.host()).ok_or_else(wrong)?.strip_prefix(':');
    let port = port.map(|port| port.parse().map_err(|_| wrong())).transpose()?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_bare = uri.path_and_query().is_none_or(|path| path == "/");
    if host.is_empty() || port == Some(0) || !is_bare {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path).map_err(|error| {
        ClientError::options(format!("cannot read the {what} {}: {error}", path.display())).because(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(host: &str, port: u16) -> Endpoint {
        Endpoint::Http { host: host.into(), port }
    }

    fn https(host: &str, port: u16) -> Endpoint {
        Endpoint::Https { host: host.into(), port }
    }

    #[test]
    fn every_way_to_name_a_daemon_is_understood_and_written_back() {
        let socket = Endpoint::Unix("/run/netloom/netloom.sock".into());
        for (text, endpoint, written) in [
            ("/run/netloom/netloom.sock", socket.clone(), "unix:///run/netloom/netloom.sock"),
            ("unix:///run/netloom/netloom.sock", socket.clone(), "unix:///run/netloom/netloom.sock"),
            ("unix:/run/netloom/netloom.sock", socket, "unix:///run/netloom/netloom.sock"),
            ("./a:b.sock", Endpoint::Unix("./a:b.sock".into()), "unix://./a:b.sock"),
            ("http://127.0.0.1:8080", http("127.0.0.1", 8080), "http://127.0.0.1:8080"),
            ("http://127.3.2.1:8080/", http("127.3.2.1", 8080), "http://127.3.2.1:8080"),
            ("http://localhost:80", http("localhost", 80), "http://localhost:80"),
            ("http://[::1]:8080", http("::1", 8080), "http://[::1]:8080"),
            ("https://net.example:8443", https("net.example", 8443), "https://net.example:8443"),
            ("https://net.example", https("net.example", 443), "https://net.example:443"),
            ("https://[fd00::1]:1", https("fd00::1", 1), "https://[fd00::1]:1"),
        ] {
            assert_eq!(text.parse(), Ok(endpoint.clone()), "{text}");
            assert_eq!(endpoint.to_string(), written);
        }
    }

    #[test]
    fn what_would_send_a_token_in_the_clear_or_is_no_address_is_refused() {
        for text in [
            "",
            "unix://",
            "http://192.168.1.2:8080",
            "http://net.example:8080",
            "http://localhost.example:8080",
            "http://127.0.0.1",
            "http://[::2]:80",
            "http://127.0.0.1:0",
            "http://127.0.0.1:99999",
            "https://",
            "https://user@net.example:1",
            "https://net.example:1/path",
            "ftp://127.0.0.1:21",
            "localhost:8080",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_the_first_line_of_its_file_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "s3cret \nnotes\n").unwrap();
        let options = ConnectOptions::new(Endpoint::default()).token_file(&file).unwrap();
        assert_eq!(options.token.as_ref().unwrap().as_str(), "s3cret");
        assert!(!format!("{options:?}").contains("s3cret"));

        std::fs::write(&file, "\n").unwrap();
        let error = ConnectOptions::new(Endpoint::default()).token_file(&file).unwrap_err();
        assert!(error.to_string().contains("must be a token"), "{error}");
        let error = ConnectOptions::new(Endpoint::default()).ca_file(&dir.path().join("none")).unwrap_err();
        assert_eq!(error.io_kind(), Some(std::io::ErrorKind::NotFound));
    }
}
