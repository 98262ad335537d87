"""The fusion experiments: what a case plays, how the record grows and ages, and what is read from it."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_fused import untrained

from inconcert import fused, fusion_results, fusion_trials, measurements, policies, published, records
from inconcert.__main__ import main
from inconcert.config import InputError
from inconcert.fusion_trials import Bench, Case, Trials

SPREAD, SPEAKER = "mpe/simple_spread", "mpe/simple_speaker_listener"
CASE = Case(SPREAD, ("mappo", "hatrpo"))
FEW = {"validation": 3, "test": 4}
SMALLER = {"ALPHAS": (0.0, 1.0), "NOISES": (0.0, 0.01), "FACTORS": (0.95, 1.0), "WEIGHTS": (0.3, 0.5), "EPISODES": FEW}


def small(patch):
    """Untrained policies in place of trained ones, fewer rules and episodes."""
    patch.setattr(fusion_trials, "load", lambda case: [untrained(name, case.task) for name in case.team])
    patch.setattr(fused, "scale", lambda task, **options: (-300.0, -50.0))
    for name, value in SMALLER.items():
        patch.setattr(fusion_trials, name, value)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Folders of this test's own, and a `small` case."""
    (tmp_path / "data" / "runs").mkdir(parents=True)
    monkeypatch.setattr(records, "folders", lambda: (tmp_path / "runs", tmp_path / "data" / "runs"))
    monkeypatch.setattr(measurements, "data_folder", lambda: tmp_path / "data")
    small(monkeypatch)
    path = tmp_path / "data" / "policies" / "policy"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    monkeypatch.setattr(fusion_trials, "_files", lambda case: {"policy": fusion_trials._digest(path)})
    return tmp_path


@pytest.fixture(scope="module")
def played():
    """All rows of a case with every rule."""
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        return pd.concat(fusion_trials.play(CASE._replace(sweeps=True)))


def test_what_a_case_plays(played):
    assert played[fusion_trials.KEYS].drop_duplicates().to_numpy().tolist() == [list(CASE.key)]
    counts = played.groupby(["split", "family", "name"]).size()
    assert (counts == 2).all()  # a row for each seed, and no rule twice
    families = played.groupby("split")["family"].unique().to_dict()
    assert set(families["validation"]) == {"alone", "weight", "kpf", "budget"}
    assert {"oracle", "difference", "pool", "listening", "budget, inner", "budget, every episode"} < set(
        families["test"]
    )
    grid = played[(played["family"] == "kpf") & (played["split"] == "test")]
    assert grid["name"].nunique() - 4 in (0, 1)  # those with the plain ratio, and what was chosen
    ratio = grid.loc[grid["name"] == "alpha 0, noise 0, r2 x1", "r2"].iloc[0]
    tried = played.query("family == 'kpf' and split == 'validation'")
    assert tried["name"].nunique() == 8
    assert sorted(tried["r2"].unique()) == pytest.approx([0.95 * ratio, ratio])


def test_gains_are_paired_with_the_better_parent(played):
    test = played[played["split"] == "test"].set_index(["name", "seed"])
    assert (test.loc["primary", "gain"] == 0).all()
    for seed in (0, 1):
        primary = test.loc[("primary", seed)]
        assert primary["mean"] == test.loc[(primary["primary"], seed), "mean"]
        for name in ("auxiliary", "k 5", "weight 0.3", "log-linear"):
            row = test.loc[(name, seed)]
            assert row["gain"] == pytest.approx(row["mean"] - primary["mean"], abs=1e-4)
        assert test.loc[("best of each episode", seed), "gain"] >= 0
    validation = played[played["split"] == "validation"].set_index(["name", "seed"])["mean"]
    assert (validation["primary"] >= validation["auxiliary"]).all()


def test_rules_that_are_one_another_earn_the_same(played):
    gain = played[played["split"] == "test"].set_index(["name", "seed"])["gain"]
    for one, other in (
        ("average", "weight 0.5"),
        ("k inf", "alpha 0, noise 0, r2 x1"),
        ("k of every episode inf", "alpha 1, noise 0, r2 x1"),
        ("k of every episode 0", "k 0"),
        ("period 1", "k inf"),
    ):
        pd.testing.assert_series_equal(gain[one], gain[other], check_names=False)
    assert (gain["weight 0.5"] != gain["primary"]).any()


def test_a_short_case_plays_what_the_tables_need(own):
    frame = pd.concat(fusion_trials.play(CASE))
    names = set(frame.query("split == 'test' and family != 'difference'")["name"])
    assert {"mappo", "hatrpo", "primary", "auxiliary", "k 0", "k 1", "k 2", "average"} <= names
    assert len(names) <= 12
    for player in fusion_results.PLAYERS:
        assert len(fusion_results.gains(frame, CASE, player)) == 2


def test_r2_is_the_ratio_of_scores_from_random_play_to_the_script(own, monkeypatch):
    monkeypatch.setattr(fused, "scale", lambda task, **options: (-100.0, -50.0))
    bench = fusion_trials.Bench(CASE, fusion_trials.load(CASE), FEW)
    scores = torch.tensor([[-60.0, -80.0], [-70.0, -75.0]])
    bench.order = fused.stronger_first(scores)
    assert bench._ratios(scores) == pytest.approx([((40 + 25) / 2) / ((30 + 20) / 2)])


def handmade(values, checkpoint="best"):
    """A record in which each name has one gain for each of three pairs, on validation and on test episodes."""
    rows = []
    for (family, name), (validation, test) in values.items():
        for split, gains in (("validation", validation), ("test", test)):
            rows += [
                {"task": SPREAD, "team": "mappo+hatrpo", "checkpoint": checkpoint, "split": split, "family": family,
                 "name": name, "seed": seed, "gain": gain} for seed, gain in reversed(list(enumerate(gains)))
            ]  # fmt: skip
    return pd.DataFrame(rows)


VALUES = {
    ("alone", "primary"): ([0, 0, 0], [0, 0, 0]), ("weight", "weight 0.1"): ([1, 2, 3], [5, 6, 7]),
    ("weight", "weight 0.2"): ([3, 2, 0], [9, 9, 9]), ("kpf", "a"): ([1, 1, 1], [0, 1, 0]),
    ("budget", "k 0"): ([1, 1, 4], [1, 2, 3]),
}  # fmt: skip


def test_what_is_chosen_is_chosen_on_validation_episodes():
    frame = handmade(VALUES)
    for player, expected in (
        ("tuned weight", [5, 6, 7]), ("tuned KPF", [1, 2, 3]), ("better parent", [0, 0, 0]), ("a", [0, 1, 0]),
    ):  # fmt: skip
        np.testing.assert_array_equal(fusion_results.gains(frame, CASE, player), expected)
    with pytest.raises(InputError, match="unknown player 'k 9'"):
        fusion_results.gains(frame, CASE, "k 9")
    with pytest.raises(records.MissingRecord, match=r"\(early\) is not fused .* inconcert fuse"):
        fusion_results.gains(frame, CASE._replace(checkpoint="early"), "a")


def test_every_claimed_pair_is_played_with_every_rule():
    assert {case.task: case.team for case in fusion_trials.CASES if case.sweeps} == fusion_trials.PAIRS
    assert len({case.key for case in fusion_trials.CASES}) == len(fusion_trials.CASES)


def test_the_record_grows_case_by_case(own, monkeypatch):
    other = Case(SPEAKER, ("happo", "hatrpo"))
    monkeypatch.setattr(fusion_trials, "CASES", (CASE, other))
    with pytest.raises(records.MissingRecord, match="is not there yet; make it with: python -m inconcert fuse"):
        Trials.recorded()
    assert main(["fuse", "--tasks", SPREAD]) == 0
    path = own / "runs" / "measurements" / Trials.file
    first = Trials.read(path)
    assert first.missing == [other]
    assert first.freshness() == "FRESH"
    assert main(["fuse", "--tasks", SPREAD, "--archive"]) == 2
    whole = Trials.extend()
    assert whole.missing == []
    assert whole.frame[: len(first.frame)].equals(first.frame)
    assert main(["fuse", "--archive"]) == 0
    path.unlink()
    assert Trials.recorded().frame.equals(whole.frame)
    assert main(["fuse", "--tasks", "mpe/spread"]) == 2


def test_another_code_or_policy_makes_it_stale(own, monkeypatch):
    path = own / "runs" / "measurements" / Trials.file
    Trials.extend([CASE])
    (own / "data" / "policies" / "policy").write_bytes(b"others")
    assert Trials.read(path).freshness() == "STALE(policies)"
    with pytest.raises(InputError, match=r"STALE\(policies\); --restart begins again"):
        Trials.extend([CASE])
    monkeypatch.setattr(fusion_trials, "code", lambda worlds: "another")
    assert Trials(pd.DataFrame(), Trials.read(path).meta, path).freshness() == "STALE(code, policies)"


def test_a_replay_with_the_same_numbers_makes_it_fresh(own, monkeypatch, capsys):
    path = own / "runs" / "measurements" / Trials.file
    monkeypatch.setattr(fusion_trials, "CASES", (CASE,))
    Trials.extend()
    first = Trials.read(path)
    monkeypatch.setattr(fusion_trials, "code", lambda worlds: "another")
    assert Trials.read(path).freshness() == "STALE(code)"
    assert main(["fuse", "--replay"]) == 0
    again = Trials.read(path)
    assert again.freshness() == "FRESH"
    assert again.frame.equals(first.frame)
    assert [one["cases"] for one in again.meta["replays"]] == [[list(CASE.key), list(CASE.key)]]
    monkeypatch.setattr(fusion_trials, "code", lambda worlds: "third")
    monkeypatch.setattr(fusion_trials, "WEIGHTS", (0.3, 0.6))
    assert main(["fuse", "--replay"]) == 2
    assert "does not replay (mpe/simple_spread mappo+hatrpo best" in capsys.readouterr().err
    assert Trials.read(path).freshness() == "STALE(code)"
    (own / "data" / "policies" / "policy").write_bytes(b"others")
    with pytest.raises(InputError, match="other policies"):
        Trials.read(path).replay()


def test_battles_have_a_record_of_their_own(own, monkeypatch):
    task = "two_corridors/1-3"
    case = Case(task, ("happo", "hatrpo"))
    monkeypatch.setattr(fusion_trials, "BATTLES", {task: case.team})
    other = Case("two_corridors/1-5", case.team)
    monkeypatch.setattr(fusion_trials, "BATTLE_CASES", (case, other))
    monkeypatch.setattr(fusion_trials, "BATTLE_EPISODES", FEW)
    assert fusion_trials.kind(task).command.endswith("fuse --world battles")
    assert main(["fuse", "--world", "battles", "--tasks", SPREAD]) == 2
    assert main(["fuse", "--world", "battles", "--tasks", task, "--archive"]) == 0  # a part of it may ship
    assert not fusion_trials.Battles.recorded().archived  # of equals this machine's own
    fusion_trials.Battles.own().unlink()
    record = fusion_trials.Battles.recorded()
    assert (record.missing, record.freshness(), record.archived) == ([other], "FRESH", True)
    assert fusion_trials.code() != fusion_trials.code(fusion_trials.Battles.worlds)
    assert set(record.frame["episodes"].dropna()) == set(FEW.values())
    assert len(fusion_results.gains(record.frame, case, "tuned KPF")) == 2
    with pytest.raises(records.MissingRecord, match="world battles"):
        fusion_results.of(record.frame, Case(task, ("mappo", "happo")))


def test_a_team_of_more_than_two(own):
    case = Case(SPREAD, ("mappo", "happo", "hatrpo"))
    frame = pd.concat(fusion_trials.play(case))
    assert set(frame["team"]) == {"mappo+happo+hatrpo"}
    test = frame[frame["split"] == "test"].set_index(["name", "seed"])["gain"]
    assert {"majority", "log-linear", "filter, trace", "best of each episode", "k 1"} < set(
        test.index.get_level_values(0)
    )
    assert "disagreement" not in test.index  # of pairs only
    for seed in (0, 1):
        own_gains = [test[name, seed] for name in case.team]
        assert test["primary", seed] == 0
        assert 0 in own_gains
        assert test["best of each episode", seed] >= max(own_gains)
    alone = Bench(case, fusion_trials.load(case), FEW)
    assert len(alone.r2) == 2
    assert sorted(alone.order[0].tolist()) == [0, 1, 2]


def test_seeds_of_one_algorithm_are_a_team(monkeypatch):
    case = Case(SPREAD, ("mappo",) * 5)
    assert case.key == (SPREAD, "5 x mappo", "best")
    assert case.members == [f"mappo {seed}" for seed in range(5)]
    asked = []
    monkeypatch.setattr(policies, "load", lambda *args, **options: asked.append(options["seeds"]))
    fusion_trials.load(case)
    assert asked == [(0,), (1,), (2,), (3,), (4,)]


def test_differences_of_a_pair(own):
    bench = Bench(CASE, fusion_trials.load(CASE), FEW)
    frame = bench.differences().set_index(["name", "seed"])["mean"]
    shares = frame.drop(index=["divergence"], level=0)
    assert ((shares >= 0) & (shares <= 1)).all()
    for seed in (0, 1):
        assert frame["critical gain below 0.1", seed] <= frame["critical gain below 0.5", seed]
        assert frame["critical gain below 0.5", seed] <= frame["disagreement", seed]
    primary, auxiliary = bench.own("test")
    assert frame["auxiliary better"].tolist() == (auxiliary > primary).float().mean(1).tolist()


def differing(monkeypatch, slope):
    """A record of two pairs on two tasks, in which the gain of `a` is `slope` times the disagreement."""
    generator = np.random.default_rng(0)
    cases = [Case(task, team) for task in (SPREAD, SPEAKER) for team in (("mappo", "happo"), ("happo", "hatrpo"))]
    monkeypatch.setattr(fusion_results, "CASES", (*cases, Case(SPREAD, ("mappo", "happo", "hatrpo"))))
    rows = []
    for place, case in enumerate(cases):
        for seed, x in enumerate(generator.uniform(size=4)):
            own = dict(zip(fusion_trials.KEYS, case.key, strict=True)) | {"split": "test", "seed": seed}
            rows.append({**own, "family": "kpf", "name": "a", "gain": 100 * place + slope * x})
            rows += [
                {**own, "family": "difference", "name": name, "mean": x if name == "disagreement" else 0.5}
                for name in fusion_results.DIFFERENCES
            ]
    return pd.DataFrame(rows)


def test_what_the_gain_goes_with(monkeypatch):
    frame = differing(monkeypatch, 3.0)
    table = fusion_results.pairs(frame, "a")
    assert len(table) == 4 * 4
    assert set(fusion_results.DIFFERENCES) < set(table.columns)
    one = table[(table["task"] == SPEAKER) & (table["team"] == "happo+hatrpo")]
    np.testing.assert_allclose(one["a"], 300 + 3 * one["disagreement"])
    # Levels differ between the pairs of a task, so that ranks within the task go together only in part.
    within = fusion_results.association(frame, "disagreement", "a")
    assert within.low <= within.estimate <= within.high
    assert dict(within.runs) == {SPREAD: 4, SPEAKER: 4}
    assert fusion_results.association(frame, "divergence", "a").estimate == 0  # the same for all
    falling = differing(monkeypatch, -1000.0)
    assert fusion_results.association(falling, "disagreement", "a").estimate == pytest.approx(-1, abs=0.1)


def test_policies_of_a_case_are_those_of_its_moment(monkeypatch):
    asked = []
    monkeypatch.setattr(policies, "load", lambda *args, **options: asked.append((*args, options["checkpoint"])))
    monkeypatch.setattr(fused, "early", lambda task, name, variant, tier: {"mappo": 20, "hatrpo": 40}[name])
    fusion_trials.load(CASE)
    fusion_trials.load(CASE._replace(checkpoint="early"))
    assert asked == [
        (SPREAD, name, "laptop", "harl", moment)
        for name, moment in (("mappo", "best"), ("hatrpo", "best"), ("mappo", 20), ("hatrpo", 40))
    ]


@pytest.mark.parametrize("kind", [Trials, fusion_trials.Battles])
def test_every_policy_that_was_fused_ships(kind):
    """Else the fusions could not be played again without training, and the record would be STALE for a reader."""
    data = published.data_folder()
    meta = kind.read(data / "measurements" / kind.file).meta
    digests = {name: data / "policies" / name for name in meta["policies"]}
    absent = [name for name, path in digests.items() if not path.is_file()]
    assert not absent
    assert {name: fusion_trials._digest(path) for name, path in digests.items()} == meta["policies"]
