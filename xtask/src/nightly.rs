//! The long forms of the tests, one after the other; what failed is said at the end, and the others run all the same.

use std::time::Instant;

use anyhow::bail;

use crate::cargo::cargo;

/// How long a night is.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Multiplies what each form is asked for; 0.1 tries whether all of them run
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Only the forms with this in their name
    #[arg(long)]
    only: Option<String>,
}

/// One long form.
struct Form {
    name: &'static str,
    arguments: &'static [&'static str],
    /// A variable that says how much, and how much that is in a whole night.
    amount: Option<(&'static str, f64)>,
    fixed: &'static [(&'static str, &'static str)],
}

const SERVER: &[&str] = &["test", "--package", "netloom-server", "--lib"];
const OUTSIDE: &[&str] = &["test", "--package", "netloom-tests", "--test", "it"];

const FORMS: &[Form] = &[
    Form {
        name: "crash",
        arguments: &["crash::"],
        amount: None,
        fixed: &[("NETLOOM_SWEEP", "full"), ("NETLOOM_TEST_SECONDS", "3600")],
    },
    Form { name: "model", arguments: &["model"], amount: Some(("NETLOOM_MODEL_CASES", 500.0)), fixed: &[] },
    Form { name: "races", arguments: &["races"], amount: Some(("NETLOOM_RACES", 50.0)), fixed: &[] },
    Form {
        name: "decoders",
        arguments: &["read_or_refused"],
        amount: Some(("NETLOOM_FUZZ_SECONDS", 300.0)),
        fixed: &[],
    },
];

/// Runs them.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    let is_asked = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
    for form in FORMS.iter().filter(|form| is_asked(form.name)) {
        let amount = form.amount.map(|(name, whole)| (name, whole_number(whole * options.scale)));
        let mut variables = form.fixed.to_vec();
        variables.extend(amount.as_ref().map(|(name, amount)| (*name, amount.as_str())));
        for crate_tests in [SERVER, OUTSIDE] {
            let began = Instant::now();
            let arguments = [crate_tests, form.arguments, &["--", "--nocapture"]].concat();
            println!("\n=== {}: cargo {} with {variables:?}", form.name, arguments.join(" "));
            let result = cargo(&arguments, &variables);
            println!(
                "=== {} after {} s",
                if result.is_ok() { "ok" } else { "FAILED" },
                began.elapsed().as_secs()
            );
            if let Err(error) = result {
                failed.push(format!("{}: {error}", form.name));
            }
        }
    }
    if is_asked("soak") {
        let minutes = whole_number(20.0 * options.scale);
        if let Err(error) = cargo(&["xtask", "soak", "--minutes", &minutes], &[]) {
            failed.push(format!("soak: {error}"));
        }
    }
    if !failed.is_empty() {
        bail!("{} of the long forms failed:\n{}", failed.len(), failed.join("\n"));
    }
    println!("\nall long forms passed");
    Ok(())
}

/// At least one of it.
fn whole_number(amount: f64) -> String {
    format!("{:.0}", amount.max(1.0))
}
