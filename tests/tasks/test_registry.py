import inspect
from pathlib import Path

import pytest

from tasks.document import PAGE, with_tables
from tasks.registry import spec, stage, stages, writer
from tasks.stage import Stage

TASKS = Path(__file__).resolve().parents[2] / "tasks"


def test_stages_come_after_what_they_read():
    known = set()
    for item in stages():
        assert set(item.inputs) <= known
        known |= {array.name for array in item.writes}


def test_every_stage_is_a_file_and_a_function_of_its_name():
    for item in stages():
        assert (TASKS / f"{item.name}.py").is_file()
        assert item.function.__name__ == item.name


def test_every_array_is_declared_once_and_begins_with_images():
    arrays = [array for item in stages() for array in item.writes]
    assert len({array.name for array in arrays}) == len(arrays)
    assert all(array.dims[0] == "image" for array in arrays)
    assert all(array.fill == 255 for array in arrays if array.kind == "label map")


@pytest.mark.parametrize("item", stages(), ids=lambda item: item.name)
def test_a_function_takes_what_its_stage_reads(item: Stage):
    if item.name == "ingest":  # reads the user's files
        return
    keywords = inspect.signature(item.function).parameters
    expected = {*item.inputs, *item.facts} | ({"model", "precision"} if item.model else set())
    assert expected <= set(keywords)
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in keywords.values())


def test_an_unknown_name_is_told():
    with pytest.raises(KeyError, match="there are: ingest"):
        stage("none")
    with pytest.raises(KeyError, match="no stage writes"):
        writer("none")
    assert spec("p1").fill == 255


def test_encoding_never_depends_on_a_label():
    # so that a relabelled image never costs SAM's encoder
    assert not {"label", "slot_class", "cam", "annotation"} & set(stage("embed").inputs)
    assert not {"label", "slot_class", "cam", "annotation"} & set(stage("augment").inputs)


def test_the_page_holds_the_table_of_the_declarations():
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run `make docs`"


def test_what_is_streamed_is_read():
    assert all(one.streamed <= set(one.inputs) for one in stages())
