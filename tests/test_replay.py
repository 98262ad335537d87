"""A record stays fresh through a change of the sources that provably moves no number, and through no other."""

import json

import pandas as pd
import pytest

from inconcert import onpolicy, provenance, records, replay, runs
from inconcert.__main__ import main
from inconcert.config import InputError

SMALL = {"updates": 6, "eval_every": 2, "num_envs": 8, "eval_episodes": 4, "final_episodes": 8, "hidden": 16}


@pytest.fixture
def stale(tmp_path, monkeypatch):
    """An archived record whose code fingerprint is that of other sources."""
    monkeypatch.setenv("INCONCERT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(records, "folders", lambda: (tmp_path / "runs", tmp_path / "data"))
    runs.train(runs.Plan("mappo", "coordsum/3x4-7", "smoke", "test", SMALL))
    (key,) = records.find()
    path = records.archive(key)
    key.path.unlink()
    record = records.read(path)
    record.meta["fingerprint"]["code"] = "0" * 64
    records.write_atomic(path, records.to_bytes(record.frame, record.meta))
    assert records.read(path).freshness() == "STALE(code)"
    return records.read(path)


def test_unchanged_numbers_make_a_record_fresh(stale, capsys):
    result = replay.replay(stale)
    assert result == (4, 3 * 2 * 2 * 4, "")  # updates 0, 2, 4; two modes, two seeds, four episodes
    assert main(["replay", "mappo"]) == 0
    assert "the same up to update 4, 48 episodes" in capsys.readouterr().out
    fresh = records.read(stale.path)
    assert fresh.freshness() == "FRESH"
    pd.testing.assert_frame_equal(fresh.frame, stale.frame)
    assert fresh.meta["replays"][0]["updates"] == 4
    assert main(["replay", "mappo"]) == 0
    assert "every record is fresh" in capsys.readouterr().out


def test_moved_numbers_keep_it_stale(stale, monkeypatch, capsys):
    """A value loss that is a hundredth larger does not change the untrained policy, but the next evaluation."""
    plain = onpolicy.clipped_value_error
    monkeypatch.setattr("inconcert.algorithms.mappo.clipped_value_error", lambda *args: 1.5 * plain(*args))
    result = replay.replay(stale, 4)
    assert "episode_return of {'seed':" in result.difference
    assert not result.difference.startswith("update 0:")
    with pytest.raises(InputError, match="does not replay"):
        replay.accept(stale, result)
    assert main(["replay", "--evaluations", "4"]) == 2
    assert "does not replay, run it again: update" in capsys.readouterr().err
    assert records.read(stale.path).freshness() == "STALE(code)"


def test_a_new_setting_may_stand_at_its_default(stale):
    """As if the record had been made before the setting `adam_eps` existed."""
    meta = json.loads(json.dumps(stale.meta))
    del meta["config"]["adam_eps"]
    records.write_atomic(stale.path, records.to_bytes(stale.frame, meta))
    older = records.read(stale.path)
    assert replay.replay(older).difference == ""
    meta["config"]["clip"] = 0.3
    records.write_atomic(stale.path, records.to_bytes(stale.frame, meta))
    with pytest.raises(InputError, match=r"other settings than today's \(clip\)"):
        replay.replay(records.read(stale.path))


def test_one_evaluation_proves_nothing(stale):
    with pytest.raises(InputError, match="at least 2"):
        replay.replay(stale, 1)


def test_provenance_knows_the_fingerprint(stale):
    """What `accept` writes is what a new record would carry."""
    replay.accept(stale, replay.replay(stale))
    sources = provenance.closure(["inconcert.algorithms.mappo", "inconcert.envs.coordsum"])
    assert records.read(stale.path).meta["fingerprint"]["code"] == provenance.fingerprint(sources)
