"""Parameter sharing: looked-up networks against separate ones, Algorithm 1 in all readings, and SePS's clusters."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inconcert import sharing, stacked, tables
from inconcert.config import InputError
from inconcert.distance import Settings
from inconcert.sharing import Copy, SharedActor, Table, dynamic_sharing

FRONT, BACK = (3, 6, 6), (6, 6, 2)


def table(sizes, count, seeds=2, start=0):
    streams = stacked.generators(range(start, start + seeds), count)
    return Table(tables.orthogonal_rows(sizes, streams, [1.0, 1.0], noise=0.1), sizes, seeds)


# ------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("count", "index"),
    [(4, None), (1, None), (4, [[0, 1, 2, 3], [3, 3, 0, 1]]), (3, [[2, 2, 0, 1], [0, 0, 0, 0]])],
)
def test_every_agent_is_answered_by_its_network(count, index):
    own = table(FRONT, count)
    used = torch.tensor(index) if index else None
    x = torch.randn(2, 4, 5, 3)
    out = own(x, used)
    assert out.shape == (2, 4, 5, 6)
    for s in range(2):
        for n in range(4):
            k = index[s][n] if index else min(n, count - 1)
            row = own.weight[s * count + k].unsqueeze(0)
            torch.testing.assert_close(out[s, n], tables.perceptron(row, x[s, n].unsqueeze(0), FRONT)[0])


def test_agents_that_share_train_one_network_and_leave_the_others_alone():
    own = table(FRONT, 4)
    own(torch.randn(2, 4, 5, 3), torch.tensor([[0, 0, 2, 2], [3, 3, 3, 3]])).square().sum().backward()
    moved = (own.weight.grad != 0).any(1).view(2, 4)
    assert moved.tolist() == [[True, False, True, False], [False, False, False, True]]


def test_a_shared_gradient_is_the_sum_over_its_agents():
    one, x = table(FRONT, 1), torch.randn(2, 4, 5, 3)
    one(x).square().sum().backward()
    many = Table(one.weight.detach().repeat_interleave(4, 0), FRONT, 2)
    many(x).square().sum().backward()
    torch.testing.assert_close(one.weight.grad, many.weight.grad.view(2, 4, -1).sum(1))
    pointed = Table(many.weight.detach().clone(), FRONT, 2)
    pointed(x, torch.full((2, 4), 2)).square().sum().backward()
    torch.testing.assert_close(pointed.weight.grad.view(2, 4, -1)[:, 2], one.weight.grad)


def test_an_actor_is_front_relu_back_and_remembers_who_uses_what():
    index = torch.tensor([[0, 0, 1], [2, 1, 0]]), torch.tensor([[0, 1, 1], [0, 0, 0]])
    actor = SharedActor(table(FRONT, 3), table(BACK, 3, start=5), *index)
    obs = torch.randn(2, 3, 4, 3)
    torch.testing.assert_close(actor(obs), actor.back(actor.front(obs, index[0]).relu(), index[1]))
    other = SharedActor(table(FRONT, 3, start=7), table(BACK, 3), *(torch.zeros_like(i) for i in index))
    other.load_state_dict(actor.state_dict())
    assert torch.equal(other(obs), actor(obs))
    alone = SharedActor(table(FRONT, 1), table(BACK, 1), None, None)
    assert set(alone.state_dict()) == {"front.weight", "back.weight"}


# ---------------------------------------------------------------------------------------------------- dynamic sharing


def matrix(agents, default, **pairs):
    """A distance matrix: `default` but for the pairs named `d01=...`."""
    d = [[0.0 if i == j else default for j in range(agents)] for i in range(agents)]
    for name, value in pairs.items():
        i, j = int(name[1]), int(name[2])
        d[i][j] = d[j][i] = value
    return d


def test_the_three_agent_example():
    """1-2 and 2-3 are close, 1-3 is not: 2 moves to network 1, and 3 to network 2, which agent 2 has just left."""
    d = matrix(3, 0.9, d02=1.8)
    for reading in ("sane", "literal", "code"):
        plan = dynamic_sharing(d, [0, 1, 2], [0, 1, 2], 1.0, reading=reading)
        assert plan == ([0, 0, 1], [0, 1, 2], [])


def test_equal_distances_fuse_to_the_lowest_index():
    plan = dynamic_sharing(matrix(3, 0.9), [0, 1, 2], [0, 1, 2], 1.0)
    assert plan == ([0, 0, 0], [0, 1, 1], [])  # the pair (1, 2) shares its front by then, so its backs fuse
    again = dynamic_sharing(matrix(3, 0.9), plan.front, plan.back, 1.0)
    assert again == ([0, 0, 0], [0, 0, 0], [])


def test_between_the_thresholds_nothing_happens():
    for d in (1.0, 1.5, 2.0):
        for front in ([0, 1, 2], [0, 0, 0]):
            for reading in ("sane", "literal", "code"):
                plan = dynamic_sharing(matrix(3, d), front, [0, 0, 2], 1.0, reading=reading)
                assert plan == (front, [0, 0, 2], [])


def test_division_copies_the_network_in_use():
    d = matrix(3, 2.1, d12=1.5)
    plan = dynamic_sharing(d, [2, 2, 2], [1, 1, 1], 1.0)
    assert plan.front == [2, 1, 0]  # 1 goes to its own place; 2's place is agent 0's now, so it takes the free one
    assert plan.back == [1, 0, 2]
    assert plan.copies == [Copy("front", 2, 1), Copy("back", 1, 0), Copy("front", 2, 0), Copy("back", 1, 2)]
    kept = dynamic_sharing(d, [2, 2, 2], [1, 1, 1], 1.0, divide_backs=False)
    assert kept.back == [1, 1, 1]
    assert kept.front == plan.front
    assert (
        dynamic_sharing(d, [0, 1, 2], [1, 1, 1], 1.0).back == plan.back
    )  # backs divide whether fronts are shared or not


def test_literally_a_division_overwrites_whoever_is_there():
    """Agent 2 uses network 1, which agent 1 takes back."""
    d = matrix(3, 3.0, d02=1.5, d12=1.5)
    literal = dynamic_sharing(d, [0, 0, 1], [0, 1, 2], 1.0, reading="literal")
    assert literal == ([0, 1, 1], [0, 1, 2], [Copy("front", 0, 1)])
    sane = dynamic_sharing(d, [0, 0, 1], [0, 1, 2], 1.0)
    assert sane == ([0, 2, 1], [0, 1, 2], [Copy("front", 0, 2)])


def test_literally_backs_never_change_and_fronts_part_again():
    """The back branch writes front indices: agent 2, on network 0 with agent 1 but far from agent 0, is sent to 1."""
    d = matrix(3, 0.5, d02=1.5)
    plan = dynamic_sharing(d, [0, 0, 0], [0, 1, 2], 1.0, reading="literal")
    assert plan == ([0, 0, 1], [0, 1, 2], [])
    assert dynamic_sharing(d, [0, 0, 0], [0, 1, 2], 1.0) == ([0, 0, 0], [0, 0, 1], [])


def test_the_authors_code_stops_after_one_change_for_each_agent():
    plan = dynamic_sharing(matrix(4, 0.4), [0, 1, 2, 3], [0, 1, 2, 3], 1.0, reading="code")
    assert plan == ([0, 0, 0, 0], [0, 1, 2, 3], [])  # 1 to 0, 2 to 1's, 3 to 2's
    plan = dynamic_sharing(matrix(4, 3.0), [0, 0, 0, 0], [0, 1, 2, 3], 1.0, reading="code")
    assert plan == ([0, 1, 0, 3], [0, 1, 2, 3], [Copy("front", 0, 1), Copy("front", 2, 3)])


def test_the_authors_code_copies_what_agent_i_may_not_use():
    """Agents 1 and 2 are on network 0; agent 2 gets a copy of network 1, which nobody has trained."""
    d = matrix(3, 0.9, d12=3.0, d01=1.5, d02=1.5)
    plan = dynamic_sharing(d, [0, 0, 0], [0, 1, 2], 1.0, reading="code")
    assert plan.copies == [Copy("front", 1, 2)]
    assert dynamic_sharing(d, [0, 0, 0], [0, 1, 2], 1.0).copies == [Copy("front", 0, 2)]


def test_backs_fuse_below_their_own_threshold():
    d = matrix(2, 0.7)
    assert dynamic_sharing(d, [0, 0], [0, 1], 1.0).back == [0, 0]
    assert dynamic_sharing(d, [0, 0], [0, 1], 1.0, back_factor=0.5).back == [0, 1]
    assert dynamic_sharing(d, [0, 0], [0, 1], 1.0, reading="code").back == [0, 1]
    assert dynamic_sharing(torch.tensor(matrix(2, 0.4)), [0, 0], [0, 1], 1.0, reading="code").back == [0, 0]


def points(agents):
    """Distances of points in a plane: a metric. Some points coincide, some are far away."""
    coordinate = st.integers(0, 8).map(lambda x: 0.37 * x)
    return st.lists(st.tuples(coordinate, coordinate), min_size=agents, max_size=agents)


@st.composite
def situations(draw):
    agents = draw(st.integers(2, 7))
    places = torch.tensor(draw(points(agents)))
    indices = st.lists(st.integers(0, agents - 1), min_size=agents, max_size=agents)
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist"), draw(indices), draw(indices)


def contents_after(plan, agents):
    """What lies on each network once the copies are made, by the name of the network it came from."""
    contents = {"front": list(range(agents)), "back": list(range(agents))}
    for copy in plan.copies:
        contents[copy.part][copy.target] = contents[copy.part][copy.source]
    return contents


@given(situations())
def test_invariants_of_the_sane_reading(situation):
    """Indices are valid; no network in use is overwritten; agents that divide keep what they have learnt."""
    d, front, back = situation
    agents = len(front)
    plan = dynamic_sharing(d, front, back, 1.0)
    contents = contents_after(plan, agents)
    for part, before, after in (("front", front, plan.front), ("back", back, plan.back)):
        assert all(0 <= k < agents for k in after)
        targets = [copy.target for copy in plan.copies if copy.part == part]
        for n in range(agents):
            fused = any(d[i, n] < 1.0 for i in range(n))
            if not fused:  # whoever is close to nobody before it goes on with the parameters that it had
                assert contents[part][after[n]] == before[n]
        assert all(target not in before[:1] for target in targets)  # agent 0 never moves
        for one, two in combinations(range(agents), 2):
            if after[one] == after[two] and before[one] != before[two]:  # whoever came together was close to somebody
                assert any(d[i, n] < 1.0 for n in (one, two) for i in range(n))


@given(situations())
def test_no_network_in_use_is_overwritten(situation):
    """Followed step by step: a copy goes to a place that nobody uses at that moment."""
    d, front, back = situation
    used = {"front": list(front), "back": list(back)}
    plan = dynamic_sharing(d, front, back, 1.0)
    for copy in plan.copies:
        assert copy.source != copy.target
    # a division is undone by nothing but a fusion, so without fusions the places can be followed
    alone = torch.where(d < 1.0, 1.0, d).fill_diagonal_(0)
    plan = dynamic_sharing(alone, front, back, 1.0)
    for copy in plan.copies:
        assert copy.target not in used[copy.part]
        mover = next(n for n, k in enumerate(getattr(plan, copy.part)) if k == copy.target)
        assert used[copy.part][mover] == copy.source
        used[copy.part][mover] = copy.target
    assert used == {"front": plan.front, "back": plan.back}


@given(situations())
def test_far_agents_end_up_apart_and_equal_ones_together(situation):
    _, front, back = situation
    agents = len(front)
    far = torch.where(torch.eye(agents) == 1, 0.0, 3.0)
    apart = dynamic_sharing(far, front, back, 1.0)
    assert len(set(apart.front)) == agents
    equal = torch.zeros(agents, agents)
    for _ in range(2):  # fronts first, then backs
        plan = dynamic_sharing(equal, front, back, 1.0)
        front, back = plan.front, plan.back
    assert len(set(front)) == len(set(back)) == 1
    assert not plan.copies


@given(situations())
def test_from_separate_networks_fusing_never_asks_for_a_division(situation):
    """The paper's reason for epsilon_2 = 2 epsilon_1, for any number of agents.

    Whoever is on network k is close to agent k, so two of them are at most twice as far apart.
    """
    d, _, _ = situation
    front = back = list(range(len(d)))
    for _ in range(3):
        front, back, copies = dynamic_sharing(d, front, back, 1.0)
        assert not copies
        assert all(d[k, n] < 1.0 for n, k in enumerate(front))


def test_from_a_shared_front_it_may_ask_for_ever():
    """Agent 3 is close to 0 and 2 and far from 1, all on one front: it is sent away and comes back in every call."""
    places = torch.tensor([[0.0], [-1.9], [0.05], [0.9]])
    d = torch.cdist(places, places)
    front, back = [0, 0, 0, 0], [0, 1, 2, 3]
    for _ in range(3):
        front, back, copies = dynamic_sharing(d, front, back, 1.0)
        assert front == [0, 0, 0, 0]
        assert Copy("front", 0, 3) in copies


def test_the_order_of_the_agents_decides():
    """Three in a row, each close to the next: beginning at an end makes other groups than beginning in the middle."""
    places = torch.tensor([[0.0], [0.9], [1.8]])
    end = dynamic_sharing(torch.cdist(places, places), [0, 1, 2], [0, 1, 2], 1.0).front
    middle = [1, 0, 2]
    other = dynamic_sharing(torch.cdist(places[middle], places[middle]), [0, 1, 2], [0, 1, 2], 1.0).front
    assert len(set(end)) == 2
    assert len(set(other)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"front": [0, 1]}, "equally many agents"),
        ({"distance": [[0.0]]}, "equally many agents"),
        ({"back": [0, 1, 3]}, "from 0 to 2"),
        ({"front": [-1, 1, 2]}, "from 0 to 2"),
        ({"epsilon": 0.0}, "above 0"),
        ({"reading": "san"}, "nearest: sane"),
    ],
)
def test_errors(change, message):
    arguments = {"distance": matrix(3, 1.0), "front": [0, 1, 2], "back": [0, 1, 2], "epsilon": 1.0, **change}
    with pytest.raises(InputError, match=message):
        dynamic_sharing(**arguments)


# --------------------------------------------------------------------------------------------------------------- SePS


def test_clusters_are_found_and_numbered_in_the_order_of_their_first_agents():
    generator = torch.Generator().manual_seed(0)
    groups = [1, 0, 1, 2, 0, 2, 2, 1, 0, 1, 0, 0, 2]
    latent = 5.0 * torch.eye(3)[groups] + 0.1 * torch.randn(13, 3, generator=generator)
    expected = [0, 1, 0, 2, 1, 2, 2, 0, 1, 0, 1, 1, 2]
    assert sharing.clusters(latent, 3) == expected
    assert sharing.clusters(latent) == expected
    assert sharing.clusters(latent, 1) == [0] * 13
    assert sharing.clusters(latent, 13) == list(range(13))


@pytest.mark.parametrize(("agents", "count"), [(3, 4), (2, 0), (3, -1)])
def test_clusters_that_cannot_be(agents, count):
    with pytest.raises(InputError, match="cannot be put into"):
        sharing.clusters(torch.randn(agents, 2), count)


def test_identities_tell_agents_apart_by_what_the_world_answers():
    """Agents see and do the same; the reward of the last two is another function of what they see."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(2, 4, 300, 2, generator=generator)
    action = torch.randint(3, (2, 4, 300), generator=generator)
    reward = 2 * torch.cat([obs[:, :2, :, 0], obs[:, 2:, :, 1]], 1)
    settings = Settings(latent=3, hidden=32, epochs=40, lr=3e-3, kl_weight=1e-4)
    counts = torch.ones(2, 4, 300, dtype=torch.bool)
    latent = sharing.identities(obs, action, reward, obs, counts, 3, [1, 2], settings)
    assert latent.shape == (2, 4, 3)
    for s in range(2):
        d = torch.cdist(latent[s], latent[s])
        assert max(d[0, 1], d[2, 3]) < 0.2 * d[:2, 2:].min()
        assert sharing.clusters(latent[s], 2) == [0, 0, 1, 1]
    alone = sharing.identities(*(x[1:] for x in (obs, action, reward, obs, counts)), 3, [2], settings)
    torch.testing.assert_close(alone, latent[1:], rtol=1e-2, atol=1e-2)
