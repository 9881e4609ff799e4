//! A summary of the compiled `.proto` files, one line per service, method, message and field, compared with a committed
//! file: whatever breaks old clients shows as a changed or missing line.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use prost::Message as _;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

/// The type's name without the package that everything is of.
fn short(name: &str) -> &str {
    name.trim_start_matches('.').trim_start_matches("netloom.v1.")
}

fn type_of(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()).to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn service(service: &ServiceDescriptorProto, lines: &mut String) {
    writeln!(lines, "service {}", service.name()).unwrap();
    for method in &service.method {
        let stream = |streams: bool| if streams { "stream " } else { "" };
        let (input, output) = (short(method.input_type()), short(method.output_type()));
        let (sends, answers) = (stream(method.client_streaming()), stream(method.server_streaming()));
        writeln!(lines, "  {}({sends}{input}) {answers}{output}", method.name()).unwrap();
    }
}

fn message(prefix: &str, message: &DescriptorProto, lines: &mut String) {
    let name = format!("{prefix}{}", message.name());
    writeln!(lines, "message {name}").unwrap();
    // Of a map only its entry is listed, as a message of its own.
    for field in &message.field {
        let union = field.oneof_index.filter(|_| !field.proto3_optional());
        let union = union.map(|index| format!("oneof {} ", message.oneof_decl[index as usize].name()));
        let label = match field.label() {
            Label::Repeated => "repeated ",
            Label::Optional if field.proto3_optional() => "optional ",
            Label::Optional | Label::Required => "",
        };
        let union = union.unwrap_or_default();
        writeln!(lines, "  {} {union}{label}{} {}", field.number(), type_of(field), field.name()).unwrap();
    }
    message.nested_type.iter().for_each(|inner| self::message(&format!("{name}."), inner, lines));
}

fn summary() -> String {
    let files = FileDescriptorSet::decode(crate::pb::DESCRIPTORS).unwrap().file;
    let ours: BTreeMap<_, _> = files
        .iter()
        .filter(|file| file.package() == "netloom.v1")
        .map(|file| (file.name().to_owned(), file))
        .collect();
    let mut lines = String::new();
    for (name, file) in ours {
        writeln!(lines, "file {name}").unwrap();
        file.service.iter().for_each(|one| service(one, &mut lines));
        file.message_type.iter().for_each(|one| message("", one, &mut lines));
    }
    lines
}

#[test]
fn the_messages_are_the_golden_ones() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("descriptor.golden.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, summary()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == summary(),
        "the .proto files are not those of descriptor.golden.txt; if no old client breaks, \
        `cargo xtask openapi` writes it anew"
    );
}
