"""Google's own connector against the double of Cloud SQL: it must connect, and be refused as at the real service.

Reads one JSON object with the addresses and names of the doubles. Ends with an error at the first surprise.
"""

import asyncio
import json
import logging
import os
import sys

GIVEN = json.load(sys.stdin)
GOOGLE = GIVEN["google"]

# Read when the modules are loaded.
os.environ["GCE_METADATA_HOST"] = os.environ["GCE_METADATA_IP"] = GOOGLE.removeprefix("http://")
# A refusal is expected here, and the connector would write a page about it.
logging.disable(logging.CRITICAL)

import pg8000
from google.auth import compute_engine, impersonated_credentials
from google.auth.transport.requests import Request
from google.cloud.sql.connector import Connector


def credentials(email):
    """As whoever runs on the machine gets those of the account."""
    return impersonated_credentials.Credentials(
        compute_engine.Credentials(),
        email,
        ["https://www.googleapis.com/auth/sqlservice.admin"],
        iam_endpoint_override=f"{GOOGLE}/v1/projects/-/serviceAccounts/{email}:generateAccessToken",
    )


def connect(email, user, **more):
    with Connector(
        credentials=credentials(email), sqladmin_api_endpoint=GIVEN["api"], refresh_strategy="lazy"
    ) as connector:
        connection = connector.connect(GIVEN["instance"], "pg8000", user=user, db="shop", **more)
        try:
            cursor = connection.cursor()
            cursor.execute("SELECT current_user, count(*) FROM orders")
            return tuple(cursor.fetchone())
        finally:
            connection.close()


def refused(words, attempt):
    try:
        attempt()
    except Exception as error:  # noqa: BLE001: drivers and connector fail in many ways
        assert words in str(error), f"expected {words!r} in: {error!r}"
        return
    raise AssertionError(f"not refused: {words}")


def main():
    reader, stranger = GIVEN["reader"], GIVEN["stranger"]
    user = reader.removesuffix(".gserviceaccount.com")
    assert connect(reader, user, enable_iam_auth=True) == (user, 2)
    refused("authentication failed", lambda: connect(reader, "postgres", enable_iam_auth=True))
    # Without IAM the proxy has a certificate, and nobody whom it is for.
    refused("authentication failed", lambda: connect(reader, user, password="guessed"))
    refused("not authorized", lambda: connect(stranger, user, enable_iam_auth=True))


main()
