"""MAPPO: what is its own, and the contracts that every algorithm keeps."""

import dataclasses

import pytest
import torch
from common import EASY, TINY, check_company, check_gradients_flow, check_it_learns, check_resume

from inconcert import envs, onpolicy, published
from inconcert.algorithms import mappo
from inconcert.config import InputError

KINDS = [(network, parameters) for network in ("mlp", "gru") for parameters in ("shared", "separate")]
HARL = {"layer_norm": True, "one_hot_id": False, "value_norm": True, "huber": 10.0, "judge_time_limit": False,
        "bootstrap_time_limit": False, "keep": (50, 100)}  # fmt: skip


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


@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_harls_options_keep_the_contracts(network):
    check_company(mappo, config(network=network, **HARL))
    check_resume(mappo, config(network=network, updates=3, **HARL))
    check_gradients_flow(mappo, config(network=network, ent_coef=0.01, **HARL))


@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_layer_norm_stands_before_the_first_layer_and_after_every_hidden_one(network):
    """Inputs twice as large, and hidden features twice as large, change nothing; a plain network sees them."""
    for layer_norm in (True, False):
        cfg = config(network=network, layer_norm=layer_norm, one_hot_id=False)
        learner = mappo.Learner(cfg, envs.make(cfg.task).spec, "cpu")
        actors = learner.actors
        torch.nn.init.normal_(actors.network.head.weight)
        for layer in (actors.network.inner, actors.network.outer):  # features far above the norm's epsilon
            torch.nn.init.normal_(layer.weight)
        obs = torch.rand(8, 3, actors.spec.obs_size)
        available, start = torch.ones(2, 4, 3, 4, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)

        def answer(obs, actors=actors, available=available, start=start):
            return actors.step(actors.observe(obs), available, start, actors.blank(4))[0]

        before = answer(obs)
        same = [answer(2 * obs)]
        for layer in (actors.network.inner, actors.network.outer):
            with torch.no_grad():
                layer.weight.mul_(2)
            same.append(answer(obs))
            with torch.no_grad():
                layer.weight.div_(2)
        assert [torch.allclose(one, before, atol=1e-4) for one in same] == [layer_norm] * 3


def test_layer_norm_of_a_single_input_is_refused():
    cfg = config(layer_norm=True, one_hot_id=False, env_options={"observe_step": False})
    with pytest.raises(InputError, match="layer_norm makes a single input constant"):
        mappo.Learner(cfg, envs.make(cfg.task, **cfg.env_options).spec, "cpu")


def test_without_the_id_a_shared_actor_cannot_tell_agents_apart():
    for one_hot_id in (True, False):
        cfg = config(one_hot_id=one_hot_id)
        actors = mappo.Learner(cfg, envs.make(cfg.task).spec, "cpu").actors
        obs = torch.rand(2, 1, 1, actors.spec.obs_size).expand(2, 1, 3, -1).flatten(0, 1)
        available, start = torch.ones(2, 1, 3, 4, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
        log_probs, _ = actors.step(actors.observe(obs), available, start, actors.blank(1))
        assert torch.allclose(log_probs[:, :, 0], log_probs[:, :, 1], atol=1e-7) == (not one_hot_id)


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
