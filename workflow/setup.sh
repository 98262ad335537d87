#!/usr/bin/env bash
# Create .venv from requirements.lock and install the package in place. Called by `make setup`; safe to repeat.
set -euo pipefail
cd "$(dirname "$0")/.."

python=""
for candidate in python3 python3.11 python3.12 python3.13; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python="$candidate"
    break
  fi
done
if [ -z "$python" ]; then
  echo "Python 3.11 or newer is needed: install it (Debian, Ubuntu: apt-get install python3 python3-venv) and call make again" >&2
  exit 1
fi

if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  workflow/debian.sh "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
fi

if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  "$python" -m venv --clear .venv
fi
[ -t 1 ] || export PIP_QUIET=2 # a person sees the progress of the downloads, a log only errors
echo "Installing the locked packages into .venv (the first time this downloads several hundred MB)"
.venv/bin/python -m pip install --requirement requirements.lock
# the metadata of jaxmarl asks for old versions of libraries that the worlds used here never import
.venv/bin/python -m pip install --no-deps jaxmarl==0.0.7 --editable .
