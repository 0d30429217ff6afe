"""containers/storage (podman, buildah, skopeo, CRI-O): our layers as an additional image store."""
