"""The benchmarks' own tools: the table, the comparison, and a README that shows what was measured."""

import json
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import bench
import compare
from figures import figure, finish, table


def report(**values) -> dict:
    rows = [figure("latency", values["latency"], "ms", "lower"), figure("rate", values["rate"], "1/s", "higher")]
    return {"benchmarks": {"bench_any": {"rows": [*rows, figure("images", 200, "")]}}}


def test_a_figure_is_kept_to_four_significant_digits():
    assert figure("latency", 2.123456, "ms", "lower")["value"] == 2.123
    assert figure("rate", 123456, "1/s", "higher")["value"] == 123500


def test_the_figures_are_printed_as_a_table_and_written_as_rows(tmp_path, capsys):
    rows = [figure("rate", 1234.4, "images/s", "higher")]
    finish(rows, tmp_path / "rows.json")
    assert "| rate | 1,234 images/s |" in capsys.readouterr().out
    assert json.loads((tmp_path / "rows.json").read_text()) == rows


def test_a_mean_stands_in_the_table_with_its_spread():
    assert "| accuracy | 95.1 ± 0.75 % |" in table([figure("accuracy", 95.1, "%", "higher", spread=0.7454)])


def test_the_comparison_names_what_got_worse_in_either_direction():
    found = compare.changes(report(latency=2, rate=100), report(latency=4, rate=50))
    assert [(ratio, name) for ratio, name, *_ in found] == [(0.5, "latency"), (0.5, "rate")]
    told = compare.told(found, 0.1)
    assert "2 of 2 figures worse by more than 10%" in told
    assert "latency: 2 -> 4 ms" in told


def test_the_comparison_names_what_got_better_and_passes_over_small_changes():
    told = compare.told(compare.changes(report(latency=2, rate=100), report(latency=2.1, rate=300)), 0.1)
    assert "0 of 2 figures worse" in told
    assert "3.00x  rate: 100 -> 300 1/s" in told
    assert "latency" not in told


def test_a_readme_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="needs the lines"):
        bench.with_table("# no marks", {})


def test_the_readme_s_table_is_what_was_measured():
    published = json.loads(bench.PUBLISHED.read_text())
    readme = bench.README.read_text()
    assert bench.with_table(readme, published) == readme
    assert all(table(found["rows"]) in readme for found in published["benchmarks"].values())


def test_every_benchmark_that_there_is_runs_in_make_bench():
    assert sorted(bench.BENCHMARKS) == sorted(path.stem for path in (ROOT / "benchmarks").glob("bench_*.py"))
