"""Hooks: what an installed plugin is told, and where it may help.

A plugin is a module, chosen by being installed.  This one makes an application stand still for a point:

    # app_freeze.py
    import pluggy
    hookimpl = pluggy.HookimplMarker("rollrep")

    @hookimpl
    def rollrep_quiesce(database, deadline_s):     # take only the arguments you need
        send("freeze", timeout=deadline_s)

    @hookimpl
    def rollrep_resume(database):                  # also called when the above failed, or never ran
        send("go on")

    # pyproject.toml
    [project.entry-points.rollrep]
    app_freeze = "app_freeze"

Beside the application:   quiesce ─► (the point is written) ─► resume ─► point_written
At the destination:       pull_started ─► mirrored, points_recorded, snapshot_taken ─► pulled;   restored

A plugin that raises is logged by name, and never breaks a pull.  A plugin that hangs can cost a point its
kind, never the application its life: `quiesced` has a deadline and always resumes.

Knows: pluggy.  Does not know: any plugin, where in a pull the hooks are called.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pluggy

GROUP = "rollrep"
"""The group of entry points, and the project name of the markers."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

_log = logging.getLogger(__name__)


class Hooks:
    """What plugins may implement.  All are called one plugin after the other; what they return is ignored."""

    @hookspec
    def rollrep_quiesce(self, database: Path, label: str | None, deadline_s: float) -> None:
        """Source: bring the application to a known good state and hold it there, within `deadline_s`.

        Called in a thread of its own before a point is written.  Raise when it can't be done: the point then
        does not claim that the application was still.  Give everything in here a timeout, so that nothing
        freezes after the deadline.
        """

    @hookspec
    def rollrep_resume(self, database: Path, label: str | None) -> None:
        """Source: let the application go on.

        Always called after quiesce, even when quiesce raised, still hangs or was never reached; may be called
        twice.  In a thread of its own, so that no plugin waits for another.
        """

    @hookspec
    def rollrep_point_written(self, database: Path, id: int, time: str, label: str | None) -> None:  # noqa: A002
        """Source: a consistency point stands in the log as row `id`; `time` is ISO 8601 in UTC."""

    @hookspec
    def rollrep_pull_started(self, job: str) -> None:
        """Destination: a pull of `job` begins."""

    @hookspec
    def rollrep_pulled(self, job: str, result: Mapping[str, object]) -> None:
        """Destination: a pull of `job` ended.

        `result` has the keys that `pull --json` prints for each job; `error` is the error's text, or None
        when all went well.
        """

    @hookspec
    def rollrep_mirrored(self, job: str, reason: str, tables: Sequence[str], rows: int) -> None:
        """Destination: `tables` were mirrored again because of `reason`, and `rows` rows were fetched."""

    @hookspec
    def rollrep_points_recorded(self, job: str, points: Sequence[Mapping[str, object]]) -> None:
        """Destination: these points can be restored from now on; the keys are those of `points --json`."""

    @hookspec
    def rollrep_snapshot_taken(self, job: str, path: Path, time: str) -> None:
        """Destination: a snapshot stands at `path`; `time` is the source's, of its point, ISO 8601 in UTC."""

    @hookspec
    def rollrep_restored(self, job: str, output: Path, point: Mapping[str, object]) -> None:
        """Destination: `output` holds the database as it was at `point` (keys as in `points --json`)."""


def plugin_manager() -> pluggy.PluginManager:
    """A manager with every installed plugin.  One that can't be loaded is logged and left out."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    for name in sorted({entry.name for entry in importlib.metadata.entry_points(group=GROUP)}):
        try:
            manager.load_setuptools_entrypoints(GROUP, name=name)
        except (Exception, SystemExit) as error:
            _log.warning("plugin %s can't be loaded and is left out: %r", name, error)
            continue
        for caller in manager.get_hookcallers(manager.get_plugin(name)) or []:
            if not caller.has_spec():
                _log.warning("plugin %s implements %s, which is no hook of rollrep", name, caller.name)
    return manager


def call_safely(hook: pluggy.HookCaller, **arguments: object) -> None:
    """Calls each plugin's `hook`; one that raises is logged, and the others are still called.

    As pluggy does, the plugin registered last is called first; wrappers are not supported.
    """
    for plugin in reversed(hook.get_hookimpls()):
        _call(plugin, hook.name, arguments)


@contextlib.contextmanager
def quiesced(manager: pluggy.PluginManager, database: Path, label: str | None, deadline_s: float) -> Iterator[bool]:
    """True while every plugin holds its application still; False when one raised or took too long.

    True also when no plugin is asked.  The body must be short and bounded: the application waits for it.
    Afterwards every plugin's resume is called, all at once.  A quiesce that ends after the deadline is
    resumed once more, so that it leaves nothing frozen.  Beside the body this takes at most four times
    `deadline_s`: for quiesce, for resume, for a late quiesce, and for resume again.
    """
    calls = list(reversed(manager.hook.rollrep_quiesce.get_hookimpls()))
    if not calls and not manager.hook.rollrep_resume.get_hookimpls():
        yield True
        return
    over = threading.Event()
    all_still = threading.Event()

    def freeze() -> None:
        arguments = {"database": database, "label": label, "deadline_s": deadline_s}
        for plugin in calls:
            if over.is_set() or not _call(plugin, "rollrep_quiesce", arguments):
                return
        all_still.set()

    def thaw() -> None:
        arguments = {"database": database, "label": label}
        until = time.monotonic() + deadline_s
        resuming = [
            (plugin, _started(functools.partial(_call, plugin, "rollrep_resume", arguments)))
            for plugin in manager.hook.rollrep_resume.get_hookimpls()
        ]
        for plugin, thread in resuming:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                _log.warning("plugin %s hangs in rollrep_resume", plugin.plugin_name)

    freezing = _started(freeze)
    try:
        freezing.join(deadline_s)
        still = all_still.is_set()
        if not still and freezing.is_alive():
            _log.warning("the application was not still within %g s", deadline_s)
        yield still
    finally:
        over.set()
        late = freezing.is_alive()
        thaw()
        if late:
            freezing.join(deadline_s)
            if freezing.is_alive():
                _log.warning("rollrep_quiesce still hangs; what it freezes from now on stays frozen")
            else:
                thaw()


def _call(plugin: pluggy.HookImpl, hook: str, arguments: Mapping[str, object]) -> bool:
    """True when the plugin returned; whatever it raised is logged."""
    if plugin.wrapper or plugin.hookwrapper:
        _log.warning("plugin %s wraps %s, which rollrep does not support", plugin.plugin_name, hook)
        return False
    chosen = [arguments[name] for name in plugin.argnames]
    try:
        plugin.function(*chosen)
    except (Exception, SystemExit) as error:
        _log.warning("plugin %s failed in %s: %r", plugin.plugin_name, hook, error)
        return False
    return True


def _started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True, name="rollrep-plugin")  # a hanging one ends with us
    thread.start()
    return thread
