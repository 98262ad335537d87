"""Sable: retention against its definition, training form against acting form, and the contracts of every algorithm."""

import dataclasses

import pytest
import torch
from common import EASY, TINY, check_company, check_gradients_flow, check_it_learns, check_pieces, check_resume

from inconcert import envs, onpolicy, published, stacked
from inconcert.algorithms import sable
from inconcert.config import InputError

KINDS = [
    {"memory": "none"},
    {"memory": "recurrent", "heads": 2, "blocks": 2, "timestep_chunk": 4},
    {"memory": "recurrent", "feed_forward": "dead", "agent_order": "shuffled", "initial_states": "stale"},
]


def config(base=TINY, **changes):
    return sable.Config(**{**base, "embed": 8, "heads": 1, "blocks": 1, "lr": 1e-3, **changes})


def model(cfg, spec, dtype=torch.float64):
    """A network whose every parameter is drawn, so that nothing is 0 by initialisation."""
    network = sable.network(cfg, spec).to(dtype)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=dtype))
    return network


def sequence(spec, steps, rows=3, seeds=2):
    """Random observations and actions `[S, c, B, N, ...]` in which episodes begin at several places."""
    generator = torch.Generator().manual_seed(1)
    shape = (seeds, steps, rows, spec.num_agents)
    obs = torch.randn(*shape, spec.num_agents + spec.obs_size, generator=generator, dtype=torch.float64)
    available = torch.rand(*shape, spec.num_actions, generator=generator) < 0.7
    available[..., 0] = True
    action = available.double().argmax(-1)
    start = torch.rand(shape[:3], generator=generator) < 0.15
    return obs, available, action, start


# --------------------------------------------------------------------------------------------------------- retention


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [1, 3, 12])
def test_retention_in_chunks_is_its_definition(masked, length):
    """The sum over all earlier tokens of the episode, each weighed by kappa^age, two heads, written as loops."""
    torch.manual_seed(0)
    steps, agents, heads, size = 12, 3, 2, 4
    kappa = torch.tensor([0.9, 0.5], dtype=torch.float64)
    start = torch.zeros(1, 1, steps, dtype=torch.bool)
    start[..., 5] = start[..., 9] = True
    q, k, v = torch.randn(3, 1, 1, steps, agents, heads, size, dtype=torch.float64)
    state = torch.randn(1, 1, heads, size, size, dtype=torch.float64)

    expected = torch.zeros(steps, agents, heads, size, dtype=torch.float64)
    carried = torch.zeros(heads, size, size, dtype=torch.float64)
    for h in range(heads):
        for t in range(steps):
            first = max(b for b in (0, 5, 9) if b <= t)
            for i in range(agents):
                if first == 0:
                    expected[t, i, h] += kappa[h] ** (t + 1) * q[0, 0, t, i, h] @ state[0, 0, h]
                for past in range(first, t + 1):
                    for j in range(agents):
                        if masked and past == t and j > i:
                            continue
                        weight = kappa[h] ** (t - past) * (q[0, 0, t, i, h] @ k[0, 0, past, j, h])
                        expected[t, i, h] += weight * v[0, 0, past, j, h]
        for past in range(9, steps):
            for j in range(agents):
                carried[h] += kappa[h] ** (steps - 1 - past) * torch.outer(k[0, 0, past, j, h], v[0, 0, past, j, h])

    fading = sable.ages(start, length, agents, kappa)
    cut = [x.flatten(2, 3).unflatten(2, (-1, length * agents)).transpose(3, 4) for x in (q, k, v)]  # [S, B, n, h, C, d]
    weight = fading.masked if masked else fading.inside
    out, after = sable.retain(*cut, weight, fading, state)
    torch.testing.assert_close(out.transpose(3, 4).reshape(steps, agents, heads, size), expected)
    torch.testing.assert_close(after[0, 0], carried)


@pytest.mark.parametrize("changes", [{"memory": "none"}, {"memory": "recurrent", "heads": 2, "blocks": 2}])
def test_training_in_chunks_and_acting_step_by_step_give_the_same_numbers(changes):
    spec = envs.make("coordsum/3x4-7").spec
    obs, available, action, start = sequence(spec, 12)
    results = []
    for chunk in (1, 4, 5, 12):
        network = model(config(timestep_chunk=chunk, rollout=12, **changes), spec)
        memory = network.blank(3)
        memory += torch.rand(memory.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        memory[..., -1] = 4.0  # steps played
        results.append(network(obs, available, action, memory, start))
    for log_probs, value in results[1:]:
        torch.testing.assert_close(log_probs, results[0][0])
        torch.testing.assert_close(value, results[0][1])
    for t in range(12):  # acting, made to choose the same actions
        value, moment = network.begin(obs[:, t], start[:, t], memory)
        for j in range(spec.num_agents):
            logits = network.decide(moment, j, action[:, t, :, j - 1] if j else None)
            own = logits.masked_fill(~available[:, t, :, j], -torch.inf).log_softmax(-1)
            torch.testing.assert_close(own, results[0][0][:, t, :, j])
        torch.testing.assert_close(value, results[0][1][:, t])
        memory = network.finish(moment)


@pytest.mark.parametrize("changes", KINDS[:2])
def test_an_agent_sees_earlier_actions_and_no_later_ones(changes):
    spec = envs.make("coordsum/3x4-7").spec
    obs, available, action, start = sequence(spec, 4)
    available = torch.ones_like(available)
    network = model(config(rollout=4, **changes), spec)
    before, _ = network(obs, available, action, network.blank(3), start)
    for agent in range(3):
        other = action.clone()
        other[:, 2, :, agent] = (other[:, 2, :, agent] + 1) % 4
        after, _ = network(obs, available, other, network.blank(3), start)
        same = (after == before).all(-1).all(0).all(1)  # [c, N]
        assert same[:2].all()
        assert same[2].tolist() == [j <= agent for j in range(3)]
        # what is remembered of a step are its tokens, and the last agent's action is none
        remembers = changes["memory"] == "recurrent" and agent < 2 and bool((~start[:, 3]).any())
        assert same[3].all().item() is not remembers
    seen = obs.clone()
    seen[:, 2, :, 2] += 1.0
    after, _ = network(seen, available, action, network.blank(3), start)
    assert (after[:, 2, :, 0] != before[:, 2, :, 0]).any()


@pytest.mark.parametrize("changes", KINDS[:2])
def test_a_replayed_rollout_gives_the_probabilities_it_was_played_with(changes):
    cfg = config(rollout=120, minibatches=1, **changes)  # longer than an episode: a reset inside
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds)
    learner = sable.learner(cfg, env.spec, "cpu")
    start = torch.ones(2, cfg.num_envs, dtype=torch.bool)
    now = {"step": env.reset(), "start": start, **learner.memories(cfg.num_envs)}
    for update in (1, 2):  # the second rollout begins in mid-episode
        data = onpolicy.collect(learner, env, now, update)
    assert not data["start"][:, 0].any()
    b = next(onpolicy.minibatches(cfg, data, 2, ("memory",)))
    assert learner.gradients(b)["kl"].abs().max() < 1e-6
    _, value = learner.model(b["obs"], b["available"], b["action"], b["memory"], b["start"])
    torch.testing.assert_close(value, b["value"], rtol=1e-4, atol=1e-5)


def test_gradients_by_finite_differences():
    spec = envs.make("coordsum/2x3-4").spec
    cfg = config(rollout=4, memory="recurrent", timestep_chunk=2, embed=4)
    network = model(dataclasses.replace(cfg, seeds=(0,)), spec)
    obs, available, action, start = sequence(spec, 4, rows=2, seeds=1)

    def loss():
        log_probs, value = network(obs, available, action, network.blank(2), start)
        return log_probs.gather(-1, action.unsqueeze(-1)).sum() + value.square().sum()

    loss().backward()
    for name, p in network.named_parameters():
        index = p.grad.abs().argmax()
        with torch.no_grad():
            value = p.view(-1)[index].clone()
            p.view(-1)[index] = value + 1e-6
            high = loss()
            p.view(-1)[index] = value - 1e-6
            low = loss()
            p.view(-1)[index] = value
        assert p.grad.view(-1)[index].item() == pytest.approx(((high - low) / 2e-6).item(), rel=1e-4, abs=1e-6), name


def test_the_dead_feed_forward_part_is_none_at_all():
    spec = envs.make("coordsum/3x4-7").spec
    names = {name for name, _ in model(config(feed_forward="dead"), spec).named_parameters()}
    assert {name for name, _ in model(config(), spec).named_parameters()} > names
    assert not any("feed_forward" in name for name in names)


def test_decays_are_the_authors():
    one = [sable.decays(1, s).item() for s in (1.0, 0.8, 0.5, 0.3)]
    assert one == pytest.approx([0.96875, 0.775, 0.484375, 0.290625])
    assert sable.decays(2, 1.0).tolist() == pytest.approx([1 - 1 / 32, 1 - 1 / 512])


# --------------------------------------------------------------------------------------------------------- contracts


@pytest.mark.parametrize("changes", KINDS)
def test_a_seed_in_company_is_the_seed_alone(changes):
    check_company(sable, config(**changes))


@pytest.mark.parametrize("changes", KINDS)
def test_a_minibatch_in_pieces_is_the_minibatch(changes, monkeypatch):
    check_pieces("sable", config(num_envs=10, minibatches=2, **changes), monkeypatch)


@pytest.mark.parametrize("changes", KINDS[:2])
def test_resuming_is_bit_for_bit(changes):
    check_resume(sable, config(updates=3, **changes))


@pytest.mark.parametrize("changes", KINDS)
def test_all_gradients_flow(changes):
    check_gradients_flow(sable, config(**changes))


def test_it_learns():
    check_it_learns(sable, config(EASY, memory="none", embed=16, lr=3e-3))


@pytest.mark.parametrize("task", sorted(sable.PAPER))
def test_paper_settings_are_the_authors_rows(task):
    table = published.magpo_params()
    row = table[(table["system_name"] == "sable") & ("coordsum/" + table["table_1_row"].astype(str) == task)].iloc[0]
    cfg = sable.configure(task, "paper")
    expected = {
        "minibatches": row["num_minibatches"], "max_grad_norm": row["max_grad_norm"], "epochs": row["ppo_epochs"],
        "clip": row["clip_eps"], "ent_coef": row["ent_coef"], "lr": row["actor_lr"], "embed": row["n_embd"],
        "heads": row["n_head"], "blocks": row["n_block"], "decay": row["decay_scaling_factor"],
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(cfg, name) == pytest.approx(float(value)), name
    assert cfg.updates * cfg.steps_per_update == 19_988_480


@pytest.mark.parametrize("changes", [{"embed": 7}, {"heads": 0}, {"timestep_chunk": 0}])
def test_impossible_settings_are_refused(changes):
    with pytest.raises(InputError, match=next(iter(changes)).split("_")[0]):
        config(**changes)


def test_norms_by_hand():
    x = torch.randn(2, 3, 4)
    rms = stacked.RMSNorm(4, 2)(x)
    torch.testing.assert_close(rms, x / x.square().mean(-1, keepdim=True).sqrt(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        stacked.LayerNorm(4, 2)(x), torch.nn.functional.layer_norm(x, (4,)), rtol=1e-4, atol=1e-5
    )
