"""What the anatomy pages show of a live run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from inconcert import anatomy, envs
from inconcert.algorithms import ctds, happo, magpo, mappo, mat, sable

TINY: dict[str, Any] = {
    "seeds": (0, 1), "num_envs": 4, "rollout": 8, "updates": 2, "eval_every": 1, "eval_episodes": 2,
    "final_episodes": 2, "minibatches": 2, "epochs": 1,
}  # fmt: skip
BUILD: dict[Any, Any] = {
    mappo: mappo.Learner, happo: happo.Learner, mat: mat.learner, sable: sable.learner, magpo: magpo.Learner,
    ctds: ctds.Learner,
}  # fmt: skip


def tiny(module: Any, **changes: Any) -> Any:
    return module.configure("coordsum/2x3-4", "smoke", **TINY, **changes)


@pytest.mark.parametrize("module", BUILD, ids=lambda module: module.__name__.rpartition(".")[2])
def test_price_accounts_for_all_the_time(module: Any) -> None:
    cost = anatomy.price(BUILD[module], tiny(module))
    assert cost.rate > 0
    assert cost.shares.sum() == pytest.approx(1)
    assert (cost.shares > 0).all()


def test_price_leaves_the_first_update_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by one at each look: what is counted is the number of looks, in the last updates only."""
    looks = iter(range(10**6))
    monkeypatch.setattr(anatomy.time, "process_time", lambda: float(next(looks)))
    config = tiny(mappo)
    cost = anatomy.price(mappo.Learner, config, updates=3)
    played = 4 * config.rollout + 1  # between the looks around a rollout: before and after each of two calls per step
    learned = 2 * config.epochs * config.minibatches + 1
    total = 3 * (played + learned)
    expected = {"choosing actions": config.rollout, "environment": config.rollout}
    for part, count in expected.items():
        assert cost.shares[part] == pytest.approx(3 * count / total)
    assert cost.rate == pytest.approx(3 * config.steps_per_update * 2 / total)


def test_a_live_run_has_a_point_per_evaluation_and_ends_with_the_best_policy() -> None:
    config = tiny(magpo)
    run = anatomy.train(magpo, config)
    assert set(run.curve["mode"]) == {"sampled", "greedy", "guider"}
    assert sorted(run.curve["env_steps"].unique()) == [0, 32, 64]
    assert sorted(run.signs["env_steps"].unique()) == [32, 64]
    assert set(run.closing) == {"best", "last"}
    step = envs.make(config.task, 3, [0, 1], **config.env_options).reset()
    action, _ = run.player(step, torch.ones(2, 3, dtype=torch.bool), None, None)
    assert action.shape == (2, 3, 2)


def test_an_agent_hears_only_those_before_it() -> None:
    config = mat.configure("coordsum/3x4-6", "smoke", **TINY)
    run = anatomy.train(mat, config)
    matrix = anatomy.influence(run.player, config.task, config.env_options, rows=8)
    assert (matrix[np.triu_indices(3)] == 0).all()
    assert (matrix[np.tril_indices(3, -1)] > 0).all()


def test_signs_get_a_panel_each() -> None:
    rows = [{"sign": sign, "seed": 0, "env_steps": 10, "value": 1.0} for sign in ("entropy", "kl", "policy_loss")]
    figure = anatomy.draw_signs(pd.DataFrame(rows))
    shown = [ax.get_title() for ax in figure.axes if ax.get_visible()]
    assert shown == ["entropy of the\nplaying policy (nats)", "policy change in\nan update (nats)"]
