"""rollrep.toml: where it is found, what it means, and what is said about one that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollrep.core.errors import NotSetUp, UsageError
from rollrep.jobs import config as config_module
from rollrep.jobs.adding import add_job, job_section
from rollrep.jobs.config import (
    DEFAULT_KEEP,
    Config,
    Job,
    Keep,
    find_config,
    line_of,
    load_config,
    parse_config,
    unknown_job,
)

FULL = """\
store = "./rollrep-data"

[jobs.shop]
source = "ssh://backup@127.0.0.1:2222/shop"
identity = "~/.ssh/rollrep"
known_hosts = "hosts"
ssh_config = "/etc/ssh/rollrep"
remote_command = "nice rollrep source serve"
every = "15s"
bandwidth = "2MB/s"
snapshot = "2h"
keep = { operations = "3d", last = 1, hourly = 2, daily = 3, weekly = 4, monthly = 5 }

[jobs."till.2"]
source = "local:/srv/till.db"
"""


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def written(folder: Path, text: str) -> Path:
    path = folder / "rollrep.toml"
    path.write_bytes(text.encode())
    return path


def test_config_has_all_it_says_when_every_key_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    config = load_config(written(tmp_path, FULL))
    assert config.store == tmp_path / "rollrep-data"
    assert config.jobs["shop"] == Job(
        name="shop",
        source="ssh://backup@127.0.0.1:2222/shop",
        identity=Path("/home/ann/.ssh/rollrep"),
        known_hosts=tmp_path / "hosts",
        ssh_config=Path("/etc/ssh/rollrep"),
        remote_command="nice rollrep source serve",
        every_s=15.0,
        bandwidth=2_000_000,
        snapshot_s=7200.0,
        keep=Keep(operations_s=3 * 86400.0, last=1, hourly=2, daily=3, weekly=4, monthly=5),
    )


def test_job_has_the_defaults_when_only_its_source_is_given(tmp_path: Path) -> None:
    job = load_config(written(tmp_path, FULL)).jobs["till.2"]
    assert (job.every_s, job.snapshot_s, job.remote_command) == (10.0, 3600.0, "rollrep source serve")
    assert not job.stop_on_history_lost
    assert job.keep == Keep(operations_s=7 * 86400.0, last=0, hourly=48, daily=30, weekly=0, monthly=12)
    assert (job.identity, job.known_hosts, job.ssh_config) == (None, None, None)
    assert job.bandwidth is None


def test_grid_is_only_what_it_says_when_keep_is_given(tmp_path: Path) -> None:
    text = 'store = "."\n[jobs.a]\nsource = "local:/a"\n[jobs.a.keep]\ndaily = 3\n'
    keep = load_config(written(tmp_path, text)).jobs["a"].keep
    assert keep == Keep(operations_s=7 * 86400.0, daily=3)


def test_config_is_read_when_it_has_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    text = "\ufeff" + FULL.replace("\n", "\r\n")
    assert set(load_config(written(tmp_path, text)).jobs) == {"shop", "till.2"}


def job(*lines: str) -> str:
    return "\n".join(['store = "."', "[jobs.shop]", 'source = "local:/a"', *lines])


GRID_KEYS = "operations, last, hourly, daily, weekly, monthly"
RATES = "write bytes a second: 500KiB/s, 2MB/s, 1G/s"
UNITS = "write a number with a unit: 10s, 15m, 1h, 7d, 2w"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (job('snapshots = "1h"'), '4: unknown key "snapshots" in [jobs.shop]; did you mean "snapshot"?'),
        (job("", "# every", "evry = 1"), '6: unknown key "evry" in [jobs.shop]; did you mean "every"?'),
        (
            job("colour = 1"),
            '4: unknown key "colour" in [jobs.shop]; the keys there are: source, every, snapshot, keep, rehearse, rehearse_queries, on_history_lost, bandwidth, '
            "identity, known_hosts, ssh_config, remote_command",
        ),
        ("\nstroe = 1", '2: unknown key "stroe"; did you mean "store"?'),
        ('store = "."\n[job.shop]', '2: unknown key "job"; did you mean "jobs"?'),
        (
            job('keep = { operations = "1d", dayly = 3 }'),
            '4: unknown key "dayly" in [jobs.shop.keep]; did you mean "daily"?',
        ),
        (
            job("", "[jobs.shop.keep]", "daily = 1", "weakly = 3"),
            '7: unknown key "weakly" in [jobs.shop.keep]; did you mean "weekly"?',
        ),
        (job("keep.x = 3"), f'4: unknown key "x" in [jobs.shop.keep]; the keys there are: {GRID_KEYS}'),
        (job("every = 10"), f"4: every = 10 in [jobs.shop] is not a duration; {UNITS}"),
        (job('every = "10"'), f'4: every = "10" in [jobs.shop] is not a duration; {UNITS}'),
        (job('every = "0s"'), f'4: every = "0s" in [jobs.shop] is not a duration; {UNITS}'),
        (job('bandwith = "2MB/s"'), '4: unknown key "bandwith" in [jobs.shop]; did you mean "bandwidth"?'),
        (job('bandwidth = "2MB"'), f'4: bandwidth = "2MB" in [jobs.shop] is not a rate; {RATES}'),
        (job("", "bandwidth = 2000000"), f"5: bandwidth = 2000000 in [jobs.shop] is not a rate; {RATES}"),
        (job('bandwidth = "0/s"'), f'4: bandwidth = "0/s" in [jobs.shop] is not a rate; {RATES}'),
        (job('bandwidth = "2Mbit/s"'), f'4: bandwidth = "2Mbit/s" in [jobs.shop] is not a rate; {RATES}'),
        (job('snapshot = ["1h"]'), f"4: snapshot = […] in [jobs.shop] is not a duration; {UNITS}"),
        (
            job("keep = { operations = 7 }"),
            f"4: operations = 7 in [jobs.shop.keep] is not a duration; {UNITS}",
        ),
        (
            job("keep = { daily = true }"),
            "4: daily = true in [jobs.shop.keep] is not a count; write a whole number, 0 or more",
        ),
        (
            job("keep = { daily = -1 }"),
            "4: daily = -1 in [jobs.shop.keep] is not a count; write a whole number, 0 or more",
        ),
        (
            job('keep = { daily = "3" }'),
            '4: daily = "3" in [jobs.shop.keep] is not a count; write a whole number, 0 or more',
        ),
        (
            job('keep = "7d"'),
            '4: keep = "7d" in [jobs.shop] is not a table; write keep = { operations = "7d", hourly = 48 }',
        ),
        (job("identity = 3"), '4: identity = 3 in [jobs.shop] is not a text; write it in quotes, as in "…"'),
        (
            job("remote_command = [", '  "rollrep",', "]"),
            '4: remote_command = […] in [jobs.shop] is not a text; write it in quotes, as in "…"',
        ),
        (
            job('identity = "~no-such-user/key"'),
            '4: identity = "~no-such-user/key" in [jobs.shop] names an unknown home; write the whole path',
        ),
        ("store = 3", '1: store = 3 is not a text; write it in quotes, as in "…"'),
        ('store = " "', '1: store = " " is not a text; write it in quotes, as in "…"'),
        ('store = "."\njobs = 3', "2: jobs = 3 is not a table; write [jobs.NAME]"),
        ('store = "."\n[jobs]\nshop = "x"', '3: shop = "x" in [jobs] is not a table; write [jobs.shop]'),
        (
            'store = "."\n\n[jobs.shop]\nevery = "1s"',
            '3: [jobs.shop] has no source; add a line like source = "ssh://backup@host/shop"',
        ),
        (
            'store = "."\n[jobs."../x"]\nsource = "a"',
            '2: "../x" can\'t be the name of a job; a name is letters, digits, and . _ - after the first, 200 at most',
        ),
        (
            f'store = "."\n[jobs.{"n" * 201}]\nsource = "a"',
            f'2: "{"n" * 201}" can\'t be the name of a job;'
            " a name is letters, digits, and . _ - after the first, 200 at most",
        ),
        ('store = "a\\u0000b"', '1: store = "a\\u0000b" has a NUL in it; leave it out'),
        (
            job('remote_command = "a\\u0000"'),
            '4: remote_command = "a\\u0000" in [jobs.shop] has a NUL in it; leave it out',
        ),
        (
            "# nothing yet\n",
            '1: store is missing; say where the copies live: store = "./rollrep-data", above the first job',
        ),
        (job("every = 10s"), None),
        (job('every = "10s'), None),
    ],
)
def test_config_is_refused_with_its_line_when_something_in_it_is_wrong(text: str, message: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config(text.encode(), Path("rollrep.toml"))
    if message is None:  # the words are tomllib's, and change with Python
        assert re.match(r"rollrep\.toml:4: not TOML: ", str(caught.value))
    else:
        assert str(caught.value) == f"rollrep.toml:{message}"


def test_config_is_refused_when_its_values_are_nested_too_deep() -> None:
    with pytest.raises(UsageError, match="nested too deep"):
        parse_config(f'store = "."\na = {"[" * 3000}{"]" * 3000}'.encode(), Path("rollrep.toml"))


def test_config_is_refused_with_its_last_line_when_it_ends_too_early() -> None:
    with pytest.raises(UsageError, match=r"rollrep\.toml:5: not TOML: .* at the end of the file"):
        parse_config(job("keep = [", "  1,").encode(), Path("rollrep.toml"))


def test_config_is_refused_with_its_line_when_it_is_not_utf_8() -> None:
    with pytest.raises(UsageError, match=r"rollrep\.toml:2: not UTF-8; save the file as UTF-8"):
        parse_config(b'store = "."\n# caf\xe9\n', Path("rollrep.toml"))


values = st.sampled_from(
    ["1", '"x # y"', "[\n 1,\n # no\n 2 ]", '"""\na = 1\n[b]\n"""', "{ x = 1, y = 2 }", "'''\n'''"]
)
gaps = st.sampled_from(["", "\n", "# a comment\n", "# k0 = 3\n\n"])


@given(st.lists(st.tuples(gaps, values), min_size=1, max_size=12), st.booleans())
def test_line_is_where_the_key_stands_when_values_span_lines(statements: list[tuple[str, str]], crlf: bool) -> None:
    text = "".join(f"{gap}k{index} = {value}\n" for index, (gap, value) in enumerate(statements))
    text = text.replace("\n", "\r\n") if crlf else text
    for index in range(len(statements)):
        expected = next(n for n, line in enumerate(text.split("\n"), 1) if line.startswith(f"k{index} = "))
        assert line_of(text, (f"k{index}",)) == expected


def test_config_is_the_named_one_when_others_exist_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {name: tmp_path / name for name in ("explicit", "environ", "home", "system")}
    for folder in (*places.values(), places["home"] / "rollrep"):
        folder.mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(places["home"]))
    monkeypatch.setattr(config_module, "SYSTEM_CONFIG", places["system"] / "rollrep.toml")
    in_order = [
        places["explicit"] / "my.toml",
        places["environ"] / "rollrep.toml",
        Path("rollrep.toml"),
        places["home"] / "rollrep" / "rollrep.toml",
        places["system"] / "rollrep.toml",
    ]
    for path in in_order:
        path.write_text("")
    explicit: Path | None = in_order[0]
    environ = {"ROLLREP_CONFIG": str(in_order[1])}
    for path in in_order:
        assert find_config(explicit, environ) == path
        path.unlink()
        if explicit is not None:
            explicit = None
        else:
            environ = {"ROLLREP_CONFIG": ""}
    with pytest.raises(NotSetUp, match="rollrep init JOB SOURCE"):
        find_config(None, {})


def test_config_is_a_usage_error_when_the_named_one_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        find_config(tmp_path / "no.toml", {})
    with pytest.raises(UsageError, match=r"from \$ROLLREP_CONFIG\) does not exist"):
        find_config(None, {"ROLLREP_CONFIG": str(tmp_path / "no.toml")})
    with pytest.raises(UsageError, match="is a folder"):
        find_config(tmp_path, {})
    with pytest.raises(UsageError, match="can't be read"):
        load_config(tmp_path)


def test_job_is_named_in_the_error_when_another_was_meant() -> None:
    jobs = {name: Job(name, "local:/a") for name in ("shop", "till")}
    full, empty = Config(Path("r.toml"), Path("d"), jobs), Config(Path("r.toml"), Path("d"), {})
    assert str(unknown_job(full, "shpo")).endswith('did you mean "shop"? The jobs are: shop, till')
    assert str(unknown_job(full, "zzz")) == 'no job "zzz" in r.toml; the jobs are: shop, till'
    assert "rollrep init JOB SOURCE" in str(unknown_job(empty, "shop"))


def test_new_file_is_a_commented_config_when_the_first_job_is_added(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rollrep.toml"
    added = add_job(path, "shop", "ssh://backup@shop-prod/shop", identity=Path("~/.ssh/rollrep"))
    config = load_config(path)
    assert config.jobs == {"shop": added}
    assert config.store == path.parent / "rollrep-data"
    assert (added.keep, added.every_s, added.snapshot_s) == (DEFAULT_KEEP, 10.0, 3600.0)
    assert path.read_text().startswith("# rollrep:")
    assert path.read_text().endswith("\n\n" + job_section("shop", added.source, identity=Path("~/.ssh/rollrep")))
    assert names_in(path.parent) == ["rollrep.toml"]


@pytest.mark.parametrize("before", [FULL, FULL + "# no end of line", FULL.replace("\n", "\r\n")])
def test_file_keeps_what_it_has_byte_for_byte_when_a_job_is_added(tmp_path: Path, before: str) -> None:
    path = written(tmp_path, before)
    path.chmod(0o640)
    old_jobs = load_config(path).jobs
    add_job(path, "v2.1", 'local:/srv/odd "name"\\ \x7f\n.db', remote_command="doas rollrep source serve")
    assert path.read_bytes().startswith(before.encode())
    assert path.stat().st_mode & 0o777 == 0o640
    jobs = load_config(path).jobs
    assert jobs["v2.1"].source == 'local:/srv/odd "name"\\ \x7f\n.db'
    assert jobs["v2.1"].remote_command == "doas rollrep source serve"
    assert {name: jobs[name] for name in old_jobs} == old_jobs
    assert (b"\r\n" in path.read_bytes()) == (b"\n" not in path.read_bytes().replace(b"\r\n", b""))


@pytest.mark.parametrize(
    ("before", "name", "says"),
    [
        (FULL, "shop", 'has a job "shop" already'),
        (FULL, "../up", "can't be the name of a job"),
        (FULL, "", "can't be the name of a job"),
        (FULL, "shop\n", "can't be the name of a job"),
        ('store = "."\njobs = { a = { source = "x" } }\n', "shop", "the job can't be added: "),
        ("store = ", "shop", "not TOML"),
    ],
)
def test_file_stays_as_it_is_when_a_job_is_refused(tmp_path: Path, before: str, name: str, says: str) -> None:
    path = written(tmp_path, before)
    with pytest.raises(UsageError, match=re.escape(says)):
        add_job(path, name, "local:/a")
    assert path.read_bytes() == before.encode()
    assert names_in(tmp_path) == ["rollrep.toml"]


def test_file_stays_as_it_is_when_the_source_is_not_text(tmp_path: Path) -> None:
    path = written(tmp_path, FULL)
    with pytest.raises(UsageError, match="not UTF-8"):
        add_job(path, "new", "local:/srv/\udcff.db")
    assert path.read_bytes() == FULL.encode()


def test_link_stays_a_link_when_a_job_is_added_behind_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = written(tmp_path / "real", FULL)
    link = tmp_path / "rollrep.toml"
    link.symlink_to(target)
    add_job(link, "new", "local:/a")
    assert link.is_symlink()
    assert "new" in load_config(target).jobs


def test_relative_identity_is_written_absolute_when_it_was_typed_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "etc" / "rollrep.toml"
    assert add_job(path, "shop", "local:/a", identity=Path("keys/id")).identity == tmp_path / "keys" / "id"
