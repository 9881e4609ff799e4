//! Every file in `examples/` is a lab whose matrix is as it says.

use std::process::Command;

fn lab(file: &str) -> (bool, String) {
    let path = format!("{}/../examples/{file}", env!("CARGO_MANIFEST_DIR"));
    let output =
        Command::new(env!("CARGO_BIN_EXE_netloomd-under-test")).args(["lab", &path]).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn every_example_is_as_it_says() {
    let folder = format!("{}/../examples", env!("CARGO_MANIFEST_DIR"));
    let files =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: Vec<String> = files.filter(|name| name.ends_with(".yaml")).collect();
    assert!(files.contains(&"red-blue.yaml".to_owned()));
    for file in files {
        let (success, text) = lab(&file);
        if text.contains("no private host can be made") {
            return netloom_server::kernel::testhost::cannot_run(&text);
        }
        assert!(success, "{file}:\n{text}");
        assert!(text.contains("as expected"), "{file} expects nothing:\n{text}");
    }
}
