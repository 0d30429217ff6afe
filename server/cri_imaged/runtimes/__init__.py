"""The other programs of this node that run containers from our images, by their own contracts."""
