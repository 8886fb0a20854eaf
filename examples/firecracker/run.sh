#!/bin/sh
# Starts a network and the machine of vm_config.json on it. Further words go to firecracker.
set -eu

cd "$(dirname "$0")"
rm -f v.sock # Firecracker does not replace an old one
# A guest's connection to port 1024 of CID 2 reaches the socket file with that port in its name.
gvtap-pipeline start -listen "unix://$PWD/v.sock_1024" -services "unix://$PWD/api.sock" \
    -ssh-port "${SSH_PORT:-2222}" &
network=$!
trap 'kill $network 2>/dev/null || :; wait $network || :; rm -f v.sock' EXIT
trap 'exit 130' INT TERM
until [ -S v.sock_1024 ]; do kill -0 $network; sleep 0.1; done

firecracker --no-api --config-file vm_config.json "$@"
