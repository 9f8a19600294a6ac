"""The exceptions of RaySparseX.

RaySparseXError
├── InvalidInput           a value from outside is wrong; `field` and `allowed` say how to mend it
│   ├── InvalidConfig      settings, at start-up
│   └── InvalidRequest     a request's `kv_transfer_params`; becomes HTTP 400
├── UnsupportedModel       the model's shape is outside what sparse prefill is correct for
└── ReuseFailed            reuse of one request failed; the request falls back to plain prefill
    ├── SegmentUnavailable a planned segment left the store before it was loaded
    ├── StoreFull          the store has no room for a segment
    ├── DoesNotFit         its own memory does not fit beside what is in use
    └── IntegrityFailed    what was loaded is not what was stored, or not what it is said to be
        ├── CorruptSegment     its bytes or its shape changed in the store
        └── MisalignedSegment  its keys do not belong to these tokens at these positions
"""


class RaySparseXError(Exception):
    """Base of every exception that RaySparseX raises on purpose."""


class InvalidInput(RaySparseXError, ValueError):
    """A value that came from outside is wrong.

    `field` is the dotted name of the value, `allowed` a phrase that says what it may be.
    """

    def __init__(self, field: str, problem: str, allowed: str) -> None:
        self.field = field
        self.problem = problem
        self.allowed = allowed
        super().__init__(f"{field}: {problem}; allowed: {allowed}")


class InvalidConfig(InvalidInput):
    """A setting is unknown or has a wrong value."""


class InvalidRequest(InvalidInput):
    """A request's `kv_transfer_params` are unknown or have a wrong value."""


class UnsupportedModel(RaySparseXError):
    """The model cannot be served with sparse prefill; the message names why, in one sentence."""


class ReuseFailed(RaySparseXError):
    """Reuse of one request failed. Never reaches a client: the request is prefilled plainly."""


class SegmentUnavailable(ReuseFailed):
    """A planned segment left the store before it could be loaded."""


class StoreFull(ReuseFailed):
    """The store has no room for a segment; it is not published."""


class DoesNotFit(ReuseFailed):
    """A sparse prefill needs more memory than is free; it is not begun."""


class IntegrityFailed(ReuseFailed):
    """What was loaded is wrong. The segments in question are forgotten."""


class CorruptSegment(IntegrityFailed):
    """A stored segment's bytes or shape are not those that were stored."""


class MisalignedSegment(IntegrityFailed):
    """Loaded keys or values of the first layer are not those of these tokens at these positions."""
