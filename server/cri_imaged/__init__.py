"""cri-imaged: a node's image daemon for the Kubernetes CRI v1 ImageService."""

# Written here, and read by the build: to look it up in the installed package's metadata costs a
# start 40 ms.
__version__ = "0.1.0"
