//! How results are printed: tables for people, JSON exactly as REST has it, the same as YAML, or names alone.

use std::io::{self, Write as _};

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use netloom_client::{Action, Condition, ConditionStatus, ListPage, Object, Plan, PlannedChange, Timestamp};
use serde::Serialize;

use crate::present::Shown;

/// Blanks between columns.
const GAP: u16 = 2;

/// What `-o` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// As REST answers it
    Json,
    /// The same as YAML
    Yaml,
    /// One name per line
    Name,
}

/// Writes lines to standard output. An error, e.g. a closed pipe, is the caller's to see: `println!` would panic.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

impl Format {
    /// Prints a value as JSON or YAML, else what `people` and `names` make of it.
    pub fn show<T: Serialize>(
        self,
        value: &T,
        people: impl FnOnce(&T) -> String,
        names: impl FnOnce(&T) -> Vec<String>,
    ) -> Result<()> {
        let text = match self {
            Format::Table => people(value),
            Format::Json => serde_json::to_string_pretty(value)?,
            // By way of JSON, so that both have the same words in the same order.
            Format::Yaml => serde_saphyr::to_string(&serde_json::to_value(value)?)?,
            Format::Name => names(value).join("\n"),
        };
        Ok(print(&text)?)
    }

    /// Prints all objects of a noun.
    pub fn list<N: Shown>(self, page: &ListPage<Object<N>>) -> Result<()> {
        self.show(
            page,
            |page| rows(&page.items),
            |page| page.items.iter().map(|object| object.meta.name.to_string()).collect(),
        )
    }

    /// Prints one object in full.
    pub fn object<N: Shown>(self, object: &Object<N>) -> Result<()> {
        self.show(object, facts, |object| vec![object.meta.name.to_string()])
    }

    /// Prints what a write made, in a sentence.
    pub fn written<N: Shown>(self, object: &Object<N>) -> Result<()> {
        self.show(
            object,
            |object| match &object.plan {
                Some(plan) => format!("{}\n{}", sentence(object, &fate(plan, object)), steps(plan)),
                None => sentence(object, &readiness(object.status.ready())),
            },
            |object| vec![object.meta.name.to_string()],
        )
    }

    /// Prints what was deleted.
    pub fn deleted<N: Shown>(self, object: &Object<N>) -> Result<()> {
        self.show(
            object,
            |object| match &object.plan {
                Some(plan) => format!("{} {}: would be deleted\n{}", N::WORD, object.meta.name, steps(plan)),
                None => format!("{} {}: deleted", N::WORD, object.meta.name),
            },
            |object| vec![object.meta.name.to_string()],
        )
    }
}

/// What a plan would do with the object that was written.
fn fate<N: Shown>(plan: &Plan, object: &Object<N>) -> String {
    let own = |change: &&PlannedChange| change.kind == N::KIND && change.name == object.meta.name;
    match plan.changes.iter().find(own).map(|change| change.action) {
        None | Some(Action::Unchanged) => "is so already".into(),
        Some(action) => format!("would be {}", action.as_str()),
    }
}

/// Objects as a table; nothing when there are none.
fn rows<N: Shown>(objects: &[Object<N>]) -> String {
    let head = [&["NAME"], N::COLUMNS, &["READY", "AGE"]].concat();
    let row = |object: &Object<N>| {
        let ready = ready_word(object.status.ready());
        let ends = [ready, age(object.meta.create_time)];
        [vec![object.meta.name.to_string()], N::cells(object), ends.to_vec()].concat()
    };
    if objects.is_empty() { String::new() } else { table(&head, objects.iter().map(row)) }
}

/// A table without borders, as wide as the terminal if that can be without cutting a word; not folded at all when
/// nobody looks.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    fold(head, rows.into_iter().collect(), None)
}

fn fold(head: &[&str], rows: Vec<Vec<String>>, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(width) = width {
        table.set_width(width);
    }
    table.set_header(head.iter().copied()).add_rows(rows.iter());
    for (index, column) in table.column_iter_mut().enumerate() {
        let cells = || rows.iter().filter_map(|row| row.get(index));
        // Sentences fold between words, lists of addresses between addresses.
        let between = if cells().any(|cell| cell.contains(' ')) { ' ' } else { ',' };
        let words = cells().flat_map(|cell| cell.split(between)).chain(head.get(index).copied());
        let longest = words.map(|word| word.chars().count()).max();
        let least = u16::try_from(longest.unwrap_or_default()).unwrap_or(u16::MAX).saturating_add(GAP);
        column.set_padding((0, GAP)).set_delimiter(between);
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
    }
    trimmed(&table)
}

/// Names and values below each other.
fn pairs(rows: Vec<(&'static str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        table.add_row([format!("{name}:"), value]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    trimmed(&table)
}

fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `yes`, or why not in a word.
pub fn ready_word(ready: Option<&Condition>) -> String {
    match ready {
        Some(ready) if ready.status == ConditionStatus::True => "yes".into(),
        Some(ready) => ready.reason.as_str().into(),
        None => "unknown".into(),
    }
}

/// `ready`, or why not in words.
pub fn readiness(ready: Option<&Condition>) -> String {
    match ready {
        Some(ready) if ready.status == ConditionStatus::True => "ready".into(),
        Some(ready) if ready.message.is_empty() => format!("not ready: {}", ready.reason.as_str()),
        Some(ready) => format!("not ready: {} ({})", ready.reason.as_str(), ready.message),
        None => "not ready yet".into(),
    }
}

/// The steps of a plan, in the words of `ip` and `nft`.
pub fn steps(plan: &Plan) -> String {
    match plan.steps.as_slice() {
        [] => "  nothing to do in the kernel".into(),
        steps => steps.iter().map(|step| format!("  {step}")).collect::<Vec<_>>().join("\n"),
    }
}

/// How long ago, in the largest unit.
pub fn age(since: Timestamp) -> String {
    age_at(since, Timestamp::now())
}

fn age_at(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_micros().saturating_sub(since.as_micros()).max(0) / 1_000_000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A moment to the second.
pub fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    text.split_once('.').map_or(text.clone(), |(whole, _)| format!("{whole}Z"))
}

fn sentence<N: Shown>(object: &Object<N>, end: &str) -> String {
    match N::gist(object).as_str() {
        "" => format!("{} {}: {end}", N::WORD, object.meta.name),
        gist => format!("{} {}: {gist}, {end}", N::WORD, object.meta.name),
    }
}

fn facts<N: Shown>(object: &Object<N>) -> String {
    let meta = &object.meta;
    let entries = |map: &std::collections::BTreeMap<String, String>| {
        map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("\n")
    };
    let mut rows = vec![
        ("name", meta.name.to_string()),
        ("owner", meta.owner.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("labels", entries(meta.labels.as_map())),
        ("annotations", entries(meta.annotations.as_map())),
    ];
    rows.extend(N::facts(object));
    rows.extend([
        ("status", readiness(object.status.ready())),
        ("created", format!("{} ({} ago)", moment(meta.create_time), age(meta.create_time))),
        ("deleted", meta.delete_time.map(moment).unwrap_or_default()),
        ("uid", meta.uid.to_string()),
        ("etag", meta.etag().to_string()),
    ]);
    pairs(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        for (seconds, text) in
            [(-5, "0s"), (5, "5s"), (119, "119s"), (120, "2m"), (7_200, "2h"), (200_000, "2d")]
        {
            let (since, now) = (Timestamp::from_micros(0), Timestamp::from_micros(seconds * 1_000_000));
            assert_eq!(age_at(since, now), text);
        }
    }

    #[test]
    fn a_table_has_no_borders_and_no_trailing_blanks() {
        let text = table(&["NAME", "ADDRESSES"], [vec!["red0".into(), "192.168.15.1/24,fd00::1/64".into()]]);
        assert_eq!(text, "NAME  ADDRESSES\nred0  192.168.15.1/24,fd00::1/64");
    }

    #[test]
    fn a_narrow_table_folds_between_words_and_never_in_one() {
        let row =
            || vec!["red0".to_owned(), "192.168.15.1/24,fd00:15::1/64".into(), "no such thing here".into()];
        for width in [40, 30, 10] {
            let text = fold(&["NAME", "ADDRESSES", "MESSAGE"], vec![row()], Some(width));
            for word in ["ADDRESSES", "MESSAGE", "192.168.15.1/24", "fd00:15::1/64", "such", "thing"] {
                assert!(text.contains(word), "{word} is cut at {width} columns:\n{text}");
            }
        }
    }

    #[test]
    fn an_attachment_is_told_in_a_row_in_full_and_in_a_sentence() {
        let object: Object<netloom_client::Attachment> = object(serde_json::json!({
            "kind": "Attachment", "name": "red0", "labels": {"role": "web"}, "annotations": {},
            "uid": "01900000-0000-7000-8000-000000000001", "generation": 1, "revision": 7,
            "etag": "01900000-0000-7000-8000-000000000001.7",
            "create_time": "2026-01-01T00:00:00Z", "update_time": "2026-01-01T00:00:00Z",
            "spec": {"namespace": "red", "network": "v-net-0"},
            "status": {
                "observed_generation": 1, "conditions": [condition("True", "Programmed", "")],
                "addresses": ["192.168.15.1/24"], "interface": "eth0", "ifindex": 2, "default_route": true, "metric": 100
            }
        }));
        let text = rows(std::slice::from_ref(&object));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["NAME", "NAMESPACE", "NETWORK", "ADDRESSES", "INTERFACE", "READY", "AGE"]);
        assert_eq!(lines[1][..6], ["red0", "red", "v-net-0", "192.168.15.1/24", "eth0", "yes"]);
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        let ready = readiness(object.status.ready());
        assert_eq!(sentence(&object, &ready), "attachment red0: 192.168.15.1/24 on eth0, ready");
        let full = facts(&object);
        for part in
            ["labels:         role=web", "interface:      eth0 (index 2)", "default route:  yes, metric 100"]
        {
            assert!(full.contains(part), "{part} is not in\n{full}");
        }
        assert!(!full.contains("mac:"), "{full}");
    }

    #[test]
    fn a_forward_that_is_not_ready_says_why() {
        let object: Object<netloom_client::PortForward> = object(serde_json::json!({
            "kind": "PortForward", "name": "web", "labels": {}, "annotations": {},
            "uid": "01900000-0000-7000-8000-000000000001", "generation": 1, "revision": 7,
            "etag": "01900000-0000-7000-8000-000000000001.7",
            "create_time": "2026-01-01T00:00:00Z", "update_time": "2026-01-01T00:00:00Z",
            "spec": {
                "protocol": "tcp", "listen": {"address": "fd00::1", "port": 8000, "end_port": 8010},
                "target": {"attachment": "blue0", "port": 9000}
            },
            "status": {
                "observed_generation": 1, "conditions": [condition("False", "PortTaken", "8001 is another's")]
            }
        }));
        let ready = readiness(object.status.ready());
        let wanted = "forward web: [fd00::1]:8000-8010/tcp to blue0:9000-9010, not ready: PortTaken (8001 is another's)";
        assert_eq!(sentence(&object, &ready), wanted);
        assert!(rows(&[object]).contains("PortTaken"));
    }

    fn object<N: Shown>(json: serde_json::Value) -> Object<N> {
        serde_json::from_value(json).unwrap()
    }

    fn condition(status: &str, reason: &str, message: &str) -> serde_json::Value {
        serde_json::json!({
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "observed_generation": 1, "last_transition_time": "2026-01-01T00:00:00Z"
        })
    }

    #[test]
    fn a_moment_is_told_to_the_second() {
        assert_eq!(moment(Timestamp::from_micros(1_500_000)), "1970-01-01T00:00:01Z");
        assert_eq!(moment(Timestamp::from_micros(1_000_000)), "1970-01-01T00:00:01Z");
    }
}
