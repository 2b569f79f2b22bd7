"""Microsoft's own client for Python, as the judge of the double of Key Vault.

Usage: key_vault.py VAULT_URL ADDRESS CA_FILE TOKEN. Ends with an error at the first thing that the real service would
have done otherwise.
"""

import socket
import sys
import time
from datetime import datetime, timedelta, timezone
from urllib.parse import urlparse

from azure.core import exceptions
from azure.core.credentials import AccessToken
from azure.keyvault.secrets import SecretClient

VAULT_URL, ADDRESS, CA, TOKEN = sys.argv[1:]
HOST = urlparse(VAULT_URL).hostname


class Static:
    """One token, handed out only for what the vault's challenge asks for."""

    def __init__(self, token):
        self.token, self.asked = token, []

    def get_token(self, *scopes, **options):
        self.asked.append((scopes, options.get("tenant_id")))
        return AccessToken(self.token, int(time.time()) + 3600)


def lead_the_vault_to_the_double():
    address, port = ADDRESS.rsplit(":", 1)
    resolve = socket.getaddrinfo

    def redirected(host, _port, *arguments, **more):
        assert host == HOST, f"the client asked for {host}"
        return resolve(address, int(port), *arguments, **more)

    socket.getaddrinfo = redirected


def client(credential):
    return SecretClient(VAULT_URL, credential, connection_verify=CA, retry_total=0)


def refuses(kind, status, code, call, *arguments, **more):
    try:
        call(*arguments, **more)
    except exceptions.HttpResponseError as error:
        assert type(error) is kind, f"{call.__name__} failed with {type(error).__name__} instead of {kind.__name__}"
        told = (error.status_code, error.error.code)
        assert told == (status, code), f"{call.__name__} answered {told}"
        return error
    raise AssertionError(f"{call.__name__} was not refused")


def versions(vault, name):
    return {version.version for version in vault.list_properties_of_secret_versions(name)}


def judge_the_challenge():
    credential = Static(TOKEN)
    refuses(exceptions.ResourceNotFoundError, 404, "SecretNotFound", client(credential).get_secret, "absent")
    [(scopes, tenant)] = credential.asked
    assert scopes == ("https://vault.azure.net/.default",) and tenant, credential.asked
    stranger = Static("another-token")
    refuses(exceptions.ClientAuthenticationError, 401, "Unauthorized", client(stranger).get_secret, "absent")
    assert stranger.asked, "no challenge was made"


def judge_values(vault):
    begun = datetime.now(timezone.utc) - timedelta(seconds=2)
    first = vault.set_secret("Db-Password", "first", tags={"team": "payments"}, content_type="text/plain")
    second = vault.set_secret("Db-Password", "zweites \N{KEY} \0")
    assert first.properties.version != second.properties.version
    assert first.properties.vault_url == VAULT_URL and first.name == "Db-Password"
    assert begun <= first.properties.created_on < second.properties.created_on

    latest = vault.get_secret("Db-Password")
    assert (latest.value, latest.properties.version) == ("zweites \N{KEY} \0", second.properties.version)
    assert not latest.properties.tags and latest.properties.content_type is None, "set takes nothing over"
    numbered = vault.get_secret("Db-Password", first.properties.version)
    assert (numbered.value, numbered.properties.tags) == ("first", {"team": "payments"})
    assert numbered.properties.content_type == "text/plain" and numbered.properties.enabled
    assert vault.get_secret("DB-PASSWORD").name == "Db-Password", "names are told apart regardless of case"

    assert versions(vault, "Db-Password") == {first.properties.version, second.properties.version}
    assert versions(vault, "absent") == set()
    refuses(exceptions.ResourceNotFoundError, 404, "SecretNotFound", vault.get_secret, "Db-Password", "0" * 32)
    vault.set_secret("longest", "x" * 25_600)
    refuses(exceptions.HttpResponseError, 400, "BadParameter", vault.set_secret, "longer", "x" * 25_601)
    refuses(exceptions.HttpResponseError, 400, "BadParameter", vault.set_secret, "under_score", "x")


def judge_attributes(vault):
    version = vault.set_secret("attributes", "value", tags={"kept": "yes"}).properties.version
    later = datetime(2090, 1, 1, tzinfo=timezone.utc)
    changed = vault.update_secret_properties("attributes", version, enabled=False, expires_on=later)
    assert (changed.enabled, changed.expires_on, changed.tags) == (False, later, {"kept": "yes"})
    for asked in (None, version):
        error = refuses(exceptions.HttpResponseError, 403, "Forbidden", vault.get_secret, "attributes", asked)
        assert error.error.innererror["code"] == "SecretDisabled", error.error.innererror
    changed = vault.update_secret_properties("attributes", enabled=True)
    assert (changed.version, changed.enabled, changed.expires_on) == (version, True, later)
    past = datetime(2020, 1, 1, tzinfo=timezone.utc)
    vault.update_secret_properties("attributes", version, expires_on=past)
    assert vault.get_secret("attributes").properties.expires_on == past, "an expired value is handed out"
    refuses(
        exceptions.ResourceNotFoundError, 404, "SecretNotFound", vault.update_secret_properties, "absent", enabled=True
    )


def judge_lists(vault):
    names = {f"listed-{number}" for number in range(7)}
    for name in names:
        vault.set_secret(name, "value")
    for size in (1, 3, 25):
        pages = [list(page) for page in vault.list_properties_of_secrets(max_page_size=size).by_page()]
        assert all(len(page) <= size for page in pages), size
        listed = [item.name for page in pages for item in page]
        assert len(listed) == len(set(listed)) and names <= set(listed), listed
        assert size > 3 or len(pages) > 2, "the list was not paged"
    many = {vault.set_secret("many", str(number)).properties.version for number in range(5)}
    pages = [list(page) for page in vault.list_properties_of_secret_versions("many", max_page_size=2).by_page()]
    assert len(pages) == 3 and {item.version for page in pages for item in page} == many


def judge_deletion(vault):
    vault.set_secret("going", "value")
    deleted = vault.begin_delete_secret("going", _polling_interval=0).result()
    assert deleted.name == "going" and deleted.scheduled_purge_date > deleted.deleted_date
    assert "going" not in {item.name for item in vault.list_properties_of_secrets()}
    assert "going" in {item.name for item in vault.list_deleted_secrets()}
    refuses(exceptions.ResourceNotFoundError, 404, "SecretNotFound", vault.get_secret, "going")
    error = refuses(exceptions.ResourceExistsError, 409, "Conflict", vault.set_secret, "going", "again")
    assert error.error.innererror["code"] == "ObjectIsDeletedButRecoverable"
    vault.begin_recover_deleted_secret("going", _polling_interval=0).wait()
    assert vault.get_secret("going").value == "value"
    vault.begin_delete_secret("going", _polling_interval=0).wait()
    vault.purge_deleted_secret("going")
    refuses(exceptions.ResourceNotFoundError, 404, "SecretNotFound", vault.get_deleted_secret, "going")
    assert vault.set_secret("going", "again").value == "again"


lead_the_vault_to_the_double()
judge_the_challenge()
for judge in (judge_values, judge_attributes, judge_lists, judge_deletion):
    judge(client(Static(TOKEN)))
print("accepted")
