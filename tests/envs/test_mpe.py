"""The batched particle worlds against the package `mpe2`, and both rule books against results worked out by hand."""

import pytest
import torch

from inconcert.config import InputError
from inconcert.envs import make, particles
from inconcert.envs.mpe import RULES, TASKS
from inconcert.envs.mpe_players import PLAYERS, play
from inconcert.envs.mpe_reference import PackageWorld, difference


def inward(step, generator):
    """Moves of simple_spread: two in three towards the middle, along the axis that is further away, the others random.

    Agents that all want to be in one place push each other all the time.
    """
    place = step.obs[..., 2:4]
    axis = place.abs().argmax(-1, keepdim=True)
    back = 1 + 2 * axis + (place.gather(-1, axis) < 0)
    drawn = torch.randint(5, back.shape, generator=generator)
    return torch.where(torch.rand(back.shape, generator=generator) < 2 / 3, back, drawn).squeeze(-1)


def worst_difference(task, rules, rows, seed, reward="team", crowded=False):
    """Largest difference over whole episodes of `rows` worlds, and the share of steps in which some agents touch."""
    ours = make(f"mpe/{task}", num_envs=rows, seed=seed, rules=rules, reward=reward)
    theirs = [PackageWorld(task, rules) for _ in range(rows)]
    for row, world in enumerate(theirs):
        world.put(ours, row)
    generator = torch.Generator().manual_seed(seed)
    step, worst, touching = ours.observe(), 0.0, 0.0
    for time in range(25):
        actions = inward(step, generator) if crowded else PLAYERS["random"](ours, step, generator)
        if crowded:  # collisions amplify the last digit, so the two worlds are made equal before every step
            for row, world in enumerate(theirs):
                world.put(ours, row)
        step = ours.step(actions)
        if crowded:
            _, distance = particles.apart(*[step.final_obs[..., 2:4].permute(2, 1, 0)] * 2)
            touching += ((distance < 0.3).sum((0, 1)) > 3).float().mean().item() / 25
        for row, world in enumerate(theirs):
            worst = max(worst, difference(step, row, world.step(actions[row].tolist()), reward))
        assert step.truncated.tolist() == [time == 24] * rows
    return worst, touching


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("task", TASKS)
def test_step_by_step_like_the_package(task, rules):
    """40 episodes of each task, started from the same worlds, random actions: all that is seen and earned."""
    worst, _ = worst_difference(task, rules, rows=40, seed=1)
    assert worst < 1e-4


@pytest.mark.parametrize("rules", RULES)
def test_crowds_push_like_in_the_package(rules):
    worst, touching = worst_difference("simple_spread", rules, rows=40, seed=2, reward="own", crowded=True)
    assert worst < 1e-4
    assert touching > 0.2


@pytest.mark.parametrize("task", ["simple_reference", "simple_speaker_listener"])
def test_own_rewards_like_in_the_package(task):
    assert worst_difference(task, "current", rows=5, seed=3, reward="own")[0] < 1e-4


@pytest.mark.parametrize("task", TASKS)
def test_spaces_like_in_the_package(task):
    """Actions and features of each agent, and how many of the batch's are padding."""
    env, theirs = make(f"mpe/{task}", num_envs=2), PackageWorld(task).env
    step = env.observe()
    for agent, name in enumerate(theirs.possible_agents):
        own = theirs.action_space(name).n
        assert step.available[0, agent].tolist() == [True] * own + [False] * (env.spec.num_actions - own)
    sizes = [theirs.observation_space(name).shape[0] for name in theirs.possible_agents]
    assert env.spec.obs_size == max(sizes)
    assert env.spec.state_size == sum(sizes) == theirs.state_space.shape[0]
    assert env.spec.episode_limit == 25


@pytest.mark.parametrize("task", TASKS)
def test_worlds_start_like_the_packages(task):
    """Places and goals of new worlds: range, mean and spread of uniform draws, velocities and words at rest."""
    env = make(f"mpe/{task}", num_envs=4000, seed=4)
    lines = env.scenario.lines
    for part in ("position", "landmarks"):
        places = lines.cut(env.world, part)
        assert places.abs().max() <= 1
        assert places.mean((2,)).abs().max() < 5 * (1 / 3 / 4000) ** 0.5
        assert (places.var(2) - 1 / 3).abs().max() < 0.03
    assert not lines.cut(env.world, "velocity").any()
    if task != "simple_spread":
        colours = lines.cut(env.world, "colour", 3)
        low, high = (0.25, 0.75) if task == "simple_reference" else (0.15, 0.65)
        torch.testing.assert_close(colours.sort(0).values[:, 0, 0], torch.tensor([low, low, high]))
        assert (colours.argmax(0).flatten().bincount() / colours[0].numel() - 1 / 3).abs().max() < 0.04
        goal, landmarks = lines.cut(env.world, "goal"), lines.cut(env.world, "landmarks")
        meant = landmarks.gather(1, colours.argmax(0).expand(2, -1, -1))
        assert torch.equal(goal, meant)
        assert not lines.cut(env.world, "word", lines.parts["word"].stop - lines.parts["word"].start).any()


def alone(rules):
    """A listener in the middle of its world whose goal is the point (1, 0); all by hand."""
    env = make("mpe/simple_speaker_listener", num_envs=1, rules=rules, reward="own")
    lines, state = env.scenario.lines, env.state_dict()
    state["world"][list(lines.parts["position"]), 0] = 0.0
    state["world"][list(lines.parts["goal"]), 0] = torch.tensor([1.0, 0.0])
    env.load_state_dict(state)
    return env


def test_rules_move_a_point_by_hand():
    """Push right twice, then let go. Velocity: 0.5, 0.875, 0.65625 in both; the place lags a step under new rules."""
    travelled = {"legacy": [0.05, 0.1375, 0.203125], "current": [0.0, 0.05, 0.1375]}
    for rules, places in travelled.items():
        env = alone(rules)
        for move, place, velocity in zip((2, 2, 0), places, (0.5, 0.875, 0.65625), strict=True):
            step = env.step(torch.tensor([[0, move]]))
            assert step.obs[0, 1, :2].tolist() == pytest.approx([velocity, 0])
            assert step.reward[0].tolist() == pytest.approx([-((1 - place) ** 2)] * 2)


def test_legacy_spread_touches_itself():
    """The older reward lacks half a point a step and agent: 37.5 an episode. By hand, and for whole random episodes."""
    for rules, reward in (("legacy", "own"), ("legacy", "team"), ("current", "own"), ("current", "team")):
        env = make("mpe/simple_spread", num_envs=1, rules=rules, reward=reward)
        state, lines = env.state_dict(), env.scenario.lines
        # agents 0 and 1 touch, at a distance of 0.2 and not pushing yet; each landmark lies 0.1 above an agent
        x, y = torch.tensor([0.0, 0.2, 1.0]), torch.zeros(3)
        state["world"][list(lines.parts["position"]), 0] = torch.cat([x, y])
        state["world"][list(lines.parts["landmarks"]), 0] = torch.cat([x, y + 0.1])
        env.load_state_dict(state)
        step = env.step(torch.zeros(1, 3, dtype=torch.long))
        apart = 0.2 if rules == "current" else 0.2 + 2 * 0.1 * 0.1 * 100 * 0.1  # 10 N for a tenth of a second, twice
        touch = float(apart < 0.3)
        pushed = (apart - 0.2) / 2
        common = -(0.1 + 2 * min((0.01 + pushed**2) ** 0.5, 9))
        itself = float(rules == "legacy")
        own = [0.5 * common - 0.5 * (itself + touch)] * 2 + [0.5 * common - 0.5 * itself]
        due = own if reward == "own" else [sum(own)] * 3
        assert step.reward[0].tolist() == pytest.approx(due, rel=1e-5)
        assert step.info["team_return"].item() == pytest.approx(sum(own), rel=1e-5)

    # the same velocities: where the two rules put a point a step apart, only the collision term differs by a constant
    still = torch.zeros(200, 3, dtype=torch.long)
    far = {rules: make("mpe/simple_spread", num_envs=200, seed=5, rules=rules) for rules in RULES}
    for env in far.values():
        state, lines = env.state_dict(), env.scenario.lines
        state["world"][list(lines.parts["position"])] += torch.tensor([-9.0, 0, 9, 0, 0, 0])[:, None]
        env.load_state_dict(state)
    for _ in range(25):
        paid = {rules: env.step(still) for rules, env in far.items()}
    difference = paid["legacy"].info["team_return"] - paid["current"].info["team_return"]
    torch.testing.assert_close(difference, torch.full((200,), -37.5), atol=1e-3, rtol=0)


def test_agents_in_one_place_stay_finite():
    env = make("mpe/simple_spread", num_envs=1)
    state = env.state_dict()
    state["world"][list(env.scenario.lines.parts["position"])] = 0.5
    env.load_state_dict(state)
    step = env.step(torch.tensor([[0, 0, 2]]))
    assert step.obs.isfinite().all()
    assert step.obs[0, :, 0].tolist() == pytest.approx([0, 0, 0.5])


def test_team_reward_is_the_sum_of_own_rewards():
    for task in TASKS:
        team, own = (make(f"mpe/{task}", num_envs=20, seed=6, reward=reward) for reward in ("team", "own"))
        generator = torch.Generator().manual_seed(6)
        for _ in range(30):
            actions = PLAYERS["random"](team, team.observe(), generator)
            shared, single = team.step(actions), own.step(actions)
            torch.testing.assert_close(shared.reward, single.reward.sum(1, keepdim=True).expand_as(shared.reward))
            assert torch.equal(shared.info["team_return"], single.info["team_return"])
            assert torch.equal(shared.obs, single.obs)


def test_options_do_not_change_the_worlds():
    for task in TASKS:
        variants = ({}, {"rules": "current"}, {"reward": "own"}, {"surplus": "alias"}, {"debug": True})
        made = [make(f"mpe/{task}", num_envs=3, seed=7, **options) for options in variants]
        for _ in range(2):
            assert all(torch.equal(env.world, made[0].world) for env in made)
            for env in made:
                for _ in range(25):
                    env.step(torch.zeros(3, env.spec.num_agents, dtype=torch.long))


def test_surplus_actions():
    """The speaker's actions 3 and 4 do not exist, or stand for its action 0."""
    masked, alias = (
        make("mpe/simple_speaker_listener", num_envs=1, surplus=surplus) for surplus in ("masked", "alias")
    )
    assert masked.observe().available[0].tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert alias.observe().available.all()
    for said, heard in ((0, 0), (1, 1), (2, 2), (3, 0), (4, 0)):
        step = alias.step(torch.tensor([[said, 0]]))
        assert step.obs[0, 1, 8:].tolist() == [float(word == heard) for word in range(3)]
    step = masked.step(torch.tensor([[3, 0]]))
    assert step.obs[0, 1, 8:].isnan().all(), "an action that does not exist must not pass for another"
    checked = make("mpe/simple_speaker_listener", num_envs=2, debug=True)
    with pytest.raises(InputError, match=r"illegal action 4 of agent 0 in row 1; valid: 0, 1, 2"):
        checked.step(torch.tensor([[2, 4], [4, 4]]))
    assert checked.time == 0


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_narrow_integer_actions(dtype):
    wide, narrow = (make("mpe/simple_reference", num_envs=4, seed=8) for _ in range(2))
    generator = torch.Generator().manual_seed(8)
    for _ in range(5):
        actions = torch.randint(50, (4, 2), generator=generator)
        assert torch.equal(wide.step(actions).obs, narrow.step(actions.to(dtype)).obs)


@pytest.mark.parametrize("rows", [1, 3, 7, 16, 33])
def test_a_row_does_not_depend_on_its_place(rows):
    """The first seed's worlds, alone and in front of others, for batches that fill vector registers differently."""
    alone, among = (make("mpe/simple_spread", num_envs=rows, seed=seed) for seed in (1, [1, 2, 3]))
    generator = torch.Generator().manual_seed(1)
    step = among.observe()
    for _ in range(25):
        actions = inward(step, generator)
        step, part = among.step(actions), alone.step(actions[:rows])
        assert torch.equal(step.obs[:rows], part.obs)
        assert torch.equal(step.reward[:rows], part.reward)
        assert torch.equal(step.info["episode_return"][:rows], part.info["episode_return"])


MEASURED = {  # by independent code: random over 4000 episodes, a script that looks ahead over 20 000
    ("simple_spread", "legacy"): (-115.5, -57.1), ("simple_spread", "current"): (-79.3, -22.9),
    ("simple_reference", "legacy"): (-57.2, -13.5), ("simple_reference", "current"): (-56.7, -15.3),
    ("simple_speaker_listener", "legacy"): (-81.0, -12.3), ("simple_speaker_listener", "current"): (-80.0, -15.0),
}  # fmt: skip


@pytest.mark.parametrize(("task", "rules"), MEASURED)
def test_returns_are_on_the_known_scale(task, rules):
    """Random play as measured elsewhere; our scripts as good as or a little better than the one measured there."""
    blind, able = MEASURED[task, rules]
    found = play("random", f"mpe/{task}", 2000, rules=rules)
    assert abs(found.mean() - blind) < 4 * float(found.std()) / 2000**0.5 + 0.5
    found = play("scripted", f"mpe/{task}", 1000, rules=rules)
    error = float(found.std()) / 1000**0.5
    assert able - 3 * error < found.mean() < able + 3 * error + (3.5 if task == "simple_spread" else 0.4)


def test_scripts_need_only_what_is_observed():
    """A script that is given the observations alone, in other worlds of the same rules, acts the same."""
    for task in TASKS:
        env, other = (make(f"mpe/{task}", num_envs=50, seed=seed) for seed in (1, 2))
        step = env.observe()
        for _ in range(5):
            actions = PLAYERS["scripted"](env, step, torch.Generator())
            assert torch.equal(actions, PLAYERS["scripted"](other, step, torch.Generator()))
            step = env.step(actions)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make("mpe/simple_spred"),
            r"unknown task 'mpe/simple_spred'; nearest: mpe/simple_spread, ",
        ),
        (
            lambda: make("mpe/spread", rules="old"),
            "unknown task 'mpe/spread'.*mpe/simple_reference, mpe/simple_speaker_l",
        ),
        (lambda: make("mpe/simple_spread", rules="legcy"), "unknown rules 'legcy'; nearest: legacy;"),
        (lambda: make("mpe/simple_spread", reward="sum"), "unknown reward 'sum'; valid: team, own"),
        (lambda: make("mpe/simple_spread", surplus=1), "unknown surplus 1; valid: masked, alias"),
        (lambda: make("mpe/simple_spread", rule="legacy"), "unknown option 'rule'; nearest: rules"),
        (lambda: make("mpe/simple_spread", debug=1), "'debug' must be True or False"),
        (lambda: play("best", "mpe/simple_spread", 2), "unknown player 'best'"),
        (lambda: play("random", "coordsum/3x10-30", 2), "play mpe/"),
    ],
)
def test_bad_input_is_one_helpful_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
