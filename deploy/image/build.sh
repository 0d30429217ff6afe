#!/bin/sh
# Builds an image that runs the daemon by itself into the folder $1 (default: dist/), as an OCI
# archive: a minimal Debian of this machine's release, from the mirror that its apt uses, with the
# Debian package installed. Needs root, buildah, debootstrap and what deploy/debian/build.sh needs.
#
# It must be privileged enough to mount, and have its folders at the same paths as the node, because
# the mounts that it hands out name them.
set -eu

CHECKOUT=$(cd "$(dirname "$0")/../.." && pwd)
OUT=${1:-$CHECKOUT/dist}
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

"$CHECKOUT/deploy/debian/build.sh" "$stage"
package=$(echo "$stage"/*.deb)
version=$(dpkg-deb --field "$package" Version)

codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(apt-get indextargets --format '$(REPO_URI)' \
  "Created-By: Packages" "Codename: $codename" "Component: main" | head -n 1)
debootstrap --variant=minbase --include=ca-certificates,python3 \
  "$codename" "$stage/root" "$mirror" >"$stage/log" 2>&1 || { tail "$stage/log" >&2; exit 1; }
cp "$package" "$stage/root/package.deb"
chroot "$stage/root" dpkg --install /package.deb >/dev/null
rm -rf "$stage/root/package.deb" "$stage/root"/var/cache/apt/* "$stage/root"/var/lib/apt/lists/* \
  "$stage/root"/var/log/*

export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$stage/containers" --runroot "$stage/run" "$@"; }
container=$(buildah from scratch)
buildah add --quiet "$container" "$stage/root" / >/dev/null
buildah config \
  --cmd '["/usr/bin/cri-imaged", "serve"]' --stop-signal SIGTERM \
  --env PYTHONUNBUFFERED=1 \
  --label org.opencontainers.image.title=cri-imaged \
  --label org.opencontainers.image.version="$version" \
  --label org.opencontainers.image.licenses=Apache-2.0 \
  --label org.opencontainers.image.description="container image daemon for Kubernetes nodes" \
  "$container"
mkdir -p "$OUT"
buildah commit --quiet --timestamp "${SOURCE_DATE_EPOCH:-$(date +%s)}" "$container" \
  "oci-archive:$OUT/cri-imaged-$version.oci.tar:cri-imaged:$version" >/dev/null
echo "$OUT/cri-imaged-$version.oci.tar"
