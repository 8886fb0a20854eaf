#!/bin/sh
# Starts a network and one krunkit machine on it: ./run.sh DISK.raw [further words for krunkit]
set -eu

disk=$1
shift
run=$(mktemp -d)
gvtap-pipeline start -listen "unix://$run/api.sock" -listen-vfkit "unixgram://$run/vm.sock" \
    -ssh-port "${SSH_PORT:-2222}" &
network=$!
trap 'kill $network 2>/dev/null || :; wait $network || :; rm -rf "$run"' EXIT
trap 'exit 130' INT TERM
# The daemon binds the sockets of guests last. If it has ended, kill fails, and so does this script.
until [ -S "$run/vm.sock" ]; do kill -0 $network; sleep 0.1; done
echo "the API of the network: $run/api.sock" >&2

krunkit --cpus 2 --memory 2048 \
    --device "virtio-blk,path=$disk,format=raw" \
    --device "virtio-net,type=unixgram,path=$run/vm.sock,mac=5a:94:ef:e4:0c:ee,offloading=on,vfkitMagic=on" "$@"
