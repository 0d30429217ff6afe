#!/bin/sh
# Builds the Debian package into the folder $1 (default: dist/), from the checkout it stands in.
# ARCHITECTURE: amd64 or arm64 (default: this machine's); COMPRESSION: what dpkg-deb takes for -Z;
# PYTHON: whose environment it is.
#
# The package holds the project with all it depends on, in a virtual environment of the
# distribution's own Python at /opt/cri-imaged; so it is for the release whose Python builds it. Only
# its wheels are compiled: another architecture's package has that one's in their place. Needs
# python3-venv, pip and dpkg-deb.
set -eu

CHECKOUT=$(cd "$(dirname "$0")/../.." && pwd)
FILES=$CHECKOUT/deploy/debian
OUT=${1:-$CHECKOUT/dist}
PYTHON=${PYTHON:-/usr/bin/python3}
PREFIX=/opt/cri-imaged
NATIVE=$(dpkg --print-architecture)
ARCHITECTURE=${ARCHITECTURE:-$NATIVE}
case $ARCHITECTURE in
  amd64) machine=x86_64 ;;
  arm64) machine=aarch64 ;;
  "$NATIVE") ;;
  *) echo "$0: no wheels are known for $ARCHITECTURE; amd64 and arm64 are" >&2; exit 1 ;;
esac
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"

"$PYTHON" -m venv --without-pip "$stage$PREFIX"
add() {
  "$PYTHON" -m pip --quiet --disable-pip-version-check \
    --python "$stage$PREFIX/bin/python3" install --no-compile "$@"
}
add --require-hashes -r "$CHECKOUT/deploy/requirements.lock"
add --no-deps "$CHECKOUT"
# The environment works at its place in the package alone.
find "$stage$PREFIX/bin" -type f ! -name cri-imaged -delete
sed -i "1s|.*|#!$PREFIX/bin/python3 -I|" "$stage$PREFIX/bin/cri-imaged"
sed -i '/^command = /d' "$stage$PREFIX/pyvenv.cfg"

mkdir -p "$stage/usr/bin" "$stage/usr/lib/systemd/system" "$stage/etc/cri-imaged" \
  "$stage/usr/share/bash-completion/completions" "$stage/usr/share/zsh/vendor-completions" \
  "$stage/usr/share/fish/vendor_completions.d" "$stage/usr/share/man/man1" \
  "$stage/usr/share/doc/cri-imaged" "$stage/DEBIAN"
ln -s $PREFIX/bin/cri-imaged "$stage/usr/bin/cri-imaged"
cp "$CHECKOUT/deploy/systemd/cri-imaged.service" "$stage/usr/lib/systemd/system/"
cp "$CHECKOUT/LICENSE" "$stage/usr/share/doc/cri-imaged/copyright"
run() { "$stage$PREFIX/bin/python3" -I "$stage$PREFIX/bin/cri-imaged" "$@"; }
run config default >"$stage/etc/cri-imaged/config.toml"
# zsh looks for its mark on the first line alone.
complete() { env _CRI_IMAGED_COMPLETE="source_$1" "$stage$PREFIX/bin/python3" -I \
  "$stage$PREFIX/bin/cri-imaged" | sed '/./,$!d' >"$stage/usr/share/$2"; }
complete bash bash-completion/completions/cri-imaged
complete zsh zsh/vendor-completions/_cri-imaged
complete fish fish/vendor_completions.d/cri-imaged.fish
"$stage$PREFIX/bin/python3" -I -m cri_imaged.cli.manual "$stage/usr/share/man/man1"
gzip -9n "$stage/usr/share/man/man1/"*

version=$(run --version | cut -d ' ' -f 2)
minor=$("$stage$PREFIX/bin/python3" -c 'import sys; print("3.%d" % sys.version_info[1])')
after=$("$stage$PREFIX/bin/python3" -c 'import sys; print("3.%d" % (sys.version_info[1] + 1))')
if [ "$ARCHITECTURE" != "$NATIVE" ]; then
  site=$stage$PREFIX/lib/python$minor/site-packages
  "$PYTHON" -m pip --quiet --disable-pip-version-check \
    install --root-user-action ignore --no-compile --no-deps --only-binary :all: \
    --platform "manylinux2014_$machine" --platform "manylinux_2_28_$machine" \
    --require-hashes -r "$CHECKOUT/deploy/requirements.lock" --target "$stage/wheels"
  rm -rf "$stage/wheels/bin"
  mv "$site"/cri_imaged* "$stage/wheels"
  rm -rf "$site"
  mv "$stage/wheels" "$site"
fi
find "$stage" -name __pycache__ -prune -exec rm -rf {} +
cat >"$stage/DEBIAN/control" <<CONTROL
Package: cri-imaged
Version: $version
Architecture: $ARCHITECTURE
Maintainer: cri-imaged maintainers <noreply@cri-imaged.invalid>
Section: admin
Priority: optional
Depends: python3 (>= $minor), python3 (<< $after), libc6
Installed-Size: $(du -sk "$stage" | cut -f 1)
Description: container image daemon for Kubernetes nodes
 Serves the ImageService of Kubernetes' CRI v1 on a socket: pulls images, keeps them, and unpacks
 them for containerd, CRI-O, podman and runc.
CONTROL
echo /etc/cri-imaged/config.toml >"$stage/DEBIAN/conffiles"
for script in postinst prerm postrm; do
  install -m 755 "$FILES/$script" "$stage/DEBIAN/$script"
done
mkdir -p "$OUT"
dpkg-deb --root-owner-group -Z"${COMPRESSION:-xz}" --build "$stage" "$OUT"
