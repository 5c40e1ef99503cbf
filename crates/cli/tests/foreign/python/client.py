"""The public Python SPIFFE library, unmodified, against our agent. Prints one line for each thing it has seen."""

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import JwtSource, JwtSvid, TrustDomain, WorkloadApiClient, X509Source

AUDIENCE = "foreign-test"
PATIENCE = 60


def pem(certificates):
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def verify_chain(svid, bundle):
    """The library leaves path validation to the TLS stack: OpenSSL does it here, in its strict mode."""
    with tempfile.TemporaryDirectory() as folder:
        roots, chain, leaf = (Path(folder) / name for name in ("roots.pem", "chain.pem", "leaf.pem"))
        roots.write_bytes(pem(bundle.x509_authorities))
        chain.write_bytes(pem(svid.cert_chain[1:]))
        leaf.write_bytes(pem([svid.leaf]))
        subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", roots, "-untrusted", chain, leaf],
            check=True,
            stdout=subprocess.DEVNULL,
        )


def main():
    updated = threading.Event()
    with X509Source(timeout_in_seconds=PATIENCE) as source, JwtSource(timeout_in_seconds=PATIENCE) as tokens:
        source.subscribe_for_updates(updated.set)
        first = source.svid
        trust_domain = first.spiffe_id.trust_domain
        verify_chain(first, source.get_bundle_for_trust_domain(trust_domain))
        print("x509", first.spiffe_id, flush=True)

        token = tokens.fetch_svid({AUDIENCE}).token
        bundle = tokens.get_bundle_for_trust_domain(TrustDomain(str(trust_domain)))
        svid = JwtSvid.parse_and_validate(token, bundle, {AUDIENCE})
        print("jwt", svid.spiffe_id, flush=True)

        with WorkloadApiClient() as client:
            assert client.validate_jwt_svid(token, AUDIENCE).spiffe_id == svid.spiffe_id
            try:
                client.validate_jwt_svid(token, "another-audience")
            except Exception as refusal:
                print("refused", type(refusal).__name__, flush=True)
            assert client.fetch_x509_bundles().get_bundle_for_trust_domain(trust_domain)
            assert client.fetch_jwt_bundles().get_bundle_for_trust_domain(trust_domain)
        print("bundles", trust_domain, flush=True)

        while source.svid.leaf.serial_number == first.leaf.serial_number:
            assert updated.wait(PATIENCE), "no rotation seen"
            updated.clear()
        verify_chain(source.svid, source.get_bundle_for_trust_domain(trust_domain))
        print("rotated", source.svid.spiffe_id, flush=True)


if __name__ == "__main__":
    sys.exit(main())
