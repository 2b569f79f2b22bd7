"""Reads a secret, mints access to a database, and then always runs the current value of a secret.

Connects as KEYFERRY_SERVER, KEYFERRY_CA, KEYFERRY_CERT, KEYFERRY_KEY and KEYFERRY_TOKEN_FILE say.
"""

import os
import random
import sys
import time
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from keyferry.v1.rotation_event_pb2 import ROTATION_EVENT_KIND_VERSION_CURRENT
from keyferry.v1.rotation_service_pb2 import AcknowledgeRotationRequest, RotationFilter, WatchRotationsRequest
from keyferry.v1.rotation_service_pb2_grpc import RotationServiceStub
from keyferry.v1.secret_service_pb2 import GetSecretRequest
from keyferry.v1.secret_service_pb2_grpc import SecretServiceStub
from keyferry.v1.token_service_pb2 import MintDatabaseTokenRequest
from keyferry.v1.token_service_pb2_grpc import TokenServiceStub

WATCHED = "stores/local/secrets/db-password"
SUBSCRIBER = "python"
DEADLINE = 10


class BearerToken(grpc.AuthMetadataPlugin):
    """Read for each call, so that a renewed token is in use at once."""

    def __call__(self, context, callback):
        token = Path(os.environ["KEYFERRY_TOKEN_FILE"]).read_text().strip()
        callback([("authorization", f"Bearer {token}")], None)


def connect():
    ca, key, certificate = (Path(os.environ[f"KEYFERRY_{name}"]).read_bytes() for name in ("CA", "KEY", "CERT"))
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(ca, key, certificate),
        grpc.metadata_call_credentials(BearerToken()),
    )
    target = os.environ["KEYFERRY_SERVER"].removeprefix("https://")
    return grpc.secure_channel(target, credentials, options=[("grpc.keepalive_time_ms", 30_000)])


def refusal(error):
    """Why the broker said no, and after how many seconds the same call may succeed. Neither where it did not answer."""
    reason = delay = None
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == "keyferry":
            reason = info.reason
        elif detail.Unpack(retry):
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, delay


def read_and_mint(channel):
    secrets, tokens = SecretServiceStub(channel), TokenServiceStub(channel)
    secret = secrets.GetSecret(GetSecretRequest(name="stores/local/secrets/hello"), timeout=DEADLINE)
    say("read", secret.name)  # secret.payload is the value
    try:
        secrets.GetSecret(GetSecretRequest(name="stores/local/secrets/api-key"), timeout=DEADLINE)
    except grpc.RpcError as error:
        say("refused", refusal(error)[0])
    role = MintDatabaseTokenRequest(name="databases/orders/roles/app")
    token = tokens.MintDatabaseToken(role, timeout=DEADLINE)
    say("minted", token.user)  # token.access_token is what proves it


class Follower:
    """Runs the current version of a secret, and says so to the broker."""

    def __init__(self, channel):
        self.secrets, self.rotations = SecretServiceStub(channel), RotationServiceStub(channel)
        self.cursor = ""
        self.last = ("", 0)

    def follow(self):
        failures = 0
        while True:
            try:
                for message in self.watch():
                    self.take(message)
                    # Only now: what fails before is told again.
                    self.cursor = message.cursor or self.cursor
                    failures = 0
            except grpc.RpcError as error:
                reason, delay = refusal(error)
                # Of two streams with one name the older has lost: it must not take the name back.
                if reason == "CONFLICT" or (reason and reason != "TOKEN_EXPIRED" and delay is None):
                    raise
                print("watch lost:", reason or error.code(), file=sys.stderr)
                failures += 1
                time.sleep(max(delay or 0, random.uniform(0.5, 1) * min(30, 0.1 * 2**failures)))

    def watch(self):
        request = WatchRotationsRequest(
            subscriber=SUBSCRIBER, filter=RotationFilter(names=[WATCHED]), cursor=self.cursor
        )
        return self.rotations.WatchRotations(request)

    def take(self, message):
        match message.WhichOneof("response"):
            case "snapshot":
                for entry in message.snapshot.entries:
                    say("snapshot", self.run(entry.secret, entry.revision))
            case "events":
                for event in message.events.events:
                    # An event may come twice.
                    seen = event.epoch == self.last[0] and event.revision <= self.last[1]
                    if event.kind == ROTATION_EVENT_KIND_VERSION_CURRENT and not seen:
                        say("event", self.run(event.secret, event.revision))
                self.last = (event.epoch, event.revision)

    def run(self, secret, revision):
        answer = self.secrets.GetSecret(GetSecretRequest(name=secret, min_revision=revision), timeout=DEADLINE)
        # Here the program takes answer.payload into use.
        acknowledgement = AcknowledgeRotationRequest(subscriber=SUBSCRIBER, versions=[answer.name])
        self.rotations.AcknowledgeRotation(acknowledgement, timeout=DEADLINE)
        return answer.name


def say(what, which):
    print(what, which, flush=True)


if __name__ == "__main__":
    with connect() as channel:
        read_and_mint(channel)
        Follower(channel).follow()
