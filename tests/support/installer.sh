# installer.sh DEPLOY VENV ADDRESS: run the DaemonSet's installer as its pod does, in a container
# whose namespaces are its own but those that the manifest says, and where the node's root is /host.
# The build that it copies is a stand-in, which runs VENV's.
set -eu
deploy=$1 venv=$2 address=$3 root=/mnt/root
if [ "${4:-}" != inside ]; then
  pid=--pid
  if grep -q '^ *hostPID: true$' "$deploy/kubernetes/daemonset.yaml"; then pid=; fi
  exec unshare --mount --ipc --uts $pid --fork --kill-child sh "$0" "$@" inside
fi

mount -t tmpfs tmpfs /mnt
mkdir "$root" /mnt/host
mount --rbind / /mnt/host
mount --bind / "$root"
mkdir -p "$root/host"
mount --move /mnt/host "$root/host"
mount -t proc proc "$root/proc"
for folder in opt tmp usr/share; do
  mount -t tmpfs tmpfs "$root/$folder"
done

mkdir -p "$root/opt/cri-imaged/bin" "$root/usr/share/cri-imaged"
echo 1.2.3 >"$root/opt/cri-imaged/VERSION"
printf '#!/bin/sh\nexec %s/bin/cri-imaged "$@"\n' "$venv" >"$root/opt/cri-imaged/bin/cri-imaged"
chmod 755 "$root/opt/cri-imaged/bin/cri-imaged"
cp "$deploy/systemd/cri-imaged.service" "$deploy/kubernetes/install.sh" "$root/usr/share/cri-imaged"
: >"$root/usr/share/cri-imaged/config.toml"
exec chroot "$root" env NODE_IP="$address" /usr/share/cri-imaged/install.sh
