"""Plugins: what they are told, and that a bad one costs nobody anything."""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pluggy
import pytest

from rollrep import hooks
from rollrep.hooks import call_safely, hookimpl, plugin_manager, quiesced

DATABASE = Path("/srv/app.db")


class Application:
    """A plugin whose application can be looked at; each behaviour of quiesce is asked for."""

    def __init__(self, *, hang: threading.Event | None = None, raises: BaseException | None = None) -> None:
        self.calls: list[str] = []
        self.frozen = False
        self.hang = hang
        self.raises = raises

    @hookimpl
    def rollrep_quiesce(self, database: Path, deadline_s: float) -> None:
        self.calls.append(f"quiesce {database} {deadline_s:g}")
        if self.hang:
            self.hang.wait(30)
        if self.raises:
            raise self.raises
        self.frozen = True

    @hookimpl
    def rollrep_resume(self, label: str | None) -> None:
        self.calls.append(f"resume {label}")
        self.frozen = False


def manager_with(*plugins: object) -> pluggy.PluginManager:
    manager = pluggy.PluginManager("rollrep")
    manager.add_hookspecs(hooks.Hooks)
    for index, plugin in enumerate(plugins):
        manager.register(plugin, name=f"plugin{index}")
    return manager


def test_application_is_still_inside_and_goes_on_after_when_quiesce_works() -> None:
    plugin = Application()
    with quiesced(manager_with(plugin), DATABASE, "x", 5.0) as still:
        assert still
        assert plugin.frozen
    assert not plugin.frozen
    assert plugin.calls == ["quiesce /srv/app.db 5", "resume x"]


def test_application_goes_on_when_the_point_could_not_be_written() -> None:
    plugin = Application()
    with pytest.raises(OSError, match="disk"), quiesced(manager_with(plugin), DATABASE, None, 5.0):
        raise OSError("disk")
    assert plugin.calls[-1] == "resume None"


def test_nobody_is_asked_when_no_plugin_is_installed() -> None:
    with quiesced(manager_with(), DATABASE, None, 5.0) as still:
        assert still


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3)])
def test_all_resume_and_nothing_is_claimed_when_one_quiesce_raises(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    first, bad, last = Application(), Application(raises=error), Application()
    with quiesced(manager_with(first, bad, last), DATABASE, "x", 5.0) as still:
        assert not still
        assert last.frozen
    assert not last.frozen
    assert first.calls == ["resume x"]  # plugins are asked last registered first, so it was never reached
    assert bad.calls == ["quiesce /srv/app.db 5", "resume x"]
    assert "plugin plugin1 failed in rollrep_quiesce" in caplog.text


def test_all_resume_within_the_deadlines_when_one_quiesce_hangs(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    hanging, good = Application(hang=release), Application()
    begin = time.monotonic()
    with quiesced(manager_with(hanging, good), DATABASE, "x", 0.2) as still:
        assert not still
    assert time.monotonic() - begin < 3
    assert good.calls == ["quiesce /srv/app.db 0.2", "resume x"]
    assert hanging.calls == ["quiesce /srv/app.db 0.2", "resume x"]
    assert "not still within 0.2 s" in caplog.text
    assert "still hangs" in caplog.text
    release.set()


def test_application_is_resumed_once_more_when_its_quiesce_comes_late() -> None:
    release = threading.Event()
    late = Application(hang=release)
    with quiesced(manager_with(late), DATABASE, "x", 1.0) as still:
        assert not still
        threading.Timer(0.2, release.set).start()
        while not late.frozen:
            time.sleep(0.01)
    assert not late.frozen

    release.clear()
    late.calls.clear()
    with quiesced(manager_with(late), DATABASE, "x", 0.5):
        threading.Timer(0.2, release.set).start()
    assert not late.frozen
    assert late.calls == ["quiesce /srv/app.db 0.5", "resume x", "resume x"]


def test_no_further_plugin_freezes_when_the_deadline_is_over() -> None:
    release = threading.Event()
    never, late = Application(), Application(hang=release)
    with quiesced(manager_with(never, late), DATABASE, "x", 0.3):
        threading.Timer(0.1, release.set).start()
    assert "quiesce /srv/app.db 0.3" not in never.calls


def test_others_resume_when_one_resume_raises_and_one_hangs() -> None:
    class Bad(Application):
        @hookimpl
        def rollrep_resume(self) -> None:  # type: ignore[override]
            raise RuntimeError("no")

    class Hanging(Application):
        @hookimpl
        def rollrep_resume(self) -> None:  # type: ignore[override]
            threading.Event().wait(5)

    good = Application()
    begin = time.monotonic()
    with quiesced(manager_with(Hanging(), Bad(), good), DATABASE, "x", 0.3) as still:
        assert still
    assert time.monotonic() - begin < 3
    assert good.calls[-1] == "resume x"


def test_others_are_told_and_a_warning_names_it_when_a_plugin_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[tuple[str, object]] = []

    class Raising:
        @hookimpl
        def rollrep_pulled(self, job: str) -> None:
            raise ValueError("oops")

    class Good:
        @hookimpl
        def rollrep_pulled(self, job: str, result: Mapping[str, object]) -> None:
            told.append((job, result["error"]))

    manager = manager_with(Good(), Raising(), Good())
    with caplog.at_level(logging.WARNING):
        call_safely(manager.hook.rollrep_pulled, job="shop", result={"error": None})
    assert told == [("shop", None), ("shop", None)]
    assert [record.getMessage() for record in caplog.records] == [
        "plugin plugin1 failed in rollrep_pulled: ValueError('oops')"
    ]


def test_interrupt_goes_through_when_a_plugin_is_running() -> None:
    class Interrupted:
        @hookimpl
        def rollrep_pull_started(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_safely(manager_with(Interrupted()).hook.rollrep_pull_started, job="shop")


def install(folder: Path, name: str, code: str) -> None:
    """What pip leaves behind for a one-module plugin."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[rollrep]\n{name} = {name}\n")


def test_installed_plugins_are_loaded_and_broken_ones_named_when_the_manager_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    marker = "import pluggy\nhookimpl = pluggy.HookimplMarker('rollrep')\n"
    codes = {
        "rr_good": marker + "told = []\n@hookimpl\ndef rollrep_pull_started(job): told.append(job)\n",
        "rr_import": "import no_such_module\n",
        "rr_exits": "raise SystemExit(1)\n",
        "rr_argument": marker + "@hookimpl\ndef rollrep_pulled(jobs): pass\n",
        "rr_typo": marker + "@hookimpl\ndef rollrep_puled(job): pass\n",
    }
    for name, code in codes.items():
        install(tmp_path, name, code)
    monkeypatch.syspath_prepend(tmp_path)
    assert {each.name for each in importlib.metadata.entry_points(group="rollrep")} >= set(codes)
    manager = plugin_manager()
    call_safely(manager.hook.rollrep_pull_started, job="shop")
    call_safely(manager.hook.rollrep_pulled, job="shop", result={})
    assert sys.modules["rr_good"].told == ["shop"]
    for name in ("rr_import", "rr_exits", "rr_argument"):
        assert f"plugin {name} can't be loaded" in caplog.text
        assert not manager.has_plugin(name)
    assert "plugin rr_typo implements rollrep_puled, which is no hook of rollrep" in caplog.text
    for name in codes:
        sys.modules.pop(name, None)


def test_every_hook_says_what_it_is_when_a_plugin_author_looks() -> None:
    for name, function in inspect.getmembers(hooks.Hooks, inspect.isfunction):
        assert name.startswith("rollrep_")
        assert (function.__doc__ or "").startswith(("Source: ", "Destination: "))
