"""Who may do what: one table, and whatever is not in it is refused."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from shared.errors import FedloraError


class Role(StrEnum):
    """Of a person, or of a token."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    ADMIN = "admin"


class Action(StrEnum):
    """What can be asked of the gateway."""

    READ_JOBS = "jobs.read"
    READ_ADAPTERS = "adapters.read"
    READ_CLIENTS = "clients.read"
    READ_LEDGER = "ledger.read"
    READ_AUDIT_LOG = "audit-log.read"
    SUBMIT_JOBS = "jobs.submit"
    CANCEL_JOBS = "jobs.cancel"
    SUSPEND_CLIENTS = "clients.suspend"
    ENROL_CLIENTS = "clients.enrol"
    REVOKE_CLIENTS = "clients.revoke"
    RAISE_LIMITS = "limits.raise"
    MANAGE_TOKENS = "tokens.manage"


_READING = frozenset({Action.READ_JOBS, Action.READ_CLIENTS, Action.READ_LEDGER})
POLICY: Mapping[Role, frozenset[Action]] = {
    Role.VIEWER: frozenset({Action.READ_JOBS, Action.READ_CLIENTS}),
    Role.OPERATOR: _READING
    | {Action.READ_ADAPTERS, Action.SUBMIT_JOBS, Action.CANCEL_JOBS, Action.SUSPEND_CLIENTS},
    Role.AUDITOR: _READING | {Action.READ_AUDIT_LOG},
    Role.ADMIN: frozenset(Action),
}


class Forbidden(FedloraError):
    """Somebody asked for what their roles do not allow."""


def allowed(roles: Iterable[Role], action: Action) -> bool:
    """Whether one of the roles allows it."""
    return any(action in POLICY.get(role, frozenset()) for role in roles)


def require(roles: Iterable[Role], action: Action) -> None:
    """Raises: Forbidden, with the roles that would do."""
    held = sorted(set(roles))
    if not allowed(held, action):
        enough = ", ".join(role for role, actions in POLICY.items() if action in actions)
        raise Forbidden(f"{action} needs one of the roles {enough}; you are {', '.join(held) or 'nobody'}")
