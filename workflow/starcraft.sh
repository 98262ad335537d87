#!/usr/bin/env bash
# Install the packages SMAC and SMACv2 from their authors' repositories: `workflow/starcraft.sh [VENV]`, by default into
# .venv. Called by `make starcraft`; safe to repeat. StarCraft II and the maps are downloaded by hand: the game has a
# licence of its own. What is still missing then is said when a task is made.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$(realpath "${1:-.venv}")
python="$venv/bin/python"
if ! [ -x "$python" ]; then
  echo "There is no virtual environment at $venv: call \`make starcraft\`, which makes it" >&2
  exit 1
fi

# Set STARCRAFT_SOURCES to a mirror, or to a folder that holds clones of both.
sources=${STARCRAFT_SOURCES:-https://github.com/oxwhirl}
[ -t 1 ] || export PIP_QUIET=2
"$python" -m pip install --no-deps --requirement workflow/starcraft.txt
# Another distribution named smac is an optimiser; this one replaces it.
"$python" -m pip install --no-deps --force-reinstall \
  "git+$sources/smac.git@d6aab33f76abc3849c50463a8592a84f59a5ef84" \
  "git+$sources/smacv2.git@577ab5a2cff2391f8df582da5731ea9cd6adf3c6"

"$python" -c '
from inconcert import make
from inconcert.config import InputError
print("SMAC and SMACv2 are installed.")
for task in ("smac/3m", "smacv2/terran_5_vs_5"):
    try:
        make(task, num_envs=1, workers=1).close()
        print(f"{task} has begun a battle.")
    except InputError as error:
        print(f"{task} cannot be played yet: {error}")
'
