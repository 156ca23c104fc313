"""The table of rules: those that are built in, and those of packages that are installed."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from shared.core.robust import gram
from shared.core.robust.judging import Choice, Needs, judge, kind_of, names, table
from shared.errors import Refused

GUIDE = Path(__file__).parents[3] / "docs" / "robustness.md"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a package with entry points where Python looks for packages."""

    def install(points, source):
        (tmp_path / "my_rules").mkdir()
        (tmp_path / "my_rules" / "__init__.py").write_text("")
        (tmp_path / "my_rules" / "closest.py").write_text(source)
        information = tmp_path / "my_rules-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rules\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text("[fedlora.rules]\n" + points)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "my_rules", raising=False)
        monkeypatch.delitem(sys.modules, "my_rules.closest", raising=False)
        forget()

    def forget():
        table._installed.cache_clear()
        table.kind_of.cache_clear()

    yield install
    monkeypatch.undo()
    forget()


def test_every_built_in_rule_has_a_line_that_says_what_it_needs():
    assert set(names()) == {*gram.RULES, "fltrust", "median", "trimmed-mean"}
    for name in names():
        kind = kind_of(name)
        assert kind.assumes
        assert (kind.rule is not None) is (kind.needs in (Needs.SUM, Needs.GRAM))
        assert kind.largest_f(30) >= kind.largest_f(10) >= 0


def test_the_rule_in_the_guide_can_be_installed_and_judges(installed):
    source, points = re.findall(r"```(?:python|toml)\n(.*?)```", GUIDE.read_text(), re.DOTALL)[:2]
    installed(points.split("]\n")[1].replace(' = "', " = ").replace('"', ""), source)
    assert "shortest" in names()
    kind = kind_of("shortest")
    assert (kind.needs, kind.singles_out) == (Needs.GRAM, True)
    rows = np.diag([1.0, 2.0, 30.0, 4.0])
    verdict = judge(rows @ rows.T, Choice("shortest", 1))
    assert verdict.weights.tolist() == [1 / 3, 1 / 3, 0, 1 / 3]
    with pytest.raises(Refused, match="bears 1 hostile of 4, not 2"):
        judge(rows @ rows.T, Choice("shortest", 2))


def test_a_built_in_rule_cannot_be_replaced(installed):
    installed("krum = my_rules.closest:RULE\n", "RULE = None\n")
    assert kind_of("krum").rule is gram.RULES["krum"]
    assert names().count("krum") == 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("RULE = 5\n", "is a int, no Rule"),
        ("", "cannot be loaded"),
        ("raise RuntimeError('on purpose')\n", "cannot be loaded: on purpose"),
    ],
)
def test_what_is_no_rule_is_refused_when_it_is_named(installed, source, reason):
    installed("odd = my_rules.closest:RULE\n", source)
    assert "odd" in names()
    with pytest.raises(Refused, match=reason):
        kind_of("odd")


def test_a_name_that_nothing_has_is_refused_with_those_there_are():
    with pytest.raises(Refused, match="choose one of centred-clipping, "):
        kind_of("crumb")
