//! Compiles the .proto files with protox, a compiler in Rust, so that no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

/// Messages whose set fields become a JSON merge patch in a gRPC update.
const PATCHABLE: [&str; 29] = [
    "NamespaceSpec",
    "NamespaceSource",
    "ManagedSource",
    "AdoptedSource",
    "NetworkSpec",
    "NetworkKind",
    "BridgeKind",
    "Subnet",
    "AddressRange",
    "Egress",
    "NatEgress",
    "RoutedEgress",
    "NoEgress",
    "Isolation",
    "AttachmentSpec",
    "Bandwidth",
    "RateLimit",
    "PortForwardSpec",
    "Listen",
    "Target",
    "ReservationSpec",
    "RouteSpec",
    "LinkSpec",
    "LinkEnd",
    "PolicySpec",
    "PolicySelector",
    "PolicyRule",
    "PolicyPeer",
    "PolicyPort",
];

/// The unions in them, each the only field of its message.
const UNIONS: [&str; 4] =
    ["NamespaceSource.source", "AdoptedSource.adopted", "NetworkKind.kind", "Egress.mode"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=netloom");
    let mut files: Vec<PathBuf> =
        fs::read_dir("netloom/v1")?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    files.sort();
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("netloom.bin"), descriptors.encode_to_vec())?;

    let mut builder = tonic_prost_build::configure().btree_map(".").emit_rerun_if_changed(false);
    for message in PATCHABLE {
        builder = builder.type_attribute(format!("netloom.v1.{message}"), "#[derive(serde::Serialize)]");
    }
    // In JSON a union is an object with one key: the message that holds it.
    for union in UNIONS {
        let union = format!("netloom.v1.{union}");
        builder = builder
            .type_attribute(&union, "#[derive(serde::Serialize)] #[serde(rename_all = \"snake_case\")]")
            .field_attribute(&union, "#[serde(flatten)]");
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
