//! `netloom topology`: what stands and how it hangs together, drawn.

use anyhow::Result;
use clap::{Args, ValueEnum};
use netloom_client::TopologyFormat;

use super::{Outcome, Session};
use crate::{fault::Fault, output::Format, output::print};

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Topology {
    /// How to draw it: tree, dot (for Graphviz), mermaid (for Markdown), svg (a picture) [default: tree]
    #[arg(long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    format: Option<Drawing>,
}

const HELP: &str = "\
With -o json or -o yaml it is the graph that REST answers, not a drawing; with -o name its nodes.

Example:
  netloom topology
  netloom topology --format svg > topology.svg
  netloom topology --format mermaid
  netloom topology -o json";

/// What `--format` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Drawing {
    /// For a terminal
    Tree,
    /// For Graphviz
    Dot,
    /// For Markdown
    Mermaid,
    /// A picture
    Svg,
}

impl Topology {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        if self.format.is_some() && session.format != Format::Table {
            return Err(Fault::Usage("--format draws, -o prints the graph: give one of them".into()).into());
        }
        let format = match self.format.unwrap_or(Drawing::Tree) {
            Drawing::Tree => TopologyFormat::Tree,
            Drawing::Dot => TopologyFormat::Dot,
            Drawing::Mermaid => TopologyFormat::Mermaid,
            Drawing::Svg => TopologyFormat::Svg,
        };
        let topology = session.client().await?.topology().await?;
        match session.format {
            Format::Table => print(&topology.draw(format))?,
            Format::Json | Format::Yaml | Format::Name => session.format.show(
                &topology,
                |_| String::new(),
                |topology| topology.nodes.iter().map(|node| node.id.clone()).collect(),
            )?,
        }
        Ok(Outcome::Done)
    }
}
