"""The vendors' own clients against the doubles of the clouds' identity services.

Reads one JSON object with the addresses and names of the doubles, and writes one with the tokens that it was given, for
the doubles to recognise. Ends with an error at the first surprise.
"""

import json
import os
import sys
import tempfile

GIVEN = json.load(sys.stdin)
GOOGLE, ENTRA, AUDIENCE = GIVEN["google"], GIVEN["entra"], "api://AzureADTokenExchange"

# Read when the modules are loaded.
os.environ["GCE_METADATA_HOST"] = os.environ["GCE_METADATA_IP"] = GOOGLE.removeprefix("http://")
os.environ["NO_GCE_CHECK"] = "false"

import jwt
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import (
    ClientAssertionCredential,
    CredentialUnavailableError,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)
from google.auth import compute_engine, exceptions, identity_pool, impersonated_credentials
from google.auth.compute_engine import _metadata
from google.auth.transport.requests import Request
from google.oauth2 import credentials as user_credentials
from google.oauth2 import id_token, service_account

CLOUD = "https://www.googleapis.com/auth/cloud-platform"
VAULT = "https://vault.azure.net/.default"
IMPERSONATE = GOOGLE + "/v1/projects/-/serviceAccounts/{}:{}"
session = Request()


def refused(kind, words, attempt):
    """The attempt fails as the vendor's client reports such a failure, and the words are in its report."""
    try:
        attempt()
    except kind as error:
        assert words in str(error), f"expected {words!r} in: {error}"
        return
    raise AssertionError(f"not refused: {words}")


def google_id_token(text, audience, subject):
    claims = id_token.verify_token(text, session, audience, GOOGLE + "/oauth2/v3/certs")
    assert (claims["iss"], claims["sub"]) == (GOOGLE, subject), claims
    return text


def metadata_server():
    assert _metadata.ping(session)
    assert _metadata.get_project_id(session) == GIVEN["project"]
    credentials = compute_engine.Credentials(scopes=[CLOUD])
    credentials.refresh(session)
    assert credentials.service_account_email == GIVEN["machine"]
    identity = compute_engine.IDTokenCredentials(session, AUDIENCE, use_metadata_identity_endpoint=True)
    identity.refresh(session)
    google_id_token(identity.token, AUDIENCE, GIVEN["machine_id"])

    url = GOOGLE + "/computeMetadata/v1/instance/service-accounts/default/token"
    assert requests.get(url).status_code == 403
    forwarded = {"Metadata-Flavor": "Google", "X-Forwarded-For": "10.0.0.1"}
    assert requests.get(url, headers=forwarded).status_code == 403
    return credentials, identity.token


def impersonation(machine):
    credentials = impersonated_credentials.Credentials(
        machine, GIVEN["account"], [CLOUD], iam_endpoint_override=IMPERSONATE.format(GIVEN["account"], "generateAccessToken")
    )
    credentials.refresh(session)
    stranger = impersonated_credentials.Credentials(
        machine, GIVEN["stranger"], [CLOUD], iam_endpoint_override=IMPERSONATE.format(GIVEN["stranger"], "generateAccessToken")
    )
    refused(exceptions.RefreshError, "iam.serviceAccounts.getAccessToken", lambda: stranger.refresh(session))
    long = impersonated_credentials.Credentials(
        machine,
        GIVEN["account"],
        [CLOUD],
        lifetime=3601,
        iam_endpoint_override=IMPERSONATE.format(GIVEN["account"], "generateAccessToken"),
    )
    refused(exceptions.RefreshError, "INVALID_ARGUMENT", lambda: long.refresh(session))
    return credentials.token


def key_files():
    key = service_account.Credentials.from_service_account_info(GIVEN["key"], scopes=[CLOUD])
    key.refresh(session)
    identity = service_account.IDTokenCredentials.from_service_account_info(GIVEN["key"], target_audience=AUDIENCE)
    identity.refresh(session)
    google_id_token(identity.token, AUDIENCE, GIVEN["account_id"])
    deleted = service_account.Credentials.from_service_account_info(GIVEN["deleted_key"], scopes=[CLOUD])
    refused(exceptions.RefreshError, "Invalid JWT Signature", lambda: deleted.refresh(session))

    def person(refresh_token):
        user = GIVEN["user"]
        return user_credentials.Credentials(
            None,
            refresh_token=refresh_token,
            client_id=user["client_id"],
            client_secret=user["client_secret"],
            token_uri=GOOGLE + "/token",
        )

    user = person(GIVEN["user"]["refresh_token"])
    user.refresh(session)
    refused(exceptions.RefreshError, "invalid_grant", lambda: person("1//other").refresh(session))
    return key.token, user.token


def managed_identity():
    """On a virtual machine, then in App Service: each is told by variables."""
    os.environ["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = GIVEN["plain_entra"]
    on_machine = ManagedIdentityCredential().get_token(GIVEN["resource"] + "/.default").token
    assigned = ManagedIdentityCredential(client_id=GIVEN["assigned"]).get_token(VAULT).token
    assert jwt.decode(assigned, options={"verify_signature": False})["appid"] == GIVEN["assigned"]
    unknown = ManagedIdentityCredential(client_id="00000000-0000-0000-0000-000000000000")
    refused((ClientAuthenticationError, CredentialUnavailableError), "Identity not found", lambda: unknown.get_token(VAULT))

    os.environ["IDENTITY_ENDPOINT"], os.environ["IDENTITY_HEADER"] = GIVEN["identity_endpoint"], GIVEN["identity_header"]
    in_app = ManagedIdentityCredential().get_token(VAULT).token
    os.environ["IDENTITY_HEADER"] = "wrong"
    refused((ClientAuthenticationError, CredentialUnavailableError), "403", lambda: ManagedIdentityCredential().get_token(VAULT))
    del os.environ["IDENTITY_ENDPOINT"], os.environ["IDENTITY_HEADER"]
    return on_machine, in_app


def azure_to_google(subject_token):
    """Federation, and from there to a service account."""

    def federated(audience=GIVEN["provider"], account=None, token=subject_token):
        with tempfile.NamedTemporaryFile("w", suffix=".jwt", delete=False) as file:
            file.write(token)
        return identity_pool.Credentials(
            audience=audience,
            subject_token_type="urn:ietf:params:oauth:token-type:jwt",
            token_url=GOOGLE + "/v1/token",
            credential_source={"file": file.name},
            service_account_impersonation_url=account and IMPERSONATE.format(account, "generateAccessToken"),
            scopes=[CLOUD],
        )

    direct, acting = federated(), federated(account=GIVEN["account"])
    direct.refresh(session)
    acting.refresh(session)
    for words, wrong in [
        ("invalid_target", federated(audience=GIVEN["provider"] + "-other")),
        ("invalid_request", federated(audience="//iam.googleapis.com/somewhere")),
        ("does not match the expected audience", federated(token=GIVEN["misaddressed"])),
        ("signature", federated(token=subject_token[:-8] + "AAAAAAAA")),
        ("iam.serviceAccounts.getAccessToken", federated(account=GIVEN["stranger"])),
    ]:
        refused(exceptions.GoogleAuthError, words, lambda: wrong.refresh(session))
    return direct.token, acting.token


def google_to_azure(assertion):
    """A client assertion for an Entra application."""

    def application(client_id=GIVEN["application"], tenant=GIVEN["tenant"], assertion=assertion):
        return ClientAssertionCredential(
            tenant,
            client_id,
            lambda: assertion,
            authority=ENTRA,
            disable_instance_discovery=True,
            connection_verify=GIVEN["ca"],
            retry_total=0,
        )

    token = application().get_token(VAULT).token
    keys = requests.get(f"{ENTRA}/{GIVEN['tenant']}/discovery/v2.0/keys", verify=GIVEN["ca"]).json()
    key = jwt.PyJWKSet.from_dict(keys).keys[0].key
    claims = jwt.decode(token, key, algorithms=["RS256"], audience="https://vault.azure.net")
    assert (claims["appid"], claims["tid"]) == (GIVEN["application"], GIVEN["tenant"]), claims
    elsewhere = "99999999-9999-9999-9999-999999999999"
    for words, wrong in [
        ("AADSTS90002", application(tenant=elsewhere)),
        ("AADSTS700016", application(client_id=elsewhere)),
        ("AADSTS700213", application(client_id=GIVEN["other_subject"])),
        ("AADSTS7002138", application(client_id=GIVEN["other_case"], assertion=GIVEN["pod_token"])),
        ("AADSTS700211", application(client_id=GIVEN["other_issuer"])),
        ("AADSTS700212", application(client_id=GIVEN["other_audience"])),
        ("AADSTS50013", application(assertion=assertion[:-8] + "AAAAAAAA")),
    ]:
        refused(ClientAuthenticationError, words, lambda: wrong.get_token(VAULT))
    refused(ClientAuthenticationError, "AADSTS500011", lambda: application().get_token("api://nothing/.default"))
    return token


def workload_identity():
    """As in Kubernetes: the assertion lies in a file."""
    with tempfile.NamedTemporaryFile("w", suffix=".jwt", delete=False) as file:
        file.write(GIVEN["pod_token"])
    credential = WorkloadIdentityCredential(
        tenant_id=GIVEN["tenant"],
        client_id=GIVEN["pod_application"],
        token_file_path=file.name,
        authority=ENTRA,
        disable_instance_discovery=True,
        connection_verify=GIVEN["ca"],
    )
    return credential.get_token(VAULT).token


machine, assertion = metadata_server()
by_key, user = key_files()
on_machine, in_app = managed_identity()
federated, acting = azure_to_google(on_machine)
print(
    json.dumps(
        {
            "machine": machine.token,
            "impersonated": impersonation(machine),
            "by_key": by_key,
            "user": user,
            "federated": federated,
            "acting": acting,
            "in_app": in_app,
            "application": google_to_azure(assertion),
            "pod": workload_identity(),
        }
    )
)
