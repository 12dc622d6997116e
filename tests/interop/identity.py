"""Identity documents of another implementation: makes keys and signs with PyJWT, as an OpenID provider or a SPIFFE trust
domain does.

Reads one JSON object from standard input: `now`, in seconds since 1970, and `documents`, a list of objects with

  key      the name of a key; keys are made as they are named: rsa…, ec…, ed…
  kid      what the header calls it, none if it names no key (that of the key where it is left out)
  claims   the claims, of which `exp`, `iat` and `nbf` count from now on
  headers  more of the header

Writes `jwks`, the set of the public keys that were made, and `tokens`, in the order of the documents.
"""

import json
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

KINDS = {
    "rsa": ("RS256", lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    "ec": ("ES256", lambda: ec.generate_private_key(ec.SECP256R1())),
    "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate),
}


def main():
    job = json.load(sys.stdin)
    keys = {}

    def key(name):
        algorithm, make = next(kind for prefix, kind in KINDS.items() if name.startswith(prefix))
        if name not in keys:
            keys[name] = make()
        return algorithm, keys[name]

    def sign(document):
        algorithm, private = key(document["key"])
        times = {name: job["now"] + document["claims"][name] for name in ("exp", "iat", "nbf") if name in document["claims"]}
        kid = document.get("kid", document["key"])
        headers = document.get("headers", {}) | ({"kid": kid} if kid else {})
        return jwt.encode(document["claims"] | times, private, algorithm=algorithm, headers=headers)

    def public(name, private):
        algorithm = jwt.get_algorithm_by_name(key(name)[0])
        return json.loads(algorithm.to_jwk(private.public_key())) | {"kid": name, "use": "sig", "alg": key(name)[0]}

    tokens = [sign(document) for document in job["documents"]]
    jwks = {"keys": [public(name, private) for name, private in keys.items()]}
    json.dump({"jwks": jwks, "tokens": tokens}, sys.stdout)


if __name__ == "__main__":
    main()
