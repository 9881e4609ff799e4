//! `netloom diagnose`: why a packet does not arrive, told step by step.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use clap::Args;
use netloom_client::{
    Attachment, Check, CheckStatus, Client, ClientError, DiagnoseProtocol, DiagnoseRequest, DiagnoseResponse,
    End, Finding, Name, Namespace, NoOptions, PortForward,
};

use super::{Outcome, Session};
use crate::fault::Fault;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  netloom diagnose red blue
  netloom diagnose red0 192.168.1.3 --probe
  netloom diagnose host blue -o json

FROM and TO are each a namespace, an attachment, `host` or an IP address; TO may also be a port forward. A port may follow \
TO: NAME:PORT, 192.168.1.2:80, [fd00::1]:80. A name that is both is taken as namespace, then attachment, then port forward; \
ns/NAME, attachment/NAME and forward/NAME say which. Exits with 0 when packets arrive, and with 7 when they do not, or when \
it is not known.")]
pub struct Diagnose {
    /// Who sends
    from: String,
    /// Who shall receive
    to: String,
    /// What is sent: icmp, tcp, udp or sctp [default: that of the port forward; tcp with a port; else icmp]
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<DiagnoseProtocol>,
    /// To which port
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Also send packets and say what came of it; needs the right to write
    #[arg(long)]
    probe: bool,
    /// Show the checks that passed, too
    #[arg(short, long)]
    verbose: bool,
}

impl Diagnose {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        let client = session.client().await?;
        let (from, none) = resolve(&client, &self.from).await?;
        if none.is_some() {
            return Err(Fault::Usage(format!("{}: FROM has no port; name TO's", self.from)).into());
        }
        let (to, port) = resolve(&client, &self.to).await?;
        let (port, probe) = (self.port.or(port), self.probe.then_some(true));
        let request = DiagnoseRequest { from, to, protocol: self.protocol, port, probe };
        let response = client.diagnose(request).await?;
        let names = |response: &DiagnoseResponse| response.cause.iter().map(ToString::to_string).collect();
        session.format.show(
            &response,
            |response| people(&self.from, &self.to, self.verbose, response),
            names,
        )?;
        Ok(match response.verdict {
            Finding::Reachable => Outcome::Done,
            Finding::Unreachable | Finding::Unknown => Outcome::NotReached,
        })
    }
}

/// What a word means, and the port that may follow it.
async fn resolve(client: &Client, word: &str) -> Result<(End, Option<u16>)> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Ok((End::Address(address), None));
    }
    if let Ok(socket) = word.parse::<SocketAddr>() {
        return Ok((End::Address(socket.ip()), Some(socket.port())));
    }
    let (word, port) = match word.split_once(':') {
        Some((word, port)) => {
            let number = port.parse::<u16>().ok().filter(|port| *port > 0);
            let bad = || Fault::Usage(format!("{port:?} is not a port; use 1 to 65535"));
            (word, Some(number.ok_or_else(bad)?))
        }
        None => (word, None),
    };
    if word == "host" {
        return Ok((End::Host(NoOptions {}), port));
    }
    let (kind, name) = word.split_once('/').map_or((None, word), |(kind, name)| (Some(kind), name));
    let name: Name = name
        .parse()
        .map_err(|why| Fault::Usage(format!("{word:?} is no name, no IP address and not `host`: {why}")))?;
    let end = match kind {
        Some("ns" | "namespace") => End::Namespace(name),
        Some("attachment") => End::Attachment(name),
        Some("forward" | "port-forward") => End::PortForward(name),
        Some(other) => {
            let detail = format!("{other:?} is not one of ns, attachment, forward");
            return Err(Fault::Usage(detail).into());
        }
        None if exists(client.get::<Namespace>(&name).await)? => End::Namespace(name),
        None if exists(client.get::<Attachment>(&name).await)? => End::Attachment(name),
        None if exists(client.get::<PortForward>(&name).await)? => End::PortForward(name),
        // That it does not exist is what the first check will say.
        None => End::Namespace(name),
    };
    Ok((end, port))
}

fn exists<T>(got: Result<T, ClientError>) -> Result<bool, ClientError> {
    match got {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

fn people(from: &str, to: &str, verbose: bool, response: &DiagnoseResponse) -> String {
    let DiagnoseResponse { verdict, cause, checks } = response;
    let head = match verdict {
        Finding::Reachable => format!("{from} reaches {to}."),
        Finding::Unreachable => format!("{from} does not reach {to}."),
        Finding::Unknown => format!("It is not known whether {from} reaches {to}."),
    };
    let mut lines = vec![head, String::new()];
    let passed = checks.iter().filter(|check| check.status == CheckStatus::Pass).count();
    let shown =
        |check: &&Check| verbose || check.status != CheckStatus::Pass || *verdict == Finding::Reachable;
    for Check { id, status, evidence, fix } in checks.iter().filter(shown) {
        let sign = match status {
            CheckStatus::Pass => "ok  ",
            CheckStatus::Fail => "FAIL",
            CheckStatus::Skip => "?   ",
        };
        lines.push(format!("{sign} {id}: {evidence}"));
        if let Some(fix) = fix {
            lines.push(format!("     To do: {fix}"));
        }
    }
    if !verbose && *verdict != Finding::Reachable && passed > 0 {
        lines.push(String::new());
        let cause = cause.map(|cause| format!("cause: {cause}; ")).unwrap_or_default();
        lines.push(format!("({cause}{passed} checks passed, -v shows them)"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use netloom_client::CheckId;

    use super::*;

    #[test]
    fn the_cause_and_what_to_do_stand_out_and_what_is_well_is_counted() {
        let check = |id, status, fix: Option<&str>| Check {
            id,
            status,
            evidence: "Seen.".into(),
            fix: fix.map(str::to_owned),
        };
        let response = DiagnoseResponse {
            verdict: Finding::Unreachable,
            cause: Some(CheckId::FromInterfaceUp),
            checks: vec![
                check(CheckId::FromNamespace, CheckStatus::Pass, None),
                check(CheckId::FromInterfaceUp, CheckStatus::Fail, Some("Set it up.")),
            ],
        };
        let text = people("red", "blue", false, &response);
        let expected = "red does not reach blue.\n\nFAIL from.interface_up: Seen.\n     To do: Set it up.\n\n\
            (cause: from.interface_up; 1 checks passed, -v shows them)";
        assert_eq!(text, expected);
        assert!(people("red", "blue", true, &response).contains("ok   from.namespace"));
    }
}
