"""Uses the transit engine through hvac without a certificate: by a JWT-SVID of this process. Prints one line when all held."""

import base64
import sys

import hvac
from hvac.exceptions import Forbidden, Unauthorized
from spiffe import WorkloadApiClient

ADDRESS, BUNDLE, APP, AUDIENCE = sys.argv[1:5]


def client():
    return hvac.Client(url=ADDRESS, verify=BUNDLE)


def refused(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except (Forbidden, Unauthorized):
        return
    raise AssertionError(f"{call} was not refused")


with WorkloadApiClient() as workload:

    def token(audience):
        return next(svid.token for svid in workload.fetch_jwt_svids(audience={audience}) if str(svid.spiffe_id) == APP)

    one = client()
    refused(one.secrets.transit.encrypt_data, "ledger", plaintext="")
    # Meant for somebody else, and changed.
    refused(one.auth.jwt.jwt_login, role="", jwt=token("spiffe://foreign.test/other"))
    refused(one.auth.jwt.jwt_login, role="", jwt=token(AUDIENCE)[:-8] + "AAAAAAAA")

    auth = one.auth.jwt.jwt_login(role="", jwt=token(AUDIENCE))["auth"]
    assert auth["metadata"]["spiffe_id"] == APP, auth
    assert 0 < auth["lease_duration"] <= 300, auth
    one.token = auth["client_token"]
    assert one.lookup_token()["data"]["entity_id"] == APP
    plaintext = base64.b64encode(b"by token").decode()
    made = one.secrets.transit.encrypt_data("ledger", plaintext=plaintext)["data"]["ciphertext"]
    assert one.secrets.transit.decrypt_data("ledger", ciphertext=made)["data"]["plaintext"] == plaintext
    # It administers nothing.
    refused(one.secrets.transit.create_key, "mine")

    one.auth.token.revoke_self()
    refused(one.secrets.transit.encrypt_data, "ledger", plaintext=plaintext)
print("all held")
