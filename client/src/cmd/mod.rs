//! The command line: its words, and which file does what each of them says.

mod allocations;
mod apply;
mod attach;
mod diagnose;
mod events;
mod exec;
mod link;
mod net;
mod ns;
mod objects;
mod pages;
mod policy;
mod publish;
mod reservations;
mod route;
mod set;
mod state;
mod status;
mod topology;

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use netloom_client::{Client, ConnectOptions, Endpoint, RequestId, WriteOptions};

use crate::{fault::Fault, output::Format};

/// Namespaces, networks, attachments and published ports of this host, through netloomd.
#[derive(Debug, Parser)]
#[command(name = "netloom", version, max_term_width = 100, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Example:
  netloom ns add red
  netloom net add v-net-0 --subnet 192.168.15.0/24 --egress nat
  netloom attach red v-net-0
  netloom publish 8080:red0:80

Exit codes:
  0  done
  1  the daemon refused
  2  the command line or a document is wrong
  3  there is no such object
  4  conflict: it exists already, or what is there stands in the way
  5  the daemon cannot be reached
  6  written, but not ready within --wait
  7  diagnose: packets do not arrive, or it is not known";

#[derive(Debug, Args)]
struct Global {
    /// Where netloomd is: a socket's path, unix://PATH, http://127.0.0.1:PORT or https://HOST:PORT
    /// [default: /run/netloom/netloom.sock]
    #[arg(long, visible_alias = "socket", global = true, value_name = "ENDPOINT", env = "NETLOOM_ENDPOINT")]
    #[arg(hide_env_values = true, help_heading = "Connection")]
    endpoint: Option<Endpoint>,
    /// File whose first line is the token to call with; a unix socket needs none
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    token_file: Option<PathBuf>,
    /// Certificates (PEM) that may have signed the daemon's; https needs it
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    ca_file: Option<PathBuf>,
    /// How to print results: table, json (as REST answers), yaml (the same), or name (one per line)
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        value_name = "FORMAT",
        help_heading = "Output"
    )]
    output: Format,
    /// How long to wait until what was written is ready: 5s, 500ms, 0 [default: 5s]
    #[arg(long, global = true, value_name = "TIME", value_parser = crate::values::duration, help_heading = "Writing")]
    wait: Option<Duration>,
    /// Check and show what would be done; do nothing
    #[arg(long, global = true, help_heading = "Writing")]
    dry_run: bool,
    /// A key that makes it safe to repeat the same command
    #[arg(long, global = true, value_name = "KEY", help_heading = "Writing")]
    request_id: Option<RequestId>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Namespaces: named network stacks, as `ip netns` sees them
    #[command(subcommand, after_help = "Example:\n  netloom ns add red")]
    Ns(ns::Command),
    /// Networks: bridges with their subnets
    #[command(subcommand, after_help = "Example:\n  netloom net add v-net-0 --subnet 192.168.15.0/24")]
    Net(net::Command),
    /// Put an interface of a namespace on a network
    Attach(attach::Attach),
    /// Take an interface away again
    Detach(attach::Detach),
    /// Look at attachments
    #[command(subcommand, after_help = "Example:\n  netloom attachments ls --network v-net-0")]
    Attachments(attach::Look),
    /// Publish a port of the host from an attachment
    Publish(publish::Publish),
    /// Publish it no longer
    Unpublish(publish::Unpublish),
    /// Look at published ports
    #[command(subcommand, after_help = "Example:\n  netloom forwards ls")]
    Forwards(publish::Look),
    /// Direct cables between namespaces, or between a namespace and the host
    #[command(subcommand, after_help = link::EXAMPLE)]
    Link(link::Command),
    /// Addresses that are kept back
    #[command(
        subcommand,
        after_help = "Example:\n  netloom reservations add vip v-net-0 --address 192.168.15.77"
    )]
    Reservations(reservations::Command),
    /// Routes in namespaces and on the host
    #[command(
        subcommand,
        after_help = "Example:\n  netloom route add lan blue 192.168.1.0/24 via 192.168.15.5"
    )]
    Route(route::Command),
    /// Policies: which traffic attachments accept, or may send
    #[command(
        subcommand,
        after_help = "Example:\n  netloom policy add db --select role=db --from role=app@tcp/5432"
    )]
    Policy(policy::Command),
    /// Show which address is whose
    Allocations(allocations::Allocations),
    /// Change fields of what is there, while traffic goes on
    Set(set::Set),
    /// Make objects be as files say, in any order
    Apply(apply::Apply),
    /// Show what `apply` would do to objects and in the kernel; do nothing
    Plan(apply::Plan),
    /// Print all objects in a form that `apply` takes
    Export(apply::Export),
    /// Show what happened, and with -f what happens
    Events(events::Events),
    /// Show what runs, how much of it there is, and what is not ready
    Status(status::Status),
    /// Show what the kernel has for a namespace, or for `host`, now
    State(state::State),
    /// Draw what stands and how it hangs together
    Topology(topology::Topology),
    /// Find out why a packet does not arrive
    Diagnose(diagnose::Diagnose),
    /// Print completions for a shell
    Completions(pages::Completions),
    /// Write the manual pages
    Man(pages::Man),
}

/// How a command ended that did not fail.
pub enum Outcome {
    /// As asked.
    Done,
    /// Written, but not ready.
    NotReady,
    /// Packets do not arrive, or it is not known.
    NotReached,
    /// Some of it was refused.
    Partly,
    /// This process has to become another.
    Become(exec::Inside),
}

/// What every command needs: where the daemon is, how to print, how to write.
struct Session {
    connect: ConnectOptions,
    format: Format,
    write: WriteOptions,
}

/// Does what the command line says.
pub async fn run(cli: Cli) -> Result<Outcome> {
    let Cli { global, command } = cli;
    let session = Session::new(global, command.writes())?;
    match command {
        Command::Ns(command) => command.run(&session).await,
        Command::Net(command) => command.run(&session).await,
        Command::Attach(command) => command.run(&session).await,
        Command::Detach(command) => command.run(&session).await,
        Command::Attachments(command) => command.run(&session).await,
        Command::Publish(command) => command.run(&session).await,
        Command::Unpublish(command) => command.run(&session).await,
        Command::Forwards(command) => command.run(&session).await,
        Command::Link(command) => command.run(&session).await,
        Command::Reservations(command) => command.run(&session).await,
        Command::Route(command) => command.run(&session).await,
        Command::Policy(command) => command.run(&session).await,
        Command::Allocations(command) => command.run(&session).await,
        Command::Set(command) => command.run(&session).await,
        Command::Apply(command) => command.run(&session).await,
        Command::Plan(command) => command.run(&session).await,
        Command::Export(command) => command.run(&session).await,
        Command::Events(command) => command.run(&session).await,
        Command::Status(command) => command.run(&session).await,
        Command::State(command) => command.run(&session).await,
        Command::Topology(command) => command.run(&session).await,
        Command::Diagnose(command) => command.run(&session).await,
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
    }
}

impl Command {
    /// Whether it changes something, so that --dry-run and its like have a meaning.
    fn writes(&self) -> bool {
        match self {
            Command::Ns(command) => command.writes(),
            Command::Net(command) => command.writes(),
            Command::Link(command) => command.writes(),
            Command::Reservations(command) => command.writes(),
            Command::Route(command) => command.writes(),
            Command::Policy(command) => command.writes(),
            Command::Attach(_)
            | Command::Detach(_)
            | Command::Publish(_)
            | Command::Unpublish(_)
            | Command::Set(_)
            | Command::Apply(_) => true,
            Command::Attachments(_)
            | Command::Forwards(_)
            | Command::Allocations(_)
            | Command::Plan(_)
            | Command::Export(_)
            | Command::Events(_)
            | Command::Status(_)
            | Command::State(_)
            | Command::Topology(_)
            // Its probe needs the right to write, and changes nothing.
            | Command::Diagnose(_)
            | Command::Completions(_)
            | Command::Man(_) => false,
        }
    }
}

impl Session {
    fn new(global: Global, writes: bool) -> Result<Self> {
        let Global { endpoint, token_file, ca_file, output, wait, dry_run, request_id } = global;
        if !writes && (wait.is_some() || dry_run || request_id.is_some()) {
            let detail = "--wait, --dry-run and --request-id are for commands that change something";
            return Err(Fault::Usage(detail.into()).into());
        }
        let mut connect = ConnectOptions::new(endpoint.unwrap_or_default());
        if let Some(file) = token_file {
            connect = connect.token_file(&file)?;
        }
        if let Some(file) = ca_file {
            connect = connect.ca_file(&file)?;
        }
        Ok(Self { connect, format: output, write: WriteOptions { wait, dry_run, request_id, force: false } })
    }

    async fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.connect).await?)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example:\n  netloom "), "{path} has no example");
            command.get_subcommands().for_each(|command| check(command, &path));
        }
        check(&Cli::command(), "");
    }

    #[test]
    fn every_example_is_a_command_line_that_is_understood() {
        fn examples(command: &clap::Command, all: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            all.extend(help.lines().filter_map(|line| line.strip_prefix("  netloom ")).map(str::to_owned));
            command.get_subcommands().for_each(|command| examples(command, all));
        }
        let mut all = Vec::new();
        examples(&Cli::command(), &mut all);
        assert!(all.len() > 25, "{all:?}");
        for example in all {
            let typed =
                example.split(" > ").next().unwrap_or_default().split(" | ").next().unwrap_or_default();
            // What a shell would put in.
            let typed = match (typed.find("$("), typed.rfind(')')) {
                (Some(from), Some(to)) => format!("{}4711{}", &typed[..from], &typed[to + 1..]),
                (None, _) | (_, None) => typed.to_owned(),
            };
            let words = ["netloom"].into_iter().chain(typed.split_whitespace());
            assert!(Cli::try_parse_from(words).is_ok(), "{example}");
        }
    }

    #[test]
    fn whatever_stands_on_the_command_line_is_read_or_refused() {
        let examples = [
            "ns add red --label a=b --owner lesson",
            "net add v-net-0 192.168.15.0/24 --gateway 192.168.15.5 --egress nat",
            "attach red v-net-0 --address 192.168.15.1 --ingress 10mbit:64kib",
            "publish 192.168.1.2:8080-8090:blue0:80/udp --source 10.0.0.0/8",
            "link add cable red:veth-red:10.1.1.1/24,fd00::1/64 blue:veth-blue:10.1.1.2/24 --mtu 9000",
            "route add lan blue default via 192.168.15.5 metric 50 table 7 type unicast",
            "policy add db --select role=db --from role=app,10.0.0.0/8-10.1.0.0/16@tcp/80-90,icmp/8/0 --to any --log",
            "set attachment red0 mtu=1400 bandwidth.ingress.rate=1000000",
            "diagnose red 192.168.1.3 --protocol tcp --port 80 --probe",
        ];
        netloom_fuzz::withstands_text(&examples, |text| {
            drop(Cli::try_parse_from(["netloom"].into_iter().chain(text.split(' '))));
        });
    }

    #[test]
    fn a_dry_run_of_what_only_reads_is_refused() {
        let session = |line: &str| {
            let Cli { global, command } = Cli::parse_from(line.split(' '));
            Session::new(global, command.writes())
        };
        assert!(session("netloom --dry-run ns add red").is_ok());
        assert!(session("netloom ns add red --dry-run").is_ok());
        for line in
            ["netloom ns ls --dry-run", "netloom ns exec red --dry-run -- ls", "netloom status --wait 5s"]
        {
            assert!(session(line).is_err(), "{line}");
        }
    }
}
