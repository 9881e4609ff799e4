//! What is the same for every noun: list, show, write, remove.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use netloom_client::{
    ConditionStatus, DeleteOptions, Draft, Labels, ListOptions, Name, Object, Owner, WriteOptions,
};

use super::{Outcome, Session};
use crate::{fault::Fault, present::Shown, values::Label};

/// What every list can be narrowed by.
#[derive(Debug, Args)]
pub struct By {
    /// Only of this owner
    #[arg(long)]
    owner: Option<Owner>,
    /// Only with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
}

/// What a list of things inside namespaces and on networks can be narrowed by.
#[derive(Debug, Args)]
pub struct Within {
    #[command(flatten)]
    by: By,
    /// Only of this namespace
    #[arg(long, value_name = "NAME")]
    namespace: Option<Name>,
    /// Only of this network
    #[arg(long, value_name = "NAME")]
    network: Option<Name>,
}

/// What every new object can be given.
#[derive(Debug, Args)]
pub struct About {
    /// Who makes it
    #[arg(long)]
    owner: Option<Owner>,
    /// A label to select by; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
}

/// How an object is removed.
#[derive(Debug, Args)]
pub struct Remove {
    /// Its name
    name: Name,
    #[command(flatten)]
    how: How,
}

/// What every removal can be told.
#[derive(Debug, Args)]
pub struct How {
    /// Remove what depends on it too
    #[arg(long)]
    force: bool,
    /// Do not mind if it does not exist
    #[arg(long)]
    pub if_exists: bool,
}

impl By {
    pub fn options(self) -> Result<ListOptions> {
        let By { owner, labels } = self;
        Ok(ListOptions { owner, labels: collect(labels)?, ..ListOptions::default() })
    }
}

impl Within {
    pub fn options(self) -> Result<ListOptions> {
        let Within { by, namespace, network } = self;
        Ok(ListOptions { namespace, network, ..by.options()? })
    }
}

impl About {
    pub fn draft<N: Shown>(self, name: Name, spec: N::Spec) -> Result<Draft<N>> {
        let About { owner, labels } = self;
        Ok(Draft { owner, labels: collect(labels)?, ..Draft::new(name, spec) })
    }
}

impl Remove {
    pub async fn run<N: Shown>(self, session: &Session) -> Result<Outcome> {
        remove::<N>(session, &self.name, self.how).await
    }
}

pub async fn ls<N: Shown>(session: &Session, mut options: ListOptions) -> Result<Outcome> {
    options.page_size = Some(1000);
    let all = session.client().await?.list_all::<N>(options).await?;
    session.format.list(&all)?;
    Ok(Outcome::Done)
}

pub async fn show<N: Shown>(session: &Session, name: &Name) -> Result<Outcome> {
    session.format.object(&session.client().await?.get::<N>(name).await?)?;
    Ok(Outcome::Done)
}

pub async fn create<N: Shown>(session: &Session, draft: Draft<N>) -> Result<Outcome> {
    let made = session.client().await?.create(draft, session.write.clone()).await?;
    written(session, &made)
}

/// Creates even what may cut the host off, if `force`.
pub async fn create_forced<N: Shown>(session: &Session, draft: Draft<N>, force: bool) -> Result<Outcome> {
    let options = WriteOptions { force, ..session.write.clone() };
    let made = session.client().await?.create(draft, options).await?;
    written(session, &made)
}

/// Prints what was written and tells whether it is ready. Who does not wait does not want to know.
pub fn written<N: Shown>(session: &Session, object: &Object<N>) -> Result<Outcome> {
    session.format.written(object)?;
    let is_ready = object.status.ready().is_some_and(|ready| ready.status == ConditionStatus::True);
    Ok(if is_ready || !session.waits() { Outcome::Done } else { Outcome::NotReady })
}

pub async fn remove<N: Shown>(session: &Session, name: &Name, how: How) -> Result<Outcome> {
    let How { force, if_exists: allow_missing } = how;
    let options = DeleteOptions { force, allow_missing, etag: None, write: session.write.clone() };
    match session.client().await?.delete::<N>(name, options).await? {
        Some(gone) => session.format.deleted(&gone)?,
        None => eprintln!("note: there is no {} {name}", N::WORD),
    }
    Ok(Outcome::Done)
}

impl Session {
    /// Whether the daemon was to wait until what was written is ready.
    pub fn waits(&self) -> bool {
        !self.write.dry_run && self.write.wait.is_none_or(|wait| !wait.is_zero())
    }
}

/// Labels as they were given, one by one.
pub fn collect(labels: Vec<Label>) -> Result<Labels> {
    let map: BTreeMap<String, String> = labels.into_iter().map(|Label(key, value)| (key, value)).collect();
    map.try_into().map_err(|why| Fault::Usage(format!("labels: {why}")).into())
}
