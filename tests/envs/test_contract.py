"""`make` and the contract that every environment keeps, whatever its suite."""

import subprocess
import sys

import pytest
import torch

import inconcert
from inconcert import envs
from inconcert.config import InputError

TASK = "coordsum/3x10-30"


OUTSIDE = ("football", "smac", "smacv2", "lbf", "rware", "connector", "smax", "jaxmpe")
"""Suites that need more than `make book` installs, or compile for long; their own tests hold them to this contract."""


@pytest.fixture(params=[task for task in envs.tasks() if task.partition("/")[0] not in OUTSIDE])
def task(request):
    return request.param


def make(task, **arguments):
    """Environments that play in worker processes play in this one: their own tests start some."""
    workers = {"workers": 0} if task.startswith("pettingzoo/") else {}
    return envs.make(task, **arguments, **workers)


def act(env, generator):
    """Legal actions, the later ones likelier: drawn evenly, cars would never be fast enough for chance to matter."""
    weight = env.observe().available.flatten(0, 1).cpu() * torch.arange(1.0, env.spec.num_actions + 1)
    return torch.multinomial(weight, 1, generator=generator).view(env.num_envs, env.spec.num_agents)


def test_shapes_types_and_devices(task):
    env = make(task, num_envs=3, seed=[5, 6])
    generator = torch.Generator().manual_seed(0)
    spec, rows = env.spec, 6
    assert env.num_envs == rows
    assert env.seeds == (5, 6)
    for step in (env.reset(), env.observe(), env.step(act(env, generator))):
        expected = {
            "obs": ((rows, spec.num_agents, spec.obs_size), torch.float32),
            "state": ((rows, spec.state_size), torch.float32),
            "available": ((rows, spec.num_agents, spec.num_actions), torch.bool),
            "reward": ((rows, spec.num_agents), torch.float32),
            "terminated": ((rows,), torch.bool),
            "truncated": ((rows,), torch.bool),
            "final_obs": ((rows, spec.num_agents, spec.obs_size), torch.float32),
            "final_state": ((rows, spec.state_size), torch.float32),
        }
        for name, (shape, dtype) in expected.items():
            tensor = getattr(step, name)
            assert (name, tuple(tensor.shape), tensor.dtype) == (name, shape, dtype)
            assert tensor.device == env.device
        assert {"episode_return", "episode_length", spec.metric} <= set(step.info)
        assert all(tensor.shape == (rows,) for tensor in step.info.values())
        assert step.available.any(-1).all()


def test_first_step_has_no_reward_and_no_end(task):
    step = make(task, num_envs=2).reset()
    assert not step.reward.any()
    assert not step.terminated.any()
    assert not step.truncated.any()


def test_auto_reset_and_episode_sums(task):
    """Rewards summed by the caller over an episode are what the environment reports; the next episode starts from 0."""
    env = make(task, num_envs=4, seed=1)
    generator = torch.Generator().manual_seed(1)
    env.reset()
    total, length, ended_rows = torch.zeros(4), torch.zeros(4, dtype=torch.long), 0
    for _ in range(3 * env.spec.episode_limit):
        step = env.step(act(env, generator))
        total += step.reward.mean(1)
        length += 1
        ended = step.terminated | step.truncated
        assert not (step.terminated & step.truncated).any()
        assert torch.equal(step.info["episode_return"][ended], total[ended])
        assert torch.equal(step.info["episode_length"][ended], length[ended])
        assert torch.equal(step.final_obs[~ended], step.obs[~ended])
        assert torch.equal(step.final_state[~ended], step.state[~ended])
        now = env.observe()
        assert torch.equal(now.obs, step.obs)
        assert torch.equal(now.state, step.state)
        total[ended], length[ended] = 0, 0
        ended_rows += int(ended.sum())
    assert ended_rows >= 3 * 4


def test_steps_stay_valid(task):
    """What a step returned is not overwritten by later steps and restarts."""
    env = make(task, num_envs=2, seed=2)
    generator = torch.Generator().manual_seed(2)
    kept = [env.reset()]
    copies = [flat(kept[0])]
    for _ in range(2 * env.spec.episode_limit + 3):
        kept.append(env.step(act(env, generator)))
        copies.append(flat(kept[-1]))
    for step, copy in zip(kept, copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(flat(step), copy, strict=True))


def test_same_seed_same_episodes_other_seed_other(task):
    runs = [trace(make(task, num_envs=3, seed=seed), steps=130) for seed in (7, 7, 8)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_a_seeds_block_is_that_seed_alone(task):
    seeds, copies = [3, 1, 4], 2
    together = make(task, num_envs=copies, seed=seeds)
    generator = torch.Generator().manual_seed(9)
    actions = [act(together, generator) for _ in range(250)]
    whole = trace(together, actions=actions)
    for index, seed in enumerate(seeds):
        block = slice(index * copies, (index + 1) * copies)
        alone = trace(make(task, num_envs=copies, seed=seed), actions=[a[block] for a in actions])
        assert same([[tensor[block] for tensor in step] for step in whole], alone)


def test_rows_and_seeds_differ(task):
    """No two rows are copies of each other, within a seed or between seeds."""
    whole = trace(make(task, num_envs=2, seed=[0, 1]), steps=20)
    rows = [torch.stack([step[1][row] for step in whole]) for row in range(4)]
    assert all(not torch.equal(rows[i], rows[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize("before", [0, 1, 99, 100, 137])
def test_state_round_trip(task, before):
    """A saved state, in any environment made the same way, continues to the same future; saving does not disturb."""
    env = make(task, num_envs=3, seed=[1, 2])
    generator = torch.Generator().manual_seed(3)
    env.reset()
    for _ in range(before):
        env.step(act(env, generator))
    state = env.state_dict()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    actions = [act(env, generator) for _ in range(230)]
    future = trace(env, actions=actions, reset=False)
    assert all(torch.equal(state[name], kept[name]) for name in kept), "the saved state changed with the environment"

    other = make(task, num_envs=3, seed=[8, 9])
    other.reset()
    other.load_state_dict(state)
    for tensor in state.values():  # whoever loaded it has its own copy
        tensor.zero_()
    assert same(trace(other, actions=actions, reset=False), future)


def test_state_survives_a_file(task, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    env = make(task, num_envs=2)
    safetensors.save_file(env.state_dict(), tmp_path / "state")
    env.load_state_dict(safetensors.load_file(tmp_path / "state"))


def test_foreign_state_is_refused(task):
    env = make(task, num_envs=2)
    before = flat(env.observe())
    with pytest.raises(InputError, match="no state of this environment"):
        env.load_state_dict(make(task, num_envs=3, seed=1).state_dict())
    state = make(task, num_envs=2, seed=1).state_dict()
    state.pop(list(state)[-1])
    with pytest.raises(InputError, match="is missing"):
        env.load_state_dict(state)
    spoiled = make(task, num_envs=2, seed=1).state_dict()
    for name in {"generators", "targets", "time", "length"} & spoiled.keys():
        with pytest.raises(InputError, match="no state of this environment"):
            env.load_state_dict(spoiled | {name: torch.full_like(spoiled[name], 200)})
    assert all(torch.equal(a, b) for a, b in zip(flat(env.observe()), before, strict=True))


@pytest.mark.parametrize("actions", [torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.long), torch.zeros(2).long()])
def test_wrong_actions_are_refused(actions):
    env = envs.make(TASK, num_envs=2)
    with pytest.raises(InputError, match=r"actions must be integers of shape \(2, 3\)"):
        env.step(actions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "coordsm/3x10-30"}, "unknown task 'coordsm/3x10-30'; nearest: coordsum/3x10-30"),
        ({"task": "coordsum"}, r"unknown task.*or any coordsum/<agents>x<actions>-<max_target>"),
        ({"task": "coordsum/3x10"}, r"unknown task.*nearest: coordsum/3x10-30.*any coordsum/<agents>x<actions>-<max"),
        ({"task": "coordsum/3x0-30"}, "unknown task"),
        ({"task": "coordsum/3x10-30 "}, "unknown task"),
        ({"task": None}, "unknown task None"),
        ({"gues": "clamped"}, "unknown option 'gues'; nearest: guess;"),
        ({"seeds": (1,)}, "unknown option 'seeds'"),
        ({"guess": "clampd"}, "unknown guess 'clampd'; nearest: clamped;"),
        ({"target_bound": "open"}, "unknown target_bound 'open'.*exclusive, inclusive"),
        ({"observe_step": "no"}, "'observe_step' must be True or False, not 'no'"),
        ({"num_envs": 0}, "num_envs must be an integer of at least 1, not 0"),
        ({"num_envs": "five"}, "num_envs must be an integer of at least 1, not 'five'"),
        ({"num_envs": True}, "num_envs must be"),
        ({"seed": -1}, "seed must be an integer of at least 0, not -1"),
        ({"seed": "five"}, "seed must be an integer of at least 0, not 'five'"),
        ({"seed": [1, 2.5]}, "seed must be an integer of at least 0, not 2.5"),
        ({"seed": []}, "non-empty"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        pytest.param(
            {"device": "cuda"},
            "'cuda' is not usable",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_bad_input_is_one_helpful_line(arguments, message):
    with pytest.raises(InputError, match=message) as error:
        envs.make(**({"task": TASK} | arguments))
    assert "\n" not in str(error.value)


def test_tasks_are_listed_and_can_be_made():
    assert "coordsum/8x15-100" in envs.tasks()
    assert envs.tasks("coordsum") == [f"coordsum/{name}" for name in ("3x10-30", "3x30-50", "5x20-80", "8x15-100")]
    with pytest.raises(InputError, match="unknown suite 'coordsam'; nearest: coordsum"):
        envs.tasks("coordsam")


def test_streams_are_apart():
    """The targets of a seed are not the numbers that a generator seeded with the same integer gives."""
    names = {envs.stream_seed(stream, seed) for stream in ("coordsum", "other") for seed in range(1000)}
    assert len(names) == 2000
    assert all(0 <= name < 2**63 for name in names)
    plain = torch.randint(30, (101, 50), generator=torch.Generator().manual_seed(0))
    assert not torch.equal(envs.make(TASK, num_envs=50, seed=0).target, plain[0])


def test_import_is_light():
    """`import inconcert` loads neither torch nor any suite, and `inconcert.make` still works."""
    code = (
        "import sys, inconcert; assert 'torch' not in sys.modules; import inconcert.envs; "
        "assert 'inconcert.envs.coordsum' not in sys.modules; inconcert.make('coordsum/3x10-30', num_envs=1); "
        "assert 'inconcert.envs.coordsum' in sys.modules; assert 'pettingzoo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'mak'"):
        _ = inconcert.mak


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_and_does_not_wait(task):
    """Same episodes and rewards as on the CPU; no step makes the host wait for the device."""
    cpu, cuda = (make(task, num_envs=4, seed=[1, 2], device=device) for device in ("cpu", "cuda"))
    generator = torch.Generator().manual_seed(4)
    actions = [act(cpu, generator) for _ in range(230)]
    on_device = [one.cuda() for one in actions]
    cuda.reset()
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps = [cuda.step(one) for one in on_device]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    moved = [[tensor.cpu() for tensor in flat(step)] for step in steps]
    expected = trace(cpu, actions=actions)[1:]
    if task.startswith(("mpe/", "spread/")):  # exp and log of the two devices differ in the last bit
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)
    else:
        assert same(expected, moved)


def flat(step):
    """All tensors of a step, copied."""
    return [tensor.clone() for tensor in (*step[:-1], *step.info.values())]


def trace(env, steps=0, actions=None, reset=True):
    """All steps of a run, with the given or with random actions."""
    if actions is None:
        generator = torch.Generator().manual_seed(0)
        actions = [act(env, generator) for _ in range(steps)]
    first = env.reset() if reset else env.observe()
    return [flat(first), *(flat(env.step(one)) for one in actions)]


def same(one, other):
    return all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )
