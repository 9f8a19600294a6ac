"""One name per identifier, so that two kinds of string or number cannot be mixed up.

| id               | names                              | unique within                       |
| ---------------- | ---------------------------------- | ----------------------------------- |
| SegmentId        | the content of a token segment     | a model fingerprint and trust scope |
| ModelFingerprint | weights, dtype and RoPE of a model | everywhere                          |
| TrustSalt        | who may share a segment            | a deployment                        |
| RequestId        | one request inside one vLLM engine | an engine's lifetime                |
| BlockId          | one block of vLLM's paged KV cache | an engine                           |
"""

from typing import NewType

SegmentId = NewType("SegmentId", bytes)
ModelFingerprint = NewType("ModelFingerprint", str)
TrustSalt = NewType("TrustSalt", str)
RequestId = NewType("RequestId", str)
BlockId = NewType("BlockId", int)
