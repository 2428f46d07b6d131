"""The uploads of a day over real HTTP: a few connections, lost answers asked for again, every answer checked
(docs/wire.md)."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

from simulators.city.facts import Delivery, Plan
from simulators.city.player import Player
from simulators.city.validators import CityBroken

TIMEOUT_S = 30.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer: its status and its JSON document."""

    status: int
    document: dict[str, object]
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What a day's uploads came to: requests, records in them, seconds of waiting for answers."""

    requests: int
    records: int
    seconds: float


class Uploader:
    """Made before the day is played, it sends every act's record at once, and the rest by `day`.

    Sends batches and writes `uploads/index.jsonl` and the bodies below `directory`. Safe for several threads.

    `counter` gives the `order` of the index; whoever else numbers happenings shares it. A request whose connection is
    lost, or that is answered 503, is sent again, the same bytes, for at most `patience_s`: the service may be killed
    and come back meanwhile.
    """

    def __init__(
        self,
        plan: Plan,
        player: Player,
        base_url: str,
        *,
        directory: Path,
        counter: Iterator[int],
        patience_s: float = 120.0,
    ) -> None:
        self._plan, self._player, self._counter, self._patience_s = plan, player, counter, patience_s
        where = urlsplit(base_url)
        self._host, self._port = where.hostname or "127.0.0.1", where.port or 80
        self._uploads = directory / "uploads"
        self._uploads.mkdir(parents=True, exist_ok=True)
        self._lock, self._local, self._stopped = threading.Lock(), threading.local(), threading.Event()
        player.deliver = player.deliver or self.send

    def day(self, day: date, *, threads: int = 4) -> Uploaded:
        """All requests of a date, phase by phase; raises CityBroken at the first answer that is not the planned one."""
        requests = [d for d in self._plan.deliveries[day] if id(d) not in self._player.delivered]
        started = time.monotonic()
        phases = sorted({d.phase for d in requests})
        with ThreadPoolExecutor(threads, thread_name_prefix="city") as pool:
            for phase in phases:
                sending = [pool.submit(self.send, d) for d in requests if d.phase == phase]
                try:
                    for each in as_completed(sending):
                        each.result()
                except CityBroken:
                    pool.shutdown(cancel_futures=True)
                    raise
        return Uploaded(len(requests), sum(len(d.batch.sents) for d in requests), time.monotonic() - started)

    def stop(self) -> None:
        """Send nothing again: whoever waits for an answer gets CityBroken at once."""
        self._stopped.set()

    def send(self, delivery: Delivery) -> None:
        """One request, until it is answered; checks the answer and files both."""
        batch, body = delivery.batch, self._player.body(delivery)
        path = f"/v1/t/{batch.device.terminal}/batches/{delivery.n}"
        answer = self.ask("PUT", path, body, batch.device.media)
        at = answer.document.get("now")
        if at is None:
            at = self.ask("GET", "/v1/time").document.get("now")
        self._file(delivery, body, answer, at)
        for trouble in _differences(delivery, answer):
            raise CityBroken(
                f"PUT {path} of {len(batch.sents)} records: {trouble}; the answer was {answer.status} {answer.document}"
            )

    def ask(self, method: str, path: str, body: bytes = b"", media: str = "") -> Answer:
        """One request, again and again until it is answered with anything but 503; raises CityBroken when patience
        ends."""
        deadline, pause, trouble = time.monotonic() + self._patience_s, FIRST_PAUSE_S, "no answer"
        while True:
            try:
                answer = self._once(method, path, body, media)
                if answer.status != 503:
                    return answer
                trouble, wait = f"503 {answer.document}", answer.retry_after_s
            except (OSError, http.client.HTTPException) as error:
                self._hang_up()
                trouble, wait = f"{type(error).__name__}: {error}", pause
                pause = min(2 * pause, LONGEST_PAUSE_S)
            if time.monotonic() + wait > deadline:
                raise CityBroken(
                    f"{method} {path} had no answer for {self._patience_s:.0f} s ({trouble}); it is not acknowledged"
                )
            if self._stopped.wait(wait):
                raise CityBroken(f"{method} {path} was given up; it is not acknowledged")

    def _once(self, method: str, path: str, body: bytes, media: str) -> Answer:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        connection.request(method, path, body or None, {"Content-Type": media} if media else {})
        response = connection.getresponse()
        text = response.read()
        try:
            document = json.loads(text)
        except ValueError:
            document = {"text": text.decode(errors="replace")}
        after = response.getheader("Retry-After") or ""
        return Answer(
            response.status, document, min(float(after), LONGEST_PAUSE_S) if after.isdigit() else FIRST_PAUSE_S
        )

    def _hang_up(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def _file(self, delivery: Delivery, body: bytes, answer: Answer, at: object) -> None:
        batch = delivery.batch
        with self._lock:
            order = next(self._counter)
            name = f"{order:05d}.bin"
            (self._uploads / name).write_bytes(body)
            line = {
                "order": order, "file": name, "terminal": batch.device.terminal, "n": delivery.n,
                "media": batch.device.media,
                "at": at, "status": answer.status, "body": answer.document,
            }  # fmt: skip
            with (self._uploads / "index.jsonl").open("a", encoding="utf-8") as index:
                index.write(json.dumps(line, ensure_ascii=False) + "\n")


def _differences(delivery: Delivery, answer: Answer) -> Iterator[str]:
    """What an answer says otherwise than planned."""
    planned, said = delivery.expected, answer.document
    if answer.status != planned.status:
        yield f"status {answer.status} instead of {planned.status}"
    elif planned.status != 200:
        if said.get("code") != planned.code:
            yield f"code {said.get('code')} instead of {planned.code}"
    else:
        yield from (
            f"{name} {said.get(name)} instead of {count}"
            for name, count in planned.counts.items()
            if said.get(name) != count
        )
        quarantined = said.get("quarantined")
        listed: Sequence[dict[str, object]] = quarantined if isinstance(quarantined, list) else ()
        found = sorted((str(q["seq"]), str(q["code"])) for q in listed)
        if found != sorted((str(seq), code) for seq, code in planned.quarantined):
            yield f"quarantined {found} instead of {planned.quarantined}"


def upload(
    plan: Plan, player: Player, base_url: str, day: date, *, directory: Path, counter: Iterator[int], threads: int = 4,
    patience_s: float = 120.0,
) -> Uploaded:  # fmt: skip
    """Sends what is left of a date's batches; a plan with acts needs an `Uploader` made before the play."""
    uploader = Uploader(plan, player, base_url, directory=directory, counter=counter, patience_s=patience_s)
    return uploader.day(day, threads=threads)
