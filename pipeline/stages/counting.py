"""Exchanges with the supervisor what guests have used of their quotas (pipeline.engines.quotas)."""

from pipeline.engines.quotas import Quotas
from pipeline.ipc import policy_messages
from pipeline.ipc.policy_messages import UseRow


def count(quotas: Quotas, ask: policy_messages.Count, incarnation: int) -> policy_messages.CountAnswer:
    """Report what this worker has counted, and learn what others have. incarnation: of the worker."""
    rows: list[list[object]] = [list(UseRow(*row)) for row in quotas.rows()]
    quotas.forget((per, subject) for per, subject in ask.gone)
    for row in ask.elsewhere:
        match row:
            case [str() as per, str() as subject, list() as sums]:
                quotas.learn(per, subject, sums)
    return policy_messages.CountAnswer(incarnation, rows)
