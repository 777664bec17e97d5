from pipeline.text import aligned


def test_columns_of_texts_are_flush_left_and_those_of_numbers_flush_right():
    rows = [("model", "f", "n"), ("a", "16", "1,000"), ("longer", "2", "")]
    assert aligned(rows) == ["model    f      n", "a       16  1,000", "longer   2"]
    assert aligned(rows, left=2) == ["model   f       n", "a       16  1,000", "longer  2"]
    assert aligned(rows, left=0)[1] == "     a  16  1,000"
