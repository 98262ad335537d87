"""What every on-policy algorithm promises, as checks to call: `module` is the algorithm's, `config` a tiny setting."""

import dataclasses

import torch

from inconcert import joint, onpolicy, scaling

TINY = {
    "task": "coordsum/3x4-7", "seeds": (3, 5), "num_envs": 4, "rollout": 20, "updates": 2, "epochs": 2,
    "minibatches": 2, "adam_eps": 1e-3, "eval_every": 1, "eval_episodes": 3, "final_episodes": 4, "max_grad_norm": 0.5,
}  # fmt: skip
"""Adam's epsilon is large, so that it does not blow the rounding of tiny gradients up to differences of a step."""
EASY = {
    "task": "coordsum/2x2-2", "env_options": {"target_bound": "inclusive", "observe_step": False},
    "seeds": (0, 1, 2, 3), "num_envs": 16, "rollout": 50, "updates": 30, "epochs": 4, "minibatches": 2,
    "gae_lambda": 0.5, "clip": 0.1, "ent_coef": 0.0, "max_grad_norm": 5.0, "eval_every": 30, "eval_episodes": 32,
    "final_episodes": 64,
}  # fmt: skip
"""Two agents, two actions, targets 0..2: a random player earns about 50, one answer for each target about 101."""


def trained(module, config, count=10**9, state=None):
    """Evaluations with the state after each, at most `count` of them."""
    result = []
    for evaluation in module.train(config, state=state):
        result.append((evaluation, evaluation.state()))
        if len(result) == count:
            break
    return result


def check_pieces(algorithm, config, monkeypatch):
    """A minibatch learnt in pieces, which do not come out even, is the minibatch learnt at once."""
    learner, env, now = scaling.start(algorithm, config)
    data = onpolicy.collect(learner, env, now, 1)
    batch = next(onpolicy.minibatches(config, data, 1, ("memory",)))
    columns = batch["action"].shape[2]
    whole, signs = gradients(learner, batch)
    monkeypatch.setattr(joint, "PIECE", batch["action"][..., 0].numel() // 2 - 1)  # three pieces
    sizes = [b["memory"].shape[1] for _, b in joint.pieces(batch, ("memory",), joint.PIECE)]
    assert len(sizes) == 3
    assert len(set(sizes)) == 2
    assert sum(sizes) == columns
    parts, own = gradients(learner, batch)
    for one, two in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    assert signs.keys() == own.keys()
    for name, sign in signs.items():
        torch.testing.assert_close(sign, own[name], rtol=1e-4, atol=1e-6)


def gradients(learner, batch):
    """Copies of the gradients of one minibatch, and the diagnostics."""
    signs = learner.gradients(batch)
    return [p.grad.clone() for p in learner.model.parameters()], signs


def check_company(module, config):
    """A seed in company is the seed alone, to float tolerance."""
    together, alone = trained(module, config), trained(module, dataclasses.replace(config, seeds=config.seeds[1:]))
    assert [e.phase for e, _ in together] == ["curve"] * 3 + ["best", "last"]
    networks = {name for name in together[0][1] if name.startswith("network-")}
    for (both, state), (one, single) in zip(together, alone, strict=True):
        torch.testing.assert_close(
            both.outcomes["sampled"]["episode_return"][1:], one.outcomes["sampled"]["episode_return"]
        )
        for name in networks:
            torch.testing.assert_close(state[name][-single[name].shape[0] :], single[name], rtol=1e-3, atol=1e-5)
    first = together[0][1]
    drawn = [name for name in networks if name.endswith("weight")]
    assert drawn
    assert all(not torch.equal(first[name][0], first[name][-1]) for name in drawn)


def check_resume(module, config):
    """Continued after any evaluation, a run ends with the same numbers, bit for bit."""
    whole = trained(module, config)
    for stop in (1, 2):
        _, middle = trained(module, config, stop)[-1]
        rest = trained(module, config, state=middle)
        assert len(rest) == len(whole) - stop
        for (one, state), (two, resumed) in zip(whole[stop:], rest, strict=True):
            assert (one.update, one.phase) == (two.update, two.phase)
            assert one.outcomes.keys() == two.outcomes.keys()
            for mode, outcomes in one.outcomes.items():
                assert all(torch.equal(value, two.outcomes[mode][name]) for name, value in outcomes.items())
            assert state.keys() == resumed.keys()
            assert all(torch.equal(state[name], resumed[name]) for name in state)
            assert all(torch.equal(one.metrics[name], two.metrics[name]) for name in one.metrics)


def check_gradients_flow(module, config, still=()):
    """After one update every parameter has moved, but for those whose name ends with one of `still`.

    With Adam's epsilon this small a step has the size of the learning rate, however small the gradient is: a scale of
    1 cannot take a step that is lost in rounding.
    """
    (_, start), (_, end) = trained(module, dataclasses.replace(config, updates=1, adam_eps=1e-20), 2)
    for name, value in start.items():
        if name.startswith("network-") and not name.endswith(tuple(still) or ("\0",)):
            assert not torch.equal(value, end[name]), name


def check_it_learns(module, config):
    """From random to nearly one fixed answer for each target, on the `EASY` task."""
    result = trained(module, config)
    assert (result[0][0].outcomes["sampled"]["episode_return"].mean(1) < 75).all()
    assert (result[-1][0].outcomes["sampled"]["episode_return"].mean(1) > 95).all()
