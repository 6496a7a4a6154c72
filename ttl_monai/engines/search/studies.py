"""A search as a study in the database: how it is begun, found and closed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection

from ttl_monai.engines.search.storage import Storage

SEARCH, CLOSED = "ttl_search", "ttl_closed"  # attributes of the study


def begin_study(storage: Storage, name: str, search: Mapping[str, Any], *, movable: bool) -> int:
    """Make the study of a search, or open the one that is there.

    Args:
        storage: the database.
        name: name of the study.
        search: what workers need to know, as JSON values; `folder` is where the results are.
        movable: the folder may have been moved since the study was made, as when the database lies in it.

    Returns:
        The study's number.

    Raises:
        ValueError: the name belongs to a search in another folder.
    """

    def begin(opened: RDBStorage) -> int:
        try:
            study_id = opened.create_new_study([StudyDirection.MAXIMIZE], name)
        except DuplicatedStudyError:
            study_id = opened.get_study_id_from_name(name)
        there = opened.get_study_user_attrs(study_id).get(SEARCH, search)["folder"]
        if there != search["folder"] and not movable:
            raise ValueError(
                f"the queue has a search {name!r} already, with its results in {there}, not in {search['folder']}. "
                "Take that folder to go on with it, or another name."
            )
        opened.set_study_user_attr(study_id, SEARCH, dict(search))
        opened.set_study_user_attr(study_id, CLOSED, False)
        return study_id

    return storage.call(begin)


def find_study(storage: Storage, name: str | None) -> tuple[str, int, dict[str, Any]]:
    """Find the study of a search.

    Args:
        storage: the database.
        name: name of the study; None takes the only one.

    Returns:
        Its name, its number, and what `begin_study` was given.

    Raises:
        ValueError: there is none of that name, or no name was given and there is more than one.
    """
    studies = storage.call(lambda opened: opened.get_all_studies())
    searches = {each.study_name: each for each in studies if SEARCH in each.user_attrs}
    chosen = next(iter(searches)) if name is None and len(searches) == 1 else name
    if chosen is None or chosen not in searches:
        raise ValueError(
            f"expected the name of a search in {storage.url} (--study NAME), got {name!r}; it has: "
            f"{', '.join(sorted(searches)) or 'none'}."
        )
    found = searches[chosen]
    return chosen, found._study_id, dict(found.user_attrs[SEARCH])


def close_study(storage: Storage, study_id: int) -> None:
    """Say that no more cells come."""
    storage.call(lambda opened: opened.set_study_user_attr(study_id, CLOSED, True))


def open_space(storage: Storage, study_id: int) -> Mapping[str, Any] | None:
    """The description of the search as it stands in the database; None when it is closed."""
    found = storage.call(lambda opened: opened.get_study_user_attrs(study_id))
    return None if found[CLOSED] else found[SEARCH]["space"]


def check_folder(folder: str | Path, study: str) -> Path:
    """The folder of a search, which a worker must see.

    Raises:
        ValueError: it does not.
    """
    path = Path(folder).absolute()
    if not path.is_dir():
        raise ValueError(
            f"the folder {path} of the search {study!r} is not to be seen from here. Name it as this machine sees it "
            "(--out DIR)."
        )
    return path
