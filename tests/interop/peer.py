"""Another implementation's view of our tokens: mints, narrows and judges Biscuits with biscuit-python.

Reads one JSON object from standard input, writes one to standard output. Knows nothing of hardtack: the Datalog comes
from the caller. `task` is one of

  mint       private_key, algorithm, root_key_id, code        -> token
  attenuate  token, public_key, code                          -> token
  authorize  token, public_key, code                          -> policy (its index), or denied (the reason)

Keys are hexadecimal, tokens base64url without padding.
"""

import base64
import json
import sys

from biscuit_auth import (
    Algorithm,
    AuthorizationError,
    AuthorizerBuilder,
    Biscuit,
    BiscuitBuilder,
    BiscuitValidationError,
    BlockBuilder,
    PrivateKey,
    PublicKey,
)

ALGORITHMS = {"ed25519": Algorithm.Ed25519, "secp256r1": Algorithm.Secp256r1}


def to_text(token):
    return base64.urlsafe_b64encode(bytes(token.to_bytes())).decode().rstrip("=")


def verified(job):
    data = base64.urlsafe_b64decode(job["token"] + "=" * (-len(job["token"]) % 4))
    root = PublicKey.from_bytes(bytes.fromhex(job["public_key"]), Algorithm.Ed25519)
    return Biscuit.from_bytes(data, root)


def mint(job):
    key = PrivateKey.from_bytes(bytes.fromhex(job["private_key"]), ALGORITHMS[job["algorithm"]])
    builder = BiscuitBuilder(job["code"])
    if job["root_key_id"] is not None:
        builder.set_root_key_id(job["root_key_id"])
    return {"token": to_text(builder.build(key))}


def attenuate(job):
    return {"token": to_text(verified(job).append(BlockBuilder(job["code"])))}


def authorize(job):
    try:
        return {"policy": AuthorizerBuilder(job["code"]).build(verified(job)).authorize()}
    except (AuthorizationError, BiscuitValidationError) as refused:
        return {"denied": str(refused)}


def main():
    job = json.load(sys.stdin)
    json.dump({"mint": mint, "attenuate": attenuate, "authorize": authorize}[job["task"]](job), sys.stdout)


if __name__ == "__main__":
    main()
