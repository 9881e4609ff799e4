//! Which generated service, requests and fields belong to which noun; written once per noun by one macro.

use netloom_api::{
    Attachment, Draft, FromPb as _, Link, Name, Namespace, Network, Noun, Object, Path, Policy, PortForward,
    Reservation, Route, ToPb as _, pb,
};

use crate::{
    error::ClientError,
    options::{DeleteOptions, ListOptions, UpdateOptions, WriteOptions},
    transport::{REPLY_MAX, Transport},
};

/// A noun that can be called for: all that callers write. Sealed, since the daemon knows no others.
pub trait Callable: sealed::Calls {}

/// A page as it comes: objects, the token of the next page, the position in the log.
pub(crate) type Page<N> = (Vec<Object<N>>, String, i64);

pub(crate) mod sealed {
    use super::*;

    /// The five calls of a noun.
    pub trait Calls: Noun {
        /// What a list can be narrowed by, beside owner and labels.
        const FILTERS: &'static [&'static str];

        /// `List…`
        fn list(to: Transport, options: ListOptions) -> impl Future<Output = Answer<Page<Self>>> + Send;
        /// `Get…`
        fn get(to: Transport, name: Name) -> impl Future<Output = Answer<Object<Self>>> + Send;
        /// `Create…`
        fn create(
            to: Transport,
            draft: Draft<Self>,
            options: WriteOptions,
        ) -> impl Future<Output = Answer<Object<Self>>> + Send;
        /// `Update…`
        fn update(
            to: Transport,
            draft: Draft<Self>,
            options: UpdateOptions,
        ) -> impl Future<Output = Answer<Object<Self>>> + Send;
        /// `Delete…`; none when there was no such object.
        fn delete(
            to: Transport,
            name: Name,
            options: DeleteOptions,
        ) -> impl Future<Output = Answer<Option<Object<Self>>>> + Send;
    }

    /// The result of a call.
    pub(crate) type Answer<T> = Result<T, ClientError>;
}

use sealed::Answer;

fn read<N: Noun, M>(message: M) -> Answer<Object<N>>
where
    Object<N>: netloom_api::FromPb<M>,
{
    Ok(Object::from_pb(message, &Path::root())?)
}

/// Implements the calls of one noun.
macro_rules! calls {
    (
        $noun:ident $field:ident in $module:ident::$client:ident;
        $list:ident $list_request:ident by [$($filter:ident),*];
        $get:ident $get_request:ident;
        $create:ident $create_request:ident;
        $update:ident $update_request:ident;
        $delete:ident $delete_request:ident;
    ) => {
        impl Callable for $noun {}

        impl sealed::Calls for $noun {
            const FILTERS: &'static [&'static str] = &[$(stringify!($filter)),*];

            async fn list(to: Transport, options: ListOptions) -> Answer<Page<Self>> {
                let request = pb::$list_request {
                    page_size: options.page_size.map(i32::from),
                    page_token: options.page_token,
                    owner: options.owner.map(String::from),
                    labels: options.labels.into(),
                    $($filter: options.$filter.map(String::from),)*
                };
                let mut service = pb::$module::$client::new(to).max_decoding_message_size(REPLY_MAX);
                let reply = service.$list(request).await?.into_inner();
                let items = reply.items.into_iter().map(read).collect::<Answer<_>>()?;
                Ok((items, reply.next_page_token, reply.seq))
            }

            async fn get(to: Transport, name: Name) -> Answer<Object<Self>> {
                let request = pb::$get_request { name: name.into() };
                read(pb::$module::$client::new(to).$get(request).await?.into_inner())
            }

            async fn create(to: Transport, draft: Draft<Self>, options: WriteOptions) -> Answer<Object<Self>> {
                let request =
                    pb::$create_request { $field: Some(draft.to_pb()), options: Some(options.to_pb()) };
                read(pb::$module::$client::new(to).$create(request).await?.into_inner())
            }

            async fn update(to: Transport, draft: Draft<Self>, options: UpdateOptions) -> Answer<Object<Self>> {
                let UpdateOptions { mask, allow_missing, etag, write } = options;
                let request = pb::$update_request {
                    $field: Some(draft.to_pb()),
                    update_mask: (!mask.is_empty()).then_some(prost_types::FieldMask { paths: mask }),
                    allow_missing,
                    etag: etag.map(|etag| etag.to_string()),
                    options: Some(write.to_pb()),
                };
                read(pb::$module::$client::new(to).$update(request).await?.into_inner())
            }

            async fn delete(to: Transport, name: Name, options: DeleteOptions) -> Answer<Option<Object<Self>>> {
                let DeleteOptions { etag, force, allow_missing, write } = options;
                let request = pb::$delete_request {
                    name: name.into(),
                    etag: etag.map(|etag| etag.to_string()),
                    force,
                    allow_missing,
                    options: Some(write.to_pb()),
                };
                let reply = pb::$module::$client::new(to).$delete(request).await?.into_inner();
                // An empty reply is what `allow_missing` gives when there was nothing to delete.
                if reply.uid.is_empty() { Ok(None) } else { read(reply).map(Some) }
            }
        }
    };
}

calls! {
    Namespace namespace in namespace_service_client::NamespaceServiceClient;
    list_namespaces ListNamespacesRequest by [];
    get_namespace GetNamespaceRequest;
    create_namespace CreateNamespaceRequest;
    update_namespace UpdateNamespaceRequest;
    delete_namespace DeleteNamespaceRequest;
}

calls! {
    Network network in network_service_client::NetworkServiceClient;
    list_networks ListNetworksRequest by [];
    get_network GetNetworkRequest;
    create_network CreateNetworkRequest;
    update_network UpdateNetworkRequest;
    delete_network DeleteNetworkRequest;
}

calls! {
    Attachment attachment in attachment_service_client::AttachmentServiceClient;
    list_attachments ListAttachmentsRequest by [namespace, network];
    get_attachment GetAttachmentRequest;
    create_attachment CreateAttachmentRequest;
    update_attachment UpdateAttachmentRequest;
    delete_attachment DeleteAttachmentRequest;
}

calls! {
    PortForward port_forward in port_forward_service_client::PortForwardServiceClient;
    list_port_forwards ListPortForwardsRequest by [namespace, network];
    get_port_forward GetPortForwardRequest;
    create_port_forward CreatePortForwardRequest;
    update_port_forward UpdatePortForwardRequest;
    delete_port_forward DeletePortForwardRequest;
}

calls! {
    Reservation reservation in reservation_service_client::ReservationServiceClient;
    list_reservations ListReservationsRequest by [network];
    get_reservation GetReservationRequest;
    create_reservation CreateReservationRequest;
    update_reservation UpdateReservationRequest;
    delete_reservation DeleteReservationRequest;
}

calls! {
    Route route in route_service_client::RouteServiceClient;
    list_routes ListRoutesRequest by [namespace];
    get_route GetRouteRequest;
    create_route CreateRouteRequest;
    update_route UpdateRouteRequest;
    delete_route DeleteRouteRequest;
}

calls! {
    Link link in link_service_client::LinkServiceClient;
    list_links ListLinksRequest by [namespace];
    get_link GetLinkRequest;
    create_link CreateLinkRequest;
    update_link UpdateLinkRequest;
    delete_link DeleteLinkRequest;
}

calls! {
    Policy policy in policy_service_client::PolicyServiceClient;
    list_policies ListPoliciesRequest by [network];
    get_policy GetPolicyRequest;
    create_policy CreatePolicyRequest;
    update_policy UpdatePolicyRequest;
    delete_policy DeletePolicyRequest;
}
