//! Who calls, and what the caller may do.
//!
//! Identity comes from the door: the kernel's word about the peer of a unix socket, or a bearer token or a client
//! certificate over TCP. What a call does is told from its name alone, so a new handler cannot forget to ask: what is not
//! known to read is a write, and what is not known to show one kind of object shows everything.
//!
//! Tokens are known by their SHA-256 only, never logged and never part of an error.

mod callers;
mod certificate;

use std::sync::LazyLock;

use axum::http::header::{ACCEPT, AUTHORIZATION};
use axum::http::{HeaderMap, Method};
use netloom_api::{KIND_NAMES, Kind};

use crate::controller::{Rights, Verb};

pub use callers::{Callers, CallersError, token_line};
pub(super) use certificate::Certificate;

/// Who is at the other end; an extension of every request that was let in, on both doors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// For the audit: `uid:0`, `token:ci` or `cert:ci`.
    pub actor: String,
    /// What the caller may do.
    pub rights: Rights,
}

/// What a unix socket gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Calls that change nothing.
    Read,
    /// All calls.
    Full,
}

impl From<Access> for Rights {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => READ.clone(),
            Access::Full => Rights::Full,
        }
    }
}

static READ: LazyLock<Rights> = LazyLock::new(Rights::read);

/// What an answer shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    /// The daemon itself.
    Daemon,
    /// Objects of one kind.
    Objects(Kind),
    /// More than that.
    Everything,
}

impl Rights {
    /// Whether a call may come through the door. For a write that is half of the answer: the controller looks at the
    /// objects.
    pub(super) fn may_call(&self, method: &Method, path: &str, grpc: bool) -> bool {
        if !is_read(method, path, grpc) {
            return self.write();
        }
        match shows(path, grpc) {
            Shows::Daemon => true,
            Shows::Objects(kind) => self.reach(Verb::Read, kind),
            Shows::Everything => self.read_all(),
        }
    }
}

/// What a request shows of its sender.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown<'r> {
    /// No credentials.
    Nothing,
    /// The one bearer token.
    Token(&'r str),
    /// Credentials that are no token, or more than one.
    Nonsense,
}

/// What the header says of who sends a request.
pub fn bearer(headers: &HeaderMap) -> Shown<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Shown::Nothing,
        (Some(_), Some(_)) => Shown::Nonsense,
        (Some(value), None) => {
            let words = value.to_str().ok().and_then(|text| text.split_once(' '));
            let token = words.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
            token.map_or(Shown::Nonsense, |(_, token)| Shown::Token(token.trim()))
        }
    }
}

/// Whether anybody may make this call: only "are you alive", which tells nothing else. The health of gRPC knows
/// services by their names, so it is no such call.
pub fn is_open(method: &Method, path: &str, grpc: bool) -> bool {
    !grpc && path == "/healthz" && is_safe(method)
}

/// Whether a call changes nothing, by its name. What is not known to read is a write; so are plans and dry runs.
pub fn is_read(method: &Method, path: &str, grpc: bool) -> bool {
    if !grpc {
        // Its probe is a write: the controller sees to that.
        return is_safe(method) || method == Method::POST && path == "/v1/diagnose";
    }
    let Some((service, verb)) = call_of(path) else { return false };
    let begins = |text: &str, known: &[&str]| known.iter().any(|known| text.starts_with(known));
    begins(service, &["grpc.health.", "grpc.reflection."])
        || begins(service, &["netloom."]) && begins(verb, &["Get", "List", "Watch", "Export", "Diagnose"])
}

/// Whether the answer goes on for as long as both sides like.
pub fn is_stream(path: &str, headers: &HeaderMap, grpc: bool) -> bool {
    if !grpc {
        return path == "/v1/events" && wants_events(headers);
    }
    let Some((service, verb)) = call_of(path) else { return false };
    verb.starts_with("Watch") || service.starts_with("grpc.reflection.")
}

/// Whether server-sent events are asked for.
pub fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|text| text.split(','));
    types.any(|one| {
        one.split(';').next().is_some_and(|one| one.trim().eq_ignore_ascii_case("text/event-stream"))
    })
}

fn shows(path: &str, grpc: bool) -> Shows {
    if grpc {
        let Some((service, verb)) = call_of(path) else { return Shows::Everything };
        if service.starts_with("grpc.") || verb == "GetVersion" {
            return Shows::Daemon;
        }
        let noun = service.strip_prefix("netloom.v1.").and_then(|service| service.strip_suffix("Service"));
        return noun.and_then(|noun| noun.parse().ok()).map_or(Shows::Everything, Shows::Objects);
    }
    if ["/healthz", "/readyz", "/v1/version", "/v1/openapi.json", "/docs"].contains(&path)
        || path.starts_with("/docs/")
    {
        return Shows::Daemon;
    }
    let mut parts = path.strip_prefix("/v1/").unwrap_or_default().split('/');
    let (first, name, more) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let kind = KIND_NAMES.iter().find(|(kind, _)| kind.plural() == first);
    match (kind, name, more) {
        (Some((kind, _)), _, None) => Shows::Objects(*kind),
        _ => Shows::Everything,
    }
}

fn call_of(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/')
}

fn is_safe(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bearer_header_counts_and_two_do_not() {
        let headers = |values: &[&str]| {
            let mut map = HeaderMap::new();
            for value in values {
                map.append(AUTHORIZATION, value.parse().unwrap());
            }
            map
        };
        assert_eq!(bearer(&headers(&["Bearer abc"])), Shown::Token("abc"));
        assert_eq!(bearer(&headers(&["bearer abc "])), Shown::Token("abc"));
        assert_eq!(bearer(&headers(&[])), Shown::Nothing);
        for bad in [&["Basic abc"][..], &["abc"], &["Bearer a", "Bearer a"], &[""]] {
            assert_eq!(bearer(&headers(bad)), Shown::Nonsense);
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
    fn what_is_not_known_to_show_one_kind_shows_everything() {
        for (path, kind) in [
            ("/v1/networks", Kind::Network),
            ("/v1/port-forwards/web", Kind::PortForward),
            ("/v1/namespaces/", Kind::Namespace),
        ] {
            assert_eq!(shows(path, false), Shows::Objects(kind), "{path}");
        }
        assert_eq!(
            shows("/netloom.v1.PortForwardService/GetPortForward", true),
            Shows::Objects(Kind::PortForward)
        );
        for daemon in ["/v1/version", "/docs/index.html", "/readyz"] {
            assert_eq!(shows(daemon, false), Shows::Daemon, "{daemon}");
        }
        for all in [
            "/v1/export",
            "/v1/namespaces/red/state",
            "/v1/allocations",
            "/v1/events",
            "/metrics",
            "/v2/networks",
            "/v1/%6eetworks",
            "/",
        ] {
            assert_eq!(shows(all, false), Shows::Everything, "{all}");
        }
        for all in [
            "/netloom.v1.ControlService/GetNamespaceState",
            "/netloom.v1.AllocationService/ListAllocations",
            "/x",
        ] {
            assert_eq!(shows(all, true), Shows::Everything, "{all}");
        }
    }

    #[test]
    fn scoped_rights_open_the_doors_that_they_name() {
        let some = Rights::parse("read:networks create:attachments@ci-7".split(' ')).unwrap();
        let get = |path: &str| some.may_call(&Method::GET, path, false);
        assert!(get("/v1/networks/x") && get("/v1/version") && !get("/v1/attachments") && !get("/v1/export"));
        assert!(some.may_call(&Method::POST, "/v1/attachments", false));
        assert!(!Rights::read().may_call(&Method::POST, "/v1/attachments", false));
        assert!(Rights::read().may_call(&Method::GET, "/v1/events", false));
        assert!(!some.may_call(&Method::POST, "/v1/diagnose", false));
    }

    #[test]
    fn only_healthz_is_open_to_strangers() {
        assert!(is_open(&Method::GET, "/healthz", false));
        assert!(!is_open(&Method::POST, "/healthz", false));
        for path in ["/readyz", "/metrics", "/v1/version", "/v1/openapi.json", "/docs", "/healthz/", "/"] {
            assert!(!is_open(&Method::GET, path, false), "{path}");
        }
        for path in [
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/healthz",
        ] {
            assert!(!is_open(&Method::POST, path, true), "{path}");
        }
    }

    #[test]
    fn followers_are_told_from_other_requests() {
        let none = HeaderMap::new();
        assert!(is_stream("/netloom.v1.ControlService/WatchEvents", &none, true));
        assert!(is_stream("/grpc.health.v1.Health/Watch", &none, true));
        assert!(!is_stream("/netloom.v1.ControlService/ListEvents", &none, true));
        assert!(!is_stream("/v1/events", &none, false));
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, "application/json, text/event-stream;q=0.9".parse().unwrap());
        assert!(is_stream("/v1/events", &headers, false) && !is_stream("/v1/networks", &headers, false));
    }
}
