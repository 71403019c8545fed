"""Writing captures: what was recorded as a manifest and arrays, and that as a file, in a thread of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import secrets as random
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import structlog

from candidate_pipeline.engine.plan import Node
from candidate_pipeline.engine.recording import Call, Recorder, places_of
from candidate_pipeline.errors import CandidatePipelineError, CaptureError
from candidate_pipeline.keys import ITEM_ID
from candidate_pipeline.outcome import Outcome
from candidate_pipeline.secrecy import NO_SECRETS, Secrets
from candidate_pipeline.what_if.archive import Arrays, pack
from candidate_pipeline.what_if.capture import FORMAT, SCHEMA, SUFFIX, Captures
from candidate_pipeline.what_if.codec import encode
from candidate_pipeline.what_if.ranking import Ranking
from candidate_pipeline.what_if.tables import encode_table, encode_updates, query_digest, row_digests

log = structlog.get_logger("candidate_pipeline.capture")


def manifest_of(
    recorder: Recorder, outcome: Outcome, secrets: Secrets = NO_SECRETS, dataset: str = ""
) -> tuple[dict[str, Any], Arrays]:
    """What was recorded of a request as the manifest and the arrays of a capture.

    Args:
        recorder: What was recorded.
        outcome: The answer.
        secrets: Texts that may stand nowhere in it.
        dataset: The name of the data set that it was served from, if that has one.

    Raises:
        CaptureError: It is too large.
    """
    arrays = Arrays()
    writer = _Writer(arrays, secrets)
    query, plan = recorder.query, recorder.plan
    inputs, left = writer.features(query.features)
    header, members = Ranking.of(outcome).to_arrays()
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA,
        "request_id": query.request_id,
        "now": query.now.isoformat(),
        "seed": query.seed,
        "inputs": inputs,
        "uncaptured": left,
        "dataset": secrets.hide(dataset),
        "plugins": dict(plan.plugins),
        "recording": writer.recording(recorder, outcome),
        "ranking": header,
        "ranking_arrays": {name: arrays.add(array) for name, array in members.items()},
    }
    return manifest, writer.checked()


@attrs.define(eq=False)
class _Writer:
    arrays: Arrays
    secrets: Secrets

    def recording(self, recorder: Recorder, outcome: Outcome | None) -> dict[str, Any]:
        """What was recorded of a pipeline; `outcome`, if it answered."""
        plan, places = recorder.plan, places_of(recorder.plan)
        last = {} if outcome is None else {(entry.stage, entry.component): entry for entry in outcome.trace}
        components = []
        for node in plan.nodes:
            entry = last.get((node.stage, node.name))
            calls = [self.call(node, call) for call in recorder.calls.get(node.index, ())]
            components.append(
                {
                    "place": places.get(node.index, f"{node.stage}/{node.name} ({node.index})"),
                    "name": node.name,
                    "use": node.use,
                    "kind": node.kind,
                    "fingerprint": node.fingerprint,
                    "status": "" if entry is None else entry.status,
                    "error": "" if entry is None else self.secrets.hide(entry.error),
                    "calls": calls,
                }
            )
        found = {} if outcome is None else _outcomes(outcome)
        inner = {places[at]: self.recording(each, found.get(at)) for at, each in recorder.inner.items()}
        return {
            "pipeline": plan.name,
            "config_hash": plan.config_hash,
            "components": components,
            "inner": inner,
        }

    def call(self, node: Node, call: Call) -> dict[str, Any]:
        """One call."""
        arrays = self.arrays
        found: dict[str, Any] = {
            "refill": call.refill,
            "error": None if call.error is None else self.secrets.hide(call.error),
            "late": call.late,
            "outside": call.outside,
            "asked": query_digest(call.query, node.features),
            "uncaptured": {},
        }
        table = call.table
        if table is not None:
            found["ids"] = arrays.add(table[ITEM_ID])
            found["digests"] = arrays.add(row_digests(table, node.columns))
        if call.value is None or node.inner is not None:
            return found
        if node.kind == "query_hydrator":
            values = {feature: update.value for feature, update in call.value.updates.items()}
            found["features"], found["uncaptured"] = self.features(values)
        elif node.kind == "source":
            found["columns"], found["uncaptured"] = encode_table(call.value, arrays)
        else:
            rows = 0 if table is None else len(table)
            failed = call.value.failed_rows(rows)
            updates = call.value.updates.values()
            found["columns"], found["uncaptured"] = encode_updates(updates, rows, failed, arrays)
            if failed is not None:
                found["failed"] = arrays.add(failed)
        if found["uncaptured"]:
            log.warning("not all of an answer can be captured", component=node.name, left_out=found["uncaptured"])
        return found

    def features(self, values: Mapping[Any, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Query features by name, encoded, and why others cannot be captured."""
        given, left = {}, {}
        for feature, value in values.items():
            try:
                encoded = encode(value, feature.type, self.arrays)
                if self.holds_secret(encoded):
                    raise CaptureError("it holds a value that the spec takes from { env = ... }")
                given[feature.name] = encoded
            except CaptureError as error:
                left[feature.name] = str(error)
                log.warning("a query feature cannot be captured", feature=feature.name, error=str(error))
        return given, left

    def holds_secret(self, found: Any) -> bool:
        """Whether plain data holds a secret, in a text or in bytes."""
        if not self.secrets.texts:
            return False
        if isinstance(found, str):
            return any(secret in found for secret in self.secrets.texts)
        if isinstance(found, dict):
            if isinstance(coded := found.get("bytes"), str):
                whole = base64.b64decode(coded)
                return any(secret.encode() in whole for secret in self.secrets.texts)
            return any(self.holds_secret(each) for pair in found.items() for each in pair)
        return isinstance(found, list) and any(map(self.holds_secret, found))

    def checked(self) -> Arrays:
        """The arrays, none of which holds a secret.

        Raises:
            CaptureError: One does.
        """
        needles = [
            form
            for secret in self.secrets.texts
            for form in (secret.encode(), secret.encode("utf-32-le"), json.dumps(secret)[1:-1].encode())
        ]
        for array in self.arrays.members:
            if array.dtype.kind in "SU" or array.dtype == np.uint8:
                whole = array.tobytes()
                if any(needle in whole for needle in needles):
                    raise CaptureError("a column or query feature holds a value that the spec takes from { env = ... }")
        return self.arrays


def _outcomes(outcome: Outcome) -> dict[int, Outcome]:
    """The outcomes of nested pipelines by the number of their component."""
    found: dict[int, Outcome] = {}
    for node in outcome.plan.nodes:
        for name, inner in outcome.inner.items():
            if node.inner is inner.plan and (name == node.name or name.startswith(f"{node.name} (")):
                found.setdefault(node.index, inner)
    return found


@attrs.define(eq=False)
class CaptureCounts:
    """What became of the captures of an application; the generations of one that reloads have them in common.

    Args:
        saved: How many were written.
        failed: How many could not be written.
        left_out: How many were left out because too many waited.
        waiting: How many wait to be written, or are being written now.
        last: The file that was written last.
    """

    saved: int = 0
    failed: int = 0
    left_out: int = 0
    waiting: int = 0
    last: Path | None = None
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def ended(self, path: Path | None) -> None:
        """Count a capture that was written, or could not be; each generation has a thread that does."""
        with self._lock:
            if path is None:
                self.failed += 1
            else:
                self.saved, self.last = self.saved + 1, path


@attrs.define(eq=False)
class CaptureWriter:
    """Writes the captures of an application, or of one of its generations.

    Args:
        captures: Where to, and which.
        secrets: Texts that may stand in none.
        counts: What became of them; by default this one's alone.
        dataset: The name of the data set that requests are served from.
    """

    captures: Captures
    secrets: Secrets = attrs.field(default=NO_SECRETS, repr=False)
    counts: CaptureCounts = attrs.field(factory=CaptureCounts)
    dataset: str = ""
    _threads: ThreadPoolExecutor | None = None
    _pending: set[asyncio.Future[Any]] = attrs.field(factory=set)

    @property
    def saved(self) -> int:
        """How many were written."""
        return self.counts.saved

    @property
    def failed(self) -> int:
        """How many could not be written."""
        return self.counts.failed

    @property
    def left_out(self) -> int:
        """How many were left out because too many waited."""
        return self.counts.left_out

    @property
    def last(self) -> Path | None:
        """The file that was written last."""
        return self.counts.last

    def wanted(self, request_id: str, *, asked: bool) -> bool:
        """Whether a request is to be recorded: it was asked for, or it is in the sample and few enough wait."""
        return asked or (self.captures.sampled(request_id) and not self._too_many(request_id))

    def _too_many(self, request_id: str) -> bool:
        if self.counts.waiting < self.captures.max_pending:
            return False
        self.counts.left_out += 1
        log.warning("capture left out: too many wait to be written", request_id=request_id)
        return True

    def submit(self, recorder: Recorder, outcome: Outcome, *, asked: bool) -> asyncio.Future[Path | None] | None:
        """Write a capture in a thread; where, or `None` if it cannot be, which is logged and counted.

        Returns:
            What to wait for; `None`: too many wait to be written by now, or there is no thread to be had.
        """
        request_id = recorder.query.request_id
        if not asked and self._too_many(request_id):  # many requests may have begun while few waited
            return None
        try:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(1, thread_name_prefix="captures")
            future = asyncio.get_running_loop().run_in_executor(self._threads, self.save, recorder, outcome)
        except RuntimeError as error:  # no more threads can be started
            self.counts.ended(None)
            log.warning("a request could not be captured", request_id=request_id, error=str(error))
            return None
        self.counts.waiting += 1
        self._pending.add(future)
        future.add_done_callback(self._written)
        return future

    def _written(self, future: asyncio.Future[Any]) -> None:
        self.counts.waiting -= 1
        self._pending.discard(future)

    def save(self, recorder: Recorder, outcome: Outcome) -> Path | None:
        """Write a capture here and now; where, or `None` if it cannot be, which is logged and counted."""
        try:
            manifest, arrays = manifest_of(recorder, outcome, self.secrets, self.dataset)
            data = pack(manifest, arrays, self.captures.max_bytes)
            path = write_new(self.captures.folder, recorder.query.request_id, data)
        except (CandidatePipelineError, OSError) as error:
            self.counts.ended(None)
            log.warning(
                "a request could not be captured",
                request_id=recorder.query.request_id,
                error=self.secrets.hide(str(error)),
            )
            return None
        except Exception as error:  # whatever is wrong with a capture, the request was answered
            self.counts.ended(None)
            told = self.secrets.logged(error)
            log.warning("a request could not be captured", request_id=recorder.query.request_id, **told)
            return None
        self.counts.ended(path)
        return path

    async def drain(self) -> None:
        """Wait until all is written."""
        try:
            while self._pending:
                await asyncio.wait(tuple(self._pending))
        finally:  # the thread goes on with what is left
            if self._threads is not None:
                self._threads.shutdown(wait=False)
                self._threads = None


def file_stem(request_id: str) -> str:
    """A request's id as a name of a file: itself if that is safe, else what is safe of it and a hash of the whole."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", request_id)[:80]
    if safe == request_id and safe:
        return safe
    digest = hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return f"{safe.strip('_') or 'request'}-{digest}"


def write_new(folder: Path, request_id: str, data: bytes) -> Path:
    """Write a capture whole or not at all, beside those that are there already.

    Raises:
        OSError: The folder cannot be made or written to.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    stem = file_stem(request_id)
    part = folder / f".{stem}.{random.token_hex(8)}.part"
    try:
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
        for again in range(1, 10_000):
            path = folder / (f"{stem}{SUFFIX}" if again == 1 else f"{stem}.{again}{SUFFIX}")
            with contextlib.suppress(FileExistsError):
                _put(part, path)
                return path
        raise FileExistsError(f"{folder}: thousands of captures of the request {request_id!r}")
    finally:
        part.unlink(missing_ok=True)


def _put(part: Path, path: Path) -> None:
    """Give a file its name, unless another has it.

    Raises:
        FileExistsError: Another has it.
    """
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(str(path)) from None
        part.rename(path)
