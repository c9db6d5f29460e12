"""What stores have in common, whatever they keep flows in."""

from __future__ import annotations

from deviceflow.core.ports import each


def test_each_row_comes_once_while_rows_before_it_go() -> None:
    rows = list(range(10))
    seen = {3}
    found = []

    for row in each(lambda skip: rows[skip : skip + 2], seen):
        found.append(row)
        if row % 2:
            rows.remove(row)

    assert found == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert seen == set(range(10))
