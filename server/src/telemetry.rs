//! Logs and metrics.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use netloom_api::{ConditionStatus, KIND_NAMES, Kind, Version};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text};
use prometheus_client::metrics::{
    counter::{ConstCounter, Counter},
    family::Family,
    gauge::{ConstGauge, Gauge},
    histogram::Histogram,
    info::Info,
};
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;
use crate::kernel::conntrack::load::load;

/// Sends logs to standard error.
pub fn init(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).context("the log filter is not understood")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// What the daemon counts. A clone counts for the same daemon.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: std::sync::Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<DoorLabels, Histogram, fn() -> Histogram>,
    commit_seconds: Histogram,
    followers: Gauge,
}

/// One kind of answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `rest` or `grpc`.
    pub door: &'static str,
    /// The HTTP method, or `POST`.
    pub method: &'static str,
    /// The path's template, or service and call; empty for what does not exist.
    pub path: String,
    /// The HTTP status, or the number of the gRPC code.
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DoorLabels {
    door: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabels {
    kind: &'static str,
    ready: &'static str,
}

/// What has been asked of the database and of the kernel. Counted for the whole process, by whoever asks.
#[derive(Debug)]
pub struct Effort {
    /// Transactions of the database.
    pub transactions: AtomicU64,
    /// Batches of the firewall.
    pub firewall: AtomicU64,
    /// Messages, or batches of them, about links, addresses and routes.
    pub route: AtomicU64,
    /// Objects that were put right after somebody else had broken them.
    pub repairs: AtomicU64,
}

/// Of this process.
pub static EFFORT: Effort = Effort {
    transactions: AtomicU64::new(0),
    firewall: AtomicU64::new(0),
    route: AtomicU64::new(0),
    repairs: AtomicU64::new(0),
};

impl Collector for &'static Effort {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = [
            ("store_transactions", "Transactions of the database.", &self.transactions),
            ("firewall_batches", "Batches of changes to the firewall.", &self.firewall),
            ("route_batches", "Batches of messages about links, addresses and routes.", &self.route),
            ("drift_repairs", "Objects put right after somebody else had broken them.", &self.repairs),
        ];
        for (name, help, count) in all {
            let kind = prometheus_client::metrics::MetricType::Counter;
            let metric = encoder.encode_descriptor(name, help, None, kind)?;
            ConstCounter::new(count.load(Ordering::Relaxed)).encode(metric)?;
        }
        Ok(())
    }
}

/// How full the kernel's table of flows is, asked when somebody looks.
#[derive(Debug)]
struct FlowTable;

impl Collector for FlowTable {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(load) = load() else { return Ok(()) };
        let all = [
            ("conntrack_flows", "Flows that the kernel tracks on the host.", load.flows),
            ("conntrack_flows_max", "Flows that it can track; beyond them new ones are dropped.", load.most),
        ];
        for (name, help, count) in all {
            let kind = prometheus_client::metrics::MetricType::Gauge;
            let metric = encoder.encode_descriptor(name, help, None, kind)?;
            ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX)).encode(metric)?;
        }
        Ok(())
    }
}

/// How many objects there are, by kind and by whether they are ready.
#[derive(Debug, Default)]
pub struct ObjectCounts(Family<ObjectLabels, Gauge>);

/// What the firewall has dropped.
#[derive(Debug, Default)]
pub struct Drops {
    /// Packets, by each Policy and direction.
    pub policies: Vec<(netloom_api::Name, netloom_api::Direction, u64)>,
    /// Frames in another's name, by the Attachment that sent them.
    pub spoofed: Vec<(netloom_api::Name, u64)>,
}

impl Collector for Drops {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let kind = || prometheus_client::metrics::MetricType::Counter;
        let help = "Packets that no rule of a Policy, or of others beside it, allowed.";
        let mut metric = encoder.encode_descriptor("policy_drops", help, None, kind())?;
        for (policy, direction, count) in &self.policies {
            let labels = [("policy", policy.as_str()), ("direction", direction.as_str())];
            ConstCounter::new(*count).encode(metric.encode_family(&labels)?)?;
        }
        let help =
            "Frames that the spoof guard dropped, by who sent them; an Attachment without any is not here.";
        let mut metric = encoder.encode_descriptor("spoofed_frames", help, None, kind())?;
        for (attachment, count) in &self.spoofed {
            ConstCounter::new(*count)
                .encode(metric.encode_family(&[("attachment", attachment.as_str())])?)?;
        }
        Ok(())
    }
}

/// From a tenth of a millisecond to a minute, which is as long as a write may wait.
const SECONDS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0];

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Metrics {
    /// Nothing was counted yet.
    pub fn new(version: &Version) -> Self {
        let Version { version, api, kernel } = version;
        let words = [("version", version), ("api", api), ("kernel", kernel)];
        let build = Info::new(words.map(|(key, value)| (key, value.clone())).to_vec());
        let requests = Family::default();
        let request_seconds = Family::new_with_constructor(seconds as fn() -> Histogram);
        let (commit_seconds, followers) = (seconds(), Gauge::default());
        let mut registry = Registry::with_prefix("netloom");
        registry.register("build", "What runs here", build);
        registry.register("requests", "Answered requests", Family::clone(&requests));
        registry.register(
            "request_seconds",
            "From a request to the head of its answer",
            request_seconds.clone(),
        );
        registry.register(
            "commit_seconds",
            "From a write to its answer, its wait included",
            commit_seconds.clone(),
        );
        registry.register("followers", "Who follows the event log now", followers.clone());
        registry.register_collector(Box::new(&EFFORT));
        registry.register_collector(Box::new(FlowTable));
        Self { registry: registry.into(), requests, request_seconds, commit_seconds, followers }
    }

    /// The head of an answer was made.
    pub fn answers(&self, door: &'static str, after: Duration) {
        self.request_seconds.get_or_create(&DoorLabels { door }).observe(after.as_secs_f64());
    }

    /// An answer has come to its end.
    pub fn answered(&self, labels: &RequestLabels) {
        self.requests.get_or_create(labels).inc();
    }

    /// A write was answered.
    pub fn committed(&self, after: Duration) {
        self.commit_seconds.observe(after.as_secs_f64());
    }

    /// Somebody follows the log until the answer is dropped.
    pub fn follows(&self) -> Following {
        self.followers.inc();
        Following(self.followers.clone())
    }

    /// All that was counted, in the OpenMetrics text format.
    pub fn text(&self, objects: ObjectCounts, drops: Drops) -> Result<String, fmt::Error> {
        let mut own = Registry::with_prefix("netloom");
        own.register_collector(Box::new(objects));
        own.register_collector(Box::new(drops));
        let mut all = String::new();
        text::encode_registry(&mut all, &self.registry)?;
        text::encode(&mut all, &own)?;
        Ok(all)
    }
}

/// A follower that counts.
#[derive(Debug)]
pub struct Following(Gauge);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ObjectCounts {
    /// No objects; every kind is there with a zero, so that an alert can tell none from unknown.
    pub fn new() -> Self {
        let counts = Self::default();
        for (_, kind) in KIND_NAMES {
            for ready in ["true", "false", "unknown"] {
                drop(counts.0.get_or_create(&ObjectLabels { kind, ready }));
            }
        }
        counts
    }

    /// One more.
    pub fn add(&self, kind: Kind, ready: ConditionStatus) {
        let ready = match ready {
            ConditionStatus::True => "true",
            ConditionStatus::False => "false",
            ConditionStatus::Unknown => "unknown",
        };
        self.0.get_or_create(&ObjectLabels { kind: kind.as_str(), ready }).inc();
    }
}

impl Collector for ObjectCounts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let kind = prometheus_client::metrics::MetricType::Gauge;
        let metric = encoder.encode_descriptor("objects", "Objects by kind and readiness.", None, kind)?;
        self.0.encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_in_the_text_and_the_text_ends_once() {
        let metrics = Metrics::new(&Version::default());
        let labels = RequestLabels { door: "rest", method: "GET", path: "/v1/networks".into(), status: 200 };
        metrics.answers("rest", Duration::from_millis(3));
        metrics.answered(&labels);
        metrics.committed(Duration::from_millis(3));
        let follower = metrics.follows();
        let objects = ObjectCounts::new();
        objects.add(Kind::Network, ConditionStatus::True);
        let drops = Drops {
            policies: vec![("db".parse().unwrap(), netloom_api::Direction::Ingress, 7)],
            spoofed: vec![("red0".parse().unwrap(), 3)],
        };
        let text = metrics.text(objects, drops).unwrap();
        for line in [
            r#"netloom_requests_total{door="rest",method="GET",path="/v1/networks",status="200"} 1"#,
            r#"netloom_objects{kind="Network",ready="true"} 1"#,
            r#"netloom_objects{kind="PortForward",ready="false"} 0"#,
            "netloom_commit_seconds_count 1",
            "netloom_followers 1",
            r#"netloom_policy_drops_total{policy="db",direction="ingress"} 7"#,
            r#"netloom_spoofed_frames_total{attachment="red0"} 3"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("# EOF").count(), 1);
        drop(follower);
        assert!(metrics.text(ObjectCounts::new(), Drops::default()).unwrap().contains("netloom_followers 0"));
    }
}
