//! One end is broken: its namespace, its cable, its address, its bridge.

use netloom_server::kernel::{
    netns::Namespaces,
    stranger::{self, Change},
};
use serde_json::json;

use super::{Scene, change, inside, question};
use crate::host::on_host;

#[test]
fn a_broken_end_is_named() {
    on_host(async || {
        let mut scene = Scene::set().await;
        let (red_port, blue_port) = (scene.host_device("red0").await, scene.host_device("blue0").await);
        let asked = || question("red", "blue");
        let gone = |name: &str| Namespaces::default().delete(name).unwrap();
        scene.fault_of_ours("from.namespace", asked(), || gone("red")).await;
        scene.fault_of_ours("to.namespace", asked(), || gone("blue")).await;
        let remove = |name: &str, link: &str| {
            inside(name, || stranger::remove_link(link).unwrap());
        };
        scene.fault_of_ours("from.interface", asked(), || remove("red", "eth0")).await;
        scene.fault_of_ours("to.interface", asked(), || remove("blue", "eth0")).await;
        let down = |name: &str| inside(name, || change("eth0", Change::Up(false)));
        scene.fault_of_ours("from.interface_up", asked(), || down("red")).await;
        scene.fault_of_ours("to.interface_up", asked(), || down("blue")).await;
        scene.fault_of_ours("from.port_up", asked(), || change(&red_port, Change::Up(false))).await;
        scene.fault_of_ours("to.port_up", asked(), || change(&blue_port, Change::Up(false))).await;
        scene.fault_of_ours("from.port", asked(), || change(&red_port, Change::NoMaster)).await;
        scene.fault_of_ours("to.port", asked(), || change(&blue_port, Change::MasterOf("v-net-1"))).await;
        let strip = |name: &str, address: &str| {
            let address = address.parse().unwrap();
            inside(name, || stranger::delete_address("eth0", address).unwrap());
        };
        scene.fault_of_ours("from.address", asked(), || strip("red", "192.168.15.1/24")).await;
        scene.fault_of_ours("to.address", asked(), || strip("blue", "192.168.15.2/24")).await;
        scene.fault_of_ours("from.bridge", asked(), || change("v-net-0", Change::Up(false))).await;
        scene
            .fault_of_ours("to.bridge", question("host", "blue"), || change("v-net-0", Change::Up(false)))
            .await;
        let bare = || stranger::delete_address("v-net-0", "192.168.15.5/24".parse().unwrap()).unwrap();
        scene.fault_of_ours("from.bridge_address", question("red", "192.168.1.3"), bare).await;
        scene.fault_of_ours("to.bridge_address", question("host", "blue"), bare).await;
        let mac = [2, 0, 0, 0, 0, 9];
        scene
            .fault_of_ours("from.guard", asked(), || inside("red", || change("eth0", Change::Mac(mac))))
            .await;
        scene
            .fault_of_ours("to.guard", asked(), || inside("blue", || change("eth0", Change::Mac(mac))))
            .await;
        // Neither an object nor anything in the kernel.
        for (from, to, cause) in [("pink", "blue", "from.namespace"), ("red", "pink", "to.namespace")] {
            assert_eq!(scene.ask(&question(from, to)).await["cause"], cause);
        }
        assert_eq!(scene.ask(&question("lone", "blue")).await["cause"], "from.interface");
        let nobody = json!({"from": {"namespace": "red"}, "to": {"attachment": "nobody"}});
        assert_eq!(scene.ask(&nobody).await["cause"], "to.interface");
        let void = json!({"from": {"namespace": "red"}, "to": {"port_forward": "void"}});
        assert_eq!(scene.ask(&void).await["cause"], "to.interface");
        let unknown = json!({"from": {"namespace": "red"}, "to": {"port_forward": "nothing"}});
        assert_eq!(scene.ask(&unknown).await["cause"], "publish");
    });
}
