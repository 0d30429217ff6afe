"""Encrypted layers (ocicrypt): the keys that decrypt them, unwrapped by what this node has.

A layer of a type that ends in `+encrypted` is encrypted by a key of its own (AES-256-CTR,
authenticated by HMAC-SHA256), and that key is in its annotations, wrapped for each recipient: for
private keys by JWE, or for a key provider, which is a program or a gRPC service. PKCS #7 is not
unwrapped: ocicrypt writes envelopes with AES-GCM, which no library that we could take opens.

Whatever is here of an image, each pull of it unwraps each layer's key: who cannot may not use what
another pull decrypted. Private keys and key providers' answers stay in the daemon's process; a
layer's own key reaches the one process that decodes it (layers/decode/encrypted.py).
"""
