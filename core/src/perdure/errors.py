"""The tree of errors, cut by what the one who catches them can do.

::

    PerdureError
    ├── UsageError                fix the call: exit code 2 on the command line
    │   ├── UnknownName           no such agent, workflow, tool, model, plugin, run, request
    │   ├── AmbiguousName         a short name that several apps share
    │   ├── InvalidInput          a value that does not fit its type or schema; names the field
    │   ├── NotEncodable          a value that JSON cannot carry; names the type
    │   ├── PayloadTooLarge       a value over the size limit
    │   ├── RequestClosed         a request that was answered, timed out or was withdrawn before
    │   ├── AlreadyStarted        a start whose id is taken, where that was not to be
    │   ├── RunActive             something that only a finished run allows, or only one that has not finished
    │   ├── UpdateRejected        an update that the run's own validator refused
    │   ├── SessionBusy           a call into a session that is already in the caller's ancestry
    │   ├── NotDurable            durable work asked of something that cannot be durable
    │   ├── ForbiddenInWorkflow   real I/O on the machine's loop: wrap it in ``ctx.step``
    │   └── InvalidSetting        configuration that does not fit; names the key
    ├── RetryableError            try again, later or elsewhere
    │   ├── StoreUnavailable      the store cannot write now (disk full, locked, gone); nothing was lost
    │   ├── LeaseLost             another worker holds the run: drop it, it goes on there
    │   ├── CommitConflict        the run was moved on by somebody else: reload it
    │   ├── ModelUnavailable      the model's service is overloaded, limited or out of reach
    │   ├── ProcessDied           a child process ended before it had the result of its function
    │   ├── WorkerLost            the process that handled a message is gone, or out of reach
    │   ├── Overloaded            a queue on a message's way is full
    │   └── DeadlineExceeded      no reply before the deadline
    ├── WorkFailed                give up: the work itself failed
    │   ├── StepFailed            a step raised; carries the original type's name, message and causes
    │   ├── ProcessFailed         a function raised in a child process what is not known here; carries it
    │   ├── CallFailed            a called agent or workflow failed
    │   ├── RunFailed             a run failed; raised to those who wait for its result
    │   ├── RunCancelled          a run was cancelled
    │   ├── RunParked             a run was set aside (its code changed, or it killed its workers)
    │   ├── LimitExceeded         a limit on turns, tokens or time was reached
    │   ├── OutputInvalid         a model's answer did not fit its type, also after repair
    │   ├── ModelRefused          the model's service refused the request for good
    │   ├── Undeliverable         no agent or no handler for a message
    │   ├── MessageDropped        an intervention dropped a message or its reply
    │   ├── NotPermitted          the one who asked may not
    │   └── NonDeterminism        code that no longer matches its journal; names both sides
    └── PluginError               fix the plugin or the installation
        ├── PluginMissing         a name that no installed plugin provides
        ├── PluginBroken          a plugin that fails to import, or misspells a hook
        ├── StoreUnusable         a file that is no database, of a newer version, or read-only
        ├── DataCorrupted         what a store kept does not match its checksum; the run is set aside
        └── NewerJournal          a journal with lines that only a newer release knows

Every message names the thing with ``!r``, says what was expected and the way out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perdure.messages import ErrorInfo


class PerdureError(Exception):
    """The root: every error that Perdure raises on purpose derives from it."""


class UsageError(PerdureError):
    """The call was wrong; the same call will fail again."""


class UnknownName(UsageError):
    """A name that stands for nothing here.

    Args:
        kind: What was looked up, as one word: ``agent``, ``workflow``, ``model`` ...
        name: The name as it was given.
        known: The names that would have worked.
        hint: The way out, when listing the known names is not it.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str] = (), hint: str = "") -> None:
        listed = ", ".join(sorted(known))
        way_out = hint or (f"known: {listed}" if listed else f"there is no {kind} at all here")
        super().__init__(f"unknown {kind} {name!r}; {way_out}")
        self.kind: str = kind
        self.name: str = name


class AmbiguousName(UsageError):
    """A short name that several apps share; the message lists the qualified ones."""

    def __init__(self, kind: str, name: str, matches: Iterable[str]) -> None:
        super().__init__(f"{kind} {name!r} is ambiguous; say one of: {', '.join(sorted(matches))}")
        self.kind: str = kind
        self.name: str = name


class InvalidInput(UsageError):
    """A value that does not fit its type or schema; the message names field and expectation."""


class NotEncodable(UsageError):
    """A value that cannot be written as JSON; the message names its type and where it stood."""


class PayloadTooLarge(UsageError):
    """A value over the size limit; the message gives both sizes in bytes."""


class RequestClosed(UsageError):
    """The request was answered, timed out or was withdrawn before this answer came."""


class AlreadyStarted(UsageError):
    """A run with that id is there already, and the start was to be the first."""


class RunActive(UsageError):
    """The run is not in the state that this needs: it has not finished yet, or has finished already."""


class UpdateRejected(UsageError):
    """The run's own validator refused the update; nothing of it was recorded but that."""


class SessionBusy(UsageError):
    """A call into a session that waits, directly or not, for this very call: it would deadlock."""


class NotDurable(UsageError):
    """Durable work was asked of something that cannot be durable."""


class ForbiddenInWorkflow(UsageError):
    """Workflow code touched the outside world on the machine's loop: wrap that in ``ctx.step``."""


class InvalidSetting(UsageError):
    """Configuration that does not fit; the message names the key and where it was set."""


class RetryableError(PerdureError):
    """The same call may succeed later."""


class StoreUnavailable(RetryableError):
    """The store cannot write now; what was acknowledged is safe, this call was not accepted."""


class LeaseLost(RetryableError):
    """This worker no longer holds the run; whoever holds it goes on."""


class CommitConflict(RetryableError):
    """The store has something newer about the run than this worker: drop the machine and reload."""


class ModelUnavailable(RetryableError):
    """The model's service is overloaded, rate limited or out of reach.

    Args:
        message: What happened, naming model and service.
        retry_after: Seconds after which the service asks to be tried again, where it said so.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProcessDied(RetryableError):
    """A child process ended before it had the result of its function: it crashed, or was killed."""


class WorkerLost(RetryableError):
    """The process that handled a message is gone, or out of reach: what it had done is unknown."""


class Overloaded(RetryableError):
    """A queue on a message's way is full, for whoever should read it does not: it was not accepted."""


class DeadlineExceeded(RetryableError):
    """No reply came before the deadline."""


class WorkFailed(PerdureError):
    """The work itself failed, and trying again by itself would not help."""


class _Carried(WorkFailed):
    """A failure that happened elsewhere (another attempt, process or machine) and travels as data."""

    verb = "failed"

    def __init__(self, name: str, error: ErrorInfo) -> None:
        super().__init__(f"{name!r} {self.verb}: {error}")
        self.name: str = name
        self.error: ErrorInfo = error


class StepFailed(_Carried):
    """A step failed for good. The same live and replayed: ``error`` holds type name, message, causes."""

    verb = "failed as a step"


class ProcessFailed(_Carried):
    """A function raised in a child process what cannot be raised again here; ``error`` says what."""

    verb = "failed in a child process"


class CallFailed(_Carried):
    """A called agent or workflow failed; ``error`` says with what."""

    verb = "failed when called"


class RunFailed(_Carried):
    """A run or a turn failed; ``error`` says with what."""


class RunCancelled(WorkFailed):
    """A run or a turn was cancelled before it finished."""


class RunParked(_Carried):
    """A run was set aside and waits for a fixed deployment; nothing of it is lost."""

    verb = "is parked"


class LimitExceeded(WorkFailed):
    """A limit on turns, tokens or time was reached; the message names it and its setting."""


class OutputInvalid(WorkFailed):
    """A model's answer did not fit the agent's output type, also after the repair round."""


class ModelRefused(WorkFailed):
    """The model's service refused the request for good: bad key, unknown model, content, quota."""


class Undeliverable(WorkFailed):
    """No agent of that type, or no handler for that message."""


class MessageDropped(WorkFailed):
    """An intervention dropped a message, or the reply to one."""


class NotPermitted(WorkFailed):
    """The one who asked may not; the message names who, and what was asked for."""


class NonDeterminism(WorkFailed):
    """Code that no longer matches its journal; the message names both sides."""


class PluginError(PerdureError):
    """The installation is wrong: a plugin is missing or broken, a store cannot be used."""


class PluginMissing(PluginError):
    """No installed plugin provides the name; the message says what to install."""


class PluginBroken(PluginError):
    """A plugin fails to import or misuses a hook; the message names plugin, distribution, cause."""


class StoreUnusable(PluginError):
    """The store's file or server cannot be used: not a database, a newer version, read-only."""


class DataCorrupted(PluginError):
    """What the store kept of a run does not match its checksum: the run is set aside, others are unharmed."""


class NewerJournal(PluginError):
    """The journal has lines that only a newer release of Perdure knows: upgrade, and the run goes on."""
