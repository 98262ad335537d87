"""MAT: the decoder that acts against the one that trains, and the contracts of every algorithm."""

import pytest
import torch
from common import EASY, TINY, check_company, check_gradients_flow, check_it_learns, check_pieces, check_resume

from inconcert import envs, onpolicy, published
from inconcert.algorithms import mat
from inconcert.config import InputError

KINDS = [{"heads": 2, "blocks": 2}, {"agent_order": "shuffled"}]


def config(base=TINY, **changes):
    return mat.Config(**{**base, "embed": 8, "heads": 1, "blocks": 1, "lr": 1e-3, **changes})


def model(cfg, spec):
    network = mat.network(cfg, spec).double()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return network


def moment(spec):
    generator = torch.Generator().manual_seed(1)
    shape = (2, 1, 5, spec.num_agents)
    obs = torch.randn(*shape, spec.num_agents + spec.obs_size, generator=generator, dtype=torch.float64)
    available = torch.ones(*shape, spec.num_actions, dtype=torch.bool)
    available[:, :, ::2, 1, 2] = False
    action = torch.randint(2, shape, generator=generator)
    return obs, available, action, torch.ones(shape[:3], dtype=torch.bool)


def test_acting_agent_by_agent_is_the_training_pass():
    spec = envs.make("coordsum/3x4-7").spec
    network = model(config(**KINDS[0]), spec)
    obs, available, action, start = moment(spec)
    log_probs, value = network(obs, available, action, network.blank(5), start)
    own_value, now = network.begin(obs[:, 0], start[:, 0], network.blank(5))
    torch.testing.assert_close(own_value, value[:, 0])
    for j in range(3):
        logits = network.decide(now, j, action[:, 0, :, j - 1] if j else None)
        own = logits.masked_fill(~available[:, 0, :, j], -torch.inf).log_softmax(-1)
        torch.testing.assert_close(own, log_probs[:, 0, :, j])


def test_an_agent_sees_earlier_actions_no_later_ones_and_all_observations():
    spec = envs.make("coordsum/3x4-7").spec
    network = model(config(), spec)
    obs, available, action, start = moment(spec)
    before, _ = network(obs, available, action, network.blank(5), start)
    for agent in range(3):
        other = action.clone()
        other[..., agent] = 1 - other[..., agent]
        after, _ = network(obs, available, other, network.blank(5), start)
        same = [torch.equal(after[..., j, :], before[..., j, :]) for j in range(3)]
        assert same == [j <= agent for j in range(3)]
    seen = obs.clone()
    seen[..., 2, :] += torch.randn(seen.shape[-1], dtype=torch.float64)
    after, _ = network(seen, available, action, network.blank(5), start)
    assert (after[..., 0, :] != before[..., 0, :]).any()


def test_a_replayed_rollout_gives_the_probabilities_it_was_played_with():
    cfg = config(minibatches=1)
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds)
    learner = mat.learner(cfg, env.spec, "cpu")
    start = torch.ones(2, cfg.num_envs, dtype=torch.bool)
    now = {"step": env.reset(), "start": start, **learner.memories(cfg.num_envs)}
    data = onpolicy.collect(learner, env, now, 1)
    b = next(onpolicy.minibatches(cfg, data, 2, ("memory",)))
    assert learner.gradients(b)["kl"].abs().max() < 1e-6


@pytest.mark.parametrize("changes", KINDS)
def test_a_seed_in_company_is_the_seed_alone(changes):
    check_company(mat, config(**changes))


def test_a_minibatch_in_pieces_is_the_minibatch(monkeypatch):
    check_pieces("mat", config(num_envs=5, rollout=4, minibatches=2), monkeypatch)


def test_resuming_is_bit_for_bit():
    check_resume(mat, config(updates=3))


@pytest.mark.parametrize("changes", KINDS)
def test_all_gradients_flow(changes):
    check_gradients_flow(mat, config(**changes))


def test_it_learns():
    check_it_learns(mat, config(EASY, embed=16, lr=3e-3))


@pytest.mark.parametrize("task", sorted(mat.PAPER))
def test_paper_settings_are_the_authors_rows(task):
    table = published.magpo_params()
    row = table[(table["system_name"] == "mat") & ("coordsum/" + table["table_1_row"].astype(str) == task)].iloc[0]
    cfg = mat.configure(task, "paper")
    expected = {
        "minibatches": row["num_minibatches"], "max_grad_norm": row["max_grad_norm"], "epochs": row["ppo_epochs"],
        "clip": row["clip_eps"], "ent_coef": row["ent_coef"], "lr": row["actor_lr"], "embed": row["n_embd"],
        "heads": row["n_head"], "blocks": row["n_block"],
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(cfg, name) == pytest.approx(float(value)), name


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match="embed"):
        config(heads=3)
