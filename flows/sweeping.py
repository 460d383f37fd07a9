"""After an export: what earlier ones wrote into the folder and this one does not is removed, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.markup import escape

from storage.catalog import ImageRow
from tasks.export import Images
from tasks.written import Account, File, keep_known, remove
from viewer.words import so_many

if TYPE_CHECKING:
    from flows.selection import Selection


def sweep(
    before: dict[str, File], account: Account, selection: Selection, rows: Iterable[ImageRow], images: Images
) -> list[str]:
    """Remove what earlier exports of this store's images wrote and this one does not; what is to be told of it.

    before: files of earlier exports by path; rows: of the catalog, all that it has ever seen; images: as of `Target`. What
    somebody changed since is left, and is no export's any more. What another store's export wrote is left, and told.
    """
    out, catalog = account.out, _Catalog(rows)
    ours = any(file.sha256 in catalog.contents for file in before.values() if file.image)
    stale = {
        path: file
        for path, file in before.items()
        if path not in account.files and _is_stale(file, account, selection, catalog, images, ours=ours)
    }
    # of the same file under another name the list is to forget the old one
    done = {path: remove(out, file) for path, file in stale.items() if not account.is_among(out / path)}
    keep_known(out, {path: file for path, file in before.items() if path not in stale} | account.files)
    removed = sum(what == "removed" for what in done.values())
    told = []
    if removed:
        told.append(
            f"removed: {so_many(removed, 'files')} that an earlier export wrote and this one does not"
        )
    if changed := [path for path, what in done.items() if what == "changed"]:
        told.append(_left(changed, "of an earlier export that are no longer as it wrote them"))
    others = [path for path, file in before.items() if path not in account.files and catalog.is_foreign(file)]
    if others:
        told.append(_left(others, "of another store's export"))
    return told


class _Catalog:
    """What a store's catalog knows: contents that it has ever seen, and the paths that there are."""

    def __init__(self, rows: Iterable[ImageRow]) -> None:
        kept = list(rows)
        self.contents = {row.sha256 for row in kept}
        self.paths = {row.path for row in kept if row.status != "retired"}

    def is_foreign(self, file: File) -> bool:
        """Whether a file belongs to an image that this store has never seen."""
        return bool(file.image) and file.sha256 not in self.contents


def _is_stale(
    file: File, account: Account, selection: Selection, catalog: _Catalog, images: Images, *, ours: bool
) -> bool:
    """Whether a file that this export did not write is left over for another reason than an option.

    images: as of `Target`; ours: whether the list names any image of this store.
    """
    if not file.image:  # a list of all that is exported, say
        return (
            ours
            and file.store == account.store
            and not (selection.choice.reviewed or selection.choice.classes)
        )
    if catalog.is_foreign(file):
        return False
    if file.image in selection.paths:
        return not (file.pixels and images == "none")
    return file.image in selection.refused or file.image not in catalog.paths


def _left(paths: list[str], whose: str) -> str:
    more = " and others" * (len(paths) > 1)
    return f"[yellow]left: {so_many(len(paths), 'files')}[/] {whose}: {escape(paths[0])}{more}"
