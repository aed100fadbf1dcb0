"""Exit codes and messages of commands."""

import pytest

from impact_pl.errors import CONTINUES, UserError, user_errors


def command(error: BaseException | None):
    @user_errors
    def main(argv=None):
        if error is not None:
            raise error

    return main


@pytest.mark.parametrize("error", [UserError("batch size 0: at least 1"), OSError(28, "No space left on device")])
def test_a_users_mistake_is_one_line_and_exit_code_2(error, capsys):
    with pytest.raises(SystemExit) as exit_info:
        command(error)([])
    assert exit_info.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {getattr(error, 'strerror', error)}")
    assert printed.count("\n") == 1


def test_a_path_that_cannot_be_used_is_named_first(capsys):
    with pytest.raises(SystemExit):
        command(PermissionError(13, "Permission denied", "/there/model"))([])
    assert capsys.readouterr().err.startswith("error: /there/model: Permission denied; is the path right")


def test_ctrl_c_is_exit_code_130(capsys):
    with pytest.raises(SystemExit) as exit_info:
        command(KeyboardInterrupt())([])
    assert exit_info.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_says_that_a_command_continues_where_it_does(capsys):
    @user_errors(interrupted=CONTINUES)
    def main(argv=None):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().err == f"{CONTINUES}\n"


@pytest.mark.parametrize(
    "error", [UserError("a\nb.wav: \x1b[2J\u2028"), FileNotFoundError(2, "No such file", "a\nb\r.wav")]
)
def test_a_line_break_in_a_file_name_gives_no_second_line(error, capsys):
    with pytest.raises(SystemExit):
        command(error)([])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a\\nb")


@pytest.mark.parametrize("error", [AssertionError("invariant"), ValueError("of a library"), OSError("of a socket")])
def test_a_defect_of_ours_keeps_its_traceback_and_asks_for_a_report(error, capsys):
    with pytest.raises(type(error)):
        command(error)([])
    assert "please report it" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_user_errors(monkeypatch):
    monkeypatch.setenv("IMPACT_DEBUG", "1")
    with pytest.raises(ValueError, match="batch size"):
        command(UserError("batch size 0"))([])
