"""CoordSum as a PettingZoo environment."""

import numpy as np
import pytest
import torch
from pettingzoo.test import parallel_api_test, parallel_seed_test

from inconcert.config import InputError
from inconcert.envs import make, parallel
from inconcert.envs.coordsum import TASKS


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("options", [{}, {"observe_step": False, "target_bound": "inclusive", "guess": "clamped"}])
@pytest.mark.filterwarnings("error::UserWarning")
def test_passes_pettingzoos_own_test(task, options):
    parallel_api_test(parallel(f"coordsum/{task}", **options), num_cycles=250)


def test_passes_pettingzoos_seed_test():
    parallel_seed_test(lambda: parallel("coordsum/3x10-30"), num_cycles=150)


@pytest.mark.parametrize("options", [{}, {"guess": "clamped", "observe_step": False}])
def test_plays_the_episodes_of_the_batched_environment(options):
    """Two episodes in turn from one seed: observations, state, rewards and ends of row 0."""
    vector = make("coordsum/5x20-80", num_envs=1, seed=6, **options)
    env = parallel("coordsum/5x20-80", **options)
    generator = torch.Generator().manual_seed(6)
    due = vector.observe()
    earned = []
    for episode in range(2):
        observations, _ = env.reset(seed=6 if episode == 0 else None)
        for time in range(100):
            assert env.agents == [f"agent_{index}" for index in range(5)]
            assert np.array_equal(np.stack([observations[agent] for agent in env.agents]), due.obs[0].numpy())
            assert np.array_equal(env.state(), due.state[0].numpy())
            actions = torch.randint(20, (1, 5), generator=generator)
            actions[0, 1:] = torch.randint(5, (4,), generator=generator)
            due = vector.step(actions)
            observations, rewards, terminated, truncated, infos = env.step(
                dict(zip(env.agents, actions[0].tolist(), strict=True))
            )
            earned.append(rewards["agent_0"])
            assert list(rewards.values()) == due.reward[0].tolist()
            assert set(terminated.values()) == {time == 99}
            assert not any(truncated.values())
            assert infos["agent_3"]["hit"] == bool(due.info["hit"][0])
            assert infos["agent_3"]["guessed"] == bool(due.info["guessed"][0])
        assert env.agents == []
        assert np.array_equal(observations["agent_2"], due.final_obs[0, 2].numpy())
    assert sum(earned) > 0


def test_reset_without_seed_goes_on():
    env = parallel("coordsum/3x10-1000")
    first = env.reset(seed=1)[0]["agent_0"]
    second = env.reset()[0]["agent_0"]
    assert not np.array_equal(first, second)
    assert np.array_equal(env.reset(seed=1)[0]["agent_0"], first)
    assert np.array_equal(env.reset()[0]["agent_0"], second)


def test_observations_are_the_callers_own():
    env = parallel("coordsum/3x10-30")
    observations, _ = env.reset(seed=1)
    kept = observations["agent_1"].copy()
    observations["agent_0"][:] = -1
    env.state()[:] = -1
    assert np.array_equal(observations["agent_1"], kept)
    assert np.array_equal(env.state(), kept)


def test_bad_input():
    env = parallel("coordsum/3x10-30")
    fine = dict.fromkeys(env.possible_agents, 0)
    with pytest.raises(InputError, match="call reset first"):
        env.step(fine)
    env.reset(seed=0)
    with pytest.raises(InputError, match=r"illegal action 10 of agent_1; valid: 0\.\.9"):
        env.step(fine | {"agent_1": 10})
    with pytest.raises(InputError, match="one action for each of agent_0, agent_1, agent_2; got agent_0"):
        env.step({"agent_0": 0})
    with pytest.raises(InputError, match="seed must be an integer of at least 0"):
        env.reset(seed=-1)
    with pytest.raises(InputError, match="unknown option 'debug'"):
        parallel("coordsum/3x10-30", debug=True)
    with pytest.raises(InputError, match="unknown task"):
        parallel("coordsum/3x10")
    with pytest.raises(InputError, match="unknown guess"):
        parallel("coordsum/3x10-30", guess="per-target")
