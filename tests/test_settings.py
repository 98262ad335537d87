"""The settings of this book are those of the paper and its authors' code, or the difference is named."""

from __future__ import annotations

import csv
import dataclasses
import math
from typing import Any

import pytest
import torch

from inconcert import envs, onpolicy, records, settings
from inconcert.algorithms import magpo, mappo
from inconcert.config import InputError
from inconcert.exhibits import ROOT

TASKS = ("3x10-30", "3x30-50", "5x20-80", "8x15-100")
EVERY = [(algorithm, f"coordsum/{task}") for algorithm in settings.TABLES for task in TASKS]


def own(algorithm: str, task: str) -> Any:
    return records.algorithm_module(algorithm).configure(task, "paper", "clamped")


# ------------------------------------------------------------------------------------------------- the authors' tuning


@pytest.mark.parametrize(("algorithm", "task"), EVERY)
def test_the_paper_tier_has_the_authors_tuned_values(algorithm: str, task: str) -> None:
    """Read from the file by hand, apart from `settings`."""
    with (ROOT / "data/published/magpo_params.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["system_name"] == algorithm]
    [row] = [row for row in rows if f"{row['env_name']}/{row['table_1_row']}" == task]
    config = own(algorithm, task)
    assert config.minibatches == int(row["num_minibatches"])
    assert config.max_grad_norm == float(row["max_grad_norm"])
    assert config.epochs == int(row["ppo_epochs"])
    assert config.clip == float(row["clip_eps"])
    assert config.ent_coef == float(row["ent_coef"])
    assert config.num_envs == 2 * int(row["num_envs"])  # two learners side by side
    assert config.updates == int(row["num_updates"])
    assert config.updates == config.eval_every * int(row["num_evaluation"])
    if algorithm in ("happo", "mappo"):
        assert config.network == "gru"
        assert config.steps_per_column == int(row["recurrent_chunk_size"])
        assert (config.actor_lr, config.critic_lr) == (float(row["actor_lr"]), float(row["critic_lr"]))
        return
    assert config.lr == float(row["actor_lr"])
    assert (config.embed, config.heads, config.blocks) == tuple(
        int(row[name]) for name in ("n_embd", "n_head", "n_block")
    )
    if algorithm != "mat":
        assert config.decay == float(row["decay_scaling_factor"])
    if algorithm == "magpo":
        assert (config.delta, config.rl_lambda) == (float(row["delta"]), float(row["alpha"]))


# ---------------------------------------------------------------------------------------------------------- comparison


@pytest.mark.parametrize(("algorithm", "task"), EVERY)
def test_every_setting_is_compared(algorithm: str, task: str) -> None:
    table = settings.compare(algorithm, task)
    assert table["setting"].is_unique
    fields = {field.name for field in dataclasses.fields(own(algorithm, task))}
    shown_as = {"hidden": "policy_layers", "critic_hidden": "value_layers"}
    wanted = {shown_as.get(name, name) for name in fields - {"task", "env_options"}}
    assert wanted <= set(table["setting"])
    assert table["ours"].notna().all(), "what paper or code set, ours has too"
    assert set(table["agreement"]) <= set(settings.AGREEMENT)


DEPARTURES = {
    "happo": {"eval_point", "bootstrap_time_limit"},
    "mappo": {"eval_point", "bootstrap_time_limit"},
    "mat": {"eval_point", "bootstrap_time_limit", "agent_order"},
    "sable": {
        "eval_point", "bootstrap_time_limit", "agent_order", "feed_forward", "initial_states", "timestep_chunk",
    },
    "magpo": {
        "eval_point", "bootstrap_time_limit", "agent_order", "feed_forward", "learner_memory", "timestep_chunk",
    },
}  # fmt: skip
CODE_OVER_PAPER = {"vf_coef", "gae_lambda", "env_steps"}
OFF = {
    "judge_time_limit": True, "keep": (), "layer_norm": False, "value_norm": False, "huber": math.inf,
    "critics": "separate",
}  # fmt: skip
"""Options that only the settings of other papers use, and what they are where they do nothing."""


@pytest.mark.parametrize(("algorithm", "task"), EVERY)
def test_only_these_settings_differ_and_the_ledger_has_them(algorithm: str, task: str) -> None:
    table = settings.compare(algorithm, task).set_index("setting")
    groups = {name: set(group.index) for name, group in table.groupby("agreement")}
    assert groups["own"] == DEPARTURES[algorithm]
    assert groups["as code"] == CODE_OVER_PAPER | ({"learner_kl"} if algorithm == "magpo" else set())
    config = own(algorithm, task)
    off = {name for name in OFF if hasattr(config, name)}
    assert groups["not stated"] == {"eval_every"} | off
    assert {name: getattr(config, name) for name in off} == {name: OFF[name] for name in off}
    assert "as paper" not in groups
    differing = (groups["own"] | groups["as code"]) - {"timestep_chunk", "env_steps"}  # these two move no number
    assert (table.loc[sorted(differing), "ledger"] != "").all()


def test_a_changed_setting_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    task = "coordsum/3x10-30"
    before = settings.compare("magpo", task).set_index("setting")
    monkeypatch.setitem(magpo.PAPER[task], "delta", 1.5)
    monkeypatch.setitem(magpo.PAPER[task], "lr", 3e-4)
    monkeypatch.setitem(magpo.PAPER[task], "vf_coef", 0.1)
    after = settings.compare("magpo", task).set_index("setting")
    changed = after["agreement"] != before["agreement"]
    assert after[changed]["agreement"].to_dict() == {"delta": "as paper", "lr": "own", "vf_coef": "as paper"}


@pytest.mark.parametrize(
    ("printed", "coded", "ours", "expected"),
    [
        (0.1, 0.5, 0.5, "as code"),
        (0.1, 0.5, 0.1, "as paper"),
        (0.1, 0.5, 0.3, "own"),
        (0.1, 0.1, 0.1, "same"),
        (0.1, None, 0.1, "same"),
        (0.1, None, 0.2, "own"),
        (None, 0.5, 0.5, "same"),
        (None, 0.5, 0.4, "own"),
        (None, None, 1, "not stated"),
        ((1.0, 2.0), 2.0, 2, "same"),
        ((1.0, 2.0), 4.0, 4, "as code"),
        ((1.0, 2.0), 2.0, 1, "as paper"),
        ((1.0, 2.0), 2.0, 3, "own"),
    ],
)
def test_agreement(printed: Any, coded: Any, ours: Any, expected: str) -> None:
    assert settings.agreement(printed, coded, ours) == expected


def test_ledger_entries_exist() -> None:
    page = (ROOT / "book/deviation_ledger.md").read_text(encoding="utf-8")
    for entry in settings.LEDGER.values():
        assert f'id="{entry.lower()}"' in page


@pytest.mark.parametrize("algorithm", settings.TABLES)
def test_the_file_of_further_settings_names_only_settings(algorithm: str) -> None:
    known = {*settings.ours(algorithm, own(algorithm, "coordsum/3x10-30")), "copies"}
    assert {*settings.paper(algorithm), *settings.code(algorithm, "coordsum/3x10-30")} <= known


# -------------------------------------------------------------------------------- what the comparison takes for granted


def test_advantages_are_always_normalised() -> None:
    config = mappo.configure("coordsum/3x4-7", "smoke", num_envs=2, rollout=10, minibatches=1, epochs=1, hidden=8)
    env = envs.make(config.task, config.num_envs, list(config.seeds), **config.env_options)
    learner = mappo.Learner(config, env.spec, "cpu")
    start = torch.ones(len(config.seeds), config.num_envs, dtype=torch.bool)
    now = {"step": env.reset(), "start": start, **learner.memories(config.num_envs)}
    data = onpolicy.collect(learner, env, now, 1)
    [batch] = onpolicy.minibatches(config, data, 1, ("actor_memory", "critic_memory"))
    losses = [
        learner.gradients({**batch, "advantage": scale * batch["advantage"] + shift})["policy_loss"]
        for scale, shift in ((1.0, 0.0), (50.0, 7.0))
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-5)


def learner_of(algorithm: str, config: Any, spec: envs.Spec) -> Any:
    module = records.algorithm_module(algorithm)
    build = module.learner if algorithm in ("mat", "sable") else module.Learner
    return build(config, spec, "cpu")


@pytest.mark.parametrize("algorithm", settings.TABLES)
def test_ids_and_layers_are_as_the_comparison_says(algorithm: str) -> None:
    config = dataclasses.replace(own(algorithm, "coordsum/3x10-30"), seeds=(0,))
    env = envs.make(config.task, 1, **config.env_options)
    inputs = env.spec.num_agents + env.spec.obs_size
    values, learner = settings.ours(algorithm, config), learner_of(algorithm, config, env.spec)
    if algorithm in ("mat", "sable"):
        assert learner.observe(env.reset().obs).shape[-1] == inputs
        return
    deployed = learner.networks[learner.deployed]
    width, count = config.hidden, len(deployed.inner.weight)
    assert values["policy_layers"] == [width, width]
    assert deployed.inner.weight.numel() == count * inputs * width
    assert deployed.outer.weight.numel() == count * width * width
    assert (deployed.core is not None) == values["recurrent_layers"]
    assert deployed.memory == values["recurrent_size"]


@pytest.mark.parametrize("algorithm", settings.TABLES)
def test_activations(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The activation is the one that is called when the behaviour policy acts."""
    called: set[str] = set()
    for holder, name in ((torch.Tensor, "relu"), (torch.nn.functional, "gelu")):
        real = getattr(holder, name)
        monkeypatch.setattr(
            holder, name, lambda *a, _real=real, _name=name, **k: (called.add(_name), _real(*a, **k))[1]
        )
    config = dataclasses.replace(own(algorithm, "coordsum/3x10-30"), seeds=(0,), num_envs=8)
    env = envs.make(config.task, 8, [0], **config.env_options)
    learner = learner_of(algorithm, config, env.spec)
    now = {"step": env.reset(), "start": torch.ones(1, 8, dtype=torch.bool), **learner.memories(8)}
    with torch.no_grad():
        learner.act(now, torch.rand(1, 8, 3))
    assert settings.ours(algorithm, config)["activation"].lower() in called


# --------------------------------------------------------------------------------------------------- choices, bad input


def test_how_often_values_were_chosen() -> None:
    counts = settings.chosen("magpo")
    assert (counts.groupby("setting")["tasks"].sum() == 43).all()
    assert counts[~counts["printed"]][["setting", "value", "tasks"]].to_numpy().tolist() == [["delta", 4.0, 1]]
    never = counts[counts["tasks"] == 0].groupby("setting")["value"].apply(list).to_dict()
    assert never == {"ent_coef": [0.1, 1.0], "lr": [1e-5], "rl_lambda": [0.0]}
    assert (settings.chosen("happo").groupby("setting")["tasks"].sum() == 43).all()
    assert (settings.chosen("mat").groupby("setting")["tasks"].sum() == 4).all()


def test_choices() -> None:
    assert settings.choices("{1e-3, 5e-4, 1}") == (0.001, 0.0005, 1.0)
    for wrong in ("[1, 2]", "{1, two}", "{}", "0.1"):
        with pytest.raises(InputError, match="not a set of numbers"):
            settings.choices(wrong)


def test_unknown_algorithms_and_tasks() -> None:
    with pytest.raises(InputError, match=r"unknown algorithm with published settings 'ctds'; .*valid: happo, magpo"):
        settings.compare("ctds", "coordsum/3x10-30")
    with pytest.raises(
        InputError, match=r"unknown task with settings of mat 'coordsum/3x10'; nearest: coordsum/3x10-30"
    ):
        settings.compare("mat", "coordsum/3x10")
    with pytest.raises(InputError, match="unknown algorithm with published settings 'ippo'"):
        settings.chosen("ippo")
