"""Releases before and after this one, as folders that a process can run from.

Owns: where they come from. Those before lie in the repository's history. Those after are made from this source by what
a release does to a schema and to a form of the change log, and nothing else.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from authsvc.storage.sql import schema

ROOT = Path(__file__).parents[2]

NEXT, AFTER_NEXT = "9001", "9002"
"""The schemas of the two releases after this one."""

_MIGRATION = '''"""A migration of a release that does not exist yet."""

import sqlalchemy as sa
from alembic import op

revision = "{version}"
down_revision = "{before}"


def upgrade() -> None:
    op.create_table("added_{version}", sa.Column("id", sa.BigInteger(), primary_key=True))
    op.add_column("client", sa.Column("added_{version}", sa.Text()))
'''
_FORM = """FORMS += (
    Form(
        "binding_2",
        "{version}",
        BindingPut,
        lambda edit: {{"binding": codec.binding_values(edit.binding)}},
        lambda value: BindingPut(codec.binding_of(value["binding"])),
    ),
)
"""


@dataclass(frozen=True)
class Release:
    """A release; `folder` is where its package lies."""

    version: str
    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes a process of the tests' interpreter run it, wherever that stands."""
        return {"PYTHONPATH": str(self.folder), "PYTHONSAFEPATH": "1"}

    def run(self, *words: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run one of its commands to the end."""
        return subprocess.run(
            [sys.executable, "-m", "authsvc.cli", *words],
            env={"PATH": "", **environment, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def this() -> Release:
    """This source."""
    return Release("this", ROOT)


def commit_of(tag: str, subject: str) -> str:
    """The commit of a tag, or, where tags did not travel, of a message; empty where the history reaches to neither."""
    for asked in (
        ["git", "rev-parse", "--verify", "--quiet", f"{tag}^{{commit}}"],
        ["git", "log", "-1", "--format=%H", "--fixed-strings", f"--grep={subject}", "HEAD"],
    ):
        found = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip():
            return found.stdout.strip()
    return ""


def of_commit(version: str, commit: str, folder: Path) -> Release:
    """A release of the past."""
    packed = subprocess.run(["git", "archive", commit, "authsvc"], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return Release(version, folder)


def next_release(folder: Path) -> Release:
    """Adds to the schema, and reads another form of the change log, which it does not write yet."""
    # With what is compiled, and the times that show it is: else most of each start would be compiling.
    shutil.copytree(ROOT / "authsvc", folder / "authsvc")
    made = Release("9.1.0", folder)
    _edit(made, "__init__.py", '__version__ = "', f'__version__ = "{made.version}"  # "')
    _add_schema(made, NEXT, schema.NEWEST, usable_from=schema.FLOOR)
    forms = "authsvc/storage/sql/change_forms.py"
    anchor = '"""Every form that this release reads'
    text = (folder / forms).read_text()
    assert anchor in text
    (folder / forms).write_text(text.replace(anchor, _FORM.format(version=NEXT) + anchor))
    return made


def release_after_next(folder: Path) -> Release:
    """Lets no release in that does not read the other form, and so writes it."""
    made = Release("9.2.0", next_release(folder).folder)
    _edit(made, "__init__.py", '__version__ = "', f'__version__ = "{made.version}"  # "')
    _add_schema(made, AFTER_NEXT, NEXT, usable_from=NEXT)
    return made


def _add_schema(made: Release, version: str, before: str, *, usable_from: str) -> None:
    folder = made.folder / "authsvc/storage/sql"
    text = _MIGRATION.format(version=version, before=before)
    (folder / "migrations/versions" / f"{version}_added.py").write_text(text)
    anchor = '"""Every schema, oldest first'
    _edit(made, "storage/sql/schema.py", anchor, f'SCHEMAS += (Schema("{version}", "{usable_from}"),)\n{anchor}')


def _edit(made: Release, name: str, old: str, new: str) -> None:
    path = made.folder / "authsvc" / name
    text = path.read_text()
    assert old in text, name
    path.write_text(text.replace(old, new, 1))
