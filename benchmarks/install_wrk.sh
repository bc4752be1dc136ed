#!/usr/bin/env bash
# Sees to it that wrk, the load generator of the benchmarks, is there: if it is not, the
# system's package manager installs it.
set -euo pipefail

command -v wrk >/dev/null && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
fi

if command -v apt-get >/dev/null; then
    install() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q wrk; }
    # A fresh system has no list of packages yet.
    install || { "${as_root[@]}" apt-get update -q && install; } || true
elif command -v brew >/dev/null; then
    brew install wrk || true
fi

if ! command -v wrk >/dev/null; then
    echo "The benchmarks and their tests need wrk, which could not be installed." >&2
    echo "Install the package 'wrk' of your system, then try again." >&2
    exit 1
fi
