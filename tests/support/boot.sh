# boot.sh DIRECTORY CHECKOUT VENV: in namespaces of its own, run this machine's systemd over a root
# that looks like this machine's, and in which nothing that is written stays.
set -eu
directory=$1 checkout=$2 venv=$3 root=$1/root

mount -t tmpfs tmpfs "$directory"
mkdir "$directory/upper" "$directory/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$directory/upper,workdir=$directory/work" overlay "$root"
mkdir -p "$root$checkout" "$root/etc/cri-imaged"
mount --bind -o ro "$checkout" "$root$checkout"
ln -sfn "$venv" "$root/opt/cri-imaged"
: >"$root/etc/machine-id"

# None of this machine's own services: ours, and what systemd itself brings.
rm -rf "$root/etc/systemd/system"
mkdir "$root/etc/systemd/system"
cp "$checkout/deploy/systemd/cri-imaged.service" "$root/etc/systemd/system/"
for unit in systemd-modules-load.service systemd-remount-fs.service; do
  ln -s /dev/null "$root/etc/systemd/system/$unit"
done

for folder in run tmp var/lib var/cache; do
  mount -t tmpfs tmpfs "$root/$folder"
done
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"

# What is read-only here systemd leaves alone: the kernel's settings are this machine's.
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"

cd "$root"
pivot_root . mnt
umount -l /mnt
exec env -i container=tests PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --unit=basic.target --show-status=false
