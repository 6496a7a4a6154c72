"""What every verb has in common."""

import pytest

from ttl_monai.cli import main


@pytest.mark.parametrize(
    ("words", "usage", "said"),
    [
        (["chek"], "usage: ttl ", "did you mean check?"),
        (["lint", "x", "--jsn"], "usage: ttl lint ", "unrecognized arguments: --jsn; did you mean --json?"),
        (["lint", "x", "--js"], "usage: ttl lint ", "did you mean --json?"),
        (["lint", "x", "--zzzzzzzz"], "usage: ttl lint ", "unrecognized arguments: --zzzzzzzz\n"),
        (["lint"], "usage: ttl lint ", "required: BUNDLE\n"),
    ],
)
def test_what_was_probably_meant_is_named(words, usage, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(usage)
    assert said in error
