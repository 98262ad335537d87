"""The settings of the MAGPO paper three times over: as printed, as its authors' code has them, and as this book does.

Printed: Tables 2 and 3 (fixed) and 4 to 7 (search spaces), and single statements of the text. Code: the tuned rows of
`data/published/magpo_params.csv` and what `magpo_settings.csv` says of the rest. Ours: the `Config` that an algorithm's
`configure(task, "paper")` returns. Nothing is typed here but which name stands for which.
"""

from __future__ import annotations

import ast
import dataclasses
from typing import Any

import pandas as pd

from inconcert import published, records
from inconcert.config import InputError, unknown

TABLES: dict[str, tuple[int, ...]] = {
    "happo": (3, 6), "magpo": (2, 5, 7), "mappo": (3, 6), "mat": (2, 4), "sable": (2, 5),
}  # fmt: skip
"""The paper's tables that hold for an algorithm. MAGPO has those of its guider Sable besides its own."""

PRINTED: dict[str, str] = {
    "Activation function": "activation", "Normalize Advantage": "normalised_advantage",
    "Value function coefficient": "vf_coef", "Discount": "gamma", "GAE": "gae_lambda", "Rollout length": "rollout",
    "Add one-hot agent ID": "one_hot_id", "Value network layer sizes": "value_layers",
    "Policy network layer sizes": "policy_layers", "Number of recurrent layers": "recurrent_layers",
    "Size of recurrent layer": "recurrent_size", "PPO epochs": "epochs", "Number of minibatches": "minibatches",
    "Entropy coefficient": "ent_coef", "PPO clip epsilon": "clip", "Maximum gradient norm": "max_grad_norm",
    "Learning rate": "lr", "Value Learning rate": "critic_lr", "Policy Learning rate": "actor_lr",
    "Recurrent chunk size": "chunk", "Model embedding dimension": "embed", "Number of transformer heads": "heads",
    "Number retention heads": "heads", "Number of transformer blocks": "blocks", "Number retention blocks": "blocks",
    "Retention heads scaling parameter": "decay", "Double clip delta": "delta",
    "RL auxiliary loss lambda": "rl_lambda",
}  # fmt: skip
"""Printed name -> name of the setting: a field of a `Config`, or one of the others that `ours` gives."""

TUNED: dict[str, str] = {
    "num_minibatches": "minibatches", "max_grad_norm": "max_grad_norm", "n_embd": "embed", "ppo_epochs": "epochs",
    "clip_eps": "clip", "decay_scaling_factor": "decay", "recurrent_chunk_size": "chunk", "n_head": "heads",
    "ent_coef": "ent_coef", "n_block": "blocks", "num_updates": "updates", "num_evaluation": "evaluations",
    "alpha": "rl_lambda", "delta": "delta",
}  # fmt: skip
"""Column of the authors' tuned rows -> name of the setting, but for learning rates and parallel environments."""

LEDGER: dict[str, str] = {
    "vf_coef": "D1", "gae_lambda": "D2", "eval_point": "D7", "bootstrap_time_limit": "D8", "chunk": "D9",
    "learner_memory": "D10", "learner_kl": "D11", "agent_order": "D12", "initial_states": "D13",
    "feed_forward": "D14", "num_envs": "D15",
}  # fmt: skip
"""Setting -> its entry of the deviation ledger."""

ALWAYS: dict[str, Any] = {"normalised_advantage": True, "one_hot_id": True}
"""Settings that this book's code does not leave open."""


def choices(printed: str) -> tuple[float, ...]:
    """A printed set of values: "{1e-3, 5e-4}" -> (0.001, 0.0005).

    Raises:
        InputError: not such a set.
    """
    inner = printed.strip()
    if not (inner.startswith("{") and inner.endswith("}")):
        raise InputError(f"not a set of numbers: {printed!r}")
    try:
        return tuple(float(part) for part in inner[1:-1].split(","))
    except ValueError:
        raise InputError(f"not a set of numbers: {printed!r}") from None


def spaces(*tables: int) -> dict[str, tuple[float, ...]]:
    """The printed search spaces of some of Tables 4 to 7: setting -> values, in printed order."""
    rows = pd.concat([published.load("magpo", table) for table in tables])
    return {PRINTED[row]: choices(str(value)) for row, value in zip(rows["row"], rows["value"], strict=True)}


def tuned(algorithm: str, task: str) -> pd.Series:
    """The authors' tuned row for a task of CoordSum, such as "coordsum/3x10-30", under the names of the settings.

    Raises:
        InputError: an algorithm or a task for which they published none.
    """
    params = published.magpo_params()
    if algorithm not in TABLES:
        raise unknown("algorithm with published settings", algorithm, TABLES)
    own = params[params["system_name"] == algorithm]
    tasks = own["env_name"] + "/" + own["table_1_row"]
    if task not in set(tasks):
        raise unknown(f"task with settings of {algorithm}", task, tasks)
    row = own[tasks == task].iloc[0]
    values = {setting: row[column] for column, setting in TUNED.items()}
    rates = ("actor_lr", "critic_lr") if pd.notna(row["critic_lr"]) else ("lr",)
    values |= {rate: row["actor_lr" if rate == "lr" else rate] for rate in rates}
    beside = _beside(algorithm, "code").set_index("setting")["value"]
    values["num_envs"] = row["num_envs"] * int(beside["copies"])  # two learners, gradients averaged
    values["env_steps"] = values["updates"] * values["num_envs"] * int(beside["rollout"])
    return pd.Series(values, dtype="object").dropna()


def code(algorithm: str, task: str) -> dict[str, Any]:
    """What the authors' code runs: setting -> value, the tuned ones included. Errors as `tuned`."""
    found = tuned(algorithm, task).to_dict()
    beside = _beside(algorithm, "code")
    return {name: _read(value) for name, value in zip(beside["setting"], beside["value"], strict=True)} | found


def paper(algorithm: str) -> dict[str, tuple[Any, str]]:
    """What the paper says: setting -> (value, where). A searched setting has a tuple of values."""
    said = {
        name: (_read(value), where)
        for name, value, where in _beside(algorithm, "text")[["setting", "value", "where"]].itertuples(index=False)
    }
    for table in TABLES[algorithm]:
        for row, value in published.load("magpo", table)[["row", "value"]].itertuples(index=False):
            text = str(value)
            said[PRINTED[row]] = (choices(text) if text.startswith("{") else _read(text), f"Table {table}")
    return said


def ours(algorithm: str, config: Any) -> dict[str, Any]:
    """A `Config` under the names that the paper and the authors' code use beside the fields' own.

    All fields are there but the task and the readings of its rules, which the deviation ledger has; lists of seeds and
    of evaluation modes as their length and their first entry, hidden units as the printed layer sizes.
    """
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values = {name: value for name, value in fields.items() if name not in ("task", "env_options")}
    values |= {
        "seeds": len(config.seeds), "eval_modes": config.eval_modes[0],
        "env_steps": config.updates * config.steps_per_update, "evaluations": config.updates / config.eval_every,
        "activation": "ReLU" if algorithm in ("happo", "mappo") else "GeLU", **ALWAYS,
    }  # fmt: skip
    if "chunk" in values and config.network == "gru":
        values["chunk"] = config.steps_per_column
    if "hidden" in values:
        hidden = values.pop("hidden")
        recurrent = config.network == "gru"
        values |= {"policy_layers": [hidden, hidden], "recurrent_layers": int(recurrent)}
        values |= {"recurrent_size": hidden} if recurrent else {}
    if "critic_hidden" in values:
        hidden = values.pop("critic_hidden")
        values["value_layers"] = [hidden, hidden]
    return values


AGREEMENT = ("same", "as code", "as paper", "own", "not stated")
"""Ours against the others: equal to all that is stated; to the code but not to the paper; the other way round; to
neither; nothing is stated."""


def compare(algorithm: str, task: str, tier: str = "paper", variant: str = "clamped") -> pd.DataFrame:
    """Every setting of an algorithm on a CoordSum task, a row each.

    Columns: `setting`, `paper` (a value, or the tuple of values of a search space; None where it says nothing),
    `where` (in the paper), `code`, `ours`, `agreement` (one of `AGREEMENT`), `ledger` (entry, or "").

    Raises:
        InputError: an algorithm, task or tier without such settings.
    """
    theirs = code(algorithm, task)
    said = paper(algorithm)
    here = ours(algorithm, records.algorithm_module(algorithm).configure(task, tier, variant))
    rows = []
    for name in dict.fromkeys([*said, *theirs, *here]):
        if name == "copies":  # part of num_envs
            continue
        printed, where = said.get(name, (None, ""))
        rows.append(
            {
                "setting": name, "paper": printed, "where": where, "code": theirs.get(name), "ours": here.get(name),
                "agreement": agreement(printed, theirs.get(name), here.get(name)), "ledger": LEDGER.get(name, ""),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def agreement(printed: Any, coded: Any, own: Any) -> str:
    """Which of `AGREEMENT` holds for one setting; a tuple of printed values is a set that `own` may come from."""
    if printed is None and coded is None:
        return "not stated"
    as_paper = printed is None or (own in printed if isinstance(printed, tuple) else own == printed)
    as_code = coded is None or own == coded
    if as_paper and as_code:
        return "same"
    if as_code and coded is not None:
        return "as code"
    return "as paper" if as_paper and printed is not None else "own"


def chosen(algorithm: str) -> pd.DataFrame:
    """How often the authors' tuning chose each printed value, over the tasks that they published rows for.

    Columns `setting`, `value`, `tasks` (count) and `printed` (False for a value outside the printed space). Values
    that were never chosen are there with count 0.

    Raises:
        InputError: an algorithm without published settings.
    """
    if algorithm not in TABLES:
        raise unknown("algorithm with published settings", algorithm, TABLES)
    params = published.magpo_params()
    own = params[params["system_name"] == algorithm]
    columns = {setting: column for column, setting in TUNED.items()}
    columns |= {"lr": "actor_lr", "actor_lr": "actor_lr", "critic_lr": "critic_lr"}
    rows = []
    for setting, values in spaces(*(table for table in TABLES[algorithm] if table >= 4)).items():
        counts = own[columns[setting]].value_counts()
        for value in sorted({*values, *counts.index}):
            count = int(counts.get(value, 0))
            rows.append({"setting": setting, "value": float(value), "tasks": count, "printed": value in values})
    return pd.DataFrame(rows)


def _beside(algorithm: str, source: str) -> pd.DataFrame:
    rows = published.magpo_settings()
    return rows[(rows["system_name"] == algorithm) & (rows["source"] == source)]


def _read(text: str) -> Any:
    """A printed value as Python has it: a number, a list, True or False; else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
