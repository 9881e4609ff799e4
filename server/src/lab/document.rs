//! What a lab's files say: objects to apply, and one `kind: Lab` document with the surroundings and what is expected.

use std::{net::IpAddr, path::Path};

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use netloom_api::{AnyDraft, Documents, NetnsPath};
use serde::Deserialize;

/// Everything that the files say.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    pub(super) drafts: Vec<AnyDraft>,
    pub(super) spec: Option<LabSpec>,
}

/// The surroundings of the host, and what is expected.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LabSpec {
    /// The LAN that the host is on.
    #[serde(default)]
    pub(super) lan: Option<LanDocument>,
    /// Namespaces that somebody else has made, as a container runtime would.
    #[serde(default)]
    pub(super) containers: Vec<NetnsPath>,
    /// What is expected; when nothing is, the matrix is only shown.
    #[serde(default)]
    pub(super) expect: Vec<Expectation>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LanDocument {
    /// The host's address there, with prefix length; or a list of them.
    pub(super) host: OneOrMore,
    /// The other machines.
    #[serde(default)]
    pub(super) peers: Vec<PeerDocument>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerDocument {
    pub(super) name: String,
    /// With prefix length; or a list of them.
    pub(super) address: OneOrMore,
    /// Prefixes that the peer sends to the host, as a hostile neighbour would.
    #[serde(default)]
    pub(super) routes: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMore {
    One(IpNet),
    More(Vec<IpNet>),
}

impl OneOrMore {
    pub(super) fn to_vec(&self) -> Vec<IpNet> {
        match self {
            OneOrMore::One(one) => vec![*one],
            OneOrMore::More(all) => all.clone(),
        }
    }
}

/// One line of the expected matrix.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expectation {
    /// A Namespace, a LAN peer, or `host`.
    pub(super) from: String,
    /// The same, or an address.
    pub(super) to: String,
    /// Unset: ICMP echo.
    #[serde(default)]
    pub(super) port: Option<u16>,
    /// `tcp` or `udp`; unset: tcp.
    #[serde(default)]
    pub(super) protocol: Option<netloom_api::Protocol>,
    /// The address that the answering side must see.
    #[serde(default)]
    pub(super) source: Option<IpAddr>,
    /// Who must answer: a Namespace, a LAN peer, or `host`.
    #[serde(default)]
    pub(super) answered_by: Option<String>,
    /// Unset: reachable.
    #[serde(default)]
    pub(super) result: Expected,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Expected {
    #[default]
    Reachable,
    Unreachable,
}

/// The whole document, so that a field beside its spec is not overlooked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LabDocument {
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default, rename = "name")]
    _name: Option<netloom_api::Name>,
    #[serde(default)]
    spec: LabSpec,
}

impl Files {
    /// Reads all files.
    pub(super) fn read(files: &[impl AsRef<Path>]) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for file in files {
            let file = file.as_ref();
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            all.add(&text).with_context(|| format!("{} is not understood", file.display()))?;
        }
        Ok(all)
    }

    fn add(&mut self, text: &str) -> anyhow::Result<()> {
        let Documents { objects, labs } = Documents::read(text)?;
        self.drafts.extend(objects);
        for lab in labs {
            let lab: LabDocument = serde_path_to_error::deserialize(lab).context("kind: Lab")?;
            if self.spec.replace(lab.spec).is_some() {
                bail!("there is a second document of kind Lab; one lab has one host");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_document_is_read_beside_the_objects() {
        let mut all = Files::default();
        let text = "kind: Namespace\nname: red\n---\nkind: Lab\nspec:\n  lan: {host: 192.168.1.2/24, peers: [{name: peer, \
            address: 192.168.1.3/24}]}\n  expect: [{from: red, to: peer, port: 80, source: 192.168.1.2}]\n";
        all.add(text).unwrap();
        assert_eq!(all.drafts.len(), 1);
        assert_eq!(all.spec.unwrap().expect[0].result, Expected::Reachable);
    }

    #[test]
    fn a_word_that_the_lab_does_not_know_is_an_error() {
        assert!(Files::default().add("kind: Lab\nspec: {expects: []}\n").is_err());
        assert!(Files::default().add("kind: Lab\nexpect: []\n").is_err());
        assert!(Files::default().add("kind: Labb\nname: x\n").is_err());
    }
}
