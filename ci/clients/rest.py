"""REST through the client that openapi-python-client made of proto/openapi.json."""

import importlib
import pkgutil
import typing

import httpx
import netloom_openapi_client as generated
import netloom_openapi_client.api


def operations():
    """Every generated operation by its operationId."""
    found = {}
    package = generated.api
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.ispkg:
            found[module.name.rsplit(".", 1)[1]] = importlib.import_module(module.name)
    return found


class Rest:
    name = "REST"

    def __init__(self, socket):
        self.operations = operations()
        transport = httpx.HTTPTransport(uds=socket)
        self.client = generated.Client(base_url="http://localhost", raise_on_unexpected_status=True)
        self.client.set_httpx_client(httpx.Client(transport=transport, base_url="http://localhost", timeout=30))

    def create(self, kind, draft):
        return self._call(f"create_{kind}", body=draft)

    def get(self, kind, name):
        return self._call(f"get_{kind}", name=name)

    def names(self, kind):
        plural = {"policy": "policies"}.get(kind, kind + "s")
        return [item["name"] for item in self._call(f"list_{plural}")["items"]]

    def update(self, kind, name, patch):
        return self._call(f"update_{kind}", name=name, body=patch)

    def delete(self, kind, name):
        return self._call(f"delete_{kind}", name=name)

    def refused(self, kind, draft):
        """Creates what cannot be; the reason."""
        try:
            self._call(f"create_{kind}", body=draft)
        except Refused as refused:
            return refused.reason
        raise AssertionError(f"{kind} {draft} was not refused")

    def _call(self, operation, *, body=None, name=None):
        call = self.operations[operation].sync_detailed
        arguments = {"client": self.client}
        if body is not None:
            arguments["body"] = model(call, "body").from_dict(body)
        response = call(*([name] if name else []), **arguments)
        reply = response.parsed.to_dict()
        if response.status_code >= 400:
            raise Refused(response.status_code, reply["reason"], reply["detail"])
        return reply


class Refused(Exception):
    def __init__(self, status, reason, detail):
        super().__init__(f"{status} {reason}: {detail}")
        self.reason = reason


def model(call, parameter):
    """The generated type of a parameter."""
    hint = typing.get_type_hints(call)[parameter]
    for one in typing.get_args(hint) or (hint,):
        if hasattr(one, "from_dict"):
            return one
    raise TypeError(f"{call.__module__}: {parameter} has no generated model")
