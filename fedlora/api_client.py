"""A client of the gateway's REST API whose errors are faults that say what to do."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import httpx

from fedlora.faults import EXIT_MISTAKE, EXIT_TROUBLE, Fault, trouble

DEFAULT_URL = "http://127.0.0.1:8480"
LONG_POLL_S = 10.0


class GatewayClient:
    """Talks to one gateway; use as a context manager."""

    def __init__(
        self, url: str, transport: httpx.BaseTransport | None = None, answer_s: float = LONG_POLL_S + 20
    ) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise Fault(f"{url} is not an address: {error}", f"give one like {DEFAULT_URL}") from None
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise Fault(f"{url} is not a web address", f"give one like {DEFAULT_URL}")
        self._url = url
        # The gateway is named by the person; a proxy of the environment is not meant for it.
        self._http = httpx.Client(base_url=url, timeout=answer_s, transport=transport, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def submit(self, content: bytes, submitted_by: str, start: bytes = b"") -> str:
        """Submit a job file's content, and the safetensors that it starts from; the job's id."""
        params = {"submitted_by": submitted_by}
        if start:
            params["start"] = str(self._ask("POST", "/starts", content=start).json()["start"])
        answer = self._ask("POST", "/jobs", content=content, params=params)
        return str(answer.json()["job_id"])

    def jobs(self) -> list[dict[str, Any]]:
        """Every job, latest first."""
        return list(self._ask("GET", "/jobs").json())

    def job(self, job_id: str) -> dict[str, Any]:
        """One job with rounds and budgets."""
        return dict(self._ask("GET", f"/jobs/{job_id}").json())

    def cancel(self, job_id: str, reason: str) -> None:
        """Ask a job to stop."""
        self._ask("DELETE", f"/jobs/{job_id}", params={"reason": reason})

    def events(self, job_id: str, after: int, wait_s: float) -> list[dict[str, Any]]:
        """Notices after `after`; waits for the first."""
        params = {"after": str(after), "wait_s": str(wait_s)}
        return list(self._ask("GET", f"/jobs/{job_id}/events", params=params).json())

    def follow(self, job_id: str, wait_s: float = LONG_POLL_S) -> Iterator[list[dict[str, Any]]]:
        """Batches of notices as they come, empty when none came for `wait_s`, until the job is over."""
        after = 0
        while True:
            batch = self.events(job_id, after, wait_s)
            yield batch
            if batch:
                after = batch[-1]["sequence"]
            if any(notice["type"] in {"job.ended.v1", "job.refused.v1"} for notice in batch):
                return

    def clients(self) -> list[dict[str, Any]]:
        """Workers and what they are doing."""
        return list(self._ask("GET", "/clients").json())

    def clients_of(self, job_id: str) -> list[dict[str, Any]]:
        """Clients that a job's rule has judged, or a person suspended: those first, then by score."""
        return list(self._ask("GET", f"/jobs/{job_id}/clients").json())

    def suspend(self, job_id: str, client_id: str, reason: str, requested_by: str) -> str:
        """Ask that a client be asked no more; why it is suspended already, or empty."""
        return self._change("suspend", job_id, client_id, reason, requested_by)

    def reinstate(self, job_id: str, client_id: str, reason: str, requested_by: str) -> str:
        """Ask that a client be asked again; why it is suspended, or empty where it is not."""
        return self._change("reinstate", job_id, client_id, reason, requested_by)

    def ledger(self, job_id: str = "") -> str:
        """The ledger as JSON lines, all of it."""
        text, after = "", 0
        while True:
            page = self._ask("GET", "/ledger", params={"job": job_id, "after": str(after)})
            text += page.text
            after = int(page.headers.get("X-Next-After", "0"))
            if not after:
                return text

    def limits(self) -> list[dict[str, Any]]:
        """Each limit in force, with the entry of the log that set it."""
        return list(self._ask("GET", "/limits").json())

    def raise_limit(
        self, limit: str, value: float, client_id: str, reason: str, raised_by: str
    ) -> dict[str, Any]:
        """Ask for a higher limit, of everyone where `client_id` is empty; the old and the new value."""
        body = {
            "limit": limit,
            "value": value,
            "client_id": client_id or None,
            "reason": reason,
            "raised_by": raised_by,
        }
        return dict(self._ask("POST", "/limits", json=body).json())

    def limits_log(self) -> str:
        """Every change of a limit as JSON lines."""
        return self._ask("GET", "/limits/log").text

    def adapter(self, job_id: str) -> bytes:
        """A zip of the adapter's folder."""
        return self._ask("GET", f"/jobs/{job_id}/adapter").content

    def ready(self) -> bool:
        """Whether the gateway hears the bus."""
        try:
            return self._http.get("/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _change(self, to: str, job_id: str, client_id: str, reason: str, requested_by: str) -> str:
        body = {"reason": reason, "requested_by": requested_by}
        answer = self._ask("POST", f"/jobs/{job_id}/clients/{client_id}/{to}", json=body)
        return str(answer.json()["suspended"])

    def _ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:  # noqa: ANN401 - httpx's
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise trouble(
                f"no gateway answers at {self._url} ({type(error).__name__})",
                "start one with `fedlora up`, or name yours with --gateway",
            ) from None
        if answer.is_success:
            return answer
        raise _fault_of(answer, self._url)


def _fault_of(answer: httpx.Response, url: str) -> Fault:
    code = EXIT_MISTAKE if answer.is_client_error else EXIT_TROUBLE
    if "problem+json" not in answer.headers.get("content-type", ""):
        return Fault(f"{url} answered {answer.status_code}", "is this a fedlora gateway?", code)
    body = answer.json()
    return Fault(str(body["detail"]), "", code)
