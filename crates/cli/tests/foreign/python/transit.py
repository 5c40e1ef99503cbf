"""Uses the transit engine through hvac, as a keeper of keys and as an application. Prints one line when all held."""

import base64
import sys

import hvac
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest

ADDRESS, KEEPER, APP = sys.argv[1:4]


def client(folder):
    pair = (f"{folder}/svid.pem", f"{folder}/svid_key.pem")
    one = hvac.Client(url=ADDRESS, cert=pair, verify=f"{folder}/svid_bundle.pem")
    # As every guide does, although the certificate alone would do.
    one.auth.cert.login(cert_pem=pair[0], key_pem=pair[1])
    assert one.is_authenticated()
    return one


def text(value):
    return base64.b64encode(value.encode()).decode()


def refused(error, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except error:
        return
    raise AssertionError(f"{call} was not refused")


keeper, app = client(KEEPER), client(APP)
keys, use = keeper.secrets.transit, app.secrets.transit
assert keeper.sys.read_health_status(method="GET")["initialized"]

keys.create_key("ledger")
# hvac does not know this type.
keeper.write_data("transit/keys/macs", data={"type": "hmac-sha512"})
keys.create_key("prints", key_type="rsa-2048")
keys.create_key("same", convergent_encryption=True, derived=True)
assert set(keys.list_keys()["data"]["keys"]) == {"ledger", "macs", "prints", "same"}
assert keys.read_key("ledger")["data"]["latest_version"] == 1
refused(InvalidPath, keys.read_key, "missing")
refused(InvalidRequest, keeper.write_data, "transit/keys/other", data={"type": "rot13"})
refused(Forbidden, use.create_key, "mine")

one = use.encrypt_data("ledger", plaintext=text("hello"))["data"]["ciphertext"]
assert use.decrypt_data("ledger", ciphertext=one)["data"]["plaintext"] == text("hello")
refused(Forbidden, use.encrypt_data, "missing", plaintext=text("hello"))
refused(InvalidRequest, use.decrypt_data, "ledger", ciphertext=one[:-8] + "AAAAAAA=")
refused(InvalidRequest, use.decrypt_data, "ledger", ciphertext="nonsense")
refused(InvalidRequest, use.decrypt_data, "same", ciphertext=one)
refused(InvalidRequest, use.encrypt_data, "ledger", plaintext="***")

# Bound to its context.
bound = use.encrypt_data("ledger", plaintext=text("hello"), context=text("order 7"))["data"]["ciphertext"]
assert use.decrypt_data("ledger", ciphertext=bound, context=text("order 7"))["data"]["plaintext"] == text("hello")
refused(InvalidRequest, use.decrypt_data, "ledger", ciphertext=bound, context=text("order 8"))
refused(InvalidRequest, use.decrypt_data, "ledger", ciphertext=bound)

# Batches: each item has its own result.
batch = [{"plaintext": text(str(number))} for number in range(300)]
results = use.encrypt_data("ledger", plaintext=None, batch_input=batch)["data"]["batch_results"]
assert len(results) == 300 and all(result["key_version"] == 1 for result in results)
items = [{"ciphertext": result["ciphertext"], "reference": str(number)} for number, result in enumerate(results)]
opened = use.decrypt_data("ledger", ciphertext=None, batch_input=items)["data"]["batch_results"]
assert [one["plaintext"] for one in opened] == [one["plaintext"] for one in batch]
assert opened[299]["reference"] == "299"

keys.rotate_key("ledger")
newer = use.rewrap_data("ledger", ciphertext=one)["data"]["ciphertext"]
assert newer.startswith("vault:v2:")
assert use.decrypt_data("ledger", ciphertext=one)["data"]["plaintext"] == text("hello")
keys.update_key_configuration("ledger", min_decryption_version=2, auto_rotate_period="24h")
assert keys.read_key("ledger")["data"]["auto_rotate_period"] == 86400
refused(InvalidRequest, use.decrypt_data, "ledger", ciphertext=one)
refused(InvalidRequest, keys.update_key_configuration, "ledger", min_decryption_version=9)

# Equal plaintexts in one context look alike, where the key was declared so.
twins = [use.encrypt_data("same", plaintext=text("x"), context=text("c"))["data"]["ciphertext"] for _ in range(2)]
assert twins[0] == twins[1]

data_key = use.generate_data_key("ledger", key_type="plaintext")["data"]
assert use.decrypt_data("ledger", ciphertext=data_key["ciphertext"])["data"]["plaintext"] == data_key["plaintext"]
assert "plaintext" not in use.generate_data_key("ledger", key_type="wrapped", bits=128)["data"]

mac = use.generate_hmac("macs", hash_input=text("m"), algorithm="sha2-512")["data"]["hmac"]
verify = use.verify_signed_data
assert verify("macs", hash_input=text("m"), hmac=mac, hash_algorithm="sha2-512")["data"]["valid"]
assert not verify("macs", hash_input=text("n"), hmac=mac, hash_algorithm="sha2-512")["data"]["valid"]
refused(InvalidRequest, use.generate_hmac, "macs", hash_input=text("m"), algorithm="sha2-256")
refused(InvalidRequest, use.generate_hmac, "ledger", hash_input=text("m"))

for padding in ["pss", "pkcs1v15"]:
    signature = keys.sign_data("prints", hash_input=text("m"), signature_algorithm=padding)["data"]["signature"]
    checked = verify("prints", hash_input=text("m"), signature=signature, signature_algorithm=padding)
    assert checked["data"]["valid"]
    checked = verify("prints", hash_input=text("n"), signature=signature, signature_algorithm=padding)
    assert not checked["data"]["valid"]
refused(Forbidden, use.sign_data, "prints", hash_input=text("m"))
exported = app.read("transit/export/public-key/prints")["data"]["keys"]["1"]
assert exported.startswith("-----BEGIN PUBLIC KEY-----")

assert len(base64.b64decode(use.generate_random_bytes(n_bytes=48)["data"]["random_bytes"])) == 48
known = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
assert use.hash_data(hash_input=text("hello"))["data"]["sum"] == known

# A token ends when its holder says so, and one that has ended is refused even beside a good certificate.
app.auth.token.revoke_self()
refused(Forbidden, use.encrypt_data, "ledger", plaintext=text("hello"))
print("all held")
