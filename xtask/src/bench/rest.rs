//! The same work over REST: a blocking HTTP/1.1 client on one kept connection, as small as it can be, so that what is
//! measured is the daemon.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::daemon::{Daemon, REPLY_WITHIN, SOCKET};

/// The calls that make one attachment, and those that remove it.
pub(super) const CALLS: [&str; 3] = ["POST namespace", "POST attachment", "POST port-forward"];
pub(super) const DELETES: [&str; 3] = ["DELETE port-forward", "DELETE attachment", "DELETE namespace"];

/// The daemon built beside this program with one network, and a connection to it.
pub(super) struct Rest {
    daemon: Daemon,
    connection: BufReader<UnixStream>,
    _state: tempfile::TempDir,
}

impl Rest {
    /// Starts the daemon; its database is in the directory for temporary files, since `/run` is memory.
    pub(super) fn start() -> anyhow::Result<Self> {
        let state = tempfile::tempdir()?;
        let daemon = Daemon::start(state.path(), &["--log", "error"])?;
        let mut rest = Self { daemon, connection: connect()?, _state: state };
        let network = json!({"name": "bench", "spec": {"subnets": [{"cidr": "10.98.0.0/16"}]}});
        rest.call("POST", "/v1/networks", Some(&network))?;
        Ok(rest)
    }

    /// Namespace, attachment and forward as three calls.
    pub(super) fn create(&mut self, number: u16) -> anyhow::Result<[Duration; 3]> {
        let mut times = [Duration::ZERO; 3];
        let paths = ["/v1/namespaces", "/v1/attachments", "/v1/port-forwards"];
        for ((path, body), time) in paths.iter().zip(objects(number)).zip(&mut times) {
            *time = self.call("POST", path, Some(&body))?;
        }
        Ok(times)
    }

    /// The same as one apply.
    pub(super) fn apply(&mut self, number: u16) -> anyhow::Result<Duration> {
        self.call("POST", "/v1/apply", Some(&json!({"objects": objects(number)})))
    }

    /// Many of them as one apply.
    pub(super) fn apply_all(&mut self, numbers: std::ops::Range<u16>) -> anyhow::Result<Duration> {
        let objects: Vec<Value> = numbers.flat_map(objects).collect();
        self.call("POST", "/v1/apply?wait=30s", Some(&json!({"objects": objects})))
    }

    /// How long it takes from a crash until the daemon is ready; `meanwhile` is done before it is started again.
    pub(super) fn restart(
        &mut self,
        meanwhile: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Duration> {
        let away = self.daemon.crash_and_restart(meanwhile)?;
        self.connection = connect()?;
        Ok(away)
    }

    /// The memory that the daemon has now.
    pub(super) fn resident_kib(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// How many attachments are Ready.
    pub(super) fn ready(&mut self) -> anyhow::Result<usize> {
        let (_, reply) = self.ask("GET", "/metrics", None)?;
        let text = String::from_utf8(reply)?;
        let line = r#"netloom_objects{kind="Attachment",ready="true"} "#;
        let count = text.lines().find_map(|one| one.strip_prefix(line)).context("no count")?;
        Ok(count.parse()?)
    }

    /// Removes them with three calls.
    pub(super) fn delete(&mut self, number: u16) -> anyhow::Result<[Duration; 3]> {
        let mut times = [Duration::ZERO; 3];
        for (kind, time) in ["port-forwards", "attachments", "namespaces"].iter().zip(&mut times) {
            *time = self.call("DELETE", &format!("/v1/{kind}/b{number}"), None)?;
        }
        Ok(times)
    }

    /// Why a packet does not arrive, or that it does; the answer must be this one, the id of a check.
    pub(super) fn diagnose(&mut self, question: &Question) -> anyhow::Result<Duration> {
        let Question { from, to, cause, .. } = question;
        let body = json!({"from": from, "to": to});
        let (time, reply) = self.ask("POST", "/v1/diagnose", Some(&body))?;
        let found: Value = serde_json::from_slice(&reply)?;
        ensure!(found["cause"].as_str() == *cause, "{body}: {found}");
        Ok(time)
    }

    /// One call; the time from the first byte out to the last byte in. Everything but success is an error, and so is a
    /// reply with an object that is not Ready: it would be work that was not done.
    fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Duration> {
        let (time, reply) = self.ask(method, path, body)?;
        if method == "POST" {
            check_ready(&serde_json::from_slice(&reply)?).with_context(|| format!("{method} {path}"))?;
        }
        Ok(time)
    }

    fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<(Duration, Vec<u8>)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: {length}\r\n\r\n{body}"
        );
        let begin = Instant::now();
        self.connection.get_mut().write_all(request.as_bytes())?;
        let (status, reply) = self.reply().with_context(|| format!("{method} {path}"))?;
        let time = begin.elapsed();
        ensure!(
            (200..300).contains(&status),
            "{method} {path}: {status} {}",
            String::from_utf8_lossy(&reply)
        );
        Ok((time, reply))
    }

    fn reply(&mut self) -> anyhow::Result<(u16, Vec<u8>)> {
        let mut line = String::new();
        self.connection.read_line(&mut line)?;
        let status = line.split(' ').nth(1).context("no status line")?.parse()?;
        let mut length = None;
        loop {
            line.clear();
            self.connection.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.parse()?);
            }
        }
        let mut body = vec![0; length.context("a reply without Content-Length")?];
        self.connection.read_exact(&mut body)?;
        Ok((status, body))
    }
}

fn connect() -> anyhow::Result<BufReader<UnixStream>> {
    let connection = UnixStream::connect(SOCKET)?;
    connection.set_read_timeout(Some(REPLY_WITHIN))?;
    Ok(BufReader::new(connection))
}

/// A question of which the answer is known.
pub(super) struct Question {
    pub(super) name: &'static str,
    from: Value,
    to: Value,
    cause: Option<&'static str>,
}

/// Between the first two attachments, and to their forwards, behind which nothing listens.
pub(super) fn questions() -> Vec<Question> {
    let ask = |name, from, to, cause| Question { name, from, to, cause };
    let namespace = |name: &str| json!({"namespace": name});
    vec![
        ask("one member to another: reachable", namespace("b0"), namespace("b1"), None),
        ask("the host to a member: reachable", json!({"host": {}}), namespace("b0"), None),
        ask("a member to the host: kept apart", namespace("b0"), json!({"host": {}}), Some("isolation.host")),
        ask(
            "the host to a published port: nothing listens",
            json!({"host": {}}),
            json!({"port_forward": "b1"}),
            Some("to.listening"),
        ),
        ask(
            "to an address that nobody has",
            namespace("b0"),
            json!({"address": "10.98.250.9"}),
            Some("neighbour"),
        ),
    ]
}

/// What one attachment with a published port is made of.
fn objects(number: u16) -> [Value; 3] {
    let name = format!("b{number}");
    let forward = json!({
        "protocol": "tcp",
        "listen": {"port": 20_000 + number},
        "target": {"attachment": name, "port": 80},
    });
    [
        json!({"kind": "Namespace", "name": name, "spec": {}}),
        json!({"kind": "Attachment", "name": name, "spec": {"namespace": name, "network": "bench"}}),
        json!({"kind": "PortForward", "name": name, "spec": forward}),
    ]
}

/// The object of a reply, or all objects of an apply, are Ready.
fn check_ready(reply: &Value) -> anyhow::Result<()> {
    let objects =
        reply.get("objects").and_then(Value::as_array).map_or(std::slice::from_ref(reply), Vec::as_slice);
    for object in objects {
        let ready = &object["status"]["conditions"][0];
        if ready["status"] != "True" {
            bail!("{} {} is not ready: {ready}", object["kind"], object["name"]);
        }
    }
    Ok(())
}
