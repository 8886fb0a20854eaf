#!/bin/sh
# On the parent instance: starts a network and the enclave ENCLAVE.eif on it. Further words go to nitro-cli run-enclave.
#     ./run.sh ENCLAVE.eif [--debug-mode]
# The network stays until ctrl-C.
set -eu

image=$1
shift
run=$(mktemp -d)
gvtap-pipeline start -listen vsock://:1024 -services "unix://$run/api.sock" -ssh-port -1 &
network=$!
trap 'kill $network 2>/dev/null || :; wait $network || :; rm -rf "$run"' EXIT
trap 'exit 130' INT TERM
until [ -S "$run/api.sock" ]; do kill -0 $network; sleep 0.1; done
echo "the API of the network: $run/api.sock" >&2

nitro-cli run-enclave --cpu-count 2 --memory 1024 --eif-path "$image" "$@"
wait $network
