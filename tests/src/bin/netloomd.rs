//! The daemon, as `netloomd` is, but for the points at which a test lets it die and the requests that it has fail.
//!
//! `NETLOOM_FAULTS`: `record=FILE`, `die=N`, `refuse=EFFECT:N:CODE`, `lose=EFFECT:N`, `slow=MILLISECONDS`, `owners=no`,
//! `control=SOCKET`, `without=CAPABILITY`, with commas between them. Over the control socket a test arms the points anew while the daemon runs, one script a line; the answer is a
//! line that says how many requests of each effect there were since the last script, and whether one was made to fail.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use netloom_server::{
    fault::{Effect, Fault, Script, Told, arm, told},
    kernel::confine::give_up,
};

fn main() -> ExitCode {
    if let Ok(text) = std::env::var("NETLOOM_FAULTS") {
        let (less, text): (Vec<&str>, Vec<&str>) =
            text.split(',').partition(|part| part.starts_with("without="));
        let (control, script): (Vec<&str>, Vec<&str>) =
            text.iter().partition(|part| part.starts_with("control="));
        let armed = script_of(&script.join(",")).and_then(|script| arm(script).map_err(|e| e.to_string()));
        let listens =
            control.iter().try_for_each(|part| listen(part.trim_start_matches("control=").as_ref()));
        let less = less.iter().map(|part| number(part.trim_start_matches("without=")));
        let gives_up = less.collect::<Result<Vec<u64>, _>>().and_then(|numbers| {
            let numbers: Vec<u32> = numbers.into_iter().filter_map(|number| number.try_into().ok()).collect();
            give_up(&numbers).map_err(|error| error.to_string())
        });
        if let Err(error) = armed.and(listens).and(gives_up) {
            eprintln!("NETLOOM_FAULTS={text:?}: {error}");
            return ExitCode::FAILURE;
        }
    }
    netloom_server::command::main()
}

fn script_of(text: &str) -> Result<Script, String> {
    let mut script = Script::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (word, value) = part.split_once('=').ok_or("a word without a value")?;
        let values: Vec<&str> = value.split(':').collect();
        match (word, values.as_slice()) {
            ("record", [file]) => script.record = Some(file.into()),
            ("slow", [millis]) => script.slow = Duration::from_millis(number(millis)?),
            ("die", [at]) => script.die_at = Some(number(at)?),
            ("lose", [of, at]) => script.fail = Some((effect(of)?, number(at)?, Fault::Lost)),
            ("refuse", [of, at, code]) => {
                let code = code.parse().map_err(|_| format!("{code} is no code"))?;
                script.fail = Some((effect(of)?, number(at)?, Fault::Refused(code)));
            }
            ("owners", ["no"]) => script.without_owners = true,
            (_, _) => return Err(format!("{part} is not known")),
        }
    }
    Ok(script)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

fn effect(text: &str) -> Result<Effect, String> {
    let found = Effect::ALL.into_iter().find(|effect| effect.as_str() == text);
    found.ok_or_else(|| format!("{text} is no effect"))
}

fn listen(path: &Path) -> Result<(), String> {
    // One of a daemon that was killed.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(|error| error.to_string())?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if let Err(error) = stream.map_err(|error| error.to_string()).and_then(|stream| obey(&stream)) {
                eprintln!("control: {error}");
            }
        }
    });
    Ok(())
}

/// A line, a new script, and a line that tells of the old one.
fn obey(mut stream: &UnixStream) -> Result<(), String> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(|error| error.to_string())?;
    let Told { requests, failed } = told();
    arm(script_of(line.trim())?).map_err(|error| error.to_string())?;
    let counts = requests.iter().map(|(effect, count)| format!("{}={count} ", effect.as_str()));
    writeln!(stream, "{}failed={failed}", counts.collect::<String>()).map_err(|error| error.to_string())
}
