"""Whether an image may be pulled: a policy for each registry or repository, and programs.

The policy says what the images below a prefix need: nothing, a signature by one of some keys, or
that they are refused. Signatures are sigstore's by public key, without a transparency log, as
cosign attaches them: under the tag `sha256-….sig` (simple signing), or as bundles of version 0.3
among the image's referrers. What is signed is the digest that the reference resolved to. Besides,
each program of a folder is asked, by the protocol of containerd's bindir verifier; all must accept.

Every pull is verified, before anything of the image is kept, whatever of it is here. Keys are read
from their files each time: one that was withdrawn counts no more. By which key an image was
verified is kept with it, so that `check` can tell what is here that no pull would get today.
"""
