from __future__ import annotations

import math

import numpy as np
import pytest

from onnxmtl.errors import DataError
from onnxmtl.recommend.scores import branch_points
from onnxmtl.recommend.table import TwoTaskTable, as_estimates, read_csv, write_csv

GOOD = 'branch,"(0, 1)-0","(0, 1)-1"\n0,0.0,0.0\n1,2.5,-1\n2,,nan\n'


def written(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_numbers_stand_for_the_given_names(tmp_path):
    table = read_csv(written(tmp_path, GOOD), ("seg", "depth"))
    assert (table.tasks, table.blocks) == (("seg", "depth"), 2)
    assert table.values[0, 1].tolist()[:2] == [0, 2.5] and table.values[1, 0].tolist()[:2] == [0, -1]
    assert table.missing == ((0, 1, 2),)


def test_names_may_come_in_any_order_of_columns_and_pairs(tmp_path):
    text = 'branch,"(depth, seg)-1","(seg, normals)-0","(depth, seg)-0"\n0,0,0,0\n1,1,2,3\n'
    table = read_csv(written(tmp_path, text))
    assert table.tasks == ("depth", "seg", "normals")
    assert table.values[1, 0, 1] == 1 and table.values[1, 2, 1] == 2 and table.values[0, 1, 1] == 3
    assert math.isnan(table.values[2, 1, 1])
    again = table.for_tasks(("seg", "depth"))
    assert again.values[0, 1, 1] == 1 and again.values[1, 0, 1] == 3


def test_a_table_is_written_as_it_is_read(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 3, 4))
    values[0, 2, 3] = np.nan
    table = TwoTaskTable(("a", "b c", "d"), 3, values)
    for names in (True, False):
        write_csv(table, tmp_path / "t.csv", names=names)
        again = read_csv(tmp_path / "t.csv", None if names else table.tasks)
        assert again.tasks == table.tasks
        np.testing.assert_array_equal(again.values, table.values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a header and the rows of branching points 0 and 1"),
        (GOOD.replace("(0, 1)-1", "(0, 1)-2"), r"column '\(0, 1\)-2' has to look like"),
        (GOOD.replace("(0, 1)-1", "(0, 2)-1"), "names the task '2'; the tasks are seg, depth"),
        (GOOD.replace("(0, 1)-1", "(0, 1)-0"), "of 'seg' with 'depth' has two columns"),
        (GOOD.replace("(0, 1)-1", "(1, 1)-1"), "pairs the task '1' with itself"),
        (GOOD.replace("\n1,", "\n3,"), "row 3 is of branching point '3'; rows go 0, 1, 2"),
        (GOOD.replace("2.5", "2.5,7"), "row 3 has 4 cells, the header has 3"),
        (GOOD.replace("2.5", "good"), r"row 3, column '\(0, 1\)-0': 'good' is no number"),
        (GOOD.replace("2.5", "inf"), "'inf' is no number"),
        (GOOD.replace("2.5", '"2.5'), "cannot read the two-task table"),
        (GOOD.replace("2.5", "2.5%"), r"'2.5%' is no number; write 2.5 for 2.5 %"),
        (GOOD.replace("2.5", "2_5"), "'2_5' is no number"),
        (GOOD.replace("\n1,2.5", "\n\n1,bad"), r"row 4, column '\(0, 1\)-0': 'bad'"),
        (GOOD.replace(",", ";").replace("0; 1", "0, 1"), "the header has ';' in it; save the table with commas"),
        (GOOD.replace(",", "\t").replace("0\t 1", "0, 1"), "the header has .* in it; save the table with commas"),
        (GOOD.replace('"', ""), r"column '\(0' has to look like .*, quoted"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_one_line(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(DataError, match=message) as error:
        read_csv(path, ("seg", "depth"))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv"):
        read_csv(tmp_path / "none.csv")


def test_tables_that_make_no_sense_are_refused():
    for tasks, blocks, shape in ((("a",), 1, (1, 1, 2)), (("a", "a"), 1, (2, 2, 2)), (("a", "b"), 2, (2, 2, 2))):
        with pytest.raises(DataError):
            TwoTaskTable(tasks, blocks, np.zeros(shape))
    with pytest.raises(DataError, match="infinite"):
        TwoTaskTable(("a", "b"), 1, np.full((2, 2, 2), np.inf))
    with pytest.raises(DataError, match="has no task 'c'"):
        TwoTaskTable(("a", "b"), 1, np.zeros((2, 2, 2))).for_tasks(("a", "c"))


def test_what_is_not_trained_is_named():
    table = TwoTaskTable.untrained(("a", "b"), 2).with_pair(0, 1, 1, 3.0, 4.0)
    assert table.values[0, 1, 1] == 3 and table.values[1, 0, 1] == 4
    with pytest.raises(DataError, match=r"'a' with 'b' at branching point 2 \(1 of 3 are missing\)"):
        table.require_complete()


def test_spaces_and_a_byte_order_mark_do_no_harm(tmp_path):
    plain = read_csv(written(tmp_path, GOOD), ("seg", "depth"))
    (tmp_path / "marked.csv").write_bytes(b"\xef\xbb\xbf" + GOOD.replace(",", ", ").replace("\n", "\r\n").encode())
    spaced = read_csv(tmp_path / "marked.csv", ("seg", "depth"))
    np.testing.assert_array_equal(spaced.values, plain.values)


def test_a_pair_without_any_value_is_named():
    table = TwoTaskTable.untrained(("a", "b", "c"), 2).with_pair(0, 1, 1, 3.0, 4.0).with_pair(0, 2, 2, 1.0, np.nan)
    with pytest.raises(DataError, match="no value for 'b' trained with 'c'"):
        table.require_every_pair()
    with pytest.raises(DataError, match="no value for 'c' trained with 'a'"):
        table.with_pair(1, 2, 1, 0.0, 0.0).require_every_pair()
    table.with_pair(1, 2, 1, 0.0, 0.0).with_pair(0, 2, 1, 1.0, 2.0).require_every_pair()


def test_performance_that_is_not_relative_is_told():
    table = TwoTaskTable.untrained(("a", "b"), 2)
    table.with_pair(0, 1, 0, 1e-9, np.nan).require_relative()
    with pytest.raises(DataError, match=r"71\.5 for 'b' with 'a' at branching point 0, which are separate networks"):
        table.with_pair(0, 1, 0, 0.0, 71.5).require_relative()


def test_estimates_are_means_over_associated_models():
    """Figure 2 of the paper: tasks 0 and 1 part behind block 3, task 2 behind block 2."""
    values = np.random.default_rng(1).normal(size=(3, 3, 6))
    layout = (((0, 1, 2),),) * 2 + (((0, 1), (2,)),) + (((0,), (1,), (2,)),) * 2
    points = branch_points(layout)
    assert points[0, 1] == 3 and points[0, 2] == points[1, 2] == 2
    found = as_estimates(TwoTaskTable(("a", "b", "c"), 5, values), points)
    assert found == pytest.approx(
        (
            (values[0, 1, 3] + values[0, 2, 2]) / 2,
            (values[1, 0, 3] + values[1, 2, 2]) / 2,
            (values[2, 0, 2] + values[2, 1, 2]) / 2,
        )
    )
