"""A Spanner behind TLS and a check of tokens, and Google's own client with a token that it was given.

Reads one JSON object: where the identity double is, the server's certificate and key, the database, the creator role,
and the tokens, each with what must become of it. Ends with an error at the first surprise.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from concurrent import futures

GIVEN = json.load(sys.stdin)
# Read when gRPC is loaded.
os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = GIVEN["ca"]
os.environ["GRPC_VERBOSITY"] = "NONE"
os.environ["SPANNER_DISABLE_BUILTIN_METRICS"] = "true"

import grpc
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import spanner
from google.cloud.spanner_v1 import ResultSet, Type, TypeCode
from google.oauth2.credentials import Credentials
from spannermockserver import SpannerServicer
from spannermockserver.generated import spanner_pb2_grpc

SCOPE = "https://www.googleapis.com/auth/spanner.data"


class TokenCheck(grpc.ServerInterceptor):
    """As IAM: whoever shows no living token for this scope is turned away."""

    def __init__(self):
        self.seen = []

    def intercept_service(self, continuation, details):
        metadata = dict(details.invocation_metadata)
        token = metadata.get("authorization", "").removeprefix("Bearer ")
        try:
            with urllib.request.urlopen(f"{GIVEN['google']}/tokeninfo?access_token={token}") as answer:
                told = json.load(answer)
        except urllib.error.HTTPError:
            return grpc.unary_unary_rpc_method_handler(
                lambda _, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "invalid authentication credentials")
            )
        if told["scope"].split() != [SCOPE]:
            return grpc.unary_unary_rpc_method_handler(
                lambda _, context: context.abort(grpc.StatusCode.PERMISSION_DENIED, "insufficient scopes")
            )
        self.seen.append(told["email"])
        return continuation(details)


def serve():
    check = TokenCheck()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), interceptors=[check])
    servicer = SpannerServicer()
    spanner_pb2_grpc.add_SpannerServicer_to_server(servicer, server)
    keys = [(open(GIVEN["key"], "rb").read(), open(GIVEN["certificate"], "rb").read())]
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(keys))
    server.start()
    return server, servicer, check, port


def query(port, token):
    project, instance, database = GIVEN["database"].split("/")[1::2]
    client = spanner.Client(
        project=project,
        credentials=Credentials(token),
        client_options=ClientOptions(api_endpoint=f"localhost:{port}"),
    )
    opened = client.instance(instance).database(database, database_role=GIVEN["creator_role"])
    with opened.snapshot() as snapshot:
        return [tuple(row) for row in snapshot.execute_sql("SELECT 1")]


def refused(port, token, expected):
    try:
        query(port, token)
    except GoogleAPICallError as error:
        assert error.grpc_status_code == expected, error
        return
    raise AssertionError(f"not refused with {expected}")


def main():
    server, servicer, check, port = serve()
    result = ResultSet(
        {"metadata": {"row_type": {"fields": [{"name": "one", "type_": Type(code=TypeCode.INT64)}]}}, "rows": [["1"]]}
    )
    servicer.mock_spanner.add_result("SELECT 1", result)
    try:
        assert query(port, GIVEN["token"]) == [(1,)]
        assert set(check.seen) == {GIVEN["reader"]}, check.seen
        roles = {session.creator_role for session in servicer.sessions.values()}
        assert roles == {GIVEN["creator_role"]}, roles
        refused(port, GIVEN["login_token"], grpc.StatusCode.PERMISSION_DENIED)
        refused(port, "ya29.guessed", grpc.StatusCode.UNAUTHENTICATED)
    finally:
        server.stop(grace=None)


main()
