#!/bin/bash
# Makes a machine of the Vagrantfile what its name says: lab.sh NAME NIC... Vagrant runs it there, at
# each `vagrant up`, since nothing here is written down to outlast a boot.
# NIC "N.H" is the one with MAC address 52:54:00:ec:N:H. They become eth1, eth2 … in their order,
# whatever the box calls them, with the addresses 10.1.N.H/24 and fd00:1:0:N::H/64.
set -euo pipefail

service4=192.0.2.80 service6=2001:db8::80 # what all servers answer to

die() { echo "lab.sh: $1" >&2; exit 1; }

name=$1
shift

# --- NICs ---
# Where systemd-networkd is told to look after every NIC, as in clouds' images, it would ask for
# addresses here endlessly, and take away ours whenever it starts again.
mkdir -p /run/systemd/network
{
    echo '[Match]'
    for nic; do
        printf 'MACAddress=52:54:00:ec:%02x:%02x\n' "${nic%.*}" "${nic#*.}"
    done
    printf '[Link]\nUnmanaged=yes\n'
} >/run/systemd/network/05-xdpecmp-lab.network
if systemctl is-active --quiet systemd-networkd; then
    networkctl reload
fi

place=0
for nic; do
    place=$((place + 1))
    n=${nic%.*} h=${nic#*.}
    mac=$(printf '52:54:00:ec:%02x:%02x' "$n" "$h")
    # devices on top of it (eth1.100@eth1) have its address, too
    device=$(ip -o link | awk -v ether="link/ether $mac " \
        'index($0, ether) && $2 !~ /@/ { sub(":", "", $2); print $2 }')
    [[ $device ]] || die "no NIC with MAC address $mac; run 'vagrant reload'"
    if [[ $device != "eth$place" ]]; then
        ip link set "$device" down
        ip link set "$device" name "eth$place"
    fi
    ip link set "eth$place" up
    ip addr replace "10.1.$n.$h/24" dev "eth$place"
    ip addr replace "fd00:1:0:$n::$h/64" dev "eth$place" nodad
done

# --- roles ---
case $name in
    router)
        ln -sf /vagrant/.venv/bin/xdpecmp /usr/local/bin/xdpecmp
        # Policy 1: ports are hashed too, so that one client is enough to see a split.
        sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
            net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1
        # Vagrant's own NIC forwards nothing: it is not attached.
        for device in /sys/class/net/*; do
            device=${device##*/}
            if [[ -e /sys/class/net/$device/device && ! $device =~ ^eth[1-$#]$ ]]; then
                sysctl -q "net/ipv4/conf/$device/forwarding=0" \
                    "net/ipv6/conf/$device/disable_ipv6=1"
            fi
        done
        ip route replace $service4 \
            nexthop via 10.1.1.2 weight 3 nexthop via 10.1.2.2 weight 1
        ip route replace $service6 \
            nexthop via fd00:1:0:1::2 weight 3 nexthop via fd00:1:0:2::2 weight 1
        ;;
    client)
        if ! command -v curl >/dev/null; then
            export DEBIAN_FRONTEND=noninteractive
            # A fresh VM may be upgrading itself: no option of apt's waits for the lists' lock.
            for ((try = 0; try < 60; try++)); do
                report=$(LC_ALL=C apt-get -qq update 2>&1) && break
                [[ $report == *'Could not get lock'* ]] || break
                sleep 5
            done
            apt-get -qq -o DPkg::Lock::Timeout=300 install -y curl >/dev/null ||
                die "curl: apt-get install failed; check the network, then run 'vagrant provision client'"
        fi
        ip route replace $service4 via 10.1.0.254
        ip route replace $service6 via fd00:1::254
        ;;
    server*)
        ip addr replace $service4/32 dev lo
        ip addr replace $service6/128 dev lo
        ip route replace 10.1.0.0/24 via "10.1.$n.254"
        ip route replace fd00:1::/64 via "fd00:1:0:$n::254"
        mkdir -p /run/lab
        echo "$name" >/run/lab/index.html
        systemctl is-active --quiet lab ||
            systemd-run --quiet --collect --unit=lab \
                python3 -m http.server --bind :: --directory /run/lab 80
        ;;
    *) die "no role '$name'" ;;
esac
echo "$name:$(ip -4 -o addr show scope global | grep -o ' eth[1-9].*inet [0-9.]*' |
    sed -E 's/ +inet / /' | tr '\n' ',' | sed 's/,$//')"
