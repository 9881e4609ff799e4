//! What went wrong, in words with a hint, and as an exit code that scripts can rely on.

use std::{ffi::OsString, io};

use netloom_client::{ClientError, ErrorKind, ErrorReason};

/// How the command ends. The codes are API; `netloom --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// As asked.
    Done,
    /// The daemon refused, or something failed that has no code of its own.
    Refused,
    /// The command line, a document or a file is wrong.
    Usage,
    /// There is no such object.
    NotFound,
    /// It exists already, or what is there stands in the way.
    Conflict,
    /// The daemon cannot be reached, or does not answer.
    Unreachable,
    /// It was written, but is not Ready within the wait.
    NotReady,
    /// `diagnose`: packets do not arrive, or it is not known.
    NotReached,
    /// `ns exec`: the command cannot be run.
    CannotRun,
    /// `ns exec`: there is no such command.
    NoCommand,
}

/// Failures that are found on this side.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// What was typed makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A search found nothing.
    #[error("{0}")]
    NotFound(String),
    /// The command of `ns exec` did not start.
    #[error("cannot run {}: {error}", program.display())]
    Exec {
        /// What was to be run.
        program: OsString,
        /// Why it was not.
        error: io::Error,
    },
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Refused => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Conflict => 4,
            Exit::Unreachable => 5,
            Exit::NotReady => 6,
            Exit::NotReached => 7,
            Exit::CannotRun => 126,
            Exit::NoCommand => 127,
        }
    }

    fn of(error: &anyhow::Error) -> Self {
        if let Some(error) = error.downcast_ref::<ClientError>() {
            return Self::of_call(error);
        }
        match error.downcast_ref::<Fault>() {
            Some(Fault::Usage(_)) => Exit::Usage,
            Some(Fault::NotFound(_)) => Exit::NotFound,
            Some(Fault::Exec { error, .. }) if error.kind() == io::ErrorKind::NotFound => Exit::NoCommand,
            Some(Fault::Exec { .. }) => Exit::CannotRun,
            // Who closes our output has seen enough.
            None if is_broken_pipe(error) => Exit::Done,
            None => Exit::Refused,
        }
    }

    fn of_call(error: &ClientError) -> Self {
        match (error.kind, error.reason) {
            (ErrorKind::Connect | ErrorKind::TimedOut, _) => Exit::Unreachable,
            (ErrorKind::Options, _) => Exit::Usage,
            (ErrorKind::Refused, Some(ErrorReason::NotFound)) => Exit::NotFound,
            (ErrorKind::Refused, Some(reason)) if matches!(reason.http_status(), 409 | 412) => Exit::Conflict,
            (ErrorKind::Refused | ErrorKind::Reply, _) => Exit::Refused,
        }
    }
}

/// Prints the error and returns how to end.
pub fn report(error: &anyhow::Error) -> Exit {
    if !is_broken_pipe(error) {
        eprint!("{}", words(error));
    }
    Exit::of(error)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn words(error: &anyhow::Error) -> String {
    let Some(call) = error.downcast_ref::<ClientError>() else { return format!("error: {error:#}\n") };
    let mut lines = vec![match (call.kind, call.reason) {
        (ErrorKind::Connect, _) => format!("error: cannot reach netloomd: {call}"),
        (_, Some(reason)) => format!("error: {call} ({})", reason.as_str()),
        (_, None) => format!("error: {call}"),
    }];
    lines.extend(details(call));
    lines.extend(hint(call).map(|hint| format!("hint: {hint}")));
    lines.join("\n") + "\n"
}

/// Fields, obstacles and values, save what the sentence says already.
fn details(error: &ClientError) -> Vec<String> {
    let said = |text: &str| error.detail.contains(text);
    let violations = error.violations.iter().filter_map(|violation| {
        let (field, why) = (violation.field.as_str(), violation.description.as_str());
        match (said(field), said(why)) {
            (true, true) => None,
            (false, true) => Some(format!("  at {field}")),
            (_, false) if field.is_empty() => Some(format!("  {why}")),
            (_, false) => Some(format!("  {field}: {why}")),
        }
    });
    let obstacles = error.preconditions.iter().filter(|one| !said(&one.description));
    let obstacles = obstacles.map(|one| format!("  {}: {}", one.subject, one.description));
    // A list is said with blanks in the sentence.
    let values = error.metadata.iter().filter(|(_, value)| !said(value) && !said(&value.replace(',', ", ")));
    violations.chain(obstacles).chain(values.map(|(key, value)| format!("  {key}: {value}"))).collect()
}

fn hint(error: &ClientError) -> Option<&'static str> {
    match error.kind {
        ErrorKind::Connect => Some(match error.io_kind() {
            Some(io::ErrorKind::PermissionDenied) => {
                "root and the group netloom may use the socket: usermod -aG netloom USER, then log in again"
            }
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                "is netloomd running? See `systemctl status netloomd`, or name its socket with --endpoint"
            }
            Some(_) | None => "--endpoint says where netloomd is; https also needs --ca-file",
        }),
        ErrorKind::TimedOut => Some("it may have been done all the same; look, or repeat with --request-id"),
        ErrorKind::Reply => Some("is it netloomd that answers, and of this version? See `netloom status`"),
        ErrorKind::Options => None,
        ErrorKind::Refused => match error.reason? {
            ErrorReason::HasDependents if names_a_policy(error) => Some(
                "--force deletes them too; a policy that names it as a peer alone stays, without that peer",
            ),
            reason => hint_of_reason(reason),
        },
    }
}

fn names_a_policy(error: &ClientError) -> bool {
    error.metadata.get("dependents").is_some_and(|dependents| dependents.contains("Policy/"))
}

fn hint_of_reason(reason: ErrorReason) -> Option<&'static str> {
    Some(match reason {
        ErrorReason::Unauthenticated => "--token-file names the file that holds the token",
        ErrorReason::PermissionDenied => {
            "a read-only socket or token cannot write; netloom.sock has all rights"
        }
        ErrorReason::HasDependents => "--force deletes them too",
        ErrorReason::NamespaceInUse => "--force removes its name; it goes when the last process does",
        ErrorReason::PortTaken => "`ss -lntup` shows who listens, `netloom forwards ls` what is published",
        ErrorReason::AddressTaken => "`netloom allocations` shows who has which address",
        ErrorReason::NeedsForce => "--force does it all the same",
        ErrorReason::SpoofGuardOff => "`netloom set net NAME spoof_guard=` switches it on",
        ErrorReason::Overlap => "leave the subnet out and a free one is chosen",
        ErrorReason::RouteTaken => "another metric makes it another route; `netloom route ls` shows them",
        ErrorReason::OwnedByOther => "--take-ownership takes it over",
        ErrorReason::RevisionMismatch => "`netloom plan` shows what would be done now",
        ErrorReason::EtagMismatch => "somebody else changed it; look again before you repeat",
        ErrorReason::BeingDeleted | ErrorReason::Unavailable => "try again in a moment",
        ErrorReason::Internal => "this is a defect of netloom; `journalctl -u netloomd` has more",
        ErrorReason::InvalidArgument
        | ErrorReason::Malformed
        | ErrorReason::NotFound
        | ErrorReason::NoSuchMethod
        | ErrorReason::MethodNotAllowed
        | ErrorReason::TooSlow
        | ErrorReason::AlreadyExists
        | ErrorReason::ReferenceNotFound
        | ErrorReason::MacTaken
        | ErrorReason::DeviceTaken
        | ErrorReason::NamespaceTaken
        | ErrorReason::GatewayUnreachable
        | ErrorReason::PoolExhausted
        | ErrorReason::Expired
        | ErrorReason::TooLarge
        | ErrorReason::UnsupportedMediaType
        | ErrorReason::ImmutableField
        | ErrorReason::IdempotencyMismatch
        | ErrorReason::Unsupported
        | ErrorReason::KernelError
        | ErrorReason::SlowReader
        | ErrorReason::TooManyRequests => return None,
    })
}

#[cfg(test)]
mod tests {
    use netloom_client::Violation;

    use super::*;

    fn refused(reason: ErrorReason, detail: &str) -> ClientError {
        let mut error = ClientError::new(ErrorKind::Refused, detail);
        error.reason = Some(reason);
        error
    }

    #[test]
    fn exit_codes_are_those_that_the_help_promises() {
        for (kind, reason, code) in [
            (ErrorKind::Refused, Some(ErrorReason::InvalidArgument), 1),
            (ErrorKind::Refused, Some(ErrorReason::KernelError), 1),
            (ErrorKind::Refused, Some(ErrorReason::Unauthenticated), 1),
            (ErrorKind::Refused, Some(ErrorReason::Internal), 1),
            (ErrorKind::Refused, None, 1),
            (ErrorKind::Reply, None, 1),
            (ErrorKind::Options, None, 2),
            (ErrorKind::Refused, Some(ErrorReason::NotFound), 3),
            (ErrorKind::Refused, Some(ErrorReason::AlreadyExists), 4),
            (ErrorKind::Refused, Some(ErrorReason::HasDependents), 4),
            (ErrorKind::Refused, Some(ErrorReason::PoolExhausted), 4),
            (ErrorKind::Refused, Some(ErrorReason::EtagMismatch), 4),
            (ErrorKind::Connect, None, 5),
            (ErrorKind::TimedOut, None, 5),
        ] {
            let mut error = ClientError::new(kind, "no");
            error.reason = reason;
            assert_eq!(Exit::of(&error.into()).code(), code, "{kind:?} {reason:?}");
        }
        let exec = |kind| Fault::Exec { program: "x".into(), error: io::Error::from(kind) };
        for (fault, code) in [
            (Fault::Usage("no".into()), 2),
            (Fault::NotFound("no".into()), 3),
            (exec(io::ErrorKind::PermissionDenied), 126),
            (exec(io::ErrorKind::NotFound), 127),
        ] {
            assert_eq!(Exit::of(&fault.into()).code(), code);
        }
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(Exit::of(&error), Exit::Done);
    }

    #[test]
    fn a_refusal_says_its_reason_the_fields_and_a_hint_once() {
        let mut error = refused(ErrorReason::HasDependents, "red has 1 attachment");
        error.metadata.insert("dependents".into(), "Attachment/red0".into());
        error.metadata.insert("name".into(), "red".into());
        let words = words(&error.into());
        let wanted = "error: red has 1 attachment (HAS_DEPENDENTS)\n  dependents: Attachment/red0\n\
            hint: --force deletes them too\n";
        assert_eq!(words, wanted);
    }

    #[test]
    fn violations_are_listed_unless_the_sentence_says_them() {
        let violation = |field: &str, description: &str| Violation {
            field: field.into(),
            description: description.into(),
        };
        let mut error = refused(ErrorReason::InvalidArgument, "2 fields are wrong");
        error.violations = vec![violation("name", "is empty"), violation("", "is too much")];
        assert_eq!(details(&error), ["  name: is empty", "  is too much"]);

        let mut error = refused(ErrorReason::InvalidArgument, "spec.mtu must be at least 576");
        error.violations = vec![violation("spec.mtu", "must be at least 576")];
        assert!(details(&error).is_empty());

        let mut error = refused(ErrorReason::AddressTaken, "10.0.0.1 belongs to Attachment red0");
        error.violations = vec![violation("spec.addresses[0]", "10.0.0.1 belongs to Attachment red0")];
        assert_eq!(details(&error), ["  at spec.addresses[0]"]);
    }
}
