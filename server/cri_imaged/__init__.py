"""cri-imaged: a node's image daemon for the Kubernetes CRI v1 ImageService."""

from importlib.metadata import version

__version__ = version("cri-imaged")
