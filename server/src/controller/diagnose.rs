//! Diagnose: look, walk, look again where the way leads on, and try it if that is asked for.

use std::sync::PoisonError;

use netloom_api::{
    Check, CheckId, CheckStatus, DiagnoseProtocol, DiagnoseRequest, DiagnoseResponse, End, ErrorReason,
};

use super::{Caller, Controller};
use crate::{
    diagnose::{Diagnosis, Facts, ProbePlan, conclude, diagnose, stacks_of},
    error::{Error, Result},
    kernel::probe::Verdict,
};

/// A way that leads through more stacks than were looked at is walked anew at most so often.
const LOOKS_MAX: usize = 4;

impl Controller {
    /// Why a packet does not arrive, or that it does. A probe sends packets, which needs full rights.
    pub async fn diagnose(&self, request: DiagnoseRequest, caller: &Caller) -> Result<DiagnoseResponse> {
        let wants_probe = request.probe == Some(true);
        if wants_probe && !caller.rights.is_full() {
            let detail = "a probe sends packets, which needs full rights; ask without it";
            return Err(Error::new(ErrorReason::PermissionDenied, detail));
        }
        let (world, kernel) = (self.intent.committed(), self.kernel.clone());
        let around = self.around.read().unwrap_or_else(PoisonError::into_inner).clone();
        let board = self.board.clone();
        let work = move || -> std::result::Result<Vec<Check>, String> {
            let ready = |uid: &netloom_api::Uid| board.get(uid).map(|entry| entry.ready);
            let mut stacks = stacks_of(&world, &request);
            let mut looks = 0;
            let Diagnosis { mut checks, probe, .. } = loop {
                looks += 1;
                let seen = kernel.look(&stacks)?;
                let facts = Facts { world: &world, seen: &seen, around: &around, ready: &ready };
                let found = diagnose(&facts, &request);
                if found.wants.is_subset(&stacks) || looks >= LOOKS_MAX {
                    break found;
                }
                stacks.extend(found.wants);
            };
            if wants_probe {
                let outcome = probe.as_ref().map(|plan| (plan, kernel.try_out(plan)));
                checks.push(probe_check(&request, outcome));
            }
            Ok(checks)
        };
        let checks =
            tokio::task::spawn_blocking(work).await.map_err(|error| Error::internal(error.to_string()))?;
        let unreadable =
            |why| Error::new(ErrorReason::KernelError, format!("the host cannot be looked at: {why}"));
        Ok(conclude(checks.map_err(unreadable)?))
    }
}

type Tried<'a> = Option<(&'a ProbePlan, std::result::Result<Verdict, String>)>;

/// What the probe says.
fn probe_check(request: &DiagnoseRequest, tried: Tried<'_>) -> Check {
    let check = |status, evidence: String, fix: Option<&str>| Check {
        id: CheckId::Probe,
        status,
        evidence,
        fix: fix.map(str::to_owned),
    };
    let Some((plan, outcome)) = tried else {
        let why = match request.from {
            End::Address(_) => "The sender is outside: nothing can be sent from there.",
            End::Namespace(_) | End::Attachment(_) | End::Host(_) | End::PortForward(_) => {
                "Nothing was sent: the sender is not able to send, or there is no address to send to."
            }
        };
        return check(CheckStatus::Skip, why.into(), None);
    };
    if plan.protocol == DiagnoseProtocol::Sctp {
        return check(CheckStatus::Skip, "sctp cannot be probed.".into(), None);
    }
    let what = match (plan.protocol, plan.port) {
        (DiagnoseProtocol::Tcp, Some(port)) => {
            format!("a connection from {} to {} port {port}", plan.stack, plan.target)
        }
        (DiagnoseProtocol::Udp, Some(port)) => {
            format!("a datagram from {} to {} port {port}", plan.stack, plan.target)
        }
        (_, _) => {
            format!("an echo request from {} to {}", plan.stack, plan.target)
        }
    };
    let first = "The first check that failed says why; if none did, what is beyond this host does.";
    match outcome {
        Ok(Verdict::Answered { after, .. }) => check(
            CheckStatus::Pass,
            format!("Tried {what}: answered after {:.1} ms.", after.as_secs_f64() * 1000.0),
            None,
        ),
        Ok(Verdict::Refused) => {
            let fix = "Start the service, or ask for the port that it listens on.";
            check(
                CheckStatus::Fail,
                format!("Tried {what}: refused, so the host is there and nothing listens."),
                Some(fix),
            )
        }
        Ok(Verdict::Unreachable(errno)) => {
            check(CheckStatus::Fail, format!("Tried {what}: the kernel says {}.", errno.desc()), Some(first))
        }
        Ok(Verdict::Silent) if plan.protocol == DiagnoseProtocol::Udp && plan.port.is_some() => check(
            CheckStatus::Skip,
            format!("Tried {what}: no answer, which says little: a service of UDP need not answer."),
            None,
        ),
        Ok(Verdict::Silent) => check(CheckStatus::Fail, format!("Tried {what}: no answer."), Some(first)),
        Err(why) => check(CheckStatus::Skip, format!("The probe could not be made: {why}."), None),
    }
}
