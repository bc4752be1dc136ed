#!/usr/bin/env bash
# Sees to it that prometheus and promtool are there, for the tests of the dashboard and the alerts:
# if they are not, they are taken from the system's package into the directory that is given. It is
# not installed: that would start a Prometheus that nobody asked for.
set -euo pipefail

command -v prometheus >/dev/null && command -v promtool >/dev/null && exit 0

to=$1
[ -x "$to/prometheus" ] && [ -x "$to/promtool" ] && exit 0

if command -v apt-get >/dev/null; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo -n)
    fi
    download() { (cd "$work" && apt-get download -q prometheus); }
    # A fresh system has no list of packages yet.
    if download || { "${as_root[@]}" apt-get update -q && download; }; then
        dpkg -x "$work"/prometheus_*.deb "$work/files"
        mkdir -p "$to"
        cp "$work/files/usr/bin/prometheus" "$work/files/usr/bin/promtool" "$to"
    fi
fi

if ! [ -x "$to/prometheus" ]; then
    echo "The tests of the dashboard need prometheus, which could not be had: they are skipped." >&2
fi
