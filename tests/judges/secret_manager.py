"""Google's own client for Python, as the judge of the double of Secret Manager.

Usage: secret_manager.py REST_ENDPOINT GRPC_ENDPOINT TOKEN. Ends with an error at the first thing that the real service
would have done otherwise.
"""

import sys

import grpc
from google.api_core import exceptions
from google.auth import credentials
from google.cloud import secretmanager_v1 as sm
from google.cloud.secretmanager_v1.services.secret_manager_service import transports
from google.protobuf import field_mask_pb2

PROJECT = "keyferry-test"
REST, GRPC, TOKEN = sys.argv[1:]


class Static(credentials.Credentials):
    def __init__(self, token):
        super().__init__()
        self.token = token

    def refresh(self, request):
        """There is no other token; the refused one is sent again."""

    @property
    def expired(self):
        return False


class Bearer(grpc.UnaryUnaryClientInterceptor):
    """An insecure channel takes no call credentials."""

    def __init__(self, token):
        self.token = token

    def intercept_unary_unary(self, continuation, details, request):
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {self.token}")]
        return continuation(details._replace(metadata=metadata), request)


def over_rest(token=TOKEN):
    scheme, host = REST.split("://")
    transport = transports.SecretManagerServiceRestTransport(
        host=host, url_scheme=scheme, credentials=Static(token)
    )
    return sm.SecretManagerServiceClient(transport=transport)


def over_grpc(token=TOKEN):
    channel = grpc.intercept_channel(grpc.insecure_channel(GRPC), Bearer(token))
    transport = transports.SecretManagerServiceGrpcTransport(channel=channel)
    return sm.SecretManagerServiceClient(transport=transport)


def refuses(expected, call, *arguments, **more):
    try:
        call(*arguments, retry=None, timeout=20, **more)
    except exceptions.GoogleAPICallError as error:
        # Over REST the client raises by the HTTP status alone; the canonical code is in the body.
        rest = hasattr(error.response, "json")
        told = error.response.json()["error"] if rest else {"code": error.code, "status": error.grpc_status_code.name}
        assert (told["code"], told["status"]) == (expected.code, expected.grpc_status_code.name), error
        assert error.code == expected.code, error
        return
    raise AssertionError(f"{expected.__name__} was due")


def crc(data):
    """CRC-32C, bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def judge(client, parent, prefix, regional):
    replication = {} if regional else {"replication": {"automatic": {}}}
    labels = {"team": "payments"}

    def create(name, **more):
        return client.create_secret(parent=parent, secret_id=f"{prefix}-{name}", secret={**replication, **more})

    made = create("a", labels=labels)
    where = made.name.removesuffix(f"/secrets/{prefix}-a")
    assert where != made.name and where.split("/")[1].isdigit(), made.name
    assert ("locations" in where) == regional, made.name
    assert made.create_time.timestamp() > 1_700_000_000 and made.etag
    asked = f"{parent}/secrets/{prefix}-a"
    assert client.get_secret(name=asked) == made == client.get_secret(name=made.name)
    assert dict(made.labels) == labels
    unusual = {} if replication else {"replication": {"automatic": {}}}
    for expected, name, given in (
        (exceptions.AlreadyExists, f"{prefix}-a", replication),
        (exceptions.InvalidArgument, f"{prefix}.a", replication),
        (exceptions.InvalidArgument, f"{prefix}-w", unusual),
    ):
        refuses(expected, client.create_secret, parent=parent, secret_id=name, secret=given)

    # Values, whole and checked both ways.
    refuses(exceptions.NotFound, client.access_secret_version, name=f"{asked}/versions/latest")
    values = [b"first", bytes(range(256)) * 256, "naïve пароль\0\n".encode()]
    for number, value in enumerate(values, 1):
        payload = {"data": value, "data_crc32c": crc(value)}
        version = client.add_secret_version(parent=asked, payload=payload)
        assert version.name == f"{made.name}/versions/{number}" and version.state == sm.SecretVersion.State.ENABLED
        assert version.client_specified_payload_checksum and version.etag
        for alias in (str(number), "latest"):
            read = client.access_secret_version(name=f"{asked}/versions/{alias}")
            assert read.name == version.name and read.payload.data == value
            assert read.payload.data_crc32c == crc(value)
    for bad in ({"data": b""}, {"data": b"x" * 65_537}, {"data": b"x", "data_crc32c": crc(b"y")}):
        refuses(exceptions.InvalidArgument, client.add_secret_version, parent=asked, payload=bad)

    # States.
    first, second, newest = (f"{asked}/versions/{number}" for number in (1, 2, 3))
    for _ in range(2):
        assert client.disable_secret_version(name=newest).state == sm.SecretVersion.State.DISABLED
    assert client.get_secret_version(name=f"{asked}/versions/latest").state == sm.SecretVersion.State.DISABLED
    for name in (newest, f"{asked}/versions/latest"):
        refuses(exceptions.FailedPrecondition, client.access_secret_version, name=name)
    stale = client.get_secret_version(name=newest).etag
    for _ in range(2):
        assert client.enable_secret_version(name=newest).state == sm.SecretVersion.State.ENABLED
    refuses(exceptions.Aborted, client.disable_secret_version, request={"name": newest, "etag": stale})
    assert client.access_secret_version(name=newest).payload.data == values[2]
    destroyed = client.destroy_secret_version(name=second)
    assert destroyed.state == sm.SecretVersion.State.DESTROYED and destroyed.destroy_time
    for call in (client.access_secret_version, client.enable_secret_version, client.disable_secret_version):
        refuses(exceptions.FailedPrecondition, call, name=second)
    assert client.access_secret_version(name=first).payload.data == values[0]

    # Absence.
    absent = f"{parent}/secrets/{prefix}-absent"
    for call in (client.access_secret_version, client.get_secret_version, client.disable_secret_version):
        refuses(exceptions.NotFound, call, name=f"{asked}/versions/77")
        refuses(exceptions.NotFound, call, name=f"{absent}/versions/1")
    refuses(exceptions.NotFound, client.get_secret, name=absent)
    refuses(exceptions.NotFound, client.list_secret_versions, parent=absent)
    refuses(exceptions.NotFound, client.add_secret_version, parent=absent, payload={"data": b"x"})

    # Lists and their pages.
    for name in ("d", "c", "b"):
        create(name)
    for size in (1, 2, 100):
        listed = client.list_secrets(request={"parent": parent, "page_size": size})
        pages = [[secret.name for secret in page.secrets] for page in listed.pages]
        assert all(len(page) <= size for page in pages)
        names = [name for page in pages for name in page]
        assert all(name.startswith(f"{where}/secrets/") for name in names), names
        ours = [name for name in names if f"/secrets/{prefix}-" in name]
        assert ours == [f"{where}/secrets/{prefix}-{name}" for name in "bcda"], ours  # the newest first
        listed = client.list_secret_versions(request={"parent": asked, "page_size": size})
        versions = [(version.name, version.state.name) for version in listed]
        states = ["ENABLED", "DESTROYED", "ENABLED"]
        assert versions == [(f"{made.name}/versions/{3 - i}", state) for i, state in enumerate(states)], versions
    refuses(exceptions.InvalidArgument, client.list_secrets, request={"parent": parent, "page_token": "x"})

    # Changes of a secret.
    changed = {"name": asked, "labels": {"team": "checkout"}}
    mask = field_mask_pb2.FieldMask(paths=["labels"])
    updated = client.update_secret(secret=changed, update_mask=mask)
    assert dict(updated.labels) == {"team": "checkout"} and updated.etag != made.etag
    refuses(exceptions.Aborted, client.update_secret, secret={**changed, "etag": made.etag}, update_mask=mask)
    refuses(exceptions.Aborted, client.delete_secret, request={"name": asked, "etag": made.etag})
    client.delete_secret(name=asked)
    refuses(exceptions.NotFound, client.get_secret, name=asked)


for transport, connect in (("rest", over_rest), ("grpc", over_grpc)):
    client = connect()
    judge(client, f"projects/{PROJECT}", f"global-{transport}", regional=False)
    judge(client, f"projects/{PROJECT}/locations/europe-west3", f"regional-{transport}", regional=True)
    refuses(exceptions.PermissionDenied, client.list_secrets, parent="projects/another-project")
    refuses(exceptions.Unauthenticated, connect("unknown").list_secrets, parent=f"projects/{PROJECT}")
print("accepted")
