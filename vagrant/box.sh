#!/bin/bash
# Builds a Vagrant box for libvirt out of the distribution's own packages, for hosts that can't or
# won't download one. Needs root and neither KVM nor a VM: `vagrant up` then works anywhere, under
# software emulation too, only slowly. What provision.sh installs is in the box already, since
# compiling Python packages' metadata and unpacking 300 MB takes minutes under emulation.
set -euo pipefail

self=$(realpath "${BASH_SOURCE[0]}")
root=$(dirname "$(dirname "$self")")
usage="usage: vagrant/box.sh [--release debian-12|debian-13] [--kernel PACKAGE] [--mirror URL] [FILE]"

die() { echo "box.sh: $2" >&2; exit "$1"; }

release=debian-12 kernel=linux-image-amd64 mirror='' file=''
while (($#)); do
    case $1 in
        -h | --help) echo "$usage"; exit 0 ;;
        --release | --kernel | --mirror)
            [[ ${2:-} ]] || die 2 "$1 needs a value; $usage"
            declare "${1#--}=$2"
            shift ;;
        -*) die 2 "unknown option: $1; $usage" ;;
        *) [[ ! $file ]] || die 2 "more than one file: $file and $1; $usage"
            file=$1 ;;
    esac
    shift
done
case $release in
    debian-12) suite=bookworm python=3.11 ;;
    debian-13) suite=trixie python=3.13 ;;
    *) die 2 "release '$release' is not known; $usage" ;;
esac
name=xdpecmp-$release
file=$(realpath -m "${file:-$root/build/$name.box}")

# --- what is needed ---
[[ $(uname -m) == x86_64 ]] || die 2 "machine $(uname -m) is not supported: use an x86-64 host"
((EUID == 0)) || die 2 "needs root, to mount a disk image: run 'sudo $self'"
if [[ ! -d $root/build ]]; then
    mkdir "$root/build"
    chown --reference="$root" "$root/build" # not root's in a user's tree
fi
[[ -d $(dirname "$file") ]] || die 2 "$(dirname "$file"): no such folder; make it, or name another file"
PATH=$PATH:/usr/sbin:/sbin
missing=()
need() { "${@:2}" >/dev/null 2>&1 || missing+=("$1"); }
need mmdebstrap command -v mmdebstrap
need debian-archive-keyring test -e /usr/share/keyrings/debian-archive-keyring.gpg
need extlinux command -v extlinux
need qemu-utils command -v qemu-img
need e2fsprogs command -v mkfs.ext4
need python3-pip python3 -m pip --version
((${#missing[@]} == 0)) ||
    die 2 "not installed: ${missing[*]}; run 'apt-get install --no-install-recommends ${missing[*]}'"

# --- clean up, whatever happens ---
# All the work is done in mount and process namespaces of its own. Whatever ends the process at their
# top ends everything in them; the mounts go with the last one, and the loop device with its mount.
if [[ ! ${XDPECMP_BOX_WORK:-} ]]; then
    XDPECMP_BOX_WORK=$(mktemp -d --tmpdir="${TMPDIR:-/var/tmp}" xdpecmp-box.XXXXXXXX)
    export XDPECMP_BOX_WORK
    trap 'rm -rf --one-file-system "$XDPECMP_BOX_WORK"' EXIT
    unshare --mount --propagation private --pid --fork --kill-child "$self" \
        --release "$release" --kernel "$kernel" ${mirror:+--mirror "$mirror"} "$file" &
    child=$!
    # Not in the foreground: bash would handle no signal before it has ended.
    trap 'kill -KILL "$child"; wait "$child" 2>/dev/null; exit 130' INT TERM HUP
    status=0
    wait "$child" || status=$?
    exit "$status"
fi
work=$XDPECMP_BOX_WORK
guest=$work/guest

step() { echo "$((SECONDS / 60))m$(printf %02d $((SECONDS % 60))) $*"; }
# What a tool says is of interest only where it fails.
quietly() {
    "$@" >"$work/log" 2>&1 </dev/null || { tail -n 20 "$work/log" >&2; return 1; }
}

# --- Python packages: by the host's pip, which knows the host's mirrors and certificates ---
step "Python packages for Python $python"
mapfile -t build < <(python3 -c '
import sys, tomllib
print(*tomllib.load(open(sys.argv[1], "rb"))["build-system"]["requires"], sep="\n")
' "$root/pyproject.toml")
platforms=(manylinux_2_28_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64)
quietly python3 -m pip download --quiet --no-input --disable-pip-version-check \
    --dest "$work/wheels" --only-binary=:all: --python-version "$python" \
    "${platforms[@]/#/--platform=}" "${build[@]}" "${root}[lint,test]" ||
    die 1 "Python packages: pip download failed; check the network, then run this again"
rm -f "$work"/wheels/xdpecmp-* # the guest's is an editable install

# --- the system ---
# One file system over the whole disk: no partitions, and extlinux in place of GRUB, which would
# need a device of its own to install to. extlinux reads ext4 without these features only.
step "$suite with $kernel"
truncate -s 8G "$work/disk"
features='^64bit,^metadata_csum,^metadata_csum_seed,^orphan_file'
quietly mkfs.ext4 -q -L xdpecmp -O "$features" "$work/disk" ||
    die 1 "file system: mkfs.ext4 failed; see above"
mkdir "$guest"
mount -o loop "$work/disk" "$guest"

packages=(
    "$kernel" systemd-sysv libpam-systemd dbus udev kmod
    ifupdown isc-dhcp-client netbase iproute2 iputils-ping procps
    openssh-server sudo rsync ca-certificates curl less make python3 tcpdump
)
# The initial RAM disk holds what finds the root and no more: emulated CPUs unpack slowly.
# shellcheck disable=SC2016 # mmdebstrap's $1
initramfs='set -e; mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/xdpecmp"
printf "%s\n" ext4 virtio_pci virtio_blk virtio_scsi ahci sd_mod \
    >"$1/usr/share/initramfs-tools/modules.d/xdpecmp"'
quietly mmdebstrap --mode=root --variant=minbase --components=main \
    --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --include="$(IFS=,; echo "${packages[*]}")" \
    --essential-hook="$initramfs" "$suite" "$guest" ${mirror:+"$mirror"} ||
    die 1 "$suite: mmdebstrap failed; check the network and that $kernel exists there"

# --- as Vagrant expects it ---
step "user vagrant, network, boot loader"
inside() { chroot "$guest" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"; }
put() { install -D -m "$1" /dev/stdin "$guest/$2"; }

inside useradd --create-home --shell /bin/bash vagrant
inside install -d -m 700 -o vagrant -g vagrant /home/vagrant/.ssh
# The public half of Vagrant's well-known insecure key: the Vagrantfile in the box keeps it, as
# this box is for a private network on the host that built it.
put 600 home/vagrant/.ssh/authorized_keys <<'KEY'
ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzIw+niNltGEFHzD8+v1I2YJ6oXevct1YeS0o9HZyN1Q9qgCgzUFtdOKLv6IedplqoPkcmF0aYet2PkEDo3MlTBckFXPITAMzF8dJSIFo9D8HfdOV0IAdx4O7PtixWKn5y2hMNG0zQPyUecp4pzC6kivAIhyfHilFR61RGL+GPXQ2MWZWFYbAGjyiYJnAmCP3NOTd0jMZEnDkbUvxhMmBYSdETk1rRgm+R4LOzFUGaHqHDLKLX+FIPKcF96hrucXzcWyLbIbEgE98OHlnVYCzRdK8jlqm8tehUc9c9WhQ== vagrant insecure public key
KEY
inside chown vagrant: /home/vagrant/.ssh/authorized_keys
put 440 etc/sudoers.d/vagrant <<<'vagrant ALL=(ALL) NOPASSWD: ALL'
put 644 etc/network/interfaces <<'INTERFACES'
auto lo
iface lo inet loopback

auto eth0
iface eth0 inet dhcp
INTERFACES
put 644 etc/hostname <<<xdpecmp
put 644 etc/hosts <<<$'127.0.0.1 localhost\n127.0.1.1 xdpecmp\n::1 localhost'
put 644 etc/fstab <<<'LABEL=xdpecmp / ext4 noatime 0 1'
put 644 etc/ssh/sshd_config.d/vagrant.conf <<<'UseDNS no'
# net.ifnames=0: eth0, eth1 …, whatever slots the NICs are in.
put 644 boot/extlinux/extlinux.conf <<'BOOT'
DEFAULT linux
LABEL linux
    KERNEL /vmlinuz
    INITRD /initrd.img
    APPEND root=LABEL=xdpecmp ro net.ifnames=0 console=tty0 console=ttyS0 quiet
BOOT
quietly extlinux --install "$guest/boot/extlinux" ||
    die 1 "boot loader: extlinux --install failed; see above"

# --- what provision.sh would do at the first `vagrant up` ---
step "what vagrant/provision.sh installs"
mkdir "$guest/vagrant"
cp -a "$root"/{pyproject.toml,LICENSE,README.md,bpf,xdpecmp} "$guest/vagrant/"
install -D "$root/vagrant/provision.sh" "$guest/vagrant/vagrant/provision.sh"
cp -r "$work/wheels" "$guest/tmp/wheels"
for filesystem in proc sysfs; do
    mount -t "$filesystem" "$filesystem" "$guest/${filesystem%fs}"
done
mount --rbind /dev "$guest/dev"
quietly inside PIP_NO_INDEX=1 PIP_FIND_LINKS=/tmp/wheels /vagrant/vagrant/provision.sh ||
    die 1 "provision.sh failed in the box; see above"
umount -R "$guest/dev" "$guest/proc" "$guest/sys"
# Only .venv stays, where the shared folder will be: rsync leaves it alone, so the first
# `vagrant up` finds all done.
find "$guest/vagrant" -mindepth 1 -maxdepth 1 ! -name .venv ! -name '*.egg-info' -exec rm -r {} +
inside chown -R vagrant: /vagrant

rm -rf "$guest"/tmp/wheels "$guest"/var/lib/apt/lists/* "$guest"/var/cache/apt/* \
    "$guest"/etc/resolv.conf # the DHCP client writes one
: >"$guest/etc/machine-id"   # one for each machine, at its first boot
umount "$guest"

# --- the box ---
step "compressing"
mkdir "$work/box"
qemu-img convert -c -O qcow2 "$work/disk" "$work/box/box.img"
rm "$work/disk"
echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": 8}' >"$work/box/metadata.json"
cat >"$work/box/Vagrantfile" <<'RUBY'
Vagrant.configure("2") do |config|
  config.ssh.insert_key = false
end
RUBY
tar -C "$work/box" -cf "$work/finished" metadata.json Vagrantfile box.img
chown --reference="$(dirname "$file")" "$work/finished"
chmod 644 "$work/finished"
mv "$work/finished" "$file"

step "$file is ready ($(du -h "$file" | cut -f1)). Next:
    vagrant box add --name $name $(printf %q "$file")
    export XDPECMP_BOX=$name     # and XDPECMP_DRIVER=qemu on a host without KVM
    cd $(printf %q "$root/vagrant") && vagrant up --provider libvirt"
