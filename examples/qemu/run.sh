#!/bin/sh
# Starts a network and one virtual machine on it. The words of the command line go to QEMU:
#     ./run.sh -m 1G -drive file=disk.qcow2,if=virtio
# The network ends with the machine. QEMU must be 7.2 or newer. Variables: QEMU, the program; ACCEL, its accelerators;
# SSH_PORT, the port of the host's loopback that leads to port 22 of the machine.
set -eu

run=$(mktemp -d)
gvtap-pipeline start -listen "unix://$run/api.sock" -listen-qemu "unix://$run/qemu.sock" \
    -ssh-port "${SSH_PORT:-2222}" &
network=$!
trap 'kill $network 2>/dev/null || :; wait $network || :; rm -rf "$run"' EXIT
trap 'exit 130' INT TERM
# The daemon binds the sockets of guests last. If it has ended, kill fails, and so does this script.
until [ -S "$run/qemu.sock" ]; do kill -0 $network; sleep 0.1; done
echo "the API of the network: $run/api.sock" >&2

"${QEMU:-qemu-system-x86_64}" -machine "accel=${ACCEL:-kvm:tcg}" \
    -netdev "stream,id=net0,server=off,addr.type=unix,addr.path=$run/qemu.sock" \
    -device virtio-net-pci,netdev=net0,mac=5a:94:ef:e4:0c:ee "$@"
