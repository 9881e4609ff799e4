use clap::{CommandFactory, Parser};

use super::*;

fn settings(words: &[&str]) -> Settings {
    Cli::try_parse_from(std::iter::once("netloomd").chain(words.iter().copied())).unwrap().settings
}

fn resolve(words: &[&str], toml: &str) -> Result<Config, ConfigError> {
    Config::resolve(&settings(words), toml)
}

/// The faults of a configuration that is refused, as `key: …` lines.
fn faults(words: &[&str], toml: &str) -> String {
    resolve(words, toml).expect_err("this configuration is refused").to_string()
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn nothing_given_means_the_defaults() {
    assert_eq!(resolve(&[], "").unwrap(), Config::default());
    let config = Config::default();
    assert_eq!(config.socket.path, Path::new("/run/netloom/netloom.sock"));
    assert_eq!(config.read_socket.path, Path::new("/run/netloom/read.sock"));
    assert_eq!(config.pools[0].cidr.to_string(), "10.88.0.0/14");
    assert!(config.listen.is_empty());
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let config = resolve(&["--state-dir", "/flag"], "state_dir = \"/file\"\nlog = \"warn\"").unwrap();
    assert_eq!(config.state_dir, Path::new("/flag"));
    assert_eq!(config.log, "warn");
    assert_eq!(config.log_format, LogFormat::Text);
}

#[test]
fn every_flag_can_be_given_in_the_environment_after_the_command_word_too() {
    let command = Cli::command();
    for arg in command
        .get_arguments()
        .filter(|arg| arg.get_long() != Some("help") && arg.get_long() != Some("version"))
    {
        let long = arg.get_long().unwrap();
        let variable = format!("NETLOOM_{}", long.to_uppercase().replace('-', "_"));
        assert_eq!(arg.get_env().unwrap().to_str(), Some(variable.as_str()));
    }
    assert_eq!(settings(&["run", "--log", "debug"]).log.as_deref(), Some("debug"));
}

#[test]
fn the_whole_file_is_understood() {
    let config = resolve(&[], include_str!("testdata/whole.toml")).unwrap();
    insta::assert_debug_snapshot!(config);
}

#[test]
fn unknown_keys_are_refused_with_their_place() {
    for toml in
        ["colour = 1", "[limits]\ncolour = 1", "[[pool]]\ncidr = \"10.0.0.0/8\"\nprefix_len = 24\ncolour = 1"]
    {
        let text = faults(&[], toml);
        assert!(text.contains("colour") && text.contains("unknown field"), "{text}");
    }
}

#[test]
fn faults_name_key_value_reason_and_fix_and_come_all_at_once() {
    let toml = include_str!("testdata/faults.toml");
    insta::assert_snapshot!(faults(
        &["--listen", "0.0.0.0:7070", "--listen", "here", "--tls-key", "/k"],
        toml
    ));
}

#[test]
fn a_relative_path_is_refused_with_the_absolute_one_as_the_fix() {
    let text = faults(&["--state-dir", "state"], "");
    let whole = std::path::absolute("state").unwrap();
    assert!(text.contains("is not an absolute path") && text.contains(whole.to_str().unwrap()), "{text}");
}

#[test]
fn tcp_needs_tokens_always_and_tls_beyond_loopback() {
    let tls = ["--tls-cert", "/c", "--tls-key", "/k"];
    let ok = ["--listen", "127.0.0.1:1,[::1]:1,127.9.9.9:1", "--token-file", "/t"];
    assert_eq!(resolve(&ok, "").unwrap().listen.len(), 3);
    assert!(resolve(&["--listen", "127.0.0.1:1"], "").is_err());
    assert!(resolve(&["--listen", "10.0.0.1:1", "--token-file", "/t"], "").is_err());
    let far = [&["--listen", "10.0.0.1:1", "--token-file", "/t"][..], &tls[..]].concat();
    assert!(resolve(&far, "").unwrap().tls.is_some());
    assert!(resolve(&[&["--listen", "10.0.0.1:1"][..], &tls[..]].concat(), "").is_err());
}

#[test]
fn a_socket_that_every_user_may_open_is_refused() {
    assert!(faults(&[], "socket_mode = \"0666\"").contains("rights of root"));
    assert!(faults(&[], "socket_mode = \"rw\"").contains("octal"));
    assert!(faults(&["--socket", "@abstract"], "").contains("absolute"));
    assert!(faults(&["--socket", &format!("/{}", "x".repeat(107))], "").contains("108 bytes"));
    assert!(faults(&["--socket", "/run/read.sock"], "").contains("only read"));
}

#[test]
fn the_lab_takes_one_way_to_go_on() {
    let lab = |words: &[&str]| Cli::try_parse_from([&["netloomd", "lab"], words].concat());
    assert!(lab(&["a.yaml", "b.yaml", "--shell"]).is_ok());
    assert!(lab(&[]).is_err());
    assert!(lab(&["a.yaml", "--shell", "--serve"]).is_err());
    assert!(lab(&["a.yaml", "--exec", "true", "--serve"]).is_err());
    let Some(Command::Lab(lab)) = lab(&["a.yaml", "--exec", "ping red"]).unwrap().command else { panic!() };
    assert_eq!(lab.exec.as_deref(), Some("ping red"));
}

/// The example as a file in which nothing is commented out.
fn example() -> String {
    let lines = include_str!("../../../deploy/netloomd.toml").lines();
    let set = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
    lines.filter(set).map(|line| format!("{}\n", &line[1..])).collect()
}

#[test]
fn the_example_file_shows_the_defaults() {
    // These have no default: the example shows a likely place.
    let defaults: String = example()
        .lines()
        .filter(|line| !line.contains("/etc/netloom/"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(resolve(&[], &defaults).unwrap(), Config::default());
    assert!(resolve(&[], &example()).is_ok());
}

#[test]
fn the_example_file_shows_every_key() {
    let keys = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key.to_owned()).collect()
    };
    let shown = keys(&example());
    for key in keys(include_str!("testdata/whole.toml")) {
        assert!(shown.contains(&key), "{key} is not in deploy/netloomd.toml");
    }
}

#[test]
fn whatever_stands_in_the_file_is_read_or_refused() {
    let whole = include_str!("testdata/whole.toml");
    netloom_fuzz::withstands_text(&[whole, &example()], |text| drop(resolve(&[], text)));
}

#[test]
fn whatever_stands_on_the_command_line_is_read_or_refused() {
    let examples =
        ["--listen 127.0.0.1:1,[::1]:1 --token-file /t", "lab a.yaml --exec true", "purge --dry-run"];
    netloom_fuzz::withstands_text(&examples, |text| {
        let words = std::iter::once("netloomd").chain(text.split(' '));
        if let Ok(cli) = Cli::try_parse_from(words) {
            drop(Config::resolve(&cli.settings, ""));
        }
    });
}
