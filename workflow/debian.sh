#!/usr/bin/env bash
# Make sure that Debian packages are installed: `workflow/debian.sh PACKAGE...`. Asks for nothing; where it may not
# install, it prints the one command that does and exits with 1.
set -euo pipefail

missing=()
for package in "$@"; do
  state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "This needs ${missing[*]}: install it with your system's package manager and call make again" >&2
  exit 1
fi
if [ "$(id -u)" = 0 ]; then
  privileged=(env)
elif sudo --non-interactive true 2>/dev/null; then
  privileged=(sudo --non-interactive env)
else
  echo "This needs ${missing[*]}: sudo apt-get update && sudo apt-get install --yes ${missing[*]}" >&2
  exit 1
fi
echo "Installing ${missing[*]}"
"${privileged[@]}" apt-get -qq update
"${privileged[@]}" DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --no-install-recommends install "${missing[@]}" >/dev/null
