"""gRPC through the stubs that grpcio-tools made of proto/netloom/v1."""

import grpc
from google.protobuf import field_mask_pb2, json_format
from netloom.v1 import (
    attachment_pb2,
    attachment_pb2_grpc,
    link_pb2,
    link_pb2_grpc,
    namespace_pb2,
    namespace_pb2_grpc,
    network_pb2,
    network_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    port_forward_pb2,
    port_forward_pb2_grpc,
    reservation_pb2,
    reservation_pb2_grpc,
    route_pb2,
    route_pb2_grpc,
)

NOUNS = {
    "namespace": ("Namespace", namespace_pb2, namespace_pb2_grpc),
    "network": ("Network", network_pb2, network_pb2_grpc),
    "attachment": ("Attachment", attachment_pb2, attachment_pb2_grpc),
    "port_forward": ("PortForward", port_forward_pb2, port_forward_pb2_grpc),
    "reservation": ("Reservation", reservation_pb2, reservation_pb2_grpc),
    "link": ("Link", link_pb2, link_pb2_grpc),
    "route": ("Route", route_pb2, route_pb2_grpc),
    "policy": ("Policy", policy_pb2, policy_pb2_grpc),
}


class Grpc:
    name = "gRPC"

    def __init__(self, socket):
        # The path of a socket is no valid authority, and gRPC would send it as one.
        options = [("grpc.default_authority", "localhost")]
        self.channel = grpc.insecure_channel(f"unix://{socket}", options=options)

    def create(self, kind, draft):
        return self._call(kind, "Create", **{kind: message(kind, draft)})

    def get(self, kind, name):
        return self._call(kind, "Get", name=name)

    def names(self, kind):
        return [item["name"] for item in self._call(kind, "List", plural=True).get("items", [])]

    def update(self, kind, name, patch):
        mask = field_mask_pb2.FieldMask(paths=list(paths(patch)))
        return self._call(kind, "Update", **{kind: message(kind, {**patch, "name": name})}, update_mask=mask)

    def delete(self, kind, name):
        return self._call(kind, "Delete", name=name)

    def refused(self, kind, draft):
        """Creates what cannot be; the code, and the bytes of the rich status."""
        try:
            self.create(kind, draft)
        except grpc.RpcError as error:
            # google.rpc.ErrorInfo is in there; its reason is plain text in the encoding.
            details = dict(error.trailing_metadata() or ())
            return error.code().name, details.get("grpc-status-details-bin", b"")
        raise AssertionError(f"{kind} {draft} was not refused")

    def _call(self, kind, verb, *, plural=False, **fields):
        noun, types, services = NOUNS[kind]
        many = {"Policy": "Policies"}.get(noun, noun + "s")
        method = f"{verb}{many if plural else noun}"
        stub = getattr(services, f"{noun}ServiceStub")(self.channel)
        reply = getattr(stub, method)(getattr(types, f"{method}Request")(**fields), timeout=30)
        return json_format.MessageToDict(reply, preserving_proto_field_name=True)


def message(kind, draft):
    noun, types, _ = NOUNS[kind]
    return json_format.ParseDict(draft, getattr(types, noun)())


def paths(patch, prefix=""):
    """The field mask of a patch: every leaf; maps are replaced whole."""
    for key, value in patch.items():
        if isinstance(value, dict) and key not in ("labels", "annotations"):
            yield from paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
