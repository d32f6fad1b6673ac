"""Django: between `pre_migrate` and `post_migrate` each statement is looked at before it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import post_migrate, pre_migrate

from rollrep_migrations import recapture, release


class Watch:
    """An execute wrapper of one connection (https://docs.djangoproject.com/en/stable/topics/db/instrumentation/)."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.released = False

    def __call__(self, execute: Callable[..., Any], statement: Any, params: Any, many: bool, context: Any) -> Any:
        if release(str(statement), self._run):
            self.released = True
        return execute(statement, params, many, context)

    def _run(self, statement: str) -> list[Any]:
        # The driver's own cursor: Django's would come here again.
        return self.connection.connection.execute(statement).fetchall()


def watch(using: str, **_: Any) -> None:
    connection = connections[using]
    if connection.vendor == "sqlite" and not any(isinstance(each, Watch) for each in connection.execute_wrappers):
        connection.execute_wrappers.append(Watch(connection))


def end(using: str, **_: Any) -> None:
    connection = connections[using]
    for each in [each for each in connection.execute_wrappers if isinstance(each, Watch)]:
        connection.execute_wrappers.remove(each)
        if each.released and not connection.in_atomic_block:
            recapture(str(connection.settings_dict["NAME"]))


class RollrepMigrations(AppConfig):
    name = "rollrep_migrations"
    default = True

    def ready(self) -> None:
        pre_migrate.connect(watch, dispatch_uid="rollrep_migrations")
        post_migrate.connect(end, dispatch_uid="rollrep_migrations")
