//! Compiles the .proto files with protox, a compiler in Rust, so that no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

/// Messages whose set fields become a JSON merge patch in a gRPC update.
const PATCHABLE: [&str; 15] = [
    "NamespaceSpec",
    "NetworkSpec",
    "BridgeKind",
    "Subnet",
    "AddressRange",
    "Egress",
    "NatEgress",
    "RoutedEgress",
    "NoEgress",
    "Isolation",
    "AttachmentSpec",
    "PortForwardSpec",
    "Listen",
    "Target",
    "ReservationSpec",
];

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
    builder = builder
        .type_attribute(
            "netloom.v1.NetworkSpec.kind",
            "#[derive(serde::Serialize)] #[serde(rename_all = \"snake_case\")]",
        )
        .type_attribute(
            "netloom.v1.Egress.mode",
            "#[derive(serde::Serialize)] #[serde(rename_all = \"snake_case\")]",
        )
        .field_attribute("netloom.v1.Egress.mode", "#[serde(flatten)]");
    builder.compile_fds(descriptors)?;
    Ok(())
}
