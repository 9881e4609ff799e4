//! Two namespaces on one bridge, blue's port 80 published on the host; then what the kernel has, then all of it undone.
//!
//! Needs a running daemon. Its socket is the argument:
//!
//! ```text
//! cargo run --example red_blue -- /run/netloom/netloom.sock
//! ```

use std::error::Error;

use netloom_client::{
    Attachment, AttachmentSpec, Callable, Client, ConnectOptions, DEFAULT_SOCKET, DeleteOptions, Draft,
    Egress, ErrorReason, Listen, Name, Namespace, NamespaceSpec, NatEgress, Network, NetworkSpec,
    PortForward, PortForwardSpec, Protocol, Subnet, Target, WriteOptions,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| DEFAULT_SOCKET.to_owned());
    let client = Client::connect(&ConnectOptions::parse(&endpoint)?).await?;
    let version = client.version().await?;
    println!("netloomd {} on Linux {}", version.version, version.kernel);

    let network = NetworkSpec {
        subnets: vec![Subnet {
            cidr: Some("192.168.15.0/24".parse()?),
            gateway: Some("192.168.15.5".parse()?),
            ranges: Vec::new(),
        }],
        egress: Some(Egress::Nat(NatEgress::default())),
        ..NetworkSpec::default()
    };
    make::<Network>(&client, "v-net-0", network).await?;
    for (namespace, attachment, address) in
        [("red", "red0", "192.168.15.1"), ("blue", "blue0", "192.168.15.2")]
    {
        make::<Namespace>(&client, namespace, NamespaceSpec::default()).await?;
        let spec = AttachmentSpec {
            namespace: namespace.parse()?,
            network: "v-net-0".parse()?,
            addresses: vec![address.parse()?],
            mac: None,
            interface: None,
            default_route: None,
            metric: None,
            mtu: None,
            bandwidth: None,
        };
        make::<Attachment>(&client, attachment, spec).await?;
    }
    let forward = PortForwardSpec {
        protocol: Protocol::Tcp,
        listen: Listen { address: None, port: 8080, end_port: None },
        target: Target { attachment: "blue0".parse()?, port: Some(80) },
        sources: Vec::new(),
    };
    make::<PortForward>(&client, "web", forward).await?;

    for interface in client.state(&"red".parse()?).await?.interfaces {
        println!("red: {} {}", interface.name, interface.addresses.join(" "));
    }

    remove::<PortForward>(&client, "web").await?;
    for namespace in ["red", "blue"] {
        remove::<Namespace>(&client, namespace).await?;
    }
    remove::<Network>(&client, "v-net-0").await
}

/// Creates an object and waits until the kernel has it; one that is there already will do.
async fn make<N: Callable>(client: &Client, name: &str, spec: N::Spec) -> Result<(), Box<dyn Error>> {
    let name: Name = name.parse()?;
    match client.create(Draft::<N>::new(name.clone(), spec), WriteOptions::default()).await {
        Ok(made) => {
            let ready = made.status.ready().map(|ready| ready.reason.as_str()).unwrap_or("Unknown");
            println!("{} {name}: {ready}", N::KIND);
            Ok(())
        }
        Err(error) if error.reason == Some(ErrorReason::AlreadyExists) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Deletes an object with all that depends on it.
async fn remove<N: Callable>(client: &Client, name: &str) -> Result<(), Box<dyn Error>> {
    let options = DeleteOptions { force: true, allow_missing: true, ..DeleteOptions::default() };
    client.delete::<N>(&name.parse()?, options).await?;
    println!("{} {name}: deleted", N::KIND);
    Ok(())
}
