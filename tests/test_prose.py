"""What the notebooks' sentences share."""

import doctest

import myst_nb
import numpy as np
import pytest

from inconcert import prose


def test_examples():
    assert doctest.testmod(prose).attempted >= 2
    assert doctest.testmod(prose).failed == 0


@pytest.mark.parametrize(("prefix", "key"), [("emix_2", "emix_2_share"), ("", "share")])
def test_numbers_are_glued_as_plain_values_under_the_page_s_prefix(monkeypatch, prefix, key):
    glued = {}
    monkeypatch.setattr(myst_nb, "glue", lambda name, value, display: glued.update({name: (value, display)}))
    prose.sayer(prefix)(share=np.float32(0.5))
    assert glued == {key: (0.5, False)}
    assert type(glued[key][0]) is float


def test_lists_of_nothing_say_so():
    assert prose.listed([]) == "none yet"
    assert prose.listed(iter(["b", "a", "b"])) == "a, b"
