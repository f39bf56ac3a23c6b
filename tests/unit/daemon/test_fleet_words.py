"""Answers of several nodes as one, by the names of their columns."""

from cmesh.daemon.fleet_words import CELLS_MOST, lacks_columns, unite
from cmesh.store.records import SqlRows


def rows(columns: dict[str, str], *values: list[object]) -> SqlRows:
    return SqlRows(
        columns=tuple(columns),
        types=tuple(columns.values()),
        rows=list(values),
        elapsed_ms=0,
        head_seq=0,
    )


def test_rows_are_joined_by_name_case_aside_and_gaps_are_null() -> None:
    older = rows({"task": "UUID", "cost": "DOUBLE"}, ["t1", 1.5])
    newer = rows({"TASK": "UUID", "turns": "BIGINT"}, ["t2", 3])
    columns, types, united = unite([("a", older), ("b", newer)])
    assert columns == ["node", "task", "cost", "turns"]
    assert types == ["VARCHAR", "UUID", "DOUBLE", "BIGINT"]
    assert united == [["a", "t1", 1.5, None], ["b", "t2", None, 3]]


def test_types_that_differ_are_text_and_one_without_a_type_decides_nothing() -> None:
    first = rows({"x": "BIGINT", "y": '"NULL"'}, [1, None])
    second = rows({"x": "VARCHAR", "y": "BIGINT"}, ["a", 2])
    _, types, _ = unite([("a", first), ("b", second)])
    assert types == ["VARCHAR", "VARCHAR", "BIGINT"]


def test_a_column_that_is_called_node_is_kept_beside_ours() -> None:
    columns, _, united = unite([("a", rows({"Node": "VARCHAR"}, ["theirs"]))])
    assert (columns, united) == (["node", "node_1"], [["a", "theirs"]])


def test_names_of_a_peer_are_short_scrubbed_and_not_without_end() -> None:
    wild = rows({"\x1b[2Jx" + "y" * 300: "VARCHAR"}, ["v"])
    many = rows({f"c{at}": "BIGINT" for at in range(3_000)}, list(range(3_000)))
    columns, types, united = unite([("a", wild), ("b", many), ("c", rows({}))])
    assert "\x1b" not in columns[1]
    assert len(columns[1]) <= 80
    assert len(columns) == len(types) == len(united[0]) == 1_001
    assert unite([]) == (["node"], ["VARCHAR"], [])


def test_a_peer_crowds_out_nothing_that_others_have_and_makes_no_row_wide() -> None:
    junk = rows({f"junk{at}": "BIGINT" for at in range(1_000)})
    one, two = rows({"n": "BIGINT", "m": "BIGINT"}, [1, 2]), rows({"n": "BIGINT"}, [3])
    columns, _, united = unite([("evil", junk), ("one", one), ("two", two)])
    assert {"n", "m"} < set(columns)
    assert len(columns) == 1_001
    assert [value for value in united[0] if value is not None] == ["one", 1, 2]
    many = SqlRows(
        columns=("n",), types=("BIGINT",), rows=[[1]] * 100_000, elapsed_ms=0, head_seq=0
    )
    _, _, united = unite([("evil", junk), ("good", many)])
    assert (len(united), sum(map(len, united)) <= CELLS_MOST + len(united)) == (100_000, True)
    assert united[0].count(1) == 1


def test_names_that_are_equal_once_they_are_short_take_no_time() -> None:
    middle = [f"{'a' * 100}{at:06}{'a' * 96}" for at in range(20_000)]
    alike = SqlRows(
        columns=tuple(middle), types=("BIGINT",) * len(middle), rows=[], elapsed_ms=0, head_seq=0
    )
    columns, _, _ = unite([("evil", alike)])  # with a look at all the others for each: half an hour
    assert len(set(columns)) == 1_001


def test_columns_that_are_left_out_for_many_rows_of_another_are_told() -> None:
    wide = rows({f"c{at}": "BIGINT" for at in range(40)}, list(range(40)))
    ones: list[list[object]] = [[1]] * 100_000
    few, many = rows({"n": "BIGINT"}, [1]), rows({"n": "BIGINT"}, *ones)
    for other, lacking in ((few, False), (many, True)):
        answers = [("own", wide), ("other", other)]
        columns, _, _ = unite(answers)
        assert lacks_columns(answers, columns) is lacking
        assert (len(columns) == 42) is not lacking
