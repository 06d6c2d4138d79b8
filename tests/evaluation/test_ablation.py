"""The ablation's bookkeeping: rows keep their style, tables count them."""

import json
from pathlib import Path

from benchmarks.ablation import METRICS, VARIANTS, format_table, read_rows


def test_metrics_do_not_overwrite_what_a_row_is_about() -> None:
    assert not {"variant", "style", "person", "seed"} & set(METRICS)


def test_a_table_has_one_line_a_variant_with_its_mean(tmp_path: Path) -> None:
    rows = [
        {"variant": v, "style": "oil", "person": p, **dict.fromkeys(METRICS, p / 2)} for v in VARIANTS for p in (0, 1)
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = format_table(read_rows(tmp_path / "results.jsonl")).splitlines()
    assert len(lines) == 2 + len(VARIANTS)
    assert lines[2].startswith("| default | 2 | 0.250 (0.000 to 0.500)")
    assert read_rows(tmp_path / "none.jsonl") == []
