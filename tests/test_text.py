from pipeline.text import aligned, printable


def test_columns_of_texts_are_flush_left_and_those_of_numbers_flush_right():
    rows = [("model", "f", "n"), ("a", "16", "1,000"), ("longer", "2", "")]
    assert aligned(rows) == ["model    f      n", "a       16  1,000", "longer   2"]
    assert aligned(rows, left=2) == ["model   f       n", "a       16  1,000", "longer  2"]
    assert aligned(rows, left=0)[1] == "     a  16  1,000"


def test_a_name_of_any_bytes_can_be_printed_and_tells_which_they_are():
    assert printable("clip é.mp4") == "clip é.mp4"
    assert printable(b"a\xff.mp4".decode("utf-8", "surrogateescape")) == r"a\udcff.mp4"
