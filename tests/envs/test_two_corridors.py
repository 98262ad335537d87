"""The batched two corridors against the slow literal one, the closing, and what scripted players win."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inconcert.config import InputError
from inconcert.envs import make
from inconcert.envs.two_corridors import ACTIONS, ATTACK, NO_OP, REWARDS, STOP, TASKS, floor, sizes
from inconcert.envs.two_corridors_players import PLAYERS, act, play
from inconcert.envs.two_corridors_reference import Skirmish, draw


def mixed_actions(env, name, generator):
    """A third of the rows play at random, a third go together, a third one by one; now and then somebody errs."""
    rows = torch.arange(env.num_envs) % 3
    short, long = sizes(name)
    plans = [act(player, env, short, long, generator) for player in ("random", "long way", "one by one")]
    chosen = torch.stack(plans)[rows, torch.arange(env.num_envs)]
    any_action = torch.randint(len(ACTIONS), chosen.shape, generator=generator)
    return torch.where(torch.rand(chosen.shape, generator=generator) < 0.1, any_action, chosen)


def differences(name, copies, steps, seed, **options):
    env = make(f"two_corridors/{name}", num_envs=copies, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    rules = {key: value for key, value in options.items() if key in ("reward", "observe_flag", "episode_limit")}
    wrong, seen, noise = [], set(), env.noise.tolist()

    def closed():
        return {"open": False, "closed": True}.get(options["corridor"], env.played * copies >= options["closes_after"])

    fights = [Skirmish(row, *sizes(name), closed(), **rules) for row in noise]
    step = env.reset()
    for time in range(steps):
        actions, noise = mixed_actions(env, name, generator), env.noise.tolist()
        step = env.step(actions)
        for row, fight in enumerate(fights):
            reward = fight.step(actions[row].tolist())
            due = [reward, fight.total, fight.steps, fight.won, fight.won or fight.lost, fight.truncated, fight.closed]
            due += [*fight.state(), *fight.observe(0), *fight.observe(1)]
            info = {key: value[row].item() for key, value in step.info.items()}
            got = [step.reward[row, 0].item(), info["episode_return"], info["episode_length"], info["won"]]
            got += [step.terminated[row].item(), step.truncated[row].item(), info["closed"]]
            got += [*step.final_state[row].tolist(), *step.final_obs[row].flatten().tolist()]
            seen |= {"won"} if fight.won else {"lost"} if fight.lost else {"cut off"} if fight.truncated else set()
            seen |= {f"closed {fight.closed}", f"fallen {fight.health.count(0)}"}
            if fight.won or fight.lost or fight.truncated:
                fights[row] = fight = Skirmish(noise[row], *sizes(name), closed(), **rules)
            due += [*fight.state(), *fight.observe(0), *fight.observe(1), *fight.legal(0), *fight.legal(1)]
            due += [part for place in fight.places for part in place] + [*fight.health, fight.enemy_health]
            got += [*step.state[row].tolist(), *step.obs[row].flatten().tolist()]
            got += [*step.available[row].flatten().tolist(), *env.places[row].flatten().tolist()]
            got += env.health[row].tolist()
            assert step.reward[row, 1] == step.reward[row, 0]
            if not all(abs(one - other) <= 1e-5 * (1 + abs(other)) for one, other in zip(got, due, strict=True)):
                wrong.append((time, row, got, due))
    return wrong, seen


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("observe_flag", [True, False])
def test_equals_the_literal_reference(name, reward, observe_flag):
    """Every step, before and after the closing: places, healths, rewards, endings, observations, masks."""
    options = {"corridor": "closes", "closes_after": 1800, "reward": reward, "observe_flag": observe_flag}
    wrong, seen = differences(name, 9, 420, seed=1, **options)
    assert wrong == []
    assert seen >= {"won", "lost", "cut off", "closed False", "closed True", "fallen 0", "fallen 1", "fallen 2"}


@settings(max_examples=15, deadline=None)
@given(
    short=st.integers(1, 7),
    detour=st.integers(1, 4),
    corridor=st.sampled_from(["closes", "open", "closed"]),
    closes_after=st.integers(0, 300),
    episode_limit=st.integers(1, 60),
    seed=st.integers(0, 2**32),
)
def test_other_maps_equal_the_literal_reference(short, detour, corridor, closes_after, episode_limit, seed):
    options = {"corridor": corridor, "closes_after": closes_after, "episode_limit": episode_limit}
    assert differences(f"{short}-{short + 2 * detour}", 3, 70, seed, **options)[0] == []


@pytest.mark.parametrize("name", [*TASKS, "1-3", "2-10"])
def test_maps_are_as_long_as_their_names_say(name):
    short, long = sizes(name)
    drawn = [[cell != "#" for cell in line] for line in draw(short, long, closed=False)]
    assert floor(short, long).tolist() == drawn
    outside = floor(short, long).sum().item() - 2 * 25
    assert outside == short + long


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from([*TASKS, "1-3"]), corridor=st.sampled_from(["open", "closed"]), seed=st.integers(0, 2**32))
def test_masks_say_what_can_be_done(name, corridor, seed):
    """Whatever is legal can be done and does it, whatever is not changes nothing; the fallen only have the no-op."""
    env = make(f"two_corridors/{name}", num_envs=30, seed=seed, corridor=corridor, debug=True)
    loose = make(f"two_corridors/{name}", num_envs=30, seed=seed, corridor=corridor)
    generator = torch.Generator().manual_seed(seed)
    short, long = sizes(name)
    walkable = torch.tensor([[cell == "." for cell in line] for line in draw(short, long, corridor == "closed")])
    for _ in range(60):
        step, places, health = env.observe(), env.places, env.health
        assert torch.equal(step.available[..., NO_OP], health[:, :2] == 0)
        assert torch.equal(step.available[..., STOP], health[:, :2] > 0)
        assert not step.available[..., STOP:][health[:, :2] == 0].any()
        distance = (places - torch.tensor(env.enemy)).square().sum(2)
        assert torch.equal(step.available[..., ATTACK], (distance <= 9) & (health[:, :2] > 0))
        loose.load_state_dict(env.state_dict())
        illegal = (~step.available).float().flatten(0, 1).multinomial(1, generator=generator).view(30, 2)
        after = loose.step(illegal)
        assert torch.equal(loose.places[~after.terminated & ~after.truncated], places[~after.terminated])
        player = PLAYERS[int(torch.randint(4, (), generator=generator))]
        step = env.step(act(player, env, short, long, generator))
        going = ~(step.terminated | step.truncated)
        assert walkable[tuple(env.places[going].flatten(0, 1).t())].all()
        assert (env.places - places).abs().sum(2)[going].max() <= 1


def test_it_closes_by_the_step_count_of_a_seed():
    """In episodes that start at or after `closes_after` steps of the seed's rows together, and only in those."""
    env = make("two_corridors/5-11", num_envs=10, seed=[0, 1], closes_after=400, episode_limit=30)
    stop = torch.full((20, 2), STOP)
    started, flags = [], []
    for time in range(1, 121):
        assert env.closing == (env.played * 10 >= 400)
        step = env.step(stop)
        if time % 30 == 0:
            assert step.truncated.all()
            started.append(time)
            flags.append((bool(step.info["closed"].any()), bool(env.closed.any()), float(step.obs[0, 0, -1])))
    assert started == [30, 60, 90, 120]
    # 300 steps a seed after the first episode, 600 after the second: the third is the first that is closed
    assert flags == [(False, False, 1.0), (False, True, 0.0), (True, True, 0.0), (True, True, 0.0)]


@pytest.mark.parametrize(("corridor", "closed"), [("open", False), ("closed", True)])
def test_the_phase_can_be_pinned(corridor, closed):
    env = make("two_corridors/3-7", num_envs=2, corridor=corridor, closes_after=0, episode_limit=5)
    for _ in range(12):
        assert env.closed.tolist() == [closed] * 2
        env.step(torch.full((2, 2), STOP))


def test_the_phase_is_part_of_the_state():
    options = {"num_envs": 4, "closes_after": 100, "episode_limit": 10}
    old, new = (make("two_corridors/3-7", seed=seed, **options) for seed in (1, 2))
    for _ in range(30):
        old.step(torch.full((4, 2), STOP))
    assert old.closed.all()
    new.load_state_dict(old.state_dict())
    assert new.played == 30
    assert new.closed.all()
    new.reset()
    assert new.closed.all()


@pytest.mark.parametrize("task", TASKS)
def test_scripted_players(task):
    """Together one wins by either corridor; the short way is no way once it is closed; one by one some are lost."""
    won = {
        (player, corridor): play(player, f"two_corridors/{task}", 200, seed=3, corridor=corridor, debug=True)
        for player in PLAYERS
        for corridor in ("open", "closed")
    }
    share = {key: outcome["won"].double().mean().item() for key, outcome in won.items()}
    assert share["short way", "open"] == share["long way", "open"] == share["long way", "closed"] == 1
    assert share["short way", "closed"] == share["one by one", "closed"] == 0
    assert 0.5 < share["one by one", "open"] < 0.9
    assert share["random", "open"] == share["random", "closed"] == 0
    returns = {key: outcome["episode_return"] for key, outcome in won.items()}
    assert torch.allclose(returns["long way", "closed"], torch.tensor(20.0))
    assert not returns["short way", "closed"].any()
    lost = ~won["one by one", "open"]["won"]
    assert (returns["one by one", "open"][lost] < 1).all()
    lengths = {key: outcome["episode_length"].double().mean().item() for key, outcome in won.items()}
    assert lengths["short way", "open"] < lengths["long way", "open"]
    assert lengths["short way", "closed"] == 200


def test_one_alone_loses():
    """An agent is fired at as it comes into range, so one alone shoots four times before it falls."""
    env = make("two_corridors/3-7", num_envs=1, reward="sparse")
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        actions = act("one by one", env, 3, 7, generator)
        actions[0, 1] = STOP if env.health[0, 1] > 0 else NO_OP
        step = env.step(actions)
        if env.health[0, 0] == 0:
            break
    assert env.health[0].tolist() == [0, 5, 8]
    assert not step.terminated[0]
    for _ in range(40):  # the second, too late, takes four more
        actions = act("one by one", env, 3, 7, generator)
        step = env.step(actions)
        if step.terminated[0]:
            break
    assert step.info["episode_return"].item() == -1
    assert not step.info["won"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "two_corridors/5"}, r"unknown task 'two_corridors/5'; .*any two_corridors/<short>-<long>"),
        ({"task": "two_corridors/5-5"}, "no long corridor of 5 cells beside a short one of 5"),
        ({"task": "two_corridors/5-8"}, "longer by 2, 4, 6"),
        ({"corridor": "shut"}, "unknown corridor 'shut'; .*closes, open, closed"),
        ({"reward": "dense"}, "unknown reward 'dense'"),
        ({"closes_after": -1}, "'closes_after' must be an integer of at least 0"),
        ({"closes_after": 1e6}, "'closes_after' must be an integer"),
        ({"episode_limit": 0}, "'episode_limit' must be an integer of at least 1"),
        ({"observe_flag": "yes"}, "'observe_flag' must be True or False"),
        ({"debug": 0}, "'debug' must be True or False"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(InputError, match=message):
        make(**({"task": "two_corridors/5-11", "num_envs": 2} | arguments))


def test_illegal_actions_and_impossible_states_are_refused():
    env = make("two_corridors/5-11", num_envs=3, debug=True)
    actions = torch.full((3, 2), STOP)
    actions[2, 1] = ATTACK
    with pytest.raises(InputError, match=r"illegal action 6 of agent 1 in row 2; valid: 1, "):
        env.step(actions)
    assert env.played == 0
    good = env.state_dict()
    wall = good["place"].clone()
    wall[:, 0, 0] = torch.tensor([0, 6])
    spoiled = [("place", wall), *((name, torch.full_like(good[name], 99)) for name in ("place", "health", "used"))]
    spoiled += [("enemy_health", torch.zeros_like(good["enemy_health"])), ("played", torch.tensor(-1))]
    spoiled += [("time", torch.full_like(good["time"], 200))]
    for name, value in spoiled:
        with pytest.raises(InputError, match="no state of this environment"):
            env.load_state_dict(good | {name: value})
    with pytest.raises(InputError, match="unknown player 'lon way'; nearest: long way"):
        play("lon way", "two_corridors/5-11", 1)
    with pytest.raises(InputError, match=r"play two_corridors/\.\.\., not 'macf/2cars'"):
        play("random", "macf/2cars", 1)
