"""Django and Alembic, as they are, drop columns that were renamed just before; without the plugin SQLite refuses."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"
PROGRAMS = Path(sys.executable).parent
sys.path.insert(0, str(SOURCE))

import rollrep_migrations  # noqa: E402

SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "app.db"}}
"""
FIRST = """
from django.db import migrations, models
class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel("Item", [
            ("id", models.BigAutoField(primary_key=True)), ("name", models.CharField(max_length=9)),
            ("stock", models.IntegerField(default=0)), ("price", models.FloatField(null=True)),
        ]),
        migrations.CreateModel("Place", [
            ("id", models.BigAutoField(primary_key=True)), ("town", models.CharField(max_length=9, null=True)),
        ]),
        migrations.RunSQL("INSERT INTO shop_item(name, stock, price) VALUES ('a', 1, 2.5), ('b', 2, NULL)"),
    ]
"""
SECOND = """
from django.db import migrations, models
class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.RemoveField("Item", "price"),
        migrations.RunSQL("UPDATE shop_item SET stock = stock + 1"),
        migrations.RenameField("Item", "stock", "amount"),
        migrations.RemoveField("Item", "amount"),
        migrations.AddField("Item", "kind", models.CharField(max_length=9, default="new")),
        OTHER
    ]
"""
REVISION = """
from alembic import op
import sqlalchemy as sa
revision, down_revision = {revision!r}, {before!r}
def upgrade():
    {upgrade}
def downgrade():
    pass
"""
ENV = """
{line}
import sqlalchemy as sa
from alembic import context
with sa.create_engine("sqlite:///app.db").begin() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


def run(folder: Path, *command: str | Path, path: bool = True) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{SOURCE}{os.pathsep}{folder}", "DJANGO_SETTINGS_MODULE": "settings"}
    environment["PATH"] = f"{PROGRAMS}{os.pathsep}/usr/bin" if path else "/usr/bin"
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def done(folder: Path, *command: str | Path, path: bool = True) -> str:
    process = run(folder, *command, path=path)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def asked(folder: Path, question: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "app.db")) as db:
        return db.execute(question).fetchall()


def shapes(folder: Path) -> dict[object, object]:
    return dict(asked(folder, "SELECT tbl, id FROM _rollrep_shape WHERE is_current"))


def captured(folder: Path) -> Sequence[object]:
    return [
        table
        for (table,) in asked(
            folder,
            "SELECT tbl_name FROM sqlite_master WHERE substr(name, 1, 16) = '_rollrep_delete_' ORDER BY 1",
        )
    ]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A Django project whose first migration is done, and whose database has a log."""
    migrations = tmp_path / "shop" / "migrations"
    migrations.mkdir(parents=True)
    for package in (tmp_path / "shop", migrations):
        (package / "__init__.py").touch()
    (tmp_path / "settings.py").write_text(SETTINGS + 'INSTALLED_APPS = ["rollrep_migrations", "shop"]\n')
    (migrations / "0001_initial.py").write_text(FIRST)
    (tmp_path / "shop" / "models.py").touch()
    done(tmp_path, "django", "migrate")
    done(tmp_path, "rollrep", "source", "install", "app.db")
    return tmp_path


def second(project: Path, other: str = "") -> None:
    (project / "shop" / "migrations" / "0002_less.py").write_text(SECOND.replace("OTHER", other))


@pytest.mark.parametrize("on_path", [True, False])
def test_django_removes_fields_and_only_that_table_is_captured_anew(project: Path, on_path: bool) -> None:
    second(project)
    before = shapes(project)
    done(project, "django", "migrate", path=on_path)
    assert asked(project, "SELECT name, kind FROM shop_item") == [("a", "new"), ("b", "new")]
    if not on_path:
        assert "shop_item" not in captured(project)
        done(project, "rollrep", "source", "install", "app.db")
    after = shapes(project)
    assert captured(project) == sorted(map(str, after))
    assert {table for table in before if before[table] != after[table]} == {"shop_item"}
    assert done(project, "rollrep", "source", "install", "app.db").startswith("app.db: all is as it should be")


def test_django_is_refused_when_the_plugin_is_not_installed(project: Path) -> None:
    (project / "settings.py").write_text(SETTINGS + 'INSTALLED_APPS = ["shop"]\n')
    second(project)
    refused = run(project, "django", "migrate")
    assert refused.returncode == 1
    assert "error in trigger _rollrep_" in refused.stderr


def test_triggers_are_there_again_when_a_django_migration_is_rolled_back(project: Path) -> None:
    second(project, 'migrations.RunSQL("INSERT INTO no_such_table VALUES (1)"),')
    before = asked(project, "SELECT sql FROM sqlite_master ORDER BY 1")
    assert run(project, "django", "migrate").returncode == 1
    assert asked(project, "SELECT sql FROM sqlite_master ORDER BY 1") == before


def test_nothing_is_captured_anew_when_django_has_nothing_to_do(project: Path) -> None:
    before = shapes(project)
    done(project, "django", "migrate")
    assert shapes(project) == before


@pytest.mark.parametrize("plugin", [True, False])
def test_alembic_drops_a_column_when_the_plugin_is_imported(tmp_path: Path, plugin: bool) -> None:
    (tmp_path / "alembic" / "versions").mkdir(parents=True)
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = alembic\npath_separator = os\n")
    (tmp_path / "alembic" / "env.py").write_text(ENV.format(line="import rollrep_migrations.alembic" if plugin else ""))
    versions = {
        "1": (
            None,
            "op.create_table('item', sa.Column('id', sa.Integer, primary_key=True), sa.Column('price', sa.Float))",
        ),
        "2": ("1", "op.execute('ALTER TABLE item RENAME price TO cost'); op.drop_column('item', 'cost')"),
    }
    for revision, (before, upgrade) in versions.items():
        text = REVISION.format(revision=revision, before=before, upgrade=upgrade)
        (tmp_path / "alembic" / "versions" / f"v{revision}.py").write_text(text)
    done(tmp_path, "alembic", "upgrade", "1")
    done(tmp_path, "rollrep", "source", "install", "app.db")
    upgraded = run(tmp_path, "alembic", "upgrade", "head")
    assert (upgraded.returncode == 0) == plugin, upgraded.stderr
    if plugin:
        assert asked(tmp_path, "SELECT name FROM pragma_table_info('item')") == [("id",)]
        assert set(captured(tmp_path)) == {"alembic_version", "item"}
    else:
        assert "error in trigger _rollrep_" in upgraded.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE t ADD COLUMN x",
        "ALTER TABLE t RENAME TO drops",
        "SELECT 'ALTER TABLE t DROP COLUMN x'",
        "DROP TABLE t",
    ],
)
def test_no_statement_but_drop_column_is_meant(statement: str) -> None:
    assert rollrep_migrations.table_losing_a_column(statement) is None
