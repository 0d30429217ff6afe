#!/bin/sh
# Installs cri-imaged on a node as a service of its systemd, from inside the installer's container:
# $HOST is the node's root file system. Run again it changes only what differs, and restarts the
# service only then. Kubernetes is not needed for the service to start again after a reboot.
set -eu

HOST=${HOST:-/host}
FROM=${FROM:-/opt/cri-imaged}
FILES=${FILES:-/usr/share/cri-imaged}
VERSION=$(cat "$FROM/VERSION")
ADDRESS=${NODE_IP:-127.0.0.1}
case $ADDRESS in *:*) ADDRESS="[$ADDRESS]" ;; esac

changed=
# put FROM TO: replaces TO at once, where it differs.
put() {
  if ! cmp -s "$1" "$HOST$2"; then
    mkdir -p "$(dirname "$HOST$2")"
    cp "$1" "$HOST$2.new"
    mv "$HOST$2.new" "$HOST$2"
    changed=yes
  fi
}
# systemctl does nothing where it takes the node's root, seen from a container, for a chroot.
on_host() { chroot "$HOST" "$@"; }

if [ -e "$HOST/opt/cri-imaged" ] && [ ! -L "$HOST/opt/cri-imaged" ]; then
  echo "/opt/cri-imaged on the node is another installation's: remove that first, such as by" \
    "apt-get remove cri-imaged; images stay" >&2
  exit 1
fi
if [ ! -e "$HOST/opt/cri-imaged-$VERSION/VERSION" ]; then
  echo "copying cri-imaged $VERSION to the node"
  rm -rf "$HOST/opt/cri-imaged-$VERSION.new" "$HOST/opt/cri-imaged-$VERSION"
  mkdir -p "$HOST/opt"
  cp -a "$FROM" "$HOST/opt/cri-imaged-$VERSION.new"
  mv "$HOST/opt/cri-imaged-$VERSION.new" "$HOST/opt/cri-imaged-$VERSION"
fi
if [ "$(readlink "$HOST/opt/cri-imaged" || true)" != "cri-imaged-$VERSION" ]; then
  ln -sfn "cri-imaged-$VERSION" "$HOST/opt/cri-imaged.new"
  mv -T "$HOST/opt/cri-imaged.new" "$HOST/opt/cri-imaged"
  changed=yes
fi

put "$FILES/cri-imaged.service" /etc/systemd/system/cri-imaged.service
put "$FILES/config.toml" /etc/cri-imaged/config.toml
# Prometheus and the probes reach the node's own address, and no other.
address=$(mktemp)
printf '[metrics]\naddress = "%s:1338"\n' "$ADDRESS" >"$address"
chmod 644 "$address"
put "$address" /etc/cri-imaged/config.d/50-daemonset.toml
rm "$address"

if [ "$changed" ]; then
  on_host systemctl daemon-reload
  on_host systemctl enable cri-imaged.service
  on_host systemctl restart cri-imaged.service
fi
on_host systemctl is-active --quiet cri-imaged.service || on_host systemctl start cri-imaged.service
for build in "$HOST"/opt/cri-imaged-*/VERSION; do
  build=${build%/VERSION}
  [ "$build" = "$HOST/opt/cri-imaged-$VERSION" ] || rm -rf "$build"
done
echo "cri-imaged $VERSION runs on the node"
