//! Files of objects, read one after another; `-` is standard input.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use netloom_client::Documents;

use crate::fault::Fault;

/// Reads files.
pub fn read(files: &[PathBuf]) -> Result<Documents, Fault> {
    let mut all = Documents::default();
    for file in files {
        let (text, name) = if file == Path::new("-") {
            let mut text = String::new();
            let read = std::io::stdin().lock().read_to_string(&mut text);
            (read.map(|_| text), "standard input".to_owned())
        } else {
            (std::fs::read_to_string(file), file.display().to_string())
        };
        let text = text.map_err(|error| Fault::Usage(format!("cannot read {name}: {error}")))?;
        let Documents { objects, labs } =
            Documents::read(&text).map_err(|error| Fault::Usage(format!("{name}, {error}")))?;
        all.objects.extend(objects);
        all.labs.extend(labs);
    }
    Ok(all)
}
