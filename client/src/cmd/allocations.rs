//! `netloom allocations`.

use anyhow::Result;
use clap::Args;
use netloom_client::{AllocationQuery, Name};

use super::{Outcome, Session};
use crate::output::{age, table};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  netloom allocations --network v-net-0")]
pub struct Allocations {
    /// Only of this network
    #[arg(long, value_name = "NAME")]
    network: Option<Name>,
}

impl Allocations {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        let client = session.client().await?;
        let mut query = AllocationQuery { page_size: Some(1000), page_token: None, network: self.network };
        let mut all = client.allocations(query.clone()).await?;
        while let Some(next) = all.next_page_token.take() {
            query.page_token = Some(next);
            let page = client.allocations(query.clone()).await?;
            all.items.extend(page.items);
            all.next_page_token = page.next_page_token;
        }
        session.format.show(
            &all,
            |all| {
                if all.items.is_empty() {
                    return String::new();
                }
                let rows = all.items.iter().map(|one| {
                    let holder = format!("{}/{}", one.holder.kind, one.holder.name);
                    vec![one.network.to_string(), one.address.to_string(), holder, age(one.since)]
                });
                table(&["NETWORK", "ADDRESS", "HOLDER", "AGE"], rows)
            },
            |all| all.items.iter().map(|one| one.name.clone()).collect(),
        )?;
        Ok(Outcome::Done)
    }
}
