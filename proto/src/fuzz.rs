//! Whatever comes is read or refused: words, bodies, files of objects, messages. What is read comes back the same when it
//! is written and read again.

use std::fmt::{Debug, Display};
use std::fs;
use std::str::FromStr;

use netloom_fuzz::{withstands, withstands_text};
use prost::Message;

use crate::*;

/// The files that users begin with.
fn files() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| fs::read_to_string(path).unwrap()).collect()
}

fn drafts() -> Vec<AnyDraft> {
    files().iter().flat_map(|file| Documents::read(file).unwrap().objects).collect()
}

fn word<T: FromStr<Err = String> + Display + PartialEq + Debug>(examples: &[&str]) {
    withstands_text(examples, |text| {
        if let Ok(word) = text.parse::<T>() {
            assert_eq!(word.to_string().parse::<T>().as_ref(), Ok(&word), "{text:?}");
        }
    });
}

#[test]
fn words_are_read_or_refused() {
    word::<Name>(&["red", "v-net-0", "a.b_c"]);
    word::<Owner>(&["lesson", "ci/7"]);
    word::<Note>(&["the balancer's address"]);
    word::<NetnsPath>(&["/run/netns/red", "/proc/7/ns/net"]);
    word::<Uid>(&["0190a5c8-7e0f-7c3a-9d5e-2f6b8a1c4d7e"]);
    word::<Etag>(&["\"7-3\"", "7-3"]);
    word::<RequestId>(&["0190a5c8-7e0f-7c3a-9d5e-2f6b8a1c4d7e", "once"]);
    word::<Mac>(&["02:11:22:33:44:55", "02-11-22-33-44-55"]);
    word::<IfName>(&["eth0", "veth-red", "eth0.7"]);
    word::<SysctlKey>(&["net.ipv4.conf.all.forwarding", "net.ipv6.conf.eth0.accept_ra"]);
    word::<Kind>(&["Namespace", "PortForward"]);
    word::<Direction>(&["ingress", "egress"]);
    word::<PolicyProtocol>(&["tcp", "icmpv6"]);
}

#[test]
fn prefixes_are_read_or_refused() {
    let examples =
        ["192.168.15.0/24", "10.0.0.1/8", "fd00:1::/64", "::ffff:10.0.0.0/104", "0.0.0.0/0", "fd00::1/128"];
    word::<Cidr>(&examples);
    word::<Prefix>(&examples);
    word::<InterfaceAddress>(&examples);
}

#[test]
fn bodies_are_read_or_refused() {
    let drafts = drafts();
    let exports: Vec<_> = drafts.iter().map(AnyDraft::to_export).collect();
    let mut examples: Vec<Vec<u8>> = exports.iter().map(|one| serde_json::to_vec(one).unwrap()).collect();
    examples.push(serde_json::to_vec(&serde_json::json!({"objects": exports, "owner": "lesson"})).unwrap());
    withstands(&examples, |bytes| {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
        if let Ok(request) = ApplyRequest::from_json(value.clone()) {
            let objects: Vec<_> = request.objects.iter().map(AnyDraft::to_export).collect();
            let again = serde_json::json!({"objects": objects});
            assert_eq!(ApplyRequest::from_json(again).map(|again| again.objects), Ok(request.objects));
        }
        if let Ok(draft) = AnyDraft::from_json(value, &Path::root()) {
            let again = serde_json::to_value(draft.to_export()).unwrap();
            assert_eq!(AnyDraft::from_json(again, &Path::root()), Ok(draft));
        }
    });
}

#[test]
fn questions_are_read_or_refused() {
    let examples = [
        r#"{"from": {"attachment": "red"}, "to": {"address": "192.168.15.2"}, "protocol": "tcp", "port": 80}"#,
        r#"{"from": {"host": {}}, "to": {"namespace": "blue"}, "probe": true}"#,
        r#"{"from": {"outside": "192.168.1.3"}, "to": {"port_forward": "web"}}"#,
    ];
    withstands_text(&examples, |text| {
        let Ok(value) = serde_json::from_str(text) else { return };
        if let Ok(request) = DiagnoseRequest::from_json(value) {
            assert_eq!(DiagnoseRequest::from_pb(request.to_pb(), &Path::root()), Ok(request));
        }
    });
}

#[test]
fn files_of_objects_are_read_or_refused() {
    let files = files();
    let examples: Vec<&str> = files.iter().map(String::as_str).collect();
    withstands_text(&examples, |text| drop(Documents::read(text)));
}

#[test]
fn messages_are_read_or_refused() {
    let objects: Vec<pb::Object> = drafts().iter().map(ToPb::to_pb).collect();
    let mut examples: Vec<Vec<u8>> = objects.iter().map(Message::encode_to_vec).collect();
    let request = pb::ApplyRequest { objects, owner: Some("lesson".into()), ..pb::ApplyRequest::default() };
    examples.push(request.encode_to_vec());
    withstands(&examples, |bytes| {
        if let Ok(message) = pb::ApplyRequest::decode(bytes) {
            drop(ApplyRequest::from_pb(message, &Path::root()));
        }
        let Ok(message) = pb::Object::decode(bytes) else { return };
        drop(AnyObject::from_pb(message.clone(), &Path::root()));
        if let Ok(draft) = AnyDraft::from_pb(message, &Path::root()) {
            assert_eq!(AnyDraft::from_pb(draft.to_pb(), &Path::root()), Ok(draft));
        }
    });
}
