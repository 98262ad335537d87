"""MAPPO: what is its own, and the contracts that every algorithm keeps."""

import dataclasses

import pytest
import torch
from common import EASY, TINY, check_company, check_gradients_flow, check_it_learns, check_resume

from inconcert import envs, onpolicy, published
from inconcert.algorithms import mappo

KINDS = [(network, parameters) for network in ("mlp", "gru") for parameters in ("shared", "separate")]


def config(**changes):
    return mappo.Config(**{**TINY, "hidden": 16, "critic_hidden": 16, **changes})


@pytest.mark.parametrize(("network", "parameters"), KINDS)
def test_a_seed_in_company_is_the_seed_alone(network, parameters):
    check_company(mappo, config(network=network, parameters=parameters))


@pytest.mark.parametrize(("network", "parameters"), KINDS)
def test_resuming_is_bit_for_bit(network, parameters):
    check_resume(mappo, config(network=network, parameters=parameters, updates=3))


@pytest.mark.parametrize(("network", "parameters"), KINDS)
def test_all_gradients_flow(network, parameters):
    check_gradients_flow(mappo, config(network=network, parameters=parameters, ent_coef=0.01))


@pytest.mark.parametrize("chunk", [0, 5])
def test_a_replayed_rollout_gives_the_probabilities_it_was_played_with(chunk):
    """Before the first gradient step every ratio is 1: hidden states, resets and chunk starts are all in place."""
    cfg = config(network="gru", rollout=120, chunk=chunk, minibatches=1)  # longer than an episode: a reset inside
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds)
    learner = mappo.Learner(cfg, env.spec, "cpu")
    start = torch.ones(2, cfg.num_envs, dtype=torch.bool)
    now = {"step": env.reset(), "start": start, **learner.memories(cfg.num_envs)}
    for update in (1, 2):  # the second rollout begins in mid-episode
        data = onpolicy.collect(learner, env, now, update)
    assert data["start"].any()
    assert not data["start"][:, 0].any()
    b = next(onpolicy.minibatches(cfg, data, 2, ("actor_memory", "critic_memory")))
    assert learner.gradients(b)["kl"].abs().max() < 1e-6
    value = learner.critic(b["state"], b["critic_memory"], b["start"])
    torch.testing.assert_close(value, b["value"], rtol=1e-4, atol=1e-5)


def test_it_learns():
    sizes = {"network": "mlp", "hidden": 32, "critic_hidden": 32, "actor_lr": 3e-3, "critic_lr": 3e-3}
    check_it_learns(mappo, mappo.Config(**EASY, **sizes))


@pytest.mark.parametrize("task", sorted(mappo.PAPER))
def test_paper_settings_are_the_authors_rows(task):
    table = published.magpo_params()
    row = table[(table["system_name"] == "mappo") & ("coordsum/" + table["table_1_row"].astype(str) == task)].iloc[0]
    cfg = mappo.configure(task, "paper")
    expected = {
        "minibatches": row["num_minibatches"], "max_grad_norm": row["max_grad_norm"], "epochs": row["ppo_epochs"],
        "clip": row["clip_eps"], "ent_coef": row["ent_coef"], "actor_lr": row["actor_lr"],
        "critic_lr": row["critic_lr"], "updates": row["num_updates"], "num_envs": 2 * float(row["num_envs"]),
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(cfg, name) == pytest.approx(float(value)), name
    assert (cfg.chunk or cfg.rollout) == int(row["recurrent_chunk_size"])
    assert len(cfg.seeds) == 10
    assert cfg.updates * cfg.steps_per_update == 19_988_480


def test_one_laptop_setting_for_all_tasks():
    """One for all, but for the longer budget that the largest task takes."""
    settings = [dataclasses.replace(mappo.configure(task, "laptop"), task="", updates=0) for task in mappo.PAPER]
    assert all(setting == settings[0] for setting in settings)
    updates = {task: mappo.configure(task, "laptop").updates for task in mappo.PAPER}
    assert updates.pop("coordsum/8x15-100") > max(updates.values())
    assert len(set(updates.values())) == 1
    assert len(settings[0].seeds) == 5
