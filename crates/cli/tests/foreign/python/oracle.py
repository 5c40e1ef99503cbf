"""Sends the same requests to OpenBao and to us, and compares what answers look like: status, fields and their types.

Usage: oracle.py OURS KEEPER THEIRS TOKEN. Prints one line when all are alike, and each difference otherwise."""

import base64
import sys

import requests

OURS, KEEPER, THEIRS, TOKEN = sys.argv[1:5]

# What we say in other words, or do otherwise, on purpose: see the module's own list.
EXTRA = {"min_encryption_version", "derived", "convergent_encryption", "deletion_allowed", "kdf", "imported_key"}


def text(value):
    return base64.b64encode(value.encode()).decode()


def shape(value, name=""):
    """Types in place of values. Lists by their first item, maps from versions by one of them."""
    if isinstance(value, dict):
        if name == "keys":
            return {"*": shape(next(iter(value.values())))} if value else {}
        return {key: shape(item, key) for key, item in value.items() if key not in EXTRA and key != "cluster_name"}
    if name == "errors":
        # Some of theirs say nothing.
        return ["str"]
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


class Side:
    def __init__(self, base, session):
        self.base, self.session, self.kept = base, session, {}

    def ask(self, method, path, body):
        body = {key: self.fill(value) for key, value in (body or {}).items()}
        answer = self.session.request(method, f"{self.base}/v1/{path}", json=body if method == "POST" else None)
        return answer

    def fill(self, value):
        """`@name` is what an earlier answer gave."""
        if isinstance(value, str) and value.startswith("@"):
            return self.kept[value[1:]]
        if isinstance(value, list):
            return [{key: self.fill(item) for key, item in one.items()} for one in value]
        return value


ours, theirs = Side(OURS, requests.Session()), Side(THEIRS, requests.Session())
# The environment may name other CAs.
ours.session.trust_env = False
ours.session.cert = (f"{KEEPER}/svid.pem", f"{KEEPER}/svid_key.pem")
ours.session.verify = f"{KEEPER}/svid_bundle.pem"
theirs.session.headers["X-Vault-Token"] = TOKEN
assert theirs.ask("POST", "sys/mounts/transit", {"type": "transit"}).status_code == 204

HELLO = text("hello")
# Method, path, body, and under which name the answer's first word of `vault:` is kept.
REQUESTS = [
    ("POST", "transit/keys/k", {}, None),
    ("POST", "transit/keys/k", {}, None),
    ("GET", "transit/keys/k", None, None),
    ("LIST", "transit/keys", None, None),
    ("GET", "transit/keys/none", None, None),
    ("POST", "transit/keys/zz", {"type": "nope"}, None),
    ("POST", "transit/encrypt/k", {"plaintext": HELLO}, "c"),
    ("POST", "transit/encrypt/k", {"plaintext": HELLO, "key_version": "1"}, None),
    ("POST", "transit/encrypt/k", {"plaintext": HELLO, "key_version": 7}, None),
    ("POST", "transit/encrypt/k", {"plaintext": "***"}, None),
    ("POST", "transit/encrypt/k", {}, None),
    ("POST", "transit/decrypt/k", {"ciphertext": "@c"}, None),
    ("POST", "transit/decrypt/k", {"ciphertext": "nonsense"}, None),
    ("POST", "transit/decrypt/k", {"ciphertext": "vault:v9:AAAA"}, None),
    ("POST", "transit/decrypt/k", {}, None),
    ("POST", "transit/encrypt/k", {"batch_input": []}, None),
    ("POST", "transit/encrypt/k", {"batch_input": [{"plaintext": HELLO, "reference": "r"}, {"plaintext": HELLO}]}, None),
    ("POST", "transit/encrypt/k", {"batch_input": [{"plaintext": HELLO}, {"plaintext": "***"}]}, None),
    ("POST", "transit/decrypt/k", {"batch_input": [{"ciphertext": "@c"}, {"ciphertext": "vault:v1:AAAA"}]}, None),
    (
        "POST",
        "transit/decrypt/k",
        {"batch_input": [{"ciphertext": "@c"}, {"ciphertext": "zz"}], "partial_failure_response_code": 202},
        None,
    ),
    ("POST", "transit/keys/k/rotate", {}, None),
    ("POST", "transit/rewrap/k", {"ciphertext": "@c"}, None),
    ("POST", "transit/rewrap/k", {"batch_input": [{"ciphertext": "@c", "reference": "q"}, {"ciphertext": "zz"}]}, None),
    ("POST", "transit/keys/k/config", {"min_decryption_version": 2}, None),
    ("POST", "transit/decrypt/k", {"ciphertext": "@c"}, None),
    ("POST", "transit/keys/k/config", {"min_decryption_version": 9}, None),
    ("POST", "transit/keys/k/config", {"min_encryption_version": 1}, None),
    ("POST", "transit/datakey/plaintext/k", {}, None),
    ("POST", "transit/datakey/wrapped/k", {"bits": 512}, None),
    ("POST", "transit/datakey/wrapped/k", {"bits": 100}, None),
    ("POST", "transit/random/16", {"format": "hex"}, None),
    ("POST", "transit/random", {"bytes": 8}, None),
    ("POST", "transit/random/0", {}, None),
    ("POST", "transit/hash/sha2-256", {"input": HELLO}, None),
    ("POST", "transit/hash/md5", {"input": HELLO}, None),
    ("POST", "transit/keys/h", {"type": "hmac", "key_size": 32}, None),
    ("POST", "transit/hmac/h", {"input": HELLO}, "m"),
    ("POST", "transit/verify/h", {"input": HELLO, "hmac": "@m"}, None),
    ("POST", "transit/verify/h", {"input": text("other"), "hmac": "@m"}, None),
    ("POST", "transit/verify/h", {"input": HELLO, "hmac": "x"}, None),
    ("POST", "transit/hmac/h", {"batch_input": [{"input": HELLO}, {"input": "***"}]}, None),
    ("POST", "transit/keys/e", {"type": "ecdsa-p256"}, None),
    ("GET", "transit/keys/e", None, None),
    ("POST", "transit/sign/e", {"input": HELLO}, "s"),
    ("POST", "transit/sign/e", {"input": HELLO, "marshaling_algorithm": "jws"}, "j"),
    ("POST", "transit/verify/e", {"input": HELLO, "signature": "@s"}, None),
    ("POST", "transit/verify/e", {"input": HELLO, "signature": "@j", "marshaling_algorithm": "jws"}, None),
    ("POST", "transit/verify/e", {"input": text("other"), "signature": "@s"}, None),
    ("POST", "transit/verify/e", {"input": HELLO, "signature": "x"}, None),
    ("POST", "transit/sign/e", {"input": HELLO, "hash_algorithm": "nope"}, None),
    ("POST", "transit/sign/k", {"input": HELLO}, None),
    ("POST", "transit/encrypt/e", {"plaintext": HELLO}, None),
    ("POST", "transit/keys/r", {"type": "rsa-2048"}, None),
    ("POST", "transit/sign/r/sha2-256", {"input": HELLO, "signature_algorithm": "pkcs1v15"}, None),
    ("POST", "transit/keys/ed", {"type": "ed25519"}, None),
    ("POST", "transit/sign/ed", {"input": HELLO}, None),
    ("GET", "transit/export/public-key/e/latest", None, None),
    ("POST", "transit/nothing/k", {"a": "b"}, None),
    ("GET", "nowhere/x", None, None),
    ("GET", "sys/health", None, None),
    ("GET", "sys/leader", None, None),
]

different = 0
for method, path, body, keep in REQUESTS:
    answers = [side.ask(method, path, body) for side in (ours, theirs)]
    if keep:
        for side, answer in zip((ours, theirs), answers):
            side.kept[keep] = next(
                value for value in answer.json()["data"].values() if str(value).startswith("vault:")
            )
    seen = [(answer.status_code, shape(answer.json()) if answer.content else None) for answer in answers]
    if seen[0] != seen[1]:
        different += 1
        print(f"{method} {path} {body}\n  ours   {seen[0]}\n  theirs {seen[1]}\n  {answers[0].text[:300]}\n  {answers[1].text[:300]}")
if different:
    sys.exit(f"{different} of {len(REQUESTS)} answers differ")
print("alike")
