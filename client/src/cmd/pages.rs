//! `netloom completions` and `man`: the words of the command line for shells and for `man`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Outcome};
use crate::output::print;

#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS_HELP)]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

const COMPLETIONS_HELP: &str = "\
Example:
  netloom completions bash > ~/.local/share/bash-completion/completions/netloom
  netloom completions zsh > ~/.zfunc/_netloom
  netloom completions fish > ~/.config/fish/completions/netloom.fish";

#[derive(Debug, Args)]
#[command(after_help = MAN_HELP)]
pub struct Man {
    /// Where to write a page per command, as netloom-ns-add.1; it is made if need be [default: print netloom.1]
    directory: Option<PathBuf>,
}

const MAN_HELP: &str = "\
Example:
  netloom man ~/.local/share/man/man1
  netloom man > netloom.1";

impl Completions {
    pub fn run(self) -> Result<Outcome> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "netloom", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(Outcome::Done)
    }
}

impl Man {
    pub fn run(self) -> Result<Outcome> {
        match self.directory {
            Some(directory) => write(&directory)
                .with_context(|| format!("the pages cannot be written to {}", directory.display()))?,
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(Cli::command()).render(&mut page)?;
                print(&String::from_utf8_lossy(&page))?;
            }
        }
        Ok(Outcome::Done)
    }
}

fn write(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
}
