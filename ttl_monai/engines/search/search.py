"""The search itself: rounds of cells, workers, the choice, and the files that it leaves."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ttl_monai.engines.search.choice import RULES
from ttl_monai.engines.search.document import make_document
from ttl_monai.engines.search.evaluation import evaluate_choice
from ttl_monai.engines.search.ledger import Ledger
from ttl_monai.engines.search.methods import METHODS, Method, Outcome, make_method
from ttl_monai.engines.search.prepare import prepare_images
from ttl_monai.engines.search.probe import check_probed, write_probe_run
from ttl_monai.engines.search.space import KNOB, Space
from ttl_monai.engines.search.supervise import Workers, default_workers, threads_of, wait_for
from ttl_monai.engines.search.survey import survey
from ttl_monai.engines.search.transition import svcca_options
from ttl_monai.handlers.files import write_atomically
from ttl_monai.reports import console_table, plot_search, search_table

logger = logging.getLogger(__name__)

STUDY = "truncation"
# Config ids that the search sets in its cells, and how to say them to it.
_OWN = {
    "dataset_dir": "--dataset_dir",
    "datalist": "--datalist",
    "output_dir": "--output_dir",
    "seed": "--seed",
    "strategy": "a search trains the whole network and its cuts",
    "resume": "a search always goes on where it stopped",
}


class TruncationSearch:
    """Find how little of a pretrained network is needed, by one of four methods that share one ledger of trainings.

    The test section is sealed: cells get copies of the datalists without it. Everything is kept in `output_dir`; the
    same call goes on where an interrupted one stopped, and another method takes what is trained already.

    Args:
        bundle: folder of the bundle.
        method: "two-stage", "probe", "svcca" or "exhaustive".
        dataset_dir: folder that the images' paths start from; None takes the data that the bundle makes.
        datalist: one datalist a repeat, or one from which all repeats are drawn.
        output_dir: folder of the search; default: `eval/search` in the bundle.
        repeats: trainings of a cut, each on its own split; default: one a datalist, or 3 of a single one.
        overlays: overlays of the bundle after train.json, such as `backbone_resnet50.json`.
        settings: config ids and their values, such as `{"max_epochs": 20}`.
        train_patients: use so few training patients, to see what holds on small data.
        candidates: names of truncation points; None takes all ends of stages and blocks.
        rule: "within-one-std" (smallest network within one standard deviation of the best) or "best".
        quorum: share of the cells that must be done before a winner is named.
        seed: seed of the first repeat.
        svcca: arguments of the comparison, such as `{"null": "permute"}` or `{"variance": 0.99}`.
        workers: processes of this machine; None takes one a GPU, or up to four that share the CPU; 0 waits for those
            that `ttl worker` starts elsewhere.
        threads: CPU threads of each.
        storage: address of the queue; default: a SQLite file in `output_dir`.
        study: name of the search in the queue; one database can hold many.
        retry_failed: try cells again that have failed.
        evaluate: after the choice, open the test section and evaluate the chosen cut and the whole network on it.
        command: the command line that repeats the search, for the record.

    Raises:
        ValueError: anything that a training would refuse.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        method: str = "two-stage",
        dataset_dir: str | Path | None = None,
        datalist: str | Path | Sequence[str | Path] | None = None,
        output_dir: str | Path | None = None,
        repeats: int | None = None,
        overlays: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        train_patients: int | None = None,
        candidates: Sequence[str] | None = None,
        rule: str = RULES[0],
        quorum: float = 2 / 3,
        seed: int = 0,
        svcca: Mapping[str, Any] | None = None,
        workers: int | None = None,
        threads: int | None = None,
        storage: str | None = None,
        study: str = STUDY,
        retry_failed: bool = False,
        evaluate: bool = False,
        command: str | None = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        if (dataset_dir is None) != (datalist is None):
            raise ValueError("pass both dataset_dir and datalist, or neither to search on the bundle's made data")
        if own := sorted(_OWN.keys() & set(settings or {})):
            raise ValueError(f"settings must leave {own[0]!r} to the search: {_OWN[own[0]]}")
        if svcca and method != "svcca":
            raise ValueError(f"only the method svcca takes {', '.join(svcca)}, got method {method!r}")
        if workers is not None and workers < 0:
            raise ValueError(f"workers must be 0 or more, got {workers}")
        lists = [datalist] if isinstance(datalist, (str, Path)) else list(datalist or [])
        self.bundle, self.method = Path(bundle), method
        self.folder = Path(output_dir or self.bundle / "eval" / "search").absolute()
        self.rule, self.quorum, self.retry_failed, self.evaluate = rule, quorum, retry_failed, evaluate
        self.workers = default_workers() if workers is None else workers
        self.threads = threads_of(self.workers) if threads is None else threads
        self.storage, self.study = storage, study
        self._prepared = 0.0
        # As it was typed, with the places of this machine; the record names the command without them.
        self.again = f"{_program()} {shlex.join(sys.argv[1:])}"
        self.command = command or "python -m monai.bundle run --config_file .../search.json"
        self._survey: dict[str, Any] = {
            "folder": self.folder,
            "bundle": self.bundle,
            "overlays": tuple(overlays),
            "settings": dict(settings or {}),
            "dataset_dir": None if dataset_dir is None else Path(dataset_dir),
            "datalists": [Path(each).absolute() for each in lists],
            "repeats": repeats,
            "train_patients": train_patients,
            "candidates": candidates,
            "seed": seed,
            "options": {"svcca": svcca_options(svcca or {})},
        }

    def run(self) -> dict[str, Any]:
        """Search, write the files, and say what was found.

        Returns:
            The search document (see `make_document`).

        Raises:
            ValueError: the method is the probe and the task segmentation.
            KeyboardInterrupt: after the workers have stopped and the command that goes on was printed.
        """
        space = survey(**self._survey)
        if self.method == "probe":
            check_probed(space)
        ledger = Ledger.create(self.folder, self.storage, study=self.study, space=space.to_json())
        method = make_method(self.method, space, rule=self.rule, quorum=self.quorum)
        try:
            self._work(space, method, ledger)
        except KeyboardInterrupt:
            logger.info("\nStopped. Finished cells are kept; this goes on:\n  %s", self.again)
            raise
        ledger.close()
        results, failures = ledger.results(), ledger.failures()
        outcome = method.outcome(results, frozenset({*results, *failures}))
        self._write_choice(space, outcome)
        if self.method == "probe":
            self._write_probes(space, outcome, results)
        test = evaluate_choice(space, outcome, results, self.folder) if self.evaluate else None
        return self._report(space, results, failures, test)

    def _work(self, space: Space, method: Method, ledger: Ledger) -> None:
        """One round after the other, until the method has all that it needs."""

        def settled() -> frozenset[str]:
            return frozenset({*ledger.results(), *ledger.failures()})

        again = frozenset(ledger.failures()) if self.retry_failed else frozenset()
        if not method.pending(ledger.results(), settled() - again):
            return
        if self.workers:  # on other machines the cache may be another
            self._prepared = prepare_images(space, method.kinds, workers=threads_of(1))
        log_dir = self.folder / "logs"
        with Workers(ledger, number=self.workers, threads=self.threads, log_dir=log_dir) as workers:
            if not workers.number:
                logger.info("Waiting for workers: ttl worker --storage %s --study %s", ledger.url, ledger.study)
            while cells := method.pending(ledger.results(), settled() - again):
                ledger.enqueue(cells, retry_failed=self.retry_failed)
                kinds = {"probe": "probes", "svcca": "comparison", "train": "trainings"}
                wait_for(cells, ledger, workers, title=f"{method.name}, {kinds[cells[0].kind]}", settled=settled)
                again -= {cell.key for cell in cells}  # once each

    def _write_choice(self, space: Space, outcome: Outcome) -> None:
        """The ready overlay of the chosen cut."""
        path = self.folder / "strategy_ttl.json"
        made_by = f"`ttl search --method {self.method}`"
        if not outcome.determined or outcome.pick is None:
            if path.is_file() and made_by in path.read_text():  # that of another method stays
                path.unlink()
            said = outcome.reason if not outcome.determined else f"the whole network ({outcome.reason})"
            logger.info("No cut is chosen: %s.", said)
            return
        overlay = {
            "_desc_": f"Overlay on train.json. TTL at the point that {made_by} chose on {space.header['dataset']}.",
            "strategy": "TTL",
            KNOB: outcome.pick,
        }
        write_atomically(path, (json.dumps(overlay, indent=4) + "\n").encode())
        logger.info("Chosen: %s (%s).", outcome.pick, outcome.reason)

    def _write_probes(self, space: Space, outcome: Outcome, results: Mapping[str, Mapping[str, Any]]) -> None:
        """The probe that was picked before any training, as a run of each repeat."""
        if outcome.before_training is None:
            return
        for cell in outcome.before_training.cells:
            if cell.key in results:
                source = self.folder / results[cell.key]["run"]
                target = self.folder / "probe" / f"repeat{cell.repeat}"
                write_probe_run(space, outcome.before_training.pick, cell.repeat, source, target)

    def _report(
        self,
        space: Space,
        results: Mapping[str, Mapping[str, Any]],
        failures: Mapping[str, str],
        test: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Write search.json, its table and its picture, of all methods that have run in this folder."""
        record = self.folder / "search.json"
        before = json.loads(record.read_text()) if record.is_file() else {}
        asked = [space.seed, self.rule, round(self.quorum, 4), [each["point"] for each in space.candidates]]
        identity = [space.identity, *space.manifests, hashlib.sha256(json.dumps(asked).encode()).hexdigest()]
        if before and before.get("identity") != identity:
            aside = record.with_name(f"search-{hashlib.sha256(record.read_bytes()).hexdigest()[:8]}.json")
            record.replace(aside)
            logger.info("The record of a search with other data, candidates or settings is kept as %s.", aside.name)
            before = {}
        opened = before.get("test") or {}
        if test and opened.get("method") == self.method:  # by the same choice, then as now
            test = {**test, "opened_after_choice": opened["opened_after_choice"]}
        commands = {**before.get("commands", {}), self.method: self.command}
        options = space.options if self.method == "svcca" else before.get("options", space.options)
        asked_then = replace(space, options=options)
        methods = [
            make_method(name, asked_then, rule=self.rule, quorum=self.quorum) for name in METHODS if name in commands
        ]
        document = make_document(
            asked_then,
            methods,
            results,
            failures,
            commands=commands,
            test=test or before.get("test"),
        )
        document |= {"identity": identity, "options": options}
        document["prepare_seconds"] = round(max(self._prepared, before.get("prepare_seconds", 0.0)), 1)
        write_atomically(record, (json.dumps(document, indent=4) + "\n").encode())
        write_atomically(self.folder / "search.md", search_table(document).encode())
        plot_search(document, self.folder / "search.png")
        logger.info("\n%s\n\nTable, picture and record: %s", console_table(document), self.folder)
        return document


def _program() -> str:
    """How this process was started, for the command that goes on."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return "ttl" if path.parts[-3:-1] == ("ttl_monai", "cli") else f"python -m {'.'.join(path.parts[-3:-1])}"
    return "ttl" if path.name == "ttl" else f"python {shlex.quote(str(path))}"
