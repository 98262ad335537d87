"""The pool of worker processes that brings environments of single copies into the contract."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_games import DIE, RAISE, SLEEP, SPEC, Dice, Forgetful

from inconcert.config import InputError
from inconcert.envs import workers as pool
from inconcert.envs.workers import WorkerCrashed, WorkerEnv

HERE = str(Path(__file__).parent)


def make(num_envs=3, seeds=(5, 6), workers=0, build=Dice, **options):
    return WorkerEnv(
        "dice/two",
        SPEC,
        build,
        num_envs=num_envs,
        seeds=seeds,
        device=torch.device("cpu"),
        workers=workers,
        info={"won": torch.bool, "drawn": torch.float32},
        **options,
    )


def harmless(env, generator):
    """Random legal actions among 0, 1 and 2."""
    weights = env.observe().available[..., :3].float()
    return torch.multinomial(weights.flatten(0, 1), 1, generator=generator).view(env.num_envs, 2)


def flat(step):
    return [tensor.clone() for tensor in (*step[:-1], *(step.info[name] for name in sorted(step.info)))]


def trace(env, steps, reset=False):
    generator = torch.Generator().manual_seed(3)
    first = env.reset() if reset else env.observe()
    return [flat(first), *(flat(env.step(harmless(env, generator))) for _ in range(steps))]


def same(one, other):
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.fixture
def two():
    """An environment of six rows in two processes."""
    env = make(workers=2)
    yield env
    env.close()


def test_processes_play_what_one_process_plays(two):
    assert two.workers == 2
    assert len(multiprocessing.active_children()) >= 2
    assert same(trace(two, 60), trace(make(), 60))
    assert same(trace(two, 20, reset=True), trace(moved_on(make()), 20, reset=True))


def moved_on(env):
    trace(env, 60)
    return env


def test_a_row_is_what_its_game_plays():
    """Row by row against the game itself, restarts, sums, ends and the mask included."""
    env = make()
    seeds = [[env._seed_of(row, ahead) for ahead in range(30)] for row in range(6)]
    assert len({seed for row in seeds for seed in row}) == 180
    assert all(0 <= seed < 2**31 for row in seeds for seed in row)
    games = [Dice() for _ in range(6)]
    now, episode, total = [game.reset(seeds[row][0]) for row, game in enumerate(games)], [0] * 6, [np.float32(0)] * 6
    generator, ends = torch.Generator().manual_seed(8), {"terminated": 0, "truncated": 0}
    for _ in range(80):
        actions = harmless(env, generator)
        step = env.step(actions)
        for row, game in enumerate(games):
            moment, reward, terminated, truncated, info = game.step(actions[row].numpy())
            assert step.final_obs[row].numpy() == pytest.approx(moment.obs, abs=0)
            assert step.final_state[row].numpy() == pytest.approx(moment.state, abs=0)
            assert step.reward[row].numpy() == pytest.approx(np.float32(reward), abs=0)
            assert step.terminated[row] == terminated
            assert step.truncated[row] == (truncated and not terminated)
            assert step.info["won"][row] == bool(info["won"])
            assert step.info["drawn"][row] == np.float32(info["drawn"])
            total[row] += step.reward[row].mean().item()
            assert step.info["episode_return"][row].item() == pytest.approx(total[row], abs=1e-6)
            assert step.info["episode_length"][row] == game.time
            if terminated or truncated:
                ends["terminated" if terminated else "truncated"] += 1
                episode[row] += 1
                moment, total[row] = game.reset(seeds[row][episode[row]]), np.float32(0)
            assert step.obs[row].numpy() == pytest.approx(moment.obs, abs=0)
            assert torch.equal(step.available[row], torch.from_numpy(moment.available))
            now[row] = moment
    assert step.info["won"].dtype == torch.bool
    assert min(ends.values()) > 5


def test_steps_stay_valid():
    """What a step returned is not overwritten by later ones, although all are read from the same memory."""
    env = make()
    generator = torch.Generator().manual_seed(0)
    kept = [env.observe(), *(env.step(harmless(env, generator)) for _ in range(3))]
    copies = [flat(step) for step in kept]
    trace(env, 20)
    assert same([flat(step) for step in kept], copies)


def test_a_seeds_block_is_that_seed_alone():
    whole = make(num_envs=2, seeds=(4, 9, 2))
    generator = torch.Generator().manual_seed(1)
    actions, steps = [], []
    for _ in range(40):
        actions.append(harmless(whole, generator))
        steps.append(flat(whole.step(actions[-1])))
    for index, seed in enumerate((4, 9, 2)):
        block, alone = slice(2 * index, 2 * index + 2), make(num_envs=2, seeds=(seed,))
        assert same([[one[block] for one in step] for step in steps], [flat(alone.step(a[block])) for a in actions])


@pytest.mark.parametrize("before", [0, 1, 7, 33])
def test_state_round_trip(before, two):
    """A state saved anywhere continues to the same future, in another environment of other seeds."""
    env = make()
    trace(env, before)
    state = env.state_dict()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    future = trace(env, 40)
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    other = make(seeds=(8, 1), workers=0) if before else two
    trace(other, 5)
    other.load_state_dict(state)
    for tensor in state.values():
        tensor.zero_()
    assert same(trace(other, 40), future)


def test_foreign_states_are_refused():
    env = make()
    trace(env, 4)
    before, state = flat(env.observe()), env.state_dict()
    for name, spoiled, message in (
        ("stream", None, "'stream' is missing"),
        ("length", torch.full((6,), 9), "out of range"),
        ("episode", torch.full((6,), -1), "out of range"),
        ("played", torch.full((9, 6, 2), 6, dtype=torch.int16), "out of range"),
        ("return", torch.zeros(5), r"'return' is torch.float32 \(5,\), expected torch.float32 \(6,\)"),
    ):
        changed = {key: value for key, value in (state | {name: spoiled}).items() if value is not None}
        with pytest.raises(InputError, match=f"no state of this environment: .*{message}"):
            env.load_state_dict(changed)
        assert all(torch.equal(a, b) for a, b in zip(flat(env.observe()), before, strict=True))


def test_a_replay_that_comes_out_differently_is_noticed():
    env = make(build=Forgetful)
    generator = torch.Generator().manual_seed(1)
    while int(env.state_dict()["length"].max()) < 8:
        env.step(harmless(env, generator))
    with pytest.raises(InputError, match="an episode ends earlier than it did"):
        load_again(env, 50)


def load_again(env, times):
    for _ in range(times):
        env.load_state_dict(env.state_dict())


def test_without_exact_states_a_loaded_one_begins_the_next_episodes():
    env, other = make(exact=False), make(exact=False, seeds=(1, 2))
    trace(env, 11)
    other.load_state_dict(env.state_dict())
    assert same(trace(other, 20), trace(env, 20, reset=True))
    assert env.state_dict()["played"].numel() == 0


@pytest.mark.parametrize(
    ("action", "cause"), [(RAISE, "ZeroDivisionError: three at the second step"), (DIE, "SIGKILL")]
)
def test_a_crash_names_task_and_seed_and_ends_the_others(action, cause, two):
    children = set(multiprocessing.active_children())
    actions = torch.zeros(6, 2, dtype=torch.long)
    two.step(actions)
    actions[:] = 1
    actions[4, 0] = action
    episode_seed = two._seed_of(4)
    place = rf"dice/two, seed 6, copy 1, episode 0 \(begun with {episode_seed}\)"
    with pytest.raises(
        WorkerCrashed, match=rf"a worker crashed in {place}: .*{cause}.*others? workers were shut"
    ) as error:
        two.step(actions)
    assert "\n" not in str(error.value)
    if action == RAISE:
        assert "fake_games.py" in error.value.__notes__[0]
    assert not [child for child in children if child.is_alive()]
    with pytest.raises(InputError, match="this environment is closed; make it again"):
        two.step(torch.zeros(6, 2, dtype=torch.long))


def test_a_crash_without_processes_is_reported_alike():
    env = make()
    env.step(torch.zeros(6, 2, dtype=torch.long))
    actions = torch.ones(6, 2, dtype=torch.long)
    actions[2, 0] = RAISE
    with pytest.raises(WorkerCrashed, match="dice/two, seed 5, copy 2, episode 0"):
        env.step(actions)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_game_that_cannot_be_built_says_what_it_says(workers):
    children = set(multiprocessing.active_children())
    with pytest.raises(InputError, match=r"^this game is not installed; call make dice$"):
        make(workers=workers, build=functools.partial(Dice, broken=True))
    assert set(multiprocessing.active_children()) <= children


@pytest.mark.parametrize("workers", [0, 2])
def test_games_are_closed_when_nobody_refers_to_the_environment(workers, tmp_path):
    env = make(workers=workers, build=functools.partial(Dice, closed=str(tmp_path)))
    pids = set(env.processes) or {os.getpid()}
    assert len(pids) == max(1, workers)
    del env
    assert {int(path.name) for path in tmp_path.iterdir()} == pids
    assert not pids & {child.pid for child in multiprocessing.active_children()}


def test_a_worker_that_hangs_is_ended(two, monkeypatch, tmp_path):
    """A Ctrl-C in the middle of a step: the pool is shut down, a busy worker too."""
    monkeypatch.setattr(pool, "GRACE", 0.1)
    two.step(torch.zeros(6, 2, dtype=torch.long))
    actions = torch.ones(6, 2, dtype=torch.long)
    actions[0, 0] = SLEEP
    children = multiprocessing.active_children()

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            two.step(actions)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not [child for child in children if child.is_alive()]


def test_workers_end_when_their_maker_is_killed(tmp_path):
    code = (
        f"import sys, time; sys.path.insert(0, {HERE!r})\n"
        "from test_workers import make\n"
        "if __name__ == '__main__':\n"
        "    env = make(workers=2)\n"
        "    print(*env.processes, flush=True)\n"
        "    time.sleep(60)\n"
    )
    (tmp_path / "maker.py").write_text(code)
    maker = subprocess.Popen([sys.executable, tmp_path / "maker.py"], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    pids = [int(pid) for pid in maker.stdout.readline().split()]
    assert len(pids) == 2
    maker.kill()
    maker.wait()
    for _ in range(200):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            break
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def in_a_daemon(queue):
    try:
        make(workers=2)
    except InputError as error:
        queue.put((pool.count_workers(None, 8), str(error)))


def test_a_process_that_may_not_start_others_plays_alone():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=in_a_daemon, args=(queue,), daemon=True)
    process.start()
    workers, message = queue.get(timeout=60)
    process.join()
    assert workers == 0
    assert message == "workers must be 0, not 2, in a process that may not start others"


def test_numbers_of_workers():
    assert pool.count_workers(None, 1) == 1
    assert pool.count_workers(None, 1000) == len(os.sched_getaffinity(0))
    assert pool.count_workers(7, 3) == 3
    for wrong in (-1, 1.5, "two", True):
        with pytest.raises(InputError, match="workers must be an integer of at least 0"):
            make(workers=wrong)


def test_actions_are_checked_before_anything_is_played():
    env = make()
    with pytest.raises(InputError, match=r"actions must be integers of shape \(6, 2\), not torch.float32"):
        env.step(torch.zeros(6, 2))
    env.step(torch.ones(6, 2, dtype=torch.long))
    before = flat(env.observe())
    for value, legal in ((1, "0, 2, 3, 4, 5"), (6, "0, 2, 3, 4, 5"), (-1, "0, 2, 3, 4, 5")):
        actions = torch.zeros(6, 2, dtype=torch.long)
        actions[5, 1] = value
        with pytest.raises(InputError, match=f"illegal action {value} of agent 1 in row 5; legal now: {legal}"):
            env.step(actions)
        assert all(torch.equal(a, b) for a, b in zip(flat(env.observe()), before, strict=True))


def test_a_script_without_a_guard_is_told_so(tmp_path):
    code = f"import sys; sys.path.insert(0, {HERE!r}); from test_workers import make; make(workers=1)"
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'must do so below `if __name__ == "__main__":`' in done.stderr
