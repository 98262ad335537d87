"""The batched car following against the slow literal one, the fines, and what scripted drivers earn."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inconcert.config import InputError
from inconcert.envs import make
from inconcert.envs.macf import ACCELERATIONS, CAPS, EPISODE_LIMIT, acceleration
from inconcert.envs.macf_players import PLAYERS, act, plan, play
from inconcert.envs.macf_reference import Road

READINGS = [(accelerations, cap) for accelerations in ACCELERATIONS for cap in CAPS]


def mixed_actions(env, generator):
    """Actions that make every case common: random ones, full pushes to the top speed, and drives that arrive."""
    kind = torch.arange(env.num_envs) % 4
    actions = torch.randint(21, (env.num_envs, 2), generator=generator)
    pushing = torch.randint(12, 21, (env.num_envs, 2), generator=generator)
    planned = act("swift", env, generator)
    jitter = torch.rand(env.num_envs, generator=generator) < 0.003
    actions = torch.where((kind == 1)[:, None], pushing, actions)
    return torch.where(((kind >= 2) & ~jitter)[:, None], planned, actions)


def differences(copies, steps, seed, **options):
    env = make("macf/2cars", num_envs=copies, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    roads = [Road(**options) for _ in range(copies)]
    wrong, seen = [], {"won": 0, "truncated": 0, "crashes": 0, "top speed": 0}
    step = env.observe()
    for _ in range(steps):
        actions, noise = mixed_actions(env, generator), env.noise.tolist()
        step = env.step(actions)
        for row, road in enumerate(roads):
            crashes = road.crashes
            reward = road.step(actions[row].tolist(), noise[row])
            due = [reward, road.total, road.steps, road.crashes, sum(road.arrived), road.won, road.truncated]
            due += [*road.state(), *road.observe(0), *road.observe(1)]
            got = [
                float(step.reward[row, 0]), float(step.info["episode_return"][row]),
                int(step.info["episode_length"][row]), int(step.info["crashes"][row]), int(step.info["arrived"][row]),
                bool(step.terminated[row]), bool(step.truncated[row]), *step.final_state[row].tolist(),
                *step.final_obs[row].flatten().tolist(),
            ]  # fmt: skip
            seen["crashes"] += road.crashes - crashes
            seen["won"] += road.won
            seen["truncated"] += road.truncated
            seen["top speed"] += road.speed.count(1.8)
            assert step.info["won"][row] == step.terminated[row]
            assert step.reward[row, 1] == step.reward[row, 0]
            if road.won or road.truncated:
                roads[row] = road = Road(**options)
            due += [*road.state(), *road.observe(0), *road.observe(1)]
            got += [*step.state[row].tolist(), *step.obs[row].flatten().tolist()]
            if not all(abs(one - other) <= 1e-5 * (1 + abs(other)) for one, other in zip(got, due, strict=True)):
                wrong.append((row, got, due))
    return wrong, seen


@pytest.mark.parametrize(("accelerations", "cap"), READINGS)
def test_equals_the_literal_reference(accelerations, cap):
    """Every step of hundreds of episodes: rewards, fines, arrivals, endings, observations."""
    wrong, seen = differences(16, 420, seed=2, accelerations=accelerations, cap=cap)
    assert wrong == []
    assert min(seen.values()) > 10, seen


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), reading=st.sampled_from(READINGS), risk=st.sampled_from([0.0, 0.4, 2.0]))
def test_other_seeds_and_risks_equal_the_literal_reference(seed, reading, risk):
    assert differences(4, 60, seed, accelerations=reading[0], cap=reading[1], risk=risk)[0] == []


def test_positions_are_exact():
    """Thresholds of 0.01 and 0.3 are met in double precision: the same numbers as the original's, bit for bit."""
    env, road = make("macf/2cars", num_envs=1, seed=3), Road()
    generator = torch.Generator().manual_seed(3)
    for _ in range(150):
        actions, noise = torch.randint(5, 21, (1, 2), generator=generator), env.noise[0].tolist()
        env.step(actions)
        road.step(actions[0].tolist(), noise)
        state = env.state_dict()
        assert state["position"][:, 0].tolist() == road.position
        assert state["speed"][:, 0].tolist() == road.speed


def test_accelerations():
    assert acceleration(torch.tensor([0, 20])).tolist() == [-1.0, pytest.approx(1 - 2 / 21)]
    assert acceleration(torch.tensor([0, 10, 20]), "closed").tolist() == pytest.approx([-1.0, 0.0, 1.0])


def test_coasting_at_the_top_speed():
    """With closed accelerations there is one that neither pushes nor brakes; at the top speed that divides 0 by 0."""
    env = make("macf/2cars", num_envs=1, accelerations="closed")
    for _ in range(20):
        env.step(torch.full((1, 2), 20))
    before = env.observe().state[0].tolist()
    assert before[1] == pytest.approx(1.8)
    after = env.step(torch.full((1, 2), 10)).state[0].tolist()
    assert after == pytest.approx([before[0] + 0.18, 1.8, before[2] + 0.18, 1.8], rel=1e-5)


def test_fines_are_as_frequent_as_the_risk():
    """At the top speed 0.32 a step and car (5 sigma); never at or below the limit, never backwards."""
    env = make("macf/2cars", num_envs=1000, seed=5)
    for _ in range(30):
        env.step(torch.full((1000, 2), 20))
    before = env.observe().info["crashes"]
    crashes = env.step(torch.full((1000, 2), 20)).info["crashes"] - before
    assert abs(float(crashes.float().mean()) / 2 - 0.32) < 5 * (0.32 * 0.68 / 2000) ** 0.5
    reverse = make("macf/2cars", num_envs=100, seed=5)
    for _ in range(150):
        step = reverse.step(torch.zeros(100, 2, dtype=torch.long))
    assert step.state[:, 1].max() < -10
    assert not step.info["crashes"].any()


@pytest.mark.parametrize("player", PLAYERS)
def test_scripted_returns(player):
    """Careful drivers arrive and are never fined; swift ones are, and earn more; nobody else brings both cars home."""
    outcome = {name: values.double() for name, values in play(player, 300, seed=1).items()}
    mean = {name: values.mean().item() for name, values in outcome.items()}
    if player in ("swift", "careful"):
        assert outcome["won"].all()
        assert (outcome["arrived"] == 2).all()
        assert mean["episode_length"] == len(plan(1.8 if player == "swift" else 1.0, 0.4, "open"))
        low, high = (-63, -59) if player == "swift" else (-70.2, -70)
        assert low < mean["episode_return"] < high
        assert (mean["crashes"] > 3) == (player == "swift")
    else:
        assert mean["won"] < 0.05
        assert mean["episode_return"] < -1000
        assert mean["arrived"] == 1 or player != "careful, alone"


def test_side_by_side_pays():
    """The same drive alone loses the bonus once the cars are 0.3 apart, and the goal's."""
    together, alone = (make("macf/2cars", num_envs=1) for _ in range(2))
    generator = torch.Generator()
    rewards = [[float(env.step(act(name, env, generator)).reward[0, 0]) for _ in range(20)]
               for env, name in ((together, "careful"), (alone, "careful, alone"))]  # fmt: skip
    gap = [one - other for one, other in zip(*rewards, strict=True)]
    assert gap[0] < 0.01
    assert gap[-1] > 1


def test_bad_input():
    with pytest.raises(InputError, match="unknown task 'macf/3cars'; nearest: macf/2cars"):
        make("macf/3cars")
    for options, message in (
        ({"accelerations": "opn"}, "unknown accelerations 'opn'; nearest: open"),
        ({"cap": 3}, "unknown cap 3; valid: rounded, exact"),
        ({"risk": -0.1}, "'risk' must be a number of at least 0"),
        ({"debug": 1}, "'debug' must be True or False"),
    ):
        with pytest.raises(InputError, match=message):
            make("macf/2cars", **options)
    with pytest.raises(InputError, match="unknown player 'swft'; nearest: swift"):
        play("swft", 1)
    env = make("macf/2cars", num_envs=3, debug=True)
    actions = torch.zeros(3, 2, dtype=torch.long)
    actions[1, 1] = 21
    with pytest.raises(InputError, match=r"illegal action 21 of agent 1 in row 1; valid: 0, 1, "):
        env.step(actions)
    good = env.state_dict()
    for name, value in (("speed", 3), ("time", EPISODE_LIMIT), ("crashes", -1), ("used", 64)):
        with pytest.raises(InputError, match="no state of this environment"):
            env.load_state_dict(good | {name: torch.full_like(good[name], value)})
