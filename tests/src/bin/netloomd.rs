//! The daemon, as `netloomd` is, but for the points at which a test lets it die.
//!
//! `NETLOOM_FAULTS`: `record=FILE`, `die=N`, `refuse=N:ERRNO`, `lose=N`, `slow=MILLISECONDS`, with commas between them.

use std::{process::ExitCode, time::Duration};

use netloom_server::fault::{Fault, Script, arm};

fn main() -> ExitCode {
    if let Ok(text) = std::env::var("NETLOOM_FAULTS") {
        let armed = script(&text).and_then(|script| arm(script).map_err(|error| error.to_string()));
        if let Err(error) = armed {
            eprintln!("NETLOOM_FAULTS={text}: {error}");
            return ExitCode::FAILURE;
        }
    }
    netloom_server::command::main()
}

fn script(text: &str) -> Result<Script, String> {
    let mut script = Script { record: None, die_at: None, fail_at: None, slow: Duration::ZERO };
    for part in text.split(',') {
        let (word, value) = part.split_once('=').ok_or("a word without a value")?;
        let number = |text: &str| text.parse().map_err(|_| format!("{text} is not a number"));
        match word {
            "record" => script.record = Some(value.into()),
            "die" => script.die_at = Some(number(value)?),
            "slow" => script.slow = Duration::from_millis(number(value)?),
            "lose" => script.fail_at = Some((number(value)?, Fault::Lost)),
            "refuse" => {
                let (at, errno) = value.split_once(':').ok_or("refuse=N:ERRNO")?;
                let errno = errno.parse().map_err(|_| format!("{errno} is not an errno"))?;
                script.fail_at = Some((number(at)?, Fault::Refused(errno)));
            }
            other => return Err(format!("{other} is not known")),
        }
    }
    Ok(script)
}
