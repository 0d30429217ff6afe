"""containerd: what we tell it of our images, and how it is kept in line."""
