//! `grpc.health.v1`: serving once the first full pass is done. All services are one daemon, so they have one answer.

use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use netloom_api::{ErrorReason, pb};
use tonic::{Request, Status, async_trait};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{Answer, answer};
use crate::api::door::Door;
use crate::error::Error;

/// How often a watcher looks whether the daemon has become ready, which happens once.
const LOOK: Duration = Duration::from_millis(250);

/// The service.
pub(super) fn service(door: Door) -> HealthServer<Doctor> {
    HealthServer::new(Doctor(door))
}

/// Knows how the daemon is.
pub(super) struct Doctor(Door);

#[async_trait]
impl Health for Doctor {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Answer<HealthCheckResponse> {
        let HealthCheckRequest { service } = request.into_inner();
        if !is_known(&service) {
            return answer(Err(Error::new(ErrorReason::NotFound, format!("there is no service {service}"))));
        }
        answer(Ok(now(&self.0)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = std::result::Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Answer<Self::WatchStream> {
        let HealthCheckRequest { service } = request.into_inner();
        if !is_known(&service) {
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            return answer(Ok(Box::pin(stream::iter([Ok(unknown)]))));
        }
        let told: Option<HealthCheckResponse> = None;
        let changes = stream::unfold((self.0.clone(), told), async |(door, told)| {
            let serving = HealthCheckResponse { status: ServingStatus::Serving.into() };
            while told == Some(now(&door)) {
                // From ready there is no way back, until the rim ends the stream.
                if told == Some(serving) {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(LOOK).await;
            }
            let health = now(&door);
            Some((Ok(health), (door, Some(health))))
        });
        answer(Ok(Box::pin(changes)))
    }
}

fn now(door: &Door) -> HealthCheckResponse {
    let status = if door.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

/// The empty name stands for the daemon.
fn is_known(service: &str) -> bool {
    use pb::{
        allocation_service_server, attachment_service_server, control_service_server, link_service_server,
        namespace_service_server, network_service_server, policy_service_server, port_forward_service_server,
        reservation_service_server, route_service_server,
    };
    let services = [
        "",
        allocation_service_server::SERVICE_NAME,
        attachment_service_server::SERVICE_NAME,
        control_service_server::SERVICE_NAME,
        namespace_service_server::SERVICE_NAME,
        network_service_server::SERVICE_NAME,
        port_forward_service_server::SERVICE_NAME,
        reservation_service_server::SERVICE_NAME,
        link_service_server::SERVICE_NAME,
        route_service_server::SERVICE_NAME,
        policy_service_server::SERVICE_NAME,
    ];
    services.contains(&service)
}
