#!/usr/bin/env bash
# Sees to it that nginx and systemd-analyze are there, for the tests of the page on operations: what
# is missing is taken from the system's packages into the directory that is given. It is not
# installed: that would start an nginx that nobody asked for.
set -euo pipefail

to=$1
export PATH=$PATH:/usr/sbin:$to

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

unpack() { # unpack DIRECTORY PACKAGES...
    local files=$1
    shift
    # A fresh system has no list of packages yet.
    (cd "$work" && rm -f ./*.deb &&
        { apt-get download -q "$@" || { "${as_root[@]}" apt-get update -q && apt-get download -q "$@"; }; })
    for package in "$work"/*.deb; do
        dpkg -x "$package" "$files"
    done
}

if command -v apt-get >/dev/null; then
    if ! command -v nginx >/dev/null && unpack "$work/nginx" nginx; then
        install "$work/nginx/usr/sbin/nginx" "$to"
    fi
    if ! command -v systemd-analyze >/dev/null && unpack "$to/../systemd" systemd libsystemd-shared; then
        systemd=$(cd "$to/../systemd" && pwd)
        libraries=$(dirname "$(find "$systemd" -name 'libsystemd-shared-*.so' | head -n 1)")
        install /dev/stdin "$to/systemd-analyze" <<END
#!/bin/sh
LD_LIBRARY_PATH=$libraries exec $systemd/usr/bin/systemd-analyze "\$@"
END
    fi
fi

for program in nginx systemd-analyze; do
    if ! command -v "$program" >/dev/null; then
        echo "The test of docs/operations.md needs $program, which could not be had: it is skipped." >&2
    fi
done
