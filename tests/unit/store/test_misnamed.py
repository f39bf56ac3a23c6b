"""What is wrong with a SELECT is said in words: no picture that a terminal folds."""

import duckdb
import pytest

from cmesh.store.misnamed import misnamed

VIEWS = {"tasks": ["task_id", "peer"], "events": ["kind"]}


@pytest.mark.parametrize(
    ("sql", "place"),
    [
        ("selct 1", " (line 1, column 1)"),
        ("select 1,\n  from from t", " (line 2, column 8)"),
        (f"select {'1, ' * 200} from from", " (line 1)"),
    ],
)
def test_the_place_of_a_mistake_is_told_by_line_and_column(sql: str, place: str):
    with pytest.raises(duckdb.Error) as found:
        duckdb.sql(sql)
    said, _hint = misnamed(str(found.value), sql, VIEWS)
    assert said.endswith(place)
    assert "^" not in said
    assert "LINE" not in said


def test_a_name_that_is_not_there_is_told_with_what_it_may_mean():
    with pytest.raises(duckdb.Error) as found:
        duckdb.sql("select pere from (select 1 as peer)")
    said, hint = misnamed(str(found.value), "select pere from tasks", VIEWS)
    assert said == 'Binder Error: Referenced column "pere" not found in FROM clause!'
    assert hint.startswith("did you mean `peer`?")
