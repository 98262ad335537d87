"""Any PettingZoo environment as a batch: against the environment itself, padding, who leaves, what is refused."""

import importlib

import numpy as np
import pytest
import torch
from fake_parallel import DEPARTS
from hypothesis import given, settings
from hypothesis import strategies as st

from inconcert.config import InputError
from inconcert.envs import make
from inconcert.envs.pettingzoo import TASKS, parse
from inconcert.envs.workers import WorkerCrashed

FAKE = "pettingzoo/fake_parallel"


def legal_actions(available, generator):
    return torch.multinomial(available.flatten(0, 1).float(), 1, generator=generator).view(available.shape[:2])


@pytest.mark.parametrize("task", [*TASKS, "mpe2.simple_tag_v3:max_cycles=13"])
@pytest.mark.parametrize("workers", [0, 2])
def test_plays_as_the_environment_itself(task, workers):
    """Step by step, two episodes of every copy: observations, state, rewards, ends."""
    env = make(f"pettingzoo/{task}", num_envs=2, seed=[3, 4], workers=workers)
    module, arguments = parse(task)
    originals = [importlib.import_module(module).parallel_env(**arguments) for _ in range(4)]
    names = originals[0].possible_agents
    spaces = [originals[0].observation_space(name).shape[0] for name in names]
    generator = torch.Generator().manual_seed(5)
    seen = [original.reset(seed=env._seed_of(row))[0] for row, original in enumerate(originals)]
    step, ended_rows = env.observe(), 0
    for _ in range(2 * env.spec.episode_limit + 1):
        for row in range(4):
            for agent, (name, size) in enumerate(zip(names, spaces, strict=True)):
                assert np.array_equal(step.obs[row, agent, :size].numpy(), np.float32(seen[row][name]))
                assert not step.obs[row, agent, size:].any()
            assert np.array_equal(step.state[row].numpy(), np.float32(originals[row].state()))
        actions = legal_actions(step.available, generator)
        step = env.step(actions)
        for row, original in enumerate(originals):
            chosen = {name: int(actions[row, agent]) for agent, name in enumerate(names)}
            seen[row], rewards, ended, cut, _ = original.step(chosen)
            assert step.reward[row].tolist() == [np.float32(rewards[name]) for name in names]
            assert bool(step.truncated[row]) == all(cut.values()) == (not original.agents)
            assert not step.terminated[row]
            assert not any(ended.values())
            for agent, (name, size) in enumerate(zip(names, spaces, strict=True)):
                assert np.array_equal(step.final_obs[row, agent, :size].numpy(), np.float32(seen[row][name]))
            if step.truncated[row]:
                ended_rows += 1
                seen[row], _ = original.reset(seed=env._seed_of(row))
    assert ended_rows == 8


def test_legal_actions_by_agent():
    """As many as the agent's own space has; the rest is never legal."""
    for task, counts in (("mpe2.simple_speaker_listener_v4", [3, 5]), ("mpe2.simple_reference_v3", [50, 50])):
        env = make(f"pettingzoo/{task}", num_envs=2, workers=0)
        assert env.spec.num_actions == max(counts)
        assert env.observe().available.sum(2).tolist() == [counts] * 2
        for row, agent in ((0, 0), (1, 1)):
            assert env.observe().available[row, agent, : counts[agent]].all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["", "finishes", "late"]))
def test_agents_of_all_sorts(seed, kind):
    """Masks from observation and info, choices from -1 on, one-hot observations, and agents who leave or join."""
    env = make(f"{FAKE}:kind={kind or repr('')}", num_envs=3, seed=seed, workers=0)
    assert (env.spec.num_agents, env.spec.num_actions, env.spec.obs_size, env.spec.state_size) == (3, 4, 5, 15)
    assert env.spec.episode_limit == 7
    generator = torch.Generator().manual_seed(seed)
    step, total = env.observe(), torch.zeros(3)
    for count in range(21):
        time = count % 7
        there = [time < leaves and (kind != "late" or name != "dict" or time >= 2) for name, leaves in DEPARTS.items()]
        for row in range(3):
            own = [
                [(time % 4 != action or (kind == "late" and time == 2)) for action in range(4)],
                [True, False, True, False],
                [True, True, False, False],
            ]
            absent = [True, False, False, False]
            due = [mask if here else absent for mask, here in zip(own, there, strict=True)]
            assert step.available[row].tolist() == due
            one_hot = [float(there[1] and time % 3 == index) for index in range(3)] + [0.0, 0.0]
            assert step.obs[row, 1].tolist() == one_hot
            assert step.obs[row, 0, 4] == 0
            assert step.obs[row, 0, :4].unique().numel() == 1
            if there[0] and not (kind == "late" and time == 2):
                assert step.obs[row, 0, 0] == step.obs[row, 2, 1]
            assert torch.equal(step.state[row], step.obs[row].flatten())
        actions = legal_actions(step.available, generator)
        step = env.step(actions)
        earned = actions - torch.tensor([0, 1, 0])
        assert torch.equal(step.reward, earned.float() * torch.tensor(there))
        total += step.reward.mean(1)
        last = time == 6
        assert step.terminated.tolist() == [last and kind == "finishes"] * 3
        assert step.truncated.tolist() == [last and kind != "finishes"] * 3
        assert torch.equal(step.info["episode_return"], total)
        assert (step.info["episode_length"] == time + 1).all()
        assert (step.final_obs[:, 2, 0] == time + 1).all()
        if last:
            total = torch.zeros(3)


def test_a_limit_of_our_own_cuts_off():
    env = make(f"{FAKE}:kind=endless", num_envs=2, episode_limit=4, workers=0)
    assert env.spec.episode_limit == 4
    generator, step = torch.Generator().manual_seed(0), env.observe()
    for count in range(1, 13):
        step = env.step(legal_actions(step.available, generator))
        assert step.truncated.tolist() == [count % 4 == 0] * 2
        assert not step.terminated.any()
    longer = make(FAKE, num_envs=1, episode_limit=100, workers=0)
    step = longer.observe()
    for count in range(1, 8):
        step = longer.step(legal_actions(step.available, generator))
        assert bool(step.truncated[0]) == (count == 7)


@pytest.mark.parametrize(("kind", "cause"), [("raises", "RuntimeError: the baton is lost"), ("dies", "SIGKILL")])
def test_a_crashed_worker_names_task_and_seed(kind, cause):
    env = make(f"{FAKE}:kind={kind}", num_envs=2, seed=[7, 8], workers=2, repeatable=False)
    processes = env.processes
    assert len(processes) == 2
    generator, step = torch.Generator().manual_seed(0), env.observe()
    for _ in range(2):
        step = env.step(legal_actions(step.available, generator))
    with pytest.raises(WorkerCrashed, match=rf"pettingzoo/fake_parallel:kind={kind}, seed 7, copy 0, .*{cause}"):
        env.step(legal_actions(step.available, generator))
    assert env.processes == []
    with pytest.raises(InputError, match="closed; make it again"):
        env.step(torch.zeros(4, 3, dtype=torch.long))


def test_an_agent_without_a_legal_action_is_a_fault_of_the_environment():
    env = make(f"{FAKE}:kind=stuck", num_envs=1, workers=0, repeatable=False)
    step = env.step(torch.tensor([[1, 0, 0]]))
    with pytest.raises(WorkerCrashed, match="fake_parallel: dict has no legal action"):
        env.step(legal_actions(step.available, torch.Generator()))


def test_what_its_seed_does_not_decide_is_refused_unless_asked_for():
    with pytest.raises(InputError, match=r"does not decide the episode.*use it with repeatable=False"):
        make(f"{FAKE}:kind=forgetful", num_envs=1, workers=0)
    env = make(f"{FAKE}:kind=forgetful", num_envs=1, workers=0, repeatable=False)
    state = env.state_dict()
    env.step(torch.tensor([[1, 0, 0]]))
    env.load_state_dict(state)
    assert env.observe().info["episode_length"].tolist() == [0]


def test_names_with_arguments():
    assert parse("a.b_v1") == ("a.b_v1", {})
    assert parse("a.b_v1:N=5,local=0.5,mode=fast,on=True") == (
        "a.b_v1",
        {"N": 5, "local": 0.5, "mode": "fast", "on": True},
    )
    env = make("pettingzoo/mpe2.simple_spread_v3:N=5,max_cycles=50", num_envs=1, workers=0)
    assert (env.spec.num_agents, env.spec.obs_size, env.spec.state_size, env.spec.episode_limit) == (5, 30, 150, 50)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "mpe2.simple_spred_v3",
            r"unknown task .*nearest: pettingzoo/mpe2.*or any pettingzoo/<module>",
        ),
        ("mpe2.simple_spread_v3:", "unknown task"),
        ("mpe2.simple_spread_v3:N=", "unknown task"),
        ("mpe2.simple_spread_v3:N", "unknown task"),
        ("no such module", "unknown task"),
        ("json", r"pettingzoo/json has no usable parallel_env \(module 'json' has no attribute 'parallel_env'\)"),
        ("mpe2.simple_spread_v3:M=3", r"refuses the arguments \{'M': 3\} \(.*unexpected keyword argument 'M'\)"),
        ("fake_parallel:kind=picky", r"refuses the arguments .*\(kind must not be picky\)"),
        ("mpe2.simple_spread_v3:continuous_actions=True", r"lets agent_0 act in Box.*only Discrete actions"),
        ("fake_parallel:kind=continuous", r"lets plain act in Box.*only Discrete actions"),
        ("fake_parallel:kind=shapeless", r"shows info Sequence\(.*which has no fixed size"),
        ("fake_parallel:kind=nobody", "does not say who its possible_agents are"),
        ("fake_parallel:kind=endless", "has no max_cycles: say episode_limit"),
        ("needy", "pettingzoo/needy needs the package 'a_package_that_is_not_there'; install it first"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(task, message, tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        make(f"pettingzoo/{task}", num_envs=1, workers=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episode_limit": -1}, "'episode_limit' must be an integer of at least 0"),
        ({"repeatable": "no"}, "'repeatable' must be True or False"),
        ({"workers": -1}, "workers must be an integer of at least 0"),
        ({"N": 3}, "unknown option 'N'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        make("pettingzoo/mpe2.simple_spread_v3", num_envs=1, **options)
