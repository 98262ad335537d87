#!/usr/bin/env bash
# Build Google Research Football from its source distribution and install it: `workflow/football.sh [VENV]`, by default
# into .venv. Called by `make football`; safe to repeat. The first time it compiles for about ten minutes of one core;
# after that pip has the built wheel.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$(realpath "${1:-.venv}")
python="$venv/bin/python"
tools=build/football
release=2.10.2
if ! [ -x "$python" ]; then
  echo "There is no virtual environment at $venv: call \`make football\`, which makes it" >&2
  exit 1
fi

# One copy of the smallest scenario plays some steps: this needs all that was built and installed.
try() {
  "$python" -c '
import sys
from importlib.metadata import PackageNotFoundError, version
try:
    import torch, inconcert
    installed = version("gfootball")
    env = inconcert.make("football/academy_run_pass_and_shoot_with_keeper", num_envs=1, workers=1)
    for _ in range(10):
        env.step(torch.zeros(1, 2, dtype=torch.long))
except (ImportError, PackageNotFoundError, ValueError) as error:
    sys.exit(f"football does not run: {error}")
print(f"Google Research Football {installed} is installed in {sys.prefix} and has played ten steps.")
'
}
if try 2>/dev/null; then
  exit 0
fi

workflow/debian.sh build-essential cmake python3-dev libgl1-mesa-dev libegl1-mesa-dev \
  libsdl2-dev libsdl2-image-dev libsdl2-ttf-dev libsdl2-gfx-dev \
  libboost-python-dev libboost-thread-dev libboost-system-dev libboost-filesystem-dev

# The engine is linked with the system's Boost.Python, which speaks one version of Python only.
release_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }
built_for=$(release_of /usr/bin/python3)
wanted=$(release_of "$python")
if [ "$built_for" != "$wanted" ]; then
  echo "The system's Boost is built for Python $built_for, but $venv has Python $wanted: make it anew with /usr/bin/python3" >&2
  exit 1
fi

[ -t 1 ] || export PIP_QUIET=2
# Its build runs a bare `python3` with psutil, and an old setuptools: a place of its own, first on the path.
"$python" -m venv "$tools"
export PATH="$PWD/$tools/bin:$PATH"
python3 -m pip install "setuptools<81" wheel psutil
echo "Building gfootball $release (about ten minutes of one core, unless pip has kept the wheel)"
# -s leaves out 60 MB of debug symbols; the policy lets CMake 4 read a project that asks for CMake 3.4.
LDFLAGS=-Wl,-s CMAKE_POLICY_VERSION_MINIMUM=3.5 \
  python3 -m pip wheel --no-build-isolation --no-deps --wheel-dir "$tools/wheels" "gfootball==$release" gym==0.23.1

"$python" -m pip install --constraint requirements.lock --find-links "$tools/wheels" --requirement workflow/football.txt
"$python" -m pip install --no-deps "$tools/wheels/gfootball-$release"-*.whl
try
